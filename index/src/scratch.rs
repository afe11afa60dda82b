//! What a search needs besides its index and its result: buffers that one thread reuses from query to query.
//!
//! A searching thread owns one [`Scratch`] and hands it to every index. Buffers grow to what the largest
//! query so far needed (bounded by the block sizes of the indexes and by the caller's batch) and are never
//! shrunk.

use spandrel_storage::DocId;

use crate::dense::flat::FlatScratch;
use crate::dense::hnsw::WalkScratch;
use crate::dense::signs::SignsScratch;
use crate::dense::ssd::{CellsScratch, TogetherScratch};
use crate::sparse::SparseScratch;

/// Buffers of one thread. Holds nothing between two searches that a result depends on.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Of the exact dense scan.
    pub(crate) flat: FlatScratch,
    /// Of scans of sign codes.
    pub(crate) signs: SignsScratch,
    /// Of walks over graphs.
    pub(crate) walk: WalkScratch,
    /// Of searches over cells, and what they found before it has exact scores.
    pub(crate) cells: CellsScratch,
    pub(crate) together: TogetherScratch,
    pub(crate) found: Vec<(f32, u32)>,
    pub(crate) docs: Vec<DocId>,
    pub(crate) scores: Vec<f32>,
    /// Of the exact sparse scan.
    pub(crate) sparse: SparseScratch,
}

impl Scratch {
    /// Empty buffers.
    pub fn new() -> Self {
        Self::default()
    }
}
