//! `spandrel-bench flat`: exact search beside numpy and faiss IndexFlat, on real sets, in one run.
//!
//! Rounds alternate (ours, faiss, numpy, ours, ...), and a ratio is taken within a round, so that a machine
//! that slows down slows everybody. All sides keep f32 vectors. Each peer runs in the fastest of the ways in
//! which it can use its threads, found by trying them first.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use spandrel::{DenseSpec, Element, IndexKind, Metric, Settings};
use tempfile::TempDir;

use crate::Result;
use crate::ann::{self, positive};
use crate::dataset::{self, Matrix};
use crate::drive::{self, Load};
use crate::engine::{self, COLLECTION, Embedded, Engine, Found, Wanted};
use crate::machine::Machine;
use crate::peer::{self, PEERS, PeerArgs, Peers, Round, Way};
use crate::recall::{self, Quality};
use crate::report::{self, Column, Goal, Report, Row};
use crate::truth::Truth;

/// Our QPS over that of faiss, at least.
const RATIO_GOAL_ONE: f64 = 1.0;
/// The same where a call carries a batch.
const RATIO_GOAL_BATCH: f64 = 0.8;
const RECALL_GOAL: f64 = 1.0;
/// Calls each thread makes before the clock starts, as in bench/peers/flat.py.
const WARM_UP_CALLS: usize = 2;

const COLUMNS: [Column; 14] = [
    ("set", 0),
    ("batch", 0),
    ("threads", 0),
    ("recall", 3),
    ("qps", 1),
    ("p50_us", 0),
    ("p99_us", 0),
    ("faiss_qps", 1),
    ("faiss_ratio", 2),
    ("faiss_ratio_min", 2),
    ("numpy_qps", 1),
    ("numpy_ratio", 2),
    ("faiss_recall", 3),
    ("numpy_recall", 3),
];

/// A set of the data folder.
pub struct Set {
    pub name: &'static str,
    pub base: &'static str,
    pub queries: &'static str,
    pub metric: Metric,
}

const SETS: [Set; 2] = [
    Set {
        name: "fashion-mnist-784-euclidean",
        base: "base.u8bin.zst",
        queries: "query.u8bin.zst",
        metric: Metric::L2,
    },
    Set {
        name: "ottqa-100k-minilm-384-ip",
        base: "base.f16.npy",
        queries: "query.f16.npy",
        metric: Metric::Ip,
    },
];
/// The file of a set's true neighbours.
pub const TRUTH: &str = "gt100.ibin";
/// The peers' script in a checkout.
const SCRIPT: &str = "bench/peers/flat.py";

/// What to measure.
#[derive(clap::Args, Serialize)]
pub struct Args {
    /// Folder of the data sets
    #[arg(long)]
    data: PathBuf,
    /// Sets of it whose name contains this; left out: all
    #[arg(long, default_value = "")]
    set: String,
    /// Hits a query
    #[arg(long, default_value_t = 10)]
    k: usize,
    /// Threads
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = positive)]
    threads: Vec<usize>,
    /// Queries a call
    #[arg(long, value_delimiter = ',', default_value = "1,32", value_parser = positive)]
    batch: Vec<usize>,
    /// Rounds of each side; medians are reported
    #[arg(long, default_value = "5", value_parser = positive)]
    rounds: usize,
    /// Queries a round; a multiple of batch x threads near it is used
    #[arg(long, default_value = "256", value_parser = positive)]
    round_queries: usize,
    #[command(flatten)]
    #[serde(flatten)]
    peer: PeerArgs,
    /// Write the report to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Files or peers are not there; the engine fails; the report cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let machine = Machine::read();
    let python = args.peer.python.clone().map_or_else(peer::default_python, Ok)?;
    let script = args.peer.script.clone().unwrap_or_else(|| peer::script(SCRIPT));
    let mut peers = Peers::start(&python, &script)?;
    let (mut rows, mut goals, mut engine) = (Vec::new(), Vec::new(), Value::Null);
    for set in sets(&args.set)? {
        engine = measure_set(args, set, &mut peers, &mut rows, &mut goals)?;
    }
    let versions = peers.versions()?;
    println!("peers: {versions}");
    let settings = json!({"command": "flat", "arguments": args, "engine": engine, "peers": versions});
    Report { machine, settings, rows, goals }.publish(&COLUMNS, args.json.as_deref())
}

/// The sets whose name contains `part`.
///
/// # Errors
/// There is none.
pub fn sets(part: &str) -> Result<Vec<&'static Set>> {
    let found: Vec<&Set> = SETS.iter().filter(|set| set.name.contains(part)).collect();
    if found.is_empty() {
        let names: Vec<&str> = SETS.iter().map(|set| set.name).collect();
        return Err(format!("no set is called '{part}'; known: {}", names.join(", ")).into());
    }
    Ok(found)
}

/// A set with everything that judges an answer to it.
struct Judge<'a> {
    base: &'a Path,
    queries: &'a Matrix,
    metric: Metric,
    truth: Truth,
}

impl Judge<'_> {
    fn quality(&self, found: &[Vec<Found>]) -> Result<Quality> {
        recall::judge(self.base, usize::MAX, self.queries, self.metric, &self.truth, found)
    }
}

/// Measures all points of a set; answers what the engine chose.
fn measure_set(
    args: &Args,
    set: &Set,
    peers: &mut Peers,
    rows: &mut Vec<Row>,
    goals: &mut Vec<Goal>,
) -> Result<Value> {
    let folder = args.data.join(set.name);
    let (base, queries_path) = (folder.join(set.base), folder.join(set.queries));
    let queries = dataset::read(&queries_path)?;
    let (base_rows, _) = dataset::shape(&base)?;
    let truth = Truth::read(&folder.join(TRUTH), queries.rows(), args.k, base_rows)?;
    let judge = Judge { base: &base, queries: &queries, metric: set.metric, truth };

    let dir = TempDir::new()?;
    let engine = open(dir.path(), queries.dim, set.metric)?;
    let build_s = ann::build(&engine, &base, base_rows)?;
    let size = engine.size()?;
    peers.load(&base, &queries_path, &json!(set.metric))?;

    let mut recalls = Row::new();
    for peer in PEERS {
        let answers = peers.answers(peer, args.k)?;
        let found: Vec<Vec<Found>> =
            answers.iter().map(|rows| rows.iter().map(|&row| Found { row, score: 0.0 }).collect()).collect();
        recalls.insert(format!("{peer}_recall"), json!(judge.quality(&found)?.recall));
    }
    for &batch in &args.batch {
        let whole = Load { wanted: Wanted::new(args.k, None), threads: 1, batch, warm_up: 0 };
        let quality = judge.quality(&drive::pass(&engine, &queries, whole)?.found)?;
        let what = format!("{}: recall@{}, batch {batch}", set.name, args.k);
        goals.push(Goal::at_least(what, quality.recall, RECALL_GOAL));
        for &threads in &args.threads {
            let load =
                Load { wanted: Wanted::new(args.k, None), threads, batch, warm_up: WARM_UP_CALLS * batch };
            let (mut row, ratio) = measure(args, &engine, peers, &queries, load)?;
            let what = format!("{}: QPS over faiss, batch {batch}, {threads} threads", set.name);
            goals.push(Goal::at_least(what, ratio, ratio_goal(batch)));
            row.insert("set".into(), json!(set.name));
            row.insert("recall".into(), json!(quality.recall));
            row.insert("score_error_max".into(), json!(quality.score_error_max));
            row.insert("build_s".into(), json!(build_s));
            row.extend(recalls.clone());
            rows.push(row);
        }
    }
    engine.close()?;
    Ok(json!({"simd": size.simd, "reader": size.reader, "segments": size.segments}))
}

fn ratio_goal(batch: usize) -> f64 {
    if batch == 1 { RATIO_GOAL_ONE } else { RATIO_GOAL_BATCH }
}

fn open(dir: &Path, dim: usize, metric: Metric) -> Result<Embedded> {
    let dim = u32::try_from(dim)?;
    let spec = DenseSpec { dim, metric, element: Element::F32, index: IndexKind::Flat };
    Ok(Embedded::open(dir, COLLECTION, Settings::default(), engine::vector_schema(spec))?.0)
}

/// Alternating rounds at one batch and number of threads: the figures, and our QPS over that of faiss.
fn measure(
    args: &Args,
    engine: &dyn Engine,
    peers: &mut Peers,
    queries: &Matrix,
    load: Load,
) -> Result<(Row, f64)> {
    let count = round_queries(args.round_queries, load.batch * load.threads, queries.rows());
    let mine = Matrix { dim: queries.dim, data: queries.data[..count * queries.dim].to_vec() };
    let mut ways = Vec::new();
    for peer in PEERS {
        ways.push((peer, fastest(peers, peer, load, count)?));
    }
    drive::pass(engine, &mine, load)?;

    let mut latency = crate::latency::Latency::new()?;
    let mut ours = Vec::new();
    let mut theirs: Vec<Vec<Round>> = vec![Vec::new(); PEERS.len()];
    for _ in 0..args.rounds {
        let pass = drive::pass(engine, &mine, load)?;
        latency.add(&pass.latency)?;
        ours.push(pass.qps);
        for ((peer, way), rounds) in ways.iter().zip(&mut theirs) {
            rounds.push(peers.run(peer, *way, load.wanted.k, load.batch, count)?);
        }
    }
    let mut row = report::row(json!({
        "batch": load.batch, "threads": load.threads, "round_queries": count,
        "qps": report::median(&ours), "qps_rounds": ours,
        "p50_us": latency.quantile_us(0.50), "p95_us": latency.quantile_us(0.95),
        "p99_us": latency.quantile_us(0.99),
    }))?;
    let mut faiss_ratio = f64::NAN;
    for ((peer, way), rounds) in ways.iter().zip(&theirs) {
        let qps: Vec<f64> = rounds.iter().map(|round| round.qps).collect();
        let ratios: Vec<f64> = ours.iter().zip(&qps).map(|(ours, theirs)| ours / theirs).collect();
        let p50s: Vec<f64> = rounds.iter().map(|round| round.p50_us).collect();
        let ratio = report::median(&ratios);
        if *peer == PEERS[0] {
            faiss_ratio = ratio;
        }
        row.insert(format!("{peer}_qps"), json!(report::median(&qps)));
        row.insert(format!("{peer}_qps_rounds"), json!(qps));
        row.insert(format!("{peer}_p50_us"), json!(report::median(&p50s)));
        row.insert(format!("{peer}_way"), json!(way.name()));
        row.insert(format!("{peer}_ratio"), json!(ratio));
        row.insert(format!("{peer}_ratio_min"), json!(ratios.iter().copied().fold(f64::INFINITY, f64::min)));
        row.insert(format!("{peer}_ratio_max"), json!(ratios.iter().copied().fold(0.0, f64::max)));
    }
    Ok((row, faiss_ratio))
}

/// The way in which a peer is fastest.
fn fastest(peers: &mut Peers, peer: &str, load: Load, count: usize) -> Result<Way> {
    let mut best: Option<(f64, Way)> = None;
    for way in Way::all(peer, load.threads, load.batch) {
        let qps = peers.run(peer, way, load.wanted.k, load.batch, count)?.qps;
        if best.is_none_or(|(most, _)| qps > most) {
            best = Some((qps, way));
        }
    }
    best.map(|(_, way)| way).ok_or_else(|| "a peer has no way to run".into())
}

/// A multiple of `unit` near `wanted`, at least one unit and at most all queries.
fn round_queries(wanted: usize, unit: usize, queries: usize) -> usize {
    (wanted.div_ceil(unit) * unit).min(queries / unit * unit).max(unit.min(queries))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests run in bench/, where the path from the root leads nowhere.
    #[test]
    fn the_script_is_found_from_any_folder() {
        assert!(!Path::new(SCRIPT).is_file());
        assert!(peer::script(SCRIPT).is_file());
    }

    #[test]
    fn rounds_are_whole_batches() {
        assert_eq!(round_queries(256, 1, 1000), 256);
        assert_eq!(round_queries(250, 64, 1000), 256);
        assert_eq!(round_queries(256, 64, 100), 64);
        assert_eq!(round_queries(256, 2048, 1000), 1000);
    }
}
