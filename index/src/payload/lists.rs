//! The documents of each value of a field: lists by ordinal, merged over ranges of ordinals.
//!
//! Ordinals number the distinct values of a field in their sort order, so that every equality is one list and
//! every range or prefix is a run of neighbouring lists. Short lists lie back to back in one array (4 bytes a
//! document); lists of [`DENSE_DOCS_MIN`] documents and more are roaring bitmaps, which a query clones or
//! merges without touching documents one by one. Counting a run is two array reads plus one step a dense
//! list. A query stays within a range of documents, its tenant's: of a list only that part is touched, of a
//! run of many lists 4 bytes a document are looked at. `d` documents of a run become a bitmap in `O(d log
//! d)`, or in `O(d + n / 64)` for a range of `n` documents when it is not sparse.
//!
//! On disk, little-endian:
//! ```text
//! u32 documents | u32 n + 1, u32 x (n + 1) where each short list starts | u32 d, u32 x d short lists
//! u32 dense lists | a dense list: u32 ordinal, u32 length in bytes, roaring's portable format
//! ```

use std::ops::Range;

use roaring::RoaringBitmap;
use spandrel_storage::DocId;
use spandrel_storage::codec::{Decoder, Encoder};

use super::damaged;
use crate::error::Result;
use crate::mask::{COOKIE, LIST_MAX};

/// A list this long is kept as a bitmap.
const DENSE_DOCS_MIN: usize = 1024;
/// At least this many documents of a run, and at least one in [`BITSET_SHARE`] of the range, go through a
/// bitset.
const BITSET_DOCS_MIN: usize = 256;
/// See [`BITSET_DOCS_MIN`].
const BITSET_SHARE: usize = 512;

/// A run whose lists are this long on average is cut list by list, a run of shorter ones document by
/// document.
const CUT_DOCS_MIN: usize = 16;

/// The documents that a query may see, as a range and as what cuts bitmaps to it.
#[derive(Debug)]
pub(crate) struct Within {
    docs: Range<DocId>,
    /// None when the range covers every document.
    mask: Option<RoaringBitmap>,
}

impl Within {
    /// The documents of `docs` in lists over `doc_count` documents.
    pub(crate) fn new(docs: Range<DocId>, doc_count: u32) -> Self {
        let end = docs.end.min(doc_count);
        let docs = docs.start.min(end)..end;
        let mask = (docs != (0..doc_count)).then(|| {
            let mut mask = RoaringBitmap::new();
            mask.insert_range(docs.clone());
            mask
        });
        Self { docs, mask }
    }

    /// Whether there is no document.
    pub(crate) fn is_empty(&self) -> bool {
        self.docs.is_empty()
    }

    /// The part of a bitmap that lies within.
    pub(crate) fn cut(&self, bitmap: &RoaringBitmap) -> RoaringBitmap {
        self.mask.as_ref().map_or_else(|| bitmap.clone(), |mask| mask & bitmap)
    }

    /// The part of an ascending list that lies within.
    fn part<'a>(&self, list: &'a [DocId]) -> &'a [DocId] {
        if self.mask.is_none() {
            return list;
        }
        let from = list.partition_point(|doc| *doc < self.docs.start);
        &list[from..from + list[from..].partition_point(|doc| *doc < self.docs.end)]
    }
}

/// A list that is kept as a bitmap.
#[derive(Clone, Debug, PartialEq)]
struct Dense {
    ordinal: u32,
    /// Documents in the dense lists before this one.
    before: u64,
    docs: RoaringBitmap,
}

/// Lists of documents by ordinal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DocLists {
    doc_count: u32,
    /// Where the short list of each ordinal starts in `docs`; empty for an ordinal whose list is dense.
    starts: Vec<u32>,
    docs: Vec<DocId>,
    /// Ascending by ordinal.
    dense: Vec<Dense>,
}

impl DocLists {
    /// Lists of `ordinal_count` ordinals from distinct `(ordinal, document)` pairs whose documents ascend.
    ///
    /// Documents are smaller than `doc_count`; there are fewer than 2^32 pairs.
    pub(crate) fn from_pairs(ordinal_count: usize, doc_count: u32, pairs: &[(u32, DocId)]) -> Self {
        let mut starts = vec![0u32; ordinal_count + 1];
        for (ordinal, _) in pairs {
            starts[*ordinal as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut docs = vec![0; pairs.len()];
        for (ordinal, doc) in pairs {
            let slot = &mut next[*ordinal as usize];
            docs[*slot as usize] = *doc;
            *slot += 1;
        }
        Self::from_runs(starts, docs, doc_count)
    }

    /// Lists that lie back to back in `docs`, each ascending; `starts` has one entry more than there are
    /// lists.
    pub(crate) fn from_runs(mut starts: Vec<u32>, mut docs: Vec<DocId>, doc_count: u32) -> Self {
        let (mut dense, mut before, mut kept) = (Vec::new(), 0, 0);
        for ordinal in 0..starts.len() - 1 {
            let run = starts[ordinal] as usize..starts[ordinal + 1] as usize;
            starts[ordinal] = kept as u32;
            if run.len() >= DENSE_DOCS_MIN {
                let list = sorted_bitmap(&docs[run.clone()]);
                dense.push(Dense { ordinal: ordinal as u32, before, docs: list });
                before += run.len() as u64;
            } else {
                docs.copy_within(run.clone(), kept);
                kept += run.len();
            }
        }
        let last = starts.len() - 1;
        starts[last] = kept as u32;
        docs.truncate(kept);
        docs.shrink_to_fit();
        Self { doc_count, starts, docs, dense }
    }

    /// How many ordinals there are.
    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// One more than the largest document.
    pub(crate) fn doc_count(&self) -> u32 {
        self.doc_count
    }

    /// Total length of the lists of these ordinals; a document in several of them counts once for each.
    pub(crate) fn count(&self, ordinals: Range<usize>) -> u64 {
        if ordinals.is_empty() {
            return 0;
        }
        let short = u64::from(self.starts[ordinals.end] - self.starts[ordinals.start]);
        let dense = self.dense_in(&ordinals);
        match (dense.first(), dense.last()) {
            (Some(first), Some(last)) => short + last.before + last.docs.len() - first.before,
            _ => short,
        }
    }

    /// The documents within a range that are in any list of these ordinals.
    pub(crate) fn union(&self, ordinals: Range<usize>, within: &Within) -> RoaringBitmap {
        if ordinals.is_empty() || within.is_empty() {
            return RoaringBitmap::new();
        }
        let mut union = if ordinals.len() == 1 {
            sorted_bitmap(within.part(self.short(ordinals.start)))
        } else {
            self.union_short(&ordinals, within)
        };
        for dense in self.dense_in(&ordinals) {
            match &within.mask {
                None => union |= &dense.docs,
                Some(mask) => union |= mask & &dense.docs,
            }
        }
        union
    }

    /// The documents that are in any list.
    pub(crate) fn all(&self) -> RoaringBitmap {
        self.union(0..self.len(), &Within::new(0..self.doc_count, self.doc_count))
    }

    /// The short list of an ordinal.
    fn short(&self, ordinal: usize) -> &[DocId] {
        &self.docs[self.starts[ordinal] as usize..self.starts[ordinal + 1] as usize]
    }

    fn union_short(&self, ordinals: &Range<usize>, within: &Within) -> RoaringBitmap {
        let run = &self.docs[self.starts[ordinals.start] as usize..self.starts[ordinals.end] as usize];
        let mut docs = Vec::new();
        if within.mask.is_none() {
            if is_bitset(run.len(), &within.docs) {
                return bitset(run, &within.docs);
            }
            docs.extend_from_slice(run);
        } else if run.len() / ordinals.len() >= CUT_DOCS_MIN {
            ordinals.clone().for_each(|ordinal| docs.extend_from_slice(within.part(self.short(ordinal))));
        } else {
            docs.extend(run.iter().filter(|doc| within.docs.contains(*doc)));
        }
        if is_bitset(docs.len(), &within.docs) {
            return bitset(&docs, &within.docs);
        }
        docs.sort_unstable();
        docs.dedup();
        sorted_bitmap(&docs)
    }

    fn dense_in(&self, ordinals: &Range<usize>) -> &[Dense] {
        let from = self.dense.partition_point(|list| (list.ordinal as usize) < ordinals.start);
        let to = self.dense.partition_point(|list| (list.ordinal as usize) < ordinals.end);
        &self.dense[from..to]
    }

    /// Bytes of memory in use.
    pub(crate) fn memory_bytes(&self) -> usize {
        let dense: usize =
            self.dense.iter().map(|list| size_of::<Dense>() + list.docs.serialized_size()).sum();
        (self.starts.capacity() + self.docs.capacity()) * 4 + dense
    }

    /// Appends the layout in the module's head.
    pub(crate) fn write(&self, out: &mut Encoder) {
        out.u32(self.doc_count).u32s(&self.starts).u32s(&self.docs).u32(self.dense.len() as u32);
        for list in &self.dense {
            out.u32(list.ordinal);
            write_bitmap(&list.docs, out);
        }
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// [`Error::Section`](crate::Error::Section) for bytes that do not hold ascending lists of documents
    /// below the count.
    pub(crate) fn read(bytes: &mut Decoder<'_>) -> Result<Self> {
        let doc_count = bytes.u32("document count").map_err(damaged)?;
        let starts = bytes.u32s("list starts").map_err(damaged)?;
        let docs = bytes.u32s("lists").map_err(damaged)?;
        if starts.first() != Some(&0)
            || starts.last().map(|end| *end as usize) != Some(docs.len())
            || !starts.is_sorted()
        {
            return Err(damaged("the starts of document lists do not ascend from 0 to their end"));
        }
        for run in starts.windows(2) {
            let list = &docs[run[0] as usize..run[1] as usize];
            let ascends = list.is_sorted_by(|a, b| a < b);
            if !ascends || list.last().is_some_and(|doc| *doc >= doc_count) {
                return Err(damaged("a document list does not ascend below the document count"));
            }
        }
        let (mut dense, mut before): (Vec<Dense>, u64) = (Vec::new(), 0);
        for _ in 0..bytes.u32("dense list count").map_err(damaged)? {
            let ordinal = bytes.u32("ordinal").map_err(damaged)?;
            let docs = read_bitmap(bytes, doc_count)?;
            let at = ordinal as usize;
            let in_order = dense.last().is_none_or(|list| list.ordinal < ordinal) && at + 1 < starts.len();
            if !in_order || starts[at] != starts[at + 1] || docs.is_empty() {
                return Err(damaged("dense document lists are out of order"));
            }
            let len = docs.len();
            dense.push(Dense { ordinal, before, docs });
            before += len;
        }
        Ok(Self { doc_count, starts, docs, dense })
    }
}

/// Fewer documents are added to a bitmap one by one.
const WRITTEN_DOCS_MIN: usize = 32;

/// Whether so many documents of a range go through a bitset.
fn is_bitset(docs: usize, within: &Range<DocId>) -> bool {
    docs >= BITSET_DOCS_MIN && docs * BITSET_SHARE >= within.len()
}

/// A bitmap of documents of a range in any order.
fn bitset(docs: &[DocId], within: &Range<DocId>) -> RoaringBitmap {
    let first = within.start / 8 * 8;
    let mut bits = vec![0u8; ((within.end - first) as usize).div_ceil(8)];
    for doc in docs {
        let at = doc - first;
        bits[at as usize / 8] |= 1 << (at % 8);
    }
    RoaringBitmap::from_lsb0_bytes(first, &bits)
}

/// A bitmap of ascending documents.
///
/// Written as roaring's format (<https://github.com/RoaringBitmap/RoaringFormatSpec>) and read again, which
/// takes a fourth of adding them one by one.
pub(crate) fn sorted_bitmap(docs: &[DocId]) -> RoaringBitmap {
    let one_by_one =
        || RoaringBitmap::from_sorted_iter(docs.iter().copied()).expect("lists of documents ascend");
    if docs.len() < WRITTEN_DOCS_MIN {
        return one_by_one();
    }
    let containers: Vec<&[DocId]> = docs.chunk_by(|a, b| a >> 16 == b >> 16).collect();
    if containers.iter().any(|list| list.len() > LIST_MAX) {
        return one_by_one();
    }
    let mut bytes = Vec::with_capacity(8 + 8 * containers.len() + 2 * docs.len());
    bytes.extend_from_slice(&COOKIE.to_le_bytes());
    bytes.extend_from_slice(&(containers.len() as u32).to_le_bytes());
    for list in &containers {
        bytes.extend_from_slice(&(list[0] & !0xffff | (list.len() as u32 - 1)).rotate_left(16).to_le_bytes());
    }
    let mut offset = 8 + 8 * containers.len();
    for list in &containers {
        bytes.extend_from_slice(&(offset as u32).to_le_bytes());
        offset += 2 * list.len();
    }
    bytes.extend(docs.iter().flat_map(|doc| (*doc as u16).to_le_bytes()));
    RoaringBitmap::deserialize_from(&*bytes).unwrap_or_else(|_| one_by_one())
}

/// Appends a bitmap as length and roaring's portable format.
pub(crate) fn write_bitmap(bitmap: &RoaringBitmap, out: &mut Encoder) {
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes).expect("writing to memory does not fail");
    out.bytes(&bytes);
}

/// Reads what [`write_bitmap`] wrote; all documents are below `doc_count`.
pub(crate) fn read_bitmap(bytes: &mut Decoder<'_>, doc_count: u32) -> Result<RoaringBitmap> {
    let mut bytes = bytes.bytes("bitmap").map_err(damaged)?;
    let bitmap = RoaringBitmap::deserialize_from(&mut bytes).map_err(damaged)?;
    if !bytes.is_empty() || bitmap.max().is_some_and(|doc| doc >= doc_count) {
        return Err(damaged("a bitmap holds documents beyond the document count"));
    }
    Ok(bitmap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_of_ascending_documents_holds_them() {
        let lists: [Vec<DocId>; 6] = [
            Vec::new(),
            vec![7, 65_535, 65_536, u32::MAX],
            (0..100).collect(),
            (0..4_096).map(|doc| 3 * doc).collect(),
            (0..9_000).map(|doc| 70_000 + 211 * doc).collect(),
            (60_000..70_000).collect(),
        ];
        for docs in lists {
            let bitmap = sorted_bitmap(&docs);
            assert_eq!(bitmap, docs.iter().copied().collect(), "{} documents", docs.len());
            assert!(bitmap.iter().eq(docs.iter().copied()));
        }
    }

    #[test]
    fn runs_short_and_dense_agree_with_sets() {
        let doc_count = 20_000;
        // Ordinal 3 is dense, 0 is empty, the others are short; documents have several ordinals.
        let mut pairs = Vec::new();
        for doc in 0..doc_count {
            for ordinal in [1, 2, 3, 4, 7] {
                if doc % [1, 300, 211, 3, 97, 1, 1, 41][ordinal as usize] == 0 {
                    pairs.push((ordinal, doc));
                }
            }
        }
        let lists = DocLists::from_pairs(9, doc_count, &pairs);
        assert_eq!(lists.len(), 9);
        assert_eq!(lists.dense.len(), 1);
        for from in 0..=9 {
            for to in from..=9 {
                let inside = |pair: &&(u32, DocId)| (from..to).contains(&(pair.0 as usize));
                let expected: RoaringBitmap = pairs.iter().filter(inside).map(|pair| pair.1).collect();
                for docs in [0..doc_count, 0..u32::MAX, 4_999..5_003, 13..19_000, 700..700, 30_000..40_000] {
                    let mut cut = expected.clone();
                    cut.remove_range(..docs.start);
                    cut.remove_range(docs.end..);
                    let within = Within::new(docs.clone(), doc_count);
                    assert_eq!(lists.union(from..to, &within), cut, "{from}..{to} in {docs:?}");
                    assert_eq!(within.cut(&expected), cut, "{from}..{to} in {docs:?}");
                }
                assert_eq!(lists.count(from..to), pairs.iter().filter(inside).count() as u64);
            }
        }
        let mut out = Encoder::default();
        lists.write(&mut out);
        let bytes = out.finish();
        assert_eq!(DocLists::read(&mut Decoder::new(&bytes)).unwrap(), lists);
    }
}
