//! What a maintenance job leaves behind: its result replaces its inputs under the write lock (deletes that
//! happened meanwhile are carried over by row id), the manifest is replaced, which is the point from which
//! recovery sees the result, and log records that the manifest covers are trimmed.

use std::ops::RangeInclusive;
use std::sync::Arc;

use roaring::RoaringBitmap;
use spandrel_index::dense::ssd::lessons_hold;
use spandrel_index::labels::Overlay;
use spandrel_index::segment::{self, Segment};
use spandrel_storage::manifest::{Manifest, SegmentEntry};
use spandrel_storage::record::FieldSet;
use spandrel_storage::store::{Commit, Durability, Grant};
use spandrel_storage::{RowId, TenantId, failpoint};

use crate::error::{ErrorKind, Result};
use crate::learn::Lessons;
use crate::shared::{Shared, Writer};
use crate::snapshot::View;

/// Log records trimmed in one batch.
const TRIM_ROWS: usize = 1_024;
/// Deleted rows after which a collection's space is given back by a compaction, at least; and the share of
/// its live rows that they must be.
const COMPACT_ROWS_MIN: u64 = 1_000;
const COMPACT_SHARE: u64 = 4;

/// Builds one segment on disk in place of `inputs` and publishes it.
pub fn to_disk(
    shared: &Shared,
    inputs: &[View],
    plan: segment::Plan<'_>,
    ids: &[(TenantId, RowId)],
    source: segment::DocSource<'_>,
) -> Result<()> {
    let docs = ids.len();
    let started = std::time::Instant::now();
    let rows = inputs[0].segment.first()..=inputs[inputs.len() - 1].segment.last();
    let range = rows.clone();
    let id = shared.writer.lock().take_segment_id();
    // The inputs give their memory back as soon as the output stands in their place.
    let _returning = shared.memory.returning(inputs.iter().map(|view| view.segment.reserved_bytes()).sum());
    let output = match docs {
        0 => None,
        _ => {
            let path = shared.segment_path(id);
            let place = (&shared.reader, &shared.memory);
            let docs = segment::Docs { ids, source };
            Some(Arc::new(Segment::create(&shared.indexer, (&path, id), rows, plan, docs, place)?))
        }
    };
    failpoint::reach("segment.built");
    let bytes = output.as_ref().map_or(0, |segment| segment.disk_bytes());
    disk(shared, inputs, output, id)?;
    if inputs[0].segment.on_disk() {
        forget_dead(shared, range)?;
    }
    tracing::info!(
        collection = %shared.name, segment = id, docs, bytes, inputs = inputs.len(),
        time_ms = started.elapsed().as_millis() as u64, "segment built"
    );
    Ok(())
}

/// Publishes a merge of fresh segments.
pub fn fresh(shared: &Shared, inputs: &[View], output: Option<Arc<Segment>>) {
    let _writer = shared.writer.lock();
    let current = shared.snapshot();
    let views = replaced(&current.views, inputs, output);
    shared.publish(views, current.last_row);
}

fn disk(shared: &Shared, inputs: &[View], output: Option<Arc<Segment>>, id: u64) -> Result<()> {
    // Everything the manifest is going to reflect must be durable before it is.
    shared.store.sync()?;
    let mut writer = shared.writer.lock();
    let current = shared.snapshot();
    let views = replaced(&current.views, inputs, output);
    let saved = shared.writable().and_then(|()| save_manifest(shared, &mut writer, &views, current.last_row));
    if let Err(error) = saved {
        // After a failed sync nobody knows which manifest a crash would find: both files have to stay.
        if error.kind() != ErrorKind::Poisoned {
            let _ = std::fs::remove_file(shared.segment_path(id));
        }
        return Err(error);
    }
    failpoint::reach("manifest.saved");
    shared.publish(views, current.last_row);
    drop(writer);
    failpoint::reach("inputs.removing");
    for view in inputs.iter().filter(|view| view.segment.on_disk()) {
        shared.filters.forget(shared.id, Some(&view.segment));
        let path = shared.segment_path(view.segment.id());
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "a merged segment could not be removed");
        }
    }
    Ok(())
}

/// The current views with `inputs` replaced by `output`, rows deleted since included.
fn replaced(current: &[View], inputs: &[View], output: Option<Arc<Segment>>) -> Vec<View> {
    let at = current
        .iter()
        .position(|view| Arc::ptr_eq(&view.segment, &inputs[0].segment))
        .expect("a segment is replaced by one lane only, and a lane runs one job of a collection at a time");
    let mut views = current[..at].to_vec();
    if let Some(segment) = output {
        let deleted = carried_deletes(&segment, inputs, &current[at..at + inputs.len()]);
        let lessons = inherited(&segment, inputs);
        let labels = Arc::new(carried_labels(&segment, inputs, &current[at..at + inputs.len()]));
        views.push(View { segment, deleted: Arc::new(deleted), labels, lessons });
    }
    views.extend_from_slice(&current[at + inputs.len()..]);
    views
}

/// What was learned about the largest input serves the output, unless that is larger.
fn inherited(output: &Segment, inputs: &[View]) -> Arc<Lessons> {
    let largest = inputs.iter().max_by_key(|view| view.segment.docs());
    let hold = |view: &&View| lessons_hold(view.segment.docs(), output.docs());
    largest.filter(hold).map_or_else(Arc::default, |view| Arc::clone(&view.lessons))
}

/// Publishes what was learned about a segment; forgotten when it is no longer there.
pub fn lessons(shared: &Shared, of: &View, lessons: Lessons) -> Result<()> {
    shared.store.sync()?;
    let mut writer = shared.writer.lock();
    let current = shared.snapshot();
    let mut views = current.views.clone();
    if let Some(view) = views.iter_mut().find(|view| Arc::ptr_eq(&view.segment, &of.segment)) {
        view.lessons = Arc::new(lessons);
        shared.writable()?;
        save_manifest(shared, &mut writer, &views, current.last_row)?;
        shared.publish(views, current.last_row);
    }
    Ok(())
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

/// What has changed of the labels of docs of the new segment after its inputs were read.
fn carried_labels(output: &Segment, before: &[View], now: &[View]) -> Overlay {
    let mut carried = Overlay::default();
    for (before, now) in before.iter().zip(now) {
        for (label, doc, granted) in now.labels.since(&before.labels) {
            let (tenant, row) = (now.segment.tenant_of(doc), now.segment.rows()[doc as usize]);
            if let Some(doc) = output.doc(tenant, row) {
                carried.set(label, doc, granted);
            }
        }
    }
    carried
}

/// Forgets which labels rows of a range have got and lost that are gone.
fn forget_dead(shared: &Shared, rows: RangeInclusive<RowId>) -> Result<()> {
    let snapshot = shared.snapshot();
    let mut after = None;
    loop {
        let grants = snapshot.store.grants(shared.id, rows.clone(), after, TRIM_ROWS)?;
        let Some(last) = grants.last() else { return Ok(()) };
        after = Some((last.row, last.label));
        let mut of: Vec<RowId> = grants.iter().map(|grant| grant.row).collect();
        of.dedup();
        let stored = snapshot.store.get(shared.id, &of, &FieldSet::NONE)?;
        let gone: Vec<RowId> =
            of.into_iter().zip(stored).filter(|(_, row)| row.is_none()).map(|(row, _)| row).collect();
        let is_gone =
            |grant: &&Grant| gone.binary_search(&grant.row).is_ok() || !shared.labels.contains(grant.label);
        let forget: Vec<_> = grants.iter().filter(is_gone).map(|grant| (grant.row, grant.label)).collect();
        if !forget.is_empty() {
            let commit = Commit { collection: shared.id, forget, ..Commit::default() };
            shared.store.commit(&commit, Durability::Buffered)?;
        }
    }
}

/// Writes what `views` says. The caller holds the write lock.
///
/// # Errors
/// [`ErrorKind::Poisoned`] after a failed sync; others leave the manifest as it
/// was.
pub fn save_manifest(shared: &Shared, writer: &mut Writer, views: &[View], last_row: RowId) -> Result<()> {
    if shared.durability() == Durability::Buffered {
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
            learned: view.lessons.encode(),
            labels: view.labels.encode(),
        })
        .collect();
    let manifest = Manifest {
        collection: shared.id,
        epoch: writer.manifest.epoch + 1,
        covered,
        trimmed: writer.trimmed,
        last_row: last_row.max(writer.manifest.last_row),
        next_segment: writer.next_segment,
        segments,
    };
    manifest.save(&shared.folder)?;
    writer.manifest = manifest;
    Ok(())
}

/// Removes log records that the manifest covers, those of dropped tenants among them; says whether there were
/// any. They are invisible already; what a crash keeps is found by the next open.
pub fn trim(shared: &Shared) -> Result<bool> {
    failpoint::reach("trim.before");
    let mut writer = shared.writer.lock();
    let covered = writer.covered();
    let before = writer.trimmed;
    if writer.trim.is_empty() && before == covered {
        return Ok(false);
    }
    let (mut done, keep): (Vec<RowId>, Vec<RowId>) =
        std::mem::take(&mut writer.trim).into_iter().partition(|row| *row <= covered);
    writer.trim = keep;
    drop(writer);
    let any = !done.is_empty();
    while !done.is_empty() {
        let rows = done.split_off(done.len().saturating_sub(TRIM_ROWS));
        let commit = Commit { collection: shared.id, trim: rows.clone(), ..Commit::default() };
        if let Err(error) = shared.store.commit(&commit, Durability::Buffered) {
            done.extend(rows);
            shared.writer.lock().trim.extend(done);
            return Err(error.into());
        }
        failpoint::reach("trim.half");
    }
    let mut writer = shared.writer.lock();
    // A drop of a tenant may have set it back meanwhile: then another round has to come.
    if writer.trimmed == before {
        writer.trimmed = covered;
    }
    Ok(any)
}

/// Lets the manifest cover a log of deletes alone, which no flush ever would; says whether it did.
pub fn cover(shared: &Shared) -> Result<bool> {
    let due = |writer: &Writer| {
        let all_on_disk = shared.snapshot().views.iter().all(|view| view.segment.on_disk());
        all_on_disk && writer.trim.len() >= TRIM_ROWS && writer.manifest.covered < shared.snapshot().last_row
    };
    if !due(&shared.writer.lock()) {
        return Ok(false);
    }
    shared.store.sync()?;
    let mut writer = shared.writer.lock();
    if !due(&writer) {
        return Ok(true);
    }
    shared.store.sync()?;
    let snapshot = shared.snapshot();
    save_manifest(shared, &mut writer, &snapshot.views, snapshot.last_row)?;
    Ok(true)
}

/// Gives the space of deleted rows back once they are many; says whether they were.
pub fn compact(shared: &Shared) -> Result<bool> {
    let snapshot = shared.snapshot();
    let live: u64 =
        snapshot.views.iter().map(|view| u64::from(view.segment.docs()) - view.deleted.len()).sum();
    {
        let mut writer = shared.writer.lock();
        if writer.dead_rows < COMPACT_ROWS_MIN.max(live / COMPACT_SHARE) || !writer.trim.is_empty() {
            return Ok(false);
        }
        writer.dead_rows = 0;
    }
    // Dead records that a snapshot sees are kept.
    drop(snapshot);
    shared.store.compact(shared.id)?;
    Ok(true)
}

/// The error for a row that an index names and the store does not have.
pub fn lost(shared: &Shared, row: RowId) -> spandrel_storage::Error {
    let what = format!(
        "row {row} of collection '{}' is in an index but not in the row store; restore from a backup",
        shared.name
    );
    spandrel_storage::Error::corrupt(&shared.folder, 0, what)
}
