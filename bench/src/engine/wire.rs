//! Rows, schemas and requests of a bench as messages of spandrel.v1.

use spandrel::{Element, FieldKind, FieldValue, IndexKind, Metric, PayloadKind, Row, Schema, Value};
use spandrel_proto::v1 as pb;

use super::{VECTOR, Wanted};
use crate::Result;

/// A row; its vectors travel as little-endian bytes, which is cheaper than packed floats on both sides.
pub fn row(row: Row) -> pb::Row {
    let fields = row.fields.into_iter().map(|(name, value)| (name, field_value(value))).collect();
    let chunk = row.chunk.map(|chunk| pb::Chunk {
        document: chunk.document,
        span_start: chunk.span.start,
        span_end: chunk.span.end,
        tokens: chunk.tokens,
    });
    pb::Row { key: row.key, tenant: row.tenant, fields, chunk, labels: row.labels.into_iter().collect() }
}

fn field_value(field: FieldValue) -> pb::FieldValue {
    use pb::field_value::Kind;
    let kind = match field {
        FieldValue::Dense(vector) => Kind::Dense(dense(&vector)),
        FieldValue::Sparse(vector) => {
            Kind::Sparse(pb::SparseVector { dims: vector.dims, weights: vector.weights })
        }
        FieldValue::Text(text) => Kind::Text(text),
        FieldValue::Payload(payload) => Kind::Payload(value(payload)),
    };
    pb::FieldValue { kind: Some(kind) }
}

/// The vector of a dense field.
pub fn vector(field: pb::FieldValue) -> Option<Vec<f32>> {
    let Some(pb::field_value::Kind::Dense(vector)) = field.kind else { return None };
    if vector.f32_le.is_empty() {
        return Some(vector.values);
    }
    let (words, _) = vector.f32_le.as_chunks::<4>();
    Some(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

fn value(payload: Value) -> pb::Value {
    use pb::value::Kind;
    let kind = match payload {
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Integer(value) => Kind::IntegerValue(value),
        Value::Float(value) => Kind::FloatValue(value),
        Value::String(value) => Kind::StringValue(value),
        Value::List(values) => {
            Kind::ListValue(pb::ValueList { values: values.into_iter().map(value).collect() })
        }
    };
    pb::Value { kind: Some(kind) }
}

fn dense(vector: &[f32]) -> pb::DenseVector {
    let bytes: Vec<u8> = vector.iter().flat_map(|element| element.to_le_bytes()).collect();
    pb::DenseVector { values: Vec::new(), f32_le: bytes.into() }
}

/// A search by one vector that wants keys and scores only.
///
/// # Errors
/// `k` is beyond what the wire can say.
pub fn search(collection: &str, query: &[f32], wanted: Wanted, explain: bool) -> Result<pb::SearchRequest> {
    let route = pb::Route {
        field: VECTOR.to_owned(),
        query: Some(pb::route::Query::Dense(dense(query))),
        ..pb::Route::default()
    };
    Ok(pb::SearchRequest {
        collection: collection.to_owned(),
        routes: vec![route],
        k: u32::try_from(wanted.k)?,
        recall: wanted.recall.map(|recall| recall as f32),
        rescore: Some(wanted.rescore),
        fields: Some(pb::Fields { mode: pb::fields::Mode::None.into(), names: Vec::new() }),
        explain,
        ..pb::SearchRequest::default()
    })
}

/// A schema.
pub fn schema(schema: &Schema) -> pb::Schema {
    let field =
        |field: &spandrel::Field| pb::Field { name: field.name.clone(), kind: Some(field_kind(&field.kind)) };
    let fields = schema.fields.iter().map(field).collect();
    pb::Schema { fields, tokenizer: schema.tokenizer.clone(), dedup: None }
}

fn field_kind(kind: &FieldKind) -> pb::field::Kind {
    match kind {
        FieldKind::Dense(spec) => {
            let metric = match spec.metric {
                Metric::L2 => pb::Metric::L2,
                Metric::Ip => pb::Metric::Ip,
                Metric::Cosine => pb::Metric::Cosine,
            };
            let element = match spec.element {
                Element::F32 => pb::Element::F32,
                Element::F16 => pb::Element::F16,
                Element::I8 => pb::Element::I8,
            };
            let index = match spec.index {
                IndexKind::Auto => pb::IndexKind::Auto,
                IndexKind::Flat => pb::IndexKind::Flat,
                IndexKind::Hnsw => pb::IndexKind::Hnsw,
            };
            pb::field::Kind::Dense(pb::DenseField {
                dim: spec.dim,
                metric: metric.into(),
                element: element.into(),
                index: index.into(),
            })
        }
        FieldKind::Sparse => pb::field::Kind::Sparse(pb::SparseField {}),
        FieldKind::Text(spec) => {
            pb::field::Kind::Text(pb::TextField { language: spec.language.clone().unwrap_or_default() })
        }
        FieldKind::Payload { kind } => {
            pb::field::Kind::Payload(pb::PayloadField { kind: payload_kind(*kind).into() })
        }
    }
}

fn payload_kind(kind: PayloadKind) -> pb::PayloadKind {
    match kind {
        PayloadKind::Keyword => pb::PayloadKind::Keyword,
        PayloadKind::Integer => pb::PayloadKind::Integer,
        PayloadKind::Float => pb::PayloadKind::Float,
        PayloadKind::Bool => pb::PayloadKind::Bool,
        PayloadKind::Datetime => pb::PayloadKind::Datetime,
        PayloadKind::Text => pb::PayloadKind::Text,
        PayloadKind::Json => pb::PayloadKind::Json,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector_of(row: &pb::Row) -> Option<Vec<f32>> {
        vector(row.fields[VECTOR].clone())
    }

    #[test]
    fn a_row_keeps_everything() {
        let sent = Row::new("k")
            .tenant("t")
            .text("text", "words")
            .dense(VECTOR, vec![1.0, -2.5])
            .payload("tags", vec!["a", "b"])
            .payload("year", 2026);
        let row = row(sent);
        assert_eq!((row.key.as_str(), row.tenant.as_str(), row.fields.len()), ("k", "t", 4));
        let Some(pb::field_value::Kind::Dense(vector)) = &row.fields[VECTOR].kind else {
            panic!("no vector")
        };
        assert_eq!(vector.f32_le[..], [1.0_f32.to_le_bytes(), (-2.5_f32).to_le_bytes()].concat());
        let Some(pb::field_value::Kind::Payload(tags)) = &row.fields["tags"].kind else {
            panic!("no payload")
        };
        let Some(pb::value::Kind::ListValue(tags)) = &tags.kind else { panic!("no list") };
        assert_eq!(tags.values.len(), 2);
        assert_eq!(vector_of(&row).unwrap(), [1.0, -2.5]);
    }
}
