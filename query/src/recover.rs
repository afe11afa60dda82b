//! Opening a collection: the manifest names the segments, the log holds every row after them.
//!
//! Segments are derived: a damaged or missing one is built again from its rows, and a lost manifest means
//! that all are. What cannot be derived is checked: a row store that ends before the manifest's last row has
//! lost rows, and is refused.

use std::ops::RangeInclusive;
use std::sync::Arc;

use spandrel_index::labels::Overlay;
use spandrel_index::segment::{Docs, IndexDoc, Segment};
use spandrel_storage::manifest::{Manifest, SegmentEntry, segment_name};
use spandrel_storage::record::{FieldSet, Record};
use spandrel_storage::store::StoreSnapshot;
use spandrel_storage::{CollectionId, RowId, TenantId, durable};

use crate::error::{Error, ErrorKind, Result};
use crate::fetch::key_of;
use crate::labels::{self, LabelChange};
use crate::learn::Lessons;
use crate::live::labels_of;
use crate::maintain::{self, Lane};
use crate::publish;
use crate::shared::{Shared, SharedParts, Writer};
use crate::snapshot::View;
use crate::write::{drop_from_views, mark_deleted};

/// Log records replayed into one fresh segment, and keys looked up at once.
const REPLAY_ROWS: usize = 1_024;

/// Opens a collection and replays its log.
///
/// # Errors
/// When the row store is damaged or has lost acknowledged rows; damage to segments is repaired instead.
pub fn open(parts: SharedParts) -> Result<Arc<Shared>> {
    durable::create_folder(&parts.folder)?;
    let mut manifest = load_manifest(&parts)?;
    let last_row = parts.store.last_row_id(parts.id)?;
    if last_row < manifest.last_row {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "the row store of collection '{}' ends at write {last_row}, but write {} was acknowledged: \
                 rows are lost; restore from a backup",
                parts.name, manifest.last_row
            ),
        ));
    }
    let covered = manifest.covered;
    let (views, rebuilt) = open_segments(&parts, &mut manifest)?;
    let writer = Writer::new(manifest, last_row);
    let shared = Arc::new(Shared::new(parts, writer, views, covered));
    if rebuilt {
        let mut writer = shared.writer.lock();
        let views = shared.snapshot().views.clone();
        publish::save_manifest(&shared, &mut writer, &views, covered)?;
    }
    spandrel_storage::manifest::remove_orphans(&shared.folder, &shared.writer.lock().manifest)?;
    replay(&shared, covered, last_row)?;
    Ok(shared)
}

/// The manifest; one that says "nothing is covered" when there is none or it is damaged.
fn load_manifest(parts: &SharedParts) -> Result<Manifest> {
    match Manifest::load(&parts.folder) {
        Ok(Some(manifest)) if manifest.collection == parts.id => return Ok(manifest),
        Ok(None) => {}
        Ok(Some(other)) => tracing::warn!(
            collection = %parts.name, found = %other.collection,
            "the manifest is of another collection; all segments are built again from rows"
        ),
        Err(error @ spandrel_storage::Error::Corrupt { .. }) => tracing::warn!(
            collection = %parts.name, %error,
            "the manifest is damaged; all segments are built again from rows"
        ),
        // Of a newer format, or it cannot be read now: building again would throw away what is whole.
        Err(error) => return Err(error.into()),
    }
    Ok(Manifest::new(parts.id))
}

/// Whether a segment that failed like this has to be built again: it is missing or does not hold what it
/// should. Whatever else keeps it from being opened may pass, and is the caller's to know.
fn is_damage(error: &spandrel_index::Error) -> bool {
    use spandrel_storage::Error as Storage;
    match error {
        spandrel_index::Error::Section { .. } | spandrel_index::Error::Text(_) => true,
        spandrel_index::Error::Storage(Storage::Corrupt { .. } | Storage::NotFound { .. }) => true,
        spandrel_index::Error::Storage(Storage::Io { source, .. }) => {
            source.kind() == std::io::ErrorKind::NotFound
        }
        _ => false,
    }
}

/// Opens every segment, building damaged ones again; says whether any was.
fn open_segments(parts: &SharedParts, manifest: &mut Manifest) -> Result<(Vec<View>, bool)> {
    let mut views = Vec::with_capacity(manifest.segments.len());
    let mut rebuilt = false;
    for entry in &manifest.segments {
        match open_segment(parts, entry) {
            Ok(segment) => {
                let lessons = Arc::new(Lessons::decode(&entry.learned));
                let deleted = Arc::new(entry.deleted.clone());
                let labels = Arc::new(Overlay::decode(&entry.labels, segment.docs())?);
                views.push(View { segment: Arc::new(segment), deleted, labels, lessons });
            }
            Err(error) if !is_damage(&error) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(
                    collection = %parts.name, segment = entry.id, %error,
                    "a segment is not usable; it is built again from rows"
                );
                rebuilt = true;
                let id = manifest.next_segment;
                manifest.next_segment += 1;
                views.extend(rebuild(parts, entry, id)?.map(|segment| View::new(Arc::new(segment))));
            }
        }
    }
    Ok((views, rebuilt))
}

fn open_segment(parts: &SharedParts, entry: &SegmentEntry) -> spandrel_index::Result<Segment> {
    let path = parts.folder.join(segment_name(entry.id));
    let segment = Segment::open(&parts.indexer, &path, &parts.reader, &parts.memory)?;
    let same = segment.checksum() == entry.checksum
        && segment.id() == entry.id
        && segment.docs() == entry.docs
        && segment.first() == entry.first
        && segment.last() == entry.last;
    if !same {
        let error =
            spandrel_storage::Error::corrupt(&path, 0, "this is not the segment that the manifest names");
        return Err(error.into());
    }
    Ok(segment)
}

/// Builds the rows of a segment again; none when no row is left.
fn rebuild(parts: &SharedParts, entry: &SegmentEntry, id: u64) -> Result<Option<Segment>> {
    let store = parts.store.snapshot();
    let mut ids = sort_records(parts.id, &store, entry.first..=entry.last)?.live;
    ids.sort_unstable();
    if ids.is_empty() {
        return Ok(None);
    }
    let path = parts.folder.join(segment_name(id));
    let plan = parts.settings.plan(None);
    let mut source =
        |wanted: &FieldSet,
         positions: &[u32],
         each: &mut dyn FnMut(Arc<IndexDoc>) -> spandrel_index::Result<()>| {
            for chunk in positions.chunks(REPLAY_ROWS) {
                let chunk: Vec<(TenantId, RowId)> = chunk.iter().map(|at| ids[*at as usize]).collect();
                let rows: Vec<RowId> = chunk.iter().map(|(_, row)| *row).collect();
                for ((tenant, row), stored) in chunk.iter().zip(store.get(parts.id, &rows, wanted)?) {
                    if let Some(stored) = stored {
                        let values = parts.indexer.values(&stored.fields)?;
                        let key = key_of(&stored.key, &stored.chunk);
                        let labels = labels_of(parts.id, &store, (*row, stored.labels))?;
                        each(Arc::new(IndexDoc { row: *row, tenant: *tenant, key, labels, values }))?;
                    }
                }
            }
            Ok(())
        };
    let place = (&parts.reader, &parts.memory);
    let range = entry.first..=entry.last;
    let docs = Docs { ids: &ids, source: &mut source };
    Ok(Some(Segment::create(&parts.indexer, (&path, id), range, plan, docs, place)?))
}

/// The records of a range of the log.
#[derive(Default)]
struct Sorted {
    /// Rows that are the row of their key.
    live: Vec<(TenantId, RowId)>,
    /// Records of replaced and deleted rows, and of deletes: they wait for a manifest to cover them and are
    /// then trimmed, unless a crash comes between.
    dead: Vec<RowId>,
}

fn sort_records(
    collection: CollectionId,
    store: &StoreSnapshot,
    rows: RangeInclusive<RowId>,
) -> Result<Sorted> {
    let mut sorted = Sorted::default();
    let mut keyed = Vec::with_capacity(REPLAY_ROWS);
    for record in store.records(collection, rows, &FieldSet::NONE) {
        match record? {
            (row, Record::Row(stored)) => keyed.push((row, stored.tenant, stored.key)),
            (row, _) => sorted.dead.push(row),
        }
        if keyed.len() == REPLAY_ROWS {
            sorted.add(collection, store, &keyed)?;
            keyed.clear();
        }
    }
    sorted.add(collection, store, &keyed)?;
    Ok(sorted)
}

impl Sorted {
    /// Sorts rows by whether their keys still name them.
    fn add(
        &mut self,
        collection: CollectionId,
        store: &StoreSnapshot,
        rows: &[(RowId, TenantId, String)],
    ) -> Result<()> {
        let keys: Vec<_> = rows.iter().map(|(_, tenant, key)| (*tenant, key.as_str())).collect();
        for ((row, tenant, _), named) in rows.iter().zip(store.lookup(collection, &keys)?) {
            match named == Some(*row) {
                true => self.live.push((*tenant, *row)),
                false => self.dead.push(*row),
            }
        }
        Ok(())
    }
}

/// Applies every log record after `covered`, building segments on disk as fresh rows fill memory.
fn replay(shared: &Shared, covered: RowId, last_row: RowId) -> Result<()> {
    let store = shared.store.snapshot();
    let trimmed = shared.writer.lock().trimmed;
    let mut batch = Replay::default();
    for record in store.records_after(shared.id, covered, &FieldSet::ALL) {
        let (row, record) = record?;
        batch.add(shared, row, record)?;
        if batch.records >= REPLAY_ROWS {
            batch.apply(shared, row)?;
            // Not merges of segments on disk: rows that a later record of this log replaced are gone already.
            while maintain::run_next(shared, Lane::Fresh)? {}
        }
    }
    batch.apply(shared, last_row)?;
    let mut writer = shared.writer.lock();
    // What a crash kept from being trimmed: records that the manifest covers and the one before did not.
    let untrimmed = RowId(trimmed.0 + 1)..=covered;
    if !untrimmed.is_empty() {
        writer.trim.extend(sort_records(shared.id, &store, untrimmed)?.dead);
    }
    Ok(())
}

#[derive(Default)]
struct Replay {
    records: usize,
    first: Option<RowId>,
    docs: Vec<Arc<IndexDoc>>,
    removed: Vec<(TenantId, RowId)>,
    trim: Vec<RowId>,
    labels: Vec<LabelChange>,
    dropped: Option<TenantId>,
}

impl Replay {
    fn add(&mut self, shared: &Shared, row: RowId, record: Record) -> Result<()> {
        self.records += 1;
        self.first.get_or_insert(row);
        let replaced = match record {
            Record::Row(stored) => {
                let values = shared.indexer.values(&stored.fields)?;
                let key = key_of(&stored.key, &stored.chunk);
                let (tenant, labels) = (stored.tenant, stored.labels);
                self.docs.push(Arc::new(IndexDoc { row, tenant, key, labels, values }));
                stored.replaces.map(|replaced| (stored.tenant, replaced))
            }
            Record::Delete { tenant, replaces, .. } => {
                self.trim.push(row);
                Some((tenant, replaces))
            }
            Record::Label { tenant, label, granted, rows } => {
                self.trim.push(row);
                self.labels.push(LabelChange { tenant, label, granted, rows });
                None
            }
            Record::DropTenant { tenant } => {
                self.trim.push(row);
                // What came before has to be visible for the drop to find it.
                self.apply(shared, row)?;
                self.dropped = Some(tenant);
                return self.apply(shared, row);
            }
        };
        if let Some((tenant, replaced)) = replaced {
            self.removed.push((tenant, replaced));
            self.trim.push(replaced);
        }
        Ok(())
    }

    /// Makes the batch visible; `row` is the last one read.
    fn apply(&mut self, shared: &Shared, row: RowId) -> Result<()> {
        let batch = std::mem::take(self);
        let snapshot = shared.snapshot();
        let mut views = snapshot.views.clone();
        if !batch.docs.is_empty() {
            let (first, others) = (batch.first.unwrap_or(row), snapshot.segments());
            let segment = Segment::from_docs(&shared.indexer, batch.docs, first..=row, &others)?;
            views.push(View::new(Arc::new(segment)));
        }
        mark_deleted(&mut views, &batch.removed);
        labels::mark(&mut views, &batch.labels);
        let erase = batch.dropped.map(|tenant| drop_from_views(&mut views, tenant)).unwrap_or_default();
        let mut writer = shared.writer.lock();
        writer.trim.extend(batch.trim);
        writer.erase(erase);
        shared.publish(views, row);
        Ok(())
    }
}
