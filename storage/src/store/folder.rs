//! The folder of a store: who may open it, and which format it is.
//!
//! | name      | what                                                                     |
//! |-----------|--------------------------------------------------------------------------|
//! | `FORMAT`  | the marker: format version, state, checksum; text, replaced atomically   |
//! | `LOCK`    | held with an exclusive lock while the store is open; empty               |
//! | `WITNESS` | which commits are durable, see [`witness`](super::witness)               |
//! | `rocksdb` | RocksDB's own files                                                      |
//!
//! A folder without a marker is ours only when it is empty: foreign data is never written over. The marker
//! says `creating` until the first database in it is complete, so that a crash in between leaves a folder
//! that opens. A `ready` marker means that every other file must be there: RocksDB, asked to create what is
//! missing, would otherwise start an empty database over a damaged one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::error::{Error, Result};

/// The format that this build writes and reads.
pub(super) const FORMAT_VERSION: u32 = 2;
/// The first that this build reads: without the bytes of records beside keys.
const FORMAT_VERSION_MIN: u32 = 1;
const MAGIC: &str = "spandrel-store";
const FORMAT: &str = "FORMAT";
/// Longest marker that is read; a whole one has about 50 bytes.
const FORMAT_BYTES_MAX: u64 = 4096;
const LOCK: &str = "LOCK";

/// How far the creation of a store came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing was ever acknowledged: what lies in the folder may be thrown away.
    Creating,
    /// The store is complete.
    Ready,
}

/// A store's folder, locked for this open store.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: Lock,
}

/// A lock on the open file, given back when dropped. Closing the file would not be enough: the lock belongs
/// to every copy of the handle, and a process that another thread is starting holds one until it runs its
/// program.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Without the unlocking, closing still ends the lock in nearly all cases; there is nobody to tell.
        let _ = self.0.unlock();
    }
}

impl Folder {
    /// Creates the folder if it is missing and locks it; says whether it holds a store.
    ///
    /// # Errors
    /// [`Error::Version`] for a foreign folder or another format, [`Error::Locked`], [`Error::Corrupt`] for a
    /// damaged marker, [`Error::Io`].
    pub(super) fn open(path: &Path) -> Result<(Self, State)> {
        durable::create_folder(path)?;
        refuse_foreign(path)?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| Error::io("open", &lock_path, e))?;
        locked(path, lock.try_lock())?;
        let folder = Self { path: path.to_path_buf(), _lock: Lock(lock) };
        // Read under the lock: another process may have created the store since the look above.
        let state = match read_marker(path)? {
            Some((state, FORMAT_VERSION)) => state,
            Some((state, _)) => {
                // An older build is not to take what is written from now on for damage.
                write_marker(path, state)?;
                state
            }
            None => {
                write_marker(path, State::Creating)?;
                State::Creating
            }
        };
        Ok((folder, state))
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where RocksDB's files are.
    pub(super) fn rocksdb(&self) -> PathBuf {
        rocksdb_of(&self.path)
    }

    /// Removes what an unfinished creation left behind.
    pub(super) fn clear(&self) -> Result<()> {
        let rocksdb = self.rocksdb();
        match fs::remove_dir_all(&rocksdb) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", &rocksdb, e)),
            _ => Ok(()),
        }
    }
}

/// Where RocksDB's files are in a store's folder.
pub(super) fn rocksdb_of(folder: &Path) -> PathBuf {
    folder.join("rocksdb")
}

/// Keeps a store from being opened while it is copied; several may copy. `None` where there is no lock file
/// and none can be made, as on a disk that is read only.
///
/// # Errors
/// [`Error::Locked`] when the store is open, [`Error::Io`].
pub(super) fn lock_source(path: &Path) -> Result<Option<Lock>> {
    let lock_path = path.join(LOCK);
    let opened = match File::open(&lock_path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            OpenOptions::new().create(true).append(true).open(&lock_path)
        }
        opened => opened,
    };
    let lock = match opened {
        Ok(lock) => lock,
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            return Ok(None);
        }
        Err(e) => return Err(Error::io("open", &lock_path, e)),
    };
    locked(path, lock.try_lock_shared())?;
    Ok(Some(Lock(lock)))
}

fn locked(folder: &Path, tried: Result<(), TryLockError>) -> Result<()> {
    tried.map_err(|e| match e {
        TryLockError::WouldBlock => Error::Locked { path: folder.to_path_buf() },
        TryLockError::Error(e) => Error::io("lock", &folder.join(LOCK), e),
    })
}

/// Writes the marker of a folder.
pub(super) fn write_marker(folder: &Path, state: State) -> Result<()> {
    durable::replace_file(&folder.join(FORMAT), marker_text(FORMAT_VERSION, state).as_bytes())
}

fn marker_text(version: u32, state: State) -> String {
    let state = match state {
        State::Creating => "creating",
        State::Ready => "ready",
    };
    let body = format!("{MAGIC} {version}\nstate {state}\n");
    format!("{body}check {:08x}\n", crc32c::crc32c(body.as_bytes()))
}

/// The state in the marker of a folder, and its version; none when there is no marker.
///
/// # Errors
/// [`Error::Version`] for another format, [`Error::Corrupt`] when the marker is damaged.
pub(super) fn read_marker(folder: &Path) -> Result<Option<(State, u32)>> {
    let path = folder.join(FORMAT);
    let Some(bytes) = durable::read_bounded(&path, FORMAT_BYTES_MAX)? else { return Ok(None) };
    for version in FORMAT_VERSION_MIN..=FORMAT_VERSION {
        for state in [State::Creating, State::Ready] {
            if bytes == marker_text(version, state).as_bytes() {
                return Ok(Some((state, version)));
            }
        }
    }
    // Not ours byte for byte: a whole marker of another version, or damage.
    let text = String::from_utf8_lossy(&bytes);
    let first = text.lines().next().unwrap_or_default();
    let version = first.strip_prefix(MAGIC).and_then(|rest| rest.trim().parse::<u32>().ok());
    let intact = text
        .rsplit_once("check ")
        .is_some_and(|(body, check)| check.trim() == format!("{:08x}", crc32c::crc32c(body.as_bytes())));
    match version {
        Some(version) if intact && !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version) => {
            let what = if version > FORMAT_VERSION {
                format!(
                    "format {version} was written by a newer Spandrel, this build reads {FORMAT_VERSION}; \
                     open it with the newer version"
                )
            } else {
                format!(
                    "format {version} was written by an older Spandrel, this build reads {FORMAT_VERSION}; \
                     export it with the older version and import it here"
                )
            };
            Err(Error::Version { path: folder.to_path_buf(), what })
        }
        _ => Err(Error::corrupt(&path, 0, "the format marker does not match its checksum")),
    }
}

/// Refuses a folder that holds anything but no marker and nothing of a store.
fn refuse_foreign(path: &Path) -> Result<()> {
    let marker = path.join(FORMAT);
    if marker.exists() {
        return Ok(());
    }
    let cut_short = durable::temp_path(&marker);
    for entry in fs::read_dir(path).map_err(|e| Error::io("list", path, e))? {
        let entry = entry.map_err(|e| Error::io("list", path, e))?;
        let name = entry.file_name();
        // What a creation that was cut off leaves before its marker is in place.
        if name == LOCK || entry.path() == cut_short {
            continue;
        }
        return Err(Error::Version {
            path: path.to_path_buf(),
            what: format!(
                "the folder holds '{}' and no {FORMAT} marker, so it is not a Spandrel store; open an \
                 empty or new folder",
                name.to_string_lossy()
            ),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_ends_though_a_starting_process_has_a_copy_of_the_handle() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, _) = Folder::open(dir.path()).unwrap();
        let copy = folder._lock.0.try_clone().unwrap();
        assert!(matches!(Folder::open(dir.path()), Err(Error::Locked { .. })));
        drop(folder);
        Folder::open(dir.path()).unwrap();
        drop(copy);
    }
}
