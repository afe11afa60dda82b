//! How the vectors of a range of docs, a tenant's for example, are searched, and what of them is in memory.
//!
//! Cost: a look at each of their pages, where they are on disk.

use std::ops::Range;

use spandrel_storage::DocId;
use spandrel_storage::io::Extent;

use super::VectorIndex;
use super::vectors::ChunkSource;
use crate::error::Result;
use crate::stop::Stop;

/// How vectors are searched where no filter says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Each is scored.
    Scored,
    /// Each is ranked by its code.
    Ranked,
    /// Through cells, or a graph, of their own or of all.
    Cells,
}

/// What is known of the vectors of a range of docs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How they are searched; none where there are none.
    pub reach: Option<Reach>,
    /// Bytes that a search of all of them reads.
    pub bytes: u64,
    /// Those of them that are in memory.
    pub resident_bytes: u64,
}

/// Bytes that searches of some vectors read.
pub struct Part<'a> {
    bytes: usize,
    on_disk: Option<(&'a dyn ChunkSource, u64)>,
}

impl<'a> Part<'a> {
    pub(crate) fn in_memory(bytes: usize) -> Self {
        Self { bytes, on_disk: None }
    }

    /// From `at` of a source on.
    pub(crate) fn on_disk(source: &'a dyn ChunkSource, at: u64, bytes: usize) -> Self {
        Self { bytes, on_disk: Some((source, at)) }
    }

    pub(crate) fn is_at_hand(&self) -> bool {
        self.on_disk.is_none()
    }

    fn extent(&self) -> Option<(&'a dyn ChunkSource, Extent)> {
        let (source, offset) = self.on_disk.filter(|_| self.bytes > 0)?;
        Some((source, Extent { offset, len: self.bytes }))
    }
}

/// What is known of the vectors of a range of docs.
pub fn standing(index: &dyn VectorIndex, docs: Range<DocId>) -> Standing {
    let mut standing = Standing { reach: index.reach(docs.clone()), ..Standing::default() };
    for part in index.parts(docs) {
        standing.bytes += part.bytes as u64;
        let cached = part.extent().map(|(source, extent)| source.cached_bytes(extent));
        standing.resident_bytes += cached.unwrap_or(part.bytes as u64);
    }
    standing
}

/// Reads what searches of the vectors of a range of docs will ask for, as far as there is memory for it;
/// returns the bytes that were read.
///
/// `before` bytes were read for the same, which it is not to push out.
///
/// # Errors
/// They cannot be read, or `stop` says so.
pub fn warm(index: &dyn VectorIndex, docs: Range<DocId>, before: u64, stop: &Stop) -> Result<u64> {
    let mut read = 0;
    for (source, extent) in index.parts(docs).iter().filter_map(Part::extent) {
        read += source.warm(extent, before + read, stop)?;
    }
    Ok(read)
}
