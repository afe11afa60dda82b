//! How files and folders are made durable, and how a file is replaced so that a crash leaves the old bytes or
//! the new ones, never a mixture.
//!
//! The new bytes go to `<name>.tmp` in the same folder, are synced, renamed over the old name, and the folder
//! is synced. A power cut before the rename leaves the old file and perhaps a `.tmp`, which the next open
//! removes. Not for data that grows: each replacement writes the whole file and waits for two syncs of the
//! device.
//!
//! A failed sync is final: the kernel may have dropped the dirty pages, so that a second sync would lie. The
//! temp file is removed and [`Error::SyncFailed`] returned, which says whether readers see the new file
//! already; nothing is retried.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Ending of the name under which a file is written before it is renamed.
pub const TEMP_SUFFIX: &str = ".tmp";

/// `path` with [`TEMP_SUFFIX`] appended to its name.
pub fn temp_path(path: &Path) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(TEMP_SUFFIX);
    PathBuf::from(name)
}

/// Makes `path` hold `bytes`, durably and in one step for readers.
///
/// # Errors
/// When the file cannot be written, synced or renamed. The old file is then still there, except after
/// [`Error::SyncFailed`] with `renamed`: the new file is visible but may be gone after a power cut.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = temp_path(path);
    let written = (|| {
        let mut file = File::create(&temp).map_err(|e| Error::io("create", &temp, e))?;
        file.write_all(bytes).map_err(|e| Error::io("write", &temp, e))?;
        publish(&file, &temp, path)
    })();
    if written.is_err() {
        // Best effort: the write error matters more, and the next open removes what is left.
        let _ = fs::remove_file(&temp);
    }
    written
}

/// Syncs `file`, which was written as `temp`, renames it to `path` and syncs the folder.
///
/// # Errors
/// As [`replace_file`]; `temp` is left in place.
pub fn publish(file: &File, temp: &Path, path: &Path) -> Result<()> {
    let sync_failed = |path: &Path, renamed| {
        let path = path.to_path_buf();
        move |source| Error::SyncFailed { path, source, renamed }
    };
    // Opened before the rename, after which only the device can fail.
    let folder_path = folder_of(path);
    let folder = File::open(folder_path).map_err(|e| Error::io("open", folder_path, e))?;
    file.sync_all().map_err(sync_failed(temp, false))?;
    crate::failpoint::reach("file.renaming");
    fs::rename(temp, path).map_err(|e| Error::io("rename", temp, e))?;
    folder.sync_all().map_err(sync_failed(folder_path, true))
}

/// Makes the names in `folder` durable: files created, renamed or removed there.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be opened, [`Error::SyncFailed`].
pub fn sync_folder(folder: &Path) -> Result<()> {
    let handle = File::open(folder).map_err(|e| Error::io("open", folder, e))?;
    let failed = |source| Error::SyncFailed { path: folder.to_path_buf(), source, renamed: true };
    handle.sync_all().map_err(failed)
}

/// Creates a folder and those above it that are missing, and makes the name of each durable. Costs one sync a
/// folder made, none where all are there; an empty path is the current folder.
///
/// # Errors
/// [`Error::Io`] when a folder cannot be made or a file stands in its place, [`Error::NoSpace`],
/// [`Error::SyncFailed`].
pub fn create_folder(path: &Path) -> Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()).collect();
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            // Another process was faster; whether its name is durable is not known, so it is synced as well.
            Err(e) if e.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
            made => made.map_err(|e| Error::io("create folder", folder, e))?,
        }
        sync_folder(folder_of(folder))?;
    }
    Ok(())
}

/// The bytes of a file that is small unless it is damaged; `None` when there is none.
///
/// # Errors
/// [`Error::Corrupt`] when it has more than `bytes_max` bytes, [`Error::Io`].
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open", path, e)),
    };
    let too_long = || Error::corrupt(path, bytes_max, format!("the file has more than {bytes_max} bytes"));
    // The length by itself is no promise: the file may be a pipe, or grow.
    if file.metadata().map_err(|e| Error::io("stat", path, e))?.len() > bytes_max {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    let read = file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|e| Error::io("read", path, e))?;
    match bytes.len() as u64 > bytes_max {
        true => Err(too_long()),
        false => Ok(Some(bytes)),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_old_bytes_and_leaves_no_temp_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for bytes in [&b"first"[..], b"", b"a longer second version"] {
            replace_file(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_leftover_temp_file_does_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(temp_path(&path), b"left by a crash, longer than the new bytes").unwrap();
        replace_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_failed_rename_keeps_the_old_state_and_removes_the_temp_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"x").unwrap();
        assert!(matches!(replace_file(&path, b"new"), Err(Error::Io { action: "rename", .. })));
        assert!(path.join("inside").exists());
        assert!(!temp_path(&path).exists());
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no").join("file");
        assert!(matches!(replace_file(&path, b"new"), Err(Error::Io { action: "create", .. })));
    }

    #[test]
    fn a_bare_name_lives_in_the_current_folder() {
        assert_eq!(folder_of(Path::new("name")), Path::new("."));
        assert_eq!(folder_of(Path::new("a/name")), Path::new("a"));
    }
    /// The system refuses to sync what is not a file: the only failing sync that a test can have.
    #[test]
    fn a_failed_sync_says_whether_readers_see_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let (temp, path) = (folder.path().join("new"), folder.path().join("file"));
        fs::write(&temp, b"new").unwrap();
        let unsynced = publish(&File::open("/dev/null").unwrap(), &temp, &path);
        assert!(matches!(unsynced, Err(Error::SyncFailed { renamed: false, .. })), "{unsynced:?}");
        assert!(temp.exists() && !path.exists());
        let unsynced = sync_folder(Path::new("/proc/self"));
        assert!(matches!(unsynced, Err(Error::SyncFailed { renamed: true, .. })), "{unsynced:?}");
    }

    #[test]
    fn folders_are_made_with_all_above_them() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        for _ in 0..2 {
            create_folder(&deep).unwrap();
            assert!(deep.is_dir());
        }
        create_folder(Path::new("")).unwrap();
        create_folder(Path::new(".")).unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"x").unwrap();
        for path in [file.clone(), file.join("below")] {
            assert!(matches!(create_folder(&path), Err(Error::Io { .. })), "{path:?}");
        }
    }

    #[test]
    fn a_file_that_should_be_small_is_not_read_whole_when_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert_eq!(read_bounded(&path, 3).unwrap(), None);
        fs::write(&path, b"abc").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap().unwrap(), b"abc");
        assert!(matches!(read_bounded(&path, 2), Err(Error::Corrupt { .. })));
    }
}
