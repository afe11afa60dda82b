//! Failing writes and full disks.

use std::process::Command;

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
    assert!(matches!(store.check_writable(), Err(Error::Poisoned { .. })));
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
    assert!(matches!(fill_up(&store, c, last + 1).1, Error::NoSpace { .. }));
    // Nothing is poisoned: the same commit goes through once there is space.
    disk.grow("64m");
    let (more, error) = fill_up(&store, c, last + 1);
    assert!(matches!(error, Error::NoSpace { .. }) && more > last, "{error}");
    assert_eq!(records(&store, c).unwrap().len() as u64, more);
    store.close().unwrap();
    assert_eq!(records(&Store::open(&path, &options).unwrap(), c).unwrap().len() as u64, more);
}

#[test]
fn a_full_disk_poisons_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount("16m") else { return };
    let path = disk.0.path().join("store");
    let store = open(&path);
    let c = store.create_collection("c", &schema()).unwrap().id;
    let (last, error) = fill_up(&store, c, 1);
    println!("{last} rows, then: {error}");
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    let again = fill_up(&store, c, last + 1).1;
    assert!(matches!(again, Error::Poisoned { .. }), "{again}");
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
