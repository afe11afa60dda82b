//! Tenants over gRPC, from the first row to the last: listed, measured, limited, copied, exported, warmed,
//! dropped; and what one asks too much is refused while others are served.

use std::sync::Arc;
use std::time::Duration;

use spandrel::{Route, SearchRequest};
use spandrel_proto::v1 as pb;
use spandrel_server::auth::{Access, keys};
use tonic::{Code, Request, Status};

use crate::served::{Clients, Served, dense, field, named, row, rows, search, serve, serve_with};

fn limits(rows_max: Option<u64>, in_flight_max: Option<u32>) -> Option<pb::Quota> {
    Some(pb::Quota { rows_max, in_flight_max, ..pb::Quota::default() })
}

impl Clients {
    async fn tenant(&mut self, tenant: &str) -> Result<pb::TenantStats, Status> {
        let request = pb::GetTenantRequest { collection: named("docs"), tenant: named(tenant) };
        Ok(self.tenants.get(request).await?.into_inner().tenant.unwrap())
    }

    async fn page(&mut self, after: Option<&str>, limit: u32) -> (Vec<String>, Option<String>) {
        let request = pb::ListTenantsRequest { collection: named("docs"), after: after.map(named), limit };
        let page = self.tenants.list(request).await.unwrap().into_inner();
        (page.tenants.into_iter().map(|stats| stats.tenant).collect(), page.next)
    }

    async fn set_quota(&mut self, tenant: Option<&str>, quota: Option<pb::Quota>) -> Result<(), Status> {
        let tenant = tenant.map(named);
        let request = pb::SetQuotaRequest { collection: named("docs"), tenant, quota };
        self.tenants.set_quota(request).await.map(drop)
    }

    async fn copy(&mut self, from: &str, to: &str) -> Result<u64, Status> {
        let (from, to) = (Some(named(from)), Some(named(to)));
        let request = pb::CopyTenantRequest { collection: named("docs"), from, to };
        Ok(self.tenants.copy(request).await?.into_inner().written.unwrap().rows)
    }

    async fn export(&mut self, tenant: &str) -> Result<Vec<pb::Row>, Status> {
        let request = pb::ExportTenantRequest { collection: named("docs"), tenant: named(tenant) };
        let mut messages = self.tenants.export(request).await?.into_inner();
        let mut rows = Vec::new();
        while let Some(message) = messages.message().await? {
            assert!(!message.rows.is_empty());
            rows.extend(message.rows);
        }
        Ok(rows)
    }

    async fn drop_tenant(&mut self, tenant: &str) -> Result<u64, Status> {
        let request = pb::DropTenantRequest { collection: named("docs"), tenant: Some(named(tenant)) };
        Ok(self.tenants.drop(request).await?.into_inner().written.unwrap().rows)
    }

    async fn find(&mut self, tenant: &str) -> Result<usize, Status> {
        let query = pb::route::Query::Dense(dense(&[1.0, 0.0, 0.0, 0.0]));
        Ok(self.search.search(search(tenant, "v", query)).await?.into_inner().hits.len())
    }
}

/// Rows as they come back: of a tenant, labels in order.
fn of(tenant: &str, rows: Vec<pb::Row>) -> Vec<pb::Row> {
    rows.into_iter().map(|row| pb::Row { tenant: named(tenant), ..row }).collect()
}

fn labelled(range: std::ops::Range<u32>) -> Vec<pb::Row> {
    let label = |at: u32| vec![named(if at.is_multiple_of(3) { "third" } else { "other" })];
    range.map(|at| pb::Row { labels: label(at), ..row(at) }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_lives_and_is_forgotten() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("acme", labelled(0..300)).await.unwrap();
    for name in ["", "beta", "gamma", "delta"] {
        clients.upsert(name, rows(0..2)).await.unwrap();
    }
    let names = |names: &[&str]| names.iter().map(|name| named(name)).collect::<Vec<_>>();
    assert_eq!(clients.page(None, 2).await, (names(&["", "acme"]), Some(named("acme"))));
    assert_eq!(clients.page(Some("acme"), 2).await, (names(&["beta", "delta"]), Some(named("delta"))));
    assert_eq!(clients.page(Some("delta"), 2).await, (names(&["gamma"]), None));
    assert_eq!(clients.page(Some(""), 9).await.0, names(&["acme", "beta", "delta", "gamma"]));
    for limit in [0, 10_001] {
        let request = pb::ListTenantsRequest { collection: named("docs"), after: None, limit };
        assert_eq!(clients.tenants.list(request).await.unwrap_err().code(), Code::InvalidArgument);
    }

    let stats = clients.tenant("acme").await.unwrap();
    assert_eq!((stats.rows, stats.quota), (300, None));
    assert_eq!(stats.state(), pb::TenantState::Small);
    assert!(stats.bytes > 300 * 16, "{stats:?}");
    assert_eq!(clients.tenant("nobody").await.unwrap_err().code(), Code::NotFound);

    assert_eq!(clients.copy("acme", "copy").await.unwrap(), 300);
    let mut expected = of("copy", labelled(0..300));
    expected.sort_by(|one, two| one.key.cmp(&two.key));
    assert_eq!(clients.export("copy").await.unwrap(), expected);
    assert_eq!(clients.copy("acme", "acme").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(clients.copy("nobody", "acme").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(clients.export("nobody").await.unwrap_err().code(), Code::NotFound);
    let unsaid = pb::CopyTenantRequest { collection: named("docs"), from: Some(named("acme")), to: None };
    assert_eq!(clients.tenants.copy(unsaid).await.unwrap_err().code(), Code::InvalidArgument);

    let warm = pb::WarmTenantRequest { collection: named("docs"), tenant: named("acme") };
    clients.tenants.warm(warm).await.unwrap();
    assert_eq!(clients.drop_tenant("acme").await.unwrap(), 300);
    assert_eq!(clients.tenant("acme").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(clients.drop_tenant("acme").await.unwrap(), 0);
    assert_eq!(clients.page(None, 9).await.0, names(&["", "beta", "copy", "delta", "gamma"]));
    assert_eq!(clients.count("copy").await.unwrap(), 300);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_hold_are_raised_and_taken_away() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.set_quota(None, limits(Some(10), None)).await.unwrap();
    clients.set_quota(Some("acme"), limits(Some(20), None)).await.unwrap();
    let default = pb::GetDefaultQuotaRequest { collection: named("docs") };
    let got = clients.tenants.get_default_quota(default.clone()).await.unwrap().into_inner();
    assert_eq!(got.quota, limits(Some(10), None));
    let stats = clients.tenant("acme").await.unwrap();
    assert_eq!((stats.state(), stats.quota), (pb::TenantState::Empty, limits(Some(20), None)));

    let refused = clients.upsert("beta", rows(0..11)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("its quota is 10 (rows_max)"), "{refused}");
    clients.upsert("beta", rows(0..10)).await.unwrap();
    clients.upsert("acme", rows(0..20)).await.unwrap();
    assert_eq!(clients.upsert("acme", rows(20..21)).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(clients.copy("acme", "beta").await.unwrap_err().code(), Code::ResourceExhausted);
    clients.set_quota(Some("acme"), limits(Some(21), None)).await.unwrap();
    clients.upsert("acme", rows(20..21)).await.unwrap();
    // Without a quota of its own the default holds; a quota without limits is one.
    clients.set_quota(Some("acme"), None).await.unwrap();
    assert_eq!(clients.upsert("acme", rows(21..22)).await.unwrap_err().code(), Code::ResourceExhausted);
    clients.set_quota(Some("acme"), limits(None, None)).await.unwrap();
    clients.upsert("acme", rows(21..90)).await.unwrap();
    clients.set_quota(None, None).await.unwrap();
    clients.upsert("beta", rows(0..90)).await.unwrap();
    assert_eq!(clients.tenants.get_default_quota(default).await.unwrap().into_inner().quota, None);
    let wrong = pb::Quota { queries_per_second: Some(-1.0), ..pb::Quota::default() };
    let refused = clients.set_quota(None, Some(wrong)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("queries_per_second"), "{refused}");
    served.server.shutdown().await.unwrap();
}

/// Every call that is a query takes its turn before it waits for a thread.
#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_cannot_ask_more_than_its_share() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("acme", rows(0..50)).await.unwrap();
    clients.upsert("beta", rows(0..50)).await.unwrap();
    let slow = pb::Quota { queries_per_second: Some(0.001), ..pb::Quota::default() };
    clients.set_quota(Some("acme"), Some(slow)).await.unwrap();
    assert_eq!(clients.find("acme").await.unwrap(), 10);

    let collection = || named("docs");
    let query = || search("acme", "v", pb::route::Query::Dense(dense(&[1.0, 0.0, 0.0, 0.0])));
    let of_beta = search("beta", "v", pb::route::Query::Dense(dense(&[1.0, 0.0, 0.0, 0.0])));
    let batch = pb::SearchBatchRequest { collection: collection(), searches: vec![of_beta, query()] };
    let text = pb::SearchRequest {
        routes: vec![pb::Route {
            field: named("body"),
            query: Some(pb::route::Query::Text(named("river"))),
            ..pb::Route::default()
        }],
        ..query()
    };
    let retrieve = pb::RetrieveRequest { search: Some(text), budget_tokens: 9, ..Default::default() };
    let keys = vec![named("k00000")];
    let get =
        pb::GetRowsRequest { collection: collection(), tenant: named("acme"), keys, ..Default::default() };
    let scroll =
        pb::ScrollRequest { collection: collection(), tenant: named("acme"), limit: 1, ..Default::default() };
    let warm = pb::WarmTenantRequest { collection: collection(), tenant: named("acme") };
    let results: [Result<(), Status>; 8] = [
        clients.search.search(query()).await.map(drop),
        clients.search.search_batch(batch).await.map(drop),
        clients.search.retrieve(retrieve).await.map(drop),
        clients.rows.get(get).await.map(drop),
        clients.rows.scroll(scroll).await.map(drop),
        clients.count("acme").await.map(drop),
        clients.tenants.warm(warm).await.map(drop),
        clients.export("acme").await.map(drop),
    ];
    for (at, result) in results.into_iter().enumerate() {
        let status = result.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "call {at}: {status}");
        assert!(status.message().contains("tenant 'acme'"), "{status}");
        assert!(status.message().contains("queries_per_second"), "{status}");
    }
    assert_eq!(clients.find("beta").await.unwrap(), 10, "others are served");
    let stats = clients.tenant("acme").await.unwrap();
    assert_eq!(stats.refused, 8);
    served.server.shutdown().await.unwrap();
}

/// Callers of a tenant that ask all at once.
const FLOOD: usize = 24;

/// Where threads are few, a tenant's quota bounds what it has in the queue, which has room for others.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_share_of_the_queue_is_bounded() {
    let served = serve_with(|config| {
        (config.pool.read_threads, config.pool.queue_max) = (1, 4);
    })
    .await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("acme", rows(0..4_000)).await.unwrap();
    clients.upsert("beta", rows(0..50)).await.unwrap();
    clients.set_quota(Some("acme"), limits(None, Some(2))).await.unwrap();
    let mut flood = tokio::task::JoinSet::new();
    // All at once, on connections that are there.
    let start = Arc::new(tokio::sync::Barrier::new(FLOOD + 1));
    for _ in 0..FLOOD {
        let (mut clients, start) = (served.clients().await, Arc::clone(&start));
        flood.spawn(async move {
            start.wait().await;
            let mut answers = Vec::new();
            for _ in 0..20 {
                answers.push(clients.find("acme").await);
            }
            answers
        });
    }
    start.wait().await;
    for _ in 0..40 {
        assert_eq!(clients.find("beta").await.unwrap(), 10);
    }
    let (mut passed, mut refused) = (0, 0);
    for result in flood.join_all().await.into_iter().flatten() {
        match result {
            Ok(hits) => passed += usize::from(hits == 10),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert!(status.message().contains("in_flight_max"), "{status}");
                refused += 1;
            }
        }
    }
    assert!(passed > 0 && refused > 0, "{passed} passed, {refused} were refused");
    assert_eq!(passed + refused, 20 * FLOOD);
    assert_eq!(clients.find("acme").await.unwrap(), 10, "turns end with their queries");
    assert_eq!(clients.tenant("acme").await.unwrap().in_flight, 0);
    served.server.shutdown().await.unwrap();
}

/// Rows that fill many messages.
async fn serve_large(rows: u32) -> (Served, Clients) {
    let served = serve().await;
    let mut clients = served.clients_with(Access::Admin, &["*"]).await;
    clients.create_docs().await;
    let large = |at: u32| {
        let mut row = row(at);
        let text = pb::field_value::Kind::Text(" ".repeat(200_000));
        row.fields.insert(named("body"), field(text));
        row
    };
    for at in (0..rows).step_by(50) {
        clients.upsert("acme", (at..(at + 50).min(rows)).map(large).collect()).await.unwrap();
    }
    (served, clients)
}

fn export_of(tenant: &str) -> pb::ExportTenantRequest {
    pb::ExportTenantRequest { collection: named("docs"), tenant: named(tenant) }
}

/// The status that ends a stream.
async fn end_of(mut messages: tonic::Streaming<pb::ExportTenantResponse>) -> (usize, Option<Status>) {
    let mut rows = 0;
    loop {
        match messages.message().await {
            Ok(Some(message)) => rows += message.rows.len(),
            Ok(None) => return (rows, None),
            Err(status) => return (rows, Some(status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_waits_for_its_client_and_ends_with_its_deadline_key_and_server() {
    const ROWS: u32 = 200;
    let (served, mut clients) = serve_large(ROWS).await;
    let whole = clients.tenants.export(export_of("acme")).await.unwrap().into_inner();
    let (rows, end) = end_of(whole).await;
    assert_eq!((rows, end.map(|status| status.code())), (ROWS as usize, None));

    // One that does not read is waited for until its deadline.
    let mut request = Request::new(export_of("acme"));
    request.set_timeout(Duration::from_millis(800));
    let slow = clients.tenants.export(request).await.unwrap().into_inner();
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let (rows, end) = end_of(slow).await;
    assert_eq!(end.unwrap().code(), Code::DeadlineExceeded);
    assert!(rows < ROWS as usize, "{rows} rows were on their way");

    // The snapshot stays while rows go, and one that goes away is forgotten.
    clients.set_quota(Some("acme"), limits(None, Some(1))).await.unwrap();
    let mut kept = clients.tenants.export(export_of("acme")).await.unwrap().into_inner();
    let first = kept.message().await.unwrap().unwrap();
    assert_eq!(first.rows[0].key, row(0).key);
    let busy = clients.export("acme").await.unwrap_err();
    assert!(busy.message().contains("in_flight_max"), "{busy}");
    drop(kept);
    for _ in 0..100 {
        if clients.tenant("acme").await.unwrap().in_flight == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut again = clients.tenants.export(export_of("acme")).await.unwrap().into_inner();
    again.message().await.unwrap().unwrap();
    clients.set_quota(Some("acme"), None).await.unwrap();

    // A key that is revoked takes its export along.
    let mut reader = served.clients_with(Access::Read, &["acme"]).await;
    let revoked = reader.tenants.export(export_of("")).await.unwrap().into_inner();
    let file = served.config.keys_file();
    let read = keys::list(&file).unwrap().into_iter().find(|key| key.access == Access::Read).unwrap();
    keys::revoke(&file, &read.id).unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let (rows, end) = end_of(revoked).await;
    assert_eq!(end.unwrap().code(), Code::Unauthenticated);
    assert!(rows < ROWS as usize, "{rows} rows were on their way");

    let left = tokio::spawn(end_of(again));
    served.server.shutdown().await.unwrap();
    let end = left.await.unwrap().1;
    assert!(end.as_ref().is_none_or(|status| status.code() == Code::Unavailable), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_server_ends_exports_that_nobody_reads() {
    let (served, mut clients) = serve_large(200).await;
    let slow = clients.tenants.export(export_of("acme")).await.unwrap().into_inner();
    let started = std::time::Instant::now();
    let reader = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        end_of(slow).await
    });
    served.server.shutdown().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let (rows, end) = reader.await.unwrap();
    assert_eq!(end.unwrap().code(), Code::Unavailable);
    assert!(rows < 200, "{rows} rows were on their way");
}

/// What the wire says of a tenant is what the engine says.
#[tokio::test(flavor = "multi_thread")]
async fn the_figures_are_the_engines() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("acme", rows(0..500)).await.unwrap();
    let docs = served.database.collection("docs").unwrap();
    docs.flush().unwrap();
    docs.search(&SearchRequest::new(Route::dense("v", vec![1.0; 4])).tenant("acme")).unwrap();
    let stats = clients.tenant("acme").await.unwrap();
    let own = docs.tenant_stats("acme").unwrap();
    assert_eq!((stats.rows, stats.bytes, stats.segments), (own.rows, own.bytes, own.segments));
    assert_eq!((stats.index_bytes, stats.resident_bytes), (own.index_bytes, own.resident_bytes));
    assert_eq!(stats.queries, own.queries);
    assert!(stats.index_bytes > 0 && stats.segments > 0 && stats.queries > 0, "{stats:?}");
    served.server.shutdown().await.unwrap();
}
