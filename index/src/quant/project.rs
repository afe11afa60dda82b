//! Vectors on fewer, or other, axes: `A x` for a matrix with orthonormal rows, so that products survive
//! but for what lies off the axes.
//!
//! - [`prefix`](Projection::prefix): the first coordinates, which a Matryoshka model trains to matter most
//!   (Kusupati et al., "Matryoshka representation learning", 2022); nothing to make;
//! - [`principal`](Projection::principal): the directions of most variance of a sample, the best there are
//!   for it; `O(rows dim^2 + dim^3)`;
//! - [`fourier`](Projection::fourier): the lowest frequencies of the vector read as a signal, a baseline that
//!   knows nothing of the data; `O(count dim)`.
//!
//! A projection costs `count x dim` a vector, by the float kernels; the Fourier axes too, as a matrix like
//! the others: for the few coefficients that are kept a fast transform would not be faster. The axes are
//! about the origin: who wants them about a mean takes it off first.

use crate::linalg::{principal_axes, procrustes};
use crate::matrix::Matrix;
use crate::simd::Kernels;

/// Orthonormal axes, by which vectors of `dim` dimensions have `count`.
#[derive(Clone, Debug)]
pub struct Projection {
    dim: usize,
    count: usize,
    /// `count x dim`; none where the axes are the first coordinates.
    axes: Vec<f32>,
    kernels: &'static Kernels,
}

impl Projection {
    /// The first `count` coordinates; zeros after the last.
    ///
    /// # Panics
    /// When `dim` or `count` is 0.
    pub fn prefix(dim: usize, count: usize, kernels: &'static Kernels) -> Self {
        assert!(dim > 0 && count > 0, "vectors have at least one dimension");
        Self { dim, count, axes: Vec::new(), kernels }
    }

    /// The directions in which `rows` have most of their squared norms, the largest first; zeros beyond
    /// their dimension.
    ///
    /// # Panics
    /// When `count` is 0.
    pub fn principal(rows: Matrix<'_, f32>, count: usize, kernels: &'static Kernels) -> Self {
        Self::principal_with_variances(rows, count, kernels).0
    }

    /// With the mean squared coordinate along each.
    pub(super) fn principal_with_variances(
        rows: Matrix<'_, f32>,
        count: usize,
        kernels: &'static Kernels,
    ) -> (Self, Vec<f32>) {
        let (axes, variances) = principal_axes(rows, count, 1);
        (Self { axes, ..Self::prefix(rows.dim(), count, kernels) }, variances)
    }

    /// The mean, then cosine and sine of rising frequencies; the last of an even dimension has no sine.
    /// Zeros after the last.
    ///
    /// # Panics
    /// When `dim` or `count` is 0.
    pub fn fourier(dim: usize, count: usize, kernels: &'static Kernels) -> Self {
        let mut axes = vec![0.0; count * dim];
        for (at, axis) in axes.chunks_exact_mut(dim).take(dim).enumerate() {
            let frequency = at.div_ceil(2);
            let alone = frequency == 0 || 2 * frequency == dim;
            let scale = (if alone { 1.0 } else { 2.0_f64 } / dim as f64).sqrt();
            for (place, value) in axis.iter_mut().enumerate() {
                // The remainder keeps the angle small and exact.
                let turn = (frequency * place % dim) as f64 / dim as f64 * std::f64::consts::TAU;
                *value = (scale * if at % 2 == 0 && at > 0 { turn.sin() } else { turn.cos() }) as f32;
            }
        }
        Self { axes, ..Self::prefix(dim, count, kernels) }
    }

    /// The axes that bring `rows` nearest to `wanted`, in as many dimensions as that has.
    pub(super) fn nearest(
        rows: Matrix<'_, f32>,
        wanted: Matrix<'_, f32>,
        kernels: &'static Kernels,
    ) -> Option<Self> {
        let axes = procrustes(rows, wanted)?;
        Some(Self { axes, ..Self::prefix(rows.dim(), wanted.dim(), kernels) })
    }

    /// The axes in another order: `order` names the axis for each place.
    pub(super) fn ordered(mut self, order: &[usize]) -> Self {
        self.axes = order.iter().flat_map(|at| &self.axes[at * self.dim..][..self.dim]).copied().collect();
        self.count = order.len();
        self
    }

    /// Dimensions of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Dimensions of a projected one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Projects all rows: `rows x count` values.
    ///
    /// # Panics
    /// When the rows have another dimension.
    pub fn apply(&self, rows: Matrix<'_, f32>, projected: &mut Vec<f32>) {
        assert_eq!(rows.dim(), self.dim, "rows have the dimension of the projection");
        projected.clear();
        projected.resize(rows.rows() * self.count, 0.0);
        if !self.axes.is_empty() {
            return self.kernels.dot_tile(rows, Matrix::new(&self.axes, self.dim), projected);
        }
        for (row, projected) in rows.iter().zip(projected.chunks_exact_mut(self.count)) {
            projected.iter_mut().zip(row).for_each(|(projected, value)| *projected = *value);
        }
    }

    /// The vector on these axes that is projected to `projected`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn lift(&self, projected: &[f32], vector: &mut [f32]) {
        assert_eq!((projected.len(), vector.len()), (self.count, self.dim), "the shapes fit");
        vector.fill(0.0);
        if self.axes.is_empty() {
            vector.iter_mut().zip(projected).for_each(|(value, projected)| *value = *projected);
        }
        for (axis, along) in self.axes.chunks_exact(self.dim).zip(projected) {
            vector.iter_mut().zip(axis).for_each(|(value, axis)| *value += along * axis);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DIMS, rows};
    use super::*;
    use crate::simd::{dot_f64, norm};

    /// Orthonormal axes, and zeros beyond the dimension: then lifting is the transpose, and a whole
    /// projection loses nothing.
    #[test]
    fn axes_are_orthonormal() {
        for dim in DIMS.into_iter().filter(|dim| *dim <= 100) {
            let values = rows(150, dim, 1.0, 3);
            let values = Matrix::new(&values, dim);
            for count in [1, dim.div_ceil(2), dim, dim + 3] {
                let kernels = Kernels::best();
                for (what, projection) in [
                    ("prefix", Projection::prefix(dim, count, kernels)),
                    ("principal", Projection::principal(values, count, kernels)),
                    ("fourier", Projection::fourier(dim, count, kernels)),
                ] {
                    let mut axes = vec![vec![0.0; dim]; count];
                    for (at, axis) in axes.iter_mut().enumerate() {
                        let mut unit = vec![0.0; count];
                        unit[at] = 1.0;
                        projection.lift(&unit, axis);
                    }
                    for a in 0..count {
                        for b in 0..count {
                            let expected = if a == b && a < dim { 1.0 } else { 0.0 };
                            let off = (dot_f64(&axes[a], &axes[b]) - expected).abs();
                            assert!(off < 1e-4, "{what}, {dim} to {count}: {a}, {b}: {off}");
                        }
                    }
                    let mut projected = Vec::new();
                    projection.apply(values, &mut projected);
                    for (row, projected) in values.iter().zip(projected.chunks(count)) {
                        for (axis, along) in axes.iter().zip(projected) {
                            let off = (dot_f64(row, axis) - f64::from(*along)).abs();
                            assert!(off < 1e-4 * norm(row) + 1e-6, "{what}, {dim} to {count}: {off}");
                        }
                    }
                }
            }
        }
    }

    /// Of all axes, the principal ones keep most of the rows that they were made from.
    #[test]
    fn principal_axes_keep_most() {
        let values = rows(300, 31, 1.0, 5);
        let values = Matrix::new(&values, 31);
        let kept = |projection: Projection| {
            let mut projected = Vec::new();
            projection.apply(values, &mut projected);
            norm(&projected)
        };
        let kernels = Kernels::best();
        let principal = kept(Projection::principal(values, 7, kernels));
        assert!(principal >= kept(Projection::prefix(31, 7, kernels)));
        assert!(principal >= kept(Projection::fourier(31, 7, kernels)));
    }
}
