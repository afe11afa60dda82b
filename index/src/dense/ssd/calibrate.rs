//! How hard to search for a recall: measured when cells are built, on vectors of the field as queries.
//!
//! First the table of [`odds`](super::odds) is counted, and the slack of bounds is chosen with which next to
//! nothing is lost to them. Then, for k = 1, 10 and 100 and a ladder of budgets (the share of the
//! nearest that
//! may be expected in the cells left out), the searches of a sample of vectors are compared with the truth,
//! each vector left out of its own results. What a caller asks for lies between two rungs and is
//! interpolated.
//!
//! The sample is drawn cell by cell, so that many copies of one vector do not stand for the rest.

use parking_lot::Mutex;

use super::cells::{Cells, Parts};
use super::cluster::Work;
use super::layout::Layout;
use super::odds::{Count, Odds};
use super::search::{CellsScratch, Effort};
use super::space::Rows;
use crate::counters::Counters;
use crate::matrix::Matrix;
use crate::parallel::for_parts;
use crate::random::Random;
use crate::simd;

/// Vectors that serve as queries, and those of them that the slack is chosen on.
const QUERIES: usize = 512;
const SLACK_QUERIES: usize = 64;
/// Result counts that are measured.
const COUNTS: [usize; 3] = [1, 10, 100];
/// Budgets that are measured.
const MISSING: [f32; 11] = [0.6, 0.4, 0.25, 0.16, 0.1, 0.06, 0.035, 0.02, 0.01, 0.005, 0.002];
/// Slacks of bounds, the last of which is a bound for certain; and the recall that one has to leave.
const SLACKS: [f32; 4] = [0.1, 0.2, 0.4, 1.0];
const SLACK_RECALL: f32 = 0.998;
/// Rows compared with all queries at once.
const PART_ROWS: usize = 256;
/// Distances that differ by less are the same: rounding of f32.
const TIE: f32 = 1e-5;

/// What was measured at one setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) k: u32,
    pub(super) recall: f32,
    /// The budget, as a share of k.
    pub(super) missing: f32,
    /// Vectors scanned a query.
    pub(super) scanned: f32,
}

/// All that was measured; points by k and then by falling budget.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Calibration {
    pub(super) odds: Odds,
    pub(super) slack: f32,
    pub(super) points: Vec<Point>,
}

impl Default for Calibration {
    /// Of nothing: searches visit every cell.
    fn default() -> Self {
        Self { odds: Count::new().odds(), slack: SLACKS[SLACKS.len() - 1], points: Vec::new() }
    }
}

impl Calibration {
    /// Whether it can be from a measurement.
    pub(super) fn is_sound(&self) -> bool {
        self.odds.is_sound()
            && (0.0..=1.0).contains(&self.slack)
            && self.points.iter().all(|point| {
                point.k > 0
                    && (0.0..=1.0).contains(&point.recall)
                    && (0.0..=1.0).contains(&point.missing)
                    && point.scanned.is_finite()
            })
    }

    /// The effort that finds `recall` of the `k` nearest.
    pub(super) fn effort(&self, k: usize, recall: f32) -> Effort {
        let at = |count: usize| budget(self.points.iter().filter(|point| point.k as usize == count), recall);
        let above = COUNTS.into_iter().find(|count| *count >= k).unwrap_or(COUNTS[2]);
        let below = COUNTS.into_iter().rev().find(|count| *count <= k).unwrap_or(COUNTS[0]);
        let missing = if above == below {
            at(above)
        } else {
            let share = (k as f32 / below as f32).ln() / (above as f32 / below as f32).ln();
            at(below) + (at(above) - at(below)) * share
        };
        Effort { missing, slack: self.slack }
    }
}

/// The budget at which a ladder reaches `recall`: between two rungs, linear in the logarithms of what may be
/// and of what is missed.
fn budget<'a>(ladder: impl Iterator<Item = &'a Point>, recall: f32) -> f32 {
    let missed = |recall: f32| (1.0 - recall).max(1e-4).ln();
    let mut before: Option<&Point> = None;
    for point in ladder {
        if point.recall >= recall {
            return match before {
                Some(before) if missed(before.recall) > missed(point.recall) => {
                    let share = (missed(before.recall) - missed(recall))
                        / (missed(before.recall) - missed(point.recall));
                    (before.missing.ln() + (point.missing / before.missing).ln() * share).exp()
                }
                _ => point.missing,
            };
        }
        before = Some(point);
    }
    // Not reached on the ladder, or nothing was measured: every cell.
    0.0
}

/// Vectors as queries, and their nearest.
struct Sample {
    own: Vec<usize>,
    /// `own x field dim`, as the field has them.
    queries: Vec<f32>,
    /// `own x dims`, placed.
    placed: Vec<f32>,
    /// The nearest of each but itself, with their squared distances.
    truth: Vec<Vec<(f32, u32)>>,
}

/// Measures `parts`; `primary` is the first cell of every vector.
pub(super) fn fit(
    layout: Layout,
    parts: Parts,
    primary: &[u32],
    rows: Rows<'_>,
    work: Work,
) -> (Calibration, Parts) {
    let (cells, kept) = Cells::lend(layout, parts);
    let sample = Sample::draw(&cells, primary, rows, work);
    let mut calibration = Calibration::default();
    if !sample.own.is_empty() {
        calibration.odds = count(&cells, &sample, primary, work).odds();
        calibration.slack = slack(&cells, &calibration, &sample, rows, work);
        let settings: Vec<(usize, f32)> = COUNTS
            .iter()
            .filter(|k| sample.truth.iter().all(|truth| truth.len() >= **k))
            .flat_map(|k| MISSING.map(|missing| (*k, missing)))
            .collect();
        let mut points = vec![None; settings.len()];
        for_parts(work.threads, &mut points, 1, |at, point| {
            let (k, missing) = settings[at];
            let effort = Effort { missing, slack: calibration.slack };
            point[0] = Some(sample.measure(&cells, &calibration, sample.own.len(), k, effort, rows, work));
        });
        calibration.points = points.into_iter().flatten().collect();
    }
    (calibration, cells.give_back(kept))
}

/// Where the nearest vectors of the sample are.
fn count(cells: &Cells, sample: &Sample, primary: &[u32], work: Work) -> Count {
    let dim = cells.space.field_dim();
    let total = Mutex::new(Count::new());
    let mut queries: Vec<usize> = (0..sample.own.len()).collect();
    for_parts(work.threads, &mut queries, 32, |_, queries| {
        let (mut scratch, mut count) = (CellsScratch::default(), Count::new());
        for at in queries.iter().copied() {
            let query = &sample.queries[at * dim..(at + 1) * dim];
            let truth = &sample.truth[at];
            let Some((limit, _)) = truth.last() else { continue };
            let mut held = vec![0; cells.radii.len()];
            truth.iter().for_each(|(_, id)| held[primary[*id as usize] as usize] += 1);
            cells.cosines(work.kernels, query, *limit, &mut scratch, |cell, cosine| {
                count.add(cosine, held[cell])
            });
        }
        total.lock().merge(&count);
    });
    total.into_inner()
}

/// The least slack with which visiting every cell finds nearly all.
fn slack(cells: &Cells, calibration: &Calibration, sample: &Sample, rows: Rows<'_>, work: Work) -> f32 {
    let k = COUNTS[1].min(sample.truth.iter().map(Vec::len).min().unwrap_or(0));
    let [rest @ .., certain] = SLACKS;
    let enough = |slack: &f32| {
        let effort = Effort { missing: 0.0, slack: *slack };
        let queries = SLACK_QUERIES.min(sample.own.len());
        k > 0 && sample.measure(cells, calibration, queries, k, effort, rows, work).recall >= SLACK_RECALL
    };
    rest.into_iter().find(enough).unwrap_or(certain)
}

impl Sample {
    fn draw(cells: &Cells, primary: &[u32], rows: Rows<'_>, work: Work) -> Self {
        let (space, count) = (&cells.space, primary.len());
        let mut random = Random(work.seed + 2);
        let mut members = vec![Vec::new(); cells.radii.len()];
        (0..count).for_each(|at| members[primary[at] as usize].push(at));
        members.retain(|members| !members.is_empty());
        let wanted = QUERIES.min(count / 4);
        let own: Vec<usize> = (0..wanted)
            .map(|at| {
                // Every cell in turn, or evenly chosen ones where there are more.
                let members = &members
                    [if members.len() < wanted { at % members.len() } else { at * members.len() / wanted }];
                members[random.below(members.len())]
            })
            .collect();
        let mut queries = vec![0.0; own.len() * space.field_dim()];
        let mut placed = vec![0.0; own.len() * space.dims()];
        let each = queries.chunks_exact_mut(space.field_dim()).zip(placed.chunks_exact_mut(space.dims()));
        for (at, (query, placed)) in own.iter().zip(each) {
            rows(*at, query);
            space.place_query(query, placed);
        }
        let mut sample = Self { own, queries, placed, truth: Vec::new() };
        sample.truth = sample.nearest(cells, count, rows, work);
        sample
    }

    /// The nearest vectors of each query but itself.
    fn nearest(&self, cells: &Cells, count: usize, rows: Rows<'_>, work: Work) -> Vec<Vec<(f32, u32)>> {
        let (space, most) = (&cells.space, COUNTS[COUNTS.len() - 1] + 1);
        let best: Vec<Mutex<Vec<(f32, u32)>>> = self.own.iter().map(|_| Mutex::new(Vec::new())).collect();
        if best.is_empty() {
            return Vec::new();
        }
        let cut = |best: &mut Vec<(f32, u32)>| {
            best.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            best.truncate(most);
        };
        let mut parts = vec![(); count.div_ceil(PART_ROWS)];
        for_parts(work.threads, &mut parts, 1, |part, _| {
            let first = part * PART_ROWS;
            let here = PART_ROWS.min(count - first);
            let (mut row, mut values) = (vec![0.0; space.field_dim()], vec![0.0; here * space.dims()]);
            for (at, value) in values.chunks_exact_mut(space.dims()).enumerate() {
                rows(first + at, &mut row);
                space.place(&row, value);
            }
            let mut distances = vec![0.0; self.own.len() * here];
            let (queries, values) =
                (Matrix::new(&self.placed, space.dims()), Matrix::new(&values, space.dims()));
            work.kernels.l2_tile(queries, values, &mut distances);
            for (distances, best) in distances.chunks_exact(here).zip(&best) {
                let mut best = best.lock();
                // What cannot be among the best of those that came so far, in whatever order they came.
                let limit = if best.len() < most { f32::INFINITY } else { best[most - 1].0 };
                let near = distances.iter().copied().zip(first as u32..);
                best.extend(near.filter(|(distance, _)| *distance <= limit));
                if best.len() > 2 * most {
                    cut(&mut best);
                }
            }
        });
        let lists = best.into_iter().zip(&self.own).map(|(best, own)| {
            let mut best = best.into_inner();
            best.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            best.retain(|(_, id)| *id as usize != *own);
            best.truncate(most - 1);
            best
        });
        lists.collect()
    }

    /// Recall and cost of one setting over the first `queries`.
    #[expect(clippy::too_many_arguments, reason = "a setting and what it is measured on")]
    fn measure(
        &self,
        cells: &Cells,
        calibration: &Calibration,
        queries: usize,
        k: usize,
        effort: Effort,
        rows: Rows<'_>,
        work: Work,
    ) -> Point {
        let (mut scratch, mut found, mut counters) =
            (CellsScratch::default(), Vec::new(), Counters::default());
        let (dim, dims) = (cells.space.field_dim(), cells.space.dims());
        let (mut row, mut placed) = (vec![0.0; dim], vec![0.0; dims]);
        let mut hits = 0;
        let each = self.own.iter().zip(&self.truth).zip(self.queries.chunks_exact(dim)).take(queries);
        for (at, ((own, truth), query)) in each.enumerate() {
            let depth = super::depth(k) + 1;
            let search = super::search::Query { query, depth, effort, odds: &calibration.odds };
            let searched = cells.search(work.kernels, search, None, &mut scratch, &mut found, &mut counters);
            let worst = truth[k - 1].0;
            // As many as are at least as near as the last of the truth, copies of one vector in any order.
            let mut good = |id: u32| {
                truth[..k].iter().any(|(_, true_id)| *true_id == id) || {
                    rows(id as usize, &mut row);
                    cells.space.place(&row, &mut placed);
                    let distance = simd::l2_f64(&self.placed[at * dims..(at + 1) * dims], &placed) as f32;
                    distance <= worst * (1.0 + TIE)
                }
            };
            if searched.is_ok() {
                let others = found.iter().map(|(_, id)| *id).filter(|id| *id as usize != *own);
                hits += others.filter(|id| good(*id)).count().min(k);
            }
        }
        Point {
            k: k as u32,
            recall: hits as f32 / (k * queries.max(1)) as f32,
            missing: effort.missing,
            scanned: counters.scored as f32 / queries.max(1) as f32,
        }
    }
}
