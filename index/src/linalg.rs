//! Linear algebra of builds, and the home of faer.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Par, Side};

use crate::matrix::Matrix;
use crate::parallel::for_parts;

/// Sums of a covariance that are made side by side, always as many so that the result does not depend on the
/// threads; and rows that are added to one at once.
const LANES: usize = 4;
const LANE_ROWS: usize = 2048;

/// The `count` directions in which `rows` vary most about zero, and their variances: `(count x dim,
/// row-major, orthonormal, by falling variance; count)`. Directions beyond the dimension are zeros with
/// variance 0.
///
/// Time `O(rows x dim^2 / threads + dim^3)`, memory `4 x dim^2`. The order of two directions of equal
/// variance, and all signs, are whatever the decomposition gives.
pub(crate) fn principal_axes(rows: Matrix<'_, f32>, count: usize, threads: usize) -> (Vec<f32>, Vec<f32>) {
    let dim = rows.dim();
    let (mut axes, mut variances) = (vec![0.0; count * dim], vec![0.0; count]);
    if rows.is_empty() {
        axes.chunks_exact_mut(dim).take(dim).enumerate().for_each(|(at, axis)| axis[at] = 1.0);
        return (axes, variances);
    }
    let covariance = covariance(rows, threads);
    let Ok(eigen) = covariance.self_adjoint_eigen(Side::Lower) else {
        // It does not converge for what is not finite; the axes as they are do no harm.
        axes.chunks_exact_mut(dim).take(dim).enumerate().for_each(|(at, axis)| axis[at] = 1.0);
        return (axes, variances);
    };
    let (vectors, values) = (eigen.U(), eigen.S());
    for at in 0..count.min(dim) {
        // faer's are ascending.
        let column = dim - 1 - at;
        variances[at] = values[column].max(0.0);
        for (row, value) in axes[at * dim..(at + 1) * dim].iter_mut().enumerate() {
            *value = vectors[(row, column)];
        }
    }
    (axes, variances)
}

/// The mean products of every two dimensions; only those on and below the diagonal are there.
fn covariance(rows: Matrix<'_, f32>, threads: usize) -> Mat<f32> {
    let (dim, count) = (rows.dim(), rows.rows());
    let per_row = 1.0 / count as f32;
    let mut lanes: Vec<Mat<f32>> = (0..LANES).map(|_| Mat::zeros(dim, dim)).collect();
    for_parts(threads, &mut lanes, 1, |lane, sum| {
        for first in (lane * LANE_ROWS..count).step_by(LANES * LANE_ROWS) {
            let here = rows.slice(first..count.min(first + LANE_ROWS));
            let here = MatRef::from_row_major_slice(here.values(), here.rows(), dim);
            let (lower, whole) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
            let sum = sum[0].as_mut();
            let (left, right) = (here.transpose(), here);
            triangular::matmul(sum, lower, Accum::Add, left, whole, right, whole, per_row, Par::Seq);
        }
    });
    let mut sum = Mat::zeros(dim, dim);
    lanes.iter().for_each(|lane| sum += lane);
    sum
}

/// The orthogonal map that brings `from` nearest to `to`, in the sum of squares over rows: `to.dim x
/// from.dim`, row-major, with orthonormal rows or columns, whichever are fewer (the orthogonal Procrustes
/// problem, Schonemann, 1966). `None` for rows that are not finite.
///
/// Time `O(rows x dims^2 + dims^3)`.
///
/// # Panics
/// When the numbers of rows differ.
pub(crate) fn procrustes(from: Matrix<'_, f32>, to: Matrix<'_, f32>) -> Option<Vec<f32>> {
    assert_eq!(from.rows(), to.rows(), "each row has one to come near to");
    let whole =
        |rows: Matrix<'_, f32>| Mat::<f32>::from_fn(rows.rows(), rows.dim(), |row, at| rows.row(row)[at]);
    let (from, to) = (whole(from), whole(to));
    let mut product = Mat::<f32>::zeros(to.ncols(), from.ncols());
    matmul(product.as_mut(), Accum::Replace, to.transpose(), from.as_ref(), 1.0, Par::Seq);
    let svd = product.thin_svd().ok()?;
    let mut map = Mat::<f32>::zeros(to.ncols(), from.ncols());
    matmul(map.as_mut(), Accum::Replace, svd.U(), svd.V().transpose(), 1.0, Par::Seq);
    let values: Vec<f32> = (0..to.ncols())
        .flat_map(|row| (0..from.ncols()).map(move |at| (row, at)))
        .map(|at| map[at])
        .collect();
    values.iter().all(|value| value.is_finite()).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn axes_are_orthonormal_and_explain_their_variance() {
        let mut random = Random(3);
        let (dim, count) = (9, 5 * LANE_ROWS / 2);
        // Dimension i varies by 1 / (i + 1), after a rotation of neighbours.
        let mut values = Vec::new();
        for _ in 0..count {
            let mut row: Vec<f32> = (0..dim)
                .map(|at| ((random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0) / (at + 1) as f32)
                .collect();
            for at in 1..dim {
                let (a, b) = (row[at - 1], row[at]);
                (row[at - 1], row[at]) = (0.8 * a + 0.6 * b, 0.8 * b - 0.6 * a);
            }
            values.extend(row);
        }
        let rows = Matrix::new(&values, dim);
        let (axes, variances) = principal_axes(rows, dim + 2, 1);
        assert_eq!(principal_axes(rows, dim + 2, 3), (axes.clone(), variances.clone()), "by more threads");
        assert!(variances.is_sorted_by(|a, b| a >= b), "{variances:?}");
        for (a, variance_of) in variances.iter().enumerate() {
            let axis = |at: usize| &axes[at * dim..(at + 1) * dim];
            for b in 0..dim + 2 {
                let product: f32 = axis(a).iter().zip(axis(b)).map(|(x, y)| x * y).sum();
                let expected = if a == b && a < dim { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-4, "axes {a} and {b}: {product}");
            }
            let along = |row: &[f32]| -> f32 { row.iter().zip(axis(a)).map(|(x, w)| x * w).sum() };
            let variance = rows.iter().map(|row| along(row).powi(2)).sum::<f32>() / count as f32;
            assert!((variance - variance_of).abs() < 1e-4, "axis {a}: {variance}, {variance_of}");
        }
    }

    #[test]
    fn no_rows_and_rows_without_variance_have_axes() {
        let (axes, variances) = principal_axes(Matrix::new(&[], 2), 3, 1);
        assert_eq!((axes, variances), (vec![1.0, 0.0, 0.0, 1.0, 0.0, 0.0], vec![0.0; 3]));
        let (axes, variances) = principal_axes(Matrix::new(&[0.0; 4], 2), 2, 1);
        assert!(axes.iter().all(|value| value.is_finite()) && variances == [0.0, 0.0]);
    }

    #[test]
    fn procrustes_finds_the_rotation_that_was_applied() {
        let (dim, rotation) = (24, crate::quant::Rotation::new(24, 5));
        let mut random = Random(8);
        let from: Vec<f32> = (0..100 * dim).map(|_| random.below(1000) as f32 - 500.0).collect();
        let mut to = from.clone();
        to.chunks_exact_mut(dim).for_each(|row| rotation.apply(row));
        let map = procrustes(Matrix::new(&from, dim), Matrix::new(&to, dim)).unwrap();
        for (from, to) in from.chunks_exact(dim).zip(to.chunks_exact(dim)) {
            for (axis, to) in map.chunks_exact(dim).zip(to) {
                let along: f32 = axis.iter().zip(from).map(|(a, b)| a * b).sum();
                assert!((along - to).abs() < 0.1, "{along}, {to}");
            }
        }
        assert!(procrustes(Matrix::new(&[f32::NAN], 1), Matrix::new(&[1.0], 1)).is_none());
        assert!(procrustes(Matrix::new(&[], 2), Matrix::new(&[], 3)).is_some());
    }
}
