//! Answers between wire and engine. `*_from_wire` is for clients, which do not trust a server's bytes either.

use prost::Message;
use spandrel::{
    CollectionStats, Copied, DatabaseStats, Explain, Hit, Planned, RouteScore, ScrollResponse,
    SearchResponse, Short, Stage, Written,
};
use spandrel_proto::v1 as pb;

use super::row::{row_from_wire, row_to_wire};
use super::{Invalid, Result, count, required, size};

/// Most routes that a hit's scores may name; the engine allows fewer.
const ROUTES_MAX: u32 = 1_024;

/// Bytes of the copies that an answer names, at most: clients take 4 MiB in all.
const COPIED_BYTES_MAX: usize = 1 << 20;

/// What a write did, for the wire.
pub fn written_to_wire(written: Written) -> pb::Written {
    let copied = |Copied { tenant, key, of, exact }| pb::Copied { tenant, key, of, exact };
    let (rows, last_row, copies) = (written.rows, written.last_row, written.copies);
    let mut bytes = 0;
    let fits = |copied: &pb::Copied| {
        bytes += copied.encoded_len();
        bytes <= COPIED_BYTES_MAX
    };
    let copied = written.copied.into_iter().map(copied).take_while(fits).collect();
    pb::Written { rows, last_row, copies, copied }
}

/// What a write did.
pub fn written_from_wire(written: Option<pb::Written>) -> Written {
    let written = written.unwrap_or_default();
    let copied = |pb::Copied { tenant, key, of, exact }| Copied { tenant, key, of, exact };
    let (rows, last_row, copies) = (written.rows, written.last_row, written.copies);
    Written { rows, last_row, copies, copied: written.copied.into_iter().map(copied).collect() }
}

/// A hit, for the wire.
pub(super) fn hit_to_wire(hit: Hit) -> pb::Hit {
    let said = |(at, score): (usize, Option<RouteScore>)| {
        score.map(|score| pb::RouteScore { route: count(at), score: score.score, rank: score.rank })
    };
    pb::Hit {
        row: Some(row_to_wire(hit.row)),
        score: hit.score,
        routes: hit.routes.into_iter().enumerate().filter_map(said).collect(),
    }
}

/// A hit.
pub(super) fn hit_from_wire(hit: pb::Hit) -> Result<Hit> {
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

/// Where the time went, for the wire.
pub(super) fn explain_to_wire(explain: Explain) -> pb::Explain {
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

/// Where the time went.
pub(super) fn explain_from_wire(explain: pb::Explain) -> Explain {
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
pub(super) fn short_to_wire(short: Option<Short>) -> i32 {
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
pub(super) fn short_from_wire(short: i32) -> Option<Short> {
    match pb::Short::try_from(short) {
        Ok(pb::Short::Unspecified) => None,
        Ok(pb::Short::EmptyTenant) => Some(Short::EmptyTenant),
        Ok(pb::Short::Threshold) => Some(Short::Threshold),
        Ok(pb::Short::AccessLost) => Some(Short::AccessLost),
        Ok(pb::Short::FewMatches) | Err(_) => Some(Short::FewMatches),
    }
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
