//! Which reads answer a batch of extents: pure arithmetic, shared by all implementations.
//!
//! Extents are sorted by offset and joined across gaps of at most [`MERGE_GAP_BYTES`] into spans of at most
//! [`MERGED_BYTES_MAX`]; a longer extent is a span of its own. Cost: O(n log n), two allocations.

use std::ops::Range;

use super::{Extent, MERGE_GAP_BYTES, MERGED_BYTES_MAX, ReadFile};
use crate::error::{Error, Result};

/// One read: bytes `start..end` of the file, which hold the extents `members` of [`Plan::order`].
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub start: u64,
    pub end: u64,
    pub members: Range<usize>,
    /// Smallest index of its extents in the batch.
    first: usize,
}

impl Span {
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }
}

/// The reads of one batch.
#[derive(Debug)]
pub(super) struct Plan {
    /// Never empty ranges; in the order in which their first extent stands in the batch.
    pub spans: Vec<Span>,
    /// Indices of the extents, by offset.
    order: Vec<usize>,
}

impl Plan {
    /// Plans `extents` of `file`. Empty extents are in no span: [`Plan::empty`] has them.
    ///
    /// # Errors
    /// [`Error::Invalid`] when an extent passes the end of the file.
    pub fn new(file: &ReadFile, extents: &[Extent]) -> Result<Self> {
        for (index, extent) in extents.iter().enumerate() {
            if extent.end().is_none_or(|end| end > file.len()) {
                return Err(Error::Invalid(format!(
                    "extent {index} asks for {} bytes at {} of {}, which has {} bytes",
                    extent.len,
                    extent.offset,
                    file.path().display(),
                    file.len()
                )));
            }
        }
        let mut order: Vec<usize> = (0..extents.len()).filter(|i| extents[*i].len > 0).collect();
        order.sort_unstable_by_key(|i| (extents[*i].offset, *i));
        let mut spans: Vec<Span> = Vec::with_capacity(order.len());
        for (place, &index) in order.iter().enumerate() {
            let start = extents[index].offset;
            let end = start + extents[index].len as u64;
            if let Some(last) = spans.last_mut() {
                let joined = last.end.max(end);
                let near = start <= last.end.saturating_add(MERGE_GAP_BYTES);
                if joined == last.end || (near && joined - last.start <= MERGED_BYTES_MAX) {
                    last.end = joined;
                    last.members.end = place + 1;
                    last.first = last.first.min(index);
                    continue;
                }
            }
            spans.push(Span { start, end, members: place..place + 1, first: index });
        }
        spans.sort_unstable_by_key(|span| span.first);
        Ok(Self { spans, order })
    }

    /// Calls `done` for each extent of `span`. `bytes` starts at byte `start` of the file and covers the
    /// span.
    pub fn deliver(
        &self,
        span: &Span,
        extents: &[Extent],
        start: u64,
        bytes: &[u8],
        done: &mut super::Done<'_>,
    ) -> Result<()> {
        for &index in &self.order[span.members.clone()] {
            let extent = extents[index];
            let at = (extent.offset - start) as usize;
            done(index, &bytes[at..at + extent.len])?;
        }
        Ok(())
    }

    /// Calls `done` for the empty extents, which need no read.
    pub fn deliver_empty(extents: &[Extent], done: &mut super::Done<'_>) -> Result<()> {
        for (index, _) in extents.iter().enumerate().filter(|(_, extent)| extent.len == 0) {
            done(index, &[])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(len: u64, extents: &[(u64, usize)]) -> Result<(Vec<Extent>, Plan)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::File::create(&path).unwrap().set_len(len).unwrap();
        let extents: Vec<Extent> = extents.iter().map(|&(offset, len)| Extent { offset, len }).collect();
        let plan = Plan::new(&ReadFile::open(&path).unwrap(), &extents)?;
        Ok((extents, plan))
    }

    fn ranges(len: u64, extents: &[(u64, usize)]) -> Vec<(u64, u64)> {
        plan(len, extents).unwrap().1.spans.iter().map(|span| (span.start, span.end)).collect()
    }

    #[test]
    fn joins_across_small_gaps_only() {
        let gap = MERGE_GAP_BYTES;
        assert_eq!(ranges(1 << 20, &[(0, 10), (10 + gap, 10)]), [(0, 20 + gap)]);
        assert_eq!(ranges(1 << 20, &[(0, 10), (11 + gap, 10)]), [(0, 10), (11 + gap, 21 + gap)]);
        assert_eq!(ranges(1 << 20, &[(100, 50), (0, 10), (120, 5)]), [(0, 150)]);
    }

    #[test]
    fn keeps_joined_reads_short_and_long_extents_whole() {
        let page = 4096;
        let pages: Vec<(u64, usize)> = (0..256).map(|i| (i * page as u64, page)).collect();
        let spans = ranges(1 << 20, &pages);
        assert_eq!(spans.len(), 4);
        assert!(spans.iter().all(|(start, end)| end - start == MERGED_BYTES_MAX));
        let long = MERGED_BYTES_MAX as usize * 2;
        assert_eq!(ranges(1 << 20, &[(5, long), (100, 10)]), [(5, 5 + long as u64)]);
    }

    #[test]
    fn asks_for_earlier_extents_first() {
        let far = 100_000;
        assert_eq!(
            ranges(1 << 20, &[(2 * far, 1), (0, 1), (far, 1)]),
            [(2 * far, 2 * far + 1), (0, 1), (far, far + 1)]
        );
    }

    #[test]
    fn refuses_extents_past_the_end() {
        for bad in [(0, 101), (101, 0), (100, 1), (u64::MAX, 1), (u64::MAX, usize::MAX), (0, usize::MAX)] {
            assert!(matches!(plan(100, &[(0, 1), bad]), Err(Error::Invalid(_))), "{bad:?}");
        }
        assert!(plan(100, &[(0, 100), (100, 0)]).is_ok());
    }

    #[test]
    fn delivers_each_extent_once() {
        let (extents, plan) = plan(1000, &[(500, 10), (0, 0), (505, 10), (500, 10), (990, 10)]).unwrap();
        let file: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        let mut seen = vec![0; extents.len()];
        let mut done = |index: usize, bytes: &[u8]| {
            let Extent { offset, len } = extents[index];
            assert_eq!(bytes, &file[offset as usize..offset as usize + len]);
            seen[index] += 1;
            Ok(())
        };
        Plan::deliver_empty(&extents, &mut done).unwrap();
        for span in &plan.spans {
            let bytes = &file[span.start as usize..span.end as usize];
            plan.deliver(span, &extents, span.start, bytes, &mut done).unwrap();
        }
        assert_eq!(seen, vec![1; 5]);
    }
}
