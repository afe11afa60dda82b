//! How much one request, one client and all clients together may ask for. Every refusal names the setting.

use serde::{Deserialize, Serialize};
use spandrel::request::{BATCH_MAX, K_MAX, ROWS_MAX};
use tonic::Status;

/// Largest dimension that the engine keeps.
const DIM_MAX: u32 = 16_384;
/// Largest budget that the engine packs.
const BUDGET_TOKENS_MAX: usize = 1 << 20;
/// Most evaluations that the engine makes for one selection.
const EVALUATIONS_MAX: u64 = 10_000_000;

/// Bounds on requests, section `limits` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one message, as sent.
    pub message_bytes_max: u64,
    /// Rows of one upsert, keys of one delete or get, chunk caches of one call.
    pub batch_rows_max: usize,
    /// Searches of one batch.
    pub search_batch_max: usize,
    /// `offset + k` of a search, candidates of a route, rows of a page.
    pub k_max: usize,
    /// Dimension of a dense field.
    pub dim_max: u32,
    /// Token budget of a retrieve.
    pub budget_tokens_max: usize,
    /// Evaluations that the selection of a retrieve may ask for.
    pub evaluations_max: u64,
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
            evaluations_max: 1_000_000,
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
            ("evaluations_max", self.evaluations_max, 1, EVALUATIONS_MAX),
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

    /// Chunk caches of one call, or what is said of them; `what` is the field.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, with the setting.
    pub fn check_batch(&self, what: &str, count: usize) -> Result<(), Status> {
        within(what, count, self.batch_rows_max, "limits.batch_rows_max")
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

    /// What a retrieve has beside its search.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, with the setting.
    pub fn check_retrieve(&self, request: &spandrel::RetrieveRequest) -> Result<(), Status> {
        within("budget_tokens", request.budget_tokens, self.budget_tokens_max, "limits.budget_tokens_max")?;
        // Survivors are searched for as `k` is, however many stages leave none.
        within("survivors", request.survivors.max(1), self.k_max, "limits.k_max")?;
        self.check_candidates("needs", &request.needs)?;
        let evaluations = request.select.evaluations_max;
        if !(1..=self.evaluations_max).contains(&evaluations) {
            return Err(Status::invalid_argument(format!(
                "select.evaluations_max: {evaluations}, at least 1 and at most {} (limits.evaluations_max)",
                self.evaluations_max
            )));
        }
        Ok(())
    }

    fn check_candidates(&self, path: &str, routes: &[spandrel::Route]) -> Result<(), Status> {
        match routes.iter().enumerate().find(|(_, route)| route.candidates > self.k_max) {
            Some((at, route)) => Err(Status::invalid_argument(format!(
                "{path}[{at}].candidates: {}, at most {} (limits.k_max)",
                route.candidates, self.k_max
            ))),
            None => Ok(()),
        }
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
        self.check_candidates(&format!("{at}routes"), &request.routes)
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
    use spandrel::{Metric, RetrieveRequest, Route, Schema, SearchRequest};
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
        let wrong = Limits { evaluations_max: EVALUATIONS_MAX + 1, ..Limits::default() };
        assert!(wrong.check().unwrap_err().contains("limits.evaluations_max is 10000001"));
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
            evaluations_max: 20_000,
            ..Limits::default()
        };
        limits.check_rows(3).unwrap();
        refused(limits.check_rows(4), "rows: 4, at most 3 (limits.batch_rows_max)");
        refused(limits.check_rows(0), "rows: 0");
        refused(limits.check_batch("uses", 4), "uses: 4, at most 3 (limits.batch_rows_max)");
        refused(limits.check_batch("ids", 0), "ids: 0, at least 1 is needed");
        limits.check_keys(0).unwrap();
        refused(limits.check_keys(4), "keys: 4, at most 3 (limits.batch_rows_max)");
        limits.check_searches(2).unwrap();
        refused(limits.check_searches(3), "limits.search_batch_max");
        let search = SearchRequest::new(Route::text("body", "x"));
        let packed = |tokens| RetrieveRequest::new(search.clone(), tokens);
        limits.check_retrieve(&packed(100)).unwrap();
        refused(
            limits.check_retrieve(&packed(101)),
            "budget_tokens: 101, at most 100 (limits.budget_tokens_max)",
        );
        refused(limits.check_retrieve(&packed(0)), "budget_tokens: 0, at least 1 is needed");
        let mut evaluated = packed(100);
        for (evaluations, fits) in [(0, false), (1, true), (20_000, true), (20_001, false)] {
            evaluated.select.evaluations_max = evaluations;
            match fits {
                true => limits.check_retrieve(&evaluated).unwrap(),
                false => refused(limits.check_retrieve(&evaluated), "at most 20000 (limits.evaluations_max)"),
            }
        }
        let many = RetrieveRequest { survivors: 11, ..packed(100) };
        refused(limits.check_retrieve(&many), "survivors: 11, at most 10 (limits.k_max)");
        let wide = Route { candidates: 11, ..Route::text("body", "y") };
        let needs = RetrieveRequest { needs: vec![Route::text("body", "y"), wide], ..packed(100) };
        refused(limits.check_retrieve(&needs), "needs[1].candidates: 11, at most 10 (limits.k_max)");
        limits.check_page(10).unwrap();
        refused(limits.check_page(11), "limits.k_max");
        refused(limits.check_page(0), "limit: 0");

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
