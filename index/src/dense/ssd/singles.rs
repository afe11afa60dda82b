//! The posting codes of vectors one by one: which of those that a filter lets through are worth ranking.
//!
//! Where few vectors of a cell pass, scanning its posting reads all the others, too, and ranking those that
//! pass one by one reads a byte a dimension of each from wherever it lies. Here every vector has a copy of
//! its code in the posting of its cell, by position: a line or two of the cache instead of seven and more,
//! and a bound that rules out most.
//!
//! Memory: 48 bytes a vector of 64 lookups, made from the postings when those are opened. Cost: about 10 ns a
//! vector, most of it the memory's, and 40 ns and more for each that is worth ranking.

use std::ops::Range;

use super::gathered::Deleted;
use super::met::Place;
use super::search::CellsScratch;
use super::walk::{OPENING, Walk, mark};
use crate::counters::Counters;
use crate::error::Result;
use crate::large::Large;
use crate::simd::nibble_rows::Wanted;
use crate::simd::{Kernels, nibble, nibble_rows};

/// Vectors whose codes are looked at together: those of the next turn are on their way meanwhile.
pub(super) const TURN: usize = 64;
/// Vectors of which the most promising are ranked before there is a threshold, at most.
pub(super) const PART: usize = 4_096;
/// Of their bounds so many are looked at to find out which are the most promising.
const SAMPLE: usize = 128;

/// The codes of all vectors, by position.
pub(super) struct Singles {
    rows: Large<u8>,
    stride: usize,
    /// The cell of those that have none.
    outside: u32,
}

/// Bytes of memory for each vector.
pub(super) const fn stride(lookups: usize) -> usize {
    nibble_rows::row_bytes(lookups)
}

impl Singles {
    /// Those of `vectors` that lie in the order of cells, of which each begins at one of `firsts`;
    /// `own_posting` says where in the postings those are that it is the first cell of.
    pub(super) fn of(
        postings: &[u8],
        lookups: usize,
        (firsts, own_posting): (&[u32], impl Fn(usize) -> Range<usize>),
        vectors: usize,
    ) -> Self {
        let (stride, block_bytes) = (stride(lookups), nibble::block_bytes(lookups));
        let mut rows = Large::zeroed(vectors * stride);
        // What is in no posting cannot be ruled out.
        let outside = firsts.len().saturating_sub(1) as u32;
        rows.chunks_exact_mut(stride).for_each(|row| nibble_rows::put_unknown(row, lookups, outside));
        for (cell, own) in (0..).zip(firsts.windows(2)) {
            for block in postings[own_posting(cell as usize)].chunks_exact(block_bytes) {
                for at in 0..nibble::BLOCK_ROWS {
                    let id = nibble::factors(block, lookups, at).id;
                    if (own[0]..own[1]).contains(&id) {
                        let row = &mut rows[id as usize * stride..][..stride];
                        nibble_rows::put_row(row, block, lookups, at, cell);
                    }
                }
            }
        }
        Self { rows, stride, outside }
    }

    /// The row of a vector.
    #[inline(always)]
    pub(super) fn row(&self, id: u32) -> &[u8] {
        &self.rows[id as usize * self.stride..][..self.stride]
    }

    /// Bytes of a row.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.rows.bytes()
    }

    /// The rows of these are to be at hand soon.
    pub(super) fn ask_for(&self, kernels: &Kernels, ids: &[u32]) {
        for id in ids {
            kernels.prefetch(self.row(*id));
        }
    }

    /// The cells of ascending vectors, each once, in `cells`.
    pub(super) fn cells(&self, ids: &[u32], cells: &mut Vec<u32>) {
        cells.clear();
        cells.resize(ids.len(), 0);
        let (mut count, mut before) = (0, u32::MAX);
        // Without a branch: whether two lie in one cell cannot be foreseen.
        for id in ids {
            let cell = nibble_rows::factors(self.row(*id)).1;
            cells[count] = cell;
            count += usize::from((cell != before) & (cell != self.outside));
            before = cell;
        }
        cells.truncate(count);
    }
}

impl Walk<'_> {
    /// Appends the bounds of those of some rows that are picked, whose cells' distances are known.
    pub(super) fn bound(
        &self,
        rows: &[u8],
        picks: &[u32],
        (table, distances): (&[u8], &[f32]),
        to: &mut Vec<f32>,
    ) {
        let first = to.len();
        to.resize(first + picks.len(), 0.0);
        let (step, bias, slack) = (self.ready.step, self.ready.bias, self.slack);
        let bounds = nibble_rows::Bounds { distances, step, bias, slack };
        self.kernels.nibble_bounds_picked(table, rows, picks, &bounds, &mut to[first..]);
    }

    /// Of the first `count` of what is strewn, those wait to be refined that are worth it.
    pub(super) fn sift(&self, count: usize, scratch: &mut CellsScratch) {
        let Some(singles) = self.cells.singles.as_ref().filter(|_| count > 0) else { return };
        let CellsScratch { strewn, bounds, pending, seen, marked, met, table, .. } = scratch;
        bounds.clear();
        self.bound(&singles.rows, &strewn[..count], (table, &met.distances), bounds);
        let first = pending.len();
        // A vector may have been found in another posting since.
        let worthy = strewn.drain(..count).zip(&*bounds).filter(|(id, bound)| {
            !rules_out(**bound, self.limit) && seen[*id as usize / 64] >> (id % 64) & 1 == 0
        });
        pending.extend(worthy.map(|(id, _)| id));
        self.ask_for(&pending[first..]);
        mark(&pending[first..], seen, marked);
    }

    /// Ranks the ascending vectors of a partition that `ids` appends, so many at a time, but those that are
    /// deleted or that their codes rule out.
    pub(super) fn scan_sifted(
        &mut self,
        (singles, deleted): (&Singles, Deleted<'_>),
        mut ids: impl FnMut(&mut Vec<u32>, usize),
        scratch: &mut CellsScratch,
        counters: &mut Counters,
    ) -> Result<()> {
        loop {
            if let Some(allow) = self.asked.allow {
                allow.check_stop()?;
            }
            let CellsScratch { strewn, bounds, met, table, places: cells, projected_query, .. } =
                &mut *scratch;
            let query = &*projected_query;
            strewn.clear();
            bounds.clear();
            ids(strewn, PART);
            if strewn.is_empty() {
                return Ok(());
            }
            counters.scored += strewn.len() as u64;
            let (kernels, squared) = (self.kernels, self.ready.squared);
            let place = Place { cells: self.cells, bits: None, kernels, query, squared };
            let mut turns = strewn.chunks(TURN).peekable();
            singles.ask_for(self.kernels, turns.peek().copied().unwrap_or_default());
            while let Some(turn) = turns.next() {
                singles.ask_for(self.kernels, turns.peek().copied().unwrap_or_default());
                singles.cells(turn, cells);
                met.measure_all(place, cells);
                self.bound(&singles.rows, turn, (table, &met.distances), bounds);
            }
            self.pick_worthy(deleted, scratch, counters);
        }
    }

    /// Ranks those of what is strewn that are worth it by their bounds; the most promising first, as long as
    /// nothing rules one out.
    pub(super) fn pick_worthy(
        &mut self,
        deleted: Deleted<'_>,
        scratch: &mut CellsScratch,
        counters: &mut Counters,
    ) {
        let Some(rows) = self.cells.fine_rows.at_hand() else { return };
        let leave_out = |picked: &mut Vec<u32>| {
            if let Some(docs) = deleted.docs {
                picked.retain(|id| !docs.contains((deleted.doc_of)(*id)));
            }
        };
        let mut from = f32::NEG_INFINITY;
        let mut pick = |walk: &mut Self, wanted: Wanted, scratch: &mut CellsScratch| {
            let CellsScratch { bounds, strewn, picked, .. } = &mut *scratch;
            walk.kernels.pick_wanted(strewn, bounds, wanted, picked);
            leave_out(picked);
            walk.rank(rows, true, scratch, counters);
        };
        if !self.has_limit() {
            let CellsScratch { bounds, distances: sample, .. } = &mut *scratch;
            // What is no number, of bytes that are damaged, tells nothing.
            from = promising(bounds, 2 * OPENING * self.asked.depth, sample).max(f32::NEG_INFINITY);
            pick(self, Wanted { from: f32::NEG_INFINITY, below: from, unknown: false }, scratch);
        }
        // As long as there is no limit, all others. A bound that is no number rules nothing out.
        pick(self, Wanted { from, below: self.limit, unknown: true }, scratch);
    }
}

/// Whether a bound rules a vector out: one that is no number does not.
#[inline(always)]
fn rules_out(bound: f32, limit: f32) -> bool {
    bound >= limit
}

/// What about `count` of the bounds are below, from a sample of them.
fn promising(bounds: &[f32], count: usize, sample: &mut Vec<f32>) -> f32 {
    if count >= bounds.len() {
        return f32::INFINITY;
    }
    sample.clear();
    sample.extend(bounds.iter().step_by(bounds.len().div_ceil(SAMPLE)));
    let at = (count * sample.len() / bounds.len()).min(sample.len() - 1);
    *sample.select_nth_unstable_by(at, f32::total_cmp).1
}
