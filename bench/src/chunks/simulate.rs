//! Serves a trace by one system, and adds up what it computed, moved and saved.
//!
//! Latency is a model: the question and all tokens that are computed, plus all loads one after the other;
//! a server that loads a layer while it computes another is faster. Everything counts from the first query
//! on, when nothing is cached. Cost saved is that of computing all chunks, less what was computed and loaded.

use super::trace::{Assumptions, Hit, Trace};
use spandrel::rag::kv::order::{Ranked, Reused, order};

/// What serving one query took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// Tokens of its chunks that were computed.
    pub computed_tokens: f64,
    /// Time to compute them.
    pub compute_us: f64,
    /// Time to load tensors.
    pub load_us: f64,
    /// Bytes loaded, or moved between tiers.
    pub moved_bytes: u64,
}

/// Serves contexts from what it keeps.
pub trait System {
    /// What chunk `hits[at]` reuses behind others.
    fn reuse(&self, hits: &[Hit], at: usize, before: &[usize]) -> Reused;

    /// Serves a context; keeps what it likes of it.
    fn serve(&mut self, hits: &[Hit]) -> Served;
}

/// Computes everything.
pub struct Full<'a> {
    /// What computing takes.
    pub assumed: &'a Assumptions,
    /// The chunks.
    pub trace: &'a Trace,
}

impl System for Full<'_> {
    fn reuse(&self, _: &[Hit], _: usize, _: &[usize]) -> Reused {
        Reused::default()
    }

    fn serve(&mut self, hits: &[Hit]) -> Served {
        let (mut served, mut before) = (Served::default(), 0.0);
        for hit in hits {
            let chunk = &self.trace.chunks[hit.chunk as usize];
            let tokens = f64::from(chunk.tokens);
            served.computed_tokens += tokens;
            served.compute_us += self.assumed.compute_us(chunk, tokens, before);
            before += tokens;
        }
        served
    }
}

/// What serving a trace came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Tokens of all chunks.
    pub tokens: f64,
    /// Those that were computed.
    pub computed_tokens: f64,
    /// Bytes loaded or moved.
    pub moved_bytes: u64,
    /// Cost saved.
    pub saved_us: f64,
    /// Mean latency.
    pub mean_us: f64,
    /// Latency that 95 of 100 queries keep to.
    pub p95_us: f64,
    /// Mean quality of orders, by best first.
    pub quality: f64,
}

impl Report {
    /// The share of tokens that were not computed.
    pub fn hit_rate(&self) -> f64 {
        if self.tokens > 0.0 { 1.0 - self.computed_tokens / self.tokens } else { 0.0 }
    }
}

/// Serves all queries in turn, each with its chunks in an order of at most so much less quality.
pub fn simulate(assumed: &Assumptions, trace: &Trace, tolerance: f64, system: &mut dyn System) -> Report {
    let (mut report, mut latencies) = (Report::default(), Vec::with_capacity(trace.queries.len()));
    let mut full = Full { assumed, trace };
    let question_us = f64::from(assumed.question_tokens) * assumed.token_us;
    for hits in &trace.queries {
        let ranked = |hit: &Hit| Ranked { score: hit.score, tokens: trace.chunks[hit.chunk as usize].tokens };
        let ranked: Vec<Ranked> = hits.iter().map(ranked).collect();
        let chosen = order(&ranked, tolerance, |at, before| system.reuse(hits, at, before));
        let ordered: Vec<Hit> = chosen.order.iter().map(|at| hits[*at]).collect();
        // Both in the order that is served: an order saves by what it reuses, not by dear chunks first.
        let all = full.serve(&ordered);
        let served = system.serve(&ordered);
        report.tokens += all.computed_tokens;
        report.computed_tokens += served.computed_tokens;
        report.moved_bytes += served.moved_bytes;
        report.saved_us += all.compute_us - served.compute_us - served.load_us;
        report.quality += chosen.quality;
        latencies.push(question_us + served.compute_us + served.load_us);
    }
    let count = latencies.len().max(1) as f64;
    report.quality /= count;
    report.mean_us = latencies.iter().sum::<f64>() / count;
    latencies.sort_by(f64::total_cmp);
    report.p95_us = latencies.get(latencies.len() * 95 / 100).copied().unwrap_or(0.0);
    report
}
