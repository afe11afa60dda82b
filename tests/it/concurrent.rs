//! Readers beside writers: a batch is seen whole or not at all, by every way of reading, while segments are
//! built and merged underneath.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spandrel::{
    Collection, Database, FieldValue, Fields, Filter, Metric, PayloadKind, Route, Row, Schema, ScrollRequest,
    SearchRequest, Settings, Value,
};

const PAIRS: usize = 40;
const ROUNDS: i64 = 150;

fn row(pair: usize, half: usize, version: i64) -> Row {
    Row::new(format!("p{pair:02}h{half}"))
        .text("body", format!("pair {pair} half {half} of version {version}"))
        .dense("v", vec![pair as f32, half as f32, 1.0])
        .payload("version", version)
        .payload("pair", pair as i64)
}

fn version(row: &Row) -> i64 {
    match row.fields["version"] {
        FieldValue::Payload(Value::Integer(version)) => version,
        ref other => panic!("{other:?}"),
    }
}

/// Both halves of a pair, read in one call, are of one version and not older than `least`.
fn same(what: &str, rows: &[Row], least: i64) {
    assert!(rows.len() == 2 || (rows.is_empty() && least == 0), "{what}: {} halves", rows.len());
    if let [a, b] = rows {
        assert_eq!(version(a), version(b), "{what}: half a write was seen");
        assert!(version(a) >= least, "{what}: version {} after {least} was acknowledged", version(a));
    }
}

fn read(collection: &Collection, pair: usize, least: i64) {
    let keys = [format!("p{pair:02}h0"), format!("p{pair:02}h1")];
    let got = collection.get("", &keys, &Fields::Default).unwrap();
    same("get", &got.into_iter().flatten().collect::<Vec<_>>(), least);
    let filter = Filter::Equals { field: "pair".into(), value: (pair as i64).into() };
    let request = SearchRequest::new(Route::dense("v", vec![pair as f32, 0.5, 1.0])).filter(filter.clone());
    let rows = |request: &SearchRequest| -> Vec<Row> {
        collection.search(request).unwrap().hits.into_iter().map(|hit| hit.row).collect()
    };
    same("dense", &rows(&request), least);
    let words = SearchRequest { routes: vec![Route::text("body", "half")], ..request };
    same("text", &rows(&words), least);
    let page = ScrollRequest { limit: 10, filter: Some(filter.clone()), ..ScrollRequest::default() };
    same("scroll", &collection.scroll(&page).unwrap().rows, least);
    let count = collection.count("", Some(&filter)).unwrap();
    assert!(count == 2 || (count == 0 && least == 0), "count: {count}");
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { fresh_rows_max: 64, ..Settings::default() };
    let database = Database::open(folder.path(), settings).unwrap();
    let schema = Schema::new()
        .text("body")
        .dense("v", 3, Metric::L2)
        .payload("version", PayloadKind::Integer)
        .payload("pair", PayloadKind::Integer);
    let collection = database.create_collection("pairs", schema).unwrap();
    let acknowledged: Vec<AtomicU64> = (0..PAIRS).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (collection, acknowledged) = (&collection, &acknowledged);
                scope.spawn(move || {
                    for round in 1..=ROUNDS {
                        let pair = (round as usize * 7) % (PAIRS / 2) * 2 + writer;
                        collection.upsert(vec![row(pair, 0, round), row(pair, 1, round)]).unwrap();
                        acknowledged[pair].store(round as u64, Ordering::Release);
                    }
                })
            })
            .collect();
        for reader in 0..2 {
            let (collection, acknowledged, done) = (&collection, &acknowledged, &done);
            scope.spawn(move || {
                let mut at = reader;
                while !done.load(Ordering::Acquire) {
                    let pair = at * 13 % PAIRS;
                    read(collection, pair, acknowledged[pair].load(Ordering::Acquire) as i64);
                    at += 1;
                }
            });
        }
        let failed = writers.into_iter().filter_map(|writer| writer.join().err()).count();
        done.store(true, Ordering::Release);
        assert_eq!(failed, 0, "writers failed");
    });
    collection.flush().unwrap();
    collection.verify().unwrap();
    assert!(database.stats().unwrap().collections[0].segments >= 1);
}
