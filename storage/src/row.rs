//! What a user stores: a row under a key, its fields, and where its text came from.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::value::Value;
use crate::vector::{FieldValue, SparseVector};

/// Where the text of a row came from: a piece of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The document's key, chosen by the caller.
    pub document: String,
    /// Byte span of the chunk in the document's text.
    pub span: Range<u64>,
    /// Length of the chunk in tokens of the schema's tokenizer.
    pub tokens: u32,
}

/// One row: a key that is unique within its tenant, and named fields of the collection's schema.
///
/// ```
/// use spandrel_storage::Row;
///
/// let row = Row::new("faq-7")
///     .tenant("acme")
///     .text("body", "Returns are free within 30 days.")
///     .dense("embedding", vec![0.1, 0.9])
///     .payload("year", 2026);
/// assert_eq!(row.key, "faq-7");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The user's key: 1 to 512 bytes, unique within the tenant.
    pub key: String,
    /// The tenant's name; empty is the default tenant.
    pub tenant: String,
    /// Fields by name. A row may leave any field out.
    pub fields: BTreeMap<String, FieldValue>,
    /// Where the text came from, if it is a piece of a document.
    pub chunk: Option<Chunk>,
    /// Its access labels: a search that names some sees the rows that have one of them. A row that is written
    /// again has those that it is written with.
    pub labels: BTreeSet<String>,
}

impl Row {
    /// A row of the default tenant with no fields.
    pub fn new(key: impl Into<String>) -> Self {
        Self { key: key.into(), ..Self::default() }
    }

    /// Sets the tenant.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = tenant.into();
        self
    }

    /// Sets a text field.
    pub fn text(self, field: impl Into<String>, text: impl Into<String>) -> Self {
        self.field(field, FieldValue::Text(text.into()))
    }

    /// Sets a dense vector field.
    pub fn dense(self, field: impl Into<String>, vector: Vec<f32>) -> Self {
        self.field(field, FieldValue::Dense(vector))
    }

    /// Sets a sparse vector field.
    pub fn sparse(self, field: impl Into<String>, vector: SparseVector) -> Self {
        self.field(field, FieldValue::Sparse(vector))
    }

    /// Sets a payload field.
    pub fn payload(self, field: impl Into<String>, value: impl Into<Value>) -> Self {
        self.field(field, FieldValue::Payload(value.into()))
    }

    /// Says which piece of which document this row is.
    pub fn chunk(mut self, chunk: Chunk) -> Self {
        self.chunk = Some(chunk);
        self
    }

    /// Adds an access label.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.labels.insert(label.into());
        self
    }

    /// Sets any field.
    pub fn field(mut self, field: impl Into<String>, value: FieldValue) -> Self {
        self.fields.insert(field.into(), value);
        self
    }
}
