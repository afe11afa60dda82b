//! Commits and what readers see of them.

use super::*;

#[test]
fn collections_and_tenants_persist() {
    let dir = scratch();
    let store = open(dir.path());
    let first = store.create_collection("first", &schema()).unwrap();
    let second = store.create_collection("second", &schema()).unwrap();
    assert!(matches!(store.create_collection("first", &schema()), Err(Error::Exists { .. })));
    assert!(matches!(store.create_collection("0 bad", &schema()), Err(Error::Invalid(_))));
    assert!(matches!(store.create_collection("none", &Schema::new()), Err(Error::Invalid(_))));
    let tenants = vec![(TenantId(0), String::new()), (TenantId(u32::MAX), "acmé".to_owned())];
    let commit = Commit { new_tenants: tenants.clone(), ..commit_of(second.id, vec![]) };
    store.commit(&commit, Durability::Buffered).unwrap();
    store.close().unwrap();

    let store = open(dir.path());
    assert_eq!(store.collections().unwrap(), vec![first.clone(), second.clone()]);
    assert_eq!(store.tenants(second.id).unwrap(), tenants);
    assert!(store.tenants(first.id).unwrap().is_empty());
    store.drop_collection(second.id).unwrap();
    assert!(matches!(store.drop_collection(second.id), Err(Error::NotFound { .. })));
    let refused = store.commit(&commit, Durability::Sync);
    assert!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");
    assert!(store.tenants(second.id).unwrap().is_empty());
    let third = store.create_collection("second", &schema()).unwrap();
    assert!(third.id > second.id, "ids are not given twice");
    assert_eq!(store.last_row_id(third.id).unwrap(), RowId(0));
}

/// Random puts, overwrites, deletes, tenant drops and erases against maps, with reopens.
#[test]
fn agrees_with_a_map() {
    let seed = 21;
    println!("seed {seed}");
    let mut chance = Chance(seed);
    let dir = scratch();
    let mut store = open(dir.path());
    let ids = [
        store.create_collection("a", &schema()).unwrap().id,
        store.create_collection("b", &schema()).unwrap().id,
    ];
    let mut models: [Model; 2] = Default::default();
    for step in 0..400 {
        let which = chance.below(2);
        let commit = models[which].change(ids[which], &mut chance);
        let durability = if chance.below(2) == 0 { Durability::Sync } else { Durability::Buffered };
        store.commit(&commit, durability).unwrap();
        if step % 40 == 39 {
            for (id, model) in ids.iter().zip(&models) {
                model.check(&store, *id);
            }
            match chance.below(4) {
                0 => store.sync().unwrap(),
                1 => store.compact(ids[which]).unwrap(),
                _ => {
                    drop(store);
                    store = open(dir.path());
                }
            }
            for (id, model) in ids.iter().zip(&models) {
                model.check(&store, *id);
            }
        }
    }
}

/// What a collection should hold.
#[derive(Default)]
struct Model {
    last: u64,
    records: BTreeMap<u64, Record>,
    keys: BTreeMap<(u32, String), u64>,
    dead: Vec<u64>,
}

impl Model {
    fn change(&mut self, collection: CollectionId, chance: &mut Chance) -> Commit {
        let mut commit = commit_of(collection, vec![]);
        for _ in 0..1 + chance.below(6) {
            let (tenant, key) = (chance.below(3) as u32, format!("key {}", chance.below(30)));
            let at = (tenant, key.clone());
            let row = self.last + 1 + chance.below(3) as u64;
            match chance.below(12) {
                0..7 => {
                    let replaces = self.keys.insert(at, row);
                    replaces.map(|replaced| self.records.remove(&replaced));
                    let replaces = replaces.map(RowId);
                    let text_bytes = if chance.below(2) == 0 { 30 } else { 900 };
                    let stored = StoredRow { replaces, ..row_of(row, tenant, &key, text_bytes) };
                    self.records.insert(row, Record::Row(stored));
                    commit.entries.push(put(row, tenant, &key, text_bytes, replaces));
                }
                7..10 => {
                    let Some(replaced) = self.keys.remove(&at) else { continue };
                    self.records.remove(&replaced);
                    let (tenant, replaces) = (TenantId(tenant), RowId(replaced));
                    self.records.insert(row, Record::Delete { tenant, key: key.clone(), replaces });
                    commit.entries.push(Entry::Delete {
                        row: RowId(row),
                        tenant,
                        key,
                        replaces,
                        erase: Some(replaces),
                    });
                }
                10 => {
                    self.keys.retain(|(other, _), row| {
                        if *other == tenant {
                            self.dead.push(*row);
                        }
                        *other != tenant
                    });
                    let tenant = TenantId(tenant);
                    self.records.insert(row, Record::DropTenant { tenant });
                    commit.entries.push(Entry::DropTenant { row: RowId(row), tenant });
                }
                _ => {
                    for row in self.dead.drain(..) {
                        self.records.remove(&row);
                        commit.entries.push(Entry::Erase { row: RowId(row) });
                    }
                    let trim = self.records.iter().filter(|(_, record)| !matches!(record, Record::Row(_)));
                    commit.trim = trim.map(|(row, _)| RowId(*row)).filter(|_| chance.below(2) == 0).collect();
                    self.records.retain(|row, _| !commit.trim.contains(&RowId(*row)));
                    return commit;
                }
            }
            self.last = row;
        }
        commit
    }

    fn check(&self, store: &Store, collection: CollectionId) {
        assert_eq!(store.last_row_id(collection).unwrap(), RowId(self.last));
        assert_eq!(records(store, collection).unwrap(), self.records);
        let snapshot = store.snapshot();
        let rows: Vec<RowId> = (0..=self.last + 1).rev().map(RowId).collect();
        let got = snapshot.get(collection, &rows, &FieldSet::ALL).unwrap();
        for (row, got) in rows.iter().zip(got) {
            match self.records.get(&row.0) {
                Some(Record::Row(expected)) => assert_eq!(got.as_ref(), Some(expected)),
                _ => assert!(got.is_none()),
            }
        }
        for tenant in 0..4 {
            let expected: Vec<(String, RowId)> = self
                .keys
                .range((tenant, String::new())..(tenant + 1, String::new()))
                .map(|((_, key), row)| (key.clone(), RowId(*row)))
                .collect();
            let tenant = TenantId(tenant);
            let mut paged = Vec::new();
            while let page = snapshot
                .keys_after(collection, tenant, paged.last().map(|(key, _): &(String, _)| key.as_str()), 7)
                .unwrap()
                && !page.is_empty()
            {
                paged.extend(page);
            }
            assert_eq!(paged, expected);
            let names: Vec<String> = (0..31).map(|key| format!("key {key}")).collect();
            let names: Vec<_> = names.iter().map(|name| (tenant, name.as_str())).collect();
            for ((_, name), row) in names.iter().zip(snapshot.lookup(collection, &names).unwrap()) {
                let expected = expected.iter().find(|(key, _)| key == name).map(|(_, row)| *row);
                assert_eq!(row, expected);
            }
        }
    }
}

#[test]
fn a_snapshot_does_not_change() {
    let dir = scratch();
    let store = open(dir.path());
    let c = store.create_collection("c", &schema()).unwrap().id;
    fill(&store, c, 1..=3, 900);
    let before = store.snapshot();
    let entries = vec![
        put(4, 0, "k1", 900, Some(RowId(1))),
        Entry::Delete {
            row: RowId(5),
            tenant: TenantId(0),
            key: "k2".into(),
            replaces: RowId(2),
            erase: Some(RowId(2)),
        },
    ];
    store.commit(&commit_of(c, entries), Durability::Sync).unwrap();
    store.compact(c).unwrap();
    let after = store.snapshot();
    let wanted = FieldSet::ALL;
    let keys = ["k2", "k1", "none"].map(|key| (TenantId(0), key));
    assert_eq!(before.lookup(c, &keys).unwrap(), [Some(RowId(2)), Some(RowId(1)), None]);
    assert_eq!(after.lookup(c, &keys).unwrap(), [None, Some(RowId(4)), None]);
    let old = before.get(c, &[RowId(1), RowId(4), RowId(5)], &wanted).unwrap();
    assert_eq!(old, [Some(row_of(1, 0, "k1", 900)), None, None]);
    let new = after.get(c, &[RowId(1), RowId(4), RowId(5)], &FieldSet::NONE).unwrap();
    assert_eq!((&new[0], &new[2]), (&None, &None));
    assert!(new[1].as_ref().unwrap().fields.is_empty());
    assert_eq!(before.records_after(c, RowId(0), &wanted).count(), 3);
    // The store may go first.
    drop(store);
    assert_eq!(before.records_after(c, RowId(2), &wanted).count(), 1);
    drop(before);
    assert!(matches!(Store::open(dir.path(), &small()), Err(Error::Locked { .. })));
    drop(after);
    assert_eq!(open(dir.path()).last_row_id(c).unwrap(), RowId(5));
}

#[test]
fn ranges_of_records() {
    let dir = scratch();
    let store = open(dir.path());
    let c = store.create_collection("c", &schema()).unwrap().id;
    let next = store.create_collection("next", &schema()).unwrap().id;
    fill(&store, c, 1..=30, 20);
    fill(&store, next, 1..=5, 20);
    let snapshot = store.snapshot();
    let ids = |rows| -> Vec<u64> {
        snapshot.records(c, rows, &FieldSet::NONE).map(|record| record.unwrap().0.0).collect()
    };
    assert_eq!(ids(RowId(5)..=RowId(7)), [5, 6, 7]);
    assert_eq!(ids(RowId(29)..=RowId(u64::MAX)), [29, 30]);
    assert!(ids(RowId(7)..=RowId(5)).is_empty());
    assert_eq!(snapshot.records_after(c, RowId(u64::MAX), &FieldSet::NONE).count(), 0);
    assert_eq!(snapshot.records_after(CollectionId(u32::MAX), RowId(0), &FieldSet::NONE).count(), 0);
}

/// More rows and keys, of several tenants, than are read at once.
#[test]
fn long_reads_keep_their_order() {
    let dir = scratch();
    let store = open(dir.path());
    let c = store.create_collection("c", &schema()).unwrap().id;
    let last = 1500;
    let entries = (1..=last).map(|row| put(row, row as u32 % 3, &format!("k{row}"), 600, None)).collect();
    store.commit(&commit_of(c, entries), Durability::Buffered).unwrap();
    let snapshot = store.snapshot();
    let mut chance = Chance(5);
    let asked: Vec<u64> = (0..3000).map(|_| chance.below(last as usize + 20) as u64).collect();
    let there = |row: u64| (1..=last).contains(&row);
    let rows: Vec<RowId> = asked.iter().map(|row| RowId(*row)).collect();
    let stored = snapshot.get(c, &rows, &FieldSet::NONE).unwrap();
    assert_eq!(stored.len(), asked.len());
    for (row, stored) in asked.iter().zip(stored) {
        assert_eq!(stored.map(|row| row.key), there(*row).then(|| format!("k{row}")));
    }
    let names: Vec<String> = asked.iter().map(|row| format!("k{row}")).collect();
    let keys: Vec<_> =
        asked.iter().zip(&names).map(|(row, key)| (TenantId(*row as u32 % 3), key.as_str())).collect();
    let found = snapshot.lookup(c, &keys).unwrap();
    assert_eq!(found.len(), asked.len());
    for (row, found) in asked.iter().zip(found) {
        assert_eq!(found, there(*row).then_some(RowId(*row)));
    }
}

#[test]
fn row_ids_grow() {
    let dir = scratch();
    let mut store = open(dir.path());
    let c = store.create_collection("c", &schema()).unwrap().id;
    let drop_tenant = |row| Entry::DropTenant { row: RowId(row), tenant: TenantId(5) };
    let refused = |store: &Store, rows: &[u64]| {
        let commit = commit_of(c, rows.iter().map(|row| drop_tenant(*row)).collect());
        let refused = store.commit(&commit, Durability::Sync);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{rows:?}: {refused:?}");
    };
    for rows in [&[0][..], &[0, 1], &[2, 2], &[3, 1]] {
        refused(&store, rows);
    }
    fill(&store, c, 3..=5, 20);
    for _ in 0..2 {
        for rows in [&[5][..], &[1], &[5, 6], &[7, 6]] {
            refused(&store, rows);
        }
        drop(store);
        store = open(dir.path());
    }
    // Nothing of them was written, nothing is poisoned.
    fill(&store, c, 6..=7, 20);
    assert_eq!(records(&store, c).unwrap().len(), 5);
}

#[test]
fn the_last_row_id_survives_its_record() {
    let dir = scratch();
    let store = open(dir.path());
    let c = store.create_collection("c", &schema()).unwrap().id;
    fill(&store, c, 1..=1, 20);
    let delete = Entry::Delete {
        row: RowId(9),
        tenant: TenantId(0),
        key: "k1".into(),
        replaces: RowId(1),
        erase: Some(RowId(1)),
    };
    store.commit(&commit_of(c, vec![delete]), Durability::Sync).unwrap();
    store.commit(&Commit { trim: vec![RowId(9)], ..commit_of(c, vec![]) }, Durability::Sync).unwrap();
    assert!(records(&store, c).unwrap().is_empty());
    drop(store);
    assert_eq!(open(dir.path()).last_row_id(c).unwrap(), RowId(9));
}

#[test]
fn an_entry_that_disagrees_with_its_record_is_refused() {
    let dir = scratch();
    let store = open(dir.path());
    let c = store.create_collection("c", &schema()).unwrap().id;
    let Entry::Put { row, key, record, .. } = put(1, 0, "k", 20, None) else { unreachable!() };
    let entry = Entry::Put { row, tenant: TenantId(1), key, record, erase: None };
    assert!(matches!(store.commit(&commit_of(c, vec![entry]), Durability::Sync), Err(Error::Invalid(_))));
    // Nothing was written and nothing is poisoned.
    fill(&store, c, 1..=1, 20);
}

#[test]
fn shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Store>();
    shared::<StoreSnapshot>();
    let dir = scratch();
    let store = open(dir.path());
    let ids: Vec<CollectionId> =
        (0..4).map(|i| store.create_collection(&format!("c{i}"), &schema()).unwrap().id).collect();
    std::thread::scope(|scope| {
        for id in &ids {
            scope.spawn(|| fill(&store, *id, 1..=100, 200));
            scope.spawn(|| {
                for _ in 0..50 {
                    let snapshot = store.snapshot();
                    let count =
                        snapshot.records_after(*id, RowId(0), &FieldSet::ALL).map(Result::unwrap).count();
                    assert_eq!(count % 10, 0, "a commit is whole or absent");
                }
            });
        }
    });
    drop(store);
    let store = open(dir.path());
    assert!(ids.iter().all(|id| records(&store, *id).unwrap().len() == 100));
}
