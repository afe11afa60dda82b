//! Ranks vectors by their codes alone, without a look at cells: those of a tenant that has none, and those
//! that a selective filter lets through. Many of these are looked at by their posting codes first
//! ([`singles`](super::singles)).
//!
//! Cost: 30 to 50 ns a vector, whose rows are asked for ahead; from disk one round of reads for each
//! [`READ_BYTES`] of rows, neighbours in one read.

use spandrel_storage::io::Extent;

use super::cells::{Cells, Fine};
use super::gathered::Deleted;
use super::met::Place;
use super::search::{CellsScratch, Query, Ready};
use super::walk::Walk;
use crate::counters::Counters;
use crate::error::Result;
use crate::simd::Kernels;

/// At least so many times as many vectors as are wanted are looked at by their codes in postings first.
const SIFTED: usize = 4;
/// Rows that are ranked at once where they are in memory: those of the next turn are on their way meanwhile.
const TURN_ROWS: usize = 64;
/// Bytes of rows that are read at once.
const READ_BYTES: usize = 1 << 20;

impl Cells {
    /// The nearest of the vectors that `ids` appends, so many at a time, as `(distance, ordinal)`, nearest
    /// first, in `found`; false when the query cannot be compared by codes. They are looked at by their
    /// posting codes first where it is said which are deleted.
    pub(super) fn scan(
        &self,
        kernels: &Kernels,
        asked: Query<'_>,
        (ids, sifts): (impl FnMut(&mut Vec<u32>, usize), Option<Deleted<'_>>),
        scratch: &mut CellsScratch,
        found: &mut Vec<(f32, u32)>,
        counters: &mut Counters,
    ) -> Result<bool> {
        found.clear();
        let sifted = self.singles.as_ref().zip(sifts);
        let at = asked.partition.map(|at| &self.partitions[at]);
        let ready = match &self.fine {
            Fine::Bytes(_) if sifted.is_none() => {
                self.placed(kernels, asked.query, scratch).map(Ready::placed)
            }
            _ => self.ready(kernels, asked.query, scratch),
        };
        let Some(ready) = ready else { return Ok(false) };
        let query = &scratch.projected_query;
        let place = Place { cells: self, bits: None, kernels, query, squared: ready.squared };
        // Only half bytes are relative to cells that are measured one by one, each once.
        let halves = matches!(self.fine, Fine::Halves { .. });
        let of = at.filter(|_| halves).map_or(0..0, |at| at.cells.clone());
        scratch.met.forget(place, of.start as usize..of.end as usize);
        let own_squared = ready.own_squared;
        let mut walk = Walk::new(self, kernels, ready, asked, None);
        let scanned = match sifted {
            Some((singles, deleted)) => walk.scan_sifted((singles, deleted), ids, scratch, counters),
            None => walk.scan(ids, scratch, counters),
        };
        self.take(asked.wanted, own_squared, scratch, found);
        scanned.map(|()| true)
    }

    /// Whether so many vectors are looked at by their posting codes before they are ranked.
    pub(super) fn sifts(&self, partition: Option<usize>, count: u64, depth: usize) -> bool {
        let can = partition.is_some() && self.singles.is_some() && self.fine_rows.at_hand().is_some();
        can && count > (SIFTED * depth) as u64
    }
}

impl Walk<'_> {
    fn scan(
        &mut self,
        mut ids: impl FnMut(&mut Vec<u32>, usize),
        scratch: &mut CellsScratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let stride = self.cells.fine_stride();
        if let Some(rows) = self.cells.fine_rows.at_hand() {
            loop {
                let CellsScratch { picked, pending, .. } = &mut *scratch;
                ids(pending, TURN_ROWS);
                self.ask_for(pending);
                if picked.is_empty() && pending.is_empty() {
                    return Ok(());
                }
                self.rank(rows, true, scratch, counters);
                std::mem::swap(&mut scratch.picked, &mut scratch.pending);
            }
        }
        let mut rows = std::mem::take(&mut scratch.rows);
        let read = loop {
            let CellsScratch { picked, extents, .. } = &mut *scratch;
            ids(picked, (READ_BYTES / stride).max(1));
            if picked.is_empty() {
                break Ok(());
            }
            extents.clear();
            for run in picked.chunk_by(|a, b| a + 1 == *b) {
                let len = run.len() * stride;
                extents.push(Extent { offset: u64::from(run[0]) * stride as u64, len });
            }
            let stopped = self.asked.allow.map_or(Ok(()), |allow| allow.check_stop());
            let read = stopped.and_then(|()| self.cells.fine_rows.read(extents, &mut rows, counters));
            if read.is_err() {
                break read;
            }
            self.rank(&rows, false, scratch, counters);
        };
        scratch.rows = rows;
        read
    }
}
