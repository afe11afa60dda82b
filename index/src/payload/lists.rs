//! The documents of each value of a field: lists by ordinal, merged over ranges of ordinals.
//!
//! Ordinals number the distinct values of a field in their sort order, so that every equality is one list and
//! every range or prefix is a run of neighbouring lists. Short lists lie back to back in one array (4 bytes a
//! document); lists of [`DENSE_DOCS_MIN`] documents and more are roaring bitmaps, which a query clones or
//! merges without touching documents one by one. Counting a run is two array reads plus one step a dense
//! list. A run of `d` documents becomes a bitmap in `O(d log d)`, or in `O(d + n / 64)` over `n` documents
//! when it is not sparse.
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

/// A list this long is kept as a bitmap.
const DENSE_DOCS_MIN: usize = 1024;
/// A run of at least this many short-list documents, and of at least one in [`BITSET_SHARE`] of all, goes
/// through a bitset.
const BITSET_DOCS_MIN: usize = 256;
/// See [`BITSET_DOCS_MIN`].
const BITSET_SHARE: usize = 512;

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
pub(super) struct DocLists {
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
    pub(super) fn from_pairs(ordinal_count: usize, doc_count: u32, pairs: &[(u32, DocId)]) -> Self {
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
    pub(super) fn from_runs(mut starts: Vec<u32>, mut docs: Vec<DocId>, doc_count: u32) -> Self {
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
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// One more than the largest document.
    pub(super) fn doc_count(&self) -> u32 {
        self.doc_count
    }

    /// Total length of the lists of these ordinals; a document in several of them counts once for each.
    pub(super) fn count(&self, ordinals: Range<usize>) -> u64 {
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

    /// The documents that are in any list of these ordinals.
    pub(super) fn union(&self, ordinals: Range<usize>) -> RoaringBitmap {
        if ordinals.is_empty() {
            return RoaringBitmap::new();
        }
        let single = ordinals.len() == 1;
        let run = &self.docs[self.starts[ordinals.start] as usize..self.starts[ordinals.end] as usize];
        let mut union = if single {
            sorted_bitmap(run)
        } else if run.len() >= BITSET_DOCS_MIN && run.len() * BITSET_SHARE >= self.doc_count as usize {
            self.bitset(run)
        } else {
            let mut docs = run.to_vec();
            docs.sort_unstable();
            docs.dedup();
            sorted_bitmap(&docs)
        };
        for dense in self.dense_in(&ordinals) {
            union |= &dense.docs;
        }
        union
    }

    fn bitset(&self, docs: &[DocId]) -> RoaringBitmap {
        let mut bits = vec![0u8; (self.doc_count as usize).div_ceil(8)];
        for doc in docs {
            bits[*doc as usize / 8] |= 1 << (doc % 8);
        }
        RoaringBitmap::from_lsb0_bytes(0, &bits)
    }

    fn dense_in(&self, ordinals: &Range<usize>) -> &[Dense] {
        let from = self.dense.partition_point(|list| (list.ordinal as usize) < ordinals.start);
        let to = self.dense.partition_point(|list| (list.ordinal as usize) < ordinals.end);
        &self.dense[from..to]
    }

    /// Bytes of memory in use.
    pub(super) fn memory_bytes(&self) -> usize {
        let dense: usize =
            self.dense.iter().map(|list| size_of::<Dense>() + list.docs.serialized_size()).sum();
        (self.starts.capacity() + self.docs.capacity()) * 4 + dense
    }

    /// Appends the layout in the module's head.
    pub(super) fn write(&self, out: &mut Encoder) {
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
    pub(super) fn read(bytes: &mut Decoder<'_>) -> Result<Self> {
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

/// A bitmap of ascending documents.
pub(super) fn sorted_bitmap(docs: &[DocId]) -> RoaringBitmap {
    RoaringBitmap::from_sorted_iter(docs.iter().copied()).expect("lists of documents ascend")
}

/// Appends a bitmap as length and roaring's portable format.
pub(super) fn write_bitmap(bitmap: &RoaringBitmap, out: &mut Encoder) {
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes).expect("writing to memory does not fail");
    out.bytes(&bytes);
}

/// Reads what [`write_bitmap`] wrote; all documents are below `doc_count`.
pub(super) fn read_bitmap(bytes: &mut Decoder<'_>, doc_count: u32) -> Result<RoaringBitmap> {
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
                assert_eq!(lists.union(from..to), expected, "{from}..{to}");
                assert_eq!(lists.count(from..to), pairs.iter().filter(inside).count() as u64);
            }
        }
        let mut out = Encoder::default();
        lists.write(&mut out);
        let bytes = out.finish();
        assert_eq!(DocLists::read(&mut Decoder::new(&bytes)).unwrap(), lists);
    }
}
