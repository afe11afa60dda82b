//! Search in stages: rank all vectors by a code of few dimensions, and only the best of them by all.
//!
//! A stage is any quantizer, over the coordinates of a [`Projection`]: the prefix of a Matryoshka vector,
//! principal axes, or the Fourier coefficients that stand for "no training" (as in the comparison of
//! Kusupati et al., "Matryoshka representation learning", 2022, funnel retrieval). [`Staged`] is itself a
//! quantizer of whole vectors, which has left the other dimensions out, so that stages nest and every
//! table takes it; its factors are those of the whole vector and make up for the share of the norm that
//! was left out.
//!
//! [`funnel`] is the search: `rows x count` work for all and `dim` for those that are left.

use spandrel_storage::RowId;

use super::project::Projection;
use super::{BLOCK_ROWS, Factors, Quantizer, check_shapes};
use crate::matrix::Matrix;
use crate::simd::{dot_f64, norm_squared};
use crate::topk::TopK;

/// A quantizer of projected vectors.
#[derive(Clone, Debug)]
pub struct Staged<Q> {
    projection: Projection,
    inner: Q,
}

/// A projected query.
#[derive(Clone, Debug, Default)]
pub struct StagedQuery<P> {
    projected: Vec<f32>,
    inner: P,
}

impl<Q: Quantizer> Staged<Q> {
    /// Codes of `inner` on the axes of `projection`.
    ///
    /// # Panics
    /// When the inner quantizer is for another number of dimensions than there are axes.
    pub fn new(projection: Projection, inner: Q) -> Self {
        assert_eq!(projection.count(), inner.dim(), "the quantizer is of projected vectors");
        Self { projection, inner }
    }
}

impl<Q: Quantizer> Quantizer for Staged<Q> {
    type Query = StagedQuery<Q::Query>;

    fn dim(&self) -> usize {
        self.projection.dim()
    }

    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }

    fn encode(&self, rows: Matrix<'_, f32>, blocks: &mut [u8], factors: &mut [Factors]) {
        check_shapes(self, rows, blocks, factors);
        let (mut projected, mut decoded) = (Vec::new(), vec![0.0; self.inner.dim()]);
        let blocks = blocks.chunks_exact_mut(self.block_bytes());
        for (at, (block, factors)) in blocks.zip(factors.chunks_mut(BLOCK_ROWS)).enumerate() {
            let rows = rows.slice(at * BLOCK_ROWS..at * BLOCK_ROWS + factors.len());
            self.projection.apply(rows, &mut projected);
            self.inner.encode(Matrix::new(&projected, self.inner.dim()), block, factors);
            let vectors = rows.iter().zip(projected.chunks_exact(self.inner.dim()));
            for (row, ((vector, projected), factors)) in vectors.zip(factors).enumerate() {
                // The axes are orthonormal: products with what a code is lifted to are those on the axes.
                self.inner.decode(block, row, &mut decoded);
                let (product, squared) = (dot_f64(projected, &decoded), norm_squared(&decoded));
                *factors = Factors::from_sums(norm_squared(vector), product, squared);
            }
        }
    }

    fn decode(&self, block: &[u8], row: usize, vector: &mut [f32]) {
        let mut decoded = vec![0.0; self.inner.dim()];
        self.inner.decode(block, row, &mut decoded);
        self.projection.lift(&decoded, vector);
    }

    fn prepare(&self, query: &[f32], prepared: &mut Self::Query) {
        let StagedQuery { projected, inner } = prepared;
        self.projection.apply(Matrix::new(query, query.len()), projected);
        self.inner.prepare(projected, inner);
    }

    fn products(&self, query: &mut Self::Query, blocks: &[u8], products: &mut [f32]) {
        self.inner.products(&mut query.inner, blocks, products);
    }

    fn products_picked(&self, query: &mut Self::Query, blocks: &[u8], picks: &[u32], products: &mut [f32]) {
        self.inner.products_picked(&mut query.inner, blocks, picks, products);
    }
}

/// What a stage has of all vectors.
#[derive(Debug)]
pub struct Stage<'a, Q> {
    /// Its codes' quantizer.
    pub quantizer: &'a Q,
    /// The codes.
    pub blocks: &'a [u8],
    /// Their factors.
    pub factors: &'a [Factors],
}

/// How a score, larger is better, follows from the factors and the product with the decoded vector.
pub type Score = fn(&Factors, f32) -> f32;

/// The order of negative squared distances.
pub fn by_distance(factors: &Factors, product: f32) -> f32 {
    // The query's own norm is the same for all.
    -factors.l2(0.0, product)
}

/// The order of products.
pub fn by_product(factors: &Factors, product: f32) -> f32 {
    factors.scale * product
}

/// The `k` best by the second stage of the `candidates` best by the first, best first; equal scores go to
/// the smaller row.
///
/// # Panics
/// When the query has another dimension than a stage, or the stages have different numbers of vectors.
pub fn funnel<A: Quantizer, B: Quantizer>(
    query: &[f32],
    (first, second): (&Stage<'_, A>, &Stage<'_, B>),
    score: Score,
    (candidates, k): (usize, usize),
) -> Vec<(u32, f32)> {
    let rows = first.factors.len();
    assert_eq!(rows, second.factors.len(), "both stages have all vectors");
    let (mut prepared, mut products) = (A::Query::default(), vec![0.0; rows]);
    first.quantizer.prepare(query, &mut prepared);
    first.quantizer.products(&mut prepared, first.blocks, &mut products);
    let scores = first.factors.iter().zip(&products).map(|(factors, product)| score(factors, *product));
    let left = best((0..).zip(scores), candidates);

    let picks: Vec<u32> = left.into_iter().map(|(row, _)| row).collect();
    let mut prepared = B::Query::default();
    products.resize(picks.len(), 0.0);
    second.quantizer.prepare(query, &mut prepared);
    second.quantizer.products_picked(&mut prepared, second.blocks, &picks, &mut products);
    let factors = picks.iter().map(|row| &second.factors[*row as usize]);
    let scores = factors.zip(&products).map(|(factors, product)| score(factors, *product));
    best(picks.iter().copied().zip(scores), k)
}

/// The `count` best, in order.
fn best(scores: impl Iterator<Item = (u32, f32)>, count: usize) -> Vec<(u32, f32)> {
    let mut top = TopK::new(count);
    scores.for_each(|(row, score)| {
        top.push(score, (RowId(u64::from(row)), row));
    });
    top.into_sorted().into_iter().map(|scored| (scored.row.0 as u32, scored.score)).collect()
}
