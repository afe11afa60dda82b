//! The kernels over rows of nibbles that lie anywhere: sixteen of them are put side by side in registers.
//! By the samples of a profile that takes 2.4 ns a row of 64 lookups, where blocks put together in memory
//! (what the other levels do) take 4.8. Those whose bound is wanted are picked sixteen at a time, which takes
//! 1.6 % of the samples of a scan of 1,000 of them; one by one it takes 7.4.
//!
//! The shapes are checked by the front ([`nibble_rows`](crate::simd::nibble_rows)), which is all that calls
//! these.

use std::arch::x86_64::*;

use super::codes;
use crate::simd::nibble::{ENTRIES, GROUP};
use crate::simd::nibble_rows::{Bounds, Wanted, by_blocks, code_bytes, one_by_one, row_bytes};

/// Rows that are read together.
const LANES: usize = 16;
/// Bytes of the table of a group of lookups.
const GROUP_BYTES: usize = GROUP * ENTRIES;
/// Bytes of a row that are put side by side with those of others in one go: four times four.
const PIECE_BYTES: usize = 16;

pub(super) fn picked_avx2(table: &[u8], rows: &[u8], picks: &[u32], bounds: &Bounds<'_>, out: &mut [f32]) {
    by_blocks(codes::NIBBLE_AVX2.sums, (table, rows, picks), bounds, out);
}

pub(super) fn picked_vbmi(table: &[u8], rows: &[u8], picks: &[u32], bounds: &Bounds<'_>, out: &mut [f32]) {
    let stride = row_bytes(table.len() / ENTRIES);
    for (picks, out) in picks.chunks(LANES).zip(out.chunks_mut(LANES)) {
        let mut places = [0; LANES];
        // A lane without a pick reads the row of the first.
        places.fill(picks[0] as usize * stride);
        places.iter_mut().zip(picks).for_each(|(place, pick)| *place = *pick as usize * stride);
        // SAFETY: the front checked that all rows are there, of the table's lookups, and that there is a
        // distance; the table of this level is handed out only where the CPU has its features.
        unsafe { lanes_vbmi(table, places.map(|place| rows.as_ptr().add(place)), bounds, out) };
    }
}

/// The four dwords of a piece, each of all rows.
///
/// # Safety
/// The CPU has the features; every row has 16 readable bytes at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn side_by_side(rows: &[*const u8; LANES], at: usize) -> [__m512i; 4] {
    // Register i holds rows i, 4 + i, 8 + i and 12 + i: each quarter is a square that is transposed.
    let load = |i: usize| {
        // SAFETY: the caller vouches for the bytes.
        let four = [0, 4, 8, 12].map(|row| unsafe { _mm_loadu_si128(rows[row + i].add(at).cast()) });
        let first = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(four[0]), four[1]);
        let second = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(four[2]), four[3]);
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
    };
    let (a, b, c, d) = (load(0), load(1), load(2), load(3));
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// The bounds of up to 16 rows.
///
/// # Safety
/// The CPU has the features; every row is one of the table's lookups; there are at most 16 of `out` and at
/// least one distance.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn lanes_vbmi(table: &[u8], rows: [*const u8; LANES], bounds: &Bounds<'_>, out: &mut [f32]) {
    let code_bytes = code_bytes(table.len() / ENTRIES);
    let (nibble, ones) = (_mm512_set1_epi8(15), _mm512_set1_epi8(1));
    // Byte `lookup` of each row looks in the 16 bytes of its lookup.
    let lookup = _mm512_set1_epi32(0x3020_1000);
    let add_up = |sums: __m512i, bytes: __m512i, at: usize| {
        // SAFETY: whole groups of the table are read.
        let entries = unsafe { _mm512_loadu_si512(table[at..][..GROUP_BYTES].as_ptr().cast()) };
        // (bytes & nibble) | lookup
        let index = _mm512_ternarylogic_epi32::<0xea>(bytes, nibble, lookup);
        _mm512_dpbusd_epi32(sums, _mm512_permutexvar_epi8(index, entries), ones)
    };
    let (mut sums, mut more) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for piece in (0..code_bytes).step_by(PIECE_BYTES) {
        // SAFETY: a row has its code bytes.
        let fours = unsafe { side_by_side(&rows, piece) };
        for (four, bytes) in fours.into_iter().enumerate() {
            let at = (piece / GROUP + four) * 2 * GROUP_BYTES;
            if at < table.len() {
                sums = add_up(sums, bytes, at);
            }
            if at + GROUP_BYTES < table.len() {
                more = add_up(more, _mm512_srli_epi16::<4>(bytes), at + GROUP_BYTES);
            }
        }
    }
    // SAFETY: a row has its factors behind its code.
    let [add, scale, error, of] = unsafe { side_by_side(&rows, code_bytes) };
    let last = _mm512_set1_epi32(bounds.distances.len() as i32 - 1);
    // SAFETY: no index is beyond the last distance.
    let distance =
        unsafe { _mm512_i32gather_ps::<4>(_mm512_min_epu32(of, last), bounds.distances.as_ptr().cast()) };
    let (step, bias) = (_mm512_set1_ps(bounds.step), _mm512_set1_ps(bounds.bias));
    let slack = _mm512_mul_ps(_mm512_set1_ps(bounds.slack), _mm512_sqrt_ps(distance));
    let sums = _mm512_cvtepi32_ps(_mm512_add_epi32(sums, more));
    let product = _mm512_add_ps(_mm512_mul_ps(sums, step), bias);
    let estimate = _mm512_add_ps(
        _mm512_add_ps(_mm512_castsi512_ps(add), distance),
        _mm512_mul_ps(_mm512_castsi512_ps(scale), product),
    );
    let bound = _mm512_sub_ps(estimate, _mm512_mul_ps(_mm512_castsi512_ps(error), slack));
    let mut all = [0.0_f32; LANES];
    // SAFETY: there are 16 places.
    unsafe { _mm512_storeu_ps(all.as_mut_ptr(), bound) };
    out.copy_from_slice(&all[..out.len()]);
}

/// Those whose bound is wanted, sixteen at a time.
pub(super) fn wanted_vbmi(ids: &[u32], bounds: &[f32], wanted: Wanted, out: &mut [u32]) -> usize {
    assert!(ids.len() == bounds.len() && ids.len() == out.len(), "there is a place for each");
    // SAFETY: there are as many of all; the table of this level is handed out only where the CPU has its
    // features.
    unsafe { compressed(ids, bounds, wanted, out) }
}

/// What [`wanted_vbmi`] does.
///
/// # Safety
/// The CPU has the features; there are as many bounds and places as ids.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn compressed(ids: &[u32], bounds: &[f32], wanted: Wanted, out: &mut [u32]) -> usize {
    let (from, below) = (_mm512_set1_ps(wanted.from), _mm512_set1_ps(wanted.below));
    let unknown = if wanted.unknown { u16::MAX } else { 0 };
    let whole = ids.len() / LANES * LANES;
    let mut count = 0;
    for at in (0..whole).step_by(LANES) {
        // SAFETY: so many more are left of each, and `count` is at most `at`.
        unsafe {
            let bounds = _mm512_loadu_ps(bounds.as_ptr().add(at));
            let within = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(bounds, from)
                & _mm512_cmp_ps_mask::<_CMP_LT_OQ>(bounds, below);
            let wanted = within | (unknown & _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(bounds, bounds));
            let ids = _mm512_loadu_si512(ids.as_ptr().add(at).cast());
            // To a register: some CPUs take a hundred times as long to memory.
            let picked = _mm512_maskz_compress_epi32(wanted, ids);
            _mm512_storeu_si512(out.as_mut_ptr().add(count).cast(), picked);
            count += wanted.count_ones() as usize;
        }
    }
    count + one_by_one(&ids[whole..], &bounds[whole..], wanted, &mut out[count..])
}
