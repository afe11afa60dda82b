//! Where the collection that is measured lives: a temporary folder, one that is kept, or a server.

use std::fs::File;
use std::path::Path;

use spandrel::{DenseSpec, Row, Settings};
use tempfile::TempDir;

use super::Args;
use crate::dataset::{self, Matrix};
use crate::engine::{self, Embedded, Engine, Remote, VECTOR, Wanted};
use crate::machine;
use crate::{Error, Result};

/// Rows that are compared with the base where the collection was there.
const COMPARED_ROWS: usize = 8;
/// Rows of a database that holds next to nothing.
const EMPTY_ROWS: usize = 16;

/// Opens what is to be measured, embedded in `folder` or remote, and says whether it was there: `again` for
/// what this run has built.
///
/// # Errors
/// The engine's; `--open` of nothing, or `--keep` over something.
pub(super) fn open(args: &Args, dim: usize, folder: &Path, again: bool) -> Result<(Box<dyn Engine>, bool)> {
    let schema = engine::vector_schema(spec(args, dim)?);
    if let Some(url) = &args.remote {
        if args.memory_mb.is_some() {
            eprintln!("--memory-mb does not reach a server: start it with --memory-budget");
        }
        let (remote, was_there) = Remote::open(url, &args.access, &args.collection, &schema)?;
        return Ok((Box::new(remote), was_there));
    }
    let settings = settings(args);
    if args.open.is_some() || again {
        return Ok((Box::new(Embedded::reopen(folder, &args.collection, settings, &schema)?), true));
    }
    let (embedded, was_there) = Embedded::open(folder, &args.collection, settings, schema)?;
    match was_there {
        false => Ok((Box::new(embedded), false)),
        true => {
            Err(format!("{} holds that collection already; measure it with --open", folder.display()).into())
        }
    }
}

fn spec(args: &Args, dim: usize) -> Result<DenseSpec> {
    Ok(DenseSpec {
        dim: u32::try_from(dim)?,
        metric: args.set.metric,
        element: args.element,
        index: args.index,
    })
}

fn settings(args: &Args) -> Settings {
    let mut settings =
        Settings { residency: args.residency, learn_from_queries: args.learn, ..Settings::default() };
    if let Some(mb) = args.memory_mb {
        settings.memory_budget_bytes = mb << 20;
    }
    if let Some(mb) = args.build_memory_mb {
        settings.build_memory_bytes = mb << 20;
    }
    settings
}

/// Resident memory of this process with a database of a few rows that was searched: the program, its
/// libraries and the buffers that every database has. None for a server.
///
/// # Errors
/// The engine's.
pub(super) fn rss_empty_mb(args: &Args, queries: &Matrix) -> Result<Option<f64>> {
    if args.remote.is_some() {
        return Ok(None);
    }
    let folder = TempDir::new()?;
    let schema = engine::vector_schema(spec(args, queries.dim)?);
    let (engine, _) = Embedded::open(folder.path(), &args.collection, settings(args), schema)?;
    let mut writer = engine.writer()?;
    let row = |at: usize| Row::new(at.to_string()).dense(VECTOR, queries.row(at).to_vec());
    writer.upsert((0..queries.rows().min(EMPTY_ROWS)).map(row).collect())?;
    writer.finish()?;
    engine.flush()?;
    let calls = [vec![queries.row(0)]];
    engine.searcher(&calls, Wanted::new(args.set.k, None))?.call(0)?;
    let memory = machine::memory(engine.process());
    engine.close()?;
    Ok(memory.map(|memory| memory.rss_mb))
}

/// Compares some of the rows that are there with the base: a collection of other vectors would be searched as
/// if nothing were wrong, and only its recall would be odd.
///
/// # Errors
/// They differ, or cannot be read.
pub(super) fn compare(engine: &dyn Engine, args: &Args, base_rows: usize) -> Result<()> {
    let mut rows: Vec<usize> =
        (0..COMPARED_ROWS).map(|at| at * (base_rows - 1) / (COMPARED_ROWS - 1)).collect();
    rows.dedup();
    let stored = engine.vectors(&rows)?;
    let mut at = 0;
    dataset::chunks(&args.set.base, base_rows, |first, chunk| {
        while let Some(row) = rows.get(at).filter(|row| **row < first + chunk.rows()) {
            let expected = chunk.row(row - first);
            if stored.get(at).and_then(Option::as_deref) != Some(expected) {
                return Err(format!(
                    "the collection '{}' was there and holds other vectors: its row {row} is not that of {}; name \
                     another one with --collection, or drop it",
                    args.collection,
                    args.set.base.display()
                )
                .into());
            }
            at += 1;
        }
        Ok(())
    })
}

/// Lets the system forget the pages of all files under `folder`. What is searched from disk is read past
/// its cache in any case; the row store is not, nor is a file system that has no direct reads.
///
/// # Errors
/// A file cannot be opened.
pub(crate) fn forget_pages(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            forget_pages(&path)?;
            continue;
        }
        let file = File::open(&path)?;
        // What was not written yet would stay.
        file.sync_all()?;
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(|error| -> Error { format!("{}: {error}", path.display()).into() })?;
    }
    Ok(())
}
