//! The server end to end, through the generated client: what is written is found, and what the wire says is
//! what the engine says.

use spandrel::{Fields, Filter, Route, SearchRequest, Value};
use spandrel_proto::v1 as pb;
use spandrel_server::auth::Access;
use tonic::Code;

use crate::served::{config_in, dense, named, open, row, rows, schema, search, serve, year_is};

fn keys_of(response: &pb::SearchResponse) -> Vec<&str> {
    response.hits.iter().map(|hit| hit.row.as_ref().unwrap().key.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_live_and_die() {
    let served = serve().await;
    let mut clients = served.clients().await;
    let create = |if_not_exists, schema| pb::CreateCollectionRequest {
        name: named("docs"),
        schema: Some(schema),
        if_not_exists,
    };
    let made = clients.collections.create(create(false, schema())).await.unwrap().into_inner();
    assert!(made.created);
    assert_eq!(made.collection.as_ref().unwrap().schema.as_ref().unwrap().tokenizer, "o200k_base");
    let again = clients.collections.create(create(false, schema())).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    let same = clients.collections.create(create(true, schema())).await.unwrap().into_inner();
    assert!(!same.created && same.collection == made.collection);
    let mut other = schema();
    other.fields.pop();
    assert_eq!(
        clients.collections.create(create(true, other)).await.unwrap_err().code(),
        Code::AlreadyExists
    );

    let got =
        clients.collections.get(pb::GetCollectionRequest { name: named("docs") }).await.unwrap().into_inner();
    assert_eq!(got.collection, made.collection);
    let list = clients.collections.list(pb::ListCollectionsRequest {}).await.unwrap().into_inner();
    assert_eq!(list.collections, [made.collection.unwrap()]);

    let gone = |if_exists| pb::DropCollectionRequest { name: named("docs"), if_exists };
    assert!(clients.collections.drop(gone(false)).await.unwrap().into_inner().dropped);
    assert_eq!(clients.collections.drop(gone(false)).await.unwrap_err().code(), Code::NotFound);
    assert!(!clients.collections.drop(gone(true)).await.unwrap().into_inner().dropped);
    let missing =
        clients.collections.get(pb::GetCollectionRequest { name: named("docs") }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_written_read_and_deleted() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let written = clients.upsert("acme", rows(0..50)).await.unwrap();
    assert_eq!(written.rows, 50);
    clients.upsert("beta", rows(0..5)).await.unwrap();

    let get = |keys: &[&str], mode: pb::fields::Mode| pb::GetRowsRequest {
        collection: named("docs"),
        tenant: named("acme"),
        keys: keys.iter().map(|key| named(key)).collect(),
        fields: Some(pb::Fields { mode: mode.into(), names: Vec::new() }),
    };
    let got = clients.rows.get(get(&["k00007", "nothing", "k00003"], pb::fields::Mode::All)).await.unwrap();
    let got: Vec<Option<pb::Row>> = got.into_inner().rows.into_iter().map(|row| row.row).collect();
    let expected = |at| Some(pb::Row { tenant: named("acme"), ..row(at) });
    assert_eq!(got, [expected(7), None, expected(3)]);
    let bare = clients.rows.get(get(&["k00007"], pb::fields::Mode::None)).await.unwrap().into_inner();
    assert!(bare.rows[0].row.as_ref().unwrap().fields.is_empty());

    let mut all = Vec::new();
    let mut after = None;
    loop {
        let request = pb::ScrollRequest {
            collection: named("docs"),
            tenant: named("acme"),
            after: after.clone(),
            limit: 7,
            ..pb::ScrollRequest::default()
        };
        let page = clients.rows.scroll(request).await.unwrap().into_inner();
        assert!(page.rows.len() <= 7);
        all.extend(page.rows.into_iter().map(|row| row.key));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(all, (0..50).map(|at| format!("k{at:05}")).collect::<Vec<_>>());

    let count =
        pb::CountRequest { collection: named("docs"), tenant: named("acme"), filter: Some(year_is(2005)) };
    assert_eq!(clients.rows.count(count).await.unwrap().into_inner().rows, 2);
    let delete =
        |rows| pb::DeleteRequest { collection: named("docs"), tenant: named("acme"), rows: Some(rows) };
    let keys = pb::KeysCondition { keys: vec![named("k00000"), named("nothing")] };
    let deleted =
        clients.rows.delete(delete(pb::delete_request::Rows::Keys(keys))).await.unwrap().into_inner();
    assert_eq!(deleted.written.unwrap().rows, 1);
    let filter = pb::delete_request::Rows::Filter(year_is(2005));
    let deleted = clients.rows.delete(delete(filter)).await.unwrap().into_inner();
    assert_eq!(deleted.written.unwrap().rows, 2);
    assert_eq!(clients.count("acme").await.unwrap(), 47);

    let tenants = pb::ListTenantsRequest { collection: named("docs"), limit: 10, ..Default::default() };
    let tenants = clients.tenants.list(tenants).await.unwrap().into_inner().tenants;
    let of = |stats: &pb::TenantStats| (stats.tenant.clone(), stats.rows);
    assert_eq!(tenants.iter().map(of).collect::<Vec<_>>(), [(named("acme"), 47), (named("beta"), 5)]);
    let unsaid = pb::DropTenantRequest { collection: named("docs"), tenant: None };
    assert_eq!(clients.tenants.drop(unsaid).await.unwrap_err().code(), Code::InvalidArgument);
    let drop = pb::DropTenantRequest { collection: named("docs"), tenant: Some(named("acme")) };
    assert_eq!(clients.tenants.drop(drop).await.unwrap().into_inner().written.unwrap().rows, 47);
    assert_eq!(clients.count("acme").await.unwrap(), 0);
    assert_eq!(clients.count("beta").await.unwrap(), 5);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wire_says_what_the_engine_says() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("acme", rows(0..200)).await.unwrap();
    let docs = served.database.collection("docs").unwrap();
    let query = vec![0.3, 0.9, 0.1, 0.5];
    let year = Filter::Range {
        field: named("year"),
        gt: None,
        gte: Some(Value::Integer(2010)),
        lt: None,
        lte: None,
    };
    let requests = [
        SearchRequest::new(Route::dense("v", query.clone())),
        SearchRequest::new(Route::text("body", "river harbour")),
        SearchRequest::new(Route::dense("v", query)).route(Route::text("body", "forest")).filter(year),
        SearchRequest::new(Route::text("body", "forest")).fields(Fields::All).k(3),
    ];
    let mut wires = Vec::new();
    for request in requests {
        let request = request.tenant("acme");
        let engine = docs.search(&request).unwrap();
        let wire = spandrel_server::convert::request::search_to_wire("docs", request);
        let answer = clients.search.search(wire.clone()).await.unwrap().into_inner();
        assert!(!answer.hits.is_empty());
        assert_eq!(spandrel_server::convert::response::search_from_wire(answer.clone()).unwrap(), engine);
        wires.push((wire, answer));
    }
    let (searches, answers): (Vec<_>, Vec<_>) = wires.into_iter().unzip();
    let batch = pb::SearchBatchRequest { collection: named("docs"), searches };
    assert_eq!(clients.search.search_batch(batch).await.unwrap().into_inner().responses, answers);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn short_answers_say_why_and_explain_says_how() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("acme", rows(0..20)).await.unwrap();
    let dense_query = || pb::route::Query::Dense(dense(&[1.0, 0.0, 0.0, 0.0]));
    let empty = clients.search.search(search("nobody", "v", dense_query())).await.unwrap().into_inner();
    assert!(empty.hits.is_empty());
    assert_eq!(empty.short(), pb::Short::EmptyTenant);
    let few = pb::SearchRequest { filter: Some(year_is(2003)), ..search("acme", "v", dense_query()) };
    let few = clients.search.search(few).await.unwrap().into_inner();
    assert_eq!((keys_of(&few), few.short()), (vec!["k00003"], pb::Short::FewMatches));
    let cut = pb::SearchRequest { score_threshold: Some(1e9), ..search("acme", "v", dense_query()) };
    assert_eq!(clients.search.search(cut).await.unwrap().into_inner().short(), pb::Short::Threshold);
    let full = pb::SearchRequest { explain: true, ..search("acme", "v", dense_query()) };
    let full = clients.search.search(full).await.unwrap().into_inner();
    assert_eq!((full.hits.len(), full.short()), (10, pb::Short::Unspecified));
    let explain = full.explain.unwrap();
    assert_eq!(explain.tenant_rows, 20);
    assert!(!explain.stages.is_empty());
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn retrieve_keeps_its_budget() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("acme", rows(0..50)).await.unwrap();
    let text = pb::route::Query::Text(named("river harbour"));
    let request = |budget_tokens| pb::RetrieveRequest {
        search: Some(search("acme", "body", text.clone())),
        budget_tokens,
        separator: Some(named(" | ")),
        ..Default::default()
    };
    let answer = clients.search.retrieve(request(40)).await.unwrap().into_inner();
    assert!(answer.tokens <= 40 && !answer.chunks.is_empty());
    assert_eq!(answer.candidates, 10);
    let mut texts = Vec::new();
    for chunk in &answer.chunks {
        let span = chunk.context_start as usize..chunk.context_end as usize;
        texts.push(&answer.context[span]);
        assert!(chunk.hit.as_ref().unwrap().row.as_ref().unwrap().chunk.is_some());
    }
    assert_eq!(texts.join(" | "), answer.context);
    assert_eq!(clients.search.retrieve(request(0)).await.unwrap_err().code(), Code::InvalidArgument);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn administration_flushes_counts_and_backs_up() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("acme", rows(0..30)).await.unwrap();
    clients.admin.flush(pb::FlushRequest { collection: named("docs") }).await.unwrap();
    clients.admin.flush(pb::FlushRequest { collection: String::new() }).await.unwrap();
    let missing = clients.admin.flush(pb::FlushRequest { collection: named("x") }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let stats = clients.admin.stats(pb::StatsRequest {}).await.unwrap().into_inner();
    assert_eq!(stats.collections.len(), 1);
    assert_eq!((stats.collections[0].rows, stats.collections[0].memory_rows), (30, 0));

    let backup = |name: &str| pb::BackupRequest { name: named(name) };
    let path = clients.admin.backup(backup("monday")).await.unwrap().into_inner().path;
    assert_eq!(clients.admin.backup(backup("monday")).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(clients.admin.backup(backup("../monday")).await.unwrap_err().code(), Code::InvalidArgument);
    clients.upsert("acme", rows(30..40)).await.unwrap();
    let restored = served.folder.path().join("restored");
    spandrel::Database::restore(path, &restored).unwrap();
    let copy = open(&config_in(restored)).await;
    assert_eq!(copy.collection("docs").unwrap().count("acme", None).unwrap(), 30);
    copy.close().unwrap();
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_need_no_key() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
    };
    let served = serve().await;
    served.clients_with(Access::Read, &["*"]).await;
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", served.server.address())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "spandrel.v1.RowService", "spandrel.v1.SearchService"] {
        let check = HealthCheckRequest { service: named(service) };
        assert_eq!(health.check(check).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    let mut reflection = ServerReflectionClient::new(channel);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        reflection.server_reflection_info(tokio_stream::iter([list])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("not a list");
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["spandrel.v1.CollectionService", "spandrel.v1.AdminService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|one| one == name), "{name} is not among {names:?}");
    }
    drop(answers);

    let mut watch = health.watch(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let shutdown = tokio::spawn(served.server.shutdown());
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    shutdown.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_metrics_and_health() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    clients.upsert("acme", rows(0..30)).await.unwrap();
    clients.upsert("acme", Vec::new()).await.unwrap_err();
    assert!(served.page("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(served.page("/other").await.starts_with("HTTP/1.1 404"));
    let page = served.page("/metrics").await;
    for line in [
        "spandrel_requests_total{method=\"RowService/Upsert\",code=\"OK\"} 1",
        "spandrel_requests_total{method=\"RowService/Upsert\",code=\"INVALID_ARGUMENT\"} 1",
        "spandrel_rows_written_total 30",
        "spandrel_collection_rows{collection=\"docs\"} 30",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    assert!(!page.contains("acme"), "tenants are nobody's business");
    served.server.shutdown().await.unwrap();
}
