//! `spandrel stats`.

use spandrel::{CollectionStats, DatabaseStats};

use super::output::{bytes, thousands};
use super::target::TargetArgs;
use super::{CliError, Common, output};

/// Shows sizes and states of all collections, or of one. On a server this needs an admin key for all tenants.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  spandrel stats --data ./spandrel-data
  spandrel stats --url http://127.0.0.1:7780 --collection docs --json")]
pub(super) struct StatsArgs {
    /// Only this collection
    #[arg(short, long, value_name = "NAME")]
    collection: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
}

/// Statistics for people.
pub(super) fn text(stats: &DatabaseStats) -> String {
    let line = |one: &CollectionStats| {
        vec![
            one.name.clone(),
            thousands(one.rows),
            thousands(one.tenants),
            thousands(one.segments),
            thousands(one.deleted_rows),
            thousands(one.memory_rows),
            bytes(one.segment_bytes),
            bytes(one.memory_bytes),
        ]
    };
    let lines: Vec<_> = stats.collections.iter().map(line).collect();
    let heads = ["collection", "rows", "tenants", "segments", "deleted", "fresh", "on disk", "in memory"];
    format!(
        "{}row store {}, segments read by {}, vector instructions {}\n",
        output::table(&heads, &lines),
        bytes(stats.store_bytes),
        stats.reader,
        stats.simd
    )
}

pub(super) fn run(common: &Common, args: StatsArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    let mut stats = target.stats()?;
    if let Some(name) = &args.collection {
        stats.collections.retain(|one| one.name == *name);
        if stats.collections.is_empty() {
            let message = format!("there is no collection '{name}'");
            return Err(CliError { message, code: super::NOT_FOUND });
        }
    }
    if common.json {
        let json = serde_json::to_value(&stats).map_err(|error| CliError::failed(error.to_string()))?;
        output::print_json(&json)?;
    } else {
        output::print(&text(&stats))?;
    }
    target.close()
}
