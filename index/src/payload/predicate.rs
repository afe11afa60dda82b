//! What a filter leaf asks of one payload field, and which kinds of fields take which question.

use std::ops::Bound;

use spandrel_storage::{PayloadKind, Value};

use super::datetime::parse_rfc3339;
use super::number::Number;
use crate::error::{Error, Result};

/// One test of a payload field. A field that holds a list passes when any element passes; a row without the
/// field passes nothing.
///
/// | kind of field | tests it takes | values it takes |
/// |---|---|---|
/// | keyword | equals, any of, range (by bytes), prefix, exists | strings |
/// | integer, float | equals, any of, range, exists | integers and floats, compared exactly; NaN is refused |
/// | bool | equals, any of, exists | booleans |
/// | datetime | equals, any of, range, exists | integer microseconds since 1970 or RFC 3339 text |
/// | text | matches, exists | text; all of its words must occur in one text of the field |
/// | json | none | |
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Predicate<'a> {
    /// The value is this one.
    Equals(&'a Value),
    /// The value is one of these.
    AnyOf(&'a [Value]),
    /// The value lies within the bounds; bounds in the wrong order pass nothing.
    Range {
        /// The smaller bound.
        lower: Bound<&'a Value>,
        /// The larger bound.
        upper: Bound<&'a Value>,
    },
    /// The keyword starts with these bytes.
    Prefix(&'a str),
    /// All words of this text occur, in any order; a text without words passes nothing.
    Matches(&'a str),
    /// The row has a value of the field; an empty list is none.
    Exists,
}

impl Predicate<'_> {
    /// Checks that a field of this kind takes the test and its values, without an index at hand.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the kind and what it takes.
    pub fn check(&self, kind: PayloadKind) -> Result<()> {
        use PayloadKind::{Bool, Datetime, Float, Integer, Json, Keyword, Text};
        let taken = match (self, kind) {
            (_, Json) => false,
            (Self::Exists, _) => true,
            (Self::Matches(_), kind) => kind == Text,
            (Self::Equals(_) | Self::AnyOf(_), kind) => kind != Text,
            (Self::Range { .. }, kind) => matches!(kind, Keyword | Integer | Float | Datetime),
            (Self::Prefix(_), kind) => kind == Keyword,
        };
        if !taken {
            let tests = match kind {
                Keyword => "equals, any of, range, prefix and exists",
                Integer | Float | Datetime => "equals, any of, range and exists",
                Bool => "equals, any of and exists",
                Text => "matches and exists",
                Json => {
                    return Err(Error::Invalid("a json field is stored and returned, never filtered".into()));
                }
            };
            let message = format!("{} field takes {tests}, not {}", article(kind), self.name());
            return Err(Error::Invalid(message));
        }
        match self {
            Self::Equals(value) => check_value(kind, value),
            Self::AnyOf(values) => values.iter().try_for_each(|value| check_value(kind, value)),
            Self::Range { lower, upper } => [lower, upper].into_iter().try_for_each(|bound| match bound {
                Bound::Included(value) | Bound::Excluded(value) => check_value(kind, value),
                Bound::Unbounded => Ok(()),
            }),
            Self::Prefix(_) | Self::Matches(_) | Self::Exists => Ok(()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Equals(_) => "equals",
            Self::AnyOf(_) => "any of",
            Self::Range { .. } => "range",
            Self::Prefix(_) => "prefix",
            Self::Matches(_) => "matches",
            Self::Exists => "exists",
        }
    }
}

/// The kind with its article, for messages.
pub(super) fn article(kind: PayloadKind) -> &'static str {
    match kind {
        PayloadKind::Keyword => "a keyword",
        PayloadKind::Integer => "an integer",
        PayloadKind::Float => "a float",
        PayloadKind::Bool => "a bool",
        PayloadKind::Datetime => "a datetime",
        PayloadKind::Text => "a text",
        PayloadKind::Json => "a json",
    }
}

fn check_value(kind: PayloadKind, value: &Value) -> Result<()> {
    if kind == PayloadKind::Keyword { keyword(value).map(|_| ()) } else { number(kind, value).map(|_| ()) }
}

/// The string asked of a keyword field.
pub(super) fn keyword(value: &Value) -> Result<&str> {
    match value {
        Value::String(string) => Ok(string),
        other => Err(wrong_value(PayloadKind::Keyword, other)),
    }
}

/// The number asked of an integer, float, bool or datetime field.
pub(super) fn number(kind: PayloadKind, value: &Value) -> Result<Number> {
    match (kind, value) {
        (PayloadKind::Integer | PayloadKind::Float | PayloadKind::Datetime, Value::Integer(number)) => {
            Ok(Number::Integer(*number))
        }
        (PayloadKind::Integer | PayloadKind::Float, Value::Float(number)) if !number.is_nan() => {
            Ok(Number::Float(*number))
        }
        (PayloadKind::Bool, Value::Bool(flag)) => Ok(Number::Integer(i64::from(*flag))),
        (PayloadKind::Datetime, Value::String(text)) => {
            parse_rfc3339(text).map(Number::Integer).ok_or_else(|| wrong_value(kind, value))
        }
        _ => Err(wrong_value(kind, value)),
    }
}

/// An error that names the kind, what it takes and what was given.
pub(super) fn wrong_value(kind: PayloadKind, value: &Value) -> Error {
    let takes = match kind {
        PayloadKind::Keyword | PayloadKind::Text => "strings",
        PayloadKind::Integer => "integers; a filter may also ask for floats",
        PayloadKind::Float => "finite floats and integers",
        PayloadKind::Bool => "true and false",
        PayloadKind::Datetime => {
            "RFC 3339 text such as 2026-02-28T09:30:00Z, or integer microseconds since 1970"
        }
        PayloadKind::Json => "JSON, and is never filtered",
    };
    let given = match value {
        Value::Float(float) => format!("the float {float}"),
        Value::String(text) if kind == PayloadKind::Datetime => {
            format!("the string '{}'", text.chars().take(64).collect::<String>())
        }
        other => format!("a value of type {}", other.kind_name()),
    };
    Error::Invalid(format!("{} field takes {takes}, got {given}", article(kind)))
}
