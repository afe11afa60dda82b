//! A segment in memory and the same on disk: the same docs, the same answers, and damage noticed.

use std::sync::Arc;

use spandrel_storage::io::{BatchRead, Pread};
use spandrel_storage::{
    FieldId, FieldValue, Metric, PayloadKind, RowId, Schema, SparseVector, TenantId, Value,
};

use super::warm::Warm;
use super::*;
use crate::allow::Allow;
use crate::budget::MemoryBudget;
use crate::counters::Counters;
use crate::dense::Ask;
use crate::dense::ssd::Tier;
use crate::payload::Predicate;
use crate::scratch::Scratch;
use crate::topk::{Scored, TopK};

const DENSE: FieldId = FieldId(1);

fn indexer() -> Indexer {
    let schema = Schema::new()
        .text("body")
        .dense("vec", 4, Metric::L2)
        .sparse("terms")
        .payload("n", PayloadKind::Integer)
        .payload("extra", PayloadKind::Json);
    Indexer::new(Arc::new(schema)).unwrap()
}

/// Rows 1..=n of three tenants in turn; every fifth has no vector.
fn docs(indexer: &Indexer, n: u64) -> Vec<Arc<IndexDoc>> {
    let doc = |row: u64| {
        let mut fields = vec![(FieldId(0), FieldValue::Text(format!("row number {row}")))];
        if !row.is_multiple_of(5) {
            fields.push((DENSE, FieldValue::Dense(vec![row as f32, 1.0, -2.0, 0.5])));
        }
        let sparse = SparseVector { dims: vec![row as u32 % 7], weights: vec![1.5] };
        fields.push((FieldId(2), FieldValue::Sparse(sparse)));
        fields.push((FieldId(3), FieldValue::Payload(Value::Integer(row as i64))));
        fields.push((FieldId(4), FieldValue::Payload(Value::from("{}"))));
        let values = indexer.values(&fields).unwrap();
        let key = Some(format!("key {row}").into());
        Arc::new(IndexDoc {
            row: RowId(row),
            tenant: TenantId((row % 3) as u32),
            key,
            labels: Vec::new(),
            values,
        })
    };
    (1..=n).map(doc).collect()
}

fn nearest(segment: &Segment, tenant: TenantId, query: f32) -> Vec<Scored> {
    let mut top = TopK::new(5);
    let allow = Allow { range: segment.tenant_range(tenant), deleted: None, filter: None, stop: None };
    let index = segment.dense(DENSE).unwrap();
    let (mut scratch, mut counters) = (Scratch::default(), Counters::default());
    let query = [query, 1.0, -2.0, 0.5];
    index.search(&query, &Ask::new(segment.rows(), &allow), &mut top, &mut scratch, &mut counters).unwrap();
    let found = top.into_sorted();
    assert!(found.iter().all(|hit| segment.rows()[hit.doc as usize] == hit.row), "{found:?}");
    found
}

/// Calls `with` with docs as they are given to a build.
fn with_source<T>(docs: &[Arc<IndexDoc>], with: impl FnOnce(Docs<'_>) -> T) -> T {
    let ids: Vec<_> = docs.iter().map(|doc| (doc.tenant, doc.row)).collect();
    let mut source = |_: &spandrel_storage::FieldSet,
                      order: &[u32],
                      each: &mut dyn FnMut(Arc<IndexDoc>) -> crate::Result<()>| {
        order.iter().try_for_each(|at| each(Arc::clone(&docs[*at as usize])))
    };
    with(Docs { ids: &ids, source: &mut source })
}

fn write(
    indexer: &Indexer,
    path: &std::path::Path,
    (docs, range): (&[Arc<IndexDoc>], RangeInclusive<RowId>),
    plan: Plan<'_>,
) {
    with_source(docs, |docs| {
        build::write(indexer, (path, 7), range, plan, docs, &mut Warm::default()).unwrap()
    });
}

fn on_disk(
    indexer: &Indexer,
    docs: &[Arc<IndexDoc>],
    folder: &std::path::Path,
    budget_bytes: u64,
) -> Segment {
    let mut sorted = docs.to_vec();
    sorted.sort_by_key(|doc| (doc.tenant, doc.row));
    let path = folder.join("7.seg");
    let range = RowId(1)..=RowId(docs.len() as u64 + 3);
    let plan = Plan { threads: 1, cells: true, merge: None, like: None, coded: &[], memory_bytes: u64::MAX };
    write(indexer, &path, (&sorted, range), plan);
    let reader: Arc<dyn BatchRead> = Arc::new(Pread::buffered());
    Segment::open(indexer, &path, &reader, &Arc::new(MemoryBudget::new(budget_bytes))).unwrap()
}

#[test]
fn docs_are_sorted_by_tenant_and_found_by_row() {
    let indexer = indexer();
    let segment = Segment::from_docs(&indexer, docs(&indexer, 100), RowId(1)..=RowId(100), &[]).unwrap();
    assert_eq!(
        (segment.docs(), segment.on_disk(), segment.first(), segment.last()),
        (100, false, RowId(1), RowId(100))
    );
    let ranges: Vec<_> = segment.tenant_ranges().collect();
    assert_eq!(ranges, [(TenantId(0), 0..33), (TenantId(1), 33..67), (TenantId(2), 67..100)]);
    assert!(segment.tenant_range(TenantId(9)).is_empty());
    for row in 1..=100 {
        let tenant = TenantId((row % 3) as u32);
        let doc = segment.doc(tenant, RowId(row)).unwrap();
        assert_eq!((segment.rows()[doc as usize], segment.tenant_of(doc)), (RowId(row), tenant));
        assert_eq!(segment.doc(TenantId(((row + 1) % 3) as u32), RowId(row)), None);
    }
}

#[test]
fn a_row_is_found_wherever_the_gaps_are() {
    let mut random = crate::random::Random(5);
    for gaps in [1, 2, 100, 1_000_000, u64::MAX / 2_000] {
        for len in [0, 1, 2, 3, 10, 1_000] {
            let mut row = random.next() % 1_000;
            let mut next = || {
                row += 1 + random.next() % gaps;
                RowId(row)
            };
            let rows: Vec<RowId> = (0..len).map(|_| next()).collect();
            for (at, row) in rows.iter().enumerate() {
                assert_eq!(position(rows.len(), |at| rows[at], *row), Some(at), "{gaps} {len}");
                for other in [row.0 - 1, row.0 + 1].map(RowId) {
                    assert_eq!(
                        position(rows.len(), |at| rows[at], other),
                        rows.binary_search(&other).ok(),
                        "{gaps} {len}"
                    );
                }
            }
            for other in [0, 1, u64::MAX].map(RowId) {
                assert_eq!(
                    position(rows.len(), |at| rows[at], other),
                    rows.binary_search(&other).ok(),
                    "{gaps} {len}"
                );
            }
        }
    }
}

#[test]
fn memory_and_disk_answer_alike_resident_or_not() {
    let indexer = indexer();
    let docs = docs(&indexer, 500);
    let fresh = Segment::from_docs(&indexer, docs.clone(), RowId(1)..=RowId(503), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for budget_bytes in [1 << 20, 0] {
        let disk = on_disk(&indexer, &docs, folder.path(), budget_bytes);
        assert!(disk.on_disk() && disk.id() == 7 && disk.last() == RowId(503));
        assert_eq!(disk.rows(), fresh.rows());
        assert_eq!(disk.tenant_ranges().collect::<Vec<_>>(), fresh.tenant_ranges().collect::<Vec<_>>());
        for doc in 0..disk.docs() {
            let key = format!("key {}", fresh.rows()[doc as usize]);
            assert_eq!(fresh.key(doc), Some(key.as_str()));
            assert_eq!(disk.key(doc), (budget_bytes > 0).then_some(key.as_str()));
        }
        assert_eq!((fresh.key(500), disk.key(500)), (None, None));
        for tenant in 0..4 {
            for query in [0.0, 77.7, 1_000.0] {
                let expected = nearest(&fresh, TenantId(tenant), query);
                assert_eq!(
                    nearest(&disk, TenantId(tenant), query),
                    expected,
                    "tenant {tenant}, query {query}"
                );
            }
        }
        let n = FieldId(3);
        let value = Value::Integer(250);
        let equals = |segment: &Segment| {
            segment.payload(n).unwrap().select(&Predicate::Equals(&value), 0..segment.docs()).unwrap()
        };
        assert_eq!(equals(&disk), equals(&fresh));
        assert_eq!(equals(&disk).len(), 1);
        assert!(disk.payload(FieldId(4)).is_none(), "json is not indexed");
        assert!(disk.text().is_some() && disk.sparse(FieldId(2)).is_some());
    }
}

#[test]
fn a_segment_with_a_chunk_keeps_no_keys() {
    let indexer = indexer();
    let mut docs = docs(&indexer, 30);
    docs[17] = Arc::new(IndexDoc { key: None, ..IndexDoc::clone(&docs[17]) });
    let folder = tempfile::tempdir().unwrap();
    let disk = on_disk(&indexer, &docs, folder.path(), 1 << 20);
    assert!((0..30).all(|doc| disk.key(doc).is_none()));
    let fresh = Segment::from_docs(&indexer, docs, RowId(1)..=RowId(33), &[]).unwrap();
    assert_eq!((0..30).filter(|doc| fresh.key(*doc).is_none()).count(), 1);
}

#[test]
fn a_segment_of_another_schema_is_refused() {
    let indexer = indexer();
    let folder = tempfile::tempdir().unwrap();
    on_disk(&indexer, &docs(&indexer, 20), folder.path(), 0);
    let other = Schema::new().text("body").dense("vec", 5, Metric::L2);
    let other = Indexer::new(Arc::new(other)).unwrap();
    let reader: Arc<dyn BatchRead> = Arc::new(Pread::buffered());
    let opened =
        Segment::open(&other, &folder.path().join("7.seg"), &reader, &Arc::new(MemoryBudget::new(0)));
    assert!(matches!(opened.err(), Some(crate::Error::Section { .. })));
}

#[test]
fn damaged_sections_of_every_kind_are_errors_or_indexes_but_never_a_panic() {
    let indexer = indexer();
    let folder = tempfile::tempdir().unwrap();
    on_disk(&indexer, &docs(&indexer, 60), folder.path(), 0);
    let reader: Arc<dyn BatchRead> = Arc::new(Pread::buffered());
    let file = spandrel_storage::file::SegmentFile::open(&folder.path().join("7.seg"), reader).unwrap();
    for name in ["dense/1", "sparse/2", "payload/3", "text/text.stats"] {
        let decode = match name {
            "dense/1" => crate::fuzz::flat,
            "sparse/2" => crate::fuzz::sparse,
            "payload/3" => crate::fuzz::payload,
            _ => crate::fuzz::text_totals,
        };
        let bytes = file.require(name).unwrap().read_all().unwrap();
        decode(&bytes);
        // The head of a flat section is followed by a page of zeros, which nothing reads.
        for at in (0..bytes.len().min(600)).chain(bytes.len().saturating_sub(300)..bytes.len()) {
            for change in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= change;
                decode(&damaged);
            }
            decode(&bytes[..at]);
        }
    }
}

/// A merge takes vectors from its inputs and goes on from the cells of the larger one: the file holds the
/// same vectors as one that is built from the docs, and its cells find them.
#[test]
fn a_merge_of_segments_is_the_segment_of_their_docs() {
    let indexer = indexer();
    let docs = docs(&indexer, 20_000);
    let folder = tempfile::tempdir().unwrap();
    let reader: Arc<dyn BatchRead> = Arc::new(Pread::buffered());
    let sorted = |docs: &[Arc<IndexDoc>]| {
        let mut docs = docs.to_vec();
        docs.sort_by_key(|doc| (doc.tenant, doc.row));
        docs
    };
    let write = |name: &str, docs: &[Arc<IndexDoc>], range, plan: Plan<'_>, budget_bytes| {
        let path = folder.path().join(name);
        super::tests::write(&indexer, &path, (docs, range), plan);
        Segment::open(&indexer, &path, &reader, &Arc::new(MemoryBudget::new(budget_bytes))).unwrap()
    };
    let plan = Plan { threads: 1, cells: true, merge: None, like: None, coded: &[], memory_bytes: u64::MAX };
    for budget_bytes in [1 << 30, 0] {
        let first = write("1", &sorted(&docs[..15_000]), RowId(1)..=RowId(15_000), plan, budget_bytes);
        let signs = Plan { cells: false, ..plan };
        let second = write("2", &sorted(&docs[15_000..]), RowId(15_001)..=RowId(20_000), signs, budget_bytes);
        assert!(!first.is_plain() && !second.is_plain(), "the second is too small for cells");
        let live: Vec<Arc<IndexDoc>> = docs.iter().filter(|doc| doc.row.0 % 7 != 3).cloned().collect();
        let inputs = [&first, &second];
        let place = |doc: &Arc<IndexDoc>| {
            let input = u32::from(doc.row.0 > 15_000);
            (input, inputs[input as usize].doc(doc.tenant, doc.row).unwrap())
        };
        let by_row = sorted(&live);
        let mut live = live;
        live.sort_by_key(|doc| (doc.tenant, place(doc)));
        let places: Vec<(u32, DocId)> = live.iter().map(place).collect();
        let range = RowId(1)..=RowId(20_000);
        let overlay = crate::labels::Overlay::default();
        let overlays = [&overlay, &overlay];
        let merge =
            Some(Merge { inputs: &inputs, places: &places, overlays: &overlays, has_label: &|_| true });
        let merged =
            write("3", &live, range.clone(), Plan { merge, like: Some(&first), ..plan }, budget_bytes);
        let built = write("4", &by_row, range, plan, budget_bytes);
        let section = |name: &str| {
            let path = folder.path().join(name);
            let file = spandrel_storage::file::SegmentFile::open(&path, Arc::clone(&reader)).unwrap();
            assert!(file.section("cells/1").is_some(), "{name} {budget_bytes}");
            file.require("dense/1").unwrap().read_all().unwrap()
        };
        let cells = |name: &str| {
            let path = folder.path().join(name);
            let file = spandrel_storage::file::SegmentFile::open(&path, Arc::clone(&reader)).unwrap();
            file.require("cells/1").unwrap().read_all().unwrap()
        };
        let mut rows = [merged.rows().to_vec(), built.rows().to_vec()];
        assert!(!rows[0].is_sorted(), "docs lie in the order of cells");
        rows.iter_mut().for_each(|rows| rows.sort_unstable());
        assert_eq!(rows[0], rows[1]);
        for doc in &live {
            for segment in [&merged, &built] {
                let at = segment.doc(doc.tenant, doc.row).unwrap();
                assert_eq!((segment.rows()[at as usize], segment.tenant_of(at)), (doc.row, doc.tenant));
                assert_eq!(segment.key(at), (budget_bytes > 0).then_some(&**doc.key.as_ref().unwrap()));
            }
        }
        for query in 0..60 {
            for tenant in (0..3).map(TenantId) {
                assert_eq!(exact(&merged, tenant, query), exact(&built, tenant, query), "other vectors");
            }
        }
        // With less memory than it takes, by reading the vectors again and again.
        let little = Plan { merge, like: Some(&first), memory_bytes: 1 << 20, ..plan };
        let streamed = write("5", &live, RowId(1)..=RowId(20_000), little, budget_bytes);
        assert!(section("5") == section("3") && !streamed.is_plain());
        assert_eq!(cells("5")[4096..], cells("3")[4096..], "other cells but for what was measured of them");
        let none = write("6", &live, RowId(1)..=RowId(20_000), Plan { merge: None, ..little }, budget_bytes);
        assert!(none.is_plain(), "only a merge can be built on disk");
        let mut hits = 0;
        for query in 0..60 {
            for tenant in (0..3).map(TenantId) {
                let (found, expected) =
                    (nearest(&merged, tenant, query as f32 * 331.0), exact(&built, tenant, query));
                hits += found.iter().filter(|hit| expected.contains(hit)).count();
            }
        }
        assert!(hits >= 60 * 3 * 5 * 94 / 100, "{hits} of {}", 60 * 3 * 5);
    }
}

fn exact(segment: &Segment, tenant: TenantId, query: usize) -> Vec<Scored> {
    let mut top = TopK::new(5);
    let allow = Allow { range: segment.tenant_range(tenant), deleted: None, filter: None, stop: None };
    let flat = segment.dense(DENSE).unwrap().flat();
    let (mut scratch, mut counters) = (Scratch::default(), Counters::default());
    let query = [query as f32 * 331.0, 1.0, -2.0, 0.5];
    let ask = Ask::new(segment.rows(), &allow);
    crate::dense::VectorIndex::search(flat, &query, &ask, &mut top, &mut scratch, &mut counters).unwrap();
    top.into_sorted()
}

/// Whether a graph is written and opened is decided by the field, the plan and the memory there is.
#[test]
fn a_graph_is_there_for_fields_that_ask_where_memory_has_room() {
    use spandrel_storage::{DenseSpec, Element, FieldKind, IndexKind};
    let spec = DenseSpec { dim: 4, metric: Metric::L2, element: Element::F32, index: IndexKind::Hnsw };
    let schema = Schema::new().text("body").field("vec", FieldKind::Dense(spec));
    let indexer = Indexer::new(Arc::new(schema.sparse("terms").payload("n", PayloadKind::Integer))).unwrap();
    let doc = |row: u64| {
        let vector = FieldValue::Dense(vec![row as f32, (row % 7) as f32, -2.0, 0.5]);
        let values = indexer.values(&[(DENSE, vector)]).unwrap();
        Arc::new(IndexDoc { row: RowId(row), tenant: TenantId(0), key: None, labels: Vec::new(), values })
    };
    let docs: Vec<_> = (1..=4_000).map(doc).collect();
    let folder = tempfile::TempDir::new().unwrap();
    let resident = on_disk(&indexer, &docs, folder.path(), 1 << 30);
    let section = |name: &str| {
        let reader: Arc<dyn BatchRead> = Arc::new(Pread::buffered());
        let file = spandrel_storage::file::SegmentFile::open(&folder.path().join("7.seg"), reader).unwrap();
        file.section(name).map(|section| section.len())
    };
    let graph = section("graph/1").unwrap();
    assert!(section("cells/1").is_none() && !resident.is_plain());
    let tight = on_disk(&indexer, &docs, folder.path(), graph);
    assert!(!tight.is_plain() && tight.memory_bytes() + graph / 2 < resident.memory_bytes());
    for query in [3.0, 1_700.0, 3_999.0] {
        let (found, expected) = (nearest(&resident, TenantId(0), query), nearest(&tight, TenantId(0), query));
        assert_eq!(found, expected, "near {query}");
    }
}

/// What a build leaves in memory is what opening the file would read.
#[test]
fn a_segment_is_the_same_when_it_is_created_and_when_it_is_opened() {
    let indexer = indexer();
    let folder = tempfile::TempDir::new().unwrap();
    let all = docs(&indexer, 12_000);
    let reader: Arc<dyn BatchRead> = Arc::new(Pread::buffered());
    let mut kinds = Vec::new();
    for (count, budget_bytes) in
        [(12_000, 1 << 30), (12_000, 300 << 10), (12_000, 0), (900, 1 << 30), (900, 0)]
    {
        let mut sorted = all[..count].to_vec();
        sorted.sort_by_key(|doc| (doc.tenant, doc.row));
        for tier in Tier::ALL {
            let memory = || Arc::new(MemoryBudget::new(budget_bytes).with_tier_max(tier));
            let path = folder.path().join("7.seg");
            let plan =
                Plan { threads: 1, cells: true, merge: None, like: None, coded: &[], memory_bytes: u64::MAX };
            let range = RowId(1)..=RowId(count as u64);
            let (given, taken) = (memory(), memory());
            let place = (&reader, &given);
            let created = with_source(&sorted, |docs| {
                Segment::create(&indexer, (&path, 7), range, plan, docs, place).unwrap()
            });
            let opened = Segment::open(&indexer, &path, &reader, &taken).unwrap();
            let index = |segment: &Segment| segment.dense(DENSE).unwrap().kind();
            assert_eq!(index(&created), index(&opened));
            assert_eq!((created.docs(), created.checksum()), (opened.docs(), opened.checksum()));
            assert_eq!(given.used_bytes(), taken.used_bytes());
            let (a, b) = (created.memory_bytes() as f64, opened.memory_bytes() as f64);
            assert!((0.98..1.02).contains(&(a / b)), "{a} bytes of memory created, {b} opened");
            kinds.push((index(&created), created.memory_bytes()));
            for query in [3.0, 700.0, 11_000.0] {
                let search = |segment: &Segment| {
                    let range = segment.tenant_range(TenantId(1));
                    let allow = Allow { range, ..Allow::all(segment.docs()) };
                    let (mut top, mut counters) = (TopK::new(5), Counters::default());
                    let (ask, index) = (Ask::new(segment.rows(), &allow), segment.dense(DENSE).unwrap());
                    let query = [query, 1.0, -2.0, 0.5];
                    index.search(&query, &ask, &mut top, &mut Scratch::new(), &mut counters).unwrap();
                    // How much is read also depends on the pages that are kept.
                    (top.into_sorted(), counters.scored, counters.rescored, counters.bytes_read > 0)
                };
                assert_eq!(search(&created), search(&opened), "{count} {budget_bytes} {tier:?} {query}");
            }
        }
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert!(kinds.len() >= 6, "cells of three tiers, and fewer things: {kinds:?}");
}

/// Cells take no more than they are told to, whatever room there is.
#[test]
fn cells_are_held_to_their_tier() {
    let indexer = indexer();
    let folder = tempfile::TempDir::new().unwrap();
    let docs = docs(&indexer, 12_000);
    on_disk(&indexer, &docs, folder.path(), 0);
    let open = |tier| {
        let memory = Arc::new(MemoryBudget::new(1 << 30).with_tier_max(tier));
        let reader: Arc<dyn BatchRead> = Arc::new(Pread::buffered());
        Segment::open(&indexer, &folder.path().join("7.seg"), &reader, &memory).unwrap()
    };
    let [hot, default, lean] = Tier::ALL.map(|tier| open(tier).memory_bytes());
    assert!(lean < default && default < hot, "{lean}, {default} and {hot} bytes");
}

/// Where there is no room for vectors and long codes, vectors with short ones are kept: nothing is read.
#[test]
fn vectors_come_before_long_codes() {
    let indexer = Indexer::new(Arc::new(Schema::new().dense("vec", 96, Metric::L2))).unwrap();
    let mut random = crate::random::Random(11);
    let mut doc = |row: u64| {
        let vector = (0..96).map(|_| (random.next() >> 40) as f32 / (1 << 24) as f32).collect();
        let values = indexer.values(&[(FieldId(0), FieldValue::Dense(vector))]).unwrap();
        Arc::new(IndexDoc { row: RowId(row), tenant: TenantId(0), key: None, labels: Vec::new(), values })
    };
    let docs: Vec<_> = (1..=9_000).map(&mut doc).collect();
    let folder = tempfile::TempDir::new().unwrap();
    on_disk(&indexer, &docs, folder.path(), 0);
    let path = folder.path().join("7.seg");
    let open = |budget_bytes, tier| {
        let memory = Arc::new(MemoryBudget::new(budget_bytes).with_tier_max(tier));
        let reader: Arc<dyn BatchRead> = Arc::new(Pread::buffered());
        let segment = Segment::open(&indexer, &path, &reader, &memory).unwrap();
        let (mut top, mut counters) = (TopK::new(5), Counters::default());
        let (allow, query) = (Allow::all(segment.docs()), [0.5; 96]);
        let (ask, index) = (Ask::new(segment.rows(), &allow), segment.dense(FieldId(0)).unwrap());
        index.search(&query, &ask, &mut top, &mut Scratch::new(), &mut counters).unwrap();
        assert_eq!((index.kind(), top.len()), ("cells", 5));
        (memory.used_bytes(), counters.bytes_read > 0)
    };
    let vectors = {
        let reader: Arc<dyn BatchRead> = Arc::new(Pread::buffered());
        let file = spandrel_storage::file::SegmentFile::open(&path, reader).unwrap();
        file.section("dense/0").unwrap().len()
    };
    let (short, reads) = open(1 << 30, Tier::Default);
    assert!(reads && short < vectors);
    let (all, reads) = open(1 << 30, Tier::Hot);
    assert!(!reads && all > short + vectors, "{all} bytes, {short} for short codes, {vectors} for vectors");
    assert_eq!(open(short + vectors, Tier::Hot), (short + vectors, false));
    let (long, reads) = open(short + vectors - 1, Tier::Hot);
    assert!(reads && short < long && long < vectors, "{long} bytes");
}

/// Pages that a search has read are at hand for the next, in what the budget has left; whoever reserves
/// memory takes it from them.
#[test]
fn pages_are_read_once_while_there_is_memory() {
    let indexer = indexer();
    let folder = tempfile::TempDir::new().unwrap();
    let docs = docs(&indexer, 12_000);
    on_disk(&indexer, &docs, folder.path(), 0);
    let open = |budget_bytes| {
        let memory = Arc::new(MemoryBudget::new(budget_bytes).with_tier_max(Tier::Lean));
        let reader: Arc<dyn BatchRead> = Arc::new(Pread::buffered());
        let path = folder.path().join("7.seg");
        (Segment::open(&indexer, &path, &reader, &memory).unwrap(), memory)
    };
    let search = |segment: &Segment, query: f32| {
        let allow = Allow { range: segment.tenant_range(TenantId(1)), ..Allow::all(segment.docs()) };
        let (mut top, mut counters) = (TopK::new(5), Counters::default());
        let ask = Ask::new(segment.rows(), &allow);
        let index = segment.dense(DENSE).unwrap();
        index.search(&[query, 1.0, -2.0, 0.5], &ask, &mut top, &mut Scratch::new(), &mut counters).unwrap();
        (top.into_sorted(), counters.bytes_read)
    };
    let (segment, memory) = open(1 << 30);
    let (found, read) = search(&segment, 700.0);
    assert!(read > 0 && memory.page_bytes() > 0, "{read} bytes read, {} kept", memory.page_bytes());
    assert_eq!(search(&segment, 700.0), (found.clone(), 0));
    let left = memory.limit_bytes() - memory.used_bytes();
    let reserved = memory.reserve(left - 9_000).unwrap();
    assert!(memory.page_bytes() <= 9_000, "{} bytes of pages", memory.page_bytes());
    let again = search(&segment, 700.0);
    assert!(again.0 == found && again.1 > 0);
    drop(reserved);
    search(&segment, 700.0);
    assert_eq!(search(&segment, 700.0), (found, 0));
    assert!(memory.used_bytes() + memory.page_bytes() <= memory.limit_bytes());
}
