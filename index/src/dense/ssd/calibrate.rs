//! How hard to search for a recall: measured when cells are built, on vectors of the field as queries.
//!
//! For k = 1, 10 and 100 and a ladder of thresholds, the searches of a sample of the vectors are compared
//! with the truth, each vector left out of its own results. What a caller asks for lies between two rungs and
//! is interpolated; see [`search`](super::search) for what a threshold is.

use crate::counters::Counters;
use crate::matrix::Matrix;
use crate::parallel::for_parts;
use crate::random::Random;
use crate::simd::Kernels;
use parking_lot::Mutex;

use super::cells::{Cells, Parts};
use super::cluster::Work;
use super::layout::Layout;
use super::search::{CellsScratch, Effort, SLACK};
use super::space::Rows;

/// Vectors that serve as queries.
const QUERIES: usize = 512;
/// Result counts that are measured.
const COUNTS: [usize; 3] = [1, 10, 100];
/// Thresholds that are measured.
const THRESHOLDS: [f32; 10] = [0.7, 1.2, 1.6, 2.0, 2.3, 2.6, 2.9, 3.2, 3.6, 4.2];
/// Weight of the rank in a cell's score.
const WEIGHT: f32 = 0.25;
/// Rows compared with all queries at once.
const PART_ROWS: usize = 256;

/// What was measured at one setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) k: u32,
    pub(super) recall: f32,
    pub(super) weight: f32,
    pub(super) threshold: f32,
    /// Vectors scanned a query.
    pub(super) scanned: f32,
}

/// All that was measured, by k and then by threshold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Calibration {
    pub(super) points: Vec<Point>,
}

impl Calibration {
    /// Whether it can be from a measurement.
    pub(super) fn is_sound(&self) -> bool {
        self.points.iter().all(|point| {
            point.k > 0
                && (0.0..=1.0).contains(&point.recall)
                && [point.weight, point.threshold, point.scanned].iter().all(|value| value.is_finite())
        })
    }

    /// The effort that finds `recall` of the `k` nearest.
    pub(super) fn effort(&self, k: usize, recall: f32) -> Effort {
        let at = |count: u32| threshold(self.points.iter().filter(|point| point.k == count), recall);
        let counts: Vec<u32> = COUNTS.iter().map(|count| *count as u32).collect();
        let above = counts.iter().copied().find(|count| *count as usize >= k).unwrap_or(counts[2]);
        let below = counts.iter().copied().rev().find(|count| *count as usize <= k).unwrap_or(counts[0]);
        let threshold = match (at(below), at(above)) {
            (low, high) if above == below => low.max(high),
            (low, high) => {
                let share = (k as f32 / below as f32).ln() / (above as f32 / below as f32).ln();
                low + (high - low) * share
            }
        };
        Effort { weight: WEIGHT, threshold, slack: SLACK }
    }
}

/// The threshold at which the ladder reaches `recall`, between two rungs by the logarithm of what is missed.
fn threshold<'a>(ladder: impl Iterator<Item = &'a Point>, recall: f32) -> f32 {
    let missed = |recall: f32| (1.0 - recall).max(1e-4).ln();
    let mut below: Option<&Point> = None;
    for point in ladder {
        if point.recall >= recall {
            return match below {
                Some(below) if missed(below.recall) > missed(point.recall) => {
                    let share = (missed(below.recall) - missed(recall))
                        / (missed(below.recall) - missed(point.recall));
                    below.threshold + (point.threshold - below.threshold) * share
                }
                _ => point.threshold,
            };
        }
        below = Some(point);
    }
    // Not reached on the ladder, or nothing was measured: every cell.
    f32::INFINITY
}

/// Measures `parts`.
pub(super) fn fit(layout: Layout, parts: Parts, rows: Rows<'_>, work: Work) -> (Calibration, Parts) {
    let count = layout.vectors as usize;
    let dim = layout.field_dim as usize;
    let sample = Random(work.seed + 2).sample(count, QUERIES.min(count / 4));
    let mut queries = vec![0.0; sample.len() * dim];
    sample.iter().zip(queries.chunks_exact_mut(dim)).for_each(|(at, query)| rows(*at, query));
    // Whoever searches owns its parts; they come back below.
    let kept = Parts {
        mean: parts.mean.clone(),
        axes: parts.axes.clone(),
        words: parts.words.clone(),
        centroids: parts.centroids.clone(),
        radii: parts.radii.clone(),
        starts: parts.starts.clone(),
        refine: Vec::new().into(),
        postings: Vec::new().into(),
    };
    let cells = Cells::new(layout, parts);
    let truth = if sample.is_empty() { Vec::new() } else { truth(&cells, &queries, &sample, rows, work) };
    let settings: Vec<(usize, f32)> = COUNTS
        .iter()
        .filter(|k| **k < count / 2 && !sample.is_empty())
        .flat_map(|k| THRESHOLDS.map(|threshold| (*k, threshold)))
        .collect();
    let mut points: Vec<Option<Point>> = vec![None; settings.len()];
    for_parts(work.threads, &mut points, 1, |at, point| {
        let (k, threshold) = settings[at];
        let effort = Effort { weight: WEIGHT, threshold, slack: SLACK };
        point[0] = Some(measure(&cells, &queries, &sample, &truth, k, effort, work.kernels));
    });
    let Cells { refine, postings, .. } = cells;
    let points = points.into_iter().flatten().collect();
    (Calibration { points }, Parts { refine: refine.bytes, postings, ..kept })
}

/// Recall and cost of one setting.
fn measure(
    cells: &Cells,
    queries: &[f32],
    own: &[usize],
    truth: &[Vec<u32>],
    k: usize,
    effort: Effort,
    kernels: &Kernels,
) -> Point {
    let (mut scratch, mut found, mut counters) = (CellsScratch::default(), Vec::new(), Counters::default());
    let dim = cells.space.field_dim();
    let mut hits = 0;
    for ((query, own), truth) in queries.chunks_exact(dim).zip(own).zip(truth) {
        let depth = super::depth(k) + 1;
        let searched =
            cells.search(kernels, query, depth, effort, None, &mut scratch, &mut found, &mut counters);
        if searched.is_ok() {
            let others = found.iter().map(|(_, id)| *id).filter(|id| *id as usize != *own);
            // The best k of what is rescored exactly are those of the truth that are in it.
            hits += others.filter(|id| truth[..k].contains(id)).count();
        }
    }
    Point {
        k: k as u32,
        recall: hits as f32 / (k * own.len().max(1)) as f32,
        weight: effort.weight,
        threshold: effort.threshold,
        scanned: counters.scored as f32 / own.len().max(1) as f32,
    }
}

/// The nearest vectors of each query but itself, in the space of the cells.
fn truth(cells: &Cells, queries: &[f32], own: &[usize], rows: Rows<'_>, work: Work) -> Vec<Vec<u32>> {
    let (space, count) = (&cells.space, cells.layout.vectors as usize);
    let (dims, field_dim, most) = (space.dims(), space.field_dim(), COUNTS[COUNTS.len() - 1] + 1);
    let mut placed = vec![0.0; own.len() * dims];
    for (query, placed) in queries.chunks_exact(field_dim).zip(placed.chunks_exact_mut(dims)) {
        space.place_query(query, placed);
    }
    let best: Vec<Mutex<Vec<(f32, u32)>>> = own.iter().map(|_| Mutex::new(Vec::new())).collect();
    let mut parts = vec![(); count.div_ceil(PART_ROWS)];
    for_parts(work.threads, &mut parts, 1, |part, _| {
        let first = part * PART_ROWS;
        let here = PART_ROWS.min(count - first);
        let (mut row, mut values) = (vec![0.0; field_dim], vec![0.0; here * dims]);
        for (at, value) in values.chunks_exact_mut(dims).enumerate() {
            rows(first + at, &mut row);
            space.place(&row, value);
        }
        let mut distances = vec![0.0; own.len() * here];
        work.kernels.l2_tile(Matrix::new(&placed, dims), Matrix::new(&values, dims), &mut distances);
        for (distances, best) in distances.chunks_exact(here).zip(&best) {
            let mut best = best.lock();
            let limit = if best.len() < most { f32::INFINITY } else { best[most - 1].0 };
            best.extend(
                distances.iter().copied().zip(first as u32..).filter(|(distance, _)| *distance < limit),
            );
            if best.len() > 2 * most || first + here == count {
                best.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                best.truncate(most);
            }
        }
    });
    let lists = best.into_iter().zip(own).map(|(best, own)| {
        let mut best = best.into_inner();
        best.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        best.truncate(most);
        best.iter().map(|(_, id)| *id).filter(|id| *id as usize != *own).take(most - 1).collect()
    });
    lists.collect()
}
