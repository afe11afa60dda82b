//! A group of writes becomes one durable RocksDB batch, one fresh segment and one published snapshot.
//!
//! Order of a group: row ids and replaced rows are found; the batch is committed (and synced); the fresh
//! segment is built; replaced rows are marked deleted; the snapshot is published; only then is anyone
//! acknowledged. A failure before the commit changes nothing; a failed commit is reported to every caller of
//! the group.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;

use roaring::RoaringBitmap;
use spandrel_index::segment::{Batch, IndexDoc, IndexValues, Segment};
use spandrel_storage::record::{self, FieldSet, StoredRow};
use spandrel_storage::store::{Commit, Entry};
use spandrel_storage::{DocId, LabelId, RowId, TenantId, failpoint};

use crate::check::CheckedRow;
use crate::error::Result;
use crate::fetch::key_of;
use crate::filter::{CheckedFilter, KeyLookup};
use crate::labels::{self, LabelChange};
use crate::maintain::Lane;
use crate::rag::ingest;
use crate::request::Filter;
use crate::response::Written;
use crate::shared::{Shared, Writer};
use crate::snapshot::{Snapshot, View, locate};

/// Keys read at once while looking for the chunks of an earlier version of a document.
const KEYS_PAGE: usize = 1_024;
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
}

impl PreparedRow {
    /// Encodes and analyses rows, with one set of analyzers for all.
    pub fn all(shared: &Shared, rows: Vec<CheckedRow>) -> Result<Vec<Self>> {
        // Names are durable before rows refer to them.
        let names: Vec<String> = rows.iter().flat_map(|row| &row.labels).cloned().collect();
        if !names.is_empty() {
            labels::define(shared, &names)?;
        }
        let mut batch = shared.indexer.batch()?;
        rows.into_iter().map(|row| Self::new(shared, &mut batch, row)).collect()
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
        Ok(Self { record: stored.encode(), key, tenant, index_key, labels, values })
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
        /// Its chunks, in order.
        rows: Vec<PreparedRow>,
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

    /// Whether it can share a commit: its effect does not depend on what the others of the group do.
    pub fn groups(&self) -> bool {
        matches!(self, Self::Upsert(_) | Self::Delete { .. } | Self::Label { .. })
    }
}

/// What the commit of a group is made of.
struct Plan {
    commit: Commit,
    docs: Vec<Arc<IndexDoc>>,
    /// Rows that stop being visible: of segments already published, or earlier ones of this very group.
    removed: Vec<(TenantId, RowId)>,
    /// Log records to remove once a manifest covers them.
    trim: Vec<RowId>,
    /// Deletes, whose space is to come back.
    dead_rows: u64,
    dropped: Option<TenantId>,
    labels: Vec<LabelChange>,
    written: Vec<Written>,
    next_row: u64,
}

/// Carries out the work of a group under the write lock: durable and visible when this returns.
pub fn apply(shared: &Shared, works: Vec<Work>) -> Result<Vec<Written>> {
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
) -> Result<Vec<Written>> {
    let Plan { commit, docs, removed, trim, dead_rows, dropped, labels, written, next_row } = plan;
    let first = RowId(writer.next_row);
    let last = RowId(next_row - 1);
    writer.next_row = next_row;
    writer.trim.extend(trim);
    writer.dead_rows += dead_rows;
    shared.tenants.insert(commit.new_tenants);
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

fn plan(shared: &Shared, snapshot: &Snapshot, writer: &Writer, works: Vec<Work>) -> Result<Plan> {
    let mut planner = Planner {
        shared,
        snapshot,
        covered: writer.covered(),
        new_tenants: HashMap::new(),
        next_tenant: shared.tenants.next().0,
        current: HashMap::new(),
        plan: Plan {
            commit: Commit { collection: shared.id, ..Commit::default() },
            docs: Vec::new(),
            removed: Vec::new(),
            trim: Vec::new(),
            dead_rows: 0,
            dropped: None,
            labels: Vec::new(),
            written: Vec::with_capacity(works.len()),
            next_row: writer.next_row,
        },
    };
    for work in works {
        let rows = match work {
            Work::Upsert(rows) => planner.upsert(rows)?,
            Work::Document { tenant, document, rows } => planner.document(&tenant, &document, rows)?,
            Work::Delete { tenant, keys } => planner.delete(&tenant, keys)?,
            Work::DeleteByFilter { tenant, filter, up_to } => {
                planner.delete_by_filter(&tenant, &filter, up_to)?
            }
            Work::Label { tenant, keys, labels, granted } => {
                planner.label(&tenant, &keys, &labels, granted)?
            }
            Work::DropTenant { tenant } => planner.drop_tenant(&tenant)?,
        };
        let last_row = planner.plan.next_row - 1;
        planner.plan.written.push(Written { last_row, rows });
    }
    Ok(planner.plan)
}

struct Planner<'a> {
    shared: &'a Shared,
    snapshot: &'a Snapshot,
    /// Rows up to here are in segments on disk.
    covered: RowId,
    new_tenants: HashMap<String, TenantId>,
    next_tenant: u32,
    /// Keys that this group already wrote, and the row they now have.
    current: HashMap<(TenantId, String), Option<RowId>>,
    plan: Plan,
}

impl Planner<'_> {
    fn tenant(&self, name: &str) -> Option<TenantId> {
        self.shared.tenants.get(name).or_else(|| self.new_tenants.get(name).copied())
    }

    fn tenant_or_new(&mut self, name: &str) -> TenantId {
        self.tenant(name).unwrap_or_else(|| {
            let id = TenantId(self.next_tenant);
            self.next_tenant += 1;
            self.new_tenants.insert(name.to_owned(), id);
            self.plan.commit.new_tenants.push((id, name.to_owned()));
            id
        })
    }

    fn next_row(&mut self) -> RowId {
        let row = RowId(self.plan.next_row);
        self.plan.next_row += 1;
        row
    }

    /// Rows that the keys have in the store. A tenant that this group adds has none there.
    fn lookup(&self, keys: &[(TenantId, &str)]) -> Result<Vec<Option<RowId>>> {
        let first_new = self.shared.tenants.next();
        let known: Vec<_> = keys.iter().copied().filter(|(tenant, _)| *tenant < first_new).collect();
        let mut rows = self.snapshot.store.lookup(self.shared.id, &known)?.into_iter();
        let row_of = |(tenant, _): &(TenantId, &str)| match *tenant < first_new {
            true => rows.next().flatten(),
            false => None,
        };
        Ok(keys.iter().map(row_of).collect())
    }

    /// The record of a replaced row, if it may go with this very commit. Until a manifest covers it, it stays
    /// in the log: recovery has to see what it replaced in turn.
    fn erasable(&mut self, replaced: Option<RowId>) -> Option<RowId> {
        let replaced = replaced?;
        if replaced <= self.covered {
            return Some(replaced);
        }
        self.plan.trim.push(replaced);
        None
    }

    fn replace(
        &mut self,
        tenant: TenantId,
        key: &str,
        stored: Option<RowId>,
        new: Option<RowId>,
    ) -> Option<RowId> {
        let old = match self.current.entry((tenant, key.to_owned())) {
            Slot::Occupied(mut slot) => slot.insert(new),
            Slot::Vacant(slot) => {
                slot.insert(new);
                stored
            }
        };
        if let Some(old) = old {
            self.plan.removed.push((tenant, old));
        }
        old
    }

    fn upsert(&mut self, rows: Vec<PreparedRow>) -> Result<u64> {
        let count = rows.len() as u64;
        let tenants: Vec<TenantId> = rows.iter().map(|row| self.tenant_or_new(&row.tenant)).collect();
        let keys: Vec<_> =
            tenants.iter().zip(&rows).map(|(tenant, row)| (*tenant, row.key.as_str())).collect();
        let stored = self.lookup(&keys)?;
        for ((row, tenant), stored) in rows.into_iter().zip(tenants).zip(stored) {
            let PreparedRow { key, tenant: _, mut record, index_key, labels, values } = row;
            let id = self.next_row();
            let replaces = self.replace(tenant, &key, stored, Some(id));
            record::set_tenant(&mut record, tenant);
            record::set_replaces(&mut record, replaces);
            let erase = self.erasable(replaces);
            self.plan.commit.entries.push(Entry::Put { row: id, tenant, key, record, erase });
            self.plan.docs.push(Arc::new(IndexDoc { row: id, tenant, key: index_key, labels, values }));
        }
        Ok(count)
    }

    fn document(&mut self, tenant: &str, document: &str, rows: Vec<PreparedRow>) -> Result<u64> {
        let count = rows.len();
        let stale = match self.shared.tenants.get(tenant) {
            Some(id) => self.stale_chunks(id, document, count)?,
            None => Vec::new(),
        };
        let written = self.upsert(rows)?;
        self.delete(tenant, stale)?;
        Ok(written)
    }

    /// Keys of chunks of an earlier, longer version of a document. A row that only has such a key is not one.
    fn stale_chunks(&self, tenant: TenantId, document: &str, count: usize) -> Result<Vec<String>> {
        let (store, collection) = (&self.snapshot.store, self.shared.id);
        let prefix = ingest::key_prefix(document);
        let (mut stale, mut after) = (Vec::new(), prefix.clone());
        loop {
            let page = store.keys_after(collection, tenant, Some(&after), KEYS_PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(stale) };
            after.clone_from(last);
            let done = page.len() < KEYS_PAGE || !last.starts_with(&prefix);
            let named = page.into_iter().filter(|(key, _)| ingest::is_stale(key, document, count));
            let rows: Vec<RowId> = named.map(|(_, row)| row).collect();
            let stored = store.get(collection, &rows, &FieldSet::NONE)?;
            let chunks = stored.into_iter().flatten();
            stale.extend(
                chunks
                    .filter(|row| row.chunk.as_ref().is_some_and(|chunk| chunk.document == document))
                    .map(|row| row.key),
            );
            if done {
                return Ok(stale);
            }
        }
    }

    fn delete(&mut self, tenant: &str, keys: Vec<String>) -> Result<u64> {
        let Some(tenant) = self.tenant(tenant) else { return Ok(0) };
        let names: Vec<_> = keys.iter().map(|key| (tenant, key.as_str())).collect();
        let stored = self.lookup(&names)?;
        let mut count = 0;
        for (key, stored) in keys.into_iter().zip(stored) {
            if let Some(old) = self.replace(tenant, &key, stored, None) {
                let row = self.next_row();
                let erase = self.erasable(Some(old));
                self.plan.trim.push(row);
                self.plan.dead_rows += 1;
                self.plan.commit.entries.push(Entry::Delete { row, tenant, key, replaces: old, erase });
                count += 1;
            }
        }
        Ok(count)
    }

    fn delete_by_filter(&mut self, tenant: &str, filter: &Filter, up_to: RowId) -> Result<u64> {
        let shared = self.shared;
        let Some(id) = shared.tenants.get(tenant) else {
            return Ok(0);
        };
        let lookup = KeyLookup {
            store: &self.snapshot.store,
            collection: shared.id,
            tenant: id,
            labels: &shared.labels,
        };
        let filter = CheckedFilter::new(&shared.schema, filter, &lookup)?;
        let mut rows = Vec::new();
        for view in self.snapshot.views.iter().filter(|view| view.segment.first() <= up_to) {
            let Some(allow) = view.allow(id) else { continue };
            let docs = filter.docs(view, id, &allow.range)? - &*view.deleted;
            let found = docs.iter().map(|doc| view.segment.rows()[doc as usize]);
            rows.extend(found.filter(|row| *row <= up_to).take(DELETE_ROWS_MAX - rows.len()));
            if rows.len() == DELETE_ROWS_MAX {
                break;
            }
        }
        let mut keys = Vec::with_capacity(rows.len());
        for rows in rows.chunks(KEYS_PAGE) {
            let stored = self.snapshot.store.get(shared.id, rows, &FieldSet::NONE)?;
            keys.extend(stored.into_iter().flatten().map(|row| row.key));
        }
        self.delete(tenant, keys)
    }

    fn label(&mut self, tenant: &str, keys: &[String], labels: &[LabelId], granted: bool) -> Result<u64> {
        let Some(tenant) = self.tenant(tenant) else { return Ok(0) };
        let names: Vec<_> = keys.iter().map(|key| (tenant, key.as_str())).collect();
        let stored = self.lookup(&names)?;
        // A row that this group has written or deleted goes before what is stored.
        let now = |(key, stored): (&String, Option<RowId>)| {
            self.current.get(&(tenant, key.clone())).copied().unwrap_or(stored)
        };
        let mut rows: Vec<RowId> = keys.iter().zip(stored).filter_map(now).collect();
        rows.sort_unstable();
        rows.dedup();
        for label in labels.iter().copied().filter(|_| !rows.is_empty()) {
            let row = self.next_row();
            self.plan.trim.push(row);
            let rows = rows.clone();
            self.plan.commit.entries.push(Entry::Label { row, tenant, label, granted, rows: rows.clone() });
            self.plan.labels.push(LabelChange { tenant, label, granted, rows });
        }
        Ok(rows.len() as u64)
    }

    fn drop_tenant(&mut self, tenant: &str) -> Result<u64> {
        let Some(tenant) = self.shared.tenants.get(tenant) else { return Ok(0) };
        let rows = self.snapshot.tenant_rows(tenant);
        let row = self.next_row();
        self.plan.trim.push(row);
        self.plan.dead_rows += rows;
        self.plan.commit.entries.push(Entry::DropTenant { row, tenant });
        self.plan.dropped = Some(tenant);
        Ok(rows)
    }
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
