//! The AVX-512 level (F, BW, VL) and its forms with VNNI and VBMI: 16 float lanes, 32 integer lanes, 32
//! registers.
//!
//! Only loads, one arithmetic step and the lane sums are here; [`float`](super::float) and
//! [`int`](super::int) hold the loops. Partial loads are masked, so that nothing past a slice is read. The
//! float results differ from AVX2's in the last bits (16 partial sums a pair, not 8); the integer results do
//! not.

use std::arch::x86_64::*;

use half::f16;

use super::codes;
use super::float::{self, Float, Load};
use super::int::{self, Int};
use super::kernel;
use super::minhash;
use crate::simd::dispatch::{FloatKernels, IntKernels, Kernels, Vectors};

/// The level's kernels without VNNI. They may be called only where [`present`] holds.
pub(super) static KERNELS: Kernels = Kernels {
    level: "avx512",
    vectors: Vectors::Avx512,
    f32: FloatKernels { dot: dot_f32, l2: l2_f32 },
    f16: FloatKernels { dot: dot_f16, l2: l2_f16 },
    i8: FloatKernels { dot: dot_i8, l2: l2_i8 },
    int: IntKernels { dot: int_dot, l2: int_l2 },
    nibble: codes::NIBBLE_AVX2,
    bytes: codes::BYTES_AVX2,
    lower: minhash::lower_avx512,
};

const VNNI: Kernels = Kernels {
    level: "avx512vnni",
    vectors: Vectors::Avx512,
    int: IntKernels { dot: int_dot_vnni, l2: int_l2_vnni },
    bytes: codes::BYTES_VNNI,
    f32: FloatKernels { dot: dot_f32, l2: l2_f32 },
    f16: FloatKernels { dot: dot_f16, l2: l2_f16 },
    i8: FloatKernels { dot: dot_i8, l2: l2_i8 },
    nibble: codes::NIBBLE_AVX2,
    lower: minhash::lower_avx512,
};

/// The level's kernels with VNNI. They may be called only where [`present_vnni`] holds.
pub(super) static KERNELS_VNNI: Kernels = VNNI;

/// The level's kernels with VNNI and VBMI. They may be called only where [`present_vbmi`] holds.
pub(super) static KERNELS_VBMI: Kernels = Kernels { level: "avx512vbmi", nibble: codes::NIBBLE_VBMI, ..VNNI };

/// Whether this CPU has the level.
pub(super) fn present() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

/// Whether this CPU has the level and VNNI.
pub(super) fn present_vnni() -> bool {
    present() && is_x86_feature_detected!("avx512vnni")
}

/// Whether this CPU has the level, VNNI and VBMI.
pub(super) fn present_vbmi() -> bool {
    present_vnni() && is_x86_feature_detected!("avx512vbmi")
}

impl Float for __m512 {
    const WIDTH: usize = 16;
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for the CPU.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for the CPU and for 16 values.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: lanes outside the mask are not read.
        unsafe { _mm512_maskz_loadu_ps((1 << count) - 1, from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for the CPU and for 16 places.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: Self, b: Self, sum: Self) -> Self {
        // SAFETY: the caller vouches for the CPU.
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn subtract(a: Self, b: Self) -> Self {
        // SAFETY: the caller vouches for the CPU.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // The two halves first, then the tree of AVX2.
        // SAFETY: the caller vouches for the CPU.
        unsafe { <__m256 as Float>::sums([halves(a), halves(b), halves(c), halves(d)]) }
    }
}

/// The lower half plus the upper half.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn halves(register: __m512) -> __m256 {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(register)));
        _mm256_add_ps(_mm512_castps512_ps256(register), upper)
    }
}

impl Load<__m512> for f16 {
    #[inline(always)]
    unsafe fn load(from: *const Self) -> __m512 {
        // SAFETY: the caller vouches for the CPU and for 16 values.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const Self, count: usize, _after: bool) -> __m512 {
        // SAFETY: lanes outside the mask are not read.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((1 << count) - 1, from.cast())) }
    }
}

impl Load<__m512> for i8 {
    #[inline(always)]
    unsafe fn load(from: *const Self) -> __m512 {
        // SAFETY: the caller vouches for the CPU and for 16 values.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const Self, count: usize, _after: bool) -> __m512 {
        // SAFETY: lanes outside the mask are not read.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8((1 << count) - 1, from))) }
    }
}

/// Integer lanes whose products are added by a multiply and an add.
#[derive(Clone, Copy)]
struct Plain(__m512i);
/// Integer lanes whose products are added by one VNNI instruction.
#[derive(Clone, Copy)]
struct Vnni(__m512i);

/// Everything of [`Int`] but the multiply-add, which is all that VNNI changes.
macro_rules! int_lanes {
    ($name:ident, |$a:ident, $b:ident, $sum:ident| $multiply_add:expr) => {
        impl Int for $name {
            const WIDTH: usize = 32;
            const WIDE: bool = true;

            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: the caller vouches for the CPU.
                Self(unsafe { _mm512_setzero_si512() })
            }

            #[inline(always)]
            unsafe fn load(from: *const i8) -> Self {
                // SAFETY: the caller vouches for the CPU and for 32 values.
                Self(unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast())) })
            }

            #[inline(always)]
            unsafe fn load_part(from: *const i8, count: usize, _after: bool) -> Self {
                // SAFETY: lanes outside the mask are not read.
                Self(unsafe { _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8((1 << count) - 1, from)) })
            }

            #[inline(always)]
            unsafe fn multiply_add(Self($a): Self, Self($b): Self, Self($sum): Self) -> Self {
                // SAFETY: the caller vouches for the CPU.
                Self(unsafe { $multiply_add })
            }

            #[inline(always)]
            unsafe fn subtract(a: Self, b: Self) -> Self {
                // SAFETY: the caller vouches for the CPU.
                Self(unsafe { _mm512_sub_epi16(a.0, b.0) })
            }

            #[inline(always)]
            unsafe fn sums([a, b, c, d]: [Self; 4]) -> [i32; 4] {
                // SAFETY: the caller vouches for the CPU.
                unsafe {
                    <__m256i as Int>::sums([
                        int_halves(a.0),
                        int_halves(b.0),
                        int_halves(c.0),
                        int_halves(d.0),
                    ])
                }
            }
        }
    };
}

int_lanes!(Plain, |a, b, sum| _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)));
int_lanes!(Vnni, |a, b, sum| _mm512_dpwssd_epi32(sum, a, b));

/// The lower half plus the upper half, as i32 lanes.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn int_halves(register: __m512i) -> __m256i {
    // SAFETY: the caller vouches for the CPU.
    unsafe { _mm256_add_epi32(_mm512_castsi512_si256(register), _mm512_extracti64x4_epi64::<1>(register)) }
}

kernel!("avx512f,avx512bw,avx512vl", dot_f32(f32, f32) -> f32, float::tile::<__m512, f32, float::Dot>);
kernel!("avx512f,avx512bw,avx512vl", l2_f32(f32, f32) -> f32, float::tile::<__m512, f32, float::L2>);
kernel!("avx512f,avx512bw,avx512vl", dot_f16(f32, f16) -> f32, float::tile::<__m512, f16, float::Dot>);
kernel!("avx512f,avx512bw,avx512vl", l2_f16(f32, f16) -> f32, float::tile::<__m512, f16, float::L2>);
kernel!("avx512f,avx512bw,avx512vl", dot_i8(f32, i8) -> f32, float::tile::<__m512, i8, float::Dot>);
kernel!("avx512f,avx512bw,avx512vl", l2_i8(f32, i8) -> f32, float::tile::<__m512, i8, float::L2>);
kernel!("avx512f,avx512bw,avx512vl", int_dot(i8, i8) -> i32, int::tile::<Plain, int::Dot>);
kernel!("avx512f,avx512bw,avx512vl", int_l2(i8, i8) -> i32, int::tile::<Plain, int::L2>);
kernel!("avx512f,avx512bw,avx512vl,avx512vnni", int_dot_vnni(i8, i8) -> i32, int::tile::<Vnni, int::Dot>);
kernel!("avx512f,avx512bw,avx512vl,avx512vnni", int_l2_vnni(i8, i8) -> i32, int::tile::<Vnni, int::L2>);
