//! Rows as a plain map, and filters tested on them one by one.
//!
//! Vectors hold small whole numbers, so that every sum of a score is exact in f32 in any order: scores are
//! compared by their bits, and equal ones are common.

use std::collections::{BTreeMap, BTreeSet};

use spandrel::{Filter, Metric, PayloadKind, Row, Value};

/// A payload field.
pub struct Column {
    pub name: String,
    pub kind: PayloadKind,
    /// What rows hold and filters ask for.
    pub values: Vec<Value>,
    /// One row in so many has no value.
    pub missing: usize,
    pub lists: bool,
    /// Whether a row's value has to do with where its vector lies.
    pub placed: bool,
}

pub struct ModelRow {
    /// Larger for a row that was written later.
    pub order: u64,
    pub vector: Option<Vec<f32>>,
    /// By column; several, where it is a list.
    pub values: Vec<Vec<Value>>,
    pub labels: BTreeSet<String>,
}

/// The rows of a tenant, by key.
pub type Rows = BTreeMap<String, ModelRow>;

/// A row found, as it is to be ranked: larger scores first, then older rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    pub score: f32,
    pub order: u64,
    pub key: String,
}

pub fn score(metric: Metric, query: &[f32], vector: &[f32]) -> f32 {
    let pairs = query.iter().zip(vector);
    match metric {
        Metric::L2 => -pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f32>(),
        Metric::Ip => pairs.map(|(a, b)| a * b).sum(),
        Metric::Cosine => panic!("cosine is not exact"),
    }
}

/// All rows with a vector that pass, best first.
pub fn ranked(
    rows: &Rows,
    metric: Metric,
    query: &[f32],
    passes: impl Fn(&str, &ModelRow) -> bool,
) -> Vec<Ranked> {
    let mut found: Vec<Ranked> = rows
        .iter()
        .filter(|(key, row)| row.vector.is_some() && passes(key, row))
        .map(|(key, row)| {
            let score = score(metric, query, row.vector.as_ref().unwrap());
            Ranked { score, order: row.order, key: key.clone() }
        })
        .collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.order.cmp(&b.order)));
    found
}

/// Whether a row passes a filter.
pub fn passes(columns: &[Column], filter: &Filter, key: &str, row: &ModelRow) -> bool {
    let at = |field: &String| columns.iter().position(|column| column.name == *field).unwrap();
    let any = |field: &String, test: &dyn Fn(&Value) -> bool| row.values[at(field)].iter().any(test);
    match filter {
        Filter::And(filters) => filters.iter().all(|filter| passes(columns, filter, key, row)),
        Filter::Or(filters) => filters.iter().any(|filter| passes(columns, filter, key, row)),
        Filter::Not(filter) => !passes(columns, filter, key, row),
        Filter::Equals { field, value } => any(field, &|held| order(held, value).is_eq()),
        Filter::In { field, values } => {
            any(field, &|held| values.iter().any(|value| order(held, value).is_eq()))
        }
        Filter::Range { field, gt, gte, lt, lte } => any(field, &|held| {
            let is = |bound: &Option<Value>, holds: fn(std::cmp::Ordering) -> bool| {
                bound.as_ref().is_none_or(|bound| holds(order(held, bound)))
            };
            is(gt, |o| o.is_gt()) && is(gte, |o| o.is_ge()) && is(lt, |o| o.is_lt()) && is(lte, |o| o.is_le())
        }),
        Filter::Exists { field } => any(field, &|_| true),
        Filter::Prefix { field, prefix } => any(field, &|held| match held {
            Value::String(held) => held.as_bytes().starts_with(prefix.as_bytes()),
            other => panic!("{other:?}"),
        }),
        Filter::Match { field, text } => any(field, &|held| {
            let Value::String(held) = held else { panic!("{held:?}") };
            let (held, asked) = (words(held), words(text));
            !asked.is_empty() && asked.is_subset(&held)
        }),
        Filter::Keys(keys) => keys.iter().any(|asked| asked == key),
        Filter::Labels(labels) => labels.iter().any(|label| row.labels.contains(label)),
    }
}

/// Order of two values of one kind; numbers are small, so that f64 holds them.
fn order(held: &Value, asked: &Value) -> std::cmp::Ordering {
    match (held, asked) {
        (Value::String(held), Value::String(asked)) if instant(asked).is_none() => {
            held.as_bytes().cmp(asked.as_bytes())
        }
        (Value::Bool(held), Value::Bool(asked)) => held.cmp(asked),
        _ => number(held).partial_cmp(&number(asked)).unwrap(),
    }
}

fn number(value: &Value) -> f64 {
    match value {
        Value::Integer(number) => *number as f64,
        Value::Float(number) => *number,
        Value::String(text) => instant(text).unwrap() as f64,
        other => panic!("{other:?}"),
    }
}

/// Microseconds of the days in January 2026 that are drawn.
fn instant(text: &str) -> Option<i64> {
    let day: i64 = text.strip_prefix("2026-01-")?.strip_suffix("T00:00:00Z")?.parse().unwrap();
    Some(day_us(day))
}

/// Midnight of a day in January 2026.
pub fn day_us(day: i64) -> i64 {
    (1_767_225_600 + (day - 1) * 86_400) * 1_000_000
}

fn words(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// The row to be written.
pub fn to_row(columns: &[Column], tenant: &str, key: &str, row: &ModelRow) -> Row {
    let mut out = Row::new(key).tenant(tenant);
    if let Some(vector) = &row.vector {
        out = out.dense("v", vector.clone());
    }
    for (column, values) in columns.iter().zip(&row.values) {
        out = match &values[..] {
            // No value is no field, or an empty list.
            [] if row.order.is_multiple_of(2) => out,
            [one] if row.order.is_multiple_of(3) => out.payload(&*column.name, one.clone()),
            values => out.payload(&*column.name, Value::List(values.to_vec())),
        };
    }
    out.labels = row.labels.clone();
    out
}
