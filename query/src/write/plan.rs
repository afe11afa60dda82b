//! What a group of writes does: which rows they make, which they replace or delete, what tenants hold then.
//!
//! Planned under the write lock, over the published snapshot; nothing is written here. A work that would
//! exceed its tenant's quota is refused by itself, the others of its group are not.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;

use spandrel_index::segment::IndexDoc;
use spandrel_storage::record::{self, FieldSet};
use spandrel_storage::store::{Commit, Entry};
use spandrel_storage::{DedupPolicy, LabelId, RowId, TenantId, Value};

use super::copies::group::{Compared, Work as Deciding};
use super::copies::{Original, Sight};
use super::{DELETE_ROWS_MAX, PreparedRow, Work};
use crate::error::{Error, Result};
use crate::filter::{CheckedFilter, KeyLookup};
use crate::labels::LabelChange;
use crate::rag::ingest;
use crate::request::Filter;
use crate::response::{Copied, Written};
use crate::shared::{Shared, Writer};
use crate::snapshot::Snapshot;
use crate::tenants::{Held, Quota};

/// Keys read at once while looking for the chunks of an earlier version of a document.
const KEYS_PAGE: usize = 1_024;

/// What the commit of a group is made of.
pub struct Plan {
    pub commit: Commit,
    pub docs: Vec<Arc<IndexDoc>>,
    /// Rows that stop being visible: of segments already published, or earlier ones of this very group.
    pub removed: Vec<(TenantId, RowId)>,
    /// Log records to remove once a manifest covers them.
    pub trim: Vec<RowId>,
    /// Deletes, whose space is to come back.
    pub dead_rows: u64,
    pub dropped: Option<TenantId>,
    pub quotas: Vec<(TenantId, Option<Quota>)>,
    pub labels: Vec<LabelChange>,
    /// What each work has done, or why it may not.
    pub written: Vec<Result<Written>>,
    pub next_row: u64,
}

/// What a work has written or deleted, the last row of which is not known yet, or why it may not.
type Outcome = Result<Written, Error>;

/// A row, and the bytes of its record.
type Sized = (RowId, u32);

/// Plans a group.
///
/// # Errors
/// The row store or an index cannot be read.
pub fn plan(shared: &Shared, snapshot: &Snapshot, writer: &Writer, works: Vec<Work>) -> Result<Plan> {
    let mut planner = Planner {
        shared,
        snapshot,
        covered: writer.covered(),
        new_tenants: HashMap::new(),
        next_tenant: shared.tenants.next().0,
        current: HashMap::new(),
        held: HashMap::new(),
        compared: shared.schema.dedup.as_ref().map(|_| Compared::default()),
        plan: Plan {
            commit: Commit { collection: shared.id, ..Commit::default() },
            docs: Vec::new(),
            removed: Vec::new(),
            trim: Vec::new(),
            dead_rows: 0,
            dropped: None,
            quotas: Vec::new(),
            labels: Vec::new(),
            written: Vec::with_capacity(works.len()),
            next_row: writer.next_row,
        },
    };
    for work in works {
        let written = match work {
            Work::Upsert(rows) => planner.upsert(rows, &[])?,
            Work::Document { tenant, document, rows, chunks, left_out } => {
                planner.document((&tenant, &document), rows, chunks, left_out)?
            }
            Work::Delete { tenant, keys } => Ok(rows_written(planner.delete(&tenant, keys)?)),
            Work::DeleteByFilter { tenant, filter, up_to } => {
                Ok(rows_written(planner.delete_by_filter(&tenant, &filter, up_to)?))
            }
            Work::Label { tenant, keys, labels, granted } => {
                Ok(rows_written(planner.label(&tenant, &keys, &labels, granted)?))
            }
            Work::DropTenant { tenant, keeps_quota } => {
                Ok(rows_written(planner.drop_tenant(&tenant, keeps_quota)?))
            }
        };
        let last_row = planner.plan.next_row - 1;
        planner.plan.written.push(written.map(|written| Written { last_row, ..written }));
    }
    planner.plan.commit.bytes = planner.held.into_iter().map(|(tenant, held)| (tenant, held.bytes)).collect();
    Ok(planner.plan)
}

fn rows_written(rows: u64) -> Written {
    Written { rows, ..Written::default() }
}

/// Keeps what belongs to rows that are no copies.
fn retain_new<T>(all: &mut Vec<T>, found: &[Option<Original>]) {
    let mut new = found.iter().map(Option::is_none);
    all.retain(|_| new.next().unwrap_or(true));
}

struct Planner<'a> {
    shared: &'a Shared,
    snapshot: &'a Snapshot,
    /// Rows up to here are in segments on disk.
    covered: RowId,
    new_tenants: HashMap<String, TenantId>,
    next_tenant: u32,
    /// Keys that this group already wrote, and the row they now have.
    current: HashMap<(TenantId, String), Option<Sized>>,
    /// What tenants hold that this group writes to; rows only where a quota limits them.
    held: HashMap<TenantId, Held>,
    /// What copies depend on, where rows are compared.
    compared: Option<Compared>,
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
    fn lookup(&self, keys: &[(TenantId, &str)]) -> Result<Vec<Option<Sized>>> {
        let first_new = self.shared.tenants.next();
        let known: Vec<_> = keys.iter().copied().filter(|(tenant, _)| *tenant < first_new).collect();
        let mut rows = self.snapshot.store.named(self.shared.id, &known)?.into_iter();
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

    /// What a tenant holds so far.
    fn held(&mut self, tenant: TenantId) -> &mut Held {
        let (shared, snapshot) = (self.shared, self.snapshot);
        self.held.entry(tenant).or_insert_with(|| Held {
            rows: if shared.tenants.quotas.limits_rows(tenant) { snapshot.tenant_rows(tenant) } else { 0 },
            bytes: shared.tenants.bytes(tenant),
        })
    }

    /// The row that a key has by now.
    fn now(&self, tenant: TenantId, key: &str, stored: Option<Sized>) -> Option<Sized> {
        if self.current.is_empty() {
            return stored;
        }
        self.current.get(&(tenant, key.to_owned())).copied().unwrap_or(stored)
    }

    /// Gives a key another row, or none; returns the one that it had.
    fn replace(
        &mut self,
        tenant: TenantId,
        key: &str,
        stored: Option<Sized>,
        new: Option<Sized>,
    ) -> Option<RowId> {
        let old = match self.current.entry((tenant, key.to_owned())) {
            Slot::Occupied(mut slot) => slot.insert(new),
            Slot::Vacant(slot) => {
                slot.insert(new);
                stored
            }
        };
        self.held(tenant).change(old.map(|(_, bytes)| bytes), new.map(|(_, bytes)| bytes));
        let (old, _) = old?;
        self.plan.removed.push((tenant, old));
        if let Some(compared) = &mut self.compared {
            compared.gone(old);
        }
        Some(old)
    }

    /// Whether rows fit the quotas of their tenants once those `leaving` are gone. A write that takes no more
    /// than there was is let through, also by a tenant that has too much.
    fn check_quotas(
        &mut self,
        rows: &[PreparedRow],
        tenants: &[TenantId],
        stored: &[Option<Sized>],
        leaving: &[Sized],
    ) -> Result<(), Error> {
        let mut after: HashMap<TenantId, (Held, &str)> = HashMap::new();
        for ((row, tenant), stored) in rows.iter().zip(tenants).zip(stored) {
            if !self.shared.tenants.quotas.limits_rows(*tenant) {
                continue;
            }
            let before = *self.held(*tenant);
            let (held, _) = after.entry(*tenant).or_insert((before, &row.tenant));
            held.change(self.now(*tenant, &row.key, *stored).map(|(_, bytes)| bytes), Some(row.bytes()));
        }
        for (tenant, (mut held, name)) in after {
            leaving.iter().for_each(|(_, bytes)| held.change(Some(*bytes), None));
            self.shared.tenants.quotas.check_held(tenant, name, (*self.held(tenant), held))?;
        }
        Ok(())
    }

    /// Takes out the rows that are copies, or marks them, as the schema says; returns what was found.
    fn copies(
        &mut self,
        rows: &mut Vec<PreparedRow>,
        tenants: &mut Vec<TenantId>,
        stored: &mut Vec<Option<Sized>>,
        leaving: &[Sized],
    ) -> Result<Vec<Copied>> {
        let shared = self.shared;
        let (Some(spec), Some(comparer)) = (&shared.schema.dedup, shared.indexer.comparer()) else {
            return Ok(Vec::new());
        };
        let Some(sight) = Sight::of(shared, self.snapshot) else { return Ok(Vec::new()) };
        let each = rows.iter().zip(&*tenants).zip(&*stored);
        let now: Vec<Option<Sized>> =
            each.map(|((row, tenant), stored)| self.now(*tenant, &row.key, *stored)).collect();
        let there: Vec<bool> = now.iter().map(Option::is_some).collect();
        // What the group had taken away before is known to be gone.
        let leaving = now.iter().flatten().chain(leaving).map(|(row, _)| *row).collect();
        let work = Deciding { rows, tenants, there: &there, next_row: self.plan.next_row, leaving: &leaving };
        let found = match &mut self.compared {
            Some(compared) => compared.decide(sight, spec.policy, &work)?,
            None => return Ok(Vec::new()),
        };
        let mut copied = Vec::new();
        for (row, found) in rows.iter_mut().zip(&found) {
            let Some(Original { key, exact, .. }) = found else { continue };
            let value = match spec.policy {
                DedupPolicy::Skip => None,
                DedupPolicy::Flag => Some(Value::Bool(true)),
                DedupPolicy::Link => Some(Value::String(key.clone())),
            };
            if let Some((mark, value)) = comparer.mark().zip(value) {
                row.mark(mark, value)?;
            }
            let (tenant, of) = (row.tenant.clone(), key.clone());
            copied.push(Copied { tenant, key: row.key.clone(), of, exact: *exact });
        }
        if spec.policy == DedupPolicy::Skip && !copied.is_empty() {
            retain_new(rows, &found);
            retain_new(tenants, &found);
            retain_new(stored, &found);
        }
        Ok(copied)
    }

    /// Rows in; `leaving` are those of the same tenant that are going to be deleted for them.
    fn upsert(&mut self, mut rows: Vec<PreparedRow>, leaving: &[Sized]) -> Result<Outcome> {
        let (first_tenant, known) = (self.next_tenant, self.plan.commit.new_tenants.len());
        let mark = self.compared.as_ref().map_or(0, Compared::mark);
        let mut tenants: Vec<TenantId> = rows.iter().map(|row| self.tenant_or_new(&row.tenant)).collect();
        let keys: Vec<_> =
            tenants.iter().zip(&rows).map(|(tenant, row)| (*tenant, row.key.as_str())).collect();
        let mut stored = self.lookup(&keys)?;
        let copied = self.copies(&mut rows, &mut tenants, &mut stored, leaving)?;
        if let Err(error) = self.check_quotas(&rows, &tenants, &stored, leaving) {
            if let Some(compared) = &mut self.compared {
                compared.forget(mark);
            }
            for (tenant, name) in self.plan.commit.new_tenants.drain(known..) {
                self.new_tenants.remove(&name);
                self.held.remove(&tenant);
            }
            self.next_tenant = first_tenant;
            return Ok(Err(error));
        }
        let written = rows.len() as u64;
        for ((row, tenant), stored) in rows.into_iter().zip(tenants).zip(stored) {
            let (id, bytes) = (self.next_row(), row.bytes());
            let PreparedRow { key, mut record, index_key, labels, values, .. } = row;
            let replaces = self.replace(tenant, &key, stored, Some((id, bytes)));
            record::set_tenant(&mut record, tenant);
            record::set_replaces(&mut record, replaces);
            let erase = self.erasable(replaces);
            self.plan.commit.entries.push(Entry::Put { row: id, tenant, key, record, erase });
            self.plan.docs.push(Arc::new(IndexDoc { row: id, tenant, key: index_key, labels, values }));
        }
        Ok(Ok(Written { rows: written, copies: copied.len() as u64, copied, ..Written::default() }))
    }

    fn document(
        &mut self,
        (tenant, document): (&str, &str),
        rows: Vec<PreparedRow>,
        count: usize,
        left_out: Vec<String>,
    ) -> Result<Outcome> {
        let mut stale = match self.shared.tenants.get(tenant) {
            Some(id) => self.stale_chunks(id, document, count)?,
            None => Vec::new(),
        };
        // Who wrote it meanwhile wrote another version.
        stale.extend(left_out);
        let leaving = match self.shared.tenants.get(tenant) {
            Some(id) => {
                let names: Vec<_> = stale.iter().map(|key| (id, key.as_str())).collect();
                self.lookup(&names)?.into_iter().flatten().collect()
            }
            None => Vec::new(),
        };
        let written = self.upsert(rows, &leaving)?;
        if written.is_ok() {
            self.delete(tenant, stale)?;
        }
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
        let now = |(key, stored): (&String, Option<Sized>)| self.now(tenant, key, stored);
        let mut rows: Vec<RowId> = keys.iter().zip(stored).filter_map(now).map(|(row, _)| row).collect();
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

    /// Where its quota stays, a tenant of the same name has it, without rows.
    fn drop_tenant(&mut self, name: &str, keeps_quota: bool) -> Result<u64> {
        let Some(tenant) = self.shared.tenants.get(name) else { return Ok(0) };
        if let Some(quota) = self.shared.tenants.quotas.own(tenant).filter(|_| keeps_quota) {
            let id = TenantId(self.next_tenant);
            self.next_tenant += 1;
            self.plan.commit.new_tenants.push((id, name.to_owned()));
            self.plan.commit.quotas.push((id, quota.encode()?));
            self.plan.quotas.push((id, Some(quota)));
        }
        self.plan.commit.next_tenant = Some(TenantId(self.next_tenant));
        let rows = self.snapshot.tenant_rows(tenant);
        let row = self.next_row();
        self.plan.trim.push(row);
        self.plan.dead_rows += rows;
        self.plan.commit.entries.push(Entry::DropTenant { row, tenant });
        self.plan.dropped = Some(tenant);
        Ok(rows)
    }
}
