//! A row as the indexes want it: analysed once, outside of any lock, by the collection's [`Indexer`].

use std::sync::Arc;

use parking_lot::Mutex;
use spandrel_storage::{
    FieldId, FieldKind, FieldValue, LabelId, PayloadKind, RowId, Schema, SparseVector, TenantId, Value,
};

use crate::dedup::compare::Comparer;
use crate::error::{Error, Result};
use crate::text::{Analyzer, Match, TextDoc, TextQuery};

/// What one field of a row gives to its index.
#[derive(Clone, Debug)]
pub enum IndexValue {
    /// A dense vector as sent.
    Dense(Vec<f32>),
    /// A sparse vector.
    Sparse(SparseVector),
    /// A payload value in its field's own type.
    Payload(Value),
}

/// What a row gives to the indexes of its segment.
#[derive(Clone, Debug, Default)]
pub struct IndexValues {
    /// Indexed fields but texts, ascending by id; json payloads are left out.
    fields: Vec<(FieldId, IndexValue)>,
    /// The terms of all text fields.
    text: TextDoc,
    /// What other rows are compared by with it; none of a copy, and where nothing is compared.
    keys: Box<[u64]>,
}

impl IndexValues {
    /// What other rows are compared by with it.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// Makes it a copy: a payload field says so, and no other row is compared with it.
    pub fn mark(&mut self, field: FieldId, value: Value) {
        self.keys = Box::default();
        let at = self.fields.partition_point(|(id, _)| *id < field);
        self.fields.insert(at, (field, IndexValue::Payload(value)));
    }
}

/// A row on its way into a segment.
#[derive(Clone, Debug)]
pub struct IndexDoc {
    /// The row.
    pub row: RowId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its key; none when an answer needs more than the key of it: it is a chunk of a document.
    pub key: Option<Box<str>>,
    /// Its access labels, each once.
    pub labels: Vec<LabelId>,
    /// Its values.
    pub values: IndexValues,
}

impl IndexDoc {
    /// The value of a field that is not text.
    pub fn value(&self, field: FieldId) -> Option<&IndexValue> {
        let fields = &self.values.fields;
        let at = fields.binary_search_by_key(&field, |(id, _)| *id).ok()?;
        Some(&fields[at].1)
    }

    /// The terms of its text fields.
    pub fn text(&self) -> &TextDoc {
        &self.values.text
    }

    /// Bytes of memory in use.
    pub fn memory_bytes(&self) -> usize {
        let value_bytes = |(_, value): &(FieldId, IndexValue)| match value {
            IndexValue::Dense(vector) => vector.capacity() * 4,
            IndexValue::Sparse(vector) => (vector.dims.capacity() + vector.weights.capacity()) * 4,
            IndexValue::Payload(value) => value.memory_bytes(),
        };
        let fields = &self.values.fields;
        fields.iter().map(value_bytes).sum::<usize>()
            + fields.capacity() * size_of::<(FieldId, IndexValue)>()
            + self.values.text.memory_bytes()
            + self.values.keys.len() * 8
            + self.key.as_ref().map_or(0, |key| key.len())
            + self.labels.capacity() * 4
            + size_of::<Self>()
    }
}

/// Analyses the rows and questions of one schema.
///
/// Analyzers keep buffers, so each is used by one thread at a time; idle ones wait in a pool that grows to
/// the number of threads that ever analysed at once, at most [`IDLE_MAX`]. A [`Batch`] takes them once for
/// many rows.
pub struct Indexer {
    schema: Arc<Schema>,
    comparer: Option<Comparer>,
    idle: Mutex<Vec<Analyzers>>,
}

/// One analyzer for each text field, by field id.
type Analyzers = Vec<Option<Analyzer>>;

/// Most idle sets of analyzers.
const IDLE_MAX: usize = 64;

impl Indexer {
    /// An indexer for the schema.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a text field names an unknown language.
    pub fn new(schema: Arc<Schema>) -> Result<Self> {
        let (first, comparer) = (analyzers(&schema)?, Comparer::of(&schema)?);
        Ok(Self { schema, comparer, idle: Mutex::new(vec![first]) })
    }

    /// How rows are compared; none where they are not.
    pub fn comparer(&self) -> Option<&Comparer> {
        self.comparer.as_ref()
    }

    /// The schema.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// What the fields of one row give to their indexes; for several rows see [`Indexer::batch`].
    ///
    /// # Errors
    /// As [`Batch::values`].
    pub fn values(&self, fields: &[(FieldId, FieldValue)]) -> Result<IndexValues> {
        self.batch()?.values(fields)
    }

    /// Takes analyzers for many rows at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`Indexer::new`], which has made the same ones already.
    pub fn batch(&self) -> Result<Batch<'_>> {
        let idle = self.idle.lock().pop();
        let analyzers = match idle {
            Some(analyzers) => analyzers,
            None => analyzers(&self.schema)?,
        };
        Ok(Batch { indexer: self, analyzers })
    }

    /// Analyses a question to a text field.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it has too many terms or the field is not a text field.
    pub fn text_query(&self, field: FieldId, tenant: TenantId, text: &str) -> Result<TextQuery> {
        match self.batch()?.analyzer(field) {
            Some(analyzer) => TextQuery::parse(field, tenant, Match::Any, analyzer, text),
            None => Err(Error::Invalid(format!("field {field} is not a text field"))),
        }
    }
}

/// The analyzers of one thread, from when it took them until this is dropped.
pub struct Batch<'a> {
    indexer: &'a Indexer,
    analyzers: Analyzers,
}

impl Batch<'_> {
    /// What the fields of a row give to their indexes.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a value that is not of its field's kind; rows that were checked have none.
    pub fn values(&mut self, fields: &[(FieldId, FieldValue)]) -> Result<IndexValues> {
        let mut values = Vec::with_capacity(fields.len());
        let mut texts = Vec::new();
        for (id, value) in fields {
            let kind = self.indexer.schema.fields.get(usize::from(id.0)).map(|field| &field.kind);
            let value = match (kind, value) {
                (Some(FieldKind::Dense(_)), FieldValue::Dense(vector)) => IndexValue::Dense(vector.clone()),
                (Some(FieldKind::Sparse), FieldValue::Sparse(vector)) => IndexValue::Sparse(vector.clone()),
                (Some(FieldKind::Text(_)), FieldValue::Text(text)) => {
                    texts.extend(self.analyzer(*id).and_then(|analyzer| analyzer.field(*id, text)));
                    continue;
                }
                (Some(FieldKind::Payload { kind: PayloadKind::Json }), FieldValue::Payload(_)) => continue,
                (Some(FieldKind::Payload { .. }), FieldValue::Payload(value)) => {
                    IndexValue::Payload(value.clone())
                }
                _ => {
                    let message = format!("the value of field {id} is not of the field's kind");
                    return Err(Error::Invalid(message));
                }
            };
            values.push((*id, value));
        }
        let keys = self.indexer.comparer().map(|comparer| comparer.keys_of_row(fields)).unwrap_or_default();
        Ok(IndexValues { fields: values, text: TextDoc::new(texts), keys })
    }

    fn analyzer(&mut self, field: FieldId) -> Option<&mut Analyzer> {
        self.analyzers.get_mut(usize::from(field.0)).and_then(Option::as_mut)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut idle = self.indexer.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(std::mem::take(&mut self.analyzers));
        }
    }
}

fn analyzers(schema: &Schema) -> Result<Analyzers> {
    schema
        .fields
        .iter()
        .map(|field| match &field.kind {
            FieldKind::Text(spec) => Analyzer::for_spec(spec).map(Some),
            _ => Ok(None),
        })
        .collect()
}
