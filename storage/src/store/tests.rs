//! The store against a plain map, reopened, shared, damaged, full and failing.

mod damage;
mod fail;
mod kill;
mod open;
mod space;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::error::Error;
use crate::id::{FieldId, RowId, TenantId};
use crate::record::{FieldSet, Record, StoredRow};
use crate::row::Chunk;
use crate::schema::{Metric, PayloadKind, Schema};
use crate::value::Value;
use crate::vector::FieldValue;

/// SplitMix64, seeded: the tests' only source of chance.
pub(super) struct Chance(pub u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// A folder that goes with the test; in memory where the system offers it, which makes fsync free.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Small buffers and no reserve: tests run on small disks.
fn small() -> StoreOptions {
    StoreOptions {
        write_buffer_bytes: 2 << 20,
        cache_bytes: 1 << 20,
        reserve_bytes: 0,
        ..StoreOptions::default()
    }
}

fn open(path: &Path) -> Store {
    open_with(path, &small())
}

fn open_with(path: &Path, options: &StoreOptions) -> Store {
    Store::open(path, options).unwrap()
}

fn schema() -> Schema {
    Schema::new().dense("vector", 8, Metric::Ip).text("body").payload("year", PayloadKind::Integer)
}

/// The row that every test writes under `row`: its fields follow from its id, its text is `text_bytes` long
/// and does not compress.
fn row_of(row: u64, tenant: u32, key: &str, text_bytes: usize) -> StoredRow {
    let mut chance = Chance(row);
    let text = (0..text_bytes).map(|_| char::from(b' ' + chance.below(95) as u8)).collect();
    let vector = (0..8).map(|_| f32::from_bits(chance.next() as u32 >> 4)).collect();
    StoredRow {
        tenant: TenantId(tenant),
        key: key.to_owned(),
        replaces: None,
        labels: Vec::new(),
        chunk: Some(Chunk { document: format!("doc {row}"), span: row..row + 10, tokens: 3 }),
        fields: vec![
            (FieldId(0), FieldValue::Dense(vector)),
            (FieldId(1), FieldValue::Text(text)),
            (FieldId(2), FieldValue::Payload(Value::Integer(row as i64))),
        ],
    }
}

fn put(row: u64, tenant: u32, key: &str, text_bytes: usize, replaces: Option<RowId>) -> Entry {
    let stored = StoredRow { replaces, ..row_of(row, tenant, key, text_bytes) };
    let record = stored.encode();
    Entry::Put { row: RowId(row), tenant: TenantId(tenant), key: key.to_owned(), record, erase: replaces }
}

fn commit_of(collection: CollectionId, entries: Vec<Entry>) -> Commit {
    Commit { collection, entries, ..Commit::default() }
}

/// Writes rows `rows` of tenant 0, keys `k<row>`, in commits of ten.
fn fill(store: &Store, collection: CollectionId, rows: std::ops::RangeInclusive<u64>, text_bytes: usize) {
    let rows: Vec<u64> = rows.collect();
    for some in rows.chunks(10) {
        let entries = some.iter().map(|row| put(*row, 0, &format!("k{row}"), text_bytes, None)).collect();
        store.commit(&commit_of(collection, entries), Durability::Sync).unwrap();
    }
}

/// Every record of a collection.
fn records(store: &Store, collection: CollectionId) -> Result<BTreeMap<u64, Record>> {
    let snapshot = store.snapshot();
    snapshot
        .records_after(collection, RowId(0), &FieldSet::ALL)
        .map(|r| r.map(|(row, r)| (row.0, r)))
        .collect()
}

/// Waits until nothing in the background changes the files of an open store.
fn rest(store: &Store) {
    store.engine.db.wait_for_compact(&rocksdb::WaitForCompactOptions::default()).unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else if let Err(error) = fs::copy(&path, &target) {
            // A store that is open deletes, behind its back, what a flush or a compaction made obsolete.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{path:?}: {error}");
        }
    }
}

/// RocksDB's files with this ending, or beginning where `part` ends in `-`.
fn files(folder: &Path, part: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join("rocksdb"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            if part.ends_with('-') { name.starts_with(part) } else { name.ends_with(part) }
        })
        .collect();
    files.sort();
    files
}
