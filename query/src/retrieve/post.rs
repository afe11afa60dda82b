//! Stages between search and selection: which candidates go on, in which order.
//!
//! Those of a large datastore (MassiveDS, Shao et al., NeurIPS 2024): de-duplication, decontamination, a
//! quality filter, subsampling; quotas; cuts; reranking. Each stage is a function of the candidates that
//! enter it; they run in the order of the request. Since they look at one candidate, or at better ranked ones
//! only, filtering what a search found is the same as searching what the filter leaves, as long as the search
//! goes deep enough: that is what `survivors` asks for.
//!
//! Cost: words are hashed once a candidate; near duplicates take one look-up a shingle, decontamination one a
//! word.

use std::collections::{HashMap, HashSet};

use spandrel_index::stop::Stop;

use super::candidate::{Candidate, Ledger, Reason};
use super::request::{Cut, PostStage};
use super::shingles::{jaccard, shingles};
use crate::error::{Error, Result};
use crate::rag::rerank::{Reranker, pairwise};
use crate::random::hashed_unit;

/// Texts that a request decontaminates against, and their bytes taken together.
pub const AGAINST_MAX: usize = 1_024;
/// See [`AGAINST_MAX`].
pub const AGAINST_BYTES_MAX: usize = 4 << 20;
/// Words a shingle of decontamination has, as in MassiveDS.
const CONTAMINATED_SHINGLE: usize = 13;

/// What stages may need from outside.
pub struct Surroundings<'a> {
    /// The question in words, where there is one.
    pub question: Option<&'a str>,
    /// The database's reranker.
    pub reranker: Option<&'a dyn Reranker>,
    /// Payload fields whose values candidates carry, in their order.
    pub fields: &'a [String],
    /// Of which keys the rows have lost their labels by now.
    pub lost: &'a dyn Fn(&[&str]) -> Vec<bool>,
    /// The request's end.
    pub stop: &'a Stop,
}

impl PostStage {
    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AccessRecheck => "access_recheck",
            Self::Dedup { .. } => "dedup",
            Self::Decontaminate { .. } => "decontaminate",
            Self::Quality { .. } => "quality",
            Self::PerDocument { .. } => "per_document",
            Self::PerValue { .. } => "per_value",
            Self::Subsample { .. } => "subsample",
            Self::Rerank { .. } => "rerank",
            Self::RerankPairs { .. } => "rerank_pairs",
            Self::Cut(_) => "cut",
        }
    }

    /// Whether it looks at a candidate by itself, whatever others there are.
    pub fn looks_at_one(&self) -> bool {
        matches!(
            self,
            Self::AccessRecheck | Self::Decontaminate { .. } | Self::Quality { .. } | Self::Subsample { .. }
        )
    }

    /// Checks the ranges of its parameters.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) naming the parameter.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::invalid(format!("post stage {}: {what}", self.name())));
        let share = |name: &str, value: f64| {
            if (0.0..=1.0).contains(&value) {
                Ok(())
            } else {
                wrong(format!("{name} is {value}; it is 0 to 1"))
            }
        };
        match self {
            Self::AccessRecheck => Ok(()),
            Self::Dedup { near, shingle_words } => {
                if !(1..=32).contains(shingle_words) {
                    return wrong(format!("shingle_words is {shingle_words}; it is 1 to 32"));
                }
                match near {
                    Some(near) if !(*near > 0.0 && *near <= 1.0) => {
                        wrong(format!("near is {near}; it is above 0 and at most 1"))
                    }
                    _ => Ok(()),
                }
            }
            Self::Decontaminate { against, run_words, jaccard } => {
                let bytes: usize = against.iter().map(String::len).sum();
                if against.len() > AGAINST_MAX || bytes > AGAINST_BYTES_MAX {
                    return wrong(format!(
                        "at most {AGAINST_MAX} texts of {AGAINST_BYTES_MAX} bytes together, these are {} of {bytes}",
                        against.len()
                    ));
                }
                if *run_words == 0 {
                    return wrong("run_words is 0; it is at least 1".into());
                }
                share("jaccard", f64::from(*jaccard))
            }
            Self::Quality { letters_min, repeats_max, .. } => {
                share("letters_min", f64::from(*letters_min))?;
                share("repeats_max", f64::from(*repeats_max))
            }
            Self::PerDocument { max: 0 } | Self::PerValue { max: 0, .. } => {
                wrong("max is 0; it is at least 1".into())
            }
            Self::PerDocument { .. } | Self::PerValue { .. } => Ok(()),
            Self::Subsample { share: value, .. } => share("share", *value),
            Self::Rerank { depth: 0 } => wrong("depth is 0; it is at least 1".into()),
            Self::Rerank { .. } => Ok(()),
            Self::RerankPairs { depth, share: value } => {
                if *depth < 2 {
                    return wrong(format!("depth is {depth}; it is at least 2"));
                }
                match *value > 0.0 && *value <= 1.0 {
                    true => Ok(()),
                    false => wrong(format!("share is {value}; it is above 0 and at most 1")),
                }
            }
            Self::Cut(Cut::LargestGap { .. }) => Ok(()),
            Self::Cut(Cut::Share(value)) => share("share", f64::from(*value)),
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// Those of the reranker, and [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) where it needs one and
    /// there is none; the request's end.
    pub fn run(
        &self,
        candidates: Vec<Candidate>,
        around: &Surroundings<'_>,
        ledger: &mut Ledger,
    ) -> Result<Vec<Candidate>> {
        around.stop.check()?;
        let name = self.name();
        let kept = match self {
            Self::AccessRecheck => {
                let keys: Vec<&str> = candidates.iter().map(Candidate::key).collect();
                let lost = (around.lost)(&keys);
                let mut lost = lost.into_iter();
                ledger.retain(name, candidates, |_| lost.next().unwrap_or(true).then_some(Reason::AccessLost))
            }
            Self::Dedup { near, shingle_words } => dedup(candidates, (*near, *shingle_words), ledger),
            Self::Decontaminate { against, run_words, jaccard } => {
                let against = Against::new(against, *run_words, *jaccard);
                ledger.retain(name, candidates, |one| {
                    against.shares(one.words()).then_some(Reason::Contaminated)
                })
            }
            Self::Quality { words_min, letters_min, repeats_max } => ledger.retain(name, candidates, |one| {
                let good = one.words().len() >= *words_min
                    && letters(&one.text) >= *letters_min
                    && repeats(one.words()) <= *repeats_max;
                (!good).then_some(Reason::LowQuality)
            }),
            Self::PerDocument { max } => {
                let mut counts: HashMap<String, usize> = HashMap::new();
                ledger.retain(name, candidates, |one| {
                    let document = one.document()?;
                    quota(counts.entry(document.to_owned()).or_default(), *max)
                })
            }
            Self::PerValue { field, max } => {
                let at = around.fields.iter().position(|name| name == field);
                let mut counts: HashMap<Option<String>, usize> = HashMap::new();
                ledger.retain(name, candidates, |one| {
                    let value = at.and_then(|at| one.values.get(at).cloned().flatten());
                    quota(counts.entry(value).or_default(), *max)
                })
            }
            Self::Subsample { share, seed } => ledger.retain(name, candidates, |one| {
                (hashed_unit(*seed, one.key().as_bytes()) >= *share).then_some(Reason::NotSampled)
            }),
            Self::Rerank { depth } => {
                let candidates = rerank(candidates, *depth, around)?;
                ledger.note(name, candidates.len() as u64, candidates.len());
                candidates
            }
            Self::RerankPairs { depth, share } => {
                let candidates = rerank_pairs(candidates, (*depth, *share), around)?;
                ledger.note(name, candidates.len() as u64, candidates.len());
                candidates
            }
            Self::Cut(cut) => {
                let end = cut.end(&candidates.iter().map(|one| one.score).collect::<Vec<_>>());
                let mut at = 0;
                ledger.retain(name, candidates, |_| {
                    at += 1;
                    (at > end).then_some(Reason::Cut)
                })
            }
        };
        Ok(kept)
    }
}

fn quota(count: &mut usize, max: usize) -> Option<Reason> {
    *count += 1;
    (*count > max).then_some(Reason::Quota)
}

/// Share of letters and digits among characters that are no white space.
fn letters(text: &str) -> f32 {
    let visible = text.chars().filter(|char| !char.is_whitespace()).count();
    let letters = text.chars().filter(|char| char.is_alphanumeric()).count();
    letters as f32 / visible.max(1) as f32
}

/// Share of the most frequent word.
fn repeats(words: &[u64]) -> f32 {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    words.iter().for_each(|word| *counts.entry(*word).or_default() += 1);
    counts.values().copied().max().unwrap_or(0) as f32 / words.len().max(1) as f32
}

fn dedup(
    candidates: Vec<Candidate>,
    (near, words): (Option<f32>, usize),
    ledger: &mut Ledger,
) -> Vec<Candidate> {
    let mut exact: HashMap<Vec<u64>, String> = HashMap::new();
    // Of those that stay: their keys, how many shingles they have, and who has each shingle.
    let mut kept: Vec<(String, usize)> = Vec::new();
    let mut having: HashMap<u64, Vec<u32>> = HashMap::new();
    ledger.retain("dedup", candidates, |one| {
        if one.words().is_empty() {
            return None;
        }
        if let Some(of) = exact.get(one.words()) {
            return Some(Reason::DuplicateOf(of.clone()));
        }
        if let Some(near) = near {
            let shingles = shingles(one.words(), words);
            let mut shared: HashMap<u32, usize> = HashMap::new();
            let holders = shingles.iter().filter_map(|shingle| having.get(shingle)).flatten();
            holders.for_each(|&at| *shared.entry(at).or_default() += 1);
            let similar = |(&at, &both): (&u32, &usize)| {
                let all = shingles.len() + kept[at as usize].1 - both;
                (both as f32 >= near * all as f32).then_some(at)
            };
            if let Some(at) = shared.iter().filter_map(similar).min() {
                return Some(Reason::DuplicateOf(kept[at as usize].0.clone()));
            }
            let at = kept.len() as u32;
            shingles.iter().for_each(|&shingle| having.entry(shingle).or_default().push(at));
            kept.push((one.key().to_owned(), shingles.len()));
        }
        exact.insert(one.words().to_vec(), one.key().to_owned());
        None
    })
}

/// Texts that candidates are not to share with.
struct Against {
    run_words: usize,
    jaccard: f32,
    /// Every run of so many words of any of them.
    runs: HashSet<u64>,
    shingles: Vec<Vec<u64>>,
}

impl Against {
    fn new(texts: &[String], run_words: usize, jaccard: f32) -> Self {
        let words: Vec<Vec<u64>> = texts.iter().map(|text| super::terms::terms(text)).collect();
        let long = words.iter().filter(|words| words.len() >= run_words);
        let runs = long.flat_map(|words| shingles(words, run_words)).collect();
        let shingles = words.iter().map(|words| shingles(words, CONTAMINATED_SHINGLE)).collect();
        Self { run_words, jaccard, runs, shingles }
    }

    fn shares(&self, words: &[u64]) -> bool {
        let run = words.len() >= self.run_words
            && shingles(words, self.run_words).iter().any(|run| self.runs.contains(run));
        if run {
            return true;
        }
        let own = shingles(words, CONTAMINATED_SHINGLE);
        !own.is_empty() && self.shingles.iter().any(|other| jaccard(&own, other) >= self.jaccard)
    }
}

impl Cut {
    /// How many of these scores, which fall, stay.
    pub fn end(&self, scores: &[f32]) -> usize {
        match *self {
            Self::LargestGap { keep_min, extra } => {
                let from = keep_min.max(1);
                let falls = (from..scores.len()).map(|at| (at, scores[at - 1] - scores[at]));
                let largest = falls.reduce(|best, next| if next.1 > best.1 { next } else { best });
                largest.map_or(scores.len(), |(at, _)| at.saturating_add(extra).min(scores.len()))
            }
            Self::Share(share) => {
                let (Some(&best), Some(&worst)) = (scores.first(), scores.last()) else { return 0 };
                let bar = worst + share * (best - worst);
                scores.iter().take_while(|score| **score >= bar).count()
            }
        }
    }
}

/// The reranker and the question, or what is missing.
fn asked<'a>(around: &Surroundings<'a>) -> Result<(&'a dyn Reranker, &'a str)> {
    let reranker = around.reranker.ok_or_else(|| {
        Error::invalid("this database has no reranker: give it one in Components, or leave the stage out")
    })?;
    let question = around.question.ok_or_else(|| {
        Error::invalid("a reranker needs the question in words: set `question`, or search by a text")
    })?;
    Ok((reranker, question))
}

fn rerank(mut candidates: Vec<Candidate>, depth: usize, around: &Surroundings<'_>) -> Result<Vec<Candidate>> {
    let (reranker, question) = asked(around)?;
    let depth = depth.min(candidates.len());
    let texts: Vec<&str> = candidates[..depth].iter().map(|one| one.text.as_str()).collect();
    let scores = reranker.rerank(question, &texts, around.stop.deadline())?;
    crate::rag::rerank::check_scores(&scores, depth, reranker.name())?;
    ranked_by(&mut candidates, &scores);
    Ok(candidates)
}

fn rerank_pairs(
    mut candidates: Vec<Candidate>,
    (depth, share): (usize, f32),
    around: &Surroundings<'_>,
) -> Result<Vec<Candidate>> {
    let (reranker, question) = asked(around)?;
    let depth = depth.min(candidates.len());
    let texts: Vec<&str> = candidates[..depth].iter().map(|one| one.text.as_str()).collect();
    let scores = pairwise(reranker, question, &texts, share, around.stop.deadline())?;
    ranked_by(&mut candidates, &scores);
    Ok(candidates)
}

/// Gives the first candidates these scores and ranks them by those; the rest keep their order behind them, at
/// scores that go on below.
fn ranked_by(candidates: &mut [Candidate], scores: &[f32]) {
    let (first, rest) = candidates.split_at_mut(scores.len());
    first.iter_mut().zip(scores).for_each(|(one, score)| one.score = *score);
    first.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.rank.cmp(&b.rank)));
    let (Some(worst), Some(top)) = (first.last().map(|one| one.score), rest.first().map(|one| one.score))
    else {
        return;
    };
    rest.iter_mut().for_each(|one| one.score = worst.min(worst + (one.score - top)));
}
