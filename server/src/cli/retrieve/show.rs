//! What `spandrel retrieve` prints.

use std::time::Duration;

use serde_json::{Value as Json, json};
use spandrel::retrieve::candidate::{Reason, Rejected, StageCount};
use spandrel::select::meter::StoppedBy;
use spandrel::{Estimate, KvChunk, PackedChunk, RetrieveResponse, SelectionReport, Short};

use crate::cli::output;

/// For programs: everything.
pub(super) fn json(response: &RetrieveResponse, budget_tokens: usize, took: Duration) -> Json {
    let chunks: Vec<_> = response.chunks.iter().map(chunk_json).collect();
    json!({
        "context": response.context,
        "tokens": response.tokens,
        "budget_tokens": budget_tokens,
        "chunks": chunks,
        "skipped": response.skipped,
        "candidates": response.candidates,
        "short": response.short,
        "selection": response.selection,
        "rejected": response.rejected,
        "stages": response.stages,
        "rounds": response.rounds,
        "estimate": response.estimate,
        "explain": response.explain,
        "kv": response.kv.iter().map(kv_json).collect::<Vec<_>>(),
        "took_us": took.as_micros() as u64,
    })
}

fn chunk_json(chunk: &PackedChunk) -> Json {
    let mut json = output::hit_json(&chunk.hit);
    json["context_span"] = json!([chunk.context_span.start, chunk.context_span.end]);
    json["tokens"] = json!(chunk.tokens);
    json["rank"] = json!(chunk.rank);
    json["merged_from"] = json!(chunk.merged_from);
    json["source_span"] = json!(chunk.source_span.as_ref().map(|span| [span.start, span.end]));
    json
}

fn kv_json(chunk: &KvChunk) -> Json {
    let best = chunk.reusable.best.as_ref().map(|(variant, reuse)| {
        json!({
            "id": reuse.id,
            "uri": variant.uri,
            "tier": variant.tier,
            "exact": reuse.exact,
            "overlap": reuse.overlap,
            "load_us": reuse.load_us,
            "saved_us": reuse.saved_us,
        })
    });
    json!({
        "content": chunk.content,
        "tokens": chunk.tokens,
        "recompute_tokens": chunk.reusable.recompute_tokens,
        "advice": chunk.reusable.advice,
        "best": best,
    })
}

/// For people: the context, its sources, how it came about; with `--explain` all of that.
pub(super) fn text(response: &RetrieveResponse, budget_tokens: usize, took: Duration) -> String {
    if let Some(estimate) = &response.estimate {
        return estimate_text(estimate, &response.selection);
    }
    let short = match response.short {
        None | Some(Short::FewMatches) => "",
        Some(Short::EmptyTenant) => "; this tenant has no rows",
        Some(Short::Threshold) => "; the rest is below the score threshold",
        Some(Short::AccessLost) => "; rows lost their labels meanwhile",
    };
    let mut text = format!("{}\n\n{}", response.context, output::chunks_text(&response.chunks));
    text.push_str(&format!(
        "{} of {budget_tokens} tokens, {} chunks of {} candidates ({} left out) in {:.1} ms{short}\n",
        response.tokens,
        response.chunks.len(),
        response.candidates,
        response.skipped,
        took.as_secs_f64() * 1e3
    ));
    let selection = &response.selection;
    let ended = selection.stopped_by.map_or("no reason is told", ended);
    text.push_str(&format!(
        "chosen by {} with {} evaluations; it ended because {ended}; {} tokens are unused\n",
        selection.method,
        output::thousands(selection.evaluations),
        selection.unused_tokens
    ));
    if !response.kv.is_empty() {
        text.push_str(&kv_text(&response.kv));
    }
    if let Some(explain) = &response.explain {
        text.push_str(&left_out_text(&response.stages, &response.rejected));
        text.push_str(&output::explain_text(explain));
    }
    text
}

/// What is reused of each chunk in the context.
fn kv_text(chunks: &[KvChunk]) -> String {
    let line = |chunk: &KvChunk| {
        let uri = chunk.reusable.best.as_ref().map_or("", |(variant, _)| variant.uri.as_str());
        let tokens = u64::from(chunk.reusable.recompute_tokens);
        vec![
            chunk.content.to_string(),
            output::thousands(chunk.tokens.into()),
            output::thousands(tokens),
            output::one_line(uri, 40),
        ]
    };
    let lines: Vec<_> = chunks.iter().map(line).collect();
    format!("\n{}", output::table(&["chunk", "tokens", "to compute", "cache"], &lines))
}

fn estimate_text(estimate: &Estimate, selection: &SelectionReport) -> String {
    let plural = |count: u64, what: &str| format!("{} {what}", output::thousands(count));
    format!(
        "{}\n\nchosen by {} from at most {}; {} may be found, of {} of the tenant\nat most {}; about {:.1} ms\n",
        estimate.stages.join("\n"),
        selection.method,
        plural(estimate.candidates, "candidates"),
        plural(estimate.matches, "rows"),
        output::thousands(estimate.tenant_rows),
        plural(estimate.evaluations_max, "evaluations"),
        estimate.time_us as f64 / 1e3
    )
}

/// What stages did, and what is not in the context.
fn left_out_text(stages: &[StageCount], rejected: &[Rejected]) -> String {
    let mut text = String::new();
    if !stages.is_empty() {
        let count = |stage: &StageCount| {
            vec![stage.name.clone(), output::thousands(stage.rows_in), output::thousands(stage.rows_out)]
        };
        let lines: Vec<_> = stages.iter().map(count).collect();
        text.push_str(&format!("\n{}", output::table(&["between", "rows in", "rows out"], &lines)));
    }
    if !rejected.is_empty() {
        let why = |one: &Rejected| vec![output::one_line(&one.key, 40), reason(&one.reason)];
        let lines: Vec<_> = rejected.iter().map(why).collect();
        text.push_str(&format!("\n{}", output::table(&["left out", "because"], &lines)));
    }
    text
}

fn ended(by: StoppedBy) -> &'static str {
    match by {
        StoppedBy::Budget => "nothing else fits",
        StoppedBy::NoGain => "nothing else is worth its tokens",
        StoppedBy::Chunks => "there are as many chunks as allowed",
        StoppedBy::Converged => "no better set is found",
        StoppedBy::Evaluations => "there were as many evaluations as allowed",
        StoppedBy::Time => "its time was up",
    }
}

fn reason(reason: &Reason) -> String {
    let text = match reason {
        Reason::NoText => "it has no text",
        Reason::Budget => "it did not fit",
        Reason::LowGain => "others are worth more together",
        Reason::DuplicateOf(key) => return format!("the same as {}", output::one_line(key, 40)),
        Reason::Contaminated => "it shares too much with a text it is not to",
        Reason::LowQuality => "it does not look like text worth reading",
        Reason::Quota => "there are enough of its document or value",
        Reason::NotSampled => "it was not drawn",
        Reason::Funnel => "its group was not kept",
        Reason::Cut => "the ranking was cut before it",
        Reason::AccessLost => "it lost its labels meanwhile",
        Reason::Excluded => "the request says so",
    };
    text.to_owned()
}
