//! How fast the row store takes commits, and what a snapshot and the reads cost.
//!
//! Rows are 384 f32 elements, 500 bytes of text and two payload values, about 2.2 KB encoded. Prints rows per
//! second for commits of 1, 32 and 256 rows with both durabilities, with the lookup that an upsert needs,
//! then the costs of snapshots, point reads and a scan. The last column is the committing thread's own time
//! on a CPU, which other load does not change. `cargo run -p spandrel-storage --example commit_rate [ROWS]
//! [FOLDER]`; the folder decides which disk is measured.

use std::path::PathBuf;
use std::time::Instant;

use spandrel_storage::{
    Commit, Durability, Entry, FieldId, FieldSet, FieldValue, Metric, PayloadKind, RowId, Schema, Store,
    StoreOptions, StoredRow, TenantId, Value,
};

const DIM: usize = 384;
const TEXT_BYTES: usize = 500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let rows: u64 = arguments.next().map_or(Ok(50_000), |rows| rows.parse())?;
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let heads = ["sync", "batch", "rows", "rows/s", "MB/s", "us/commit", "cpu us/row"];
    println!("{}", heads.map(|head| format!("{head:>11}")).concat());
    for durability in [Durability::Buffered, Durability::Sync] {
        for batch in [1, 32, 256] {
            let rows = if batch == 1 { rows / 10 } else { rows };
            let folder = tempfile::tempdir_in(&parent)?;
            let store = Store::open(folder.path(), &StoreOptions::default())?;
            measure(&store, rows, batch, durability)?;
            if batch == 256 && durability == Durability::Sync {
                reads(&store, rows)?;
                let started = Instant::now();
                store.close()?;
                println!("close {:?}", started.elapsed());
                let started = Instant::now();
                drop(Store::open(folder.path(), &StoreOptions::default())?);
                println!("open and close {:?}", started.elapsed());
            }
        }
    }
    Ok(())
}

fn row(id: u64) -> StoredRow {
    // A cheap mix, so that nothing compresses that would not in earnest.
    let mix = |at: u64| (id << 20 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let vector = (0..DIM as u64).map(|at| mix(at) as f32 / u32::MAX as f32 - 0.5).collect();
    let text = (0..TEXT_BYTES as u64).map(|at| char::from(b'a' + (mix(at) % 26) as u8)).collect();
    StoredRow {
        tenant: TenantId((id % 10) as u32),
        key: format!("document-{id}"),
        replaces: None,
        chunk: None,
        labels: Vec::new(),
        fields: vec![
            (FieldId(0), FieldValue::Dense(vector)),
            (FieldId(1), FieldValue::Text(text)),
            (FieldId(2), FieldValue::Payload(Value::Integer(id as i64))),
            (FieldId(3), FieldValue::Payload(Value::String("news".into()))),
        ],
    }
}

fn measure(
    store: &Store,
    rows: u64,
    batch: u64,
    durability: Durability,
) -> Result<(), Box<dyn std::error::Error>> {
    let schema = Schema::new()
        .dense("vector", DIM as u32, Metric::Cosine)
        .text("body")
        .payload("year", PayloadKind::Integer)
        .payload("kind", PayloadKind::Keyword);
    let collection = store.create_collection("c", &schema)?.id;
    let mut bytes = 0;
    let mut busy_s = 0.0;
    let mut busy_cpu_s = 0.0;
    for first in (1..=rows).step_by(batch as usize) {
        let rows: Vec<StoredRow> = (first..(first + batch).min(rows + 1)).map(row).collect();
        let records: Vec<Vec<u8>> = rows.iter().map(StoredRow::encode).collect();
        bytes += records.iter().map(Vec::len).sum::<usize>();
        let cpu_before_s = cpu_s();
        let started = Instant::now();
        let snapshot = store.snapshot();
        let keys: Vec<_> = rows.iter().map(|row| (row.tenant, row.key.as_str())).collect();
        assert!(snapshot.lookup(collection, &keys)?.iter().all(Option::is_none));
        let entries = rows.into_iter().zip(records).zip(first..).map(|((stored, record), id)| Entry::Put {
            row: RowId(id),
            tenant: stored.tenant,
            key: stored.key,
            record,
            erase: None,
        });
        let commit = Commit { collection, entries: entries.collect(), ..Commit::default() };
        store.commit(&commit, durability)?;
        busy_s += started.elapsed().as_secs_f64();
        busy_cpu_s += cpu_s() - cpu_before_s;
    }
    let cells = [
        format!("{durability:?}"),
        batch.to_string(),
        rows.to_string(),
        format!("{:.0}", rows as f64 / busy_s),
        format!("{:.1}", bytes as f64 / busy_s / 1e6),
        format!("{:.1}", busy_s * 1e6 / rows.div_ceil(batch) as f64),
        format!("{:.2}", busy_cpu_s * 1e6 / rows as f64),
    ];
    println!("{}", cells.map(|cell| format!("{cell:>11}")).concat());
    Ok(())
}

/// Seconds that this thread was on a CPU, which other load on the machine does not change; 0 off Linux.
fn cpu_s() -> f64 {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    times.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn reads(store: &Store, rows: u64) -> Result<(), Box<dyn std::error::Error>> {
    let collection = store.collections()?[0].id;
    let count = 100_000;
    let started = Instant::now();
    for _ in 0..count {
        drop(store.snapshot());
    }
    println!("snapshot {:.2} us", started.elapsed().as_secs_f64() * 1e6 / f64::from(count));
    let snapshot = store.snapshot();
    for (name, wanted) in [("all fields", FieldSet::ALL), ("text only", FieldSet::of([FieldId(1)]))] {
        let count = 2000;
        let started = Instant::now();
        for at in 0..count {
            let ids: Vec<RowId> = (0..10).map(|i| RowId((at * 10 + i) * 7919 % rows + 1)).collect();
            assert!(snapshot.get(collection, &ids, &wanted)?.iter().all(Option::is_some));
        }
        let us = started.elapsed().as_secs_f64() * 1e6 / count as f64;
        println!("get of 10 random rows, {name}: {us:.0} us");
    }
    let started = Instant::now();
    let scanned = snapshot.records_after(collection, RowId(0), &FieldSet::ALL).filter(Result::is_ok).count();
    println!("scan {:.0} rows/s", scanned as f64 / started.elapsed().as_secs_f64());
    println!("{:?}", store.stats()?);
    Ok(())
}
