//! The tables of a run: systems beside each other, by cache size, by assumed context impact, and policies as
//! shares of the offline bound. Columns are padded text, one line a row, the assumptions first.

use std::fmt::Write;

use super::flow::bound;
use super::offline::Requests;
use super::prefix::PrefixCache;
use super::server::{ChunkServer, Store};
use super::simulate::{Full, Report, System, simulate};
use super::trace::{Assumptions, Trace};
use spandrel::Result;
use spandrel::rag::kv::KvSettings;
use spandrel::rag::kv::gdsf::{EvictionPolicy, Gdsf, Lfu, Lru};
use spandrel::rag::kv::reuse::Rule;

/// Counts of past requests that outlive what goes.
const HISTORY: usize = 1 << 16;
/// Cache sizes, in shares of the working set.
const SHARES: [f64; 4] = [0.01, 0.05, 0.1, 0.25];

/// How large tiers are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tiers {
    /// In shares of the working set.
    Shares([f64; 3]),
    /// In bytes.
    Bytes([u64; 3]),
}

impl Tiers {
    fn bytes(self, working_bytes: u64) -> [u64; 3] {
        match self {
            Self::Shares(shares) => shares.map(|share| (working_bytes as f64 * share) as u64),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// What is run.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// The trace and the machine.
    pub assumed: Assumptions,
    /// Bytes of each tier.
    pub tiers: Tiers,
    /// What reuse is estimated by, and loading.
    pub rule: Rule,
    /// Variants a chunk.
    pub variants_per_chunk: usize,
    /// Requests of the trace for the bound.
    pub bound_requests: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            assumed: Assumptions::default(),
            tiers: Tiers::Shares([0.02, 0.08, 0.15]),
            rule: Rule::default(),
            variants_per_chunk: 5,
            bound_requests: 6_000,
        }
    }
}

impl Setup {
    fn settings(&self, trace: &Trace, history_chunks: usize) -> KvSettings {
        let (variants_per_chunk, rule) = (self.variants_per_chunk, self.rule);
        let bytes_max = self.tiers.bytes(trace.working_bytes());
        KvSettings { variants_per_chunk, bytes_max, history_chunks, rule, descriptors_max: usize::MAX }
    }

    /// Chunk caches by a policy.
    ///
    /// # Errors
    /// A setting is out of range.
    pub fn chunk_caches<P: EvictionPolicy>(
        &self,
        trace: &Trace,
        history: usize,
        store: Store,
        tolerance: f64,
    ) -> Result<Report> {
        let mut server = ChunkServer::<P>::new(&self.assumed, trace, self.settings(trace, history), store)?;
        Ok(simulate(&self.assumed, trace, tolerance, &mut server))
    }

    /// A prefix cache of as many bytes as all tiers together.
    pub fn prefix_cache(&self, trace: &Trace, tolerance: f64) -> Report {
        let bytes: u64 = self.settings(trace, 0).bytes_max.iter().sum();
        simulate(&self.assumed, trace, tolerance, &mut PrefixCache::new(&self.assumed, trace, bytes))
    }

    fn assumptions(&self, trace: &Trace) -> String {
        format!("{self:?}\nworking set {:.1} GiB\n", gib(trace.working_bytes()))
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

const HEAD: &str = "| system | order tolerance | computed Mtokens | vs prefix % | hit rate % | moved GiB | \
                    saved s | mean ms | p95 ms | quality |\n|---|---|---|---|---|---|---|---|---|---|\n";

fn row(name: &str, tolerance: f64, report: &Report, prefix: &Report) -> String {
    format!(
        "| {name} | {tolerance} | {:.2} | {:+.1} | {:.1} | {:.0} | {:.0} | {:.2} | {:.2} | {:.4} |\n",
        report.computed_tokens / 1e6,
        100.0 * (report.computed_tokens / prefix.computed_tokens - 1.0),
        100.0 * report.hit_rate(),
        gib(report.moved_bytes),
        report.saved_us / 1e6,
        report.mean_us / 1e3,
        report.p95_us / 1e3,
        report.quality
    )
}

/// All systems on the same trace with the same bytes.
///
/// # Errors
/// A setting is out of range.
pub fn systems(setup: &Setup) -> Result<String> {
    let trace = Trace::new(&setup.assumed);
    let mut text = setup.assumptions(&trace) + HEAD;
    let prefix = setup.prefix_cache(&trace, 0.0);
    let mut full = Full { assumed: &setup.assumed, trace: &trace };
    let full = simulate(&setup.assumed, &trace, 0.0, &mut full as &mut dyn System);
    text += &row("none", 0.0, &full, &prefix);
    for tolerance in [0.0, 0.02, 0.05] {
        text += &row("prefix", tolerance, &setup.prefix_cache(&trace, tolerance), &prefix);
    }
    for tolerance in [0.0, 0.02, 0.05] {
        let lru = setup.chunk_caches::<Lru>(&trace, 0, Store::InContext, tolerance)?;
        text += &row("chunks, lru", tolerance, &lru, &prefix);
        let lfu = setup.chunk_caches::<Lfu>(&trace, 0, Store::InContext, tolerance)?;
        text += &row("chunks, lfu", tolerance, &lfu, &prefix);
        let plain = setup.chunk_caches::<Gdsf>(&trace, 0, Store::InContext, tolerance)?;
        text += &row("chunks, gdsf, no history", tolerance, &plain, &prefix);
        let gdsf = setup.chunk_caches::<Gdsf>(&trace, HISTORY, Store::InContext, tolerance)?;
        text += &row("chunks, gdsf", tolerance, &gdsf, &prefix);
        let alone = setup.chunk_caches::<Gdsf>(&trace, HISTORY, Store::Alone, tolerance)?;
        text += &row("chunks alone, gdsf", tolerance, &alone, &prefix);
    }
    Ok(text)
}

/// Policies by cache size: all bytes in the fastest tier, and spread over tiers as the setup has it.
///
/// # Errors
/// A setting is out of range.
pub fn sizes(setup: &Setup) -> Result<String> {
    let trace = Trace::new(&setup.assumed);
    let mut text = setup.assumptions(&trace);
    for is_tiered in [false, true] {
        let place = if is_tiered { "over three tiers" } else { "in the fastest tier" };
        let _ = writeln!(text, "bytes {place}, cost saved in s and computed tokens in M");
        text += "| share | prefix | chunks, lru | lfu | gdsf, no history | gdsf | gdsf vs best other % | \
                 tokens vs prefix % |\n|---|---|---|---|---|---|---|---|\n";
        for share in SHARES {
            let parts = setup.tiers.bytes(trace.working_bytes()).map(|bytes| bytes as f64);
            let all: f64 = parts.iter().sum();
            let shares = if is_tiered { parts.map(|part| part * share / all) } else { [share, 0.0, 0.0] };
            let setup = Setup { tiers: Tiers::Shares(shares), ..setup.clone() };
            let prefix = setup.prefix_cache(&trace, 0.0);
            let lru = setup.chunk_caches::<Lru>(&trace, 0, Store::InContext, 0.0)?;
            let lfu = setup.chunk_caches::<Lfu>(&trace, 0, Store::InContext, 0.0)?;
            let plain = setup.chunk_caches::<Gdsf>(&trace, 0, Store::InContext, 0.0)?;
            let gdsf = setup.chunk_caches::<Gdsf>(&trace, HISTORY, Store::InContext, 0.0)?;
            let cell = |report: &Report| {
                format!("{:.0}, {:.2}", report.saved_us / 1e6, report.computed_tokens / 1e6)
            };
            let other = lru.saved_us.max(lfu.saved_us);
            let _ = writeln!(
                text,
                "| {share} | {} | {} | {} | {} | {} | {:+.1} | {:+.1} |",
                cell(&prefix),
                cell(&lru),
                cell(&lfu),
                cell(&plain),
                cell(&gdsf),
                100.0 * (gdsf.saved_us / other - 1.0),
                100.0 * (gdsf.computed_tokens / prefix.computed_tokens - 1.0),
            );
        }
    }
    Ok(text)
}

/// What the assumed mean context impact does, with the overlap as in the paper and as here.
///
/// # Errors
/// A setting is out of range.
pub fn sensitivity(setup: &Setup) -> Result<String> {
    let mut text = setup.assumptions(&Trace::new(&setup.assumed));
    text += "computed tokens of chunk caches (gdsf), by those of prefix caching, %\n| mean cci | paper's \
             overlap, tolerance 0 | 0.05 | unseen counted, tolerance 0 | 0.05 | stored alone, 0 |\n\
             |---|---|---|---|---|---|\n";
    for cci_mean in [0.1, 0.2, 0.3, 0.4, 0.5, 0.6] {
        let assumed = Assumptions { cci_mean, ..setup.assumed.clone() };
        let trace = Trace::new(&assumed);
        let _ = write!(text, "| {cci_mean} ");
        let setup = Setup { assumed, ..setup.clone() };
        let prefix = setup.prefix_cache(&trace, 0.0);
        for count_unseen in [false, true] {
            let setup = Setup { rule: Rule { count_unseen, ..setup.rule }, ..setup.clone() };
            for tolerance in [0.0, 0.05] {
                let gdsf = setup.chunk_caches::<Gdsf>(&trace, HISTORY, Store::InContext, tolerance)?;
                let less = 100.0 * (gdsf.computed_tokens / prefix.computed_tokens - 1.0);
                let _ = write!(text, "| {less:+.1} ");
            }
        }
        let alone = setup.chunk_caches::<Gdsf>(&trace, HISTORY, Store::Alone, 0.0)?;
        let less = 100.0 * (alone.computed_tokens / prefix.computed_tokens - 1.0);
        let _ = writeln!(text, "| {less:+.1} |");
    }
    Ok(text)
}

/// What policies save, by the most that any could: the first requests of the trace, one tier.
pub fn shares_of_bound(setup: &Setup) -> String {
    let queries = (setup.bound_requests / setup.assumed.k.max(1)).min(setup.assumed.queries);
    let assumed = Assumptions { queries, ..setup.assumed.clone() };
    let requests = Requests::new(&assumed, &Trace::new(&assumed), setup.rule.alpha);
    let mut text =
        format!("assumed: {assumed:?}\n{} requests; cost saved by the bound, %\n", requests.items.len());
    text += "| share | bound s | greedy plan | gdsf | gdsf, no history | lru | lfu | lfu, history |\n\
             |---|---|---|---|---|---|---|---|\n";
    for share in SHARES {
        let room = (requests.working_size() as f64 * share) as u64;
        let bound = bound(&requests, room);
        let by = |saved: f64| 100.0 * saved / bound;
        let _ = writeln!(
            text,
            "| {share} | {:.2} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            bound / 1e6,
            by(requests.greedy(room)),
            by(requests.replay::<Gdsf>(room, HISTORY).0),
            by(requests.replay::<Gdsf>(room, 0).0),
            by(requests.replay::<Lru>(room, 0).0),
            by(requests.replay::<Lfu>(room, 0).0),
            by(requests.replay::<Lfu>(room, HISTORY).0),
        );
    }
    text
}

#[cfg(test)]
mod tests;
