//! Linear algebra of builds, and the home of faer.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par, Side};

use crate::matrix::Matrix;

/// The `count` directions in which `rows` vary most about `mean`, and their variances: `(count x dim,
/// row-major, orthonormal, by falling variance; count)`. Directions beyond the dimension are zeros with
/// variance 0.
///
/// Time `O(rows x dim^2 + dim^3)`. The order of two directions of equal variance, and all signs, are
/// whatever the decomposition gives.
///
/// # Panics
/// When `mean` has another dimension than the rows.
pub(crate) fn principal_axes(rows: Matrix<'_, f32>, mean: &[f32], count: usize) -> (Vec<f32>, Vec<f32>) {
    let dim = rows.dim();
    assert_eq!(mean.len(), dim, "one mean a dimension");
    let (mut axes, mut variances) = (vec![0.0; count * dim], vec![0.0; count]);
    if rows.is_empty() {
        axes.chunks_exact_mut(dim).take(dim).enumerate().for_each(|(at, axis)| axis[at] = 1.0);
        return (axes, variances);
    }
    let centred = Mat::<f32>::from_fn(rows.rows(), dim, |row, at| rows.row(row)[at] - mean[at]);
    let mut covariance = Mat::<f32>::zeros(dim, dim);
    let per_row = 1.0 / rows.rows() as f32;
    matmul(covariance.as_mut(), Accum::Replace, centred.transpose(), centred.as_ref(), per_row, Par::Seq);
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
        let (dim, count) = (9, 400);
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
        let mean: Vec<f32> =
            (0..dim).map(|at| rows.iter().map(|row| row[at]).sum::<f32>() / count as f32).collect();
        let (axes, variances) = principal_axes(rows, &mean, dim + 2);
        assert!(variances.is_sorted_by(|a, b| a >= b), "{variances:?}");
        for (a, variance_of) in variances.iter().enumerate() {
            let axis = |at: usize| &axes[at * dim..(at + 1) * dim];
            for b in 0..dim + 2 {
                let product: f32 = axis(a).iter().zip(axis(b)).map(|(x, y)| x * y).sum();
                let expected = if a == b && a < dim { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-4, "axes {a} and {b}: {product}");
            }
            let along = |row: &[f32]| -> f32 {
                row.iter().zip(&mean).zip(axis(a)).map(|((x, m), w)| (x - m) * w).sum()
            };
            let variance = rows.iter().map(|row| along(row).powi(2)).sum::<f32>() / count as f32;
            assert!((variance - variance_of).abs() < 1e-4, "axis {a}: {variance}, {variance_of}");
        }
    }

    #[test]
    fn no_rows_and_rows_without_variance_have_axes() {
        let (axes, variances) = principal_axes(Matrix::new(&[], 2), &[0.0, 0.0], 3);
        assert_eq!((axes, variances), (vec![1.0, 0.0, 0.0, 1.0, 0.0, 0.0], vec![0.0; 3]));
        let (axes, variances) = principal_axes(Matrix::new(&[2.0, 2.0, 2.0, 2.0], 2), &[2.0, 2.0], 2);
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
