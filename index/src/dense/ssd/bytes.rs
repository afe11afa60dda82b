//! Rows of bytes that stand for rows of numbers, each with a step and an offset of its own.
//!
//! A number is `zero + step * byte` of its row, off by at most half a step. The product with a query is
//! `step * (sum of query * byte) + zero * (sum of query)`, the sum by the integer kernels. Memory: a byte a
//! number and 8 bytes a row.

use std::ops::Range;

use crate::large::Large;
use crate::matrix::Matrix;
pub(super) use crate::quant::scalar::{ByteQuery, quantize};
use crate::simd::Kernels;

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
        products.clear();
        self.products_of(kernels, 0..self.rows(), query, sums, products);
    }

    /// Appends the product of the query with every row of `range`.
    pub(super) fn products_of(
        &self,
        kernels: &Kernels,
        range: Range<usize>,
        query: &ByteQuery,
        sums: &mut Vec<i32>,
        products: &mut Vec<f32>,
    ) {
        sums.resize(range.len(), 0);
        let bytes = &self.bytes[range.start * self.stride..range.end * self.stride];
        kernels.byte_dots(&query.values, bytes, self.stride, sums);
        products.extend(
            sums.iter()
                .zip(&self.steps[range.clone()])
                .zip(&self.zeros[range])
                .map(|((sum, step), zero)| *sum as f32 * (step * query.step) + zero * query.sum),
        );
    }

    /// The same for some rows.
    pub(super) fn products_picked(
        &self,
        kernels: &Kernels,
        picks: &[u32],
        query: &ByteQuery,
        sums: &mut Vec<i32>,
        products: &mut Vec<f32>,
    ) {
        sums.resize(picks.len(), 0);
        kernels.byte_dots_picked(&query.values, &self.bytes, self.stride, picks, sums);
        products.extend(picks.iter().zip(sums.iter()).map(|(row, sum)| {
            let (step, zero) = (self.steps[*row as usize], self.zeros[*row as usize]);
            *sum as f32 * (step * query.step) + zero * query.sum
        }));
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.bytes() + 8 * self.steps.len()
    }
}
