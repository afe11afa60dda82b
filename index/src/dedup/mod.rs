//! De-duplication at ingest: which texts are near copies of earlier ones, without keeping those.
//!
//! A text becomes a [`Signature`]: its words in runs of five ([`shingle`]), the least hashes of those
//! ([`minhash`]), a key for each band of them ([`bands`]), and one more key for the exact content. A text
//! that shares a key with another is a copy of it.
//!
//! The keys are in one of two places. A segment has a [`table`] of those of its docs, which says whose they
//! are: rows are replaced and deleted. [`Dedup`] has those of a stream of texts in Bloom filters ([`bloom`])
//! that grow in [`generations`], which say only that they were there, as LSHBloom does.
//! docs/rag-dedup.md has what both find and what they cost.

pub mod bands;
pub mod bloom;
pub mod compare;
#[cfg(test)]
mod damage;
pub mod generations;
mod hash;
pub mod minhash;
pub mod shingle;
pub mod table;

use spandrel_storage::codec::{Decoder, Encoder, Truncated};
use spandrel_storage::schema::{
    DEDUP_THRESHOLD_DEFAULT as THRESHOLD_DEFAULT, DEDUP_THRESHOLD_MAX as THRESHOLD_MAX,
    DEDUP_THRESHOLD_MIN as THRESHOLD_MIN,
};

use crate::error::{Error, Result};
use bands::Bands;
use generations::{Generations, PROMISE_DEFAULT};
use hash::{K, mix};
use minhash::{MinHash, PERMUTATIONS_DEFAULT};
use shingle::{SHINGLE_WORDS_DEFAULT, Shingler, content_hash};

/// Room for so many texts when nothing else is asked for: 2.6 MB for the default threshold.
pub const ROOM_DEFAULT: u64 = 1 << 16;

/// What the bytes are called on disk; others get another number.
const FORMAT: u8 = 1;

/// What counts as a copy, and for how many texts there is room at first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spec {
    /// Texts whose sets of shingles have at least this Jaccard similarity are copies, 0.1 to 0.99. Around it
    /// the decision is a matter of chance, as [`Bands::chance`] says.
    pub threshold: f64,
    /// Lanes of a signature: [`PERMUTATIONS_MIN`](minhash::PERMUTATIONS_MIN) to
    /// [`PERMUTATIONS_MAX`](minhash::PERMUTATIONS_MAX), a multiple of 16. More make that range narrower.
    pub permutations: usize,
    /// Words of a shingle, 1 to [`SHINGLE_WORDS_MAX`](shingle::SHINGLE_WORDS_MAX).
    pub words: usize,
    /// The chance that a text like no other is called a copy because filters are wrong, at most:
    /// [`PROMISE_MIN`](generations::PROMISE_MIN) to [`PROMISE_MAX`](generations::PROMISE_MAX).
    pub promise: f64,
    /// Texts that there is room for until it grows, 1 to [`ROOM_MAX`](generations::ROOM_MAX). The memory for
    /// them is taken with the first.
    pub room: u64,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            threshold: THRESHOLD_DEFAULT,
            permutations: PERMUTATIONS_DEFAULT,
            words: SHINGLE_WORDS_DEFAULT,
            promise: PROMISE_DEFAULT,
            room: ROOM_DEFAULT,
        }
    }
}

/// What a text is compared by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Of each band, then of the content; none of a text without words.
    keys: Vec<u64>,
}

impl Signature {
    /// As another scope has it: texts of different scopes, hashes, share no keys. Scope 0 is that of all
    /// signatures as they are made.
    #[must_use]
    pub fn within(mut self, scope: u64) -> Self {
        if scope != 0 {
            self.keys.iter_mut().for_each(|key| *key = mix(*key ^ scope));
        }
        self
    }

    /// The keys of the bands, and last that of the exact content; none of a text without words.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }
}

/// Makes signatures. It holds nothing that was seen, so that any number of threads can sign at once.
#[derive(Clone, Debug)]
pub struct Signer {
    shingler: Shingler,
    hash: MinHash,
    bands: Bands,
}

impl Signer {
    fn new(words: usize, permutations: usize, bands: Bands) -> Result<Self> {
        Ok(Self { shingler: Shingler::new(words)?, hash: MinHash::new(permutations)?, bands })
    }

    /// How signatures are cut into bands.
    pub fn bands(&self) -> Bands {
        self.bands
    }

    /// The signature of a text.
    pub fn sign(&self, text: &str) -> Signature {
        let mut shingles = Vec::new();
        self.shingler.shingles(text, &mut shingles);
        if shingles.is_empty() {
            return Signature { keys: Vec::new() };
        }
        let mut lanes = vec![0; self.hash.permutations()];
        self.hash.sign(&shingles, &mut lanes);
        let mut keys = Vec::with_capacity(self.bands.bands() + 1);
        self.bands.keys(&lanes, &mut keys);
        keys.push(content_key(content_hash(text)));
        Signature { keys }
    }
}

/// The key of an exact content.
fn content_key(content: u128) -> u64 {
    mix(content as u64 ^ K[2])
}

/// Whether a text was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Neither it nor one like it was kept.
    New,
    /// One with the same words in the same order was kept.
    Exact,
    /// One that is about as alike as the threshold, or more, was kept.
    Near,
}

/// The texts that were kept, as far as copies of them are to be found.
///
/// On disk, little-endian:
///
/// | bytes | what |
/// |---|---|
/// | 1 | format: 1 |
/// | 1 | words of a shingle: 1 to 32 |
/// | 2 | lanes: 16 to 256, a multiple of 16 |
/// | 8 | threshold, f64: 0.1 to 0.99 |
/// | 2 | bands |
/// | 2 | rows of a band; bands x rows is at most the number of lanes |
/// | | the filters, with one band more, as [`Generations`] has them |
#[derive(Clone, Debug)]
pub struct Dedup {
    spec: Spec,
    signer: Signer,
    kept: Generations,
}

impl Dedup {
    /// Nothing kept yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a spec with a number out of its range.
    pub fn new(spec: Spec) -> Result<Self> {
        check_threshold(spec.threshold)?;
        let bands = Bands::for_threshold(spec.threshold, spec.permutations)?;
        let signer = Signer::new(spec.words, spec.permutations, bands)?;
        let kept = Generations::new(bands.bands() + 1, spec.promise, spec.room)?;
        Ok(Self { spec, signer, kept })
    }

    /// What counts as a copy.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What makes the signatures that the other methods take.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Texts that were put in.
    pub fn docs(&self) -> u64 {
        self.kept.docs()
    }

    /// Bytes of the filters in memory, and about as many on disk.
    pub fn bytes(&self) -> usize {
        self.kept.bytes()
    }

    /// Whether a text was there before. One without words never was.
    ///
    /// # Panics
    /// When the signature is of a [`Signer`] with another number of bands.
    pub fn seen(&self, signature: &Signature) -> Seen {
        if signature.keys.is_empty() || !self.kept.seen(&signature.keys) {
            Seen::New
        } else if self.kept.seen_whole(&signature.keys) {
            Seen::Exact
        } else {
            Seen::Near
        }
    }

    /// Puts a text in, seen or not. One without words leaves no trace.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no memory for more, or after 2^33 times the first room.
    ///
    /// # Panics
    /// As [`seen`](Self::seen).
    pub fn insert(&mut self, signature: &Signature) -> Result<()> {
        if signature.keys.is_empty() { Ok(()) } else { self.kept.insert(&signature.keys) }
    }

    /// Puts a text in where it is [`Seen::New`]. Copies are not put in: a copy of a copy is compared with the
    /// text that was kept, so that [`Seen::Exact`] means that this very text need not be stored.
    ///
    /// # Errors
    /// As [`insert`](Self::insert); then nothing has changed.
    ///
    /// # Panics
    /// As [`seen`](Self::seen).
    pub fn insert_if_absent(&mut self, signature: &Signature) -> Result<Seen> {
        let seen = self.seen(signature);
        if seen == Seen::New {
            self.insert(signature)?;
        }
        Ok(seen)
    }

    /// The bytes that [`decode`](Self::decode) reads: all of the state.
    pub fn encode(&self) -> Vec<u8> {
        let kept = self.kept.encode();
        let mut bytes = Encoder::with_capacity(16 + kept.len());
        bytes.u8(FORMAT).u8(self.spec.words as u8).u16(self.spec.permutations as u16);
        bytes.f64(self.spec.threshold);
        // They are kept, not found again: where two choices are as good, machines could differ.
        bytes.u16(self.signer.bands.bands() as u16).u16(self.signer.bands.rows() as u16);
        [bytes.finish(), kept].concat()
    }

    /// Reads what [`encode`](Self::encode) gave.
    ///
    /// # Errors
    /// [`Error::Section`] for other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let text = |error: Truncated| damaged(error.to_string());
        let range = |error: Error| damaged(error.to_string());
        let mut bytes = Decoder::new(bytes);
        let format = bytes.u8("format").map_err(text)?;
        if format != FORMAT {
            return Err(damaged(format!("format {format} is not one that this build reads")));
        }
        let words = usize::from(bytes.u8("words of a shingle").map_err(text)?);
        let permutations = usize::from(bytes.u16("lanes").map_err(text)?);
        let threshold = bytes.f64("threshold").map_err(text)?;
        check_threshold(threshold).map_err(range)?;
        let band_count = usize::from(bytes.u16("bands").map_err(text)?);
        let row_count = usize::from(bytes.u16("rows").map_err(text)?);
        let bands = Bands::new(band_count, row_count).map_err(range)?;
        if bands.lanes() > permutations {
            return Err(damaged(format!("bands have {} of {permutations} lanes", bands.lanes())));
        }
        let signer = Signer::new(words, permutations, bands).map_err(range)?;
        let rest = bytes.take(bytes.left(), "filters").map_err(text)?;
        let kept = Generations::decode(rest)?;
        if kept.bands() != band_count + 1 {
            let what = format!("filters have {} keys of a text with {band_count} bands", kept.bands());
            return Err(damaged(what));
        }
        let spec = Spec { threshold, permutations, words, promise: kept.promise(), room: kept.first_room() };
        Ok(Self { spec, signer, kept })
    }
}

fn check_threshold(threshold: f64) -> Result<()> {
    if (THRESHOLD_MIN..=THRESHOLD_MAX).contains(&threshold) {
        return Ok(());
    }
    let what = format!("a threshold is {THRESHOLD_MIN} to {THRESHOLD_MAX}, not {threshold}");
    Err(Error::Invalid(what))
}

fn damaged(what: String) -> Error {
    Error::Section { section: "duplicates".into(), what }
}

#[cfg(test)]
mod tests;
