//! The oracle of every other level: one pair at a time, one dimension after the other, in f64 (floats) or i64
//! (integers).
//!
//! A product of two f32 is exact in f64, so that a result is off by less than one f32 rounding. It is not for
//! production: it is 10 to 30 times slower than `portable`.

use half::f16;

use super::dispatch::{FloatKernels, IntKernels, Kernels, Vectors, shape};
use super::element::Element;
use super::{bytes, minhash, nibble};

/// The level's kernels.
pub(super) static KERNELS: Kernels = Kernels {
    level: "scalar",
    vectors: Vectors::Baseline,
    f32: FloatKernels { dot: dot::<f32>, l2: l2::<f32> },
    f16: FloatKernels { dot: dot::<f16>, l2: l2::<f16> },
    i8: FloatKernels { dot: dot::<i8>, l2: l2::<i8> },
    int: IntKernels { dot: dot_int, l2: l2_int },
    nibble: nibble::scalar::KERNELS,
    bytes: bytes::SCALAR,
    lower: minhash::scalar,
};

/// The dot product of two vectors of the same length, in f64.
pub fn dot_f64<T: Element>(query: &[f32], row: &[T]) -> f64 {
    query.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(b.to_f32())).sum()
}

/// The squared Euclidean distance of two vectors of the same length, in f64.
pub fn l2_f64<T: Element>(query: &[f32], row: &[T]) -> f64 {
    query.iter().zip(row).map(|(a, b)| (f64::from(*a) - f64::from(b.to_f32())).powi(2)).sum()
}

fn dot<T: Element>(queries: &[f32], rows: &[T], dim: usize, out: &mut [f32]) {
    pairs(queries, rows, dim, out, |query, row| dot_f64(query, row) as f32);
}

fn l2<T: Element>(queries: &[f32], rows: &[T], dim: usize, out: &mut [f32]) {
    pairs(queries, rows, dim, out, |query, row| l2_f64(query, row) as f32);
}

fn dot_int(queries: &[i8], rows: &[i8], dim: usize, out: &mut [i32]) {
    pairs(queries, rows, dim, out, |query, row| {
        query.iter().zip(row).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
    });
}

fn l2_int(queries: &[i8], rows: &[i8], dim: usize, out: &mut [i32]) {
    pairs(queries, rows, dim, out, |query, row| {
        query.iter().zip(row).map(|(a, b)| (i32::from(*a) - i32::from(*b)).pow(2)).sum()
    });
}

/// Fills `out: q x r` pair by pair.
fn pairs<Q, T, O>(queries: &[Q], rows: &[T], dim: usize, out: &mut [O], pair: impl Fn(&[Q], &[T]) -> O) {
    let (_, row_count) = shape(queries, rows, dim, out);
    if row_count == 0 {
        return;
    }
    for (query, out) in queries.chunks_exact(dim).zip(out.chunks_exact_mut(row_count)) {
        for (row, out) in rows.chunks_exact(dim).zip(out) {
            *out = pair(query, row);
        }
    }
}
