//! Payload values: the facts beside a row's text and vectors, which filters test.

use serde::{Deserialize, Serialize};

/// One payload value. A field may hold one value or a list of values of the field's kind; a filter on a list
/// field passes when any element passes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// Integer, or microseconds since 1970-01-01T00:00:00Z in a datetime field.
    Integer(i64),
    /// Finite float.
    Float(f64),
    /// Keyword, text, or the JSON text of a json field.
    String(String),
    /// Several values of one kind; never nested.
    List(Vec<Value>),
}

impl Value {
    /// The single values in here: itself, or the elements of a list.
    pub fn elements(&self) -> &[Value] {
        match self {
            Self::List(values) => values,
            one => std::slice::from_ref(one),
        }
    }

    /// Bytes of memory behind it, itself not counted.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::String(text) => text.capacity(),
            Self::List(values) => {
                values.capacity() * size_of::<Self>() + values.iter().map(Self::memory_bytes).sum::<usize>()
            }
            Self::Bool(_) | Self::Integer(_) | Self::Float(_) => 0,
        }
    }

    /// What this is, for messages.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Integer(_) => "integer",
            Self::Float(_) => "float",
            Self::String(_) => "string",
            Self::List(_) => "list",
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl<V: Into<Value>> From<Vec<V>> for Value {
    fn from(values: Vec<V>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}
