//! Backup: a checkpoint is a second folder that opens as a store, made of hard links to files that never
//! change.
//!
//! A checkpoint on the same disk takes no space at first and a few milliseconds plus a flush; on another disk
//! it is a copy. [`restore`] copies a checkpoint to where it is to be opened, so that the backup itself stays
//! untouched.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rocksdb::checkpoint::Checkpoint;

use super::Store;
use super::fault::error_of;
use super::folder::{self, State, rocksdb_of};
use super::witness::Witness;
use crate::durable;
use crate::error::{Error, Result};

impl Store {
    /// Writes a checkpoint into `dir`, which must not exist or be empty. It holds every commit that returned
    /// before the call, and opens as a store. The marker is written last: a checkpoint that was cut off does
    /// not open.
    ///
    /// # Errors
    /// [`Error::Exists`] when `dir` holds something; [`Error::NoSpace`], [`Error::Io`]; [`Error::Poisoned`].
    pub fn checkpoint(&self, dir: &Path) -> Result<()> {
        let engine = &*self.engine;
        check_empty(dir)?;
        durable::create_folder(dir)?;
        let commits = engine.writer()?.commits;
        Checkpoint::new(&engine.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(rocksdb_of(dir)))
            .map_err(|e| error_of(dir, e))?;
        Witness::create(dir, commits)?;
        durable::sync_folder(dir)?;
        folder::write_marker(dir, State::Ready)
    }
}

/// Copies the checkpoint in `from` to the folder `to`, which must not exist or be empty. `to` then opens as a
/// store.
///
/// # Errors
/// [`Error::NotFound`] when `from` is no whole checkpoint, [`Error::Locked`] when it is open,
/// [`Error::Exists`] when `to` holds something, [`Error::Version`] for a checkpoint of another format,
/// [`Error::NoSpace`], [`Error::Io`], [`Error::SyncFailed`].
pub fn restore(from: &Path, to: &Path) -> Result<()> {
    if folder::read_marker(from)?.is_none_or(|(state, _)| state != State::Ready) {
        return Err(Error::NotFound { what: format!("a whole backup in {}", from.display()) });
    }
    check_empty(to)?;
    // Opened and written to meanwhile, it would be copied as it never was.
    let _lock = folder::lock_source(from)?;
    durable::create_folder(&rocksdb_of(to))?;
    let account = Witness::open(from)?.account();
    copy_files(&rocksdb_of(from), &rocksdb_of(to))?;
    Witness::create(to, account.commits)?;
    folder::write_marker(to, State::Ready)
}

/// Refuses a folder that holds anything.
fn check_empty(dir: &Path) -> Result<()> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(Error::Exists { what: format!("something in {}", dir.display()) }),
            None => Ok(()),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("list", dir, e)),
    }
}

/// Copies the files of one folder, durably.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(|e| Error::io("list", from, e))? {
        let source = entry.map_err(|e| Error::io("list", from, e))?.path();
        let Some(name) = source.file_name().filter(|_| source.is_file()) else { continue };
        let target = to.join(name);
        fs::copy(&source, &target).map_err(|e| Error::io("copy to", &target, e))?;
        let file = File::open(&target).map_err(|e| Error::io("open", &target, e))?;
        let failed = |source| Error::SyncFailed { path: target.clone(), source, renamed: false };
        file.sync_all().map_err(failed)?;
    }
    durable::sync_folder(to)
}
