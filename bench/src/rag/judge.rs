//! How much of a question's evidence is in a context, and what is the most that could be.

use std::collections::HashMap;
use std::ops::Range;

use spandrel::rag::tokens::Tokenizer;
use spandrel::{Chunk, PackedChunk, RetrieveResponse};

use super::questions::{Question, Set};

/// Bytes of documents, by key.
pub type Places = HashMap<String, Vec<Range<usize>>>;

/// A question's evidence with what it weighs.
pub struct Evidence {
    /// Document, bytes, tokens.
    parts: Vec<(String, Range<usize>, f64)>,
    answers: Vec<String>,
}

/// What one context has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judged {
    /// Share of the evidence's tokens that is in it.
    pub recall: f64,
    /// Share of the context's text that is evidence.
    pub precision: f64,
    /// Whether all evidence is in it.
    pub full: bool,
    /// Whether an answer is in it word by word.
    pub answer: bool,
}

impl Evidence {
    /// Of a question of a set.
    pub fn new(set: &Set, question: &Question, tokenizer: &Tokenizer) -> Self {
        let text =
            |key: &str| set.documents.iter().find(|one| one.key == key).map_or("", |one| one.text.as_str());
        let part = |(key, range): &(String, Range<usize>)| {
            let tokens = tokenizer.count(&text(key)[range.clone()]) as f64;
            (key.clone(), range.clone(), tokens)
        };
        let answers = question.answers.iter().map(|answer| normalized(answer)).collect();
        Self { parts: question.evidence.iter().map(part).collect(), answers }
    }

    fn tokens(&self) -> f64 {
        self.parts.iter().map(|(_, _, tokens)| tokens).sum()
    }

    /// Tokens of the evidence within these places, overlaps counted once.
    fn covered(&self, places: &Places) -> f64 {
        let part = |(key, range, tokens): &(String, Range<usize>, f64)| {
            let covered = places.get(key).map_or(0, |places| overlap(range, places));
            tokens * covered as f64 / range.len().max(1) as f64
        };
        self.parts.iter().map(part).sum()
    }

    /// Share of the evidence's tokens that these chunks have together.
    pub fn recall_of<'a>(&self, chunks: impl Iterator<Item = &'a Chunk>) -> f64 {
        let mut places = Places::new();
        for chunk in chunks {
            let range = chunk.span.start as usize..chunk.span.end as usize;
            places.entry(chunk.document.clone()).or_default().push(range);
        }
        self.covered(&places) / self.tokens().max(1.0)
    }

    /// Judges a context.
    pub fn judge(&self, response: &RetrieveResponse) -> Judged {
        let places = places(&response.chunks);
        let covered = self.covered(&places);
        let bytes: usize = response.chunks.iter().map(|chunk| chunk.context_span.len()).sum();
        let evidence_bytes: usize =
            self.parts.iter().map(|(key, range, _)| places.get(key).map_or(0, |at| overlap(range, at))).sum();
        let context = normalized(&response.context);
        Judged {
            recall: covered / self.tokens().max(1.0),
            precision: evidence_bytes as f64 / bytes.max(1) as f64,
            full: covered >= self.tokens() - 1e-6,
            answer: self.answers.iter().any(|answer| !answer.is_empty() && context.contains(answer.as_str())),
        }
    }

    /// The most of the evidence that any of these chunks can have together within a budget: the best of all
    /// sets of those that have some of it (of the sixteen that have most).
    pub fn ceiling(&self, chunks: &[PackedChunk], budget_tokens: usize, separator_tokens: usize) -> f64 {
        let mut having: Vec<(usize, Places, f64)> = Vec::new();
        for chunk in chunks {
            let places = places(std::slice::from_ref(chunk));
            let covered = self.covered(&places);
            if covered > 0.0 {
                having.push((chunk.tokens, places, covered));
            }
        }
        having.sort_by(|a, b| b.2.total_cmp(&a.2));
        having.truncate(16);
        let mut best = 0.0_f64;
        for mask in 0..1_u32 << having.len() {
            let set = || having.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1).map(|(_, one)| one);
            let between = (mask.count_ones() as usize).saturating_sub(1) * separator_tokens;
            if set().map(|(tokens, ..)| tokens).sum::<usize>() + between > budget_tokens {
                continue;
            }
            let mut together = Places::new();
            for (_, places, _) in set() {
                for (key, ranges) in places {
                    together.entry(key.clone()).or_default().extend(ranges.iter().cloned());
                }
            }
            best = best.max(self.covered(&together));
        }
        best / self.tokens().max(1.0)
    }
}

/// Where chunks are from.
fn places(chunks: &[PackedChunk]) -> Places {
    let mut places = Places::new();
    for chunk in chunks {
        let Some(source) = &chunk.hit.row.chunk else { continue };
        let range = chunk.source_span.clone().unwrap_or(source.span.clone());
        places.entry(source.document.clone()).or_default().push(range.start as usize..range.end as usize);
    }
    places
}

/// Bytes of `range` that are in any of the places.
fn overlap(range: &Range<usize>, places: &[Range<usize>]) -> usize {
    let mut inside: Vec<Range<usize>> = places
        .iter()
        .map(|at| at.start.max(range.start)..at.end.min(range.end))
        .filter(|at| !at.is_empty())
        .collect();
    inside.sort_by_key(|at| at.start);
    let (mut end, mut bytes) = (range.start, 0);
    for at in inside {
        bytes += at.end.saturating_sub(at.start.max(end));
        end = end.max(at.end);
    }
    bytes
}

/// Lower-cased words without punctuation and articles, as SQuAD compares answers.
pub fn normalized(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|char: char| !char.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut normalized = String::from(" ");
    for word in words.filter(|word| !matches!(*word, "a" | "an" | "the")) {
        normalized.push_str(word);
        normalized.push(' ');
    }
    if normalized.len() > 1 { normalized } else { String::new() }
}
