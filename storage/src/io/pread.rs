//! Batch reads by one `pread` after another on the caller's thread: the implementation that works everywhere.
//!
//! Buffered by default: with one read in flight, the page cache and its read-ahead are what makes it fast.
//! With [`Pread::direct`] it goes around the page cache, for memory budgets that count every byte; a
//! filesystem without O_DIRECT is then read buffered. One buffer a batch, as long as the longest read of the
//! batch.

use super::{AlignedBytes, BatchRead, Done, Extent, PAGE_BYTES, ReadFile};
use crate::error::{Error, Result};
use crate::io::plan::{Plan, Span};

/// Reads by `pread`.
#[derive(Clone, Copy, Debug)]
pub struct Pread {
    direct: bool,
}

impl Pread {
    /// Reads through the page cache.
    pub fn buffered() -> Self {
        Self { direct: false }
    }

    /// Reads around the page cache where the filesystem permits it.
    pub fn direct() -> Self {
        Self { direct: true }
    }
}

impl BatchRead for Pread {
    fn read(&self, file: &ReadFile, extents: &[Extent], done: &mut Done<'_>) -> Result<()> {
        let plan = Plan::new(file, extents)?;
        Plan::deliver_empty(extents, done)?;
        let longest = plan.spans.iter().map(Span::len).max().unwrap_or(0);
        if !self.direct {
            let mut buffer = vec![0; longest];
            for span in &plan.spans {
                let bytes = &mut buffer[..span.len()];
                file.read_exact(bytes, span.start)?;
                plan.deliver(span, extents, span.start, bytes, done)?;
            }
            return Ok(());
        }
        // Widening to pages adds less than a page at either side.
        let mut buffer = AlignedBytes::zeroed(longest.next_multiple_of(PAGE_BYTES) + PAGE_BYTES, PAGE_BYTES);
        for span in &plan.spans {
            let start = span.start - span.start % PAGE_BYTES as u64;
            let len = (span.end - start) as usize;
            read_widened(file, &mut buffer[..len.next_multiple_of(PAGE_BYTES)], start, len)?;
            plan.deliver(span, extents, start, &buffer[..len], done)?;
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        if self.direct { "pread-direct" } else { "pread" }
    }
}

/// Fills the first `len` of `buffer` (whole aligned pages) from the page boundary `start`: around the page
/// cache as far as that goes, the rest through it.
fn read_widened(file: &ReadFile, buffer: &mut [u8], start: u64, len: usize) -> Result<()> {
    use std::io::ErrorKind::{Interrupted, InvalidInput};
    use std::os::unix::fs::FileExt;
    let mut filled = 0;
    while filled < len {
        let Some(direct) = file.direct() else { break };
        match direct.read_at(&mut buffer[filled..], start + filled as u64) {
            // What ends inside a page is the end of the file, or a read cut short: the page cache settles it.
            Ok(count) if count == 0 || count % PAGE_BYTES != 0 => {
                filled += count;
                break;
            }
            Ok(count) => filled += count,
            Err(e) if e.kind() == Interrupted => {}
            Err(e) if e.kind() == InvalidInput => file.refuse_direct(),
            Err(e) => return Err(Error::io("read", file.path(), e)),
        }
    }
    if filled < len { file.read_exact(&mut buffer[filled..len], start + filled as u64) } else { Ok(()) }
}
