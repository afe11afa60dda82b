//! The keys of a segment's docs: what an answer that asks for no fields needs, without a look at the row
//! store.
//!
//! A search ends with the keys of its hits; read from the row store they cost more than the search of a
//! resident index does (45 us for ten at 100,000 x 384, measured). Memory: the bytes of the keys and 4 bytes
//! a doc, taken from the memory budget after everything else. The section: `docs + 1` offsets in u32, then
//! the keys one after the other. A segment with chunks has none, because an answer brings them along, and
//! neither has one with more than 4 GiB of keys.

use std::ops::Range;

use spandrel_storage::DocId;

use crate::error::{Error, Result};
use crate::simd::Kernels;

/// The name of the section.
pub(super) const SECTION: &str = "keys";

/// Keys by doc.
#[derive(Debug, Default)]
pub(super) struct Keys {
    ends: Vec<u32>,
    text: String,
}

impl Keys {
    /// Adds the key of the next doc; false when there is no room for it.
    pub(super) fn push(&mut self, key: &str) -> bool {
        let end = u32::try_from(self.text.len() + key.len());
        if let Ok(end) = end {
            self.ends.push(end);
            self.text.push_str(key);
        }
        end.is_ok()
    }

    /// The key of a doc.
    pub(super) fn get(&self, doc: DocId) -> Option<&str> {
        self.text.get(self.place(doc)?)
    }

    /// Where in the text the key of a doc is.
    fn place(&self, doc: DocId) -> Option<Range<usize>> {
        let doc = doc as usize;
        let start = if doc == 0 { 0 } else { *self.ends.get(doc - 1)? };
        Some(start as usize..*self.ends.get(doc)? as usize)
    }

    /// Where the key of a doc is, is to be at hand soon.
    pub(super) fn ask_for_place(&self, doc: DocId) {
        let place = self.ends.get((doc as usize).saturating_sub(1)..=doc as usize);
        Kernels::best().prefetch(place.unwrap_or_default());
    }

    /// The key of a doc is to be at hand soon.
    pub(super) fn ask_for(&self, doc: DocId) {
        let text = self.place(doc).and_then(|place| self.text.as_bytes().get(place));
        Kernels::best().prefetch(text.unwrap_or_default());
    }

    /// Bytes of memory in use.
    pub(super) fn memory_bytes(&self) -> usize {
        self.ends.capacity() * 4 + self.text.capacity()
    }

    /// The section.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(self.ends.iter().flat_map(|end| end.to_le_bytes()));
        bytes.extend_from_slice(self.text.as_bytes());
        bytes
    }

    /// Reads the section of a segment with so many docs.
    ///
    /// # Errors
    /// [`Error::Section`] when the bytes are not that.
    pub(super) fn decode(bytes: &[u8], docs: usize) -> Result<Self> {
        let damaged = |what: &str| Error::Section { section: SECTION.to_owned(), what: what.to_owned() };
        let (offsets, text) = bytes
            .split_at_checked(4 * (docs + 1))
            .ok_or_else(|| damaged("it is shorter than its offsets"))?;
        let mut ends: Vec<u32> = offsets.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let text = std::str::from_utf8(text).map_err(|_| damaged("a key is not text"))?;
        let ordered = ends.is_sorted()
            && ends.first() == Some(&0)
            && ends.last().is_some_and(|end| *end as usize == text.len());
        if !ordered || ends.iter().any(|end| !text.is_char_boundary(*end as usize)) {
            return Err(damaged("its offsets do not divide the keys"));
        }
        ends.remove(0);
        Ok(Self { ends, text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_damage_is_noticed() {
        let mut keys = Keys::default();
        let given = ["", "a", "été", "", "a much longer key / with:anything"];
        assert!(given.iter().all(|key| keys.push(key)));
        let bytes = keys.encode();
        let read = Keys::decode(&bytes, given.len()).unwrap();
        for (doc, key) in (0..).zip(given) {
            assert_eq!((keys.get(doc), read.get(doc)), (Some(key), Some(key)));
        }
        assert_eq!((read.get(5), read.get(u32::MAX)), (None, None));
        assert!(Keys::decode(&Keys::default().encode(), 0).unwrap().get(0).is_none());
        for docs in [0, 4, 6, 1000] {
            assert!(Keys::decode(&bytes, docs).is_err(), "{docs} docs");
        }
        for len in 0..bytes.len() {
            assert!(Keys::decode(&bytes[..len], given.len()).is_err(), "{len} bytes");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x80;
            if let Ok(keys) = Keys::decode(&damaged, given.len()) {
                (0..6).for_each(|doc| assert!(keys.get(doc).is_none_or(|key| key.len() <= damaged.len())));
            }
        }
    }
}
