//! Plain loops over chunks of lanes that the compiler turns into whatever vector instructions the target has.
//!
//! For CPUs that have no level of their own, and the second oracle: the same shape of sums as the SIMD
//! levels, without fused multiply-adds. One pair at a time, so that every form gives the same bits.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::dispatch::{FloatKernels, IntKernels, Kernels};
use super::scalar::pairs;

/// Partial sums of a pair: four 128-bit registers, enough to hide the latency of an add.
const LANES: usize = 16;

/// The level's kernels.
pub(super) static KERNELS: Kernels = Kernels {
    level: "portable",
    f32: FloatKernels { dot: run::<f32, false>, l2: run::<f32, true> },
    f16: FloatKernels { dot: run::<f16, false>, l2: run::<f16, true> },
    i8: FloatKernels { dot: run::<i8, false>, l2: run::<i8, true> },
    int: IntKernels { dot: run_int::<false>, l2: run_int::<true> },
};

/// Elements that widen to f32 a chunk at a time.
trait Widen: Copy + Default {
    fn widen(chunk: &[Self; LANES]) -> [f32; LANES];
}

impl Widen for f32 {
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
    pairs(queries, rows, dim, out, float::<T, L2>);
}

/// Dot or squared L2 of one pair. The last, partly filled chunk is padded with zeros, which add nothing.
fn float<T: Widen, const L2: bool>(query: &[f32], row: &[T]) -> f32 {
    let (queries, query_tail) = query.as_chunks::<LANES>();
    let (rows, row_tail) = row.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (query, row) in queries.iter().zip(rows) {
        add::<L2>(query, &T::widen(row), &mut sums);
    }
    if !query_tail.is_empty() {
        let (mut query, mut row) = ([0.0; LANES], [T::default(); LANES]);
        query[..query_tail.len()].copy_from_slice(query_tail);
        row[..row_tail.len()].copy_from_slice(row_tail);
        add::<L2>(&query, &T::widen(&row), &mut sums);
    }
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
    pairs(queries, rows, dim, out, |query, row| {
        query
            .iter()
            .zip(row)
            .map(|(a, b)| {
                let (a, b) = (i16::from(*a), i16::from(*b));
                let (a, b) = if L2 { (a - b, a - b) } else { (a, b) };
                i32::from(a) * i32::from(b)
            })
            .sum()
    });
}
