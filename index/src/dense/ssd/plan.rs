//! How a search is answered: by an exact scan, by codes one by one, or by a walk over cells.

use roaring::RoaringBitmap;
use spandrel_storage::DocId;

use super::Ssd;
use super::cost::{self, Read};
use super::filter::{Bits, Filter, few};
use super::gathered::Deleted;
use super::partition::{self, Among};
use super::search::{CellsScratch, Effort, Query};
use crate::allow::Allow;
use crate::counters::Counters;
use crate::dense::Ask;
use crate::error::Result;
use crate::mask::Mask;

/// Where a filter may let through far ones only, distances lie the closer together the further off they are,
/// and codes tell them apart no better: so many more are kept, and bounds have a slack of [`errors`]. Of
/// those kept, what follows the results by more than codes can be wrong about is not scored. A bound of slack
/// 1 is out by the whole length of what codes leave out, which in so many dimensions is as many standard
/// errors as the root of those.
const FILTERED_MORE: usize = 32;

/// How many standard errors an estimate is out by at most but with probability `missed` of a half or less:
/// one at the very edge is missed so often, others less. To two digits (Lin, "Approximating the normal tail
/// probability and its inverse for use on a pocket calculator", 1989).
fn errors(missed: f32) -> f32 {
    let log = (2.0 * missed.clamp(0.0, 0.5)).ln();
    ((0.717_f32.powi(2) - 4.0 * 0.416 * log).sqrt() - 0.717) / (2.0 * 0.416)
}

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

/// How many vectors are scored besides those that usually hold the nearest.
fn more(ask: &Ask<'_>) -> usize {
    if ask.allow.filter.is_some() { FILTERED_MORE } else { 0 }
}

/// The plan that takes less; the first of two that take the same.
fn less(a: (Plan, f32), b: (Plan, f32)) -> (Plan, f32) {
    if b.1 < a.1 { b } else { a }
}

impl Ssd {
    /// How to search for `k` results.
    pub(super) fn plan(&self, ask: &Ask<'_>, k: usize) -> Plan {
        self.choose(ask, k).0
    }

    /// How to search for `k` results, and what that is expected to take, in nanoseconds: the least of what
    /// the plans take that there are.
    pub(super) fn choose(&self, ask: &Ask<'_>, k: usize) -> (Plan, f32) {
        let vectors = self.flat.ordinals(ask.allow.range.clone());
        let (count, depth) = (ask.allow.count_max(), self.cells.fineness().depth(k));
        let left = self.cells.left(k, depth, more(ask)) as u64;
        let in_a_row = ask.allow.is_unrestricted_within();
        let scored = |count: u64, in_a_row: bool| Read {
            count,
            bytes: self.flat.vector_bytes(),
            at_hand: self.flat.is_at_hand(),
            in_a_row,
        };
        let exact = (Plan::Exact, cost::scored_ns(scored(count, in_a_row)));
        // About as many as are ranked would be scored.
        if ask.params.exact || (self.rescores(ask) && count <= left) {
            return exact;
        }
        let best = scored(if self.rescores(ask) { left } else { 0 }, false);
        let codes =
            Read { count, bytes: self.cells.fine_stride(), at_hand: self.cells.is_at_hand(), in_a_row };
        let ranked = cost::ranked_ns(codes, best);
        let at = match partition::among(&self.cells.partitions, &vectors) {
            Among::Partition(at) => at,
            Among::None => return less(exact, (Plan::Scan(None), ranked)),
            Among::Several => return exact,
        };
        let of = self.cells.partitions[at].vectors.len() as u32;
        let sifted = self.cells.sifts(Some(at), count, depth + more(ask));
        // Whether they are gathered changes nothing: what is found is not to depend on what was asked before.
        let ranked = if sifted { cost::sifted_ns(count, codes, best) } else { ranked };
        let scan = less(exact, (Plan::Scan(Some(at)), ranked));
        if k as u64 * 8 >= u64::from(of) {
            return scan;
        }
        // However few cells it visits.
        if scan.1 <= cost::walk_least_ns(best) {
            return scan;
        }
        let (effort, scanned) = self.effort(ask, k, of);
        let cells = self.cells.partitions[at].cells.len();
        let codes = (codes, self.cells.singles.is_some());
        less(scan, (Plan::Walk(at, effort), cost::walked_ns(scanned, (of, cells), codes, best)))
    }

    /// What is looked for by codes.
    pub(super) fn asked<'a>(
        &self,
        query: &'a [f32],
        ask: &'a Ask<'_>,
        k: usize,
        (partition, effort): (Option<usize>, Effort),
    ) -> Query<'a> {
        let (depth, allow) = (self.cells.fineness().depth(k), Some(ask.allow));
        Query { query, partition, wanted: k, depth, more: more(ask), effort, allow }
    }

    /// How far to go for `k` results in a partition of `of` vectors, and about how many are scanned then.
    fn effort(&self, ask: &Ask<'_>, k: usize, of: u32) -> (Effort, f32) {
        // The k nearest of those allowed are among as many more of all.
        let share = (ask.allow.share(self.flat.docs()) * self.flat.docs() as f32 / of as f32).min(1.0);
        let wanted = k as f32 / share.max(f32::MIN_POSITIVE);
        let fineness = self.cells.fineness();
        let learned = ask.learned.map(|learned| &learned.0).filter(|learned| learned.has(fineness));
        let calibration = learned.unwrap_or(&self.cells.layout.calibration);
        let (effort, scanned) = calibration.effort(fineness, wanted, ask.params.recall);
        let effort = match (ask.allow.filter.is_some(), learned) {
            // Which of them a filter lets through may have to do with where they are.
            (true, _) => {
                let yield_for = Some(ask.params.recall);
                let slack = effort.slack.max(self.filtered_slack(ask.params.recall));
                Effort { yield_for, ..Effort::new(effort.missing_far, slack) }
            }
            // Deletions hit all cells alike, but nothing was learned with them.
            (false, _) if share < 1.0 => Effort::new(effort.missing_far, effort.slack),
            // What was learned holds for queries wherever they are.
            (false, Some(_)) => Effort::new(effort.missing, effort.slack),
            (false, None) => effort,
        };
        (effort, scanned)
    }

    /// The slack of bounds where a filter may let through far vectors only, for this recall.
    fn filtered_slack(&self, recall: f32) -> f32 {
        (errors(1.0 - recall) / (self.cells.layout.coded() as f32).sqrt()).min(1.0)
    }

    /// Whether the search may find all that is in a partition.
    fn is_unrestricted(&self, ask: &Ask<'_>, partition: usize) -> bool {
        let Allow { range, deleted, filter, .. } = ask.allow;
        let all = self.flat.ordinals(range.clone()) == self.cells.partitions[partition].vectors;
        all && filter.is_none() && deleted.is_none_or(RoaringBitmap::is_empty)
    }

    /// Whether a scan looks at posting codes before it ranks.
    pub(super) fn sifts(&self, ask: &Ask<'_>, asked: Query<'_>) -> bool {
        self.cells.sifts(asked.partition, ask.allow.count_max(), asked.depth + asked.more)
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
        let (deleted, end, few) = (allow.deleted, vectors.end, few(self.cells.singles.is_some()));
        Some(Filter::Bits(Bits { mask, shift, deleted, firsts, end, few }))
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
        match plan {
            Plan::Exact => Ok(false),
            Plan::Scan(partition) => {
                let effort = Effort::new(0.0, self.filtered_slack(ask.params.recall));
                let asked = self.asked(query, ask, k, (partition, effort));
                if ask.allow.is_unrestricted_within() {
                    let mut all = self.flat.ordinals(ask.allow.range.clone());
                    let ids = |ids: &mut Vec<u32>, count: usize| ids.extend(all.by_ref().take(count));
                    return self.cells.scan(self.kernels, asked, (ids, None), scratch, found, counters);
                }
                // What is sifted is only then looked up among the deleted when it would be ranked.
                let sifts = self.sifts(ask, asked);
                let doc_of = |at| self.flat.doc(at);
                let deleted = sifts.then_some(Deleted { docs: ask.allow.deleted, doc_of: &doc_of });
                if let (Some(gathered), Some(deleted)) = (ask.gathered, deleted) {
                    let gathered = (gathered, deleted);
                    return self.cells.scan_gathered(self.kernels, asked, gathered, scratch, found, counters);
                }
                let allow = Allow { deleted: ask.allow.deleted.filter(|_| !sifts), ..ask.allow.clone() };
                let mut docs = allow.iter();
                if self.flat.is_complete() {
                    let ids = |ids: &mut Vec<u32>, count: usize| {
                        docs.take_to(ids, count);
                        ids.truncate(ids.partition_point(|doc| *doc < self.flat.docs()));
                    };
                    return self.cells.scan(self.kernels, asked, (ids, deleted), scratch, found, counters);
                }
                let mut positions = self.flat.positions(docs).flatten();
                let ids = |ids: &mut Vec<u32>, count: usize| ids.extend(positions.by_ref().take(count));
                self.cells.scan(self.kernels, asked, (ids, deleted), scratch, found, counters)
            }
            Plan::Walk(at, effort) => {
                let asked = self.asked(query, ask, k, (Some(at), effort));
                let (mut mask, doc_of) = (std::mem::take(&mut scratch.mask), |at| self.flat.doc(at));
                let filter = self.filter(ask, at, (&mut mask, &doc_of));
                let searched = self.cells.search(self.kernels, asked, filter, scratch, found, counters);
                scratch.mask = mask;
                searched
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::errors;

    #[test]
    fn errors_are_those_of_a_normal_variable() {
        for (missed, expected) in [(0.5, 0.0), (0.1, 1.282), (0.05, 1.645), (0.01, 2.326), (0.001, 3.09)] {
            assert!((errors(missed) - expected).abs() < 0.02, "{missed}: {}", errors(missed));
        }
        assert_eq!((errors(0.9), errors(0.0)), (0.0, f32::INFINITY));
    }
}
