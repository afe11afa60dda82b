//! A segment: the indexes over a range of rows, in memory or on disk, with one position space for all of
//! them.
//!
//! Docs are sorted by tenant, so that a tenant is one range of docs, within it by the cells of a dense field
//! where there are some, and by row where there are none. A segment never changes; rows
//! deleted since it was built are kept beside it, by whoever holds it. A fresh segment in memory and one on
//! disk differ only in where the bytes are: [`Segment::from_docs`] makes the first, [`Segment::create`] and
//! [`Segment::open`] the second.

mod build;
mod coded;
mod doc;
mod duplicates;
mod fresh;
mod keys;
mod merge;
mod open;
pub mod policy;
mod source;
mod warm;

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use spandrel_storage::{DocId, FieldId, RowId, Schema, TenantId};

pub use self::build::{DocSource, Docs, Plan};
pub use self::doc::{Batch, IndexDoc, IndexValue, IndexValues, Indexer};
use self::keys::Keys;
pub use self::merge::Merge;
use crate::budget::Reservation;
use crate::dedup::table::Table;
use crate::dense::VectorIndex;
use crate::labels::Labels;
use crate::payload::PayloadIndex;
use crate::sparse::SparseIndex;
use crate::text::TextIndex;

/// The indexes over a range of rows.
pub struct Segment {
    schema: Arc<Schema>,
    /// Writes covered: every row of these that is not in here was deleted or replaced before the segment was
    /// built.
    range: RangeInclusive<RowId>,
    /// The row of each doc.
    rows: Vec<RowId>,
    /// The docs of each tenant by ascending row, where docs are in another order.
    by_row: Option<Vec<DocId>>,
    /// First doc of each tenant, ascending by both.
    tenants: Vec<(TenantId, DocId)>,
    fields: Vec<FieldIndex>,
    text: Option<Box<dyn TextIndex>>,
    /// The access labels of docs; none when no doc has one.
    labels: Option<Labels>,
    /// The docs of the keys that rows are compared by; none where they are not.
    duplicates: Option<Table>,
    /// The keys of docs on disk, when answers can do with them and the memory budget had room.
    keys: Option<Keys>,
    place: Place,
    /// Whether it could have cells and has none.
    plain: bool,
    /// Bytes of all of the above.
    memory_bytes: u64,
}

/// The index of one field; text fields share [`Segment::text`].
enum FieldIndex {
    None,
    Dense(Box<dyn VectorIndex>),
    Sparse(Box<dyn SparseIndex>),
    Payload(PayloadIndex),
}

enum Place {
    /// The docs stay at hand: they become a segment on disk, or part of a larger one in memory.
    Memory(Vec<Arc<IndexDoc>>),
    Disk {
        id: u64,
        bytes: u64,
        checksum: u32,
        reserved: Vec<Reservation>,
    },
}

impl Segment {
    /// The schema of its rows.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// How many docs there are.
    pub fn docs(&self) -> u32 {
        self.rows.len() as u32
    }

    /// First write covered.
    pub fn first(&self) -> RowId {
        *self.range.start()
    }

    /// Last write covered.
    pub fn last(&self) -> RowId {
        *self.range.end()
    }

    /// The row of each doc.
    pub fn rows(&self) -> &[RowId] {
        &self.rows
    }

    /// The docs of a tenant; empty when it has none.
    pub fn tenant_range(&self, tenant: TenantId) -> Range<DocId> {
        match self.tenants.binary_search_by_key(&tenant, |(id, _)| *id) {
            Ok(at) => self.tenants[at].1..self.tenant_end(at),
            Err(_) => 0..0,
        }
    }

    /// All tenants and their docs, in doc order.
    pub fn tenant_ranges(&self) -> impl Iterator<Item = (TenantId, Range<DocId>)> {
        self.tenants.iter().enumerate().map(|(at, (tenant, start))| (*tenant, *start..self.tenant_end(at)))
    }

    fn tenant_end(&self, at: usize) -> DocId {
        self.tenants.get(at + 1).map_or(self.docs(), |(_, start)| *start)
    }

    /// The tenant of a doc.
    ///
    /// # Panics
    /// When the doc is not of this segment.
    pub fn tenant_of(&self, doc: DocId) -> TenantId {
        assert!(doc < self.docs(), "doc {doc} of {}", self.docs());
        self.tenants[self.tenants.partition_point(|(_, start)| *start <= doc) - 1].0
    }

    /// The doc of a row.
    pub fn doc(&self, tenant: TenantId, row: RowId) -> Option<DocId> {
        let range = self.tenant_range(tenant);
        let (first, len) = (range.start as usize, range.len());
        match &self.by_row {
            None => Some(range.start + position(len, |at| self.rows[first + at], row)? as DocId),
            Some(by_row) => {
                let docs = &by_row[first..first + len];
                Some(docs[position(len, |at| self.rows[docs[at] as usize], row)?])
            }
        }
    }

    /// The index of a dense field; none when no doc has a vector in it.
    pub fn dense(&self, field: FieldId) -> Option<&dyn VectorIndex> {
        match self.fields.get(usize::from(field.0)) {
            Some(FieldIndex::Dense(index)) => Some(&**index),
            _ => None,
        }
    }

    /// The index of a sparse field; none when no doc has a vector in it.
    pub fn sparse(&self, field: FieldId) -> Option<&dyn SparseIndex> {
        match self.fields.get(usize::from(field.0)) {
            Some(FieldIndex::Sparse(index)) => Some(&**index),
            _ => None,
        }
    }

    /// The index of a payload field; none when no doc has a value in it.
    pub fn payload(&self, field: FieldId) -> Option<&PayloadIndex> {
        match self.fields.get(usize::from(field.0)) {
            Some(FieldIndex::Payload(index)) => Some(index),
            _ => None,
        }
    }

    /// The index over all text fields; none when no doc has text.
    pub fn text(&self) -> Option<&dyn TextIndex> {
        self.text.as_deref()
    }

    /// The access labels of its docs when it was built; none when no doc had one.
    pub fn labels(&self) -> Option<&Labels> {
        self.labels.as_ref()
    }

    /// Which docs have the keys that rows are compared by, each [of its tenant](crate::dedup::compare); none
    /// where rows are not compared.
    pub fn duplicates(&self) -> Option<&Table> {
        self.duplicates.as_ref()
    }

    /// The key of a doc, when it is at hand and all that an answer without fields needs.
    pub fn key(&self, doc: DocId) -> Option<&str> {
        match &self.place {
            Place::Memory(docs) => docs.get(doc as usize)?.key.as_deref(),
            Place::Disk { .. } => self.keys.as_ref()?.get(doc),
        }
    }

    /// Where the key of a doc is, is to be at hand soon.
    pub fn ask_for_key_place(&self, doc: DocId) {
        self.keys.iter().for_each(|keys| keys.ask_for_place(doc));
    }

    /// The key of a doc is to be at hand soon; where it is should be.
    pub fn ask_for_key(&self, doc: DocId) {
        self.keys.iter().for_each(|keys| keys.ask_for(doc));
    }

    /// Whether the keys of all docs are at hand.
    pub fn has_keys(&self) -> bool {
        match &self.place {
            Place::Memory(docs) => docs.iter().all(|doc| doc.key.is_some()),
            Place::Disk { .. } => self.keys.is_some(),
        }
    }

    /// Whether it could have cells and has none: it was written to be merged soon.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether it is a file.
    pub fn on_disk(&self) -> bool {
        matches!(self.place, Place::Disk { .. })
    }

    /// The id of its file; 0 in memory.
    pub fn id(&self) -> u64 {
        match &self.place {
            Place::Memory(_) => 0,
            Place::Disk { id, .. } => *id,
        }
    }

    /// Bytes of its file; 0 in memory.
    pub fn disk_bytes(&self) -> u64 {
        match &self.place {
            Place::Memory(_) => 0,
            Place::Disk { bytes, .. } => *bytes,
        }
    }

    /// Bytes it took from the memory budget.
    pub fn reserved_bytes(&self) -> u64 {
        match &self.place {
            Place::Memory(_) => 0,
            Place::Disk { reserved, .. } => reserved.iter().map(Reservation::bytes).sum(),
        }
    }

    /// What names exactly this file's content; 0 in memory.
    pub fn checksum(&self) -> u32 {
        match &self.place {
            Place::Memory(_) => 0,
            Place::Disk { checksum, .. } => *checksum,
        }
    }

    /// Bytes of memory in use.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The docs a segment in memory was made of, in doc order; empty on disk.
    pub fn fresh_docs(&self) -> &[Arc<IndexDoc>] {
        match &self.place {
            Place::Memory(docs) => docs,
            Place::Disk { .. } => &[],
        }
    }
}

/// Where `row` is among `len` ascending rows. Rows are numbered in the order of their writes, with few gaps
/// as a rule, so that a line through the first and the last leads close to it: most are found at once, where
/// a binary search takes as many cache misses as the logarithm of the rows.
fn position(len: usize, row_at: impl Fn(usize) -> RowId, row: RowId) -> Option<usize> {
    let last = row_at(len.checked_sub(1)?).0;
    let first = row_at(0).0;
    if !(first..=last).contains(&row.0) {
        return None;
    }
    let share = u128::from(row.0 - first) * (len - 1) as u128 / u128::from((last - first).max(1));
    let guess = share as usize;
    if row_at(guess) == row {
        return Some(guess);
    }
    // Away from the guess in growing steps, until the row lies between two of them.
    let (mut low, mut high, mut step) = (guess, guess, 1);
    while row_at(low) > row {
        (high, low) = (low, low.saturating_sub(step));
        step *= 2;
    }
    while row_at(high) < row {
        (low, high) = (high, (high + step).min(len - 1));
        step *= 2;
    }
    while low < high {
        let middle = low + (high - low) / 2;
        (low, high) = if row_at(middle) < row { (middle + 1, high) } else { (low, middle) };
    }
    (row_at(low) == row).then_some(low)
}

/// Rows and tenants of docs in doc order.
struct Order {
    rows: Vec<RowId>,
    tenants: Vec<(TenantId, DocId)>,
}

impl Order {
    fn new() -> Self {
        Self { rows: Vec::new(), tenants: Vec::new() }
    }

    /// Adds the next doc.
    ///
    /// # Panics
    /// When tenants do not ascend.
    fn push(&mut self, tenant: TenantId, row: RowId) {
        let (doc, last) = (self.rows.len() as DocId, self.tenants.last().map(|(last, _)| *last));
        if last != Some(tenant) {
            assert!(last.is_none_or(|last| last < tenant), "tenants ascend");
            self.tenants.push((tenant, doc));
        }
        self.rows.push(row);
    }

    /// The docs of each tenant by ascending row; none where they are in that order.
    fn by_row(&self) -> Option<Vec<DocId>> {
        let mut by_row: Vec<DocId> = (0..self.rows.len() as DocId).collect();
        let ends = self.tenants.iter().skip(1).map(|(_, start)| *start).chain([self.rows.len() as DocId]);
        for ((_, start), end) in self.tenants.iter().zip(ends) {
            by_row[*start as usize..end as usize].sort_unstable_by_key(|doc| self.rows[*doc as usize]);
        }
        (!by_row.is_sorted()).then_some(by_row)
    }
}

#[cfg(test)]
mod tests;
