//! Graphs against the exact index over the same vectors: recall at what was asked for, on sets that are kind
//! and sets that are not; filters, copies, deadlines, damage. Every set is made from a seed that is printed
//! with what fails. Floors lie a little below what is asked for: recall is a mean over a hundred queries.

use std::time::Instant;

use roaring::RoaringBitmap;
use spandrel_storage::{Element, Metric, RowId};

use super::*;
use crate::allow::Allow;
use crate::dense::SearchParams;
use crate::dense::flat::FlatBuilder;
use crate::fuzz::Bytes;
use crate::matrix::Matrix;
use crate::random::Random;
use crate::stop::Stop;
use crate::topk::Scored;

fn float(random: &mut Random) -> f32 {
    (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// About normal, variance 1.
fn normal(random: &mut Random) -> f32 {
    (0..6).map(|_| float(random)).sum::<f32>() * 0.707
}

fn noise(random: &mut Random, count: usize, dim: usize, scale: f32) -> Vec<Vec<f32>> {
    (0..count).map(|_| (0..dim).map(|_| scale * normal(random)).collect()).collect()
}

/// Vectors around some centres, with dimensions of falling variance: what embeddings look like.
fn mixture(random: &mut Random, count: usize, dim: usize, spread: f32) -> Vec<Vec<f32>> {
    let falling = |random: &mut Random, by: f32| -> Vec<f32> {
        (0..dim).map(|at| normal(random) / (1.0 + by * at as f32)).collect()
    };
    let centres: Vec<Vec<f32>> = (0..50).map(|_| falling(random, 0.05)).collect();
    let vector = |random: &mut Random| {
        let centre = &centres[random.below(centres.len())];
        centre.iter().zip(falling(random, 0.03)).map(|(c, noise)| c + spread * noise).collect()
    };
    (0..count).map(|_| vector(random)).collect()
}

fn scaled(vectors: &[Vec<f32>], by: &mut dyn FnMut() -> f32) -> Vec<Vec<f32>> {
    let scale = |v: &Vec<f32>| {
        let by = by();
        v.iter().map(|x| x * by).collect()
    };
    vectors.iter().map(scale).collect()
}

struct Case {
    spec: DenseSpec,
    hnsw: Hnsw,
    section: Vec<u8>,
    rows: Vec<RowId>,
}

impl Case {
    /// Built by one thread, so that it is the same each time.
    fn new(metric: Metric, element: Element, vectors: &[Vec<f32>]) -> Self {
        Self::with(metric, element, vectors, 1)
    }

    fn with(metric: Metric, element: Element, vectors: &[Vec<f32>], threads: usize) -> Self {
        let spec = DenseSpec { dim: vectors[0].len() as u32, metric, element, index: IndexKind::Hnsw };
        let mut flat = FlatBuilder::new(&spec).unwrap();
        // Every tenth doc has none.
        for (at, vector) in vectors.iter().enumerate() {
            flat.push(Some(vector)).unwrap();
            if at % 9 == 8 {
                flat.push(None).unwrap();
            }
        }
        let graph = build(&spec, &|at, out| flat.rows(at, out), flat.vectors(), threads);
        let is_copy = |vector: u32| graph.copies.contains(&vector);
        let entry = graph.layers[graph.layers.len() - 1].vector(graph.entry);
        for layer in &graph.layers {
            let entry = layer.position(entry).unwrap();
            assert!(mend::is_connected(layer, entry, is_copy), "not every vector is reached");
        }
        let mut section = Vec::new();
        graph.write(&mut section).unwrap();
        let rows = (0..u64::from(flat.docs())).map(|row| RowId(row * 3 + 1)).collect();
        let source: Arc<dyn ChunkSource> = Arc::new(Bytes(section.clone()));
        let hnsw = Hnsw::open("graph/0", &spec, flat.finish(), &source).unwrap();
        assert!(hnsw.graph.memory_bytes() < section.len() * 11 / 10 + (1 << 16));
        Self { spec, hnsw, section, rows }
    }

    fn docs(&self) -> u32 {
        self.rows.len() as u32
    }

    fn search(
        &self,
        query: &[f32],
        allow: &Allow<'_>,
        k: usize,
        params: SearchParams,
    ) -> (Vec<Scored>, Counters) {
        let (mut top, mut counters, mut scratch) = (TopK::new(k), Counters::default(), Scratch::new());
        let ask = Ask { params, ..Ask::new(&self.rows, allow) };
        self.hnsw.search(query, &ask, &mut top, &mut scratch, &mut counters).unwrap();
        (top.into_sorted(), counters)
    }

    /// Mean share of the true `k` nearest that is found, ties counting as found, and how many vectors a query
    /// is compared with. Every result is checked: its length, its order, its scores, no row twice, all
    /// allowed.
    fn recall(&self, queries: &[Vec<f32>], allow: &Allow<'_>, k: usize, recall: f32) -> (f64, u64) {
        let (mut hits, mut wanted, mut scored) = (0, 0, 0);
        for query in queries {
            let (truth, _) =
                self.search(query, allow, k, SearchParams { recall, exact: true, rescore: true });
            let (found, counters) =
                self.search(query, allow, k, SearchParams { recall, exact: false, rescore: true });
            assert_eq!(found.len(), truth.len(), "as many as there are");
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "order, or a row twice: {found:?}");
            let docs: Vec<DocId> = found.iter().map(|scored| (scored.row.0 / 3) as DocId).collect();
            assert!(docs.iter().all(|doc| allow.contains(*doc)));
            let mut scores = vec![0.0; docs.len()];
            let counters_of_scores = &mut Counters::default();
            self.hnsw.score(query, &docs, &mut scores, &mut Scratch::new(), counters_of_scores).unwrap();
            assert!(
                found.iter().zip(&scores).all(|(found, score)| found.score == *score),
                "scores are exact"
            );
            let Some(worst) = truth.last() else { continue };
            hits += found.iter().filter(|found| found.score >= worst.score).count();
            wanted += truth.len();
            scored += counters.scored;
        }
        (hits as f64 / f64::from(wanted.max(1) as u32), scored / queries.len().max(1) as u64)
    }

    /// [`recall`](Self::recall) of all docs, which has to reach `floor`.
    fn reaches(&self, queries: &[Vec<f32>], (k, asked, floor): (usize, f32, f64), what: &str) -> u64 {
        let (found, scored) = self.recall(queries, &Allow::all(self.docs()), k, asked);
        assert!(found >= floor, "{what}, {:?}, k {k}: {found} found of {asked}", self.spec.metric);
        scored
    }
}

const METRICS: [Metric; 3] = [Metric::L2, Metric::Ip, Metric::Cosine];

#[test]
fn the_recall_asked_for_is_found_under_every_metric_and_element() {
    let mut random = Random(1);
    let mut vectors = mixture(&mut random, 8_100, 48, 0.6);
    let queries = vectors.split_off(8_000);
    let ints = |vectors: &[Vec<f32>]| -> Vec<Vec<f32>> {
        vectors.iter().map(|v| v.iter().map(|x| (x * 24.0).round().clamp(-127.0, 127.0)).collect()).collect()
    };
    for (metric, element) in [
        (Metric::L2, Element::F32),
        (Metric::Ip, Element::F32),
        (Metric::Cosine, Element::F32),
        (Metric::Cosine, Element::F16),
        (Metric::L2, Element::I8),
    ] {
        let (vectors, queries) = match element {
            Element::I8 => (ints(&vectors), ints(&queries)),
            _ => (vectors.clone(), queries.clone()),
        };
        let case = Case::with(metric, element, &vectors, 2);
        for (k, asked, floor) in [(10, 0.95, 0.94), (10, 0.99, 0.98), (1, 0.95, 0.93), (100, 0.95, 0.94)] {
            let scored = case.reaches(&queries, (k, asked, floor), &format!("seed 1, {element:?}"));
            assert!(scored < 4_000, "{metric:?}, k {k}: it is a walk, not a scan: {scored} of 8000");
        }
        // As a batch, too.
        let allow = Allow::all(case.docs());
        let flat: Vec<f32> = queries[..20].concat();
        let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
        let mut tops = vec![TopK::new(7); 20];
        let ask = Ask::new(&case.rows, &allow);
        case.hnsw.search_batch(Matrix::new(&flat, 48), &ask, &mut tops, &mut scratch, &mut counters).unwrap();
        for (query, top) in queries.iter().zip(tops) {
            assert_eq!(top.into_sorted(), case.search(query, &allow, 7, SearchParams::default()).0);
        }
    }
}

#[test]
fn queries_from_elsewhere_are_answered() {
    let mut random = Random(2);
    let vectors = mixture(&mut random, 5_000, 32, 0.5);
    let queries = noise(&mut random, 100, 32, 2.0);
    for metric in METRICS {
        Case::new(metric, Element::F32, &vectors).reaches(&queries, (10, 0.95, 0.90), "seed 2, noise");
    }
}

#[test]
fn copies_and_few_dimensions_lose_nothing() {
    let mut random = Random(3);
    let mut vectors = vec![vec![0.5, -0.25, 1.0, 2.0]; 10_000];
    vectors.extend((0..3_000).map(|_| (0..4).map(|_| float(&mut random)).collect::<Vec<f32>>()));
    let mut queries = noise(&mut random, 200, 4, 0.5);
    queries.push(vectors[0].clone());
    for metric in METRICS {
        Case::new(metric, Element::F32, &vectors).reaches(&queries, (10, 0.95, 0.95), "seed 3, copies");
    }
    let vectors: Vec<Vec<f32>> = (0..5_000).map(|_| vec![float(&mut random), float(&mut random)]).collect();
    let queries: Vec<Vec<f32>> = (0..200).map(|_| vec![float(&mut random), float(&mut random)]).collect();
    for metric in METRICS {
        let case = Case::new(metric, Element::F32, &vectors);
        case.reaches(&queries, (10, 0.95, 0.94), "seed 3, 2 dimensions");
    }
    let all_alike = Case::new(Metric::Cosine, Element::F32, &vec![vec![1.0, 2.0, 3.0]; 5_000]);
    all_alike.reaches(&[vec![3.0, 2.0, 1.0]], (10, 0.95, 1.0), "all alike");
    let zeros = Case::new(Metric::Ip, Element::F32, &vec![vec![0.0; 3]; 2_500]);
    zeros.reaches(&[vec![3.0, 2.0, 1.0]], (10, 0.95, 1.0), "zeros");
}

#[test]
fn huge_tiny_and_uneven_norms_are_no_obstacle() {
    let mut random = Random(4);
    let mut vectors = mixture(&mut random, 5_100, 24, 0.5);
    let queries = vectors.split_off(5_000);
    for (metric, scale) in [
        (Metric::L2, 1e17),
        (Metric::Ip, 1e17),
        (Metric::Cosine, 1e30),
        (Metric::L2, 1e-15),
        (Metric::Ip, 1e-15),
    ] {
        let case = Case::new(metric, Element::F32, &scaled(&vectors, &mut || scale));
        let queries = scaled(&queries, &mut || scale);
        case.reaches(&queries, (10, 0.95, 0.94), &format!("seed 4, times {scale}"));
    }
    // A few vectors are a thousand times as long as the rest: under inner product they win.
    let mut uneven = Random(5);
    let mut long = || if uneven.below(200) == 0 { 1e3 } else { 0.5 + float(&mut uneven).abs() };
    let vectors = scaled(&vectors, &mut long);
    for metric in [Metric::L2, Metric::Ip] {
        let case = Case::new(metric, Element::F32, &vectors);
        case.reaches(&queries, (10, 0.95, 0.94), "seed 5, uneven norms");
        case.reaches(&[vec![1e12; 24], vec![-3e18; 24]], (10, 0.95, 0.9), "seed 5, far off");
    }
    // Sums of squares beyond f32: scores are the nearest finite ones, and nothing panics.
    for metric in METRICS {
        let case = Case::new(metric, Element::F32, &scaled(&vectors[..2_100], &mut || 1e32));
        case.recall(&[vec![1e37; 24]], &Allow::all(case.docs()), 10, 0.95);
    }
}

#[test]
fn filters_and_deletions_never_leave_an_answer_short() {
    let mut random = Random(6);
    let mut vectors = mixture(&mut random, 12_100, 32, 0.6);
    let queries = vectors.split_off(12_000);
    let case = Case::new(Metric::L2, Element::F32, &vectors);
    let docs = case.docs();
    for share in [2, 3, 5, 20, 500] {
        let filter: RoaringBitmap = (0..docs).filter(|_| random.below(share) == 0).collect();
        let deleted: RoaringBitmap = (0..docs).filter(|_| random.below(4) == 0).collect();
        for (filter, deleted) in
            [(Some(&filter), None), (None, Some(&deleted)), (Some(&filter), Some(&deleted))]
        {
            let allow = Allow { range: 0..docs, filter, deleted, stop: None };
            let (found, scored) = case.recall(&queries, &allow, 10, 0.95);
            assert!(found >= 0.94, "one in {share}, deletions {}: {found}", deleted.is_some());
            assert!(share != 2 || scored < u64::from(docs) / 2, "it is a walk: {scored}");
        }
    }
    let half = Allow { range: docs / 4..docs / 4 * 3, ..Allow::all(docs) };
    assert!(case.recall(&queries, &half, 10, 0.95).0 >= 0.94);
    // What is allowed is what the query is far from: the walk ends among what is not.
    let (query, exact) = (&queries[0], SearchParams { exact: true, ..SearchParams::default() });
    let (near, _) = case.search(query, &Allow::all(docs), docs as usize / 2, exact);
    let near: RoaringBitmap = near.iter().map(|hit| (hit.row.0 / 3) as DocId).collect();
    let allow = Allow { deleted: Some(&near), ..Allow::all(docs) };
    assert_eq!(case.recall(std::slice::from_ref(query), &allow, 10, 0.95).0, 1.0);
}

#[test]
fn a_search_past_its_deadline_ends_filtered_or_not() {
    let mut random = Random(10);
    let case = Case::new(Metric::L2, Element::F32, &noise(&mut random, 4_200, 8, 1.0));
    let stop = Stop::new(Some(Instant::now()), None);
    let most: RoaringBitmap = (0..4_200).filter(|doc| doc % 7 != 0).collect();
    for filter in [None, Some(&most)] {
        let allow = Allow { filter, stop: Some(&stop), ..Allow::all(case.docs()) };
        let (mut top, mut counters, mut scratch) = (TopK::new(3), Counters::default(), Scratch::new());
        let ask = Ask::new(&case.rows, &allow);
        let ended = case.hnsw.search(&[1.0; 8], &ask, &mut top, &mut scratch, &mut counters);
        assert!(matches!(ended, Err(Error::Deadline)) && counters.scored == 0, "{counters:?}");
        // The same buffers serve the next search.
        let (allow, mut again) = (Allow::all(case.docs()), TopK::new(3));
        let ask = Ask::new(&case.rows, &allow);
        case.hnsw.search(&[1.0; 8], &ask, &mut again, &mut scratch, &mut counters).unwrap();
        let expected = case.search(&[1.0; 8], &allow, 3, SearchParams::default()).0;
        assert_eq!(again.into_sorted(), expected);
    }
}

#[test]
fn bad_queries_are_told_so() {
    let case = Case::new(Metric::Cosine, Element::F32, &noise(&mut Random(8), 4_200, 8, 1.0));
    let allow = Allow::all(case.docs());
    let told = |query: &[f32], rows: &[RowId]| {
        let (mut top, mut counters) = (TopK::new(3), Counters::default());
        let ask = Ask::new(rows, &allow);
        case.hnsw.search(query, &ask, &mut top, &mut Scratch::new(), &mut counters).unwrap_err().to_string()
    };
    assert!(told(&[1.0; 7], &case.rows).contains("7 dimensions, the field has 8"));
    assert!(told(&[f32::NAN; 8], &case.rows).contains("not finite"));
    assert!(told(&[0.0; 8], &case.rows).contains("zeros"));
    assert!(told(&[1.0; 8], &case.rows[1..]).contains("rows"));
}

#[test]
fn damaged_sections_are_refused_or_searched_without_a_panic() {
    let mut random = Random(9);
    let mut vectors = noise(&mut random, 2_500, 8, 1.0);
    vectors.extend_from_within(..50);
    let case = Case::new(Metric::L2, Element::F32, &vectors);
    assert!(!case.hnsw.graph.copies.is_empty());
    let open = |bytes: Vec<u8>, spec: &DenseSpec, vectors: &[Vec<f32>]| {
        let mut flat = FlatBuilder::new(spec).unwrap();
        vectors.iter().for_each(|vector| flat.push(Some(&vector[..spec.dim as usize])).unwrap());
        let source: Arc<dyn ChunkSource> = Arc::new(Bytes(bytes));
        Hnsw::open("graph/0", spec, flat.finish(), &source)
    };
    for len in [0, 7, 30, 300, 5_000, case.section.len() - 4, case.section.len() - 1] {
        assert!(open(case.section[..len].to_vec(), &case.spec, &vectors).is_err(), "{len} bytes");
    }
    let longer = [&case.section[..], &[0]].concat();
    assert!(open(longer, &case.spec, &vectors).is_err(), "a byte too many");
    for other in
        [DenseSpec { dim: 7, ..case.spec.clone() }, DenseSpec { metric: Metric::Ip, ..case.spec.clone() }]
    {
        assert!(open(case.section.clone(), &other, &vectors).is_err(), "another field");
    }
    assert!(open(case.section.clone(), &case.spec, &vectors[1..]).is_err(), "other vectors");
    let (mut refused, mut searched) = (0, 0);
    for round in 0..300 {
        let mut bytes = case.section.clone();
        // Most of the damage where it matters: the header, copies, and the first links.
        let end = if round % 3 == 0 { bytes.len() } else { 20_000 };
        for _ in 0..1 + random.below(4) {
            let at = random.below(end);
            bytes[at] ^= 1 << random.below(8);
        }
        match open(bytes, &case.spec, &vectors) {
            Err(_) => refused += 1,
            Ok(hnsw) => {
                let allow = Allow::all(hnsw.flat.docs());
                let (mut top, mut counters) = (TopK::new(5), Counters::default());
                let ask = Ask::new(&case.rows, &allow);
                hnsw.search(&vectors[round], &ask, &mut top, &mut Scratch::new(), &mut counters).unwrap();
                let found = top.into_sorted();
                assert!(found.len() == 5 && found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
                searched += 1;
            }
        }
    }
    assert!(refused > 0 && searched > 0, "{refused} refused, {searched} searched");
}
