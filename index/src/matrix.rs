//! The one shape that kernels and indexes take: vectors of one dimension, one after the other.

use std::ops::Range;

/// Vectors as rows: `rows x dim`, row-major, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix<'a, T> {
    values: &'a [T],
    dim: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// The rows in `values`, each of `dim` values.
    ///
    /// # Panics
    /// When `dim` is 0 or does not divide the number of values.
    pub fn new(values: &'a [T], dim: usize) -> Self {
        assert!(dim > 0, "vectors have at least one dimension");
        assert!(values.len().is_multiple_of(dim), "{} values are no whole rows of {dim}", values.len());
        Self { values, dim }
    }

    /// Number of rows; may be 0.
    pub fn rows(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Values a row; at least 1.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All values, row after row.
    pub fn values(&self) -> &'a [T] {
        self.values
    }

    /// Row `row`.
    ///
    /// # Panics
    /// When there are not that many rows.
    pub fn row(&self, row: usize) -> &'a [T] {
        &self.values[row * self.dim..(row + 1) * self.dim]
    }

    /// The rows of `range` as a matrix.
    ///
    /// # Panics
    /// When the range ends after the last row or before it starts.
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self { values: &self.values[range.start * self.dim..range.end * self.dim], dim: self.dim }
    }

    /// The rows in order.
    pub fn iter(&self) -> std::slice::ChunksExact<'a, T> {
        self.values.chunks_exact(self.dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_slices_of_the_values() {
        let values = [1, 2, 3, 4, 5, 6];
        let matrix = Matrix::new(&values, 2);
        assert_eq!((matrix.rows(), matrix.dim()), (3, 2));
        assert_eq!(matrix.row(1), [3, 4]);
        assert_eq!(matrix.slice(1..3).values(), [3, 4, 5, 6]);
        assert_eq!(matrix.iter().map(|row| row[0]).collect::<Vec<_>>(), [1, 3, 5]);
        assert!(matrix.slice(2..2).is_empty());
    }

    #[test]
    #[should_panic(expected = "no whole rows")]
    fn a_broken_row_is_refused() {
        Matrix::new(&[1, 2, 3], 2);
    }
}
