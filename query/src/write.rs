//! A group of writes becomes one durable RocksDB batch, one fresh segment and one published snapshot.
//!
//! Order of a group: row ids and replaced rows are found; the batch is committed (and synced); the fresh
//! segment is built; replaced rows are marked deleted; the snapshot is published; only then is anyone
//! acknowledged. A failure before the commit changes nothing; a failed commit is reported to every caller of
//! the group.

pub mod copies;
mod plan;

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringBitmap;
use spandrel_index::segment::{Batch, IndexValues, Segment};
use spandrel_storage::record::{FieldSet, Record, StoredRow};
use spandrel_storage::{DocId, FieldId, FieldValue, LabelId, RowId, TenantId, Value, failpoint};

use self::copies::Looked;
use self::plan::{Plan, plan};
use crate::check::CheckedRow;
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::key_of;
use crate::labels;
use crate::maintain::Lane;
use crate::request::Filter;
use crate::response::Written;
use crate::shared::{Shared, Writer};
use crate::snapshot::{Snapshot, View, locate};

/// Rows that one commit of a delete by filter takes out.
pub const DELETE_ROWS_MAX: usize = 65_536;

/// One row on its way: encoded and analysed before any lock is taken.
pub struct PreparedRow {
    key: String,
    tenant: String,
    record: Vec<u8>,
    /// What the index keeps of the key.
    index_key: Option<Box<str>>,
    labels: Vec<LabelId>,
    values: IndexValues,
    /// Whether it is a copy of another row, as far as that was known; none where it is not asked.
    looked: Option<Looked>,
}

impl PreparedRow {
    /// Encodes and analyses rows, with one set of analyzers for all, and looks which are copies.
    pub fn all(shared: &Shared, mut rows: Vec<CheckedRow>) -> Result<Vec<Self>> {
        let mark = shared.indexer.comparer().and_then(|comparer| comparer.mark());
        if let Some(mark) = mark {
            // What it says is for the engine to know.
            rows.iter_mut().for_each(|row| row.fields.retain(|(id, _)| *id != mark));
        }
        let mut prepared = Self::as_they_are(shared, rows)?;
        if shared.indexer.comparer().is_some() {
            copies::look_ahead(shared, &mut prepared)?;
        }
        Ok(prepared)
    }

    /// Encodes and analyses rows; that they are copies of each other does not matter.
    pub fn as_they_are(shared: &Shared, rows: Vec<CheckedRow>) -> Result<Vec<Self>> {
        // Names are durable before rows refer to them.
        let names: Vec<String> = rows.iter().flat_map(|row| &row.labels).cloned().collect();
        if !names.is_empty() {
            labels::define(shared, &names)?;
        }
        let mut batch = shared.indexer.batch()?;
        rows.into_iter().map(|row| Self::new(shared, &mut batch, row)).collect()
    }

    /// Bytes of its record.
    fn bytes(&self) -> u32 {
        u32::try_from(self.record.len()).unwrap_or(u32::MAX)
    }

    fn new(shared: &Shared, batch: &mut Batch<'_>, row: CheckedRow) -> Result<Self> {
        let values = batch.values(&row.fields)?;
        let CheckedRow { key, tenant, fields, chunk, labels } = row;
        let index_key = key_of(&key, &chunk);
        let labels = shared.labels.known(&labels);
        let stored = StoredRow {
            tenant: TenantId::default(),
            key: key.clone(),
            replaces: None,
            chunk,
            labels: labels.clone(),
            fields,
        };
        Ok(Self { record: stored.encode(), key, tenant, index_key, labels, values, looked: None })
    }

    /// Makes it a copy, which the payload field `mark` says.
    fn mark(&mut self, mark: FieldId, value: Value) -> Result<()> {
        let damaged = || Error::new(ErrorKind::Corrupt, "a record is not read as it was written");
        let Ok(Record::Row(mut stored)) = Record::decode(&self.record, &FieldSet::ALL) else {
            return Err(damaged());
        };
        let at = stored.fields.partition_point(|(id, _)| *id < mark);
        stored.fields.insert(at, (mark, FieldValue::Payload(value.clone())));
        self.record = stored.encode();
        self.values.mark(mark, value);
        Ok(())
    }
}

/// One caller's work.
pub enum Work {
    /// Rows in, replacing those of the same key.
    Upsert(Vec<PreparedRow>),
    /// The rows of a document in, those of a longer earlier version out.
    Document {
        /// The tenant of the rows.
        tenant: String,
        /// The document's key.
        document: String,
        /// Its chunks, in order, but those that are not to be written.
        rows: Vec<PreparedRow>,
        /// How many chunks it has.
        chunks: usize,
        /// Keys of those that are not to be written: copies of other rows.
        left_out: Vec<String>,
    },
    /// Rows out, by key.
    Delete {
        /// The tenant.
        tenant: String,
        /// Keys; unknown ones are passed over.
        keys: Vec<String>,
    },
    /// Rows out, by filter: at most [`DELETE_ROWS_MAX`] a commit.
    DeleteByFilter {
        /// The tenant.
        tenant: String,
        /// Which rows.
        filter: Filter,
        /// Rows written later stay.
        up_to: RowId,
    },
    /// Rows get labels, or lose them.
    Label {
        /// The tenant of the rows.
        tenant: String,
        /// Keys; unknown ones are passed over.
        keys: Vec<String>,
        /// The labels.
        labels: Vec<LabelId>,
        /// Whether rows get them.
        granted: bool,
    },
    /// All rows of a tenant out.
    DropTenant {
        /// Whether its quota stays.
        keeps_quota: bool,
        /// The tenant.
        tenant: String,
    },
}

impl Work {
    /// Rows it writes or deletes, as far as that is known beforehand.
    pub fn rows(&self) -> usize {
        match self {
            Self::Upsert(rows) | Self::Document { rows, .. } => rows.len(),
            Self::Delete { keys, .. } | Self::Label { keys, .. } => keys.len(),
            Self::DeleteByFilter { .. } | Self::DropTenant { .. } => 1,
        }
    }

    /// Whether it adds fresh rows, and so has to wait for the maintainer when there are too many.
    pub fn needs_room(&self) -> bool {
        matches!(self, Self::Upsert(_) | Self::Document { .. })
    }

    /// Whether it can share a commit: the group does what its works would do one after the other.
    pub fn groups(&self) -> bool {
        matches!(self, Self::Upsert(_) | Self::Delete { .. } | Self::Label { .. })
    }
}

/// Carries out the work of a group under the write lock: durable and visible when this returns.
pub fn apply(shared: &Shared, works: Vec<Work>) -> Result<Vec<Result<Written>>> {
    let mut writer = shared.writer.lock();
    shared.writable()?;
    let snapshot = shared.snapshot();
    let plan = plan(shared, &snapshot, &writer, works)?;
    if plan.commit.entries.is_empty() {
        return Ok(plan.written);
    }
    failpoint::reach("commit.before");
    shared.store.commit(&plan.commit, shared.durability())?;
    failpoint::reach("commit.after");
    // From here on the rows are durable: whatever fails leaves memory behind the disk, so nothing more is
    // accepted.
    let written = make_visible(shared, &mut writer, &snapshot, plan).inspect_err(|error| {
        shared.poison(&format!("a durable write could not be made visible ({error}); reopen the database"));
    })?;
    let trim = !writer.trim.is_empty();
    drop(writer);
    shared.wake.wake(Lane::Fresh);
    if trim {
        shared.wake.wake(Lane::Disk);
    }
    Ok(written)
}

fn make_visible(
    shared: &Shared,
    writer: &mut Writer,
    snapshot: &Snapshot,
    plan: Plan,
) -> Result<Vec<Result<Written>>> {
    let Plan { commit, docs, removed, trim, dead_rows, dropped, quotas, labels, written, next_row } = plan;
    let first = RowId(writer.next_row);
    let last = RowId(next_row - 1);
    writer.next_row = next_row;
    writer.trim.extend(trim);
    writer.dead_rows += dead_rows;
    shared.tenants.note(commit.new_tenants, &commit.bytes, dropped, &quotas);
    let mut views = snapshot.views.clone();
    if !docs.is_empty() {
        views.push(View::new(Arc::new(Segment::from_docs(
            &shared.indexer,
            docs,
            first..=last,
            &snapshot.segments(),
        )?)));
    }
    mark_deleted(&mut views, &removed);
    if !labels.is_empty() {
        labels::mark(&mut views, &labels);
        shared.labels_changed();
    }
    if let Some(tenant) = dropped {
        let rows = drop_from_views(&mut views, tenant);
        writer.erase(rows);
    }
    shared.publish(views, last);
    Ok(written)
}

/// Marks rows deleted, wherever they are.
pub fn mark_deleted(views: &mut [View], removed: &[(TenantId, RowId)]) {
    let mut docs: HashMap<usize, Vec<DocId>> = HashMap::new();
    for (tenant, row) in removed {
        if let Some((at, doc)) = locate(views, *tenant, *row) {
            docs.entry(at).or_default().push(doc);
        }
    }
    for (at, docs) in docs {
        let deleted = Arc::make_mut(&mut views[at].deleted);
        deleted.extend(docs);
    }
}

/// Marks every row of a tenant deleted and returns those that were not yet.
pub fn drop_from_views(views: &mut [View], tenant: TenantId) -> Vec<RowId> {
    let mut rows = Vec::new();
    for view in views {
        let range = view.segment.tenant_range(tenant);
        if range.is_empty() {
            continue;
        }
        let mut docs = RoaringBitmap::new();
        docs.insert_range(range);
        docs -= &*view.deleted;
        rows.extend(docs.iter().map(|doc| view.segment.rows()[doc as usize]));
        *Arc::make_mut(&mut view.deleted) |= docs;
    }
    rows
}

#[cfg(test)]
mod tests;
