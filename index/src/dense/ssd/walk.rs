//! One search's walk over cells: chooses them, scans their postings, refines what is found.
//!
//! A round chooses cells ([`Walk::choose`]), scans each ([`Walk::visit`]) and refines candidates
//! ([`Walk::refine`]). In memory the candidates of a posting are refined when the next one has been scanned:
//! their rows are on the way by then. On disk those of a round are, with all reads in flight together.
//! [`together`](super::together) takes the same steps for many queries at a time.

use std::ops::Range;

use crate::counters::Counters;
use crate::error::Result;
use crate::simd::Kernels;
use crate::simd::nibble::{BLOCK_ROWS, Bounds};
use spandrel_storage::io::Extent;

use super::cells::Cells;
use super::filter::{Bits, Filter};
use super::met::{Met, Place, enough, least, least_in_any_order};
use super::search::{CellsScratch, Effort, Query, Ready, distance_of, key};
use super::singles::TURN;

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
pub(super) const OPENING: usize = 2;
/// A filtered walk goes on for one more in so many cells that it has visited, as long as more than such a
/// share of what may be missed came from as many before.
const LONGER: usize = 2;
const YIELD: f32 = 0.5;
/// A walk that has visited so many cells, and one in so many of all, comes to most of those that hold
/// something: what it would find by a second cell it finds by the first, and of the others it scans only what
/// they are the first cell of. Measured on ottqa-100k: no recall is lost without a filter, up to 0.002 with
/// one (rows far from the query), and the slowest hundredth takes 6 to 13 % less.
const OWN_FROM: usize = 32;
const OWN_SHARE: usize = 16;
/// Bytes of postings that are read at once, at most.
const READ_BYTES_MAX: usize = 4 << 20;
/// Bytes of the next posting that are asked for while this one is scanned, at most: most of it, for the CPU's
/// own reading ahead begins anew at every page. Against 1,024 this takes 4 % from the middle search and 10 %
/// from the slowest hundredth (AMD EPYC, Zen 3).
const PREFETCH_BYTES: usize = 8192;

/// One walk over the cells.
pub(super) struct Walk<'a> {
    pub(super) cells: &'a Cells,
    pub(super) kernels: &'a Kernels,
    pub(super) ready: Ready,
    pub(super) asked: Query<'a>,
    filter: Option<Filter<'a>>,
    /// Squared distance of the worst of the best, once there are enough ([`rank`](super::rank)).
    pub(super) limit: f32,
    /// Share of the wanted vectors that may be in the cells left out, and the slack of bounds.
    missing: f32,
    pub(super) slack: f32,
    /// Whether all groups are open that are worth it.
    is_open: bool,
    /// Cells chosen so far.
    visited: usize,
    /// Of a filtered walk: the cells chosen when its best were noted, and how many more of the best came from
    /// those chosen between that and the time before.
    noted: usize,
    yielded: usize,
    /// How many cells are visited until only those vectors matter of which a cell is the first.
    own_from: usize,
}

impl<'a> Walk<'a> {
    /// A walk that has visited nothing, for a query that is ready and has met groups.
    pub(super) fn new(
        cells: &'a Cells,
        kernels: &'a Kernels,
        ready: Ready,
        asked: Query<'a>,
        filter: Option<Filter<'a>>,
    ) -> Self {
        let (limit, Effort { missing_far: missing, slack_far: slack, .. }) = (f32::INFINITY, asked.effort);
        let cells_of = asked.partition.map_or(0, |at| cells.partitions[at].cells.len());
        let own_from = OWN_FROM.max(cells_of / OWN_SHARE);
        Self {
            cells,
            kernels,
            ready,
            asked,
            filter,
            limit,
            missing,
            slack,
            is_open: false,
            visited: 0,
            noted: 0,
            yielded: 0,
            own_from,
        }
    }

    /// Visits cells until the rest is not worth it.
    pub(super) fn run(&mut self, scratch: &mut CellsScratch, counters: &mut Counters) -> Result<()> {
        loop {
            let mut part = self.choose(scratch)?;
            if part == 0 {
                return Ok(());
            }
            if let Some(all) = self.cells.postings.at_hand() {
                for at in 0..part {
                    let next = (at + 1 < part).then(|| scratch.cell(at + 1));
                    if let Some(next) = next.filter(|next| !self.passes_by(*next, &scratch.met)) {
                        prefetch(self.kernels, &all[self.posting(next, at + 1)]);
                    }
                    let cell = scratch.cell(at);
                    self.visit(cell, &all[self.posting(cell, at)], scratch, counters)?;
                    self.refine(scratch, counters)?;
                    self.rest(scratch);
                }
            } else {
                part = self.read_postings(part, scratch, counters)?;
                let postings = std::mem::take(&mut scratch.postings);
                let mut rest = &postings[..];
                for at in 0..part {
                    let cell = scratch.cell(at);
                    let len =
                        if self.passes_by(cell, &scratch.met) { 0 } else { self.posting(cell, at).len() };
                    let posting = rest.split_off(..len).unwrap_or_default();
                    self.visit(cell, posting, scratch, counters)?;
                    self.refine(scratch, counters)?;
                    self.rest(scratch);
                }
                scratch.postings = postings;
            }
            self.chosen(part, scratch);
            self.settle(scratch);
            self.refine(scratch, counters)?;
        }
    }

    /// Puts the cells to visit next at the front of the order; returns how many, none at the end.
    pub(super) fn choose(&mut self, scratch: &mut CellsScratch) -> Result<usize> {
        self.note(scratch);
        loop {
            if let Some(allow) = self.asked.allow {
                allow.check_stop()?;
            }
            let visited = self.visited;
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
                met.odds.choose(self.kernels, self.limit, self.missing, order)
            } else {
                // By distance, as long as there is nothing to compare with.
                met.order_by_distance(order);
                f32::INFINITY
            };
            let part = least(order, wanted);
            if visited == 0 && part > 0 {
                met.nearest = distance_of(order[0]);
                let usual = self.cells.layout.calibration.usual;
                (self.missing, self.slack) = self.asked.effort.at(met.nearest, usual);
            }
            // As many as are counted on where recall was measured, also of one that walks with others.
            let nearest = NEAREST.saturating_sub(visited).min(part);
            let part = enough(&order[..part], &met.odds, left).max(nearest);
            if part > 0 {
                return Ok(part);
            }
            if self.is_open {
                return Ok(if self.yields() { self.longer(scratch) } else { 0 });
            }
            self.open_worthy(scratch);
        }
    }

    /// Counts how many of the best came from the cells that were visited lately, where that matters.
    fn note(&mut self, scratch: &mut CellsScratch) {
        if self.asked.effort.yield_for.is_none() || self.limit.is_infinite() {
            return;
        }
        let CellsScratch { best, before, .. } = scratch;
        let new = best.iter().filter(|key| before.binary_search(&(**key as u32)).is_err()).count();
        // Few cells say little, unless they hold something.
        if self.visited < self.noted + self.noted / LONGER {
            self.yielded = self.yielded.max(new);
            return;
        }
        (self.noted, self.yielded) = (self.visited, new);
        before.clear();
        before.extend(best.iter().map(|key| *key as u32));
        before.sort_unstable();
    }

    /// Whether a good part of what was found came from the cells that were visited last. The odds are those
    /// of vectors wherever they lie in a cell: those that a filter lets through may all lie at its far end.
    fn yields(&self) -> bool {
        let enough = |recall| YIELD * (1.0 - recall) * self.asked.depth as f32;
        self.asked.effort.yield_for.is_some_and(|recall| self.yielded as f32 > enough(recall))
    }

    /// Puts some more cells at the front of the order, however little is expected of them; returns how many.
    fn longer(&mut self, scratch: &mut CellsScratch) -> usize {
        let wanted = PART.max(self.visited / LONGER);
        self.met(scratch, |met, place, order| met.open_more(place, self.limit, wanted, order));
        let CellsScratch { met, order, .. } = scratch;
        met.odds.choose(self.kernels, self.limit, 0.0, order);
        // All of them are visited, and there is a limit: which comes first matters little.
        least_in_any_order(order, wanted)
    }

    /// The first cells in order are as good as visited.
    pub(super) fn chosen(&mut self, part: usize, scratch: &mut CellsScratch) {
        (0..part).for_each(|at| scratch.met.odds.visit(scratch.order[at] as u32 as usize));
        self.visited += part;
    }

    /// Everything that waits to be refined is to be refined now; whether there is anything.
    pub(super) fn settle(&self, scratch: &mut CellsScratch) -> bool {
        self.sift(scratch.strewn.len(), scratch);
        let CellsScratch { picked, pending, .. } = scratch;
        picked.append(pending);
        !picked.is_empty()
    }

    /// Whether as many were found as are wanted.
    pub(super) fn has_limit(&self) -> bool {
        self.limit.is_finite()
    }

    /// Opens, once, all groups but those that may be missed.
    fn open_worthy(&mut self, scratch: &mut CellsScratch) {
        if !std::mem::replace(&mut self.is_open, true) {
            let missing = GROUP_MISSING * self.missing;
            self.met(scratch, |met, place, order| met.open_worthy(place, self.limit, missing, order));
        }
    }

    /// Works on what the query has met.
    fn met(&self, scratch: &mut CellsScratch, work: impl FnOnce(&mut Met, Place<'_>, &mut Vec<u64>)) {
        let CellsScratch { projected_query: query, met, order, .. } = scratch;
        let (kernels, bits) = (self.kernels, self.bits());
        let place = Place { cells: self.cells, bits, kernels, query, squared: self.ready.squared };
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
        let (mut bytes, mut count) = (0, 0);
        for key in &order[..part] {
            let cell = met.open[*key as u32 as usize] as usize;
            let posting = if self.passes_by(cell, met) { 0..0 } else { self.posting(cell, count) };
            bytes += posting.len();
            if bytes > READ_BYTES_MAX && count > 0 {
                break;
            }
            count += 1;
            if !posting.is_empty() {
                extents.push(Extent { offset: posting.start as u64, len: posting.len() });
            }
        }
        self.cells.postings.read(extents, postings, counters)?;
        Ok(count)
    }

    /// What is scanned of the cell at a place of the order.
    pub(super) fn posting(&self, cell: usize, at: usize) -> Range<usize> {
        if self.visited + at < self.own_from {
            self.cells.posting(cell)
        } else {
            self.cells.own_posting(cell)
        }
    }

    fn bits(&self) -> Option<&Bits<'_>> {
        self.filter.as_ref().and_then(Filter::bits)
    }

    /// Whether so few vectors of a cell may be found that its posting is of no use.
    fn passes_by(&self, cell: usize, met: &Met) -> bool {
        self.bits().is_some() && met.few[cell]
    }

    /// The vectors of a cell that may be found wait to be refined, and those of the one before are.
    fn pick_few(&self, cell: usize, scratch: &mut CellsScratch, counters: &mut Counters) {
        let Some(bits) = self.bits() else { return };
        if let Some(singles) = self.cells.singles.as_ref().filter(|_| self.limit.is_finite()) {
            let CellsScratch { picked, pending, seen, strewn, .. } = &mut *scratch;
            if pending.len() >= TURN / 2 {
                std::mem::swap(picked, pending);
            }
            let few = unseen(bits, cell, seen, strewn);
            counters.scored += few.len() as u64;
            singles.ask_for(self.kernels, few);
            if strewn.len() >= 2 * TURN {
                self.sift(TURN, scratch);
            }
            return;
        }
        let CellsScratch { picked, pending, seen, marked, .. } = scratch;
        let rows = self.cells.fine_rows.at_hand();
        if rows.is_some() {
            std::mem::swap(picked, pending);
        }
        let few = unseen(bits, cell, seen, pending);
        counters.scored += few.len() as u64;
        self.ask_for(few);
        mark(few, seen, marked);
    }

    /// Rows that are going to be refined are to be at hand then.
    pub(super) fn ask_for(&self, ids: &[u32]) {
        let stride = self.cells.fine_stride();
        if let Some(rows) = self.cells.fine_rows.at_hand() {
            for id in ids {
                self.kernels.prefetch(&rows[*id as usize * stride..][..stride]);
            }
        }
    }

    /// Scans a posting: its candidates are picked, or wait until the next one is scanned.
    pub(super) fn visit(
        &mut self,
        cell: usize,
        posting: &[u8],
        scratch: &mut CellsScratch,
        counters: &mut Counters,
    ) -> Result<()> {
        if self.passes_by(cell, &scratch.met) {
            self.pick_few(cell, scratch, counters);
            return Ok(());
        }
        let distance = scratch.met.distances[cell];
        let bounds = Bounds {
            base: distance,
            step: self.ready.step,
            bias: self.ready.bias,
            slack: self.slack * distance.sqrt(),
            threshold: self.limit,
        };
        scratch.candidates.clear();
        self.kernels.nibble_scan(&scratch.table, posting, &bounds, &mut scratch.candidates);
        counters.scored += (posting.len() / self.cells.block_bytes() * BLOCK_ROWS) as u64;
        let CellsScratch { candidates, picked, pending, keys, seen, marked, .. } = scratch;
        // Of a partition, that is, of a tenant: no other is ever found, whatever is on disk.
        let here = self.asked.partition.map_or(0..0, |at| self.cells.partitions[at].vectors.clone());
        if let Some(id) = candidates.ids.iter().find(|id| !here.contains(id)) {
            return Err(self.cells.damaged(format!("a posting of vectors {here:?} names vector {id}")));
        }
        let fresh = candidates.ids.iter().zip(&candidates.bounds).filter(|(id, _)| {
            let (word, bit) = (**id as usize / 64, 1_u64 << (**id % 64));
            seen[word] & bit == 0 && self.filter.is_none_or(|filter| filter.contains(**id))
        });
        if self.limit.is_finite() {
            if self.cells.is_at_hand() {
                // The rows of these are asked for, and those of the posting before are refined.
                std::mem::swap(picked, pending);
            }
            let first = pending.len();
            pending.extend(fresh.map(|(id, _)| *id));
            self.ask_for(&pending[first..]);
            mark(&pending[first..], seen, marked);
            return Ok(());
        }
        // Nothing rules a vector out yet: the most promising first, so that something soon does.
        keys.clear();
        keys.extend(fresh.map(|(id, bound)| key(*bound, *id)));
        let first = (OPENING * self.asked.depth).min(keys.len());
        if first > 0 && first < keys.len() {
            keys.select_nth_unstable(first - 1);
        }
        picked.extend(keys.drain(..first).map(|key| key as u32));
        mark(picked, seen, marked);
        Ok(())
    }

    /// What was not promising enough to be picked first waits, where it is still promising.
    pub(super) fn rest(&self, scratch: &mut CellsScratch) {
        let CellsScratch { pending, keys, seen, marked, .. } = scratch;
        if !keys.is_empty() {
            let first = pending.len();
            let near = keys.drain(..).filter(|key| distance_of(*key) < self.limit);
            pending.extend(near.map(|key| key as u32));
            mark(&pending[first..], seen, marked);
        }
    }
}

/// Asks for a posting, or the beginning of a long one.
pub(super) fn prefetch(kernels: &Kernels, posting: &[u8]) {
    kernels.prefetch(&posting[..posting.len().min(PREFETCH_BYTES)]);
}

/// Appends the vectors of a cell that may be found and were not picked yet; returns them.
fn unseen<'a>(bits: &Bits<'_>, cell: usize, seen: &[u64], to: &'a mut Vec<u32>) -> &'a [u32] {
    let first = to.len();
    bits.each(cell as u32, |id| {
        if seen[id as usize / 64] >> (id % 64) & 1 == 0 {
            to.push(id);
        }
    });
    &to[first..]
}

/// Notes that these vectors were picked.
pub(super) fn mark(ids: &[u32], seen: &mut [u64], marked: &mut Vec<u32>) {
    ids.iter().for_each(|id| seen[*id as usize / 64] |= 1 << (id % 64));
    marked.extend_from_slice(ids);
}
