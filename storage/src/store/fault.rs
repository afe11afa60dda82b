//! What a failure of RocksDB is to the caller: a full disk, a system that refuses, or damage.
//!
//! RocksDB's C interface hands over a text whose first words name a kind; the cause stands behind them.

use std::io;
use std::path::Path;

use super::Engine;
use super::folder::rocksdb_of;
use crate::error::Error;

/// What the system says when it refuses, which is no word about the bytes of a file.
const REFUSALS: [(&str, io::ErrorKind); 5] = [
    ("Permission denied", io::ErrorKind::PermissionDenied),
    ("Too many open files", io::ErrorKind::Other),
    ("Cannot allocate memory", io::ErrorKind::OutOfMemory),
    ("While lock file", io::ErrorKind::ResourceBusy),
    ("Input/output error", io::ErrorKind::Other),
];

/// RocksDB's error as ours. `folder` is the store's.
pub(super) fn error_of(folder: &Path, error: rocksdb::Error) -> Error {
    let kind = error.kind();
    classify(folder, &kind, error.into_string())
}

/// RocksDB's error while it read what it wrote: anything that is not the system's refusal is damage.
pub(super) fn read_error_of(folder: &Path, error: rocksdb::Error) -> Error {
    let kind = error.kind();
    classify_read(folder, &kind, error.into_string())
}

fn classify(folder: &Path, kind: &rocksdb::ErrorKind, what: String) -> Error {
    if ["No space left", "Disk quota exceeded", "NoSpace"].iter().any(|reason| what.contains(reason)) {
        return Error::NoSpace { path: folder.to_path_buf(), what };
    }
    if let Some(kind) = refusal(&what) {
        return refused(folder, kind, what);
    }
    match kind {
        rocksdb::ErrorKind::Corruption => Error::corrupt(&rocksdb_of(folder), 0, what),
        rocksdb::ErrorKind::IOError if what.contains("No such file") => {
            Error::corrupt(&rocksdb_of(folder), 0, what)
        }
        rocksdb::ErrorKind::IOError => refused(folder, io::ErrorKind::Other, what),
        _ => Error::Rocks(what),
    }
}

fn classify_read(folder: &Path, kind: &rocksdb::ErrorKind, what: String) -> Error {
    let refused = refusal(&what).is_some();
    match classify(folder, kind, what.clone()) {
        Error::Rocks(_) | Error::Io { .. } if !refused => Error::corrupt(&rocksdb_of(folder), 0, what),
        other => other,
    }
}

/// The system's refusal in a text of RocksDB, if there is one.
fn refusal(what: &str) -> Option<io::ErrorKind> {
    REFUSALS.iter().find(|(text, _)| what.contains(text)).map(|(_, kind)| *kind)
}

fn refused(folder: &Path, kind: io::ErrorKind, what: String) -> Error {
    let source = io::Error::new(kind, what);
    Error::Io { action: "use the row store in", path: folder.to_path_buf(), source }
}

impl Engine {
    /// RocksDB's error as ours.
    pub(super) fn error(&self, error: rocksdb::Error) -> Error {
        error_of(self.path(), error)
    }

    /// RocksDB's error of a read as ours.
    pub(super) fn read_error(&self, error: rocksdb::Error) -> Error {
        read_error_of(self.path(), error)
    }

    pub(super) fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::corrupt(&self.closing.folder.rocksdb(), 0, what)
    }
}

#[cfg(test)]
mod tests {
    use rocksdb::ErrorKind::{Corruption, IOError, Unknown};

    use super::*;

    #[test]
    fn refusals_of_the_system_are_told_from_damage() {
        let folder = Path::new("store");
        let eio = "IO error: While pread offset 0 len 53: store/rocksdb/000009.sst: Input/output error";
        for (kind, what) in [(&IOError, eio), (&IOError, "IO error: While open: x: Too many open files")] {
            for error in [classify(folder, kind, what.into()), classify_read(folder, kind, what.into())] {
                let text = error.to_string();
                assert!(matches!(error, Error::Io { .. }) && text.contains(what), "{text}");
            }
        }
        for (kind, what) in [
            (&IOError, "IO error: While open a file for random read: x: No such file or directory"),
            (&Corruption, "Corruption: block checksum mismatch"),
            (&IOError, "IO error: while reading past the end"),
            (&Unknown, "something else"),
        ] {
            assert!(matches!(classify_read(folder, kind, what.into()), Error::Corrupt { .. }), "{what}");
        }
        let full = "IO error: No space left on device: While appending to file: x";
        assert!(matches!(classify(folder, &IOError, full.into()), Error::NoSpace { .. }));
        assert!(matches!(classify(folder, &Unknown, "something else".into()), Error::Rocks(_)));
        assert!(matches!(classify(folder, &IOError, "IO error: close".into()), Error::Io { .. }));
    }
}
