//! Commits: what one write batch holds, and how it is laid out over the column families.
//!
//! Linear in the bytes of the batch. The batch is built before the writer's turn is taken.

use rocksdb::WriteBatch;

use super::layout;
use super::write::Purpose;
use super::{Durability, Engine, Store};
use crate::error::{Error, Result};
use crate::id::{CollectionId, LabelId, RowId, TenantId};
use crate::record::{Record, row_tenant};

/// Entries of one collection that become visible and durable together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// The collection.
    pub collection: CollectionId,
    /// Tenants that occur here for the first time.
    pub new_tenants: Vec<(TenantId, String)>,
    /// Bytes of the records of tenants from here on.
    pub bytes: Vec<(TenantId, u64)>,
    /// Quotas that tenants have from here on, as the engine writes them; empty: none.
    pub quotas: Vec<(TenantId, Vec<u8>)>,
    /// The id that the next new tenant gets, where those that there are do not say: the last may be dropped.
    pub next_tenant: Option<TenantId>,
    /// Labels that get a name here, or, where that is empty, lose it for good.
    pub labels: Vec<(LabelId, String)>,
    /// What happens, in this order.
    pub entries: Vec<Entry>,
    /// Delete and drop-tenant records that every segment covers: they are removed from the log.
    pub trim: Vec<RowId>,
    /// What these rows, which are gone, have got and lost is forgotten.
    pub forget: Vec<(RowId, LabelId)>,
}

/// One change. RowIds of [`Put`](Entry::Put), [`Delete`](Entry::Delete), [`DropTenant`](Entry::DropTenant)
/// and [`Label`](Entry::Label) are new, above 0, and grow, within a commit and from commit to commit.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Writes a row.
    Put {
        /// The row's new id.
        row: RowId,
        /// Its tenant.
        tenant: TenantId,
        /// Its key.
        key: String,
        /// The result of [`StoredRow::encode`](crate::record::StoredRow::encode), for the same tenant.
        record: Vec<u8>,
        /// The record of the row that it replaces, where it is not needed for recovery any more: removed too.
        erase: Option<RowId>,
    },
    /// Deletes a row.
    Delete {
        /// The id of the record of this delete.
        row: RowId,
        /// The row's tenant.
        tenant: TenantId,
        /// The row's key.
        key: String,
        /// The row that had the key.
        replaces: RowId,
        /// The record of that row, where it is not needed for recovery any more: removed too.
        erase: Option<RowId>,
    },
    /// Takes all keys of a tenant away, its name, its size and its quota. Its rows are then removed by
    /// [`Erase`](Entry::Erase), in as many commits as it takes.
    DropTenant {
        /// The id of the record of this drop.
        row: RowId,
        /// The tenant.
        tenant: TenantId,
    },
    /// Gives rows a label, or takes it from them.
    Label {
        /// The id of the record of this.
        row: RowId,
        /// The tenant of the rows.
        tenant: TenantId,
        /// The label.
        label: LabelId,
        /// Whether they get it.
        granted: bool,
        /// The rows.
        rows: Vec<RowId>,
    },
    /// Removes the record of a row whose tenant was dropped; leaves no record.
    Erase {
        /// The row.
        row: RowId,
    },
}

impl Store {
    /// Writes one batch, whole or not at all.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a collection that is not there; [`Error::Invalid`] when a new RowId is 0 or
    /// not above the one before, or when an encoded record is not of a row or of another tenant than its
    /// entry (key and replaced row are not compared); [`Error::NoSpace`] when the disk's reserve would be
    /// touched. Nothing was written then. [`Error::Poisoned`] when RocksDB failed, now or earlier: the store
    /// takes no further writes, and whether this one is kept shows when it is reopened.
    pub fn commit(&self, commit: &Commit, durability: Durability) -> Result<()> {
        let first_and_last = commit.new_rows()?;
        let mut batch = Some(self.engine.batch(commit)?);
        let mut writer = self.engine.writer()?;
        let Some(before) = writer.last_rows.get(&commit.collection).copied() else {
            return Err(Error::NotFound { what: format!("collection {}", commit.collection) });
        };
        if let Some((first, _)) = first_and_last.filter(|(first, _)| *first <= before) {
            return Err(not_growing(first, before));
        }
        let build = || batch.take().map_or_else(|| self.engine.batch(commit), Ok);
        self.engine.write(&mut writer, build, durability, commit.purpose())?;
        if let Some((_, last)) = first_and_last {
            writer.last_rows.insert(commit.collection, last);
        }
        Ok(())
    }

    /// The highest RowId that was ever committed to a collection, also when its record is gone; 0 before the
    /// first.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn last_row_id(&self, collection: CollectionId) -> Result<RowId> {
        self.engine.last_row_id(collection)
    }
}

impl Engine {
    pub(super) fn last_row_id(&self, collection: CollectionId) -> Result<RowId> {
        match self.meta_get(&layout::last_row(collection))? {
            Some(value) => {
                let row = layout::value_u64(&value).ok_or_else(|| self.corrupt("the last RowId"))?;
                Ok(RowId(row))
            }
            None => Ok(RowId(0)),
        }
    }

    fn batch(&self, commit: &Commit) -> Result<WriteBatch> {
        let (rows, keys, meta) = (self.rows(), self.keys(), self.meta());
        let collection = commit.collection;
        let mut batch = WriteBatch::with_capacity_bytes(commit.batch_bytes());
        let mut last = None;
        let mut key = Vec::new();
        for (tenant, name) in &commit.new_tenants {
            batch.put_cf(meta, layout::tenant(collection, *tenant), name);
        }
        let after = commit.new_tenants.iter().map(|(tenant, _)| tenant.0.saturating_add(1));
        if let Some(next) = after.chain(commit.next_tenant.map(|next| next.0)).max() {
            batch.put_cf(meta, layout::next_tenant(collection), next.to_le_bytes());
        }
        for (tenant, bytes) in &commit.bytes {
            batch.put_cf(meta, layout::size(collection, *tenant), bytes.to_le_bytes());
        }
        for (tenant, quota) in &commit.quotas {
            match quota.is_empty() {
                true => batch.delete_cf(meta, layout::quota(collection, *tenant)),
                false => batch.put_cf(meta, layout::quota(collection, *tenant), quota),
            }
        }
        for (label, name) in &commit.labels {
            batch.put_cf(meta, layout::label(collection, *label), name);
        }
        for entry in &commit.entries {
            last = last.max(entry.new_row());
            match entry {
                Entry::Put { row, tenant, key: name, record, erase } => {
                    if row_tenant(record) != Some(*tenant) {
                        return Err(Error::Invalid(format!(
                            "the record of row {row} does not match its entry"
                        )));
                    }
                    batch.put_cf(rows, layout::row(collection, *row), record);
                    key.clear();
                    layout::push_key(&mut key, collection, *tenant, name);
                    let bytes = u32::try_from(record.len()).unwrap_or(u32::MAX);
                    batch.put_cf(keys, &key, layout::naming(*row, bytes));
                    if let Some(erased) = erase {
                        batch.delete_cf(rows, layout::row(collection, *erased));
                    }
                }
                Entry::Delete { row, tenant, key: name, replaces, erase } => {
                    let record = Record::Delete { tenant: *tenant, key: name.clone(), replaces: *replaces };
                    batch.put_cf(rows, layout::row(collection, *row), record.encode());
                    key.clear();
                    layout::push_key(&mut key, collection, *tenant, name);
                    batch.delete_cf(keys, &key);
                    if let Some(erased) = erase {
                        batch.delete_cf(rows, layout::row(collection, *erased));
                    }
                }
                Entry::DropTenant { row, tenant } => {
                    let record = Record::DropTenant { tenant: *tenant }.encode();
                    batch.put_cf(rows, layout::row(collection, *row), record);
                    let end = layout::tenant_keys_end(collection, *tenant);
                    batch.delete_range_cf(keys, &layout::tenant_keys(collection, *tenant)[..], &end[..]);
                    batch.delete_cf(meta, layout::tenant(collection, *tenant));
                    batch.delete_cf(meta, layout::size(collection, *tenant));
                    batch.delete_cf(meta, layout::quota(collection, *tenant));
                }
                Entry::Label { row, tenant, label, granted, rows: of } => {
                    let (tenant, label, granted) = (*tenant, *label, *granted);
                    let record = Record::Label { tenant, label, granted, rows: of.clone() };
                    batch.put_cf(rows, layout::row(collection, *row), record.encode());
                    for row in of {
                        batch.put_cf(meta, layout::grant(collection, *row, label), [u8::from(granted)]);
                    }
                }
                Entry::Erase { row } => batch.delete_cf(rows, layout::row(collection, *row)),
            }
        }
        for row in &commit.trim {
            batch.delete_cf(rows, layout::row(collection, *row));
        }
        for (row, label) in &commit.forget {
            batch.delete_cf(meta, layout::grant(collection, *row, *label));
        }
        if let Some(last) = last {
            batch.put_cf(meta, layout::last_row(collection), last.0.to_le_bytes());
        }
        Ok(batch)
    }
}

fn not_growing(row: RowId, before: RowId) -> Error {
    Error::Invalid(format!("row {row} is not above row {before}: RowIds grow from 1"))
}

impl Commit {
    /// The first and the last RowId that it introduces; none where it introduces none.
    ///
    /// # Errors
    /// [`Error::Invalid`] when they do not grow from above 0.
    fn new_rows(&self) -> Result<Option<(RowId, RowId)>> {
        let mut first_and_last = None;
        for row in self.entries.iter().filter_map(Entry::new_row) {
            let (first, before) = first_and_last.unwrap_or((row, RowId(0)));
            if row <= before {
                return Err(not_growing(row, before));
            }
            first_and_last = Some((first, row));
        }
        Ok(first_and_last)
    }

    fn purpose(&self) -> Purpose {
        let erases = self.entries.iter().all(|entry| matches!(entry, Entry::Erase { .. }));
        let adds = self.entries.iter().any(|entry| matches!(entry, Entry::Put { .. }));
        // Taking a label away may not wait for space.
        let names = self.labels.iter().any(|(_, name)| !name.is_empty());
        // A tenant that is dropped and keeps its quota gives back more than it takes.
        let drops = self.entries.iter().any(|entry| matches!(entry, Entry::DropTenant { .. }));
        if adds || names || (!drops && (!self.new_tenants.is_empty() || !self.quotas.is_empty())) {
            Purpose::Add
        } else if erases {
            Purpose::Erase
        } else {
            Purpose::Free
        }
    }

    /// About what the batch takes, so that it grows once.
    fn batch_bytes(&self) -> usize {
        const ENTRY_BYTES: usize = 64;
        let entries = self.entries.iter().map(|entry| match entry {
            Entry::Put { key, record, .. } => record.len() + key.len() + ENTRY_BYTES,
            Entry::Delete { key, .. } => 2 * key.len() + 2 * ENTRY_BYTES,
            Entry::Label { rows, .. } => ENTRY_BYTES * (rows.len() + 1),
            Entry::DropTenant { .. } | Entry::Erase { .. } => ENTRY_BYTES,
        });
        entries.sum::<usize>()
            + (self.trim.len() + self.forget.len() + self.new_tenants.len() + self.bytes.len()) * ENTRY_BYTES
            + (self.labels.len() + 4) * ENTRY_BYTES
    }
}

impl Entry {
    /// The RowId that this entry introduces.
    fn new_row(&self) -> Option<RowId> {
        match self {
            Self::Put { row, .. }
            | Self::Delete { row, .. }
            | Self::DropTenant { row, .. }
            | Self::Label { row, .. } => Some(*row),
            Self::Erase { .. } => None,
        }
    }
}
