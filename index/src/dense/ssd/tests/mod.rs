//! Cells against the exact index over the same vectors: recall at what was asked for, on sets that are kind
//! and sets that are not; filters, kernel levels, merges, damage. Every set is made from a seed that is
//! printed with what fails.

mod codes;
mod damage;
mod effort;
mod merge;
mod tenants;

use std::fs;

use roaring::RoaringBitmap;
use spandrel_storage::{DocId, Element, Metric};

use super::search::Effort;
use super::*;
use crate::allow::Allow;
use crate::dense::SearchParams;
use crate::dense::flat::FlatBuilder;
use crate::dense::vectors::Residency;
use crate::fuzz::Bytes;
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

/// A set of vectors around some centres, with dimensions of falling variance: what embeddings look like.
struct Mixture {
    centres: Vec<Vec<f32>>,
    dim: usize,
}

impl Mixture {
    fn new(random: &mut Random, dim: usize, centres: usize) -> Self {
        let centre =
            |random: &mut Random| (0..dim).map(|at| normal(random) / (1.0 + 0.05 * at as f32)).collect();
        Self { centres: (0..centres).map(|_| centre(random)).collect(), dim }
    }

    fn vector(&self, random: &mut Random, spread: f32) -> Vec<f32> {
        let centre = &self.centres[random.below(self.centres.len())];
        (0..self.dim).map(|at| centre[at] + spread * normal(random) / (1.0 + 0.03 * at as f32)).collect()
    }
}

const TIERS: [Tier; 3] = [Tier::Hot, Tier::Default, Tier::Lean];

/// Vectors of a field, on their way into an exact index.
fn flat_of(spec: &DenseSpec, vectors: &[Vec<f32>]) -> FlatBuilder {
    let mut flat = FlatBuilder::new(spec).unwrap();
    vectors.iter().for_each(|vector| flat.push(Some(&vector[..spec.dim as usize])).unwrap());
    flat
}

struct Case {
    spec: DenseSpec,
    ssd: Ssd,
    /// The same with less in memory.
    default: Ssd,
    lean: Ssd,
    section: Vec<u8>,
    rows: Vec<RowId>,
    /// The position in which each vector came, in the order that they are in.
    order: Vec<u32>,
}

impl Case {
    fn new(metric: Metric, element: Element, vectors: &[Vec<f32>]) -> Self {
        Self::with(metric, element, vectors, None)
    }

    fn with(metric: Metric, element: Element, vectors: &[Vec<f32>], prior: Option<Prior<'_>>) -> Self {
        Self::of(metric, element, (vectors, &[0]), prior)
    }

    fn of(
        metric: Metric,
        element: Element,
        (vectors, tenants): (&[Vec<f32>], &[u32]),
        prior: Option<Prior<'_>>,
    ) -> Self {
        let spec = DenseSpec { dim: vectors[0].len() as u32, metric, element, index: Default::default() };
        let given = flat_of(&spec, vectors);
        let row = |at: usize, out: &mut [f32]| given.rows(at, out);
        let built = |room: Room<'_>| {
            let mut section = Vec::new();
            let given = Vectors { tenants, ..Vectors::new(&row, given.vectors()) };
            let built = build(&spec, given, prior, room).unwrap();
            built.write(&mut section).unwrap();
            let order = built.order().map_or((0..vectors.len() as u32).collect(), <[u32]>::to_vec);
            (section, order)
        };
        let (section, order) = built(Room::of_threads(2));
        let one = built(Room::of_threads(1));
        assert!(section == one.0 && order == one.1, "the number of threads shows in the bytes");
        let folder = tempfile::tempdir().unwrap();
        let room = Room { threads: 2, memory_bytes: 1 << 20, folder: Some(folder.path()) };
        let (on_disk, same) = built(room);
        assert!(order == same, "another order");
        let vectors: Vec<Vec<f32>> = order.iter().map(|at| vectors[*at as usize].clone()).collect();
        let flat = || flat_of(&spec, &vectors);
        // What is refined together, and with it the calibration in the header, depends on what is read.
        let (head, rest) = section.split_at(layout::HEADER_BYTES as usize);
        assert!(on_disk[head.len()..] == *rest, "what is built on disk is something else");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a file was left behind");
        let source: Arc<dyn ChunkSource> = Arc::new(Bytes(section.clone()));
        let open = |tier: Tier| {
            let resident = resident_bytes("test", source.as_ref(), tier).unwrap()
                + singles_bytes("test", source.as_ref(), tier).unwrap();
            let ssd = Ssd::open("test", &spec, flat().finish(), &source, tier).unwrap().with_singles();
            let takes = ssd.cells.memory_bytes() as u64;
            assert!(takes <= resident + resident / 5 + (1 << 20), "{takes} bytes, {resident} were announced");
            ssd
        };
        let (ssd, default, lean) = (open(Tier::Hot), open(Tier::Default), open(Tier::Lean));
        let [hot, less, least] = [&ssd, &default, &lean].map(|ssd| ssd.cells.memory_bytes());
        assert!((less <= hot || spec.dim < 64) && least < hot, "{hot}, {less} and {least} bytes");
        let rows = (0..vectors.len() as u64).map(|row| RowId(row * 3 + 1)).collect();
        Self { spec, ssd, default, lean, section, rows, order }
    }

    /// The same in every tier, with the vectors on disk.
    fn with_vectors_on_disk(&self, vectors: &[Vec<f32>]) -> [(Tier, Ssd); 3] {
        let mut section = Vec::new();
        let vectors: Vec<Vec<f32>> = self.order.iter().map(|at| vectors[*at as usize].clone()).collect();
        flat_of(&self.spec, &vectors).write(&mut section).unwrap();
        let (section, cells): (Arc<dyn ChunkSource>, Arc<dyn ChunkSource>) =
            (Arc::new(Bytes(section)), Arc::new(Bytes(self.section.clone())));
        TIERS.map(|tier| {
            let flat = Flat::open("flat", &self.spec, Arc::clone(&section), Residency::Disk).unwrap();
            (tier, Ssd::open("cells", &self.spec, flat, &cells, tier).unwrap().with_singles())
        })
    }

    fn search(
        &self,
        query: &[f32],
        allow: &Allow<'_>,
        k: usize,
        params: SearchParams,
    ) -> (Vec<Scored>, Counters) {
        self.search_in(&self.ssd, query, allow, k, params)
    }

    fn search_in(
        &self,
        ssd: &Ssd,
        query: &[f32],
        allow: &Allow<'_>,
        k: usize,
        params: SearchParams,
    ) -> (Vec<Scored>, Counters) {
        let (mut top, mut counters, mut scratch) = (TopK::new(k), Counters::default(), Scratch::new());
        let ask = Ask { params, ..Ask::new(&self.rows, allow) };
        ssd.search(query, &ask, &mut top, &mut scratch, &mut counters).unwrap();
        (top.into_sorted(), counters)
    }

    /// Mean share of the true `k` nearest that is found, however much is in memory.
    fn recall(&self, queries: &[Vec<f32>], allow: &Allow<'_>, k: usize, recall: f32) -> f64 {
        let tiers = [&self.ssd, &self.default, &self.lean];
        tiers.map(|ssd| self.recall_in(ssd, queries, allow, k, recall)).into_iter().fold(1.0, f64::min)
    }

    /// Mean share of the true `k` nearest that is found, ties counting as found. Every result is checked: its
    /// length, its order, its scores, no row twice, all allowed.
    fn recall_in(&self, ssd: &Ssd, queries: &[Vec<f32>], allow: &Allow<'_>, k: usize, recall: f32) -> f64 {
        let (mut hits, mut wanted) = (0, 0);
        for query in queries {
            let exact = SearchParams { exact: true, ..SearchParams::default() };
            let (truth, _) = self.search(query, allow, k, exact);
            let (found, _) =
                self.search_in(ssd, query, allow, k, SearchParams { recall, exact: false, rescore: true });
            assert_eq!(found.len(), truth.len(), "as many as there are");
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "order, or a row twice: {found:?}");
            let docs: Vec<DocId> = found.iter().map(|scored| (scored.row.0 / 3) as DocId).collect();
            assert!(docs.iter().all(|doc| allow.contains(*doc)));
            let mut scores = vec![0.0; docs.len()];
            let counters = &mut Counters::default();
            self.ssd.score(query, &docs, &mut scores, &mut Scratch::new(), counters).unwrap();
            assert!(
                found.iter().zip(&scores).all(|(found, score)| found.score == *score),
                "scores are exact"
            );
            let Some(worst) = truth.last() else { continue };
            hits += found.iter().filter(|found| found.score >= worst.score).count();
            wanted += truth.len();
        }
        hits as f64 / wanted.max(1) as f64
    }
}

#[test]
fn the_recall_asked_for_is_found_under_every_metric_and_element() {
    let mut random = Random(1);
    let mixture = Mixture::new(&mut random, 48, 60);
    let vectors: Vec<Vec<f32>> = (0..6_000).map(|_| mixture.vector(&mut random, 0.6)).collect();
    let queries: Vec<Vec<f32>> = (0..60).map(|_| mixture.vector(&mut random, 0.6)).collect();
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
        let case = Case::new(metric, element, &vectors);
        let all = Allow::all(6_000);
        for (k, asked, floor) in [(10, 0.95, 0.93), (10, 0.99, 0.975), (1, 0.95, 0.9), (100, 0.9, 0.88)] {
            let found = case.recall(&queries, &all, k, asked);
            assert!(found >= floor, "{metric:?} of {element:?}, k {k}: {found} found of {asked}");
        }
        let (_, counters) =
            case.search(&queries[0], &all, 10, SearchParams { recall: 0.9, exact: false, rescore: true });
        assert!(counters.scored < 5_000, "{metric:?}: it is a search, not a scan: {counters:?}");
    }
}

#[test]
fn queries_from_elsewhere_are_answered() {
    let mut random = Random(2);
    let mixture = Mixture::new(&mut random, 32, 40);
    let vectors: Vec<Vec<f32>> = (0..5_000).map(|_| mixture.vector(&mut random, 0.5)).collect();
    let queries: Vec<Vec<f32>> =
        (0..60).map(|_| (0..32).map(|_| 2.0 * normal(&mut random)).collect()).collect();
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        let found = Case::new(metric, Element::F32, &vectors).recall(&queries, &Allow::all(5_000), 10, 0.95);
        assert!(found >= 0.9, "{metric:?}: {found}");
    }
}

#[test]
fn duplicates_and_few_dimensions_lose_nothing() {
    let mut random = Random(3);
    let mut vectors = vec![vec![0.5, -0.25, 1.0, 2.0]; 10_000];
    vectors.extend((0..500).map(|_| (0..4).map(|_| float(&mut random)).collect::<Vec<f32>>()));
    let case = Case::new(Metric::L2, Element::F32, &vectors);
    let copy = [vec![0.5, -0.25, 1.0, 2.0]];
    assert_eq!(case.recall(&copy, &Allow::all(10_500), 10, 0.95), 1.0);
    // Those that are not among the copies, which are most of the vectors.
    let queries: Vec<Vec<f32>> = (0..60).map(|_| (0..4).map(|_| float(&mut random)).collect()).collect();
    let found = case.recall(&queries, &Allow::all(10_500), 10, 0.95);
    assert!(found >= 0.94, "{found} of what is near");

    let vectors: Vec<Vec<f32>> = (0..5_000).map(|_| vec![float(&mut random), float(&mut random)]).collect();
    let queries: Vec<Vec<f32>> = (0..50).map(|_| vec![float(&mut random), float(&mut random)]).collect();
    for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
        let case = Case::new(metric, Element::F32, &vectors);
        let found = case.recall(&queries, &Allow::all(5_000), 10, 0.95);
        assert!(found >= 0.9, "2 dimensions, {metric:?}: {found}");
    }
    let all_alike = Case::new(Metric::Cosine, Element::F32, &vec![vec![1.0, 2.0, 3.0]; 5_000]);
    assert_eq!(all_alike.recall(&[vec![3.0, 2.0, 1.0]], &Allow::all(5_000), 10, 0.95), 1.0);
}

#[test]
fn huge_tiny_and_uneven_norms_are_no_obstacle() {
    let mut random = Random(4);
    let mixture = Mixture::new(&mut random, 24, 30);
    let vectors: Vec<Vec<f32>> = (0..5_000).map(|_| mixture.vector(&mut random, 0.5)).collect();
    let queries: Vec<Vec<f32>> = (0..40).map(|_| mixture.vector(&mut random, 0.5)).collect();
    let scaled = |vectors: &[Vec<f32>], by: &mut dyn FnMut() -> f32| -> Vec<Vec<f32>> {
        vectors
            .iter()
            .map(|v| {
                let by = by();
                v.iter().map(|x| x * by).collect()
            })
            .collect()
    };
    for (metric, scale) in [
        (Metric::L2, 1e17),
        (Metric::Ip, 1e17),
        (Metric::Cosine, 1e30),
        (Metric::L2, 1e-15),
        (Metric::Ip, 1e-15),
    ] {
        let case = Case::new(metric, Element::F32, &scaled(&vectors, &mut || scale));
        let found = case.recall(&scaled(&queries, &mut || scale), &Allow::all(5_000), 10, 0.95);
        assert!(found >= 0.92, "{metric:?} times {scale}: {found}");
    }
    // A few vectors are a thousand times as long as the rest: under inner product they win.
    let mut uneven = Random(5);
    let mut long = || if uneven.below(200) == 0 { 1e3 } else { 0.5 + float(&mut uneven).abs() };
    let vectors = scaled(&vectors, &mut long);
    for metric in [Metric::L2, Metric::Ip] {
        let found = Case::new(metric, Element::F32, &vectors).recall(&queries, &Allow::all(5_000), 10, 0.95);
        assert!(found >= 0.9, "{metric:?} with uneven norms: {found}");
    }
    // So far off that codes cannot tell anything: everything is scored.
    let case = Case::new(Metric::L2, Element::F32, &vectors);
    assert_eq!(case.recall(&[vec![1e12; 24], vec![-3e18; 24]], &Allow::all(5_000), 10, 0.95), 1.0);
}

#[test]
fn filters_and_deletions_never_leave_an_answer_short() {
    let mut random = Random(6);
    let mixture = Mixture::new(&mut random, 32, 40);
    let vectors: Vec<Vec<f32>> = (0..12_000).map(|_| mixture.vector(&mut random, 0.6)).collect();
    let queries: Vec<Vec<f32>> = (0..200).map(|_| mixture.vector(&mut random, 0.6)).collect();
    let case = Case::new(Metric::L2, Element::F32, &vectors);
    for share in [2, 3, 5, 20, 500] {
        let filter: RoaringBitmap = (0..12_000).filter(|_| random.below(share) == 0).collect();
        let deleted: RoaringBitmap = (0..12_000).filter(|_| random.below(4) == 0).collect();
        for (filter, deleted) in
            [(Some(&filter), None), (None, Some(&deleted)), (Some(&filter), Some(&deleted))]
        {
            let allow = Allow { range: 0..12_000, filter, deleted, stop: None };
            let found = case.recall(&queries, &allow, 10, 0.95);
            assert!(found >= 0.94, "one in {share}, deletions {}: {found}", deleted.is_some());
        }
    }
    let half = Allow { range: 3_000..9_000, ..Allow::all(12_000) };
    assert!(case.recall(&queries, &half, 10, 0.95) >= 0.94);
}

#[test]
fn all_levels_of_kernels_find_the_same() {
    let mut random = Random(7);
    let mixture = Mixture::new(&mut random, 40, 30);
    let vectors: Vec<Vec<f32>> = (0..5_000).map(|_| mixture.vector(&mut random, 0.6)).collect();
    let queries: Vec<Vec<f32>> = (0..20).map(|_| mixture.vector(&mut random, 0.6)).collect();
    let case = Case::new(Metric::Ip, Element::F32, &vectors);
    let effort = Effort::new(0.05, 0.1);
    let found = |kernels: &'static Kernels, query: &[f32]| {
        let (mut scratch, mut found, mut counters) =
            (CellsScratch::default(), Vec::new(), Counters::default());
        let (partition, wanted, depth, more) = (Some(0), 13, 15, 0);
        let asked = search::Query { query, partition, wanted, depth, more, effort, allow: None };
        case.ssd.cells.search(kernels, asked, None, &mut scratch, &mut found, &mut counters).unwrap();
        (found.iter().map(|(distance, id)| (distance.to_bits(), *id)).collect::<Vec<_>>(), counters)
    };
    for query in &queries {
        let expected = found(Kernels::available()[0], query);
        for kernels in Kernels::available() {
            assert_eq!(found(kernels, query), expected, "{}", kernels.level());
        }
    }
}

#[test]
fn queries_together_find_as_much_as_alone() {
    let mut random = Random(14);
    let mixture = Mixture::new(&mut random, 40, 30);
    let vectors: Vec<Vec<f32>> = (0..6_000).map(|_| mixture.vector(&mut random, 0.6)).collect();
    let mut queries: Vec<Vec<f32>> = (0..50).map(|_| mixture.vector(&mut random, 0.6)).collect();
    // Too far off for codes.
    queries[21] = vec![-3e18; 40];
    let filter: RoaringBitmap = (0..6_000).filter(|_| random.below(2) == 0).collect();
    for (metric, filter) in [(Metric::Ip, None), (Metric::L2, Some(&filter))] {
        let case = Case::new(metric, Element::F32, &vectors);
        let allow = Allow { filter, ..Allow::all(6_000) };
        let ask = Ask::new(&case.rows, &allow);
        let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
        let all = queries.concat();
        for (tier, ssd) in case.with_vectors_on_disk(&vectors) {
            let mut tops: Vec<TopK> = (0..queries.len()).map(|at| TopK::new([7, 20][at % 2])).collect();
            ssd.search_batch(Matrix::new(&all, 40), &ask, &mut tops, &mut scratch, &mut counters).unwrap();
            let (mut together, mut alone) = (0, 0);
            for (query, top) in queries.iter().zip(tops) {
                let k = top.k();
                let exact = SearchParams { exact: true, ..SearchParams::default() };
                let truth = case.search(query, &allow, k, exact).0;
                let count = |found: &[Scored]| found.iter().filter(|found| truth.contains(found)).count();
                let found = top.into_sorted();
                assert_eq!(found.len(), k, "{tier:?}");
                assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "order, or a row twice: {found:?}");
                let docs: Vec<DocId> = found.iter().map(|scored| (scored.row.0 / 3) as DocId).collect();
                assert!(docs.iter().all(|doc| allow.contains(*doc)));
                let mut scores = vec![0.0; k];
                ssd.score(query, &docs, &mut scores, &mut scratch, &mut counters).unwrap();
                assert!(found.iter().zip(&scores).all(|(found, score)| found.score == *score), "exact");
                together += count(&found);
                alone += count(&case.search_in(&ssd, query, &allow, k, SearchParams::default()).0);
            }
            assert!(together * 100 >= alone * 99, "{metric:?}, {tier:?}: {together} found, {alone} alone");
        }
    }
}

#[test]
fn what_queries_teach_serves_others_of_their_kind() {
    let mut random = Random(21);
    let (mixture, other) = (Mixture::new(&mut random, 24, 40), Mixture::new(&mut random, 24, 40));
    let vectors: Vec<Vec<f32>> = (0..8_000).map(|_| mixture.vector(&mut random, 0.5)).collect();
    let mut asked =
        |count: usize| -> Vec<Vec<f32>> { (0..count).map(|_| other.vector(&mut random, 0.5)).collect() };
    let (taught, asked) = (asked(400), asked(300));
    let case = Case::new(Metric::L2, Element::F32, &vectors);
    assert_eq!(case.ssd.learn(Matrix::new(&taught[..200].concat(), 24), 2).unwrap(), None, "too few");
    let allow = Allow::all(8_000);
    for ssd in [&case.ssd, &case.default, &case.lean] {
        let learned = ssd.learn(Matrix::new(&taught.concat(), 24), 2).unwrap().unwrap();
        assert_eq!(Learned::decode(&learned.encode()), Some(learned.clone()));
        let bytes = learned.encode();
        assert!((0..bytes.len()).all(|len| Learned::decode(&bytes[..len]).is_none()));
        for recall in [0.9, 0.98] {
            let params = SearchParams { recall, exact: false, rescore: true };
            let ask = Ask { params, learned: Some(&learned), ..Ask::new(&case.rows, &allow) };
            let mut found = 0;
            for query in &asked {
                let exact = SearchParams { exact: true, ..params };
                let truth = case.search(query, &allow, 10, exact).0;
                let mut top = TopK::new(10);
                let (mut scratch, mut counters) = (Scratch::new(), Counters::default());
                ssd.search(query, &ask, &mut top, &mut scratch, &mut counters).unwrap();
                found += top.into_sorted().iter().filter(|found| truth.contains(found)).count();
            }
            let found = found as f64 / (10 * asked.len()) as f64;
            assert!((found - f64::from(recall)).abs() < 0.03, "asked for {recall}, found {found}");
        }
    }
    let flat = case.ssd.flat();
    assert_eq!(flat.learn(Matrix::new(&taught.concat(), 24), 1).unwrap(), None, "nothing to learn");
}

#[test]
fn a_search_past_its_deadline_ends_filtered_or_not() {
    let mut random = Random(10);
    let vectors: Vec<Vec<f32>> = (0..4_200).map(|_| (0..8).map(|_| float(&mut random)).collect()).collect();
    let case = Case::new(Metric::L2, Element::F32, &vectors);
    let stop = Stop::new(Some(std::time::Instant::now()), None);
    let most: RoaringBitmap = (0..4_200).filter(|doc| doc % 7 != 0).collect();
    for filter in [None, Some(&most)] {
        let allow = Allow { filter, stop: Some(&stop), ..Allow::all(4_200) };
        for ssd in [&case.ssd, &case.default, &case.lean] {
            let (mut top, mut counters) = (TopK::new(3), Counters::default());
            let ask = Ask::new(&case.rows, &allow);
            let ended = ssd.search(&vectors[0], &ask, &mut top, &mut Scratch::new(), &mut counters);
            assert!(ended.is_err() && counters.scored == 0, "{counters:?}");
        }
    }
}

#[test]
fn bad_queries_are_told_so() {
    let mut random = Random(8);
    let vectors: Vec<Vec<f32>> = (0..4_200).map(|_| (0..8).map(|_| float(&mut random)).collect()).collect();
    let case = Case::new(Metric::Cosine, Element::F32, &vectors);
    let allow = Allow::all(4_200);
    let told = |query: &[f32], rows: &[RowId]| {
        let (mut top, mut counters) = (TopK::new(3), Counters::default());
        let ask = Ask::new(rows, &allow);
        case.ssd.search(query, &ask, &mut top, &mut Scratch::new(), &mut counters).unwrap_err().to_string()
    };
    assert!(told(&[1.0; 7], &case.rows).contains("7 dimensions, the field has 8"));
    assert!(told(&[f32::NAN; 8], &case.rows).contains("not finite"));
    assert!(told(&[0.0; 8], &case.rows).contains("zeros"));
    assert!(told(&[1.0; 8], &case.rows[1..]).contains("rows"));
}

/// Enough cells for groups, of which a search opens a few.
#[test]
fn groups_that_stay_closed_hold_next_to_nothing() {
    let mut random = Random(13);
    let mixture = Mixture::new(&mut random, 24, 200);
    let vectors: Vec<Vec<f32>> = (0..40_000).map(|_| mixture.vector(&mut random, 0.4)).collect();
    let near: Vec<Vec<f32>> = (0..60).map(|_| mixture.vector(&mut random, 0.4)).collect();
    let far: Vec<Vec<f32>> = (0..30).map(|_| (0..24).map(|_| 2.0 * normal(&mut random)).collect()).collect();
    for metric in [Metric::L2, Metric::Ip] {
        let case = Case::new(metric, Element::F32, &vectors);
        let cells = &case.ssd.cells;
        assert!(cells.layout.groups > 40, "{} groups of {} cells", cells.layout.groups, cells.layout.cells);
        let all = Allow::all(40_000);
        for (k, asked, floor) in [(1, 0.9, 0.89), (10, 0.95, 0.94), (100, 0.99, 0.98)] {
            let found = case.recall(&near, &all, k, asked);
            assert!(found >= floor, "{metric:?}, k {k}: {found} found of {asked}");
        }
        // With every cell met it is 0.90.
        let found = case.recall(&far, &all, 10, 0.95);
        assert!(found >= 0.88, "{metric:?}, queries from elsewhere: {found}");
        let met = |effort: Effort| {
            let (mut scratch, mut found) = (CellsScratch::default(), Vec::new());
            let met: usize = near
                .iter()
                .map(|query| {
                    let (partition, wanted, depth, more) = (Some(0), 10, 12, 0);
                    let asked = search::Query { query, partition, wanted, depth, more, effort, allow: None };
                    let (kernels, counters) = (Kernels::best(), &mut Counters::default());
                    assert!(cells.search(kernels, asked, None, &mut scratch, &mut found, counters).unwrap());
                    scratch.met()
                })
                .sum();
            met as f64 / (near.len() as u32 * cells.layout.cells) as f64
        };
        let share = met(Effort::new(0.05, 0.2));
        assert!(share < 0.5, "{metric:?}: {share} of the cells are met");
        assert_eq!(met(Effort::ALL), 1.0, "{metric:?}: every cell is met where none may be missed");
    }
}
