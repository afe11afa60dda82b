//! `spandrel search`.

use std::time::Instant;

use serde_json::json;
use spandrel::Short;

use super::query::QueryArgs;
use super::target::TargetArgs;
use super::{CliError, Common, output};

/// Finds the best rows of a tenant by words, by vectors, or by several of these at once.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  spandrel search -c docs --text 'free returns' -k 5
  spandrel search -c docs --vector @question.json --filter '{\"equals\": {\"field\": \"year\", \"value\": 2026}}'
  spandrel search -c docs --tenant acme --text 'free returns' --vector '[0.1, 0.9]' --explain
  spandrel search --url http://127.0.0.1:7780 -c docs --text 'free returns' --json")]
pub(super) struct SearchArgs {
    #[command(flatten)]
    query: QueryArgs,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn run(common: &Common, args: SearchArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    let schema = target.schema(&args.query.collection)?;
    let request = args.query.search(&schema)?;
    let offset = request.offset;
    let started = Instant::now();
    let response = target.search(&args.query.collection, request)?;
    let took = started.elapsed();
    if common.json {
        let hits: Vec<_> = response.hits.iter().map(output::hit_json).collect();
        output::print_json(&json!({
            "hits": hits,
            "short": response.short,
            "explain": response.explain,
            "took_us": took.as_micros() as u64,
        }))?;
        return target.close();
    }
    let mut text = output::hits_text(&response.hits, offset);
    let why = match response.short {
        None => "",
        Some(Short::EmptyTenant) => "; this tenant has no rows",
        Some(Short::FewMatches) => "; no more rows match",
        Some(Short::Threshold) => "; the rest is below the score threshold",
        Some(Short::AccessLost) => "; rows lost their labels meanwhile",
    };
    text.push_str(&format!("{} hits in {:.1} ms{why}\n", response.hits.len(), took.as_secs_f64() * 1e3));
    if let Some(explain) = &response.explain {
        text.push_str(&output::explain_text(explain));
    }
    output::print(&text)?;
    target.close()
}
