//! Where vectors are: in memory, or in a section on disk.

use std::ops::Range;

use spandrel_storage::DocId;

use super::{AnyVectors, Flat};
use crate::dense::standing::Part;

impl Flat {
    /// Whether its vectors are in memory.
    pub(crate) fn is_at_hand(&self) -> bool {
        self.part(0..0).is_at_hand()
    }

    /// Where the vectors of a range of docs are.
    pub(crate) fn part(&self, docs: Range<DocId>) -> Part<'_> {
        let range = self.ordinals(docs);
        match &self.vectors {
            AnyVectors::F32(vectors) => vectors.part(range),
            AnyVectors::F16(vectors) => vectors.part(range),
            AnyVectors::I8(vectors) => vectors.part(range),
        }
    }
}
