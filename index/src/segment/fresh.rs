//! Fresh segments: the indexes of a few rows, built in memory on the write path.
//!
//! Cost: every value is copied once into its index, and vectors get sign codes; about as much memory again as
//! the rows themselves, because the docs are kept for the segment on disk that they will become.

use std::ops::RangeInclusive;
use std::sync::Arc;

use spandrel_storage::{DocId, FieldId, FieldKind, PayloadKind, RowId};

use super::coded::Coded;
use super::duplicates::Duplicates;
use super::keys::Keys;
use super::{FieldIndex, IndexDoc, IndexValue, Indexer, Order, Place, Segment};
use crate::dedup::table::Table;
use crate::dense::flat::FlatBuilder;
use crate::dense::signs;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::payload::PayloadIndexBuilder;
use crate::sparse::{SparseFlat, SparseFlatBuilder};
use crate::text::{MemoryText, TextIndex};

/// Collects the values of one field, in doc order.
pub(super) enum FieldBuilder {
    /// Text, which is indexed for all fields together, and json, which is not indexed.
    None,
    Dense(FlatBuilder),
    Sparse(SparseFlatBuilder),
    Payload(Box<PayloadIndexBuilder>),
}

impl FieldBuilder {
    /// An empty builder for a field.
    pub(super) fn new(kind: &FieldKind) -> Result<Self> {
        Ok(match kind {
            FieldKind::Dense(spec) => Self::Dense(FlatBuilder::new(spec)?),
            FieldKind::Sparse => Self::Sparse(SparseFlat::builder()),
            FieldKind::Text(_) | FieldKind::Payload { kind: PayloadKind::Json } => Self::None,
            FieldKind::Payload { kind } => Self::Payload(Box::new(PayloadIndexBuilder::new(*kind)?)),
        })
    }

    /// Adds the value of the next doc, which may have none.
    pub(super) fn push(&mut self, doc: DocId, value: Option<&IndexValue>) -> Result<()> {
        match (self, value) {
            (Self::Dense(builder), Some(IndexValue::Dense(vector))) => builder.push(Some(vector)),
            (Self::Dense(builder), None) => builder.push(None),
            (Self::Sparse(builder), Some(IndexValue::Sparse(vector))) => builder.push(Some(vector)),
            (Self::Sparse(builder), None) => builder.push(None),
            (Self::Payload(builder), Some(IndexValue::Payload(value))) => builder.push(doc, value),
            (Self::Payload(_) | Self::None, _) => Ok(()),
            (_, Some(_)) => Err(Error::Invalid("a value is not of its field's kind".into())),
        }
    }
}

impl Segment {
    /// Builds a segment in memory from docs in any order; `range` is what it covers. Docs that are in one of
    /// `others`, which are in row order, keep the codes that they have there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a value that is not of its field's kind; rows that were checked have none.
    pub fn from_docs(
        indexer: &Indexer,
        mut docs: Vec<Arc<IndexDoc>>,
        range: RangeInclusive<RowId>,
        others: &[&Segment],
    ) -> Result<Self> {
        docs.sort_unstable_by_key(|doc| (doc.tenant, doc.row));
        let schema = Arc::clone(indexer.schema());
        let mut order = Order::new();
        let mut builders =
            schema.fields.iter().map(|field| FieldBuilder::new(&field.kind)).collect::<Result<Vec<_>>>()?;
        let mut duplicates = Duplicates::of(indexer, None);
        let mut coded: Vec<Coded<'_>> =
            (0..builders.len()).map(|id| Coded::new(others, FieldId(id as u16))).collect();
        for (at, doc) in (0..).zip(&docs) {
            order.push(doc.tenant, doc.row);
            if let Some(duplicates) = &mut duplicates {
                duplicates.push(at, doc)?;
            }
            for ((id, builder), coded) in (0..).map(FieldId).zip(&mut builders).zip(&mut coded) {
                let value = doc.value(id);
                builder.push(at, value)?;
                if let Some(IndexValue::Dense(_)) = value {
                    coded.push(doc);
                }
            }
        }
        let fields =
            builders.into_iter().zip(&coded).map(|(builder, coded)| finish(builder, coded)).collect();
        let has_text = schema.fields.iter().any(|field| matches!(field.kind, FieldKind::Text(_)));
        let text = has_text.then(|| {
            let texts = docs.iter().map(|doc| doc.text());
            Box::new(MemoryText::build(texts)) as Box<dyn TextIndex>
        });
        let labels = (0..).zip(&docs).flat_map(|(at, doc)| doc.labels.iter().map(move |label| (*label, at)));
        let labels = Labels::of(labels.collect(), docs.len() as u32);
        let docs_bytes: usize = docs.iter().map(|doc| doc.memory_bytes()).sum();
        let mut segment = Self {
            schema,
            range,
            rows: order.rows,
            by_row: None,
            tenants: order.tenants,
            fields,
            text,
            labels,
            duplicates: duplicates.map(Duplicates::finish).transpose()?,
            keys: None,
            place: Place::Memory(docs),
            plain: false,
            memory_bytes: docs_bytes as u64,
        };
        segment.memory_bytes += segment.index_bytes();
        Ok(segment)
    }

    /// Bytes of memory of rows, tenants and indexes.
    pub(super) fn index_bytes(&self) -> u64 {
        let fields: usize = self
            .fields
            .iter()
            .map(|field| match field {
                FieldIndex::None => 0,
                FieldIndex::Dense(index) => index.memory_bytes(),
                FieldIndex::Sparse(index) => index.memory_bytes(),
                FieldIndex::Payload(index) => index.memory_bytes(),
            })
            .sum();
        let text = self.text.as_ref().map_or(0, |text| text.memory_bytes());
        let keys = self.keys.as_ref().map_or(0, Keys::memory_bytes)
            + self.labels.as_ref().map_or(0, Labels::memory_bytes)
            + self.duplicates.as_ref().map_or(0, Table::memory_bytes);
        let by_row = self.by_row.as_ref().map_or(0, Vec::len);
        (fields + text + keys + self.rows.len() * 8 + by_row * 4 + self.tenants.len() * 8) as u64
    }
}

fn finish(builder: FieldBuilder, coded: &Coded<'_>) -> FieldIndex {
    match builder {
        FieldBuilder::None => FieldIndex::None,
        FieldBuilder::Dense(builder) => FieldIndex::Dense(signs::in_memory(builder, coded.before())),
        FieldBuilder::Sparse(builder) => FieldIndex::Sparse(Box::new(builder.finish())),
        FieldBuilder::Payload(builder) => FieldIndex::Payload(builder.finish()),
    }
}
