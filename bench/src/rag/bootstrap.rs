//! How sure a mean of differences is: paired bootstrap over questions (Efron, 1979).

use crate::random::Random;

/// Drawn samples.
const SAMPLES: usize = 10_000;

/// The mean, and what 95 % of resampled means lie between.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// Of `a - b`, question by question.
pub fn difference(a: &[f64], b: &[f64]) -> Interval {
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    of(&differences, |sample| mean(sample.iter().map(|at| differences[*at])))
}

/// Of `mean(a) / mean(b) - 1`, resampled in pairs.
pub fn relative(a: &[f64], b: &[f64]) -> Interval {
    let ratio = |sample: &[usize]| {
        let of = |values: &[f64]| mean(sample.iter().map(|at| values[*at]));
        of(a) / of(b) - 1.0
    };
    of(a, ratio)
}

/// Of any statistic of sampled positions.
fn of(values: &[f64], statistic: impl Fn(&[usize]) -> f64) -> Interval {
    let all: Vec<usize> = (0..values.len()).collect();
    if all.is_empty() {
        return Interval { mean: f64::NAN, low: f64::NAN, high: f64::NAN };
    }
    let mut random = Random(1);
    let mut samples: Vec<f64> = (0..SAMPLES)
        .map(|_| statistic(&all.iter().map(|_| random.below(all.len())).collect::<Vec<_>>()))
        .collect();
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[((SAMPLES as f64 * share) as usize).min(SAMPLES - 1)];
    Interval { mean: statistic(&all), low: at(0.025), high: at(0.975) }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    values.sum::<f64>() / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_hold_the_mean_and_shrink_with_more() {
        let few: Vec<f64> = (0..40).map(|n| f64::from(n % 5)).collect();
        let many: Vec<f64> = (0..4000).map(|n| f64::from(n % 5)).collect();
        let (a, b) = (difference(&few, &vec![0.0; 40]), difference(&many, &vec![0.0; 4000]));
        assert!((a.mean - 2.0).abs() < 1e-9 && a.low < 2.0 && a.high > 2.0);
        assert!(b.high - b.low < (a.high - a.low) / 5.0);
        let relative = relative(&many, &many);
        assert_eq!((relative.mean, relative.low, relative.high), (0.0, 0.0, 0.0));
        assert!(difference(&[], &[]).mean.is_nan());
    }
}
