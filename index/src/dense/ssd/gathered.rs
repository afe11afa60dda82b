//! The posting codes of what a filter lets through, side by side: for filters that are asked again and again.
//!
//! One by one ([`singles`](super::singles)), such codes are strewn over memory and most of the time of
//! looking at them is spent waiting. A copy of them in order, with the cells that they are of, is read from
//! end to end. What is found is the same, bit for bit. Whoever keeps one says which docs it is of; those that
//! were deleted since are left out when they would be ranked.
//!
//! Memory: 52 bytes a vector of 64 lookups, and up to 4 more. Cost: 3 to 4 ns a vector, and 40 and more for
//! each that is worth ranking; 30 ns a vector to make.

use roaring::RoaringBitmap;
use spandrel_storage::DocId;

use super::cells::Cells;
use super::met::Place;
use super::search::{CellsScratch, Query};
use super::singles::{PART, Singles, TURN};
use super::walk::Walk;
use crate::counters::Counters;
use crate::error::Result;
use crate::simd::Kernels;

/// Codes of some vectors of one field of one segment.
pub struct Gathered {
    /// The vectors, ascending.
    ids: Vec<u32>,
    /// The row of each, as it is in [`Singles`].
    rows: Vec<u8>,
    /// The cells of those of each part, and where those of the next begin.
    cells: Vec<u32>,
    ends: Vec<usize>,
}

/// Docs that must not be found although they are among those that are looked at.
#[derive(Clone, Copy)]
pub(super) struct Deleted<'a> {
    pub(super) docs: Option<&'a RoaringBitmap>,
    pub(super) doc_of: &'a dyn Fn(u32) -> DocId,
}

impl Gathered {
    /// A copy of the codes of ascending vectors.
    pub(super) fn of(kernels: &Kernels, singles: &Singles, ids: Vec<u32>) -> Self {
        let mut rows = Vec::with_capacity(ids.len() * singles.stride());
        let mut turns = ids.chunks(TURN).peekable();
        while let Some(turn) = turns.next() {
            singles.ask_for(kernels, turns.peek().copied().unwrap_or_default());
            turn.iter().for_each(|id| rows.extend_from_slice(singles.row(*id)));
        }
        let (mut cells, mut ends, mut part) = (Vec::new(), Vec::new(), Vec::new());
        for ids in ids.chunks(PART) {
            singles.cells(ids, &mut part);
            cells.extend_from_slice(&part);
            ends.push(cells.len());
        }
        cells.shrink_to_fit();
        Self { ids, rows, cells, ends }
    }

    /// Bytes of memory for each vector, at most.
    pub(super) fn vector_bytes(singles: &Singles) -> usize {
        singles.stride() + 2 * size_of::<u32>()
    }

    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.rows.capacity()
            + (self.ids.capacity() + self.cells.capacity()) * size_of::<u32>()
            + self.ends.capacity() * size_of::<usize>()
    }
}

impl Cells {
    /// As [`scan`](Self::scan), of vectors that were gathered; they are of the partition that is asked.
    pub(super) fn scan_gathered(
        &self,
        kernels: &Kernels,
        asked: Query<'_>,
        (gathered, deleted): (&Gathered, Deleted<'_>),
        scratch: &mut CellsScratch,
        found: &mut Vec<(f32, u32)>,
        counters: &mut Counters,
    ) -> Result<bool> {
        found.clear();
        let Some(ready) = self.ready(kernels, asked.query, scratch) else { return Ok(false) };
        let query = &scratch.projected_query;
        let place = Place { cells: self, bits: None, kernels, query, squared: ready.squared };
        scratch.met.forget(place, 0..0);
        let own_squared = ready.own_squared;
        let mut walk = Walk::new(self, kernels, ready, asked, None);
        let scanned = walk.scan_gathered((gathered, deleted), scratch, counters);
        self.take(asked.wanted, own_squared, scratch, found);
        scanned.map(|()| true)
    }
}

impl Walk<'_> {
    fn scan_gathered(
        &mut self,
        (gathered, deleted): (&Gathered, Deleted<'_>),
        scratch: &mut CellsScratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let mut first = 0;
        let stride = gathered.rows.len() / gathered.ids.len().max(1);
        let parts = gathered.ids.chunks(PART).zip(gathered.rows.chunks(PART * stride.max(1)));
        for ((ids, codes), end) in parts.zip(&gathered.ends) {
            if let Some(allow) = self.asked.allow {
                allow.check_stop()?;
            }
            let CellsScratch { strewn, bounds, met, table, places, projected_query, .. } = &mut *scratch;
            let (kernels, squared, query) = (self.kernels, self.ready.squared, &*projected_query);
            let place = Place { cells: self.cells, bits: None, kernels, query, squared };
            met.measure_all(place, &gathered.cells[first..*end]);
            first = *end;
            counters.scored += ids.len() as u64;
            strewn.clear();
            strewn.extend_from_slice(ids);
            places.clear();
            places.extend(0..ids.len() as u32);
            bounds.clear();
            self.bound(codes, places, (table, &met.distances), bounds);
            self.pick_worthy(deleted, scratch, counters);
        }
        Ok(())
    }
}
