//! Backup and restore: a folder that is a database itself.
//!
//! A backup takes each collection's manifest with the segment files it names at one moment, and the rows
//! after: the log in it then covers everything that the segments do not have. Nobody is held up meanwhile:
//! segment files never change and are held open, and what the manifests cover is pinned, so that the log
//! after it is not trimmed. The marker that makes the folder a database comes last; what fails before is
//! removed.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use spandrel_storage::durable;
use spandrel_storage::manifest::{Manifest, SegmentEntry, segment_name};
use spandrel_storage::store::{self, Store};

use crate::database::{Database, MARKER, MARKER_TEXT, ROWS, SEGMENTS};
use crate::error::{Error, ErrorKind, Result};
use crate::maintain::Lane;
use crate::settings::Settings;
use crate::shared::Shared;

/// What a backup reads.
pub(crate) struct Parts {
    pub store: Arc<Store>,
    pub collections: Vec<Arc<Shared>>,
}

/// Copies everything acknowledged into `dir`.
pub(crate) fn backup(parts: &Parts, dir: &Path) -> Result<()> {
    empty_folder(dir)?;
    let made = write_backup(parts, dir);
    if made.is_err() {
        // What is there is no backup: it goes, so that the name can be used again.
        remove_parts(dir);
    }
    made
}

fn write_backup(parts: &Parts, dir: &Path) -> Result<()> {
    let held: Vec<Held<'_>> =
        parts.collections.iter().map(|shared| Held::new(shared)).collect::<Result<_>>()?;
    parts.store.checkpoint(&dir.join(ROWS))?;
    for held in &held {
        held.write(&dir.join(SEGMENTS).join(held.shared.id.to_string()))?;
    }
    if parts.collections.is_empty() {
        durable::sync_folder(dir)?;
    }
    // Written last: a folder without it is not a database, so a backup that was cut short is refused.
    durable::replace_file(&dir.join(MARKER), MARKER_TEXT.as_bytes())?;
    Ok(())
}

/// The segments of a collection at one moment, and a pin on the log after them.
struct Held<'a> {
    shared: &'a Shared,
    manifest: Manifest,
    files: Vec<fs::File>,
}

impl<'a> Held<'a> {
    fn new(shared: &'a Shared) -> Result<Self> {
        let mut writer = shared.writer.lock();
        let manifest = writer.manifest.clone();
        let open = |entry: &SegmentEntry| {
            let path = shared.segment_path(entry.id);
            fs::File::open(&path).map_err(|error| io("open", &path, error))
        };
        let files = manifest.segments.iter().map(open).collect::<Result<_>>()?;
        writer.pins.push(manifest.covered);
        Ok(Self { shared, manifest, files })
    }

    fn write(&self, to: &Path) -> Result<()> {
        durable::create_folder(to)?;
        for (entry, file) in self.manifest.segments.iter().zip(&self.files) {
            let path = to.join(segment_name(entry.id));
            // Linked while it has its name; a merge may have removed it meanwhile, or the backup is on
            // another file system: then it is copied.
            if fs::hard_link(self.shared.segment_path(entry.id), &path).is_err() {
                copy(file, &path)?;
            }
        }
        durable::sync_folder(to)?;
        Ok(self.manifest.save(to)?)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut writer = self.shared.writer.lock();
        if let Some(at) = writer.pins.iter().position(|pin| *pin == self.manifest.covered) {
            writer.pins.swap_remove(at);
        }
        drop(writer);
        self.shared.wake.wake(Lane::Disk);
    }
}

/// Makes a database in `dir` from a backup and opens it once to check it.
pub(crate) fn restore(backup: &Path, dir: &Path) -> Result<()> {
    match fs::read_to_string(backup.join(MARKER)) {
        Ok(text) if text == MARKER_TEXT && backup.join(ROWS).is_dir() => {}
        _ => {
            return Err(Error::invalid(format!(
                "{} is not a complete backup: it has no {MARKER} file of this format, or no {ROWS}",
                backup.display()
            )));
        }
    }
    empty_folder(dir)?;
    let made = write_restored(backup, dir);
    if made.is_err() {
        // What is there is no database: it goes, so that the name can be used again.
        let _ = fs::remove_file(dir.join(MARKER));
        remove_parts(dir);
    }
    made
}

fn write_restored(backup: &Path, dir: &Path) -> Result<()> {
    // First, as it refuses a folder that a database has open and one whose rows were cut short.
    store::restore(&backup.join(ROWS), &dir.join(ROWS))?;
    if backup.join(SEGMENTS).exists() {
        copy_folder(&backup.join(SEGMENTS), &dir.join(SEGMENTS))?;
    }
    durable::replace_file(&dir.join(MARKER), MARKER_TEXT.as_bytes())?;
    Database::open(dir, Settings::default())?.close()
}

/// Removes a folder that was made here and is no database.
fn remove_parts(dir: &Path) {
    for name in [SEGMENTS, ROWS] {
        let _ = fs::remove_dir_all(dir.join(name));
    }
    let _ = fs::remove_dir(dir);
}

fn empty_folder(dir: &Path) -> Result<()> {
    durable::create_folder(dir)?;
    let mut entries = fs::read_dir(dir).map_err(|error| io("list", dir, error))?;
    match entries.next() {
        Some(_) => {
            Err(Error::new(ErrorKind::Conflict, format!("{} is not empty; give a new folder", dir.display())))
        }
        None => Ok(()),
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    durable::create_folder(to)?;
    for entry in fs::read_dir(from).map_err(|error| io("list", from, error))? {
        let entry = entry.map_err(|error| io("list", from, error))?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            let from = fs::File::open(entry.path()).map_err(|error| io("open", &entry.path(), error))?;
            copy(&from, &target)?;
        }
    }
    Ok(durable::sync_folder(to)?)
}

/// Copies a file from its beginning, durably.
fn copy(mut from: &fs::File, to: &Path) -> Result<()> {
    let mut file = fs::File::create_new(to).map_err(|error| io("create", to, error))?;
    std::io::copy(&mut from, &mut file).map_err(|error| io("copy to", to, error))?;
    file.sync_all().map_err(|error| io("sync", to, error))
}

fn io(action: &'static str, path: &Path, error: std::io::Error) -> Error {
    spandrel_storage::Error::io(action, path, error).into()
}
