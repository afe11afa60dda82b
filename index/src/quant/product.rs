//! Pieces of a vector, each written as the nearest of 16 or 256 words: the fewest bytes for data that can
//! be learned from.
//!
//! Product quantization (Jegou et al., "Product quantization for nearest neighbor search", 2011). With 16
//! words a scan sums table entries by [`nibble`] in registers, the query rounded to bytes (Andre et al.,
//! "Quick(er) ADC", 2021); with 256 words tables are f32 and every piece is a load, about ten times slower
//! a piece. The words are the [`codebook`](super::codebook)'s, and so is balanced training. What the
//! pieces are cut from is chosen by [`Axes`]:
//!
//! - as given;
//! - principal, dealt to pieces by variance: parametric OPQ (Ge et al., "Optimized product quantization",
//!   2013). Pieces narrow enough leave the directions of least variance out, and more words for the others
//!   are worth more than that;
//! - learned: OPQ proper, from the principal ones on: code, find the rotation that fits the codes, again.
//!
//! Products are of the projected query, `O(dim^2)` once. Encoding costs `dim^2` for the axes and `dim x
//! words` for the words, a vector. A block: with 16 words as in [`nibble`], with 256 a byte for each of
//! the 32 vectors, piece after piece.

use super::codebook::{Codebook, Training};
use super::project::Projection;
use super::{BLOCK_ROWS, Factors, Quantizer, check_shapes};
use crate::matrix::Matrix;
use crate::random::Random;
use crate::simd::nibble::{self, ENTRIES, GROUP, LOOKUPS_MAX};
use crate::simd::{Kernels, norm_squared};

/// Product codes of 4 bits a piece.
pub type Pq4 = Product<16>;
/// Product codes of 8 bits a piece.
pub type Pq8 = Product<256>;

/// Rows that axes and words are learned from, at most.
const SAMPLE_ROWS: usize = 1 << 14;
/// Rounds of learned axes.
const AXES_ROUNDS: usize = 8;
/// Rounds of k-means for each of them.
const AXES_KMEANS_ROUNDS: usize = 5;

/// What pieces are cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axes {
    /// The coordinates as they are.
    Given,
    /// Principal axes, dealt to pieces so that their variances multiply to about the same.
    Principal,
    /// A rotation learned together with the words.
    Learned,
}

/// Codes of `N` words a piece.
#[derive(Clone, Debug)]
pub struct Product<const N: usize> {
    projection: Projection,
    codebook: Codebook<N>,
    kernels: &'static Kernels,
}

/// A query as tables.
#[derive(Clone, Debug)]
pub struct ProductQuery<const N: usize> {
    projected: Vec<f32>,
    products: Vec<[f32; N]>,
    table: Vec<u8>,
    step: f32,
    bias: f32,
}

impl<const N: usize> Default for ProductQuery<N> {
    fn default() -> Self {
        Self { projected: Vec::new(), products: Vec::new(), table: Vec::new(), step: 0.0, bias: 0.0 }
    }
}

impl<const N: usize> Product<N> {
    const IS_NIBBLE: bool = match N {
        ENTRIES => true,
        256 => false,
        _ => panic!("a piece has 16 or 256 words"),
    };

    /// Learns axes and words from a sample of `rows`. A code has `pieces` of `width` dimensions; where
    /// these are fewer than those of the rows, the last axes are not coded, where they are more, zeros
    /// are.
    ///
    /// # Panics
    /// When `pieces` or `width` is 0; with 16 words, when `pieces` is no multiple of [`GROUP`] or more than
    /// [`LOOKUPS_MAX`].
    pub fn train(
        rows: Matrix<'_, f32>,
        (pieces, width): (usize, usize),
        axes: Axes,
        training: Training,
        kernels: &'static Kernels,
    ) -> Self {
        assert!(pieces > 0 && width > 0, "a code has a piece, and a piece a dimension");
        if Self::IS_NIBBLE {
            let fits = pieces.is_multiple_of(GROUP) && pieces <= LOOKUPS_MAX;
            assert!(fits, "{pieces} pieces are no multiple of {GROUP} up to {LOOKUPS_MAX}");
        }
        let coded = pieces * width;
        let mut sample = Vec::new();
        for at in Random(training.seed).sample(rows.rows(), SAMPLE_ROWS) {
            sample.extend_from_slice(rows.row(at));
        }
        let sample = Matrix::new(&sample, rows.dim());
        let mut projection = match axes {
            Axes::Given => Projection::prefix(rows.dim(), coded, kernels),
            Axes::Principal | Axes::Learned => {
                let (principal, variances) = Projection::principal_with_variances(sample, coded, kernels);
                principal.ordered(&Codebook::allocate(&variances, width))
            }
        };
        let mut projected = Vec::new();
        projection.apply(sample, &mut projected);
        if axes == Axes::Learned {
            let mut wanted = vec![0.0; projected.len()];
            let mut code = vec![0; pieces];
            for _ in 0..AXES_ROUNDS {
                let rough = Training { rounds: AXES_KMEANS_ROUNDS, ..training };
                let codebook = Codebook::<N>::train(Matrix::new(&projected, coded), width, rough);
                for (row, wanted) in projected.chunks_exact(coded).zip(wanted.chunks_exact_mut(coded)) {
                    codebook.encode(row, &mut code, wanted);
                }
                let Some(nearest) = Projection::nearest(sample, Matrix::new(&wanted, coded), kernels) else {
                    break;
                };
                projection = nearest;
                projection.apply(sample, &mut projected);
            }
        }
        let codebook = Codebook::train(Matrix::new(&projected, coded), width, training);
        Self { projection, codebook, kernels }
    }

    fn put_code(block: &mut [u8], row: usize, code: &[u8]) {
        if Self::IS_NIBBLE {
            return nibble::put_code(block, row, code);
        }
        block.chunks_exact_mut(BLOCK_ROWS).zip(code).for_each(|(piece, code)| piece[row] = *code);
    }

    fn code(block: &[u8], row: usize, code: &mut [u8]) {
        if Self::IS_NIBBLE {
            return nibble::code(block, row, code);
        }
        block.chunks_exact(BLOCK_ROWS).zip(code).for_each(|(piece, code)| *code = piece[row]);
    }
}

impl<const N: usize> Quantizer for Product<N> {
    type Query = ProductQuery<N>;

    fn dim(&self) -> usize {
        self.projection.dim()
    }

    fn block_bytes(&self) -> usize {
        let pieces = self.codebook.lookups();
        if Self::IS_NIBBLE { nibble::code_bytes(pieces) } else { pieces * BLOCK_ROWS }
    }

    fn encode(&self, rows: Matrix<'_, f32>, blocks: &mut [u8], factors: &mut [Factors]) {
        check_shapes(self, rows, blocks, factors);
        blocks.fill(0);
        let coded = self.codebook.dims();
        let (mut projected, mut decoded) = (Vec::new(), vec![0.0; coded]);
        let mut code = vec![0; self.codebook.lookups()];
        let blocks = blocks.chunks_exact_mut(self.block_bytes());
        for (at, (block, factors)) in blocks.zip(factors.chunks_mut(BLOCK_ROWS)).enumerate() {
            let rows = rows.slice(at * BLOCK_ROWS..at * BLOCK_ROWS + factors.len());
            self.projection.apply(rows, &mut projected);
            let vectors = rows.iter().zip(projected.chunks_exact(coded));
            for (row, ((vector, projected), factors)) in vectors.zip(factors).enumerate() {
                self.codebook.encode(projected, &mut code, &mut decoded);
                Self::put_code(block, row, &code);
                let (mut product, mut squared) = (0.0, 0.0);
                for (value, decoded) in projected.iter().zip(&decoded) {
                    product += f64::from(*value) * f64::from(*decoded);
                    squared += f64::from(*decoded) * f64::from(*decoded);
                }
                *factors = Factors::from_sums(norm_squared(vector), product, squared);
            }
        }
    }

    fn decode(&self, block: &[u8], row: usize, vector: &mut [f32]) {
        let mut code = vec![0; self.codebook.lookups()];
        Self::code(block, row, &mut code);
        let mut decoded = vec![0.0; self.codebook.dims()];
        self.codebook.decode(&code, &mut decoded);
        self.projection.lift(&decoded, vector);
    }

    fn prepare(&self, query: &[f32], prepared: &mut Self::Query) {
        assert_eq!(query.len(), self.dim(), "queries have the dimension of the quantizer");
        let ProductQuery { projected, products, table, step, bias } = prepared;
        self.projection.apply(Matrix::new(query, query.len()), projected);
        self.codebook.products(projected, products);
        if Self::IS_NIBBLE {
            (*step, *bias) = super::codebook::quantize(products, table);
        }
    }

    fn products(&self, query: &mut Self::Query, blocks: &[u8], products: &mut [f32]) {
        for (block, products) in blocks.chunks(self.block_bytes()).zip(products.chunks_mut(BLOCK_ROWS)) {
            let mut sums = [0.0_f32; BLOCK_ROWS];
            if Self::IS_NIBBLE {
                let mut steps = [0; BLOCK_ROWS];
                self.kernels.nibble_sums(&query.table, block, &mut steps);
                for (sum, steps) in sums.iter_mut().zip(steps) {
                    *sum = steps as f32 * query.step + query.bias;
                }
            } else {
                let (pieces, _) = block.as_chunks::<BLOCK_ROWS>();
                for (codes, table) in pieces.iter().zip(&query.products) {
                    for (sum, code) in sums.iter_mut().zip(codes) {
                        *sum += table[usize::from(*code)];
                    }
                }
            }
            products.copy_from_slice(&sums[..products.len()]);
        }
    }
}
