//! What comes back of `retrieve`: plain data.

use std::ops::Range;

use serde::Serialize;

use super::candidate::{Rejected, StageCount};
use super::kv::KvChunk;
use super::request::Order;
use crate::response::{Explain, Hit, Short};
use crate::select::meter::StoppedBy;

/// A context packed from the best chunks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RetrieveResponse {
    /// The chunks' texts with the separator between them.
    pub context: String,
    /// Tokens of `context`; at most the budget less what is reserved and put around chunks.
    pub tokens: usize,
    /// The chunks in the context, in its order.
    pub chunks: Vec<PackedChunk>,
    /// What is reused of each chunk in the context, in its order; empty where it was not asked for.
    pub kv: Vec<KvChunk>,
    /// Candidates that were left out, for whatever reason.
    pub skipped: u64,
    /// Candidates considered.
    pub candidates: u64,
    /// Why the search found fewer than `k` candidates, when it did.
    pub short: Option<Short>,
    /// How the chunks were chosen.
    pub selection: SelectionReport,
    /// Some of what was left out, and why.
    pub rejected: Vec<Rejected>,
    /// What the stages between search and selection did, in the order in which they ran.
    pub stages: Vec<StageCount>,
    /// Searches that were made because stages had left too few.
    pub rounds: u32,
    /// What it would cost, when that was all that was asked for.
    pub estimate: Option<Estimate>,
    /// Set when it was asked for.
    pub explain: Option<Explain>,
}

/// One chunk of a context, or several that became one.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedChunk {
    /// The hit it came from, with its source in `row.chunk`; of merged ones the best ranked.
    pub hit: Hit,
    /// Its bytes in [`RetrieveResponse::context`].
    pub context_span: Range<usize>,
    /// Its tokens, counted alone.
    pub tokens: usize,
    /// Its rank among the candidates when they were chosen from, from 1; 0 for a neighbour of a chosen one.
    pub rank: usize,
    /// Keys of the chunks that it was merged from, in the order of their text; empty where it is one.
    pub merged_from: Vec<String>,
    /// Its bytes in its document, where it is known and the text is exactly those.
    pub source_span: Option<Range<u64>>,
}

/// How chunks were chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SelectionReport {
    /// The method, for example `submodular`.
    pub method: String,
    /// What the set is worth by the objective.
    pub value: f64,
    /// What greedy's answer is worth, where the method starts from it.
    pub greedy_value: Option<f64>,
    /// No set of these candidates is worth more, where that is known.
    pub bound: Option<f64>,
    /// Evaluations of the objective.
    pub evaluations: u64,
    /// What ended it.
    pub stopped_by: Option<StoppedBy>,
    /// Mean similarity of pairs of chosen chunks, where similarity was looked at.
    pub redundancy: Option<f32>,
    /// How many different chunks the chosen ones amount to (Vendi score), where similarity was looked at.
    pub vendi: Option<f32>,
    /// In what order they stand.
    pub order: Order,
    /// Tokens of the budget that are left.
    pub unused_tokens: usize,
    /// Of what is drawn by chance.
    pub seed: u64,
}

/// What a request would cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Rows of the tenant.
    pub tenant_rows: u64,
    /// Rows that the search may find, where a filter was looked at.
    pub matches: u64,
    /// Candidates that would be considered, at most.
    pub candidates: u64,
    /// Evaluations of the objective, at most.
    pub evaluations_max: u64,
    /// Stages that would run, in their order.
    pub stages: Vec<String>,
    /// The time it may take in microseconds, by order of magnitude.
    pub time_us: u64,
}
