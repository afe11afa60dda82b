//! Which rows of a write are copies of rows that are there, as the schema's [`DedupSpec`] says.
//!
//! A row is compared with the rows that its tenant has when the write is done: not with the one that it
//! replaces, nor with others that the same commit takes away; and with those before it in the same commit
//! ([`group`]). Of several the row with the same words comes first, then the oldest. A row with access labels
//! is a copy only of one that has all of them: who may see the copy would see nothing otherwise.
//!
//! Segments keep keys cut short, which may be those of others: the text of a row that was found is read and
//! has to share a whole key. So a decision is as good as its 64 bits, and the tables may be small.
//!
//! Most of the work is done by the caller's thread, over the snapshot of that moment. Under the write lock is
//! looked at what came since, and again at everything only where the row that was found is gone.
//!
//! Cost: 2 us a text for its keys, 0.3 to 0.5 us for each segment that has rows of the tenant, and a read of
//! the row store for a copy.
//!
//! [`DedupSpec`]: spandrel_storage::DedupSpec

pub mod group;

use std::collections::HashSet;

use spandrel_index::dedup::compare::{Comparer, of_tenant};
use spandrel_storage::record::FieldSet;
use spandrel_storage::{DocId, FieldValue, LabelId, RowId, TenantId};

use super::PreparedRow;
use crate::check::CheckedRow;
use crate::error::Result;
use crate::publish;
use crate::response::Copied;
use crate::shared::Shared;
use crate::snapshot::{Snapshot, View, locate};

/// A row that another is a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    /// The row.
    pub row: RowId,
    /// Its key.
    pub key: String,
    /// Whether it has the same words in the same order.
    pub exact: bool,
}

impl Original {
    /// The smallest comes first.
    fn rank(&self) -> (bool, RowId) {
        (!self.exact, self.row)
    }
}

/// What a look at a snapshot has found.
#[derive(Clone, Debug)]
pub struct Looked {
    /// The last write that it saw.
    up_to: RowId,
    original: Option<Original>,
}

/// A row to be compared.
#[derive(Clone, Copy)]
struct Asked<'a> {
    tenant: TenantId,
    /// As the tenant has them; the last is that of the exact content.
    keys: &'a [u64],
    labels: &'a [LabelId],
}

impl<'a> Asked<'a> {
    fn of(row: &'a PreparedRow, tenant: TenantId, keys: &'a [u64]) -> Self {
        Self { tenant, keys, labels: &row.labels }
    }

    /// Whether a row of a view may be an original.
    fn may_name(&self, view: &View, doc: DocId) -> bool {
        self.labels.iter().all(|label| view.labelled(&[*label], &(doc..doc + 1)).contains(doc))
    }
}

/// The keys of a row as its tenant has them.
fn keys_of(row: &PreparedRow, tenant: TenantId) -> Vec<u64> {
    of_tenant(tenant, row.values.keys()).collect()
}

/// Where rows are looked for.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    shared: &'a Shared,
    snapshot: &'a Snapshot,
    comparer: &'a Comparer,
}

impl<'a> Sight<'a> {
    /// What there is in a snapshot; none where the schema compares nothing.
    pub fn of(shared: &'a Shared, snapshot: &'a Snapshot) -> Option<Self> {
        Some(Self { shared, snapshot, comparer: shared.indexer.comparer()? })
    }

    /// The first that a row is a copy of, among those of views with writes after `after` that are not `gone`.
    fn original(
        &self,
        asked: Asked<'_>,
        after: Option<RowId>,
        gone: &dyn Fn(RowId) -> bool,
    ) -> Result<Option<Original>> {
        let mut others: Vec<RowId> = Vec::new();
        loop {
            let out = |row: RowId| gone(row) || others.contains(&row);
            let Some(row) = self.look(asked, after, &out)? else { return Ok(None) };
            if let Some(original) = self.check(asked, row)? {
                return Ok(Some(original));
            }
            others.push(row);
        }
    }

    /// The first row that seems to share a key.
    fn look(
        &self,
        asked: Asked<'_>,
        after: Option<RowId>,
        gone: &dyn Fn(RowId) -> bool,
    ) -> Result<Option<RowId>> {
        let (mut best, mut docs) = (None, Vec::new());
        let Some(content) = asked.keys.len().checked_sub(1) else { return Ok(None) };
        let views = self.snapshot.views.iter();
        for view in views.filter(|view| after.is_none_or(|after| view.segment.last() > after)) {
            let range = view.segment.tenant_range(asked.tenant);
            let Some(table) = view.segment.duplicates().filter(|_| !range.is_empty()) else { continue };
            docs.clear();
            table.find(asked.keys, &mut |at, doc| {
                if range.contains(&doc) && !view.deleted.contains(doc) {
                    docs.push((doc, at != content));
                }
            })?;
            for (doc, near) in &docs {
                let found = (*near, view.segment.rows()[*doc as usize]);
                let better = best.is_none_or(|best| found < best);
                if better && !gone(found.1) && asked.may_name(view, *doc) {
                    best = Some(found);
                }
            }
        }
        Ok(best.map(|(_, row)| row))
    }

    /// The row, if it does share a key.
    fn check(&self, asked: Asked<'_>, row: RowId) -> Result<Option<Original>> {
        let field = self.comparer.field();
        let stored = self.snapshot.store.get(self.shared.id, &[row], &FieldSet::of([field]))?;
        let Some(stored) = stored.into_iter().next().flatten() else {
            return Err(publish::lost(self.shared, row).into());
        };
        let keys = match stored.field(field) {
            Some(FieldValue::Text(text)) => self.comparer.keys(text),
            _ => Box::default(),
        };
        let keys: Vec<u64> = of_tenant(asked.tenant, &keys).collect();
        let shares = keys.iter().any(|key| asked.keys.contains(key));
        let exact = keys.last() == asked.keys.last();
        Ok(shares.then_some(Original { row, key: stored.key, exact }))
    }

    /// What a look before has found, and what came since, as far as it holds by now.
    fn again(
        &self,
        asked: Asked<'_>,
        looked: Looked,
        gone: &dyn Fn(RowId) -> bool,
    ) -> Result<Option<Original>> {
        let holds = |original: &Original| {
            let views = &self.snapshot.views;
            locate(views, asked.tenant, original.row).is_some_and(|(at, doc)| {
                !views[at].deleted.contains(doc) && !gone(original.row) && asked.may_name(&views[at], doc)
            })
        };
        let after = match &looked.original {
            Some(original) if !holds(original) => return self.original(asked, None, gone),
            _ => Some(looked.up_to),
        };
        let since = self.original(asked, after, gone)?;
        Ok(since.into_iter().chain(looked.original).min_by_key(Original::rank))
    }
}

/// Looks up rows before any lock is taken.
///
/// # Errors
/// An index or the row store cannot be read.
pub fn look_ahead(shared: &Shared, rows: &mut [PreparedRow]) -> Result<()> {
    let snapshot = shared.snapshot();
    let Some(sight) = Sight::of(shared, &snapshot) else { return Ok(()) };
    let tenants: Vec<Option<TenantId>> = rows.iter().map(|row| shared.tenants.get(&row.tenant)).collect();
    let find = |row: &PreparedRow, tenant: Option<TenantId>, gone: &dyn Fn(RowId) -> bool| match tenant {
        Some(tenant) => sight.original(Asked::of(row, tenant, &keys_of(row, tenant)), None, gone),
        None => Ok(None),
    };
    for (row, tenant) in rows.iter_mut().zip(&tenants) {
        let original = find(row, *tenant, &|_| false)?;
        row.looked = Some(Looked { up_to: snapshot.last_row, original });
    }
    let found =
        |row: &PreparedRow| row.looked.as_ref().and_then(|looked| Some(looked.original.as_ref()?.row));
    if rows.iter().all(|row| found(row).is_none()) {
        return Ok(());
    }
    // Those that they replace are no copies' originals.
    let keys: Vec<_> =
        rows.iter().zip(&tenants).filter_map(|(row, tenant)| Some(((*tenant)?, row.key.as_str()))).collect();
    let own: HashSet<RowId> = snapshot.store.lookup(shared.id, &keys)?.into_iter().flatten().collect();
    for (row, tenant) in rows.iter_mut().zip(&tenants) {
        if found(row).is_some_and(|original| own.contains(&original)) {
            let original = find(row, *tenant, &|row| own.contains(&row))?;
            row.looked = Some(Looked { up_to: snapshot.last_row, original });
        }
    }
    Ok(())
}

/// Which chunks of a document are copies that would be left out: they need not be embedded. Not those whose
/// keys have rows already, nor copies of what the document said before.
///
/// # Errors
/// As [`look_ahead`].
pub fn left_out(shared: &Shared, rows: Vec<CheckedRow>, document: &str) -> Result<Vec<Option<Copied>>> {
    let rows = PreparedRow::all(shared, rows)?;
    let original = |row: &PreparedRow| row.looked.as_ref()?.original.clone();
    let hits: Vec<(usize, Original)> =
        rows.iter().enumerate().filter_map(|(at, row)| Some((at, original(row)?))).collect();
    let mut left_out = vec![None; rows.len()];
    if hits.is_empty() {
        return Ok(left_out);
    }
    let store = shared.store.snapshot();
    let tenant = |row: &PreparedRow| shared.tenants.get(&row.tenant).unwrap_or_default();
    let keys: Vec<_> = hits.iter().map(|(at, _)| (tenant(&rows[*at]), rows[*at].key.as_str())).collect();
    let there = store.lookup(shared.id, &keys)?;
    let of: Vec<RowId> = hits.iter().map(|(_, original)| original.row).collect();
    let of = store.get(shared.id, &of, &FieldSet::NONE)?;
    for (((at, original), there), of) in hits.into_iter().zip(there).zip(of) {
        let Some(of) = of.filter(|_| there.is_none()) else { continue };
        if of.chunk.is_none_or(|chunk| chunk.document != document) {
            let (tenant, key) = (rows[at].tenant.clone(), rows[at].key.clone());
            left_out[at] = Some(Copied { tenant, key, of: of.key, exact: original.exact });
        }
    }
    Ok(left_out)
}
