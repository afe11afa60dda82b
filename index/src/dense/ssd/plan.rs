//! How a search is answered: by an exact scan, by codes one by one, or by a walk over cells.

use std::ops::Range;

use roaring::RoaringBitmap;
use spandrel_storage::DocId;

use super::Ssd;
use super::filter::{Bits, Filter};
use super::partition::{self, Among};
use super::search::{CellsScratch, Effort, Query};
use crate::allow::Allow;
use crate::counters::Counters;
use crate::dense::Ask;
use crate::dense::standing::Reach;
use crate::error::Result;
use crate::mask::Mask;

/// At most this many allowed vectors are ranked by their codes one by one.
const SCAN_MAX: u64 = 2048;
/// Bytes of vectors that are read at once rather than their codes first.
const READ_BYTES: usize = 128 << 10;
/// Results that most searches ask for.
const K: usize = 10;

/// How a search is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Plan {
    /// Every vector that it may find is scored.
    Exact,
    /// Every one is ranked by its code, and the best are scored.
    Scan(Option<usize>),
    /// Cells of a partition are visited.
    Walk(usize, Effort),
}

impl Ssd {
    /// How to search for `k` results.
    pub(super) fn plan(&self, ask: &Ask<'_>, k: usize) -> Plan {
        let vectors = self.flat.ordinals(ask.allow.range.clone());
        let (count, depth) = (ask.allow.count_max(), self.cells.fineness().depth(k) as u64);
        // As many as are ranked are scored.
        if ask.params.exact || count <= depth {
            return Plan::Exact;
        }
        let at = match partition::among(&self.cells.partitions, &vectors) {
            Among::Partition(at) => at,
            Among::None => {
                // Neighbours come in one read, so that the codes of few save nothing.
                let bytes = vectors.len() * self.flat.vector_bytes();
                let in_one_read = !self.cells.is_at_hand() && bytes <= READ_BYTES;
                return if in_one_read { Plan::Exact } else { Plan::Scan(None) };
            }
            Among::Several => return Plan::Exact,
        };
        let of = self.cells.partitions[at].vectors.len() as u64;
        if count <= SCAN_MAX {
            return Plan::Scan(Some(at));
        }
        if k as u64 * 8 >= of {
            return Plan::Exact;
        }
        // The k nearest of those allowed are among as many more of all.
        let share = (ask.allow.share(self.flat.docs()) * self.flat.docs() as f32 / of as f32).min(1.0);
        let wanted = k as f32 / share.max(f32::MIN_POSITIVE);
        let fineness = self.cells.fineness();
        let learned = ask.learned.map(|learned| &learned.0).filter(|learned| learned.has(fineness));
        let calibration = learned.unwrap_or(&self.cells.layout.calibration);
        let effort = calibration.effort(fineness, wanted, ask.params.recall);
        Plan::Walk(
            at,
            match (ask.allow.filter.is_some(), learned) {
                // Which of them a filter lets through may have to do with where they are.
                (true, _) => {
                    let yield_for = Some(ask.params.recall);
                    Effort { slack_far: 1.0, yield_for, ..Effort::new(effort.missing_far, effort.slack) }
                }
                // Deletions hit all cells alike, but nothing was learned with them.
                (false, _) if share < 1.0 => Effort::new(effort.missing_far, effort.slack),
                // What was learned holds for queries wherever they are.
                (false, Some(_)) => Effort::new(effort.missing, effort.slack),
                (false, None) => effort,
            },
        )
    }

    /// Whether the search may find all that is in a partition.
    fn is_unrestricted(&self, ask: &Ask<'_>, partition: usize) -> bool {
        let Allow { range, deleted, filter, .. } = ask.allow;
        let all = self.flat.ordinals(range.clone()) == self.cells.partitions[partition].vectors;
        let passes = |filter: &RoaringBitmap| filter.range_cardinality(range.clone()) == range.len() as u64;
        all && deleted.is_none_or(RoaringBitmap::is_empty) && filter.is_none_or(passes)
    }

    /// Which vectors of a partition a search may find, if not all.
    pub(super) fn filter<'a>(
        &'a self,
        ask: &Ask<'a>,
        at: usize,
        (mask, doc_of): (&'a mut Mask, &'a dyn Fn(u32) -> DocId),
    ) -> Option<Filter<'a>> {
        if self.is_unrestricted(ask, at) {
            return None;
        }
        let (allow, vectors) = (ask.allow, &self.cells.partitions[at].vectors);
        // Deletions alone hit all cells alike, and few docs are tested.
        let all = self.flat.ordinals(allow.range.clone()) == *vectors;
        if !self.cells.layout.ordered || (all && allow.filter.is_none()) {
            return Some(Filter::Docs(allow, doc_of));
        }
        mask.set(allow.filter, &allow.range);
        let (shift, firsts) = (self.flat.doc(vectors.start) - vectors.start, &self.cells.firsts[..]);
        Some(Filter::Bits(Bits { mask, shift, deleted: allow.deleted, firsts, end: vectors.end }))
    }

    /// How vectors are searched where nothing else is asked for.
    pub(super) fn reach_of(&self, vectors: &Range<u32>) -> Option<Reach> {
        if vectors.is_empty() {
            return None;
        }
        Some(match partition::among(&self.cells.partitions, vectors) {
            Among::Partition(_) => Reach::Cells,
            Among::None if vectors.len() > self.cells.fineness().depth(K) => Reach::Ranked,
            Among::None | Among::Several => Reach::Scored,
        })
    }

    /// Searches by codes; false when the query cannot be compared by them.
    pub(super) fn by_codes(
        &self,
        plan: Plan,
        query: &[f32],
        ask: &Ask<'_>,
        k: usize,
        (scratch, found): (&mut CellsScratch, &mut Vec<(f32, u32)>),
        counters: &mut Counters,
    ) -> Result<bool> {
        let (depth, allow) = (self.cells.fineness().depth(k), Some(ask.allow));
        match plan {
            Plan::Exact => Ok(false),
            Plan::Scan(partition) => {
                let asked = Query { query, partition, depth, effort: Effort::ALL, allow };
                if ask.allow.is_unrestricted_within() {
                    let all = self.flat.ordinals(ask.allow.range.clone());
                    return self.cells.scan(self.kernels, asked, all, scratch, found, counters);
                }
                let ids = self.flat.positions(ask.allow.iter()).flatten();
                self.cells.scan(self.kernels, asked, ids, scratch, found, counters)
            }
            Plan::Walk(at, effort) => {
                let asked = Query { query, partition: Some(at), depth, effort, allow };
                let (mut mask, doc_of) = (std::mem::take(&mut scratch.mask), |at| self.flat.doc(at));
                let filter = self.filter(ask, at, (&mut mask, &doc_of));
                let searched = self.cells.search(self.kernels, asked, filter, scratch, found, counters);
                scratch.mask = mask;
                searched
            }
        }
    }
}
