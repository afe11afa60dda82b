//! tantivy's view of a segment file: a read-only directory over sections in memory.
//!
//! tantivy names its files by a random id; sections have fixed names, so that the same rows give the same
//! bytes. Nothing is copied: a file handle is a view of the section's bytes. Every write is refused. There is
//! one segment and it never changes, so that locks and watches are empty.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tantivy::Directory;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{DirectoryLock, FileHandle, Lock, OwnedBytes, WatchCallback, WatchHandle, WritePtr};

/// The id that stands for the segment's random one, in both of tantivy's spellings.
pub(super) const SEGMENT_ID: [&str; 2] =
    ["00000000000000000000000000000000", "00000000-0000-0000-0000-000000000000"];
/// tantivy's file of index settings, schema and segments.
pub(super) const META: &str = "meta.json";
/// The extensions of the files of a segment, each a section `text.{extension}`.
pub(super) const EXTENSIONS: [&str; 6] = ["idx", "term", "pos", "fieldnorm", "fast", "store"];

/// Files by tantivy's names.
#[derive(Clone, Debug)]
pub(super) struct SectionDirectory {
    files: Arc<HashMap<PathBuf, OwnedBytes>>,
}

impl SectionDirectory {
    pub(super) fn new(files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>) -> Self {
        let files = files.into_iter().map(|(path, bytes)| (path, OwnedBytes::new(bytes)));
        Self { files: Arc::new(files.collect()) }
    }

    fn file(&self, path: &Path) -> Result<&OwnedBytes, OpenReadError> {
        self.files.get(path).ok_or_else(|| OpenReadError::FileDoesNotExist(path.to_path_buf()))
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a text index on disk never changes")
}

impl Directory for SectionDirectory {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        Ok(Arc::new(self.file(path)?.clone()))
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        Ok(self.files.contains_key(path))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        Ok(self.file(path)?.as_slice().to_vec())
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        Err(DeleteError::IoError { io_error: Arc::new(refused()), filepath: path.to_path_buf() })
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        Err(OpenWriteError::wrap_io_error(refused(), path.to_path_buf()))
    }

    fn atomic_write(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        Err(refused())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Err(refused())
    }

    fn acquire_lock(&self, _: &Lock) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::from(Box::new(())))
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}
