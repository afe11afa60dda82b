//! Who may open what: foreign folders, other versions, locks and permissions.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::*;

const HOLD: &str = "SPANDREL_TEST_HOLD";
const DENIED: &str = "SPANDREL_TEST_DENIED";
const FEW_FILES: &str = "SPANDREL_TEST_FEW_FILES";

/// This test binary again, running one test.
pub(super) fn again(test: &str, variable: &str, value: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("store::tests::{test}"), "--nocapture", "--test-threads=1"]);
    command.env(variable, value).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

#[test]
fn a_foreign_folder_is_refused_and_left_alone() {
    let dir = scratch();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let error = Store::open(dir.path(), &small()).unwrap_err();
    assert!(matches!(error, Error::Version { .. }));
    assert!(error.to_string().contains("thesis.txt"), "{error}");
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["thesis.txt"]);
}

#[test]
fn other_formats_are_refused() {
    let dir = scratch();
    drop(open(dir.path()));
    let marker = dir.path().join("FORMAT");
    let ours = fs::read(&marker).unwrap();
    for (version, hint) in [(folder::FORMAT_VERSION + 1, "newer"), (0, "older")] {
        let body = format!("spandrel-store {version}\nsomething else\n");
        fs::write(&marker, format!("{body}check {:08x}\n", crc32c::crc32c(body.as_bytes()))).unwrap();
        let error = Store::open(dir.path(), &small()).unwrap_err();
        assert!(matches!(error, Error::Version { .. }) && error.to_string().contains(hint), "{error}");
    }
    for at in 0..ours.len() {
        let mut damaged = ours.clone();
        damaged[at] ^= 1;
        fs::write(&marker, damaged).unwrap();
        let error = Store::open(dir.path(), &small()).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "byte {at}: {error}");
    }
    // The first format is read, and is the present one from then on.
    let body = "spandrel-store 1\nstate ready\n";
    fs::write(&marker, format!("{body}check {:08x}\n", crc32c::crc32c(body.as_bytes()))).unwrap();
    drop(open(dir.path()));
    assert_eq!(fs::read(&marker).unwrap(), ours);
}

#[test]
fn an_unfinished_creation_opens() {
    let dir = scratch();
    drop(open(dir.path()));
    folder::write_marker(dir.path(), State::Creating).unwrap();
    fs::remove_file(&files(dir.path(), "CURRENT")[0]).unwrap();
    let store = open(dir.path());
    assert!(store.collections().unwrap().is_empty());
    drop(store);
    let empty = scratch();
    fs::write(empty.path().join("FORMAT.tmp"), "half a mark").unwrap();
    drop(open(empty.path()));
}

#[test]
fn missing_files_are_not_replaced_by_empty_ones() {
    for name in ["rocksdb/CURRENT", "WITNESS", "rocksdb"] {
        let dir = scratch();
        let store = open(dir.path());
        store.create_collection("c", &schema()).unwrap();
        drop(store);
        let path = dir.path().join(name);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap()
        } else {
            fs::remove_file(&path).unwrap()
        }
        let error = Store::open(dir.path(), &small()).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{name}: {error}");
    }
}

#[test]
fn a_second_open_in_this_process_is_locked_out() {
    let dir = scratch();
    let store = open(dir.path());
    assert!(matches!(Store::open(dir.path(), &small()), Err(Error::Locked { .. })));
    drop(store);
    drop(open(dir.path()));
}

/// Not a test of its own: the process that holds the store for the next one.
#[test]
fn holder() {
    let Some(path) = std::env::var_os(HOLD) else { return };
    let _store = open(Path::new(&path));
    println!("holding");
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn another_process_locks_out() {
    let dir = scratch();
    let mut child = again("open::holder", HOLD, dir.path()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("holding")));
    let error = Store::open(dir.path(), &small()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }));
    assert!(error.to_string().contains("locked by another process"), "{error}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    drop(open(dir.path()));
}

/// Not a test of its own: the process without permissions for the next one.
#[test]
fn denied() {
    let Some(path) = std::env::var_os(DENIED) else { return };
    for path in [Path::new(&path).join("store"), Path::new(&path).join("new")] {
        let error = Store::open(&path, &small()).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("Permission denied") && text.contains(path.to_str().unwrap()), "{text}");
    }
    println!("was denied");
}

#[test]
fn no_permission_is_said_clearly() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(open(&path));
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    set_mode(dir.path(), 0o555);
    set_mode(&path.join("LOCK"), 0o444);
    let mut child = again("open::denied", DENIED, dir.path());
    if dir.path().metadata().unwrap().uid() == 0 {
        // Permissions do not bind root: the child runs as nobody.
        child.uid(65534).gid(65534).current_dir("/");
    }
    match child.stdin(Stdio::null()).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && text.contains("was denied"), "{text}");
        }
        Err(e) => println!("skipped: the test cannot run as another user here: {e}"),
    }
    set_mode(dir.path(), 0o755);
}

#[test]
fn a_clean_close_leaves_nothing_to_replay() {
    let dir = scratch();
    let store = open(dir.path());
    let c = store.create_collection("c", &schema()).unwrap().id;
    fill(&store, c, 1..=20, 900);
    store.close().unwrap();
    let log_bytes: u64 = files(dir.path(), ".log").iter().map(|log| log.metadata().unwrap().len()).sum();
    let store = open(dir.path());
    assert!(log_bytes < 100 || store.stats().unwrap().log_bytes == 0, "{log_bytes} bytes of log");
    assert_eq!(records(&store, c).unwrap().len(), 20);
}

/// Not a test of its own: the process for the next one, which may not have many files open at first.
#[test]
fn few_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Some(path) = std::env::var_os(FEW_FILES) else { return };
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
    drop(open(Path::new(&path)));
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert_eq!(now.min(65_536), maximum.unwrap_or(u64::MAX).min(65_536));
    println!("raised");
}

#[test]
fn the_limit_of_open_files_is_raised() {
    let dir = scratch();
    let child = again("open::few_files", FEW_FILES, dir.path()).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success() && text.contains("raised"), "{text}");
}

#[test]
fn logs_that_were_set_aside_go_after_a_clean_close() {
    let dir = scratch();
    drop(open(dir.path()));
    let aside = dir.path().join("rocksdb/000007.log.torn");
    let others = ["mine.log.torn", "000007.torn"].map(|name| dir.path().join("rocksdb").join(name));
    for path in others.iter().chain([&aside]) {
        fs::write(path, "x").unwrap();
    }
    let store = open(dir.path());
    assert!(!aside.exists());
    // Not after a crash, or what counts as one: what was not acknowledged may still be wanted.
    fs::write(&aside, "x").unwrap();
    store.poison("the test");
    drop(store);
    drop(open(dir.path()));
    assert!(aside.exists());
    drop(open(dir.path()));
    assert!(!aside.exists() && others.iter().all(|path| path.exists()));
}

#[test]
fn a_file_that_is_far_too_long_is_damaged() {
    for name in ["FORMAT", "rocksdb/CURRENT"] {
        let dir = scratch();
        drop(open(dir.path()));
        let path = dir.path().join(name);
        // Sparse: reading it whole would take all memory.
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        let error = Store::open(dir.path(), &small()).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{name}: {error}");
    }
}
