//! Scores one block of vectors for all queries and offers what is good enough.
//!
//! Kernels fill a buffer of raw values, one pass turns them into scores, one pass compares them with each
//! query's threshold, and only what reaches it is looked up in the bitmaps and pushed. A batch under L2 is
//! first scored by `|q|^2 + |b|^2 - 2 q.b`, which costs half the arithmetic of the distance; a vector that
//! this *could* be off by enough to keep is scored again by the distance kernel, so that what is pushed is
//! what a single search pushes.

use spandrel_storage::{DocId, Metric, RowId};

use super::query::{Group, Queries};
use crate::allow::Allow;
use crate::counters::Counters;
use crate::dense::vectors::Stored;
use crate::matrix::Matrix;
use crate::simd::{self, Kernels};
use crate::topk::TopK;

/// Queries scored together: their scores of one block stay in the second-level cache.
const QUERIES_MAX: usize = 48;
/// Fewer queries than this are scored by the distance directly.
const BOUND_QUERIES_MIN: usize = 3;
/// Norms that the bound is used for; beyond, an intermediate could overflow.
const BOUND_NORM_SQUARED_MAX: f64 = 1e36;
/// Scores compared with the threshold at once.
const STRIDE: usize = 16;

/// Buffers for scores.
#[derive(Debug, Default)]
pub(super) struct ScoreBuffers {
    scores: Vec<f32>,
    ints: Vec<i32>,
}

/// One block of vectors and what belongs to them.
pub(super) struct Block<'a, T> {
    /// `r x dim`.
    pub(super) vectors: Matrix<'a, T>,
    /// One a vector; empty where the index keeps none.
    pub(super) norms: &'a [f32],
    /// Which docs they are of.
    pub(super) docs: Docs<'a>,
}

/// The docs of a block.
#[derive(Clone, Copy)]
pub(super) enum Docs<'a> {
    /// Consecutive docs from this one.
    From(DocId),
    /// One doc a vector.
    List(&'a [DocId]),
}

impl Docs<'_> {
    fn get(&self, at: usize) -> DocId {
        match self {
            Self::From(first) => first + at as DocId,
            Self::List(docs) => docs[at],
        }
    }
}

/// How raw values become scores.
#[derive(Clone, Copy)]
pub(super) struct Scoring {
    pub(super) kernels: &'static Kernels,
    pub(super) metric: Metric,
}

/// What stays the same from block to block.
pub(super) struct Scan<'a> {
    pub(super) scoring: Scoring,
    pub(super) queries: &'a Queries,
    pub(super) rows: &'a [RowId],
    /// `None` when every doc of the blocks is known to be allowed.
    pub(super) allow: Option<&'a Allow<'a>>,
    /// Largest squared norm of all vectors; only used under L2.
    pub(super) norm_squared_max: f64,
}

impl Scan<'_> {
    /// Scores the block for every query.
    pub(super) fn block<T: Stored>(
        &self,
        block: &Block<'_, T>,
        tops: &mut [TopK],
        buffers: &mut ScoreBuffers,
        counters: &mut Counters,
    ) {
        let (dim, count) = (block.vectors.dim(), block.vectors.rows());
        let pairs = count * (self.queries.floats.of.len() + self.queries.ints.of.len());
        counters.scored += pairs as u64;
        for first in (0..self.queries.floats.of.len()).step_by(QUERIES_MAX) {
            let range = first..self.queries.floats.of.len().min(first + QUERIES_MAX);
            buffers.scores.resize(range.len() * count, 0.0);
            let bounded = self.scoring.metric == Metric::L2
                && range.len() >= BOUND_QUERIES_MIN
                && self.norm_squared_max <= BOUND_NORM_SQUARED_MAX;
            let scores = &mut buffers.scores[..range.len() * count];
            if bounded {
                let queries = Matrix::new(&self.queries.floats.values, dim).slice(range.clone());
                self.scoring.kernels.dot_tile(queries, block.vectors, scores);
            } else {
                self.scoring.floats(&self.queries.floats, range.clone(), block, scores);
            }
            for (query, scores) in range.zip(scores.chunks_exact_mut(count)) {
                let top = &mut tops[self.queries.floats.of[query]];
                if bounded {
                    self.offer_bounded(query, scores, block, top, counters);
                } else {
                    self.offer(query, scores, block, top);
                }
            }
        }
        for first in (0..self.queries.ints.of.len()).step_by(QUERIES_MAX) {
            let range = first..self.queries.ints.of.len().min(first + QUERIES_MAX);
            buffers.scores.resize(range.len() * count, 0.0);
            let scores = &mut buffers.scores[..range.len() * count];
            self.scoring.ints(&self.queries.ints, range.clone(), block, &mut buffers.ints, scores);
            for (query, scores) in range.zip(scores.chunks_exact(count)) {
                self.offer(usize::MAX, scores, block, &mut tops[self.queries.ints.of[query]]);
            }
        }
    }

    /// Offers every vector whose score reaches the threshold. `query` is a float query, or `usize::MAX` for
    /// scores that are finite for sure.
    fn offer<T: Stored>(&self, query: usize, scores: &[f32], block: &Block<'_, T>, top: &mut TopK) {
        for (start, strip) in (0..).step_by(STRIDE).zip(scores.chunks(STRIDE)) {
            // Infinite and NaN scores, which come from overflow, go through as well.
            let floor = top.threshold();
            if strip.iter().fold(true, |below, score| below & (*score < floor) & (*score > f32::NEG_INFINITY))
            {
                continue;
            }
            for (at, score) in (start..).zip(strip) {
                let mut score = *score;
                if !score.is_finite() {
                    score = self.scoring.exact(&self.queries.floats, query, block, at);
                }
                self.push(score, block.docs.get(at), top);
            }
        }
    }

    fn push(&self, score: f32, doc: DocId, top: &mut TopK) {
        if score >= top.threshold() && self.allow.is_none_or(|allow| allow.contains(doc)) {
            top.push(score, (self.rows[doc as usize], doc));
        }
    }

    /// As `offer` under L2, from dot products: vectors that cannot reach the threshold are passed over.
    fn offer_bounded<T: Stored>(
        &self,
        query: usize,
        dots: &mut [f32],
        block: &Block<'_, T>,
        top: &mut TopK,
        counters: &mut Counters,
    ) {
        let dim = block.vectors.dim();
        let norm_squared = self.queries.floats.norms_squared[query];
        let bound = Bound::new(dim, norm_squared);
        let mut limit = bound.limit(top.threshold());
        let pairs = dots.iter().zip(block.norms);
        let near = pairs.map(|(dot, norm)| u32::from(bound.may_reach(*dot, *norm, limit))).sum::<u32>();
        counters.rescored += u64::from(near);
        if near as usize > dots.len() / 4 || norm_squared > BOUND_NORM_SQUARED_MAX {
            self.scoring.floats(&self.queries.floats, query..query + 1, block, dots);
            return self.offer(query, dots, block, top);
        }
        if near == 0 {
            return;
        }
        for (at, (dot, norm)) in dots.iter().zip(block.norms).enumerate() {
            if bound.may_reach(*dot, *norm, limit) {
                let mut score = [0.0];
                let row = Block {
                    vectors: block.vectors.slice(at..at + 1),
                    norms: &block.norms[at..at + 1],
                    docs: Docs::From(block.docs.get(at)),
                };
                self.scoring.floats(&self.queries.floats, query..query + 1, &row, &mut score);
                self.offer(query, &score, &row, top);
                limit = bound.limit(top.threshold());
            }
        }
    }
}

impl Scoring {
    /// Scores of float queries, `range x r`. A score whose computation overflows f32 is infinite or NaN.
    pub(super) fn floats<T: Stored>(
        &self,
        group: &Group<f32>,
        range: std::ops::Range<usize>,
        block: &Block<'_, T>,
        scores: &mut [f32],
    ) {
        let queries = Matrix::new(&group.values, block.vectors.dim()).slice(range);
        match self.metric {
            Metric::Ip => self.kernels.dot_tile(queries, block.vectors, scores),
            Metric::L2 => {
                self.kernels.l2_tile(queries, block.vectors, scores);
                scores.iter_mut().for_each(|score| *score = 0.0 - *score);
            }
            Metric::Cosine => {
                self.kernels.dot_tile(queries, block.vectors, scores);
                if block.norms.is_empty() {
                    scores.iter_mut().for_each(|score| *score = score.clamp(-1.0, 1.0));
                    return;
                }
                for scores in scores.chunks_exact_mut(block.norms.len()) {
                    for (score, norm) in scores.iter_mut().zip(block.norms) {
                        *score = (*score / norm).clamp(-1.0, 1.0);
                    }
                }
            }
        }
    }

    /// Scores of the one prepared query, `r`, all finite.
    pub(super) fn one<'b, T: Stored>(
        &self,
        queries: &Queries,
        block: &Block<'_, T>,
        buffers: &'b mut ScoreBuffers,
    ) -> &'b [f32] {
        let ScoreBuffers { scores, ints } = buffers;
        scores.resize(block.vectors.rows(), 0.0);
        if queries.floats.of.is_empty() {
            self.ints(&queries.ints, 0..1, block, ints, scores);
            return scores;
        }
        self.floats(&queries.floats, 0..1, block, scores);
        for (at, score) in scores.iter_mut().enumerate() {
            if !score.is_finite() {
                *score = self.exact(&queries.floats, 0, block, at);
            }
        }
        scores
    }

    /// Scores of integer queries, `range x r`: the exact integer rounded once (L2, inner product), or divided
    /// by the norms (cosine). Always finite.
    pub(super) fn ints<T: Stored>(
        &self,
        group: &Group<i8>,
        range: std::ops::Range<usize>,
        block: &Block<'_, T>,
        ints: &mut Vec<i32>,
        scores: &mut [f32],
    ) {
        let vectors = T::as_ints(block.vectors).expect("integer queries are made for i8 vectors only");
        let queries = Matrix::new(&group.values, vectors.dim()).slice(range.clone());
        ints.resize(scores.len(), 0);
        match self.metric {
            Metric::L2 => {
                self.kernels.int_l2_tile(queries, vectors, ints);
                scores.iter_mut().zip(ints).for_each(|(score, int)| *score = 0.0 - *int as f32);
            }
            Metric::Ip => {
                self.kernels.int_dot_tile(queries, vectors, ints);
                scores.iter_mut().zip(ints).for_each(|(score, int)| *score = *int as f32);
            }
            Metric::Cosine => {
                self.kernels.int_dot_tile(queries, vectors, ints);
                let each = scores.chunks_exact_mut(vectors.rows()).zip(ints.chunks_exact(vectors.rows()));
                for ((scores, ints), norm_squared) in each.zip(&group.norms_squared[range]) {
                    let query = norm_squared.sqrt() as f32;
                    for ((score, int), norm) in scores.iter_mut().zip(ints).zip(block.norms) {
                        *score = (*int as f32 / (query * norm)).clamp(-1.0, 1.0);
                    }
                }
            }
        }
    }

    /// The score of one float query and one vector in f64, brought into the finite range of f32: for pairs
    /// whose f32 computation overflows.
    pub(super) fn exact<T: Stored>(
        &self,
        group: &Group<f32>,
        query: usize,
        block: &Block<'_, T>,
        at: usize,
    ) -> f32 {
        let (dim, vector) = (block.vectors.dim(), block.vectors.row(at));
        let query = &group.values[query * dim..(query + 1) * dim];
        let score = match self.metric {
            Metric::Ip => simd::dot_f64(query, vector),
            Metric::L2 => -simd::l2_f64(query, vector),
            Metric::Cosine => {
                let norm = block.norms.get(at).map_or(1.0, |norm| f64::from(*norm));
                (simd::dot_f64(query, vector) / norm).clamp(-1.0, 1.0)
            }
        };
        // Only damaged elements, which are not finite, can still make it NaN.
        if score.is_nan() { f32::MIN } else { score.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32 }
    }
}

/// When can a vector be passed over by its dot product with the query?
///
/// With `D` the exact squared distance, `g` the relative error of a sum ([`simd::dot_error_max`]) and `N =
/// |q|^2 + |b|^2` (so that `sum |q_i b_i| <= N / 2`): `D >= N - 2 dot - g N`, and the distance kernel gives
/// at least `(1 - g) D`. A vector whose kernel distance could be `T` or less has `|b|^2 (1 - g) - 2 dot <= T
/// / (1 - g) - |q|^2 (1 - g)`. The roundings of this comparison itself (the norms, the product, the
/// difference, each at most `2^-24` of `2 N`) are covered by a larger `g`, those of the limit by rounding it
/// up; underflow by an absolute slack on both sides.
#[derive(Clone, Copy)]
struct Bound {
    /// `1 - g` with what covers the roundings.
    keep: f32,
    /// `(1 - g)` of the distance kernel alone.
    direct: f64,
    query: f64,
    slack: f64,
}

impl Bound {
    fn new(dim: usize, query_norm_squared: f64) -> Self {
        let sum = simd::dot_error_max(dim, 1.0);
        let slack = 4.0 * simd::dot_error_max(dim, 0.0);
        // Ten roundings: four of size 2 N at most, the rest of `keep` and of the norms.
        let keep = (1.0 - sum - 10.0 / f64::from(1 << 24)) as f32;
        Self { keep: keep.next_down(), direct: 1.0 - sum, query: query_norm_squared, slack }
    }

    /// What `|b|^2 keep - 2 dot` is at most for a vector that can reach a threshold.
    fn limit(&self, threshold: f32) -> f32 {
        let distance = (f64::from(-threshold) + self.slack) / self.direct;
        ((distance + self.slack - self.query * f64::from(self.keep)) as f32).next_up()
    }

    /// Whether a vector of this squared norm can reach the threshold of `limit`. True for NaN.
    #[inline(always)]
    fn may_reach(&self, dot: f32, norm_squared: f32, limit: f32) -> bool {
        let passed_over = norm_squared * self.keep - 2.0 * dot > limit;
        !passed_over
    }
}
