//! The space that cells and signs live in: one L2 space for every metric, in which nearer is better.
//!
//! - L2: the vectors themselves. Cosine: the normalised vectors.
//! - Inner product: a vector gets one more coordinate, `sqrt(R^2 - |x|^2)` with `R` the largest norm, a query
//!   gets 0; then `|q - x|^2 = |q|^2 + R^2 - 2 <q, x>` (Bachrach et al., "Speeding up the Xbox recommender
//!   system", 2014). The order of inner products does not depend on the length of the query, which is set to
//!   the mean norm, so that distances are of the size of those among vectors.
//!
//! All is centred on the mean and scaled to a mean squared distance of 1 from it, so that factors fit f16 and
//! squares fit f32 whatever the data's units. The first thing done to a vector or a query is to
//! place it here; exact scores are computed elsewhere, from the vectors as they are.

use spandrel_storage::Metric;

use crate::random::Random;
use crate::simd;

/// A query whose squared distance from the mean is larger is not compared by codes: sums could overflow.
pub(super) const QUERY_SQUARED_MAX: f64 = 1e12;

/// How much the largest norm may grow without a new mean and scale.
const WIDENED_MAX: f64 = 1.01;
/// A norm this much beyond the largest is as good as that.
const HELD_MAX: f64 = 1.0001;
/// What a distance here may be off by, as a share of the squares that it is the difference of.
const ROUNDING: f64 = 1e-6;

/// Rows read at once.
const BLOCK_ROWS: usize = 128;

/// Gives a field's vectors from a position on as f32, as many as there is room for.
pub(crate) type Rows<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// How vectors and queries of a field are placed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Space {
    pub(super) metric: Metric,
    /// Raw values (normalised ones under cosine) are multiplied by this.
    pub(super) scale: f64,
    /// The mean, scaled: one value a dimension of the field, and that of the extra coordinate under inner
    /// product.
    pub(super) mean: Vec<f32>,
    /// Under inner product, the largest scaled norm.
    pub(super) radius: f64,
    /// Under inner product, the length that queries are given, scaled.
    pub(super) query_norm: f64,
}

/// What makes distances of scores, for one query.
#[derive(Clone, Copy, Debug)]
pub(super) struct DistanceOf {
    size: f64,
    per_score: f64,
    /// The least score there is; the largest is as far from 0.
    least: f32,
}

impl DistanceOf {
    /// The squared distance of a vector of this score, a little more for rounding; no vector of a score of
    /// minus infinity is too far.
    pub(super) fn score(&self, score: f32) -> f32 {
        let distance = (self.size - f64::from(score) * self.per_score).max(0.0);
        (distance + ROUNDING * (distance + self.size)) as f32
    }

    /// The score of a vector at this squared distance.
    pub(super) fn distance(&self, distance: f32) -> f32 {
        let score = (self.size - f64::from(distance)) / self.per_score;
        score.clamp(f64::from(self.least), -f64::from(self.least)) as f32
    }
}

/// Calls `each` with the norm of every row.
fn each_norm(rows: Rows<'_>, count: usize, dim: usize, mut each: impl FnMut(f64)) {
    let mut block = vec![0.0; BLOCK_ROWS.min(count) * dim];
    for first in (0..count).step_by(BLOCK_ROWS) {
        let block = &mut block[..BLOCK_ROWS.min(count - first) * dim];
        rows(first, block);
        block.chunks_exact(dim).for_each(|row| each(simd::norm(row)));
    }
}

impl Space {
    /// Measures `count` rows of `dim` dimensions, mean and scale on a sample with a seed and a size.
    pub(super) fn fit(
        metric: Metric,
        rows: Rows<'_>,
        count: usize,
        dim: usize,
        (seed, sample_rows): (u64, usize),
    ) -> Self {
        let sample = Random(seed).sample(count, sample_rows);
        let (mut radius, mut norms) = (0.0_f64, 0.0);
        if metric == Metric::Ip {
            each_norm(rows, count, dim, |norm| {
                radius = radius.max(norm);
                norms += norm / count as f64;
            });
        }
        let mut sampled = vec![0.0; sample.len() * dim];
        sample.iter().zip(sampled.chunks_exact_mut(dim)).for_each(|(at, row)| rows(*at, row));
        let dims = Self::dims_of(metric, dim);
        let mut space = Self { metric, scale: 1.0, mean: vec![0.0; dims], radius, query_norm: norms };
        let mut sums = vec![0.0_f64; dims];
        let mut placed = vec![0.0; dims];
        // Twice: the spread is measured about the mean.
        for row in sampled.chunks_exact(dim) {
            space.unscaled(row, &mut placed);
            sums.iter_mut().zip(&placed).for_each(|(sum, value)| *sum += value / sample.len() as f64);
        }
        let mut spread = 0.0;
        for row in sampled.chunks_exact(dim) {
            space.unscaled(row, &mut placed);
            let squared: f64 = placed.iter().zip(&sums).map(|(value, mean)| (value - mean).powi(2)).sum();
            spread += squared / sample.len() as f64;
        }
        let scale = 1.0 / spread.sqrt();
        space.scale = if scale.is_normal() { scale } else { 1.0 };
        space.mean = sums.iter().map(|mean| (mean * space.scale) as f32).collect();
        space.radius *= space.scale;
        space.query_norm = if norms > 0.0 { norms * space.scale } else { 1.0 };
        space
    }

    /// Dimensions here of a field of `dim` dimensions.
    pub(super) fn dims_of(metric: Metric, dim: usize) -> usize {
        dim + usize::from(metric == Metric::Ip)
    }

    /// Makes room for rows of larger norms. None when that would move all others: they need a space of their
    /// own.
    pub(super) fn widen(&mut self, rows: Rows<'_>, count: usize) -> Option<()> {
        if self.metric != Metric::Ip {
            return Some(());
        }
        let mut most = 0.0_f64;
        each_norm(rows, count, self.field_dim(), |norm| most = most.max(norm * self.scale));
        let fits = most <= self.radius * WIDENED_MAX;
        self.radius = self.radius.max(most);
        fits.then_some(())
    }

    /// Whether rows can be placed without changing it.
    pub(super) fn holds(&self, rows: Rows<'_>, count: usize) -> bool {
        let mut most = 0.0_f64;
        if self.metric == Metric::Ip {
            each_norm(rows, count, self.field_dim(), |norm| most = most.max(norm * self.scale));
        }
        most <= self.radius * HELD_MAX
    }

    /// Dimensions here.
    pub(super) fn dims(&self) -> usize {
        self.mean.len()
    }

    /// Dimensions of the field.
    pub(super) fn field_dim(&self) -> usize {
        self.dims() - usize::from(self.metric == Metric::Ip)
    }

    /// What a query of this norm is multiplied by before it is centred.
    pub(super) fn query_factor(&self, norm: f64) -> f64 {
        match self.metric {
            Metric::L2 => self.scale,
            Metric::Cosine => self.scale / norm.max(f64::MIN_POSITIVE),
            Metric::Ip => self.query_norm / norm.max(f64::MIN_POSITIVE),
        }
    }

    /// What makes a distance to a query of this norm of a score.
    pub(super) fn distance_of(&self, norm: f64) -> DistanceOf {
        let squared = self.scale * self.scale;
        let (size, per_score) = match self.metric {
            Metric::L2 => (0.0, squared),
            Metric::Cosine => (2.0 * squared, 2.0 * squared),
            Metric::Ip => {
                let size = self.query_norm * self.query_norm + self.radius * self.radius;
                (size, 2.0 * self.scale * self.query_factor(norm))
            }
        };
        let least = if self.metric == Metric::Cosine { -1.0 } else { f32::MIN };
        DistanceOf { size, per_score, least }
    }

    /// A row before it is scaled and centred.
    fn unscaled(&self, row: &[f32], placed: &mut [f64]) {
        let by = match self.metric {
            Metric::Cosine => 1.0 / simd::norm(row).max(f64::MIN_POSITIVE),
            Metric::L2 | Metric::Ip => 1.0,
        };
        placed.iter_mut().zip(row).for_each(|(placed, value)| *placed = f64::from(*value) * by);
        if self.metric == Metric::Ip {
            let lift = (self.radius * self.radius - simd::norm_squared(row)).max(0.0).sqrt();
            placed[row.len()] = lift;
        }
    }

    /// Places a row: `placed` has [`dims`](Self::dims) values.
    #[inline]
    pub(super) fn place(&self, row: &[f32], placed: &mut [f32]) {
        let by = match self.metric {
            Metric::Cosine => self.scale / simd::norm(row).max(f64::MIN_POSITIVE),
            Metric::L2 | Metric::Ip => self.scale,
        };
        for ((placed, value), mean) in placed.iter_mut().zip(row).zip(&self.mean) {
            *placed = (f64::from(*value) * by - f64::from(*mean)) as f32;
        }
        if self.metric == Metric::Ip {
            let norm_squared = simd::norm_squared(row) * self.scale * self.scale;
            let lift = (self.radius * self.radius - norm_squared).max(0.0).sqrt();
            placed[row.len()] = (lift - f64::from(self.mean[row.len()])) as f32;
        }
    }

    /// Places a query and returns its squared distance from the mean. Its extra coordinate is minus the mean
    /// of that coordinate, always.
    #[inline(always)]
    pub(super) fn place_query(&self, query: &[f32], placed: &mut [f32]) -> f64 {
        let by = self.query_factor(if self.metric == Metric::L2 { 1.0 } else { simd::norm(query) });
        for ((placed, value), mean) in placed.iter_mut().zip(query).zip(&self.mean) {
            *placed = (f64::from(*value) * by - f64::from(*mean)) as f32;
        }
        if self.metric == Metric::Ip {
            placed[query.len()] = -self.mean[query.len()];
        }
        simd::norm_squared(placed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize, dim: usize, scale: f32, seed: u64) -> Vec<f32> {
        let mut random = Random(seed);
        let mut value = || ((random.next() >> 40) as f32 / (1 << 23) as f32 - 0.7) * scale;
        (0..count * dim).map(|_| value()).collect()
    }

    /// Whatever the metric, the nearest here is the best there.
    #[test]
    fn order_by_distance_is_order_by_score() {
        for (metric, scale) in [
            (Metric::L2, 1.0),
            (Metric::Ip, 1.0),
            (Metric::Cosine, 1.0),
            (Metric::L2, 1e15),
            (Metric::Ip, 1e-12),
        ] {
            let dim = 12;
            let values = rows(60, dim, scale, 4);
            let give = |at: usize, out: &mut [f32]| out.copy_from_slice(&values[at * dim..][..out.len()]);
            let space = Space::fit(metric, &give, 60, dim, (1, 60));
            let mut placed = vec![vec![0.0; space.dims()]; 60];
            (0..60).for_each(|at| space.place(&values[at * dim..(at + 1) * dim], &mut placed[at]));
            let spread: f64 = placed.iter().map(|row| simd::norm_squared(row) / 60.0).sum();
            assert!((spread - 1.0).abs() < 1e-3, "{metric:?} at {scale}: {spread}");
            for query in rows(10, dim, scale, 9).chunks(dim) {
                let mut here = vec![0.0; space.dims()];
                space.place_query(query, &mut here);
                let score = |row: &[f32]| match metric {
                    Metric::L2 => -simd::l2_f64(query, row),
                    Metric::Ip => simd::dot_f64(query, row),
                    Metric::Cosine => simd::dot_f64(query, row) / simd::norm(row) / simd::norm(query),
                };
                let mut order: Vec<usize> = (0..60).collect();
                order.sort_by(|a, b| {
                    simd::l2_f64(&here, &placed[*a]).total_cmp(&simd::l2_f64(&here, &placed[*b]))
                });
                let scores: Vec<f64> =
                    order.iter().map(|at| score(&values[at * dim..(at + 1) * dim])).collect();
                let size = scores.iter().fold(0.0_f64, |most, score| most.max(score.abs()));
                assert!(
                    scores.is_sorted_by(|a, b| *a >= b - 1e-5 * size),
                    "{metric:?} at {scale}: {scores:?}"
                );
                for (at, score) in order.iter().zip(&scores) {
                    let distance = simd::l2_f64(&here, &placed[*at]);
                    let told = f64::from(space.distance_of(simd::norm(query)).score(*score as f32));
                    assert!(
                        (told - distance).abs() < 1e-4 * (1.0 + distance),
                        "{metric:?}: {told} {distance}"
                    );
                }
            }
        }
    }

    #[test]
    fn rows_that_are_all_alike_have_a_space() {
        for metric in [Metric::L2, Metric::Ip, Metric::Cosine] {
            let space = Space::fit(metric, &|_, out| out.fill(3.0), 5, 4, (1, 5));
            let mut placed = vec![1.0; space.dims()];
            space.place(&[3.0; 4], &mut placed);
            assert!(placed.iter().all(|value| value.abs() < 1e-3), "{metric:?}: {placed:?}");
        }
    }
}
