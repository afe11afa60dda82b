//! Sign codes of docs that were in a segment before: they are copied into the next one.
//!
//! A row is in three or four segments before it gets cells, and its code is what each of them costs most.
//! Cost: a binary search a row.

use spandrel_storage::FieldId;

use super::{IndexDoc, Segment};
use crate::dense::signs::{Before, Codes};

/// Where the codes of a field's vectors are, in the order of those.
pub(super) struct Coded<'a> {
    field: FieldId,
    /// Segments that have codes, in row order.
    segments: Vec<&'a Segment>,
    codes: Vec<&'a Codes>,
    known: Vec<Option<(u32, u32)>>,
}

impl<'a> Coded<'a> {
    /// None of them yet; `segments` are in row order.
    pub(super) fn new(segments: &[&'a Segment], field: FieldId) -> Self {
        let codes = |segment: &&'a Segment| segment.dense(field).and_then(|index| index.codes());
        let with_codes = segments.iter().filter_map(|segment| Some((*segment, codes(segment)?)));
        let (segments, codes) = with_codes.unzip();
        Self { field, segments, codes, known: Vec::new() }
    }

    /// The next vector is that of `doc`.
    pub(super) fn push(&mut self, doc: &IndexDoc) {
        if !self.segments.is_empty() {
            self.known.push(self.find(doc));
        }
    }

    fn find(&self, doc: &IndexDoc) -> Option<(u32, u32)> {
        let at = self.segments.partition_point(|segment| segment.last() < doc.row);
        let segment = self.segments.get(at).filter(|segment| segment.first() <= doc.row)?;
        let ordinal = segment.dense(self.field)?.flat().ordinal(segment.doc(doc.tenant, doc.row)?)?;
        Some((at as u32, ordinal))
    }

    /// What codes are made from.
    pub(super) fn before(&self) -> Before<'_> {
        Before { made: &self.codes, known: &self.known }
    }
}
