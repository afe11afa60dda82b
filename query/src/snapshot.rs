//! What one query sees: every segment with its deleted rows, and the row store at the same moment.
//!
//! A snapshot is published whole after every commit and never changes; readers clone an `Arc` and take no lock
//! afterwards.

use std::sync::Arc;

use roaring::RoaringBitmap;
use spandrel_index::allow::Allow;
use spandrel_index::segment::Segment;
use spandrel_storage::store::StoreSnapshot;
use spandrel_storage::{DocId, RowId, TenantId};

/// A segment and the rows of it that are deleted.
#[derive(Clone)]
pub struct View {
    /// The immutable segment.
    pub segment: Arc<Segment>,
    /// Its deleted docs.
    pub deleted: Arc<RoaringBitmap>,
}

impl View {
    /// A segment with nothing deleted.
    pub fn new(segment: Arc<Segment>) -> Self {
        Self { segment, deleted: Arc::default() }
    }

    /// The docs of `tenant` that are not deleted; none when there is none.
    pub fn allow(&self, tenant: TenantId) -> Option<Allow<'_>> {
        let range = self.segment.tenant_range(tenant);
        let deleted = (!self.deleted.is_empty()).then_some(&*self.deleted);
        let allow = Allow { range, deleted, filter: None };
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
}

impl Snapshot {
    /// Where a row is: the index of its view, and its doc.
    pub fn locate(&self, tenant: TenantId, row: RowId) -> Option<(usize, DocId)> {
        locate(&self.views, tenant, row)
    }

    /// Rows of `tenant` that are not deleted.
    pub fn tenant_rows(&self, tenant: TenantId) -> u64 {
        self.views.iter().filter_map(|view| view.allow(tenant)).map(|allow| allow.count()).sum()
    }
}

/// As [`Snapshot::locate`], over any views in row order.
pub fn locate(views: &[View], tenant: TenantId, row: RowId) -> Option<(usize, DocId)> {
    let at = views.partition_point(|view| view.segment.last() < row);
    let doc = views.get(at)?.segment.doc(tenant, row)?;
    Some((at, doc))
}
