//! Rows of bytes that stand for rows of numbers, each with a step and an offset of its own, and a query made
//! ready for their products.
//!
//! A number is `zero + step * byte` of its row, off by at most half a step. The product with a query is
//! `step * (sum of query * byte) + zero * (sum of query)`, the sum by the integer kernels. Memory: a byte a
//! number and 8 bytes a row.

use super::lanes::{fold, larger};
use crate::large::Large;
use crate::matrix::Matrix;
use crate::simd::{Kernels, query_max};

/// A query in i16.
#[derive(Debug, Default)]
pub(super) struct ByteQuery {
    pub(super) values: Vec<i16>,
    /// What a unit of a value is worth.
    pub(super) step: f32,
    /// The sum of the values, in units of the query.
    pub(super) sum: f32,
}

impl ByteQuery {
    /// Rounds `query`.
    #[inline(always)]
    pub(super) fn set(&mut self, query: &[f32]) {
        let most = fold(query, f32::MIN_POSITIVE, f32::abs, larger);
        let limit = f32::from(query_max(query.len()).min(8191));
        let (per_step, mut sum) = (limit / most, 0_i32);
        self.values.resize(query.len(), 0);
        for (rounded, value) in self.values.iter_mut().zip(query) {
            // Adding 3 * 2^22 leaves the integer nearest to a small value in the low bits.
            *rounded = (value * per_step + 12_582_912.0).to_bits() as i16;
            sum += i32::from(*rounded);
        }
        self.step = most / limit;
        self.sum = sum as f32 * self.step;
    }
}

/// A row's bytes to be, with `(zero, step)`.
pub(super) fn quantize(row: &[f32], bytes: &mut [u8]) -> (f32, f32) {
    let (least, most) = row.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), value| {
        (least.min(*value), most.max(*value))
    });
    let step = ((most - least) / 255.0).max(f32::MIN_POSITIVE);
    let per_step = 1.0 / step;
    for (byte, value) in bytes.iter_mut().zip(row) {
        *byte = ((value - least) * per_step + 0.5) as u8;
    }
    (least, step)
}

/// Rows of bytes.
pub(super) struct ByteRows {
    stride: usize,
    bytes: Large<u8>,
    zeros: Vec<f32>,
    steps: Vec<f32>,
}

impl ByteRows {
    /// Quantizes all rows.
    pub(super) fn of(rows: Matrix<'_, f32>) -> Self {
        let stride = rows.dim();
        let mut bytes = Large::zeroed(rows.rows() * stride);
        let factors =
            rows.iter().zip(bytes.chunks_exact_mut(stride)).map(|(row, bytes)| quantize(row, bytes));
        let (zeros, steps) = factors.unzip();
        Self { stride, bytes, zeros, steps }
    }

    /// Rows.
    pub(super) fn rows(&self) -> usize {
        self.steps.len()
    }

    /// The product of the query with every row.
    pub(super) fn products(
        &self,
        kernels: &Kernels,
        query: &ByteQuery,
        sums: &mut Vec<i32>,
        products: &mut Vec<f32>,
    ) {
        sums.resize(self.rows(), 0);
        kernels.byte_dots(&query.values, &self.bytes, self.stride, sums);
        products.clear();
        products.extend(
            sums.iter()
                .zip(&self.steps)
                .zip(&self.zeros)
                .map(|((sum, step), zero)| *sum as f32 * (step * query.step) + zero * query.sum),
        );
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.bytes() + 8 * self.steps.len()
    }
}
