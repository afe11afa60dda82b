//! A database: a folder of collections, open in one process.
//!
//! ```text
//! FOLDER/SPANDREL                  marker: what this folder is, and its format version
//! FOLDER/rows/                     the row store (RocksDB): everything that cannot be derived
//! FOLDER/segments/ID/MANIFEST      which segment files of collection ID are live
//! FOLDER/segments/ID/N.seg         one immutable segment
//! FOLDER/chunk-caches.jsonl        descriptors of chunk caches that LLM servers keep, where that is set
//! ```

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};
use spandrel_index::budget::MemoryBudget;
use spandrel_index::pace::Pace;
use spandrel_index::segment::Indexer;
use spandrel_storage::io::BatchRead;
use spandrel_storage::schema::check_name;
use spandrel_storage::store::{CollectionMeta, Store, StoreOptions};
use spandrel_storage::{Schema, durable};

use crate::collection::Collection;
use crate::error::{Error, ErrorKind, Result};
use crate::filter_cache::FilterCache;
use crate::labels::Labels;
use crate::maintain::{self, Lane, Served, Wake};
use crate::publish;
use crate::rag::kv::ChunkCatalogue;
use crate::recover;
use crate::response::DatabaseStats;
use crate::retrieve::results::ResultCache;
use crate::settings::{Components, Settings};
use crate::shared::{End, Shared, SharedParts, Writer};
use crate::tenants::Tenants;

pub(crate) const MARKER: &str = "SPANDREL";
pub(crate) const MARKER_TEXT: &str = "Spandrel database, format 1\n";
pub(crate) const ROWS: &str = "rows";
pub(crate) const SEGMENTS: &str = "segments";

/// A folder of collections, open in this process. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    settings: Settings,
    components: Components,
    store: Arc<Store>,
    reader: Arc<dyn BatchRead>,
    memory: Arc<MemoryBudget>,
    filters: Arc<FilterCache>,
    results: Arc<ResultCache>,
    chunk_caches: Option<Arc<ChunkCatalogue>>,
    collections: Served,
    /// Held while collections are created or dropped.
    catalogue: Mutex<()>,
    wake: Arc<Wake>,
    pace: Arc<Pace>,
    maintainers: Mutex<Vec<JoinHandle<()>>>,
}

impl Database {
    /// Opens the database in `path`, creating the folder if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another process has it open; [`ErrorKind::Invalid`] when the folder is
    /// not a database or of another format; [`ErrorKind::Corrupt`] when rows are damaged. Damaged segments
    /// are rebuilt.
    pub fn open(path: impl AsRef<Path>, settings: Settings) -> Result<Self> {
        Self::open_with(path, settings, Components::default())
    }

    /// As [`Database::open`], with components such as an embedder.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_with(path: impl AsRef<Path>, settings: Settings, components: Components) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        settings.check()?;
        claim(&path)?;
        let options =
            StoreOptions { cache_bytes: settings.row_cache_bytes as usize, ..StoreOptions::default() };
        let store = Arc::new(Store::open(&path.join(ROWS), &options)?);
        let reader = spandrel_storage::io::probe();
        let chunk_caches =
            settings.chunk_caches.as_ref().map(|settings| ChunkCatalogue::open(&path, settings));
        let chunk_caches = chunk_caches.transpose()?.map(Arc::new);
        let inner = Arc::new(Inner {
            memory: Arc::new(
                MemoryBudget::new(settings.memory_budget_bytes).with_tier_max(settings.residency.tier_max()),
            ),
            filters: Arc::new(FilterCache::new(settings.filter_cache_bytes)),
            results: Arc::new(ResultCache::new(settings.result_cache_bytes)),
            chunk_caches,
            path,
            settings,
            components,
            store,
            reader,
            collections: Arc::new(RwLock::new(HashMap::new())),
            catalogue: Mutex::new(()),
            wake: Arc::new(Wake::default()),
            pace: Arc::default(),
            maintainers: Mutex::default(),
        });
        for meta in inner.store.collections()? {
            let name = meta.name.clone();
            let shared =
                inner.open_collection(meta).map_err(|error| error.context(format!("collection '{name}'")))?;
            inner.collections.write().insert(name, shared);
        }
        inner.remove_dropped()?;
        if let Some(caches) = &inner.chunk_caches {
            // A drop may have been cut short.
            let served = inner.collections.read();
            caches.retain(|(collection, tenant)| {
                served.get(collection).is_some_and(|shared| shared.tenants.get(tenant).is_some())
            });
        }
        for (lane, name) in [(Lane::Fresh, "spandrel-fresh"), (Lane::Disk, "spandrel-disk")] {
            let (served, wake) = (Arc::clone(&inner.collections), Arc::clone(&inner.wake));
            let caches = inner.chunk_caches.clone().filter(|_| lane == Lane::Disk);
            let between = move || caches.iter().for_each(|caches| caches.save_at_times());
            let thread = std::thread::Builder::new().name(name.into());
            let thread = thread.spawn(move || maintain::run(&served, &wake, lane, between));
            let thread = thread.map_err(|error| {
                Error::new(ErrorKind::Unavailable, format!("cannot start a maintainer thread: {error}"))
            })?;
            inner.maintainers.lock().push(thread);
            inner.wake.wake(lane);
        }
        Ok(Self { inner })
    }

    /// Creates a collection.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the name is taken; [`ErrorKind::Invalid`] for a bad name or schema.
    pub fn create_collection(&self, name: &str, schema: Schema) -> Result<Arc<Collection>> {
        check_name("collection", name)?;
        schema.check()?;
        let _catalogue = self.inner.catalogue.lock();
        self.inner.usable()?;
        let meta = self.inner.store.create_collection(name, &schema)?;
        let id = meta.id;
        let shared = self.inner.open_collection(meta).inspect_err(|_| {
            // The name is free again, whatever kept the collection from being opened.
            let _ = self.inner.store.drop_collection(id);
        })?;
        self.inner.collections.write().insert(name.to_owned(), Arc::clone(&shared));
        Ok(Arc::new(Collection::new(shared)))
    }

    /// The collection called `name`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none.
    pub fn collection(&self, name: &str) -> Result<Arc<Collection>> {
        match self.inner.collections.read().get(name) {
            Some(shared) => Ok(Arc::new(Collection::new(Arc::clone(shared)))),
            None => Err(self.inner.no_such_collection(name)),
        }
    }

    /// Names of all collections, sorted.
    pub fn collections(&self) -> Vec<String> {
        let mut names: Vec<String> = self.inner.collections.read().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Drops a collection with all its rows and gives its space back. Searches under way finish or fail with
    /// [`ErrorKind::NotFound`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none of this name; [`ErrorKind::Poisoned`] after a failed write.
    /// The collection stays as it was then.
    pub fn drop_collection(&self, name: &str) -> Result<()> {
        let _catalogue = self.inner.catalogue.lock();
        let shared = self.inner.collections.read().get(name).cloned();
        let shared = shared.ok_or_else(|| self.inner.no_such_collection(name))?;
        // What is under way gives up, and nothing starts after.
        shared.end(Some(End::Dropped));
        {
            let _busy = shared.maintenance.busy.write();
            let _writer = shared.writer.lock();
            self.inner.store.drop_collection(shared.id).inspect_err(|_| shared.end(None))?;
        }
        self.inner.collections.write().remove(name);
        self.inner.filters.forget(shared.id, None);
        if let Some(caches) = &self.inner.chunk_caches {
            caches.forget_collection(name);
        }
        remove_folder(&shared.folder)
    }

    /// What is known of the chunk caches of LLM servers.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where [`Settings::chunk_caches`] is not set.
    pub fn chunk_caches(&self) -> Result<&ChunkCatalogue> {
        self.inner.usable()?;
        self.inner.chunk_caches.as_deref().ok_or_else(crate::rag::kv::keeper::there_is_none)
    }

    /// Sizes and states.
    ///
    /// # Errors
    /// When the row store cannot be asked.
    pub fn stats(&self) -> Result<DatabaseStats> {
        let shared: Vec<Arc<Shared>> = self.inner.collections.read().values().cloned().collect();
        let mut collections =
            shared.into_iter().map(|shared| Collection::new(shared).stats()).collect::<Result<Vec<_>>>()?;
        collections.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(DatabaseStats {
            collections,
            store_bytes: self.inner.store.disk_bytes()?,
            reader: self.inner.reader.name().to_owned(),
            simd: spandrel_index::simd::Kernels::best().level().to_owned(),
        })
    }

    /// Writes a copy of everything acknowledged into `dir`, which must not exist or be empty, while the
    /// database goes on. Files are linked where the file system can, so that it takes little time and space.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when `dir` holds something; [`ErrorKind::Unavailable`] when files cannot be
    /// written.
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<()> {
        self.inner.usable()?;
        crate::backup::backup(&self.inner.backup_parts(), dir.as_ref())
    }

    /// Makes a database in `dir`, which must not exist or be empty, from a backup. The backup is checked by
    /// opening it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when `backup` is not one; [`ErrorKind::Conflict`] when `dir` holds something.
    pub fn restore(backup: impl AsRef<Path>, dir: impl AsRef<Path>) -> Result<()> {
        crate::backup::restore(backup.as_ref(), dir.as_ref())
    }

    /// Syncs, stops the maintainers and closes. Everything acknowledged is kept; later calls on any clone,
    /// and on its collections, fail with [`ErrorKind::Closed`]. The folder is free for another process when
    /// the last clone and the last [`Collection`] are gone.
    ///
    /// # Errors
    /// When the last sync fails, or what a collection has to note for the next open.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

impl Inner {
    fn open_collection(&self, meta: CollectionMeta) -> Result<Arc<Shared>> {
        let schema = Arc::new(meta.schema);
        recover::open(SharedParts {
            id: meta.id,
            indexer: Indexer::new(Arc::clone(&schema))?,
            tenants: Tenants::open(&self.store, meta.id)?,
            labels: Labels::new(self.store.labels(meta.id)?),
            name: meta.name,
            schema,
            settings: self.settings.clone(),
            components: self.components.clone(),
            store: Arc::clone(&self.store),
            reader: Arc::clone(&self.reader),
            memory: Arc::clone(&self.memory),
            filters: Arc::clone(&self.filters),
            results: Arc::clone(&self.results),
            chunk_caches: self.chunk_caches.clone(),
            folder: self.path.join(SEGMENTS).join(meta.id.to_string()),
            wake: Arc::clone(&self.wake),
            pace: Arc::clone(&self.pace),
        })
    }

    /// Removes segment folders of collections whose drop was cut short.
    fn remove_dropped(&self) -> Result<()> {
        let root = self.path.join(SEGMENTS);
        let live: Vec<PathBuf> =
            self.collections.read().values().map(|shared| shared.folder.clone()).collect();
        let Ok(entries) = fs::read_dir(&root) else { return Ok(()) };
        for entry in entries.flatten() {
            let numbered = entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
            if numbered && !live.contains(&entry.path()) {
                remove_folder(&entry.path())?;
            }
        }
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        match self.wake.stopped() {
            true => Err(Error::new(ErrorKind::Closed, "the database is closed; open it again")),
            false => Ok(()),
        }
    }

    fn no_such_collection(&self, name: &str) -> Error {
        let mut names: Vec<String> = self.collections.read().keys().cloned().collect();
        names.sort_unstable();
        let known = if names.is_empty() {
            "there is none yet".to_owned()
        } else {
            format!("there are: {}", names.join(", "))
        };
        Error::not_found(format!("no collection '{name}'; {known}"))
    }

    fn backup_parts(&self) -> crate::backup::Parts {
        let mut collections: Vec<Arc<Shared>> = self.collections.read().values().cloned().collect();
        collections.sort_by_key(|shared| shared.id);
        crate::backup::Parts { store: Arc::clone(&self.store), collections }
    }

    fn close(&self) -> Result<()> {
        let _catalogue = self.catalogue.lock();
        self.wake.stop();
        for thread in self.maintainers.lock().drain(..) {
            let _ = thread.join();
        }
        if let Some(caches) = &self.chunk_caches {
            caches.save_or_warn();
        }
        let collections: Vec<Arc<Shared>> =
            self.collections.write().drain().map(|(_, shared)| shared).collect();
        let mut result = Ok(());
        for shared in &collections {
            let poisoned = shared.writable().is_err();
            shared.end(Some(End::Closed));
            if !poisoned && let Err(error) = self.note_end(shared) {
                tracing::error!(collection = %shared.name, %error, "closing a collection failed");
                result = result.and(Err(error));
            }
        }
        result.and(self.store.sync().map_err(Error::from))
    }

    /// Records how far the row store reached, so that losing its tail is noticed at the next open, and leaves
    /// that open little to do.
    fn note_end(&self, shared: &Shared) -> Result<()> {
        let snapshot = shared.snapshot();
        let save =
            |writer: &mut Writer| publish::save_manifest(shared, writer, &snapshot.views, snapshot.last_row);
        {
            let mut writer = shared.writer.lock();
            if writer.manifest.last_row < snapshot.last_row {
                self.store.sync()?;
                save(&mut writer)?;
            }
        }
        publish::trim(shared)?;
        let mut writer = shared.writer.lock();
        if writer.trimmed != writer.manifest.trimmed { save(&mut writer) } else { Ok(()) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "closing the database failed; acknowledged rows are on disk and recovered at open");
        }
    }
}

/// Makes `path` a database folder, or checks that it is one.
fn claim(path: &Path) -> Result<()> {
    let io = |action, error| Error::from(spandrel_storage::Error::io(action, path, error));
    durable::create_folder(path)?;
    let marker = path.join(MARKER);
    match fs::read_to_string(&marker) {
        Ok(text) if text == MARKER_TEXT => return Ok(()),
        Ok(text) => {
            let what = match text.strip_prefix("Spandrel database, format ") {
                Some(version) => format!(
                    "is a Spandrel database of format {}; this build reads format 1: use the build that wrote it, or \
                     restore a backup into a new folder",
                    version.trim()
                ),
                None => "its SPANDREL file is not one that Spandrel wrote; restore it, or use another folder"
                    .to_owned(),
            };
            return Err(Error::invalid(format!("{} {what}", path.display())));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(Error::invalid(format!("{}: its SPANDREL file is not text", path.display())));
        }
        Err(error) => return Err(io("read", error)),
    }
    let mut entries = fs::read_dir(path).map_err(|error| io("list", error))?;
    let cut_short = durable::temp_path(&marker);
    if entries.any(|entry| entry.map_or(true, |entry| entry.path() != cut_short)) {
        return Err(Error::invalid(format!(
            "{} is not empty and not a Spandrel database; give an empty or new folder",
            path.display()
        )));
    }
    durable::replace_file(&marker, MARKER_TEXT.as_bytes())?;
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(spandrel_storage::Error::io("remove", folder, error).into())
        }
        _ => Ok(()),
    }
}
