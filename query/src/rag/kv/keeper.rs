//! The catalogue of a database: behind a lock, and in a file.
//!
//! FOLDER/chunk-caches.jsonl is read when the database is opened, and written after changes: at most once a
//! minute, when something was dropped, when the database is closed, and when asked to. A descriptor is no
//! source of truth: a file that is damaged, or of another version, is moved aside with a warning, and a
//! server finds out by its own list what of its tensors nobody knows any more. Backups leave the file out, as
//! the tensors stay where they are.
//!
//! Cost: one lock; what is written is put together under it, linear in the descriptors, and written outside.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use spandrel_index::stop::Stop;
use spandrel_storage::durable;

use super::catalogue::{ChunkCaches, Found, Stats, Wanted, check_order};
use super::descriptor::{ModelKey, Owner, Scope, TokenHash, Variant, VariantId};
use super::notice::{Notice, NoticePage};
use super::reuse::{Reuse, Rule};
use super::settings::KvSettings;
use crate::error::{Error, ErrorKind, Result};

/// Name of the file in the database's folder.
pub const FILE: &str = "chunk-caches.jsonl";
/// What is added to the name of one that could not be read.
const ASIDE: &str = ".damaged";
/// A larger file is not read.
const FILE_BYTES_MAX: u64 = 8 << 30;
/// Least time between two saves that nobody asked for.
const PAUSE: Duration = Duration::from_secs(60);

/// What a database knows of the chunk caches of LLM servers. All calls may come from many threads.
pub struct ChunkCatalogue {
    caches: Mutex<ChunkCaches>,
    rule: Rule,
    path: PathBuf,
    /// Whether there is something to save.
    changed: AtomicBool,
    /// When that was last done; held meanwhile.
    saved: Mutex<Instant>,
}

/// What there is of a chunk of a context.
#[derive(Clone, Debug, PartialEq)]
pub struct Reusable {
    /// The best variant and what using it comes to; none: compute all of the chunk.
    pub best: Option<(Variant, Reuse)>,
    /// Tokens to compute.
    pub recompute_tokens: u32,
    /// What to store then.
    pub advice: super::catalogue::Advice,
}

impl From<Found<'_>> for Reusable {
    fn from(found: Found<'_>) -> Self {
        let best = found.best.map(|(variant, reuse)| (variant.clone(), reuse));
        Self { best, recompute_tokens: found.recompute_tokens, advice: found.advice }
    }
}

impl ChunkCatalogue {
    /// Opens the catalogue in a database's folder, or begins an empty one.
    ///
    /// # Errors
    /// Those of [`KvSettings::check`].
    pub(crate) fn open(folder: &Path, settings: &KvSettings) -> Result<Self> {
        let (path, rule) = (folder.join(FILE), settings.rule);
        let loaded = match read(&path) {
            Ok(None) => ChunkCaches::new(settings.clone()),
            Ok(Some(bytes)) => ChunkCaches::load(&bytes, settings.clone()).map(|mut caches| {
                caches.skip();
                caches
            }),
            Err(error) => Err(error),
        };
        let caches = match loaded {
            Ok(caches) => caches,
            Err(error) => {
                let empty = ChunkCaches::new(settings.clone())?;
                let mut aside = path.clone().into_os_string();
                aside.push(ASIDE);
                let moved = fs::rename(&path, &aside).is_ok();
                tracing::warn!(
                    path = %path.display(), %error, moved,
                    "chunk caches cannot be read; the catalogue begins empty, and servers put theirs again"
                );
                empty
            }
        };
        let (caches, saved) = (Mutex::new(caches), Mutex::new(Instant::now()));
        Ok(Self { caches, rule, path, changed: AtomicBool::new(false), saved })
    }

    /// Takes a variant in; when it was computed is filled in where it says 0. What has to go or to move for
    /// it is in [`take_notices`](Self::take_notices).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] as [`Variant::check`] says; [`ErrorKind::Exhausted`] where no tier takes it:
    /// nothing is changed then.
    pub fn put(&self, mut variant: Variant) -> Result<VariantId> {
        if variant.created_us == 0 {
            variant.created_us = now_us();
        }
        self.change(|caches| caches.put(variant), Result::is_ok)
    }

    /// For each chunk of a context, in its order, the variant that saves most behind those before it. The
    /// lock is held for a chunk at a time, and not while variants are weighed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the order has more than 1,024 chunks; [`ErrorKind::Deadline`] when `stop`
    /// says so, which is looked at once a chunk.
    pub fn lookup(
        &self,
        scope: &Scope,
        model: &ModelKey,
        order: &[Wanted],
        stop: &Stop,
    ) -> Result<Vec<Reusable>> {
        check_order(order.len())?;
        let hashes: Vec<TokenHash> = order.iter().map(|wanted| wanted.content).collect();
        let reusable = |(at, wanted): (usize, &Wanted)| {
            stop.check()?;
            let variants = self.usable(scope, model, std::iter::once(wanted.content));
            let variants = variants.iter().flatten().map(|(id, variant)| (*id, variant));
            Ok(Found::of(&self.rule, variants, *wanted, &hashes[..at]).into())
        };
        order.iter().enumerate().map(reusable).collect()
    }

    /// Notes uses of variants and what each saved, in microseconds; how many of them the scope covers.
    pub fn touch(&self, scope: &Scope, uses: &[(VariantId, f64)]) -> usize {
        self.change(|caches| caches.touch(scope, uses, now_us()), |known| *known > 0)
    }

    /// Removes a variant, whose tensors the caller frees. None where the scope does not cover it.
    pub fn remove(&self, scope: &Scope, id: VariantId) -> Option<Variant> {
        self.change(|caches| caches.remove(scope, id), Option::is_some)
    }

    /// Removes all that was computed from a chunk of a tenant, which was deleted: its variants and those of
    /// other chunks behind it. Notices say so; how many went.
    pub fn forget_chunk(&self, owner: Owner<'_>, content: TokenHash) -> usize {
        self.change(|caches| caches.forget_chunk(owner, content), |gone| *gone > 0)
    }

    /// Up to `limit` variants that the scope covers with ids above `after`, by id.
    pub fn list(&self, scope: &Scope, after: VariantId, limit: usize) -> Vec<(VariantId, Variant)> {
        let caches = self.caches.lock();
        caches.list(scope, after, limit).into_iter().map(|(id, variant)| (id, variant.clone())).collect()
    }

    /// What is held of a tenant, or of all. Linear in its descriptors.
    pub fn stats(&self, owner: Option<Owner<'_>>) -> Stats {
        self.caches.lock().stats(owner)
    }

    /// Takes what the server has to do about caches of a tenant, the oldest first; of all tenants where none
    /// is named, which is for who serves all of them.
    pub fn take_notices(&self, owner: Option<Owner<'_>>) -> Vec<Notice> {
        self.change(|caches| caches.take_notices(owner), |taken| !taken.is_empty())
    }

    /// Up to `limit` notices behind number `after`, the oldest first, of a tenant or of all; those up to it
    /// are done and are not given again. Begin with 0, then pass [`NoticePage::next`].
    pub fn notices(&self, owner: Option<Owner<'_>>, after: u64, limit: usize) -> NoticePage {
        let page = |caches: &mut ChunkCaches| {
            let waiting = caches.notices.count;
            let page = caches.notices(owner, after, limit);
            (page, caches.notices.count < waiting)
        };
        self.change(page, |(_, dropped)| *dropped).0
    }

    /// Writes what has changed since the last time.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`], [`ErrorKind::Exhausted`] or [`ErrorKind::Poisoned`] when the file cannot
    /// be written: the one of before stays, unless only the last sync failed.
    pub fn save(&self) -> Result<()> {
        let mut saved = self.saved.lock();
        if !self.changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        *saved = Instant::now();
        let bytes = self.caches.lock().save();
        let written = bytes.and_then(|bytes| Ok(durable::replace_file(&self.path, &bytes)?));
        written.inspect_err(|_| self.changed.store(true, Ordering::Release))
    }

    /// Saves where there is something to save and the last time was a minute ago.
    pub(crate) fn save_at_times(&self) {
        // Whoever saves now has the lock.
        let is_due = self.saved.try_lock().is_some_and(|saved| saved.elapsed() >= PAUSE);
        if is_due {
            self.save_or_warn();
        }
    }

    /// Saves; a failure is logged.
    pub(crate) fn save_or_warn(&self) {
        if let Err(error) = self.save() {
            tracing::warn!(path = %self.path.display(), %error, "chunk caches were not saved");
        }
    }

    /// A tenant was dropped.
    pub(crate) fn forget_tenant(&self, owner: Owner<'_>) {
        self.forget(|caches| caches.forget_tenant(owner));
    }

    /// A collection was dropped.
    pub(crate) fn forget_collection(&self, collection: &str) {
        self.forget(|caches| caches.forget_collection(collection));
    }

    /// Only these tenants are there.
    pub(crate) fn retain(&self, stays: impl Fn(Owner<'_>) -> bool) {
        self.forget(|caches| caches.retain(stays));
    }

    /// What is dropped is not to come back with a name that is used again: saved at once.
    fn forget(&self, forget: impl FnOnce(&mut ChunkCaches) -> usize) {
        let gone = forget(&mut self.caches.lock());
        if gone > 0 {
            self.changed.store(true, Ordering::Release);
            self.save_or_warn();
        }
    }

    /// What reuse is estimated by.
    pub(crate) fn rule(&self) -> &Rule {
        &self.rule
    }

    /// For each of these chunks the variants that the scope covers, all at one moment.
    pub(crate) fn usable(
        &self,
        scope: &Scope,
        model: &ModelKey,
        contents: impl Iterator<Item = TokenHash>,
    ) -> Vec<Vec<(VariantId, Variant)>> {
        let caches = self.caches.lock();
        let owned = |(id, variant): (VariantId, &Variant)| (id, variant.clone());
        contents.map(|content| caches.usable(scope, model, content).map(owned).collect()).collect()
    }

    /// Makes a change; `is_one` says whether it was one.
    fn change<T>(&self, change: impl FnOnce(&mut ChunkCaches) -> T, is_one: impl FnOnce(&T) -> bool) -> T {
        let mut caches = self.caches.lock();
        let done = change(&mut caches);
        // Under the lock: who saves later sees both.
        if is_one(&done) {
            self.changed.store(true, Ordering::Release);
        }
        done
    }
}

/// The refusal of a database that has no catalogue.
pub(crate) fn there_is_none() -> Error {
    Error::invalid(
        "this database keeps no catalogue of chunk caches: open it with `chunk_caches` in its settings, a server \
         with `engine.chunk_caches.bytes_max`",
    )
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_micros().min(u128::from(u64::MAX)) as u64
}

/// The bytes of the file; none where there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let failed =
        |error: std::io::Error| Error::new(ErrorKind::Unavailable, format!("{}: {error}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > FILE_BYTES_MAX {
        true => Err(Error::new(ErrorKind::Corrupt, format!("the file has more than {FILE_BYTES_MAX} bytes"))),
        false => Ok(Some(bytes)),
    }
}

#[cfg(test)]
mod tests;
