//! What the questions of a class came to.

use serde_json::{Map, Value, json};

use crate::Result;
use crate::latency::Latency;
use crate::report::median;

/// The name of the class of all questions.
pub const ALL: &str = "all";

/// Sums over the questions of a class.
pub struct Class {
    asks: usize,
    rows: usize,
    recall: f64,
    short: usize,
    latency: Latency,
    time_us: f64,
    explained: usize,
    read_bytes: u64,
    scored: u64,
    estimate_ratios: Vec<f64>,
}

impl Class {
    /// No question yet.
    ///
    /// # Errors
    /// Never: see [`Latency::new`].
    pub fn new() -> Result<Self> {
        Ok(Self {
            asks: 0,
            rows: 0,
            recall: 0.0,
            short: 0,
            latency: Latency::new()?,
            time_us: 0.0,
            explained: 0,
            read_bytes: 0,
            scored: 0,
            estimate_ratios: Vec::new(),
        })
    }

    /// Counts a question to a scope of `rows` rows: `good` of `true_hits` were found, with `hits` in all.
    pub fn add(&mut self, rows: usize, time_us: f64, hits: usize, good: usize, true_hits: usize) {
        self.asks += 1;
        self.rows += rows;
        self.recall += good as f64 / true_hits.max(1) as f64;
        self.short += usize::from(hits < true_hits);
        self.time_us += time_us;
        self.latency.record(std::time::Duration::from_secs_f64(time_us / 1e6));
    }

    /// Counts the work of a question that was explained, and what was expected of it by what it took.
    pub fn add_work(&mut self, read_bytes: u64, scored: u64, estimate_ratio: Option<f64>) {
        self.estimate_ratios.extend(estimate_ratio);
        self.explained += 1;
        self.read_bytes += read_bytes;
        self.scored += scored;
    }

    /// Mean rows of the scopes asked.
    pub fn rows_mean(&self) -> f64 {
        self.rows as f64 / self.asks.max(1) as f64
    }

    /// The figures of the class.
    pub fn figures(&self) -> Map<String, Value> {
        let per_ask = |value: f64| value / self.asks as f64;
        let per_explained = |value: f64| (self.explained > 0).then(|| value / self.explained as f64);
        let figures = json!({
            "asks": self.asks,
            "rows_mean": self.rows_mean(),
            "recall": per_ask(self.recall),
            "short": self.short,
            "p50_us": self.latency.quantile_us(0.5),
            "p99_us": self.latency.quantile_us(0.99),
            "mean_us": per_ask(self.time_us),
            "read_kb": per_explained(self.read_bytes as f64 / 1024.0),
            "scored": per_explained(self.scored as f64),
            "estimate_ratio": (!self.estimate_ratios.is_empty()).then(|| median(&self.estimate_ratios)),
        });
        figures.as_object().cloned().unwrap_or_default()
    }
}
