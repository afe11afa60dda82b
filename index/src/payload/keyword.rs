//! A sorted dictionary of byte strings, each with its documents: keywords, and the words of texts.
//!
//! Strings lie back to back in sort order with their ends; equality, ranges by bytes and prefixes are binary
//! searches. Build numbers strings by hash and sorts only the distinct ones.
//!
//! On disk: u32 n, n string ends of 8 bytes, the strings, then the lists.

use std::ops::{Bound, Range};

use spandrel_storage::DocId;
use spandrel_storage::codec::{Decoder, Encoder};

use super::damaged;
use super::lists::DocLists;
use crate::error::Result;
use crate::intern::Interner;

/// Sorted distinct strings and their documents.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Keywords {
    bytes: Vec<u8>,
    /// Where each string ends in `bytes`.
    ends: Vec<u64>,
    lists: DocLists,
}

impl Keywords {
    /// From distinct `(number in strings, document)` pairs, fewer than 2^32, whose documents ascend below
    /// `doc_count`.
    pub(super) fn build(strings: &Interner, mut pairs: Vec<(u32, DocId)>, doc_count: u32) -> Self {
        let mut order: Vec<u32> = (0..strings.len() as u32).collect();
        order.sort_unstable_by(|a, b| strings.get(*a).cmp(strings.get(*b)));
        let mut ordinals = vec![0; order.len()];
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(order.len()));
        for (ordinal, number) in order.iter().enumerate() {
            ordinals[*number as usize] = ordinal as u32;
            bytes.extend_from_slice(strings.get(*number));
            ends.push(bytes.len() as u64);
        }
        for pair in &mut pairs {
            pair.0 = ordinals[pair.0 as usize];
        }
        Self { lists: DocLists::from_pairs(order.len(), doc_count, &pairs), bytes, ends }
    }

    /// Documents by string.
    pub(super) fn lists(&self) -> &DocLists {
        &self.lists
    }

    /// The ordinals of the strings within the bounds, by bytes.
    pub(super) fn range(&self, lower: Bound<&str>, upper: Bound<&str>) -> Range<usize> {
        let before = |asked: &str| self.partition_point(|string| string < asked.as_bytes());
        let through = |asked: &str| self.partition_point(|string| string <= asked.as_bytes());
        let start = match lower {
            Bound::Included(asked) => before(asked),
            Bound::Excluded(asked) => through(asked),
            Bound::Unbounded => 0,
        };
        let end = match upper {
            Bound::Included(asked) => through(asked),
            Bound::Excluded(asked) => before(asked),
            Bound::Unbounded => self.ends.len(),
        };
        start..end.max(start)
    }

    /// The ordinal of a string, as a range of at most one.
    pub(super) fn equal(&self, asked: &str) -> Range<usize> {
        let start = self.partition_point(|string| string < asked.as_bytes());
        let found = start < self.ends.len() && self.get(start) == asked.as_bytes();
        start..start + usize::from(found)
    }

    /// The ordinals of the strings that start with `prefix`; all of them for an empty one.
    pub(super) fn prefix(&self, prefix: &str) -> Range<usize> {
        let prefix = prefix.as_bytes();
        let start = self.partition_point(|string| string < prefix);
        start..self.partition_point(|string| string < prefix || string.starts_with(prefix))
    }

    fn get(&self, ordinal: usize) -> &[u8] {
        let start = if ordinal == 0 { 0 } else { self.ends[ordinal - 1] };
        &self.bytes[start as usize..self.ends[ordinal] as usize]
    }

    /// The first ordinal whose string is not `in_front`.
    fn partition_point(&self, in_front: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if in_front(self.get(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Bytes of memory in use.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * 8 + self.lists.memory_bytes()
    }

    /// Appends the layout in the module's head.
    pub(super) fn write(&self, out: &mut Encoder) {
        out.u32(self.ends.len() as u32);
        for end in &self.ends {
            out.u64(*end);
        }
        out.raw(&self.bytes);
        self.lists.write(out);
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// [`Error::Section`](crate::Error::Section) for strings that do not ascend and for damaged lists.
    pub(super) fn read(bytes: &mut Decoder<'_>) -> Result<Self> {
        let count = bytes.u32("string count").map_err(damaged)? as usize;
        let raw = bytes.take(count.saturating_mul(8), "string ends").map_err(damaged)?;
        let ends: Vec<u64> = raw.as_chunks::<8>().0.iter().map(|end| u64::from_le_bytes(*end)).collect();
        let len = usize::try_from(ends.last().copied().unwrap_or(0)).unwrap_or(usize::MAX);
        let strings = bytes.take(len, "strings").map_err(damaged)?.to_vec();
        if !ends.is_sorted() {
            return Err(damaged("the ends of strings do not ascend"));
        }
        let read = Self { bytes: strings, ends, lists: DocLists::read(bytes)? };
        let ascends = (1..read.ends.len()).all(|ordinal| read.get(ordinal - 1) < read.get(ordinal));
        if !ascends || read.lists.len() != read.ends.len() {
            return Err(damaged("strings do not ascend, one a document list"));
        }
        Ok(read)
    }
}
