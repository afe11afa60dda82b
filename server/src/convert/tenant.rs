//! Tenants between wire and engine: what they have and use, and what they may.

use spandrel::{Quota, TenantState, TenantStats, TenantsRequest, TenantsResponse};
use spandrel_proto::v1 as pb;

use super::{count, size};

/// A quota, for the wire.
pub fn quota_to_wire(quota: Quota) -> pb::Quota {
    pb::Quota {
        rows_max: quota.rows_max,
        bytes_max: quota.bytes_max,
        queries_per_second: quota.queries_per_second,
        in_flight_max: quota.in_flight_max,
    }
}

/// A quota; the engine checks its numbers.
pub fn quota_from_wire(quota: pb::Quota) -> Quota {
    Quota {
        rows_max: quota.rows_max,
        bytes_max: quota.bytes_max,
        queries_per_second: quota.queries_per_second,
        in_flight_max: quota.in_flight_max,
    }
}

fn state_to_wire(state: TenantState) -> i32 {
    let state = match state {
        TenantState::Empty => pb::TenantState::Empty,
        TenantState::Small => pb::TenantState::Small,
        TenantState::Medium => pb::TenantState::Medium,
        TenantState::Large => pb::TenantState::Large,
        TenantState::Cold => pb::TenantState::Cold,
    };
    state.into()
}

/// A state. One that this client does not know is taken for the plainest.
fn state_from_wire(state: i32) -> TenantState {
    match pb::TenantState::try_from(state) {
        Ok(pb::TenantState::Empty) => TenantState::Empty,
        Ok(pb::TenantState::Medium) => TenantState::Medium,
        Ok(pb::TenantState::Large) => TenantState::Large,
        Ok(pb::TenantState::Cold) => TenantState::Cold,
        Ok(pb::TenantState::Small | pb::TenantState::Unspecified) | Err(_) => TenantState::Small,
    }
}

/// What a tenant has and uses, for the wire.
pub fn stats_to_wire(stats: TenantStats) -> pb::TenantStats {
    pb::TenantStats {
        tenant: stats.tenant,
        state: state_to_wire(stats.state),
        rows: stats.rows,
        bytes: stats.bytes,
        segments: stats.segments,
        index_bytes: stats.index_bytes,
        resident_bytes: stats.resident_bytes,
        queries: stats.queries,
        in_flight: stats.in_flight,
        refused: stats.refused,
        quota: stats.quota.map(quota_to_wire),
    }
}

/// What a tenant has and uses.
pub fn stats_from_wire(stats: pb::TenantStats) -> TenantStats {
    TenantStats {
        tenant: stats.tenant,
        state: state_from_wire(stats.state),
        rows: stats.rows,
        bytes: stats.bytes,
        segments: stats.segments,
        index_bytes: stats.index_bytes,
        resident_bytes: stats.resident_bytes,
        queries: stats.queries,
        in_flight: stats.in_flight,
        refused: stats.refused,
        quota: stats.quota.map(quota_from_wire),
    }
}

/// Which page.
pub fn list_from_wire(request: pb::ListTenantsRequest) -> TenantsRequest {
    TenantsRequest { after: request.after, limit: size(request.limit) }
}

/// Which page, for the wire.
pub fn list_to_wire(collection: &str, request: TenantsRequest) -> pb::ListTenantsRequest {
    let collection = collection.to_owned();
    pb::ListTenantsRequest { collection, after: request.after, limit: count(request.limit) }
}

/// A page, for the wire.
pub fn page_to_wire(page: TenantsResponse) -> pb::ListTenantsResponse {
    pb::ListTenantsResponse {
        tenants: page.tenants.into_iter().map(stats_to_wire).collect(),
        next: page.next,
    }
}

/// A page.
pub fn page_from_wire(page: pb::ListTenantsResponse) -> TenantsResponse {
    TenantsResponse { tenants: page.tenants.into_iter().map(stats_from_wire).collect(), next: page.next }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_quotas_come_back_as_they_were() {
        let whole = Quota {
            rows_max: Some(0),
            bytes_max: Some(u64::MAX),
            queries_per_second: Some(0.25),
            in_flight_max: Some(3),
        };
        let states = [
            TenantState::Empty,
            TenantState::Small,
            TenantState::Medium,
            TenantState::Large,
            TenantState::Cold,
        ];
        let quotas = [None, Some(Quota::default()), Some(whole), None, Some(whole)];
        let stats = |(state, quota)| TenantStats {
            tenant: format!("{state:?}"),
            state,
            rows: 1,
            bytes: 2,
            segments: 3,
            index_bytes: 4,
            resident_bytes: 5,
            queries: 6,
            in_flight: 7,
            refused: 8,
            quota,
        };
        let tenants = states.into_iter().zip(quotas).map(stats).collect();
        let page = TenantsResponse { tenants, next: Some(String::new()) };
        assert_eq!(page_from_wire(page_to_wire(page.clone())), page);
        let request = TenantsRequest { after: Some(String::new()), limit: 7 };
        assert_eq!(list_from_wire(list_to_wire("docs", request.clone())), request);
    }
}
