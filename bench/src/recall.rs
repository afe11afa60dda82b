//! The share of true neighbours found, where equal scores are equally true.
//!
//! A hit counts when its exact score reaches the k-th true score, less a relative slack for f32 rounding. Ids
//! are not compared: two rows of one score are interchangeable. The engine's own scores are not trusted
//! either: every score is computed again from the base.

use std::collections::HashSet;
use std::path::Path;

use spandrel::Metric;

use crate::Result;
use crate::dataset::Matrix;
use crate::engine::Found;
use crate::truth::{self, Truth};

/// Relative slack on the k-th true score.
const SLACK: f64 = 1e-6;

/// How good the answers to a set of queries are.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// Mean recall over the queries, 0..=1.
    pub recall: f64,
    /// Smallest recall of a query.
    pub recall_min: f64,
    /// Largest difference between a returned and an exact score, relative where scores exceed 1.
    pub score_error_max: f64,
}

/// Judges `found[q]`, the hits of query `q`, against the truth. Streams the base once.
///
/// # Errors
/// The base cannot be read; a hit names a row that is not in it.
pub fn judge(
    base: &Path,
    limit: usize,
    queries: &Matrix,
    metric: Metric,
    truth: &Truth,
    found: &[Vec<Found>],
) -> Result<Quality> {
    let pairs = truth.rows.iter().zip(found);
    let lists: Vec<Vec<u32>> = pairs
        .map(|(truth, found)| truth.iter().copied().chain(found.iter().map(|hit| hit.row)).collect())
        .collect();
    let scores = truth::scores(base, limit, queries, metric, &lists)?;
    let mut quality = Quality { recall: 0.0, recall_min: 1.0, score_error_max: 0.0 };
    for ((truth, found), scores) in truth.rows.iter().zip(found).zip(&scores) {
        let (true_scores, found_scores) = scores.split_at(truth.len());
        let recall = recall_of(true_scores, found, found_scores);
        quality.recall += recall;
        quality.recall_min = quality.recall_min.min(recall);
        for (hit, &score) in found.iter().zip(found_scores) {
            let error = (f64::from(hit.score) - score).abs() / score.abs().max(1.0);
            quality.score_error_max = quality.score_error_max.max(error);
        }
    }
    // Divided once, so that a perfect answer is 1 and not nearly 1.
    quality.recall /= lists.len().max(1) as f64;
    Ok(quality)
}

/// Recall of one query: distinct hits that reach the last true score, out of the true ones; 1 if there are
/// none.
fn recall_of(true_scores: &[f64], found: &[Found], found_scores: &[f64]) -> f64 {
    let Some(last) = true_scores.iter().copied().reduce(f64::min) else { return 1.0 };
    let floor = last - SLACK * last.abs();
    let mut seen = HashSet::new();
    let good = found.iter().zip(found_scores).filter(|(hit, score)| **score >= floor && seen.insert(hit.row));
    good.count().min(true_scores.len()) as f64 / true_scores.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(rows: &[u32]) -> Vec<Found> {
        rows.iter().map(|&row| Found { row, score: 0.0 }).collect()
    }

    #[test]
    fn ties_count_and_repeats_do_not() {
        let truth = [-1.0, -2.0, -2.0];
        assert_eq!(recall_of(&truth, &hits(&[1, 2, 9]), &[-1.0, -2.0, -2.0]), 1.0);
        assert_eq!(recall_of(&truth, &hits(&[1, 1, 1]), &[-1.0, -1.0, -1.0]), 1.0 / 3.0);
        assert_eq!(recall_of(&truth, &hits(&[1, 2, 3]), &[-1.0, -2.000_001, -2.1]), 2.0 / 3.0);
        assert_eq!(recall_of(&truth, &hits(&[1, 2, 3, 4]), &[-1.0, -1.0, -1.0, -1.0]), 1.0);
        assert_eq!(recall_of(&truth, &[], &[]), 0.0);
        assert_eq!(recall_of(&[], &[], &[]), 1.0);
    }
}
