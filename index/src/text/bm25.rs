//! BM25 with the tenant's statistics, and how far a pruning threshold must be lowered to keep pruning exact.
//!
//! `score(doc) = sum over query terms of count * idf * 2.2 * tf / (tf + 1.2 * (0.25 + 0.75 * dl / average))`,
//! with `idf = ln(1 + (N - df + 0.5) / (df + 0.5))` (Robertson and Zaragoza, "The Probabilistic Relevance
//! Framework", 2009; Lucene's idf). k1 and b are tantivy's constants, `dl` is the document's length rounded
//! down to one of 256 steps, at most an eighth below itself. Terms add up in the order of the query, in f32,
//! whatever index the postings are in.

use std::fmt;

use tantivy::query::Bm25Weight;

use super::stats::{TextQuery, TextStats};

/// `k1 * b`: the factor on `dl / average`.
const SLOPE: f32 = 0.9;
/// `SLOPE` times 8/9, for a length that was rounded down as far as it can be.
const SLOPE_ROUNDED: f32 = 0.8;

/// A query's weights, made once and used on every segment.
#[derive(Clone)]
pub struct Bm25 {
    /// One a term of the query, times its count.
    weights: Vec<Bm25Weight>,
    stats: TextStats,
    average: f32,
}

impl fmt::Debug for Bm25 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bm25").field("stats", &self.stats).field("average", &self.average).finish()
    }
}

impl Bm25 {
    /// The weights of `query` under `stats`, which were gathered for this very query.
    ///
    /// Statistics that cannot be (more documents with a term than with the field, or fewer tokens than
    /// documents) are moved to the nearest that can.
    pub fn new(query: &TextQuery, stats: &TextStats) -> Self {
        let mut stats = stats.clone();
        stats.doc_freq.resize(query.terms.len(), 0);
        stats.tokens = stats.tokens.max(stats.docs);
        let average = stats.tokens as f32 / stats.docs as f32;
        let mut weights = Vec::with_capacity(query.terms.len());
        for (term, doc_freq) in query.terms.iter().zip(&mut stats.doc_freq) {
            *doc_freq = (*doc_freq).min(stats.docs);
            let weight = Bm25Weight::for_one_term_without_explain(*doc_freq, stats.docs, average);
            weights.push(weight.boost_by(term.count as f32));
        }
        Self { weights, stats, average }
    }

    /// Whether the query finds nothing: no terms, or no document of the tenant has the field.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty() || self.stats.docs == 0
    }

    /// The statistics in use.
    pub fn stats(&self) -> &TextStats {
        &self.stats
    }

    /// What a term of the query adds to the score of a document that has it.
    ///
    /// # Panics
    /// When the query has no such term.
    pub(super) fn score(&self, term: usize, norm: u8, freq: u32) -> f32 {
        self.weights[term].score(norm, freq)
    }

    /// By how much a threshold must be divided before tantivy may skip what stays below it.
    ///
    /// A segment stores, for each block of 128 postings, the `(tf, dl)` that scores best under the segment's
    /// own average length `A0`; we score under the tenant's average `A`. Let `S(A) = tf / (tf + K(A))`, `K(A)
    /// = 0.3 + 0.9 dl / A`, and let `*` mark the stored pair, so that `S(A0) <= S*(A0)`. With `r = max(A /
    /// A0, A0 / A)`:
    ///
    /// - `A >= A0`: `K(A0) / r <= K(A) <= K(A0)` (the constant 0.3 only helps). Then
    ///   `S(A) <= tf / (tf + K(A0) / r) <= r S(A0) <= r S*(A0) <= r S*(A)`.
    /// - `A < A0`: `K(A0) <= K(A) <= r K(A0)`. Then `S(A) <= S(A0) <= S*(A0)`, and
    ///   `S*(A) >= tf* / (tf* + r K*(A0)) >= S*(A0) / r`, so again `S(A) <= r S*(A)`.
    ///
    /// Where a block has no stored pair, and for a whole list, tantivy takes the limit `1 / (1 + 0.9 / A)` of
    /// a document that repeats the term for ever. As `tf <= length < 9/8 dl`, a real document may reach `1 /
    /// (1 + 0.8 / A)`, which is `r' = (1 + 0.9 / A) / (1 + 0.8 / A)` times that.
    ///
    /// So each term's true score is at most `max(r, r')` times its bound, and so is the sum, all of them
    /// being positive. f32 rounding adds at most one unit in 2^24 an operation: a dozen in a score or a
    /// bound, one a summand.
    pub(super) fn slack(&self, segment_average: f32) -> f32 {
        let moved = (self.average / segment_average).max(segment_average / self.average);
        let repeated = (1.0 + SLOPE / self.average) / (1.0 + SLOPE_ROUNDED / self.average);
        let slack = moved.max(repeated) * self.rounding();
        if slack.is_finite() { slack } else { f32::INFINITY }
    }

    /// More than the factor between two sums of a document's terms in different orders.
    pub(super) fn rounding(&self) -> f32 {
        1.0 + (2 * self.weights.len() + 32) as f32 * f32::EPSILON
    }
}

#[cfg(test)]
mod tests {
    use spandrel_storage::{FieldId, TenantId};
    use tantivy::fieldnorm::FieldNormReader;

    use super::super::stats::Match;
    use super::*;

    fn bm25(docs: u64, tokens: u64, doc_freq: u64) -> Bm25 {
        let query = TextQuery::of_terms(FieldId(0), TenantId(0), Match::Any, ["a"]).unwrap();
        Bm25::new(&query, &TextStats { docs, tokens, doc_freq: vec![doc_freq] })
    }

    #[test]
    fn the_score_is_the_formula() {
        let scorer = bm25(1000, 57_000, 30);
        for (length, freq) in [(1, 1), (40, 3), (100, 7), (1000, 1)] {
            let norm = FieldNormReader::fieldnorm_to_id(length);
            let rounded = f64::from(FieldNormReader::id_to_fieldnorm(norm));
            assert!(rounded <= f64::from(length) && rounded * 9.0 / 8.0 > f64::from(length));
            let idf = (1.0f64 + (1000.0 - 30.0 + 0.5) / 30.5).ln();
            let tf = f64::from(freq);
            let expected = idf * 2.2 * tf / (tf + 1.2 * (0.25 + 0.75 * rounded / 57.0));
            assert!((f64::from(scorer.score(0, norm, freq)) / expected - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn lengths_are_never_rounded_down_by_an_eighth() {
        for id in 0..255u8 {
            let next = u64::from(FieldNormReader::id_to_fieldnorm(id + 1));
            assert!(
                (next - 1) * 8 < u64::from(FieldNormReader::id_to_fieldnorm(id)) * 9 + 8 * u64::from(id == 0)
            );
        }
    }

    #[test]
    fn no_document_exceeds_its_bound_by_more_than_the_slack() {
        let averages: [f64; 7] = [1.0, 1.3, 2.0, 7.0, 57.0, 400.0, 20_000.0];
        let mut pairs = Vec::new();
        for length in (1..60).chain([100, 143, 1000, 9239, 50_000]) {
            let norm = FieldNormReader::fieldnorm_to_id(length);
            pairs.extend([1, 2, 5, length / 2, length].map(|freq| (norm, freq.clamp(1, length))));
        }
        for ours in averages {
            for stored in averages {
                let scorer = bm25(1000, (ours * 1000.0) as u64, 30);
                let segment = bm25(1000, (stored * 1000.0) as u64, 30);
                let slack = scorer.slack(segment.average);
                assert!(f64::from(slack) < 1.2 * (ours / stored).max(stored / ours));
                let limit = scorer.weights[0].max_score() * slack;
                for (norm, freq) in &pairs {
                    let score = scorer.score(0, *norm, *freq);
                    assert!(score <= limit);
                    for (best_norm, best_freq) in &pairs {
                        if segment.score(0, *norm, *freq) <= segment.score(0, *best_norm, *best_freq) {
                            assert!(score <= scorer.score(0, *best_norm, *best_freq) * slack);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn impossible_statistics_are_moved_into_range() {
        let scorer = bm25(10, 0, 50);
        assert_eq!(scorer.stats(), &TextStats { docs: 10, tokens: 10, doc_freq: vec![10] });
        assert!(scorer.score(0, 5, 3) > 0.0);
        assert!(bm25(0, 0, 0).is_empty());
    }
}
