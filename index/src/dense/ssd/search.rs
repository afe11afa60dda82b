//! Searches cells: which of them, in which order, and when to stop.
//!
//! 1. The query is placed, projected and compared with all centroids, in bytes.
//! 2. Cells are visited from the nearest on. A cell is passed over when it is unlikely to hold a vector nearer
//!    than the worst of the best so far (at squared distance T): for a centroid at squared distance d and
//!    vectors at distance r around it, a nearer one has to lie in direction `cos >= (d + r^2 - T) / (2 r
//!    sqrt(d))` of the query, and in many dimensions large cosines are rare. The score of a cell is `weight *
//!    ln(1 + rank) + 5 * cos`; calibration finds the threshold that a recall needs. (SPANN's ratio of
//!    distances instead of the cosine visits a third more vectors than it.)
//! 3. A visited posting is scanned by nibble codes; vectors whose lower bound is below T are candidates, get
//!    their refine distance and may enter the best.
//!
//! Cost: about 2 ns a scanned vector plus 50 ns a candidate plus 10 us a query at 100,000 x 384.

use std::collections::BinaryHeap;
use std::sync::OnceLock;

use crate::allow::Allow;
use crate::counters::Counters;
use crate::error::Result;
use crate::simd::Kernels;
use crate::simd::nibble::{Bounds, Candidates, ENTRIES};
use spandrel_storage::DocId;

use super::bytes::ByteQuery;
use super::cells::Cells;

/// Weight of the cosine in a cell's score.
const COSINE_WEIGHT: f32 = 5.0;
/// Cells that are visited whatever their score, as long as fewer results than wanted are found.
const NEAREST: usize = 8;
/// Candidates of the first cells that are refined before there is a threshold, a wanted result.
const OPENING: usize = 2;
/// Bytes of the next posting that are asked for while this one is scanned.
const PREFETCH_BYTES: usize = 4096;

/// How hard to search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Effort {
    /// Of the logarithm of a cell's rank.
    pub(super) weight: f32,
    /// Cells of a larger score are passed over.
    pub(super) threshold: f32,
    /// How many standard errors a bound lies below its estimate.
    pub(super) slack: f32,
}

/// Bound slack of all searches: of the error of a code, about a twentieth shows in a random direction.
pub(super) const SLACK: f32 = 0.1;

/// Buffers of a search.
#[derive(Debug, Default)]
pub(crate) struct CellsScratch {
    placed: Vec<f32>,
    query: ByteQuery,
    projected: Vec<f32>,
    projected_query: ByteQuery,
    sums: Vec<i32>,
    products: Vec<f32>,
    /// Distance bits and cell, so that integers order them.
    order: Vec<u64>,
    table_products: Vec<[f32; ENTRIES]>,
    table: Vec<u8>,
    candidates: Candidates,
    keys: Vec<u64>,
    picked: Vec<u32>,
    distances: Vec<f32>,
    /// A bit a vector: whether it was refined already; all zero between searches.
    seen: Vec<u64>,
    /// The vectors whose bit is set.
    marked: Vec<u32>,
    /// The best so far, the worst on top.
    best: BinaryHeap<u64>,
}

/// A distance as bits that order like it, and an id: negative distances (of rounding) count as zero.
fn key(distance: f32, id: u32) -> u64 {
    u64::from(distance.max(0.0).to_bits()) << 32 | u64::from(id)
}

fn distance(key: u64) -> f32 {
    f32::from_bits((key >> 32) as u32)
}

/// The query of one search, ready.
struct Ready {
    /// Squared norm of the placed query: with and without the extra coordinate.
    squared: f32,
    own_squared: f32,
    step: f32,
    bias: f32,
}

impl Cells {
    /// Makes the query ready; `None` when it is too far from all vectors to be compared by codes.
    fn ready(&self, kernels: &Kernels, query: &[f32], scratch: &mut CellsScratch) -> Option<Ready> {
        let CellsScratch {
            placed,
            query: bytes,
            projected,
            projected_query,
            sums,
            table_products,
            table,
            ..
        } = scratch;
        placed.resize(self.space.dims(), 0.0);
        let squared = self.space.place_query(query, placed);
        if squared.is_nan() || squared > super::space::QUERY_SQUARED_MAX {
            return None;
        }
        let own = &placed[..query.len()];
        bytes.set(own);
        self.axes.products(kernels, bytes, sums, projected);
        projected.iter_mut().zip(&self.lift).for_each(|(value, lift)| *value += lift);
        projected_query.set(projected);
        let (step, bias) = self.codebook.table(projected, table_products, table);
        let lift: f64 = placed[query.len()..].iter().map(|value| f64::from(*value).powi(2)).sum();
        Some(Ready { squared: squared as f32, own_squared: (squared - lift) as f32, step, bias })
    }

    /// The `depth` nearest allowed vectors as `(distance, ordinal)`, nearest first, in `found`; false when the
    /// query cannot be compared by codes. `doc_of` names the doc of an ordinal.
    #[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
    pub(super) fn search(
        &self,
        kernels: &Kernels,
        query: &[f32],
        depth: usize,
        effort: Effort,
        allow: Option<(&Allow<'_>, &dyn Fn(u32) -> DocId)>,
        scratch: &mut CellsScratch,
        found: &mut Vec<(f32, u32)>,
        counters: &mut Counters,
    ) -> Result<bool> {
        found.clear();
        let Some(ready) = self.ready(kernels, query, scratch) else {
            return Ok(false);
        };
        self.order_cells(kernels, &ready, scratch);
        scratch.seen.resize((self.layout.vectors as usize).div_ceil(64), 0);
        scratch.best.clear();
        let mut walk = Walk { cells: self, kernels, ready, depth, effort, allow, limit: f32::INFINITY };
        let walked = walk.run(scratch, counters);
        scratch.marked.drain(..).for_each(|id| scratch.seen[id as usize / 64] = 0);
        walked?;
        found.extend(scratch.best.drain().map(|key| (distance(key), key as u32)));
        found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        Ok(true)
    }

    /// Distances to all centroids.
    fn order_cells(&self, kernels: &Kernels, ready: &Ready, scratch: &mut CellsScratch) {
        let CellsScratch { projected_query, sums, products, order, .. } = scratch;
        self.centroids.products(kernels, projected_query, sums, products);
        order.clear();
        let distances = products
            .iter()
            .zip(&self.centroid_norms)
            .map(|(product, norm)| ready.squared + norm - 2.0 * product);
        order.extend(distances.zip(0..).map(|(distance, cell)| key(distance, cell)));
    }
}

/// Moves the `wanted` nearest cells to the front, in order, and returns how many there are.
fn nearest(order: &mut [u64], wanted: usize) -> usize {
    let part = wanted.min(order.len());
    if part < order.len() {
        order.select_nth_unstable(part - 1);
    }
    order[..part].sort_unstable();
    part
}

/// `ln(1 + rank)`.
fn log(rank: usize) -> f32 {
    static LOGS: OnceLock<[f32; 256]> = OnceLock::new();
    let logs = LOGS.get_or_init(|| std::array::from_fn(|rank| (1.0 + rank as f32).ln()));
    logs.get(rank).copied().unwrap_or_else(|| (1.0 + rank as f32).ln())
}

/// One walk over the cells.
struct Walk<'a> {
    cells: &'a Cells,
    kernels: &'a Kernels,
    ready: Ready,
    depth: usize,
    effort: Effort,
    allow: Option<(&'a Allow<'a>, &'a dyn Fn(u32) -> DocId)>,
    /// Squared distance of the worst of the best, once there are enough.
    limit: f32,
}

impl Walk<'_> {
    /// Visits cells until the rest are not worth it. `order` holds all of them, in no order.
    fn run(&mut self, scratch: &mut CellsScratch, counters: &mut Counters) -> Result<()> {
        let (mut done, cells) = (0, scratch.order.len());
        while done < cells {
            // The nearest first, until there are results to compare with; then all that can matter at once.
            let part = if self.limit.is_finite() {
                self.within(&mut scratch.order[done..])
            } else {
                nearest(&mut scratch.order[done..], NEAREST.max(done))
            };
            if part == 0 {
                break;
            }
            if let Some((allow, _)) = self.allow {
                allow.check_stop()?;
            }
            for rank in done..done + part {
                let key = scratch.order[rank];
                let (distance, cell) = (distance(key), key as u32 as usize);
                if self.limit.is_finite() && self.score(rank, cell, distance) > self.effort.threshold {
                    continue;
                }
                if let Some(next) = scratch.order[..done + part].get(rank + 1) {
                    let posting = self.cells.posting(*next as u32 as usize);
                    self.kernels.prefetch(&posting[..posting.len().min(PREFETCH_BYTES)]);
                }
                self.visit(cell, distance, scratch, counters);
            }
            done += part;
        }
        Ok(())
    }

    /// How unlikely the cell of this rank is to hold a better vector.
    fn score(&self, rank: usize, cell: usize, distance: f32) -> f32 {
        let radius = self.cells.radii[cell];
        let cosine = (distance + radius * radius - self.limit) / (2.0 * radius * distance.sqrt() + 1e-12);
        self.effort.weight * log(rank) + COSINE_WEIGHT * cosine
    }

    /// Moves the cells that can still pass to the front, nearest first, and returns how many there are.
    ///
    /// Whatever the radius of a cell at squared distance d > T, the cosine is at least `sqrt(1 - T / d)`, so
    /// that no cell beyond some distance passes.
    fn within(&self, order: &mut [u64]) -> usize {
        let most = (self.effort.threshold / COSINE_WEIGHT).max(0.0);
        let mut count = 0;
        if most >= 1.0 {
            count = order.len();
        } else {
            let farthest = key(self.limit / (1.0 - most * most), u32::MAX);
            for at in 0..order.len() {
                let key = order[at];
                order[at] = order[count];
                order[count] = key;
                count += usize::from(key <= farthest);
            }
        }
        order[..count].sort_unstable();
        count
    }

    /// Scans a posting and refines its candidates.
    fn visit(&mut self, cell: usize, distance: f32, scratch: &mut CellsScratch, counters: &mut Counters) {
        let posting = self.cells.posting(cell);
        let bounds = Bounds {
            base: distance,
            step: self.ready.step,
            bias: self.ready.bias,
            slack: self.effort.slack * distance.sqrt(),
            threshold: self.limit,
        };
        scratch.candidates.clear();
        self.kernels.nibble_scan(&scratch.table, posting, &bounds, &mut scratch.candidates);
        counters.scored += u64::from(self.cells.starts[cell + 1] - self.cells.starts[cell]) * 32;
        let CellsScratch { candidates, picked, keys, seen, .. } = scratch;
        picked.clear();
        let fresh = candidates.ids.iter().zip(&candidates.bounds).filter(|(id, _)| {
            let (word, bit) = (**id as usize / 64, 1_u64 << (**id % 64));
            seen[word] & bit == 0 && self.allow.is_none_or(|(allow, doc_of)| allow.contains(doc_of(**id)))
        });
        if self.limit.is_finite() {
            picked.extend(fresh.map(|(id, _)| *id));
            self.refine(scratch, counters);
            return;
        }
        // Nothing rules a vector out yet: the most promising first, so that something soon does.
        keys.clear();
        keys.extend(fresh.map(|(id, bound)| key(*bound, *id)));
        let first = (OPENING * self.depth).min(keys.len());
        if first > 0 && first < keys.len() {
            keys.select_nth_unstable(first - 1);
        }
        picked.extend(keys[..first].iter().map(|key| *key as u32));
        let rest = first..keys.len();
        self.refine(scratch, counters);
        let limit = self.limit;
        let CellsScratch { picked, keys, .. } = scratch;
        picked.clear();
        picked.extend(keys[rest].iter().filter(|key| self::distance(**key) < limit).map(|key| *key as u32));
        self.refine(scratch, counters);
    }

    /// Gives the picked vectors their refine distances, and the best of them a place.
    fn refine(&mut self, scratch: &mut CellsScratch, counters: &mut Counters) {
        let CellsScratch { query, sums, picked, distances, seen, marked, best, .. } = scratch;
        marked.extend_from_slice(picked);
        if picked.is_empty() {
            return;
        }
        counters.rescored += picked.len() as u64;
        let query = (&*query, self.ready.own_squared);
        self.cells.refine.distances(self.kernels, query, picked, sums, distances);
        for (id, distance) in picked.iter().zip(distances.iter()) {
            seen[*id as usize / 64] |= 1 << (id % 64);
            if *distance < self.limit || best.len() < self.depth {
                best.push(key(*distance, *id));
                if best.len() > self.depth {
                    best.pop();
                }
                if best.len() == self.depth {
                    self.limit = best.peek().map_or(f32::INFINITY, |key| self::distance(*key));
                }
            }
        }
    }
}
