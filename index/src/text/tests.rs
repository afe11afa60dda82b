//! Memory, disk and a walk over tokens give the same hits with the same scores, to the bit, whatever is
//! pruned.

use roaring::RoaringBitmap;
use spandrel_storage::{FieldId, TenantId, TextSpec};

use super::*;
use crate::topk::Scored;

const BODY: FieldId = FieldId(2);
const TITLE: FieldId = FieldId(7);

/// A small seeded generator (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A word; small numbers are frequent.
    fn word(&mut self, words: usize) -> String {
        let spread = self.below(words) + 1;
        format!("w{}", self.below(spread))
    }
}

/// What was sent: the texts of one document.
#[derive(Clone, Debug)]
struct Sent {
    tenant: TenantId,
    row: RowId,
    /// Words of the body and the title, as they are told apart by spaces.
    words: [Vec<String>; 2],
}

impl Sent {
    fn words(&self, field: FieldId) -> &[String] {
        &self.words[usize::from(field == TITLE)]
    }

    fn doc(&self, analyzer: &mut Analyzer) -> TextDoc {
        let fields = [BODY, TITLE].map(|field| analyzer.field(field, &self.words(field).join(" ")));
        TextDoc::new(fields.into_iter().flatten().collect())
    }
}

/// One segment in three forms, with its deletes.
struct Segment {
    sent: Vec<Sent>,
    memory: MemoryText,
    disk: SegmentText,
    deleted: RoaringBitmap,
    filter: RoaringBitmap,
}

fn sections(docs: &[(TenantId, TextDoc)]) -> Vec<(String, Vec<u8>)> {
    let mut builder = TextBuilder::new(&[TITLE, BODY]).unwrap();
    for (tenant, doc) in docs {
        builder.push(*tenant, doc).unwrap();
    }
    builder.finish().unwrap()
}

impl Segment {
    fn new(mut sent: Vec<Sent>, random: &mut Random) -> Self {
        sent.sort_by_key(|sent| (sent.tenant, sent.row));
        let mut analyzer = Analyzer::plain();
        let docs: Vec<(TenantId, TextDoc)> =
            sent.iter().map(|sent| (sent.tenant, sent.doc(&mut analyzer))).collect();
        let memory = MemoryText::build(docs.iter().map(|(_, doc)| doc));
        let disk = SegmentText::open(sections(&docs)).unwrap();
        let deleted = (0..sent.len() as DocId).filter(|_| random.below(10) == 0).collect();
        let share = [2, 300][random.below(2)];
        let filter = (0..sent.len() as DocId).filter(|_| random.below(share) == 0).collect();
        Self { sent, memory, disk, deleted, filter }
    }

    fn rows(&self) -> Vec<RowId> {
        self.sent.iter().map(|sent| sent.row).collect()
    }

    fn range(&self, tenant: TenantId) -> Range<DocId> {
        let from = self.sent.partition_point(|sent| sent.tenant < tenant);
        let to = self.sent.partition_point(|sent| sent.tenant <= tenant);
        from as DocId..to as DocId
    }

    fn allow(&self, tenant: TenantId, deletes: bool, filter: bool) -> Allow<'_> {
        Allow {
            range: self.range(tenant),
            deleted: deletes.then_some(&self.deleted),
            filter: filter.then_some(&self.filter),
            stop: None,
        }
    }
}

fn corpus(
    lengths: &[(u32, usize)],
    count: usize,
    words: usize,
    row: &mut u64,
    random: &mut Random,
) -> Vec<Sent> {
    let mut sent = Vec::new();
    for _ in 0..count {
        let (tenant, mean) = lengths[random.below(lengths.len())];
        let len = 1 + random.below(mean * 2);
        let body = match random.below(15) {
            0 => Vec::new(),
            // A document that says one word over and over, up to lengths that are rounded most.
            1 => vec![random.word(words); len],
            _ => (0..len).map(|_| random.word(words)).collect(),
        };
        let title = if random.below(3) == 0 { vec![random.word(words)] } else { Vec::new() };
        *row += 1 + random.below(3) as u64;
        sent.push(Sent { tenant: TenantId(tenant), row: RowId(*row), words: [body, title] });
    }
    sent
}

/// The length that one byte keeps, from the scheme's definition: exact to 40, then 3 bits after the leading
/// one.
fn rounded(length: usize) -> f32 {
    if length < 24 {
        return length as f32;
    }
    let above = length - 24;
    let shift = (usize::BITS - above.leading_zeros()).saturating_sub(4);
    (24 + (above >> shift << shift)) as f32
}

/// Scores of every document by the textbook: statistics of live and deleted documents of the tenant over all
/// segments.
fn walk(segments: &[Segment], query: &TextQuery) -> Vec<Vec<Option<f32>>> {
    let mine = |sent: &&Sent| sent.tenant == query.tenant && !sent.words(query.field).is_empty();
    let all = segments.iter().flat_map(|segment| &segment.sent);
    let own: Vec<&[String]> = all.filter(mine).map(|sent| sent.words(query.field)).collect();
    let has = |term: &str| own.iter().filter(|tokens| tokens.iter().any(|token| token == term)).count();
    let doc_freq: Vec<usize> = query.terms().map(|(term, _)| has(term)).collect();
    let average = own.iter().map(|tokens| tokens.len()).sum::<usize>() as f32 / own.len() as f32;
    let weigh = |tokens: &[String]| {
        let (mut score, mut hits) = (0f32, 0);
        for ((term, count), df) in query.terms().zip(&doc_freq) {
            let tf = tokens.iter().filter(|token| *token == term).count() as f32;
            if tf > 0.0 {
                let idf = (1.0 + ((own.len() - df) as f32 + 0.5) / (*df as f32 + 0.5)).ln();
                let norm = 1.2f32 * (1.0 - 0.75 + 0.75 * rounded(tokens.len()) / average);
                score += idf * (1.0 + 1.2) * count as f32 * (tf / (tf + norm));
                hits += 1;
            }
        }
        let needed = if query.matching == Match::All { query.terms.len() } else { 1 };
        (hits > 0 && hits >= needed).then_some(score)
    };
    let score = |sent: &Sent| Some(sent).filter(mine).and_then(|sent| weigh(sent.words(query.field)));
    segments.iter().map(|segment| segment.sent.iter().map(score).collect()).collect()
}

fn gather(indexes: &[&dyn TextIndex], segments: &[Segment], query: &TextQuery) -> TextStats {
    let mut stats = TextStats::new(query);
    for (index, segment) in indexes.iter().zip(segments) {
        index.stats(query, segment.range(query.tenant), &mut stats).unwrap();
    }
    stats
}

/// Searches all segments into one heap and compares hits and score bits with the walk.
fn check(segments: &[Segment], query: &TextQuery, k: usize, deletes: bool, filter: bool) {
    let scores = walk(segments, query);
    let mut expected = TopK::new(k);
    for (segment, scores) in segments.iter().zip(&scores) {
        let allow = segment.allow(query.tenant, deletes, filter);
        for (doc, score) in scores.iter().enumerate() {
            if let Some(score) = score.filter(|_| allow.contains(doc as DocId)) {
                expected.push(score, (segment.sent[doc].row, doc as u32));
            }
        }
    }
    let expected = expected.into_sorted();
    let memory: Vec<&dyn TextIndex> = segments.iter().map(|segment| &segment.memory as _).collect();
    let disk: Vec<&dyn TextIndex> = segments.iter().map(|segment| &segment.disk as _).collect();
    assert_eq!(gather(&memory, segments, query), gather(&disk, segments, query));
    for (form, indexes) in [("memory", memory), ("disk", disk)] {
        let bm25 = Bm25::new(query, &gather(&indexes, segments, query));
        let mut top = TopK::new(k);
        let mut counters = Counters::default();
        for ((index, segment), scores) in indexes.iter().zip(segments).zip(&scores) {
            let allow = segment.allow(query.tenant, deletes, filter);
            index.search(query, &bm25, &segment.rows(), &allow, &mut top, &mut counters).unwrap();
            if query.matching == Match::Any {
                let docs: Vec<DocId> = segment.range(query.tenant).step_by(7).collect();
                let mut given = vec![1.0; docs.len()];
                index.score(query, &bm25, &docs, &mut given).unwrap();
                let walked: Vec<Option<f32>> = docs.iter().map(|doc| scores[*doc as usize]).collect();
                let given: Vec<Option<f32>> =
                    given.iter().map(|score| (!score.is_nan()).then_some(*score)).collect();
                assert_eq!(given, walked, "{form} {query:?}");
            }
        }
        let found = top.into_sorted();
        let bits =
            |hits: &[Scored]| hits.iter().map(|hit| (hit.row, hit.score.to_bits())).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&expected), "{form} k {k} {query:?}");
        assert!(counters.scored >= found.len() as u64);
    }
}

fn query(tenant: u32, field: FieldId, matching: Match, words: &[&str]) -> TextQuery {
    TextQuery::of_terms(field, TenantId(tenant), matching, words.iter().copied()).unwrap()
}

#[test]
fn memory_disk_and_walk_agree_on_random_corpora() {
    for seed in 0..6 {
        println!("seed {seed}");
        let mut random = Random(seed);
        // Tenants of like and of very different lengths; tenant 9 has documents in some segments only.
        let lengths: &[(u32, usize)] = if seed % 2 == 0 {
            &[(0, 20), (1, 25), (u32::MAX, 15)]
        } else {
            &[(1, 1), (1, 2), (3, 150), (3, 400), (5, 10)]
        };
        let (words, mut row) = ([12, 60, 400][seed as usize % 3], 0);
        let mut segments = Vec::new();
        for (at, count) in [1500, 0, 300, 1].into_iter().enumerate() {
            let lengths = if at == 2 { &[(9, 8), (lengths[0].0, 30)] } else { lengths };
            segments.push(Segment::new(corpus(lengths, count, words, &mut row, &mut random), &mut random));
        }
        for round in 0..40 {
            let tenant = [0, 1, 3, 5, 9, 77, u32::MAX][random.below(7)];
            let field = if random.below(4) == 0 { TITLE } else { BODY };
            let matching = if random.below(3) == 0 { Match::All } else { Match::Any };
            let count = [0, 1, 1, 2, 3, 5, 12][random.below(7)];
            let asked: Vec<String> = (0..count).map(|_| random.word(words + 2)).collect();
            let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
            let query = query(tenant, field, matching, &asked);
            check(&segments, &query, [1, 3, 10, 200][round % 4], random.below(2) == 0, random.below(3) == 0);
        }
    }
}

#[test]
fn pruning_is_exact_for_a_tenant_whose_lengths_are_far_from_the_segments() {
    for seed in 0..4 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut row = 0;
        // The segment's average is about 200, the tenants' are 2 and 400: stored block maxima suit neither.
        let lengths = if seed % 2 == 0 { [(1, 1), (2, 400)] } else { [(1, 20), (2, 1)] };
        let mut sent = corpus(&lengths, 3000, 6, &mut row, &mut random);
        for document in &mut sent {
            // Many blocks of 128 in which short single mentions compete with long repeated ones.
            if random.below(2) == 0 {
                let len = 1 + random.below(60);
                let mentions = 1 + random.below(len);
                let words = (0..len).map(|at| if at < mentions { "w0" } else { "w1" });
                document.words[0] = words.map(str::to_owned).collect();
            }
        }
        let segments = [Segment::new(sent, &mut random)];
        for words in
            [&["w0"] as &[&str], &["w1", "w1", "w1"], &["w0", "w1"], &["w2", "w0", "w5"], &["w0", "w3", "w0"]]
        {
            for tenant in [1, 2] {
                for k in [1, 5, 20] {
                    check(&segments, &query(tenant, BODY, Match::Any, words), k, true, false);
                    check(&segments, &query(tenant, BODY, Match::All, words), k, false, false);
                }
            }
        }
    }
}

const PARAGRAPHS: [&str; 6] = [
    "The library at the harbour keeps tide tables from every year since 1871. Sailors used to copy them by lamp light.",
    "Tide tables are computed, not measured: a sum of harmonic terms, each with its own period, phase and amplitude.",
    "A lamp needs oil, a wick and air. Too much air and the flame smokes; too little and it dies.",
    "Each year the harbour silts up a little, and each spring a dredger digs the channel out again.",
    "Sailors say that the harbour library smells of oil. The librarian says that it smells of sailors.",
    "Harmonic analysis splits a signal into periodic terms. It was a Scottish lord who built the first machine for tides.",
];

#[test]
fn real_text_with_a_language() {
    let mut analyzer = Analyzer::for_spec(&TextSpec { language: Some("english".into()) }).unwrap();
    let docs: Vec<(TenantId, TextDoc)> = PARAGRAPHS
        .iter()
        .map(|text| (TenantId(0), TextDoc::new(analyzer.field(BODY, text).into_iter().collect())))
        .collect();
    let rows: Vec<RowId> = (1..=6).map(RowId).collect();
    let memory = MemoryText::build(docs.iter().map(|(_, doc)| doc));
    let disk = SegmentText::open(sections(&docs)).unwrap();
    let mut best = |text: &str, matching| {
        let query = TextQuery::parse(BODY, TenantId(0), matching, &mut analyzer, text).unwrap();
        let mut hits: Vec<Vec<Scored>> = Vec::new();
        for index in [&memory as &dyn TextIndex, &disk] {
            let mut stats = TextStats::new(&query);
            index.stats(&query, 0..6, &mut stats).unwrap();
            let mut top = TopK::new(6);
            let allow = Allow { range: 0..6, deleted: None, filter: None, stop: None };
            let bm25 = Bm25::new(&query, &stats);
            index.search(&query, &bm25, &rows, &allow, &mut top, &mut Counters::default()).unwrap();
            hits.push(top.into_sorted());
        }
        assert_eq!(hits[0], hits[1]);
        hits.swap_remove(0).into_iter().map(|hit| hit.row.0).collect::<Vec<_>>()
    };
    assert_eq!(best("What do sailors say about the smell of the library?", Match::Any)[0], 5);
    assert_eq!(best("computing tides by harmonic analysis", Match::Any)[..2], [2, 6]);
    assert_eq!(best("harbours with libraries", Match::All), [5, 1]);
    assert!(best("to be or not to be", Match::Any).len() <= 6);
    assert!(best("", Match::Any).is_empty());
    assert!(best("volcano", Match::Any).is_empty());
}

fn some_docs(count: usize, random: &mut Random) -> Vec<(TenantId, TextDoc)> {
    let mut sent = corpus(&[(1, 10), (2, 40)], count, 50, &mut 0, random);
    sent.sort_by_key(|sent| (sent.tenant, sent.row));
    let mut analyzer = Analyzer::plain();
    sent.iter().map(|sent| (sent.tenant, sent.doc(&mut analyzer))).collect()
}

#[test]
fn tantivy_keeps_the_order_of_documents_and_the_bytes_are_the_same_each_time() {
    let mut builder = TextBuilder::new(&[BODY]).unwrap();
    let mut analyzer = Analyzer::plain();
    for doc in 0..2000 {
        let text = format!("all n{doc}");
        let doc = TextDoc::new(vec![analyzer.field(BODY, &text).unwrap()]);
        builder.push(TenantId(4), &doc).unwrap();
    }
    let disk = SegmentText::open(builder.finish().unwrap()).unwrap();
    let rows: Vec<RowId> = (0..2000).map(RowId).collect();
    let allow = Allow { range: 0..2000, deleted: None, filter: None, stop: None };
    for doc in (0..2000).step_by(97) {
        let query = query(4, BODY, Match::All, &["all", &format!("n{doc}")]);
        let mut stats = TextStats::new(&query);
        disk.stats(&query, 0..2000, &mut stats).unwrap();
        assert_eq!(stats, TextStats { docs: 2000, tokens: 4000, doc_freq: vec![2000, 1] });
        let mut top = TopK::new(5);
        let bm25 = Bm25::new(&query, &stats);
        disk.search(&query, &bm25, &rows, &allow, &mut top, &mut Counters::default()).unwrap();
        assert_eq!(top.into_sorted().iter().map(|hit| hit.row).collect::<Vec<_>>(), [RowId(doc)]);
    }
    let docs = some_docs(300, &mut Random(5));
    assert_eq!(sections(&docs), sections(&docs));
}

/// Everything observable of an index over the documents of [`some_docs`].
fn observe(index: &dyn TextIndex, tenants: &[TenantId]) -> Vec<(TextStats, Vec<Scored>)> {
    let rows: Vec<RowId> = (1..=u64::from(index.doc_count())).map(RowId).collect();
    let mut seen = Vec::new();
    for tenant in [1, 2] {
        let from = tenants.partition_point(|id| id.0 < tenant) as DocId;
        let to = tenants.partition_point(|id| id.0 <= tenant) as DocId;
        for (field, words) in
            [(BODY, &["w0", "w3"] as &[&str]), (BODY, &["w1"]), (TITLE, &["w2", "w0", "w1", "w4"])]
        {
            let query = query(tenant, field, Match::Any, words);
            let mut stats = TextStats::new(&query);
            index.stats(&query, from..to, &mut stats).unwrap();
            let mut top = TopK::new(25);
            let allow = Allow { range: from..to, deleted: None, filter: None, stop: None };
            let bm25 = Bm25::new(&query, &stats);
            index.search(&query, &bm25, &rows, &allow, &mut top, &mut Counters::default()).unwrap();
            seen.push((stats, top.into_sorted()));
        }
    }
    seen
}

#[test]
fn totals_that_cannot_be_are_refused_and_sums_do_not_overflow() {
    let docs = some_docs(50, &mut Random(4));
    let whole = sections(&docs);
    let at = whole.iter().position(|(name, _)| name == "text.stats").unwrap();
    // u8, u32 and u16, then u16 and u32 of the first field, u32 and u32 of its first tenant.
    let tokens = 21..29;
    let open = |value: u64| {
        let mut changed = whole.clone();
        changed[at].1[tokens.clone()].copy_from_slice(&value.to_le_bytes());
        SegmentText::open(changed)
    };
    let docs = u64::from(u32::from_le_bytes(whole[at].1[17..21].try_into().unwrap()));
    for wrong in [0, docs - 1, docs * u64::from(u32::MAX) + 1, u64::MAX] {
        assert!(matches!(open(wrong), Err(Error::Section { .. })), "{wrong} tokens of {docs} documents");
    }
    let disk = open(docs * u64::from(u32::MAX)).unwrap();
    let query = query(1, BODY, Match::Any, &["w0"]);
    let mut stats = TextStats { docs: 0, tokens: u64::MAX - 1, doc_freq: vec![0] };
    disk.stats(&query, 0..50, &mut stats).unwrap();
    assert_eq!(stats.tokens, u64::MAX);
}

#[test]
fn damaged_sections_are_refused_or_harmless_but_never_a_panic() {
    let mut random = Random(3);
    let docs = some_docs(500, &mut random);
    let tenants: Vec<TenantId> = docs.iter().map(|(tenant, _)| *tenant).collect();
    let whole = sections(&docs);
    let expected = observe(&SegmentText::open(whole.clone()).unwrap(), &tenants);
    for at in 0..whole.len() {
        let mut missing = whole.clone();
        missing.remove(at);
        assert!(SegmentText::open(missing).is_err(), "{}", whole[at].0);
        let ours = whole[at].0 == "text.stats";
        for round in 0..120 {
            let mut damaged = whole.clone();
            let bytes = &mut damaged[at].1;
            if round < 10 {
                bytes.truncate(random.below(bytes.len()));
            } else {
                let at = if round % 2 == 0 {
                    bytes.len() - 1 - random.below(120.min(bytes.len()))
                } else {
                    random.below(bytes.len())
                };
                bytes[at] ^= 1 << random.below(8);
            }
            // Our own statistics rely on the segment file's checksums: they may be wrong here, but nothing
            // breaks.
            if let Ok(opened) = SegmentText::open(damaged) {
                let seen = observe(&opened, &tenants);
                assert!(ours || seen == expected, "{} round {round}", whole[at].0);
            }
        }
    }
}

#[test]
fn wrong_calls_are_refused() {
    let docs = some_docs(20, &mut Random(1));
    let memory = MemoryText::build(docs.iter().map(|(_, doc)| doc));
    let disk = SegmentText::open(sections(&docs)).unwrap();
    let query = query(1, BODY, Match::Any, &["w0"]);
    let bm25 = Bm25::new(&query, &TextStats { docs: 5, tokens: 50, doc_freq: vec![2] });
    for index in [&memory as &dyn TextIndex, &disk] {
        let allow = Allow { range: 0..20, deleted: None, filter: None, stop: None };
        let (mut top, mut counters) = (TopK::new(3), Counters::default());
        assert!(index.search(&query, &bm25, &[RowId(1)], &allow, &mut top, &mut counters).is_err());
        assert!(index.score(&query, &bm25, &[2, 1], &mut [0.0; 2]).is_err());
        assert!(index.score(&query, &bm25, &[1, 2], &mut [0.0; 1]).is_err());
        // Documents and ranges that the segment does not have are not there, that is all.
        assert!(index.score(&query, &bm25, &[19, 20, 5000], &mut [0.0; 3]).is_ok());
        let mut stats = TextStats::new(&query);
        assert!(index.stats(&query, 10..5000, &mut stats).is_ok());
        assert!(index.memory_bytes() > 0);
    }
    let mut builder = TextBuilder::new(&[TITLE]).unwrap();
    assert!(
        builder.push(TenantId(1), &docs[0].1).is_err()
            || docs[0].1.fields().iter().all(|f| f.field() == TITLE)
    );
    let mut builder = TextBuilder::new(&[BODY, TITLE]).unwrap();
    builder.push(TenantId(2), &docs[0].1).unwrap();
    assert!(builder.push(TenantId(1), &docs[0].1).is_err());
}
