//! How hard to search for a recall: measured when cells are built, on vectors of the field as queries.
//!
//! First the slack of bounds is chosen with which little is lost to them. Then, for k = 1, 10 and 100, that
//! slack and the next, and a ladder of budgets (the share of the nearest that may be expected in the cells
//! left out, [`odds`](super::odds)), the searches of a sample of vectors are compared with the truth, each
//! vector left out of its own results, up to the rung that finds all but everything. What a caller asks for
//! lies between two rungs ([`calibration`](super::calibration)). All of that is done in the largest partition
//! and serves the others: the same share of fewer cells finds more, if anything.
//!
//! Of many copies of one vector only one is drawn, so that they do not stand for the rest.

use std::collections::HashSet;
use std::ops::Range;

use parking_lot::Mutex;

use super::build::Made;
use super::calibration::{Calibration, Point};
use super::cells::{Cells, Fineness};
use super::cluster::Work;
use super::partition::Partition;
use super::search::{CellsScratch, Effort};
use super::space::Rows;
use crate::counters::Counters;
use crate::matrix::Matrix;
use crate::parallel::for_parts;
use crate::random::Random;
use crate::simd;

/// Vectors that serve as queries, and those of them that the slack is chosen on.
pub(super) const QUERIES: usize = 512;
const SLACK_QUERIES: usize = 64;
/// Fewer are as good where each has many results, and where few are missed, which is where they take longest.
const MANY_RESULTS_QUERIES: usize = 256;
const FEW_MISSED_QUERIES: usize = 192;
const FEW_MISSED: f32 = 0.01;
/// Times as many vectors are drawn, of which copies are left out.
const DRAWN: usize = 4;
/// Result counts that are measured.
pub(super) const COUNTS: [usize; 3] = [1, 10, 100];
/// Budgets that are measured, and the last of those that the lesser slack is enough for.
const MISSING: [f32; 14] =
    [0.5, 0.35, 0.25, 0.18, 0.13, 0.09, 0.06, 0.04, 0.02, 0.01, 0.004, 0.0015, 0.0005, 0.0001];
const MISSING_LOOSE: f32 = 0.04;
/// No rung follows one that finds this much.
pub(super) const ENOUGH_RECALL: f32 = 0.9985;
/// Nor one that misses more than this share of what the one before missed: what is left is lost to bounds.
const STALLED: f32 = 0.9;
/// Slacks of bounds, the last of which is a bound for certain; and the recall that the lesser one of the two
/// that are measured has to leave.
const SLACKS: [f32; 5] = [0.1, 0.2, 0.4, 0.7, 1.0];
const SLACK_RECALL: f32 = 0.98;
/// Shares of the vectors that a query is compared with to tell whether it is like them.
const USUAL: [f64; 2] = [0.9, 0.99];
/// Vectors that are scanned in the time that one is refined.
const REFINE_COST: f32 = 50.0;
/// Queries that one thread takes at once.
const PART_QUERIES: usize = 32;
/// Rows compared with all queries at once.
const PART_ROWS: usize = 256;
/// No vector.
const NONE: usize = usize::MAX;
/// More of the nearest are known than are counted, to tell which others are as near as the last of those.
const TIES: usize = 28;
/// Fewer queries than this say too little.
const LEARNED_QUERIES_MIN: usize = 256;
/// Distances that differ by less are the same: rounding of f32.
const TIE: f32 = 1e-5;

/// Queries, and their nearest.
struct Sample {
    /// Where they are searched, and what is there.
    partition: usize,
    vectors: Range<usize>,
    /// The vector that each is, or [`NONE`].
    own: Vec<usize>,
    /// `own x field dim`, as the field has them.
    queries: Vec<f32>,
    /// `own x dims`, placed.
    placed: Vec<f32>,
    /// The nearest of each but itself, with their squared distances, and some more of them.
    truth: Vec<Vec<(f32, u32)>>,
    /// The same ids, ascending, with their ranks there.
    ranks: Vec<Vec<(u32, u32)>>,
}

/// The partition with most vectors.
pub(super) fn largest(partitions: &[Partition]) -> Option<&Partition> {
    partitions.iter().max_by_key(|partition| partition.vectors.len())
}

/// Measures cells, if there are any.
pub(super) fn fit(mut made: Made, rows: Rows<'_>, work: Work) -> Made {
    if made.parts.partitions.is_empty() {
        return made;
    }
    let (cells, kept) = Cells::lend(&mut made, Fineness::Bytes, work.bytes_max);
    let sample = Sample::draw(&cells, rows, work);
    let measured = sample.vectors.len() as u32;
    let mut calibration = Calibration { usual: sample.usual(&cells, work), points: Vec::new() };
    sample.ladders(&cells, rows, work, &mut calibration.points);
    made.parts = if made.spill.is_some() { kept } else { cells.give_back(kept) };
    if made.layout.halves > 0 {
        let (cells, kept) = Cells::lend(&mut made, Fineness::Halves, work.bytes_max);
        sample.ladders(&cells, rows, work, &mut calibration.points);
        made.parts = if made.spill.is_some() { kept } else { cells.give_back(kept) };
    }
    (made.layout.calibration, made.layout.measured) = (calibration, measured);
    made
}

/// Measures open cells by queries that were asked, with what they have at hand; none where those are too few.
pub(super) fn learn(
    cells: &Cells,
    queries: Matrix<'_, f32>,
    rows: Rows<'_>,
    work: Work,
) -> Option<Calibration> {
    if queries.rows() < LEARNED_QUERIES_MIN || cells.partitions.is_empty() {
        return None;
    }
    let sample = Sample::of(cells, queries, rows, work);
    let mut points = Vec::new();
    sample.ladders(cells, rows, work, &mut points);
    // All queries are of their kind.
    Some(Calibration { usual: [f32::MAX; 2], points })
}

/// The largest partition, and its vectors.
fn place(cells: &Cells) -> (usize, Range<usize>) {
    let largest = largest(&cells.partitions);
    let vectors = largest.map_or(0..0, |of| of.vectors.start as usize..of.vectors.end as usize);
    let at = cells.partitions.iter().position(|of| of.vectors.start as usize == vectors.start);
    (at.unwrap_or(0), vectors)
}

/// The least slack with which visiting every cell finds nearly all, and the next.
fn slacks(cells: &Cells, sample: &Sample, rows: Rows<'_>, work: Work) -> [f32; 2] {
    let k = COUNTS[1].min(sample.truth.iter().map(Vec::len).min().unwrap_or(0));
    let enough = |slack: f32| {
        let effort = Effort::new(0.0, slack);
        let queries = SLACK_QUERIES.min(sample.own.len());
        k > 0 && sample.measure(cells, queries, k, effort, rows, work).recall >= SLACK_RECALL
    };
    let least = SLACKS.windows(2).find(|pair| enough(pair[0])).unwrap_or(&SLACKS[SLACKS.len() - 2..]);
    [least[0], least[1]]
}

impl Sample {
    /// Measures all that callers may ask for.
    fn ladders(&self, cells: &Cells, rows: Rows<'_>, work: Work, points: &mut Vec<Point>) {
        let slacks = slacks(cells, self, rows, work);
        let counted = |k: &usize| !self.own.is_empty() && self.truth.iter().all(|truth| truth.len() >= *k);
        for k in COUNTS.into_iter().filter(counted) {
            for slack in slacks {
                let mut missed_before = 1.0;
                for missing in MISSING.into_iter().filter(|m| slack == slacks[0] || *m <= MISSING_LOOSE) {
                    let effort = Effort::new(missing, slack);
                    let queries = match (missing <= FEW_MISSED, k >= COUNTS[2]) {
                        (true, _) => FEW_MISSED_QUERIES,
                        (_, true) => MANY_RESULTS_QUERIES,
                        _ => QUERIES,
                    };
                    let point = self.measure(cells, queries.min(self.own.len()), k, effort, rows, work);
                    points.push(point);
                    let missed = 1.0 - point.recall;
                    let stalled = missing <= MISSING_LOOSE && missed > STALLED * missed_before;
                    if point.recall >= ENOUGH_RECALL || stalled {
                        break;
                    }
                    missed_before = missed;
                }
            }
        }
    }

    /// How far the nearest centroid is from all but a few.
    fn usual(&self, cells: &Cells, work: Work) -> [f32; 2] {
        let dim = cells.space.field_dim();
        let mut nearest = vec![0.0; self.own.len()];
        for_parts(work.threads, &mut nearest, PART_QUERIES, |part, nearest| {
            let (mut scratch, mut found) = (CellsScratch::default(), Vec::new());
            for (at, nearest) in (part * PART_QUERIES..).zip(nearest) {
                let query = &self.queries[at * dim..(at + 1) * dim];
                let effort = Effort::new(1.0, 0.0);
                let partition = Some(self.partition);
                let (wanted, depth, more, allow) = (1, 1, 0, None);
                let search = super::search::Query { query, partition, wanted, depth, more, effort, allow };
                // Nothing is read.
                let _ = cells.search(
                    work.kernels,
                    search,
                    None,
                    &mut scratch,
                    &mut found,
                    &mut Counters::default(),
                );
                *nearest = scratch.met.nearest;
            }
        });
        nearest.sort_unstable_by(f32::total_cmp);
        USUAL.map(|share| nearest.get((nearest.len() as f64 * share) as usize).copied().unwrap_or(0.0))
    }

    fn draw(cells: &Cells, rows: Rows<'_>, work: Work) -> Self {
        let (dim, vectors) = (cells.space.field_dim(), place(cells).1);
        let count = vectors.len();
        let mut row = vec![0.0; dim];
        let mut known = HashSet::new();
        let mut random = Random(work.seed + 2);
        let mut own = random.sample(count, DRAWN * QUERIES.min(count / 4));
        own.iter_mut().for_each(|at| *at += vectors.start);
        // Those that stay are the first; they are to be from everywhere.
        (1..own.len()).rev().for_each(|at| own.swap(at, random.below(at + 1)));
        own.retain(|at| {
            known.len() < QUERIES && {
                rows(*at, &mut row);
                known.insert(row.iter().map(|value| value.to_bits()).collect::<Vec<u32>>())
            }
        });
        let mut queries = vec![0.0; own.len() * dim];
        own.iter().zip(queries.chunks_exact_mut(dim)).for_each(|(at, query)| rows(*at, query));
        Self::new(cells, (own, queries), rows, work)
    }

    /// Queries that were asked, as many as are measured by.
    fn of(cells: &Cells, queries: Matrix<'_, f32>, rows: Rows<'_>, work: Work) -> Self {
        let queries = queries.slice(0..queries.rows().min(QUERIES));
        let own = vec![NONE; queries.rows()];
        Self::new(cells, (own, queries.values().to_vec()), rows, work)
    }

    fn new(cells: &Cells, (own, queries): (Vec<usize>, Vec<f32>), rows: Rows<'_>, work: Work) -> Self {
        let (space, dim) = (&cells.space, cells.space.field_dim());
        let mut placed = vec![0.0; own.len() * space.dims()];
        let each = queries.chunks_exact(dim).zip(placed.chunks_exact_mut(space.dims()));
        each.for_each(|(query, placed)| {
            space.place_query(query, placed);
        });
        let ((partition, vectors), truth) = (self::place(cells), Vec::new());
        let mut sample = Self { partition, vectors, own, queries, placed, truth, ranks: Vec::new() };
        sample.truth = sample.nearest(cells, rows, work);
        let ranks = |truth: &Vec<(f32, u32)>| {
            let mut ranks: Vec<(u32, u32)> = truth.iter().map(|(_, id)| *id).zip(0..).collect();
            ranks.sort_unstable();
            ranks
        };
        sample.ranks = sample.truth.iter().map(ranks).collect();
        sample
    }

    /// The nearest vectors of each query but itself.
    fn nearest(&self, cells: &Cells, rows: Rows<'_>, work: Work) -> Vec<Vec<(f32, u32)>> {
        let (space, most) = (&cells.space, COUNTS[COUNTS.len() - 1] + 1 + TIES);
        let best: Vec<Mutex<Vec<(f32, u32)>>> = self.own.iter().map(|_| Mutex::new(Vec::new())).collect();
        if best.is_empty() {
            return Vec::new();
        }
        let cut = |best: &mut Vec<(f32, u32)>| {
            best.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            best.truncate(most);
        };
        let mut parts = vec![(); self.vectors.len().div_ceil(PART_ROWS)];
        for_parts(work.threads, &mut parts, 1, |part, _| {
            let first = self.vectors.start + part * PART_ROWS;
            let here = PART_ROWS.min(self.vectors.end - first);
            let (mut block, mut values) =
                (vec![0.0; here * space.field_dim()], vec![0.0; here * space.dims()]);
            rows(first, &mut block);
            let each = block.chunks_exact(space.field_dim()).zip(values.chunks_exact_mut(space.dims()));
            each.for_each(|(row, value)| space.place(row, value));
            let mut distances = vec![0.0; self.own.len() * here];
            let (queries, values) =
                (Matrix::new(&self.placed, space.dims()), Matrix::new(&values, space.dims()));
            work.kernels.l2_tile(queries, values, &mut distances);
            for (distances, best) in distances.chunks_exact(here).zip(&best) {
                let mut best = best.lock();
                // What cannot be among the best of those that came so far, in whatever order they came. As
                // soon as there are so many, the best of them come first, in order.
                let open = best.len() < most;
                let limit = if open { f32::INFINITY } else { best[most - 1].0 };
                let near = distances.iter().copied().zip(first as u32..);
                best.extend(near.filter(|(distance, _)| *distance <= limit));
                if best.len() > 2 * most || (open && best.len() >= most) {
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
    fn measure(
        &self,
        cells: &Cells,
        queries: usize,
        k: usize,
        effort: Effort,
        rows: Rows<'_>,
        work: Work,
    ) -> Point {
        let (dim, dims) = (cells.space.field_dim(), cells.space.dims());
        let total = Mutex::new((0, Counters::default()));
        let mut all: Vec<usize> = (0..queries).collect();
        for_parts(work.threads, &mut all, PART_QUERIES, |_, part| {
            let (mut scratch, mut found, mut counters) =
                (CellsScratch::default(), Vec::new(), Counters::default());
            let (mut row, mut placed) = (vec![0.0; dim], vec![0.0; dims]);
            let mut hits = 0;
            for at in part.iter().copied() {
                let (own, truth) = (self.own[at], &self.truth[at]);
                let query = &self.queries[at * dim..(at + 1) * dim];
                let itself = usize::from(own != NONE);
                let (wanted, depth) = (k + itself, cells.fineness().depth(k) + itself);
                let (partition, more, allow) = (Some(self.partition), 0, None);
                let search = super::search::Query { query, partition, wanted, depth, more, effort, allow };
                let searched =
                    cells.search(work.kernels, search, None, &mut scratch, &mut found, &mut counters);
                // As many as are at least as near as the last of the truth, copies of one vector in any
                // order.
                let limit = truth[k - 1].0 * (1.0 + TIE);
                let within = truth.partition_point(|(distance, _)| *distance <= limit);
                let ranks = &self.ranks[at];
                let mut good = |id: u32| match ranks.binary_search_by_key(&id, |(id, _)| *id) {
                    Ok(place) => (ranks[place].1 as usize) < within,
                    // Not where what is known ends beyond the limit.
                    Err(_) => {
                        within == truth.len() && {
                            rows(id as usize, &mut row);
                            cells.space.place(&row, &mut placed);
                            let distance =
                                simd::l2_f64(&self.placed[at * dims..(at + 1) * dims], &placed) as f32;
                            distance <= limit
                        }
                    }
                };
                if searched.is_ok() {
                    let others = found.iter().map(|(_, id)| *id).filter(|id| *id as usize != own);
                    hits += others.filter(|id| good(*id)).count().min(k);
                }
            }
            let mut total = total.lock();
            total.0 += hits;
            total.1.scored += counters.scored;
            total.1.rescored += counters.rescored;
        });
        let (hits, counters) = total.into_inner();
        Point {
            fineness: cells.fineness(),
            k: k as u32,
            recall: hits as f32 / (k * queries.max(1)) as f32,
            effort,
            cost: (counters.scored as f32 + REFINE_COST * counters.rescored as f32) / queries.max(1) as f32,
        }
    }
}
