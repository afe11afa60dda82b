//! The least of many linear functions of many numbers: what signatures of sets are made of (MinHash).
//!
//! A lane has a factor, an offset and the least so far. Every number x of the set lowers it to `factor * x +
//! offset` modulo 2^32, where that is less. x is the high half of a hash of 64 bits. All levels give the same
//! bits.

use super::dispatch::Kernels;

/// Lanes come in blocks of so many: a register of AVX-512, two of AVX2.
pub const MINHASH_LANES: usize = 16;

/// `(factors, offsets, hashes, mins)`; all but the hashes are of one length, whole blocks.
pub(super) type Lower = fn(&[u32], &[u32], &[u64], &mut [u32]);

impl Kernels {
    /// Lowers each of `mins` to the least `factor * (hash >> 32) + offset` of its lane, where that is less.
    ///
    /// # Panics
    /// When factors, offsets and minima are not of one length, a multiple of [`MINHASH_LANES`].
    pub fn lower_mins(&self, factors: &[u32], offsets: &[u32], hashes: &[u64], mins: &mut [u32]) {
        check(factors, offsets, mins);
        (self.lower)(factors, offsets, hashes, mins);
    }
}

/// Checks that each lane has a factor and an offset, and that lanes are whole blocks.
#[inline]
pub(super) fn check(factors: &[u32], offsets: &[u32], mins: &[u32]) {
    let lengths = [factors.len(), offsets.len()];
    assert_eq!(lengths, [mins.len(); 2], "each lane has a factor and an offset");
    assert!(mins.len().is_multiple_of(MINHASH_LANES), "lanes come in blocks of {MINHASH_LANES}");
}

/// The value of a hash in a lane.
#[inline(always)]
fn value(hash: u64, factor: u32, offset: u32) -> u32 {
    ((hash >> 32) as u32).wrapping_mul(factor).wrapping_add(offset)
}

/// One lane at a time; the oracle of the other levels.
pub(super) fn scalar(factors: &[u32], offsets: &[u32], hashes: &[u64], mins: &mut [u32]) {
    for ((factor, offset), min) in factors.iter().zip(offsets).zip(mins) {
        for hash in hashes {
            *min = (*min).min(value(*hash, *factor, *offset));
        }
    }
}

/// What the compiler makes vector instructions of, whatever the target has.
pub(super) fn portable(factors: &[u32], offsets: &[u32], hashes: &[u64], mins: &mut [u32]) {
    let (factors, offsets) = (factors.as_chunks::<MINHASH_LANES>().0, offsets.as_chunks::<MINHASH_LANES>().0);
    let mins = mins.as_chunks_mut::<MINHASH_LANES>().0;
    for ((factors, offsets), mins) in factors.iter().zip(offsets).zip(mins) {
        // In registers all along, which they would not be behind the reference.
        let mut least = *mins;
        for hash in hashes {
            for ((least, factor), offset) in least.iter_mut().zip(factors).zip(offsets) {
                *least = (*least).min(value(*hash, *factor, *offset));
            }
        }
        *mins = least;
    }
}
