//! `spandrel-bench tenants`: many tenants, labels and filters in one collection.
//!
//! Each workload is a collection of its own over the same base, settled and opened again before it is asked.
//! Recall is judged by exact scores among the rows that a question may find; an answer shorter than the rows
//! allow is counted.

mod labels;
mod many;
mod neighbours;
mod short;
mod workload;
mod writes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use spandrel::{
    Collection, Database, Fields, Metric, PayloadKind, Route, Row, Schema, SearchRequest, Settings,
};
use tempfile::TempDir;

use self::workload::{WORDS, Workload};
use crate::ann::{named, positive, progress, share};
use crate::dataset::{self, Matrix};
use crate::engine::{Process, VECTOR};
use crate::exact::Exact;
use crate::latency::Latency;
use crate::machine::{self, Machine};
use crate::report::{self, Column, Goal, Report};
use crate::{Error, Result};

const LOAD_ROWS: usize = 1_024;
const COLUMNS: [Column; 21] = [
    ("workload", 0),
    ("class", 0),
    ("asks", 0),
    ("rows_mean", 0),
    ("recall", 4),
    ("short", 0),
    ("p50_us", 1),
    ("p99_us", 1),
    ("mean_us", 1),
    ("row_us", 2),
    ("p99_by_alone", 2),
    ("busy_per_s", 0),
    ("refused_per_s", 0),
    ("fewer_match", 0),
    ("idle_bytes", 1),
    ("memory_grown_mb", 1),
    ("read_kb", 1),
    ("scored", 0),
    ("memory_mb", 1),
    ("build_s", 1),
    ("open_s", 3),
];
/// Relative slack on the last true score.
const SLACK: f64 = 1e-6;

/// What to measure.
#[derive(clap::Args, Serialize)]
pub struct Args {
    /// Base vectors: fvecs, bvecs, fbin, u8bin or npy (f16, f32), each also as .zst
    #[arg(long)]
    base: PathBuf,
    /// Query vectors, in any of these formats
    #[arg(long)]
    queries: PathBuf,
    /// How vectors are compared: l2, ip or cosine
    #[arg(long, value_parser = named::<Metric>)]
    metric: Metric,
    /// Hits a query
    #[arg(long, default_value_t = 10)]
    k: usize,
    /// Recall asked of the engine
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    recall: f64,
    /// Leave hits the scores of their codes, where those are fine enough: no vector is read
    #[arg(long)]
    no_rescore: bool,
    /// uniform:TENANTS, zipf:TENANTS, groups:FILE (JSON lines with titles), labels:FILE (npz), filters,
    /// many:TENANTS, writes, neighbours or short:QUESTIONS; may be given again
    #[arg(long, required = true)]
    workload: Vec<String>,
    /// Questions a workload
    #[arg(long, default_value = "10000", value_parser = positive)]
    asks: usize,
    /// Memory budget of the engine in MiB; left out: its default
    #[arg(long)]
    memory_mb: Option<u64>,
    /// Print what the engine explains of the first questions of each class
    #[arg(long)]
    explain: bool,
    /// Write the report to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What was measured of the questions of a class.
#[derive(Default)]
struct Class {
    asks: usize,
    rows: usize,
    recall: f64,
    short: usize,
    latency: Option<Latency>,
    time_us: f64,
    read_bytes: u64,
    scored: u64,
}

/// Runs the command.
///
/// # Errors
/// Files cannot be read or do not fit each other; the engine fails; the report cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let machine = Machine::read();
    let (base, queries) = (dataset::read(&args.base)?, dataset::read(&args.queries)?);
    if base.dim != queries.dim {
        return Err(format!("the base has {} dimensions, the queries have {}", base.dim, queries.dim).into());
    }
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for name in &args.workload {
        if let Some((measured, reached)) = special(args, name, &base, &queries)? {
            rows.extend(measured);
            goals.extend(reached);
            continue;
        }
        let workload = Workload::named(name, &base, &queries, args.asks, args.metric)?;
        rows.extend(measure(args, &workload, &base, &queries)?);
    }
    let settings = json!({"command": "tenants", "arguments": args, "rows": base.rows(), "dim": base.dim});
    Report { machine, settings, rows, goals }.publish(&COLUMNS, args.json.as_deref())
}

/// Measures what is no list of questions with their truth; none for other workloads.
fn special(
    args: &Args,
    name: &str,
    base: &Matrix,
    queries: &Matrix,
) -> Result<Option<(Vec<report::Row>, Vec<Goal>)>> {
    let (kind, value) = name.split_once(':').unwrap_or((name, ""));
    let count = || -> Result<usize> {
        let count = value.parse().ok().filter(|count| *count > 1);
        count.ok_or_else(|| format!("{name}: a number above 1").into())
    };
    Ok(Some(match kind {
        "many" => many::measure(args, count()?, base, queries)?,
        "writes" => writes::measure(args, base)?,
        "neighbours" => neighbours::measure(args, base, queries)?,
        "short" => short::measure(args, count()?, base, queries)?,
        _ => return Ok(None),
    }))
}

fn measure(args: &Args, workload: &Workload, base: &Matrix, queries: &Matrix) -> Result<Vec<report::Row>> {
    let truth = workload.truth(base, queries, args.metric, args.k);
    let folder = TempDir::new()?;
    let mut settings = Settings { learn_from_queries: false, ..Settings::default() };
    if let Some(mb) = args.memory_mb {
        settings.memory_budget_bytes = mb << 20;
    }
    let mut schema = Schema::new().dense(VECTOR, u32::try_from(base.dim)?, args.metric);
    if workload.has_words() {
        schema = schema.payload(WORDS, PayloadKind::Keyword);
    }
    let begin = Instant::now();
    let database = Database::open(folder.path(), settings.clone())?;
    load(&*database.create_collection("bench", schema)?, workload, base)?;
    let build_s = begin.elapsed().as_secs_f64();
    database.close()?;
    drop(database);
    let begin = Instant::now();
    let database = Database::open(folder.path(), settings)?;
    let open_s = begin.elapsed().as_secs_f64();
    let collection = database.collection("bench")?;
    let requests: Vec<SearchRequest> = workload
        .asks
        .iter()
        .map(|(query, scope)| {
            let scope = &workload.scopes[*scope as usize];
            SearchRequest {
                tenant: scope.tenant.clone(),
                filter: scope.filter.clone(),
                labels: scope.labels.clone(),
                k: args.k,
                recall: args.recall as f32,
                rescore: !args.no_rescore,
                fields: Fields::None,
                ..SearchRequest::new(Route::dense(VECTOR, queries.row(*query as usize).to_vec()))
            }
        })
        .collect();
    let mut classes: BTreeMap<&str, Class> = BTreeMap::new();
    for request in requests.iter().take(100) {
        collection.search(request)?;
    }
    for ((request, (query, scope)), truth) in requests.iter().zip(&workload.asks).zip(&truth) {
        let scope = &workload.scopes[*scope as usize];
        let begin = Instant::now();
        let answer = collection.search(request)?;
        let took = begin.elapsed();
        let class = classes.entry(&scope.class).or_default();
        let query = Exact::new(queries.row(*query as usize));
        let mut scores = Vec::with_capacity(answer.hits.len());
        for hit in &answer.hits {
            let row: u32 = hit.row.key.parse().map_err(|_| Error::from("a row that was not written"))?;
            if scope.rows.binary_search(&row).is_err() {
                return Err(
                    format!("{}: row {row} was found that is not of {}", workload.name, scope.class).into()
                );
            }
            scores.push(query.score(&Exact::new(base.row(row as usize)), args.metric));
        }
        let floor = truth.last().map_or(f64::NEG_INFINITY, |last| last - SLACK * last.abs());
        let good = scores.iter().filter(|score| **score >= floor).count().min(truth.len());
        class.asks += 1;
        class.rows += scope.rows.len();
        class.recall += good as f64 / truth.len().max(1) as f64;
        class.short += usize::from(scores.len() < truth.len());
        class.time_us += took.as_secs_f64() * 1e6;
        match &mut class.latency {
            Some(latency) => latency.record(took),
            none => none.insert(Latency::new()?).record(took),
        }
        if class.asks.is_multiple_of(16) {
            let explained = collection.search(&SearchRequest { explain: true, ..request.clone() })?.explain;
            let stages = explained.map(|explain| explain.stages).unwrap_or_default();
            class.read_bytes += stages.iter().map(|stage| stage.read_bytes).sum::<u64>() * 16;
            class.scored += stages.iter().map(|stage| stage.scored).sum::<u64>() * 16;
            if args.explain && class.asks == 16 {
                println!("{} {}: {stages:?}", workload.name, scope.class);
            }
        }
    }
    let memory_mb = collection.stats()?.memory_bytes as f64 / f64::from(1 << 20);
    let rss = machine::memory(Process::This).map(|memory| memory.rss_mb);
    classes
        .into_iter()
        .map(|(name, class)| {
            let per = |value: f64| value / class.asks as f64;
            report::row(json!({
                "workload": workload.name,
                "class": name,
                "asks": class.asks,
                "rows_mean": per(class.rows as f64),
                "recall": per(class.recall),
                "short": class.short,
                "p50_us": class.latency.as_ref().map(|latency| latency.quantile_us(0.5)),
                "p99_us": class.latency.as_ref().map(|latency| latency.quantile_us(0.99)),
                "mean_us": per(class.time_us),
                "read_kb": per(class.read_bytes as f64 / 1024.0),
                "scored": per(class.scored as f64),
                "memory_mb": memory_mb,
                "rss_mb": rss,
                "build_s": build_s,
                "open_s": open_s,
            }))
        })
        .collect()
}

fn load(collection: &Collection, workload: &Workload, base: &Matrix) -> Result<()> {
    let bar = progress(base.rows() as u64, "load")?;
    for start in (0..base.rows()).step_by(LOAD_ROWS) {
        let end = base.rows().min(start + LOAD_ROWS);
        let rows: Vec<Row> = (start..end).map(|at| workload.row(at, base.row(at))).collect();
        collection.upsert(rows)?;
        bar.inc((end - start) as u64);
    }
    bar.set_message("build");
    collection.optimize()?;
    bar.finish_and_clear();
    Ok(())
}
