//! Space comes back; checkpoints and restores.

use super::*;

#[test]
fn a_dropped_collection_gives_its_space_back() {
    let dir = scratch();
    let store = open(dir.path());
    let keep = store.create_collection("keep", &schema()).unwrap().id;
    fill(&store, keep, 1..=50, 2000);
    store.compact(keep).unwrap();
    let before = store.disk_bytes().unwrap();
    let gone = store.create_collection("gone", &schema()).unwrap().id;
    fill(&store, gone, 1..=3000, 2000);
    let full = store.disk_bytes().unwrap();
    assert!(full > before + 3000 * 1200, "{before} {full}");
    store.drop_collection(gone).unwrap();
    rest(&store);
    let after = store.disk_bytes().unwrap();
    println!("{before} bytes, {full} when full, {after} after");
    assert!(after < before + (full - before) / 8, "{before} {full} {after}");
    assert_eq!(records(&store, keep).unwrap().len(), 50);
    assert!(records(&store, gone).unwrap().is_empty());
    drop(store);
    assert_eq!(records(&open(dir.path()), keep).unwrap().len(), 50);
}

#[test]
fn a_dropped_tenant_gives_its_space_back() {
    let dir = scratch();
    let store = open(dir.path());
    let c = store.create_collection("c", &schema()).unwrap().id;
    // Two tenants' rows lie side by side in every file.
    for row in 1..=3000 {
        let entry = put(row, (row % 10 != 0).into(), &format!("k{row}"), 2000, None);
        store.commit(&commit_of(c, vec![entry]), Durability::Buffered).unwrap();
    }
    store.compact(c).unwrap();
    let full = store.disk_bytes().unwrap();
    let drop_tenant = Entry::DropTenant { row: RowId(3001), tenant: TenantId(1) };
    store.commit(&commit_of(c, vec![drop_tenant]), Durability::Sync).unwrap();
    let snapshot = store.snapshot();
    assert!(snapshot.keys_after(c, TenantId(1), None, 10).unwrap().is_empty());
    assert_eq!(snapshot.keys_after(c, TenantId(0), None, 1000).unwrap().len(), 300);
    drop(snapshot);
    let erase = (1..=3000).filter(|row| row % 10 != 0).map(|row| Entry::Erase { row: RowId(row) }).collect();
    store.commit(&commit_of(c, erase), Durability::Sync).unwrap();
    store.compact(c).unwrap();
    rest(&store);
    let after = store.disk_bytes().unwrap();
    assert!(after < full / 5, "{full} {after}");
    let stats = store.stats().unwrap();
    assert_eq!((stats.blob_garbage_bytes, stats.snapshots_count), (0, 0), "{stats:?}");
    assert!(
        stats.blob_bytes > 300 * 1200 && stats.disk_bytes >= stats.blob_bytes + stats.table_bytes,
        "{stats:?}"
    );
    let found = records(&store, c).unwrap();
    assert_eq!(found.len(), 301);
    assert_eq!(found[&10], Record::Row(row_of(10, 0, "k10", 2000)));
    // The tenant can come back.
    store.commit(&commit_of(c, vec![put(3002, 1, "k1", 20, None)]), Durability::Sync).unwrap();
    let keys = [(TenantId(1), "k1"), (TenantId(1), "k2")];
    assert_eq!(store.snapshot().lookup(c, &keys).unwrap(), [Some(RowId(3002)), None]);
}

#[test]
fn a_checkpoint_opens_and_holds_every_commit() {
    let dir = scratch();
    let store = open(&dir.path().join("store"));
    let c = store.create_collection("c", &schema()).unwrap().id;
    fill(&store, c, 1..=100, 900);
    store.commit(&commit_of(c, vec![put(101, 0, "k101", 900, None)]), Durability::Buffered).unwrap();
    let (backup, restored) = (dir.path().join("backup"), dir.path().join("deep/restored"));
    // Commits go on while it is taken.
    std::thread::scope(|scope| {
        scope.spawn(|| fill(&store, c, 102..=301, 900));
        store.checkpoint(&backup).unwrap();
    });
    assert!(matches!(store.checkpoint(&backup), Err(Error::Exists { .. })));
    fill(&store, c, 302..=311, 900);
    let all = records(&store, c).unwrap();

    restore(&backup, &restored).unwrap();
    assert!(matches!(restore(&backup, &restored), Err(Error::Exists { .. })));
    assert!(matches!(restore(dir.path(), &dir.path().join("x")), Err(Error::NotFound { .. })));
    for path in [restored, backup] {
        let copy = open(&path);
        // What is open is not copied, and what was closed again is.
        let while_open = restore(&path, &dir.path().join("y"));
        assert!(matches!(while_open, Err(Error::Locked { .. })), "{while_open:?}");
        assert_eq!(copy.collections().unwrap(), store.collections().unwrap());
        let held = records(&copy, c).unwrap();
        assert!((101..=301).contains(&held.len()), "{}", held.len());
        assert!(held.iter().eq(all.iter().take(held.len())));
        assert_eq!(copy.last_row_id(c).unwrap().0, held.len() as u64);
        // They go their own ways.
        fill(&copy, c, 400..=409, 900);
    }
    assert_eq!(records(&store, c).unwrap(), all);
}

#[test]
fn a_cut_off_checkpoint_does_not_open() {
    let dir = scratch();
    let store = open(&dir.path().join("store"));
    let backup = dir.path().join("backup");
    store.checkpoint(&backup).unwrap();
    fs::remove_file(backup.join("FORMAT")).unwrap();
    assert!(matches!(Store::open(&backup, &small()), Err(Error::Version { .. })));
    assert!(matches!(restore(&backup, &dir.path().join("x")), Err(Error::NotFound { .. })));
}
