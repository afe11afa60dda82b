//! How much one request, one client and all clients together may ask for. Every refusal names the setting.

use serde::{Deserialize, Serialize};
use spandrel::request::{BATCH_MAX, K_MAX, ROWS_MAX};
use tonic::Status;

/// Largest dimension that the engine keeps.
const DIM_MAX: u32 = 16_384;
/// Largest budget that the engine packs.
const BUDGET_TOKENS_MAX: usize = 1 << 20;

/// Bounds on requests, section `limits` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one message, as sent.
    pub message_bytes_max: u64,
    /// Rows of one upsert, keys of one delete or get.
    pub batch_rows_max: usize,
    /// Searches of one batch.
    pub search_batch_max: usize,
    /// `offset + k` of a search, candidates of a route, rows of a page.
    pub k_max: usize,
    /// Dimension of a dense field.
    pub dim_max: u32,
    /// Token budget of a retrieve.
    pub budget_tokens_max: usize,
    /// Requests of all clients in progress at a time.
    pub requests_max: usize,
    /// Upsert streams of all clients at a time.
    pub streams_max: usize,
    /// Connections of all clients at a time.
    pub connections_max: usize,
    /// Requests of one connection in progress at a time.
    pub connection_requests_max: u32,
    /// Time of a connection's handshake, TLS included; milliseconds.
    pub handshake_timeout_ms: u64,
    /// Time between two messages of an upsert stream, or of an export; milliseconds.
    pub stream_idle_timeout_ms: u64,
    /// Time a search or fetch may take, where the client asks for no shorter one; milliseconds.
    pub read_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 64 << 20,
            batch_rows_max: 16_384,
            search_batch_max: 1_024,
            k_max: K_MAX,
            dim_max: DIM_MAX,
            budget_tokens_max: 1_000_000,
            requests_max: 1_024,
            streams_max: 64,
            // Half of the 1,024 files that a process may usually have open; the engine needs some, too.
            connections_max: 512,
            connection_requests_max: 256,
            handshake_timeout_ms: 10_000,
            stream_idle_timeout_ms: 300_000,
            read_timeout_ms: 60_000,
        }
    }
}

impl Limits {
    /// Checks the settings themselves.
    ///
    /// # Errors
    /// With the setting and its range.
    pub fn check(&self) -> Result<(), String> {
        let whole = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let ranges = [
            ("message_bytes_max", self.message_bytes_max, 1 << 10, 1 << 30),
            ("batch_rows_max", whole(self.batch_rows_max), 1, whole(ROWS_MAX)),
            ("search_batch_max", whole(self.search_batch_max), 1, whole(BATCH_MAX)),
            ("k_max", whole(self.k_max), 1, whole(K_MAX)),
            ("dim_max", u64::from(self.dim_max), 1, u64::from(DIM_MAX)),
            ("budget_tokens_max", whole(self.budget_tokens_max), 1, whole(BUDGET_TOKENS_MAX)),
            ("requests_max", whole(self.requests_max), 1, 1 << 20),
            ("streams_max", whole(self.streams_max), 1, 1 << 16),
            ("connections_max", whole(self.connections_max), 1, 1 << 20),
            ("connection_requests_max", u64::from(self.connection_requests_max), 1, 1 << 20),
            ("handshake_timeout_ms", self.handshake_timeout_ms, 1, 86_400_000),
            ("stream_idle_timeout_ms", self.stream_idle_timeout_ms, 1, 86_400_000),
            ("read_timeout_ms", self.read_timeout_ms, 1, 86_400_000),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(format!("limits.{name} is {value}, outside {low}..={high}"));
            }
        }
        Ok(())
    }

    /// Rows of an upsert.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, with the setting.
    pub fn check_rows(&self, count: usize) -> Result<(), Status> {
        within("rows", count, self.batch_rows_max, "limits.batch_rows_max")
    }

    /// Keys of a delete or get; none is fine.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, with the setting.
    pub fn check_keys(&self, count: usize) -> Result<(), Status> {
        within("keys", count.max(1), self.batch_rows_max, "limits.batch_rows_max")
    }

    /// Searches of a batch.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, with the setting.
    pub fn check_searches(&self, count: usize) -> Result<(), Status> {
        within("searches", count, self.search_batch_max, "limits.search_batch_max")
    }

    /// A budget.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, with the setting.
    pub fn check_budget(&self, tokens: usize) -> Result<(), Status> {
        if tokens == 0 {
            return Err(Status::invalid_argument("budget_tokens: 0, at least 1 is needed"));
        }
        if tokens > self.budget_tokens_max {
            return Err(Status::invalid_argument(format!(
                "budget_tokens: {tokens}, at most {} (limits.budget_tokens_max)",
                self.budget_tokens_max
            )));
        }
        Ok(())
    }

    /// A page.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, with the setting.
    pub fn check_page(&self, limit: usize) -> Result<(), Status> {
        within("limit", limit, self.k_max, "limits.k_max")
    }

    /// `k`, `offset` and candidates of a search; `at` is the path of the search, with a dot at its end, or
    /// empty.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, with the setting.
    pub fn check_search(&self, at: &str, request: &spandrel::SearchRequest) -> Result<(), Status> {
        if request.k == 0 {
            return Err(Status::invalid_argument(format!("{at}k: 0, at least 1 is needed")));
        }
        let wanted = request.offset.saturating_add(request.k);
        if wanted > self.k_max {
            return Err(Status::invalid_argument(format!(
                "{at}k: offset {} + k {} is {wanted}, at most {} (limits.k_max)",
                request.offset, request.k, self.k_max
            )));
        }
        for (route_at, route) in request.routes.iter().enumerate() {
            if route.candidates > self.k_max {
                return Err(Status::invalid_argument(format!(
                    "{at}routes[{route_at}].candidates: {}, at most {} (limits.k_max)",
                    route.candidates, self.k_max
                )));
            }
        }
        Ok(())
    }

    /// The dimensions of a schema.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, with the setting.
    pub fn check_schema(&self, schema: &spandrel::Schema) -> Result<(), Status> {
        for field in &schema.fields {
            if let spandrel::FieldKind::Dense(dense) = &field.kind
                && dense.dim > self.dim_max
            {
                return Err(Status::invalid_argument(format!(
                    "schema.fields[\"{}\"].dense.dim: {}, at most {} (limits.dim_max)",
                    field.name, dense.dim, self.dim_max
                )));
            }
        }
        Ok(())
    }
}

fn within(what: &str, count: usize, most: usize, setting: &str) -> Result<(), Status> {
    match count {
        0 => Err(Status::invalid_argument(format!("{what}: 0, at least 1 is needed"))),
        _ if count > most => {
            Err(Status::invalid_argument(format!("{what}: {count}, at most {most} ({setting})")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spandrel::{Metric, Route, Schema, SearchRequest};
    use tonic::Code;

    fn refused(result: Result<(), Status>, setting: &str) {
        let status = result.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(setting), "{status} / {setting}");
    }

    #[test]
    fn defaults_are_within_their_ranges() {
        Limits::default().check().unwrap();
        let wrong = Limits { k_max: K_MAX + 1, ..Limits::default() };
        assert!(wrong.check().unwrap_err().contains("limits.k_max"));
        let wrong = Limits { message_bytes_max: 0, ..Limits::default() };
        assert!(wrong.check().unwrap_err().contains("limits.message_bytes_max"));
        let most = Limits { budget_tokens_max: BUDGET_TOKENS_MAX, ..Limits::default() };
        most.check().unwrap();
        let wrong = Limits { budget_tokens_max: BUDGET_TOKENS_MAX + 1, ..Limits::default() };
        assert!(
            wrong.check().unwrap_err().contains("limits.budget_tokens_max is 1048577, outside 1..=1048576")
        );
    }

    #[test]
    fn every_bound_holds_and_is_named() {
        let limits = Limits {
            batch_rows_max: 3,
            search_batch_max: 2,
            k_max: 10,
            dim_max: 8,
            budget_tokens_max: 100,
            ..Limits::default()
        };
        limits.check_rows(3).unwrap();
        refused(limits.check_rows(4), "rows: 4, at most 3 (limits.batch_rows_max)");
        refused(limits.check_rows(0), "rows: 0");
        limits.check_keys(0).unwrap();
        refused(limits.check_keys(4), "keys: 4, at most 3 (limits.batch_rows_max)");
        limits.check_searches(2).unwrap();
        refused(limits.check_searches(3), "limits.search_batch_max");
        limits.check_budget(100).unwrap();
        refused(limits.check_budget(101), "limits.budget_tokens_max");
        refused(limits.check_budget(0), "budget_tokens");
        limits.check_page(10).unwrap();
        refused(limits.check_page(11), "limits.k_max");
        refused(limits.check_page(0), "limit: 0");

        let search = SearchRequest::new(Route::text("body", "x"));
        limits.check_search("", &search.clone().k(10)).unwrap();
        refused(limits.check_search("searches[3].", &search.clone().k(0)), "searches[3].k: 0");
        refused(limits.check_search("", &search.clone().k(11)), "limits.k_max");
        let far = SearchRequest { offset: usize::MAX, ..search.clone() };
        refused(limits.check_search("", &far), "limits.k_max");
        let mut wide = search;
        wide.routes[0].candidates = 11;
        refused(limits.check_search("", &wide), "routes[0].candidates: 11");

        limits.check_schema(&Schema::new().dense("v", 8, Metric::L2)).unwrap();
        refused(limits.check_schema(&Schema::new().dense("v", 9, Metric::L2)), "limits.dim_max");
    }
}
