//! A section of a segment file, for indexes that read it in parts.
//!
//! What searches read of it is kept in the [page cache](crate::pages), but long scans, and what is loaded
//! into memory: those take what is there and leave nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spandrel_storage::Section;
use spandrel_storage::io::Extent;

use crate::budget::MemoryBudget;
use crate::dense::vectors::{ChunkSource, PAGE_BYTES, page_bytes};
use crate::error::Result;
use crate::pages;
use crate::stop::Stop;

/// Longer reads are of long scans, and of what is loaded into memory; the codes of a tenant without cells are
/// not longer, 96 bytes a vector.
const KEPT_BYTES_MAX: usize = 192 << 10;
/// Bytes read at once to be kept.
const WARM_BYTES: usize = 256 << 10;

pub(super) struct SectionSource {
    section: Section,
    memory: Arc<MemoryBudget>,
    /// No other section that is or was open has it.
    number: u64,
}

impl SectionSource {
    pub(super) fn open(section: Section, memory: &Arc<MemoryBudget>) -> Arc<dyn ChunkSource> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { section, memory: Arc::clone(memory), number })
    }

    /// The whole pages that an extent is on.
    fn pages(&self, extent: &Extent) -> Extent {
        let offset = extent.offset - extent.offset % PAGE_BYTES;
        let end = extent.offset.saturating_add(extent.len as u64);
        // An extent past the end stays so, for the section to refuse.
        let whole = end.next_multiple_of(PAGE_BYTES).min(self.section.len().max(end));
        Extent { offset, len: (whole - offset) as usize }
    }

    /// Fills `out` with the bytes of an extent, if all its pages are at hand.
    fn copy(&self, extent: &Extent, out: &mut [u8]) -> bool {
        let mut at = extent.offset;
        let mut left = out;
        while !left.is_empty() {
            let inside = (at % PAGE_BYTES) as usize;
            let (here, rest) = left.split_at_mut(left.len().min(PAGE_BYTES as usize - inside));
            if !self.memory.pages().copy((self.number, (at / PAGE_BYTES) as u32), inside, here) {
                return false;
            }
            at += here.len() as u64;
            left = rest;
        }
        true
    }

    /// Keeps the pages of what was read from a page's beginning on.
    fn keep(&self, (offset, bytes): (u64, &[u8]), cost: f32, limit_bytes: u64) {
        for (page, bytes) in (offset / PAGE_BYTES..).zip(bytes.chunks(PAGE_BYTES as usize)) {
            self.memory.pages().keep((self.number, page as u32), (bytes, cost), limit_bytes);
        }
    }
}

impl ChunkSource for SectionSource {
    fn bytes(&self) -> u64 {
        self.section.len()
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        Ok(self.section.read_into(at, out)?)
    }

    fn read_batch(&self, extents: &[Extent], done: &mut dyn FnMut(usize, &[u8])) -> Result<u64> {
        let keeps = extents.iter().all(|extent| extent.len <= KEPT_BYTES_MAX);
        let (mut indices, mut missing, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        for (index, extent) in extents.iter().enumerate() {
            bytes.resize(extent.len, 0);
            if self.copy(extent, &mut bytes) {
                done(index, &bytes);
            } else {
                indices.push(index);
                missing.push(self.pages(extent));
            }
        }
        if missing.is_empty() {
            return Ok(0);
        }
        let limit_bytes = self.memory.left_bytes();
        self.section.read_batch(&missing, &mut |at, bytes| {
            let (whole, extent) = (missing[at], extents[indices[at]]);
            if keeps {
                let cost = pages::cost(whole.len.div_ceil(PAGE_BYTES as usize));
                self.keep((whole.offset, bytes), cost, limit_bytes);
            }
            let inside = (extent.offset - whole.offset) as usize;
            done(indices[at], &bytes[inside..inside + extent.len]);
            Ok(())
        })?;
        Ok(page_bytes(&missing))
    }

    fn cached_bytes(&self, extent: Extent) -> u64 {
        let pages = extent.offset / PAGE_BYTES..(extent.offset + extent.len as u64).div_ceil(PAGE_BYTES);
        let count = pages.end - pages.start;
        let cached =
            pages.filter(|page| self.memory.pages().contains((self.number, *page as u32))).count() as u64;
        // Of the extent, about.
        (cached * extent.len as u64).checked_div(count).unwrap_or(0)
    }

    fn warm(&self, extent: Extent, before: u64, stop: &Stop) -> Result<u64> {
        let whole = self.pages(&extent);
        let mut read = 0;
        for first in (0..whole.len).step_by(WARM_BYTES) {
            let offset = whole.offset + first as u64;
            let extent = Extent { offset, len: WARM_BYTES.min(whole.len - first) };
            if self.cached_bytes(extent) == extent.len as u64 {
                continue;
            }
            stop.check()?;
            let limit_bytes = self.memory.left_bytes();
            if before + read + extent.len as u64 > limit_bytes {
                break;
            }
            self.section.read_batch(&[extent], &mut |_, bytes| {
                // Whoever asks for it pays a whole access otherwise.
                self.keep((offset, bytes), pages::cost(1), limit_bytes);
                Ok(())
            })?;
            read += extent.len as u64;
        }
        Ok(read)
    }
}
