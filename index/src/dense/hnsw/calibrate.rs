//! How wide a beam has to be for a recall: measured when a graph is built.
//!
//! A sample of the vectors, each not met by its own search, is searched with beams of growing width and
//! compared with the truth. Between two widths, and between two numbers of results, widths are interpolated
//! in logarithms.
//!
//! Unlike cells, a walk has no way of knowing that it missed something: a beam that is just wide enough for
//! vectors of the field finds 0.7 for far-off queries where 0.95 was asked. So every beam is five times as
//! wide, which finds 0.9 for queries of twice the extent of the vectors. Queries like the vectors find more
//! than they asked for, 0.99 for 0.95, and pay for it; a walk that ends by the distances that it meets would
//! be cheaper for those. (Strangers put together from dimensions of different vectors are no measure: where
//! vectors have many dimensions they are equally far from all, and hardly found at all.)

use parking_lot::Mutex;

use super::graph::Graph;
use super::search::WalkScratch;
use crate::dense::space::{Rows, Space};
use crate::matrix::Matrix;
use crate::parallel::for_parts;
use crate::random::Random;
use crate::simd::Kernels;

/// Vectors that serve as queries.
const QUERIES: usize = 512;
/// How much wider a beam is than vectors of the field need.
const WIDER: f32 = 5.0;
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
        let (counts, upper) = ([COUNTS[at] as f32, COUNTS[at + 1] as f32], upper.max(lower));
        let share = (k / counts[0]).ln() / (counts[1] / counts[0]).ln();
        let beam = match k <= counts[1] {
            true => lower * (upper / lower).powf(share.max(0.0)),
            // Beyond what was measured, in proportion.
            false => upper * k / counts[1],
        };
        let beam = (WIDER * beam).max(k);
        Some((beam.ceil() as usize, self.cost(beam)))
    }

    /// Vectors that a walk with this beam scores, about.
    fn cost(&self, beam: f32) -> f32 {
        let wide = self.rungs.iter().find(|rung| rung.beam as f32 >= beam).or(self.rungs.last());
        wide.map_or(f32::INFINITY, |rung| rung.cost * (beam / rung.beam as f32).max(1.0))
    }

    /// The narrowest beam that finds `recall` of the count `at`.
    fn least(&self, at: usize, recall: f32) -> Option<f32> {
        if recall > ENOUGH_RECALL {
            // The widest, which is the first that finds enough.
            let widest = self.rungs.last().filter(|rung| rung.recalls[at] >= ENOUGH_RECALL)?;
            return Some(widest.beam as f32);
        }
        let reached = self.rungs.iter().position(|rung| rung.recalls[at] >= recall)?;
        let rung = &self.rungs[reached];
        let Some(before) = reached.checked_sub(1).map(|at| &self.rungs[at]) else {
            return Some(rung.beam as f32);
        };
        let missed = |recall: f32| (1.0 - recall).max(1e-4).ln();
        let (from, to) = (missed(before.recalls[at]), missed(rung.recalls[at]));
        let share = if from > to { (from - missed(recall)) / (from - to) } else { 1.0 };
        let (narrow, wide) = (before.beam as f32, rung.beam as f32);
        Some(narrow * (wide / narrow).powf(share.clamp(0.0, 1.0)))
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

/// A vector as a query, which it must not meet.
struct Query {
    own: u32,
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

/// The sample.
fn draw(graph: &Graph, linked: &[u32], rows: Rows<'_>, placed: Placed<'_>) -> Vec<Query> {
    let entry = graph.layers[graph.layers.len() - 1].vector(graph.entry);
    let mut row = vec![0.0; placed.space.field_dim()];
    let sample = Random(super::build::SEED + 1).sample(linked.len(), QUERIES);
    let mut query = |own: u32| {
        rows(own as usize, &mut row);
        let mut query = vec![0.0; placed.space.dims()];
        placed.space.place_query(&row, &mut query);
        Query { own, placed: query, truth: Vec::new() }
    };
    sample.into_iter().map(|at| linked[at]).filter(|own| *own != entry).map(&mut query).collect()
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
                .filter(|(vector, distance)| **distance <= limit && **vector != query.own);
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
    let total = Mutex::new(([0.0_f64; 3], 0_usize));
    let count = queries.len().max(1) as f64;
    for_parts(placed.threads, queries, PART_QUERIES, |_, queries| {
        let mut scratch = WalkScratch::default();
        for query in queries {
            let mut scored = 0;
            let mut scores = placed.scores(&query.placed);
            let mut score = |vectors: &[u32], out: &mut Vec<f32>| {
                scored += vectors.len();
                scores(vectors, out);
            };
            let searched =
                graph.search((beam as usize, Some(query.own)), &mut score, &|| Ok(()), &mut scratch);
            debug_assert!(searched.is_ok(), "nothing stops it");
            let mut total = total.lock();
            total.1 += scored;
            for (recall, k) in total.0.iter_mut().zip(COUNTS) {
                let k = k.min(query.truth.len());
                let Some(worst) = k.checked_sub(1).map(|at| query.truth[at] * (1.0 + TIE)) else { continue };
                let found = scratch.beam.iter().take_while(|met| -met.score <= worst).count().min(k);
                *recall += found as f64 / k as f64;
            }
        }
    });
    let (recalls, scored) = total.into_inner();
    let recalls = recalls.map(|recall| (recall / count).min(1.0) as f32);
    Rung { beam, cost: (scored as f64 / count).max(1.0) as f32, recalls }
}
