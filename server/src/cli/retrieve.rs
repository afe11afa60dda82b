//! `spandrel retrieve`.

use std::time::Instant;

use serde_json::json;
use spandrel::{PackedChunk, RetrieveRequest};

use super::query::QueryArgs;
use super::target::TargetArgs;
use super::{CliError, Common, output};

/// Finds the best chunks and packs them, whole and in rank order, into a token budget: the context for a
/// language model.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  spandrel retrieve -c docs --text 'how long may I return a purchase?' --budget 1500
  spandrel retrieve -c docs --text 'returns' --vector @question.json -k 50 --budget 4000 --json")]
pub(super) struct RetrieveArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// Most tokens of the context, counted by the schema's tokenizer
    #[arg(short, long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    budget: u32,
    /// Text field whose value is packed [default: the schema's first]
    #[arg(long, value_name = "FIELD")]
    packed_field: Option<String>,
    /// What stands between two chunks [default: an empty line]
    #[arg(long, value_name = "TEXT")]
    separator: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
}

fn chunk_json(chunk: &PackedChunk) -> serde_json::Value {
    let mut json = output::hit_json(&chunk.hit);
    json["context_span"] = json!([chunk.context_span.start, chunk.context_span.end]);
    json["tokens"] = json!(chunk.tokens);
    json
}

pub(super) fn run(common: &Common, args: RetrieveArgs) -> Result<(), CliError> {
    let target = args.target.open(common, false)?;
    let schema = target.schema(&args.query.collection)?;
    let mut request = RetrieveRequest::new(args.query.search(&schema)?, args.budget as usize);
    request.text_field = args.packed_field;
    if let Some(separator) = args.separator {
        request.separator = separator;
    }
    let started = Instant::now();
    let response = target.retrieve(&args.query.collection, request)?;
    let took = started.elapsed();
    if common.json {
        let chunks: Vec<_> = response.chunks.iter().map(chunk_json).collect();
        output::print_json(&json!({
            "context": response.context,
            "tokens": response.tokens,
            "budget_tokens": args.budget,
            "chunks": chunks,
            "skipped": response.skipped,
            "candidates": response.candidates,
            "explain": response.explain,
            "took_us": took.as_micros() as u64,
        }))?;
        return target.close();
    }
    let mut text = format!("{}\n\n", response.context);
    text.push_str(&output::chunks_text(&response.chunks));
    text.push_str(&format!(
        "{} of {} tokens, {} chunks of {} candidates ({} did not fit) in {:.1} ms\n",
        response.tokens,
        args.budget,
        response.chunks.len(),
        response.candidates,
        response.skipped,
        took.as_secs_f64() * 1e3
    ));
    if let Some(explain) = &response.explain {
        text.push_str(&output::explain_text(explain));
    }
    output::print(&text)?;
    target.close()
}
