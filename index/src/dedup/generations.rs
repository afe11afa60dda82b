//! Which documents are near copies of earlier ones, in a few bytes a document, for any number of documents.
//!
//! LSHBloom (Khan et al., 2024): a document counts as seen when the key of any of its b [bands](super::bands)
//! is in a Bloom filter of the keys of those before it. The filter has no document's name and nothing can be
//! taken out; [`table`](super::table) names the document, once all are known.
//!
//! The paper asks for the number of documents beforehand. Departure: generations of filters (Almeida et al.,
//! Scalable Bloom Filters, 2007), each with room for twice as many documents as the one before, of which only
//! the last takes more. Of the promise `p_eff`, the chance that a document like no other is called seen,
//! generation g = 0, 1, 2... has the share `1 / ((g + 1) (g + 2))`: these add up to less than 1 however many
//! there are, and a filter whose room was well estimated has half of it. (The authors' shares fall
//! geometrically: with their factor of .85 the first has .15, and pays 2.5 bits a key more.) A band has `1 -
//! (1 - share)^(1/b)` of it.
//!
//! Cost: b keys of 30 to 35 bits for each document kept with the default promise, while the first generation
//! has room, and up to three times that when a new one was begun: 36 bytes for 9 bands (a threshold of 0.8
//! and 128 lanes), 107 for 25 (0.5). To ask for a document and put it in takes 0.6 and 2.4 us, of 100,000,
//! and 3 us for 9 bands of 3 million (AMD EPYC, Zen 5, one core).

use crate::dedup::bloom::{Bloom, CHANCE_MIN, Size};
use spandrel_storage::codec::{Decoder, Encoder, Truncated};

use crate::dedup::minhash::PERMUTATIONS_MAX;
use crate::error::{Error, Result};

/// The chance that a document like no other is called seen, when nothing else is asked for.
pub const PROMISE_DEFAULT: f64 = 1e-5;
/// The chances that can be promised: `1e-9` to `0.1`.
pub const PROMISE_MIN: f64 = 1e-9;
/// See [`PROMISE_MIN`].
pub const PROMISE_MAX: f64 = 0.1;
/// Documents of the first generation, at most.
pub const ROOM_MAX: u64 = 1 << 32;

/// Generations, at most: more than enough for 2^32 documents.
const GENERATIONS_MAX: usize = 33;
/// No filter has fewer bits for a key: the largest promise needs 6.2.
const BITS_PER_KEY_MIN: u64 = 6;
/// What the bytes are called on disk; others get another number.
const FORMAT: u8 = 1;

/// One filter, and how many documents it has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Generation {
    filter: Bloom,
    docs: u64,
}

/// Documents that were seen.
///
/// On disk, little-endian:
///
/// | bytes | what |
/// |---|---|
/// | 1 | format: 1 |
/// | 1 | generations: 0 to 33 |
/// | 2 | bands: 1 to 256 |
/// | 8 | promise, f64: 1e-9 to 0.1 |
/// | 8 | room of the first generation, in documents: 1 to 2^32 |
/// | | for each generation: |
/// | 8 | its documents: as many as it has room for, or, of the last, 1 or more |
/// | | its filter, as [`Bloom`] has it |
#[derive(Clone, Debug, PartialEq)]
pub struct Generations {
    bands: usize,
    promise: f64,
    room: u64,
    generations: Vec<Generation>,
}

impl Generations {
    /// None seen yet, of documents with so many bands, 1 to 256. One that is like no other is called seen
    /// with a chance of at most `promise`, [`PROMISE_MIN`] to [`PROMISE_MAX`]. There is `room` for so many
    /// documents until it grows, 1 to [`ROOM_MAX`]; it takes memory with the first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for other numbers.
    pub fn new(bands: usize, promise: f64, room: u64) -> Result<Self> {
        if !(1..=PERMUTATIONS_MAX).contains(&bands) {
            return Err(Error::Invalid(format!("{bands} bands are not 1 to {PERMUTATIONS_MAX}")));
        }
        if !(PROMISE_MIN..=PROMISE_MAX).contains(&promise) {
            let what = format!("a chance of {promise:e} is not {PROMISE_MIN:e} to {PROMISE_MAX}");
            return Err(Error::Invalid(what));
        }
        if !(1..=ROOM_MAX).contains(&room) {
            return Err(Error::Invalid(format!("room for {room} documents is not for 1 to {ROOM_MAX}")));
        }
        Ok(Self { bands, promise, room, generations: Vec::new() })
    }

    /// Bands of a document.
    pub fn bands(&self) -> usize {
        self.bands
    }

    /// The chance that was promised.
    pub fn promise(&self) -> f64 {
        self.promise
    }

    /// Documents that the first generation has room for.
    pub fn first_room(&self) -> u64 {
        self.room
    }

    /// Documents that were put in.
    pub fn docs(&self) -> u64 {
        self.generations.iter().map(|generation| generation.docs).sum()
    }

    /// Bytes that the filters take.
    pub fn bytes(&self) -> usize {
        self.generations.iter().map(|generation| generation.filter.bytes()).sum()
    }

    /// Documents that a generation has room for.
    fn room(&self, generation: usize) -> u64 {
        self.room.saturating_mul(1 << generation)
    }

    /// The chance that a generation's filter has for one key.
    fn chance(&self, generation: usize) -> f64 {
        let share = self.promise / ((generation + 1) * (generation + 2)) as f64;
        (-((-share).ln_1p() / self.bands as f64).exp_m1()).max(CHANCE_MIN)
    }

    /// Whether a document with these keys of [`Bands::keys`](super::bands::Bands::keys) was seen: one that
    /// shares a band, or none and by a mistake as rare as promised.
    ///
    /// # Panics
    /// When there is not a key for each band.
    pub fn seen(&self, keys: &[u64]) -> bool {
        assert_eq!(keys.len(), self.bands, "a document has a key for each band");
        // Most documents that are seen are in the last, which has the most.
        let mut filters = self.generations.iter().rev().map(|generation| &generation.filter);
        filters.any(|filter| keys.iter().any(|key| filter.contains(*key)))
    }

    /// Whether a document with all of these keys was put in; for one that was not, as rare a mistake as that
    /// of one key, or rarer.
    ///
    /// # Panics
    /// When there is not a key for each band.
    pub fn seen_whole(&self, keys: &[u64]) -> bool {
        assert_eq!(keys.len(), self.bands, "a document has a key for each band");
        // They are together in one filter.
        let mut filters = self.generations.iter().rev().map(|generation| &generation.filter);
        filters.any(|filter| keys.iter().all(|key| filter.contains(*key)))
    }

    /// Puts a document in, seen or not.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it would be one too many, after 2^33 times the first room, or when there is no
    /// memory for it.
    ///
    /// # Panics
    /// When there is not a key for each band.
    pub fn insert(&mut self, keys: &[u64]) -> Result<()> {
        assert_eq!(keys.len(), self.bands, "a document has a key for each band");
        let count = self.generations.len();
        if self.generations.last().is_none_or(|last| last.docs >= self.room(count - 1)) {
            if count == GENERATIONS_MAX {
                return Err(Error::Invalid(format!("there is no room after {} documents", self.docs())));
            }
            let keys = self.room(count).saturating_mul(self.bands as u64);
            let filter = Bloom::new(Size::new(self.chance(count))?, keys)?;
            self.generations.push(Generation { filter, docs: 0 });
        }
        if let Some(last) = self.generations.last_mut() {
            keys.iter().for_each(|key| last.filter.insert(*key));
            last.docs += 1;
        }
        Ok(())
    }

    /// Puts a document in unless it was [`seen`](Self::seen), and returns whether it was.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    ///
    /// # Panics
    /// When there is not a key for each band.
    pub fn insert_if_absent(&mut self, keys: &[u64]) -> Result<bool> {
        let seen = self.seen(keys);
        if !seen {
            self.insert(keys)?;
        }
        Ok(seen)
    }

    /// The bytes that [`decode`](Self::decode) reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Encoder::with_capacity(self.bytes() + 20 + 18 * self.generations.len());
        bytes.u8(FORMAT).u8(self.generations.len() as u8).u16(self.bands as u16);
        bytes.f64(self.promise).u64(self.room);
        for Generation { filter, docs } in &self.generations {
            bytes.u64(*docs);
            filter.encode(&mut bytes);
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
        let count = usize::from(bytes.u8("generations").map_err(text)?);
        let bands = usize::from(bytes.u16("bands").map_err(text)?);
        let promise = bytes.f64("promise").map_err(text)?;
        let room = bytes.u64("room").map_err(text)?;
        let mut seen = Self::new(bands, promise, room).map_err(|error| damaged(error.to_string()))?;
        if count > GENERATIONS_MAX {
            return Err(damaged(format!("{count} generations are more than {GENERATIONS_MAX}")));
        }
        for at in 0..count {
            let docs = bytes.u64("documents").map_err(text)?;
            let room = seen.room(at);
            if docs == 0 || docs > room || (docs < room && at + 1 < count) {
                return Err(damaged(format!("generation {at} has {docs} documents and room for {room}")));
            }
            let filter = Bloom::decode(&mut bytes)?;
            // Otherwise a wrong number here would ask for any amount of memory when it grows.
            let keys = room.saturating_mul(bands as u64);
            if (filter.bytes() as u64) < keys.saturating_mul(BITS_PER_KEY_MIN) / 8 {
                return Err(damaged(format!("generation {at} has too few bits for {room} documents")));
            }
            seen.generations.push(Generation { filter, docs });
        }
        match bytes.left() {
            0 => Ok(seen),
            left => Err(damaged(format!("{left} bytes follow"))),
        }
    }
}

fn damaged(what: String) -> Error {
    Error::Section { section: "duplicates seen".into(), what }
}

#[cfg(test)]
mod tests;
