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
//! and writing on could give its RowIds to other rows. So any failed write poisons the store: every later
//! write is refused with [`Error::Poisoned`] until the store is reopened, which replays what is whole in the
//! log. Reads go on. A disk that is nearly full is found before the write by [`StoreOptions::reserve_bytes`]
//! and reported as [`Error::NoSpace`] with nothing written and nothing poisoned; when RocksDB itself runs
//! into the full disk, the first error is [`Error::NoSpace`] too, and the store is poisoned.

mod audit;
mod backup;
mod catalogue;
mod commit;
mod folder;
mod layout;
mod options;
mod snapshot;
mod space;
mod witness;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rocksdb::{ColumnFamily, DB, FlushOptions, WriteBatch, WriteOptions};

use self::folder::{Folder, State};
use self::witness::Witness;
use crate::error::{Error, Result};
use crate::id::CollectionId;

pub use self::backup::restore;
pub use self::catalogue::CollectionMeta;
pub use self::commit::{Commit, Entry};
pub use self::options::StoreOptions;
pub use self::snapshot::{Records, StoreSnapshot};
pub use self::space::StoreStats;

/// How long a write waits between looks at a stall, and before it takes failing flushes for its reason.
const STALL_POLL: Duration = Duration::from_millis(2);
const STALL_MAX: Duration = Duration::from_secs(30);

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
    live: HashSet<CollectionId>,
    /// Makes the next write fail, once.
    #[cfg(test)]
    fault: bool,
}

impl Store {
    /// Opens the store in a folder; creates folder and store where there is none.
    ///
    /// Reads the write-ahead log that a crash left, at most four times `options.write_buffer_bytes`.
    ///
    /// # Errors
    /// [`Error::Version`] for a folder that holds something else, or a store of another format;
    /// [`Error::Locked`] when it is open already, here or in another process; [`Error::Corrupt`] when
    /// something that was acknowledged as durable is damaged or missing; [`Error::NoSpace`], [`Error::Io`].
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
            live: HashSet::new(),
            #[cfg(test)]
            fault: false,
        };
        let mut engine = Engine {
            db,
            closing: Closing { folder, writer: Mutex::new(writer) },
            options: options.clone(),
            compaction: Mutex::new(()),
        };
        engine.begin(expected)?;
        if state == State::Creating {
            folder::sync_folder(path)?;
            folder::write_marker(path, State::Ready)?;
        }
        Ok(Self { engine: Arc::new(engine) })
    }

    /// Makes every commit that returned durable.
    ///
    /// # Errors
    /// [`Error::Poisoned`], now or earlier; [`Error::NoSpace`].
    pub fn sync(&self) -> Result<()> {
        let mut writer = self.engine.writer()?;
        #[cfg(test)]
        self.engine.fault(&mut writer)?;
        if let Err(e) = self.engine.db.flush_wal(true) {
            return Err(self.engine.poison(&mut writer, e));
        }
        writer.note_durable();
        Ok(())
    }

    /// Whether the store takes writes.
    ///
    /// # Errors
    /// [`Error::Poisoned`] after a failed write.
    pub fn check_writable(&self) -> Result<()> {
        self.engine.writer().map(drop)
    }

    /// Flushes what is in memory and closes the store. The folder is released when the last [`StoreSnapshot`]
    /// is dropped, at once if there is none.
    ///
    /// # Errors
    /// Those of the flush; [`Error::Poisoned`] after a failed write, when nothing is flushed. What was
    /// acknowledged is in the log and is replayed by the next open.
    pub fn close(self) -> Result<()> {
        drop(self.engine.writer()?);
        self.engine.flush()
    }
}

fn open_database(folder: &Folder, state: State, options: &StoreOptions) -> Result<DB> {
    let create = state == State::Creating;
    let path = folder.rocksdb();
    let open = || {
        let database = options.database(create)?;
        DB::open_cf_descriptors(&database, &path, options.families())
    };
    open().map_err(|e| match error_of(folder.path(), e) {
        // The folder is ours and was complete, and its logs are whole: what RocksDB finds missing is lost.
        Error::Rocks(what) if !create && !is_resource(&what) => Error::corrupt(&path, 0, what),
        other => other,
    })
}

/// Whether the system refused a resource, which says nothing about the files.
fn is_resource(what: &str) -> bool {
    [
        "Permission denied",
        "Too many open files",
        "Cannot allocate memory",
        "While lock file",
        "Input/output error",
    ]
    .iter()
    .any(|reason| what.contains(reason))
}

/// RocksDB's error as ours. `folder` is the store's.
fn error_of(folder: &Path, error: rocksdb::Error) -> Error {
    let kind = error.kind();
    let what = error.into_string();
    if ["No space left", "Disk quota exceeded", "NoSpace"].iter().any(|reason| what.contains(reason)) {
        return Error::NoSpace { path: folder.to_path_buf(), what };
    }
    match kind {
        rocksdb::ErrorKind::Corruption => Error::corrupt(&folder::rocksdb_of(folder), 0, what),
        rocksdb::ErrorKind::IOError if what.contains("No such file") => {
            Error::corrupt(&folder::rocksdb_of(folder), 0, what)
        }
        _ => Error::Rocks(what),
    }
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

    /// RocksDB's error as ours.
    fn error(&self, error: rocksdb::Error) -> Error {
        error_of(self.path(), error)
    }

    /// RocksDB's error while it read what it wrote: anything that is not the system's refusal is damage.
    fn read_error(&self, error: rocksdb::Error) -> Error {
        match self.error(error) {
            Error::Rocks(what) if !is_resource(&what) => self.corrupt(what),
            other => other,
        }
    }

    fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::corrupt(&self.closing.folder.rocksdb(), 0, what)
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
        let live = catalogue::read(self)?.into_iter().map(|meta| meta.id).collect();
        let writer = self.closing.writer.get_mut();
        writer.commits = commits;
        writer.live = live;
        writer.witness.begin(commits)
    }

    fn meta_get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get_cf(self.meta(), key).map_err(|e| self.read_error(e))
    }

    /// The right to write.
    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self.closing.writer.lock();
        match &writer.poison {
            Some(what) => Err(Error::Poisoned { what: what.clone() }),
            None => Ok(writer),
        }
    }

    /// Writes one batch: the only way into the database. `build` is called again when the batch has to wait.
    ///
    /// RocksDB itself never waits here. It would wait for memory to be flushed even when no flush can
    /// succeed: with a full disk, until a person frees 64 MB, holding every writer. Told not to, it refuses
    /// before the log is touched.
    fn write(
        &self,
        writer: &mut Writer,
        mut build: impl FnMut() -> Result<WriteBatch>,
        durability: Durability,
    ) -> Result<()> {
        #[cfg(test)]
        self.fault(writer)?;
        let mut how = WriteOptions::default();
        how.set_sync(durability == Durability::Sync);
        how.set_no_slowdown(true);
        let commits = writer.commits + 1;
        let sequence = self.db.latest_sequence_number() + 1;
        let started = Instant::now();
        loop {
            let mut batch = build()?;
            self.check_space(batch.size_in_bytes() as u64)?;
            batch.put_cf(self.meta(), layout::COMMITS, commits.to_le_bytes());
            match self.db.write_opt(batch, &how) {
                Ok(()) => break,
                Err(e) if e.kind() == rocksdb::ErrorKind::Incomplete => self.wait_for_flush(started)?,
                Err(e) => return Err(self.poison(writer, e)),
            }
        }
        (writer.commits, writer.sequence) = (commits, sequence);
        if durability == Durability::Sync {
            writer.note_durable();
        }
        Ok(())
    }

    /// Gives flushes and compactions, which are behind, a moment; gives up when they fail.
    fn wait_for_flush(&self, started: Instant) -> Result<()> {
        std::thread::sleep(STALL_POLL);
        if started.elapsed() < STALL_MAX || self.background_errors()? == 0 {
            return Ok(());
        }
        Err(Error::Rocks(
            "writes wait for flushes and compactions that fail; nothing was written, and the LOG file in the \
             store's folder has the reason"
                .into(),
        ))
    }

    /// Refuses a write that would leave less than the reserve.
    fn check_space(&self, batch_bytes: u64) -> Result<()> {
        let reserve_bytes = self.options.reserve_bytes;
        if reserve_bytes == 0 {
            return Ok(());
        }
        let free_bytes = space::free_bytes(self.path())?;
        if free_bytes >= reserve_bytes.saturating_add(batch_bytes) {
            return Ok(());
        }
        Err(Error::NoSpace {
            path: self.path().to_path_buf(),
            what: format!("{free_bytes} bytes are free, and {reserve_bytes} are kept in reserve"),
        })
    }

    /// Takes no further writes; returns the error for the failed one.
    fn poison(&self, writer: &mut Writer, error: rocksdb::Error) -> Error {
        let error = self.error(error);
        let what = error.to_string();
        tracing::error!(%what, "a write failed: the row store takes no further writes until it is reopened");
        writer.poison.get_or_insert(what.clone());
        match error {
            Error::NoSpace { .. } | Error::Corrupt { .. } => error,
            _ => Error::Poisoned { what },
        }
    }

    /// Moves everything from memory into tables.
    fn flush(&self) -> Result<()> {
        let mut how = FlushOptions::default();
        how.set_wait(true);
        // `meta` last: it has the commit number that vouches for the others.
        self.db.flush_cfs_opt(&[self.rows(), self.keys(), self.meta()], &how).map_err(|e| self.error(e))
    }

    #[cfg(test)]
    fn fault(&self, writer: &mut Writer) -> Result<()> {
        if std::mem::take(&mut writer.fault) {
            let what = "injected".to_owned();
            writer.poison = Some(what.clone());
            return Err(Error::Poisoned { what });
        }
        Ok(())
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

impl Writer {
    /// Tells the witness that every commit so far is durable. A witness that cannot be written only checks
    /// less.
    fn note_durable(&mut self) {
        if let Err(error) = self.witness.record(self.commits, self.sequence) {
            tracing::warn!(%error, "the witness of durable commits is not written");
        }
    }
}

#[cfg(test)]
mod tests;
