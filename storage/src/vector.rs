//! Vector values, and the one enum of everything a field of a row can hold.

use serde::{Deserialize, Serialize};

use crate::value::Value;

/// A sparse vector: `dims` strictly ascending, `weights` of the same length, finite and non-zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SparseVector {
    /// Dimensions, strictly ascending.
    pub dims: Vec<u32>,
    /// One weight a dimension.
    pub weights: Vec<f32>,
}

/// What one field of a row holds.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// A dense vector of the field's dimension, as the caller sent it (not normalised).
    Dense(Vec<f32>),
    /// A sparse vector.
    Sparse(SparseVector),
    /// Text of a text field.
    Text(String),
    /// A payload value.
    Payload(Value),
}
