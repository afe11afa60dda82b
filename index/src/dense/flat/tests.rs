//! Flat against a naive oracle in f64: every metric, element, filter, tenant range and kernel level; batch
//! against single bit for bit; damaged bytes.

use roaring::RoaringBitmap;

use super::*;
use crate::fuzz::Bytes;
use crate::simd::{self, dot_error_max, l2_error_max};
use crate::topk::Scored;

/// A small generator (SplitMix64); every test prints its seed through the case it fails at.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vector(&mut self, dim: usize, element: Element) -> Vec<f32> {
        let value = |random: &mut Self| match element {
            Element::I8 => random.below(255) as f32 - 127.0,
            _ => random.float(),
        };
        let mut vector: Vec<f32> = (0..dim).map(|_| value(self)).collect();
        vector[0] += if vector.iter().all(|value| *value == 0.0) { 1.0 } else { 0.0 };
        vector
    }
}

fn spec(dim: usize, metric: Metric, element: Element) -> DenseSpec {
    DenseSpec { dim: dim as u32, metric, element, index: Default::default() }
}

fn build(spec: &DenseSpec, vectors: &[Option<Vec<f32>>]) -> FlatBuilder {
    let mut builder = FlatBuilder::new(spec).unwrap();
    vectors.iter().for_each(|vector| builder.push(vector.as_deref()).unwrap());
    builder
}

fn section(builder: &FlatBuilder) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder.write(&mut bytes).unwrap();
    bytes
}

fn open(spec: &DenseSpec, bytes: Vec<u8>, residency: Residency) -> Result<Flat> {
    Flat::open("test", spec, Arc::new(Bytes(bytes)), residency)
}

/// The value an element keeps of a vector, after normalising where the metric asks for it.
fn stored(vector: &[f32], spec: &DenseSpec) -> Vec<f32> {
    let mut vector = vector.to_vec();
    if spec.metric == Metric::Cosine && spec.element != Element::I8 {
        simd::normalize(&mut vector);
    }
    if spec.element == Element::F16 {
        vector.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
    }
    vector
}

/// Exact score, and how far off an f32 score may be.
fn oracle(query: &[f32], vector: &[f32], spec: &DenseSpec) -> (f64, f64) {
    let dim = query.len();
    let (dot, query_norm, norm) = (simd::dot_f64(query, vector), simd::norm(query), simd::norm(vector));
    let cosine_norm = if spec.element == Element::F32 { 1.0 } else { norm };
    match spec.metric {
        Metric::Ip => (dot, dot_error_max(dim, query_norm * norm)),
        Metric::L2 => {
            let distance = simd::l2_f64(query, vector);
            (-distance, l2_error_max(dim, distance))
        }
        Metric::Cosine => {
            let exact = dot / query_norm / cosine_norm;
            (exact.clamp(-1.0, 1.0), dot_error_max(dim, 1.0) + 1e-6)
        }
    }
}

/// One index with what it was built from.
struct Case {
    spec: DenseSpec,
    vectors: Vec<Option<Vec<f32>>>,
    rows: Vec<RowId>,
}

impl Case {
    fn random(random: &mut Random, spec: DenseSpec, docs: usize, absent: bool) -> Self {
        let dim = spec.dim as usize;
        let mut vectors: Vec<Option<Vec<f32>>> = Vec::new();
        for doc in 0..docs {
            let duplicate = doc > 0 && random.below(10) == 0;
            let vector = if duplicate {
                vectors[random.below(doc)].clone()
            } else {
                Some(random.vector(dim, spec.element))
            };
            vectors.push(vector.filter(|_| !absent || random.below(3) > 0));
        }
        // Rows in no order, so that ties are broken by row and not by doc.
        let mut rows: Vec<RowId> = (0..docs).map(|doc| RowId(doc as u64 * 2 + 1)).collect();
        for at in (1..docs).rev() {
            rows.swap(at, random.below(at + 1));
        }
        Self { spec, vectors, rows }
    }

    /// Checks a result: the right rows up to what rounding can swap, in the right order, all allowed.
    fn check(&self, query: &[f32], allow: &Allow<'_>, k: usize, found: &[Scored], at: &str) {
        let exact: std::collections::HashMap<RowId, (f64, f64)> = (0..self.vectors.len())
            .filter(|doc| allow.contains(*doc as u32))
            .filter_map(|doc| Some((self.rows[doc], self.vectors[doc].as_ref()?)))
            .map(|(row, vector)| (row, oracle(query, &stored(vector, &self.spec), &self.spec)))
            .collect();
        assert_eq!(found.len(), k.min(exact.len()), "{at}: how many");
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{at}: order, or a row twice");
        for Scored { score, row, .. } in found {
            let (score_exact, error) =
                exact.get(row).unwrap_or_else(|| panic!("{at}: row {row} is not allowed"));
            assert!((f64::from(*score) - score_exact).abs() <= *error, "{at}: {score} for {score_exact}");
        }
        let worst = found.last().map_or(f64::INFINITY, |worst| f64::from(worst.score));
        for (row, (score, error)) in &exact {
            let missing = found.iter().all(|scored| scored.row != *row);
            assert!(!missing || score - error <= worst, "{at}: row {row} with {score} is missing");
        }
    }
}

fn search(flat: &Flat, query: &[f32], case: &Case, allow: &Allow<'_>, k: usize) -> Vec<Scored> {
    let (mut top, mut counters) = (TopK::new(k), Counters::default());
    flat.search(query, &Ask::new(&case.rows, allow), &mut top, &mut Scratch::new(), &mut counters).unwrap();
    top.into_sorted()
}

fn bits(found: &[Scored]) -> Vec<(u32, RowId)> {
    found.iter().map(|scored| (scored.score.to_bits(), scored.row)).collect()
}

const METRICS: [Metric; 3] = [Metric::L2, Metric::Ip, Metric::Cosine];
const ELEMENTS: [Element; 3] = [Element::F32, Element::F16, Element::I8];

#[test]
fn agrees_with_the_oracle_under_every_metric_element_filter_and_range() {
    let mut random = Random(1);
    for metric in METRICS {
        for element in ELEMENTS {
            for (dim, docs, absent) in [(1, 40, false), (19, 700, true), (48, 2500, false)] {
                let case = Case::random(&mut random, spec(dim, metric, element), docs, absent);
                let builder = build(&case.spec, &case.vectors);
                let bytes = section(&builder);
                let disk = open(&case.spec, bytes.clone(), Residency::Disk).unwrap();
                let indexes = [builder.finish(), disk, open(&case.spec, bytes, Residency::Memory).unwrap()];
                check_filters(&mut random, &case, &indexes);
            }
        }
    }
}

fn check_filters(random: &mut Random, case: &Case, indexes: &[Flat; 3]) {
    let (docs, dim) = (case.vectors.len(), case.spec.dim as usize);
    let mut sample = |of: usize| -> RoaringBitmap {
        (0..docs as u32).filter(|_| of > 0 && random.below(of) == 0).collect()
    };
    let (none, few, half, most) = (sample(0), sample(30), sample(2), &sample(1) - &sample(10));
    let choices = [None, Some(&none), Some(&few), Some(&half), Some(&most)];
    for deleted in choices {
        for filter in choices {
            let start = random.below(docs) as u32;
            for range in [0..docs as u32, start..docs as u32, start..start, start..docs as u32 + 9] {
                let allow = Allow { range, deleted, filter, stop: None };
                // An i8 field takes integer queries by one path and other queries by another.
                let element = if random.below(2) == 0 { case.spec.element } else { Element::F32 };
                let query = random.vector(dim, element);
                let k = [1, 10, docs + 5][random.below(3)];
                let at = format!("{:?}, range {:?}, k {k}, query {query:?}", case.spec, allow.range);
                let found = search(&indexes[0], &query, case, &allow, k);
                case.check(&query, &allow, k, &found, &at);
                for other in &indexes[1..] {
                    assert_eq!(bits(&search(other, &query, case, &allow, k)), bits(&found), "{at}");
                }
            }
        }
    }
}

#[test]
fn a_batch_gives_the_bits_of_single_searches_on_every_level() {
    let mut random = Random(2);
    for kernels in Kernels::available() {
        for metric in METRICS {
            for element in ELEMENTS {
                let case = Case::random(&mut random, spec(37, metric, element), 1500, true);
                let flat = build(&case.spec, &case.vectors).finish().with_kernels(kernels);
                let half: RoaringBitmap = (0..1500).filter(|_| random.below(2) == 0).collect();
                for filter in [None, Some(&half)] {
                    let allow = Allow { range: 3..1490, deleted: Some(&half), filter, stop: None };
                    for count in [1, 2, 5, 60] {
                        let mut queries: Vec<f32> = Vec::new();
                        for at in 0..count {
                            let kind = if at % 3 == 0 { Element::F32 } else { element };
                            queries.extend(random.vector(37, kind));
                        }
                        let allow = if filter.is_none() { Allow::all(1500) } else { allow.clone() };
                        batch_is_single(&flat, &case, &queries, &allow, 10);
                    }
                }
            }
        }
    }
}

/// Returns how many pairs the batch scored twice.
fn batch_is_single(flat: &Flat, case: &Case, queries: &[f32], allow: &Allow<'_>, k: usize) -> u64 {
    let queries = Matrix::new(queries, case.spec.dim as usize);
    let mut tops = vec![TopK::new(k); queries.rows()];
    let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
    flat.search_batch(queries, &Ask::new(&case.rows, allow), &mut tops, &mut scratch, &mut counters).unwrap();
    for (query, top) in queries.iter().zip(tops) {
        let single = search(flat, query, case, allow, k);
        assert_eq!(bits(&top.into_sorted()), bits(&single), "{:?} on {:?}", case.spec, flat.kernels);
        assert!(single.iter().all(|scored| scored.score.is_finite()));
    }
    counters.rescored
}

#[test]
fn batched_l2_is_exact_where_its_bound_is_weak_and_where_it_is_strong() {
    let mut random = Random(3);
    // Far from the origin with small distances, far apart, tiny, and beyond what norms can be squared to.
    for (offset, spread) in
        [(0.0, 1.0), (1e3, 1e-2), (1e6, 1.0), (-3e5, 0.5), (0.0, 1e-18), (0.0, 1e18), (0.0, 3e38)]
    {
        for dim in [7, 64, 300] {
            let count = 900;
            let vector = |random: &mut Random| {
                (0..dim).map(|_| offset + spread * random.float()).collect::<Vec<f32>>()
            };
            let mut vectors: Vec<Option<Vec<f32>>> = (0..count).map(|_| Some(vector(&mut random))).collect();
            for doc in 0..200 {
                // Duplicates, and neighbours that differ in one rounding.
                vectors[doc + 300] = vectors[doc].clone();
                let mut near = vectors[doc].clone().unwrap();
                near[doc % dim] = near[doc % dim].next_up();
                vectors[doc + 600] = Some(near);
            }
            let mut queries = vectors[..20].iter().flatten().flatten().copied().collect::<Vec<f32>>();
            (0..20).for_each(|_| queries.extend(vector(&mut random)));
            let rows = (1..=count as u64).rev().map(RowId).collect();
            let case = Case { spec: spec(dim, Metric::L2, Element::F32), vectors, rows };
            for kernels in Kernels::available().into_iter().skip(1) {
                let flat = build(&case.spec, &case.vectors).finish().with_kernels(kernels);
                for k in [1, 10, 400] {
                    batch_is_single(&flat, &case, &queries, &Allow::all(count as u32), k);
                }
            }
        }
    }
    let case = Case::random(&mut random, spec(96, Metric::L2, Element::F32), 20_000, false);
    let flat = build(&case.spec, &case.vectors).finish();
    let queries: Vec<f32> = (0..32).flat_map(|_| random.vector(96, Element::F32)).collect();
    let rescored = batch_is_single(&flat, &case, &queries, &Allow::all(20_000), 10);
    assert!(
        rescored < 32 * 20_000 / 20,
        "the bound passes over almost nothing: {rescored} pairs scored twice"
    );
}

#[test]
fn scores_are_those_of_a_search_and_absent_docs_have_none() {
    let mut random = Random(4);
    for metric in METRICS {
        for element in ELEMENTS {
            let case = Case::random(&mut random, spec(33, metric, element), 500, true);
            let bytes = section(&build(&case.spec, &case.vectors));
            let flat = open(&case.spec, bytes, Residency::Disk).unwrap();
            for kind in [element, Element::F32] {
                let query = random.vector(33, kind);
                let found: std::collections::HashMap<RowId, f32> =
                    search(&flat, &query, &case, &Allow::all(500), 500)
                        .into_iter()
                        .map(|scored| (scored.row, scored.score))
                        .collect();
                let docs: Vec<DocId> = (0..900).map(|_| random.below(500) as DocId).collect();
                let mut scores = vec![0.0; docs.len()];
                let mut counters = Counters::default();
                flat.score(&query, &docs, &mut scores, &mut Scratch::new(), &mut counters).unwrap();
                for (doc, score) in docs.iter().zip(scores) {
                    let expected = found.get(&case.rows[*doc as usize]).copied().unwrap_or(f32::NAN);
                    assert_eq!(score.to_bits(), expected.to_bits(), "{:?}, doc {doc}", case.spec);
                }
                assert!(counters.scored > 0 && counters.bytes_read >= counters.scored * 33);
            }
        }
    }
}

#[test]
fn overflow_gives_the_nearest_finite_score() {
    let rows: Vec<RowId> = (1..=4).map(RowId).collect();
    // The second and third overflow in between though their inner product with the query is small.
    let vectors = [vec![3e38, 3e38], vec![3e38, -3e38], vec![-3e38, 3e38], vec![1.0, 1.0]].map(Some);
    for kernels in Kernels::available() {
        let find = |metric| {
            let case =
                Case { spec: spec(2, metric, Element::F32), vectors: vectors.to_vec(), rows: rows.clone() };
            let flat = build(&case.spec, &case.vectors).finish().with_kernels(kernels);
            let found = search(&flat, &[2e38, 2e38], &case, &Allow::all(4), 4);
            batch_is_single(&flat, &case, &[2e38; 8], &Allow::all(4), 3);
            found.iter().map(|scored| (scored.row.0, scored.score)).collect::<Vec<_>>()
        };
        assert_eq!(find(Metric::Ip), [(1, f32::MAX), (4, 4e38_f64 as f32), (2, 0.0), (3, 0.0)].map(clamped));
        assert_eq!(find(Metric::L2), [1, 2, 3, 4].map(|row| (row, f32::MIN)));
        let cosine = find(Metric::Cosine);
        assert!(cosine.iter().all(|(_, score)| (-1.0..=1.0).contains(score)), "{cosine:?}");
    }
}

fn clamped((row, score): (u64, f32)) -> (u64, f32) {
    (row, score.clamp(f32::MIN, f32::MAX))
}

#[test]
fn windows_and_gathers_of_a_file_are_many_blocks_long() {
    let mut random = Random(5);
    for (element, absent) in [(Element::F32, false), (Element::F16, true)] {
        // 6 MB and more: several windows, several gathers, each of several blocks.
        let case = Case::random(&mut random, spec(300, Metric::L2, element), 9_000, absent);
        let built = build(&case.spec, &case.vectors);
        let bytes = section(&built);
        let disk = open(&case.spec, bytes.clone(), Residency::Disk).unwrap();
        let resident = open(&case.spec, bytes, Residency::Memory).unwrap();
        let fresh = built.finish();
        let query = random.vector(300, Element::F32);
        let few: RoaringBitmap = (0..9_000).filter(|_| random.below(3) == 0).collect();
        let ranges = [0..9_000, 17..8_990];
        for (range, filter) in
            ranges.into_iter().flat_map(|range| [(range.clone(), None), (range, Some(&few))])
        {
            let allow = Allow { range, deleted: None, filter, stop: None };
            let expected = bits(&search(&fresh, &query, &case, &allow, 200));
            assert_eq!(bits(&search(&disk, &query, &case, &allow, 200)), expected);
            assert_eq!(bits(&search(&resident, &query, &case, &allow, 200)), expected);
        }
    }
}

#[test]
fn a_cosine_of_f16_is_that_of_the_rounded_vector() {
    let spec = spec(3, Metric::Cosine, Element::F16);
    let mut random = Random(7);
    let vectors: Vec<Option<Vec<f32>>> = (0..2_000).map(|_| Some(random.vector(3, Element::F16))).collect();
    let rows = (0..2_000).map(RowId).collect();
    let case = Case { spec: spec.clone(), vectors, rows };
    let flat = build(&spec, &case.vectors).finish();
    for doc in 0..50 {
        // Asked by what is stored, a vector is nearest to itself, and no other ties with it above 1.
        let query = stored(case.vectors[doc].as_ref().unwrap(), &spec);
        let found = search(&flat, &query, &case, &Allow::all(2_000), 3);
        assert!((found[0].score - 1.0).abs() < 1e-6, "{found:?}");
        case.check(&query, &Allow::all(2_000), 3, &found, "rounded");
    }
    let mut old = section(&build(&spec, &case.vectors));
    old[8] = 1;
    assert!(matches!(open(&spec, old, Residency::Disk), Err(Error::Section { .. })));
}

#[test]
fn places_of_ascending_docs_are_those_of_single_lookups() {
    let mut random = Random(8);
    for share in [1, 2, 50] {
        let vectors: Vec<Option<Vec<f32>>> =
            (0..3_000).map(|_| (random.below(share) == 0).then(|| vec![1.0])).collect();
        let flat = build(&spec(1, Metric::Ip, Element::F32), &vectors).finish();
        for step in [1, 3, 700] {
            let mut places = Places::new(&flat);
            for doc in (0..3_100).step_by(step) {
                assert_eq!(places.next(doc), flat.ordinal(doc), "doc {doc} of 1 in {share}");
            }
        }
    }
}

#[test]
fn empty_indexes_find_nothing() {
    for (metric, docs) in [(Metric::L2, 0), (Metric::Cosine, 5), (Metric::Ip, 5)] {
        let case = Case {
            spec: spec(4, metric, Element::F32),
            vectors: vec![None; docs],
            rows: (0..docs as u64).map(RowId).collect(),
        };
        let builder = build(&case.spec, &case.vectors);
        let disk = open(&case.spec, section(&builder), Residency::Disk).unwrap();
        for flat in [builder.finish(), disk] {
            assert_eq!((flat.docs(), flat.vectors()), (docs as u32, 0));
            let few = RoaringBitmap::from_iter([1]);
            let filtered = Allow { range: 0..docs as u32, deleted: None, filter: Some(&few), stop: None };
            for allow in [Allow::all(docs as u32), filtered] {
                assert!(search(&flat, &[1.0; 4], &case, &allow, 3).is_empty());
            }
            let mut scores = vec![0.0; docs];
            let docs: Vec<DocId> = (0..docs as u32).collect();
            let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
            flat.score(&[1.0; 4], &docs, &mut scores, &mut scratch, &mut counters).unwrap();
            assert!(scores.iter().all(|score| score.is_nan()));
        }
    }
}

#[test]
fn mistakes_are_named() {
    let message = |result: Result<()>| result.unwrap_err().to_string();
    let mut builder = FlatBuilder::new(&spec(2, Metric::Cosine, Element::F16)).unwrap();
    assert!(message(builder.push(Some(&[1.0]))).contains("has 1 dimensions, the field has 2"));
    assert!(message(builder.push(Some(&[1.0, f32::NAN]))).contains("value 1 of the vector is NaN"));
    assert!(message(builder.push(Some(&[0.0, -0.0]))).contains("zeros"));
    builder.push(Some(&[1e30, 0.0])).unwrap();
    assert_eq!(builder.docs(), 1);
    let flat = builder.finish();
    let mut wide = FlatBuilder::new(&spec(1, Metric::Ip, Element::F16)).unwrap();
    assert!(message(wide.push(Some(&[70_000.0]))).contains("65504"));
    let mut ints = FlatBuilder::new(&spec(1, Metric::Ip, Element::I8)).unwrap();
    assert!(message(ints.push(Some(&[-128.0]))).contains("-127..=127"));
    assert!(message(ints.push(Some(&[0.5]))).contains("integer"));
    assert!(FlatBuilder::new(&spec(0, Metric::Ip, Element::I8)).is_err());

    let rows = [RowId(1)];
    let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
    let mut search = |query: &[f32], rows: &[RowId]| {
        let mut top = TopK::new(1);
        message(flat.search(query, &Ask::new(rows, &Allow::all(1)), &mut top, &mut scratch, &mut counters))
    };
    assert!(search(&[1.0, 2.0, 3.0], &rows).contains("3 dimensions, the field has 2"));
    assert!(search(&[], &rows).contains("0 dimensions"));
    assert!(search(&[1.0, f32::INFINITY], &rows).contains("not finite"));
    assert!(search(&[0.0, 0.0], &rows).contains("zeros"));
    assert!(search(&[1.0, 0.0], &[]).contains("rows"));
    let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
    let mut score = |docs: &[DocId], scores: &mut [f32]| {
        message(flat.score(&[1.0, 0.0], docs, scores, &mut scratch, &mut counters))
    };
    assert!(score(&[1], &mut [0.0]).contains("doc 1 is not of this segment"));
    assert!(score(&[0], &mut []).contains("scores"));
}

#[test]
fn damaged_and_short_bytes_are_errors_or_answers_but_never_panics_or_nan() {
    let mut random = Random(6);
    for (metric, element) in
        [(Metric::L2, Element::F32), (Metric::Cosine, Element::F16), (Metric::Cosine, Element::I8)]
    {
        let case = Case::random(&mut random, spec(5, metric, element), 40, true);
        let bytes = section(&build(&case.spec, &case.vectors));
        let try_bytes = |bytes: Vec<u8>| {
            for residency in [Residency::Disk, Residency::Memory] {
                let Ok(flat) = open(&case.spec, bytes.clone(), residency) else { continue };
                let docs = flat.docs();
                // A damaged count of docs can be billions; the search then asks for more rows.
                let rows: Vec<RowId> = (0..u64::from(docs.min(1000))).map(RowId).collect();
                let (mut top, mut scratch, mut counters) =
                    (TopK::new(9), Scratch::new(), Counters::default());
                let allow = Allow::all(docs);
                let query = [1.0, 2.0, 3.0, 4.0, 5.0];
                let _ = flat.search(&query, &Ask::new(&rows, &allow), &mut top, &mut scratch, &mut counters);
                assert!(top.iter().all(|scored| scored.score.is_finite()));
            }
        };
        for at in 0..bytes.len() {
            for bit in [0, 3, 7] {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                try_bytes(damaged);
            }
        }
        for len in (0..bytes.len()).step_by(13) {
            let short = open(&case.spec, bytes[..len].to_vec(), Residency::Disk);
            assert!(short.is_err(), "{len} of {} bytes were opened", bytes.len());
        }
        // Elements that are not finite, which no builder writes.
        let mut damaged = bytes.clone();
        damaged[4096..].fill(0xff);
        try_bytes(damaged);
        let other = spec(6, metric, element);
        let error = open(&other, bytes.clone(), Residency::Disk).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("'test'") && error.contains("5 dimensions")));
    }
}

/// Lists that are longer together than what is read at once, one of them empty, in memory and not.
#[test]
fn lists_have_the_scores_that_each_has_alone() {
    const DIM: usize = 6;
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        let mut random = Random(77);
        let mut vector = || (0..DIM).map(|_| random.next() as i16 as f32 + 0.5).collect::<Vec<f32>>();
        let spec = spec(DIM, metric, Element::F32);
        let mut builder = FlatBuilder::new(&spec).unwrap();
        // Every third doc has no vector.
        (0..900).for_each(|doc| builder.push((doc % 3 != 0).then(&mut vector).as_deref()).unwrap());
        let mut section = Vec::new();
        builder.write(&mut section).unwrap();
        let queries: Vec<f32> = (0..4).flat_map(|_| vector()).collect();
        let with_vector: Vec<DocId> = (0..900).filter(|doc| doc % 3 != 0).collect();
        let docs: Vec<DocId> = with_vector.iter().copied().cycle().take(9_500).collect();
        let ends = [4_000, 4_000, 9_001, 9_500];
        for residency in [Residency::Disk, Residency::Memory] {
            let flat = open(&spec, section.clone(), residency).unwrap();
            let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
            let mut scores = vec![0.0; docs.len()];
            let queries = Matrix::new(&queries, DIM);
            flat.score_lists(queries, (&docs, &ends), &mut scores, &mut scratch, &mut counters).unwrap();
            let mut start = 0;
            for (query, end) in queries.iter().zip(ends) {
                let mut alone = vec![0.0; end - start];
                flat.score(query, &docs[start..end], &mut alone, &mut scratch, &mut counters).unwrap();
                assert_eq!(scores[start..end], alone, "{metric:?}, {residency:?}, up to {end}");
                start = end;
            }
        }
    }
}
