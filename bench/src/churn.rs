//! `spandrel-bench churn`: what searches notice while every row is replaced.
//!
//! Four phases on one collection: *idle* after a load that was merged into one segment; *churn*, while one
//! thread writes every row again; *after*, as soon as the last is acknowledged; *settled*, when merging has
//! ended. A row is replaced by itself under a new id, so that the true neighbours stay the same and recall
//! can be judged in every phase, also in the middle of one. Searches run one after the other on their own
//! threads in all phases.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use spandrel::{DenseSpec, Element, IndexKind, Row, Settings};
use tempfile::TempDir;

use crate::ann::{build, positive, progress, share};
use crate::dataset::{self, Matrix};
use crate::engine::{self, COLLECTION, Embedded, Engine, Found, VECTOR, Wanted};
use crate::latency::Latency;
use crate::machine::{self, Machine};
use crate::report::{self, Column, Goal, Report};
use crate::set::VectorSet;
use crate::truth::Truth;
use crate::{Error, Result};

/// Most recall that may be lost, most times the idle p99, and upserts a second.
const RECALL_LOSS_GOAL: f64 = 0.005;
const P99_GOAL: f64 = 2.0;
const UPSERTS_GOAL: f64 = 8_000.0;
/// Passes over the queries whose recall is judged in a phase, spread over it.
const JUDGED_PASSES: usize = 5;

const COLUMNS: [Column; 11] = [
    ("phase", 0),
    ("recall", 4),
    ("recall_min", 4),
    ("qps", 0),
    ("p50_us", 0),
    ("p99_us", 0),
    ("seconds", 1),
    ("upserts_per_s", 0),
    ("segments", 0),
    ("memory_mb", 1),
    ("rss_mb", 0),
];

/// What to measure.
#[derive(clap::Args, Serialize)]
pub struct Args {
    #[command(flatten)]
    #[serde(flatten)]
    set: VectorSet,
    /// Recall asked of the engine
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    recall: f64,
    /// Threads that search
    #[arg(long, default_value = "1", value_parser = positive)]
    threads: usize,
    /// Rows an upsert carries: one durable commit each
    #[arg(long, default_value = "256", value_parser = positive)]
    batch: usize,
    /// Rows a second to replace at most; left out: as fast as they are acknowledged
    #[arg(long, value_parser = positive)]
    rate: Option<usize>,
    /// Seconds that the phases without writes last
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Memory budget of the engine in MiB; left out: its default
    #[arg(long)]
    memory_mb: Option<u64>,
    /// Write the report to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What was seen in a phase.
#[derive(Serialize)]
struct Point {
    phase: &'static str,
    recall: f64,
    recall_min: f64,
    qps: f64,
    p50_us: f64,
    p99_us: f64,
    seconds: f64,
    upserts_per_s: Option<f64>,
    segments: u64,
    memory_mb: f64,
    rss_mb: Option<f64>,
}

/// The hits of every query, in query order.
type Answers = Vec<Vec<Found>>;

/// The searches of a phase, not yet judged.
struct Seen {
    phase: &'static str,
    latency: Latency,
    /// Whole passes over the queries, in the order in which they ended.
    passes: Vec<Answers>,
    searches: usize,
    seconds: f64,
    upserts_per_s: Option<f64>,
    segments: u64,
    memory_bytes: u64,
    rss_mb: Option<f64>,
}

/// Runs the command.
///
/// # Errors
/// Files cannot be read or do not fit each other; the engine fails; the report cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let machine = Machine::read();
    let queries = args.set.queries()?;
    let rows = args.set.check(&queries)?;
    let dim = queries.dim;
    let truth = args.set.truth(&queries, rows)?;
    let folder = TempDir::new()?;
    // What queries teach would change recall from phase to phase.
    let mut settings = Settings { learn_from_queries: false, ..Settings::default() };
    if let Some(mb) = args.memory_mb {
        settings.memory_budget_bytes = mb << 20;
    }
    let spec = DenseSpec {
        dim: u32::try_from(dim)?,
        metric: args.set.metric,
        element: Element::F32,
        index: IndexKind::Auto,
    };
    let (engine, _) = Embedded::open(folder.path(), COLLECTION, settings, engine::vector_schema(spec))?;
    build(&engine, &args.set.base, rows)?;

    let mut phases = vec![quiet(&engine, &queries, args, "idle")?];
    phases.push(churn(&engine, &queries, args, rows)?);
    phases.push(quiet(&engine, &queries, args, "after")?);
    engine.settle()?;
    phases.push(quiet(&engine, &queries, args, "settled")?);
    engine.close()?;

    let mut points = Vec::new();
    for seen in &phases {
        points.push(judge(seen, args, &queries, &truth)?);
    }
    let goals = goals(&points, args.rate);
    let rows_of_table = points.into_iter().map(report::row).collect::<Result<Vec<_>>>()?;
    let set = json!({"rows": rows, "dim": dim, "queries": queries.rows()});
    let settings = json!({"command": "churn", "arguments": args, "set": set});
    Report { machine, settings, rows: rows_of_table, goals }.publish(&COLUMNS, args.json.as_deref())
}

/// Searches for a while, with nothing beside them but what the engine does by itself.
fn quiet(engine: &Embedded, queries: &Matrix, args: &Args, phase: &'static str) -> Result<Seen> {
    let time = Duration::from_secs_f64(args.seconds);
    beside(engine, queries, args, phase, || {
        std::thread::sleep(time);
        Ok(None)
    })
}

/// Replaces every row, as fast as asked for.
fn churn(engine: &Embedded, queries: &Matrix, args: &Args, rows: usize) -> Result<Seen> {
    let bar = progress(rows as u64, "churn")?;
    let seen = beside(engine, queries, args, "churn", || {
        let begin = Instant::now();
        let mut writer = engine.writer()?;
        dataset::chunks(&args.set.base, rows, |first, chunk| {
            for start in (0..chunk.rows()).step_by(args.batch) {
                let end = chunk.rows().min(start + args.batch);
                let row =
                    |at: usize| Row::new((first + at).to_string()).dense(VECTOR, chunk.row(at).to_vec());
                writer.upsert((start..end).map(row).collect())?;
                bar.inc((end - start) as u64);
                if let Some(rate) = args.rate {
                    let due = Duration::from_secs_f64((first + end) as f64 / rate as f64);
                    std::thread::sleep(due.saturating_sub(begin.elapsed()));
                }
            }
            Ok(())
        })?;
        writer.finish()?;
        Ok(Some(rows as f64 / begin.elapsed().as_secs_f64()))
    })?;
    bar.finish_and_clear();
    Ok(seen)
}

/// Searches while `work` runs, which says how many rows a second it wrote.
fn beside(
    engine: &Embedded,
    queries: &Matrix,
    args: &Args,
    phase: &'static str,
    work: impl FnOnce() -> Result<Option<f64>>,
) -> Result<Seen> {
    let wanted = Wanted::new(args.set.k, Some(args.recall));
    let calls: Vec<Vec<&[f32]>> = (0..queries.rows()).map(|at| vec![queries.row(at)]).collect();
    let (ended, begin) = (AtomicBool::new(false), Instant::now());
    let search = || -> Result<(Latency, Vec<Answers>, usize)> {
        let mut searcher = engine.searcher(&calls, wanted)?;
        let (mut latency, mut passes, mut pass) = (Latency::new()?, Vec::new(), Answers::new());
        let mut searches = 0;
        // At least one pass, however soon the work ends.
        while !ended.load(Ordering::Relaxed) || passes.is_empty() {
            let begin = Instant::now();
            let hits = searcher.call(searches % calls.len())?;
            latency.record(begin.elapsed());
            searches += 1;
            pass.extend(hits);
            if pass.len() == calls.len() {
                passes.push(std::mem::take(&mut pass));
            }
        }
        Ok((latency, passes, searches))
    };
    let (worked, shares) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.threads).map(|_| scope.spawn(search)).collect();
        let worked = work();
        ended.store(true, Ordering::Relaxed);
        (worked, workers.into_iter().map(|worker| worker.join()).collect::<Vec<_>>())
    });
    let seconds = begin.elapsed().as_secs_f64();
    let size = engine.size()?;
    let mut seen = Seen {
        phase,
        latency: Latency::new()?,
        passes: Vec::new(),
        searches: 0,
        seconds,
        upserts_per_s: worked?,
        segments: size.segments,
        memory_bytes: size.memory_bytes,
        rss_mb: machine::memory(engine.process()).map(|memory| memory.rss_mb),
    };
    for share in shares {
        let (latency, passes, searches) = share.map_err(|_| Error::from("a search thread panicked"))??;
        seen.latency.add(&latency)?;
        seen.passes.extend(passes);
        seen.searches += searches;
    }
    Ok(seen)
}

/// Recall of some passes of a phase: their mean, and the worst of them.
fn judge(seen: &Seen, args: &Args, queries: &Matrix, truth: &Truth) -> Result<Point> {
    let mut recalls = Vec::new();
    for at in spread(seen.passes.len(), JUDGED_PASSES) {
        let quality = args.set.judge(queries, truth, &seen.passes[at])?;
        recalls.push(quality.recall);
    }
    Ok(Point {
        phase: seen.phase,
        recall: recalls.iter().sum::<f64>() / recalls.len().max(1) as f64,
        recall_min: recalls.iter().copied().fold(1.0, f64::min),
        qps: seen.searches as f64 / seen.seconds,
        p50_us: seen.latency.quantile_us(0.50),
        p99_us: seen.latency.quantile_us(0.99),
        seconds: seen.seconds,
        upserts_per_s: seen.upserts_per_s,
        segments: seen.segments,
        memory_mb: seen.memory_bytes as f64 / f64::from(1 << 20),
        rss_mb: seen.rss_mb,
    })
}

/// `wanted` of `count` places, evenly spread, the last of them included.
fn spread(count: usize, wanted: usize) -> Vec<usize> {
    let wanted = wanted.min(count);
    (1..=wanted).map(|at| at * count / wanted - 1).collect()
}

fn goals(points: &[Point], rate: Option<usize>) -> Vec<Goal> {
    let Some(idle) = points.first() else { return Vec::new() };
    let mut goals = Vec::new();
    for point in &points[1..] {
        let loss = format!("recall kept, {} against idle", point.phase);
        goals.push(Goal::at_least(loss, 1.0 + point.recall_min - idle.recall, 1.0 - RECALL_LOSS_GOAL));
        if let Some(upserts_per_s) = point.upserts_per_s {
            // Held to a rate, it can reach that and no more.
            let goal = rate.map_or(UPSERTS_GOAL, |rate| UPSERTS_GOAL.min(0.99 * rate as f64));
            goals.push(Goal::at_least("upserts a second", upserts_per_s, goal));
            let times = idle.p99_us / point.p99_us.max(f64::MIN_POSITIVE);
            goals.push(Goal::at_least("idle p99 in p99 of churn", times, 1.0 / P99_GOAL));
        }
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_taken_from_all_of_a_phase() {
        assert_eq!(spread(0, 5), [0_usize; 0]);
        assert_eq!(spread(1, 5), [0]);
        assert_eq!(spread(3, 5), [0, 1, 2]);
        assert_eq!(spread(100, 5), [19, 39, 59, 79, 99]);
    }

    #[test]
    fn goals_compare_with_the_idle_phase() {
        let point = |phase, recall, p99_us, upserts_per_s| Point {
            phase,
            recall,
            recall_min: recall,
            qps: 1.0,
            p50_us: 1.0,
            p99_us,
            seconds: 1.0,
            upserts_per_s,
            segments: 1,
            memory_mb: 1.0,
            rss_mb: None,
        };
        let points = [
            point("idle", 0.96, 100.0, None),
            point("churn", 0.956, 199.0, Some(8_100.0)),
            point("after", 0.95, 100.0, None),
        ];
        let met: Vec<bool> = goals(&points, None).iter().map(|goal| goal.met).collect();
        assert_eq!(met, [true, true, true, false]);
        assert!(goals(&points, Some(8_000)).iter().any(|goal| goal.goal == 7_920.0));
    }
}
