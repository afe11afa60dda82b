//! Schemas between wire and engine. Names, languages and ranges are checked by `Schema::check` in the engine.

use spandrel::{
    DedupPolicy, DedupSpec, DenseSpec, Element, Field, FieldKind, IndexKind, Metric, PayloadKind, Schema,
    TextSpec,
};
use spandrel_proto::v1 as pb;

use super::{Invalid, Result, required, unknown};

/// A schema; an empty tokenizer becomes the default.
pub fn schema_from_wire(schema: pb::Schema) -> Result<Schema> {
    let one = |(at, field)| field_from_wire(field).map_err(|error| error.within(format!("fields[{at}]")));
    let fields = schema.fields.into_iter().enumerate().map(one).collect::<Result<_>>()?;
    let tokenizer = match schema.tokenizer {
        empty if empty.is_empty() => Schema::default().tokenizer,
        named => named,
    };
    let dedup = schema.dedup.map(dedup_from_wire).transpose().map_err(|error| error.within("dedup"))?;
    Ok(Schema { fields, tokenizer, dedup })
}

fn dedup_from_wire(dedup: pb::Dedup) -> Result<DedupSpec> {
    let policy = match pb::DedupPolicy::try_from(dedup.policy) {
        Ok(pb::DedupPolicy::Unspecified | pb::DedupPolicy::Skip) => DedupPolicy::Skip,
        Ok(pb::DedupPolicy::Flag) => DedupPolicy::Flag,
        Ok(pb::DedupPolicy::Link) => DedupPolicy::Link,
        Err(_) => return Err(unknown("policy", dedup.policy)),
    };
    let into = Some(dedup.into).filter(|into| !into.is_empty());
    let spec = DedupSpec { policy, into, ..DedupSpec::skip(dedup.field) };
    Ok(match dedup.threshold {
        Some(threshold) => spec.threshold(threshold),
        None => spec,
    })
}

fn field_from_wire(field: pb::Field) -> Result<Field> {
    use pb::field::Kind;
    let kind = match required(field.kind, "kind")? {
        Kind::Dense(dense) => {
            FieldKind::Dense(dense_from_wire(&dense).map_err(|error| error.within("dense"))?)
        }
        Kind::Sparse(_) => FieldKind::Sparse,
        Kind::Text(text) => FieldKind::Text(TextSpec {
            language: Some(text.language).filter(|language| !language.is_empty()),
        }),
        Kind::Payload(payload) => FieldKind::Payload { kind: payload_from_wire(payload.kind)? },
    };
    Ok(Field { name: field.name, kind })
}

fn dense_from_wire(dense: &pb::DenseField) -> Result<DenseSpec> {
    let metric = match pb::Metric::try_from(dense.metric) {
        Ok(pb::Metric::L2) => Metric::L2,
        Ok(pb::Metric::Ip) => Metric::Ip,
        Ok(pb::Metric::Cosine) => Metric::Cosine,
        Ok(pb::Metric::Unspecified) => return Err(Invalid::new("metric", "is required: l2, ip or cosine")),
        Err(_) => return Err(unknown("metric", dense.metric)),
    };
    let element = match pb::Element::try_from(dense.element) {
        Ok(pb::Element::Unspecified | pb::Element::F32) => Element::F32,
        Ok(pb::Element::F16) => Element::F16,
        Ok(pb::Element::I8) => Element::I8,
        Err(_) => return Err(unknown("element", dense.element)),
    };
    let index = match pb::IndexKind::try_from(dense.index) {
        Ok(pb::IndexKind::Unspecified | pb::IndexKind::Auto) => IndexKind::Auto,
        Ok(pb::IndexKind::Flat) => IndexKind::Flat,
        Ok(pb::IndexKind::Hnsw) => IndexKind::Hnsw,
        Err(_) => return Err(unknown("index", dense.index)),
    };
    Ok(DenseSpec { dim: dense.dim, metric, element, index })
}

fn payload_from_wire(kind: i32) -> Result<PayloadKind> {
    Ok(match pb::PayloadKind::try_from(kind) {
        Ok(pb::PayloadKind::Keyword) => PayloadKind::Keyword,
        Ok(pb::PayloadKind::Integer) => PayloadKind::Integer,
        Ok(pb::PayloadKind::Float) => PayloadKind::Float,
        Ok(pb::PayloadKind::Bool) => PayloadKind::Bool,
        Ok(pb::PayloadKind::Datetime) => PayloadKind::Datetime,
        Ok(pb::PayloadKind::Text) => PayloadKind::Text,
        Ok(pb::PayloadKind::Json) => PayloadKind::Json,
        Ok(pb::PayloadKind::Unspecified) => return Err(Invalid::new("payload.kind", "is required")),
        Err(_) => return Err(unknown("payload.kind", kind)),
    })
}

/// A schema for the wire.
pub fn schema_to_wire(schema: &Schema) -> pb::Schema {
    let fields = schema.fields.iter().map(field_to_wire).collect();
    let dedup = schema.dedup.as_ref().map(dedup_to_wire);
    pb::Schema { fields, tokenizer: schema.tokenizer.clone(), dedup }
}

fn dedup_to_wire(dedup: &DedupSpec) -> pb::Dedup {
    let policy = match dedup.policy {
        DedupPolicy::Skip => pb::DedupPolicy::Skip,
        DedupPolicy::Flag => pb::DedupPolicy::Flag,
        DedupPolicy::Link => pb::DedupPolicy::Link,
    };
    pb::Dedup {
        field: dedup.field.clone(),
        threshold: Some(dedup.threshold),
        policy: policy.into(),
        into: dedup.into.clone().unwrap_or_default(),
    }
}

fn field_to_wire(field: &Field) -> pb::Field {
    use pb::field::Kind;
    let kind = match &field.kind {
        FieldKind::Dense(dense) => Kind::Dense(dense_to_wire(dense)),
        FieldKind::Sparse => Kind::Sparse(pb::SparseField {}),
        FieldKind::Text(text) => {
            Kind::Text(pb::TextField { language: text.language.clone().unwrap_or_default() })
        }
        FieldKind::Payload { kind } => {
            Kind::Payload(pb::PayloadField { kind: payload_to_wire(*kind).into() })
        }
    };
    pb::Field { name: field.name.clone(), kind: Some(kind) }
}

fn dense_to_wire(dense: &DenseSpec) -> pb::DenseField {
    let metric = match dense.metric {
        Metric::L2 => pb::Metric::L2,
        Metric::Ip => pb::Metric::Ip,
        Metric::Cosine => pb::Metric::Cosine,
    };
    let element = match dense.element {
        Element::F32 => pb::Element::F32,
        Element::F16 => pb::Element::F16,
        Element::I8 => pb::Element::I8,
    };
    let index = match dense.index {
        IndexKind::Auto => pb::IndexKind::Auto,
        IndexKind::Flat => pb::IndexKind::Flat,
        IndexKind::Hnsw => pb::IndexKind::Hnsw,
    };
    pb::DenseField { dim: dense.dim, metric: metric.into(), element: element.into(), index: index.into() }
}

fn payload_to_wire(kind: PayloadKind) -> pb::PayloadKind {
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
