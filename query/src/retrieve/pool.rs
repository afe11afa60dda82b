//! Makes the pool that selectors choose from: what candidates cost, how relevant they are, what they cover,
//! whom they refer to.
//!
//! All of it comes from the candidates themselves, no model and no statistics of the collection: relevance is
//! the score within the pool, 0 for the worst to 1 for the best; a term of the question weighs what it is
//! rare in the pool (`ln(1 + (n - df + 0.5) / (df + 0.5))`), and is covered whole where it is among the first
//! words of a chunk, which name what it is about, and to [`BODY_COVER`] elsewhere. A chunk refers to another
//! when it says rare words that the other one begins with and the question does not: the second hop of a
//! question is found by what the first one names. Measured on multi-hop questions (docs/rag.md), the pool's
//! own rarity is better than the collection's.
//!
//! Near copies, by their runs of words, are one voice: a word is as rare as the texts that say it are
//! different, a copy refers to none of its own, and what a better ranked one says is worth nothing again.
//! Otherwise copies would speak for each other, and fill the context.
//!
//! Cost: each text's words are hashed once; a sort of all words of the pool, and of a part of its runs of
//! words; references look at pairs that share a rare word only.

use std::collections::HashMap;

use super::candidate::Candidate;
use super::shingles::runs;
use super::terms::terms;
use crate::request::Route;
use crate::select::bits::Bits;
use crate::select::pool::{Aspects, Item, POOL_MAX, Pool};

/// Words of a chunk that name what it is about.
const HEAD_TERMS: usize = 12;
/// How far a term is covered that is not among those.
const BODY_COVER: f32 = 0.6;
/// A word is rare when at most this share of the pool has it, or [`RARE_MIN`] candidates.
const RARE_SHARE: usize = 10;
/// See [`RARE_SHARE`].
const RARE_MIN: usize = 2;
/// Rarity of shared words, in nats, from which a reference is as clear as it gets.
const CLEAR_NATS: f32 = 8.0;
/// Most terms of a question that are aspects: its rarest.
const ASPECTS_MAX: usize = 32;
/// Words of the runs that copies are told by. Of more than so many runs every fourth is looked at, by its
/// hash.
const RUN_WORDS: usize = 5;
const RUNS_MAX: usize = 4_096;
const RUNS_EVERY: u64 = 4;
/// The share of one's runs that another has from which it repeats it, and from which both are one voice.
const REPEAT_MIN: f32 = 0.2;
const VOICE_MIN: f32 = 0.4;
/// A candidate is compared with the first so many that share a run with it.
const RUN_HOLDERS_MAX: usize = 16;

/// What the pool is made of besides the candidates.
pub struct Parts<'a> {
    /// Tokens of each candidate in the context, with separator and overhead.
    pub tokens: &'a [u32],
    /// The question in words.
    pub question: Option<&'a str>,
    /// Parts of the question, whose scores hits carry after those of this many routes.
    pub needs: (usize, &'a [Route]),
    /// Whether what candidates say is looked at.
    pub words: bool,
    /// Whether candidates carry vectors to compare.
    pub similarity: bool,
}

/// The pool of the first [`POOL_MAX`] candidates.
pub fn pool(candidates: &[Candidate], parts: &Parts<'_>) -> Pool {
    let candidates = &candidates[..candidates.len().min(POOL_MAX)];
    let scores: Vec<f32> = candidates.iter().map(|one| one.score).collect();
    let relevance = scaled(&scores);
    let mut documents: HashMap<&str, u32> = HashMap::new();
    let mut items = Vec::with_capacity(candidates.len());
    for (at, one) in candidates.iter().enumerate() {
        let count = documents.len() as u32;
        // One without a document is its own.
        let document = one.document().unwrap_or(one.key());
        let document = *documents.entry(document).or_insert(count);
        let span = one.hit.row.chunk.as_ref().map(|chunk| chunk.span.clone());
        // A text that is not the bytes of its span cannot be merged with another.
        let span = span.filter(|span| span.end.saturating_sub(span.start) == one.text.len() as u64);
        let span = span.unwrap_or_default();
        items.push(Item { tokens: parts.tokens[at], relevance: relevance[at], document, span });
    }
    let mut pool = Pool::new(items);
    if parts.words {
        let repeats = repeats(candidates);
        let words = Words::new(candidates, voices(candidates.len(), &repeats));
        let question = parts.question.map(terms).unwrap_or_default();
        pool = pool.with_aspects(words.aspects(&question, candidates, parts.needs));
        pool = pool.with_references(&words.references(&question)).with_repeats(&repeats);
    }
    if parts.similarity {
        pool = pool.with_similarity(similarity(candidates));
    }
    pool
}

/// Scores as 0 for the worst to 1 for the best; all 1 where they are equal.
fn scaled(scores: &[f32]) -> Vec<f32> {
    let low = scores.iter().copied().fold(f32::INFINITY, f32::min);
    let high = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = |score: &f32| if high > low { (score - low) / (high - low) } else { 1.0 };
    scores.iter().map(scale).collect()
}

/// The words of all candidates.
struct Words<'a> {
    /// Of each candidate its first words.
    heads: Vec<&'a [u64]>,
    /// Each word with the candidates that have it, ascending.
    having: HashMap<u64, Vec<u16>>,
    /// Of each candidate its voice, and how many there are.
    voices: Vec<u16>,
    count: usize,
}

impl<'a> Words<'a> {
    fn new(candidates: &'a [Candidate], (voices, count): (Vec<u16>, usize)) -> Self {
        let mut having: HashMap<u64, Vec<u16>> = HashMap::new();
        for (at, one) in candidates.iter().enumerate() {
            for &word in one.words() {
                let holders = having.entry(word).or_default();
                if holders.last() != Some(&(at as u16)) {
                    holders.push(at as u16);
                }
            }
        }
        let head = |one: &'a Candidate| &one.words()[..one.words().len().min(HEAD_TERMS)];
        Self { heads: candidates.iter().map(head).collect(), having, voices, count }
    }

    /// How many voices say a word that these candidates have.
    fn voices(&self, holders: &[u16]) -> usize {
        if self.count == self.voices.len() {
            return holders.len();
        }
        let mut voices = Bits::default();
        holders.iter().for_each(|&at| voices.add(self.voices[usize::from(at)]));
        voices.count()
    }

    fn holders(&self, word: u64) -> &[u16] {
        self.having.get(&word).map_or(&[], Vec::as_slice)
    }

    /// Terms of the question that the pool has, and needs.
    fn aspects(
        &self,
        question: &[u64],
        candidates: &[Candidate],
        (routes, needs): (usize, &[Route]),
    ) -> Aspects {
        let weight = |word: u64| {
            let df = self.voices(self.holders(word)) as f32;
            (1.0 + (self.count as f32 - df + 0.5) / (df + 0.5)).ln()
        };
        let mut terms: Vec<(u64, f32)> = Vec::new();
        for &word in question {
            if !self.holders(word).is_empty() && terms.iter().all(|(other, _)| *other != word) {
                terms.push((word, weight(word)));
            }
        }
        terms.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        terms.truncate(ASPECTS_MAX);
        let sum: f32 = terms.iter().map(|(_, weight)| weight).sum();
        let wanted: f32 = needs.iter().map(|need| need.weight.max(0.0)).sum();
        // Needs weigh as much as all terms together, where there are any.
        let share = if sum > 0.0 { sum } else { 1.0 } / wanted.max(f32::MIN_POSITIVE);
        let mut weights: Vec<f32> = terms.iter().map(|(_, weight)| *weight).collect();
        weights.extend(needs.iter().map(|need| need.weight.max(0.0) * share));
        let width = weights.len();
        let mut cover = vec![0.0; candidates.len() * width];
        for (at, (word, _)) in terms.iter().enumerate() {
            for &holder in self.holders(*word) {
                let head = self.heads[usize::from(holder)].contains(word);
                cover[usize::from(holder) * width + at] = if head { 1.0 } else { BODY_COVER };
            }
        }
        for at in 0..needs.len() {
            let score = |one: &Candidate| one.hit.routes.get(routes + at).copied().flatten();
            let known: Vec<f32> = candidates.iter().filter_map(score).map(|score| score.score).collect();
            let mut scaled = scaled(&known).into_iter();
            for (row, one) in candidates.iter().enumerate() {
                if score(one).is_some() {
                    cover[row * width + terms.len() + at] = scaled.next().unwrap_or(0.0);
                }
            }
        }
        Aspects { weights, cover }
    }

    /// Who says rare words that another begins with.
    fn references(&self, question: &[u64]) -> Vec<(u16, u16, f32)> {
        let rare_max = RARE_MIN.max(self.count / RARE_SHARE);
        let mut strengths: HashMap<(u16, u16), f32> = HashMap::new();
        let mut seen: Vec<u64> = Vec::with_capacity(HEAD_TERMS);
        for (to, head) in self.heads.iter().enumerate() {
            seen.clear();
            for &word in *head {
                let holders = self.holders(word);
                let voices = self.voices(holders);
                let rare = (2..=rare_max).contains(&voices);
                if !rare || seen.contains(&word) || question.contains(&word) {
                    continue;
                }
                seen.push(word);
                let nats = (self.count as f32 / voices as f32).ln();
                for &from in holders {
                    if self.voices[usize::from(from)] != self.voices[to] {
                        *strengths.entry((from, to as u16)).or_default() += nats / CLEAR_NATS;
                    }
                }
            }
        }
        let mut references: Vec<_> =
            strengths.into_iter().map(|((from, to), strength)| (from, to, strength)).collect();
        references.sort_unstable_by_key(|&(from, to, _)| (from, to));
        references
    }
}

/// Which candidate says how much of a worse ranked one, from [`REPEAT_MIN`] on.
fn repeats(candidates: &[Candidate]) -> Vec<(u16, u16, f32)> {
    let mut all: Vec<(u64, u16)> = Vec::new();
    let count: usize = candidates.iter().map(|one| one.words().len()).sum();
    let every = if count > RUNS_MAX { RUNS_EVERY } else { 1 };
    for (at, one) in (0..).zip(candidates) {
        let of = runs(one.words(), RUN_WORDS).filter(|run| run.is_multiple_of(every));
        all.extend(of.map(|run| (run, at)));
    }
    all.sort_unstable();
    all.dedup();
    let mut counts = vec![0_u32; candidates.len()];
    all.iter().for_each(|(_, at)| counts[usize::from(*at)] += 1);
    let mut shared: HashMap<(u16, u16), u32> = HashMap::new();
    for holders in all.chunk_by(|a, b| a.0 == b.0) {
        for (place, (_, worse)) in holders.iter().enumerate() {
            for (_, better) in &holders[..place.min(RUN_HOLDERS_MAX)] {
                *shared.entry((*better, *worse)).or_default() += 1;
            }
        }
    }
    let share = |((better, worse), shared): ((u16, u16), u32)| {
        let share = shared as f32 / counts[usize::from(worse)].max(1) as f32;
        (share >= REPEAT_MIN).then_some((better, worse, share))
    };
    let mut repeats: Vec<_> = shared.into_iter().filter_map(share).collect();
    repeats.sort_unstable_by_key(|&(better, worse, _)| (better, worse));
    repeats
}

/// The voice of each candidate, and how many there are: who repeats another from [`VOICE_MIN`] on has the
/// voice of the best ranked one that he repeats.
fn voices(count: usize, repeats: &[(u16, u16, f32)]) -> (Vec<u16>, usize) {
    let mut voices: Vec<u16> = (0..count as u16).collect();
    // By the better one, ascending: its own voice is known by then.
    for &(better, worse, share) in repeats {
        if share >= VOICE_MIN && voices[usize::from(worse)] == worse {
            voices[usize::from(worse)] = voices[usize::from(better)];
        }
    }
    let different = voices.iter().zip(0..).filter(|(voice, at)| **voice == *at).count();
    (voices, different)
}

/// The cosine of each pair; 0 where one has no vector.
fn similarity(candidates: &[Candidate]) -> Vec<f32> {
    let n = candidates.len();
    let unit = |one: &Candidate| {
        let vector = one.vector.as_deref().unwrap_or_default();
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.iter().map(|x| x / norm.max(f32::MIN_POSITIVE)).collect::<Vec<f32>>()
    };
    let units: Vec<Vec<f32>> = candidates.iter().map(unit).collect();
    let mut similarity = vec![0.0; n * n];
    for a in 0..n {
        similarity[a * n + a] = 1.0;
        for b in 0..a {
            let dot = dot(&units[a], &units[b]);
            similarity[a * n + b] = dot;
            similarity[b * n + a] = dot;
        }
    }
    similarity
}

/// In eight sums, so that the compiler can keep them side by side; always in the same order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// The mean similarity of pairs of these, and how many different ones they amount to (Vendi score, Friedman
/// and Dieng, 2023: `exp` of the entropy of the eigenvalues of their similarities by their number).
pub fn diversity(pool: &Pool, items: &[u16]) -> Option<(f32, f32)> {
    let rows: Vec<&[f32]> = items.iter().map(|&at| pool.similarity(at)).collect::<Option<_>>()?;
    let n = items.len();
    if n == 0 || n > VENDI_MAX {
        return None;
    }
    let at = |a: usize, b: usize| f64::from(rows[a][usize::from(items[b])]);
    let pairs: f64 = (0..n).flat_map(|a| (0..a).map(move |b| (a, b))).map(|(a, b)| at(a, b)).sum();
    let mean = if n > 1 { pairs / (n * (n - 1) / 2) as f64 } else { 0.0 };
    let matrix = (0..n * n).map(|cell| at(cell / n, cell % n) / n as f64).collect();
    let entropy: f64 = eigenvalues(matrix, n)
        .into_iter()
        .filter(|value| *value > 1e-12)
        .map(|value| -value * value.ln())
        .sum();
    Some((mean as f32, entropy.exp() as f32))
}

/// Most chunks whose Vendi score is reported.
const VENDI_MAX: usize = 64;

/// Of a symmetric matrix, by Jacobi rotations.
fn eigenvalues(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    for _ in 0..32 {
        let off: f64 =
            (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * n + j].powi(2)).sum();
        if off < 1e-18 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, n, (p, q));
            }
        }
    }
    (0..n).map(|i| a[i * n + i]).collect()
}

fn rotate(a: &mut [f64], n: usize, (p, q): (usize, usize)) {
    let apq = a[p * n + q];
    if apq.abs() < 1e-15 {
        return;
    }
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let t = if theta == 0.0 { 1.0 } else { t };
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    for k in 0..n {
        let (kp, kq) = (a[k * n + p], a[k * n + q]);
        a[k * n + p] = c * kp - s * kq;
        a[k * n + q] = s * kp + c * kq;
    }
    for k in 0..n {
        let (pk, qk) = (a[p * n + k], a[q * n + k]);
        a[p * n + k] = c * pk - s * qk;
        a[q * n + k] = s * pk + c * qk;
    }
}

#[cfg(test)]
mod tests;
