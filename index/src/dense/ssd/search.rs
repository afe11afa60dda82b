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
//! Cost: about 2 ns a scanned vector, 50 ns a candidate, and 10 us a query at 100,000 x 384.

use std::collections::BinaryHeap;

use crate::allow::Allow;
use crate::counters::Counters;
use crate::error::Result;
use crate::simd::Kernels;
use crate::simd::nibble::{Bounds, Candidates, ENTRIES};
use spandrel_storage::DocId;
use spandrel_storage::io::Extent;

use super::bytes::ByteQuery;
use super::cells::{Cells, Fine};
use super::halves::HalfQuery;
use super::met::{Met, Place, enough, least};

/// Cells visited before there is a threshold.
const NEAREST: usize = 2;
/// Cells that are met before there is a threshold.
const CELLS_OPEN: usize = 96;
/// Share of what may be missed that may be in groups that stay closed.
const GROUP_MISSING: f32 = 0.5;
/// At least as many cells, or times as many as before, are visited until the rest is looked at again.
const PART: usize = 8;
const GROWTH: usize = 4;
/// Candidates of the first cells that are refined before there is a threshold, a wanted result.
const OPENING: usize = 2;
/// Bytes of postings that are read at once, at most.
const READ_BYTES_MAX: usize = 4 << 20;
/// Bytes of the next posting that are asked for while this one is scanned.
const PREFETCH_BYTES: usize = 1024;

/// How hard to search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Effort {
    /// Share of the wanted vectors that may be expected in the cells left out.
    pub(super) missing: f32,
    /// How many standard errors a bound lies below its estimate.
    pub(super) slack: f32,
}

impl Effort {
    /// Every cell, and every vector that could be near.
    pub(super) const ALL: Self = Self { missing: 0.0, slack: 1.0 };
}

/// What is searched for.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) query: &'a [f32],
    /// How many vectors are wanted.
    pub(super) depth: usize,
    pub(super) effort: Effort,
    /// Whose deadline it keeps.
    pub(super) allow: Option<&'a Allow<'a>>,
}

/// The docs that may be found, and what names the doc of an ordinal.
pub(super) type Filter<'a> = (&'a Allow<'a>, &'a dyn Fn(u32) -> DocId);

/// Buffers of a search.
#[derive(Debug, Default)]
pub(crate) struct CellsScratch {
    placed: Vec<f32>,
    query: ByteQuery,
    projected: Vec<f32>,
    projected_query: ByteQuery,
    /// The projection beyond the coded dimensions.
    more: Vec<f32>,
    half_query: HalfQuery,
    sums: Vec<i32>,
    met: Met,
    /// What orders cells, and the cell, so that integers order them.
    order: Vec<u64>,
    table_products: Vec<[f32; ENTRIES]>,
    table: Vec<u8>,
    candidates: Candidates,
    keys: Vec<u64>,
    /// Vectors to refine now, and those of the posting scanned last, whose rows are on their way.
    picked: Vec<u32>,
    pending: Vec<u32>,
    /// What was read: postings of a round, and rows of what is refined.
    extents: Vec<Extent>,
    postings: Vec<u8>,
    rows: Vec<u8>,
    /// The places of the rows that were read.
    places: Vec<u32>,
    distances: Vec<f32>,
    /// A bit a vector: whether it was picked already; all zero between searches.
    seen: Vec<u64>,
    /// The vectors whose bit is set.
    marked: Vec<u32>,
    /// The best so far, the worst on top.
    best: BinaryHeap<u64>,
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

fn distance_of(key: u64) -> f32 {
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
            more,
            half_query,
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
        kernels.vectorized(
            #[inline(always)]
            || bytes.set(own),
        );
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
        let lift: f64 = placed[query.len()..].iter().map(|value| f64::from(*value).powi(2)).sum();
        Some(Ready { squared: squared as f32, own_squared: (squared - lift) as f32, step, bias })
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
        let Some(ready) = self.ready(kernels, asked.query, scratch) else {
            return Ok(false);
        };
        let place = Place { cells: self, kernels, query: &scratch.projected_query, squared: ready.squared };
        scratch.met.begin(place);
        scratch.seen.resize((self.layout.vectors as usize).div_ceil(64), 0);
        scratch.best.clear();
        // A search that failed has left its candidates.
        scratch.picked.clear();
        scratch.pending.clear();
        let mut walk =
            Walk { cells: self, kernels, ready, asked, filter, limit: f32::INFINITY, is_open: false };
        let walked = walk.run(scratch, counters);
        scratch.marked.drain(..).for_each(|id| scratch.seen[id as usize / 64] = 0);
        walked?;
        found.extend(scratch.best.drain().map(|key| (distance_of(key), key as u32)));
        found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        Ok(true)
    }
}

/// One walk over the cells.
struct Walk<'a> {
    cells: &'a Cells,
    kernels: &'a Kernels,
    ready: Ready,
    asked: Query<'a>,
    filter: Option<Filter<'a>>,
    /// Squared distance of the worst of the best, once there are enough.
    limit: f32,
    /// Whether all groups are open that are worth it.
    is_open: bool,
}

impl Walk<'_> {
    /// Visits cells until the rest is not worth it.
    fn run(&mut self, scratch: &mut CellsScratch, counters: &mut Counters) -> Result<()> {
        let mut visited = 0;
        loop {
            if let Some(allow) = self.asked.allow {
                allow.check_stop()?;
            }
            let wanted =
                if self.limit.is_finite() { PART.max(GROWTH * visited) } else { NEAREST.max(visited) };
            if self.limit.is_infinite() {
                self.met(scratch, |met, place, order| {
                    met.open_nearest(place, (visited + wanted).max(CELLS_OPEN), order);
                });
            } else if visited >= PART {
                self.open_worthy(scratch);
            }
            let CellsScratch { met, order, .. } = &mut *scratch;
            let left = if self.limit.is_finite() {
                met.odds.choose(self.kernels, self.limit, self.asked.effort.missing, order)
            } else {
                // By distance, as long as there is nothing to compare with.
                met.order_by_distance(order);
                f32::INFINITY
            };
            let part = least(order, wanted);
            let mut part = enough(&order[..part], &met.odds, left);
            if self.cells.postings.at_hand().is_none() {
                part = self.read_postings(part, scratch, counters)?;
            }
            let mut read = 0;
            for at in 0..part {
                let CellsScratch { order, met, postings, .. } = &mut *scratch;
                let at_met = order[at] as u32 as usize;
                met.odds.visit(at_met);
                let cell = met.open[at_met] as usize;
                if let Some(all) = self.cells.postings.at_hand() {
                    if let Some(next) = order[..part].get(at + 1) {
                        let next = met.open[*next as u32 as usize] as usize;
                        let posting = &all[self.cells.posting(next)];
                        self.kernels.prefetch(&posting[..posting.len().min(PREFETCH_BYTES)]);
                    }
                    self.visit(cell, &all[self.cells.posting(cell)], scratch, counters)?;
                } else {
                    let postings = std::mem::take(postings);
                    let posting = read..read + self.cells.posting(cell).len();
                    read = posting.end;
                    let seen = self.visit(cell, &postings[posting], scratch, counters);
                    scratch.postings = postings;
                    seen?;
                }
            }
            std::mem::swap(&mut scratch.picked, &mut scratch.pending);
            self.refine(scratch, counters)?;
            if part == 0 && self.is_open {
                return Ok(());
            }
            if part == 0 {
                self.open_worthy(scratch);
            }
            visited += part;
        }
    }

    /// Opens, once, all groups but those that may be missed.
    fn open_worthy(&mut self, scratch: &mut CellsScratch) {
        if !std::mem::replace(&mut self.is_open, true) {
            let missing = GROUP_MISSING * self.asked.effort.missing;
            self.met(scratch, |met, place, order| met.open_worthy(place, self.limit, missing, order));
        }
    }

    /// Works on what the query has met.
    fn met(&self, scratch: &mut CellsScratch, work: impl FnOnce(&mut Met, Place<'_>, &mut Vec<u64>)) {
        let CellsScratch { projected_query: query, met, order, .. } = scratch;
        let place = Place { cells: self.cells, kernels: self.kernels, query, squared: self.ready.squared };
        work(met, place, order);
    }

    /// Reads the postings of the first cells in order, up to `part` of them; returns of how many.
    fn read_postings(
        &self,
        part: usize,
        scratch: &mut CellsScratch,
        counters: &mut Counters,
    ) -> Result<usize> {
        let CellsScratch { order, met, extents, postings, .. } = scratch;
        extents.clear();
        let mut bytes = 0;
        for key in &order[..part] {
            let posting = self.cells.posting(met.open[*key as u32 as usize] as usize);
            bytes += posting.len();
            if bytes > READ_BYTES_MAX && !extents.is_empty() {
                break;
            }
            extents.push(Extent { offset: posting.start as u64, len: posting.len() });
        }
        let count = extents.len();
        self.cells.postings.read(extents, postings, counters)?;
        Ok(count)
    }

    /// Scans a posting and refines its candidates.
    fn visit(
        &mut self,
        cell: usize,
        posting: &[u8],
        scratch: &mut CellsScratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let distance = scratch.met.distances[cell];
        let bounds = Bounds {
            base: distance,
            step: self.ready.step,
            bias: self.ready.bias,
            slack: self.asked.effort.slack * distance.sqrt(),
            threshold: self.limit,
        };
        scratch.candidates.clear();
        self.kernels.nibble_scan(&scratch.table, posting, &bounds, &mut scratch.candidates);
        counters.scored += u64::from(self.cells.starts[cell + 1] - self.cells.starts[cell]) * 32;
        let CellsScratch { candidates, picked, pending, keys, seen, marked, .. } = scratch;
        let vectors = self.cells.layout.vectors;
        if let Some(id) = candidates.ids.iter().find(|id| **id >= vectors) {
            return Err(self.cells.damaged(format!("a posting names vector {id} of {vectors}")));
        }
        let fresh = candidates.ids.iter().zip(&candidates.bounds).filter(|(id, _)| {
            let (word, bit) = (**id as usize / 64, 1_u64 << (**id % 64));
            seen[word] & bit == 0 && self.filter.is_none_or(|(allow, doc_of)| allow.contains(doc_of(**id)))
        });
        if self.limit.is_finite() {
            let rows = self.cells.fine_rows.at_hand();
            if rows.is_some() {
                // The rows of these are asked for, and those of the posting before are refined.
                std::mem::swap(picked, pending);
            }
            let first = pending.len();
            pending.extend(fresh.map(|(id, _)| *id));
            let stride = self.cells.fine_stride();
            for id in &pending[first..] {
                seen[*id as usize / 64] |= 1 << (id % 64);
                if let Some(rows) = rows {
                    self.kernels.prefetch(&rows[*id as usize * stride..][..stride]);
                }
            }
            marked.extend_from_slice(&pending[first..]);
            return self.refine(scratch, counters);
        }
        // Nothing rules a vector out yet: the most promising first, so that something soon does.
        keys.clear();
        keys.extend(fresh.map(|(id, bound)| key(*bound, *id)));
        let first = (OPENING * self.asked.depth).min(keys.len());
        if first > 0 && first < keys.len() {
            keys.select_nth_unstable(first - 1);
        }
        for part in [0..first, first..keys.len()] {
            let CellsScratch { picked, keys, seen, marked, .. } = &mut *scratch;
            picked.extend(
                keys[part].iter().filter(|key| distance_of(**key) < self.limit).map(|key| *key as u32),
            );
            picked.iter().for_each(|id| seen[*id as usize / 64] |= 1 << (id % 64));
            marked.extend_from_slice(picked);
            self.refine(scratch, counters)?;
        }
        Ok(())
    }

    /// Gives the picked vectors their refine distances, and the best of them a place; none is picked then.
    fn refine(&mut self, scratch: &mut CellsScratch, counters: &mut Counters) -> Result<()> {
        let CellsScratch {
            query,
            projected_query,
            met,
            half_query,
            sums,
            picked,
            distances,
            best,
            extents,
            rows,
            places,
            ..
        } = scratch;
        if picked.is_empty() {
            return Ok(());
        }
        counters.rescored += picked.len() as u64;
        let rows = match self.cells.fine_rows.at_hand() {
            Some(all) => (all, &**picked),
            None => {
                let len = self.cells.fine_stride();
                extents.clear();
                extents.extend(picked.iter().map(|id| Extent { offset: u64::from(*id) * len as u64, len }));
                self.cells.fine_rows.read(extents, rows, counters)?;
                places.clear();
                places.extend(0..picked.len() as u32);
                (&**rows, &**places)
            }
        };
        match &self.cells.fine {
            Fine::Bytes(refine) => {
                let query = (&*query, self.ready.own_squared);
                refine.distances(self.kernels, query, rows, sums, distances);
            }
            Fine::Halves { halves, .. } => {
                let Walk { cells, kernels, ready, .. } = &*self;
                let place = Place { cells, kernels, query: projected_query, squared: ready.squared };
                rows.1.iter().for_each(|id| met.measure(place, halves.cell(rows.0, *id)));
                let query = (&*half_query, &*met.distances);
                halves.distances(self.kernels, query, rows, sums, distances);
            }
        }
        for (id, distance) in picked.iter().zip(distances.iter()) {
            if *distance < self.limit || best.len() < self.asked.depth {
                best.push(key(*distance, *id));
                if best.len() > self.asked.depth {
                    best.pop();
                }
                if best.len() == self.asked.depth {
                    self.limit = best.peek().map_or(f32::INFINITY, |key| distance_of(*key));
                }
            }
        }
        picked.clear();
        Ok(())
    }
}
