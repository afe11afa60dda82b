//! `spandrel-bench codes`: every way to write a vector in fewer bytes, by how well its estimates rank.
//!
//! No index: all vectors are scanned, so that what is measured is the code. `bench/peers/codes.py` prints the
//! same columns for those of faiss.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;
use spandrel::Metric;

use self::judge::Set;
use crate::Result;
use crate::ann::positive;
use crate::dataset;
use crate::flat::{TRUTH, sets};
use crate::machine::Machine;
use crate::report::{self, Column, Report};
use crate::truth::Truth;

mod catalogue;
mod judge;

/// True neighbours that are looked for.
const K: usize = 10;

const COLUMNS: [Column; 14] = [
    ("set", 0),
    ("code", 0),
    ("unbiased", 0),
    ("code_bytes", 0),
    ("bytes_per_vector", 0),
    ("recall_10", 4),
    ("recall_50", 4),
    ("recall_100", 4),
    ("error_mean", 5),
    ("bias_mean", 5),
    ("train_s", 1),
    ("encode_s", 2),
    ("scan_ns", 2),
    ("search_ns", 2),
];

/// What to measure.
#[derive(clap::Args, Serialize)]
pub struct Args {
    /// Folder of the data sets
    #[arg(long)]
    data: PathBuf,
    /// Sets of it whose name contains this; left out: all
    #[arg(long, default_value = "")]
    set: String,
    /// Codes whose name contains one of these: rabitq,pq4; left out: all
    #[arg(long, value_delimiter = ',')]
    code: Vec<String>,
    /// Threads that train; one encodes and scans
    #[arg(long, default_value = "1", value_parser = positive)]
    train_threads: usize,
    /// Only the first so many queries
    #[arg(long, value_parser = positive)]
    query_limit: Option<usize>,
    /// Write the report to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Files are not there or do not fit each other; no code has such a name; the report cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let machine = Machine::read();
    let mut rows = Vec::new();
    for set in sets(&args.set)? {
        let folder = args.data.join(set.name);
        let base = dataset::read(&folder.join(set.base))?;
        let mut queries = dataset::read(&folder.join(set.queries))?;
        queries.truncate(args.query_limit.unwrap_or(usize::MAX));
        let truth = Truth::read(&folder.join(TRUTH), queries.rows(), K, base.rows())?;
        let is_l2 = set.metric == Metric::L2;
        let name = set.name;
        let set = Set::new(base.dim, is_l2, base.data, queries.data, truth.rows);
        for code in catalogue::all(set.dim) {
            let wanted = |part: &String| code.name().contains(part.as_str());
            if !args.code.is_empty() && !args.code.iter().any(wanted) {
                continue;
            }
            for figures in code.measure(&set, args.train_threads) {
                eprintln!("{name}: {}, recall@{K} {:.4}", figures.code, figures.recall_10);
                let mut row = report::row(figures)?;
                row.insert("set".into(), json!(name));
                rows.push(row);
            }
        }
    }
    if rows.is_empty() {
        return Err(format!("no code is called like {:?}", args.code).into());
    }
    let settings = json!({"command": "codes", "arguments": args});
    Report { machine, settings, rows, goals: Vec::new() }.publish(&COLUMNS, args.json.as_deref())
}
