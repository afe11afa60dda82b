//! The one body of every float kernel on x86-64: query f32 against rows of f32, f16 or i8, accumulated in
//! f32.
//!
//! Generic over the register ([`Float`]: 8 lanes on AVX2, 16 on AVX-512), the element of the rows ([`Load`])
//! and the term that is summed ([`Term`]: dot or squared L2). A pair (query, row) owns one accumulator
//! register that walks the dimensions in order and is summed by one fixed tree, whatever the number of
//! queries and rows around it: that is why one-to-one, one-to-many and many-to-many calls give the same bits.
//! Speed comes from many pairs in flight: 8 rows for one query, 4 rows x 3 queries on 16 registers, 4 rows x
//! 6 queries on 32.
//!
//! Cost: `queries * rows * dim / WIDTH` multiply-adds; rows are read once per [`QUERY_BYTES`] of queries.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::mem::MaybeUninit;

use crate::simd::STREAM_BYTES;

/// Bytes of queries that pass over a block of rows together: they stay in the second-level cache next to the
/// rows.
const QUERY_BYTES: usize = 128 << 10;
/// How many blocks of rows ahead a scan asks memory for; one or two were measured as the best distances.
const AHEAD_BLOCKS: usize = 2;
/// How far ahead memory is asked for rows that are read in order: the next page, at whose begin the CPU's own
/// prefetching stops.
const STREAM_AHEAD_BYTES: usize = 4096;
/// Values of 4 rows that are converted to f32 once for all queries (2048 dimensions); longer rows are
/// converted at every load.
const CONVERTED_MAX: usize = 8192;
/// Fewer queries than this are not worth the detour.
const CONVERT_QUERIES_MIN: usize = 4;
/// A cache line.
const LINE_BYTES: usize = 64;

/// A register of f32 lanes. Every method needs the CPU features of the implementing level.
pub(super) trait Float: Copy {
    /// Lanes.
    const WIDTH: usize;
    /// Whether 32 registers are there (16 otherwise).
    const WIDE: bool;
    /// All lanes zero.
    unsafe fn zero() -> Self;
    /// `WIDTH` values.
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count < WIDTH` values, then zeros; reads nothing past them.
    unsafe fn load_part(from: *const f32, count: usize) -> Self;
    /// Writes `WIDTH` values.
    unsafe fn store(self, to: *mut f32);
    /// `a * b + sum`, rounded once.
    unsafe fn multiply_add(a: Self, b: Self, sum: Self) -> Self;
    /// `a - b`.
    unsafe fn subtract(a: Self, b: Self) -> Self;
    /// The lanes of each register added up, all four by the same tree.
    unsafe fn sums(registers: [Self; 4]) -> [f32; 4];
}

/// An element of rows that loads into `F`.
pub(super) trait Load<F: Float>: Copy {
    /// Whether a load converts, so that rows that meet several queries are better converted once.
    const CONVERTS: bool = true;
    /// `WIDTH` values as f32.
    unsafe fn load(from: *const Self) -> F;
    /// The first `count < WIDTH` values as f32, then zeros; reads nothing past them. With `after`, the `WIDTH
    /// - count` values before `from` are of the same vector and may be read.
    unsafe fn load_part(from: *const Self, count: usize, after: bool) -> F;
}

impl<F: Float> Load<F> for f32 {
    const CONVERTS: bool = false;

    #[inline(always)]
    unsafe fn load(from: *const Self) -> F {
        // SAFETY: the caller's promise is the same.
        unsafe { F::load(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const Self, count: usize, _after: bool) -> F {
        // SAFETY: the caller's promise is the same.
        unsafe { F::load_part(from, count) }
    }
}

/// What is summed over the dimensions of a pair.
pub(super) trait Term {
    /// Whether a term needs a register of its own besides the accumulator.
    const SPARE: bool;
    /// The sum with the terms of one register of dimensions.
    unsafe fn add<F: Float>(query: F, row: F, sum: F) -> F;
}

/// `query * row`.
pub(super) struct Dot;
/// `(query - row)^2`.
pub(super) struct L2;

impl Term for Dot {
    const SPARE: bool = false;
    #[inline(always)]
    unsafe fn add<F: Float>(query: F, row: F, sum: F) -> F {
        // SAFETY: the caller vouches for the CPU features of `F`.
        unsafe { F::multiply_add(query, row, sum) }
    }
}

impl Term for L2 {
    const SPARE: bool = true;
    #[inline(always)]
    unsafe fn add<F: Float>(query: F, row: F, sum: F) -> F {
        // SAFETY: the caller vouches for the CPU features of `F`.
        unsafe {
            let difference = F::subtract(query, row);
            F::multiply_add(difference, difference, sum)
        }
    }
}

/// Adds the terms of one register of dimensions, starting at `at`, to the sums of `Q` queries x `R` rows.
/// With `PART` it is the last, partly filled one: `count` dimensions.
///
/// # Safety
/// `query` points at `Q * dim` and `row` at `R * dim` readable values, of which `at` plus `WIDTH` (`count`
/// with `PART`) is at most `dim`; the CPU has the features of `F`.
#[inline(always)]
unsafe fn step<F: Float, T: Load<F>, S: Term, const Q: usize, const R: usize, const PART: bool>(
    (query, row, dim): (*const f32, *const T, usize),
    at: usize,
    count: usize,
    sums: &mut [[F; R]; Q],
) {
    // SAFETY: every offset is below `Q * dim` or `R * dim`; values before `at` belong to the same vector.
    unsafe {
        let mut queries = [F::zero(); Q];
        for q in 0..Q {
            let from = query.add(q * dim + at);
            queries[q] = if PART { F::load_part(from, count) } else { F::load(from) };
        }
        for r in 0..R {
            let from = row.add(r * dim + at);
            let values = if PART { T::load_part(from, count, at > 0) } else { T::load(from) };
            for q in 0..Q {
                sums[q][r] = S::add(queries[q], values, sums[q][r]);
            }
        }
    }
}

/// Sums of `Q` queries x `R` rows, not yet added over the lanes. With `AHEAD`, asks memory for as many bytes
/// as it reads, `ahead` bytes further on.
///
/// # Safety
/// `query` points at `Q * dim` and `row` at `R * dim` readable values; the CPU has the features of `F`.
#[inline(always)]
unsafe fn block<F: Float, T: Load<F>, S: Term, const Q: usize, const R: usize, const AHEAD: bool>(
    query: *const f32,
    row: *const T,
    dim: usize,
    ahead: usize,
) -> [[F; R]; Q] {
    // SAFETY: `at + WIDTH <= whole <= dim`, then `whole + tail = dim`; prefetching is allowed at any address.
    unsafe {
        let mut sums = [[F::zero(); R]; Q];
        let tail = dim % F::WIDTH;
        let whole = dim - tail;
        let step_bytes = R * F::WIDTH * size_of::<T>();
        let mut ahead = row.cast::<i8>().wrapping_add(ahead);
        let mut at = 0;
        while at < whole {
            if AHEAD {
                let mut line = 0;
                while line < step_bytes {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line));
                    line += LINE_BYTES;
                }
                ahead = ahead.wrapping_add(step_bytes);
            }
            step::<F, T, S, Q, R, false>((query, row, dim), at, 0, &mut sums);
            at += F::WIDTH;
        }
        if tail > 0 {
            step::<F, T, S, Q, R, true>((query, row, dim), whole, tail, &mut sums);
        }
        sums
    }
}

/// Computes and stores `Q` queries x 4 rows; `out` has `stride` values a query.
///
/// # Safety
/// As [`block`]; `out` points at `(Q - 1) * stride + 4` writable values.
#[inline(always)]
unsafe fn four_rows<F: Float, T: Load<F>, S: Term, const Q: usize>(
    query: *const f32,
    row: *const T,
    dim: usize,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promises, passed on.
    unsafe {
        let sums = block::<F, T, S, Q, 4, false>(query, row, dim, 0);
        for q in 0..Q {
            out.add(q * stride).cast::<[f32; 4]>().write_unaligned(F::sums(sums[q]));
        }
    }
}

/// One query against rows that come from memory: in their order, one after the other. Not a branch within
/// [`one_query`]: written so, it measured up to 18 % slower.
///
/// # Safety
/// As [`one_query`].
#[inline(always)]
unsafe fn one_query_in_order<F: Float, T: Load<F>, S: Term>(
    query: *const f32,
    row: *const T,
    rows: usize,
    dim: usize,
    out: *mut f32,
) {
    // SAFETY: `at` plus the rows of a step is at most `rows`.
    unsafe {
        let mut at = 0;
        while at + 4 <= rows {
            let mut sums = [F::zero(); 4];
            for (r, sum) in sums.iter_mut().enumerate() {
                let row = row.add((at + r) * dim);
                [[*sum]] = block::<F, T, S, 1, 1, true>(query, row, dim, STREAM_AHEAD_BYTES);
            }
            out.add(at).cast::<[f32; 4]>().write_unaligned(F::sums(sums));
            at += 4;
        }
        if at < rows {
            one_query::<F, T, S>(query, row.add(at * dim), rows - at, dim, out.add(at));
        }
    }
}

/// One query against all rows, 8 in flight.
///
/// # Safety
/// `query` points at `dim`, `row` at `rows * dim` readable and `out` at `rows` writable values; the CPU has
/// the features of `F`.
#[inline(always)]
unsafe fn one_query<F: Float, T: Load<F>, S: Term>(
    query: *const f32,
    row: *const T,
    rows: usize,
    dim: usize,
    out: *mut f32,
) {
    // SAFETY: `at` plus the rows of a block is at most `rows`.
    unsafe {
        let ahead = AHEAD_BLOCKS * 8 * dim * size_of::<T>();
        let mut at = 0;
        while at + 8 <= rows {
            let [sums] = block::<F, T, S, 1, 8, true>(query, row.add(at * dim), dim, ahead);
            let [a, b, c, d, e, f, g, h] = sums;
            out.add(at).cast::<[f32; 4]>().write_unaligned(F::sums([a, b, c, d]));
            out.add(at + 4).cast::<[f32; 4]>().write_unaligned(F::sums([e, f, g, h]));
            at += 8;
        }
        if at + 4 <= rows {
            four_rows::<F, T, S, 1>(query, row.add(at * dim), dim, out.add(at), rows);
            at += 4;
        }
        while at < rows {
            let [[sum]] = block::<F, T, S, 1, 1, false>(query, row.add(at * dim), dim, 0);
            *out.add(at) = F::sums([sum; 4])[0];
            at += 1;
        }
    }
}

/// `count` queries against 4 rows, as many queries at once as the registers hold. Between these groups it
/// asks memory for a share of the [`CacheLines`] ahead, so that rows arrive while the queries pass over those
/// before.
///
/// # Safety
/// `query` points at `count * dim` and `row` at `4 * dim` readable values, `out` at `(count - 1) * stride +
/// 4` writable ones; the CPU has the features of `F`.
#[inline(always)]
unsafe fn strip<F: Float, T: Load<F>, S: Term>(
    (query, count): (*const f32, usize),
    row: *const T,
    dim: usize,
    (out, stride): (*mut f32, usize),
    mut ahead: CacheLines,
) {
    // SAFETY: `q` plus the queries of a block is at most `count`.
    unsafe {
        let mut q = 0;
        while F::WIDE && q + 6 <= count {
            ahead.ask(6, count);
            four_rows::<F, T, S, 6>(query.add(q * dim), row, dim, out.add(q * stride), stride);
            q += 6;
        }
        while (F::WIDE || !(S::SPARE || T::CONVERTS)) && q + 3 <= count {
            ahead.ask(3, count);
            four_rows::<F, T, S, 3>(query.add(q * dim), row, dim, out.add(q * stride), stride);
            q += 3;
        }
        while q + 2 <= count {
            ahead.ask(2, count);
            four_rows::<F, T, S, 2>(query.add(q * dim), row, dim, out.add(q * stride), stride);
            q += 2;
        }
        if q < count {
            four_rows::<F, T, S, 1>(query.add(q * dim), row, dim, out.add(q * stride), stride);
        }
    }
}

/// Cache lines that will be needed soon.
struct CacheLines {
    at: *const i8,
    bytes: usize,
}

impl CacheLines {
    /// Asks memory for the next `part / of` of the lines.
    #[inline(always)]
    fn ask(&mut self, part: usize, of: usize) {
        let end = self.at.wrapping_add(self.bytes * part / of + LINE_BYTES);
        while self.at < end {
            // SAFETY: prefetching is allowed at any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.at) };
            self.at = self.at.wrapping_add(LINE_BYTES);
        }
    }
}

/// Writes 4 rows as f32 to `to`.
///
/// # Safety
/// `row` points at `4 * dim` readable, `to` at `4 * dim + WIDTH` writable values; the CPU has the features of
/// `F`.
#[inline(always)]
unsafe fn convert<F: Float, T: Load<F>>(row: *const T, dim: usize, to: *mut f32) {
    // SAFETY: what is written past the values of the last row is within `WIDTH`.
    unsafe {
        let count = 4 * dim;
        let whole = count - count % F::WIDTH;
        let mut at = 0;
        while at < whole {
            T::load(row.add(at)).store(to.add(at));
            at += F::WIDTH;
        }
        if whole < count {
            T::load_part(row.add(whole), count - whole, whole > 0).store(to.add(whole));
        }
    }
}

/// Every query against every row: `out[q * rows + r]`. The rows pass once for each [`QUERY_BYTES`] of
/// queries.
///
/// # Safety
/// `queries` points at `count * dim`, `row` at `rows * dim` readable and `out` at `count * rows` writable
/// values; the CPU has the features of `F`.
#[inline(always)]
pub(super) unsafe fn tile<F: Float, T: Load<F>, S: Term>(
    queries: *const f32,
    count: usize,
    row: *const T,
    rows: usize,
    dim: usize,
    out: *mut f32,
) {
    let widest = if F::WIDE { 6 } else { 3 };
    let chunk = (QUERY_BYTES / (dim * size_of::<f32>())).max(widest) / widest * widest;
    let mut converted = [const { MaybeUninit::<f32>::uninit() }; CONVERTED_MAX + 16];
    let mut first = 0;
    while first < count {
        let together = chunk.min(count - first);
        // SAFETY: `first + together` is at most `count`, `r` plus the rows of a block at most `rows`;
        // `converted` has room for 4 rows and a register.
        unsafe {
            let (queries, out) = (queries.add(first * dim), out.add(first * rows));
            let mut r = 0;
            while together > 1 && r + 4 <= rows {
                let (row, out) = (row.add(r * dim), out.add(r));
                let bytes = 4 * dim * size_of::<T>();
                let ahead = CacheLines { at: row.cast::<i8>().wrapping_add(AHEAD_BLOCKS * bytes), bytes };
                if T::CONVERTS && together >= CONVERT_QUERIES_MIN && 4 * dim <= CONVERTED_MAX {
                    let converted = converted.as_mut_ptr().cast::<f32>();
                    convert::<F, T>(row, dim, converted);
                    strip::<F, f32, S>((queries, together), converted, dim, (out, rows), ahead);
                } else {
                    strip::<F, T, S>((queries, together), row, dim, (out, rows), ahead);
                }
                r += 4;
            }
            if together == 1 && !T::CONVERTS && rows * dim * size_of::<T>() >= STREAM_BYTES {
                one_query_in_order::<F, T, S>(queries, row, rows, dim, out);
                // None are left for the loop below. With an `else` around it, this measured 8 % slower.
                r = rows;
            }
            for q in 0..together {
                let (query, row) = (queries.add(q * dim), row.add(r * dim));
                one_query::<F, T, S>(query, row, rows - r, dim, out.add(q * rows + r));
            }
        }
        first += together;
    }
}
