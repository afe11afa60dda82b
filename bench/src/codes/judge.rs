//! One code on one set: how well it ranks, how far its estimates are off, what it costs.
//!
//! Vectors are coded about their mean, as an index would; under inner product a query stays as it is and its
//! product with the mean is added. One thread encodes and scans.

use std::time::Instant;

use serde::Serialize;
use spandrel_index::quant::{BLOCK_ROWS, Factors, Quantizer, encode_all};
use spandrel_index::simd::{dot_f64, l2_f64, norm};
use spandrel_index::{Matrix, RowId, TopK};

use super::catalogue::{Code, code_bytes};
use crate::report::median;

/// True neighbours that are looked for.
const K: usize = 10;
/// Rows kept of a code's ranking.
const KEPT: usize = 100;
/// Rows whose estimates are compared with the truth, about.
const COMPARED_ROWS: usize = 500;
/// Rows that axes of stages are learned from, at most.
const SAMPLE_ROWS: usize = 1 << 14;

/// A set, about its mean.
pub struct Set {
    pub dim: usize,
    /// Whether smaller distances or larger products are better.
    pub is_l2: bool,
    base: Vec<f32>,
    queries: Vec<f32>,
    truth: Vec<Vec<u32>>,
    /// What the mean adds to all products of a query.
    shifts: Vec<f64>,
    /// Every so many rows one is compared.
    stride: usize,
    /// True distances or products of the compared rows, a query after the other.
    exact: Vec<f64>,
    /// What an error of each is divided by.
    units: Vec<f64>,
}

/// A measured point.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub code: String,
    /// Whether estimates are scaled to be unbiased.
    pub unbiased: bool,
    pub code_bytes: f64,
    /// With the factors that an estimate needs.
    pub bytes_per_vector: f64,
    pub recall_10: f64,
    pub recall_50: f64,
    pub recall_100: f64,
    /// Of a squared distance, over it; of a product, over the product of the norms.
    pub error_mean: f64,
    /// The same with its sign.
    pub bias_mean: f64,
    pub train_s: f64,
    pub encode_s: f64,
    /// Products alone, a vector: the median of the queries, which a busy machine disturbs least.
    pub scan_ns: f64,
    /// With scores and the 100 best of them.
    pub search_ns: f64,
}

impl Set {
    /// Takes the mean off. `truth` has at least the ten nearest of every query.
    pub fn new(
        dim: usize,
        is_l2: bool,
        mut base: Vec<f32>,
        mut queries: Vec<f32>,
        truth: Vec<Vec<u32>>,
    ) -> Self {
        let rows = base.len() / dim;
        let mut mean = vec![0.0_f64; dim];
        for row in base.chunks_exact(dim) {
            mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(*value) / rows as f64);
        }
        let stride = (rows / COMPARED_ROWS).max(1);
        let (mut exact, mut units) = (Vec::new(), Vec::new());
        for query in queries.chunks_exact(dim) {
            for row in base.chunks_exact(dim).step_by(stride) {
                exact.push(if is_l2 { l2_f64(query, row) } else { dot_f64(query, row) });
                units.push(if is_l2 { l2_f64(query, row) } else { norm(query) * norm(row) });
            }
        }
        let mean: Vec<f32> = mean.into_iter().map(|value| value as f32).collect();
        let take = |row: &mut [f32]| row.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= mean);
        base.chunks_exact_mut(dim).for_each(take);
        let mut shifts = vec![0.0; queries.len() / dim];
        if is_l2 {
            queries.chunks_exact_mut(dim).for_each(take);
        } else {
            let products = queries.chunks_exact(dim).map(|query| dot_f64(query, &mean));
            shifts.iter_mut().zip(products).for_each(|(shift, product)| *shift = product);
        }
        Self { dim, is_l2, base, queries, truth, shifts, stride, exact, units }
    }

    pub fn rows(&self) -> Matrix<'_, f32> {
        Matrix::new(&self.base, self.dim)
    }

    /// Rows to learn axes from.
    pub fn sample(&self) -> Matrix<'_, f32> {
        self.rows().slice(0..self.rows().rows().min(SAMPLE_ROWS))
    }
}

/// Measures a code, with plain estimates, unbiased ones, or both.
pub fn judge<Q: Quantizer>(
    code: &Code,
    set: &Set,
    unbiased: &[bool],
    make: impl FnOnce() -> Q,
) -> Vec<Figures> {
    let begin = Instant::now();
    let quantizer = make();
    let train_s = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let (blocks, factors) = encode_all(&quantizer, set.rows());
    let encode_s = begin.elapsed().as_secs_f64();
    let judged = |&unbiased: &bool| {
        let factors = if unbiased { factors.clone() } else { plain(&quantizer, &blocks, &factors) };
        let factor_bytes = match (unbiased, set.is_l2) {
            (false, _) => 0.0,
            (true, false) => 4.0,
            (true, true) => 8.0,
        };
        let found = scan(&quantizer, set, &blocks, &factors);
        let code_bytes = code_bytes(&quantizer);
        Figures {
            code: code.name(),
            unbiased,
            code_bytes,
            bytes_per_vector: code_bytes + factor_bytes,
            recall_10: found.recall(set, K),
            recall_50: found.recall(set, 50),
            recall_100: found.recall(set, KEPT),
            error_mean: found.error_mean,
            bias_mean: found.bias_mean,
            train_s,
            encode_s,
            scan_ns: found.scan_ns,
            search_ns: found.search_ns,
        }
    };
    unbiased.iter().map(judged).collect()
}

/// The factors of estimates that take a decoded vector for the vector: the scale 1, and the norm of what was
/// decoded, which is a function of the code.
fn plain<Q: Quantizer>(quantizer: &Q, blocks: &[u8], factors: &[Factors]) -> Vec<Factors> {
    let mut decoded = vec![0.0; quantizer.dim()];
    let factors = factors.iter().enumerate().map(|(at, factors)| {
        let block = &blocks[at / BLOCK_ROWS * quantizer.block_bytes()..][..quantizer.block_bytes()];
        quantizer.decode(block, at % BLOCK_ROWS, &mut decoded);
        Factors { scale: 1.0, norm_squared: norm(&decoded).powi(2) as f32, ..*factors }
    });
    factors.collect()
}

/// What the scans of all queries came to.
struct Found {
    /// The rows ranked best, for each query.
    ranked: Vec<Vec<u32>>,
    error_mean: f64,
    bias_mean: f64,
    scan_ns: f64,
    search_ns: f64,
}

impl Found {
    /// The share of the ten nearest among the first `kept` rows.
    fn recall(&self, set: &Set, kept: usize) -> f64 {
        let hits = |(truth, ranked): (&Vec<u32>, &Vec<u32>)| {
            truth[..K].iter().filter(|row| ranked[..kept.min(ranked.len())].contains(row)).count()
        };
        let hits: usize = set.truth.iter().zip(&self.ranked).map(hits).sum();
        hits as f64 / (K * set.truth.len()) as f64
    }
}

fn scan<Q: Quantizer>(quantizer: &Q, set: &Set, blocks: &[u8], factors: &[Factors]) -> Found {
    let (mut prepared, mut products) = (Q::Query::default(), vec![0.0; factors.len()]);
    let mut found =
        Found { ranked: Vec::new(), error_mean: 0.0, bias_mean: 0.0, scan_ns: 0.0, search_ns: 0.0 };
    let (mut scans_ns, mut searches_ns) = (Vec::new(), Vec::new());
    let mut compared = set.exact.iter().zip(&set.units);
    for (query, shift) in set.queries.chunks_exact(set.dim).zip(&set.shifts) {
        let begin = Instant::now();
        quantizer.prepare(query, &mut prepared);
        quantizer.products(&mut prepared, blocks, &mut products);
        scans_ns.push(begin.elapsed().as_nanos() as f64);
        let query_squared = norm(query).powi(2) as f32;
        let score = |factors: &Factors, product: f32| {
            if set.is_l2 { -factors.l2(query_squared, product) } else { factors.scale * product }
        };
        let mut best = TopK::new(KEPT);
        for (row, (factors, product)) in (0..).zip(factors.iter().zip(&products)) {
            best.push(score(factors, *product), (RowId(row), row as u32));
        }
        found.ranked.push(best.into_sorted().into_iter().map(|scored| scored.row.0 as u32).collect());
        searches_ns.push(begin.elapsed().as_nanos() as f64);
        for (at, (exact, unit)) in (0..factors.len()).step_by(set.stride).zip(&mut compared) {
            let score = f64::from(score(&factors[at], products[at]));
            let estimate = if set.is_l2 { -score } else { score + shift };
            if *unit > 0.0 {
                found.error_mean += (estimate - exact).abs() / unit;
                found.bias_mean += (estimate - exact) / unit;
            }
        }
    }
    found.error_mean /= set.exact.len() as f64;
    found.bias_mean /= set.exact.len() as f64;
    found.scan_ns = median(&scans_ns) / factors.len() as f64;
    found.search_ns = median(&searches_ns) / factors.len() as f64;
    found
}

#[cfg(test)]
mod tests {
    use super::super::catalogue;
    use super::*;

    /// Vectors about a mean that is not 0, from a fixed recurrence.
    fn set(is_l2: bool) -> Set {
        let (dim, mut state) = (32, 7_u32);
        let mut values = |count: usize| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32
            };
            (0..count * dim).map(|_| next() + 1.0).collect()
        };
        let (base, queries) = (values(300), values(5));
        let truth = queries.chunks_exact(dim).map(|query| {
            let mut rows: Vec<u32> = (0..300).collect();
            let score = |row: &u32| {
                let row = &base[*row as usize * dim..][..dim];
                if is_l2 { l2_f64(query, row) } else { -dot_f64(query, row) }
            };
            rows.sort_by(|a, b| score(a).total_cmp(&score(b)));
            rows[..K].to_vec()
        });
        let truth = truth.collect();
        Set::new(dim, is_l2, base, queries, truth)
    }

    #[test]
    fn full_vectors_rank_as_the_truth_and_codes_in_between() {
        for is_l2 in [true, false] {
            let set = set(is_l2);
            for code in catalogue::all(set.dim) {
                for figures in code.measure(&set, 1) {
                    let recalls = [figures.recall_10, figures.recall_50, figures.recall_100, 1.0];
                    assert!(recalls.is_sorted() && figures.error_mean.is_finite(), "{figures:?}");
                    if code == Code::F32 {
                        assert!(figures.recall_10 == 1.0 && figures.error_mean < 1e-5, "{figures:?}");
                        assert_eq!(figures.bytes_per_vector, 128.0);
                    }
                }
            }
        }
    }
}
