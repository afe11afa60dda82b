//! `spandrel-bench import`: how fast rows with text, payload and vectors become durable and indexed.
//!
//! Two times are taken: until the last batch is acknowledged (durable and visible to searches), and until the
//! maintainer has built every row into segments. Rows are made before the clock starts; what is counted is
//! what the engine does, and through gRPC also the conversion, encoding and transport on both sides. All runs
//! share the machine's cores with the client.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;
use spandrel::{Durability, Metric, PayloadKind, Row, Schema, Settings};
use tempfile::TempDir;

use crate::ann::positive;
use crate::dataset::{self, Matrix};
use crate::engine::{Access, COLLECTION, Embedded, Engine, Remote, Server, VECTOR, Write};
use crate::latency::Latency;
use crate::machine::{self, Machine};
use crate::report::{self, Column, Goal, Report};
use crate::{Error, Result};

/// Rows a second until acknowledged, at least: embedded, and through gRPC.
const EMBEDDED_GOAL: f64 = 20_000.0;
const GRPC_GOAL: f64 = 10_000.0;
const VECTORS: &str = "base.f16.npy";
const PASSAGES: &str = "passages.jsonl.zst";
const MIB: f64 = 1_048_576.0;

const COLUMNS: [Column; 12] = [
    ("mode", 0),
    ("writers", 0),
    ("rows", 0),
    ("rows_per_s", 0),
    ("indexed_rows_per_s", 0),
    ("acknowledged_s", 2),
    ("indexed_s", 2),
    ("batch_p50_us", 0),
    ("batch_p99_us", 0),
    ("written_mb", 1),
    ("disk_mb", 1),
    ("segments", 0),
];

/// What to measure.
#[derive(clap::Args, Serialize)]
pub struct Args {
    /// Folder of the data sets
    #[arg(long)]
    data: PathBuf,
    /// Set with `base.f16.npy` and `passages.jsonl.zst` (objects with `id`, `title`, `text`)
    #[arg(long, default_value = "ottqa-100k-minilm-384-ip")]
    set: String,
    /// Only the first so many rows
    #[arg(long, value_parser = positive)]
    rows: Option<usize>,
    /// Rows an upsert carries: one durable commit each
    #[arg(long, default_value = "256", value_parser = positive)]
    batch: usize,
    /// Threads that write; several values give several rows: 1,2
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = positive)]
    writers: Vec<usize>,
    /// Runs of each point, each into a new folder; medians are reported
    #[arg(long, default_value = "3", value_parser = positive)]
    repeat: usize,
    /// Where the engine runs: in this process, behind gRPC with a call a batch, or with a stream a writer
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = MODES)]
    modes: Vec<Mode>,
    /// Server binary for the gRPC modes; left out: the one built beside this program
    #[arg(long)]
    server: Option<PathBuf>,
    /// Write the report to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Where the engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Embedded,
    Grpc,
    GrpcStream,
}

const MODES: [Mode; 3] = [Mode::Embedded, Mode::Grpc, Mode::GrpcStream];

impl Mode {
    fn goal(self) -> f64 {
        if self == Self::Embedded { EMBEDDED_GOAL } else { GRPC_GOAL }
    }
}

/// A line of the passages.
#[derive(Deserialize)]
struct Passage {
    id: String,
    title: String,
    text: String,
}

/// What is imported.
struct Source {
    passages: Vec<Passage>,
    vectors: Matrix,
}

/// One run.
struct Run {
    acknowledged_s: f64,
    indexed_s: f64,
    latency: Latency,
    written_mb: Option<f64>,
    disk_mb: f64,
    segments: u64,
}

/// A measured point.
#[derive(Serialize)]
struct Point {
    mode: Mode,
    writers: usize,
    batch: usize,
    rows: usize,
    /// Acknowledged rows a second.
    rows_per_s: f64,
    rows_per_s_runs: Vec<f64>,
    /// Rows a second until all are in segments.
    indexed_rows_per_s: f64,
    acknowledged_s: f64,
    indexed_s: f64,
    /// Until a batch is acknowledged; none for a stream, which is acknowledged at its end.
    batch_p50_us: Option<f64>,
    batch_p95_us: Option<f64>,
    batch_p99_us: Option<f64>,
    /// Bytes sent to disk from the first row until all are in segments.
    written_mb: Option<f64>,
    /// Bytes of keys, texts, payload and f32 vectors.
    user_mb: f64,
    disk_mb: f64,
    segments: u64,
}

/// Runs the command.
///
/// # Errors
/// Files cannot be read; the engine fails or loses rows; the report cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let machine = Machine::read();
    let source = read(&args.data.join(&args.set), args.rows)?;
    let mut points: Vec<(Mode, usize, Vec<Run>)> = Vec::new();
    for &mode in &args.modes {
        points.extend(args.writers.iter().map(|&writers| (mode, writers, Vec::new())));
    }
    for _ in 0..args.repeat {
        for (mode, writers, runs) in &mut points {
            runs.push(run_once(args, *mode, &source, *writers)?);
        }
    }
    let mut measured = Vec::new();
    for (mode, writers, runs) in &points {
        measured.push(point(*mode, *writers, args.batch, &source, runs)?);
    }
    let goals = goals(&measured);
    let rows = measured.into_iter().map(report::row).collect::<Result<Vec<_>>>()?;
    let set = json!({"rows": source.passages.len(), "dim": source.vectors.dim});
    let settings =
        json!({"command": "import", "arguments": args, "set": set, "durability": Durability::Sync});
    Report { machine, settings, rows, goals }.publish(&COLUMNS, args.json.as_deref())
}

fn read(folder: &Path, limit: Option<usize>) -> Result<Source> {
    let mut passages: Vec<Passage> = dataset::json_lines(&folder.join(PASSAGES))?;
    let mut vectors = dataset::read(&folder.join(VECTORS))?;
    if passages.len() != vectors.rows() {
        return Err(format!("{} passages have {} vectors", passages.len(), vectors.rows()).into());
    }
    let rows = limit.unwrap_or(usize::MAX).min(passages.len());
    passages.truncate(rows);
    vectors.truncate(rows);
    Ok(Source { passages, vectors })
}

fn schema(dim: usize) -> Result<Schema> {
    Ok(Schema::new()
        .text("text")
        .dense(VECTOR, u32::try_from(dim)?, Metric::Ip)
        .payload("title", PayloadKind::Keyword)
        .payload("words", PayloadKind::Integer))
}

fn row(source: &Source, at: usize) -> Row {
    let passage = &source.passages[at];
    Row::new(&passage.id)
        .text("text", &passage.text)
        .dense(VECTOR, source.vectors.row(at).to_vec())
        .payload("title", passage.title.as_str())
        .payload("words", words(passage))
}

fn words(passage: &Passage) -> i64 {
    passage.text.split_whitespace().count() as i64
}

/// Acknowledged rows a second of each mode at its best number of writers; the faster gRPC mode counts.
fn goals(points: &[Point]) -> Vec<Goal> {
    let best = |embedded: bool| {
        let points = points.iter().filter(|point| (point.mode == Mode::Embedded) == embedded);
        points.max_by(|a, b| a.rows_per_s.total_cmp(&b.rows_per_s))
    };
    let goal = |point: &Point| {
        let what = format!("{:?}, {} writers: acknowledged rows/s, Sync", point.mode, point.writers);
        Goal::at_least(what, point.rows_per_s, point.mode.goal())
    };
    [best(true), best(false)].into_iter().flatten().map(goal).collect()
}

fn run_once(args: &Args, mode: Mode, source: &Source, writers: usize) -> Result<Run> {
    let dir = TempDir::new()?;
    let schema = schema(source.vectors.dim)?;
    if mode == Mode::Embedded {
        let settings = Settings { durability: Durability::Sync, ..Settings::default() };
        let (engine, _) = Embedded::open(dir.path(), COLLECTION, settings, schema)?;
        return import(&engine, source, args.batch, writers);
    }
    let binary = args.server.clone().map_or_else(Server::beside_this, Ok)?;
    let server = Server::start(&binary, dir.path())?;
    let write = if mode == Mode::Grpc { Write::Calls } else { Write::Stream };
    let (engine, _) = Remote::open(server.url(), &Access::default(), COLLECTION, &schema)?;
    import(&engine.in_process(server.pid()).write(write), source, args.batch, writers)
}

/// Writes all rows with `writers` threads that take the next batch from one queue, then waits for the
/// segments.
fn import(engine: &dyn Engine, source: &Source, batch: usize, writers: usize) -> Result<Run> {
    let rows = source.passages.len();
    let batches: Vec<Vec<Row>> = (0..rows)
        .step_by(batch)
        .map(|start| (start..rows.min(start + batch)).map(|at| row(source, at)).collect())
        .collect();
    let queue = Mutex::new(batches.into_iter());
    let written = machine::written_bytes(engine.process());

    let begin = Instant::now();
    let times = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..writers).map(|_| scope.spawn(|| write(engine, &queue))).collect();
        workers.into_iter().map(|worker| worker.join()).collect::<Vec<_>>()
    });
    let acknowledged_s = begin.elapsed().as_secs_f64();
    let mut latency = Latency::new()?;
    for worker in times {
        for time in worker.map_err(|_| Error::from("a writer panicked"))?? {
            latency.record(time);
        }
    }
    engine.flush()?;
    let indexed_s = begin.elapsed().as_secs_f64();

    let size = engine.size()?;
    if size.rows != rows as u64 {
        return Err(format!("{rows} rows were acknowledged, but the engine holds {}", size.rows).into());
    }
    let written = written.zip(machine::written_bytes(engine.process())).map(|(before, after)| after - before);
    Ok(Run {
        acknowledged_s,
        indexed_s,
        latency,
        written_mb: written.map(|bytes| bytes as f64 / MIB),
        disk_mb: engine.close()? as f64 / MIB,
        segments: size.segments,
    })
}

/// One writer: times of its batches.
fn write(engine: &dyn Engine, queue: &Mutex<impl Iterator<Item = Vec<Row>>>) -> Result<Vec<Duration>> {
    let mut writer = engine.writer()?;
    let mut times = Vec::new();
    loop {
        // A writer that panicked leaves the queue whole.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(rows) = next else { break };
        let begin = Instant::now();
        writer.upsert(rows)?;
        times.push(begin.elapsed());
    }
    writer.finish()?;
    Ok(times)
}

fn point(mode: Mode, writers: usize, batch: usize, source: &Source, runs: &[Run]) -> Result<Point> {
    let rows = source.passages.len();
    let median = |figure: &dyn Fn(&Run) -> Option<f64>| {
        let values: Vec<f64> = runs.iter().filter_map(figure).collect();
        (!values.is_empty()).then(|| report::median(&values))
    };
    let of_all = |figure: fn(&Run) -> f64| median(&|run| Some(figure(run))).unwrap_or(f64::NAN);
    let mut latency = Latency::new()?;
    for run in runs {
        latency.add(&run.latency)?;
    }
    let quantile = |share| (mode != Mode::GrpcStream).then(|| latency.quantile_us(share));
    let user_bytes: usize =
        source.passages.iter().map(|passage| user_bytes(passage, source.vectors.dim)).sum();
    Ok(Point {
        mode,
        writers,
        batch,
        rows,
        rows_per_s: rows as f64 / of_all(|run| run.acknowledged_s),
        rows_per_s_runs: runs.iter().map(|run| rows as f64 / run.acknowledged_s).collect(),
        indexed_rows_per_s: rows as f64 / of_all(|run| run.indexed_s),
        acknowledged_s: of_all(|run| run.acknowledged_s),
        indexed_s: of_all(|run| run.indexed_s),
        batch_p50_us: quantile(0.50),
        batch_p95_us: quantile(0.95),
        batch_p99_us: quantile(0.99),
        written_mb: median(&|run| run.written_mb),
        user_mb: user_bytes as f64 / MIB,
        disk_mb: of_all(|run| run.disk_mb),
        segments: runs.last().map_or(0, |run| run.segments),
    })
}

/// Bytes of what the caller sent for one row.
fn user_bytes(passage: &Passage, dim: usize) -> usize {
    passage.id.len() + passage.title.len() + passage.text.len() + size_of::<i64>() + dim * size_of::<f32>()
}
