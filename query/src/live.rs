//! Which docs a merge takes: those of its inputs that are not deleted, from the inputs themselves or from the
//! row store.

use std::sync::Arc;

use spandrel_index::labels::Overlay;
use spandrel_index::pace;
use spandrel_index::segment::{IndexDoc, IndexValues, Segment};
use spandrel_storage::record::FieldSet;
use spandrel_storage::store::{Grant, StoreSnapshot};
use spandrel_storage::{CollectionId, DocId, LabelId, RowId, TenantId};

use crate::fetch::key_of;
use crate::publish;
use crate::shared::Shared;
use crate::snapshot::{Snapshot, View};

/// Rows read from the row store at once.
const FETCH_ROWS: usize = 4_096;

/// The segment with most rows that are not deleted.
pub fn most_live<'a>(views: impl Iterator<Item = &'a View>) -> Option<&'a Segment> {
    let live = |view: &&View| u64::from(view.segment.docs()) - view.deleted.len();
    views.max_by_key(live).map(|view| &*view.segment)
}

/// Docs of fresh segments that are not deleted, in doc order of the segment they will make.
pub fn live_docs(inputs: &[View]) -> Vec<Arc<IndexDoc>> {
    let mut docs: Vec<Arc<IndexDoc>> = Vec::new();
    for view in inputs {
        for (doc, index_doc) in (0..).zip(view.segment.fresh_docs()) {
            if !view.deleted.contains(doc) {
                docs.push(Arc::clone(index_doc));
            }
        }
        // What has changed of their labels becomes theirs.
        for (label, doc, granted) in view.labels.since(&Overlay::default()) {
            let row = view.segment.rows()[doc as usize];
            if let Some(doc) = docs.iter_mut().rev().find(|other| other.row == row) {
                let labels = &mut Arc::make_mut(doc).labels;
                labels.retain(|other| *other != label);
                labels.extend(granted.then_some(label));
            }
        }
    }
    docs.sort_unstable_by_key(|doc| (doc.tenant, doc.row));
    docs
}

/// Rows of segments that are not deleted: by tenant, segment and doc.
pub struct LiveRows {
    pub ids: Vec<(TenantId, RowId)>,
    /// Where each is: its segment and doc.
    pub places: Vec<(u32, DocId)>,
}

pub fn live_rows(inputs: &[View]) -> LiveRows {
    let mut rows = Vec::new();
    for (input, view) in (0..).zip(inputs) {
        for (tenant, range) in view.segment.tenant_ranges() {
            let live = range.filter(|doc| !view.deleted.contains(*doc));
            rows.extend(live.map(|doc| ((tenant, view.segment.rows()[doc as usize]), (input, doc))));
        }
    }
    rows.sort_unstable_by_key(|((tenant, _), place)| (*tenant, *place));
    let (ids, places) = rows.into_iter().unzip();
    LiveRows { ids, places }
}

/// Docs without values, in this order, when all of their keys are at hand; says whether they are.
pub fn keyed_docs(
    segments: &[&Segment],
    (live, order): (&LiveRows, &[u32]),
    each: &mut dyn FnMut(Arc<IndexDoc>) -> spandrel_index::Result<()>,
) -> spandrel_index::Result<bool> {
    if !segments.iter().all(|segment| segment.has_keys()) {
        return Ok(false);
    }
    for (at, position) in order.iter().enumerate() {
        if at % FETCH_ROWS == 0 {
            pace::breathe();
        }
        let ((tenant, row), (input, doc)) = (&live.ids[*position as usize], &live.places[*position as usize]);
        let key = segments[*input as usize].key(*doc).map(Box::from);
        each(Arc::new(IndexDoc {
            row: *row,
            tenant: *tenant,
            key,
            labels: Vec::new(),
            values: IndexValues::default(),
        }))?;
    }
    Ok(true)
}

/// The labels that a stored row has by now.
pub fn labels_of(
    collection: CollectionId,
    store: &StoreSnapshot,
    (row, mut labels): (RowId, Vec<LabelId>),
) -> spandrel_index::Result<Vec<LabelId>> {
    let mut after = None;
    loop {
        let grants = store.grants(collection, row..=row, after, FETCH_ROWS)?;
        for Grant { label, granted, .. } in &grants {
            labels.retain(|other| other != label);
            labels.extend(granted.then_some(*label));
        }
        match grants.last() {
            Some(last) if grants.len() == FETCH_ROWS => after = Some((last.row, last.label)),
            _ => return Ok(labels),
        }
    }
}

/// Reads rows from the store, at the snapshot that says they are live, and analyses them again. They come in
/// this order, and are read in that of the store, many at a time.
pub fn stored_docs(
    shared: &Shared,
    snapshot: &Snapshot,
    (ids, order): (&[(TenantId, RowId)], &[u32]),
    wanted: &FieldSet,
    each: &mut dyn FnMut(Arc<IndexDoc>) -> spandrel_index::Result<()>,
) -> spandrel_index::Result<()> {
    let id = |position: &u32| ids[*position as usize];
    for chunk in order.chunks(FETCH_ROWS) {
        if shared.wake.stopped() || shared.writable().is_err() {
            return Err(spandrel_index::Error::Invalid("given up: the collection closes".into()));
        }
        pace::breathe();
        let mut sorted: Vec<(RowId, usize)> = chunk.iter().map(|at| id(at).1).zip(0..).collect();
        sorted.sort_unstable();
        let rows: Vec<RowId> = sorted.iter().map(|(row, _)| *row).collect();
        let mut stored = vec![None; chunk.len()];
        for ((_, at), row) in sorted.iter().zip(snapshot.store.get(shared.id, &rows, wanted)?) {
            stored[*at] = row;
        }
        for ((tenant, row), stored) in chunk.iter().map(id).zip(stored) {
            // Built without it, the row would be lost to every search, in silence.
            let stored = stored.ok_or_else(|| publish::lost(shared, row))?;
            let values = shared.indexer.values(&stored.fields)?;
            let key = key_of(&stored.key, &stored.chunk);
            let labels = labels_of(shared.id, &snapshot.store, (row, stored.labels))?;
            each(Arc::new(IndexDoc { row, tenant, key, labels, values }))?;
        }
    }
    Ok(())
}
