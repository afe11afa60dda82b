//! What happens around a database's life: reopening after much was replaced, backups while it goes on, drops,
//! ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use spandrel::{
    Cancel, Collection, Database, DenseSpec, Element, ErrorKind, FieldKind, Fields, Filter, IndexKind,
    Metric, PayloadKind, RetrieveRequest, Route, Row, Schema, SearchRequest, Settings, Short, Stop,
};

const DIM: usize = 8;

fn schema() -> Schema {
    Schema::new().text("body").dense("v", DIM as u32, Metric::Ip).payload("n", PayloadKind::Integer)
}

fn row(key: usize, version: i64) -> Row {
    let vector = (0..DIM).map(|at| ((key * 31 + at * 7) % 17) as f32 - 8.0).collect();
    Row::new(format!("k{key}"))
        .text("body", format!("row {key} in version {version}"))
        .dense("v", vector)
        .payload("n", version)
}

fn rows(keys: std::ops::Range<usize>, version: i64) -> Vec<Row> {
    keys.map(|key| row(key, version)).collect()
}

fn open(path: &std::path::Path) -> (Database, Arc<Collection>) {
    let database = Database::open(path, Settings::default()).unwrap();
    let collection = match database.collection("rows") {
        Ok(collection) => collection,
        Err(_) => database.create_collection("rows", schema()).unwrap(),
    };
    (database, collection)
}

fn search(k: usize) -> SearchRequest {
    SearchRequest::new(Route::dense("v", vec![1.0; DIM])).k(k)
}

/// The files at one moment, as a crash leaves them behind. The folder is in use: what changed while it was
/// copied is no moment, and is copied again.
fn copy_at_once(from: &Path, to: &Path) {
    loop {
        let before = files(from);
        let copied = copy(from, to);
        if copied.is_ok() && before.is_ok_and(|before| files(from).is_ok_and(|after| after == before)) {
            return;
        }
        std::fs::remove_dir_all(to).unwrap();
    }
}

/// Every file with its length and when it was changed.
fn files(folder: &Path) -> std::io::Result<BTreeMap<PathBuf, (u64, SystemTime)>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = path.metadata()?;
        match metadata.is_dir() {
            true => found.extend(files(&path)?),
            false => drop(found.insert(path, (metadata.len(), metadata.modified()?))),
        }
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target)?,
            false => drop(std::fs::copy(path, target)?),
        }
    }
    Ok(())
}

/// More log records than one replay batch holds, all of which replace rows of a segment: their records are
/// gone.
#[test]
fn a_crash_after_everything_was_replaced_or_deleted_is_recovered() {
    for deleted in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (live, crashed) = (folder.path().join("live"), folder.path().join("crashed"));
        let (database, collection) = open(&live);
        collection.upsert(rows(0..3_000, 1)).unwrap();
        collection.flush().unwrap();
        if deleted {
            let all = Filter::Equals { field: "n".into(), value: 1.into() };
            assert_eq!(collection.delete_by_filter("", &all).unwrap().rows, 3_000);
            collection.upsert(rows(0..1, 2)).unwrap();
        } else {
            collection.upsert(rows(0..3_000, 2)).unwrap();
        }
        copy_at_once(&live, &crashed);
        let _ = std::fs::remove_file(crashed.join("rows").join("LOCK"));
        drop((collection, database));
        let (database, collection) = open(&crashed);
        let expected = if deleted { 1 } else { 3_000 };
        assert_eq!(collection.count("", None).unwrap(), expected);
        let request = SearchRequest { k: 10, ..search(10) };
        assert!(
            collection
                .search(&request)
                .unwrap()
                .hits
                .iter()
                .all(|hit| hit.row.fields["n"] == spandrel::FieldValue::Payload(2.into()))
        );
        collection.verify().unwrap();
        database.close().unwrap();
    }
}

/// Deletes that a close trims from the log while a backup is made must not come back with the backup.
#[test]
fn a_backup_is_whole_whatever_happens_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let (database, collection) = open(&folder.path().join("data"));
    for round in 0..8_usize {
        collection.upsert(rows(0..600, 1)).unwrap();
        collection.flush().unwrap();
        let backup = folder.path().join(format!("backup{round}"));
        std::thread::scope(|scope| {
            let made = scope.spawn(|| database.backup(&backup));
            let gone =
                Filter::Range { field: "n".into(), gt: None, gte: Some(1.into()), lt: None, lte: None };
            for version in 2..5 {
                collection.upsert(rows(0..300, version)).unwrap();
                collection.flush().unwrap();
            }
            collection.delete_by_filter("", &gone).unwrap();
            if round == 7 {
                database.close().unwrap();
            }
            // A backup that began after the close is refused; every other one is made.
            match made.join().unwrap() {
                Ok(()) => {}
                Err(error) => assert!(round == 7 && error.kind() == ErrorKind::Closed, "{error}"),
            }
        });
        if backup.exists() {
            let restored = folder.path().join(format!("restored{round}"));
            Database::restore(&backup, &restored).unwrap();
            let (again, collection) = open(&restored);
            collection.verify().unwrap();
            let count = collection.count("", None).unwrap();
            assert!(count == 600 || count == 0, "{count} rows");
            again.close().unwrap();
        }
    }
}

#[test]
fn a_failed_backup_leaves_its_name_free() {
    let folder = tempfile::tempdir().unwrap();
    let (database, collection) = open(&folder.path().join("data"));
    collection.upsert(rows(0..10, 1)).unwrap();
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("file"), "mine").unwrap();
    assert_eq!(database.backup(&taken).unwrap_err().kind(), ErrorKind::Conflict);
    assert!(taken.join("file").exists());
    let backup = folder.path().join("backup");
    database.backup(&backup).unwrap();
    assert_eq!(database.backup(&backup).unwrap_err().kind(), ErrorKind::Conflict);
    Database::restore(&backup, folder.path().join("restored")).unwrap();
}

#[test]
fn a_dropped_tenants_rows_leave_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let (database, collection) = open(&folder.path().join("data"));
    let of = |tenant: &str, keys| -> Vec<Row> {
        rows(keys, 1).into_iter().map(|row| row.tenant(tenant).text("body", "word ".repeat(400))).collect()
    };
    collection.upsert(of("gone", 0..4_000)).unwrap();
    collection.upsert(of("stays", 0..10)).unwrap();
    collection.flush().unwrap();
    let before = database.stats().unwrap().store_bytes;
    assert_eq!(collection.drop_tenant("gone").unwrap().rows, 4_000);
    assert_eq!(collection.count("gone", None).unwrap(), 0);
    let gone = SearchRequest { tenant: "gone".into(), ..search(5) };
    assert_eq!(collection.search(&gone).unwrap().short, Some(Short::EmptyTenant));
    // Its space comes back by itself.
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let now = database.stats().unwrap().store_bytes;
        if now < before / 2 {
            break;
        }
        assert!(Instant::now() < patience, "{before} bytes before, {now} after the drop");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(collection.count("stays", None).unwrap(), 10);
    collection.verify().unwrap();
}

#[test]
fn calls_end_at_their_deadline_or_when_they_are_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let (_database, collection) = open(&folder.path().join("data"));
    collection.upsert(rows(0..100, 1)).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let stops = [Stop::new(Some(Instant::now()), None), Stop::new(None, Some(cancel))];
    for stop in stops {
        let late = collection.until(stop);
        let scroll = spandrel::ScrollRequest { limit: 10, ..Default::default() };
        let failures = [
            late.search(&search(3)).err(),
            late.search_batch(&[search(3), search(4)]).err(),
            late.retrieve(&RetrieveRequest::new(search(3), 100)).err(),
            late.scroll(&scroll).err(),
            late.get("", &["k1".into()], &Fields::All).err(),
            late.count("", None).err(),
            late.upsert(rows(200..201, 1)).err(),
            late.delete("", &["k1".into()]).err(),
            late.flush().err(),
        ];
        for (at, failure) in failures.into_iter().enumerate() {
            assert_eq!(failure.map(|error| error.kind()), Some(ErrorKind::Deadline), "call {at}");
        }
    }
    let in_time =
        collection.until(Stop::new(Some(Instant::now() + Duration::from_secs(60)), Some(Cancel::new())));
    assert_eq!(in_time.search(&search(3)).unwrap().hits.len(), 3);
    assert_eq!(collection.count("", None).unwrap(), 100);
}

#[test]
fn what_is_closed_or_dropped_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (database, collection) = open(&folder.path().join("data"));
    let other = database.create_collection("other", schema()).unwrap();
    other.upsert(rows(0..3, 1)).unwrap();
    database.drop_collection("other").unwrap();
    assert_eq!(other.search(&search(1)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(other.upsert(rows(0..1, 1)).unwrap_err().kind(), ErrorKind::NotFound);
    let other = database.create_collection("other", schema()).unwrap();
    assert_eq!(other.count("", None).unwrap(), 0);
    database.close().unwrap();
    for collection in [collection, other] {
        assert_eq!(collection.search(&search(1)).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(collection.upsert(rows(0..1, 1)).unwrap_err().kind(), ErrorKind::Closed);
    }
    assert_eq!(database.backup(folder.path().join("b")).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_query_of_an_i8_field_need_not_be_of_integers() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path().join("data"), Settings::default()).unwrap();
    let spec = DenseSpec { dim: 4, metric: Metric::Cosine, element: Element::I8, index: IndexKind::Auto };
    let schema = Schema::new().field("v", FieldKind::Dense(spec));
    let collection = database.create_collection("ints", schema).unwrap();
    let ints = |key: &str, vector: [f32; 4]| Row::new(key).dense("v", vector.to_vec());
    collection.upsert(vec![ints("a", [100.0, 0.0, 3.0, 0.0]), ints("b", [0.0, 90.0, 0.0, -5.0])]).unwrap();
    let request = SearchRequest::new(Route::dense("v", vec![0.01, 0.4, 0.02, 0.0])).k(1);
    assert_eq!(collection.search(&request).unwrap().hits[0].row.key, "b");
    let zero = SearchRequest::new(Route::dense("v", vec![0.0; 4]));
    assert_eq!(collection.search(&zero).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(collection.upsert(vec![ints("c", [0.5; 4])]).unwrap_err().kind(), ErrorKind::Invalid);
}

/// Clustered vectors: `seed` says which.
fn clustered(seed: u64, dim: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..dim).map(|at| ((seed % 40) as f32 * (at + 3) as f32).sin() + 0.4 * next()).collect()
}

#[test]
fn a_field_that_asks_for_a_graph_keeps_its_recall_through_merges_reopening_and_deletes() {
    const ROWS: u64 = 3_000;
    let folder = tempfile::TempDir::new().unwrap();
    let spec = DenseSpec { dim: 32, metric: Metric::Ip, element: Element::F32, index: IndexKind::Hnsw };
    let schema = Schema::new().field("v", FieldKind::Dense(spec)).payload("n", PayloadKind::Integer);
    let json = serde_json::to_string(&schema).unwrap();
    assert!(json.contains(r#""index":"hnsw""#), "{json}");
    let row =
        |key: u64| Row::new(format!("{key}")).dense("v", clustered(key + 7, 32)).payload("n", key as i64);
    let request = |query: u64| SearchRequest {
        fields: Fields::None,
        explain: true,
        ..SearchRequest::new(Route::dense("v", clustered(1_000_000 + query, 32))).k(10)
    };
    // Recall of 50 queries, and vectors scored for each.
    let recall = |collection: &Collection, filter: Option<Filter>| {
        let (mut hits, mut scored) = (0, 0);
        for query in 0..50 {
            let asked = SearchRequest { filter: filter.clone(), ..request(query) };
            let found = collection.search(&asked).unwrap();
            let truth = collection.search(&SearchRequest { exact: true, ..asked }).unwrap();
            scored += found.explain.unwrap().stages.iter().map(|stage| stage.scored).sum::<u64>();
            let truth: Vec<&str> = truth.hits.iter().map(|hit| hit.row.key.as_str()).collect();
            assert_eq!(found.hits.len(), truth.len());
            hits += found.hits.iter().filter(|hit| truth.contains(&hit.row.key.as_str())).count();
        }
        (hits as f64 / 500.0, scored / 50)
    };
    let database = Database::open(folder.path(), Settings::default()).unwrap();
    let collection = database.create_collection("graph", schema).unwrap();
    for first in (0..ROWS).step_by(500) {
        collection.upsert((first..first + 500).map(row).collect()).unwrap();
    }
    assert!(recall(&collection, None).0 >= 0.95, "fresh");
    collection.flush().unwrap();
    assert!(recall(&collection, None).0 >= 0.95, "flushed");
    collection.optimize().unwrap();
    let (found, scored) = recall(&collection, None);
    assert!(found >= 0.95 && scored < ROWS / 2, "{found}, {scored} scored: a walk, not a scan");
    database.close().unwrap();
    drop((collection, database));

    // Room for everything, and for nothing.
    for memory_budget_bytes in [1 << 30, 0] {
        let settings = Settings { memory_budget_bytes, ..Settings::default() };
        let database = Database::open(folder.path(), settings).unwrap();
        let collection = database.collection("graph").unwrap();
        assert!(recall(&collection, None).0 >= 0.95, "{memory_budget_bytes} bytes");
        let half = serde_json::json!({"range": {"field": "n", "lt": 1_500}});
        let half: Filter = serde_json::from_value(half).unwrap();
        assert!(recall(&collection, Some(half)).0 >= 0.95, "{memory_budget_bytes} bytes, filtered");
        database.close().unwrap();
    }

    let (database, keys) = (Database::open(folder.path(), Settings::default()).unwrap(), 0..ROWS / 3);
    let collection = database.collection("graph").unwrap();
    let keys: Vec<String> = keys.map(|key| key.to_string()).collect();
    collection.delete("", &keys).unwrap();
    assert!(recall(&collection, None).0 >= 0.95, "deleted");
    let best = collection.search(&request(0)).unwrap().hits;
    assert!(
        best.iter().all(|hit| hit.row.key.parse::<u64>().unwrap() >= ROWS / 3),
        "what is gone is not found"
    );
    collection.optimize().unwrap();
    assert!(recall(&collection, None).0 >= 0.95, "deleted and merged");
    database.close().unwrap();
}
