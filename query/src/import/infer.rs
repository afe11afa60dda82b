//! A schema that fits sampled rows.
//!
//! Strings become keywords, or text where one is long or the column is the text column; integers, floats and
//! booleans are what they are; RFC 3339 strings become datetimes; lists take the kind of their elements;
//! arrays of numbers in the vector column, or long ones of one length anywhere, become dense; `{"dims",
//! "weights"}` objects (or `indices` and `values`) become sparse; everything mixed or nested is kept as JSON.

use std::collections::HashMap;

use serde_json::Value;
use spandrel_index::payload::datetime::parse_rfc3339;
use spandrel_storage::{FieldKind, Metric, PayloadKind, Schema, TextSpec};

use super::ImportOptions;
use super::plan::schema_name;

/// Columns that are taken as the text when none is named.
const TEXT_COLUMNS: [&str; 4] = ["text", "body", "content", "passage"];
/// A string of more bytes makes its column text instead of keywords.
const KEYWORD_BYTES_MAX: usize = 256;
/// Arrays of at least this many numbers, all of one length, are vectors wherever they are.
const DENSE_LEN_MIN: usize = 32;

/// What was seen in the columns, in the order they appeared.
#[derive(Default)]
pub(super) struct Sample {
    columns: Vec<(String, Seen)>,
    positions: HashMap<String, usize>,
    rows: usize,
}

/// What the values of one column were.
#[derive(Default)]
struct Seen {
    bools: bool,
    integers: bool,
    floats: bool,
    strings: bool,
    /// Strings that are not RFC 3339 instants.
    plain_strings: bool,
    instants: bool,
    string_bytes_max: usize,
    lists: bool,
    /// Arrays of numbers only: smallest and largest length.
    number_list_lens: Option<(usize, usize)>,
    sparse: bool,
    /// Nested or otherwise beyond a payload value.
    other: bool,
}

impl Sample {
    /// Starts the next row.
    pub(super) fn next_row(&mut self) {
        self.rows += 1;
    }

    /// Rows seen.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether a column was seen.
    pub(super) fn has(&self, column: &str) -> bool {
        self.positions.contains_key(column)
    }

    /// Names of the columns seen.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// Takes note of a value.
    pub(super) fn see(&mut self, column: &str, value: &Value) {
        let seen = self.column(column);
        match value {
            Value::Array(elements) => seen.list(elements),
            Value::Object(object) => {
                let has = |name: &str| object.get(name).is_some_and(Value::is_array);
                let sparse = (has("dims") && has("weights")) || (has("indices") && has("values"));
                seen.sparse |= sparse && object.len() == 2;
                seen.other |= !sparse || object.len() != 2;
            }
            scalar => seen.scalar(scalar),
        }
    }

    /// Takes note of an instant of a typed column.
    pub(super) fn see_instant(&mut self, column: &str) {
        let seen = self.column(column);
        seen.instants = true;
        seen.strings = true;
    }

    fn column(&mut self, name: &str) -> &mut Seen {
        let at = match self.positions.get(name) {
            Some(&at) => at,
            None => {
                self.positions.insert(name.to_owned(), self.columns.len());
                self.columns.push((name.to_owned(), Seen::default()));
                self.columns.len() - 1
            }
        };
        &mut self.columns[at].1
    }

    /// The schema: the text field first, then vectors, then the rest in the file's order. `skip` says which
    /// columns are no fields. Dense fields are compared by `metric`.
    pub(super) fn schema(
        &self,
        options: &ImportOptions,
        metric: Metric,
        skip: impl Fn(&str) -> bool,
    ) -> Result<Schema, String> {
        let text_column = self.text_column(options);
        let mut fields = Vec::new();
        for (name, seen) in self.columns.iter().filter(|(name, _)| !skip(name)) {
            let is_text = Some(name.as_str()) == text_column;
            let kind = if is_text { text() } else { seen.kind(name, options, metric)? };
            let place = match kind {
                FieldKind::Text(_) if is_text => 0,
                FieldKind::Dense(_) => 1,
                FieldKind::Sparse => 2,
                _ => 3,
            };
            fields.push((place, schema_name(name), kind));
        }
        fields.sort_by_key(|field| field.0);
        Ok(fields.into_iter().fold(Schema::new(), |schema, (_, name, kind)| schema.field(name, kind)))
    }

    fn text_column<'a>(&'a self, options: &'a ImportOptions) -> Option<&'a str> {
        if let Some(given) = &options.text_field {
            return Some(given);
        }
        let only_strings = |name: &&str| {
            let seen = self.positions.get(*name).map(|&at| &self.columns[at].1);
            seen.is_some_and(|seen| seen.strings && !seen.mixed() && !seen.lists)
        };
        TEXT_COLUMNS.into_iter().find(only_strings)
    }
}

fn text() -> FieldKind {
    FieldKind::Text(TextSpec::default())
}

impl Seen {
    fn scalar(&mut self, value: &Value) {
        match value {
            Value::Null => {}
            Value::Bool(_) => self.bools = true,
            Value::Number(number) if number.is_i64() => self.integers = true,
            Value::Number(_) => self.floats = true,
            Value::String(text) => {
                let instant = parse_rfc3339(text).is_some();
                self.strings = true;
                self.instants |= instant;
                self.plain_strings |= !instant;
                self.string_bytes_max = self.string_bytes_max.max(text.len());
            }
            Value::Array(_) | Value::Object(_) => self.other = true,
        }
    }

    fn list(&mut self, elements: &[Value]) {
        self.lists = true;
        if !elements.is_empty() && elements.iter().all(Value::is_number) {
            let len = elements.len();
            let (low, high) = self.number_list_lens.unwrap_or((len, len));
            self.number_list_lens = Some((low.min(len), high.max(len)));
        }
        elements.iter().for_each(|element| self.scalar(element));
    }

    /// Whether values of several kinds were seen that no one payload kind takes.
    fn mixed(&self) -> bool {
        let kinds = [self.bools, self.integers || self.floats, self.strings, self.sparse, self.other];
        kinds.into_iter().filter(|&seen| seen).count() > 1
    }

    fn kind(&self, name: &str, options: &ImportOptions, metric: Metric) -> Result<FieldKind, String> {
        let payload = |kind| Ok(FieldKind::Payload { kind });
        let numbers_only = !self.mixed() && (self.integers || self.floats);
        if let Some((low, high)) = self.number_list_lens.filter(|_| numbers_only) {
            let named = name == options.vector_field;
            if named && low != high {
                return Err(format!("field '{name}': vectors of {low} and of {high} elements"));
            }
            if named || (low == high && low >= DENSE_LEN_MIN && self.floats) {
                let dim = u32::try_from(low).map_err(|_| format!("field '{name}': {low} elements"))?;
                return Ok(Schema::new().dense(name, dim, metric).fields.remove(0).kind);
            }
        }
        if self.mixed() || self.other {
            return payload(PayloadKind::Json);
        }
        if self.sparse {
            return Ok(FieldKind::Sparse);
        }
        match () {
            () if self.bools => payload(PayloadKind::Bool),
            () if self.floats => payload(PayloadKind::Float),
            () if self.integers => payload(PayloadKind::Integer),
            () if self.instants && !self.plain_strings => payload(PayloadKind::Datetime),
            () if self.string_bytes_max > KEYWORD_BYTES_MAX && self.lists => payload(PayloadKind::Text),
            () if self.string_bytes_max > KEYWORD_BYTES_MAX => Ok(text()),
            () if self.strings => payload(PayloadKind::Keyword),
            () => payload(PayloadKind::Json),
        }
    }
}
