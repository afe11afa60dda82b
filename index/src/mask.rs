//! The docs of a filter as bits: a test costs a nanosecond, a count of a range a popcount a word.
//!
//! A roaring bitmap has no way to hand out its words but its portable format, which is specified
//! (<https://github.com/RoaringBitmap/RoaringFormatSpec>): it is written to a buffer and taken apart there.
//! Cost: the bytes of the bitmap, and a bit and a half a doc of the range, the half to count what is before;
//! 3 us for 100,000 docs.

use std::ops::Range;

use roaring::RoaringBitmap;
use spandrel_storage::DocId;
use spandrel_storage::codec::{Decoder, Truncated};

/// Docs of one container of a bitmap, and the most of a list of them; more are bits.
const CONTAINER_DOCS: u32 = 1 << 16;
pub(crate) const LIST_MAX: usize = 4096;
/// What the format begins with, without containers of runs and with some.
pub(crate) const COOKIE: u32 = 12_346;
const COOKIE_RUNS: u32 = 12_347;
/// So many containers and more have their offsets before them, where there are runs.
const OFFSETS_MIN: usize = 4;

/// Docs as bits, from a doc on.
#[derive(Debug, Default)]
pub(crate) struct Mask {
    first: DocId,
    words: Vec<u64>,
    /// Docs in the words before each.
    before: Vec<u32>,
    buffer: Vec<u8>,
}

impl Mask {
    /// Takes the docs of `range` that are in a bitmap, or all of them.
    pub(crate) fn set(&mut self, docs: Option<&RoaringBitmap>, range: &Range<DocId>) {
        self.first = range.start / CONTAINER_DOCS * CONTAINER_DOCS;
        self.words.clear();
        self.before.clear();
        if range.is_empty() {
            return;
        }
        let all = if docs.is_none() { u64::MAX } else { 0 };
        self.words.resize(((range.end - self.first) as usize).div_ceil(64), all);
        if let Some(docs) = docs {
            self.buffer.clear();
            let written = docs.serialize_into(&mut self.buffer);
            debug_assert!(written.is_ok(), "a buffer takes everything");
            let taken = take_apart(&self.buffer, self.first, &mut self.words);
            debug_assert!(taken.is_ok(), "it is what roaring wrote");
        }
        // Containers reach beyond the range at both ends.
        let before = (range.start - self.first) as usize;
        self.words[..before / 64].fill(0);
        self.words[before / 64] &= u64::MAX << (before % 64);
        let last = self.words.len() - 1;
        let beyond = self.words.len() * 64 - (range.end - self.first) as usize;
        self.words[last] &= u64::MAX >> beyond;
        let mut count = 0;
        self.before.extend(self.words.iter().map(|word| {
            let before = count;
            count += word.count_ones();
            before
        }));
        self.before.push(count);
    }

    /// Whether a doc is among them; none outside of the range is.
    #[inline]
    pub(crate) fn contains(&self, doc: DocId) -> bool {
        let at = doc.wrapping_sub(self.first) as usize;
        self.words.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// How many docs of a range are among them.
    pub(crate) fn count(&self, docs: Range<DocId>) -> u32 {
        self.count_before(docs.end).saturating_sub(self.count_before(docs.start))
    }

    /// How many docs before one are among them.
    #[inline(always)]
    pub(crate) fn count_before(&self, doc: DocId) -> u32 {
        let at = doc.saturating_sub(self.first) as usize;
        match (self.words.get(at / 64), self.before.get(at / 64)) {
            (Some(word), Some(before)) => before + (word & !(u64::MAX << (at % 64))).count_ones(),
            _ => self.before.last().copied().unwrap_or(0),
        }
    }

    /// Calls `each` with those of a range, ascending.
    pub(crate) fn each(&self, docs: Range<DocId>, mut each: impl FnMut(DocId)) {
        self.each_word(docs, |first, mut word| {
            while word != 0 {
                each(first + word.trailing_zeros());
                word &= word - 1;
            }
        });
    }

    #[inline]
    fn each_word(&self, docs: Range<DocId>, mut each: impl FnMut(DocId, u64)) {
        let end = (docs.end.saturating_sub(self.first) as usize).min(self.words.len() * 64);
        let start = docs.start.saturating_sub(self.first) as usize;
        if start >= end {
            return;
        }
        let (low, high) = (start / 64, (end - 1) / 64);
        for at in low..=high {
            let mut word = self.words[at];
            if at == low {
                word &= u64::MAX << (start % 64);
            }
            if at == high {
                word &= u64::MAX >> (63 - (end - 1) % 64);
            }
            each(self.first + at as u32 * 64, word);
        }
    }
}

/// Sets the bits of a bitmap in roaring's format in words that begin with doc `first`, the first of a
/// container.
fn take_apart(bytes: &[u8], first: DocId, words: &mut [u64]) -> Result<(), Truncated> {
    let mut bytes = Decoder::new(bytes);
    let cookie = bytes.u32("cookie")?;
    let (containers, runs) = match cookie & 0xffff {
        COOKIE_RUNS => {
            let containers = (cookie >> 16) as usize + 1;
            (containers, bytes.take(containers.div_ceil(8), "kinds")?)
        }
        _ if cookie == COOKIE => (bytes.u32("containers")? as usize, &[][..]),
        _ => return Err(Truncated { what: "cookie", left: bytes.left() }),
    };
    let keys = bytes.take(containers * 4, "keys")?;
    if runs.is_empty() || containers >= OFFSETS_MIN {
        bytes.take(containers * 4, "offsets")?;
    }
    let short = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
    for (at, key) in keys.chunks_exact(4).enumerate() {
        let (docs, count) = (u32::from(short(key)) * CONTAINER_DOCS, usize::from(short(&key[2..])) + 1);
        // Those before and behind are passed over.
        let start = docs.checked_sub(first).map_or(words.len(), |docs| (docs / 64) as usize).min(words.len());
        let here = &mut words[start..];
        let mut set = |doc: usize| {
            if let Some(word) = here.get_mut(doc / 64) {
                *word |= 1 << (doc % 64);
            }
        };
        if runs.get(at / 8).is_some_and(|kinds| kinds >> (at % 8) & 1 == 1) {
            let count = usize::from(bytes.u16("runs")?);
            for run in bytes.take(count * 4, "runs")?.chunks_exact(4) {
                let from = usize::from(short(run));
                (from..=from + usize::from(short(&run[2..]))).for_each(&mut set);
            }
        } else if count > LIST_MAX {
            let bits = bytes.take(CONTAINER_DOCS as usize / 8, "bits")?;
            for (word, bits) in here.iter_mut().zip(bits.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bits);
            }
        } else {
            bytes.take(count * 2, "list")?.chunks_exact(2).for_each(|doc| set(usize::from(short(doc))));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn a_mask_is_the_bitmap_cut_to_the_range() {
        let mut random = Random(9);
        let mut mask = Mask::default();
        for round in 0..200 {
            let docs = 1 + random.below(400_000) as u32;
            let one_in = [1, 2, 15, 40, 3_000][round % 5];
            let mut bitmap: RoaringBitmap = (0..docs).filter(|_| random.below(one_in) == 0).collect();
            let hole = random.below(docs as usize) as u32;
            bitmap.insert_range(hole..docs.min(hole + random.below(100_000) as u32));
            if round % 3 == 0 {
                bitmap.optimize();
            }
            let mut ends = [random.below(docs as usize) as u32, 1 + random.below(docs as usize + 70) as u32];
            ends.sort_unstable();
            let range = if round % 7 == 0 { 0..docs } else { ends[0]..ends[1] };
            mask.set(None, &range);
            assert_eq!((0..docs + 100).filter(|doc| mask.contains(*doc)).count(), range.len());
            mask.set(Some(&bitmap), &range);
            let expected: Vec<u32> = bitmap.range(range.clone()).collect();
            let mut found = Vec::new();
            mask.each(0..u32::MAX, |doc| found.push(doc));
            assert_eq!(found, expected, "round {round}: {range:?} of {docs}");
            for _ in 0..50 {
                let doc = random.below(docs as usize + 100) as u32;
                assert_eq!(mask.contains(doc), range.contains(&doc) && bitmap.contains(doc), "{round} {doc}");
                let end = doc + random.below(2_000) as u32;
                let within = doc.max(range.start)..end.min(range.end).max(doc.max(range.start));
                assert_eq!(u64::from(mask.count(doc..end)), bitmap.range_cardinality(within), "{round}");
            }
        }
        mask.set(Some(&RoaringBitmap::new()), &(5..5));
        assert!(!mask.contains(5) && mask.count(0..100) == 0);
    }
}
