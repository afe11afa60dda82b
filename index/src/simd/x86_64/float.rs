//! The one body of every float kernel on x86-64: query f32 against rows of f32, f16 or i8, accumulated in f32.
//!
//! Generic over the register ([`Float`]: 8 lanes on AVX2, 16 on AVX-512), the element of the rows ([`Load`]) and the
//! term that is summed ([`Term`]: dot or squared L2). A pair (query, row) owns one accumulator register that walks the
//! dimensions in order and is summed by one fixed tree, whatever the number of queries and rows around it: that is why
//! one-to-one, one-to-many and many-to-many calls give the same bits. Speed comes from many pairs in flight: 8 rows for
//! one query, 4 rows x 3 queries on 16 registers, 4 rows x 6 queries on 32.
//!
//! Cost: `queries * rows * dim / WIDTH` multiply-adds; rows are read once per [`QUERY_BYTES`] of queries.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// Bytes of queries that pass over a block of rows together: they stay in the second-level cache next to the rows.
const QUERY_BYTES: usize = 128 << 10;
/// Bytes between what a one-query scan computes on and what it asks memory for.
const AHEAD_BYTES: usize = 4096;
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
    /// `a * b + sum`, rounded once.
    unsafe fn multiply_add(a: Self, b: Self, sum: Self) -> Self;
    /// `a - b`.
    unsafe fn subtract(a: Self, b: Self) -> Self;
    /// The lanes of each register added up, all four by the same tree.
    unsafe fn sums(registers: [Self; 4]) -> [f32; 4];
}

/// An element of rows that loads into `F`.
pub(super) trait Load<F: Float>: Copy {
    /// `WIDTH` values as f32.
    unsafe fn load(from: *const Self) -> F;
    /// The first `count < WIDTH` values as f32, then zeros; reads nothing past them. With `after`, the `WIDTH - count`
    /// values before `from` are of the same vector and may be read.
    unsafe fn load_part(from: *const Self, count: usize, after: bool) -> F;
}

impl<F: Float> Load<F> for f32 {
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

/// Adds the terms of one register of dimensions, starting at `at`, to the sums of `Q` queries x `R` rows. With `PART`
/// it is the last, partly filled one: `count` dimensions.
///
/// # Safety
/// `query` points at `Q * dim` and `row` at `R * dim` readable values, of which `at` plus `WIDTH` (`count` with `PART`)
/// is at most `dim`; the CPU has the features of `F`.
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

/// Sums of `Q` queries x `R` rows, not yet added over the lanes. With `AHEAD`, asks memory for what lies
/// [`AHEAD_BYTES`] past the rows.
///
/// # Safety
/// `query` points at `Q * dim` and `row` at `R * dim` readable values; the CPU has the features of `F`.
#[inline(always)]
unsafe fn block<F: Float, T: Load<F>, S: Term, const Q: usize, const R: usize, const AHEAD: bool>(
    query: *const f32,
    row: *const T,
    dim: usize,
) -> [[F; R]; Q] {
    // SAFETY: `at + WIDTH <= whole <= dim`, then `whole + tail = dim`; prefetching is allowed at any address.
    unsafe {
        let mut sums = [[F::zero(); R]; Q];
        let tail = dim % F::WIDTH;
        let whole = dim - tail;
        let step_bytes = R * F::WIDTH * size_of::<T>();
        let mut ahead = row.cast::<i8>().wrapping_add(AHEAD_BYTES);
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
        let sums = block::<F, T, S, Q, 4, false>(query, row, dim);
        for q in 0..Q {
            out.add(q * stride).cast::<[f32; 4]>().write_unaligned(F::sums(sums[q]));
        }
    }
}

/// One query against all rows, 8 in flight.
///
/// # Safety
/// `query` points at `dim`, `row` at `rows * dim` readable and `out` at `rows` writable values; the CPU has the
/// features of `F`.
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
        let mut at = 0;
        while at + 8 <= rows {
            let [sums] = block::<F, T, S, 1, 8, true>(query, row.add(at * dim), dim);
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
            let [[sum]] = block::<F, T, S, 1, 1, false>(query, row.add(at * dim), dim);
            *out.add(at) = F::sums([sum; 4])[0];
            at += 1;
        }
    }
}

/// Every query against every row: `out[q * rows + r]`. The rows pass once for each [`QUERY_BYTES`] of queries.
///
/// # Safety
/// `queries` points at `count * dim`, `row` at `rows * dim` readable and `out` at `count * rows` writable values; the
/// CPU has the features of `F`.
#[inline(always)]
pub(super) unsafe fn tile<F: Float, T: Load<F>, S: Term>(
    queries: *const f32,
    count: usize,
    row: *const T,
    rows: usize,
    dim: usize,
    out: *mut f32,
) {
    // SAFETY: `q` plus the queries of a block is at most `count`, `r` plus its rows at most `rows`.
    unsafe {
        let widest = if F::WIDE { 6 } else { 3 };
        let chunk = (QUERY_BYTES / (dim * size_of::<f32>())).max(widest) / widest * widest;
        let mut first = 0;
        while first < count {
            let end = count.min(first + chunk);
            let mut r = 0;
            while end - first > 1 && r + 4 <= rows {
                let (row, out) = (row.add(r * dim), out.add(r));
                let mut q = first;
                while F::WIDE && q + 6 <= end {
                    four_rows::<F, T, S, 6>(queries.add(q * dim), row, dim, out.add(q * rows), rows);
                    q += 6;
                }
                while (F::WIDE || !S::SPARE) && q + 3 <= end {
                    four_rows::<F, T, S, 3>(queries.add(q * dim), row, dim, out.add(q * rows), rows);
                    q += 3;
                }
                while q + 2 <= end {
                    four_rows::<F, T, S, 2>(queries.add(q * dim), row, dim, out.add(q * rows), rows);
                    q += 2;
                }
                if q < end {
                    four_rows::<F, T, S, 1>(queries.add(q * dim), row, dim, out.add(q * rows), rows);
                }
                r += 4;
            }
            for q in first..end {
                let (query, row) = (queries.add(q * dim), row.add(r * dim));
                one_query::<F, T, S>(query, row, rows - r, dim, out.add(q * rows + r));
            }
            first = end;
        }
    }
}
