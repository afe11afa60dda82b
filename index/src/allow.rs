//! Which documents of a segment a query may return: the tenant's range, minus the deleted, within the filter.

use std::ops::Range;

use roaring::RoaringBitmap;
use spandrel_storage::DocId;

/// The documents a query may return.
#[derive(Clone, Debug)]
pub struct Allow<'a> {
    /// The tenant's documents.
    pub range: Range<DocId>,
    /// Documents that were deleted or replaced.
    pub deleted: Option<&'a RoaringBitmap>,
    /// Documents that pass the filter; none: all do.
    pub filter: Option<&'a RoaringBitmap>,
}

impl Allow<'_> {
    /// Whether `doc` may be returned.
    pub fn contains(&self, doc: DocId) -> bool {
        self.range.contains(&doc)
            && self.deleted.is_none_or(|deleted| !deleted.contains(doc))
            && self.filter.is_none_or(|filter| filter.contains(doc))
    }
}
