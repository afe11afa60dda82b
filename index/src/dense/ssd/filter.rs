//! Which vectors a search may find: tested one by one by their docs, or known of all as bits.
//!
//! Where vectors lie in the order of their cells the docs of a partition are its vectors, moved by a
//! constant, and the docs of a cell are a range of bits: how many of a cell's vectors may be found is a
//! popcount, and which those are takes a word at a time. So a filter has, for each search anew, what Curator
//! keeps for each of its labels: lists of vectors at the nodes of a tree, found by where they begin and end
//! instead of by Bloom filters.

use std::ops::Range;

use roaring::RoaringBitmap;
use spandrel_storage::DocId;

use crate::allow::Allow;
use crate::mask::Mask;

/// In a cell of which at most one in so many vectors may be found, those are looked at one by one instead of
/// scanning its posting: by their codes, or, where those are not in memory one by one, by ranking them.
const FEW_CODED: u32 = 6;
const FEW_RANKED: u32 = 24;

/// Which vectors may be found.
#[derive(Clone, Copy)]
pub(super) enum Filter<'a> {
    /// Those of docs that are allowed.
    Docs(&'a Allow<'a>, &'a dyn Fn(u32) -> DocId),
    /// Those whose bit is set.
    Bits(Bits<'a>),
}

/// The vectors of a partition that may be found, as bits.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    pub(super) mask: &'a Mask,
    /// The doc of vector v is v + this.
    pub(super) shift: u32,
    /// Docs that may not be found all the same.
    pub(super) deleted: Option<&'a RoaringBitmap>,
    /// First vector of each cell, and the end of the partition's.
    pub(super) firsts: &'a [u32],
    pub(super) end: u32,
    /// One in so many are few.
    pub(super) few: u32,
}

/// One in how many are few, where there are codes one by one or not.
pub(super) fn few(has_singles: bool) -> u32 {
    if has_singles { FEW_CODED } else { FEW_RANKED }
}

impl Filter<'_> {
    pub(super) fn contains(&self, vector: u32) -> bool {
        match self {
            Self::Docs(allow, doc_of) => allow.contains(doc_of(vector)),
            Self::Bits(bits) => bits.contains(vector),
        }
    }

    pub(super) fn bits(&self) -> Option<&Bits<'_>> {
        match self {
            Self::Docs(..) => None,
            Self::Bits(bits) => Some(bits),
        }
    }
}

impl Bits<'_> {
    fn contains(&self, vector: u32) -> bool {
        let doc = vector + self.shift;
        self.mask.contains(doc) && self.deleted.is_none_or(|deleted| !deleted.contains(doc))
    }

    /// The docs of cells that lie side by side.
    fn docs(&self, cells: Range<u32>) -> Range<DocId> {
        let first = |cell: u32| self.firsts[cell as usize].min(self.end) + self.shift;
        first(cells.start)..first(cells.end)
    }

    /// The share of the vectors of some cells that may be found, as if none was deleted.
    pub(super) fn share(&self, cells: Range<u32>) -> f32 {
        let docs = self.docs(cells);
        self.mask.count(docs.clone()) as f32 / docs.len().max(1) as f32
    }

    /// Calls `each` for cells that lie side by side, one after the other: with the share of its vectors that
    /// may be found, as if none was deleted, and whether those are few.
    #[inline(always)]
    pub(super) fn shares(&self, cells: Range<u32>, mut each: impl FnMut(f32, bool)) {
        let mut from = self.docs(cells.clone()).start;
        let mut before = self.mask.count_before(from);
        for cell in cells {
            let to = self.docs(cell..cell + 1).end;
            let until = self.mask.count_before(to);
            let (found, all) = (until - before, to - from);
            each(found as f32 / all.max(1) as f32, found * self.few <= all);
            (from, before) = (to, until);
        }
    }

    /// Calls `each` with the vectors of a cell that may be found, ascending.
    pub(super) fn each(&self, cell: u32, mut each: impl FnMut(u32)) {
        self.mask.each(self.docs(cell..cell + 1), |doc| {
            if self.deleted.is_none_or(|deleted| !deleted.contains(doc)) {
                each(doc - self.shift);
            }
        });
    }
}
