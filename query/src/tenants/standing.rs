//! What a tenant has, and where it is: how many rows, how they are searched, how much of that is in memory.
//!
//! Cost: a binary search a segment, and a look at every page of the tenant's vectors that are on disk.

use serde::{Deserialize, Serialize};
use spandrel_index::dense::standing::{self, Reach, Standing};
use spandrel_index::stop::Stop;
use spandrel_storage::{FieldId, FieldKind};

use super::Quota;
use crate::error::{Error, Result};
use crate::request::K_MAX;
use crate::shared::Shared;
use crate::snapshot::{Snapshot, View};

/// What a tenant is to the engine. It follows from what the tenant has and takes no call to change: at the
/// next merge a small tenant that has grown gets codes and cells of its own, and one that has shrunk to half
/// loses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantState {
    /// It has no rows.
    Empty,
    /// Every vector is scored.
    Small,
    /// Every vector is ranked by its code, and the best are scored.
    Medium,
    /// Some of its vectors are found through cells, or a graph.
    Large,
    /// Nothing that a search reads of it is in memory; the first one loads it.
    Cold,
}

/// What a tenant has and uses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TenantStats {
    /// Its name.
    pub tenant: String,
    /// What it is to the engine.
    pub state: TenantState,
    /// Rows.
    pub rows: u64,
    /// Bytes of its rows as they are stored, vectors among them, before compression.
    pub bytes: u64,
    /// Segments that have rows of it.
    pub segments: u64,
    /// Bytes of vectors and codes that searches read.
    pub index_bytes: u64,
    /// Those of them that are in memory.
    pub resident_bytes: u64,
    /// Queries since the collection was opened.
    pub queries: u32,
    /// Queries under way, where a quota limits them.
    pub in_flight: u32,
    /// Queries that its quota refused lately.
    pub refused: u64,
    /// Its own quota.
    pub quota: Option<Quota>,
}

/// A page of tenants, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantsRequest {
    /// Only names after this one: [`TenantsResponse::next`] of the page before.
    pub after: Option<String>,
    /// Tenants a page: 1 to [`K_MAX`].
    pub limit: usize,
}

/// A page of tenants.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TenantsResponse {
    /// Tenants by name.
    pub tenants: Vec<TenantStats>,
    /// Pass it as `after` for the next page; none: there is none.
    pub next: Option<String>,
}

/// What a tenant has; none of a tenant that nobody has written to.
pub fn stats(shared: &Shared, tenant: &str) -> Option<TenantStats> {
    stats_at(shared, &shared.snapshot(), tenant)
}

/// A page of tenants.
pub fn list(shared: &Shared, request: &TenantsRequest, stop: &Stop) -> Result<TenantsResponse> {
    if request.limit == 0 || request.limit > K_MAX {
        return Err(Error::invalid(format!("limit is {}; a page has 1 to {K_MAX} tenants", request.limit)));
    }
    let mut names = shared.tenants.names_after(request.after.as_deref(), request.limit + 1);
    let more = names.len() > request.limit;
    names.truncate(request.limit);
    let next = names.last().filter(|_| more).cloned();
    let snapshot = shared.snapshot();
    let mut tenants = Vec::with_capacity(names.len());
    for name in names {
        stop.check()?;
        tenants.extend(stats_at(shared, &snapshot, &name));
    }
    Ok(TenantsResponse { tenants, next })
}

/// Reads what the first search of a tenant would have to, as far as the memory budget has room; returns the
/// bytes that were read.
pub fn warm(shared: &Shared, tenant: &str, stop: &Stop) -> Result<u64> {
    let Some(id) = shared.tenants.get(tenant) else { return Ok(0) };
    let mut bytes = 0;
    for view in &shared.snapshot().views {
        let docs = view.segment.tenant_range(id);
        if docs.is_empty() {
            continue;
        }
        for field in dense_fields(shared) {
            if let Some(index) = view.segment.dense(field) {
                bytes += standing::warm(index, docs.clone(), bytes, stop)?;
            }
        }
    }
    Ok(bytes)
}

fn dense_fields(shared: &Shared) -> impl Iterator<Item = FieldId> {
    let fields = (0..).map(FieldId).zip(&shared.schema.fields);
    fields.filter(|(_, field)| matches!(field.kind, FieldKind::Dense(_))).map(|(id, _)| id)
}

fn stats_at(shared: &Shared, snapshot: &Snapshot, tenant: &str) -> Option<TenantStats> {
    let id = shared.tenants.get(tenant)?;
    let (mut rows, mut segments) = (0, 0);
    let mut all = Standing::default();
    for view in &snapshot.views {
        let Some(allow) = view.allow(id) else { continue };
        rows += allow.count();
        segments += 1;
        for field in dense_fields(shared) {
            let Standing { reach, bytes, resident_bytes } = of_view(view, field, allow.range.clone());
            all.reach = all.reach.max(reach);
            all.bytes += bytes;
            all.resident_bytes += resident_bytes;
        }
    }
    let state = match all.reach {
        _ if rows == 0 => TenantState::Empty,
        _ if all.bytes > 0 && all.resident_bytes == 0 => TenantState::Cold,
        Some(Reach::Cells) => TenantState::Large,
        Some(Reach::Ranked) => TenantState::Medium,
        Some(Reach::Scored) | None => TenantState::Small,
    };
    let (in_flight, refused) = shared.tenants.quotas.traffic(id);
    Some(TenantStats {
        tenant: tenant.to_owned(),
        state,
        rows,
        bytes: shared.tenants.bytes(id),
        segments,
        index_bytes: all.bytes,
        resident_bytes: all.resident_bytes,
        queries: shared.tenants.queries(id),
        in_flight,
        refused,
        quota: shared.tenants.quotas.own(id),
    })
}

fn of_view(view: &View, field: FieldId, docs: std::ops::Range<u32>) -> Standing {
    view.segment.dense(field).map(|index| standing::standing(index, docs)).unwrap_or_default()
}
