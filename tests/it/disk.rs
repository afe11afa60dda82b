//! A disk that is full and folders that may not be written, as a gRPC client sees them: the right code, a
//! message that names the place, nothing lost, and work goes on when there is room again.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use spandrel::ErrorKind;
use spandrel_proto::v1 as pb;
use tonic::Code;

use crate::served::{Served, config_in, field, open, rows, serve_in, serve_with};

/// Where the process without permissions finds its folder.
const DENIED: &str = "SPANDREL_TEST_DENIED";
/// Set where a machine must be able to run everything, as in .ci/run: a test that cannot run fails.
const REQUIRE_ALL: &str = "SPANDREL_TESTS_REQUIRE_ALL";

/// Says that a test cannot run here.
fn skip(why: &str) {
    assert!(std::env::var_os(REQUIRE_ALL).is_none_or(|value| value != "1"), "{REQUIRE_ALL}=1, but {why}");
    println!("skipped: {why}");
}

/// A small file system in memory, where this process may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).output();
        match output {
            Ok(output) if output.status.success() => Some(Self(dir)),
            refused => {
                skip(&format!("this process may not mount a small disk: {refused:?}"));
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

/// Rows with a text of 20,000 bytes that does not compress.
fn large_rows(range: std::ops::Range<u32>) -> Vec<pb::Row> {
    let mut random = crate::rng::Rng::new(u64::from(range.start));
    let mut rows = rows(range);
    for row in &mut rows {
        let words: Vec<String> = (0..1_250).map(|_| format!("{:015x}", random.next() >> 4)).collect();
        row.fields.insert("body".to_owned(), field(pb::field_value::Kind::Text(words.join(" "))));
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_nothing_is_lost() {
    let Some(disk) = SmallDisk::mount("420m") else { return };
    let config = config_in(disk.0.path().join("data"));
    let served = serve_in(tempfile::tempdir().unwrap(), config).await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let mut written = 0;
    let status = loop {
        match clients.upsert("", large_rows(written..written + 50)).await {
            Ok(done) => written += done.rows as u32,
            Err(status) => break status,
        }
        assert!(written < 30_000, "a disk of 420 MB takes no 600 MB");
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("in reserve"), "{status}");
    assert!(written >= 50, "{written} rows before: {status}");
    // Reads go on, with exactly what was acknowledged.
    assert_eq!(clients.count("").await.unwrap(), u64::from(written));
    // Once there is room, so do writes.
    disk.grow("800m");
    clients.upsert("", large_rows(written..written + 50)).await.unwrap();
    assert_eq!(clients.count("").await.unwrap(), u64::from(written + 50));
    let Served { folder: _folder, database, server, config } = served;
    server.shutdown().await.unwrap();
    drop(database);
    let database = open(&config).await;
    let count = database.collection("docs").unwrap().count("", None).unwrap();
    assert_eq!(count, u64::from(written + 50));
}

/// Not a test of its own: the process without permissions for the next one.
#[tokio::test(flavor = "multi_thread")]
async fn denied() {
    let Some(folder) = std::env::var_os(DENIED) else { return };
    let folder = Path::new(&folder);
    let closed = folder.join("closed");
    // A data folder that cannot be made.
    let config = config_in(closed.join("data"));
    let opening = tokio::task::spawn_blocking(move || spandrel::Database::open(config.data, config.engine));
    let error = opening.await.unwrap().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let text = error.to_string();
    assert!(text.contains("ermission denied") && text.contains("closed"), "{text}");
    // A backup that cannot be written.
    let backups = closed.join("backups");
    let served = serve_with(|config| config.backup_dir = Some(backups)).await;
    let mut clients = served.clients().await;
    clients.create_docs().await;
    let backup = pb::BackupRequest { name: "b1".to_owned() };
    let status = clients.admin.backup(backup).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("ermission denied"), "{status}");
    clients.upsert("", rows(0..3)).await.unwrap();
    assert_eq!(clients.count("").await.unwrap(), 3);
    served.server.shutdown().await.unwrap();
    println!("was denied");
}

#[test]
fn no_permission_is_said_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let set_mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(folder.path(), 0o777);
    set_mode(&closed, 0o555);
    // A copy: the build's own folder may lie under /root, where nobody else may go.
    let binary = folder.path().join("it");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    set_mode(&binary, 0o755);
    let mut child = Command::new(&binary);
    child.args(["--exact", "disk::denied", "--nocapture"]).env(DENIED, folder.path());
    child.env("TMPDIR", folder.path());
    if folder.path().metadata().unwrap().uid() == 0 {
        // Permissions do not bind root: the child runs as nobody.
        child.uid(65534).gid(65534).current_dir("/");
    }
    match child.output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && text.contains("was denied"), "{text}\n{errors}");
        }
        Err(error) => skip(&format!("the test cannot run as another user: {error}")),
    }
    set_mode(&closed, 0o755);
}
