//! What can go wrong below the indexes, each with the payload that a person needs to act on it.

use std::path::{Path, PathBuf};

/// Result of storage operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the storage layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was attempted, for example `open`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Bytes on disk are not what was written. `offset` is in bytes from the start of `file`.
    #[error("{} is damaged at byte {offset}: {what}", file.display())]
    Corrupt {
        /// The damaged file, or the folder of a RocksDB database.
        file: PathBuf,
        /// Where the damage was seen.
        offset: u64,
        /// What was expected and found.
        what: String,
    },
    /// A folder or file of another format version, or not one of ours at all.
    #[error("{}: {what}", path.display())]
    Version {
        /// The refused folder or file.
        path: PathBuf,
        /// What was found, what this build reads and what to do.
        what: String,
    },
    /// Another process has the database open.
    #[error("{} is locked by another process; stop it, or open another folder", path.display())]
    Locked {
        /// The database folder.
        path: PathBuf,
    },
    /// A write failed, this one or an earlier one, and what of it is on disk is unknown until the database is
    /// reopened.
    #[error(
        "the database is poisoned by a failed write ({what}); reopen it to recover what was acknowledged, and if \
         that fails again restore a backup"
    )]
    Poisoned {
        /// The first failure, its cause included.
        what: String,
    },
    /// The system could not make a file or a folder's names durable. A second sync would lie, as the kernel
    /// may have dropped what it could not write: nothing may be acknowledged on the strength of this file.
    #[error("sync {}: {source}; reopen the database to see what is on disk", path.display())]
    SyncFailed {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
        /// Whether names were changed already: readers see the new file, and a power cut may take it back.
        /// When false, the old file is in place.
        renamed: bool,
    },
    /// The disk or the quota is full; the write was refused before any of it counted, and may be tried again.
    #[error("no space left under {}: {what}; free some space and retry", path.display())]
    NoSpace {
        /// The database folder.
        path: PathBuf,
        /// The system's message.
        what: String,
    },
    /// A name already in use.
    #[error("{what} already exists")]
    Exists {
        /// Which thing.
        what: String,
    },
    /// A name or id that is not there.
    #[error("{what} does not exist")]
    NotFound {
        /// Which thing.
        what: String,
    },
    /// A schema, row or argument outside the documented limits.
    #[error("{0}")]
    Invalid(String),
    /// RocksDB failed in a way that has no variant of its own.
    #[error("row store: {0}")]
    Rocks(String),
}

impl Error {
    /// An [`Error::Io`], or [`Error::NoSpace`] where the system says so.
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path: path.to_path_buf(), what: source.to_string() }
            }
            _ => Self::Io { action, path: path.to_path_buf(), source },
        }
    }

    /// An [`Error::Corrupt`].
    pub fn corrupt(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_path_buf(), offset, what: what.into() }
    }
}
