//! Searches cells: which of them, in which order, and when to stop.
//!
//! 1. The query is placed, projected and compared with the centroids of groups and then of the cells in those
//!    that are worth it ([`met`](super::met)), in bytes.
//! 2. The nearest cells are visited until there are as many vectors as wanted; the worst of them is at
//!    squared distance T. Of the cells that are left, the most promising are visited, until all the rest
//!    together are expected to hold less than the share that may be missed ([`odds`](super::odds)); T falls
//!    on the way, and the rest is looked at again a few times.
//! 3. A visited posting is scanned by nibble codes; vectors whose lower bound is below T are candidates, get
//!    their refine distance and may enter the best.
//!
//! Cost: about 1 ns a scanned vector (3 where it comes from memory), 30 ns a candidate, and 10 us a query.

use std::collections::BinaryHeap;

use crate::allow::Allow;
use crate::counters::Counters;
use crate::error::Result;
use crate::mask::Mask;
use crate::simd::Kernels;
use crate::simd::nibble::{Candidates, ENTRIES};
use spandrel_storage::io::Extent;

use super::bytes::ByteQuery;
use super::cells::{Cells, Fine};
use super::filter::Filter;
use super::halves::HalfQuery;
use super::met::{Met, Place};
use super::refine::Refine;
use super::walk::Walk;

/// What follows the last of the results by so many standard errors of their difference is not among them.
pub(super) const TRIM_ERRORS: f32 = 3.0;
/// So many that follow them are usually left by that.
const TRIM_LEFT: usize = 3;

/// How hard to search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Effort {
    /// Share of the wanted vectors that may be expected in the cells left out, by a query like the vectors.
    pub(super) missing: f32,
    /// The same by one that is further from everything than those; at most as large.
    pub(super) missing_far: f32,
    /// How many standard errors a bound lies below its estimate.
    pub(super) slack: f32,
    /// The same of a query that is further from what it may find than those; at least as many.
    pub(super) slack_far: f32,
    /// The recall to go on for while cells yield, where which vectors may be found can have to do with where
    /// they lie.
    pub(super) yield_for: Option<f32>,
}

impl Effort {
    /// Every cell, and every vector that could be near.
    pub(super) const ALL: Self =
        Self { missing: 0.0, missing_far: 0.0, slack: 1.0, slack_far: 1.0, yield_for: None };

    /// The same for all queries.
    pub(super) fn new(missing: f32, slack: f32) -> Self {
        Self { missing, missing_far: missing, slack, slack_far: slack, yield_for: None }
    }

    /// What may be missing by a query whose nearest centroid is at squared distance `nearest`, and its slack.
    pub(super) fn at(&self, nearest: f32, usual: [f32; 2]) -> (f32, f32) {
        if nearest <= usual[0] {
            return (self.missing, self.slack);
        }
        let share = ((nearest - usual[0]) / (usual[1] - usual[0]).max(f32::MIN_POSITIVE)).min(1.0);
        let between =
            |usual: f32, far: f32| if usual == far { usual } else { usual * (far / usual).powf(share) };
        (between(self.missing, self.missing_far), between(self.slack, self.slack_far))
    }
}

/// What is searched for.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) query: &'a [f32],
    /// The number of the partition that is searched; none only where vectors without one are scanned.
    pub(super) partition: Option<usize>,
    /// How many results are wanted.
    pub(super) wanted: usize,
    /// How many of the nearest by codes hold those.
    pub(super) depth: usize,
    /// How many of the next best are kept besides, however far they are.
    pub(super) more: usize,
    pub(super) effort: Effort,
    /// Whose deadline it keeps.
    pub(super) allow: Option<&'a Allow<'a>>,
}

/// Buffers of a search.
#[derive(Debug, Default)]
pub(crate) struct CellsScratch {
    pub(super) placed: Vec<f32>,
    pub(super) query: ByteQuery,
    pub(super) projected: Vec<f32>,
    pub(super) projected_query: ByteQuery,
    /// The projection beyond the coded dimensions.
    pub(super) more: Vec<f32>,
    pub(super) half_query: HalfQuery,
    pub(super) sums: Vec<i32>,
    pub(super) met: Met,
    /// The docs that a filter lets through.
    pub(super) mask: Mask,
    /// What orders cells, and the cell, so that integers order them.
    pub(super) order: Vec<u64>,
    pub(super) table_products: Vec<[f32; ENTRIES]>,
    pub(super) table: Vec<u8>,
    pub(super) candidates: Candidates,
    pub(super) keys: Vec<u64>,
    /// Vectors to refine now, and those of the posting scanned last, whose rows are on their way.
    pub(super) picked: Vec<u32>,
    pub(super) pending: Vec<u32>,
    /// Vectors whose codes are on their way, one by one, and the bounds of some.
    pub(super) strewn: Vec<u32>,
    pub(super) bounds: Vec<f32>,
    /// What was read: postings of a round, and rows of what is refined.
    pub(super) extents: Vec<Extent>,
    pub(super) postings: Vec<u8>,
    pub(super) rows: Vec<u8>,
    /// The places of the rows that were read.
    pub(super) places: Vec<u32>,
    pub(super) distances: Vec<f32>,
    /// A bit a vector: whether it was picked already; all zero between searches.
    pub(super) seen: Vec<u64>,
    /// The vectors whose bit is set.
    pub(super) marked: Vec<u32>,
    /// The best so far, the worst on top.
    pub(super) best: BinaryHeap<u64>,
    /// The best when this was last looked at, ascending.
    pub(super) before: Vec<u32>,
    /// What comes next, and more.
    pub(super) next: Vec<u64>,
}

#[cfg(test)]
impl CellsScratch {
    /// How many cells the last search has met.
    pub(super) fn met(&self) -> usize {
        self.met.open.len()
    }
}

/// A distance as bits that order like it, and an id: negative distances (of rounding) count as zero.
pub(super) fn key(distance: f32, id: u32) -> u64 {
    u64::from(distance.max(0.0).to_bits()) << 32 | u64::from(id)
}

pub(super) fn distance_of(key: u64) -> f32 {
    f32::from_bits((key >> 32) as u32)
}

/// The query of one search, ready.
pub(super) struct Ready {
    /// Squared norm of the placed query: with and without the extra coordinate.
    pub(super) squared: f32,
    pub(super) own_squared: f32,
    pub(super) step: f32,
    pub(super) bias: f32,
}

impl Ready {
    /// One that is not compared with cells, at these squared norms.
    pub(super) fn placed((squared, own_squared): (f32, f32)) -> Self {
        Self { squared, own_squared, step: 0.0, bias: 0.0 }
    }
}

impl Cells {
    /// Places the query, as bytes; its squared norms, or `None` when it is too far from all vectors to be
    /// compared by codes.
    pub(super) fn placed(
        &self,
        kernels: &Kernels,
        query: &[f32],
        scratch: &mut CellsScratch,
    ) -> Option<(f32, f32)> {
        let CellsScratch { placed, query: bytes, .. } = scratch;
        placed.resize(self.space.dims(), 0.0);
        let squared = kernels.vectorized(
            #[inline(always)]
            || self.space.place_query(query, placed),
        );
        if squared.is_nan() || squared > super::space::QUERY_SQUARED_MAX {
            return None;
        }
        let own = &placed[..query.len()];
        kernels.vectorized(
            #[inline(always)]
            || bytes.set(own),
        );
        let lift: f64 = placed[query.len()..].iter().map(|value| f64::from(*value).powi(2)).sum();
        Some((squared as f32, (squared - lift) as f32))
    }

    /// Makes the query ready; `None` when it is too far from all vectors to be compared by codes.
    pub(super) fn ready(
        &self,
        kernels: &Kernels,
        query: &[f32],
        scratch: &mut CellsScratch,
    ) -> Option<Ready> {
        let norms = self.placed(kernels, query, scratch)?;
        let CellsScratch {
            query: bytes,
            projected,
            projected_query,
            more,
            half_query,
            sums,
            table_products,
            table,
            ..
        } = scratch;
        self.axes.products(kernels, bytes, sums, projected);
        let (step, bias) = kernels.vectorized(
            #[inline(always)]
            || {
                projected.iter_mut().zip(&self.lift).for_each(|(value, lift)| *value += lift);
                projected_query.set(projected);
                self.codebook.table(projected, table_products, table)
            },
        );
        if let Fine::Halves { halves, axes, lift } = &self.fine {
            axes.products(kernels, bytes, sums, more);
            kernels.vectorized(
                #[inline(always)]
                || {
                    projected.extend(more.iter().zip(lift).map(|(value, lift)| value + lift));
                    half_query.set(projected, &halves.steps);
                },
            );
            projected.truncate(self.layout.coded());
        }
        Some(Ready { step, bias, ..Ready::placed(norms) })
    }

    /// The nearest allowed vectors as `(distance, ordinal)`, nearest first, in `found`; false when the query
    /// cannot be compared by codes.
    pub(super) fn search(
        &self,
        kernels: &Kernels,
        asked: Query<'_>,
        filter: Option<Filter<'_>>,
        scratch: &mut CellsScratch,
        found: &mut Vec<(f32, u32)>,
        counters: &mut Counters,
    ) -> Result<bool> {
        found.clear();
        let Some(mut walk) = self.begin(kernels, asked, filter, scratch) else {
            return Ok(false);
        };
        let own_squared = walk.ready.own_squared;
        let walked = walk.run(scratch, counters);
        self.take(asked.wanted, own_squared, scratch, found);
        walked.map(|()| true)
    }

    /// A walk that has visited nothing; `None` when the query cannot be compared by codes.
    pub(super) fn begin<'a>(
        &'a self,
        kernels: &'a Kernels,
        asked: Query<'a>,
        filter: Option<Filter<'a>>,
        scratch: &mut CellsScratch,
    ) -> Option<Walk<'a>> {
        let partition = &self.partitions[asked.partition?];
        let ready = self.ready(kernels, asked.query, scratch)?;
        let (query, bits) = (&scratch.projected_query, filter.as_ref().and_then(Filter::bits));
        let place = Place { cells: self, bits, kernels, query, squared: ready.squared };
        scratch.met.begin(place, partition);
        scratch.seen.resize((self.layout.vectors as usize).div_ceil(64), 0);
        Some(Walk::new(self, kernels, ready, asked, filter))
    }
}

impl Cells {
    /// The codes whose errors are known, where they are at hand.
    fn trims(&self) -> Option<(&Refine, &[u8])> {
        match &self.fine {
            Fine::Bytes(refine) => Some((refine, self.fine_rows.at_hand()?)),
            Fine::Halves { .. } => None,
        }
    }

    /// Of `depth` vectors and so many more, how many are left for `wanted` results by [`take`](Self::take),
    /// about.
    pub(super) fn left(&self, wanted: usize, depth: usize, more: usize) -> usize {
        let left = if self.trims().is_some() { wanted + TRIM_LEFT } else { usize::MAX };
        left.min(depth + more)
    }

    /// Ends a search, whole or not: what it found, nearest first, goes to `found`, but what follows the
    /// wanted results by more than codes can be wrong about.
    pub(super) fn take(
        &self,
        wanted: usize,
        own_squared: f32,
        scratch: &mut CellsScratch,
        found: &mut Vec<(f32, u32)>,
    ) {
        let CellsScratch { best, next, .. } = &mut *scratch;
        let of = |key: u64| (distance_of(key), key as u32);
        let sort = |found: &mut [(f32, u32)]| {
            found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        };
        found.clear();
        found.extend(best.drain().map(of));
        sort(found);
        let last = found.get(wanted.wrapping_sub(1)).copied().zip(self.trims());
        // One without a number for an error, of bytes that are damaged, stays.
        let is_far = |(distance, id): &(f32, u32)| {
            last.is_some_and(|((last, of), (refine, rows))| {
                let error = |id: u32| refine.error(rows, id, own_squared);
                *distance - last > TRIM_ERRORS * (error(of).powi(2) + error(*id).powi(2)).sqrt()
            })
        };
        let mut rank = 0;
        found.retain(|each| {
            rank += 1;
            rank <= wanted || !is_far(each)
        });
        let first = found.len();
        found.extend(next.drain(..).map(of).filter(|each| !is_far(each)));
        sort(&mut found[first..]);
        scratch.clear();
    }
}

impl CellsScratch {
    /// Forgets what a search has left.
    fn clear(&mut self) {
        self.before.clear();
        self.marked.drain(..).for_each(|id| self.seen[id as usize / 64] = 0);
        self.picked.clear();
        self.pending.clear();
        self.strewn.clear();
        self.keys.clear();
    }

    /// The cell at a place of the order.
    pub(super) fn cell(&self, at: usize) -> usize {
        self.met.open[self.order[at] as u32 as usize] as usize
    }

    /// The vectors that are to be refined next.
    pub(super) fn picked(&self) -> &[u32] {
        &self.picked
    }
}
