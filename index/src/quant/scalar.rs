//! A byte a dimension: the code that ranks all but as well as the vectors themselves.
//!
//! A value is `least + step * byte`, where the range is that of the vector (locally-adaptive quantization,
//! Aguerrebere et al., "Similarity search in the blink of an eye with compressed indices", 2023; 8 bytes a
//! vector more, nothing to train) or that of the dimension (as scalar quantizers have always done). A
//! vector's own range is never left; a dimension's may be, by a vector that was not there when it was
//! measured, and then the value is clamped.
//!
//! A block: `dim` bytes a row, row after row, then with ranges of vectors `least` and `step` of each, f32.
//! The products are those of [`byte_dots`](Kernels::byte_dots): the query is i16, whose rounding is far
//! below that of the codes.

use super::{BLOCK_ROWS, Factors, Quantizer, block_of, check_shapes};
use crate::matrix::Matrix;
use crate::simd::lanes::{fold, larger, smaller};
use crate::simd::{Kernels, dot_f64, query_max};

/// A query of smaller values has values of 0: its steps would have no reciprocal.
const LEAST: f32 = 1e-33;
/// Bytes of the range of a vector.
const RANGE_BYTES: usize = 8;

/// Bytes, by the ranges of vectors or of dimensions.
#[derive(Clone, Debug)]
pub struct Scalar {
    dim: usize,
    kernels: &'static Kernels,
    /// `(least, step)` of each dimension; none for ranges of vectors.
    ranges: Vec<(f32, f32)>,
}

/// A query in integers.
#[derive(Debug, Default)]
pub struct ScalarQuery {
    bytes: ByteQuery,
    scaled: Vec<f32>,
    /// The product with what byte 0 stands for in each dimension.
    offset: f32,
    sums: Vec<i32>,
}

impl Scalar {
    /// Ranges of vectors.
    ///
    /// # Panics
    /// When `dim` is 0.
    pub fn by_vector(dim: usize, kernels: &'static Kernels) -> Self {
        assert!(dim > 0, "vectors have at least one dimension");
        Self { dim, kernels, ranges: Vec::new() }
    }

    /// Ranges of the dimensions of `rows`.
    pub fn by_dimension(rows: Matrix<'_, f32>, kernels: &'static Kernels) -> Self {
        let mut ends = vec![(f32::INFINITY, f32::NEG_INFINITY); rows.dim()];
        for row in rows.iter() {
            for ((least, most), value) in ends.iter_mut().zip(row) {
                (*least, *most) = (least.min(*value), most.max(*value));
            }
        }
        let range = |(least, most): (f32, f32)| match least <= most {
            true => (least, ((most - least) / 255.0).max(f32::MIN_POSITIVE)),
            false => (0.0, f32::MIN_POSITIVE),
        };
        Self { dim: rows.dim(), kernels, ranges: ends.into_iter().map(range).collect() }
    }

    /// Writes the bytes of a row and answers its range.
    fn write(&self, row: &[f32], bytes: &mut [u8]) -> (f32, f32) {
        if self.ranges.is_empty() {
            return quantize(row, bytes);
        }
        for ((byte, value), (least, step)) in bytes.iter_mut().zip(row).zip(&self.ranges) {
            *byte = ((value - least) / step + 0.5) as u8;
        }
        (0.0, 0.0)
    }

    /// What the bytes of a row with this range stand for.
    fn read(&self, bytes: &[u8], own: (f32, f32), vector: &mut [f32]) {
        for (at, (value, byte)) in vector.iter_mut().zip(bytes).enumerate() {
            let (least, step) = self.ranges.get(at).copied().unwrap_or(own);
            *value = least + step * f32::from(*byte);
        }
    }

    /// The range of row `row` of a block.
    fn own(&self, block: &[u8], row: usize) -> (f32, f32) {
        if !self.ranges.is_empty() {
            return (0.0, 0.0);
        }
        let range = &block[BLOCK_ROWS * self.dim + row * RANGE_BYTES..][..RANGE_BYTES];
        let four = |at: usize| f32::from_le_bytes([range[at], range[at + 1], range[at + 2], range[at + 3]]);
        (four(0), four(4))
    }

    fn product(&self, query: &ScalarQuery, sum: i32, block: &[u8], row: usize) -> f32 {
        if self.ranges.is_empty() {
            let (least, step) = self.own(block, row);
            sum as f32 * (step * query.bytes.step) + least * query.bytes.sum
        } else {
            sum as f32 * query.bytes.step + query.offset
        }
    }
}

impl Quantizer for Scalar {
    type Query = ScalarQuery;

    fn dim(&self) -> usize {
        self.dim
    }

    fn block_bytes(&self) -> usize {
        let range = if self.ranges.is_empty() { RANGE_BYTES } else { 0 };
        BLOCK_ROWS * (self.dim + range)
    }

    fn encode(&self, rows: Matrix<'_, f32>, blocks: &mut [u8], factors: &mut [Factors]) {
        check_shapes(self, rows, blocks, factors);
        blocks.fill(0);
        let mut decoded = vec![0.0; self.dim];
        for (at, (row, factors)) in rows.iter().zip(factors).enumerate() {
            let (block, at) = (at / BLOCK_ROWS * self.block_bytes(), at % BLOCK_ROWS);
            let block = &mut blocks[block..][..self.block_bytes()];
            let (codes, own) = block.split_at_mut(BLOCK_ROWS * self.dim);
            let bytes = &mut codes[at * self.dim..][..self.dim];
            let (least, step) = self.write(row, bytes);
            self.read(bytes, (least, step), &mut decoded);
            if self.ranges.is_empty() {
                own[at * RANGE_BYTES..][..4].copy_from_slice(&least.to_le_bytes());
                own[at * RANGE_BYTES + 4..][..4].copy_from_slice(&step.to_le_bytes());
            }
            *factors = Factors::of(row, &decoded);
        }
    }

    fn decode(&self, block: &[u8], row: usize, vector: &mut [f32]) {
        self.read(&block[row * self.dim..][..self.dim], self.own(block, row), vector);
    }

    fn prepare(&self, query: &[f32], prepared: &mut Self::Query) {
        assert_eq!(query.len(), self.dim, "queries have the dimension of the quantizer");
        let scaled = &mut prepared.scaled;
        scaled.clear();
        scaled.extend_from_slice(query);
        // A dimension's step goes into the query.
        scaled.iter_mut().zip(&self.ranges).for_each(|(value, (_, step))| *value *= step);
        prepared.bytes.set(scaled);
        if !self.ranges.is_empty() {
            let least: Vec<f32> = self.ranges.iter().map(|range| range.0).collect();
            prepared.offset = dot_f64(query, &least) as f32;
        }
    }

    fn products(&self, query: &mut Self::Query, blocks: &[u8], products: &mut [f32]) {
        for (block, products) in blocks.chunks(self.block_bytes()).zip(products.chunks_mut(BLOCK_ROWS)) {
            query.sums.resize(products.len(), 0);
            self.kernels.byte_dots(&query.bytes.values, block, self.dim, &mut query.sums);
            for (row, product) in products.iter_mut().enumerate() {
                *product = self.product(query, query.sums[row], block, row);
            }
        }
    }

    fn products_picked(&self, query: &mut Self::Query, blocks: &[u8], picks: &[u32], products: &mut [f32]) {
        assert_eq!(picks.len(), products.len(), "one product a pick");
        let mut sum = [0];
        for (pick, product) in picks.iter().zip(products) {
            let (block, row) = block_of(blocks, self.block_bytes(), *pick);
            self.kernels.byte_dots(&query.bytes.values, &block[row * self.dim..], self.dim, &mut sum);
            *product = self.product(query, sum[0], block, row);
        }
    }
}

/// A query in i16.
#[derive(Debug, Default)]
pub(crate) struct ByteQuery {
    pub(crate) values: Vec<i16>,
    /// What a unit of a value is worth.
    pub(crate) step: f32,
    /// The sum of the values, in units of the query.
    pub(crate) sum: f32,
}

impl ByteQuery {
    /// Rounds `query`.
    #[inline(always)]
    pub(crate) fn set(&mut self, query: &[f32]) {
        let most = fold(query, LEAST, f32::abs, larger);
        let limit = f32::from(query_max(query.len()).min(8191));
        let (per_step, mut sum) = (limit / most, 0_i32);
        self.values.resize(query.len(), 0);
        for (rounded, value) in self.values.iter_mut().zip(query) {
            // Adding 3 * 2^22 leaves the integer nearest to a small value in the low bits. What is not a
            // number becomes the limit: sums must not overflow.
            let steps = smaller(larger(value * per_step, -limit), limit);
            *rounded = (steps + 12_582_912.0).to_bits() as i16;
            sum += i32::from(*rounded);
        }
        self.step = most / limit;
        self.sum = sum as f32 * self.step;
    }
}

/// A row's bytes to be, with `(zero, step)`.
pub(crate) fn quantize(row: &[f32], bytes: &mut [u8]) -> (f32, f32) {
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
