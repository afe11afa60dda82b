//! Space: what the store takes on disk and in memory, and how dead records give theirs back.
//!
//! Background compaction keeps the space at about twice what is live. [`Store::compact`] goes further at
//! once, at the cost of rewriting what is live of one collection; it is for the time after a large delete.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use rocksdb::{BottommostLevelCompaction, ColumnFamily, CompactOptions, properties};

use super::options::BLOB_AGE_CUTOFF;
use super::{Engine, Store, layout};
use crate::error::{Error, Result};
use crate::id::CollectionId;

/// Sizes of a store, in bytes unless the name says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Everything in the folder.
    pub disk_bytes: u64,
    /// Tables: keys, catalogue, small records and references to large ones.
    pub table_bytes: u64,
    /// Large records.
    pub blob_bytes: u64,
    /// Of them, what is dead and not given back yet.
    pub blob_garbage_bytes: u64,
    /// The write-ahead log.
    pub log_bytes: u64,
    /// Fresh writes in memory.
    pub write_buffer_bytes: u64,
    /// Cached for reads.
    pub cache_bytes: u64,
    /// What background compaction has yet to rewrite.
    pub compaction_pending_bytes: u64,
    /// Snapshots held.
    pub snapshots_count: u64,
    /// Commits since the store was created.
    pub commits_count: u64,
}

impl Store {
    /// Bytes of all files of the store.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn disk_bytes(&self) -> Result<u64> {
        folder_bytes(self.engine.path(), "")
    }

    /// Sizes, for tests and measurements. Lists the folder, reads no data, waits for no writer.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Rocks`].
    pub fn stats(&self) -> Result<StoreStats> {
        let engine = &*self.engine;
        let families = [engine.rows(), engine.keys(), engine.meta()];
        let sum = |property: &rocksdb::properties::PropName| -> Result<u64> {
            families.iter().map(|family| engine.property(family, property)).sum()
        };
        Ok(StoreStats {
            disk_bytes: self.disk_bytes()?,
            table_bytes: sum(properties::TOTAL_SST_FILES_SIZE)?,
            blob_bytes: engine.blob_property("rocksdb.total-blob-file-size")?,
            blob_garbage_bytes: engine.blob_property("rocksdb.live-blob-file-garbage-size")?,
            log_bytes: folder_bytes(&engine.closing.folder.rocksdb(), "log")?,
            write_buffer_bytes: sum(properties::SIZE_ALL_MEM_TABLES)?,
            // One cache for all.
            cache_bytes: engine.property(engine.rows(), properties::BLOCK_CACHE_USAGE)?,
            compaction_pending_bytes: sum(properties::ESTIMATE_PENDING_COMPACTION_BYTES)?,
            snapshots_count: engine.property(engine.rows(), properties::NUM_SNAPSHOTS)?,
            commits_count: engine.commits.load(Ordering::Relaxed),
        })
    }

    /// Gives the space of a collection's dead records back: rewrites its keys and live records. What
    /// snapshots still see is kept. Waits for the compaction of another collection.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Corrupt`], [`Error::Rocks`].
    pub fn compact(&self, collection: CollectionId) -> Result<()> {
        let engine = &*self.engine;
        let _turn = engine.compaction.lock();
        engine.flush()?;
        // For this compaction every blob file counts as old: its live records move, and it can be deleted.
        engine.set_blob_age_cutoff("1.0")?;
        let compacted = engine.compact_collection(collection);
        engine.set_blob_age_cutoff(BLOB_AGE_CUTOFF)?;
        compacted
    }
}

impl Engine {
    /// Gives the space of a dropped collection back.
    pub(super) fn reclaim(&self, collection: CollectionId) -> Result<()> {
        let _turn = self.compaction.lock();
        self.flush()?;
        let (start, end) = (layout::collection(collection), layout::collection_end(collection));
        // Whole tables of keys go at once. Not those of rows: RocksDB would not count their blobs as garbage,
        // and keep the blob files until every older one is gone. Compacting references reads no blob.
        self.db.delete_file_in_range_cf(self.keys(), start, end).map_err(|e| self.error(e))?;
        self.compact_collection(collection)
    }

    fn compact_collection(&self, collection: CollectionId) -> Result<()> {
        let errors_before = self.background_errors()?;
        let mut how = CompactOptions::default();
        // Also the last level, where most of the dead are.
        how.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        how.set_exclusive_manual_compaction(false);
        let (start, end) = (layout::collection(collection), layout::collection_end(collection));
        for family in [self.rows(), self.keys()] {
            self.db.compact_range_cf_opt(family, Some(start), Some(end), &how);
        }
        // The binding returns no status from a compaction.
        match self.background_errors()? > errors_before {
            true => Err(Error::Rocks(
                "a compaction failed; the LOG file in the store's folder has the reason".into(),
            )),
            false => Ok(()),
        }
    }

    /// Flushes and compactions that failed since the store was opened. RocksDB counts those of all families
    /// under the default one.
    pub(super) fn background_errors(&self) -> Result<u64> {
        let count = self.db.property_int_value(properties::BACKGROUND_ERRORS).map_err(|e| self.error(e))?;
        Ok(count.unwrap_or(0))
    }

    fn set_blob_age_cutoff(&self, share: &str) -> Result<()> {
        let settings = [("blob_garbage_collection_age_cutoff", share)];
        self.db.set_options_cf(self.rows(), &settings).map_err(|e| self.error(e))
    }

    pub(super) fn property(&self, family: &ColumnFamily, name: &properties::PropName) -> Result<u64> {
        let value = self.db.property_int_value_cf(family, name).map_err(|e| self.error(e))?;
        Ok(value.unwrap_or(0))
    }

    /// A property that the binding has no name for.
    fn blob_property(&self, name: &str) -> Result<u64> {
        let value = self.db.property_int_value_cf(self.rows(), name).map_err(|e| self.error(e))?;
        Ok(value.unwrap_or(0))
    }
}

/// Free bytes for this user on the disk that holds `path`.
pub(super) fn free_bytes(path: &Path) -> Result<u64> {
    let disk = rustix::fs::statvfs(path).map_err(|e| Error::io("ask for free space", path, e.into()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Bytes of the files in a folder and those below it; with an `extension`, only of files that have it.
fn folder_bytes(path: &Path, extension: &str) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path).map_err(|e| Error::io("list", path, e))? {
        let entry = entry.map_err(|e| Error::io("list", path, e))?;
        // A compaction may delete a file between the listing and the look at it.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            bytes += folder_bytes(&entry.path(), extension)?;
        } else if extension.is_empty() || entry.path().extension().is_some_and(|found| found == extension) {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}
