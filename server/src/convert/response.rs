//! Answers between wire and engine. `*_from_wire` is for clients, which do not trust a server's bytes either.

use spandrel::{
    CollectionStats, DatabaseStats, Explain, Hit, PackedChunk, Planned, RetrieveResponse, RouteScore,
    ScrollResponse, SearchResponse, Short, Stage, Written,
};
use spandrel_proto::v1 as pb;

use super::row::{row_from_wire, row_to_wire};
use super::{Invalid, Result, count, required, size};

/// Most routes that a hit's scores may name; the engine allows fewer.
const ROUTES_MAX: u32 = 1_024;

/// What a write did, for the wire.
pub fn written_to_wire(written: Written) -> pb::Written {
    pb::Written { rows: written.rows, last_row: written.last_row }
}

/// What a write did.
pub fn written_from_wire(written: Option<pb::Written>) -> Written {
    let written = written.unwrap_or_default();
    Written { rows: written.rows, last_row: written.last_row }
}

fn hit_to_wire(hit: Hit) -> pb::Hit {
    let said = |(at, score): (usize, Option<RouteScore>)| {
        score.map(|score| pb::RouteScore { route: count(at), score: score.score, rank: score.rank })
    };
    pb::Hit {
        row: Some(row_to_wire(hit.row)),
        score: hit.score,
        routes: hit.routes.into_iter().enumerate().filter_map(said).collect(),
    }
}

fn hit_from_wire(hit: pb::Hit) -> Result<Hit> {
    let mut routes = Vec::new();
    for said in hit.routes {
        if said.route >= ROUTES_MAX {
            return Err(Invalid::new("routes", format!("route {} is out of range", said.route)));
        }
        let at = size(said.route);
        if routes.len() <= at {
            routes.resize(at + 1, None);
        }
        routes[at] = Some(RouteScore { score: said.score, rank: said.rank });
    }
    let row = row_from_wire(required(hit.row, "row")?).map_err(|error| error.within("row"))?;
    Ok(Hit { row, score: hit.score, routes })
}

fn explain_to_wire(explain: Explain) -> pb::Explain {
    let plan = |plan: Planned| pb::Planned {
        plan: plan.plan,
        matches: plan.matches,
        estimate_us: plan.estimate_us,
        time_us: plan.time_us,
        scored: plan.scored,
    };
    let stage = |stage: Stage| pb::Stage {
        name: stage.name,
        rows_in: stage.rows_in,
        rows_out: stage.rows_out,
        scored: stage.scored,
        read_bytes: stage.read_bytes,
        time_us: stage.time_us,
        plans: stage.plans.into_iter().map(plan).collect(),
    };
    pb::Explain {
        stages: explain.stages.into_iter().map(stage).collect(),
        segments: explain.segments,
        tenant_rows: explain.tenant_rows,
        total_us: explain.total_us,
    }
}

fn explain_from_wire(explain: pb::Explain) -> Explain {
    let plan = |plan: pb::Planned| Planned {
        plan: plan.plan,
        matches: plan.matches,
        estimate_us: plan.estimate_us,
        time_us: plan.time_us,
        scored: plan.scored,
    };
    let stage = |stage: pb::Stage| Stage {
        name: stage.name,
        rows_in: stage.rows_in,
        rows_out: stage.rows_out,
        scored: stage.scored,
        read_bytes: stage.read_bytes,
        time_us: stage.time_us,
        plans: stage.plans.into_iter().map(plan).collect(),
    };
    Explain {
        stages: explain.stages.into_iter().map(stage).collect(),
        segments: explain.segments,
        tenant_rows: explain.tenant_rows,
        total_us: explain.total_us,
    }
}

/// Hits, for the wire.
pub fn search_to_wire(response: SearchResponse) -> pb::SearchResponse {
    pb::SearchResponse {
        hits: response.hits.into_iter().map(hit_to_wire).collect(),
        short: short_to_wire(response.short),
        explain: response.explain.map(explain_to_wire),
    }
}

/// Hits.
pub fn search_from_wire(response: pb::SearchResponse) -> Result<SearchResponse> {
    let one = |(at, hit)| hit_from_wire(hit).map_err(|error| error.within(format!("hits[{at}]")));
    let hits = response.hits.into_iter().enumerate().map(one).collect::<Result<_>>()?;
    Ok(SearchResponse {
        hits,
        short: short_from_wire(response.short),
        explain: response.explain.map(explain_from_wire),
    })
}

/// Why there are few hits, for the wire.
fn short_to_wire(short: Option<Short>) -> i32 {
    let short = match short {
        None => pb::Short::Unspecified,
        Some(Short::EmptyTenant) => pb::Short::EmptyTenant,
        Some(Short::FewMatches) => pb::Short::FewMatches,
        Some(Short::Threshold) => pb::Short::Threshold,
        Some(Short::AccessLost) => pb::Short::AccessLost,
    };
    short.into()
}

/// Why there are few hits. A reason that this client does not know is one of few matches.
fn short_from_wire(short: i32) -> Option<Short> {
    match pb::Short::try_from(short) {
        Ok(pb::Short::Unspecified) => None,
        Ok(pb::Short::EmptyTenant) => Some(Short::EmptyTenant),
        Ok(pb::Short::Threshold) => Some(Short::Threshold),
        Ok(pb::Short::AccessLost) => Some(Short::AccessLost),
        Ok(pb::Short::FewMatches) | Err(_) => Some(Short::FewMatches),
    }
}

/// A context, for the wire.
pub fn retrieve_to_wire(response: RetrieveResponse) -> pb::RetrieveResponse {
    let wide = |at: usize| u64::try_from(at).unwrap_or(u64::MAX);
    let chunk = |chunk: PackedChunk| pb::PackedChunk {
        hit: Some(hit_to_wire(chunk.hit)),
        context_start: wide(chunk.context_span.start),
        context_end: wide(chunk.context_span.end),
        tokens: count(chunk.tokens),
    };
    pb::RetrieveResponse {
        context: response.context,
        tokens: count(response.tokens),
        chunks: response.chunks.into_iter().map(chunk).collect(),
        skipped: response.skipped,
        candidates: response.candidates,
        short: short_to_wire(response.short),
        explain: response.explain.map(explain_to_wire),
    }
}

/// A context. Spans lie within it.
pub fn retrieve_from_wire(response: pb::RetrieveResponse) -> Result<RetrieveResponse> {
    let length = response.context.len();
    let chunk = |(at, chunk): (usize, pb::PackedChunk)| {
        let within = |error: Invalid| error.within(format!("chunks[{at}]"));
        let hit = hit_from_wire(required(chunk.hit, "hit").map_err(within)?).map_err(within)?;
        let place = |at: u64| usize::try_from(at).ok().filter(|at| *at <= length);
        match (place(chunk.context_start), place(chunk.context_end)) {
            (Some(start), Some(end)) if start <= end => Ok(PackedChunk {
                hit,
                context_span: start..end,
                tokens: size(chunk.tokens),
                rank: 0,
                merged_from: Vec::new(),
                source_span: None,
            }),
            _ => Err(within(Invalid::new("context_end", "the span lies outside the context"))),
        }
    };
    let chunks = response.chunks.into_iter().enumerate().map(chunk).collect::<Result<_>>()?;
    Ok(RetrieveResponse {
        tokens: size(response.tokens),
        chunks,
        skipped: response.skipped,
        candidates: response.candidates,
        short: short_from_wire(response.short),
        explain: response.explain.map(explain_from_wire),
        context: response.context,
        ..RetrieveResponse::default()
    })
}

/// A page, for the wire.
pub fn scroll_to_wire(response: ScrollResponse) -> pb::ScrollResponse {
    pb::ScrollResponse { rows: response.rows.into_iter().map(row_to_wire).collect(), next: response.next }
}

/// A page.
pub fn scroll_from_wire(response: pb::ScrollResponse) -> Result<ScrollResponse> {
    Ok(ScrollResponse { rows: super::row::rows_from_wire(response.rows)?, next: response.next })
}

/// Statistics, for the wire.
pub fn stats_to_wire(stats: DatabaseStats, version: &str) -> pb::StatsResponse {
    let one = |stats: CollectionStats| pb::CollectionStats {
        name: stats.name,
        rows: stats.rows,
        tenants: stats.tenants,
        last_row: stats.last_row,
        segments: stats.segments,
        segment_rows: stats.segment_rows,
        deleted_rows: stats.deleted_rows,
        memory_rows: stats.memory_rows,
        segment_bytes: stats.segment_bytes,
        memory_bytes: stats.memory_bytes,
    };
    pb::StatsResponse {
        collections: stats.collections.into_iter().map(one).collect(),
        store_bytes: stats.store_bytes,
        reader: stats.reader,
        simd: stats.simd,
        version: version.to_owned(),
    }
}

/// Statistics.
pub fn stats_from_wire(stats: pb::StatsResponse) -> DatabaseStats {
    let one = |stats: pb::CollectionStats| CollectionStats {
        name: stats.name,
        rows: stats.rows,
        tenants: stats.tenants,
        last_row: stats.last_row,
        segments: stats.segments,
        segment_rows: stats.segment_rows,
        deleted_rows: stats.deleted_rows,
        memory_rows: stats.memory_rows,
        segment_bytes: stats.segment_bytes,
        memory_bytes: stats.memory_bytes,
    };
    DatabaseStats {
        collections: stats.collections.into_iter().map(one).collect(),
        store_bytes: stats.store_bytes,
        reader: stats.reader,
        simd: stats.simd,
    }
}
