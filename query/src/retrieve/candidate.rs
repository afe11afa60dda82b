//! A candidate on its way from the search to the context, and why one does not arrive.

use std::cell::OnceCell;

use serde::Serialize;

use super::terms::terms;
use crate::response::Hit;

/// What was found, with its text.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The row with the fields that were asked for, and its scores.
    pub hit: Hit,
    /// The text that would stand in the context; empty where the row has none.
    pub text: String,
    /// What it is ranked by: the search's score until a reranker gives another.
    pub score: f32,
    /// Its rank in the search, from 1.
    pub rank: usize,
    /// Values of payload fields that stages look at, by position among the fields asked for.
    pub values: Vec<Option<String>>,
    /// Its vector, where similarity is looked at.
    pub vector: Option<Vec<f32>>,
    words: OnceCell<Vec<u64>>,
}

impl Candidate {
    /// A hit of this rank with its text.
    pub fn new(hit: Hit, text: String, rank: usize) -> Self {
        let score = hit.score;
        Self { hit, text, score, rank, values: Vec::new(), vector: None, words: OnceCell::new() }
    }

    /// Its key.
    pub fn key(&self) -> &str {
        &self.hit.row.key
    }

    /// The document that it is of.
    pub fn document(&self) -> Option<&str> {
        self.hit.row.chunk.as_ref().map(|chunk| chunk.document.as_str())
    }

    /// Its words, hashed; once.
    pub fn words(&self) -> &[u64] {
        self.words.get_or_init(|| terms(&self.text))
    }
}

/// Why a candidate is not in the context.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its row has no text.
    NoText,
    /// It did not fit any more.
    Budget,
    /// It would have fitted; others were worth more together.
    LowGain,
    /// The same, or nearly, as this one.
    DuplicateOf(String),
    /// It shares too much with a text it is not to share with.
    Contaminated,
    /// It does not look like text worth reading.
    LowQuality,
    /// There are enough of its document, or of its value.
    Quota,
    /// It is not in the smaller datastore that was asked for, or not drawn.
    NotSampled,
    /// Its group was not kept.
    Funnel,
    /// The ranking was cut before it.
    Cut,
    /// Its row has lost the labels the search was made on behalf of.
    AccessLost,
    /// The request says so.
    Excluded,
}

/// A candidate that did not arrive.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rejected {
    /// Its key.
    pub key: String,
    /// Why.
    pub reason: Reason,
}

/// Rejected candidates that a response names at most, the best ranked of each stage first.
pub const REJECTED_MAX: usize = 32;

/// What a stage did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StageCount {
    /// The stage.
    pub name: String,
    /// Candidates that entered.
    pub rows_in: u64,
    /// Candidates that left.
    pub rows_out: u64,
}

/// What became of the candidates so far.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The first that were rejected.
    pub rejected: Vec<Rejected>,
    /// Stages in the order in which they ran.
    pub stages: Vec<StageCount>,
}

impl Ledger {
    /// Notes one that does not go on.
    pub fn reject(&mut self, candidate: &Candidate, reason: Reason) {
        if self.rejected.len() < REJECTED_MAX {
            self.rejected.push(Rejected { key: candidate.key().to_owned(), reason });
        }
    }

    /// Keeps those of which `verdict` has no reason against, and notes the stage.
    pub fn retain(
        &mut self,
        name: &str,
        candidates: Vec<Candidate>,
        mut verdict: impl FnMut(&Candidate) -> Option<Reason>,
    ) -> Vec<Candidate> {
        let rows_in = candidates.len() as u64;
        let mut kept = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            match verdict(&candidate) {
                None => kept.push(candidate),
                Some(reason) => self.reject(&candidate, reason),
            }
        }
        self.note(name, rows_in, kept.len());
        kept
    }

    /// Notes what a stage did.
    pub fn note(&mut self, name: &str, rows_in: u64, rows_out: usize) {
        self.stages.push(StageCount { name: name.to_owned(), rows_in, rows_out: rows_out as u64 });
    }
}
