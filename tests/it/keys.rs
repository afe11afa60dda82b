//! Who may do what: keys open what they should and nothing else.

use std::time::Duration;

use spandrel_proto::v1 as pb;
use spandrel_server::auth::{Access, keys};
use tonic::{Code, Status};

use crate::served::{Clients, config_in, field, named, open, row, rows, search, serve};

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
        let tenants = pb::ListTenantsRequest { collection: named("docs"), limit: 9, ..Default::default() };
        let tenants = acme.tenants.list(tenants).await.unwrap().into_inner();
        assert_eq!((tenants.tenants.len(), &*tenants.tenants[0].tenant, tenants.next), (1, "acme", None));
        foreign_tenants_are_closed(&mut acme, "beta").await;
        foreign_tenants_are_closed(&mut acme, "nobody").await;
        let write = acme.upsert("", rows(0..1)).await;
        match access {
            Access::Read => assert_eq!(write.unwrap_err().code(), Code::PermissionDenied),
            _ => assert_eq!(write.unwrap().rows, 1),
        }
        // What concerns all tenants is closed to a key of one, whatever its access.
        let quota = |tenant: Option<&str>| pb::SetQuotaRequest {
            collection: named("docs"),
            tenant: tenant.map(named),
            quota: None,
        };
        let closed: [Result<(), Status>; 8] = [
            // A tenant does not set its own quota.
            acme.tenants.set_quota(quota(Some("acme"))).await.map(drop),
            acme.tenants.set_quota(quota(Some("beta"))).await.map(drop),
            acme.tenants.set_quota(quota(None)).await.map(drop),
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
        assert_eq!(acme.tenants.drop(default).await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(acme.count("acme").await.unwrap(), 3);
        let request = pb::DropTenantRequest { collection: named("docs"), tenant: Some(named("acme")) };
        let dropped = acme.tenants.drop(request).await;
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
    let stats = pb::GetTenantRequest { collection: collection(), tenant: named(tenant) };
    let warm = pb::WarmTenantRequest { collection: collection(), tenant: named(tenant) };
    let export = pb::ExportTenantRequest { collection: collection(), tenant: named(tenant) };
    let copy = |from: &str, to: &str| pb::CopyTenantRequest {
        collection: collection(),
        from: Some(named(from)),
        to: Some(named(to)),
    };
    let smuggled = vec![pb::Row { tenant: named(tenant), ..row(0) }];
    let stream =
        pb::UpsertStreamRequest { collection: collection(), tenant: named(tenant), rows: rows(0..1) };
    let results: [Result<(), Status>; 18] = [
        clients.count(tenant).await.map(drop),
        clients.rows.get(get).await.map(drop),
        clients.rows.scroll(scroll).await.map(drop),
        clients.search.search(query()).await.map(drop),
        clients.search.search_batch(batch).await.map(drop),
        clients.search.retrieve(retrieve).await.map(drop),
        clients.rows.delete(delete).await.map(drop),
        clients.tenants.drop(drop_tenant).await.map(drop),
        clients.tenants.get(stats).await.map(drop),
        clients.tenants.warm(warm).await.map(drop),
        clients.tenants.export(export).await.map(drop),
        clients.tenants.copy(copy(tenant, "acme")).await.map(drop),
        clients.tenants.copy(copy("acme", tenant)).await.map(drop),
        // Exact names: the empty one is the default tenant.
        clients.tenants.copy(copy("acme", "")).await.map(drop),
        clients.tenants.copy(copy("", "acme")).await.map(drop),
        clients.upsert(tenant, rows(0..1)).await.map(drop),
        clients.upsert("", smuggled).await.map(drop),
        clients.rows.upsert_stream(tokio_stream::iter([stream])).await.map(drop),
    ];
    for (at, result) in results.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().code(), Code::PermissionDenied, "call {at}, tenant {tenant}");
    }
}

/// A key that is bound to labels sees rows that have one of them, by whatever call, and no request widens it.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_labels_sees_what_has_one_of_them() {
    let served = serve().await;
    let mut operator = served.clients_with(Access::Admin, &["*"]).await;
    operator.create_docs().await;
    let labelled = |at: u32| pb::Row {
        labels: [("even", at % 2), ("third", at % 3)]
            .iter()
            .filter(|of| of.1 == 0)
            .map(|of| named(of.0))
            .collect(),
        ..row(at)
    };
    operator.upsert("acme", (0..30).map(labelled).collect()).await.unwrap();
    operator.upsert("beta", (0..30).map(labelled).collect()).await.unwrap();
    let key = |at: u32| row(at).key;
    let has = |at: u32| at.is_multiple_of(3);
    let expected: Vec<String> = (0..30).filter(|at| has(*at)).map(key).collect();
    let mut bound = served.clients_bound(Access::Read, &["acme"], Some(&["third", "unheard of"])).await;
    let labels =
        |names: &[&str]| pb::LabelsCondition { labels: names.iter().map(|name| named(name)).collect() };
    let collection = || named("docs");
    for asked in [None, Some(labels(&["even", "third"])), Some(labels(&["third"]))] {
        let query = pb::route::Query::Dense(pb::DenseVector { values: vec![1.0; 4], ..Default::default() });
        let request = pb::SearchRequest { k: 30, labels: asked, ..search("", "v", query) };
        // A filter that every row passes widens nothing.
        let all = pb::Filter { condition: Some(pb::filter::Condition::AllOf(pb::FilterList::default())) };
        let request = pb::SearchRequest { filter: Some(all), ..request };
        let batch = pb::SearchBatchRequest { collection: collection(), searches: vec![request.clone()] };
        let retrieve =
            pb::RetrieveRequest { search: Some(request.clone()), budget_tokens: 9_000, ..Default::default() };
        let one = bound.search.search(request).await.unwrap().into_inner();
        let many = bound.search.search_batch(batch).await.unwrap().into_inner().responses.remove(0);
        let packed = bound.search.retrieve(retrieve).await.unwrap().into_inner();
        let packed = packed.chunks.into_iter().map(|chunk| chunk.hit.unwrap()).collect();
        for hits in [one.hits, many.hits, packed] {
            let mut found: Vec<String> = hits.into_iter().map(|hit| hit.row.unwrap().key).collect();
            found.sort_unstable();
            assert_eq!(found, expected);
        }
    }
    let export = pb::ExportTenantRequest { collection: collection(), tenant: named("") };
    assert_eq!(keys_of(bound.tenants.export(export).await.unwrap().into_inner()).await, expected);
    // Labels that the key is not bound to find nothing.
    let query = pb::route::Query::Text(named("river"));
    let request = pb::SearchRequest { labels: Some(labels(&["even"])), ..search("", "body", query) };
    assert_eq!(bound.search.search(request).await.unwrap().into_inner().hits.len(), 0);
    assert_eq!(bound.count("").await.unwrap(), expected.len() as u64);
    let scroll = pb::ScrollRequest { collection: collection(), limit: 100, ..Default::default() };
    let page = bound.rows.scroll(scroll).await.unwrap().into_inner();
    assert_eq!(page.rows.into_iter().map(|row| row.key).collect::<Vec<_>>(), expected);
    let get = pb::GetRowsRequest {
        collection: collection(),
        keys: (0..30).map(key).collect(),
        ..Default::default()
    };
    let rows = bound.rows.get(get).await.unwrap().into_inner().rows;
    for (at, found) in (0..).zip(rows) {
        assert_eq!(found.row.is_some(), has(at), "row {at}");
    }
    // What is granted and revoked counts from then on.
    let grant = |of: &[u32], label: &str| pb::GrantRequest {
        collection: collection(),
        tenant: named("acme"),
        keys: of.iter().map(|at| key(*at)).collect(),
        labels: vec![named(label)],
    };
    let request = grant(&[1, 2, 900], "third");
    assert_eq!(operator.rows.grant(request.clone()).await.unwrap().into_inner().written.unwrap().rows, 2);
    assert_eq!(bound.count("").await.unwrap(), expected.len() as u64 + 2);
    let pb::GrantRequest { collection: of, tenant, keys, labels } = request;
    let revoke = pb::RevokeRequest { collection: of, tenant, keys, labels };
    operator.rows.revoke(revoke.clone()).await.unwrap();
    assert_eq!(bound.count("").await.unwrap(), expected.len() as u64);
    // Sizes tell of rows that it may not see.
    let page = pb::ListTenantsRequest { collection: collection(), limit: 9, ..Default::default() };
    let stats = pb::GetTenantRequest { collection: collection(), tenant: named("acme") };
    let warm = pb::WarmTenantRequest { collection: collection(), tenant: named("acme") };
    let (from, to) = (Some(named("acme")), Some(named("acme")));
    let copy = pb::CopyTenantRequest { collection: collection(), from, to };
    let default = pb::GetDefaultQuotaRequest { collection: collection() };
    let quota = pb::SetQuotaRequest { collection: collection(), ..Default::default() };
    let closed: [Result<(), Status>; 6] = [
        bound.tenants.list(page).await.map(drop),
        bound.tenants.get(stats).await.map(drop),
        bound.tenants.warm(warm).await.map(drop),
        bound.tenants.copy(copy).await.map(drop),
        bound.tenants.get_default_quota(default).await.map(drop),
        bound.tenants.set_quota(quota).await.map(drop),
    ];
    for result in closed {
        assert_eq!(result.unwrap_err().code(), Code::PermissionDenied);
    }
    // It changes no label, and names none that are of other tenants.
    let drop_label = pb::DropLabelRequest { collection: collection(), label: named("third") };
    let list = pb::ListLabelsRequest { collection: collection() };
    let closed: [Result<(), Status>; 4] = [
        bound.rows.grant(grant(&[1], "third")).await.map(drop),
        bound.rows.revoke(revoke).await.map(drop),
        bound.rows.drop_label(drop_label.clone()).await.map(drop),
        bound.rows.list_labels(list.clone()).await.map(drop),
    ];
    for result in closed {
        assert_eq!(result.unwrap_err().code(), Code::PermissionDenied);
    }
    assert_eq!(operator.rows.list_labels(list.clone()).await.unwrap().into_inner().labels, ["even", "third"]);
    assert!(operator.rows.drop_label(drop_label.clone()).await.unwrap().into_inner().dropped);
    assert!(!operator.rows.drop_label(drop_label).await.unwrap().into_inner().dropped);
    assert_eq!(operator.rows.list_labels(list).await.unwrap().into_inner().labels, ["even"]);
    assert_eq!(bound.count("").await.unwrap(), 0);
    let labels = Some(std::collections::BTreeSet::new());
    let file = served.config.keys_file();
    let all = spandrel_server::auth::Tenants::All;
    assert!(keys::create_bound(&file, "", Access::Write, all, labels).is_err(), "such a key is to read");
    served.server.shutdown().await.unwrap();
}

async fn keys_of(mut messages: tonic::Streaming<pb::ExportTenantResponse>) -> Vec<String> {
    let mut keys = Vec::new();
    while let Some(message) = messages.message().await.unwrap() {
        keys.extend(message.rows.into_iter().map(|row| row.key));
    }
    keys
}

/// Access that is lost while an export runs is lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_by_labels_has_no_row_that_lost_them() {
    let served = serve().await;
    let mut operator = served.clients_with(Access::Admin, &["*"]).await;
    operator.create_docs().await;
    let large = |at: u32| {
        let text = pb::field_value::Kind::Text(" ".repeat(100_000));
        let mut row = pb::Row { labels: vec![named("staff")], ..row(at) };
        row.fields.insert(named("body"), field(text));
        row
    };
    for at in (0..400).step_by(100) {
        operator.upsert("acme", (at..at + 100).map(large).collect()).await.unwrap();
    }
    let mut bound = served.clients_bound(Access::Read, &["acme"], Some(&["staff"])).await;
    let export = pb::ExportTenantRequest { collection: named("docs"), tenant: named("") };
    let messages = bound.tenants.export(export).await.unwrap().into_inner();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let keys = (0..400).map(|at| row(at).key).collect();
    let (collection, tenant, labels) = (named("docs"), named("acme"), vec![named("staff")]);
    operator.rows.revoke(pb::RevokeRequest { collection, tenant, keys, labels }).await.unwrap();
    let found = keys_of(messages).await;
    assert!(found.len() < 200, "{} rows were on their way", found.len());
    served.server.shutdown().await.unwrap();
}

/// A tenant's administrator drops its rows, and with them not the quota that holds it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_outlives_a_drop_by_its_tenant() {
    let served = serve().await;
    let mut operator = served.clients_with(Access::Admin, &["*"]).await;
    operator.create_docs().await;
    let quota = Some(pb::Quota { rows_max: Some(5), ..Default::default() });
    let tenant = Some(named("acme"));
    let set = pb::SetQuotaRequest { collection: named("docs"), tenant: tenant.clone(), quota };
    operator.tenants.set_quota(set).await.unwrap();
    let mut acme = served.clients_with(Access::Admin, &["acme"]).await;
    acme.upsert("", rows(0..5)).await.unwrap();
    let drop_tenant = pb::DropTenantRequest { collection: named("docs"), tenant };
    acme.tenants.drop(drop_tenant.clone()).await.unwrap();
    assert_eq!(acme.upsert("", rows(0..6)).await.unwrap_err().code(), Code::ResourceExhausted);
    operator.tenants.drop(drop_tenant).await.unwrap();
    acme.upsert("", rows(0..6)).await.unwrap();
    served.server.shutdown().await.unwrap();
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
