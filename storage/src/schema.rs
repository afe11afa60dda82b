//! What a collection holds: named fields, each dense, sparse, text or payload, the tokenizer that counts,
//! and what is done about copies.
//!
//! A schema is fixed when its collection is created. It is persisted as JSON inside the catalogue record, so
//! that a person can read it and a later version can add to it; an unknown field kind is refused when the
//! collection is opened.

mod dedup;

use serde::{Deserialize, Serialize};

pub use self::dedup::{
    DEDUP_THRESHOLD_DEFAULT, DEDUP_THRESHOLD_MAX, DEDUP_THRESHOLD_MIN, DedupPolicy, DedupSpec,
};

use crate::error::{Error, Result};
use crate::id::{FieldId, NAME_BYTES_MAX};

/// Largest dimension of a dense field.
pub const DIM_MAX: u32 = 16_384;
/// Most fields of a schema.
pub const FIELDS_MAX: usize = 256;

/// How two dense vectors are compared. Scores are always "larger is better".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Squared Euclidean distance; the score is its negative.
    L2,
    /// Inner product; the score is the product.
    Ip,
    /// Cosine similarity, in -1..=1; a zero vector is refused.
    Cosine,
}

/// How the elements of a dense vector are kept in a segment. Rows keep what the caller sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Element {
    /// 4 bytes, as sent.
    #[default]
    F32,
    /// 2 bytes, rounded to nearest; exact search is exact over the rounded values.
    F16,
    /// 1 byte; every element sent must be an integer in -127..=127.
    I8,
}

impl Element {
    /// Bytes an element takes.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
        }
    }
}

/// Which index serves a dense field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexKind {
    /// The engine's choice.
    #[default]
    Auto,
    /// Exact scan.
    Flat,
    /// A graph over vectors that stay in memory.
    Hnsw,
}

/// A dense vector field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenseSpec {
    /// Elements a vector: 1 to [`DIM_MAX`].
    pub dim: u32,
    /// How vectors are compared.
    pub metric: Metric,
    /// How elements are kept in segments.
    #[serde(default)]
    pub element: Element,
    /// Which index serves the field.
    #[serde(default)]
    pub index: IndexKind,
}

/// A text field searched by BM25.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSpec {
    /// Snowball stemmer and stop words of this language (for example `english`); none: lower-cased words
    /// only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
}

/// The kind of a payload field: which values it takes and which filters test it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadKind {
    /// Exact strings: equals, in, prefix, range by bytes.
    Keyword,
    /// Signed 64-bit integers: equals, in, range.
    Integer,
    /// Finite 64-bit floats: equals, in, range. Integers are accepted.
    Float,
    /// Booleans: equals.
    Bool,
    /// Instants: RFC 3339 text or integer microseconds since 1970: equals, in, range.
    Datetime,
    /// Words: text match (all words of the query occur).
    Text,
    /// Any JSON, stored and returned, never filtered.
    Json,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FieldKind {
    /// Dense vectors of one dimension.
    Dense(DenseSpec),
    /// Sparse vectors over `u32` dimensions, compared by inner product.
    Sparse,
    /// Text searched by BM25 and returned.
    Text(TextSpec),
    /// A payload value that filters test.
    Payload {
        /// The kind of its values.
        kind: PayloadKind,
    },
}

impl FieldKind {
    /// What this is, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dense(_) => "dense",
            Self::Sparse => "sparse",
            Self::Text(_) => "text",
            Self::Payload { .. } => "payload",
        }
    }
}

/// A named field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// 1 to 128 bytes: letters, digits, `_`, `-` and `.`, starting with a letter or `_`.
    pub name: String,
    /// What it holds.
    #[serde(flatten)]
    pub kind: FieldKind,
}

/// The fields of a collection.
///
/// ```
/// use spandrel_storage::{Metric, PayloadKind, Schema};
///
/// let schema = Schema::new()
///     .text("body")
///     .dense("embedding", 384, Metric::Cosine)
///     .payload("year", PayloadKind::Integer);
/// schema.check().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// Fields; a [`FieldId`] is a position in here.
    pub fields: Vec<Field>,
    /// The tokenizer that counts tokens for budgets: `cl100k_base` or `o200k_base`.
    #[serde(default = "default_tokenizer")]
    pub tokenizer: String,
    /// Which rows are copies of others; left out: nothing is compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<DedupSpec>,
}

/// Tokenizers a schema may name.
pub const TOKENIZERS: [&str; 2] = ["o200k_base", "cl100k_base"];

fn default_tokenizer() -> String {
    TOKENIZERS[0].to_owned()
}

impl Default for Schema {
    fn default() -> Self {
        Self { fields: Vec::new(), tokenizer: default_tokenizer(), dedup: None }
    }
}

impl Schema {
    /// A schema with no fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a dense field with f32 elements and the engine's choice of index.
    pub fn dense(self, name: impl Into<String>, dim: u32, metric: Metric) -> Self {
        self.field(
            name,
            FieldKind::Dense(DenseSpec { dim, metric, element: Element::F32, index: IndexKind::Auto }),
        )
    }

    /// Adds a sparse field.
    pub fn sparse(self, name: impl Into<String>) -> Self {
        self.field(name, FieldKind::Sparse)
    }

    /// Adds a text field with no stemming.
    pub fn text(self, name: impl Into<String>) -> Self {
        self.field(name, FieldKind::Text(TextSpec::default()))
    }

    /// Adds a payload field.
    pub fn payload(self, name: impl Into<String>, kind: PayloadKind) -> Self {
        self.field(name, FieldKind::Payload { kind })
    }

    /// Adds any field.
    pub fn field(mut self, name: impl Into<String>, kind: FieldKind) -> Self {
        self.fields.push(Field { name: name.into(), kind });
        self
    }

    /// Has copies found when rows are written.
    pub fn dedup(mut self, spec: DedupSpec) -> Self {
        self.dedup = Some(spec);
        self
    }

    /// The field called `name`.
    pub fn find(&self, name: &str) -> Option<(FieldId, &Field)> {
        let at = self.fields.iter().position(|field| field.name == name)?;
        Some((FieldId(at as u16), &self.fields[at]))
    }

    /// The field with this id.
    ///
    /// # Panics
    /// When the id is not of this schema.
    pub fn get(&self, id: FieldId) -> &Field {
        &self.fields[usize::from(id.0)]
    }

    /// Checks names, dimensions, languages and the tokenizer against the documented limits.
    ///
    /// # Errors
    /// [`Error::Invalid`] with what to change.
    pub fn check(&self) -> Result<()> {
        if self.fields.is_empty() {
            return Err(Error::Invalid("a schema needs at least one field".into()));
        }
        if self.fields.len() > FIELDS_MAX {
            return Err(Error::Invalid(format!(
                "a schema has at most {FIELDS_MAX} fields, this one has {}",
                self.fields.len()
            )));
        }
        if !TOKENIZERS.contains(&self.tokenizer.as_str()) {
            return Err(Error::Invalid(format!(
                "unknown tokenizer '{}'; known: {}",
                self.tokenizer,
                TOKENIZERS.join(", ")
            )));
        }
        for (at, field) in self.fields.iter().enumerate() {
            check_name("field", &field.name)?;
            if self.fields[..at].iter().any(|other| other.name == field.name) {
                return Err(Error::Invalid(format!("field '{}' is declared twice", field.name)));
            }
            match &field.kind {
                FieldKind::Dense(dense) if dense.dim == 0 || dense.dim > DIM_MAX => {
                    return Err(Error::Invalid(format!(
                        "field '{}': dimension {} is outside 1..={DIM_MAX}",
                        field.name, dense.dim
                    )));
                }
                FieldKind::Text(TextSpec { language: Some(language) })
                    if !LANGUAGES.contains(&language.as_str()) =>
                {
                    return Err(Error::Invalid(format!(
                        "field '{}': unknown language '{language}'; known: {}",
                        field.name,
                        LANGUAGES.join(", ")
                    )));
                }
                _ => {}
            }
        }
        self.dedup.as_ref().map_or(Ok(()), |dedup| dedup.check(self))
    }
}

/// Languages a text field may name.
pub const LANGUAGES: [&str; 18] = [
    "arabic",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hungarian",
    "italian",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
];

/// Checks the name of a collection or field.
///
/// # Errors
/// [`Error::Invalid`] when it is empty, longer than 128 bytes, starts with anything but a letter or `_`, or
/// holds anything but letters, digits, `_`, `-` and `.`.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || !name.chars().all(ok)
        || !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
    {
        return Err(Error::Invalid(format!(
            "{what} name '{}' must be 1 to {NAME_BYTES_MAX} bytes of letters, digits, '_', '-' and '.', starting with a letter or '_'",
            name.chars().take(64).collect::<String>()
        )));
    }
    Ok(())
}
