//! Backup and restore: a folder that is a database itself.
//!
//! Segment files never change, so a backup links them; the row store makes a checkpoint of its own. Segments
//! are taken first and the rows after, so that the log in the backup covers everything that the segments do
//! not have.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use spandrel_storage::durable;
use spandrel_storage::store::{self, Store};

use crate::collection::Shared;
use crate::database::{Database, MARKER, MARKER_TEXT, ROWS, SEGMENTS};
use crate::error::{Error, ErrorKind, Result};
use crate::settings::Settings;

/// What a backup reads.
pub(crate) struct Parts {
    pub store: Arc<Store>,
    pub collections: Vec<Arc<Shared>>,
}

/// Copies everything acknowledged into `dir`.
pub(crate) fn backup(parts: &Parts, dir: &Path) -> Result<()> {
    empty_folder(dir)?;
    // Segment files and manifests stand still, and no log record is trimmed, while these are held.
    let _files: Vec<_> = parts.collections.iter().map(|shared| shared.maintenance.files.lock()).collect();
    for shared in &parts.collections {
        let to = dir.join(SEGMENTS).join(shared.id.to_string());
        durable::create_folder(&to)?;
        for entry in fs::read_dir(&shared.folder).map_err(|error| io("list", &shared.folder, error))? {
            let entry = entry.map_err(|error| io("list", &shared.folder, error))?;
            if !entry.file_name().to_string_lossy().ends_with(durable::TEMP_SUFFIX) {
                link(&entry.path(), &to.join(entry.file_name()))?;
            }
        }
        durable::sync_folder(&to)?;
    }
    parts.store.checkpoint(&dir.join(ROWS))?;
    // Written last: a folder without it is not a database, so a backup that was cut short is refused.
    durable::replace_file(&dir.join(MARKER), MARKER_TEXT.as_bytes())?;
    Ok(())
}

/// Makes a database in `dir` from a backup and opens it once to check it.
pub(crate) fn restore(backup: &Path, dir: &Path) -> Result<()> {
    match fs::read_to_string(backup.join(MARKER)) {
        Ok(text) if text == MARKER_TEXT => {}
        _ => {
            return Err(Error::invalid(format!(
                "{} is not a complete backup: it has no {MARKER} file of this format",
                backup.display()
            )));
        }
    }
    empty_folder(dir)?;
    if backup.join(SEGMENTS).exists() {
        copy_folder(&backup.join(SEGMENTS), &dir.join(SEGMENTS))?;
    }
    store::restore(&backup.join(ROWS), &dir.join(ROWS))?;
    durable::replace_file(&dir.join(MARKER), MARKER_TEXT.as_bytes())?;
    Database::open(dir, Settings::default())?.close()
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
            copy(&entry.path(), &target)?;
        }
    }
    Ok(durable::sync_folder(to)?)
}

fn link(from: &Path, to: &Path) -> Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        // Another file system, or one without links.
        Err(_) => copy(from, to),
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map_err(|error| io("copy", from, error))?;
    let file = fs::File::open(to).map_err(|error| io("open", to, error))?;
    file.sync_all().map_err(|error| io("sync", to, error))
}

fn io(action: &'static str, path: &Path, error: std::io::Error) -> Error {
    spandrel_storage::Error::io(action, path, error).into()
}
