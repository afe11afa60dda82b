//! How vectors are written in fewer bytes, and how a query is scored against what was written.
//!
//! Every family answers the same two questions, encode and score, through [`Quantizer`], so that an index,
//! a table of measurements and a test take any of them; nothing is virtual per vector. All of them
//! estimate an inner product and nothing else: a squared distance follows from it and from the norms,
//! `|q - x|^2 = |q|^2 + |x|^2 - 2 <q, x>`.
//!
//! What is estimated is `scale * <q, x'>`, where `x'` is the decoded vector. With the scale
//! `|x|^2 / <x, x'>` the estimate is right for `q = x` and, for a random error, unbiased, where `<q, x'>`
//! itself is too small by the share of the norm that the code lost (Gao and Long, "RaBitQ", 2024, for sign
//! codes; it holds for any code). docs/quantization.md has what that is worth.
//!
//! How far off it can be is told by [`Factors::error`]: the estimate of a unit query is off by that times
//! the cosine between the query and the error's direction, which in many dimensions is near zero. It is
//! never off by more than `error * |q|`.
//!
//! | family | bits a dimension | trained | products |
//! |---|---|---|---|
//! | [`full`] | 16, 32 | no | float kernels |
//! | [`scalar`] | 8 | no, or ranges | byte kernels |
//! | [`rabitq`] | 1 to 8 | no | nibble kernels |
//! | [`product`] | any, a share of one upwards | words, axes | nibble kernels, or loads |
//! | [`staged`] | those of its first stage | axes | those of its first stage |
//!
//! Codes take vectors as they come. Whoever holds vectors that share a mean, or a centroid, takes it off
//! before they are encoded: `<q, x> = <q, x - c> + <q, c>`, and the error is that of the smaller vector.
//!
//! A vector with a value that is not finite is written as something, and its factors say so: scale 0 and an
//! infinite error. Nothing panics on it, nor on such a query, whose products are not specified.

pub(crate) mod codebook;
pub mod full;
pub mod grid;
pub mod product;
pub mod project;
pub mod rabitq;
pub mod rotate;
pub mod scalar;
pub mod staged;

pub use codebook::Training;
pub use full::Full;
pub use grid::Search;
pub use product::{Axes, Pq4, Pq8};
pub use project::Projection;
pub use rabitq::Rabitq;
pub use rotate::Rotation;
pub use scalar::Scalar;
pub use staged::Staged;

use crate::matrix::Matrix;

/// Vectors of a block of codes.
pub const BLOCK_ROWS: usize = crate::simd::nibble::BLOCK_ROWS;

/// What is kept of a vector besides its code.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Factors {
    /// Times `<q, x'>` is the estimate of `<q, x>`.
    pub scale: f32,
    /// `|x|^2`.
    pub norm_squared: f32,
    /// `|scale * x' - x|`, or more where a family cannot tell.
    pub error: f32,
}

impl Factors {
    /// The factors of `vector` whose code decodes to `decoded`.
    ///
    /// # Panics
    /// When the two have different lengths.
    pub fn of(vector: &[f32], decoded: &[f32]) -> Self {
        assert_eq!(vector.len(), decoded.len(), "both have one dimension");
        let (mut norm_squared, mut product, mut decoded_squared) = (0.0, 0.0, 0.0);
        for (x, y) in vector.iter().zip(decoded) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            norm_squared += x * x;
            product += x * y;
            decoded_squared += y * y;
        }
        Self::from_sums(norm_squared, product, decoded_squared)
    }

    /// The factors from `|x|^2`, `<x, x'>` and `|x'|^2`. A code that points away from its vector says
    /// nothing about it and gets the scale 0. Sums that are not finite get the scale 0 and an infinite
    /// error.
    pub fn from_sums(norm_squared: f64, product: f64, decoded_squared: f64) -> Self {
        let scale = if product > 0.0 { norm_squared / product } else { 0.0 };
        // Beyond this the estimate would be all noise: a code that is all but orthogonal to its vector.
        let scale = if scale.is_finite() && scale * scale * decoded_squared <= 1e4 * norm_squared {
            scale
        } else {
            0.0
        };
        let lost = match scale {
            0.0 => norm_squared,
            scale => norm_squared - 2.0 * scale * product + scale * scale * decoded_squared,
        };
        let error = if lost.is_nan() { f64::INFINITY } else { lost.max(0.0).sqrt() };
        Self { scale: scale as f32, norm_squared: norm_squared as f32, error: error as f32 }
    }

    /// The squared distance to a query of this squared norm whose product with the decoded vector is known.
    pub fn l2(&self, query_squared: f32, product: f32) -> f32 {
        query_squared + self.norm_squared - 2.0 * self.scale * product
    }

    /// The standard deviation of the estimated product with a query of this norm, where the direction of
    /// the error is as good as random in `dims` dimensions.
    pub fn deviation(&self, query_norm: f32, dims: usize) -> f32 {
        self.error * query_norm / ((dims.max(2) - 1) as f32).sqrt()
    }
}

/// A way to write vectors of one dimension.
pub trait Quantizer: Send + Sync {
    /// A query made ready.
    type Query: Default + Send;

    /// Dimensions of a vector.
    fn dim(&self) -> usize;

    /// Bytes of the codes of a block of [`BLOCK_ROWS`] vectors, without factors.
    fn block_bytes(&self) -> usize;

    /// Encodes `rows`, one block for each [`BLOCK_ROWS`] of them, the last filled up with zero bytes.
    ///
    /// # Panics
    /// When the rows have another dimension, or `blocks` and `factors` are not of their number.
    fn encode(&self, rows: Matrix<'_, f32>, blocks: &mut [u8], factors: &mut [Factors]);

    /// The vector that the code of `row` of a block stands for, without its scale: the slow oracle.
    fn decode(&self, block: &[u8], row: usize, vector: &mut [f32]);

    /// Makes a query ready, once for any number of blocks.
    ///
    /// # Panics
    /// When it has another dimension.
    fn prepare(&self, query: &[f32], prepared: &mut Self::Query);

    /// `<q, x'>` of the first `products.len()` vectors of `blocks`. The query is also room to work in.
    ///
    /// # Panics
    /// When there are not enough blocks.
    fn products(&self, query: &mut Self::Query, blocks: &[u8], products: &mut [f32]);

    /// `<q, x'>` of the vectors `picks`. Families that keep a vector in one place read no other.
    ///
    /// # Panics
    /// When a vector does not exist.
    fn products_picked(&self, query: &mut Self::Query, blocks: &[u8], picks: &[u32], products: &mut [f32]) {
        assert_eq!(picks.len(), products.len(), "one product a pick");
        let mut of_block = [0.0; BLOCK_ROWS];
        for (pick, product) in picks.iter().zip(products) {
            let (block, row) = block_of(blocks, self.block_bytes(), *pick);
            self.products(query, block, &mut of_block[..=row]);
            *product = of_block[row];
        }
    }
}

/// The block of a vector, and its row there.
fn block_of(blocks: &[u8], block_bytes: usize, pick: u32) -> (&[u8], usize) {
    let (block, row) = (pick as usize / BLOCK_ROWS, pick as usize % BLOCK_ROWS);
    (&blocks[block * block_bytes..][..block_bytes], row)
}

/// Checks the shapes of [`Quantizer::encode`].
fn check_shapes<Q: Quantizer>(quantizer: &Q, rows: Matrix<'_, f32>, blocks: &[u8], factors: &[Factors]) {
    assert_eq!(rows.dim(), quantizer.dim(), "rows have the dimension of the quantizer");
    assert_eq!(factors.len(), rows.rows(), "one set of factors a row");
    let need = rows.rows().div_ceil(BLOCK_ROWS) * quantizer.block_bytes();
    assert_eq!(blocks.len(), need, "one block for {BLOCK_ROWS} rows");
}

/// Encodes all rows into blocks of their own.
pub fn encode_all<Q: Quantizer>(quantizer: &Q, rows: Matrix<'_, f32>) -> (Vec<u8>, Vec<Factors>) {
    let mut blocks = vec![0; rows.rows().div_ceil(BLOCK_ROWS) * quantizer.block_bytes()];
    let mut factors = vec![Factors::default(); rows.rows()];
    quantizer.encode(rows, &mut blocks, &mut factors);
    (blocks, factors)
}

#[cfg(test)]
mod tests;
