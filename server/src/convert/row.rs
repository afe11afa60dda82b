//! Values, vectors and rows between wire and engine.

use std::collections::BTreeMap;

use spandrel::{Chunk, FieldValue, Row, SparseVector, Value};
use spandrel_proto::v1 as pb;
use tonic::codegen::Bytes;

use super::{Invalid, Result, required};

/// A payload value; lists of one level.
pub fn value_from_wire(value: pb::Value) -> Result<Value> {
    match required(value.kind, "kind")? {
        pb::value::Kind::ListValue(list) => {
            let one = |(at, value): (usize, pb::Value)| {
                scalar_from_wire(value).map_err(|error| error.within(format!("list_value.values[{at}]")))
            };
            Ok(Value::List(list.values.into_iter().enumerate().map(one).collect::<Result<_>>()?))
        }
        kind => scalar_of(kind),
    }
}

/// A payload value that is not a list.
pub fn scalar_from_wire(value: pb::Value) -> Result<Value> {
    scalar_of(required(value.kind, "kind")?)
}

fn scalar_of(kind: pb::value::Kind) -> Result<Value> {
    use pb::value::Kind;
    Ok(match kind {
        Kind::BoolValue(value) => Value::Bool(value),
        Kind::IntegerValue(value) => Value::Integer(value),
        Kind::FloatValue(value) if value.is_finite() => Value::Float(value),
        Kind::FloatValue(value) => return Err(Invalid::new("float_value", format!("{value} is not finite"))),
        Kind::StringValue(value) => Value::String(value),
        Kind::ListValue(_) => return Err(Invalid::new("list_value", "a list is not allowed here")),
    })
}

/// A payload value for the wire.
pub fn value_to_wire(value: Value) -> pb::Value {
    use pb::value::Kind;
    let kind = match value {
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Integer(value) => Kind::IntegerValue(value),
        Value::Float(value) => Kind::FloatValue(value),
        Value::String(value) => Kind::StringValue(value),
        Value::List(values) => {
            Kind::ListValue(pb::ValueList { values: values.into_iter().map(value_to_wire).collect() })
        }
    };
    pb::Value { kind: Some(kind) }
}

/// A dense vector, finite in every element.
pub fn dense_from_wire(vector: pb::DenseVector) -> Result<Vec<f32>> {
    let floats = match (vector.values.is_empty(), vector.f32_le.is_empty()) {
        (true, true) => return Err(Invalid::new("", "the vector is empty; set `values` or `f32_le`")),
        (false, false) => return Err(Invalid::new("", "set either `values` or `f32_le`, not both")),
        (false, true) => vector.values,
        (true, false) => floats_from_bytes(&vector.f32_le)?,
    };
    match floats.iter().position(|element| !element.is_finite()) {
        Some(at) => Err(Invalid::new(format!("[{at}]"), format!("{} is not finite", floats[at]))),
        None => Ok(floats),
    }
}

fn floats_from_bytes(bytes: &[u8]) -> Result<Vec<f32>> {
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Invalid::new("f32_le", format!("{} bytes are not a multiple of 4", bytes.len())));
    }
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

/// A dense vector for the wire, as bytes.
pub fn dense_to_wire(vector: &[f32]) -> pb::DenseVector {
    let bytes: Vec<u8> = vector.iter().flat_map(|element| element.to_le_bytes()).collect();
    pb::DenseVector { values: Vec::new(), f32_le: Bytes::from(bytes) }
}

/// A sparse vector; its order and weights are the engine's to check.
pub fn sparse_from_wire(vector: pb::SparseVector) -> Result<SparseVector> {
    if vector.dims.len() != vector.weights.len() {
        let what =
            format!("{} dims and {} weights; each needs its own", vector.dims.len(), vector.weights.len());
        return Err(Invalid::new("", what));
    }
    Ok(SparseVector { dims: vector.dims, weights: vector.weights })
}

/// A sparse vector for the wire.
pub fn sparse_to_wire(vector: SparseVector) -> pb::SparseVector {
    pb::SparseVector { dims: vector.dims, weights: vector.weights }
}

fn field_from_wire(value: pb::FieldValue) -> Result<FieldValue> {
    use pb::field_value::Kind;
    Ok(match required(value.kind, "kind")? {
        Kind::Dense(vector) => FieldValue::Dense(dense_from_wire(vector).map_err(|e| e.within("dense"))?),
        Kind::Sparse(vector) => FieldValue::Sparse(sparse_from_wire(vector).map_err(|e| e.within("sparse"))?),
        Kind::Text(text) => FieldValue::Text(text),
        Kind::Payload(value) => FieldValue::Payload(value_from_wire(value).map_err(|e| e.within("payload"))?),
    })
}

fn field_to_wire(value: FieldValue) -> pb::FieldValue {
    use pb::field_value::Kind;
    let kind = match value {
        FieldValue::Dense(vector) => Kind::Dense(dense_to_wire(&vector)),
        FieldValue::Sparse(vector) => Kind::Sparse(sparse_to_wire(vector)),
        FieldValue::Text(text) => Kind::Text(text),
        FieldValue::Payload(value) => Kind::Payload(value_to_wire(value)),
    };
    pb::FieldValue { kind: Some(kind) }
}

/// A row, whose tenant may still be empty.
pub fn row_from_wire(row: pb::Row) -> Result<Row> {
    let mut fields = BTreeMap::new();
    for (name, value) in row.fields {
        let value = field_from_wire(value).map_err(|error| error.within(format!("fields[\"{name}\"]")))?;
        fields.insert(name, value);
    }
    let chunk = row.chunk.map(chunk_from_wire).transpose().map_err(|error| error.within("chunk"))?;
    let labels = row.labels.into_iter().collect();
    Ok(Row { key: row.key, tenant: row.tenant, fields, chunk, labels })
}

/// Rows of a request.
pub fn rows_from_wire(rows: Vec<pb::Row>) -> Result<Vec<Row>> {
    let one = |(at, row)| row_from_wire(row).map_err(|error| error.within(format!("rows[{at}]")));
    rows.into_iter().enumerate().map(one).collect()
}

/// A row for the wire.
pub fn row_to_wire(row: Row) -> pb::Row {
    pb::Row {
        key: row.key,
        tenant: row.tenant,
        fields: row.fields.into_iter().map(|(name, value)| (name, field_to_wire(value))).collect(),
        chunk: row.chunk.map(chunk_to_wire),
        labels: row.labels.into_iter().collect(),
    }
}

fn chunk_from_wire(chunk: pb::Chunk) -> Result<Chunk> {
    if chunk.span_end < chunk.span_start {
        let what = format!("{} is before span_start {}", chunk.span_end, chunk.span_start);
        return Err(Invalid::new("span_end", what));
    }
    Ok(Chunk { document: chunk.document, span: chunk.span_start..chunk.span_end, tokens: chunk.tokens })
}

fn chunk_to_wire(chunk: Chunk) -> pb::Chunk {
    pb::Chunk {
        document: chunk.document,
        span_start: chunk.span.start,
        span_end: chunk.span.end,
        tokens: chunk.tokens,
    }
}
