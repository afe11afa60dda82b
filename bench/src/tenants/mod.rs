//! `spandrel-bench tenants`: many tenants, labels and filters in one collection.
//!
//! Each workload is a collection of its own over the same base, settled and opened again before it is asked.
//! Recall is judged by exact scores among the rows that a question may find; an answer shorter than the rows
//! allow is counted. With `--dump` nothing is measured: questions and truth are written for peers.

mod asked;
mod class;
mod dump;
mod labels;
mod many;
mod neighbours;
mod npy;
mod short;
mod workload;
mod writes;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};
use spandrel::{
    Collection, Database, DenseSpec, Element, FieldKind, Fields, IndexKind, Metric, PayloadKind, Route, Row,
    Schema, SearchRequest, Settings,
};
use tempfile::TempDir;

use self::asked::Asked;
use self::class::ALL;
use self::workload::{UNFILTERED, WORDS, Workload};
use crate::Result;
use crate::ann::{named, positive, progress, share};
use crate::dataset::{self, Matrix};
use crate::engine::{COLLECTION, Process, VECTOR};
use crate::machine::{self, Machine};
use crate::plot::{self, Curve};
use crate::report::{self, Column, Goal, Report};

const LOAD_ROWS: usize = 1_024;
/// The slowest hundredth with a filter, by that without.
const FILTER_P99_GOAL: f64 = 3.0;
const COLUMNS: [Column; 22] = [
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
    ("read_kb", 1),
    ("scored", 0),
    ("estimate_ratio", 2),
    ("memory_mb", 1),
    ("memory_grown_mb", 1),
    ("build_s", 1),
    ("open_s", 3),
];

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
    /// Elements kept in segments, of workloads with a truth: f32, f16 or i8
    #[arg(long, default_value = "f32", value_parser = named::<Element>)]
    element: Element,
    /// Leave hits the scores of their codes, where those are fine enough: no vector is read
    #[arg(long)]
    no_rescore: bool,
    /// uniform:TENANTS, zipf:TENANTS, groups:FILE (JSON lines with titles), labels:FILE (npz), filters or
    /// filters:SHARE,... (of 0.0001, 0.001, 0.01, 0.1, 0.5 and 1), many:TENANTS:ROWS, writes, neighbours or
    /// short:QUESTIONS; may be given again
    #[arg(long, required = true)]
    workload: Vec<String>,
    /// Questions a workload
    #[arg(long, default_value = "10000", value_parser = positive)]
    asks: usize,
    /// Memory budget of the engine in MiB; left out: its default
    #[arg(long)]
    memory_mb: Option<u64>,
    /// Have the engine evaluate every filter anew, as if each was asked for the first time
    #[arg(long)]
    no_filter_cache: bool,
    /// Print what the engine explains of a question of each class
    #[arg(long)]
    explain: bool,
    /// Write each workload, with its questions and their truth, into this folder, and measure nothing
    #[arg(long, conflicts_with_all = ["keep", "open", "truth", "json"])]
    dump: Option<PathBuf>,
    /// The truth is in this folder of an earlier `--dump`; left out: it is computed
    #[arg(long)]
    truth: Option<PathBuf>,
    /// Build in this folder, each workload in one of its own, and keep it; left out: in a temporary one
    #[arg(long, conflicts_with = "open")]
    keep: Option<PathBuf>,
    /// Measure what an earlier run kept in this folder
    #[arg(long)]
    open: Option<PathBuf>,
    /// Draw p50 and p99 by how many rows may be found into this file (SVG), for workloads with a truth
    #[arg(long, conflicts_with = "dump")]
    plot: Option<PathBuf>,
    /// Write the report to this file
    #[arg(long)]
    json: Option<PathBuf>,
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
        match &args.dump {
            Some(folder) => {
                let truth = workload.truth(&base, &queries, args.metric, args.k);
                dump::write(folder, &workload, &truth, args.metric, args.k)?;
            }
            None => {
                let measured = measure(args, &workload, &base, &queries)?;
                goals.extend(filter_goals(&measured, args.recall));
                rows.extend(measured);
            }
        }
    }
    if args.dump.is_some() {
        return Ok(());
    }
    if let Some(path) = &args.plot {
        let set = args.base.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let title = format!("{set}, {} rows, k = {}, recall {} asked", base.rows(), args.k, args.recall);
        plot::time_over_rows(path, &title, &curves(&rows))?;
        println!("wrote {}", path.display());
    }
    let settings = json!({"command": "tenants", "arguments": args, "rows": base.rows(), "dim": base.dim});
    Report { machine, settings, rows, goals }.publish(&COLUMNS, args.json.as_deref())
}

/// What is asked of filters: the recall, and a slowest hundredth that is not much slower than without one.
fn filter_goals(rows: &[report::Row], recall: f64) -> Vec<Goal> {
    let number = |row: &report::Row, what: &str| row.get(what).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let class = |row: &report::Row| row.get("class").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(none) = rows.iter().find(|row| class(row) == UNFILTERED) else { return Vec::new() };
    let filtered = rows.iter().filter(|row| ![UNFILTERED, ALL].contains(&&*class(row)));
    let goals = |row: &report::Row| {
        let p99 = number(row, "p99_us") / number(none, "p99_us");
        [
            Goal::at_least(format!("recall of {}", class(row)), number(row, "recall"), recall),
            Goal::at_most(format!("p99 of {} by none", class(row)), p99, FILTER_P99_GOAL),
        ]
    };
    filtered.flat_map(goals).collect()
}

/// The middle and the slowest hundredth of the questions of each class, by its rows; those of filters that
/// are alike but for how many rows pass are one curve.
fn curves(rows: &[report::Row]) -> Vec<Curve> {
    fn text<'a>(row: &'a report::Row, what: &str) -> &'a str {
        row.get(what).and_then(Value::as_str).unwrap_or_default()
    }
    // What all have in common is in no name.
    let alike = rows.iter().all(|row| text(row, "workload") == text(&rows[0], "workload"));
    let (mut curves, mut kinds): (Vec<Curve>, Vec<(&str, &str)>) = (Vec::new(), Vec::new());
    for percentile in ["p50", "p99"] {
        for row in rows {
            let number = |what: &str| row.get(what).and_then(Value::as_f64);
            let (class, workload) = (text(row, "class"), text(row, "workload"));
            let time = number(&format!("{percentile}_us"));
            let Some(at) = number("rows_mean").zip(time).filter(|_| class != ALL) else { continue };
            let kind = match class.split_once("% ") {
                Some((_, kind)) => kind,
                None if class == UNFILTERED => UNFILTERED,
                None => "",
            };
            let of = (workload, kind);
            let color = kinds.iter().position(|kind| *kind == of).unwrap_or(kinds.len());
            if color == kinds.len() {
                kinds.push(of);
            }
            let workload = if alike && !kind.is_empty() { "" } else { workload };
            let words = [workload, kind, percentile];
            let name = words.iter().copied().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
            match curves.iter_mut().find(|curve| curve.name == name) {
                Some(curve) => curve.points.push(at),
                None => curves.push(Curve { name, points: vec![at], color, is_pale: percentile == "p99" }),
            }
        }
    }
    curves
}

/// Measures what is no list of questions with their truth; none for other workloads.
fn special(
    args: &Args,
    name: &str,
    base: &Matrix,
    queries: &Matrix,
) -> Result<Option<(Vec<report::Row>, Vec<Goal>)>> {
    let (kind, value) = name.split_once(':').unwrap_or((name, ""));
    let number = |value: &str| -> Result<usize> {
        let number = value.parse().ok().filter(|number| *number > 1);
        number.ok_or_else(|| format!("{name}: a number above 1 after each colon").into())
    };
    let count = || number(value);
    Ok(Some(match kind {
        "many" => {
            let (tenants, rows) = value.split_once(':').unwrap_or((value, value));
            many::measure(args, (number(tenants)?, number(rows)?), base, queries)?
        }
        "writes" => writes::measure(args, base)?,
        "neighbours" => neighbours::measure(args, base, queries)?,
        "short" => short::measure(args, count()?, base, queries)?,
        _ => return Ok(None),
    }))
}

fn measure(args: &Args, workload: &Workload, base: &Matrix, queries: &Matrix) -> Result<Vec<report::Row>> {
    let temporary = TempDir::new()?;
    let kept = args.keep.as_ref().or(args.open.as_ref());
    let folder = kept.map_or(temporary.path().to_owned(), |folder| folder.join(workload.folder()));
    let mut settings = Settings { learn_from_queries: false, ..Settings::default() };
    if let Some(mb) = args.memory_mb {
        settings.memory_budget_bytes = mb << 20;
    }
    if args.no_filter_cache {
        settings.filter_cache_bytes = 0;
    }
    let dim = u32::try_from(base.dim)?;
    let spec = DenseSpec { dim, metric: args.metric, element: args.element, index: IndexKind::Auto };
    let mut schema = Schema::new().field(VECTOR, FieldKind::Dense(spec));
    if workload.has_words() {
        schema = schema.payload(WORDS, PayloadKind::Keyword);
    }
    let build_s = match args.open {
        Some(_) if !folder.exists() => return Err(format!("{} is not there", folder.display()).into()),
        Some(_) => None,
        None => Some(build(&folder, &settings, &schema, workload, base)?),
    };
    let mut asked = Asked::new(args, workload, queries);
    let idle = machine::memory(Process::This);
    let begin = Instant::now();
    let database = Database::open(&folder, settings)?;
    let open_s = begin.elapsed().as_secs_f64();
    let collection = database.collection(COLLECTION)?;
    if collection.schema() != &schema || collection.stats()?.rows != base.rows() as u64 {
        return Err(format!("{} holds another collection: make it again", folder.display()).into());
    }
    asked.ask(&collection)?;
    let now = machine::memory(Process::This);
    // What a build has left behind, or an earlier workload, would be taken again and not be seen to grow.
    let alone = args.open.is_some() && args.workload.len() == 1;
    let grown_mb = alone.then(|| Some(now?.rss_mb - idle?.rss_mb)).flatten();
    asked.explain(&collection, workload, args.explain)?;
    let memory_mb = collection.stats()?.memory_bytes as f64 / f64::from(1 << 20);
    database.close()?;
    drop((collection, database));
    let shared = json!({
        "memory_mb": memory_mb,
        "memory_grown_mb": grown_mb,
        "rss_mb": now.map(|memory| memory.peak_rss_mb),
        "rss_now_mb": now.map(|memory| memory.rss_mb),
        "rss_idle_mb": idle.map(|memory| memory.rss_mb),
        "build_s": build_s,
        "open_s": open_s,
    });
    asked.judge(args, workload, base, queries, &shared)
}

/// Loads the rows of a workload, and lets merging end: seconds until all is done.
fn build(
    folder: &Path,
    settings: &Settings,
    schema: &Schema,
    workload: &Workload,
    base: &Matrix,
) -> Result<f64> {
    let begin = Instant::now();
    let database = Database::open(folder, settings.clone())?;
    if !database.collections().is_empty() {
        return Err(format!("{} holds a collection already; measure it with --open", folder.display()).into());
    }
    let collection = database.create_collection(COLLECTION, schema.clone())?;
    load(&collection, base.rows(), |at| workload.row(at, base.row(at)))?;
    collection.optimize()?;
    let build_s = begin.elapsed().as_secs_f64();
    database.close()?;
    Ok(build_s)
}

/// Writes so many rows.
fn load(collection: &Collection, count: usize, mut row: impl FnMut(usize) -> Row) -> Result<()> {
    let bar = progress(count as u64, "load")?;
    for start in (0..count).step_by(LOAD_ROWS) {
        let end = count.min(start + LOAD_ROWS);
        collection.upsert((start..end).map(&mut row).collect())?;
        bar.inc((end - start) as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

/// A search for the best `k` keys.
fn search_for(query: &[f32], (k, recall): (usize, f64)) -> SearchRequest {
    let route = Route::dense(VECTOR, query.to_vec());
    SearchRequest { k, recall: recall as f32, fields: Fields::None, ..SearchRequest::new(route) }
}
