//! Failing writes and full disks.

use std::process::Command;
use std::time::{Duration, Instant};

use super::super::space::free_bytes;
use super::super::write::Purpose;
use super::*;

#[test]
fn a_failed_write_poisons_until_reopened() {
    let dir = scratch();
    let store = open(dir.path());
    let c = store.create_collection("c", &schema()).unwrap().id;
    fill(&store, c, 1..=10, 900);
    store.engine.closing.writer.lock().fault = true;
    let commit = commit_of(c, vec![put(11, 0, "k11", 900, None)]);
    for _ in 0..2 {
        let error = store.commit(&commit, Durability::Sync).unwrap_err();
        assert!(matches!(&error, Error::Poisoned { .. }), "{error}");
    }
    assert!(matches!(store.create_collection("d", &schema()), Err(Error::Poisoned { .. })));
    assert!(matches!(store.drop_collection(c), Err(Error::Poisoned { .. })));
    assert!(matches!(store.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(store.checkpoint(&dir.path().join("backup")), Err(Error::Poisoned { .. })));
    // Reads go on.
    assert_eq!(records(&store, c).unwrap().len(), 10);
    assert!(matches!(store.close(), Err(Error::Poisoned { .. })));
    let store = open(dir.path());
    store.commit(&commit, Durability::Sync).unwrap();
    assert_eq!(records(&store, c).unwrap().len(), 11);
}

#[test]
fn a_failed_sync_poisons() {
    let dir = scratch();
    let store = open(dir.path());
    let c = store.create_collection("c", &schema()).unwrap().id;
    store.commit(&commit_of(c, vec![put(1, 0, "k1", 900, None)]), Durability::Buffered).unwrap();
    store.engine.closing.writer.lock().fault = true;
    assert!(matches!(store.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(store.commit(&commit_of(c, vec![]), Durability::Buffered), Err(Error::Poisoned { .. })));
}

#[test]
fn an_engine_may_poison_its_store() {
    let dir = scratch();
    let store = open(dir.path());
    let c = store.create_collection("c", &schema()).unwrap().id;
    store.poison("the manifest was not synced");
    store.poison("and then something else");
    let error = store.commit(&commit_of(c, vec![]), Durability::Buffered).unwrap_err();
    assert!(matches!(&error, Error::Poisoned { what } if what == "the manifest was not synced"), "{error}");
    assert!(matches!(store.sync(), Err(Error::Poisoned { .. })));
    drop(store);
    fill(&open(dir.path()), c, 1..=10, 900);
}

/// Writes are stopped by a limit that one flushed file exceeds, until it is lifted.
#[test]
fn a_stalled_write_builds_its_batch_when_it_can_be_written() {
    let dir = scratch();
    let store = open(dir.path());
    let c = store.create_collection("c", &schema()).unwrap().id;
    fill(&store, c, 1..=10, 900);
    let engine = &*store.engine;
    engine.flush().unwrap();
    let stop = |files: &str| {
        let limits = ["level0_slowdown_writes_trigger", "level0_stop_writes_trigger"];
        let idle = ("level0_file_num_compaction_trigger", "1000");
        let settings = [idle, (limits[0], files), (limits[1], files)];
        engine.db.set_options_cf(engine.rows(), &settings).unwrap();
    };
    stop("1");
    let mut built = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            stop("36");
        });
        let build = || {
            built += 1;
            Ok(rocksdb::WriteBatch::default())
        };
        let started = Instant::now();
        engine.write(&mut engine.writer().unwrap(), build, Durability::Sync, Purpose::Add).unwrap();
        assert!(started.elapsed() >= Duration::from_millis(100), "writes were not stopped");
    });
    assert!((2..=4).contains(&built), "{built} times");
}

/// A small file system in memory, where this process may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .output();
        match output {
            Ok(output) if output.status.success() => Some(Self(dir)),
            refused => {
                println!("skipped: this process may not mount a small disk: {refused:?}");
                None
            }
        }
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.0.path()).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// Commits until one is refused; returns how many rows were acknowledged and the error.
fn fill_up(store: &Store, c: CollectionId, from: u64) -> (u64, Error) {
    for row in from.. {
        let commit = commit_of(c, vec![put(row, 0, &format!("k{row}"), 20_000, None)]);
        if let Err(error) = store.commit(&commit, Durability::Sync) {
            return (row - 1, error);
        }
    }
    unreachable!()
}

#[test]
fn the_reserve_refuses_before_anything_is_written() {
    let Some(disk) = SmallDisk::mount("32m") else { return };
    let path = disk.0.path().join("store");
    let options = StoreOptions { reserve_bytes: 16 << 20, ..small() };
    let store = Store::open(&path, &options).unwrap();
    let c = store.create_collection("c", &schema()).unwrap().id;
    let (last, error) = fill_up(&store, c, 1);
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert!(last > 100);
    // A flush may have given a little back.
    let (last, error) = fill_up(&store, c, last + 1);
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    // Nothing is poisoned: the same commit goes through once there is space.
    disk.grow("64m");
    let (more, error) = fill_up(&store, c, last + 1);
    assert!(matches!(error, Error::NoSpace { .. }) && more > last, "{error}");
    assert_eq!(records(&store, c).unwrap().len() as u64, more);
    store.close().unwrap();
    assert_eq!(records(&open_with(&path, &options), c).unwrap().len() as u64, more);
}

/// The reserve is set to four times what is free, so that deletes have twice what they leave alone.
#[test]
fn what_frees_space_goes_through_when_the_reserve_refuses_the_rest() {
    let dir = scratch();
    let store = open(dir.path());
    let (c, d) = (
        store.create_collection("c", &schema()).unwrap().id,
        store.create_collection("d", &schema()).unwrap().id,
    );
    fill(&store, c, 1..=20, 900);
    store.close().unwrap();
    let reserve_bytes = 4 * free_bytes(dir.path()).unwrap();
    let store = open_with(dir.path(), &StoreOptions { reserve_bytes, ..small() });
    let commit = |entries| store.commit(&commit_of(c, entries), Durability::Sync);
    assert!(matches!(commit(vec![put(21, 0, "k21", 900, None)]), Err(Error::NoSpace { .. })));
    assert!(matches!(store.create_collection("e", &schema()), Err(Error::NoSpace { .. })));
    let (tenant, replaces) = (TenantId(0), RowId(1));
    commit(vec![Entry::Delete { row: RowId(22), tenant, key: "k1".into(), replaces, erase: None }]).unwrap();
    commit(vec![Entry::DropTenant { row: RowId(23), tenant }]).unwrap();
    commit((1..=20).map(|row| Entry::Erase { row: RowId(row) }).collect()).unwrap();
    let trim = Commit { trim: vec![RowId(22), RowId(23)], ..commit_of(c, vec![]) };
    store.commit(&trim, Durability::Sync).unwrap();
    assert!(records(&store, c).unwrap().is_empty());
    store.drop_collection(d).unwrap();
    assert!(matches!(commit(vec![put(24, 0, "k24", 900, None)]), Err(Error::NoSpace { .. })));
    drop(store);
    // With no space at all, only what was deleted before can be erased.
    let store = open_with(dir.path(), &StoreOptions { reserve_bytes: u64::MAX, ..small() });
    let drop_tenant = Entry::DropTenant { row: RowId(24), tenant };
    let refused = store.commit(&commit_of(c, vec![drop_tenant]), Durability::Sync);
    assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    store.commit(&commit_of(c, vec![Entry::Erase { row: RowId(1) }]), Durability::Sync).unwrap();
}

#[test]
fn a_full_disk_poisons_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount("16m") else { return };
    let path = disk.0.path().join("store");
    let store = open(&path);
    let c = store.create_collection("c", &schema()).unwrap().id;
    let (last, error) = fill_up(&store, c, 1);
    println!("{last} rows, then: {error}");
    // Either the log met the full disk, or a flush did, and then nothing was written.
    let poisoned = matches!(&error, Error::Poisoned { what } if what.contains("No space"));
    assert!(poisoned || matches!(error, Error::NoSpace { .. }), "{error}");
    let (more, again) = fill_up(&store, c, last + 1);
    assert!(!poisoned || (more == last && matches!(again, Error::Poisoned { .. })), "{again}");
    let last = more;
    assert_eq!(records(&store, c).unwrap().len() as u64, last);
    // Nor does a store hang that was not written to when its disk filled up.
    store.engine.closing.writer.lock().poison = None;
    let flushed = store.engine.flush();
    assert!(matches!(flushed, Ok(()) | Err(Error::NoSpace { .. })), "{flushed:?}");
    println!("flush: {flushed:?}");
    drop(store);
    disk.grow("64m");
    let store = open(&path);
    let found = records(&store, c).unwrap();
    // The refused commit may be whole in the log; nothing else.
    assert!(found.len() as u64 == last || found.len() as u64 == last + 1, "{} of {last}", found.len());
    assert!((1..=last).all(|row| found.contains_key(&row)));
    assert_eq!(store.last_row_id(c).unwrap().0, found.len() as u64);
    fill(&store, c, last + 2..=last + 12, 900);
}
