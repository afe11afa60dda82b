//! What one query sees: every segment with its deleted rows, and the row store at the same moment.
//!
//! A snapshot is published whole after every commit and never changes; readers clone an `Arc` and take no
//! lock afterwards.

use std::ops::Range;
use std::sync::Arc;

use roaring::RoaringBitmap;
use spandrel_index::allow::Allow;
use spandrel_index::labels::{self, Overlay};
use spandrel_index::segment::Segment;
use spandrel_storage::store::StoreSnapshot;
use spandrel_storage::{CollectionId, DocId, FieldSet, LabelId, RowId, TenantId};

use crate::error::{Error, ErrorKind, Result};
use crate::learn::Lessons;

/// Keys read at once by [`Snapshot::verify`].
const VERIFY_KEYS: usize = 1_024;

/// A segment and the rows of it that are deleted.
#[derive(Clone)]
pub struct View {
    /// The immutable segment.
    pub segment: Arc<Segment>,
    /// Its deleted docs.
    pub deleted: Arc<RoaringBitmap>,
    /// What has changed of its labels.
    pub labels: Arc<Overlay>,
    /// What queries have taught about it.
    pub lessons: Arc<Lessons>,
}

impl View {
    /// A segment with nothing deleted.
    pub fn new(segment: Arc<Segment>) -> Self {
        Self { segment, deleted: Arc::default(), labels: Arc::default(), lessons: Arc::default() }
    }

    /// The docs of a range that have one of these labels.
    pub fn labelled(&self, wanted: &[LabelId], range: &Range<DocId>) -> RoaringBitmap {
        labels::select(self.segment.labels(), &self.labels, wanted, range)
    }

    /// The docs of `tenant` that are not deleted; none when there is none.
    pub fn allow(&self, tenant: TenantId) -> Option<Allow<'_>> {
        let range = self.segment.tenant_range(tenant);
        let deleted = (!self.deleted.is_empty()).then_some(&*self.deleted);
        let allow = Allow { range, deleted, filter: None, stop: None };
        (!allow.is_empty()).then_some(allow)
    }
}

/// Everything a query sees.
pub struct Snapshot {
    /// The row store at the same moment.
    pub store: StoreSnapshot,
    /// Segments in row order: those on disk first, then fresh ones. Their row ranges are disjoint.
    pub views: Vec<View>,
    /// The last write seen.
    pub last_row: RowId,
    /// How often labels had changed.
    pub label_changes: u64,
}

impl Snapshot {
    /// The segments of its views.
    pub fn segments(&self) -> Vec<&Segment> {
        self.views.iter().map(|view| &*view.segment).collect()
    }

    /// Where a row is: the index of its view, and its doc.
    pub fn locate(&self, tenant: TenantId, row: RowId) -> Option<(usize, DocId)> {
        locate(&self.views, tenant, row)
    }

    /// The index of the view that has a row, if one does.
    pub fn view_of(&self, row: RowId) -> Option<usize> {
        view_of(&self.views, row)
    }

    /// Checks that every live doc is the row of its key, that every key's row is a live doc, and that tenants
    /// have the bytes that their rows have together.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) naming the first row that differs.
    pub fn verify(&self, collection: CollectionId) -> Result<()> {
        let corrupt = |what: String| Err(Error::new(ErrorKind::Corrupt, what));
        let mut tenants: Vec<TenantId> = Vec::new();
        for view in &self.views {
            for (tenant, range) in view.segment.tenant_ranges() {
                tenants.push(tenant);
                let live = range.filter(|doc| !view.deleted.contains(*doc));
                let rows: Vec<RowId> = live.map(|doc| view.segment.rows()[doc as usize]).collect();
                for rows in rows.chunks(VERIFY_KEYS) {
                    let stored = self.store.get(collection, rows, &FieldSet::NONE)?;
                    let lost = rows.iter().zip(&stored).find(|(_, stored)| stored.is_none());
                    if let Some((row, _)) = lost {
                        return corrupt(format!("row {row} is indexed and not stored"));
                    }
                    let keys: Vec<_> =
                        stored.iter().flatten().map(|row| (tenant, row.key.as_str())).collect();
                    let named = self.store.lookup(collection, &keys)?;
                    if let Some(((row, (_, key)), named)) =
                        rows.iter().zip(&keys).zip(named).find(|((row, _), named)| *named != Some(**row))
                    {
                        return corrupt(format!("row {row} is indexed; its key '{key}' names {named:?}"));
                    }
                }
            }
        }
        tenants.sort_unstable();
        tenants.dedup();
        for tenant in tenants {
            let (mut after, mut bytes, mut known) = (None, 0, true);
            loop {
                let page = self.store.keys_after(collection, tenant, after.as_deref(), VERIFY_KEYS)?;
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                let keys: Vec<_> = page.iter().map(|(key, _)| (tenant, key.as_str())).collect();
                for (_, of) in self.store.named(collection, &keys)?.into_iter().flatten() {
                    // An earlier build has not noted them.
                    known &= of > 0;
                    bytes += u64::from(of);
                }
                for (key, row) in &page {
                    let live = |(at, doc): (usize, DocId)| !self.views[at].deleted.contains(doc);
                    if !self.locate(tenant, *row).is_some_and(live) {
                        return corrupt(format!("row {row} of key '{key}' is stored and not indexed"));
                    }
                }
            }
            let noted = self.store.tenant_bytes(collection, tenant)?;
            if known && noted != bytes {
                return corrupt(format!("the rows of tenant {tenant} have {bytes} bytes, {noted} are noted"));
            }
        }
        Ok(())
    }

    /// Rows of `tenant` that are not deleted.
    pub fn tenant_rows(&self, tenant: TenantId) -> u64 {
        self.views.iter().filter_map(|view| view.allow(tenant)).map(|allow| allow.count()).sum()
    }
}

/// As [`Snapshot::locate`], over any views in row order.
pub fn locate(views: &[View], tenant: TenantId, row: RowId) -> Option<(usize, DocId)> {
    let at = view_of(views, row)?;
    let doc = views[at].segment.doc(tenant, row)?;
    Some((at, doc))
}

fn view_of(views: &[View], row: RowId) -> Option<usize> {
    let at = views.partition_point(|view| view.segment.last() < row);
    (at < views.len()).then_some(at)
}
