//! `spandrel-bench chunks`: what chunk caches are worth to an LLM server, without a model: systems that serve
//! the same trace of contexts with the same bytes, and how near to the offline optimum what they keep comes.
//!
//! No number here says anything about answers. How much of a cache has to be computed again is a formula
//! ([`reuse`](spandrel::rag::kv::reuse)) over an assumed law of its context impact; every table says which.
//! Nothing is timed and nothing is read: the same flags print the same tables on every machine.

mod flow;
mod offline;
mod prefix;
mod server;
mod simulate;
mod tables;
mod trace;

use spandrel::rag::kv::{Load, Rule};

use self::tables::{Setup, Tiers, sensitivity, shares_of_bound, sizes, systems};
use self::trace::Assumptions;
use crate::Result;
use crate::ann::positive;

/// What to print, and what is assumed.
#[derive(clap::Args)]
pub struct Args {
    /// Tables: systems beside each other, policies by cache size, by assumed context impact, or policies as
    /// shares of what any could save; left out: all
    #[arg(long, value_enum, value_delimiter = ',')]
    table: Vec<Table>,
    #[command(flatten)]
    assumed: Assumptions,
    /// Bytes of accelerator, host and disk, in shares of the working set
    #[arg(long, value_delimiter = ',', num_args = 3, default_values_t = [0.02, 0.08, 0.15])]
    tier_shares: Vec<f64>,
    /// Bytes of accelerator, host and disk
    #[arg(long, value_delimiter = ',', num_args = 3, conflicts_with = "tier_shares")]
    tier_bytes: Vec<u64>,
    /// The host's memory: microseconds to the first byte, bytes a microsecond
    #[arg(long, value_delimiter = ',', num_args = 2, default_values_t = [20.0, 25_000.0])]
    dram: Vec<f64>,
    /// The disk: microseconds to the first byte, bytes a microsecond
    #[arg(long, value_delimiter = ',', num_args = 2, default_values_t = [200.0, 6_000.0])]
    ssd: Vec<f64>,
    /// What the recomputed share is multiplied by
    #[arg(long, default_value_t = 1.0)]
    alpha: f64,
    /// Overlap as in the paper: chunks that a cache has not seen do not lessen it
    #[arg(long)]
    paper_overlap: bool,
    /// Variants a chunk
    #[arg(long, default_value_t = 5)]
    variants: usize,
    /// Requests of the trace for the bound; 20,000 take minutes
    #[arg(long, default_value = "6000", value_parser = positive)]
    bound_requests: usize,
}

/// A table.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Table {
    Systems,
    Sizes,
    Sensitivity,
    Bound,
}

/// Runs the command.
///
/// # Errors
/// An assumption is out of its range.
pub fn run(args: &Args) -> Result<()> {
    args.assumed.check()?;
    let setup = setup(args)?;
    let is_asked = |table| args.table.is_empty() || args.table.contains(&table);
    if is_asked(Table::Systems) {
        println!("{}", systems(&setup)?);
    }
    if is_asked(Table::Sizes) {
        println!("{}", sizes(&setup)?);
    }
    if is_asked(Table::Sensitivity) {
        println!("{}", sensitivity(&setup)?);
    }
    if is_asked(Table::Bound) {
        println!("{}", shares_of_bound(&setup));
    }
    Ok(())
}

fn setup(args: &Args) -> Result<Setup> {
    let tiers = match args.tier_bytes.as_slice() {
        [] => Tiers::Shares(parts("tier-shares", &args.tier_shares)?),
        bytes => Tiers::Bytes(parts("tier-bytes", bytes)?),
    };
    let load = |name, parts_us: &[f64]| {
        let [latency_us, bytes_per_us] = parts(name, parts_us)?;
        Ok::<_, crate::Error>(Load { latency_us, bytes_per_us })
    };
    let load = [Rule::default().load[0], load("dram", &args.dram)?, load("ssd", &args.ssd)?];
    Ok(Setup {
        assumed: args.assumed.clone(),
        tiers,
        rule: Rule { alpha: args.alpha, count_unseen: !args.paper_overlap, load },
        variants_per_chunk: args.variants,
        bound_requests: args.bound_requests,
    })
}

fn parts<T: Copy, const N: usize>(flag: &str, parts: &[T]) -> Result<[T; N]> {
    parts.try_into().map_err(|_| format!("--{flag} takes {N} numbers with commas between").into())
}
