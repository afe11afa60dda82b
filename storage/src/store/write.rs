//! The one way into the database: a batch is written whole, refused before it is begun, or poisons the store.
//!
//! Costs one look at the free space of the disk and one write of RocksDB a batch. What poisoning means is in
//! the head of `store.rs`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;
use rocksdb::{WriteBatch, WriteOptions, properties};

use super::{Durability, Engine, Store, Writer, layout, space};
use crate::error::{Error, Result};

/// How long a write waits between looks at a stall, and before it takes failing flushes for its reason.
const STALL_POLL: Duration = Duration::from_millis(2);
const STALL_MAX: Duration = Duration::from_secs(30);
/// Free bytes without which RocksDB, once a flush has failed on a full disk, does not try again.
const RESUME_BYTES: u64 = 64 << 20;
/// The share of the reserve that deletes and drops leave alone.
const FREEING_SHARE: u64 = 8;

/// What a write is for, which decides how far into the disk's reserve it may go: who frees space must be able
/// to when there is hardly any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Adds: leaves the whole reserve.
    Add,
    /// Deletes or drops: leaves an eighth of it, for the erases and compactions that follow.
    Free,
    /// Erases records that were deleted before: may use all of it.
    Erase,
}

impl Purpose {
    /// Bytes of a reserve that it leaves alone.
    fn spares(self, reserve_bytes: u64) -> u64 {
        match self {
            Self::Add => reserve_bytes,
            Self::Free => reserve_bytes / FREEING_SHARE,
            Self::Erase => 0,
        }
    }
}

impl Store {
    /// Makes every commit that returned durable.
    ///
    /// # Errors
    /// [`Error::Poisoned`], now or earlier.
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

    /// Takes no further writes until the store is reopened, because `what` failed: for the sync of a file of
    /// the same database, after which nothing may be acknowledged. The first reason is kept. Waits for a
    /// commit under way.
    pub fn poison(&self, what: &str) {
        self.engine.closing.writer.lock().poison(what.to_owned());
    }
}

impl Engine {
    /// The right to write.
    pub(super) fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self.closing.writer.lock();
        match &writer.poison {
            Some(what) => Err(Error::Poisoned { what: what.clone() }),
            None => Ok(writer),
        }
    }

    /// Writes one batch. `build` is called again when the batch has to wait.
    ///
    /// RocksDB itself never waits here. It would wait for memory to be flushed even when no flush can
    /// succeed: with a full disk, until a person frees 64 MB, holding every writer. Told not to, it refuses
    /// before the log is touched.
    pub(super) fn write(
        &self,
        writer: &mut Writer,
        mut build: impl FnMut() -> Result<WriteBatch>,
        durability: Durability,
        purpose: Purpose,
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
            self.check_space(batch.size_in_bytes() as u64, purpose)?;
            batch.put_cf(self.meta(), layout::COMMITS, commits.to_le_bytes());
            match self.db.write_opt(batch, &how) {
                Ok(()) => break,
                Err(e) if e.kind() == rocksdb::ErrorKind::Incomplete => self.wait_for_flush(started)?,
                Err(e) => return Err(self.poison(writer, e)),
            }
        }
        (writer.commits, writer.sequence) = (commits, sequence);
        self.commits.store(commits, Ordering::Relaxed);
        if durability == Durability::Sync {
            writer.note_durable();
        }
        Ok(())
    }

    /// Waits until flushes and compactions, which are behind, let writes through; gives up when they fail.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when they fail on a full disk, [`Error::Rocks`] when they fail for another reason.
    /// Nothing was written.
    fn wait_for_flush(&self, started: Instant) -> Result<()> {
        loop {
            std::thread::sleep(STALL_POLL);
            if self.property(self.rows(), properties::IS_WRITE_STOPPED)? == 0 {
                return Ok(());
            }
            if self.background_errors()? == 0 {
                continue;
            }
            let free_bytes = space::free_bytes(self.path())?;
            if free_bytes < RESUME_BYTES {
                let what = format!("{free_bytes} bytes are free, and flushes need {RESUME_BYTES} to go on");
                return Err(Error::NoSpace { path: self.path().to_path_buf(), what });
            }
            if started.elapsed() >= STALL_MAX {
                return Err(Error::Rocks(
                    "writes wait for flushes and compactions that fail; nothing was written, and the LOG file \
                     in the store's folder has the reason"
                        .into(),
                ));
            }
        }
    }

    /// Refuses a write that would cut too deep into the reserve.
    fn check_space(&self, batch_bytes: u64, purpose: Purpose) -> Result<()> {
        if self.options.reserve_bytes == 0 {
            return Ok(());
        }
        let spared_bytes = purpose.spares(self.options.reserve_bytes);
        let free_bytes = space::free_bytes(self.path())?;
        if free_bytes >= spared_bytes.saturating_add(batch_bytes) {
            return Ok(());
        }
        Err(Error::NoSpace {
            path: self.path().to_path_buf(),
            what: format!("{free_bytes} bytes are free, and {spared_bytes} are kept in reserve"),
        })
    }

    /// Takes no further writes; returns the error for the failed one.
    fn poison(&self, writer: &mut Writer, error: rocksdb::Error) -> Error {
        let what = error.into_string();
        writer.poison(what.clone());
        Error::Poisoned { what }
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

impl Writer {
    fn poison(&mut self, what: String) {
        tracing::error!(%what, "a write failed: the row store takes no further writes until it is reopened");
        self.poison.get_or_insert(what);
    }

    /// Tells the witness that every commit so far is durable. A witness that cannot be written only checks
    /// less.
    fn note_durable(&mut self) {
        if let Err(error) = self.witness.record(self.commits, self.sequence) {
            tracing::warn!(%error, "the witness of durable commits is not written");
        }
    }
}
