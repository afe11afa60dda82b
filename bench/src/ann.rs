//! `spandrel-bench ann`: one vector set, recall against exact neighbours, and what it costs.
//!
//! The base is streamed into the engine, and streamed again afterwards to judge the answers, so that the
//! memory reported is the engine's and not the bench's. Latency is that of a call, which carries `batch`
//! queries. Several recalls give the curve of queries a second over recall, as rows and, with `--plot`, as a
//! picture.

pub(crate) mod place;

use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use spandrel::{Element, ErrorKind, IndexKind, Residency, Row};
use tempfile::TempDir;

use crate::dataset::{self, Matrix};
use crate::drive::{self, Load, Pass};
use crate::engine::{Access, COLLECTION, Engine, Size, VECTOR, Wanted};
use crate::latency::Latency;
use crate::machine::{self, Machine};
use crate::plot::{self, Curve};
use crate::recall;
use crate::report::{self, Column, Goal, Report};
use crate::set::VectorSet;
use crate::{Error, Result};

/// Rows an upsert carries while the base is loaded.
const LOAD_ROWS: usize = 1_024;
/// Queries explained to count pages.
const EXPLAINED_QUERIES: usize = 50;
const PAGE_BYTES: f64 = 4_096.0;
const MIB: f64 = 1_048_576.0;

const COLUMNS: [Column; 17] = [
    ("asked", 3),
    ("threads", 0),
    ("batch", 0),
    ("recall", 4),
    ("qps", 1),
    ("p50_us", 0),
    ("p95_us", 0),
    ("p99_us", 0),
    ("build_s", 1),
    ("rss_mb", 0),
    ("rss_now_mb", 0),
    ("rss_data_mb", 1),
    ("disk_mb", 1),
    ("bytes_per_vector", 0),
    ("memory_bytes_per_vector", 0),
    ("pages_per_query", 1),
    ("score_error_max", 8),
];

/// What to measure.
#[derive(clap::Args, Serialize)]
pub struct Args {
    #[command(flatten)]
    #[serde(flatten)]
    set: VectorSet,
    /// Threads that search, each with its own queries; several values give several rows: 1,2
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = positive)]
    threads: Vec<usize>,
    /// Queries a call; more than one uses the batch search; several values give several rows: 1,32
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = positive)]
    batch: Vec<usize>,
    /// Memory budget of the engine in MiB; left out: its default
    #[arg(long)]
    memory_mb: Option<u64>,
    /// Recall asked of the engine, and a goal of the report, above 0 and at most 1; several values give
    /// several
    /// rows: 0.9,0.95,0.99; left out: the engine's default and no goal
    #[arg(long, value_delimiter = ',', value_parser = share)]
    recall: Vec<f64>,
    /// Leave hits the scores of their codes, where those are fine enough: no vector is read
    #[arg(long)]
    no_rescore: bool,
    /// Memory that a build may take in MiB; left out: the engine's default
    #[arg(long)]
    build_memory_mb: Option<u64>,
    /// First the queries of even number are asked, twice, and the engine learns from them how far searches
    /// have to go; the others are measured
    #[arg(long)]
    learn: bool,
    /// The most of cells that is kept in memory, within the budget: auto, lean, default or hot
    #[arg(long, default_value = "auto", value_parser = named::<Residency>)]
    residency: Residency,
    /// Before every pass the database is opened anew, with its files dropped from the page cache, and nothing
    /// warms up
    #[arg(long, conflicts_with = "remote")]
    cold: bool,
    /// Index: ssd (also called auto: the engine's choice), hnsw or flat
    #[arg(long, default_value = "ssd", value_parser = index)]
    index: IndexKind,
    /// Elements kept in segments: f32, f16 or i8
    #[arg(long, default_value = "f32", value_parser = named::<Element>)]
    element: Element,
    /// Measure this server through gRPC, for example http://127.0.0.1:7780
    #[arg(long)]
    remote: Option<String>,
    #[command(flatten)]
    #[serde(skip)]
    access: Access,
    /// Build in this folder and keep it; left out: in a temporary one
    #[arg(long, conflicts_with_all = ["open", "remote"])]
    keep: Option<PathBuf>,
    /// Measure what an earlier run kept in this folder
    #[arg(long, conflicts_with = "remote")]
    open: Option<PathBuf>,
    /// Collection; one that is there is searched without a build
    #[arg(long, default_value = COLLECTION)]
    collection: String,
    /// Passes over the queries; the middle QPS is reported, latencies of all passes together
    #[arg(long, default_value = "1", value_parser = positive)]
    repeat: usize,
    /// Queries each thread sends before the clock starts
    #[arg(long, default_value_t = 100)]
    warm_up: usize,
    /// Draw queries a second over recall to this file, as SVG: a curve for each number of threads and batch
    #[arg(long, requires = "recall")]
    plot: Option<PathBuf>,
    /// Write the report to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A measured point.
#[derive(Serialize)]
struct Point {
    /// What was asked for.
    asked: Option<f64>,
    threads: usize,
    batch: usize,
    recall: f64,
    recall_min: f64,
    score_error_max: f64,
    qps: f64,
    qps_runs: Vec<f64>,
    p50_us: f64,
    p95_us: f64,
    p99_us: f64,
    /// Load and flush; none when an existing folder was opened.
    build_s: Option<f64>,
    /// Peak of the whole run.
    rss_mb: Option<f64>,
    /// Peak since the build ended.
    search_rss_mb: Option<f64>,
    rss_now_mb: Option<f64>,
    /// Beyond what the process had with a database of a few rows.
    rss_data_mb: Option<f64>,
    disk_mb: f64,
    segment_mb: f64,
    bytes_per_vector: f64,
    memory_bytes_per_vector: f64,
    pages_per_query: f64,
}

/// A load of the queries, measured but not yet judged.
struct Measured {
    load: Load,
    qps_runs: Vec<f64>,
    latency: Latency,
    last: Pass,
    memory: Option<machine::Memory>,
}

/// What all loads of a run share.
#[derive(Clone, Copy)]
struct Cost {
    build_s: Option<f64>,
    build_peak_mb: f64,
    /// Resident with a database of a few rows.
    rss_empty_mb: Option<f64>,
    disk_bytes: u64,
    pages_per_query: f64,
}

/// Runs the command.
///
/// # Errors
/// Files cannot be read or do not fit each other; the engine fails; the report cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let machine = Machine::read();
    let all_queries = args.set.queries()?;
    let base_rows = args.set.check(&all_queries)?;
    let (taught, queries) = if args.learn {
        all_queries.halves()
    } else {
        (Matrix { dim: all_queries.dim, data: Vec::new() }, all_queries.clone())
    };

    let kept_until_the_end = TempDir::new()?;
    let folder = args.keep.as_deref().or(args.open.as_deref()).unwrap_or(kept_until_the_end.path());
    let rss_empty_mb = place::rss_empty_mb(args, &queries)?;
    let (mut engine, was_there) = place::open(args, queries.dim, folder, false)?;
    let build_s = if was_there { None } else { Some(build(&*engine, &args.set.base, base_rows)?) };
    let size = engine.size()?;
    if size.rows != base_rows as u64 {
        let name = &args.collection;
        return Err(format!("the collection '{name}' holds {} rows, the base {base_rows}", size.rows).into());
    }
    if was_there {
        place::compare(&*engine, args, base_rows)?;
    }
    if args.learn {
        let load = Load { wanted: Wanted::new(args.set.k, None), threads: 1, batch: 1, warm_up: 0 };
        for _ in 0..2 {
            drive::pass(&*engine, &taught, load)?;
        }
        engine.settle()?;
    }
    let build_peak_mb = machine::memory(engine.process()).map_or(0.0, |memory| memory.peak_rss_mb);
    machine::reset_peak(engine.process());

    let mut measured = Vec::new();
    for recall in asked(args) {
        let wanted = Wanted { rescore: !args.no_rescore, ..Wanted::new(args.set.k, recall) };
        let pages_per_query = pages(&*engine, &queries, wanted)?;
        for &threads in &args.threads {
            for &batch in &args.batch {
                let load = Load { wanted, threads, batch, warm_up: if args.cold { 0 } else { args.warm_up } };
                let mut passes = Passes::new(load)?;
                for _ in 0..args.repeat {
                    if args.cold {
                        engine.close()?;
                        drop(engine);
                        place::forget_pages(folder)?;
                        engine = place::open(args, queries.dim, folder, true)?.0;
                    }
                    passes.add(drive::pass(&*engine, &queries, load)?)?;
                }
                measured.push((passes.end(&*engine)?, pages_per_query));
            }
        }
    }
    let disk_bytes = engine.close()?;

    let mut truth = args.set.truth(&all_queries, base_rows)?;
    if args.learn {
        truth.rows = truth.rows.into_iter().skip(1).step_by(2).collect();
    }
    let (mut rows, mut goals, mut curves) = (Vec::new(), Vec::new(), Vec::<Curve>::new());
    for (mut run, pages_per_query) in measured {
        let quality = args.set.judge(&queries, &truth, &run.last.found)?;
        run.last.found = Vec::new();
        let cost = Cost { build_s, build_peak_mb, rss_empty_mb, disk_bytes, pages_per_query };
        let point = point(&run, quality, &size, cost);
        if let Some(goal) = run.load.wanted.recall {
            let what = format!("recall@{}, {} threads, batch {}", args.set.k, point.threads, point.batch);
            goals.push(Goal::at_least(what, quality.recall, goal));
        }
        let name = format!("{} threads, batch {}", point.threads, point.batch);
        let at = (point.recall, point.qps);
        match curves.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.push(at),
            None => {
                let color = curves.len();
                curves.push(Curve { name, points: vec![at], color, is_pale: false });
            }
        }
        rows.push(report::row(point)?);
    }
    if let Some(path) = &args.plot {
        let set = args.set.base.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        plot::recall_over_rate(path, &format!("{set}, {base_rows} rows, k = {}", args.set.k), &curves)?;
        println!("wrote {}", path.display());
    }
    let engine = json!({"simd": size.simd, "reader": size.reader, "segments": size.segments});
    let set = json!({"rows": base_rows, "dim": queries.dim, "queries": queries.rows()});
    let settings = json!({"command": "ann", "arguments": args, "set": set, "engine": engine});
    Report { machine, settings, rows, goals }.publish(&COLUMNS, args.json.as_deref())
}

/// Loads `rows` rows of the base, builds them into segments and lets merging end: seconds until all is done.
///
/// # Errors
/// The base cannot be read; the engine fails.
pub fn build(engine: &dyn Engine, base: &Path, rows: usize) -> Result<f64> {
    let bar = progress(rows as u64, "load")?;
    let begin = Instant::now();
    let mut writer = engine.writer()?;
    dataset::chunks(base, rows, |first, chunk| {
        let mut at = 0;
        while at < chunk.rows() {
            let end = chunk.rows().min(at + LOAD_ROWS);
            let row = |at: usize| Row::new((first + at).to_string()).dense(VECTOR, chunk.row(at).to_vec());
            match writer.upsert((at..end).map(row).collect()) {
                // As it says: again, once what is fresh is in segments.
                Err(error) if is_unavailable(&error) => engine.flush()?,
                written => {
                    written?;
                    bar.inc((end - at) as u64);
                    at = end;
                }
            }
        }
        Ok(())
    })?;
    writer.finish()?;
    bar.set_message("build");
    engine.settle()?;
    bar.finish_and_clear();
    Ok(begin.elapsed().as_secs_f64())
}

/// Whether the engine asks its caller to come again.
fn is_unavailable(error: &Error) -> bool {
    error.downcast_ref::<spandrel::Error>().is_some_and(|error| error.kind() == ErrorKind::Unavailable)
}

/// A progress bar on stderr, with a rate.
///
/// # Errors
/// Never: the template is a constant.
pub fn progress(rows: u64, message: &'static str) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} rows, {per_sec}, {elapsed}")?;
    Ok(ProgressBar::new(rows).with_style(style).with_message(message))
}

/// The passes of one load.
struct Passes {
    load: Load,
    qps_runs: Vec<f64>,
    latency: Latency,
    last: Option<Pass>,
}

impl Passes {
    fn new(load: Load) -> Result<Self> {
        Ok(Self { load, qps_runs: Vec::new(), latency: Latency::new()?, last: None })
    }

    fn add(&mut self, pass: Pass) -> Result<()> {
        self.latency.add(&pass.latency)?;
        self.qps_runs.push(pass.qps);
        self.last = Some(pass);
        Ok(())
    }

    fn end(self, engine: &dyn Engine) -> Result<Measured> {
        let Self { load, qps_runs, latency, last } = self;
        let last = last.ok_or_else(|| Error::from("--repeat is at least 1"))?;
        Ok(Measured { load, qps_runs, latency, last, memory: machine::memory(engine.process()) })
    }
}

/// Mean 4 KiB pages read from disk by a search.
fn pages(engine: &dyn Engine, queries: &Matrix, wanted: Wanted) -> Result<f64> {
    let sample = queries.rows().min(EXPLAINED_QUERIES);
    let mut bytes = 0;
    for at in 0..sample {
        bytes += engine.work(queries.row(at), wanted)?.read_bytes;
    }
    Ok(bytes as f64 / PAGE_BYTES / sample as f64)
}

fn point(run: &Measured, quality: recall::Quality, size: &Size, cost: Cost) -> Point {
    let (rows, disk_bytes) = (size.rows as f64, cost.disk_bytes as f64);
    Point {
        asked: run.load.wanted.recall,
        threads: run.load.threads,
        batch: run.load.batch,
        recall: quality.recall,
        recall_min: quality.recall_min,
        score_error_max: quality.score_error_max,
        qps: report::median(&run.qps_runs),
        qps_runs: run.qps_runs.clone(),
        p50_us: run.latency.quantile_us(0.50),
        p95_us: run.latency.quantile_us(0.95),
        p99_us: run.latency.quantile_us(0.99),
        build_s: cost.build_s,
        rss_mb: run.memory.map(|memory| memory.peak_rss_mb.max(cost.build_peak_mb)),
        search_rss_mb: run.memory.map(|memory| memory.peak_rss_mb),
        rss_now_mb: run.memory.map(|memory| memory.rss_mb),
        rss_data_mb: run.memory.zip(cost.rss_empty_mb).map(|(memory, empty_mb)| memory.rss_mb - empty_mb),
        disk_mb: disk_bytes / MIB,
        segment_mb: size.segment_bytes as f64 / MIB,
        bytes_per_vector: disk_bytes / rows,
        memory_bytes_per_vector: size.memory_bytes as f64 / rows,
        pages_per_query: cost.pages_per_query,
    }
}

/// The recalls to ask for.
fn asked(args: &Args) -> Vec<Option<f64>> {
    match args.recall.is_empty() {
        true => vec![None],
        false => args.recall.iter().copied().map(Some).collect(),
    }
}

/// An index by the name that its folder has, or that of the schema.
fn index(text: &str) -> Result<IndexKind, String> {
    named(if text == "ssd" { "auto" } else { text })
}

/// A value by the name that the schema's JSON uses.
pub fn named<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(json!(text)).map_err(|error| error.to_string())
}

/// A whole number of at least 1.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value >= 1 => Ok(value),
        _ => Err("a whole number of at least 1 is wanted".to_owned()),
    }
}

/// A share above 0.
pub fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("a number above 0 and at most 1 is wanted".to_owned()),
    }
}

#[cfg(test)]
mod tests;
