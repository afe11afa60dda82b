//! Which docs of a segment have a key: what [`generations`](super::generations) cannot say, and has to be
//! known where texts are replaced and deleted. A row that is written again is most alike to itself.
//!
//! Keys are hashes, so that `n` of them, scaled to `n` buckets, fall one to a bucket on average. Of each the
//! bucket is kept and the bits after it. The sizes of the buckets are written in unary, a one for a key and a
//! zero at the end of a bucket (Elias, 1974; Fano, 1971): 2 bits a key, in which the place where a bucket
//! begins is counted from the nearest of samples. The bits after it are as many as the promise takes: a key
//! that is not there is found with a chance of `2^-bits`. Beside them lie the numbers of the docs, in the
//! same order, which may stay on disk: they are read when a key is found, which is rare.
//!
//! Departure from LSHBloom (Khan et al., 2024), whose filters tell that a text was seen. Built of a known
//! number of keys, a table takes two bits a key more than the promise does, where a Bloom filter takes half
//! as many again and more when it has just grown; and the doc is named, so that whoever asks can look whether
//! it is one: the promise of segments is a matter of time, and costs 13 bits. What cannot be done is to put
//! one more in: a segment never changes, and small ones are merged ([`crate::segment::policy`]).
//!
//! Cost: 16 bits a key with the usual threshold, 20 bytes a text of 10 keys, on disk, and a bit more a key in
//! memory; on disk besides as many bits a key as the largest doc takes. Three cache misses to ask for a key,
//! two for one in three.

mod build;

use std::sync::Arc;

use spandrel_storage::DocId;
use spandrel_storage::codec::{Decoder, Encoder, Truncated};
use spandrel_storage::io::Extent;

pub use self::build::TableBuilder;
use crate::dense::vectors::ChunkSource;
use crate::error::{Error, Result};

/// Docs of one key that are kept, at most: of texts that are everywhere the first will do.
pub const DOCS_OF_KEY_MAX: usize = 64;
/// Bits that are kept of a key besides its bucket.
const KEY_BITS: std::ops::RangeInclusive<u32> = 8..=48;
/// Buckets between two samples: a bit a key, for a word or two to look through.
const SAMPLE_BUCKETS: u64 = 64;
/// Words written at once.
const PIECE_WORDS: usize = 1 << 13;
/// What the bytes are called on disk; others get another number.
const FORMAT: u8 = 1;

/// Numbers of so many bits, one after the other, the low bits first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Packed {
    width: u32,
    bytes: Vec<u8>,
}

/// `width` bits from `bit` on, 57 at most; zeros follow the end.
#[inline(always)]
fn bits(bytes: &[u8], bit: u64, width: u32) -> u64 {
    let at = (bit / 8) as usize;
    let word = match bytes.get(at..at + 8) {
        Some(word) => word.try_into().map_or(0, u64::from_le_bytes),
        None => {
            let mut word = [0; 8];
            let left = bytes.get(at..).unwrap_or_default();
            word[..left.len()].copy_from_slice(left);
            u64::from_le_bytes(word)
        }
    };
    (word >> (bit % 8)) & ((1 << width) - 1)
}

impl Packed {
    fn get(&self, at: u64) -> u64 {
        bits(&self.bytes, at * u64::from(self.width), self.width)
    }

    /// Bytes that so many numbers take.
    fn bytes_of(count: u64, width: u32) -> u64 {
        (count * u64::from(width)).div_ceil(8)
    }
}

/// Where the numbers of docs are.
enum Docs {
    Memory(Packed),
    Disk(Arc<dyn ChunkSource>, u32),
}

/// The docs of every key.
///
/// On disk, little-endian, in two parts. The first is read whole when it is opened:
///
/// | bytes | what |
/// |---|---|
/// | 1 | format: 1 |
/// | 1 | bits of a key after its bucket: 8 to 48 |
/// | 1 | bits of a doc: 1 to 32 |
/// | 8 | keys, n |
/// | 8 x ceil(2 n / 64) | for each of n buckets as many ones as it has keys, then a zero; zeros follow |
/// | ceil(n x bits / 8) | of each key the bits after its bucket's, ascending in a bucket |
///
/// The second has the doc of each key: ceil(n x bits of a doc / 8) bytes.
pub struct Table {
    /// Keys, and buckets.
    count: u64,
    /// Ones and zeros.
    unary: Vec<u64>,
    /// Where in `unary` every [`SAMPLE_BUCKETS`]th bucket begins.
    samples: Vec<u64>,
    kept: Packed,
    docs: Docs,
}

/// The bucket of a key among so many, and the bits after it.
#[inline(always)]
fn split(key: u64, buckets: u64, width: u32) -> (u64, u64) {
    let product = u128::from(key) * u128::from(buckets);
    ((product >> 64) as u64, product as u64 >> (64 - width))
}

impl Table {
    /// Keys that it has.
    pub fn keys(&self) -> u64 {
        self.count
    }

    /// Bytes that it takes in memory.
    pub fn memory_bytes(&self) -> usize {
        let docs = match &self.docs {
            Docs::Memory(docs) => docs.bytes.capacity(),
            Docs::Disk(..) => 0,
        };
        8 * (self.unary.capacity() + self.samples.capacity()) + self.kept.bytes.capacity() + docs
    }

    /// The places of a key.
    fn places(&self, key: u64) -> std::ops::Range<u64> {
        if self.count == 0 {
            return 0..0;
        }
        let (bucket, kept) = split(key, self.count, self.kept.width);
        let start = self.start(bucket);
        // Each bucket before it has ended with a zero.
        let first = start - bucket;
        let mut place = first;
        while self.bit(start + (place - first)) && self.kept.get(place) < kept {
            place += 1;
        }
        let from = place;
        while self.bit(start + (place - first)) && self.kept.get(place) == kept {
            place += 1;
        }
        from..place.min(from + DOCS_OF_KEY_MAX as u64)
    }

    #[inline(always)]
    fn bit(&self, at: u64) -> bool {
        self.unary.get((at / 64) as usize).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Where a bucket begins in `unary`.
    fn start(&self, bucket: u64) -> u64 {
        let mut at = self.samples[(bucket / SAMPLE_BUCKETS) as usize];
        let mut zeros = bucket % SAMPLE_BUCKETS;
        // The position after that many zeros.
        while zeros > 0 {
            let ends = !self.unary[(at / 64) as usize] >> (at % 64);
            let here = u64::from(ends.count_ones());
            if here < zeros {
                zeros -= here;
                at += 64 - at % 64;
                continue;
            }
            let mut left = ends;
            for _ in 1..zeros {
                left &= left - 1;
            }
            return at + u64::from(left.trailing_zeros()) + 1;
        }
        at
    }

    /// Tells the docs of keys, with the position of the key among these; in no order, and a doc as often as
    /// it has one of the keys. Others are told with a chance as small as promised.
    ///
    /// # Errors
    /// Those of the source that the docs are read from.
    pub fn find(&self, keys: &[u64], found: &mut dyn FnMut(usize, DocId)) -> Result<()> {
        let places = keys.iter().map(|key| self.places(*key)).enumerate();
        let places = places.filter(|(_, places)| !places.is_empty());
        match &self.docs {
            Docs::Memory(docs) => {
                for (at, places) in places {
                    places.for_each(|place| found(at, docs.get(place) as DocId));
                }
                Ok(())
            }
            Docs::Disk(source, width) => {
                let hits: Vec<(usize, std::ops::Range<u64>)> = places.collect();
                if hits.is_empty() {
                    return Ok(());
                }
                let width = u64::from(*width);
                let extents: Vec<Extent> = hits
                    .iter()
                    .map(|(_, places)| {
                        let (from, to) = (places.start * width / 8, (places.end * width).div_ceil(8));
                        Extent { offset: from, len: (to - from) as usize }
                    })
                    .collect();
                source.read_batch(&extents, &mut |index, bytes| {
                    let (at, places) = &hits[index];
                    let first = places.start * width - extents[index].offset * 8;
                    for bit in (0..places.end - places.start).map(|place| first + place * width) {
                        found(*at, bits(bytes, bit, width as u32) as DocId);
                    }
                })?;
                Ok(())
            }
        }
    }

    /// The first part of what [`open`](Self::open) reads, in pieces.
    ///
    /// # Errors
    /// Those of `piece`.
    pub fn write(&self, mut piece: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut head = Encoder::with_capacity(11);
        head.u8(FORMAT).u8(self.kept.width as u8).u8(self.doc_width() as u8).u64(self.count);
        piece(&head.finish())?;
        for words in self.unary.chunks(PIECE_WORDS) {
            let mut bytes = Encoder::with_capacity(8 * words.len());
            words.iter().for_each(|word| {
                bytes.u64(*word);
            });
            piece(&bytes.finish())?;
        }
        piece(&self.kept.bytes)
    }

    /// All of the first part.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(11 + 8 * self.unary.len() + self.kept.bytes.len());
        let written = self.write(|piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        debug_assert!(written.is_ok(), "memory takes everything");
        bytes
    }

    /// The second part; none where it is on disk already.
    pub fn doc_bytes(&self) -> Option<&[u8]> {
        match &self.docs {
            Docs::Memory(docs) => Some(&docs.bytes),
            Docs::Disk(..) => None,
        }
    }

    fn doc_width(&self) -> u32 {
        match &self.docs {
            Docs::Memory(docs) => docs.width,
            Docs::Disk(_, width) => *width,
        }
    }

    /// Reads what [`encode`](Self::encode) gave; docs are read from where [`doc_bytes`](Self::doc_bytes) are
    /// when they are asked for.
    ///
    /// # Errors
    /// [`Error::Section`] for other bytes.
    pub fn open(bytes: &[u8], docs: Arc<dyn ChunkSource>) -> Result<Self> {
        let text = |error: Truncated| damaged(error.to_string());
        let mut bytes = Decoder::new(bytes);
        let format = bytes.u8("format").map_err(text)?;
        if format != FORMAT {
            return Err(damaged(format!("format {format} is not one that this build reads")));
        }
        let width = u32::from(bytes.u8("bits of a key").map_err(text)?);
        let doc_width = u32::from(bytes.u8("bits of a doc").map_err(text)?);
        if !KEY_BITS.contains(&width) || !(1..=32).contains(&doc_width) {
            return Err(damaged(format!("keys of {width} bits and docs of {doc_width}")));
        }
        let count = bytes.u64("keys").map_err(text)?;
        // A key takes more than a byte.
        if count > bytes.left() as u64 || docs.bytes() != Packed::bytes_of(count, doc_width) {
            return Err(damaged(format!("it is too short for {count} keys, or has other docs")));
        }
        let words = (2 * count).div_ceil(64) as usize;
        let unary = bytes.take(8 * words, "buckets").map_err(text)?;
        let unary: Vec<u64> = unary.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let kept_bytes = Packed::bytes_of(count, width) as usize;
        let kept = Packed { width, bytes: bytes.take(kept_bytes, "keys").map_err(text)?.to_vec() };
        if bytes.left() != 0 {
            return Err(damaged(format!("{} bytes follow", bytes.left())));
        }
        let ones: u64 = unary.iter().map(|word| u64::from(word.count_ones())).sum();
        // The last bucket ends with the last bit, and what fills the word and the byte is zero.
        let end = 2 * count;
        let rest = match end % 64 {
            0 => 0,
            used => unary.last().map_or(0, |word| word >> used),
        };
        let last = |bit: u64| unary.get((bit / 64) as usize).is_some_and(|word| word >> (bit % 64) & 1 == 1);
        let spare = (kept_bytes as u64 * 8).saturating_sub(count * u64::from(width)) as u32;
        let filled = spare > 0 && kept.bytes.last().is_some_and(|byte| *byte >> (8 - spare) != 0);
        if ones != count || rest != 0 || (count > 0 && last(end - 1)) || filled {
            return Err(damaged(format!("buckets have {ones} keys of {count}")));
        }
        let samples = samples(&unary, count);
        Ok(Self { count, unary, samples, kept, docs: Docs::Disk(docs, doc_width) })
    }
}

/// Where every [`SAMPLE_BUCKETS`]th of so many buckets begins.
fn samples(unary: &[u64], buckets: u64) -> Vec<u64> {
    let mut samples = Vec::with_capacity(buckets.div_ceil(SAMPLE_BUCKETS) as usize);
    let (mut begun, mut next) = (0, 0);
    // A bucket begins at the start, and after each zero but the last.
    let mut begin = |at: u64, samples: &mut Vec<u64>| {
        if begun == next && begun < buckets {
            samples.push(at);
            next += SAMPLE_BUCKETS;
        }
        begun += 1;
    };
    begin(0, &mut samples);
    for (at, word) in (0..).zip(unary) {
        let mut ends = !word;
        while ends != 0 {
            begin(at * 64 + u64::from(ends.trailing_zeros()) + 1, &mut samples);
            ends &= ends - 1;
        }
    }
    samples
}

fn damaged(what: String) -> Error {
    Error::Section { section: "duplicates".into(), what }
}

#[cfg(test)]
mod tests;
