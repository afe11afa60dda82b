//! Which rows of a write are copies of rows that are there, as the schema's [`DedupSpec`] says.
//!
//! A row is compared with the rows that its tenant has when the write is done: not with the one that it
//! replaces, nor with others that the same commit takes away; and with those before it in the same commit. Of
//! several the row with the same words comes first, then the oldest. A row with access labels is a copy only
//! of one that has all of them: who may see the copy would see nothing otherwise.
//!
//! Most of the work is done by the caller's thread, over the snapshot of that moment. Under the write lock is
//! looked at what came since, and again at everything only where the row that was found is gone.
//!
//! Cost: 2 us a text for its keys, and 0.3 to 0.5 us for each segment that has rows of the tenant.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use spandrel_index::dedup::compare::of_tenant;
use spandrel_storage::record::FieldSet;
use spandrel_storage::{DedupPolicy, DocId, LabelId, RowId, TenantId};

use super::PreparedRow;
use crate::check::CheckedRow;
use crate::error::Result;
use crate::response::Copied;
use crate::shared::Shared;
use crate::snapshot::{Snapshot, View};

/// A row that another is a copy of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original {
    /// The row.
    pub row: RowId,
    /// Whether it has the same words in the same order.
    pub exact: bool,
}

impl Ord for Original {
    fn cmp(&self, other: &Self) -> Ordering {
        other.exact.cmp(&self.exact).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Original {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a look at a snapshot has found.
#[derive(Clone, Copy, Debug)]
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

    /// As [`may_name`](Self::may_name), of a row with these labels.
    fn may_name_one_of(&self, labels: &[LabelId]) -> bool {
        self.labels.iter().all(|label| labels.contains(label))
    }
}

/// The first that a row is a copy of, among those of views with writes after `after` that are not `gone`.
fn look(
    views: &[View],
    asked: Asked<'_>,
    after: Option<RowId>,
    gone: &dyn Fn(RowId) -> bool,
) -> Result<Option<Original>> {
    let (mut best, mut docs) = (None, Vec::new());
    let Some(content) = asked.keys.len().checked_sub(1) else { return Ok(None) };
    for view in views.iter().filter(|view| after.is_none_or(|after| view.segment.last() > after)) {
        let range = view.segment.tenant_range(asked.tenant);
        let Some(table) = view.segment.duplicates().filter(|_| !range.is_empty()) else { continue };
        docs.clear();
        table.find(asked.keys, &mut |at, doc| {
            if range.contains(&doc) && !view.deleted.contains(doc) {
                docs.push((doc, at == content));
            }
        })?;
        for (doc, exact) in &docs {
            let found = Original { row: view.segment.rows()[*doc as usize], exact: *exact };
            let better = best.is_none_or(|best| found < best);
            if better && !gone(found.row) && asked.may_name(view, *doc) {
                best = Some(found);
            }
        }
    }
    Ok(best)
}

/// The keys of a row as its tenant has them.
fn keys_of(row: &PreparedRow, tenant: TenantId) -> Vec<u64> {
    row.values.keys().iter().map(|key| of_tenant(tenant, *key)).collect()
}

/// Looks up rows before any lock is taken.
///
/// # Errors
/// An index or the row store cannot be read.
pub fn look_ahead(shared: &Shared, rows: &mut [PreparedRow]) -> Result<()> {
    let snapshot = shared.snapshot();
    let tenants: Vec<Option<TenantId>> = rows.iter().map(|row| shared.tenants.get(&row.tenant)).collect();
    let find = |row: &PreparedRow, tenant: Option<TenantId>, gone: &dyn Fn(RowId) -> bool| match tenant {
        Some(tenant) => {
            let keys = keys_of(row, tenant);
            look(&snapshot.views, Asked::of(row, tenant, &keys), None, gone)
        }
        None => Ok(None),
    };
    for (row, tenant) in rows.iter_mut().zip(&tenants) {
        let original = find(row, *tenant, &|_| false)?;
        row.looked = Some(Looked { up_to: snapshot.last_row, original });
    }
    let found = |row: &PreparedRow| row.looked.and_then(|looked| looked.original);
    if rows.iter().all(|row| found(row).is_none()) {
        return Ok(());
    }
    // Those that they replace are no copies' originals.
    let keys: Vec<_> =
        rows.iter().zip(&tenants).filter_map(|(row, tenant)| Some(((*tenant)?, row.key.as_str()))).collect();
    let own: HashSet<RowId> = snapshot.store.lookup(shared.id, &keys)?.into_iter().flatten().collect();
    for (row, tenant) in rows.iter_mut().zip(&tenants) {
        if found(row).is_some_and(|original| own.contains(&original.row)) {
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
    let original = |row: &PreparedRow| row.looked.and_then(|looked| looked.original);
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
    for (((at, original), there), of) in
        hits.into_iter().zip(there).zip(store.get(shared.id, &of, &FieldSet::NONE)?)
    {
        let Some(of) = of.filter(|_| there.is_none()) else { continue };
        if of.chunk.is_none_or(|chunk| chunk.document != document) {
            let (tenant, key) = (rows[at].tenant.clone(), rows[at].key.clone());
            left_out[at] = Some(Copied { tenant, key, of: of.key, exact: original.exact });
        }
    }
    Ok(left_out)
}

/// A row that a group has written.
struct Earlier {
    row: RowId,
    key: String,
    labels: Vec<LabelId>,
}

/// Keys are hashes: they need no other.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// A key of a row, and the link before it that has the same key.
struct Link {
    key: u64,
    row: u32,
    before: Option<u32>,
}

/// What a group has done so far that copies depend on.
#[derive(Default)]
pub struct Compared {
    rows: Vec<Earlier>,
    links: Vec<Link>,
    /// The last link of each key.
    by_key: HashMap<u64, u32, BuildHasherDefault<AsItIs>>,
    /// Rows that it replaces or deletes.
    gone: HashSet<RowId>,
}

/// What a row is a copy of, and the key of that.
#[derive(Clone, Debug)]
pub struct Found {
    pub original: Original,
    pub key: String,
}

impl Compared {
    /// A row is replaced or deleted.
    pub fn gone(&mut self, row: RowId) {
        self.gone.insert(row);
    }

    /// Rows of the group that are remembered.
    pub fn mark(&self) -> usize {
        self.rows.len()
    }

    /// Forgets those after so many: they are not written.
    pub fn forget(&mut self, mark: usize) {
        self.rows.truncate(mark);
        while let Some(Link { key, before, .. }) = self.links.pop_if(|link| link.row as usize >= mark) {
            match before {
                Some(before) => self.by_key.insert(key, before),
                None => self.by_key.remove(&key),
            };
        }
    }

    /// The rows that have a key.
    fn having(&self, key: u64) -> impl Iterator<Item = &Earlier> {
        let link = |at: &u32| &self.links[*at as usize];
        let last = self.by_key.get(&key).copied();
        let links = std::iter::successors(last, move |at| link(at).before);
        links.map(move |at| &self.rows[link(&at).row as usize])
    }

    /// The first of this group that a row is a copy of.
    fn first(&self, asked: Asked<'_>, gone: &dyn Fn(RowId) -> bool) -> Option<Original> {
        let content = asked.keys.len().checked_sub(1)?;
        let each = asked
            .keys
            .iter()
            .enumerate()
            .flat_map(|(at, key)| self.having(*key).map(move |earlier| (earlier, at == content)));
        let each = each.filter(|(earlier, _)| !gone(earlier.row) && asked.may_name_one_of(&earlier.labels));
        each.map(|(earlier, exact)| Original { row: earlier.row, exact }).min()
    }

    fn add(&mut self, row: RowId, of: &PreparedRow, keys: &[u64]) {
        let at = self.rows.len() as u32;
        for &key in keys {
            let before = self.by_key.insert(key, self.links.len() as u32);
            self.links.push(Link { key, row: at, before });
        }
        self.rows.push(Earlier { row, key: of.key.clone(), labels: of.labels.clone() });
    }

    /// What each row of a work is a copy of. They get rows from `next_row` on as far as they are written;
    /// `there` says whether the key of a row has one, `leaving` are those that the work takes away.
    ///
    /// # Errors
    /// An index or the row store cannot be read.
    pub fn decide(
        &mut self,
        (shared, snapshot): (&Shared, &Snapshot),
        policy: DedupPolicy,
        rows: &[PreparedRow],
        (tenants, there): (&[TenantId], &[bool]),
        (next_row, leaving): (u64, &HashSet<RowId>),
    ) -> Result<Vec<Option<Found>>> {
        let mut originals = Vec::with_capacity(rows.len());
        let mut next = next_row;
        for ((row, tenant), there) in rows.iter().zip(tenants).zip(there) {
            let (tenant, mut original) = (*tenant, None);
            let keys = keys_of(row, tenant);
            let asked = Asked::of(row, tenant, &keys);
            if let Some(looked) = row.looked.filter(|_| !(*there && policy == DedupPolicy::Skip)) {
                let gone = |row: RowId| leaving.contains(&row) || self.gone.contains(&row);
                let stored = again(&snapshot.views, asked, looked, &gone)?;
                original = stored.into_iter().chain(self.first(asked, &gone)).min();
            }
            if original.is_none() || policy != DedupPolicy::Skip {
                if original.is_none() && !keys.is_empty() {
                    self.add(RowId(next), row, &keys);
                }
                next += 1;
            }
            originals.push(original);
        }
        self.name((shared, snapshot), originals)
    }

    /// Finds the keys of originals.
    fn name(
        &self,
        (shared, snapshot): (&Shared, &Snapshot),
        originals: Vec<Option<Original>>,
    ) -> Result<Vec<Option<Found>>> {
        let here: HashMap<RowId, &str> = self.rows.iter().map(|row| (row.row, row.key.as_str())).collect();
        let mut stored: Vec<RowId> = originals.iter().flatten().map(|original| original.row).collect();
        stored.retain(|row| !here.contains_key(row));
        stored.sort_unstable();
        stored.dedup();
        let rows = snapshot.store.get(shared.id, &stored, &FieldSet::NONE)?;
        let keys: HashMap<RowId, String> =
            stored.into_iter().zip(rows).filter_map(|(row, stored)| Some((row, stored?.key))).collect();
        let found = |original: Original| {
            let key =
                here.get(&original.row).copied().or_else(|| keys.get(&original.row).map(String::as_str));
            key.map(|key| Found { original, key: key.to_owned() })
        };
        Ok(originals.into_iter().map(|original| original.and_then(found)).collect())
    }
}

/// What a look before has found, if it holds by now, or what is found now.
fn again(
    views: &[View],
    asked: Asked<'_>,
    looked: Looked,
    gone: &dyn Fn(RowId) -> bool,
) -> Result<Option<Original>> {
    let Some(original) = looked.original else {
        return look(views, asked, Some(looked.up_to), gone);
    };
    let place = crate::snapshot::locate(views, asked.tenant, original.row);
    let holds = place.is_some_and(|(at, doc)| {
        !views[at].deleted.contains(doc) && !gone(original.row) && asked.may_name(&views[at], doc)
    });
    if holds { Ok(Some(original)) } else { look(views, asked, None, gone) }
}
