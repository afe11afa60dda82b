//! Which docs of a segment a query may see, and until when: its tenant's range, minus the deleted, and in the
//! filter when there is one.
//!
//! Borrowed bitmaps, nothing is combined up front: testing a doc costs two bitmap look-ups, walking over the
//! allowed docs costs `O(allowed + deleted)` of the range. An index that scores everything tests only what
//! scores well enough; one that visits few docs walks.

use std::ops::Range;

use roaring::RoaringBitmap;
use spandrel_storage::DocId;

use crate::error::Result;
use crate::stop::Stop;

/// The docs a query may see.
#[derive(Clone, Debug)]
pub struct Allow<'a> {
    /// Docs of the tenant; all docs of the segment when there is one tenant.
    pub range: Range<DocId>,
    /// Docs that are deleted or replaced.
    pub deleted: Option<&'a RoaringBitmap>,
    /// Docs that pass the filter; `None` when there is no filter.
    pub filter: Option<&'a RoaringBitmap>,
    /// Ends the search early; `None`: nothing does.
    pub stop: Option<&'a Stop>,
}

impl<'a> Allow<'a> {
    /// Every doc of a segment of `docs` docs.
    pub fn all(docs: u32) -> Self {
        Self { range: 0..docs, deleted: None, filter: None, stop: None }
    }

    /// Whether the query may see `doc`.
    #[inline]
    pub fn contains(&self, doc: DocId) -> bool {
        self.range.contains(&doc)
            && self.deleted.is_none_or(|deleted| !deleted.contains(doc))
            && self.filter.is_none_or(|filter| filter.contains(doc))
    }

    /// Whether it is known that every doc of a segment of `docs` docs may be seen.
    pub fn is_unrestricted(&self, docs: u32) -> bool {
        self.range.start == 0
            && self.range.end >= docs
            && self.deleted.is_none_or(RoaringBitmap::is_empty)
            && self.filter.is_none()
    }

    /// Whether it is known that every doc of the range may be seen.
    pub fn is_unrestricted_within(&self) -> bool {
        self.deleted.is_none_or(RoaringBitmap::is_empty) && self.filter.is_none()
    }

    /// Goes on or gives up: see [`Stop::check`].
    ///
    /// # Errors
    /// As [`Stop::check`].
    #[inline]
    pub fn check_stop(&self) -> Result<()> {
        self.stop.map_or(Ok(()), Stop::check)
    }

    /// How many docs the query may see.
    pub fn count(&self) -> u64 {
        if self.range.is_empty() {
            return 0;
        }
        match (self.filter, self.deleted) {
            (None, None) => self.range.len() as u64,
            (None, Some(deleted)) => self.range.len() as u64 - deleted.range_cardinality(self.range.clone()),
            (Some(filter), None) => filter.range_cardinality(self.range.clone()),
            (Some(filter), Some(deleted)) if self.covers(filter) => filter.difference_len(deleted),
            (Some(_), Some(_)) => self.iter().count() as u64,
        }
    }

    /// At least as many docs as the query may see; cheaper than [`count`](Self::count) and usually close.
    pub fn count_max(&self) -> u64 {
        if self.range.is_empty() {
            return 0;
        }
        let inside = |bitmap: &RoaringBitmap| bitmap.range_cardinality(self.range.clone());
        let alive = self.range.len() as u64 - self.deleted.map_or(0, inside);
        self.filter.map_or(alive, |filter| inside(filter).min(alive))
    }

    /// About which share of `docs` the query may see, as if deletions hit all of them alike.
    pub fn share(&self, docs: u32) -> f32 {
        if self.range.is_empty() || docs == 0 {
            return 0.0;
        }
        let inside = |bitmap: &RoaringBitmap| bitmap.range_cardinality(self.range.clone()) as f32;
        let range = self.range.len() as f32;
        let alive = 1.0 - self.deleted.map_or(0.0, inside) / range;
        (self.filter.map_or(range, inside) * alive / docs as f32).min(1.0)
    }

    /// Whether the query may see no doc at all.
    pub fn is_empty(&self) -> bool {
        // Counted, not walked over: long runs of deleted docs are common.
        self.count_max() == 0 || (self.filter.is_some() && self.iter().next().is_none())
    }

    /// The allowed docs in ascending order.
    pub fn iter(&self) -> AllowedDocs<'a> {
        let range = if self.range.is_empty() { 0..0 } else { self.range.clone() };
        let docs = match self.filter {
            Some(filter) => Docs::Filter(filter.range(range.clone())),
            None => Docs::Range(range.clone()),
        };
        let mut deleted = self.deleted.map(|deleted| deleted.range(range));
        let hole = deleted.as_mut().and_then(Iterator::next);
        AllowedDocs { docs, deleted, hole }
    }

    /// Whether every doc of `bitmap` lies in the range.
    fn covers(&self, bitmap: &RoaringBitmap) -> bool {
        bitmap.min().is_none_or(|doc| self.range.contains(&doc))
            && bitmap.max().is_none_or(|doc| self.range.contains(&doc))
    }
}

enum Docs<'a> {
    Range(Range<DocId>),
    Filter(roaring::bitmap::Iter<'a>),
}

/// Walks over allowed docs, ascending.
pub struct AllowedDocs<'a> {
    docs: Docs<'a>,
    deleted: Option<roaring::bitmap::Iter<'a>>,
    /// The smallest deleted doc that was not passed yet.
    hole: Option<DocId>,
}

impl AllowedDocs<'_> {
    /// Appends the next docs, up to `count` of them: cheaper than one by one.
    pub(crate) fn take_to(&mut self, docs: &mut Vec<DocId>, count: usize) {
        match (&mut self.docs, self.hole) {
            (Docs::Range(range), None) => docs.extend(range.take(count)),
            (Docs::Filter(filter), None) => {
                let first = docs.len();
                docs.resize(first + count, 0);
                let taken = filter.next_many(&mut docs[first..]).len();
                docs.truncate(first + taken);
            }
            _ => docs.extend(self.take(count)),
        }
    }
}

impl Iterator for AllowedDocs<'_> {
    type Item = DocId;

    #[inline]
    fn next(&mut self) -> Option<DocId> {
        loop {
            let doc = match &mut self.docs {
                Docs::Range(range) => range.next()?,
                Docs::Filter(filter) => filter.next()?,
            };
            if self.hole.is_some_and(|hole| hole < doc) {
                self.hole = self.deleted.as_mut().and_then(|deleted| {
                    deleted.advance_to(doc);
                    deleted.next()
                });
            }
            if self.hole != Some(doc) {
                return Some(doc);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allow: &Allow<'_>, docs: u32) {
        let expected: Vec<DocId> = (0..docs).filter(|doc| allow.contains(*doc)).collect();
        assert_eq!(allow.iter().collect::<Vec<_>>(), expected, "{allow:?}");
        let (mut parts, mut iter) = (Vec::new(), allow.iter());
        for count in [0, 1, 63, 64, 5_000, 70_000, docs as usize] {
            iter.take_to(&mut parts, count);
        }
        assert_eq!(parts, expected, "{allow:?}");
        assert_eq!(allow.count(), expected.len() as u64, "{allow:?}");
        assert!(allow.count_max() >= expected.len() as u64, "{allow:?}");
        let share = expected.len() as f32 / docs as f32;
        // Which of those that match are deleted is not counted.
        if allow.filter.is_none() || allow.deleted.is_none() {
            assert!((allow.share(docs) - share).abs() <= 1e-5, "{allow:?}: {share}");
        }
        assert_eq!(allow.is_empty(), expected.is_empty(), "{allow:?}");
    }

    #[test]
    fn walking_counting_and_testing_agree() {
        let docs = 200_000;
        let every = |step: usize, from: u32, to: u32| -> RoaringBitmap { (from..to).step_by(step).collect() };
        let bitmaps = [
            RoaringBitmap::new(),
            every(1, 0, docs),
            every(1, 70_000, 140_000),
            every(3, 0, docs),
            every(7, 5, docs),
            every(1000, 999, docs),
            every(2, 65_530, 65_545),
        ];
        for range in [0..docs, 0..0, 7..8, 65_536..131_072, 65_531..65_540, 100_000..docs] {
            for deleted in std::iter::once(None).chain(bitmaps.iter().map(Some)) {
                for filter in std::iter::once(None).chain(bitmaps.iter().map(Some)) {
                    check(&Allow { range: range.clone(), deleted, filter, stop: None }, docs);
                }
            }
        }
    }

    #[test]
    fn a_backward_range_is_empty() {
        #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake")]
        let allow = Allow { range: 9..3, deleted: None, filter: None, stop: None };
        assert!(allow.is_empty() && allow.count() == 0 && allow.count_max() == 0);
        assert_eq!(Allow::all(4).iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
