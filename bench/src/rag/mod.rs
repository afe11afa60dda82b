//! `spandrel-bench rag`: how much evidence retrieval puts into a token budget, what choosing costs, and how
//! far from the best it is.
//!
//! Questions and documents are real (multi-hop: MuSiQue, HotpotQA; single-hop: SQuAD), vectors are MiniLM's;
//! no model runs. Everything is asked through the engine's `retrieve`, embedded, as a user would.

mod ann;
mod bootstrap;
mod budget;
mod corpus;
mod draw;
mod evidence;
mod fit;
mod funnel;
mod gap;
mod judge;
mod questions;
mod redundancy;
mod selectors;

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use self::corpus::Corpus;
use self::questions::Set;
use crate::Result;
use crate::ann::positive;
use crate::machine::Machine;
use crate::report::{Column, Report};

const COLUMNS: [Column; 34] = [
    ("set", 0),
    ("pool", 0),
    ("budget", 0),
    ("selector", 0),
    ("questions", 0),
    ("problems", 0),
    ("unproven", 0),
    ("recall_asked", 2),
    ("ann_recall", 3),
    ("search_p50_us", 0),
    ("recall", 3),
    ("more", 3),
    ("low", 3),
    ("high", 3),
    ("relative_percent", 1),
    ("relative_low_percent", 1),
    ("of_ceiling", 3),
    ("precision", 3),
    ("full", 3),
    ("answer", 3),
    ("tokens", 0),
    ("gap_percent", 3),
    ("worst_percent", 1),
    ("optimal", 3),
    ("evaluations", 0),
    ("below_greedy", 0),
    ("selection_p50_us", 0),
    ("p50_us", 0),
    ("dry_run_p50_us", 0),
    ("time_share", 3),
    ("requests", 0),
    ("over_budget", 0),
    ("not_its_chunks", 0),
    ("chunks_mean", 1),
];

/// What to measure.
#[derive(clap::Args, Serialize)]
pub struct Args {
    /// Folder with the data sets
    #[arg(long)]
    data: PathBuf,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "evidence,gap,cost")]
    show: Vec<Show>,
    /// Multi-hop sets, pooled
    #[arg(long, value_delimiter = ',', default_value = "multihop-musique-200,multihop-hotpotqa-297")]
    multi_hop: Vec<String>,
    /// Single-hop sets, pooled
    #[arg(long, value_delimiter = ',', default_value = "squad-dev-1.1")]
    single_hop: Vec<String>,
    /// Most questions of a set
    #[arg(long, default_value_t = 1_000, value_parser = positive)]
    questions: usize,
    /// Budgets in tokens
    #[arg(long, value_delimiter = ',', default_value = "128,256,512,1024,2048")]
    budgets: Vec<usize>,
    /// Candidates
    #[arg(long, default_value_t = 60, value_parser = positive)]
    candidates: usize,
    /// Cut passages into pieces of at most so many tokens; 0: as they are
    #[arg(long, default_value_t = 0)]
    chunk_tokens: usize,
    /// Only every other question: 0 or 1
    #[arg(long)]
    half: Option<usize>,
    /// With `--show ann`: folder of `passages.jsonl.zst` and `base.f16.npy`, among which questions' documents
    /// are put
    #[arg(long)]
    among: Option<PathBuf>,
    /// With `--show budget`: random requests
    #[arg(long, default_value_t = 100_000, value_parser = positive)]
    requests: usize,
    /// With `--show fit`: write the model there
    #[arg(long)]
    model: Option<PathBuf>,
    /// Draw what `evidence` and `ann` show into this folder
    #[arg(long)]
    plots: Option<PathBuf>,
    /// Write one JSON object with all figures
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A table.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Show {
    /// Evidence in the budget, by selector
    Evidence,
    /// Gap to the exact optimum, at equal evaluations
    Gap,
    /// Time of a choice, and of a dry run
    Cost,
    /// Random requests of every kind, counted again
    Budget,
    /// What a funnel saves
    Funnel,
    /// Evidence by recall of the approximate search; needs --among
    Ann,
    /// Evidence where passages have near copies
    Redundancy,
    /// Which way of choosing suits a query, fitted and judged by folds
    Fit,
}

/// Runs the command.
///
/// # Errors
/// The data cannot be read, or an answer is wrong.
pub fn run(args: &Args) -> Result<()> {
    let read = |names: &[String]| -> Result<Vec<Set>> {
        names.iter().map(|name| Set::read(&args.data.join(name), args.questions)).collect()
    };
    let (multi, single) = (read(&args.multi_hop)?, read(&args.single_hop)?);
    for set in multi.iter().chain(&single) {
        let kind = if set.is_multi_hop { "multi-hop" } else { "single-hop" };
        println!(
            "{}: {} documents, {} questions, {kind}",
            set.name,
            set.documents.len(),
            set.questions.len()
        );
    }
    let (multi, single): (Vec<&Set>, Vec<&Set>) = (multi.iter().collect(), single.iter().collect());
    let all: Vec<&Set> = multi.iter().chain(&single).copied().collect();
    let corpus = Corpus::store(&all, (args.chunk_tokens, 0), |set| set.name.clone())?;
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for show in &args.show {
        let shape = (args.candidates, &*args.budgets, args.half);
        let parts = match show {
            Show::Evidence => vec![
                evidence::table("multi-hop", &multi, &corpus, shape)?,
                evidence::table("single-hop", &single, &corpus, shape)?,
            ],
            Show::Gap => vec![gap::gaps(&all, &corpus)?],
            Show::Cost => vec![gap::costs(&multi, &corpus)?],
            Show::Budget => {
                let overlapping = Corpus::store(&all, (48, 12), |set| set.name.clone())?;
                vec![budget::table(&all, &overlapping, args.requests)?]
            }
            Show::Funnel => {
                let pieces = Corpus::store(&multi, (64, 0), |set| set.name.clone())?;
                vec![funnel::table(&multi, &pieces)?]
            }
            Show::Ann => {
                let folder =
                    args.among.as_ref().ok_or("--show ann needs --among, a folder of many passages")?;
                let many = Set::many(folder)?;
                let sets: Vec<&Set> = multi.iter().copied().chain([&many]).collect();
                let corpus = Corpus::store(&sets, (0, 0), |_| ann::TENANT.to_owned())?;
                vec![ann::table(&multi, &corpus, args.candidates)?]
            }
            Show::Redundancy => vec![redundancy::table(&multi, shape)?],
            Show::Fit => {
                vec![fit::run(&all, &corpus, (args.candidates, &args.budgets), args.model.as_deref())?]
            }
        };
        for (more, judged) in parts {
            rows.extend(more);
            goals.extend(judged);
        }
    }
    if let Some(folder) = &args.plots {
        draw::all(folder, &rows)?;
    }
    let settings = json!({"command": "rag", "arguments": args});
    Report { machine: Machine::read(), settings, rows, goals }.publish(&COLUMNS, args.json.as_deref())
}
