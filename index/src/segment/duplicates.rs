//! The sections that say which docs have the keys that rows are compared by.
//!
//! | section | what |
//! |---|---|
//! | `duplicates` | bands, and rows of a band, u16 each; then the first part of a [`Table`] |
//! | `duplicates/docs` | its second part, which is read when a key is found |
//!
//! A schema that compares rows has both in every segment. Keys of other bands than the schema's cannot be
//! compared with: such a segment is built again, as a damaged one is.

use std::path::Path;
use std::sync::Arc;

use spandrel_storage::DocId;
use spandrel_storage::file::{SegmentFile, SegmentWriter};

use super::source::SectionSource;
use super::{IndexDoc, Indexer};
use crate::budget::MemoryBudget;
use crate::dedup::compare::{Comparer, SEGMENT_PROMISE, of_tenant};
use crate::dedup::table::{Table, TableBuilder};
use crate::error::{Error, Result};

const SECTION: &str = "duplicates";
const DOCS_SECTION: &str = "duplicates/docs";
/// Bytes before the table.
const HEAD_BYTES: usize = 4;

/// Collects the keys of docs.
pub(super) struct Duplicates {
    table: TableBuilder,
    shape: [u16; 2],
    keys: Vec<u64>,
}

impl Duplicates {
    /// None where the schema does not compare rows. What memory is too short for goes to `folder`.
    pub(super) fn of(indexer: &Indexer, folder: Option<&Path>) -> Option<Self> {
        let comparer = indexer.comparer()?;
        let table = TableBuilder::new(comparer.keys_of_text(), SEGMENT_PROMISE, folder);
        Some(Self { table, shape: comparer.shape(), keys: Vec::new() })
    }

    /// Adds the keys of the next doc.
    pub(super) fn push(&mut self, at: DocId, doc: &IndexDoc) -> Result<()> {
        self.keys.clear();
        self.keys.extend(of_tenant(doc.tenant, doc.values.keys()));
        self.table.push(at, &self.keys)
    }

    /// The table of them.
    pub(super) fn finish(self) -> Result<Table> {
        self.table.finish()
    }

    /// Writes the sections.
    pub(super) fn write(self, writer: &mut SegmentWriter) -> Result<()> {
        let shape = self.shape;
        let table = self.table.finish()?;
        writer.section(SECTION)?;
        writer.write(&shape.map(u16::to_le_bytes).concat())?;
        table.write(|piece| Ok(writer.write(piece)?))?;
        writer.section(DOCS_SECTION)?;
        writer.write(table.doc_bytes().unwrap_or_default())?;
        Ok(())
    }
}

/// Opens the sections.
///
/// # Errors
/// They are missing, damaged, or of other bands than the schema has.
pub(super) fn open(comparer: &Comparer, file: &SegmentFile, memory: &Arc<MemoryBudget>) -> Result<Table> {
    let damaged = |what: String| Error::Section { section: SECTION.to_owned(), what };
    let bytes = file.require(SECTION)?.read_all()?;
    let Some((shape, table)) = bytes.split_at_checked(HEAD_BYTES) else {
        return Err(damaged("it is shorter than its head".into()));
    };
    if shape != comparer.shape().map(u16::to_le_bytes).concat() {
        return Err(damaged("its keys are of other bands than the schema's".into()));
    }
    Table::open(table, SectionSource::open(file.require(DOCS_SECTION)?, memory))
}
