//! Vectors as they are, in f32 or f16: the family that loses nothing, or 11 bits of mantissa. What others
//! are compared with, and the last stage of a search in stages.
//!
//! `dim` elements a row, little-endian, row after row. In f16 a value beyond 65,504 is infinite, so that
//! its vector gets the scale 0: scale vectors of such units first.

use super::{BLOCK_ROWS, Factors, Quantizer, check_shapes};
use crate::matrix::Matrix;
use crate::simd::{Element, Kernels};

/// Elements of `T`.
#[derive(Clone, Debug)]
pub struct Full<T> {
    dim: usize,
    kernels: &'static Kernels,
    element: std::marker::PhantomData<T>,
}

/// A query, and the rows of a block as elements.
#[derive(Clone, Debug, Default)]
pub struct FullQuery<T> {
    values: Vec<f32>,
    rows: Vec<T>,
}

impl<T: Element> Full<T> {
    /// For vectors of `dim` dimensions.
    ///
    /// # Panics
    /// When `dim` is 0.
    pub fn new(dim: usize, kernels: &'static Kernels) -> Self {
        assert!(dim > 0, "vectors have at least one dimension");
        Self { dim, kernels, element: std::marker::PhantomData }
    }

    fn row_bytes(&self) -> usize {
        self.dim * T::BYTES
    }
}

impl<T: Element> Quantizer for Full<T> {
    type Query = FullQuery<T>;

    fn dim(&self) -> usize {
        self.dim
    }

    fn block_bytes(&self) -> usize {
        BLOCK_ROWS * self.row_bytes()
    }

    fn encode(&self, rows: Matrix<'_, f32>, blocks: &mut [u8], factors: &mut [Factors]) {
        check_shapes(self, rows, blocks, factors);
        blocks.fill(0);
        let (mut elements, mut bytes) = (vec![T::default(); self.dim], Vec::new());
        let mut decoded = vec![0.0; self.dim];
        for ((row, out), factors) in rows.iter().zip(blocks.chunks_exact_mut(self.row_bytes())).zip(factors) {
            for ((element, decoded), value) in elements.iter_mut().zip(&mut decoded).zip(row) {
                *element = T::from_f32(*value);
                *decoded = element.to_f32();
            }
            bytes.clear();
            T::encode(&elements, &mut bytes);
            out.copy_from_slice(&bytes);
            *factors = Factors::of(row, &decoded);
        }
    }

    fn decode(&self, block: &[u8], row: usize, vector: &mut [f32]) {
        let mut elements = vec![T::default(); self.dim];
        T::decode_into(&block[row * self.row_bytes()..][..self.row_bytes()], &mut elements);
        vector.iter_mut().zip(elements).for_each(|(value, element)| *value = element.to_f32());
    }

    fn prepare(&self, query: &[f32], prepared: &mut Self::Query) {
        assert_eq!(query.len(), self.dim, "queries have the dimension of the quantizer");
        prepared.values.clear();
        prepared.values.extend_from_slice(query);
    }

    fn products(&self, query: &mut Self::Query, blocks: &[u8], products: &mut [f32]) {
        // Elements in bytes are not aligned: a block at a time is copied to where they are.
        let FullQuery { values, rows } = query;
        for (block, products) in blocks.chunks(self.block_bytes()).zip(products.chunks_mut(BLOCK_ROWS)) {
            rows.resize(products.len() * self.dim, T::default());
            T::decode_into(&block[..products.len() * self.row_bytes()], rows);
            self.kernels.dot_rows(values, Matrix::new(rows, self.dim), products);
        }
    }

    fn products_picked(&self, query: &mut Self::Query, blocks: &[u8], picks: &[u32], products: &mut [f32]) {
        assert_eq!(picks.len(), products.len(), "one product a pick");
        let FullQuery { values, rows } = query;
        rows.resize(self.dim, T::default());
        for (pick, product) in picks.iter().zip(products) {
            T::decode_into(&blocks[*pick as usize * self.row_bytes()..][..self.row_bytes()], rows);
            *product = self.kernels.dot(values, rows);
        }
    }
}
