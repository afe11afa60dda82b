//! The background maintainer: fresh segments are merged, built into segments on disk, and those are merged in
//! turn.
//!
//! One thread serves all collections of a database. A job reads a snapshot, works without any lock, and is
//! published under the write lock: rows deleted meanwhile are carried over by row id, the manifest is
//! replaced (the point from which recovery sees the result), the snapshot is published, log records that the
//! manifest covers are trimmed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use roaring::RoaringBitmap;
use spandrel_index::segment::policy::{Bounds, Job, Size, next_job};
use spandrel_index::segment::{self, IndexDoc, Segment};
use spandrel_storage::manifest::{Manifest, SegmentEntry};
use spandrel_storage::record::FieldSet;
use spandrel_storage::store::Commit;
use spandrel_storage::{RowId, TenantId, failpoint};

use crate::collection::{Shared, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Snapshot, View};

/// Rows read from the row store at once when segments are merged.
const FETCH_ROWS: usize = 1_024;
/// Longest time [`flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(600);
/// Pause after a failed job, so that a full disk is not hammered.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Wakes the maintainer, and what it is asked to do besides the policy.
#[derive(Default)]
pub struct Wake {
    pending: Mutex<bool>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Wake {
    /// There may be something to do.
    pub fn wake(&self) {
        *self.pending.lock() = true;
        self.changed.notify_all();
    }

    /// Ends the maintainer's loop after the job at hand.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Waits for [`Wake::wake`] or `timeout`; false when stopped.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut pending = self.pending.lock();
        if !*pending && !self.stopped() {
            self.changed.wait_for(&mut pending, timeout);
        }
        *pending = false;
        !self.stopped()
    }

    /// Whether [`Wake::stop`] was called.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// What a collection's maintenance remembers between jobs.
#[derive(Default)]
pub struct Maintenance {
    /// Fresh rows up to this one are to be on disk, whatever the policy says.
    flush_to: AtomicU64,
    /// Failed jobs since the last one that succeeded, and what the last failure was.
    failure: Mutex<Option<(Instant, Error)>>,
    /// Held while segment files or the manifest change, and by a backup.
    pub files: Mutex<()>,
}

/// Builds every row written so far into segments on disk and waits for it.
pub fn flush(shared: &Shared) -> Result<()> {
    shared.usable()?;
    let target = shared.snapshot().last_row;
    let started = Instant::now();
    shared.maintenance.flush_to.fetch_max(target.0, Ordering::AcqRel);
    shared.wake_maintainer();
    let deadline = started + FLUSH_TIMEOUT;
    loop {
        let slice = (Instant::now() + Duration::from_millis(200)).min(deadline);
        let done = |snapshot: &Snapshot| fresh_up_to(&snapshot.views, target) == 0;
        match shared.wait_until(slice, done) {
            Err(error) if error.kind() == ErrorKind::Unavailable && slice < deadline => {
                if let Some((at, failure)) = &*shared.maintenance.failure.lock()
                    && *at > started
                {
                    return Err(Error::new(failure.kind(), format!("building segments failed: {failure}")));
                }
            }
            other => return other,
        }
    }
}

fn fresh_up_to(views: &[View], row: RowId) -> usize {
    views.iter().filter(|view| !view.segment.on_disk() && view.segment.first() <= row).count()
}

/// Runs jobs of one collection until there is nothing to do; returns whether anything failed.
pub fn settle(shared: &Shared, stop: &Wake) -> bool {
    if let Some((at, _)) = &*shared.maintenance.failure.lock()
        && at.elapsed() < RETRY_PAUSE
    {
        return true;
    }
    while !stop.stopped() && shared.usable().is_ok() {
        match run_next(shared) {
            Ok(true) => *shared.maintenance.failure.lock() = None,
            Ok(false) => return false,
            Err(error) => {
                tracing::error!(collection = %shared.name, %error, "maintenance failed; it is tried again");
                *shared.maintenance.failure.lock() = Some((Instant::now(), error));
                return true;
            }
        }
    }
    false
}

/// Runs the next job, if there is one.
pub fn run_next(shared: &Shared) -> Result<bool> {
    let snapshot = shared.snapshot();
    let Some(job) = choose(shared, &snapshot) else {
        return Ok(false);
    };
    match job {
        Job::MergeFresh(range) => {
            let inputs = &snapshot.views[range];
            let docs = live_docs(inputs);
            let rows = inputs[0].segment.first()..=inputs[inputs.len() - 1].segment.last();
            let output = match docs.is_empty() {
                true => None,
                false => Some(Arc::new(Segment::from_docs(&shared.indexer, docs, rows)?)),
            };
            let mut writer = shared.writer.lock();
            publish_fresh(shared, &mut writer, inputs, output);
        }
        Job::Flush(range) => {
            let inputs = &snapshot.views[range];
            let docs = live_docs(inputs);
            let count = docs.len();
            to_disk(shared, inputs, count, &mut |_, each| {
                docs.iter().try_for_each(|doc| each(Arc::clone(doc)))
            })?;
        }
        Job::MergeDisk(range) => {
            let inputs = &snapshot.views[range];
            let order = live_rows(inputs);
            to_disk(shared, inputs, order.len(), &mut |wanted, each| {
                stored_docs(shared, &snapshot, &order, wanted, each)
            })?;
        }
    }
    Ok(true)
}

fn choose(shared: &Shared, snapshot: &Snapshot) -> Option<Job> {
    let sizes: Vec<Size> = snapshot
        .views
        .iter()
        .map(|view| Size {
            docs: u64::from(view.segment.docs()),
            deleted: view.deleted.len(),
            bytes: view.segment.memory_bytes(),
            on_disk: view.segment.on_disk(),
        })
        .collect();
    let fresh = sizes.partition_point(|size| size.on_disk);
    let flush_to = RowId(shared.maintenance.flush_to.load(Ordering::Acquire));
    let trim = shared.writer.lock().trim.len();
    let asked = fresh_up_to(&snapshot.views, flush_to) > 0;
    if asked || (trim >= shared.settings.fresh_rows_max && fresh < sizes.len()) {
        return Some(Job::Flush(fresh..sizes.len()));
    }
    let bounds = Bounds {
        fresh_docs_max: shared.settings.fresh_rows_max as u64,
        fresh_bytes_max: shared.settings.fresh_bytes_max,
    };
    next_job(&sizes, bounds)
}

/// Docs of fresh segments that are not deleted, in doc order of the segment they will make.
fn live_docs(inputs: &[View]) -> Vec<Arc<IndexDoc>> {
    let mut docs: Vec<Arc<IndexDoc>> = Vec::new();
    for view in inputs {
        for (doc, index_doc) in (0..).zip(view.segment.fresh_docs()) {
            if !view.deleted.contains(doc) {
                docs.push(Arc::clone(index_doc));
            }
        }
    }
    docs.sort_unstable_by_key(|doc| (doc.tenant, doc.row));
    docs
}

/// Rows of segments that are not deleted, in doc order of the segment they will make.
fn live_rows(inputs: &[View]) -> Vec<(TenantId, RowId)> {
    let mut rows = Vec::new();
    for view in inputs {
        for (tenant, range) in view.segment.tenant_ranges() {
            let live = range.filter(|doc| !view.deleted.contains(*doc));
            rows.extend(live.map(|doc| (tenant, view.segment.rows()[doc as usize])));
        }
    }
    rows.sort_unstable();
    rows
}

/// Reads rows from the store and analyses them again; rows that are gone meanwhile are passed over.
fn stored_docs(
    shared: &Shared,
    snapshot: &Snapshot,
    order: &[(TenantId, RowId)],
    wanted: &FieldSet,
    each: &mut dyn FnMut(Arc<IndexDoc>) -> spandrel_index::Result<()>,
) -> spandrel_index::Result<()> {
    for chunk in order.chunks(FETCH_ROWS) {
        let ids: Vec<RowId> = chunk.iter().map(|(_, row)| *row).collect();
        let rows = snapshot.store.get(shared.id, &ids, wanted)?;
        for ((tenant, row), stored) in chunk.iter().zip(rows) {
            if let Some(stored) = stored {
                let values = shared.indexer.values(&stored.fields)?;
                each(Arc::new(IndexDoc { row: *row, tenant: *tenant, values }))?;
            }
        }
    }
    Ok(())
}

/// Builds one segment on disk in place of `inputs` and publishes it.
fn to_disk(shared: &Shared, inputs: &[View], docs: usize, source: segment::DocSource<'_>) -> Result<()> {
    let started = Instant::now();
    let _files = shared.maintenance.files.lock();
    let rows = inputs[0].segment.first()..=inputs[inputs.len() - 1].segment.last();
    let id = shared.writer.lock().manifest.next_segment;
    let output = match docs {
        0 => None,
        _ => {
            let path = shared.segment_path(id);
            segment::build(&shared.indexer, &path, id, rows, source)?;
            Some(Arc::new(Segment::open(&shared.indexer, &path, &shared.reader, &shared.memory)?))
        }
    };
    failpoint::reach("segment.built");
    let bytes = output.as_ref().map_or(0, |segment| segment.disk_bytes());
    publish_disk(shared, inputs, output, id)?;
    tracing::info!(
        collection = %shared.name, segment = id, docs, bytes, inputs = inputs.len(),
        time_ms = started.elapsed().as_millis() as u64, "segment built"
    );
    Ok(())
}

/// The current views with `inputs` replaced by `output`, rows deleted since included.
fn replaced(current: &[View], inputs: &[View], output: Option<Arc<Segment>>) -> Vec<View> {
    let at = current
        .iter()
        .position(|view| Arc::ptr_eq(&view.segment, &inputs[0].segment))
        .expect("only the maintainer replaces segments, and it runs one job at a time");
    let mut views = current[..at].to_vec();
    if let Some(segment) = output {
        let deleted = carried_deletes(&segment, inputs, &current[at..at + inputs.len()]);
        views.push(View { segment, deleted: Arc::new(deleted) });
    }
    views.extend_from_slice(&current[at + inputs.len()..]);
    views
}

/// Docs of the new segment whose rows were deleted after its inputs were read.
fn carried_deletes(output: &Segment, before: &[View], now: &[View]) -> RoaringBitmap {
    let mut deleted = RoaringBitmap::new();
    for (before, now) in before.iter().zip(now) {
        if Arc::ptr_eq(&before.deleted, &now.deleted) {
            continue;
        }
        for doc in (&*now.deleted - &*before.deleted).iter() {
            let row = now.segment.rows()[doc as usize];
            deleted.extend(output.doc(now.segment.tenant_of(doc), row));
        }
    }
    deleted
}

fn publish_fresh(shared: &Shared, writer: &mut Writer, inputs: &[View], output: Option<Arc<Segment>>) {
    let current = shared.snapshot();
    let views = replaced(&current.views, inputs, output);
    shared.publish(views, current.last_row);
    let _ = writer;
}

fn publish_disk(shared: &Shared, inputs: &[View], output: Option<Arc<Segment>>, id: u64) -> Result<()> {
    // Everything the manifest is going to reflect must be durable before it is.
    shared.store.sync()?;
    let mut writer = shared.writer.lock();
    let current = shared.snapshot();
    let views = replaced(&current.views, inputs, output);
    if let Err(error) = save_manifest(shared, &mut writer, &views, current.last_row, id + 1) {
        // The manifest still names the inputs; the new file is an orphan, removed now or at the next open.
        let _ = std::fs::remove_file(shared.segment_path(id));
        return Err(error);
    }
    failpoint::reach("manifest.saved");
    shared.publish(views, current.last_row);
    trim(shared, &mut writer)?;
    drop(writer);
    failpoint::reach("inputs.removing");
    for view in inputs.iter().filter(|view| view.segment.on_disk()) {
        let path: PathBuf = shared.segment_path(view.segment.id());
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "a merged segment could not be removed");
        }
    }
    Ok(())
}

/// Writes what `views` says. The caller holds the write lock.
pub fn save_manifest(
    shared: &Shared,
    writer: &mut Writer,
    views: &[View],
    last_row: RowId,
    next_segment: u64,
) -> Result<()> {
    if shared.settings.durability == crate::settings::Durability::Buffered {
        shared.store.sync()?;
    }
    let (disk, fresh) = views.split_at(views.partition_point(|view| view.segment.on_disk()));
    let covered = fresh.first().map_or(last_row, |view| RowId(view.segment.first().0 - 1));
    let segments = disk
        .iter()
        .map(|view| SegmentEntry {
            id: view.segment.id(),
            first: view.segment.first(),
            last: view.segment.last(),
            docs: view.segment.docs(),
            bytes: view.segment.disk_bytes(),
            checksum: view.segment.checksum(),
            deleted: (*view.deleted).clone(),
        })
        .collect();
    let manifest = Manifest {
        collection: shared.id,
        epoch: writer.manifest.epoch + 1,
        covered,
        trimmed: writer.trimmed,
        last_row: last_row.max(writer.manifest.last_row),
        next_segment: next_segment.max(writer.manifest.next_segment),
        segments,
    };
    manifest.save(&shared.folder)?;
    writer.manifest = manifest;
    Ok(())
}

/// Removes log records that the manifest covers.
pub fn trim(shared: &Shared, writer: &mut Writer) -> Result<()> {
    let covered = writer.manifest.covered;
    failpoint::reach("trim.before");
    let (done, keep): (Vec<RowId>, Vec<RowId>) = writer.trim.iter().partition(|row| **row <= covered);
    for rows in done.chunks(FETCH_ROWS) {
        let commit = Commit {
            collection: shared.id,
            new_tenants: Vec::new(),
            entries: Vec::new(),
            trim: rows.to_vec(),
        };
        shared.store.commit(&commit, spandrel_storage::store::Durability::Buffered)?;
    }
    writer.trim = keep;
    writer.trimmed = covered;
    Ok(())
}

/// The collections a maintainer serves, by name.
pub type Served = Arc<parking_lot::RwLock<HashMap<String, Arc<Shared>>>>;

/// Serves all collections until stopped.
pub fn run(served: &Served, wake: &Wake) {
    while wake.wait(Duration::from_secs(5)) {
        let all: Vec<Arc<Shared>> = served.read().values().cloned().collect();
        let mut failed = false;
        for shared in all {
            failed |= settle(&shared, wake);
        }
        if failed && !wake.stopped() {
            std::thread::sleep(Duration::from_millis(100));
            wake.wake();
        }
    }
}
