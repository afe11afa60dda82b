//! A set of keys that forgets which they were: a Bloom filter (Bloom, 1970) with blocks (Putze et al., 2007).
//!
//! All bits of a key lie in one block of 8 cache lines, which takes 5 % more bits than a filter without
//! blocks does. Measured for a promise of 5.6e-7, with blocks and without, on one core (AMD EPYC, Zen 5); a
//! document has 9 keys:
//!
//! | block | bits a key | wrong, of the promise | insert 3.3 million documents | ask for absent ones |
//! |---|---|---|---|---|
//! | none | 30.0 | 0.96 | 3.2 us each | 0.57 us each |
//! | 4,096 bits | 31.4 | 0.94 | 2.1 us | 0.58 us |
//! | 512 bits | 41.4 | 1.07 | 0.5 us | 0.38 us |
//!
//! One line is the fastest, and is not taken: a document is cut into shingles and asked for in about 2 us in
//! any case, and to save a quarter of all bytes is what these filters are for. (Of 112 false positives
//! promised, in 200 million trials, 11 more or fewer are chance.)
//!
//! How many bits and probes hold a promise is computed, not guessed: the keys of a block are a Poisson
//! number; of i keys with k probes each, the share of bits that are set has a known mean and variance
//! (occupancy), and a key that is not there is found with the mean of that share's k-th power, which its
//! variance makes larger than the mean's k-th power. [`chance`] sums that over i; [`Size::new`] finds the k
//! that needs the fewest bits, and gives 1 % more. Of the exact distribution (Stirling numbers) the terms are
//! within 1 % for any block that counts.
//!
//! One filter holds the keys of all bands: a key has its band's number hashed in, so that one array with all
//! keys has the rate of false positives of an array for each. Departure from LSHBloom (Khan et al., 2024),
//! which has a classic filter for each band.

use spandrel_storage::codec::{Decoder, Encoder, Truncated};

use super::hash::mix;
use crate::error::{Error, Result};

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Lines of a block, and its bits.
const BLOCK_LINES: usize = 8;
const BLOCK_BITS: usize = BLOCK_LINES * LINE_BYTES * 8;
/// A probe is so many high bits of a number.
const PROBE_SHIFT: u32 = 64 - BLOCK_BITS.trailing_zeros();
/// Probes of a key, at most.
const PROBES_MAX: u32 = 48;
/// Bits that are given for each that the promise needs.
const MARGIN: f64 = 1.01;
/// The promises that can be held: `1e-12` to `0.5`.
pub const CHANCE_MIN: f64 = 1e-12;
/// See [`CHANCE_MIN`].
pub const CHANCE_MAX: f64 = 0.5;
/// Most keys of a filter: its bytes are counted in a few TiB.
pub const KEYS_MAX: u64 = 1 << 40;

/// What the layout is called on disk; another one gets another number.
const FORMAT: u8 = 1;

/// The chance that a key that is not there is found, at so many bits a key.
fn chance(probes: u32, bits_per_key: f64) -> f64 {
    let bits = BLOCK_BITS as f64;
    let mean = bits / bits_per_key;
    // Blocks with more or fewer keys are rarer than 1e-15 times the chances promised.
    let spread = 10.0 * mean.sqrt() + 20.0;
    let first = (mean - spread).max(0.0) as u32;
    let mut ln_factorial: f64 = (1..=first).map(|i| f64::from(i).ln()).sum();
    let mut sum = 0.0;
    for keys in first..=(mean + spread) as u32 {
        if keys > first {
            ln_factorial += f64::from(keys).ln();
        }
        let blocks = (f64::from(keys) * mean.ln() - mean - ln_factorial).exp();
        sum += blocks * chance_of_block(probes, f64::from(keys) * f64::from(probes));
    }
    sum
}

/// The chance that so many probes meet set bits only, in a block of which so many bits were set, some of them
/// the same.
fn chance_of_block(probes: u32, thrown: f64) -> f64 {
    let bits = BLOCK_BITS as f64;
    let clear = (thrown * (-1.0 / bits).ln_1p()).exp();
    let both_clear = (thrown * (-2.0 / bits).ln_1p()).exp();
    let set = 1.0 - clear;
    if set <= 0.0 {
        return 0.0;
    }
    let variance = clear / bits + (1.0 - 1.0 / bits) * both_clear - clear * clear;
    let pairs = f64::from(probes * (probes - 1)) / 2.0;
    (f64::from(probes) * set.ln() + pairs * variance.max(0.0) / (set * set)).min(0.0).exp()
}

/// What holds a promise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Bits set of a key.
    pub probes: u32,
    /// Bits that a key takes.
    pub bits_per_key: f64,
}

impl Size {
    /// The smallest with which a key that is not there is found with at most this chance, between
    /// [`CHANCE_MIN`] and [`CHANCE_MAX`]. About 0.4 ms.
    ///
    /// # Errors
    /// [`Error::Invalid`] for other chances.
    pub fn new(promise: f64) -> Result<Self> {
        if !(CHANCE_MIN..=CHANCE_MAX).contains(&promise) {
            let what = format!("a chance is {CHANCE_MIN:e} to {CHANCE_MAX}, not {promise:e}");
            return Err(Error::Invalid(what));
        }
        // Half of the bits of a filter that fits are set: so many probes, or fewer by blocks' variety.
        let most = ((-promise.log2()).ceil() as u32).clamp(1, PROBES_MAX);
        let mut best = Self { probes: 1, bits_per_key: f64::INFINITY };
        for probes in (1..=most).rev() {
            let bits_per_key = bits_for(probes, promise);
            if bits_per_key > best.bits_per_key {
                // Bits fall to the best number of probes, and rise from there on.
                break;
            }
            best = Self { probes, bits_per_key };
        }
        best.bits_per_key *= MARGIN;
        Ok(best)
    }

    /// Bytes of a filter of so many keys.
    pub fn bytes(&self, keys: u64) -> u64 {
        self.blocks(keys) * (BLOCK_BITS / 8) as u64
    }

    fn blocks(&self, keys: u64) -> u64 {
        ((keys as f64 * self.bits_per_key / BLOCK_BITS as f64).ceil() as u64).max(1)
    }
}

/// Bits a key with which so many probes hold a promise; infinite, where these are too many.
fn bits_for(probes: u32, promise: f64) -> f64 {
    let (mut low, mut high) = (1.0, BLOCK_BITS as f64);
    if chance(probes, high) > promise {
        return f64::INFINITY;
    }
    while high - low > 0.001 * low {
        let middle = f64::midpoint(low, high);
        if chance(probes, middle) > promise {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// A cache line of bits, so that none lies in two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
struct Line([u64; LINE_BYTES / 8]);

/// A set of keys.
///
/// On disk, little-endian:
///
/// | bytes | what |
/// |---|---|
/// | 1 | format: 1 |
/// | 1 | probes: 1 to 48 |
/// | 8 | blocks: 1 or more |
/// | 512 x blocks | bits: bit `i` of a block is bit `i % 64` of its u64 number `i / 64` |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bloom {
    lines: Vec<Line>,
    probes: u32,
}

impl Bloom {
    /// An empty set with room for so many keys, 1 to [`KEYS_MAX`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for other numbers, or when there is no memory for it.
    pub fn new(size: Size, keys: u64) -> Result<Self> {
        let lines =
            usize::try_from(size.blocks(keys)).ok().and_then(|blocks| blocks.checked_mul(BLOCK_LINES));
        match lines {
            Some(count) if (1..=KEYS_MAX).contains(&keys) => {
                let mut lines = Vec::new();
                let no_room =
                    |_| Error::Invalid(format!("there is no memory for {count} x {LINE_BYTES} bytes"));
                lines.try_reserve_exact(count).map_err(no_room)?;
                lines.resize(count, Line([0; LINE_BYTES / 8]));
                Ok(Self { lines, probes: size.probes })
            }
            _ => Err(Error::Invalid(format!("a filter has 1 to {KEYS_MAX} keys, not {keys}"))),
        }
    }

    /// The first line of a key's block.
    #[inline(always)]
    fn block(&self, key: u64) -> usize {
        let blocks = (self.lines.len() / BLOCK_LINES) as u64;
        ((u128::from(key) * u128::from(blocks)) >> 64) as usize * BLOCK_LINES
    }

    /// Puts a key in, a hash of 64 bits whose high ones are even.
    #[inline]
    pub fn insert(&mut self, key: u64) {
        let (start, probes) = (self.block(key), self.probes);
        let block = &mut self.lines[start..start + BLOCK_LINES];
        for (line, word, bit) in Probes::new(key, probes) {
            block[line].0[word] |= bit;
        }
    }

    /// Whether a key was put in; true for others, too, with the chance promised at most, while there are no
    /// more keys than there was room for.
    #[inline]
    pub fn contains(&self, key: u64) -> bool {
        let start = self.block(key);
        let block = &self.lines[start..start + BLOCK_LINES];
        Probes::new(key, self.probes).all(|(line, word, bit)| block[line].0[word] & bit != 0)
    }

    /// Bytes in memory, and about as many on disk.
    pub fn bytes(&self) -> usize {
        self.lines.len() * LINE_BYTES
    }

    /// Writes what [`decode`](Self::decode) reads.
    pub fn encode(&self, bytes: &mut Encoder) {
        bytes.u8(FORMAT).u8(self.probes as u8).u64((self.lines.len() / BLOCK_LINES) as u64);
        for Line(words) in &self.lines {
            words.iter().for_each(|word| {
                bytes.u64(*word);
            });
        }
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`Error::Section`] for other bytes.
    pub fn decode(bytes: &mut Decoder<'_>) -> Result<Self> {
        let text = |error: Truncated| damaged(error.to_string());
        let format = bytes.u8("format").map_err(text)?;
        if format != FORMAT {
            return Err(damaged(format!("format {format} is not one that this build reads")));
        }
        let probes = u32::from(bytes.u8("probes").map_err(text)?);
        if !(1..=PROBES_MAX).contains(&probes) {
            return Err(damaged(format!("{probes} probes are not 1 to {PROBES_MAX}")));
        }
        let blocks = bytes.u64("blocks").map_err(text)?;
        let len = usize::try_from(blocks).unwrap_or(usize::MAX).saturating_mul(BLOCK_BITS / 8);
        if blocks == 0 {
            return Err(damaged("it has no blocks".into()));
        }
        let (lines, _) = bytes.take(len, "bits").map_err(text)?.as_chunks::<LINE_BYTES>();
        let lines = lines.iter().map(|line| {
            let (words, _) = line.as_chunks::<8>();
            Line(std::array::from_fn(|at| u64::from_le_bytes(words[at])))
        });
        Ok(Self { lines: lines.collect(), probes })
    }
}

fn damaged(what: String) -> Error {
    Error::Section { section: "duplicates' filter".into(), what }
}

/// The bits of a key: line of its block, word of the line, and the bit as a number.
struct Probes {
    state: u64,
    left: u32,
}

impl Probes {
    #[inline(always)]
    fn new(key: u64, probes: u32) -> Self {
        // The key's high bits choose the block; all bits choose these.
        Self { state: mix(key), left: probes }
    }
}

impl Iterator for Probes {
    type Item = (usize, usize, u64);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // The generator of Steele and Vigna (2021); its high bits are good.
        self.state = self.state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bit = (self.state >> PROBE_SHIFT) as usize;
        Some((bit / (LINE_BYTES * 8), bit / 64 % (LINE_BYTES / 8), 1 << (bit % 64)))
    }
}

#[cfg(test)]
mod tests;
