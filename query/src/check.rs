//! The door: rows as the caller sent them become rows that fit the schema, or an error that says what to
//! change.
//!
//! Everything after this file may rely on what it checked: known fields, right kinds and dimensions, finite
//! numbers, no zero vector under cosine, bounded sizes, no key twice in a batch. Parsing and text analysis
//! happen here, outside of any lock.

use std::collections::HashSet;

use spandrel_index::payload::datetime;
use spandrel_storage::id::{KEY_BYTES_MAX, TENANT_BYTES_MAX};
use spandrel_storage::{
    Chunk, DenseSpec, Element, FieldId, FieldKind, FieldValue, Metric, PayloadKind, Row, Schema,
    SparseVector, Value,
};

use crate::error::{Error, Result};
use crate::labels::{check_count, check_label};
use crate::request::ROWS_MAX;

/// Largest magnitude of a vector element: keeps every distance between two vectors finite in f32.
pub const ELEMENT_ABS_MAX: f32 = 1.0e15;
/// Largest magnitude of an element kept as f16.
pub const F16_ABS_MAX: f32 = 65_504.0;
/// Largest element of a vector that still has a direction: below it the squared norm underflows in f32.
const DIRECTION_ABS_MIN: f32 = 1.0e-15;
/// Most non-zero weights of a sparse vector.
pub const SPARSE_NNZ_MAX: usize = 65_536;
/// Longest text of a field, in bytes.
pub const TEXT_BYTES_MAX: usize = 16 << 20;
/// Longest keyword, in bytes.
pub const KEYWORD_BYTES_MAX: usize = 8_192;
/// Most values in a payload list.
pub const LIST_MAX: usize = 65_536;

/// A row that fits the schema: fields by id, ascending, payload values in their field's own type.
#[derive(Clone, Debug)]
pub struct CheckedRow {
    /// The key within the tenant.
    pub key: String,
    /// The tenant's name.
    pub tenant: String,
    /// Fields, ascending by id.
    pub fields: Vec<(FieldId, FieldValue)>,
    /// Where the text came from.
    pub chunk: Option<Chunk>,
    /// Names of its access labels.
    pub labels: Vec<String>,
}

/// Checks a batch.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) naming the row and the field; nothing of the batch is
/// written.
pub fn check_rows(schema: &Schema, rows: Vec<Row>) -> Result<Vec<CheckedRow>> {
    if rows.len() > ROWS_MAX {
        return Err(Error::invalid(format!(
            "a batch has at most {ROWS_MAX} rows, this one has {}",
            rows.len()
        )));
    }
    {
        let mut seen = HashSet::with_capacity(rows.len());
        if let Some(row) = rows.iter().find(|row| !seen.insert((&row.tenant, &row.key))) {
            return Err(Error::invalid(format!(
                "key '{}' of tenant '{}' is in the batch twice; send each key once a batch",
                shown(&row.key),
                shown(&row.tenant)
            )));
        }
    }
    rows.into_iter().map(|row| check_row(schema, row)).collect()
}

fn check_row(schema: &Schema, row: Row) -> Result<CheckedRow> {
    check_key(&row.key)?;
    check_tenant(&row.tenant)?;
    if let Some(chunk) = &row.chunk {
        check_chunk(chunk).map_err(|error| error.context(format!("row '{}'", shown(&row.key))))?;
    }
    let mut fields = Vec::with_capacity(row.fields.len());
    for (name, value) in row.fields {
        let Some((id, field)) = schema.find(&name) else {
            return Err(unknown_field(schema, &name).context(format!("row '{}'", shown(&row.key))));
        };
        let value = check_value(&field.kind, value)
            .map_err(|error| error.context(format!("row '{}', field '{name}'", shown(&row.key))))?;
        fields.push((id, value));
    }
    fields.sort_by_key(|(id, _)| *id);
    let labels: Vec<String> = row.labels.into_iter().collect();
    let checked =
        check_count(labels.len()).and_then(|()| labels.iter().try_for_each(|name| check_label(name)));
    checked.map_err(|error| error.context(format!("row '{}'", shown(&row.key))))?;
    Ok(CheckedRow { key: row.key, tenant: row.tenant, fields, chunk: row.chunk, labels })
}

/// The error for a field name that the schema does not have.
pub fn unknown_field(schema: &Schema, name: &str) -> Error {
    let known: Vec<&str> = schema.fields.iter().map(|field| field.name.as_str()).collect();
    Error::invalid(format!("unknown field '{}'; the schema has: {}", shown(name), known.join(", ")))
}

/// At most the first 64 characters, for messages.
fn shown(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// Checks a key.
pub fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a key has 1 to {KEY_BYTES_MAX} bytes, this one has {}",
            key.len()
        )));
    }
    Ok(())
}

/// Checks a tenant's name.
pub fn check_tenant(tenant: &str) -> Result<()> {
    if tenant.len() > TENANT_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a tenant name has at most {TENANT_BYTES_MAX} bytes, this one has {}",
            tenant.len()
        )));
    }
    Ok(())
}

fn check_chunk(chunk: &Chunk) -> Result<()> {
    if chunk.document.is_empty() || chunk.document.len() > KEY_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a document key has 1 to {KEY_BYTES_MAX} bytes, this one has {}",
            chunk.document.len()
        )));
    }
    if chunk.span.start > chunk.span.end {
        return Err(Error::invalid(format!(
            "the chunk's span {}..{} ends before it starts",
            chunk.span.start, chunk.span.end
        )));
    }
    Ok(())
}

fn check_value(kind: &FieldKind, value: FieldValue) -> Result<FieldValue> {
    match (kind, value) {
        (FieldKind::Dense(spec), FieldValue::Dense(vector)) => {
            check_dense(spec, &vector)?;
            Ok(FieldValue::Dense(vector))
        }
        (FieldKind::Sparse, FieldValue::Sparse(vector)) => Ok(FieldValue::Sparse(check_sparse(vector)?)),
        (FieldKind::Text(_), FieldValue::Text(text) | FieldValue::Payload(Value::String(text))) => {
            check_len("a text", text.len(), TEXT_BYTES_MAX)?;
            Ok(FieldValue::Text(text))
        }
        (FieldKind::Payload { kind }, FieldValue::Payload(value)) => {
            Ok(FieldValue::Payload(check_payload(*kind, value)?))
        }
        (FieldKind::Payload { kind }, FieldValue::Text(text)) => {
            Ok(FieldValue::Payload(check_payload(*kind, Value::String(text))?))
        }
        (kind, value) => {
            Err(Error::invalid(format!("is a {} field and cannot hold {}", kind.name(), described(&value))))
        }
    }
}

fn described(value: &FieldValue) -> &'static str {
    match value {
        FieldValue::Dense(_) => "a dense vector",
        FieldValue::Sparse(_) => "a sparse vector",
        FieldValue::Text(_) => "text",
        FieldValue::Payload(_) => "a payload value",
    }
}

fn check_len(what: &str, len: usize, max: usize) -> Result<()> {
    if len > max {
        return Err(Error::invalid(format!("{what} has at most {max} bytes, this one has {len}")));
    }
    Ok(())
}

/// Checks a dense vector of a row against its field: its dimension, finite elements that the field can hold,
/// and a direction under cosine.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) naming the first element that is wrong.
pub fn check_dense(spec: &DenseSpec, vector: &[f32]) -> Result<()> {
    // A vector is normalised before it is rounded, so under cosine its length does not matter.
    let rounded = spec.element == Element::F16 && spec.metric != Metric::Cosine;
    check_elements(spec, vector, if rounded { F16_ABS_MAX } else { ELEMENT_ABS_MAX })?;
    if spec.element == Element::I8 {
        check_i8(vector)?;
    }
    Ok(())
}

/// Checks a query of a dense field: as [`check_dense`], but its elements need not be of the kind that the
/// field keeps.
///
/// # Errors
/// As [`check_dense`].
pub fn check_query(spec: &DenseSpec, query: &[f32]) -> Result<()> {
    check_elements(spec, query, ELEMENT_ABS_MAX)
}

fn check_elements(spec: &DenseSpec, vector: &[f32], max: f32) -> Result<()> {
    if vector.len() != spec.dim as usize {
        return Err(Error::invalid(format!("wrong dimension: expected {}, got {}", spec.dim, vector.len())));
    }
    // All first, without an exit, which vectorizes: this is done for every query. NaN is not at most `max`.
    if !vector.iter().fold(true, |fits, element| fits & (element.abs() <= max)) {
        for (at, element) in vector.iter().enumerate() {
            if !element.is_finite() {
                return Err(Error::invalid(format!(
                    "element {at} is {element}; vectors hold finite numbers"
                )));
            }
            if element.abs() > max {
                return Err(Error::invalid(format!(
                    "element {at} is {element}; the largest magnitude is {max:e}"
                )));
            }
        }
    }
    let tiny = |element: &f32| element.abs() < DIRECTION_ABS_MIN;
    if spec.metric == Metric::Cosine && vector.iter().all(tiny) {
        return Err(Error::invalid(
            "a zero vector has no direction; the cosine metric needs a non-zero vector",
        ));
    }
    Ok(())
}

fn check_i8(vector: &[f32]) -> Result<()> {
    match vector.iter().position(|element| element.fract() != 0.0 || element.abs() > 127.0) {
        Some(at) => Err(Error::invalid(format!(
            "element {at} is {}; an i8 field holds integers in -127..=127",
            vector[at]
        ))),
        None => Ok(()),
    }
}

/// Checks a sparse vector or query and sorts it by dimension.
pub fn check_sparse(vector: SparseVector) -> Result<SparseVector> {
    let SparseVector { dims, weights } = vector;
    if dims.len() != weights.len() {
        return Err(Error::invalid(format!("{} dimensions but {} weights", dims.len(), weights.len())));
    }
    if dims.len() > SPARSE_NNZ_MAX {
        return Err(Error::invalid(format!("at most {SPARSE_NNZ_MAX} weights, this one has {}", dims.len())));
    }
    let mut pairs: Vec<(u32, f32)> = dims.into_iter().zip(weights).collect();
    for (dim, weight) in &pairs {
        if !weight.is_finite() || weight.abs() > ELEMENT_ABS_MAX {
            return Err(Error::invalid(format!(
                "the weight of dimension {dim} is {weight}; weights are finite, at most {ELEMENT_ABS_MAX:e} in magnitude"
            )));
        }
    }
    pairs.sort_by_key(|(dim, _)| *dim);
    if let Some(twice) = pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Error::invalid(format!("dimension {} occurs twice", twice[0].0)));
    }
    pairs.retain(|(_, weight)| *weight != 0.0);
    let (dims, weights) = pairs.into_iter().unzip();
    Ok(SparseVector { dims, weights })
}

fn check_payload(kind: PayloadKind, value: Value) -> Result<Value> {
    match value {
        Value::List(_) if kind == PayloadKind::Json => Err(wrong_kind(kind, &value)),
        Value::List(values) => {
            if values.len() > LIST_MAX {
                return Err(Error::invalid(format!(
                    "a list has at most {LIST_MAX} values, this one has {}",
                    values.len()
                )));
            }
            let values = values.into_iter().map(|value| check_scalar(kind, value)).collect::<Result<_>>()?;
            Ok(Value::List(values))
        }
        value => check_scalar(kind, value),
    }
}

/// Brings one payload value, of a row or of a filter, to its field's own type.
pub fn check_scalar(kind: PayloadKind, value: Value) -> Result<Value> {
    match (kind, value) {
        (PayloadKind::Keyword, Value::String(text)) => {
            check_len("a keyword", text.len(), KEYWORD_BYTES_MAX)?;
            Ok(Value::String(text))
        }
        (PayloadKind::Text, Value::String(text)) => {
            check_len("a text", text.len(), TEXT_BYTES_MAX)?;
            Ok(Value::String(text))
        }
        (PayloadKind::Json, Value::String(text)) => {
            check_len("a json value", text.len(), TEXT_BYTES_MAX)?;
            serde_json::from_str::<serde::de::IgnoredAny>(&text)
                .map_err(|error| Error::invalid(format!("not JSON: {error}")))?;
            Ok(Value::String(text))
        }
        (PayloadKind::Integer | PayloadKind::Datetime, Value::Integer(number)) => Ok(Value::Integer(number)),
        (PayloadKind::Float, Value::Float(number)) if number.is_finite() => Ok(Value::Float(number)),
        (PayloadKind::Float, Value::Float(number)) => {
            Err(Error::invalid(format!("{number} is not a finite number")))
        }
        (PayloadKind::Float, Value::Integer(number)) => Ok(Value::Float(number as f64)),
        (PayloadKind::Bool, Value::Bool(flag)) => Ok(Value::Bool(flag)),
        (PayloadKind::Datetime, Value::String(text)) => {
            datetime::parse_rfc3339(&text).map(Value::Integer).ok_or_else(|| {
                Error::invalid(format!(
                    "'{}' is not an RFC 3339 instant such as 2026-01-31T12:00:00Z",
                    shown(&text)
                ))
            })
        }
        (kind, value) => Err(wrong_kind(kind, &value)),
    }
}

fn wrong_kind(kind: PayloadKind, value: &Value) -> Error {
    let wants = match kind {
        PayloadKind::Keyword | PayloadKind::Text => "strings",
        PayloadKind::Integer => "integers",
        PayloadKind::Float => "numbers",
        PayloadKind::Bool => "true or false",
        PayloadKind::Datetime => "RFC 3339 strings or integer microseconds since 1970",
        PayloadKind::Json => "the text of a JSON value",
    };
    Error::invalid(format!("takes {wants}, not a {}", value.kind_name()))
}
