//! How near are two vectors: dot products and squared L2 distances of f32, f16 and i8, and norms.
//!
//! [`Kernels`] is the safe front: one table of functions a CPU level, chosen once. Cosine is the dot product
//! of vectors normalised beforehand ([`norm`]). Raw values come out here (a *distance* for L2); scores, where
//! larger is better, are made above.
//!
//! | form | methods (the same for `l2`) | shape |
//! |---|---|---|
//! | one-to-one | [`dot`](Kernels::dot) | `dim`, `dim` -> value |
//! | one-to-many | [`dot_rows`](Kernels::dot_rows) | `dim`, `r x dim` -> `r` |
//! | many-to-many | [`dot_tile`](Kernels::dot_tile) | `q x dim`, `r x dim` -> `q x r` |
//!
//! What holds: all forms of one level give the same bits for the same pair; integer kernels give the same
//! integers on every level; float results of any level are within [`dot_error_max`] and [`l2_error_max`] of
//! the exact value unless an intermediate overflows f32 (then they are infinite or NaN, and the caller
//! computes the pair in f64). Nothing past a slice is read. Codes have kernels of their own: [`nibble`], and
//! [`byte_dots`](Kernels::byte_dots); signatures of sets have
//! [`lower_mins`](Kernels::lower_mins).

mod bytes;
mod dispatch;
mod element;
pub(crate) mod lanes;
mod minhash;
pub mod nibble;
pub mod nibble_rows;
mod norm;
mod portable;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use bytes::{HALF_GROUP, put_half, query_max};
pub use dispatch::Kernels;
pub use element::Element;
pub use minhash::MINHASH_LANES;
pub use norm::{norm, norm_squared, normalize};
pub use scalar::{dot_f64, l2_f64};

use crate::matrix::Matrix;

/// Largest dimension the integer kernels are exact for.
pub const INT_DIM_MAX: usize = 33_025;

/// One query that meets this many bytes of f32 rows in one call reads them in their order, one row after the
/// other, as memory delivers them fastest; fewer are likely to lie in a cache, where 8 rows in flight are
/// faster. Measured over 100,000 x 384 (inner product) and 60,000 x 784 (L2), medians: 4.2 and 5.6 ms by
/// eights, 3.9 and 4.7 ms in order (AVX-512, AMD Zen 5, one thread, 40 GB/s).
pub(crate) const STREAM_BYTES: usize = 16 << 20;

/// Half a unit in the last place of 1.0f32: the relative error of one rounding.
const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// Roundings that a term passes through at most, whatever the level: `dim / 8` of its lane, the lane tree,
/// its own.
fn roundings(dim: usize) -> f64 {
    (dim.div_ceil(8) + 8) as f64 * ROUNDING
}

/// Largest error of a float dot product of `dim` dimensions, where `magnitude` is at least the sum of `|a_i *
/// b_i|` (for instance `|a| * |b|`). Underflow is within it.
pub fn dot_error_max(dim: usize, magnitude: f64) -> f64 {
    1.01 * roundings(dim) * magnitude + dim as f64 * f64::from(f32::MIN_POSITIVE)
}

/// Largest error of a float squared L2 distance of `dim` dimensions whose exact value is `distance`.
pub fn l2_error_max(dim: usize, distance: f64) -> f64 {
    1.01 * roundings(dim) * distance + dim as f64 * f64::from(f32::MIN_POSITIVE)
}

/// Shapes of every method: `query: dim`, `queries: q x dim`, `rows: r x dim`, `out: r` or `q x r` (a row of
/// `out` for each query). Results for elements that are not finite are not specified, except that nothing
/// panics.
///
/// # Panics
/// Every method panics when the shapes do not fit.
impl Kernels {
    /// The dot product of a pair.
    pub fn dot<T: Element>(&self, query: &[f32], row: &[T]) -> f32 {
        let mut out = [0.0];
        (T::kernels(self).dot)(query, row, query.len(), &mut out);
        out[0]
    }

    /// The dot products of one query with all rows.
    pub fn dot_rows<T: Element>(&self, query: &[f32], rows: Matrix<'_, T>, out: &mut [f32]) {
        self.dot_tile(Matrix::new(query, rows.dim()), rows, out);
    }

    /// The dot products of all queries with all rows.
    pub fn dot_tile<T: Element>(&self, queries: Matrix<'_, f32>, rows: Matrix<'_, T>, out: &mut [f32]) {
        assert_eq!(queries.dim(), rows.dim(), "queries and rows have one dimension");
        (T::kernels(self).dot)(queries.values(), rows.values(), rows.dim(), out);
    }

    /// The squared L2 distance of a pair.
    pub fn l2<T: Element>(&self, query: &[f32], row: &[T]) -> f32 {
        let mut out = [0.0];
        (T::kernels(self).l2)(query, row, query.len(), &mut out);
        out[0]
    }

    /// The squared L2 distances of one query to all rows.
    pub fn l2_rows<T: Element>(&self, query: &[f32], rows: Matrix<'_, T>, out: &mut [f32]) {
        self.l2_tile(Matrix::new(query, rows.dim()), rows, out);
    }

    /// The squared L2 distances of all queries to all rows.
    pub fn l2_tile<T: Element>(&self, queries: Matrix<'_, f32>, rows: Matrix<'_, T>, out: &mut [f32]) {
        assert_eq!(queries.dim(), rows.dim(), "queries and rows have one dimension");
        (T::kernels(self).l2)(queries.values(), rows.values(), rows.dim(), out);
    }

    /// The exact dot products of all i8 queries with all rows, up to [`INT_DIM_MAX`] dimensions.
    pub fn int_dot_tile(&self, queries: Matrix<'_, i8>, rows: Matrix<'_, i8>, out: &mut [i32]) {
        assert!(rows.dim() <= INT_DIM_MAX, "{} dimensions can overflow i32", rows.dim());
        assert_eq!(queries.dim(), rows.dim(), "queries and rows have one dimension");
        (self.int.dot)(queries.values(), rows.values(), rows.dim(), out);
    }

    /// The exact squared L2 distances of all i8 queries to all rows, up to [`INT_DIM_MAX`] dimensions.
    pub fn int_l2_tile(&self, queries: Matrix<'_, i8>, rows: Matrix<'_, i8>, out: &mut [i32]) {
        assert!(rows.dim() <= INT_DIM_MAX, "{} dimensions can overflow i32", rows.dim());
        assert_eq!(queries.dim(), rows.dim(), "queries and rows have one dimension");
        (self.int.l2)(queries.values(), rows.values(), rows.dim(), out);
    }
}

#[cfg(test)]
mod codes_tests;
#[cfg(test)]
mod tests;
