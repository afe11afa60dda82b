//! Which earlier document shares a band with one: the table that [`generations`](super::generations) does
//! without, for when a decision has to be explained or checked.
//!
//! For each band, its keys in ascending order, each with the first document that has it. The high bits of a
//! key say in which bucket it is, of [`BUCKET_KEYS`] keys or fewer on average; of the rest, 32 bits are kept,
//! so that a key that is not there is found 2 to 4 times in a billion, with any number of documents. No
//! search is needed, by halves or by interpolation, because keys are hashes: a bucket is one or two cache
//! lines.
//!
//! Built once, from all documents. Cost: 8.3 to 8.5 bytes a band for each document with keys of its own; of
//! 100,000 documents, 55 ns a band to build and 55 to 85 ns to look up (AMD EPYC, Zen 5, one core).

use spandrel_storage::codec::{Decoder, Encoder, Truncated};

use crate::dedup::minhash::PERMUTATIONS_MAX;
use crate::error::{Error, Result};

/// Keys of a bucket, on average, at most.
const BUCKET_KEYS: usize = 16;
/// Bits of a key that are a bucket's number, at most: what is left has 32.
const BUCKET_BITS_MAX: u32 = 32;
/// What the bytes are called on disk; others get another number.
const FORMAT: u8 = 1;

/// One band: keys and documents of a bucket are those from `starts[bucket]` to `starts[bucket + 1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Band {
    bucket_bits: u32,
    starts: Vec<u32>,
    keys: Vec<u32>,
    docs: Vec<u32>,
}

/// The first document of every key of every band.
///
/// On disk, little-endian:
///
/// | bytes | what |
/// |---|---|
/// | 1 | format: 1 |
/// | 2 | bands: 1 to 256 |
/// | 4 | documents; their numbers are below it |
/// | | for each band: |
/// | 1 | bits of a bucket's number: 0 to 32 |
/// | 4 and 4 x (2^bits + 1) | their number, and where each bucket starts: 0 to the number of keys |
/// | 4 and 4 x keys | their number, and the 32 bits after the bucket's; ascending in a bucket |
/// | 4 and 4 x keys | their number, and the first document of each |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    docs: u32,
    bands: Vec<Band>,
}

/// The bucket of a key, and what is kept of it.
#[inline(always)]
fn split(key: u64, bucket_bits: u32) -> (usize, u32) {
    // In two steps: a shift by 64 is none.
    let bucket = key >> (32 - bucket_bits / 2) >> (32 - bucket_bits.div_ceil(2));
    (bucket as usize, (key << bucket_bits >> 32) as u32)
}

impl Band {
    /// Of keys with documents, in any order.
    fn build(mut entries: Vec<(u64, u32)>) -> Self {
        let buckets = (entries.len() / BUCKET_KEYS).max(1).next_power_of_two();
        let bucket_bits = buckets.trailing_zeros();
        entries.sort_unstable();
        // Ascending: of one key, the first document comes first.
        entries.dedup_by_key(|(key, _)| split(*key, bucket_bits));
        let mut starts = vec![0; buckets + 1];
        for (key, _) in &entries {
            starts[split(*key, bucket_bits).0 + 1] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let (keys, docs) = entries.iter().map(|(key, doc)| (split(*key, bucket_bits).1, *doc)).unzip();
        Self { bucket_bits, starts, keys, docs }
    }

    /// The first document with this key.
    fn get(&self, key: u64) -> Option<u32> {
        let (bucket, kept) = split(key, self.bucket_bits);
        let (from, to) = (self.starts[bucket] as usize, self.starts[bucket + 1] as usize);
        let at = self.keys[from..to].iter().position(|key| *key >= kept)?;
        (self.keys[from + at] == kept).then(|| self.docs[from + at])
    }

    fn decode(bytes: &mut Decoder<'_>, doc_count: u32) -> Result<Self> {
        let text = |error: Truncated| damaged(error.to_string());
        let bucket_bits = u32::from(bytes.u8("bits of a bucket").map_err(text)?);
        if bucket_bits > BUCKET_BITS_MAX {
            return Err(damaged(format!("{bucket_bits} bits of a bucket are more than {BUCKET_BITS_MAX}")));
        }
        let starts = bytes.u32s("starts").map_err(text)?;
        let keys = bytes.u32s("keys").map_err(text)?;
        let docs = bytes.u32s("documents").map_err(text)?;
        if starts.len() as u64 != (1 << bucket_bits) + 1 || docs.len() != keys.len() {
            return Err(damaged(
                "starts, keys and documents do not have the numbers that they should".into(),
            ));
        }
        let ends = [starts.first().copied(), starts.last().copied()];
        if ends != [Some(0), u32::try_from(keys.len()).ok()] || !starts.is_sorted() {
            return Err(damaged("buckets do not start one after the other".into()));
        }
        // The starts are in range: they are sorted, and the last is the number of keys.
        let bucket = |ends: &[u32]| &keys[ends[0] as usize..ends[1] as usize];
        if !starts.windows(2).all(|ends| bucket(ends).is_sorted_by(|a, b| a < b)) {
            return Err(damaged("keys of a bucket do not ascend".into()));
        }
        if let Some(doc) = docs.iter().find(|doc| **doc >= doc_count) {
            return Err(damaged(format!("document {doc} is none of {doc_count}")));
        }
        Ok(Self { bucket_bits, starts, keys, docs })
    }
}

impl Table {
    /// Of documents and their keys of so many bands, 1 to 256, in any order; several may have one number, and
    /// a document may come several times.
    ///
    /// # Errors
    /// [`Error::Invalid`] for other numbers of bands, `u32::MAX` as a document, and 2^32 documents or more.
    ///
    /// # Panics
    /// When a document does not have a key for each band.
    pub fn build<K: AsRef<[u64]>>(bands: usize, docs: impl IntoIterator<Item = (u32, K)>) -> Result<Self> {
        if !(1..=PERMUTATIONS_MAX).contains(&bands) {
            return Err(Error::Invalid(format!("{bands} bands are not 1 to {PERMUTATIONS_MAX}")));
        }
        let (mut entries, mut count) = (vec![Vec::new(); bands], 0);
        for (doc, keys) in docs {
            let keys = keys.as_ref();
            assert_eq!(keys.len(), bands, "a document has a key for each band");
            let next = doc.checked_add(1).filter(|_| entries[0].len() < u32::MAX as usize);
            let Some(next) = next else {
                return Err(Error::Invalid("a table has fewer than 2^32 documents".into()));
            };
            count = count.max(next);
            entries.iter_mut().zip(keys).for_each(|(entries, key)| entries.push((*key, doc)));
        }
        Ok(Self { docs: count, bands: entries.into_iter().map(Band::build).collect() })
    }

    /// The document with the lowest number that shares a band with one that has these keys.
    ///
    /// # Panics
    /// When there is not a key for each band.
    pub fn first(&self, keys: &[u64]) -> Option<u32> {
        assert_eq!(keys.len(), self.bands.len(), "a document has a key for each band");
        self.bands.iter().zip(keys).filter_map(|(band, key)| band.get(*key)).min()
    }

    /// Bands of a document.
    pub fn bands(&self) -> usize {
        self.bands.len()
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bands.iter().map(|band| 4 * (band.starts.len() + 2 * band.keys.len())).sum()
    }

    /// The bytes that [`decode`](Self::decode) reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Encoder::with_capacity(self.bytes() + 7 + 13 * self.bands.len());
        bytes.u8(FORMAT).u16(self.bands.len() as u16).u32(self.docs);
        for band in &self.bands {
            bytes.u8(band.bucket_bits as u8).u32s(&band.starts).u32s(&band.keys).u32s(&band.docs);
        }
        bytes.finish()
    }

    /// Reads what [`encode`](Self::encode) gave.
    ///
    /// # Errors
    /// [`Error::Section`] for other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let text = |error: Truncated| damaged(error.to_string());
        let mut bytes = Decoder::new(bytes);
        let format = bytes.u8("format").map_err(text)?;
        if format != FORMAT {
            return Err(damaged(format!("format {format} is not one that this build reads")));
        }
        let count = usize::from(bytes.u16("bands").map_err(text)?);
        if !(1..=PERMUTATIONS_MAX).contains(&count) {
            return Err(damaged(format!("{count} bands are not 1 to {PERMUTATIONS_MAX}")));
        }
        let docs = bytes.u32("documents").map_err(text)?;
        let bands = (0..count).map(|_| Band::decode(&mut bytes, docs)).collect::<Result<_>>()?;
        match bytes.left() {
            0 => Ok(Self { docs, bands }),
            left => Err(damaged(format!("{left} bytes follow"))),
        }
    }
}

fn damaged(what: String) -> Error {
    Error::Section { section: "table of duplicates".into(), what }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::random::Random;

    /// Documents whose keys are often the same.
    fn docs(random: &mut Random, count: u32, bands: usize) -> Vec<(u32, Vec<u64>)> {
        let kinds = 2 * count as usize + 1;
        let key = |random: &mut Random| match random.below(20) {
            0 => [0, u64::MAX, 1 << 63][random.below(3)],
            _ => crate::dedup::hash::mix(random.below(kinds) as u64),
        };
        (0..count).rev().map(|doc| (doc, (0..bands).map(|_| key(random)).collect())).collect()
    }

    #[test]
    fn the_first_document_is_named() {
        let seed = 0x5eed_000a;
        println!("seed {seed:#x}");
        let mut random = Random(seed);
        for (count, bands) in [(0, 3), (1, 1), (15, 4), (40, 256), (3_000, 9), (20_000, 2)] {
            let docs = docs(&mut random, count, bands);
            let mut oracle = HashMap::new();
            for (doc, keys) in &docs {
                for (band, key) in keys.iter().enumerate() {
                    let first = oracle.entry((band, *key)).or_insert(*doc);
                    *first = (*first).min(*doc);
                }
            }
            let table = Table::build(bands, docs.iter().map(|(doc, keys)| (*doc, keys))).unwrap();
            assert_eq!(Table::decode(&table.encode()).unwrap(), table);
            let others = (0..2_000)
                .map(|_| (0..bands).map(|_| (random.next() % 3).wrapping_mul(random.next())).collect());
            for keys in docs.iter().map(|(_, keys)| keys.clone()).chain(others.collect::<Vec<Vec<u64>>>()) {
                let each = keys.iter().enumerate().filter_map(|(band, key)| oracle.get(&(band, *key)));
                assert_eq!(table.first(&keys), each.min().copied());
            }
        }
    }

    #[test]
    fn keys_are_split_without_loss_of_32_bits() {
        for bits in 0..=BUCKET_BITS_MAX {
            let key = 0x0123_4567_89ab_cdef_u64;
            let (bucket, kept) = split(key, bits);
            assert_eq!((bucket as u128) << 32 | u128::from(kept), u128::from(key) >> (32 - bits));
        }
    }

    #[test]
    fn damaged_bytes_are_errors_or_tables() {
        let docs = docs(&mut Random(3), 200, 3);
        let table = Table::build(3, docs.iter().map(|(doc, keys)| (*doc, keys))).unwrap();
        crate::dedup::damage::check(0x5eed_000b, &table.encode(), |bytes| {
            let table = Table::decode(bytes).ok()?;
            if table.bands.len() == 3 {
                docs.iter()
                    .for_each(|(_, keys)| assert!(table.first(keys).is_none_or(|doc| doc < table.docs)));
            }
            Some(table.encode())
        });
    }

    #[test]
    fn ranges_are_checked() {
        let none: [(u32, [u64; 0]); 0] = [];
        assert!(Table::build(0, none).is_err() && Table::build(257, none).is_err());
        assert!(Table::build(1, [(u32::MAX, [1])]).is_err());
        assert_eq!(Table::build(1, [(u32::MAX - 1, [1])]).unwrap().first(&[1]), Some(u32::MAX - 1));
    }
}
