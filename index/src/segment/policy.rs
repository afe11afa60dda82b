//! Which segments to build or merge next: sizes in, one job out. Pure, so that it can be tested by
//! simulation. Fresh segments and those on disk are two lanes that run side by side: no writer waits for a
//! long merge.
//!
//! Fresh segments live in memory, one a commit, and are merged by eights as in a size-tiered log-structured
//! merge tree (O'Neil et al., 1996), so that a row is copied about log8(fresh rows) times. When the fresh
//! ones reach a bound they become one segment on disk. Segments on disk are merged when four neighbours are
//! within a factor of four of each other, or when one holds mostly deleted rows. Only neighbours are ever
//! merged, so row ranges stay disjoint.

use std::ops::Range;

/// Neighbours in memory that are merged together.
const MEMORY_FANOUT: usize = 8;
/// Neighbours on disk that are merged together.
const DISK_FANOUT: usize = 4;
/// Neighbours on disk belong to one tier while the largest is at most this many times the smallest.
const DISK_TIER_RATIO: u64 = 4;
/// A segment is rewritten when more than this share of its rows is deleted.
const DEAD_SHARE_MAX: f64 = 0.3;
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

/// The newest eight neighbours of one tier, where a tier is a power of eight of rows.
fn merge_fresh(sizes: &[Size], fresh: Range<usize>) -> Option<Job> {
    let tier = |size: &Size| size.docs.max(1).ilog2() / MEMORY_FANOUT.ilog2();
    let mut end = fresh.end;
    while end > fresh.start {
        let top = tier(&sizes[end - 1]);
        let mut start = end - 1;
        // A newer segment of a smaller tier may stand among larger ones; it joins them rather than split the
        // run.
        while start > fresh.start && tier(&sizes[start - 1]) <= top {
            start -= 1;
        }
        if end - start >= MEMORY_FANOUT {
            return Some(Job::MergeFresh(start..end));
        }
        end = start;
    }
    None
}

fn merge_disk(sizes: &[Size]) -> Option<Job> {
    let dead = |size: &Size| size.deleted as f64 > size.docs as f64 * DEAD_SHARE_MAX;
    if let Some(at) = sizes.iter().position(dead) {
        return Some(Job::MergeDisk(at..at + 1));
    }
    let live = |size: &Size| size.docs.saturating_sub(size.deleted).max(1);
    sizes.windows(DISK_FANOUT).enumerate().rev().find_map(|(at, run)| {
        let total: u64 = run.iter().map(live).sum();
        let smallest = run.iter().map(live).min()?;
        let largest = run.iter().map(live).max()?;
        (largest <= smallest.saturating_mul(DISK_TIER_RATIO) && total <= SEGMENT_DOCS_MAX)
            .then_some(Job::MergeDisk(at..at + DISK_FANOUT))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { fresh_docs_max: 32_768, fresh_bytes_max: 64 << 20 };

    fn size(docs: u64, on_disk: bool) -> Size {
        Size { docs, deleted: 0, bytes: docs * 1_024, on_disk }
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

    #[test]
    fn a_mostly_deleted_segment_is_rewritten_and_an_empty_one_disappears() {
        let mut sizes = vec![size(1_000, true), size(500, true)];
        sizes[0].deleted = 301;
        assert_eq!(next_job(&sizes, BOUNDS), Some(Job::MergeDisk(0..1)));
        sizes[0].deleted = 1_000;
        settle(&mut sizes);
        assert_eq!(sizes, vec![size(500, true)]);
    }

    #[test]
    fn nothing_to_do_at_rest() {
        assert_eq!(next_job(&[], BOUNDS), None);
        assert_eq!(next_job(&[size(1_000_000, true), size(10, true), size(3, false)], BOUNDS), None);
    }
}
