//! The least of many linear functions of many numbers, on AVX2 and AVX-512.
//!
//! The factors, offsets and minima of a block of lanes stay in registers while all hashes pass: 8 registers
//! of each are 24 of AVX-512's 32, 4 of each are 12 of AVX2's 16. What is left over goes by smaller blocks.

use std::arch::x86_64::*;

use crate::simd::minhash::check;

/// Lanes of a register.
const AVX2_LANES: usize = 8;
const AVX512_LANES: usize = 16;

/// A kernel of a table: checks the lengths, then goes through the lanes by blocks of the sizes given,
/// compiled with the features of the level.
macro_rules! lower {
    ($features:literal, $name:ident, $block:ident, $lanes:ident, $($registers:literal)+) => {
        pub(super) fn $name(factors: &[u32], offsets: &[u32], hashes: &[u64], mins: &mut [u32]) {
            #[target_feature(enable = $features)]
            unsafe fn run(factors: &[u32], offsets: &[u32], hashes: &[u64], mins: &mut [u32]) {
                let mut at = 0;
                $(while at + $registers * $lanes <= mins.len() {
                    // SAFETY: the three have one length, which is checked, and so many lanes from `at` on.
                    unsafe {
                        let (factors, offsets) = (factors.as_ptr().add(at), offsets.as_ptr().add(at));
                        $block::<$registers>(factors, offsets, hashes, mins.as_mut_ptr().add(at));
                    }
                    at += $registers * $lanes;
                })+
            }
            check(factors, offsets, mins);
            // SAFETY: lengths are checked; the table of this level is handed out only where the CPU has its
            // features.
            unsafe { run(factors, offsets, hashes, mins) }
        }
    };
}

lower! {"avx2", lower_avx2, block_avx2, AVX2_LANES, 4 2}
lower! {"avx512f", lower_avx512, block_avx512, AVX512_LANES, 8 4 2 1}

/// Lowers so many registers of lanes.
///
/// # Safety
/// The CPU has AVX2; each pointer has `REGISTERS * AVX2_LANES` numbers behind it.
#[inline(always)]
unsafe fn block_avx2<const REGISTERS: usize>(
    factors: *const u32,
    offsets: *const u32,
    hashes: &[u64],
    mins: *mut u32,
) {
    // SAFETY: every load and store is of one of the registers that the caller vouches for.
    unsafe {
        let load = |from: *const u32, at| _mm256_loadu_si256(from.add(at * AVX2_LANES).cast());
        let factors: [__m256i; REGISTERS] = std::array::from_fn(|at| load(factors, at));
        let offsets: [__m256i; REGISTERS] = std::array::from_fn(|at| load(offsets, at));
        let mut least: [__m256i; REGISTERS] = std::array::from_fn(|at| load(mins, at));
        for hash in hashes {
            let x = _mm256_set1_epi32((hash >> 32) as i32);
            for at in 0..REGISTERS {
                let value = _mm256_add_epi32(_mm256_mullo_epi32(x, factors[at]), offsets[at]);
                least[at] = _mm256_min_epu32(least[at], value);
            }
        }
        for (at, least) in least.into_iter().enumerate() {
            _mm256_storeu_si256(mins.add(at * AVX2_LANES).cast(), least);
        }
    }
}

/// Lowers so many registers of lanes.
///
/// # Safety
/// The CPU has AVX-512F; each pointer has `REGISTERS * AVX512_LANES` numbers behind it.
#[inline(always)]
unsafe fn block_avx512<const REGISTERS: usize>(
    factors: *const u32,
    offsets: *const u32,
    hashes: &[u64],
    mins: *mut u32,
) {
    // SAFETY: every load and store is of one of the registers that the caller vouches for.
    unsafe {
        let load = |from: *const u32, at| _mm512_loadu_si512(from.add(at * AVX512_LANES).cast());
        let factors: [__m512i; REGISTERS] = std::array::from_fn(|at| load(factors, at));
        let offsets: [__m512i; REGISTERS] = std::array::from_fn(|at| load(offsets, at));
        let mut least: [__m512i; REGISTERS] = std::array::from_fn(|at| load(mins, at));
        for hash in hashes {
            let x = _mm512_set1_epi32((hash >> 32) as i32);
            for at in 0..REGISTERS {
                let value = _mm512_add_epi32(_mm512_mullo_epi32(x, factors[at]), offsets[at]);
                least[at] = _mm512_min_epu32(least[at], value);
            }
        }
        for (at, least) in least.into_iter().enumerate() {
            _mm512_storeu_si512(mins.add(at * AVX512_LANES).cast(), least);
        }
    }
}
