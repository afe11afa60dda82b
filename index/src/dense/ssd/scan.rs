//! Ranks vectors by their codes alone, without a look at cells: those of a tenant that has none, and those
//! that a selective filter lets through.
//!
//! Cost: 10 to 30 ns a vector, whose rows are asked for ahead; from disk one round of reads for each
//! [`READ_BYTES`] of rows, neighbours in one read.

use spandrel_storage::io::Extent;

use super::cells::{Cells, Fine};
use super::met::Place;
use super::search::{CellsScratch, Query, Ready};
use super::walk::Walk;
use crate::counters::Counters;
use crate::error::Result;
use crate::simd::Kernels;

/// Rows that are ranked at once where they are in memory: those of the next turn are on their way meanwhile.
const TURN_ROWS: usize = 32;
/// Bytes of rows that are read at once.
const READ_BYTES: usize = 1 << 20;

impl Cells {
    /// The nearest of the vectors `ids` as `(distance, ordinal)`, nearest first, in `found`; false when the
    /// query cannot be compared by codes.
    pub(super) fn scan(
        &self,
        kernels: &Kernels,
        asked: Query<'_>,
        ids: impl Iterator<Item = u32>,
        scratch: &mut CellsScratch,
        found: &mut Vec<(f32, u32)>,
        counters: &mut Counters,
    ) -> Result<bool> {
        found.clear();
        let ready = match &self.fine {
            Fine::Halves { .. } => self.ready(kernels, asked.query, scratch),
            Fine::Bytes(_) => self.placed(kernels, asked.query, scratch).map(Ready::placed),
        };
        let Some(ready) = ready else { return Ok(false) };
        let query = &scratch.projected_query;
        let place = Place { cells: self, bits: None, kernels, query, squared: ready.squared };
        let of = asked.partition.map_or(0..0, |at| self.partitions[at].cells.clone());
        scratch.met.forget(place, of.start as usize..of.end as usize);
        let scanned = Walk::new(self, kernels, ready, asked, None).scan(ids, scratch, counters);
        scratch.finish(found);
        scanned.map(|()| true)
    }
}

impl Walk<'_> {
    fn scan(
        &mut self,
        mut ids: impl Iterator<Item = u32>,
        scratch: &mut CellsScratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let stride = self.cells.fine_stride();
        if let Some(rows) = self.cells.fine_rows.at_hand() {
            loop {
                let CellsScratch { picked, pending, .. } = &mut *scratch;
                pending.extend(ids.by_ref().take(TURN_ROWS));
                for id in &*pending {
                    self.kernels.prefetch(&rows[*id as usize * stride..][..stride]);
                }
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
            picked.extend(ids.by_ref().take((READ_BYTES / stride).max(1)));
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
