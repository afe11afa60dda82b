//! Tables against a map of their keys, in memory, on disk and from runs; their promise and their size; and
//! bytes that are damaged.

use std::collections::HashMap;

use super::*;
use crate::dedup::hash::mix;
use crate::fuzz::Bytes;
use crate::random::Random;

const PROMISE: f64 = 1e-5;

/// Docs with keys, some of which many have.
fn docs(random: &mut Random, count: u32, keys: usize) -> Vec<(DocId, Vec<u64>)> {
    let kinds = 2 * count as usize + 1;
    let key = |random: &mut Random| match random.below(20) {
        0 => [0, u64::MAX, 1 << 63][random.below(3)],
        _ => mix(random.below(kinds) as u64),
    };
    (0..count).map(|doc| (3 * doc, (0..keys).map(|_| key(random)).collect())).collect()
}

fn build(docs: &[(DocId, Vec<u64>)], run_keys: Option<usize>) -> Table {
    let folder = tempfile::tempdir().unwrap();
    let keys = docs.first().map_or(1, |(_, keys)| keys.len());
    let builder = TableBuilder::new(keys, PROMISE, run_keys.map(|_| folder.path()));
    let mut builder = builder.run_keys(run_keys.unwrap_or(usize::MAX));
    docs.iter().for_each(|(doc, keys)| builder.push(*doc, keys).unwrap());
    builder.finish().unwrap()
}

fn reopened(table: &Table) -> Table {
    let docs = Bytes(table.doc_bytes().unwrap().to_vec());
    Table::open(&table.encode(), Arc::new(docs)).unwrap()
}

fn found(table: &Table, keys: &[u64]) -> Vec<(usize, DocId)> {
    let mut found = Vec::new();
    table.find(keys, &mut |at, doc| found.push((at, doc))).unwrap();
    found.sort_unstable();
    found
}

#[test]
fn every_doc_of_a_key_is_found() {
    let seed = 0x5eed_000a;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for (count, keys) in [(0, 3), (1, 1), (15, 4), (40, 256), (3_000, 10), (20_000, 2)] {
        let docs = docs(&mut random, count, keys);
        let mut oracle: HashMap<u64, Vec<DocId>> = HashMap::new();
        docs.iter()
            .for_each(|(doc, keys)| keys.iter().for_each(|key| oracle.entry(*key).or_default().push(*doc)));
        let memory = build(&docs, None);
        let runs = build(&docs, Some(1 + docs.len() * keys / 7));
        assert_eq!((memory.encode(), memory.doc_bytes()), (runs.encode(), runs.doc_bytes()));
        let disk = reopened(&memory);
        assert_eq!(disk.keys(), memory.keys());
        let others = (0..500).map(|_| (0..keys).map(|_| random.next()).collect()).collect::<Vec<Vec<u64>>>();
        let mut wrong = 0;
        for keys in docs.iter().map(|(_, keys)| keys).chain(&others) {
            let here = found(&memory, keys);
            assert_eq!(here, found(&disk, keys));
            let mut expected = Vec::new();
            for (at, key) in keys.iter().enumerate() {
                let docs = oracle.get(key).map_or(&[][..], |docs| &docs[..docs.len().min(DOCS_OF_KEY_MAX)]);
                expected.extend(docs.iter().map(|doc| (at, *doc)));
            }
            expected.sort_unstable();
            assert!(expected.iter().all(|hit| here.contains(hit)), "{expected:?} in {here:?}");
            wrong += here.len() - expected.len();
        }
        assert!(wrong <= 3, "{wrong} that were promised once in 1e5 texts");
    }
}

#[test]
fn what_is_promised_is_held_in_few_bits() {
    let mut random = Random(0x5eed_000c);
    let (keys, promise) = (10, 1e-2);
    let mut builder = TableBuilder::new(keys, promise, None);
    for doc in 0..10_000 {
        builder.push(doc, &(0..keys).map(|_| random.next()).collect::<Vec<_>>()).unwrap();
    }
    let table = builder.finish().unwrap();
    assert_eq!((table.keys(), table.kept.width), (100_000, 10));
    let bits = 8.0 * table.encode().len() as f64 / table.keys() as f64;
    assert!(bits < 12.01, "{bits}");
    assert_eq!(table.doc_bytes().unwrap().len(), 100_000 * 14 / 8);
    let wrong = (0..20_000)
        .filter(|_| !found(&table, &(0..keys).map(|_| random.next()).collect::<Vec<_>>()).is_empty())
        .count();
    // 10 keys, each found once in 1,024: 195 expected, 14 either way are chance.
    assert!((140..250).contains(&wrong), "{wrong} of 20,000");
}

#[test]
fn of_a_crowd_the_first_are_kept() {
    let docs: Vec<(DocId, Vec<u64>)> =
        (0..1_000).map(|doc| (doc, vec![mix(7), mix(u64::from(doc) + 1_000)])).collect();
    for table in [build(&docs, None), build(&docs, Some(100))] {
        assert_eq!(table.keys(), 1_000 + DOCS_OF_KEY_MAX as u64);
        let of: Vec<(usize, DocId)> = (0..DOCS_OF_KEY_MAX as u32).map(|doc| (0, doc)).collect();
        assert_eq!(found(&table, &[mix(7)]), of);
    }
}

#[test]
fn damaged_bytes_are_errors_or_tables() {
    let docs = docs(&mut Random(3), 200, 3);
    let table = build(&docs, None);
    let of_docs = table.doc_bytes().unwrap().to_vec();
    crate::dedup::damage::check(0x5eed_000b, &table.encode(), |bytes| {
        let table = Table::open(bytes, Arc::new(Bytes(of_docs.clone()))).ok()?;
        docs.iter().for_each(|(_, keys)| drop(found(&table, keys)));
        Some(table.encode())
    });
    let short = Bytes(of_docs[1..].to_vec());
    assert!(Table::open(&table.encode(), Arc::new(short)).is_err());
}
