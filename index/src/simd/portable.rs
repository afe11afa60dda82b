//! Plain loops over chunks of lanes that the compiler turns into whatever vector instructions the target has.
//!
//! For CPUs that have no level of their own, and the second oracle: the same shape of sums as the SIMD
//! levels, without fused multiply-adds. Every pair has its own sums, so that every form gives the same bits.
//! Several queries pass over [`ROWS`] rows at a time, and rows that are not f32 are widened once for all of
//! them: measured, 2.5 times as fast for f16 and 1.6 times for i8. More than one pair in flight was no
//! faster.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::dispatch::{FloatKernels, IntKernels, Kernels, Vectors, shape};
use super::{bytes, minhash, nibble};

/// Partial sums of a pair: four 128-bit registers, enough to hide the latency of an add.
const LANES: usize = 16;
/// Rows of a block.
const ROWS: usize = 4;
/// Bytes of queries that pass over a block of rows together, so that they stay in the second-level cache.
const QUERY_BYTES: usize = 128 << 10;
/// Values of a block of rows that are widened once for all queries; longer rows are widened for each.
const WIDENED_MAX: usize = 8192;
/// Fewer queries than this are not worth the detour.
const WIDEN_QUERIES_MIN: usize = 4;

/// The level's kernels.
pub(super) static KERNELS: Kernels = Kernels {
    level: "portable",
    vectors: Vectors::Baseline,
    f32: FloatKernels { dot: run::<f32, false>, l2: run::<f32, true> },
    f16: FloatKernels { dot: run::<f16, false>, l2: run::<f16, true> },
    i8: FloatKernels { dot: run::<i8, false>, l2: run::<i8, true> },
    int: IntKernels { dot: run_int::<false>, l2: run_int::<true> },
    nibble: nibble::portable::KERNELS,
    bytes: bytes::SCALAR,
    lower: minhash::portable,
};

/// Elements that widen to f32 a chunk at a time.
trait Widen: Copy + Default {
    /// Whether widening does anything.
    const WIDENS: bool = true;
    fn widen(chunk: &[Self; LANES]) -> [f32; LANES];
}

impl Widen for f32 {
    const WIDENS: bool = false;

    #[inline(always)]
    fn widen(chunk: &[Self; LANES]) -> [f32; LANES] {
        *chunk
    }
}

impl Widen for f16 {
    #[inline(always)]
    fn widen(chunk: &[Self; LANES]) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        chunk.as_slice().convert_to_f32_slice(&mut values);
        values
    }
}

impl Widen for i8 {
    #[inline(always)]
    fn widen(chunk: &[Self; LANES]) -> [f32; LANES] {
        chunk.map(f32::from)
    }
}

fn run<T: Widen, const L2: bool>(queries: &[f32], rows: &[T], dim: usize, out: &mut [f32]) {
    let (query_count, _) = shape(queries, rows, dim, out);
    if !T::WIDENS || query_count < WIDEN_QUERIES_MIN || ROWS * dim > WIDENED_MAX {
        return blocks(queries, rows, dim, out, float::<T, L2>);
    }
    let mut widened = [0.0; WIDENED_MAX];
    let row_count = rows.len() / dim;
    for (start, rows) in (0..).step_by(ROWS).zip(rows.chunks(ROWS * dim)) {
        let widened = &mut widened[..rows.len()];
        widen(rows, widened);
        for (query, out) in queries.chunks_exact(dim).zip(out.chunks_exact_mut(row_count)) {
            let out = &mut out[start..start + rows.len() / dim];
            blocks(query, widened, dim, out, float::<f32, L2>);
        }
    }
}

/// Fills `out: q x r`: as many queries as stay in the cache meet one block of rows after the other.
#[inline(always)]
fn blocks<Q, T, O>(queries: &[Q], rows: &[T], dim: usize, out: &mut [O], pair: impl Fn(&[Q], &[T]) -> O) {
    let (query_count, row_count) = shape(queries, rows, dim, out);
    let together = (QUERY_BYTES / (dim * size_of::<Q>())).max(1);
    for first in (0..query_count).step_by(together) {
        let these = first..query_count.min(first + together);
        for (start, rows) in (0..).step_by(ROWS).zip(rows.chunks(ROWS * dim)) {
            for q in these.clone() {
                let query = &queries[q * dim..(q + 1) * dim];
                let out = &mut out[q * row_count + start..];
                for (row, out) in rows.chunks_exact(dim).zip(out) {
                    *out = pair(query, row);
                }
            }
        }
    }
}

/// The rows as f32.
fn widen<T: Widen>(rows: &[T], out: &mut [f32]) {
    let (chunks, tail) = rows.as_chunks::<LANES>();
    let (wide, wide_tail) = out.as_chunks_mut::<LANES>();
    wide.iter_mut().zip(chunks).for_each(|(wide, chunk)| *wide = T::widen(chunk));
    let mut last = [T::default(); LANES];
    last[..tail.len()].copy_from_slice(tail);
    wide_tail.copy_from_slice(&T::widen(&last)[..tail.len()]);
}

/// Dot or squared L2 of one pair.
#[inline(always)]
fn float<T: Widen, const L2: bool>(query: &[f32], row: &[T]) -> f32 {
    let (queries, query_tail) = query.as_chunks::<LANES>();
    let (rows, row_tail) = row.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (query, row) in queries.iter().zip(rows) {
        add::<L2>(query, &T::widen(row), &mut sums);
    }
    add_tail::<T, L2>(query_tail, row_tail, &mut sums);
    total(sums)
}

/// The last, partly filled chunk, padded with zeros, which add nothing.
#[inline(always)]
fn add_tail<T: Widen, const L2: bool>(query_tail: &[f32], row_tail: &[T], sums: &mut [f32; LANES]) {
    if !query_tail.is_empty() {
        let (mut query, mut row) = ([0.0; LANES], [T::default(); LANES]);
        query[..query_tail.len()].copy_from_slice(query_tail);
        row[..row_tail.len()].copy_from_slice(row_tail);
        add::<L2>(&query, &T::widen(&row), sums);
    }
}

/// The lanes added up by a tree.
fn total(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[inline(always)]
fn add<const L2: bool>(query: &[f32; LANES], row: &[f32; LANES], sums: &mut [f32; LANES]) {
    for lane in 0..LANES {
        if L2 {
            let difference = query[lane] - row[lane];
            sums[lane] += difference * difference;
        } else {
            sums[lane] += query[lane] * row[lane];
        }
    }
}

fn run_int<const L2: bool>(queries: &[i8], rows: &[i8], dim: usize, out: &mut [i32]) {
    blocks(queries, rows, dim, out, |query, row| {
        let terms = query.iter().zip(row).map(|(a, b)| {
            let (a, b) = (i16::from(*a), i16::from(*b));
            let (a, b) = if L2 { (a - b, a - b) } else { (a, b) };
            i32::from(a) * i32::from(b)
        });
        terms.sum()
    });
}
