//! The oracle: scores in plain f64 loops that share no code with the engine.
//!
//! Larger is better: L2 is the negative squared distance. Cost: dim multiplications a pair; the eight partial
//! sums only let the compiler use vector instructions, f64 keeps their order from mattering at 1e-12.

use spandrel::Metric;

const LANES: usize = 8;

/// A vector in f64 with what its metric needs beside it.
pub struct Exact {
    values: Vec<f64>,
    norm: f64,
}

impl Exact {
    /// Widens a vector; one of length zero scores 0 under cosine.
    pub fn new(vector: &[f32]) -> Self {
        let values: Vec<f64> = vector.iter().map(|&value| f64::from(value)).collect();
        let norm = dot(&values, &values).sqrt();
        Self { values, norm }
    }

    /// The score of two vectors of the same dimension.
    pub fn score(&self, other: &Self, metric: Metric) -> f64 {
        match metric {
            Metric::L2 => -squared_distance(&self.values, &other.values),
            Metric::Ip => dot(&self.values, &other.values),
            Metric::Cosine => {
                let norms = self.norm * other.norm;
                if norms > 0.0 { dot(&self.values, &other.values) / norms } else { 0.0 }
            }
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    fold(a, b, |a, b| a * b)
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    fold(a, b, |a, b| (a - b) * (a - b))
}

#[inline(always)]
fn fold(a: &[f64], b: &[f64], term: impl Fn(f64, f64) -> f64) -> f64 {
    let mut sums = [0.0; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(&a, &b)| term(a, b)).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += term(a[lane], b[lane]);
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_small_vectors() {
        for dim in 1..40 {
            let a: Vec<f32> = (0..dim).map(|at| at as f32 - 3.0).collect();
            let b: Vec<f32> = (0..dim).map(|at| (at * at % 7) as f32 + 1.0).collect();
            let pairs = || a.iter().zip(&b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
            let (one, other) = (Exact::new(&a), Exact::new(&b));
            let product: f64 = pairs().map(|(a, b)| a * b).sum();
            let distance: f64 = pairs().map(|(a, b)| (a - b).powi(2)).sum();
            let norms = pairs().map(|(a, _)| a * a).sum::<f64>().sqrt()
                * pairs().map(|(_, b)| b * b).sum::<f64>().sqrt();
            assert_eq!(one.score(&other, Metric::Ip), product);
            assert_eq!(one.score(&other, Metric::L2), -distance);
            assert!((one.score(&other, Metric::Cosine) - product / norms).abs() < 1e-12);
        }
        assert_eq!(Exact::new(&[0.0]).score(&Exact::new(&[1.0]), Metric::Cosine), 0.0);
    }
}
