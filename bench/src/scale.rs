//! `spandrel-bench scale`: how time, build and memory grow with the number of rows.
//!
//! There is no large enough set of real vectors at hand, so rows are drawn from a [`Mixture`] fitted to a
//! real set, written to a file as they are drawn, and sets of all sizes are the beginnings of that one
//! file. Queries are drawn from the same mixture. How much the mixture is worth shows beside the real set
//! at its own size: every so many rows of it are left out and are its queries. `dimension` is the local
//! intrinsic dimension at the k nearest of a query (Levina and Bickel, 2004; averaged as MacKay and
//! Ghahramani do).
//!
//! Exponents are slopes of least squares through the logarithms of a figure and of the rows.

use std::borrow::Borrow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;
use spandrel::{DenseSpec, Element, IndexKind, Metric, Settings};
use tempfile::TempDir;

use self::mixture::Mixture;
use crate::ann::{build, named, positive, progress, share};
use crate::dataset::{self, Matrix};
use crate::drive::{self, Load};
use crate::engine::{self, COLLECTION, Embedded, Engine, Wanted};
use crate::latency::Latency;
use crate::machine::{self, Machine};
use crate::recall;
use crate::report::{self, Column, Report, Row};
use crate::truth::{self, Truth};
use crate::{Error, Result};

mod mixture;

/// Rows drawn at once.
const DRAWN_ROWS: usize = 4_096;
/// Rows from which the second exponent is taken.
const LARGE_ROWS: f64 = 1e5;
/// Queries explained to count what they read and score.
const EXPLAINED_QUERIES: usize = 50;
/// Queries sent before the clock starts.
const WARM_UP: usize = 200;
const PAGE_BYTES: f64 = 4_096.0;
const MIB: f64 = 1_048_576.0;

const COLUMNS: [Column; 16] = [
    ("set", 0),
    ("rows", 0),
    ("dimension", 1),
    ("recall", 4),
    ("qps", 0),
    ("mean_us", 2),
    ("p50_us", 2),
    ("p99_us", 2),
    ("scored", 0),
    ("pages_per_query", 1),
    ("build_s", 2),
    ("segments", 0),
    ("memory_mb", 2),
    ("rss_mb", 0),
    ("rss_peak_mb", 0),
    ("disk_mb", 0),
];

/// Figures whose growth is fitted.
const GROWING: [&str; 5] = ["mean_us", "p50_us", "p99_us", "build_s", "memory_mb"];

/// What to measure.
#[derive(clap::Args, Serialize)]
pub struct Args {
    /// Real vectors that the mixture is fitted to: fvecs, bvecs, fbin, u8bin or npy, each also as .zst
    #[arg(long)]
    base: PathBuf,
    /// How vectors are compared: l2, ip or cosine
    #[arg(long, value_parser = named::<Metric>)]
    metric: Metric,
    /// Rows of the mixture; several values give several points
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10000,30000,100000,300000,1000000",
        value_parser = positive
    )]
    rows: Vec<usize>,
    /// Queries of each set
    #[arg(long, default_value = "1000", value_parser = positive)]
    queries: usize,
    /// Hits a query
    #[arg(long, default_value = "10", value_parser = positive)]
    k: usize,
    /// Recall asked of the engine
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    recall: f64,
    /// Components of the mixture, at most
    #[arg(long, default_value = "3000", value_parser = positive)]
    components: usize,
    /// Share of a component's variance that goes to all directions alike
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    isotropic: f64,
    /// Rows of the real set that the mixture is fitted to, at most: they are in memory meanwhile
    #[arg(long, default_value = "100000", value_parser = positive)]
    fit_rows: usize,
    /// Where the draws begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Memory budget of the engine in MiB; left out: its default
    #[arg(long)]
    memory_mb: Option<u64>,
    /// Memory that a build may take in MiB; left out: the engine's default
    #[arg(long)]
    build_memory_mb: Option<u64>,
    /// Passes over the queries; the middle QPS is reported, latencies of all passes together
    #[arg(long, default_value = "3", value_parser = positive)]
    repeat: usize,
    /// Folder for the sets, which stay there for `ann` and for peers, and the databases, one after the other;
    /// left out: a temporary one
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the report to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The first `rows` of a file, and queries.
struct Set<'a> {
    name: &'static str,
    base: &'a Path,
    rows: usize,
    queries: &'a Matrix,
    unit: bool,
}

/// A measured point.
#[derive(Serialize)]
struct Point {
    set: &'static str,
    rows: usize,
    /// Local intrinsic dimension; none where the metric has no distance.
    dimension: Option<f64>,
    recall: f64,
    recall_min: f64,
    qps: f64,
    qps_runs: Vec<f64>,
    mean_us: f64,
    p50_us: f64,
    p99_us: f64,
    /// Codes and vectors scored by a query.
    scored: f64,
    pages_per_query: f64,
    build_s: f64,
    segments: u64,
    /// What the engine says that indexes and fresh rows hold.
    memory_mb: f64,
    /// Resident once searches have ended, and the most since the build began.
    rss_mb: Option<f64>,
    rss_peak_mb: Option<f64>,
    disk_mb: f64,
}

/// Runs the command.
///
/// # Errors
/// Files cannot be read or written; the engine fails.
pub fn run(args: &Args) -> Result<()> {
    let machine = Machine::read();
    println!("seed {}", args.seed);
    let temporary = TempDir::new()?;
    let dir = args.dir.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(dir)?;
    let (real, drawn) = (dir.join("real.fbin"), dir.join("mixture.fbin"));

    let (real_rows, real_queries, sample) = split(args, &real)?;
    let (mixture, fit) = Mixture::fit(sample, args.components, args.isotropic, args.seed)?;
    println!(
        "{} components and {} isotropic, fitted to {} rows of {}; within components is {:.3} of the variance{}",
        fit.components,
        args.isotropic,
        fit.rows,
        args.base.display(),
        fit.variance_within,
        if fit.unit { "; rows are normalised" } else { "" }
    );
    let most = args.rows.iter().copied().max().unwrap_or(0).max(real_rows);
    draw(&mixture, args.seed, most, &drawn)?;
    let queries = mixture.rows(args.seed.wrapping_add(1), 0, args.queries);
    drop(mixture);
    for (name, queries) in [("real.queries.fbin", &real_queries), ("mixture.queries.fbin", &queries)] {
        write(&dir.join(name), queries.dim, queries.rows(), std::iter::once(queries))?;
    }

    let set = |name, base, rows, queries| Set { name, base, rows, queries, unit: fit.unit };
    let mut sets = vec![
        set("real", &*real, real_rows, &real_queries),
        set("mixture, as many", &*drawn, real_rows, &queries),
    ];
    let mut sizes = args.rows.clone();
    sizes.sort_unstable();
    sizes.dedup();
    sets.extend(sizes.iter().map(|rows| set("mixture", &*drawn, *rows, &queries)));
    let mut points = Vec::new();
    for set in &sets {
        let point = measure(set, args, dir)?;
        let (us, s) = (point.p50_us, point.build_s);
        eprintln!(
            "{}: {} rows, recall {:.4}, p50 {us:.0} us, build {s:.1} s",
            set.name, set.rows, point.recall
        );
        points.push(report::row(point)?);
    }
    let of_mixture: Vec<Row> = points[2..].to_vec();
    points.push(exponents("exponent", &of_mixture, 0.0));
    points.push(exponents("exponent, large", &of_mixture, LARGE_ROWS));
    let settings = json!({"command": "scale", "arguments": args, "fit": fit, "large_rows": LARGE_ROWS});
    Report { machine, settings, rows: points, goals: Vec::new() }.publish(&COLUMNS, args.json.as_deref())
}

/// Writes the real base without every so many rows, which are its queries: the number of rows that are left,
/// the queries, and those rows that a mixture is fitted to.
fn split(args: &Args, to: &Path) -> Result<(usize, Matrix, Matrix)> {
    let (all, dim) = dataset::shape(&args.base)?;
    if all < 2 * args.queries {
        return Err(format!("{} rows are too few to leave {} out", all, args.queries).into());
    }
    let (every, fit_every) = (all / args.queries, all.div_ceil(args.fit_rows));
    let is_query = |row: usize| row.is_multiple_of(every) && row / every < args.queries;
    let rows = all - args.queries;
    let (mut queries, mut sample) = (Vec::new(), Vec::new());
    let mut out = begin(to, dim, rows)?;
    dataset::chunks(&args.base, all, |first, chunk| {
        for (at, row) in (first..).zip(chunk.data.chunks_exact(dim)) {
            if is_query(at) {
                queries.extend_from_slice(row);
                continue;
            }
            put(&mut out, row)?;
            if at % fit_every == fit_every - 1 {
                sample.extend_from_slice(row);
            }
        }
        Ok(())
    })?;
    out.flush()?;
    Ok((rows, Matrix { dim, data: queries }, Matrix { dim, data: sample }))
}

/// Writes rows of the mixture, as they are drawn.
fn draw(mixture: &Mixture, seed: u64, rows: usize, to: &Path) -> Result<()> {
    let bar = progress(rows as u64, "draw")?;
    let parts = (0..rows).step_by(DRAWN_ROWS).map(|first| first..rows.min(first + DRAWN_ROWS));
    let chunks = parts.map(|part| {
        bar.inc(part.len() as u64);
        mixture.rows(seed, part.start, part.len())
    });
    write(to, mixture.dim(), rows, chunks)?;
    bar.finish_and_clear();
    Ok(())
}

/// Writes chunks of rows as an fbin file.
fn write(path: &Path, dim: usize, rows: usize, chunks: impl Iterator<Item: Borrow<Matrix>>) -> Result<()> {
    let mut out = begin(path, dim, rows)?;
    for chunk in chunks {
        put(&mut out, &chunk.borrow().data)?;
    }
    Ok(out.flush()?)
}

/// Begins an fbin file.
fn begin(path: &Path, dim: usize, rows: usize) -> Result<BufWriter<File>> {
    let file = File::create(path).map_err(|error| Error::from(format!("{}: {error}", path.display())))?;
    let mut out = BufWriter::new(file);
    for size in [rows, dim] {
        out.write_all(&u32::try_from(size)?.to_le_bytes())?;
    }
    Ok(out)
}

fn put(out: &mut impl Write, values: &[f32]) -> Result<()> {
    values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))?;
    Ok(())
}

fn measure(set: &Set<'_>, args: &Args, dir: &Path) -> Result<Point> {
    let folder = TempDir::new_in(dir)?;
    let mut settings = Settings { learn_from_queries: false, ..Settings::default() };
    if let Some(mb) = args.memory_mb {
        settings.memory_budget_bytes = mb << 20;
    }
    if let Some(mb) = args.build_memory_mb {
        settings.build_memory_bytes = mb << 20;
    }
    let spec = DenseSpec {
        dim: u32::try_from(set.queries.dim)?,
        metric: args.metric,
        element: Element::F32,
        index: IndexKind::Auto,
    };
    let (engine, _) = Embedded::open(folder.path(), COLLECTION, settings, engine::vector_schema(spec))?;
    machine::reset_peak(engine.process());
    let build_s = build(&engine, set.base, set.rows)?;
    let size = engine.size()?;
    let wanted = Wanted::new(args.k, Some(args.recall));
    let sample = set.queries.rows().min(EXPLAINED_QUERIES);
    let (mut read_bytes, mut scored) = (0, 0);
    for at in 0..sample {
        let work = engine.work(set.queries.row(at), wanted)?;
        read_bytes += work.read_bytes;
        scored += work.scored;
    }
    let load = Load { wanted, threads: 1, batch: 1, warm_up: WARM_UP };
    let (mut latency, mut qps_runs, mut found) = (Latency::new()?, Vec::new(), Vec::new());
    for _ in 0..args.repeat {
        let pass = drive::pass(&engine, set.queries, load)?;
        latency.add(&pass.latency)?;
        qps_runs.push(pass.qps);
        found = pass.found;
    }
    let memory = machine::memory(engine.process());
    let disk_bytes = engine.close()?;
    drop((engine, folder));

    let truth = Truth::compute(set.base, set.rows, set.queries, args.metric, args.k)?;
    let quality = recall::judge(set.base, set.rows, set.queries, args.metric, &truth, &found)?;
    let scores = truth::scores(set.base, set.rows, set.queries, args.metric, &truth.rows)?;
    let qps = report::median(&qps_runs);
    Ok(Point {
        set: set.name,
        rows: set.rows,
        dimension: dimension(&scores, args.metric, set.unit),
        recall: quality.recall,
        recall_min: quality.recall_min,
        qps,
        qps_runs,
        mean_us: 1e6 / qps,
        p50_us: latency.quantile_us(0.50),
        p99_us: latency.quantile_us(0.99),
        scored: scored as f64 / sample as f64,
        pages_per_query: read_bytes as f64 / PAGE_BYTES / sample as f64,
        build_s,
        segments: size.segments,
        memory_mb: size.memory_bytes as f64 / MIB,
        rss_mb: memory.map(|memory| memory.rss_mb),
        rss_peak_mb: memory.map(|memory| memory.peak_rss_mb),
        disk_mb: disk_bytes as f64 / MIB,
    })
}

/// Local intrinsic dimension from the scores of the nearest of each query, best first.
fn dimension(scores: &[Vec<f64>], metric: Metric, unit: bool) -> Option<f64> {
    let distance = |score: f64| match metric {
        Metric::L2 => Some((-score).sqrt()),
        Metric::Cosine => Some((2.0 - 2.0 * score).max(0.0).sqrt()),
        Metric::Ip => unit.then(|| (2.0 - 2.0 * score).max(0.0).sqrt()),
    };
    let (mut sum, mut count) = (0.0, 0.0);
    for nearest in scores {
        let distances: Vec<f64> = nearest.iter().copied().map(distance).collect::<Option<_>>()?;
        let Some((farthest, nearer)) = distances.split_last() else { continue };
        // One that is the query itself is no sample of its neighbourhood.
        for distance in nearer.iter().filter(|distance| **distance > 0.0) {
            sum += (farthest / distance).ln();
            count += 1.0;
        }
    }
    (sum > 0.0).then(|| count / sum)
}

/// The exponents of all growing figures over the points of at least `from` rows.
fn exponents(name: &str, points: &[Row], from: f64) -> Row {
    let mut row = Row::new();
    row.insert("set".into(), json!(name));
    for figure in GROWING {
        let pair = |point: &Row| Some((point.get("rows")?.as_f64()?, point.get(figure)?.as_f64()?));
        let pairs: Vec<(f64, f64)> =
            points.iter().filter_map(pair).filter(|(rows, _)| *rows >= from).collect();
        row.insert(figure.into(), json!(exponent(&pairs)));
    }
    row
}

/// The slope of the line nearest to the logarithms; none through fewer than two points.
fn exponent(pairs: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> = pairs.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / logs.len() as f64;
    let (x_mean, y_mean) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let product: f64 = logs.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum();
    let square: f64 = logs.iter().map(|(x, _)| (x - x_mean).powi(2)).sum();
    (square > 0.0).then(|| product / square)
}

#[cfg(test)]
mod tests;
