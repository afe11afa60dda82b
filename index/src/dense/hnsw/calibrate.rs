//! How wide a beam has to be for a recall: measured when a graph is built.
//!
//! Two samples are searched with beams of growing width and compared with the truth: vectors of the field,
//! each not met by its own search, and strangers, every dimension of which is a sum of two vectors' less a
//! third one's: 1.7 times the extent, and where no vectors are. Between two widths, and between two numbers
//! of results, widths are interpolated in logarithms.
//!
//! Unlike cells, a walk has no way of knowing that it missed something: a beam that is just wide enough for
//! vectors of the field finds 0.7 for far-off queries where 0.95 was asked. So what is written down is what
//! the sample finds that finds less, nearly always the strangers, and queries like the vectors find more than
//! they asked for. A beam that widens with the distances that it meets would be cheaper for those.

use parking_lot::Mutex;

use super::graph::Graph;
use super::search::WalkScratch;
use crate::dense::space::{Rows, Space};
use crate::matrix::Matrix;
use crate::parallel::for_parts;
use crate::random::Random;
use crate::simd::Kernels;

/// Queries of each sample.
const QUERIES: usize = 256;
/// Result counts that are measured.
pub(super) const COUNTS: [usize; 3] = [1, 10, 100];
/// Widths that are measured.
const BEAMS: [u32; 14] = [10, 14, 20, 28, 40, 56, 80, 113, 160, 226, 320, 640, 1280, 2560];
/// Most rungs that a section holds.
pub(super) const RUNGS_MAX: usize = 32;
/// More than this is not told apart by the queries there are; no rung follows one that finds as much.
const ENOUGH_RECALL: f32 = 0.9985;
/// Queries that one thread takes at once, and rows that are compared with them at once.
const PART_QUERIES: usize = 64;
const PART_ROWS: usize = 256;
/// Distances that differ by less are the same: rounding of f32.
const TIE: f32 = 1e-5;

/// What a width found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rung {
    pub(super) beam: u32,
    /// Vectors scored a query.
    pub(super) cost: f32,
    /// For each of [`COUNTS`].
    pub(super) recalls: [f32; 3],
}

/// All that was measured, from the narrowest.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Calibration {
    pub(super) rungs: Vec<Rung>,
}

impl Calibration {
    /// Whether it can be from a measurement.
    pub(super) fn is_sound(&self) -> bool {
        self.rungs.len() <= RUNGS_MAX
            && self.rungs.is_sorted_by(|a, b| a.beam < b.beam)
            && self.rungs.iter().all(|rung| {
                rung.beam > 0
                    && rung.cost.is_finite()
                    && rung.cost > 0.0
                    && rung.recalls.iter().all(|recall| (0.0..=1.0).contains(recall))
            })
    }

    /// The beam that finds `recall` of the `k` nearest, and what it scores; none where that is not known.
    pub(super) fn beam(&self, k: f32, recall: f32) -> Option<(usize, f32)> {
        if recall >= 1.0 {
            return None;
        }
        let at = if k <= COUNTS[1] as f32 { 0 } else { 1 };
        let (lower, upper) = (self.least(at, recall)?, self.least(at + 1, recall)?);
        let counts = [COUNTS[at] as f32, COUNTS[at + 1] as f32];
        let between = |lower: f32, upper: f32| {
            let share = (k / counts[0]).ln() / (counts[1] / counts[0]).ln();
            match k <= counts[1] {
                true => lower * (upper.max(lower) / lower).powf(share.max(0.0)),
                // Beyond what was measured, in proportion.
                false => upper.max(lower) * k / counts[1],
            }
        };
        let (beam, cost) = (between(lower.0, upper.0), between(lower.1, upper.1));
        Some((beam.max(k).ceil() as usize, cost))
    }

    /// The narrowest beam that finds `recall` of the count `at`, and its cost.
    fn least(&self, at: usize, recall: f32) -> Option<(f32, f32)> {
        let of = |rung: &Rung| (rung.beam as f32, rung.cost);
        if recall > ENOUGH_RECALL {
            // The widest, which is the first that finds enough.
            return self.rungs.last().filter(|rung| rung.recalls[at] >= ENOUGH_RECALL).map(of);
        }
        let reached = self.rungs.iter().position(|rung| rung.recalls[at] >= recall)?;
        let rung = &self.rungs[reached];
        let Some(before) = reached.checked_sub(1).map(|at| &self.rungs[at]) else { return Some(of(rung)) };
        let missed = |recall: f32| (1.0 - recall).max(1e-4).ln();
        let (from, to) = (missed(before.recalls[at]), missed(rung.recalls[at]));
        let share = if from > to { (from - missed(recall)) / (from - to) } else { 1.0 };
        let between = |from: f32, to: f32| from * (to / from).powf(share.clamp(0.0, 1.0));
        Some((between(before.beam as f32, rung.beam as f32), between(before.cost, rung.cost)))
    }
}

/// The vectors of a field, placed.
#[derive(Clone, Copy)]
pub(super) struct Placed<'a> {
    pub(super) space: &'a Space,
    pub(super) values: &'a [f32],
    pub(super) kernels: &'static Kernels,
    pub(super) threads: usize,
}

impl<'a> Placed<'a> {
    pub(super) fn row(&self, vector: u32) -> &'a [f32] {
        let dims = self.space.dims();
        &self.values[vector as usize * dims..(vector as usize + 1) * dims]
    }

    /// The squared distance: finite, and never below zero, whatever the rows.
    pub(super) fn distance(&self, a: &[f32], b: &[f32]) -> f32 {
        let squared = self.kernels.l2(a, b);
        // What is no number is the farthest, too.
        if squared <= f32::MAX { squared.max(0.0) } else { f32::MAX }
    }

    /// Scores of vectors for a placed query.
    pub(super) fn scores(&self, query: &'a [f32]) -> impl FnMut(&[u32], &mut Vec<f32>) {
        let placed = *self;
        move |vectors, scores| {
            scores.clear();
            scores.extend(vectors.iter().map(|vector| -placed.distance(query, placed.row(*vector))));
        }
    }
}

/// A query, and the vector that it must not meet.
struct Query {
    own: Option<u32>,
    placed: Vec<f32>,
    /// Distances of the nearest, ascending.
    truth: Vec<f32>,
}

/// Measures a graph whose vectors, but for copies, are `linked`, ascending.
pub(super) fn measure(graph: &Graph, linked: &[u32], rows: Rows<'_>, placed: Placed<'_>) -> Calibration {
    let mut queries = draw(graph, linked, rows, placed);
    for_parts(placed.threads, &mut queries, PART_QUERIES, |_, queries| find_truth(queries, linked, placed));
    let mut calibration = Calibration::default();
    for beam in BEAMS.into_iter().filter(|beam| (*beam as usize) < linked.len()) {
        let rung = rung(graph, &mut queries, beam, placed);
        calibration.rungs.push(rung);
        if rung.recalls.iter().all(|recall| *recall >= ENOUGH_RECALL) {
            break;
        }
    }
    calibration
}

/// Both samples.
fn draw(graph: &Graph, linked: &[u32], rows: Rows<'_>, placed: Placed<'_>) -> Vec<Query> {
    let entry = graph.layers[graph.layers.len() - 1].vector(graph.entry);
    let mut random = Random(super::build::SEED + 1);
    let dim = placed.space.field_dim();
    let (mut row, mut other) = (vec![0.0; dim], vec![0.0; dim]);
    let mut queries = Vec::new();
    for own in random.sample(linked.len(), QUERIES).into_iter().map(|at| linked[at]) {
        rows(own as usize, &mut row);
        let mut query = |row: &[f32], own: Option<u32>| {
            let mut query = vec![0.0; placed.space.dims()];
            placed.space.place_query(row, &mut query);
            queries.push(Query { own, placed: query, truth: Vec::new() });
        };
        if own != entry {
            query(&row, Some(own));
        }
        for (at, value) in row.iter_mut().enumerate() {
            let mut of_any = || {
                rows(linked[random.below(linked.len())] as usize, &mut other);
                other[at]
            };
            *value = (of_any() + (of_any() - of_any())).clamp(f32::MIN, f32::MAX);
        }
        query(&row, None);
    }
    queries
}

/// Compares queries with every linked vector.
fn find_truth(queries: &mut [Query], linked: &[u32], placed: Placed<'_>) {
    let (dims, most) = (placed.space.dims(), COUNTS[COUNTS.len() - 1]);
    let flat: Vec<f32> = queries.iter().flat_map(|query| query.placed.iter().copied()).collect();
    let cut = |truth: &mut Vec<f32>| {
        truth.sort_unstable_by(f32::total_cmp);
        truth.truncate(most);
    };
    let (mut block, mut distances) = (Vec::new(), Vec::new());
    for vectors in linked.chunks(PART_ROWS) {
        block.clear();
        vectors.iter().for_each(|vector| block.extend_from_slice(placed.row(*vector)));
        distances.resize(queries.len() * vectors.len(), 0.0);
        placed.kernels.l2_tile(Matrix::new(&flat, dims), Matrix::new(&block, dims), &mut distances);
        for (query, distances) in queries.iter_mut().zip(distances.chunks_exact(vectors.len())) {
            let limit = if query.truth.len() < most { f32::INFINITY } else { query.truth[most - 1] };
            let near = vectors
                .iter()
                .zip(distances)
                .filter(|(vector, distance)| **distance <= limit && Some(**vector) != query.own);
            query.truth.extend(near.map(|(_, distance)| *distance));
            if query.truth.len() > 2 * most || limit == f32::INFINITY {
                cut(&mut query.truth);
            }
        }
    }
    queries.iter_mut().for_each(|query| cut(&mut query.truth));
}

/// What a beam finds.
fn rung(graph: &Graph, queries: &mut [Query], beam: u32, placed: Placed<'_>) -> Rung {
    // Of strangers and of vectors of the field: recalls, and how many there are.
    let total = Mutex::new(([([0.0_f64; 3], 0_usize); 2], 0_usize));
    for_parts(placed.threads, queries, PART_QUERIES, |_, queries| {
        let mut scratch = WalkScratch::default();
        for query in queries {
            let mut scored = 0;
            let mut scores = placed.scores(&query.placed);
            let mut score = |vectors: &[u32], out: &mut Vec<f32>| {
                scored += vectors.len();
                scores(vectors, out);
            };
            let searched = graph.search((beam as usize, query.own), &mut score, &|| Ok(()), &mut scratch);
            debug_assert!(searched.is_ok(), "nothing stops it");
            let mut total = total.lock();
            total.1 += scored;
            let (recalls, count) = &mut total.0[usize::from(query.own.is_some())];
            *count += 1;
            for (recall, k) in recalls.iter_mut().zip(COUNTS) {
                let k = k.min(query.truth.len());
                let Some(worst) = k.checked_sub(1).map(|at| query.truth[at] * (1.0 + TIE)) else { continue };
                let found = scratch.beam.iter().take_while(|met| -met.score <= worst).count().min(k);
                *recall += found as f64 / k as f64;
            }
        }
    });
    let (samples, scored) = total.into_inner();
    let count: usize = samples.iter().map(|(_, count)| count).sum();
    let found = |at: usize| samples.iter().map(move |(recalls, count)| recalls[at] / (*count).max(1) as f64);
    let recalls = [0, 1, 2].map(|at| found(at).fold(1.0, f64::min) as f32);
    Rung { beam, cost: (scored as f64 / count.max(1) as f64).max(1.0) as f32, recalls }
}
