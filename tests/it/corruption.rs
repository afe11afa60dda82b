//! Any byte of any file changed: the database says so or repairs itself, and never panics or answers wrongly.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use spandrel::{
    Database, Error, ErrorKind, Fields, Metric, PayloadKind, Route, Row, Schema, ScrollRequest,
    SearchRequest, Settings,
};

use crate::rng::Rng;

const DIM: usize = 16;
const ROWS: u64 = 400;
/// Bytes changed in each file.
const FLIPS_PER_FILE: usize = 6;

fn row(number: u64) -> Row {
    let mut rng = Rng::new(number);
    Row::new(format!("k{:03}", number % 300))
        .tenant(if number.is_multiple_of(3) { "a" } else { "b" })
        .text("body", format!("row number {number} of the corruption test {}", rng.next()))
        .dense("vec", rng.vector(DIM))
        .payload("n", number as i64)
}

/// Fresh rows, segments, replaced and deleted rows, two collections.
fn build(folder: &Path) {
    let settings = Settings { fresh_rows_max: 100, ..Settings::default() };
    let database = Database::open(folder, settings).unwrap();
    let schema = Schema::new()
        .text("body")
        .dense("vec", DIM as u32, Metric::Cosine)
        .payload("n", PayloadKind::Integer);
    let collection = database.create_collection("rows", schema.clone()).unwrap();
    database.create_collection("other", schema).unwrap().upsert(vec![row(1)]).unwrap();
    for number in 0..ROWS {
        collection.upsert(vec![row(number)]).unwrap();
        if number == 250 {
            collection.flush().unwrap();
        }
    }
    collection.delete("a", &["k003".into(), "k006".into()]).unwrap();
    database.close().unwrap();
}

/// Everything a reader can see.
#[derive(Debug, PartialEq)]
struct Seen {
    rows: BTreeMap<String, Vec<Row>>,
    hits: Vec<Vec<(String, u32)>>,
    other: Option<Row>,
}

fn see(folder: &Path) -> Result<Seen, Error> {
    let database = Database::open(folder, Settings::default())?;
    let collection = database.collection("rows")?;
    let mut rows = BTreeMap::new();
    let mut hits = Vec::new();
    for tenant in ["a", "b"] {
        let all =
            ScrollRequest { tenant: tenant.into(), limit: 1_000, fields: Fields::All, ..Default::default() };
        rows.insert(tenant.to_owned(), collection.scroll(&all)?.rows);
        let mut rng = Rng::new(9);
        for _ in 0..3 {
            let dense = SearchRequest::new(Route::dense("vec", rng.vector(DIM))).tenant(tenant);
            let filter = spandrel::Filter::Range {
                field: "n".into(),
                gt: None,
                gte: Some(50.into()),
                lt: None,
                lte: None,
            };
            let filtered = dense.clone().filter(filter);
            let text = SearchRequest::new(Route::text("body", "corruption 77 number")).tenant(tenant).k(500);
            for request in [dense, filtered] {
                let found = collection.search(&request)?.hits;
                hits.push(found.into_iter().map(|hit| (hit.row.key, (hit.score * 1e4) as u32)).collect());
            }
            // Which rows match; BM25 statistics may differ after a rebuild, which drops deleted rows.
            let mut matched: Vec<(String, u32)> =
                collection.search(&text)?.hits.into_iter().map(|hit| (hit.row.key, 0)).collect();
            matched.sort();
            hits.push(matched);
        }
    }
    let other = database.collection("other")?.get("b", &["k001".into()], &Fields::All)?.remove(0);
    Ok(Seen { rows, hits, other })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.path() {
            path if path.is_dir() => copy(&path, &target),
            path => drop(fs::copy(path, target).unwrap()),
        }
    }
}

#[test]
fn a_changed_byte_is_an_error_or_is_repaired() {
    let mut rng = Rng::announced("corruption", 5);
    let scratch = tempfile::tempdir().unwrap();
    let good = scratch.path().join("good");
    build(&good);
    let expected = see(&good).unwrap();
    assert!(expected.rows["b"].len() > 100 && expected.other.is_some());
    let (mut refused, mut repaired) = (0, 0);
    for file in files(&good) {
        let name = file.strip_prefix(&good).unwrap().to_path_buf();
        let bytes = fs::read(&file).unwrap();
        for flip in 0..if bytes.is_empty() { 0 } else { FLIPS_PER_FILE } {
            let (at, bit) = (rng.below(bytes.len()), 1_u8 << rng.below(8));
            let damaged = scratch.path().join("damaged");
            copy(&good, &damaged);
            let mut changed = bytes.clone();
            changed[at] ^= bit;
            fs::write(damaged.join(&name), changed).unwrap();
            let what = format!("{} byte {at} bit {bit:#x} (flip {flip})", name.display());
            match catch_unwind(AssertUnwindSafe(|| see(&damaged))) {
                Err(_) => panic!("{what}: panicked"),
                Ok(Ok(seen)) => {
                    assert!(seen == expected, "{what}: a wrong answer");
                    repaired += 1;
                }
                Ok(Err(error)) => {
                    let kinds = [ErrorKind::Corrupt, ErrorKind::Invalid, ErrorKind::Poisoned];
                    assert!(kinds.contains(&error.kind()), "{what}: {:?}: {error}", error.kind());
                    refused += 1;
                }
            }
            fs::remove_dir_all(&damaged).unwrap();
        }
    }
    println!("{refused} refused, {repaired} harmless or repaired");
    assert!(refused > 0 && repaired > 0);
}

#[test]
fn lost_segments_are_built_again() {
    let scratch = tempfile::tempdir().unwrap();
    let good = scratch.path().join("good");
    build(&good);
    let expected = see(&good).unwrap();
    fs::remove_dir_all(good.join("segments")).unwrap();
    assert_eq!(see(&good).unwrap(), expected);
}
