//! The kernels over codes: nibble lookups and products of bytes, on AVX2 and on AVX-512 with VBMI and VNNI.
//!
//! The shapes are checked by the front ([`nibble`](crate::simd::nibble), [`bytes`](crate::simd::bytes)),
//! which is all that calls these.

use std::arch::x86_64::*;

use super::strewn;
use crate::simd::bytes::{self, ByteKernels};
use crate::simd::nibble::{
    BLOCK_ROWS, Bounds, Candidates, ENTRIES, GROUP, IDS_AT, NibbleKernels, block_bytes, code_bytes, factors,
};
use crate::simd::nibble_rows::one_by_one;

/// A kernel of a table: a safe function that runs the same one compiled with the features of a level.
macro_rules! with_features {
    ($features:literal, $name:ident($($arg:ident: $type:ty),*) $body:block) => {
        pub(super) fn $name($($arg: $type),*) {
            #[target_feature(enable = $features)]
            unsafe fn run($($arg: $type),*) $body
            // SAFETY: the front checked the shapes; the table of this level is handed out only where the CPU
            // has its features.
            unsafe { run($($arg),*) }
        }
    };
}

pub(super) const NIBBLE_AVX2: NibbleKernels =
    NibbleKernels { sums: sums_avx2, scan: scan_avx2, picked: strewn::picked_avx2, wanted: one_by_one };
pub(super) const NIBBLE_VBMI: NibbleKernels = NibbleKernels {
    sums: sums_vbmi,
    scan: scan_vbmi,
    picked: strewn::picked_vbmi,
    wanted: strewn::wanted_vbmi,
};
pub(super) const BYTES_AVX2: ByteKernels =
    ByteKernels { dots: dots_avx2, picked: picked_avx2, half_picked: half_picked_avx2, prefetch };
pub(super) const BYTES_VNNI: ByteKernels =
    ByteKernels { dots: dots_vnni, picked: picked_vnni, half_picked: half_picked_vnni, prefetch };

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// So many groups of picked rows are asked for ahead, unless all rows there are fit a second-level cache,
/// where asking costs more than it brings: a scan of 1,000 rows by codes takes 7 % less (Intel, Emerald
/// Rapids).
const AHEAD: usize = 2;
const CACHED_BYTES: usize = 512 << 10;

/// Into the second-level cache: rows that are asked for while a posting is scanned would push each other, and
/// it, out of the first. Measured on an AMD EPYC (Zen 4) this makes whole searches 6 to 10 % faster.
fn prefetch(from: *const u8, bytes: usize) {
    // What does not begin at a line may end in one more.
    for at in (0..bytes).step_by(LINE_BYTES).chain([bytes.saturating_sub(1)]) {
        // SAFETY: a hint, which may be given any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(at).cast()) };
    }
}

/// Bytes of the codes of a group, and of its table.
const GROUP_BYTES: usize = GROUP * ENTRIES;

/// The sums of vectors 0..16 and 16..32 of a block.
///
/// # Safety
/// The CPU has the features; `codes` has 64 readable bytes for every 64 of `table`.
#[inline(always)]
unsafe fn block_vbmi(table: &[u8], codes: *const u8) -> (__m512i, __m512i) {
    // SAFETY: every load is of a group of the table, and of codes that the caller vouches for.
    unsafe {
        let (nibble, ones) = (_mm512_set1_epi8(15), _mm512_set1_epi8(1));
        // Byte `lookup` of each vector looks in the 16 bytes of its lookup.
        let lookup = _mm512_set1_epi32(0x3020_1000);
        let (mut low, mut high) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for at in (0..table.len()).step_by(GROUP_BYTES) {
            let entries = _mm512_loadu_si512(table.as_ptr().add(at).cast());
            let bytes = _mm512_loadu_si512(codes.add(at).cast());
            // (bytes & nibble) | lookup
            let index = _mm512_ternarylogic_epi32::<0xea>(bytes, nibble, lookup);
            low = _mm512_dpbusd_epi32(low, _mm512_permutexvar_epi8(index, entries), ones);
            let index = _mm512_ternarylogic_epi32::<0xea>(_mm512_srli_epi16::<4>(bytes), nibble, lookup);
            high = _mm512_dpbusd_epi32(high, _mm512_permutexvar_epi8(index, entries), ones);
        }
        (low, high)
    }
}

with_features! {
    "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni",
    sums_vbmi(table: &[u8], codes: &[u8], sums: &mut [i32]) {
        for (block, sums) in codes.chunks_exact(table.len()).zip(sums.chunks_exact_mut(BLOCK_ROWS)) {
            // SAFETY: the block has as many bytes as the table; there are 32 sums.
            unsafe {
                let (low, high) = block_vbmi(table, block.as_ptr());
                _mm512_storeu_si512(sums.as_mut_ptr().cast(), low);
                _mm512_storeu_si512(sums.as_mut_ptr().add(16).cast(), high);
            }
        }
    }
}

with_features! {
    "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni",
    scan_vbmi(table: &[u8], posting: &[u8], bounds: &Bounds, candidates: &mut Candidates) {
        let lookups = table.len() / ENTRIES;
        let (code_bytes, block_bytes) = (code_bytes(lookups), block_bytes(lookups));
        let blocks = posting.len() / block_bytes;
        let mut count = candidates.ids.len();
        candidates.ids.reserve(blocks * BLOCK_ROWS);
        candidates.bounds.reserve(blocks * BLOCK_ROWS);
        // SAFETY: every block has codes and then 4 x 32, 2 x 32 and 2 x 32 bytes of factors and 4 x 32 of
        // ids. There is room for
        // every vector, and a store writes only the places of the bits set.
        unsafe {
            let (base, step, bias) =
                (_mm512_set1_ps(bounds.base), _mm512_set1_ps(bounds.step), _mm512_set1_ps(bounds.bias));
            let (slack, threshold) = (_mm512_set1_ps(bounds.slack), _mm512_set1_ps(bounds.threshold));
            for block in 0..blocks {
                let codes = posting.as_ptr().add(block * block_bytes);
                let (low, high) = block_vbmi(table, codes);
                let factors = codes.add(code_bytes);
                for (half, sums) in [low, high].into_iter().enumerate() {
                    let add = _mm512_loadu_ps(factors.add(64 * half).cast());
                    let scale = _mm512_cvtph_ps(_mm256_loadu_si256(factors.add(128 + 32 * half).cast()));
                    let error = _mm512_cvtph_ps(_mm256_loadu_si256(factors.add(192 + 32 * half).cast()));
                    let product = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), step), bias);
                    let estimate = _mm512_add_ps(_mm512_add_ps(add, base), _mm512_mul_ps(scale, product));
                    let bound = _mm512_sub_ps(estimate, _mm512_mul_ps(error, slack));
                    let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(bound, threshold);
                    if below != 0 {
                        let ids = _mm512_loadu_si512(factors.add(IDS_AT + 64 * half).cast());
                        // Whole registers: a compressing store is slow on some CPUs, and there is room.
                        let to = candidates.ids.as_mut_ptr().add(count);
                        _mm512_mask_storeu_epi32(
                            to.cast(),
                            (1_u32.wrapping_shl(below.count_ones()) - 1) as u16,
                            _mm512_maskz_compress_epi32(below, ids),
                        );
                        let to = candidates.bounds.as_mut_ptr().add(count);
                        _mm512_mask_storeu_ps(
                            to,
                            (1_u32.wrapping_shl(below.count_ones()) - 1) as u16,
                            _mm512_maskz_compress_ps(below, bound),
                        );
                        count += below.count_ones() as usize;
                    }
                }
            }
            candidates.ids.set_len(count);
            candidates.bounds.set_len(count);
        }
    }
}

/// The sums of a block: 16-bit sums of even and of odd vectors of each half, each lane a half of the lookups.
///
/// # Safety
/// The CPU has AVX2; `codes` has 64 readable bytes for every 64 of `table`, `sums` room for 32.
#[inline(always)]
unsafe fn block_avx2(table: &[u8], codes: *const u8, sums: *mut i32) {
    // SAFETY: every load is of a group of the table, and of codes that the caller vouches for.
    unsafe {
        let nibble = _mm256_set1_epi8(15);
        // Bytes of four vectors x four lookups, to four lookups x four vectors.
        let by_lookup =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
        let zero = _mm256_setzero_si256();
        // All 16-bit sums of byte pairs, and those of the upper bytes alone.
        let (mut pairs, mut odds) = ([zero; 2], [zero; 2]);
        for at in (0..table.len()).step_by(2 * GROUP_BYTES) {
            // The upper lane takes the next group, if there is one: zeros name entry 0 of an empty table.
            let two = at + GROUP_BYTES < table.len();
            let load = |from: *const u8, offset: usize| {
                let first = _mm_loadu_si128(from.add(at + offset).cast());
                let second = if two {
                    _mm_loadu_si128(from.add(at + GROUP_BYTES + offset).cast())
                } else {
                    _mm_setzero_si128()
                };
                _mm256_set_m128i(second, first)
            };
            let rows = |quarter: usize| _mm256_shuffle_epi8(load(codes, 16 * quarter), by_lookup);
            let (a, b, c, d) = (rows(0), rows(1), rows(2), rows(3));
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            let lookups = [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ];
            for (lookup, bytes) in lookups.into_iter().enumerate() {
                let entries = load(table.as_ptr(), ENTRIES * lookup);
                let halves = [
                    _mm256_and_si256(bytes, nibble),
                    _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble),
                ];
                for half in 0..2 {
                    let values = _mm256_shuffle_epi8(entries, halves[half]);
                    pairs[half] = _mm256_add_epi16(pairs[half], values);
                    odds[half] = _mm256_add_epi16(odds[half], _mm256_srli_epi16::<8>(values));
                }
            }
        }
        for half in 0..2 {
            // Modulo 2^16, as everything here: no sum of at most 256 bytes reaches it.
            let evens = _mm256_sub_epi16(pairs[half], _mm256_slli_epi16::<8>(odds[half]));
            let lanes = |sums: __m256i| {
                _mm_add_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums))
            };
            let (even, odd) = (lanes(evens), lanes(odds[half]));
            let to = sums.add(16 * half);
            let first = _mm256_cvtepu16_epi32(_mm_unpacklo_epi16(even, odd));
            let second = _mm256_cvtepu16_epi32(_mm_unpackhi_epi16(even, odd));
            _mm256_storeu_si256(to.cast(), first);
            _mm256_storeu_si256(to.add(8).cast(), second);
        }
    }
}

with_features! {
    "avx2,fma,f16c",
    sums_avx2(table: &[u8], codes: &[u8], sums: &mut [i32]) {
        for (block, sums) in codes.chunks_exact(table.len()).zip(sums.chunks_exact_mut(BLOCK_ROWS)) {
            // SAFETY: the block has as many bytes as the table; there are 32 sums.
            unsafe { block_avx2(table, block.as_ptr(), sums.as_mut_ptr()) };
        }
    }
}

with_features! {
    "avx2,fma,f16c",
    scan_avx2(table: &[u8], posting: &[u8], bounds: &Bounds, candidates: &mut Candidates) {
        let lookups = table.len() / ENTRIES;
        let (code_bytes, block_bytes) = (code_bytes(lookups), block_bytes(lookups));
        let (mut sums, mut lower) = ([0_i32; BLOCK_ROWS], [0_f32; BLOCK_ROWS]);
        for block in posting.chunks_exact(block_bytes) {
            let mut below = 0_u32;
            // SAFETY: the block has codes and then 4 x 32, 2 x 32 and 2 x 32 bytes of factors and 4 x 32 of
            // ids; sums and bounds
            // have 32 places.
            unsafe {
                block_avx2(table, block.as_ptr(), sums.as_mut_ptr());
                let factors = block.as_ptr().add(code_bytes);
                let (base, step, bias) =
                    (_mm256_set1_ps(bounds.base), _mm256_set1_ps(bounds.step), _mm256_set1_ps(bounds.bias));
                let (slack, threshold) = (_mm256_set1_ps(bounds.slack), _mm256_set1_ps(bounds.threshold));
                for quarter in 0..4 {
                    let sums = _mm256_loadu_si256(sums.as_ptr().add(8 * quarter).cast());
                    let add = _mm256_loadu_ps(factors.add(32 * quarter).cast());
                    let scale = _mm256_cvtph_ps(_mm_loadu_si128(factors.add(128 + 16 * quarter).cast()));
                    let error = _mm256_cvtph_ps(_mm_loadu_si128(factors.add(192 + 16 * quarter).cast()));
                    let product = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), step), bias);
                    let estimate = _mm256_add_ps(_mm256_add_ps(add, base), _mm256_mul_ps(scale, product));
                    let bound = _mm256_sub_ps(estimate, _mm256_mul_ps(error, slack));
                    _mm256_storeu_ps(lower.as_mut_ptr().add(8 * quarter), bound);
                    let mask = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(bound, threshold));
                    below |= (mask as u32) << (8 * quarter);
                }
            }
            while below != 0 {
                let row = below.trailing_zeros() as usize;
                candidates.ids.push(factors(block, lookups, row).id);
                candidates.bounds.push(lower[row]);
                below &= below - 1;
            }
        }
    }
}

/// Rows read side by side.
const ROWS: usize = 4;

/// The products of a query with `R` rows.
///
/// # Safety
/// The CPU has the features; every row has as many readable bytes as the query has values.
#[inline(always)]
unsafe fn rows_vnni<const R: usize>(query: &[i16], rows: [*const u8; R]) -> [i32; R] {
    // SAFETY: loads are of 32 values inside of the query and the rows, or masked.
    unsafe {
        let mut sums = [_mm512_setzero_si512(); R];
        let whole = query.len() / 32 * 32;
        for at in (0..whole).step_by(32) {
            let values = _mm512_loadu_si512(query.as_ptr().add(at).cast());
            for r in 0..R {
                let bytes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(rows[r].add(at).cast()));
                sums[r] = _mm512_dpwssd_epi32(sums[r], bytes, values);
            }
        }
        if whole < query.len() {
            let part = (1_u32 << (query.len() - whole)) - 1;
            let values = _mm512_maskz_loadu_epi16(part, query.as_ptr().add(whole));
            for r in 0..R {
                let bytes = _mm256_maskz_loadu_epi8(part, rows[r].add(whole).cast());
                sums[r] = _mm512_dpwssd_epi32(sums[r], _mm512_cvtepu8_epi16(bytes), values);
            }
        }
        sums.map(|sum| _mm512_reduce_add_epi32(sum))
    }
}

/// As [`rows_vnni`], with AVX2.
///
/// # Safety
/// As [`rows_vnni`].
#[inline(always)]
unsafe fn rows_avx2<const R: usize>(query: &[i16], rows: [*const u8; R]) -> [i32; R] {
    // SAFETY: loads are of 16 values inside of the query and the rows; the rest is read one by one.
    unsafe {
        let mut sums = [_mm256_setzero_si256(); R];
        let whole = query.len() / 16 * 16;
        for at in (0..whole).step_by(16) {
            let values = _mm256_loadu_si256(query.as_ptr().add(at).cast());
            for r in 0..R {
                let bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(rows[r].add(at).cast()));
                sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(bytes, values));
            }
        }
        let mut out = [0; R];
        for r in 0..R {
            let sum = sums[r];
            let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b0100_1110>(sum));
            let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b0001_0001>(sum));
            out[r] = _mm_cvtsi128_si32(sum);
            for at in whole..query.len() {
                out[r] += i32::from(query[at]) * i32::from(*rows[r].add(at));
            }
        }
        out
    }
}

/// Both forms of the products of bytes from the loops over a register's width.
macro_rules! byte_kernels {
    ($features:literal, $dots:ident, $picked:ident, $rows:ident) => {
        with_features! {
            $features,
            $dots(query: &[i16], rows: &[u8], stride: usize, products: &mut [i32]) {
                let (fours, rest) = products.as_chunks_mut::<ROWS>();
                let done = fours.len() * ROWS;
                // SAFETY: the front checked that there is a row for each product.
                unsafe {
                    let row = |at: usize| rows.as_ptr().add(at * stride);
                    for (at, products) in (0..).step_by(ROWS).zip(fours) {
                        *products = $rows(query, [row(at), row(at + 1), row(at + 2), row(at + 3)]);
                    }
                    for (at, product) in (done..).zip(rest) {
                        [*product] = $rows(query, [row(at)]);
                    }
                }
            }
        }
        with_features! {
            $features,
            $picked(query: &[i16], rows: &[u8], stride: usize, picks: &[u32], products: &mut [i32]) {
                let (fours, rest) = picks.as_chunks::<ROWS>();
                let (sums, rest_sums) = products.as_chunks_mut::<ROWS>();
                let ask_for = |picks: &[u32; ROWS]| {
                    let rows = picks.iter().map(|pick| rows[*pick as usize * stride..].as_ptr());
                    rows.for_each(|row| prefetch(row, query.len()));
                };
                let ahead = if rows.len() > CACHED_BYTES { AHEAD } else { 0 };
                fours.iter().take(ahead).for_each(ask_for);
                for (at, (picks, sums)) in fours.iter().zip(sums).enumerate() {
                    if let Some(next) = fours.get(at + ahead).filter(|_| ahead > 0) {
                        ask_for(next);
                    }
                    // SAFETY: the front checked that every picked row is there.
                    *sums = unsafe {
                        $rows(query, picks.map(|pick| rows.as_ptr().add(pick as usize * stride)))
                    };
                }
                for (pick, sum) in rest.iter().zip(rest_sums) {
                    // SAFETY: as above.
                    [*sum] = unsafe { $rows(query, [rows.as_ptr().add(*pick as usize * stride)]) };
                }
            }
        }
    };
}
byte_kernels!("avx2,fma,f16c", dots_avx2, picked_avx2, rows_avx2);
byte_kernels!("avx512f,avx512bw,avx512vl,avx512vnni", dots_vnni, picked_vnni, rows_vnni);

/// The product of a query with a row of half bytes.
///
/// # Safety
/// The CPU has the features; the query is whole groups, the row has half a readable byte for each value.
#[inline(always)]
unsafe fn half_row_vnni(query: &[i8], row: *const u8) -> i32 {
    // SAFETY: loads are of a group of the query and of the 32 bytes of one.
    unsafe {
        let half = _mm256_set1_epi8(15);
        let mut sums = _mm512_setzero_si512();
        for at in (0..query.len()).step_by(bytes::HALF_GROUP) {
            let values = _mm512_loadu_si512(query.as_ptr().add(at).cast());
            let bytes = _mm256_loadu_si256(row.add(at / 2).cast());
            let low = _mm256_and_si256(bytes, half);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), half);
            let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
            sums = _mm512_dpbusd_epi32(sums, codes, values);
        }
        _mm512_reduce_add_epi32(sums)
    }
}

/// As [`half_row_vnni`], with AVX2.
///
/// # Safety
/// As [`half_row_vnni`].
#[inline(always)]
unsafe fn half_row_avx2(query: &[i8], row: *const u8) -> i32 {
    // SAFETY: as above.
    unsafe {
        let (half, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
        let mut sums = _mm256_setzero_si256();
        for at in (0..query.len()).step_by(bytes::HALF_GROUP) {
            let first = _mm256_loadu_si256(query.as_ptr().add(at).cast());
            let second = _mm256_loadu_si256(query.as_ptr().add(at + 32).cast());
            let bytes = _mm256_loadu_si256(row.add(at / 2).cast());
            let low = _mm256_and_si256(bytes, half);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), half);
            // Pairs are at most 2 x 15 x 128, and two of them still fit i16.
            let pairs =
                _mm256_add_epi16(_mm256_maddubs_epi16(low, first), _mm256_maddubs_epi16(high, second));
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones));
        }
        let sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b0100_1110>(sum));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b0001_0001>(sum));
        _mm_cvtsi128_si32(sum)
    }
}

/// Rows of half bytes from the loop over one.
macro_rules! half_kernel {
    ($features:literal, $picked:ident, $row:ident) => {
        with_features! {
            $features,
            $picked(query: &[i8], rows: &[u8], stride: usize, picks: &[u32], products: &mut [i32]) {
                for (at, (pick, product)) in picks.iter().zip(products).enumerate() {
                    if let Some(next) = bytes::ahead(picks, at) {
                        prefetch(rows[next * stride..].as_ptr(), query.len() / 2);
                    }
                    // SAFETY: the front checked that every picked row is there, and the query's length.
                    *product = unsafe { $row(query, rows.as_ptr().add(*pick as usize * stride)) };
                }
            }
        }
    };
}
half_kernel!("avx2,fma,f16c", half_picked_avx2, half_row_avx2);
half_kernel!("avx512f,avx512bw,avx512vl,avx512vnni", half_picked_vnni, half_row_vnni);
