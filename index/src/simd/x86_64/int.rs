//! The one body of every integer kernel on x86-64: i8 against i8, exact in i32.
//!
//! Elements widen to i16, products of neighbours add up in i32 lanes (`vpmaddwd`, or `vpdpwssd` where VNNI
//! adds them to the accumulator in the same instruction). Nothing rounds and nothing overflows up to 33,025
//! dimensions of squared L2 (131,071 of dot), so that every level and every form gives the same integers.

/// A register of i16 lanes, or of i32 sums. Every method needs the CPU features of the implementing level.
pub(super) trait Int: Copy {
    /// i16 lanes.
    const WIDTH: usize;
    /// Whether 32 registers are there (16 otherwise).
    const WIDE: bool;
    /// All lanes zero.
    unsafe fn zero() -> Self;
    /// `WIDTH` values, widened.
    unsafe fn load(from: *const i8) -> Self;
    /// The first `count < WIDTH` values, then zeros; reads nothing past them. With `after`, the `WIDTH -
    /// count` values before `from` are of the same vector and may be read.
    unsafe fn load_part(from: *const i8, count: usize, after: bool) -> Self;
    /// Products of i16 lanes, neighbours added, added to the i32 lanes of `sum`.
    unsafe fn multiply_add(a: Self, b: Self, sum: Self) -> Self;
    /// `a - b` in i16 lanes.
    unsafe fn subtract(a: Self, b: Self) -> Self;
    /// The i32 lanes of each register added up.
    unsafe fn sums(registers: [Self; 4]) -> [i32; 4];
}

/// What is summed over the dimensions of a pair.
pub(super) trait Term {
    /// The sum with the terms of one register of dimensions.
    unsafe fn add<I: Int>(query: I, row: I, sum: I) -> I;
}

/// `query * row`.
pub(super) struct Dot;
/// `(query - row)^2`.
pub(super) struct L2;

impl Term for Dot {
    #[inline(always)]
    unsafe fn add<I: Int>(query: I, row: I, sum: I) -> I {
        // SAFETY: the caller vouches for the CPU features of `I`.
        unsafe { I::multiply_add(query, row, sum) }
    }
}

impl Term for L2 {
    #[inline(always)]
    unsafe fn add<I: Int>(query: I, row: I, sum: I) -> I {
        // SAFETY: the caller vouches for the CPU features of `I`.
        unsafe {
            let difference = I::subtract(query, row);
            I::multiply_add(difference, difference, sum)
        }
    }
}

/// Adds the terms of one register of dimensions, starting at `at`, to the sums of `Q` queries x `R` rows.
/// With `PART` it is the last, partly filled one: `count` dimensions.
///
/// # Safety
/// `query` points at `Q * dim` and `row` at `R * dim` readable values, of which `at` plus `WIDTH` (`count`
/// with `PART`) is at most `dim`; the CPU has the features of `I`.
#[inline(always)]
unsafe fn step<I: Int, S: Term, const Q: usize, const R: usize, const PART: bool>(
    (query, row, dim): (*const i8, *const i8, usize),
    at: usize,
    count: usize,
    sums: &mut [[I; R]; Q],
) {
    // SAFETY: every offset is below `Q * dim` or `R * dim`; values before `at` belong to the same vector.
    unsafe {
        let mut queries = [I::zero(); Q];
        for q in 0..Q {
            let from = query.add(q * dim + at);
            queries[q] = if PART { I::load_part(from, count, at > 0) } else { I::load(from) };
        }
        for r in 0..R {
            let from = row.add(r * dim + at);
            let values = if PART { I::load_part(from, count, at > 0) } else { I::load(from) };
            for q in 0..Q {
                sums[q][r] = S::add(queries[q], values, sums[q][r]);
            }
        }
    }
}

/// Computes and stores `Q` queries x `R` rows, `R` 1, 4 or 8; `out` has `stride` values a query.
///
/// # Safety
/// `query` points at `Q * dim` and `row` at `R * dim` readable, `out` at `(Q - 1) * stride + R` writable
/// values; the CPU has the features of `I`.
#[inline(always)]
unsafe fn block<I: Int, S: Term, const Q: usize, const R: usize>(
    query: *const i8,
    row: *const i8,
    dim: usize,
    out: *mut i32,
    stride: usize,
) {
    // SAFETY: `at + WIDTH <= whole <= dim`, then `whole + tail = dim`; `r` stays below `R`.
    unsafe {
        let mut sums = [[I::zero(); R]; Q];
        let tail = dim % I::WIDTH;
        let whole = dim - tail;
        let mut at = 0;
        while at < whole {
            step::<I, S, Q, R, false>((query, row, dim), at, 0, &mut sums);
            at += I::WIDTH;
        }
        if tail > 0 {
            step::<I, S, Q, R, true>((query, row, dim), whole, tail, &mut sums);
        }
        for q in 0..Q {
            let mut r = 0;
            while r + 4 <= R {
                let four = I::sums([sums[q][r], sums[q][r + 1], sums[q][r + 2], sums[q][r + 3]]);
                out.add(q * stride + r).cast::<[i32; 4]>().write_unaligned(four);
                r += 4;
            }
            while r < R {
                *out.add(q * stride + r) = I::sums([sums[q][r]; 4])[0];
                r += 1;
            }
        }
    }
}

/// Every query against every row: `out[q * rows + r]`. 16 registers hold 2 queries x 4 rows: without a fused
/// multiply-add a term needs a register besides the accumulators.
///
/// # Safety
/// `queries` points at `count * dim`, `row` at `rows * dim` readable and `out` at `count * rows` writable
/// values; the CPU has the features of `I`.
#[inline(always)]
pub(super) unsafe fn tile<I: Int, S: Term>(
    queries: *const i8,
    count: usize,
    row: *const i8,
    rows: usize,
    dim: usize,
    out: *mut i32,
) {
    // SAFETY: `q` plus the queries of a block is at most `count`, `r` plus its rows at most `rows`.
    unsafe {
        let mut r = 0;
        while count > 1 && r + 4 <= rows {
            let (row, out) = (row.add(r * dim), out.add(r));
            let mut q = 0;
            while I::WIDE && q + 6 <= count {
                block::<I, S, 6, 4>(queries.add(q * dim), row, dim, out.add(q * rows), rows);
                q += 6;
            }
            while q + 2 <= count {
                block::<I, S, 2, 4>(queries.add(q * dim), row, dim, out.add(q * rows), rows);
                q += 2;
            }
            if q < count {
                block::<I, S, 1, 4>(queries.add(q * dim), row, dim, out.add(q * rows), rows);
            }
            r += 4;
        }
        for q in 0..count {
            let (query, out) = (queries.add(q * dim), out.add(q * rows));
            let mut r = r;
            while r + 8 <= rows {
                block::<I, S, 1, 8>(query, row.add(r * dim), dim, out.add(r), rows);
                r += 8;
            }
            while r < rows {
                block::<I, S, 1, 1>(query, row.add(r * dim), dim, out.add(r), rows);
                r += 1;
            }
        }
    }
}
