//! `spandrel-bench`: how good and how fast the engine is, beside exact answers and beside its peers.
//!
//! Every command but `chunks` reads real data by path, prints a table and, with `--json FILE`, writes one
//! object: `machine`, `settings`, `rows` (one a measured point) and `goals`. Not a test: nothing fails
//! because a machine is slow, but a wrong answer does fail. Build it with optimization: `cargo build
//! --profile bench -p spandrel-bench`.
#![forbid(unsafe_code)]

mod ann;
mod cells;
mod chunks;
mod churn;
mod codes;
mod dataset;
mod dedup;
mod drive;
mod engine;
mod exact;
mod flat;
mod import;
mod latency;
mod machine;
mod peer;
mod plot;
mod rag;
mod random;
mod recall;
mod report;
mod scale;
mod set;
mod tenants;
mod truth;

use clap::{Parser, Subcommand};

/// Any failure of a bench: printed for the person who ran it.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

/// Recall, latency and cost of the Spandrel engine, beside exact answers and its peers.
#[derive(Parser)]
#[command(name = "spandrel-bench", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Recall, QPS, latency, build time and size of one vector set.
    ///
    /// Example: spandrel-bench ann --base b.fbin --queries q.fbin --truth gt.ibin --metric l2 --k 10
    Ann(Box<ann::Args>),
    /// Time to make cells of vectors in memory, without a database.
    Cells(cells::Args),
    /// What chunk caches save an LLM server on a made-up trace, by systems, policies and assumptions.
    ///
    /// Example: spandrel-bench chunks --table systems,sizes --cci-mean 0.2
    Chunks(Box<chunks::Args>),
    /// Recall, latency and upserts a second while every row is replaced.
    ///
    /// Example: spandrel-bench churn --base b.fbin --queries q.fbin --truth gt.ibin --metric l2
    Churn(churn::Args),
    /// Codes of vectors: how well their estimates rank, bytes, encode and scan times.
    Codes(codes::Args),
    /// Near copies among passages with planted ones: precision, recall, bytes and time, beside datasketch.
    ///
    /// Example: spandrel-bench dedup --passages passages.jsonl.zst --thresholds 0.8
    Dedup(Box<dedup::Args>),
    /// Exact search beside numpy and faiss IndexFlat, in alternating rounds of one run.
    Flat(flat::Args),
    /// Import rate of rows with text, payload and vectors, embedded and through gRPC.
    Import(import::Args),
    /// Evidence in a token budget, by how chunks are chosen; what that costs and how far from the best it is.
    ///
    /// Example: spandrel-bench rag --data ../shared/data --show evidence
    Rag(Box<rag::Args>),
    /// How time, build and memory grow with the rows of a mixture that is fitted to a real set.
    ///
    /// Example: spandrel-bench scale --base b.fbin --metric l2 --rows 10000,100000,1000000
    Scale(scale::Args),
    /// Many tenants, labels and filters in one collection: recall, latency and memory.
    ///
    /// Example: spandrel-bench tenants --base b.npy --queries q.npy --metric ip --workload zipf:1000
    Tenants(Box<tenants::Args>),
}

fn main() -> std::process::ExitCode {
    let done = match Cli::parse().command {
        Command::Ann(args) => ann::run(&args),
        Command::Cells(args) => cells::run(&args),
        Command::Chunks(args) => chunks::run(&args),
        Command::Churn(args) => churn::run(&args),
        Command::Codes(args) => codes::run(&args),
        Command::Dedup(args) => dedup::run(&args),
        Command::Flat(args) => flat::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Rag(args) => rag::run(&args),
        Command::Scale(args) => scale::run(&args),
        Command::Tenants(args) => tenants::run(&args),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spandrel-bench: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
