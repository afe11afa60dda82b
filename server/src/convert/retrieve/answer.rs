//! Contexts, and what is said of them, between wire and engine.

use std::ops::Range;

use spandrel::retrieve::candidate::{Reason, Rejected, StageCount};
use spandrel::select::meter::StoppedBy;
use spandrel::{Estimate, PackedChunk, RetrieveResponse, SelectionReport};
use spandrel_proto::v1 as pb;

use super::assemble::{kv_chunk_from_wire, kv_chunk_to_wire, order_from_wire, order_to_wire};
use super::each;
use crate::convert::response::{
    explain_from_wire, explain_to_wire, hit_from_wire, hit_to_wire, short_from_wire, short_to_wire,
};
use crate::convert::{Invalid, Result, count, required, size};

/// A context, for the wire.
pub fn response_to_wire(response: RetrieveResponse) -> pb::RetrieveResponse {
    pb::RetrieveResponse {
        context: response.context,
        tokens: count(response.tokens),
        chunks: response.chunks.into_iter().map(chunk_to_wire).collect(),
        skipped: response.skipped,
        candidates: response.candidates,
        short: short_to_wire(response.short),
        explain: response.explain.map(explain_to_wire),
        selection: Some(selection_to_wire(response.selection)),
        rejected: response.rejected.into_iter().map(rejected_to_wire).collect(),
        stages: response.stages.into_iter().map(stage_to_wire).collect(),
        rounds: response.rounds,
        estimate: response.estimate.map(estimate_to_wire),
        kv: response.kv.into_iter().map(kv_chunk_to_wire).collect(),
    }
}

/// A context. Spans lie within it.
pub fn response_from_wire(response: pb::RetrieveResponse) -> Result<RetrieveResponse> {
    let length = response.context.len();
    let chunks = each(response.chunks, "chunks", |chunk| chunk_from_wire(chunk, length))?;
    let rejected = each(response.rejected, "rejected", rejected_from_wire)?;
    let selection = match response.selection {
        Some(selection) => selection_from_wire(selection).map_err(|error| error.within("selection"))?,
        // A server from before there was one.
        None => SelectionReport::default(),
    };
    Ok(RetrieveResponse {
        context: response.context,
        tokens: size(response.tokens),
        chunks,
        skipped: response.skipped,
        candidates: response.candidates,
        short: short_from_wire(response.short),
        selection,
        rejected,
        stages: response.stages.into_iter().map(stage_from_wire).collect(),
        rounds: response.rounds,
        estimate: response.estimate.map(estimate_from_wire),
        explain: response.explain.map(explain_from_wire),
        kv: each(response.kv, "kv", kv_chunk_from_wire)?,
    })
}

/// What a later server says.
fn unknown(path: &str, number: i32) -> Invalid {
    Invalid::new(path, format!("{number} is not a value that this client knows"))
}

fn chunk_to_wire(chunk: PackedChunk) -> pb::PackedChunk {
    let wide = |at: usize| u64::try_from(at).unwrap_or(u64::MAX);
    pb::PackedChunk {
        hit: Some(hit_to_wire(chunk.hit)),
        context_start: wide(chunk.context_span.start),
        context_end: wide(chunk.context_span.end),
        tokens: count(chunk.tokens),
        rank: count(chunk.rank),
        merged_from: chunk.merged_from,
        source_start: chunk.source_span.as_ref().map(|span| span.start),
        source_end: chunk.source_span.as_ref().map(|span| span.end),
    }
}

fn chunk_from_wire(chunk: pb::PackedChunk, length: usize) -> Result<PackedChunk> {
    let hit = hit_from_wire(required(chunk.hit, "hit")?)?;
    let place = |at: u64| usize::try_from(at).ok().filter(|at| *at <= length);
    let context_span = match (place(chunk.context_start), place(chunk.context_end)) {
        (Some(start), Some(end)) if start <= end => start..end,
        _ => return Err(Invalid::new("context_end", "the span lies outside the context")),
    };
    Ok(PackedChunk {
        hit,
        context_span,
        tokens: size(chunk.tokens),
        rank: size(chunk.rank),
        merged_from: chunk.merged_from,
        source_span: source_from_wire((chunk.source_start, chunk.source_end))?,
    })
}

fn source_from_wire(span: (Option<u64>, Option<u64>)) -> Result<Option<Range<u64>>> {
    match span {
        (None, None) => Ok(None),
        (Some(start), Some(end)) if start <= end => Ok(Some(start..end)),
        _ => Err(Invalid::new("source_end", "the span has no end after its start")),
    }
}

fn selection_to_wire(selection: SelectionReport) -> pb::SelectionReport {
    let (order, tolerance) = order_to_wire(selection.order);
    pb::SelectionReport {
        method: selection.method,
        value: selection.value,
        greedy_value: selection.greedy_value,
        bound: selection.bound,
        evaluations: selection.evaluations,
        stopped_by: stopped_to_wire(selection.stopped_by).into(),
        redundancy: selection.redundancy,
        vendi: selection.vendi,
        order: order.into(),
        unused_tokens: count(selection.unused_tokens),
        seed: selection.seed,
        tolerance,
    }
}

fn selection_from_wire(selection: pb::SelectionReport) -> Result<SelectionReport> {
    let order = pb::Order::try_from(selection.order).map_err(|_| unknown("order", selection.order))?;
    Ok(SelectionReport {
        method: selection.method,
        value: selection.value,
        greedy_value: selection.greedy_value,
        bound: selection.bound,
        evaluations: selection.evaluations,
        stopped_by: stopped_from_wire(selection.stopped_by)?,
        redundancy: selection.redundancy,
        vendi: selection.vendi,
        order: order_from_wire(order, selection.tolerance)?,
        unused_tokens: size(selection.unused_tokens),
        seed: selection.seed,
    })
}

fn stopped_to_wire(stopped_by: Option<StoppedBy>) -> pb::StoppedBy {
    match stopped_by {
        None => pb::StoppedBy::Unspecified,
        Some(StoppedBy::Budget) => pb::StoppedBy::Budget,
        Some(StoppedBy::NoGain) => pb::StoppedBy::NoGain,
        Some(StoppedBy::Chunks) => pb::StoppedBy::Chunks,
        Some(StoppedBy::Converged) => pb::StoppedBy::Converged,
        Some(StoppedBy::Evaluations) => pb::StoppedBy::Evaluations,
        Some(StoppedBy::Time) => pb::StoppedBy::Time,
    }
}

fn stopped_from_wire(stopped_by: i32) -> Result<Option<StoppedBy>> {
    let known = pb::StoppedBy::try_from(stopped_by).map_err(|_| unknown("stopped_by", stopped_by))?;
    Ok(match known {
        pb::StoppedBy::Unspecified => None,
        pb::StoppedBy::Budget => Some(StoppedBy::Budget),
        pb::StoppedBy::NoGain => Some(StoppedBy::NoGain),
        pb::StoppedBy::Chunks => Some(StoppedBy::Chunks),
        pb::StoppedBy::Converged => Some(StoppedBy::Converged),
        pb::StoppedBy::Evaluations => Some(StoppedBy::Evaluations),
        pb::StoppedBy::Time => Some(StoppedBy::Time),
    })
}

fn rejected_to_wire(rejected: Rejected) -> pb::Rejected {
    let mut duplicate_of = String::new();
    let reason = match rejected.reason {
        Reason::NoText => pb::Reason::NoText,
        Reason::Budget => pb::Reason::Budget,
        Reason::LowGain => pb::Reason::LowGain,
        Reason::DuplicateOf(key) => {
            duplicate_of = key;
            pb::Reason::Duplicate
        }
        Reason::Contaminated => pb::Reason::Contaminated,
        Reason::LowQuality => pb::Reason::LowQuality,
        Reason::Quota => pb::Reason::Quota,
        Reason::NotSampled => pb::Reason::NotSampled,
        Reason::Funnel => pb::Reason::Funnel,
        Reason::Cut => pb::Reason::Cut,
        Reason::AccessLost => pb::Reason::AccessLost,
        Reason::Excluded => pb::Reason::Excluded,
    };
    pb::Rejected { key: rejected.key, reason: reason.into(), duplicate_of }
}

fn rejected_from_wire(rejected: pb::Rejected) -> Result<Rejected> {
    let reason = match pb::Reason::try_from(rejected.reason) {
        Ok(pb::Reason::NoText) => Reason::NoText,
        Ok(pb::Reason::Budget) => Reason::Budget,
        Ok(pb::Reason::LowGain) => Reason::LowGain,
        Ok(pb::Reason::Duplicate) => Reason::DuplicateOf(rejected.duplicate_of),
        Ok(pb::Reason::Contaminated) => Reason::Contaminated,
        Ok(pb::Reason::LowQuality) => Reason::LowQuality,
        Ok(pb::Reason::Quota) => Reason::Quota,
        Ok(pb::Reason::NotSampled) => Reason::NotSampled,
        Ok(pb::Reason::Funnel) => Reason::Funnel,
        Ok(pb::Reason::Cut) => Reason::Cut,
        Ok(pb::Reason::AccessLost) => Reason::AccessLost,
        Ok(pb::Reason::Excluded) => Reason::Excluded,
        Ok(pb::Reason::Unspecified) => return Err(Invalid::new("reason", "is required")),
        Err(_) => return Err(unknown("reason", rejected.reason)),
    };
    Ok(Rejected { key: rejected.key, reason })
}

fn stage_to_wire(stage: StageCount) -> pb::StageCount {
    pb::StageCount { name: stage.name, rows_in: stage.rows_in, rows_out: stage.rows_out }
}

fn stage_from_wire(stage: pb::StageCount) -> StageCount {
    StageCount { name: stage.name, rows_in: stage.rows_in, rows_out: stage.rows_out }
}

fn estimate_to_wire(estimate: Estimate) -> pb::Estimate {
    pb::Estimate {
        tenant_rows: estimate.tenant_rows,
        matches: estimate.matches,
        candidates: estimate.candidates,
        evaluations_max: estimate.evaluations_max,
        stages: estimate.stages,
        time_us: estimate.time_us,
    }
}

fn estimate_from_wire(estimate: pb::Estimate) -> Estimate {
    Estimate {
        tenant_rows: estimate.tenant_rows,
        matches: estimate.matches,
        candidates: estimate.candidates,
        evaluations_max: estimate.evaluations_max,
        stages: estimate.stages,
        time_us: estimate.time_us,
    }
}
