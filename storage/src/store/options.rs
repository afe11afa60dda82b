//! How RocksDB is set up, and what of it a caller may choose.
//!
//! Each setting says why it is not the default. The crate's example `commit_rate` measures what they come to.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel, Options,
};

use super::descriptors::share;
use super::layout::{KEYS, META, ROWS};

/// Settings of a row store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Bytes of rows, keys, indexes and filters kept in memory for reads. Default 64 MiB.
    pub cache_bytes: usize,
    /// Bytes of fresh writes kept in memory before they are flushed into tables; also sets the size of the
    /// log that recovery reads, at most four times as much. Default 64 MiB, at least 1 MiB.
    pub write_buffer_bytes: usize,
    /// Free bytes of the disk that commits leave alone: a commit that would cut into them is refused with
    /// [`Error::NoSpace`](crate::Error::NoSpace) before anything is written. Flushes and compactions need
    /// them to give space back. What frees space may go further: deletes and drops up to an eighth of it,
    /// erases and trims to the end. Default 256 MiB; 0 lets commits run into the full disk, which poisons
    /// the store.
    pub reserve_bytes: u64,
    /// Most files that RocksDB keeps open; never more than half of what the process may open, a limit that
    /// [`Store::open`](super::Store::open) raises. Default 1000.
    pub open_files_max: u32,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            write_buffer_bytes: 64 << 20,
            reserve_bytes: 256 << 20,
            open_files_max: 1000,
        }
    }
}

/// Flushed files that wait for compaction before writes do. Files of references are small, keys sort fast.
const LEVEL_0_FILES_MAX: i32 = 36;
const WRITE_BUFFER_BYTES_MIN: usize = 1 << 20;
/// Records from this size on live in blob files: compaction then moves references, not vectors and text.
const BLOB_BYTES_MIN: u64 = 512;
/// A blob file is deleted when all in it is dead; small files die sooner.
const BLOB_FILE_BYTES: u64 = 32 << 20;
/// The oldest share of the blob files that compaction rewrites, and the garbage in them that starts a
/// compaction. Half and half keep the space at no more than about twice what is live, while an insert-only
/// load, whose compactions meet young files, is hardly ever rewritten.
pub(super) const BLOB_AGE_CUTOFF: &str = "0.5";
const BLOB_GARBAGE_START: f64 = 0.5;

impl StoreOptions {
    /// Options of the database; `create` only for a folder that never held a complete store, `files_allowed`
    /// is what the process may have open.
    pub(super) fn database(&self, create: bool, files_allowed: u64) -> Result<Options, rocksdb::Error> {
        // Each log notes number, size and last sequence of the log before it, and a manifest that lost an
        // edit no longer agrees with them. The binding has no setter for this one.
        let mut options = Options::default().get_options_from_string("track_and_verify_wals=true")?;
        options.create_if_missing(create);
        options.create_missing_column_families(create);
        options.set_paranoid_checks(true);
        // Torn tails are cut by our own audit before RocksDB opens, so any damage that it meets is an error.
        options.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
        options.set_track_and_verify_wals_in_manifest(true);
        // Families share one log, which is always on: a batch is whole or absent without atomic flushes.
        let write_buffer_bytes = self.write_buffer_bytes.max(WRITE_BUFFER_BYTES_MIN);
        options.set_db_write_buffer_size(write_buffer_bytes);
        // `keys` and `meta` fill slowly and would hold the log back for many flushes of `rows`.
        options.set_max_total_wal_size(4 * write_buffer_bytes as u64);
        options.set_max_background_jobs(2);
        options.set_max_open_files(share(self.open_files_max, files_allowed));
        // Write-back starts early, so that a flush does not end in one long fsync that commits wait behind.
        options.set_bytes_per_sync(1 << 20);
        options.set_max_manifest_file_size(4 << 20);
        options.set_skip_stats_update_on_db_open(true);
        options.set_avoid_unnecessary_blocking_io(true);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        Ok(options)
    }

    /// The column families, sharing one cache.
    pub(super) fn families(&self) -> Vec<ColumnFamilyDescriptor> {
        let cache = Cache::new_lru_cache(self.cache_bytes);
        let write_buffer_bytes = self.write_buffer_bytes.max(WRITE_BUFFER_BYTES_MIN);
        vec![
            ColumnFamilyDescriptor::new(ROWS, rows(&cache, write_buffer_bytes)),
            ColumnFamilyDescriptor::new(KEYS, keys(&cache, write_buffer_bytes)),
            ColumnFamilyDescriptor::new(META, family(&cache, 4 << 10, write_buffer_bytes.min(1 << 20))),
        ]
    }
}

/// What the families share.
fn family(cache: &Cache, block_bytes: usize, write_buffer_bytes: usize) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(block_bytes);
    // Within the byte budget; the fresh files' stay, they are read by every lookup.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // Whole keys: a lookup of a key that is not there, the common case of an insert, reads no block.
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(write_buffer_bytes);
    // One fills while one is flushed; a third lets writes go on when the disk is slow for a moment.
    options.set_max_write_buffer_number(3);
    options.set_target_file_size_base(16 << 20);
    // No slowdown before the stop: writes are told not to wait, and a delayed write that tries again is
    // delayed more.
    options.set_level_zero_slowdown_writes_trigger(LEVEL_0_FILES_MAX);
    options.set_level_zero_stop_writes_trigger(LEVEL_0_FILES_MAX);
    options.set_soft_pending_compaction_bytes_limit(0);
    options
}

fn rows(cache: &Cache, write_buffer_bytes: usize) -> Options {
    let mut options = family(cache, 16 << 10, write_buffer_bytes / 2);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_BYTES_MIN);
    options.set_blob_file_size(BLOB_FILE_BYTES);
    options.set_blob_compression_type(DBCompressionType::Lz4);
    options.set_blob_cache(cache);
    options.set_enable_blob_gc(true);
    options.set_blob_gc_age_cutoff(BLOB_AGE_CUTOFF.parse().unwrap_or(0.5));
    options.set_blob_gc_force_threshold(BLOB_GARBAGE_START);
    options.set_blob_compaction_readahead_size(2 << 20);
    // Readers ask for rows that exist: the last level needs no filter.
    options.set_optimize_filters_for_hits(true);
    options
}

fn keys(cache: &Cache, write_buffer_bytes: usize) -> Options {
    let mut options = family(cache, 8 << 10, write_buffer_bytes / 4);
    // The filter again, for what is still in memory.
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.05);
    options
}
