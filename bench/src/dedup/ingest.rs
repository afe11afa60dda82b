//! Texts written to a collection, which leaves out copies, or does not look for them.

use std::time::Instant;

use spandrel::{Database, DedupSpec, Durability, Row, Schema, Settings};
use tempfile::TempDir;

use crate::Result;

/// Rows of an upsert.
const BATCH_ROWS: usize = 1_024;

/// What writing came to.
pub(super) struct Ingested {
    /// Which texts were left out.
    pub(super) decisions: Vec<bool>,
    pub(super) seconds: f64,
}

/// Writes texts in their order, as rows with nothing else, and flushes them.
///
/// # Errors
/// The engine's.
pub(super) fn write(texts: &[String], threshold: Option<f64>) -> Result<Ingested> {
    let folder = TempDir::new()?;
    let settings = Settings { durability: Durability::Buffered, ..Settings::default() };
    let database = Database::open(folder.path(), settings)?;
    let schema = Schema::new().text("body");
    let schema = match threshold {
        Some(threshold) => schema.dedup(DedupSpec::skip("body").threshold(threshold)),
        None => schema,
    };
    let collection = database.create_collection("texts", schema)?;
    let mut decisions = vec![false; texts.len()];
    let start = Instant::now();
    for (batch, texts) in texts.chunks(BATCH_ROWS).enumerate() {
        let row = |(at, text): (usize, &String)| {
            Row::new((batch * BATCH_ROWS + at).to_string()).text("body", text.as_str())
        };
        let written = collection.upsert(texts.iter().enumerate().map(row).collect())?;
        for copied in written.copied {
            decisions[copied.key.parse::<usize>()?] = true;
        }
    }
    collection.flush()?;
    let seconds = start.elapsed().as_secs_f64();
    database.close()?;
    Ok(Ingested { decisions, seconds })
}
