//! Where the vectors of ascending docs are, when not every doc has one: steps that double, then halves.

use spandrel_storage::DocId;

use super::Flat;

/// Positions of the vectors of ascending docs. A doc costs `O(log g)`, where `g` docs with a vector lie
/// between it and the one before it.
pub(super) struct Places<'a> {
    flat: &'a Flat,
    /// Docs with a vector that lie behind.
    passed: usize,
}

impl<'a> Places<'a> {
    pub(super) fn new(flat: &'a Flat) -> Self {
        Self { flat, passed: 0 }
    }

    /// Position of the doc's vector; `None` when it has none. Docs do not descend.
    pub(super) fn next(&mut self, doc: DocId) -> Option<u32> {
        if self.flat.layout.is_complete() {
            return (doc < self.flat.layout.docs).then_some(doc);
        }
        let ahead = &self.flat.present[self.passed..];
        let mut reach = 1;
        while ahead.get(reach - 1).is_some_and(|present| *present < doc) {
            reach *= 2;
        }
        // All before half of the reach are smaller than the doc.
        let known = reach / 2;
        let near = &ahead[known..reach.min(ahead.len())];
        self.passed += known + near.partition_point(|present| *present < doc);
        (self.flat.present.get(self.passed) == Some(&doc)).then_some(self.passed as u32)
    }
}
