//! A tenant's life: it is empty, grows, shrinks, is copied, goes cold, is dropped; and what it may use.

use std::sync::Arc;

use spandrel::{
    Collection, Database, ErrorKind, Fields, Filter, Metric, PayloadKind, Quota, Residency, Route, Row,
    Schema, SearchRequest, Settings, TenantState, TenantsRequest,
};

const DIM: usize = 16;

fn schema() -> Schema {
    Schema::new().text("body").dense("v", DIM as u32, Metric::L2).payload("n", PayloadKind::Integer)
}

fn row(tenant: &str, key: usize) -> Row {
    let vector = (0..DIM).map(|at| (((key * 31 + at * 7) % 97) * (at + 1)) as f32).collect();
    Row::new(format!("k{key}"))
        .tenant(tenant)
        .text("body", format!("row {key}"))
        .dense("v", vector)
        .payload("n", key as i64)
}

fn rows(tenant: &str, keys: std::ops::Range<usize>) -> Vec<Row> {
    keys.map(|key| row(tenant, key)).collect()
}

fn fill(collection: &Collection, tenant: &str, keys: std::ops::Range<usize>) {
    for start in keys.clone().step_by(4_096) {
        collection.upsert(rows(tenant, start..keys.end.min(start + 4_096))).unwrap();
    }
}

fn open(path: &std::path::Path, settings: Settings) -> (Database, Arc<Collection>) {
    let database = Database::open(path, settings).unwrap();
    let collection = match database.collection("rows") {
        Ok(collection) => collection,
        Err(_) => database.create_collection("rows", schema()).unwrap(),
    };
    (database, collection)
}

fn search(tenant: &str) -> SearchRequest {
    SearchRequest::new(Route::dense("v", vec![9.0; DIM])).tenant(tenant).k(5)
}

fn state(collection: &Collection, tenant: &str) -> TenantState {
    collection.tenant_stats(tenant).unwrap().state
}

#[test]
fn a_tenant_grows_and_shrinks_through_its_states() {
    let folder = tempfile::tempdir().unwrap();
    let (_database, collection) = open(&folder.path().join("data"), Settings::default());
    assert_eq!(collection.tenant_stats("t").unwrap_err().kind(), ErrorKind::NotFound);
    collection.set_quota("t", Some(Quota::default())).unwrap();
    assert_eq!(state(&collection, "t"), TenantState::Empty, "it has a quota and no rows");
    fill(&collection, "other", 0..9_000);
    fill(&collection, "t", 0..8);
    assert_eq!(state(&collection, "t"), TenantState::Small, "in memory");
    collection.optimize().unwrap();
    assert_eq!(state(&collection, "t"), TenantState::Small);
    assert_eq!(state(&collection, "other"), TenantState::Large);
    for (keys, after) in [
        (500, TenantState::Medium),
        (2_500, TenantState::Large),
        (1_500, TenantState::Large),
        (900, TenantState::Medium),
        (3, TenantState::Small),
        (0, TenantState::Empty),
    ] {
        let have = collection.count("t", None).unwrap() as usize;
        fill(&collection, "t", have.min(keys)..keys);
        let gone: Vec<String> = (keys..have.max(keys)).map(|key| format!("k{key}")).collect();
        collection.delete("t", &gone).unwrap();
        // Deletions alone are no reason to merge.
        fill(&collection, "other", 0..1);
        collection.optimize().unwrap();
        let stats = collection.tenant_stats("t").unwrap();
        assert_eq!((stats.state, stats.rows), (after, keys as u64), "{keys} rows");
        let found = collection.search(&search("t")).unwrap().hits.len();
        assert_eq!(found, keys.min(5), "{keys} rows");
        collection.verify().unwrap();
    }
    let stats = collection.tenant_stats("t").unwrap();
    assert_eq!(
        (stats.bytes, stats.index_bytes, stats.queries),
        (0, 0, 12),
        "searches and counts are queries"
    );
}

#[test]
fn what_a_tenant_holds_is_known_after_a_restart_and_forgotten_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let (database, collection) = open(&path, Settings::default());
    fill(&collection, "a", 0..100);
    fill(&collection, "b", 0..50);
    let held = |collection: &Collection, tenant: &str| collection.tenant_stats(tenant).unwrap().bytes;
    let whole = held(&collection, "a");
    assert!(whole > 100 * DIM as u64 * 4, "{whole} bytes");
    collection.upsert(rows("a", 0..100)).unwrap();
    assert_eq!(held(&collection, "a"), whole, "the same rows again");
    collection.delete("a", &["k0".to_owned(), "k1".to_owned(), "none".to_owned()]).unwrap();
    collection
        .delete_by_filter(
            "a",
            &Filter::Range { field: "n".into(), gt: None, gte: Some(50.into()), lt: None, lte: None },
        )
        .unwrap();
    let (a, b) = (held(&collection, "a"), held(&collection, "b"));
    assert!(a < whole * 6 / 10 && a > whole * 4 / 10, "{a} of {whole}");
    collection.verify().unwrap();
    collection.set_quota("b", Some(Quota { rows_max: Some(60), ..Quota::default() })).unwrap();
    drop((database, collection));
    let (database, collection) = open(&path, Settings::default());
    assert_eq!((held(&collection, "a"), held(&collection, "b")), (a, b));
    assert_eq!(collection.upsert(rows("b", 50..61)).unwrap_err().kind(), ErrorKind::Exhausted);
    assert_eq!(collection.empty_tenant("b").unwrap().rows, 50);
    drop((database, collection));
    let (database, collection) = open(&path, Settings::default());
    let emptied = collection.tenant_stats("b").unwrap();
    assert_eq!((emptied.rows, emptied.bytes, emptied.quota.unwrap().rows_max), (0, 0, Some(60)));
    assert_eq!(collection.upsert(rows("b", 0..61)).unwrap_err().kind(), ErrorKind::Exhausted);
    collection.upsert(rows("b", 0..50)).unwrap();
    assert_eq!(collection.drop_tenant("b").unwrap().rows, 50);
    assert_eq!(collection.tenants(), ["a"]);
    assert_eq!(collection.tenant_stats("b").unwrap_err().kind(), ErrorKind::NotFound);
    // Another tenant of that name has nothing of the old one, its quota neither.
    collection.upsert(rows("b", 100..170)).unwrap();
    assert_eq!(collection.count("b", None).unwrap(), 70);
    assert_eq!(collection.drop_tenant("b").unwrap().rows, 70);
    drop((database, collection));
    let (_database, collection) = open(&path, Settings::default());
    assert_eq!(collection.tenants(), ["a"]);
    collection.upsert(rows("c", 0..1)).unwrap();
    assert_eq!(collection.count("c", None).unwrap(), 1, "ids are not used again");
    collection.optimize().unwrap();
    collection.verify().unwrap();
}

#[test]
fn a_write_beyond_a_quota_changes_nothing_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let (_database, collection) = open(&folder.path().join("data"), Settings::default());
    collection.set_default_quota(Some(Quota { rows_max: Some(10), ..Quota::default() })).unwrap();
    collection.upsert(rows("a", 0..8)).unwrap();
    let mut both = rows("b", 0..3);
    both.extend(rows("a", 8..11));
    let error = collection.upsert(both).unwrap_err();
    assert!(error.message().contains("tenant 'a' would have 11 rows, its quota is 10"), "{error}");
    assert_eq!(collection.tenants(), ["a"], "nothing is written for the other tenant");
    collection.upsert(rows("a", 2..10)).unwrap();
    assert_eq!(collection.count("a", None).unwrap(), 10, "rows that are there take no more");
    collection.set_default_quota(Some(Quota { rows_max: Some(5), ..Quota::default() })).unwrap();
    collection.upsert(rows("a", 2..4)).unwrap();
    assert!(collection.upsert(rows("a", 10..11)).is_err(), "it has too many already");
    collection.set_quota("a", Some(Quota { bytes_max: Some(1 << 20), ..Quota::default() })).unwrap();
    collection.upsert(rows("a", 10..40)).unwrap();
    let bytes = collection.tenant_stats("a").unwrap().bytes;
    collection.set_quota("a", Some(Quota { bytes_max: Some(bytes), ..Quota::default() })).unwrap();
    let error = collection.upsert(rows("a", 40..41)).unwrap_err();
    assert!(error.message().contains("(bytes_max)"), "{error}");
    collection.delete("a", &["k39".to_owned()]).unwrap();
    collection.upsert(rows("a", 40..41)).unwrap();
    collection.set_quota("a", None).unwrap();
    assert!(collection.upsert(rows("a", 41..42)).is_err(), "the quota of all holds again");
    // Many at once: one that is refused does not keep the others from being written.
    collection.set_default_quota(None).unwrap();
    collection.set_quota("full", Some(Quota { rows_max: Some(0), ..Quota::default() })).unwrap();
    let outcomes: Vec<bool> = std::thread::scope(|scope| {
        let write = |at: usize| {
            let tenant = if at.is_multiple_of(3) { "full".to_owned() } else { format!("t{at}") };
            collection.upsert(rows(&tenant, 0..2)).is_ok()
        };
        let threads: Vec<_> = (0..24).map(|at| scope.spawn(move || write(at))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (at, written) in outcomes.into_iter().enumerate() {
        assert_eq!(written, !at.is_multiple_of(3), "writer {at}");
    }
    assert_eq!(collection.count("full", None).unwrap(), 0);
    collection.verify().unwrap();
}

#[test]
fn queries_beyond_a_quota_are_refused_and_those_of_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (_database, collection) = open(&folder.path().join("data"), Settings::default());
    for tenant in ["busy", "calm"] {
        fill(&collection, tenant, 0..20);
    }
    let quota = Quota { queries_per_second: Some(3.0), ..Quota::default() };
    collection.set_quota("busy", Some(quota)).unwrap();
    let refused = (0..10).filter(|_| collection.search(&search("busy")).is_err()).count();
    assert!((6..=7).contains(&refused), "{refused} of 10 refused");
    let error = collection.count("busy", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.message().contains("try again in"), "{error}");
    let batch: Vec<SearchRequest> = ["calm", "busy", "calm"].map(search).to_vec();
    assert!(collection.search_batch(&batch).is_err(), "a batch is refused whole");
    (0..100).for_each(|_| assert_eq!(collection.search(&search("calm")).unwrap().hits.len(), 5));
    // A turn that was taken beforehand is a query's; the handle takes no other.
    collection.set_quota("busy", Some(Quota { in_flight_max: Some(1), ..Quota::default() })).unwrap();
    let turn = collection.admit(["busy"]).unwrap();
    assert!(collection.search(&search("busy")).is_err());
    assert_eq!(turn.search(&search("busy")).unwrap().hits.len(), 5);
    assert_eq!(collection.tenant_stats("busy").unwrap().in_flight, 1);
    drop(turn);
    assert_eq!(collection.search(&search("busy")).unwrap().hits.len(), 5);
}

#[test]
fn tenants_are_listed_copied_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let (_database, collection) = open(&folder.path().join("data"), Settings::default());
    for at in 0..25 {
        fill(&collection, &format!("t{at:02}"), 0..at + 1);
    }
    collection.grant("t24", &["k3".to_owned()], &["staff".to_owned()]).unwrap();
    let (mut request, mut listed) = (TenantsRequest { after: None, limit: 10 }, Vec::new());
    loop {
        let page = collection.list_tenants(&request).unwrap();
        listed.extend(page.tenants.into_iter().map(|stats| (stats.tenant, stats.rows)));
        request.after = page.next;
        if request.after.is_none() {
            break;
        }
    }
    let all: Vec<(String, u64)> = (0..25).map(|at| (format!("t{at:02}"), at + 1)).collect();
    assert_eq!(listed, all);
    assert!(collection.list_tenants(&TenantsRequest { after: None, limit: 0 }).is_err());

    fill(&collection, "copy", 20..30);
    assert_eq!(collection.copy_tenant("t24", "copy").unwrap().rows, 25);
    assert_eq!(collection.copy_tenant("copy", "copy").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(collection.copy_tenant("none", "copy").unwrap_err().kind(), ErrorKind::NotFound);
    let export = |tenant: &str| {
        let mut all = Vec::new();
        let each = |rows: Vec<Row>| {
            all.extend(rows);
            Ok(())
        };
        let count = collection.export_tenant(tenant, each).unwrap();
        assert_eq!(count as usize, all.len());
        assert!(all.is_sorted_by_key(|row: &Row| row.key.clone()));
        all
    };
    let (from, to) = (export("t24"), export("copy"));
    assert_eq!((from.len(), to.len()), (25, 30));
    for row in &from {
        let same = to.iter().find(|other| other.key == row.key).unwrap();
        assert_eq!(Row { tenant: "copy".into(), ..row.clone() }, *same);
        assert_eq!(row.labels.contains("staff"), row.key == "k3");
    }
    let stored = collection.get("t24", &["k7".to_owned()], &Fields::All).unwrap();
    assert!(from.contains(stored[0].as_ref().unwrap()));
}

#[test]
fn a_cold_tenant_is_loaded_by_its_first_search_or_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let settings = Settings { residency: Residency::Lean, learn_from_queries: false, ..Settings::default() };
    let (database, collection) = open(&path, settings.clone());
    fill(&collection, "large", 0..9_000);
    for at in 0..50 {
        fill(&collection, &format!("t{at}"), 0..100);
    }
    collection.optimize().unwrap();
    drop((database, collection));
    let (_database, collection) = open(&path, settings);
    assert_eq!(state(&collection, "t1"), TenantState::Cold);
    assert_eq!(state(&collection, "t2"), TenantState::Cold);
    let read = |tenant: &str| {
        let request = SearchRequest { explain: true, fields: Fields::None, ..search(tenant) };
        let explain = collection.search(&request).unwrap().explain.unwrap();
        explain.stages.iter().map(|stage| stage.read_bytes).sum::<u64>()
    };
    assert!(read("t1") > 0);
    assert_eq!(read("t1"), 0, "the first search has loaded it");
    assert_ne!(state(&collection, "t1"), TenantState::Cold);
    let stats = collection.tenant_stats("t2").unwrap();
    assert!(collection.warm_tenant("t2").unwrap() >= stats.index_bytes);
    assert_eq!(collection.warm_tenant("t2").unwrap(), 0, "all of it is in memory");
    assert_eq!(read("t2"), 0);
    let stats = collection.tenant_stats("t2").unwrap();
    assert_eq!((stats.resident_bytes, stats.state), (stats.index_bytes, TenantState::Medium));
    assert!(collection.warm_tenant("large").unwrap() > 0);
    assert_eq!(read("large"), 0);
    let exact = SearchRequest { explain: true, fields: Fields::None, exact: true, ..search("large") };
    let explain = collection.search(&exact).unwrap().explain.unwrap();
    let bytes: Vec<(u64, u64)> =
        explain.stages.iter().map(|stage| (stage.scored, stage.read_bytes)).collect();
    assert!(bytes.iter().any(|(scored, _)| *scored == 9_000), "{bytes:?}");
    assert!(bytes.iter().all(|(_, read)| *read == 0), "long reads find what is there, too: {bytes:?}");
    assert_eq!(collection.warm_tenant("none").unwrap(), 0);
}
