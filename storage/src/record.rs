//! The log record: what one write left behind, as the bytes that the `rows` column family holds under its
//! RowId.
//!
//! It answers how a row is laid out, and lets a reader take only the fields it wants: a field that is not
//! wanted is skipped by its length, without allocation. It is not for search: segments hold their own copies
//! of vectors. Encoding and decoding are linear in the bytes of the wanted fields. There is no checksum in
//! here, the row store keeps one a block; [`Record::decode`] still never panics and never allocates more than
//! a small multiple of its input, whatever the bytes.
//!
//! | offset | bytes | what                                                            |
//! |-------:|------:|-----------------------------------------------------------------|
//! |      0 |     1 | format, 1                                                       |
//! |      1 |     1 | kind: 1 row, 2 delete, 3 drop of a tenant, 4 grant or revoke    |
//! |      2 |     2 | flags: bit 0, a chunk follows the key, bit 1, then labels do;   |
//! |        |       | of kind 4 bit 0, rows get a label; the others are zero          |
//! |      4 |     4 | tenant                                                          |
//! |      8 |     8 | the RowId this record replaces, 0 for none                      |
//! |     16 |       | key: length u32, UTF-8 (row and delete)                         |
//! |        |       | chunk: document as length and UTF-8, span u64 u64, tokens u32   |
//! |        |       | labels: count u32, then u32 each, ascending                     |
//! |        |       | fields: count u16, then id u16, kind u8, length u32, bytes each |
//! |        |       | of kind 4 instead of all that: label u32, rows as count u32 and u64 each |
//!
//! Tenant and replaced RowId lie at fixed offsets, so that rows can be encoded before the writer's lock is
//! taken and completed by [`set_replaces`] when the replaced RowId is known. All numbers are little-endian.

use crate::codec::{Decoder, Encoder, Truncated};
use crate::id::{FieldId, LabelId, RowId, TenantId};
use crate::row::Chunk;
use crate::schema::FIELDS_MAX;
use crate::value::Value;
use crate::vector::{FieldValue, SparseVector};

/// The format that this build writes and reads.
const FORMAT: u8 = 1;
const KIND_ROW: u8 = 1;
const KIND_DELETE: u8 = 2;
const KIND_DROP_TENANT: u8 = 3;
const KIND_LABEL: u8 = 4;
const FLAG_CHUNK: u16 = 1;
const FLAG_LABELS: u16 = 2;
const FLAG_GRANTED: u16 = 1;
/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 16;
const TENANT_AT: usize = 4;
const REPLACES_AT: usize = 8;

const FIELD_DENSE: u8 = 1;
const FIELD_SPARSE: u8 = 2;
const FIELD_TEXT: u8 = 3;
const FIELD_PAYLOAD: u8 = 4;

const VALUE_FALSE: u8 = 0;
const VALUE_TRUE: u8 = 1;
const VALUE_INTEGER: u8 = 2;
const VALUE_FLOAT: u8 = 3;
const VALUE_STRING: u8 = 4;
const VALUE_LIST: u8 = 5;
/// Deepest list inside lists that is decoded. Schemas allow one level; more only bounds the recursion.
const LIST_DEPTH_MAX: usize = 4;

/// A set of fields: which ones a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldSet([u64; FIELDS_MAX / 64]);

impl FieldSet {
    /// Every field.
    pub const ALL: Self = Self([u64::MAX; FIELDS_MAX / 64]);
    /// No field: keys, chunks and tenants only.
    pub const NONE: Self = Self([0; FIELDS_MAX / 64]);

    /// The fields named.
    pub fn of(fields: impl IntoIterator<Item = FieldId>) -> Self {
        let mut set = Self::NONE;
        for field in fields {
            set.insert(field);
        }
        set
    }

    /// Adds a field; one outside the 256 that a schema can have is ignored.
    pub fn insert(&mut self, field: FieldId) {
        if let Some(word) = self.0.get_mut(usize::from(field.0) / 64) {
            *word |= 1 << (field.0 % 64);
        }
    }

    /// Whether no field is in the set.
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// Whether a field is in the set.
    pub fn contains(&self, field: FieldId) -> bool {
        self.0.get(usize::from(field.0) / 64).is_some_and(|word| word >> (field.0 % 64) & 1 == 1)
    }
}

/// What one write left in the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A row was written.
    Row(StoredRow),
    /// A row was deleted.
    Delete {
        /// The row's tenant.
        tenant: TenantId,
        /// The row's key.
        key: String,
        /// The row that is gone.
        replaces: RowId,
    },
    /// Every row of a tenant that was written before this record was deleted.
    DropTenant {
        /// The tenant.
        tenant: TenantId,
    },
    /// Rows got a label, or lost it.
    Label {
        /// Their tenant.
        tenant: TenantId,
        /// The label.
        label: LabelId,
        /// Whether they got it.
        granted: bool,
        /// The rows.
        rows: Vec<RowId>,
    },
}

/// A row as it is stored: names are resolved to ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredRow {
    /// The row's tenant.
    pub tenant: TenantId,
    /// The user's key, unique within the tenant.
    pub key: String,
    /// The row that this one replaces under the same key.
    pub replaces: Option<RowId>,
    /// Where the text came from.
    pub chunk: Option<Chunk>,
    /// Its labels when it was written, ascending.
    pub labels: Vec<LabelId>,
    /// Fields by ascending [`FieldId`]; after a decode, only the wanted ones.
    pub fields: Vec<(FieldId, FieldValue)>,
}

impl StoredRow {
    /// The value of a field, if the row has it.
    pub fn field(&self, id: FieldId) -> Option<&FieldValue> {
        let at = self.fields.binary_search_by_key(&id, |(field, _)| *field).ok()?;
        Some(&self.fields[at].1)
    }

    /// The bytes of the record. `fields` must be ascending by id, ids below 256, each once, and lists must
    /// not be nested more than 4 deep; rows that were checked against a schema are so.
    ///
    /// # Panics
    /// When a string, vector or list has 2^32 elements or more.
    pub fn encode(&self) -> Vec<u8> {
        debug_assert!(self.fields.windows(2).all(|pair| pair[0].0 < pair[1].0), "fields are ascending");
        let mut out = Encoder::with_capacity(self.encoded_bytes());
        let flags = if self.chunk.is_some() { FLAG_CHUNK } else { 0 }
            | if self.labels.is_empty() { 0 } else { FLAG_LABELS };
        header(&mut out, KIND_ROW, flags, self.tenant, self.replaces);
        out.str(&self.key);
        if let Some(chunk) = &self.chunk {
            out.str(&chunk.document).u64(chunk.span.start).u64(chunk.span.end).u32(chunk.tokens);
        }
        if !self.labels.is_empty() {
            out.u32s(&self.labels.iter().map(|label| label.0).collect::<Vec<_>>());
        }
        out.u16(u16::try_from(self.fields.len()).expect("a schema has at most 256 fields"));
        for (id, value) in &self.fields {
            out.u16(id.0).u8(kind_of(value));
            let bytes = value_bytes(value);
            out.u32(u32::try_from(bytes).expect("checked at the door: shorter than 4 GiB"));
            let start = out.len();
            encode_field(&mut out, value);
            debug_assert_eq!(out.len() - start, bytes);
        }
        out.finish()
    }

    /// Bytes of the record of the fields at hand: what it takes of memory, about.
    pub fn bytes(&self) -> usize {
        self.encoded_bytes()
    }

    /// Length of [`encode`](Self::encode)'s result in bytes.
    fn encoded_bytes(&self) -> usize {
        let chunk = self.chunk.as_ref().map_or(0, |chunk| 24 + chunk.document.len());
        let fields: usize = self.fields.iter().map(|(_, value)| 7 + value_bytes(value)).sum();
        let labels = if self.labels.is_empty() { 0 } else { 4 + 4 * self.labels.len() };
        HEADER_BYTES + 4 + self.key.len() + chunk + labels + 2 + fields
    }
}

/// Writes the RowId that an encoded record replaces into its header.
///
/// # Panics
/// When `encoded` is shorter than a header: it is not the result of an `encode` here.
pub fn set_replaces(encoded: &mut [u8], replaces: Option<RowId>) {
    let bytes = replaces.unwrap_or_default().0.to_le_bytes();
    encoded[REPLACES_AT..HEADER_BYTES].copy_from_slice(&bytes);
}

/// Writes the tenant into the header of an encoded record.
///
/// # Panics
/// When `encoded` is shorter than a header: it is not the result of an `encode` here.
pub fn set_tenant(encoded: &mut [u8], tenant: TenantId) {
    encoded[TENANT_AT..REPLACES_AT].copy_from_slice(&tenant.0.to_le_bytes());
}

/// Tenant of an encoded row record; none where the bytes are not one.
pub(crate) fn row_tenant(encoded: &[u8]) -> Option<TenantId> {
    let mut bytes = Decoder::new(encoded);
    let (kind, _, tenant, _) = read_header(&mut bytes).ok()?;
    (kind == KIND_ROW).then_some(tenant)
}

impl Record {
    /// The bytes of the record.
    ///
    /// # Panics
    /// As [`StoredRow::encode`].
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Row(row) => row.encode(),
            Self::Delete { tenant, key, replaces } => {
                let mut out = Encoder::with_capacity(HEADER_BYTES + 4 + key.len());
                header(&mut out, KIND_DELETE, 0, *tenant, Some(*replaces));
                out.str(key);
                out.finish()
            }
            Self::DropTenant { tenant } => {
                let mut out = Encoder::with_capacity(HEADER_BYTES);
                header(&mut out, KIND_DROP_TENANT, 0, *tenant, None);
                out.finish()
            }
            Self::Label { tenant, label, granted, rows } => {
                let mut out = Encoder::with_capacity(HEADER_BYTES + 8 + 8 * rows.len());
                header(&mut out, KIND_LABEL, if *granted { FLAG_GRANTED } else { 0 }, *tenant, None);
                out.u32(label.0).u32(u32::try_from(rows.len()).expect("a batch has fewer rows"));
                for row in rows {
                    out.u64(row.0);
                }
                out.finish()
            }
        }
    }

    /// The record of `bytes`, with the wanted fields of its row.
    ///
    /// # Errors
    /// [`Truncated`] when the bytes are not a whole record of format 1.
    pub fn decode(bytes: &[u8], wanted: &FieldSet) -> Result<Self, Truncated> {
        let mut bytes = Decoder::new(bytes);
        let (kind, flags, tenant, replaces) = read_header(&mut bytes)?;
        let record = match kind {
            KIND_ROW => Self::Row(decode_row(&mut bytes, flags, tenant, replaces, wanted)?),
            KIND_DELETE => {
                let replaces = replaces.ok_or(invalid("the deleted row", &bytes))?;
                Self::Delete { tenant, key: bytes.str("key")?.to_owned(), replaces }
            }
            KIND_DROP_TENANT => Self::DropTenant { tenant },
            KIND_LABEL => {
                let (label, count) = (LabelId(bytes.u32("label")?), bytes.u32("rows")? as usize);
                if count != bytes.left() / 8 {
                    return Err(invalid("rows", &bytes));
                }
                let rows = (0..count).map(|_| bytes.u64("row").map(RowId)).collect::<Result<_, _>>()?;
                Self::Label { tenant, label, granted: flags & FLAG_GRANTED != 0, rows }
            }
            _ => return Err(invalid("record kind", &bytes)),
        };
        match bytes.left() {
            0 => Ok(record),
            _ => Err(invalid("end of record", &bytes)),
        }
    }
}

fn invalid(what: &'static str, bytes: &Decoder<'_>) -> Truncated {
    Truncated { what, left: bytes.left() }
}

fn header(out: &mut Encoder, kind: u8, flags: u16, tenant: TenantId, replaces: Option<RowId>) {
    out.u8(FORMAT).u8(kind).u16(flags);
    debug_assert_eq!(out.len(), TENANT_AT);
    out.u32(tenant.0);
    debug_assert_eq!(out.len(), REPLACES_AT);
    out.u64(replaces.unwrap_or_default().0);
}

type Header = (u8, u16, TenantId, Option<RowId>);

fn read_header(bytes: &mut Decoder<'_>) -> Result<Header, Truncated> {
    if bytes.u8("record format")? != FORMAT {
        return Err(invalid("record format", bytes));
    }
    let kind = bytes.u8("record kind")?;
    let flags = bytes.u16("record flags")?;
    let known = match kind {
        KIND_ROW => FLAG_CHUNK | FLAG_LABELS,
        KIND_LABEL => FLAG_GRANTED,
        _ => 0,
    };
    if flags & !known != 0 {
        return Err(invalid("record flags", bytes));
    }
    let tenant = TenantId(bytes.u32("tenant")?);
    let replaces = bytes.u64("replaced row")?;
    Ok((kind, flags, tenant, (replaces != 0).then_some(RowId(replaces))))
}

fn decode_row(
    bytes: &mut Decoder<'_>,
    flags: u16,
    tenant: TenantId,
    replaces: Option<RowId>,
    wanted: &FieldSet,
) -> Result<StoredRow, Truncated> {
    let key = bytes.str("key")?.to_owned();
    let chunk = if flags & FLAG_CHUNK != 0 {
        Some(Chunk {
            document: bytes.str("document")?.to_owned(),
            span: bytes.u64("span start")?..bytes.u64("span end")?,
            tokens: bytes.u32("tokens")?,
        })
    } else {
        None
    };
    let mut labels = Vec::new();
    if flags & FLAG_LABELS != 0 {
        labels = bytes.u32s("labels")?.into_iter().map(LabelId).collect();
        if labels.is_empty() || !labels.is_sorted_by(|a, b| a < b) {
            return Err(invalid("labels", bytes));
        }
    }
    let count = bytes.u16("field count")?;
    let mut fields = Vec::new();
    let mut next = 0;
    for _ in 0..count {
        let id = bytes.u16("field id")?;
        if id < next || usize::from(id) >= FIELDS_MAX {
            return Err(invalid("field id", bytes));
        }
        next = id + 1;
        let kind = bytes.u8("field kind")?;
        let value = bytes.bytes("field")?;
        if wanted.contains(FieldId(id)) {
            fields.push((FieldId(id), decode_field(kind, value)?));
        }
    }
    Ok(StoredRow { tenant, key, replaces, chunk, labels, fields })
}

fn kind_of(value: &FieldValue) -> u8 {
    match value {
        FieldValue::Dense(_) => FIELD_DENSE,
        FieldValue::Sparse(_) => FIELD_SPARSE,
        FieldValue::Text(_) => FIELD_TEXT,
        FieldValue::Payload(_) => FIELD_PAYLOAD,
    }
}

/// Length of what [`encode_field`] writes, so that the length can be written first and the buffer grows once.
fn value_bytes(value: &FieldValue) -> usize {
    match value {
        FieldValue::Dense(vector) => 4 + 4 * vector.len(),
        FieldValue::Sparse(vector) => 8 + 4 * vector.dims.len() + 4 * vector.weights.len(),
        FieldValue::Text(text) => text.len(),
        FieldValue::Payload(value) => payload_bytes(value),
    }
}

fn payload_bytes(value: &Value) -> usize {
    match value {
        Value::Bool(_) => 1,
        Value::Integer(_) | Value::Float(_) => 9,
        Value::String(text) => 5 + text.len(),
        Value::List(values) => 5 + values.iter().map(payload_bytes).sum::<usize>(),
    }
}

fn encode_field(out: &mut Encoder, value: &FieldValue) {
    match value {
        FieldValue::Dense(vector) => {
            out.f32s(vector);
        }
        FieldValue::Sparse(vector) => {
            out.u32s(&vector.dims).f32s(&vector.weights);
        }
        FieldValue::Text(text) => {
            out.raw(text.as_bytes());
        }
        FieldValue::Payload(value) => encode_payload(out, value),
    }
}

fn encode_payload(out: &mut Encoder, value: &Value) {
    match value {
        Value::Bool(value) => {
            out.u8(if *value { VALUE_TRUE } else { VALUE_FALSE });
        }
        Value::Integer(value) => {
            out.u8(VALUE_INTEGER).i64(*value);
        }
        Value::Float(value) => {
            out.u8(VALUE_FLOAT).f64(*value);
        }
        Value::String(text) => {
            out.u8(VALUE_STRING).str(text);
        }
        Value::List(values) => {
            let len = u32::try_from(values.len()).expect("checked at the door: fewer than 2^32 values");
            out.u8(VALUE_LIST).u32(len);
            for value in values {
                encode_payload(out, value);
            }
        }
    }
}

fn decode_field(kind: u8, bytes: &[u8]) -> Result<FieldValue, Truncated> {
    let mut bytes = Decoder::new(bytes);
    let value = match kind {
        FIELD_DENSE => FieldValue::Dense(bytes.f32s("dense vector")?),
        FIELD_SPARSE => {
            let dims = bytes.u32s("sparse dimensions")?;
            let weights = bytes.f32s("sparse weights")?;
            if dims.len() != weights.len() {
                return Err(invalid("sparse weights", &bytes));
            }
            FieldValue::Sparse(SparseVector { dims, weights })
        }
        FIELD_TEXT => {
            let text = bytes.take(bytes.left(), "text")?;
            let text = std::str::from_utf8(text).map_err(|_| Truncated { what: "text", left: text.len() })?;
            FieldValue::Text(text.to_owned())
        }
        FIELD_PAYLOAD => FieldValue::Payload(decode_payload(&mut bytes, 0)?),
        _ => return Err(invalid("field kind", &bytes)),
    };
    match bytes.left() {
        0 => Ok(value),
        _ => Err(invalid("end of field", &bytes)),
    }
}

fn decode_payload(bytes: &mut Decoder<'_>, depth: usize) -> Result<Value, Truncated> {
    Ok(match bytes.u8("value kind")? {
        VALUE_FALSE => Value::Bool(false),
        VALUE_TRUE => Value::Bool(true),
        VALUE_INTEGER => Value::Integer(bytes.i64("integer")?),
        VALUE_FLOAT => Value::Float(bytes.f64("float")?),
        VALUE_STRING => Value::String(bytes.str("string")?.to_owned()),
        VALUE_LIST if depth < LIST_DEPTH_MAX => {
            let len = bytes.u32("list")? as usize;
            // A value takes a byte at least: a damaged length cannot make this allocate without bound.
            if len > bytes.left() {
                return Err(invalid("list", bytes));
            }
            (0..len)
                .map(|_| decode_payload(bytes, depth + 1))
                .collect::<Result<Vec<_>, _>>()
                .map(Value::List)?
        }
        _ => return Err(invalid("value kind", bytes)),
    })
}

#[cfg(test)]
mod tests;
