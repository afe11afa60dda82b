//! Reading: one consistent view of the store, as of one commit.
//!
//! Taking a snapshot costs under a microsecond and no I/O; holding it keeps replaced and deleted records on
//! disk. Point reads are batched: RocksDB sorts the keys and reads each block and blob file once. Scans go in
//! RowId or key order.

use std::ops::RangeInclusive;
use std::sync::Arc;

use rocksdb::{DBRawIteratorWithThreadMode, ReadOptions, Snapshot};
use self_cell::self_cell;

use super::{Engine, Store, layout};
use crate::error::Result;
use crate::id::{CollectionId, LabelId, RowId, TenantId};
use crate::record::{FieldSet, Record, StoredRow};

/// Rows or keys a call of RocksDB: it pins every value that it found until all are decoded.
const BATCH_KEYS: usize = 512;

self_cell!(
    struct View {
        owner: Arc<Engine>,

        #[covariant]
        dependent: Snapshot,
    }
);

/// The store as of one commit. Send and Sync; reads take no lock that a writer holds for long.
pub struct StoreSnapshot {
    view: View,
}

impl Store {
    /// The store as of now. Also works on a poisoned store: it then ends with the last commit that succeeded.
    pub fn snapshot(&self) -> StoreSnapshot {
        StoreSnapshot { view: View::new(Arc::clone(&self.engine), |engine| engine.db.snapshot()) }
    }
}

impl std::fmt::Debug for StoreSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sequence = self.view.borrow_dependent().sequence_number();
        f.debug_struct("StoreSnapshot").field("sequence", &sequence).finish_non_exhaustive()
    }
}

impl StoreSnapshot {
    fn engine(&self) -> &Engine {
        self.view.borrow_owner()
    }

    fn read_options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(self.view.borrow_dependent());
        options
    }

    /// The rows with these ids, in this order, with the wanted fields; none where there is no row: it was
    /// replaced, deleted, or never there, or the id is that of a delete.
    ///
    /// Memory is what is returned and a few hundred records.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt), [`Error::Io`](crate::Error::Io).
    pub fn get(
        &self,
        collection: CollectionId,
        rows: &[RowId],
        wanted: &FieldSet,
    ) -> Result<Vec<Option<StoredRow>>> {
        let engine = self.engine();
        let options = self.read_options();
        let mut stored = Vec::with_capacity(rows.len());
        for rows in rows.chunks(BATCH_KEYS) {
            let keys: Vec<_> = rows.iter().map(|row| layout::row(collection, *row)).collect();
            let found = engine.db.batched_multi_get_cf_opt(engine.rows(), &keys, false, &options);
            for (row, found) in rows.iter().zip(found) {
                let record = match found.map_err(|e| engine.read_error(e))? {
                    Some(bytes) => Some(decode(engine, collection, *row, &bytes, wanted)?),
                    None => None,
                };
                stored.push(match record {
                    Some(Record::Row(row)) => Some(row),
                    Some(Record::Delete { .. } | Record::DropTenant { .. } | Record::Label { .. }) | None => {
                        None
                    }
                });
            }
        }
        Ok(stored)
    }

    /// The rows that these keys name, each a tenant and a key of it, in this order; none for a key that is
    /// not there. A key that never was costs no disk read, but for one in a hundred.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt), [`Error::Io`](crate::Error::Io).
    pub fn lookup(&self, collection: CollectionId, keys: &[(TenantId, &str)]) -> Result<Vec<Option<RowId>>> {
        Ok(self.named(collection, keys)?.into_iter().map(|named| named.map(|(row, _)| row)).collect())
    }

    /// As [`lookup`](Self::lookup), with the bytes of the records of the rows; 0 for one that an earlier
    /// build has written.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn named(
        &self,
        collection: CollectionId,
        keys: &[(TenantId, &str)],
    ) -> Result<Vec<Option<(RowId, u32)>>> {
        let engine = self.engine();
        let options = self.read_options();
        let mut rows = Vec::with_capacity(keys.len());
        let (mut arena, mut ends) = (Vec::new(), Vec::new());
        for keys in keys.chunks(BATCH_KEYS) {
            arena.clear();
            ends.clear();
            for (tenant, key) in keys {
                layout::push_key(&mut arena, collection, *tenant, key);
                ends.push(arena.len());
            }
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let slices: Vec<&[u8]> = starts.zip(&ends).map(|(start, end)| &arena[start..*end]).collect();
            for found in engine.db.batched_multi_get_cf_opt(engine.keys(), slices, false, &options) {
                let row = match found.map_err(|e| engine.read_error(e))? {
                    Some(value) => {
                        let named = layout::named(&value);
                        Some(named.ok_or_else(|| engine.corrupt("the row of a key"))?)
                    }
                    None => None,
                };
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// Bytes of the records of a tenant; 0 when it has none.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt), [`Error::Io`](crate::Error::Io).
    pub fn tenant_bytes(&self, collection: CollectionId, tenant: TenantId) -> Result<u64> {
        let engine = self.engine();
        let found =
            engine.db.get_cf_opt(engine.meta(), layout::size(collection, tenant), &self.read_options());
        match found.map_err(|e| engine.read_error(e))? {
            Some(value) => layout::value_u64(&value).ok_or_else(|| engine.corrupt("the size of a tenant")),
            None => Ok(0),
        }
    }

    /// The records with a RowId larger than `after`, in RowId order.
    pub fn records_after(&self, collection: CollectionId, after: RowId, wanted: &FieldSet) -> Records<'_> {
        // Nothing follows the largest id: an empty range.
        let start =
            after.0.checked_add(1).map_or(RowId(u64::MAX)..=RowId(0), |next| RowId(next)..=RowId(u64::MAX));
        self.records(collection, start, wanted)
    }

    /// The records with a RowId in `rows`, in RowId order. What is read does not displace what the cache
    /// holds.
    pub fn records(
        &self,
        collection: CollectionId,
        rows: RangeInclusive<RowId>,
        wanted: &FieldSet,
    ) -> Records<'_> {
        let (first, last) = (*rows.start(), *rows.end());
        let mut options = self.read_options();
        options.fill_cache(false);
        match last.0.checked_add(1) {
            Some(next) => options.set_iterate_upper_bound(layout::row(collection, RowId(next))),
            None => options.set_iterate_upper_bound(layout::collection_end(collection)),
        }
        let engine = self.engine();
        let mut cursor = self.view.borrow_dependent().raw_iterator_cf_opt(engine.rows(), options);
        if first <= last {
            cursor.seek(layout::row(collection, first));
        }
        Records { engine, cursor, collection, wanted: *wanted, done: first > last }
    }

    /// What rows of a range have got and lost since they were written, by ascending row and label: up to
    /// `limit` that follow `after`.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt).
    pub fn grants(
        &self,
        collection: CollectionId,
        rows: RangeInclusive<RowId>,
        after: Option<(RowId, LabelId)>,
        limit: usize,
    ) -> Result<Vec<Grant>> {
        let engine = self.engine();
        let mut options = self.read_options();
        match rows.end().0.checked_add(1) {
            Some(next) => options.set_iterate_upper_bound(layout::grants_of(collection, RowId(next))),
            None => options.set_iterate_upper_bound(layout::grants_end(collection)),
        }
        let mut cursor = self.view.borrow_dependent().raw_iterator_cf_opt(engine.meta(), options);
        match after {
            // The smallest key that is larger.
            Some((row, label)) => cursor.seek([&layout::grant(collection, row, label)[..], &[0]].concat()),
            None => cursor.seek(layout::grants_of(collection, *rows.start())),
        }
        let mut grants = Vec::new();
        while grants.len() < limit {
            let Some((key, value)) = cursor.item() else {
                cursor.status().map_err(|e| engine.read_error(e))?;
                break;
            };
            let (Some((row, label)), [granted @ 0..=1]) = (layout::grant_of(key), value) else {
                return Err(engine.corrupt("what a row has got or lost"));
            };
            grants.push(Grant { row, label, granted: *granted == 1 });
            cursor.next();
        }
        Ok(grants)
    }

    /// Up to `limit` keys of a tenant that follow `after` in byte order, with the rows that they name.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt).
    pub fn keys_after(
        &self,
        collection: CollectionId,
        tenant: TenantId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, RowId)>> {
        let keys = self.sized_after(collection, tenant, after, limit)?;
        Ok(keys.into_iter().map(|(key, (row, _))| (key, row)).collect())
    }

    /// As [`keys_after`](Self::keys_after), with the bytes of the rows' records: 0 where an earlier build
    /// wrote them.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt).
    pub fn sized_after(
        &self,
        collection: CollectionId,
        tenant: TenantId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, (RowId, u32))>> {
        let engine = self.engine();
        let mut options = self.read_options();
        options.set_iterate_upper_bound(layout::tenant_keys_end(collection, tenant));
        let mut start = Vec::new();
        layout::push_key(&mut start, collection, tenant, after.unwrap_or_default());
        if after.is_some() {
            // The smallest key that is larger.
            start.push(0);
        }
        let mut cursor = self.view.borrow_dependent().raw_iterator_cf_opt(engine.keys(), options);
        cursor.seek(&start);
        let mut keys = Vec::new();
        while keys.len() < limit {
            let Some((key, value)) = cursor.item() else {
                cursor.status().map_err(|e| engine.read_error(e))?;
                break;
            };
            let name = key.get(layout::KEY_PREFIX_BYTES..).and_then(|name| std::str::from_utf8(name).ok());
            let (Some(name), Some(sized)) = (name, layout::named(value)) else {
                return Err(engine.corrupt("an entry of `keys`"));
            };
            keys.push((name.to_owned(), sized));
            cursor.next();
        }
        Ok(keys)
    }
}

fn decode(
    engine: &Engine,
    collection: CollectionId,
    row: RowId,
    bytes: &[u8],
    wanted: &FieldSet,
) -> Result<Record> {
    Record::decode(bytes, wanted)
        .map_err(|e| engine.corrupt(format!("row {row} of collection {collection}: {e}")))
}

/// A label that a row has got since it was written, or lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The row.
    pub row: RowId,
    /// The label.
    pub label: LabelId,
    /// Whether it has got it.
    pub granted: bool,
}

/// Records of a collection in RowId order. Ends after the first error.
pub struct Records<'a> {
    engine: &'a Engine,
    cursor: DBRawIteratorWithThreadMode<'a, rocksdb::DB>,
    collection: CollectionId,
    wanted: FieldSet,
    done: bool,
}

impl Records<'_> {
    fn read(&mut self) -> Result<Option<(RowId, Record)>> {
        let Some((key, value)) = self.cursor.item() else {
            self.cursor.status().map_err(|e| self.engine.read_error(e))?;
            return Ok(None);
        };
        let row = layout::row_of(key).ok_or_else(|| self.engine.corrupt("a key of `rows`"))?;
        let record = decode(self.engine, self.collection, row, value, &self.wanted)?;
        self.cursor.next();
        Ok(Some((row, record)))
    }
}

impl Iterator for Records<'_> {
    type Item = Result<(RowId, Record)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.read().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

impl std::fmt::Debug for Records<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("collection", &self.collection).finish_non_exhaustive()
    }
}
