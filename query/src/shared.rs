//! What the writers, the readers and the maintainers of one collection share: its parts, the published
//! snapshot, and whether it still takes calls.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use spandrel_index::budget::MemoryBudget;
use spandrel_index::pace::Pace;
use spandrel_index::segment::Indexer;
use spandrel_index::stop::Stop;
use spandrel_storage::io::BatchRead;
use spandrel_storage::manifest::{Manifest, segment_name};
use spandrel_storage::store::Store;
use spandrel_storage::{CollectionId, RowId, Schema};

use crate::error::{Error, ErrorKind, Result};
use crate::filter_cache::FilterCache;
use crate::labels::Labels;
use crate::learn::Asked;
use crate::maintain::{Maintenance, Wake};
use crate::queue::Queue;
use crate::rag::kv::ChunkCatalogue;
use crate::retrieve::results::ResultCache;
use crate::settings::{Components, Durability, Settings};
use crate::snapshot::{Snapshot, View};
use crate::tenants::Tenants;

/// What the writers, the readers and the maintainer of a collection share.
pub(crate) struct Shared {
    pub id: CollectionId,
    pub name: String,
    pub schema: Arc<Schema>,
    pub settings: Settings,
    pub components: Components,
    pub store: Arc<Store>,
    pub reader: Arc<dyn BatchRead>,
    pub memory: Arc<MemoryBudget>,
    pub filters: Arc<FilterCache>,
    pub results: Arc<ResultCache>,
    /// The database's catalogue of chunk caches, where there is one.
    pub chunk_caches: Option<Arc<ChunkCatalogue>>,
    /// Folder of the manifest and the segment files.
    pub folder: PathBuf,
    pub indexer: Indexer,
    pub tenants: Tenants,
    pub labels: Labels,
    pub queue: Queue,
    pub writer: Mutex<Writer>,
    pub wake: Arc<Wake>,
    pub pace: Arc<Pace>,
    pub asked: Asked,
    pub maintenance: Maintenance,
    snapshot: RwLock<Arc<Snapshot>>,
    /// How often labels were granted, revoked or dropped.
    label_changes: AtomicU64,
    /// Signalled after every publish; waited on by writers that are ahead of the maintainer.
    published: (Mutex<()>, Condvar),
    /// Set once nothing may be asked of it any more.
    end: Mutex<Option<End>>,
    ended: AtomicBool,
    poison: Mutex<Option<String>>,
}

/// Why a collection takes no more calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was dropped.
    Dropped,
    /// Its database was closed.
    Closed,
}

/// What only the holder of the write lock touches.
pub(crate) struct Writer {
    /// The row id that the next write gets.
    pub next_row: u64,
    /// The id that the next segment gets; never used twice.
    pub next_segment: u64,
    /// As last saved.
    pub manifest: Manifest,
    /// Log records up to here are trimmed: what is left of them are live rows.
    pub trimmed: RowId,
    /// Log records (of deletes, of tenant drops, of replaced rows) that go once a manifest covers them.
    pub trim: Vec<RowId>,
    /// Rows deleted since space was last given back.
    pub dead_rows: u64,
    /// What the manifests of backups under way cover: the log after them has to stay until they are done.
    pub pins: Vec<RowId>,
}

impl Writer {
    /// Nothing to do, nothing held.
    pub fn new(manifest: Manifest, last_row: RowId) -> Self {
        Self {
            next_row: last_row.0 + 1,
            next_segment: manifest.next_segment,
            trimmed: manifest.trimmed,
            manifest,
            trim: Vec::new(),
            dead_rows: 0,
            pins: Vec::new(),
        }
    }

    /// Log records up to here are in segments of every manifest that may be opened again: dead ones may go.
    pub fn covered(&self) -> RowId {
        self.pins.iter().copied().fold(self.manifest.covered, RowId::min)
    }

    /// Takes an id for a segment.
    pub fn take_segment_id(&mut self) -> u64 {
        self.next_segment += 1;
        self.next_segment - 1
    }

    /// Has the records of rows removed that lie anywhere in the log.
    pub fn erase(&mut self, rows: Vec<RowId>) {
        // Those before `trimmed` would not be looked for again after a crash.
        if let Some(first) = rows.iter().min() {
            self.trimmed = self.trimmed.min(RowId(first.0.saturating_sub(1)));
        }
        self.trim.extend(rows);
    }
}

/// Longest time a writer waits for the maintainer to make room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(60);

impl Shared {
    /// A collection whose rows up to `last_row` are in `views`.
    pub fn new(parts: SharedParts, writer: Writer, views: Vec<View>, last_row: RowId) -> Self {
        let SharedParts {
            id,
            name,
            schema,
            settings,
            components,
            store,
            reader,
            memory,
            filters,
            results,
            chunk_caches,
            folder,
            indexer,
            tenants,
            labels,
            wake,
            pace,
        } = parts;
        let snapshot = Snapshot { store: store.snapshot(), views, last_row, label_changes: 0 };
        let asked = Asked::new(&schema, settings.learn_from_queries);
        Self {
            id,
            name,
            schema,
            settings,
            components,
            store,
            reader,
            memory,
            filters,
            results,
            chunk_caches,
            folder,
            indexer,
            tenants,
            labels,
            queue: Queue::default(),
            writer: Mutex::new(writer),
            wake,
            pace,
            asked,
            maintenance: Maintenance::default(),
            snapshot: RwLock::new(Arc::new(snapshot)),
            label_changes: AtomicU64::new(0),
            published: (Mutex::new(()), Condvar::new()),
            end: Mutex::new(None),
            ended: AtomicBool::new(false),
            poison: Mutex::new(None),
        }
    }

    /// The state as of the last commit.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    /// Makes views visible. The caller holds the write lock.
    pub fn publish(&self, views: Vec<View>, last_row: RowId) {
        let label_changes = self.label_changes.load(Ordering::Acquire);
        let snapshot = Arc::new(Snapshot { store: self.store.snapshot(), views, last_row, label_changes });
        *self.snapshot.write() = snapshot;
        let _guard = self.published.0.lock();
        self.published.1.notify_all();
    }

    /// What is published next has other labels. The caller holds the write lock.
    pub fn labels_changed(&self) {
        self.label_changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Waits until `ready` holds for the published snapshot; false when the deadline passes first.
    ///
    /// # Errors
    /// When the collection closes or is poisoned.
    pub fn wait_until(&self, deadline: Instant, ready: impl Fn(&Snapshot) -> bool) -> Result<bool> {
        let mut guard = self.published.0.lock();
        loop {
            if ready(&self.snapshot()) {
                return Ok(true);
            }
            self.writable()?;
            if self.published.1.wait_until(&mut guard, deadline).timed_out() {
                return Ok(ready(&self.snapshot()));
            }
        }
    }

    /// Holds a writer back while fresh rows exceed the backlog bound.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the maintainer makes no room in time; those of `stop`.
    pub fn wait_for_room(&self, stop: &Stop) -> Result<()> {
        let max = self.settings.backlog_bytes_max;
        let longest = Instant::now() + ROOM_TIMEOUT;
        let deadline = stop.deadline().map_or(longest, |deadline| deadline.min(longest));
        if self.wait_until(deadline, |snapshot| fresh_bytes(&snapshot.views) <= max)? {
            return Ok(());
        }
        stop.check()?;
        let why =
            self.maintenance.fresh_failure().unwrap_or_else(|| "they are slower than the writers".into());
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("more than {max} bytes of fresh rows wait for segments ({why}); try again later"),
        ))
    }

    /// An error when the collection was dropped or its database closed.
    pub fn open(&self) -> Result<()> {
        if !self.ended.load(Ordering::Acquire) {
            return Ok(());
        }
        match *self.end.lock() {
            None => Ok(()),
            Some(End::Dropped) => Err(Error::not_found(format!("collection '{}' was dropped", self.name))),
            Some(End::Closed) => Err(Error::new(ErrorKind::Closed, "the database is closed")),
        }
    }

    /// An error when the collection cannot be written to.
    pub fn writable(&self) -> Result<()> {
        self.open()?;
        match &*self.poison.lock() {
            Some(what) => Err(Error::new(ErrorKind::Poisoned, what.clone())),
            None => Ok(()),
        }
    }

    /// Refuses everything from now on, or, with `None`, no more: a drop that failed takes its refusal back.
    pub fn end(&self, end: Option<End>) {
        *self.end.lock() = end;
        self.ended.store(end.is_some(), Ordering::Release);
        let _guard = self.published.0.lock();
        self.published.1.notify_all();
    }

    /// Refuses writes until the database is reopened.
    pub fn poison(&self, what: &str) {
        tracing::error!(collection = %self.name, what, "collection poisoned");
        self.poison.lock().get_or_insert_with(|| what.to_owned());
        let _guard = self.published.0.lock();
        self.published.1.notify_all();
    }

    /// The file of a segment.
    pub fn segment_path(&self, id: u64) -> PathBuf {
        self.folder.join(segment_name(id))
    }

    pub fn durability(&self) -> spandrel_storage::store::Durability {
        match self.settings.durability {
            Durability::Sync => spandrel_storage::store::Durability::Sync,
            Durability::Buffered => spandrel_storage::store::Durability::Buffered,
        }
    }
}

/// What [`Shared`] is made of and recovery does not produce.
pub(crate) struct SharedParts {
    pub id: CollectionId,
    pub name: String,
    pub schema: Arc<Schema>,
    pub settings: Settings,
    pub components: Components,
    pub store: Arc<Store>,
    pub reader: Arc<dyn BatchRead>,
    pub memory: Arc<MemoryBudget>,
    pub filters: Arc<FilterCache>,
    pub results: Arc<ResultCache>,
    pub chunk_caches: Option<Arc<ChunkCatalogue>>,
    pub folder: PathBuf,
    pub indexer: Indexer,
    pub tenants: Tenants,
    pub labels: Labels,
    pub wake: Arc<Wake>,
    pub pace: Arc<Pace>,
}

/// Bytes of rows that are not on disk as segments yet.
pub(crate) fn fresh_bytes(views: &[View]) -> u64 {
    views.iter().filter(|view| !view.segment.on_disk()).map(|view| view.segment.memory_bytes()).sum()
}
