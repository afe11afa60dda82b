//! A collection: rows of one schema, for many tenants. The front door; the work is in `write`, `search`,
//! `maintain`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use spandrel_index::budget::MemoryBudget;
use spandrel_index::segment::Indexer;
use spandrel_storage::io::BatchRead;
use spandrel_storage::manifest::{Manifest, segment_name};
use spandrel_storage::store::Store;
use spandrel_storage::{CollectionId, Row, RowId, Schema};

use crate::check::{check_key, check_rows, check_tenant};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch;
use crate::maintain::{Maintenance, Wake};
use crate::queue::Queue;
use crate::rag::ingest::{self, Document};
use crate::rag::tokens::Tokenizer;
use crate::request::{
    Fields, Filter, IngestOptions, ROWS_MAX, RetrieveRequest, ScrollRequest, SearchRequest,
};
use crate::response::{CollectionStats, RetrieveResponse, ScrollResponse, SearchResponse, Written};
use crate::settings::{Components, Durability, Settings};
use crate::snapshot::{Snapshot, View};
use crate::tenants::Tenants;
use crate::write::{PreparedRow, Work};
use crate::{queue, retrieve, search};

/// Rows of one schema, for many tenants. All methods take `&self` and may be called from many threads; a
/// write returns when it is durable (see [`Settings::durability`]) and visible to every later search.
pub struct Collection {
    pub(crate) shared: Arc<Shared>,
}

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
    /// Folder of the manifest and the segment files.
    pub folder: PathBuf,
    pub indexer: Indexer,
    pub tenants: Tenants,
    pub queue: Queue,
    pub writer: Mutex<Writer>,
    pub wake: Arc<Wake>,
    pub maintenance: Maintenance,
    snapshot: RwLock<Arc<Snapshot>>,
    /// Signalled after every publish; waited on by writers that are ahead of the maintainer.
    published: (Mutex<()>, Condvar),
    closed: AtomicBool,
    poison: Mutex<Option<String>>,
}

/// What only the holder of the write lock touches.
pub(crate) struct Writer {
    /// The row id that the next write gets.
    pub next_row: u64,
    /// As last saved.
    pub manifest: Manifest,
    /// Log records up to here are trimmed: what is left of them are live rows.
    pub trimmed: RowId,
    /// Log records (of deletes, of tenant drops, of replaced rows) that go once a manifest covers them.
    pub trim: Vec<RowId>,
}

/// Longest time a writer waits for the maintainer to make room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(120);

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
            folder,
            indexer,
            tenants,
            wake,
        } = parts;
        let snapshot = Snapshot { store: store.snapshot(), views, last_row };
        Self {
            id,
            name,
            schema,
            settings,
            components,
            store,
            reader,
            memory,
            folder,
            indexer,
            tenants,
            queue: Queue::default(),
            writer: Mutex::new(writer),
            wake,
            maintenance: Maintenance::default(),
            snapshot: RwLock::new(Arc::new(snapshot)),
            published: (Mutex::new(()), Condvar::new()),
            closed: AtomicBool::new(false),
            poison: Mutex::new(None),
        }
    }

    /// The state as of the last commit.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    /// Makes views visible. The caller holds the write lock.
    pub fn publish(&self, views: Vec<View>, last_row: RowId) {
        let snapshot = Arc::new(Snapshot { store: self.store.snapshot(), views, last_row });
        *self.snapshot.write() = snapshot;
        let _guard = self.published.0.lock();
        self.published.1.notify_all();
    }

    /// Waits until `ready` holds for the published snapshot.
    ///
    /// # Errors
    /// When the collection closes or is poisoned, or the deadline passes.
    pub fn wait_until(&self, deadline: Instant, ready: impl Fn(&Snapshot) -> bool) -> Result<()> {
        let mut guard = self.published.0.lock();
        loop {
            if ready(&self.snapshot()) {
                return Ok(());
            }
            self.usable()?;
            if self.published.1.wait_until(&mut guard, deadline).timed_out() && !ready(&self.snapshot()) {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the background maintainer did not catch up in time; see the log, then retry",
                ));
            }
        }
    }

    /// Holds a writer back while fresh rows exceed the backlog bound.
    pub fn wait_for_room(&self) {
        let max = self.settings.backlog_bytes_max;
        let deadline = Instant::now() + ROOM_TIMEOUT;
        // An error means closed, poisoned or late: the commit itself reports the first two, and being late is
        // better than refusing what still fits in memory.
        let _ = self.wait_until(deadline, |snapshot| fresh_bytes(&snapshot.views) <= max);
    }

    /// An error when the collection was dropped, closed or poisoned.
    pub fn usable(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("collection '{}' was dropped or its database closed", self.name),
            ));
        }
        match &*self.poison.lock() {
            Some(what) => Err(Error::new(ErrorKind::Poisoned, what.clone())),
            None => Ok(()),
        }
    }

    /// Refuses everything from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
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

    pub fn wake_maintainer(&self) {
        self.wake.wake();
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
    pub folder: PathBuf,
    pub indexer: Indexer,
    pub tenants: Tenants,
    pub wake: Arc<Wake>,
}

/// Bytes of rows that are not on disk as segments yet.
pub(crate) fn fresh_bytes(views: &[View]) -> u64 {
    views.iter().filter(|view| !view.segment.on_disk()).map(|view| view.segment.memory_bytes()).sum()
}

impl Collection {
    /// The collection's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its schema.
    pub fn schema(&self) -> &Schema {
        &self.shared.schema
    }

    /// Writes rows, replacing those of the same tenant and key, and returns how many. All or nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a row that does not fit the schema (nothing is written);
    /// [`ErrorKind::Exhausted`] when the disk is full; [`ErrorKind::Poisoned`] after a failed write to disk.
    pub fn upsert(&self, rows: Vec<Row>) -> Result<Written> {
        self.shared.usable()?;
        let rows = check_rows(&self.shared.schema, rows)?;
        let rows = rows.into_iter().map(|row| PreparedRow::new(&self.shared, row)).collect::<Result<_>>()?;
        queue::write(&self.shared, Work::Upsert(rows))
    }

    /// Splits a document into chunks, embeds them where the database has an embedder and `options` name a
    /// vector field, and writes one row a chunk under the keys `DOCUMENT#0`, `DOCUMENT#1` and so on. Chunks
    /// of a longer earlier version are deleted in the same commit, so that no search sees two versions mixed.
    ///
    /// # Errors
    /// As [`Collection::upsert`]; [`ErrorKind::Unavailable`] when the embedder cannot be reached.
    pub fn ingest(&self, document: &Document, options: &IngestOptions) -> Result<Written> {
        self.shared.usable()?;
        let tokenizer = Tokenizer::named(&self.shared.schema.tokenizer)?;
        let text_field = retrieve::text_field_name(&self.shared.schema, options.text_field.as_deref())?;
        let mut rows = ingest::rows(document, &text_field, &options.chunk, tokenizer)?;
        if let Some(vector_field) = &options.vector_field {
            let embedder = self.shared.components.embedder.as_ref().ok_or_else(|| {
                Error::invalid(
                    "to embed chunks, open the database with an embedder, or send vectors with upsert",
                )
            })?;
            ingest::embed_rows(&mut rows, &text_field, vector_field, &**embedder)?;
        }
        let rows = check_rows(&self.shared.schema, rows)?;
        let rows = rows.into_iter().map(|row| PreparedRow::new(&self.shared, row)).collect::<Result<_>>()?;
        let (tenant, document) = (document.tenant.clone(), document.key.clone());
        queue::write(&self.shared, Work::Document { tenant, document, rows })
    }

    /// Deletes rows by key and returns how many were there.
    ///
    /// # Errors
    /// As [`Collection::upsert`].
    pub fn delete(&self, tenant: &str, keys: &[String]) -> Result<Written> {
        check_tenant(tenant)?;
        check_keys(keys)?;
        queue::write(&self.shared, Work::Delete { tenant: tenant.to_owned(), keys: keys.to_vec() })
    }

    /// Deletes every row that passes the filter at the moment of the commit, and returns how many.
    ///
    /// # Errors
    /// As [`Collection::upsert`]; [`ErrorKind::Invalid`] for a filter that does not fit the schema.
    pub fn delete_by_filter(&self, tenant: &str, filter: &Filter) -> Result<Written> {
        check_tenant(tenant)?;
        queue::write(&self.shared, Work::DeleteByFilter { tenant: tenant.to_owned(), filter: filter.clone() })
    }

    /// Deletes all rows of a tenant and returns how many there were. Their space comes back in the
    /// background.
    ///
    /// # Errors
    /// As [`Collection::upsert`].
    pub fn drop_tenant(&self, tenant: &str) -> Result<Written> {
        check_tenant(tenant)?;
        queue::write(&self.shared, Work::DropTenant { tenant: tenant.to_owned() })
    }

    /// Rows by key, in the order of `keys`; none where there is no such row.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a bad key or unknown field; [`ErrorKind::Corrupt`] for damage on disk.
    pub fn get(&self, tenant: &str, keys: &[String], fields: &Fields) -> Result<Vec<Option<Row>>> {
        self.shared.usable()?;
        check_tenant(tenant)?;
        check_keys(keys)?;
        fetch::get(&self.shared, tenant, keys, fields)
    }

    /// A page of rows in key order.
    ///
    /// # Errors
    /// As [`Collection::get`].
    pub fn scroll(&self, request: &ScrollRequest) -> Result<ScrollResponse> {
        self.shared.usable()?;
        check_tenant(&request.tenant)?;
        fetch::scroll(&self.shared, request)
    }

    /// How many rows of the tenant pass the filter.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a filter that does not fit the schema.
    pub fn count(&self, tenant: &str, filter: Option<&Filter>) -> Result<u64> {
        self.shared.usable()?;
        check_tenant(tenant)?;
        search::count(&self.shared, tenant, filter)
    }

    /// Names of the tenants that were ever written to, sorted.
    pub fn tenants(&self) -> Vec<String> {
        self.shared.tenants.names()
    }

    /// Finds the best rows of a tenant.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a request that does not fit the schema or the limits;
    /// [`ErrorKind::Deadline`] when its timeout passes; [`ErrorKind::Unavailable`] when a text must be
    /// embedded and the embedder cannot.
    pub fn search(&self, request: &SearchRequest) -> Result<SearchResponse> {
        self.shared.usable()?;
        search::search(&self.shared, request)
    }

    /// Runs many searches on one snapshot, answers in order. Searches of one dense route that share field,
    /// tenant and filter are scored together, which is several times faster than one by one, with the same
    /// results.
    ///
    /// # Errors
    /// As [`Collection::search`], for the first request that fails.
    pub fn search_batch(&self, requests: &[SearchRequest]) -> Result<Vec<SearchResponse>> {
        self.shared.usable()?;
        search::search_batch(&self.shared, requests)
    }

    /// Finds the best rows and packs their texts, whole and in rank order, into a token budget.
    ///
    /// # Errors
    /// As [`Collection::search`]; [`ErrorKind::Invalid`] when the schema has no such text field.
    pub fn retrieve(&self, request: &RetrieveRequest) -> Result<RetrieveResponse> {
        self.shared.usable()?;
        retrieve::retrieve(&self.shared, request)
    }

    /// Builds every row written so far into segments on disk and waits for it.
    ///
    /// # Errors
    /// When building fails or takes longer than ten minutes.
    pub fn flush(&self) -> Result<()> {
        crate::maintain::flush(&self.shared)
    }

    /// Checks that indexes and row store agree: every row found by search is the row of its key, and none is
    /// missing. Reads every row's key; for tests and after repairs.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] naming the first row that differs.
    pub fn verify(&self) -> Result<()> {
        self.shared.usable()?;
        self.shared.snapshot().verify(self.shared.id)
    }

    /// Sizes and states.
    ///
    /// # Errors
    /// When the collection was dropped.
    pub fn stats(&self) -> Result<CollectionStats> {
        self.shared.usable()?;
        let snapshot = self.shared.snapshot();
        let mut stats = CollectionStats {
            name: self.shared.name.clone(),
            tenants: self.shared.tenants.len() as u64,
            last_row: snapshot.last_row.0,
            ..CollectionStats::default()
        };
        for view in &snapshot.views {
            let docs = u64::from(view.segment.docs());
            stats.rows += docs - view.deleted.len();
            stats.memory_bytes += view.segment.memory_bytes();
            if view.segment.on_disk() {
                stats.segments += 1;
                stats.segment_rows += docs;
                stats.deleted_rows += view.deleted.len();
                stats.segment_bytes += view.segment.disk_bytes();
            } else {
                stats.memory_rows += docs - view.deleted.len();
            }
        }
        Ok(stats)
    }
}

fn check_keys(keys: &[String]) -> Result<()> {
    if keys.len() > ROWS_MAX {
        return Err(Error::invalid(format!("at most {ROWS_MAX} keys at once, got {}", keys.len())));
    }
    keys.iter().try_for_each(|key| check_key(key))
}
