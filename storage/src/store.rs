//! The row store: what is true, on RocksDB. The only home of RocksDB in this engine.
//!
//! It answers which collections and tenants there are, what a row holds, which row a key names, and what was
//! written after a RowId. It is not for search: segments are derived from it and can be rebuilt from it.
//!
//! Three column families share one write-ahead log, so that a [`Commit`], one write batch, is whole or
//! absent: `rows` holds one [record](crate::record) a RowId and is the engine's log, `keys` says which RowId
//! a key names, `meta` holds the catalogue. An upsert writes a record under a new RowId and deletes the one
//! it replaces; readers hold a [`StoreSnapshot`], so older ones still see it. Large records lie in blob
//! files, which compaction does not rewrite.
//!
//! A commit costs one copy of its bytes into the log and one into memory, and with [`Durability::Sync`] one
//! fsync; a read costs a lookup in memory or one or two reads from disk. See the example `commit_rate` for
//! figures.
//!
//! # When a write fails
//! A write that RocksDB could not finish leaves the log in an unknown state: the record may be whole in it,
//! and writing on could give its RowIds to other rows. So any failed write poisons the store: it and every
//! later one return [`Poisoned`](crate::Error::Poisoned), with the cause in its text, until the store is
//! reopened, which replays what is whole in the log. Reads go on. A disk that is nearly full is found before
//! the write by [`StoreOptions::reserve_bytes`] and reported as [`NoSpace`](crate::Error::NoSpace), with
//! nothing written and nothing poisoned; a full disk that RocksDB itself runs into poisons like any other
//! failure.

pub(crate) mod audit;
mod backup;
pub(crate) mod catalogue;
mod commit;
mod descriptors;
mod fault;
mod folder;
mod layout;
mod options;
mod snapshot;
mod space;
pub(crate) mod witness;
mod write;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rocksdb::{ColumnFamily, DB, FlushOptions};

use self::folder::{Folder, State};
use self::witness::Witness;
use crate::error::Result;
use crate::id::{CollectionId, RowId};

pub use self::backup::restore;
pub use self::catalogue::CollectionMeta;
pub use self::commit::{Commit, Entry};
pub use self::options::StoreOptions;
pub use self::snapshot::{Grant, Records, StoreSnapshot};
pub use self::space::StoreStats;

/// When a commit returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After an fsync of the log: the commit survives a power failure.
    #[default]
    Sync,
    /// After a write to the log: the commit survives the end of the process, and a power failure once
    /// [`Store::sync`] or a later durable commit returned.
    Buffered,
}

/// An open row store. Cheap to share by reference; commits take turns, reads do not wait for them.
///
/// Dropping it flushes what is in memory, so that the next open has nothing to replay. The folder stays
/// locked until the last [`StoreSnapshot`] is dropped too.
#[derive(Debug)]
pub struct Store {
    engine: Arc<Engine>,
}

/// What a store and its snapshots share. Fields drop in this order: RocksDB closes before the folder is
/// released.
struct Engine {
    db: DB,
    closing: Closing,
    options: StoreOptions,
    /// Number of the last commit, for those who only want to know it.
    commits: AtomicU64,
    /// Held by one compaction at a time: it changes a setting for its duration.
    compaction: Mutex<()>,
}

/// What outlives the database: its witness is written, and its folder released, when RocksDB is closed.
struct Closing {
    folder: Folder,
    writer: Mutex<Writer>,
}

/// What a write needs to itself.
struct Writer {
    witness: Witness,
    /// Number of the last commit.
    commits: u64,
    /// RocksDB's sequence number of the last commit's first entry.
    sequence: u64,
    /// The first failed write.
    poison: Option<String>,
    /// Everything is in tables, and nothing will be written any more.
    flushed: bool,
    /// The collections there are, and the highest RowId that each ever had.
    last_rows: HashMap<CollectionId, RowId>,
    /// Makes the next write fail, once.
    #[cfg(test)]
    fault: bool,
}

impl Store {
    /// Opens the store in a folder; creates folder and store where there is none.
    ///
    /// Reads the write-ahead log that a crash left, at most four times `options.write_buffer_bytes`. Raises
    /// the process's soft limit of open files towards the hard one, which RocksDB and segment files need.
    ///
    /// # Errors
    /// [`Version`](crate::Error::Version) for a folder that holds something else, or a store of another
    /// format; [`Locked`](crate::Error::Locked) when it is open already, here or in another process;
    /// [`Corrupt`](crate::Error::Corrupt) when something that was acknowledged as durable is damaged or
    /// missing; [`NoSpace`](crate::Error::NoSpace), [`Io`](crate::Error::Io),
    /// [`SyncFailed`](crate::Error::SyncFailed).
    pub fn open(path: &Path, options: &StoreOptions) -> Result<Self> {
        let (folder, state) = Folder::open(path)?;
        if state == State::Creating {
            folder.clear()?;
            Witness::create(path, 0)?;
        }
        let mut witness = Witness::open(path)?;
        if state == State::Ready {
            audit::audit(&folder.rocksdb(), &witness.account())?;
        }
        witness.retract()?;
        let db = open_database(&folder, state, options)?;
        let expected = witness.account().commits;
        let writer = Writer {
            witness,
            commits: 0,
            sequence: 0,
            poison: None,
            flushed: false,
            last_rows: HashMap::new(),
            #[cfg(test)]
            fault: false,
        };
        let mut engine = Engine {
            db,
            closing: Closing { folder, writer: Mutex::new(writer) },
            options: options.clone(),
            commits: AtomicU64::new(0),
            compaction: Mutex::new(()),
        };
        engine.begin(expected)?;
        if state == State::Creating {
            crate::durable::sync_folder(path)?;
            folder::write_marker(path, State::Ready)?;
        }
        Ok(Self { engine: Arc::new(engine) })
    }

    /// Flushes what is in memory and closes the store, as dropping it does, and returns the flush's error:
    /// for tests and measurements, which want to know. The folder is released when the last [`StoreSnapshot`]
    /// is dropped, at once if there is none.
    ///
    /// # Errors
    /// Those of the flush; [`Poisoned`](crate::Error::Poisoned) after a failed write, when nothing is
    /// flushed. What was acknowledged is in the log and is replayed by the next open.
    pub fn close(self) -> Result<()> {
        drop(self.engine.writer()?);
        self.engine.flush()
    }
}

fn open_database(folder: &Folder, state: State, options: &StoreOptions) -> Result<DB> {
    let create = state == State::Creating;
    let path = folder.rocksdb();
    let open = || {
        let database = options.database(create, descriptors::allowed())?;
        DB::open_cf_descriptors(&database, &path, options.families())
    };
    open().map_err(|e| match create {
        true => fault::error_of(folder.path(), e),
        // The folder is ours and was complete, and its logs are whole: what RocksDB finds missing is lost.
        false => fault::read_error_of(folder.path(), e),
    })
}

impl Engine {
    fn rows(&self) -> &ColumnFamily {
        self.db.cf_handle(layout::ROWS).expect("opened with this family")
    }

    fn keys(&self) -> &ColumnFamily {
        self.db.cf_handle(layout::KEYS).expect("opened with this family")
    }

    fn meta(&self) -> &ColumnFamily {
        self.db.cf_handle(layout::META).expect("opened with this family")
    }

    fn path(&self) -> &Path {
        self.closing.folder.path()
    }

    /// Compares what was recovered with the witness, and starts a session.
    fn begin(&mut self, expected: u64) -> Result<()> {
        let commits = match self.meta_get(layout::COMMITS)? {
            Some(value) => layout::value_u64(&value).ok_or_else(|| self.corrupt("the commit number"))?,
            None => 0,
        };
        if commits < expected {
            return Err(self.corrupt(format!(
                "commit {expected} was acknowledged as durable, the log ends at commit {commits}"
            )));
        }
        let mut last_rows = HashMap::new();
        for meta in catalogue::read(self)? {
            last_rows.insert(meta.id, self.last_row_id(meta.id)?);
        }
        let writer = self.closing.writer.get_mut();
        writer.commits = commits;
        writer.last_rows = last_rows;
        self.commits.store(commits, Ordering::Relaxed);
        writer.witness.begin(commits)
    }

    fn meta_get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get_cf(self.meta(), key).map_err(|e| self.read_error(e))
    }

    /// Moves everything from memory into tables.
    fn flush(&self) -> Result<()> {
        let mut how = FlushOptions::default();
        how.set_wait(true);
        // `meta` last: it has the commit number that vouches for the others.
        self.db.flush_cfs_opt(&[self.rows(), self.keys(), self.meta()], &how).map_err(|e| self.error(e))
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.closing.writer.get_mut().poison.is_some() {
            return;
        }
        match self.flush() {
            Ok(()) => self.closing.writer.get_mut().flushed = true,
            Err(error) => {
                tracing::warn!(%error, "the row store is closed without a flush; its log will be replayed")
            }
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let writer = self.writer.get_mut();
        if !writer.flushed {
            return;
        }
        let check = audit::manifest_check(&self.folder.rocksdb());
        if let Err(error) = check.and_then(|(_, check)| writer.witness.finish(writer.commits, check)) {
            tracing::warn!(%error, "the row store's clean close is not noted");
        }
    }
}

#[cfg(test)]
mod tests;
