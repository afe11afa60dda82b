//! Which segments to build or merge next: sizes in, one job out. Pure, so that it can be tested by
//! simulation. Fresh segments and those on disk are two lanes that run side by side: no writer waits for a
//! long merge.
//!
//! Fresh segments live in memory, one a commit, and are merged by eights as in a size-tiered log-structured
//! merge tree (O'Neil et al., 1996), so that a row is copied about log8(fresh rows) times. When the fresh
//! ones reach a bound they become one segment on disk. Those are merged by fours in the same way, and one
//! that holds mostly deleted rows is rewritten. Only neighbours are ever merged, so row ranges stay disjoint.
//!
//! What that costs: at rest fewer than a fan-out of neighbours stand between one tier and the next, so there
//! are `O(log rows)` segments, and four more a [`SEGMENT_DOCS_MAX`] of rows. A merge that stays in its tier
//! is paid for by a segment of that tier which is new, so a row is copied at most three times a tier.

use std::ops::Range;

/// Neighbours in memory that are merged together.
const MEMORY_FANOUT: usize = 8;
/// Neighbours on disk that are merged together.
const DISK_FANOUT: usize = 4;
/// A segment is rewritten when more than this share of its rows is deleted.
const DEAD_SHARE_MAX: f64 = 0.15;
/// A merge on disk takes in the segment before it when that has at most so many times its rows: what it has
/// learned serves all.
const TAKEN_IN: u64 = 2;
/// A segment on disk is not merged past this many rows, so that a build stays bounded.
pub const SEGMENT_DOCS_MAX: u64 = 4_000_000;

/// What the policy sees of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows, deleted ones included.
    pub docs: u64,
    /// Deleted rows.
    pub deleted: u64,
    /// Bytes in memory or on disk.
    pub bytes: u64,
    /// Whether it is on disk.
    pub on_disk: bool,
    /// Whether it is to be written again for an index that it lacks.
    pub plain: bool,
}

/// Bounds that come from settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Fresh rows at which they become a segment on disk.
    pub fresh_docs_max: u64,
    /// Fresh bytes at which they become a segment on disk.
    pub fresh_bytes_max: u64,
}

/// A run of neighbouring segments that becomes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Fresh segments become one fresh segment.
    MergeFresh(Range<usize>),
    /// All fresh segments in the range become one segment on disk.
    Flush(Range<usize>),
    /// Segments on disk become one.
    MergeDisk(Range<usize>),
}

/// The next job of the fresh segments, `sizes` being all in row order with those on disk first; none: nothing
/// to do. Writers may wait for it.
pub fn fresh_job(sizes: &[Size], bounds: Bounds) -> Option<Job> {
    let fresh = sizes.partition_point(|size| size.on_disk)..sizes.len();
    let docs: u64 = sizes[fresh.clone()].iter().map(|size| size.docs).sum();
    let bytes: u64 = sizes[fresh.clone()].iter().map(|size| size.bytes).sum();
    if !fresh.is_empty() && (docs >= bounds.fresh_docs_max || bytes >= bounds.fresh_bytes_max) {
        return Some(Job::Flush(fresh));
    }
    merge_fresh(sizes, fresh)
}

/// The next job of the segments on disk; none: nothing to do.
pub fn disk_job(sizes: &[Size]) -> Option<Job> {
    merge_disk(&sizes[..sizes.partition_point(|size| size.on_disk)])
}

/// The next job that leaves as few segments as may be of the first `count`, which are on disk; none: nothing
/// to do.
pub fn merge_all_job(sizes: &[Size], count: usize) -> Option<Job> {
    let live = |size: &Size| size.docs.saturating_sub(size.deleted);
    let mut start = 0;
    while start < count {
        let mut docs = live(&sizes[start]);
        let mut end = start + 1;
        while end < count && docs + live(&sizes[end]) <= SEGMENT_DOCS_MAX {
            docs += live(&sizes[end]);
            end += 1;
        }
        if end > start + 1 || sizes[start].plain {
            return Some(Job::MergeDisk(start..end));
        }
        start = end;
    }
    None
}

fn merge_fresh(sizes: &[Size], fresh: Range<usize>) -> Option<Job> {
    let docs: Vec<u64> = sizes[fresh.clone()].iter().map(|size| size.docs).collect();
    let run = newest_run(&docs, MEMORY_FANOUT, u64::MAX)?;
    Some(Job::MergeFresh(fresh.start + run.start..fresh.start + run.end))
}

fn merge_disk(sizes: &[Size]) -> Option<Job> {
    let live: Vec<u64> = sizes.iter().map(|size| size.docs.saturating_sub(size.deleted)).collect();
    let fits = |docs: u64| docs <= SEGMENT_DOCS_MAX;
    let dead = |size: &Size| size.deleted as f64 > size.docs as f64 * DEAD_SHARE_MAX;
    if let Some(at) = sizes.iter().position(dead) {
        // It is written anew in any case: smaller ones after it are taken along.
        let (mut end, mut docs) = (at + 1, live[at]);
        while end < live.len() && live[end] <= live[at] && fits(docs + live[end]) {
            docs += live[end];
            end += 1;
        }
        return Some(Job::MergeDisk(at..end));
    }
    if let Some(mut run) = newest_run(&live, DISK_FANOUT, SEGMENT_DOCS_MAX) {
        let docs: u64 = live[run.clone()].iter().sum();
        let before = run.start.checked_sub(1).filter(|before| live[*before] <= TAKEN_IN * docs);
        run.start = before.filter(|before| fits(live[*before] + docs)).unwrap_or(run.start);
        return Some(Job::MergeDisk(run));
    }
    sizes.iter().position(|size| size.plain).map(|at| Job::MergeDisk(at..at + 1))
}

/// The newest `fanout` neighbours or more of one tier, where a tier is a power of `fanout` of rows, with at
/// most `docs_max` rows together.
fn newest_run(docs: &[u64], fanout: usize, docs_max: u64) -> Option<Range<usize>> {
    let tier = |docs: u64| docs.max(1).ilog2() / fanout.ilog2();
    let mut end = docs.len();
    while end > 0 {
        let top = tier(docs[end - 1]);
        let mut start = end - 1;
        // A smaller segment between larger ones joins them: left alone it would split every run for ever.
        while start > 0 && tier(docs[start - 1]) <= top {
            start -= 1;
        }
        if let Some(run) = fitting(docs, start..end, fanout, docs_max) {
            return Some(run);
        }
        end = start;
    }
    None
}

/// The newest part of `run`, as long as it can be but `fanout` long at least, with at most `docs_max` rows.
fn fitting(docs: &[u64], run: Range<usize>, fanout: usize, docs_max: u64) -> Option<Range<usize>> {
    run.clone().rev().map(|last| last + 1).find_map(|end| {
        let mut left = docs_max;
        let mut fits = |docs: &&u64| {
            let fits = **docs <= left;
            left = left.saturating_sub(**docs);
            fits
        };
        let len = docs[run.start..end].iter().rev().take_while(|docs| fits(docs)).count();
        (len >= fanout).then_some(end - len..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { fresh_docs_max: 32_768, fresh_bytes_max: 64 << 20 };

    fn size(docs: u64, on_disk: bool) -> Size {
        Size { docs, deleted: 0, bytes: docs * 1_024, on_disk, plain: false }
    }

    fn next_job(sizes: &[Size], bounds: Bounds) -> Option<Job> {
        fresh_job(sizes, bounds).or_else(|| disk_job(sizes))
    }

    /// Runs all jobs to rest and returns the number of rows copied.
    fn settle(sizes: &mut Vec<Size>) -> u64 {
        let mut copied = 0;
        while let Some(job) = next_job(sizes, BOUNDS) {
            let (range, on_disk) = match job {
                Job::MergeFresh(range) => (range, false),
                Job::Flush(range) | Job::MergeDisk(range) => (range, true),
            };
            let docs = sizes[range.clone()].iter().map(|size| size.docs - size.deleted).sum();
            copied += docs;
            sizes.splice(range, (docs > 0).then_some(size(docs, on_disk)));
        }
        copied
    }

    #[test]
    fn single_row_commits_cost_few_copies_and_few_segments() {
        let mut sizes = Vec::new();
        let mut copied = 0;
        let mut most = 0;
        for _ in 0..200_000 {
            sizes.push(size(1, false));
            copied += settle(&mut sizes);
            most = most.max(sizes.len());
        }
        assert!(copied < 200_000 * 12, "{copied} rows copied");
        assert!(most < 60, "{most} segments at once");
    }

    #[test]
    fn batches_keep_the_segment_count_low() {
        let mut sizes = Vec::new();
        for _ in 0..4_000 {
            sizes.push(size(256, false));
            settle(&mut sizes);
            assert!(sizes.len() < 60, "{} segments", sizes.len());
        }
        assert!(sizes.iter().filter(|size| size.on_disk).count() <= 16);
    }

    /// What one small flush a session, between large ones, must not bring to a halt.
    #[test]
    fn flushes_of_every_pattern_leave_few_segments_and_cost_few_copies() {
        let patterns: [&[u64]; 7] = [
            &[32_768, 500],
            &[8_000, 8_000, 1_000],
            &[32_768, 32_768, 32_768, 700],
            &[8_000, 8_000, 8_000, 8_000, 8_000, 900],
            &[1, 40_000, 1, 1, 2_500, 1],
            &[100, 32_768, 100, 100, 32_768, 1_600],
            &[32_768],
        ];
        for pattern in patterns {
            let (mut sizes, mut rows, mut copied) = (Vec::new(), 0, 0);
            for flush in pattern.iter().cycle().take(3_000) {
                sizes.push(size(*flush, true));
                rows += flush;
                copied += settle(&mut sizes);
                let tiers = u64::from(rows.ilog2()) / 2 + 1;
                let most = tiers * 3 + rows.div_ceil(SEGMENT_DOCS_MAX) * 4;
                assert!(sizes.len() as u64 <= most, "{pattern:?}: {} segments of {rows} rows", sizes.len());
                assert!(copied <= rows * tiers, "{pattern:?}: {copied} copies of {rows} rows");
            }
            assert_eq!(sizes.iter().map(|size| size.docs).sum::<u64>(), rows);
            assert!(sizes.iter().all(|size| size.docs <= SEGMENT_DOCS_MAX));
        }
    }

    #[test]
    fn full_segments_stay_and_small_ones_between_them_are_merged() {
        let full = SEGMENT_DOCS_MAX - 10;
        let mut sizes: Vec<Size> =
            [full, 20, 20, 20, 20, full, 20, 20, full].map(|docs| size(docs, true)).into();
        let copied = settle(&mut sizes);
        assert!(copied < 1_000, "{copied} copies");
        assert_eq!(sizes.iter().filter(|size| size.docs == full).count(), 3);
    }

    #[test]
    fn a_mostly_deleted_segment_is_rewritten_and_an_empty_one_disappears() {
        let mut sizes = vec![size(1_000, true), size(500, true)];
        sizes[0].deleted = 301;
        assert_eq!(next_job(&sizes, BOUNDS), Some(Job::MergeDisk(0..2)));
        sizes[0].deleted = 1_000;
        settle(&mut sizes);
        assert_eq!(sizes, vec![size(500, true)]);
    }

    #[test]
    fn what_is_written_anew_takes_smaller_ones_along_and_a_run_what_it_nearly_outweighs() {
        let mut sizes: Vec<Size> =
            [500, 100_000, 16_000, 16_000, 200_000].map(|docs| size(docs, true)).into();
        sizes[1].deleted = 32_000;
        assert_eq!(next_job(&sizes, BOUNDS), Some(Job::MergeDisk(1..4)));
        let run = [100_000, 16_000, 16_000, 16_000, 16_000].map(|docs| size(docs, true));
        assert_eq!(next_job(&run, BOUNDS), Some(Job::MergeDisk(0..5)));
        let run = [200_000, 16_000, 16_000, 16_000, 16_000].map(|docs| size(docs, true));
        assert_eq!(next_job(&run, BOUNDS), Some(Job::MergeDisk(1..5)));
    }

    #[test]
    fn a_plain_segment_is_written_again_when_nothing_else_is_to_do() {
        let mut sizes = [100_000, 16_000, 16_000].map(|docs| size(docs, true));
        sizes[1].plain = true;
        assert_eq!(next_job(&sizes, BOUNDS), Some(Job::MergeDisk(1..2)));
        assert_eq!(merge_all_job(&sizes[1..2], 1), Some(Job::MergeDisk(0..1)));
        sizes[1].plain = false;
        assert_eq!(next_job(&sizes, BOUNDS), None);
    }

    #[test]
    fn merging_all_leaves_as_few_as_fit() {
        let half = SEGMENT_DOCS_MAX / 2;
        let mut sizes: Vec<Size> =
            [10, half, half, 7, SEGMENT_DOCS_MAX, 1, 1].map(|docs| size(docs, true)).into();
        sizes.push(size(5, false));
        while let Some(Job::MergeDisk(range)) = merge_all_job(&sizes, sizes.len() - 1) {
            assert!(range.len() > 1);
            let docs = sizes[range.clone()].iter().map(|size| size.docs).sum();
            sizes.splice(range, [size(docs, true)]);
        }
        let left: Vec<u64> = sizes.iter().map(|size| size.docs).collect();
        assert_eq!(left, [half + 10, half + 7, SEGMENT_DOCS_MAX, 2, 5]);
        assert_eq!(merge_all_job(&[], 0), None);
    }

    #[test]
    fn nothing_to_do_at_rest() {
        assert_eq!(next_job(&[], BOUNDS), None);
        assert_eq!(next_job(&[size(1_000_000, true), size(10, true), size(3, false)], BOUNDS), None);
    }
}
