//! One value of a file, read as what the schema says its field holds.
//!
//! Works on any serde deserializer, so that JSON text is read straight into vectors, without a tree between.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use spandrel_index::payload::datetime::parse_rfc3339;
use spandrel_storage::{FieldKind, FieldValue, PayloadKind, SparseVector, Value};

/// Reads the value of a field; none for `null`.
pub(super) struct FieldSeed<'a>(pub(super) &'a FieldKind);

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = Option<FieldValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Ok(match self.0 {
            FieldKind::Dense(spec) => {
                let Some(vector) = Option::<Vec<f32>>::deserialize(deserializer)? else { return Ok(None) };
                if vector.len() != spec.dim as usize {
                    let (found, dim) = (vector.len(), spec.dim);
                    return Err(D::Error::custom(format!(
                        "a vector of {found} elements where {dim} are expected"
                    )));
                }
                Some(FieldValue::Dense(vector))
            }
            FieldKind::Sparse => {
                let sparse = Option::<SparseJson>::deserialize(deserializer)?;
                sparse
                    .map(|sparse| sparse.sorted().map_err(D::Error::custom))
                    .transpose()?
                    .map(FieldValue::Sparse)
            }
            FieldKind::Text(_) => Option::<String>::deserialize(deserializer)?.map(FieldValue::Text),
            FieldKind::Payload { kind: PayloadKind::Json } => {
                let value = serde_json::Value::deserialize(deserializer)?;
                (!value.is_null()).then(|| FieldValue::Payload(Value::String(value.to_string())))
            }
            FieldKind::Payload { kind } => {
                let visitor = PayloadVisitor { kind: *kind, nested: false };
                deserializer.deserialize_any(visitor)?.map(FieldValue::Payload)
            }
        })
    }
}

/// The two spellings of a sparse vector.
#[derive(Deserialize)]
struct SparseJson {
    #[serde(alias = "indices")]
    dims: Vec<u32>,
    #[serde(alias = "values")]
    weights: Vec<f32>,
}

impl SparseJson {
    /// In ascending dimensions, without zeros.
    fn sorted(self) -> Result<SparseVector, String> {
        if self.dims.len() != self.weights.len() {
            return Err(format!("{} dimensions and {} weights", self.dims.len(), self.weights.len()));
        }
        let mut pairs: Vec<(u32, f32)> = self.dims.into_iter().zip(self.weights).collect();
        pairs.sort_by_key(|pair| pair.0);
        if let Some(twice) = pairs.windows(2).find(|two| two[0].0 == two[1].0) {
            return Err(format!("dimension {} occurs twice", twice[0].0));
        }
        pairs.retain(|pair| pair.1 != 0.0);
        let (dims, weights) = pairs.into_iter().unzip();
        Ok(SparseVector { dims, weights })
    }
}

/// Reads a payload value of one kind, or a list of them.
struct PayloadVisitor {
    kind: PayloadKind,
    nested: bool,
}

impl PayloadVisitor {
    fn wrong<E: Error>(&self, found: impl fmt::Display) -> E {
        E::custom(format!("expected {}, found {found}", name(self.kind)))
    }
}

impl<'de> Visitor<'de> for PayloadVisitor {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name(self.kind))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        if self.kind == PayloadKind::Bool { Ok(Some(Value::Bool(value))) } else { Err(self.wrong(value)) }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        match self.kind {
            PayloadKind::Integer | PayloadKind::Datetime => Ok(Some(Value::Integer(value))),
            PayloadKind::Float => Ok(Some(Value::Float(value as f64))),
            _ => Err(self.wrong(value)),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) if self.kind == PayloadKind::Float => Ok(Some(Value::Float(value as f64))),
            Err(_) => Err(self.wrong(value)),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        if self.kind == PayloadKind::Float { Ok(Some(Value::Float(value))) } else { Err(self.wrong(value)) }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        let accepted = match self.kind {
            PayloadKind::Keyword | PayloadKind::Text => true,
            PayloadKind::Datetime => parse_rfc3339(value).is_some(),
            _ => false,
        };
        if accepted {
            return Ok(Some(Value::String(value.to_owned())));
        }
        let shown: String = value.chars().take(40).collect();
        Err(self.wrong(format_args!("'{shown}'")))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        if self.nested {
            return Err(self.wrong("a list in a list"));
        }
        let mut values = Vec::new();
        let seed = || PayloadVisitor { kind: self.kind, nested: true };
        while let Some(value) = seq.next_element_seed(seed())? {
            values.extend(value);
        }
        Ok(Some(Value::List(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, _map: A) -> Result<Self::Value, A::Error> {
        Err(self.wrong("an object"))
    }
}

impl<'de> DeserializeSeed<'de> for PayloadVisitor {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// What a kind is called in messages.
fn name(kind: PayloadKind) -> &'static str {
    match kind {
        PayloadKind::Keyword => "a string",
        PayloadKind::Integer => "an integer",
        PayloadKind::Float => "a number",
        PayloadKind::Bool => "true or false",
        PayloadKind::Datetime => "an RFC 3339 instant or integer microseconds",
        PayloadKind::Text => "text",
        PayloadKind::Json => "JSON",
    }
}

/// A key or the name of a tenant or document: a string, or an integer as its digits; none for `null`.
pub(super) struct NameSeed;

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NameSeed {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an integer")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Some(value.to_owned()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// The name of a column, borrowed from the line where it has no escapes.
pub(super) struct ColumnSeed;

impl<'de> DeserializeSeed<'de> for ColumnSeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for ColumnSeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column name")
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}
