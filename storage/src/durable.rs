//! How a file is replaced so that a crash leaves the old bytes or the new ones, never a mixture.
//!
//! The new bytes go to `<name>.tmp` in the same folder, are synced, renamed over the old name, and the folder
//! is synced. A power cut before the rename leaves the old file and perhaps a `.tmp`, which the next open
//! removes. Not for data that grows: each replacement writes the whole file and waits for two syncs of the
//! device.
//!
//! A failed sync is final: the kernel may have dropped the dirty pages, so that a second sync would lie. The
//! temp file is removed and the error returned; nothing is retried.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
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
/// When the file cannot be written, synced or renamed. The old file is then still there, except after a
/// failure to sync the folder: the new file is visible but may be gone after a power cut.
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
    file.sync_all().map_err(|e| Error::io("sync", temp, e))?;
    crate::failpoint::reach("file.renaming");
    fs::rename(temp, path).map_err(|e| Error::io("rename", temp, e))?;
    sync_folder(folder_of(path))
}

/// Makes the names in `folder` durable: files created, renamed or removed there.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<()> {
    let handle = File::open(folder).map_err(|e| Error::io("open", folder, e))?;
    handle.sync_all().map_err(|e| Error::io("sync", folder, e))
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
}
