//! The server end to end, through the generated client: what is written is found, what the wire says is what
//! the engine says, keys open what they should and nothing else, and a shutdown loses nothing.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use spandrel::{Fields, Filter, Route, SearchRequest, Value};
use spandrel_proto::v1 as pb;
use spandrel_server::auth::{Access, keys};
use tonic::codegen::http::{self, HeaderMap};
use tonic::{Code, Status};

use crate::served::{Clients, config_in, dense, open, row, rows, schema, search, serve, serve_with, year_is};

fn named(name: &str) -> String {
    name.to_owned()
}

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

    let tenants = pb::ListTenantsRequest { collection: named("docs") };
    assert_eq!(
        clients.rows.list_tenants(tenants.clone()).await.unwrap().into_inner().tenants,
        ["acme", "beta"]
    );
    let unsaid = pb::DropTenantRequest { collection: named("docs"), tenant: None };
    assert_eq!(clients.rows.drop_tenant(unsaid).await.unwrap_err().code(), Code::InvalidArgument);
    let drop = pb::DropTenantRequest { collection: named("docs"), tenant: Some(named("acme")) };
    assert_eq!(clients.rows.drop_tenant(drop).await.unwrap().into_inner().written.unwrap().rows, 47);
    assert_eq!(clients.count("acme").await.unwrap(), 0);
    assert_eq!(clients.count("beta").await.unwrap(), 5);
    served.server.shutdown().await.unwrap();
}

fn messages(batches: Vec<Vec<pb::Row>>) -> Vec<pb::UpsertStreamRequest> {
    let message = |(at, rows)| pb::UpsertStreamRequest {
        collection: if at == 0 { named("docs") } else { String::new() },
        tenant: if at == 0 { named("acme") } else { String::new() },
        rows,
    };
    batches.into_iter().enumerate().map(message).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_writes_its_batches_in_order() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let mut batches: Vec<_> = (0..20).map(|at| rows(at * 50..at * 50 + 50)).collect();
    // The last word on a key stands.
    batches.push(vec![pb::Row { chunk: None, ..row(3) }]);
    let answer =
        clients.rows.upsert_stream(tokio_stream::iter(messages(batches))).await.unwrap().into_inner();
    assert_eq!((answer.batches, answer.written.unwrap().rows), (21, 1_001));
    assert_eq!(clients.count("acme").await.unwrap(), 1_000);
    let get = pb::GetRowsRequest {
        collection: named("docs"),
        tenant: named("acme"),
        keys: vec![named("k00003")],
        fields: None,
    };
    let got = clients.rows.get(get).await.unwrap().into_inner();
    assert!(got.rows[0].row.as_ref().unwrap().chunk.is_none());
    let nothing = clients.rows.upsert_stream(tokio_stream::iter(Vec::new())).await.unwrap().into_inner();
    assert_eq!((nothing.batches, nothing.written.unwrap().rows), (0, 0));
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_tells_how_far_it_came() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let mut batches: Vec<_> = (0..6).map(|at| rows(at * 10..at * 10 + 10)).collect();
    batches[3][4].key.clear();
    let status = clients.rows.upsert_stream(tokio_stream::iter(messages(batches))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("batch 3: "), "{status}");
    assert_eq!(status.metadata().get("spandrel-batches-written").unwrap(), "3");
    assert_eq!(status.metadata().get("spandrel-rows-written").unwrap(), "30");
    assert_eq!(clients.count("acme").await.unwrap(), 30);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded() {
    let served = serve_with(|config| config.limits.streams_max = 1).await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let mut first = served.clients().await;
    let stream = tokio_stream::wrappers::ReceiverStream::new(receive);
    let first = tokio::spawn(async move { first.rows.upsert_stream(stream).await });
    for message in messages(vec![rows(0..1), rows(1..2), rows(2..3)]) {
        send.send(message).await.unwrap();
    }
    while clients.count("acme").await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second =
        clients.rows.upsert_stream(tokio_stream::iter(messages(vec![rows(9..10)]))).await.unwrap_err();
    assert_eq!(second.code(), Code::ResourceExhausted);
    assert!(second.message().contains("limits.streams_max"), "{second}");
    drop(send);
    assert_eq!(first.await.unwrap().unwrap().into_inner().batches, 3);
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
        text_field: String::new(),
        separator: Some(named(" | ")),
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

/// What each method answers to clients of every kind: the matrix that docs/security.md shows.
#[tokio::test(flavor = "multi_thread")]
async fn keys_open_what_they_should_and_nothing_else() {
    let served = serve().await;
    let mut operator = served.clients_with(Access::Admin, &["*"]).await;
    operator.create_docs().await;
    operator.upsert("acme", rows(0..3)).await.unwrap();
    operator.upsert("beta", rows(0..3)).await.unwrap();

    let mut nobody = served.clients().await;
    assert_eq!(nobody.count("acme").await.unwrap_err().code(), Code::Unauthenticated);
    let mut stranger = served.clients_of(Some(named("spd_0123456789ab_00"))).await;
    assert_eq!(stranger.count("acme").await.unwrap_err().code(), Code::Unauthenticated);

    for access in [Access::Read, Access::Write, Access::Admin] {
        let mut acme = served.clients_with(access, &["acme"]).await;
        // Its own tenant, named or not.
        assert_eq!(acme.count("acme").await.unwrap(), 3);
        assert_eq!(acme.count("").await.unwrap(), 3);
        let tenants = pb::ListTenantsRequest { collection: named("docs") };
        assert_eq!(acme.rows.list_tenants(tenants).await.unwrap().into_inner().tenants, ["acme"]);
        foreign_tenants_are_closed(&mut acme, "beta").await;
        foreign_tenants_are_closed(&mut acme, "nobody").await;
        let write = acme.upsert("", rows(0..1)).await;
        match access {
            Access::Read => assert_eq!(write.unwrap_err().code(), Code::PermissionDenied),
            _ => assert_eq!(write.unwrap().rows, 1),
        }
        // What concerns all tenants is closed to a key of one, whatever its access.
        let closed: [Result<(), Status>; 5] = [
            acme.collections
                .drop(pb::DropCollectionRequest { name: named("docs"), if_exists: true })
                .await
                .map(drop),
            acme.collections.create(pb::CreateCollectionRequest::default()).await.map(drop),
            acme.admin.stats(pb::StatsRequest {}).await.map(drop),
            acme.admin.flush(pb::FlushRequest::default()).await.map(drop),
            acme.admin.backup(pb::BackupRequest { name: named("x") }).await.map(drop),
        ];
        for result in closed {
            assert_eq!(result.unwrap_err().code(), Code::PermissionDenied);
        }
        // The empty name is the default tenant, never the key's own.
        let default = pb::DropTenantRequest { collection: named("docs"), tenant: Some(String::new()) };
        assert_eq!(acme.rows.drop_tenant(default).await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(acme.count("acme").await.unwrap(), 3);
        let request = pb::DropTenantRequest { collection: named("docs"), tenant: Some(named("acme")) };
        let dropped = acme.rows.drop_tenant(request).await;
        match access {
            Access::Admin => assert_eq!(dropped.unwrap().into_inner().written.unwrap().rows, 3),
            _ => assert_eq!(dropped.unwrap_err().code(), Code::PermissionDenied),
        }
    }
    assert_eq!(operator.count("beta").await.unwrap(), 3);
    served.server.shutdown().await.unwrap();
}

async fn foreign_tenants_are_closed(clients: &mut Clients, tenant: &str) {
    let collection = || named("docs");
    let query = || search(tenant, "body", pb::route::Query::Text(named("river")));
    let keys = pb::KeysCondition { keys: vec![named("k00000")] };
    let get = pb::GetRowsRequest { collection: collection(), tenant: named(tenant), ..Default::default() };
    let scroll =
        pb::ScrollRequest { collection: collection(), tenant: named(tenant), limit: 1, ..Default::default() };
    let batch = pb::SearchBatchRequest { collection: collection(), searches: vec![query()] };
    let retrieve = pb::RetrieveRequest { search: Some(query()), budget_tokens: 9, ..Default::default() };
    let delete = pb::DeleteRequest {
        collection: collection(),
        tenant: named(tenant),
        rows: Some(pb::delete_request::Rows::Keys(keys)),
    };
    let drop_tenant = pb::DropTenantRequest { collection: collection(), tenant: Some(named(tenant)) };
    let smuggled = vec![pb::Row { tenant: named(tenant), ..row(0) }];
    let stream =
        pb::UpsertStreamRequest { collection: collection(), tenant: named(tenant), rows: rows(0..1) };
    let results: [Result<(), Status>; 11] = [
        clients.count(tenant).await.map(drop),
        clients.rows.get(get).await.map(drop),
        clients.rows.scroll(scroll).await.map(drop),
        clients.search.search(query()).await.map(drop),
        clients.search.search_batch(batch).await.map(drop),
        clients.search.retrieve(retrieve).await.map(drop),
        clients.rows.delete(delete).await.map(drop),
        clients.rows.drop_tenant(drop_tenant).await.map(drop),
        clients.upsert(tenant, rows(0..1)).await.map(drop),
        clients.upsert("", smuggled).await.map(drop),
        clients.rows.upsert_stream(tokio_stream::iter([stream])).await.map(drop),
    ];
    for (at, result) in results.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().code(), Code::PermissionDenied, "call {at}, tenant {tenant}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_and_go_without_a_restart() {
    let served = serve().await;
    let mut open = served.clients().await;
    open.collections.list(pb::ListCollectionsRequest {}).await.unwrap();
    let mut keyed = served.clients_with(Access::Read, &["*"]).await;
    let list = open.collections.list(pb::ListCollectionsRequest {}).await;
    assert_eq!(list.unwrap_err().code(), Code::Unauthenticated, "from the first key on everybody needs one");
    let file = served.config.keys_file();
    let id = keys::list(&file).unwrap()[0].id.clone();
    keys::revoke(&file, &id).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let revoked = keyed.collections.list(pb::ListCollectionsRequest {}).await;
    assert_eq!(revoked.unwrap_err().code(), Code::Unauthenticated);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_address_needs_keys() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config_in(folder.path().join("data"));
    config.listen = ([0, 0, 0, 0], 0).into();
    let database = open(&config).await;
    let refused = spandrel_server::start(database.clone(), &config).await.err().unwrap().to_string();
    assert!(refused.contains("spandrel key create"), "{refused}");
    std::fs::write(config.keys_file(), "{").unwrap();
    let damaged = spandrel_server::start(database.clone(), &config).await.err().unwrap().to_string();
    assert!(damaged.contains("is damaged"), "{damaged}");
    std::fs::remove_file(config.keys_file()).unwrap();
    keys::create(&config.keys_file(), "", Access::Read, spandrel_server::auth::Tenants::All).unwrap();
    spandrel_server::start(database, &config).await.unwrap().shutdown().await.unwrap();
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
async fn a_shutdown_loses_nothing_and_says_so() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut writer = served.clients().await;
    let writer = tokio::spawn(async move { writer.rows.upsert_stream(stream).await });
    for message in messages(vec![rows(0..10), rows(10..20), rows(20..30)]) {
        send.send(message).await.unwrap();
    }
    while clients.count("acme").await.unwrap() < 30 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(clients);
    let config = served.config.clone();
    // The folder is free when the last clone is gone.
    drop(served.database);
    served.server.shutdown().await.unwrap();
    let status = writer.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.metadata().get("spandrel-rows-written").unwrap(), "30");
    drop(send);
    let database = open(&config).await;
    assert_eq!(database.collection("docs").unwrap().count("acme", None).unwrap(), 30);
    database.close().unwrap();
}

/// What a failed stream wrote, as its trailing metadata says.
fn rows_written(status: &Status) -> u64 {
    status.metadata().get("spandrel-rows-written").unwrap().to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_gives_its_place_to_another() {
    let served = serve_with(|config| {
        config.limits.streams_max = 1;
        config.limits.stream_idle_timeout_ms = 300;
    })
    .await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    for message in messages(vec![rows(0..1)]) {
        send.send(message).await.unwrap();
    }
    let silent = clients.rows.upsert_stream(tokio_stream::wrappers::ReceiverStream::new(receive));
    let status = silent.await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("limits.stream_idle_timeout_ms"), "{status}");
    assert_eq!(rows_written(&status), 1);
    clients.rows.upsert_stream(tokio_stream::iter(messages(vec![rows(1..2)]))).await.unwrap();
    served.server.shutdown().await.unwrap();
}

/// A call over bare HTTP/2, of a client that has no clock of its own and never ends its side: the head of the
/// answer, where a failure has its status.
async fn raw_call(
    address: SocketAddr,
    path: &'static str,
    timeout: Option<&'static str>,
    messages: Vec<Vec<u8>>,
) -> HeaderMap {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{address}/spandrel.v1.{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let mut sender = sender.ready().await.unwrap();
    let (answer, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    for message in messages {
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        body.send_data(frame.into(), false).unwrap();
    }
    let head = tokio::time::timeout(Duration::from_secs(30), answer).await.unwrap().unwrap();
    head.headers().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_has_passed_starts_nothing() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let request = pb::UpsertRequest { collection: named("docs"), tenant: named("acme"), rows: rows(0..1) };
    let head =
        raw_call(served.server.address(), "RowService/Upsert", Some("1n"), vec![request.encode_to_vec()])
            .await;
    assert_eq!(Status::from_header_map(&head).unwrap().code(), Code::DeadlineExceeded);
    assert_eq!(clients.count("acme").await.unwrap(), 0);
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_at_its_deadline_how_far_it_came() {
    let served = serve().await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let sent = messages(vec![rows(0..10), rows(10..20)]).iter().map(Message::encode_to_vec).collect();
    let head = raw_call(served.server.address(), "RowService/UpsertStream", Some("1500m"), sent).await;
    let status = Status::from_header_map(&head).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(rows_written(&status), 20);
    assert_eq!(status.metadata().get("spandrel-batches-written").unwrap(), "2");
    served.server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_ends_does_not_outlive_the_grace_time() {
    let served = serve_with(|config| config.shutdown_grace_ms = 500).await;
    let address = served.server.address();
    let waiting = tokio::spawn(raw_call(address, "RowService/Upsert", None, Vec::new()));
    while !served.page("/metrics").await.contains("spandrel_requests_in_flight 1") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(served.database);
    tokio::time::timeout(Duration::from_secs(10), served.server.shutdown()).await.unwrap().unwrap();
    let status = Status::from_header_map(&waiting.await.unwrap()).unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    // Nothing holds the folder any more.
    open(&served.config).await.close().unwrap();
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
