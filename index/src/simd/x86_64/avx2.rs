//! The AVX2 level (with FMA and F16C): 8 float lanes, 16 integer lanes, 16 registers.
//!
//! Only loads, one arithmetic step and the lane sums are here; [`float`](super::float) and
//! [`int`](super::int) hold the loops. Every method is inlined into the `#[target_feature]` functions at the
//! bottom, one a kernel, over whole blocks.

use std::arch::x86_64::*;

use half::f16;

use super::codes;
use super::float::{self, Float, Load};
use super::int::{self, Int};
use super::kernel;
use super::minhash;
use crate::simd::dispatch::{FloatKernels, IntKernels, Kernels, Vectors};

/// The level's kernels. They may be called only where [`present`] holds.
pub(super) static KERNELS: Kernels = Kernels {
    level: "avx2",
    vectors: Vectors::Avx2,
    f32: FloatKernels { dot: dot_f32, l2: l2_f32 },
    f16: FloatKernels { dot: dot_f16, l2: l2_f16 },
    i8: FloatKernels { dot: dot_i8, l2: l2_i8 },
    int: IntKernels { dot: int_dot, l2: int_l2 },
    nibble: codes::NIBBLE_AVX2,
    bytes: codes::BYTES_AVX2,
    lower: minhash::lower_avx2,
};

/// Whether this CPU has the level.
pub(super) fn present() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Sliding windows of -1 then 0: loaded at `8 - count`, the first `count` lanes are selected.
static SELECT: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
/// Sliding windows of byte positions: loaded at `16 - count`, the last `count` bytes move to the front.
static TO_FRONT: [u8; 32] = {
    let mut table = [0x80; 32];
    let mut at = 0;
    while at < 16 {
        table[at] = at as u8;
        at += 1;
    }
    table
};

/// `bytes < 16` bytes from `from`, then zeros. With `after`, the `16 - bytes` bytes before `from` may be
/// read.
///
/// # Safety
/// What is said to be readable is; the CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn load_bytes(from: *const u8, bytes: usize, after: bool) -> __m128i {
    // SAFETY: with `after` the 16 bytes that end at `from + bytes` are readable, else each of `bytes` is read
    // alone; the table has 16 bytes from every position up to 16.
    unsafe {
        if after {
            let last = _mm_loadu_si128(from.add(bytes).sub(16).cast());
            _mm_shuffle_epi8(last, _mm_loadu_si128(TO_FRONT.as_ptr().add(16 - bytes).cast()))
        } else {
            let (mut value, mut at) = (0u128, bytes);
            while at > 0 {
                at -= 1;
                value = value << 8 | u128::from(*from.add(at));
            }
            _mm_set_epi64x((value >> 64) as i64, value as i64)
        }
    }
}

impl Float for __m256 {
    const WIDTH: usize = 8;
    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for the CPU.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for the CPU and for 8 values.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: the table has 8 lanes from every position up to 8; lanes that are not selected are not
        // read.
        unsafe { _mm256_maskload_ps(from, _mm256_loadu_si256(SELECT.as_ptr().add(8 - count).cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for the CPU and for 8 places.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: Self, b: Self, sum: Self) -> Self {
        // SAFETY: the caller vouches for the CPU.
        unsafe { _mm256_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn subtract(a: Self, b: Self) -> Self {
        // SAFETY: the caller vouches for the CPU.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // Lanes 0 + 2 and 1 + 3 of each half, these two, then the two halves.
        // SAFETY: the caller vouches for the CPU; `__m128` and `[f32; 4]` have the same bytes.
        unsafe {
            let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let even = _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd);
            let odd = _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd);
            let halves = _mm256_add_ps(even, odd);
            let sums = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
            std::mem::transmute::<__m128, [f32; 4]>(sums)
        }
    }
}

impl Load<__m256> for f16 {
    #[inline(always)]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller vouches for the CPU and for 8 values.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const Self, count: usize, after: bool) -> __m256 {
        // SAFETY: the caller's promise, in bytes.
        unsafe { _mm256_cvtph_ps(load_bytes(from.cast(), 2 * count, after)) }
    }
}

impl Load<__m256> for i8 {
    #[inline(always)]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller vouches for the CPU and for 8 values.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const Self, count: usize, after: bool) -> __m256 {
        // SAFETY: with `after` the 8 bytes that end at `from + count` are readable, else each of `count` is
        // read alone; `count` is 1 to 7.
        unsafe {
            let value = if after {
                from.add(count).sub(8).cast::<u64>().read_unaligned() >> (8 * (8 - count))
            } else {
                let (mut value, mut at) = (0u64, count);
                while at > 0 {
                    at -= 1;
                    value = value << 8 | u64::from(*from.cast::<u8>().add(at));
                }
                value
            };
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(value as i64)))
        }
    }
}

impl Int for __m256i {
    const WIDTH: usize = 16;
    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for the CPU.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> Self {
        // SAFETY: the caller vouches for the CPU and for 16 values.
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const i8, count: usize, after: bool) -> Self {
        // SAFETY: the caller's promise, in bytes.
        unsafe { _mm256_cvtepi8_epi16(load_bytes(from.cast(), count, after)) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: Self, b: Self, sum: Self) -> Self {
        // SAFETY: the caller vouches for the CPU.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    unsafe fn subtract(a: Self, b: Self) -> Self {
        // SAFETY: the caller vouches for the CPU.
        unsafe { _mm256_sub_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [Self; 4]) -> [i32; 4] {
        // SAFETY: the caller vouches for the CPU; `__m128i` and `[i32; 4]` have the same bytes.
        unsafe {
            let halves = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
            let sums = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            std::mem::transmute::<__m128i, [i32; 4]>(sums)
        }
    }
}

kernel!("avx2,fma,f16c", dot_f32(f32, f32) -> f32, float::tile::<__m256, f32, float::Dot>);
kernel!("avx2,fma,f16c", l2_f32(f32, f32) -> f32, float::tile::<__m256, f32, float::L2>);
kernel!("avx2,fma,f16c", dot_f16(f32, f16) -> f32, float::tile::<__m256, f16, float::Dot>);
kernel!("avx2,fma,f16c", l2_f16(f32, f16) -> f32, float::tile::<__m256, f16, float::L2>);
kernel!("avx2,fma,f16c", dot_i8(f32, i8) -> f32, float::tile::<__m256, i8, float::Dot>);
kernel!("avx2,fma,f16c", l2_i8(f32, i8) -> f32, float::tile::<__m256, i8, float::L2>);
kernel!("avx2,fma,f16c", int_dot(i8, i8) -> i32, int::tile::<__m256i, int::Dot>);
kernel!("avx2,fma,f16c", int_l2(i8, i8) -> i32, int::tile::<__m256i, int::L2>);
