//! Random schemas, rows and filters.

use std::collections::BTreeSet;

use spandrel::{DenseSpec, Element, FieldKind, Filter, IndexKind, Metric, PayloadKind, Schema, Value};

use super::model::{Column, ModelRow, day_us};
use crate::rng::Rng;

pub const DIM: usize = 16;
const CLUSTERS: usize = 24;
pub const LABELS: usize = 9;
const WORDS: [&str; 9] = ["alpha", "beta", "Gamma", "delta", "river", "STONE", "cloud", "été", "日本"];
const KINDS: [PayloadKind; 6] = [
    PayloadKind::Keyword,
    PayloadKind::Integer,
    PayloadKind::Float,
    PayloadKind::Bool,
    PayloadKind::Datetime,
    PayloadKind::Text,
];

/// What a seed decides beside rows.
pub struct World {
    pub metric: Metric,
    element: Element,
    pub columns: Vec<Column>,
    centers: Vec<Vec<f32>>,
}

impl World {
    pub fn new(rng: &mut Rng) -> Self {
        // One of each kind, and some more.
        let kinds: Vec<PayloadKind> =
            KINDS.into_iter().chain((0..rng.below(3)).map(|_| *rng.pick(&KINDS))).collect();
        let columns = kinds.into_iter().enumerate().map(|(at, kind)| column(rng, at, kind)).collect();
        let center = |rng: &mut Rng| rng.vector(DIM).iter().map(|element| (60.0 * element).round()).collect();
        Self {
            metric: *rng.pick(&[Metric::L2, Metric::Ip]),
            element: *rng.pick(&[Element::F32, Element::F16, Element::I8]),
            columns,
            centers: (0..CLUSTERS).map(|_| center(rng)).collect(),
        }
    }

    pub fn schema(&self) -> Schema {
        let (metric, element) = (self.metric, self.element);
        let spec = DenseSpec { dim: DIM as u32, metric, element, index: IndexKind::Auto };
        let schema = Schema::new().field("v", FieldKind::Dense(spec));
        self.columns.iter().fold(schema, |schema, column| schema.payload(&*column.name, column.kind))
    }

    pub fn say(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let Column { kind, values, missing, lists, placed, .. } = column;
                format!(
                    "{kind:?} ({} values, missing 1/{missing}, lists {lists}, placed {placed})",
                    values.len()
                )
            })
            .collect();
        format!("{:?} of {:?}; {}", self.metric, self.element, columns.join(", "))
    }

    /// A vector of whole numbers near one of the centers.
    pub fn vector(&self, rng: &mut Rng, cluster: usize, spread: f32) -> Vec<f32> {
        self.centers[cluster].iter().map(|element| (element + spread * rng.unit()).round()).collect()
    }

    /// Something to look for: in a cluster, between them, or far off.
    pub fn query(&self, rng: &mut Rng) -> Vec<f32> {
        let (cluster, spread) = (rng.below(CLUSTERS), *rng.pick(&[5.0, 15.0, 15.0, 40.0, 300.0]));
        self.vector(rng, cluster, spread)
    }

    pub fn row(&self, rng: &mut Rng, order: u64) -> ModelRow {
        let cluster = rng.below(CLUSTERS);
        // Some lie on the very same point.
        let spread = if rng.once_in(10) { 0.0 } else { 15.0 };
        let vector = (!rng.once_in(20)).then(|| self.vector(rng, cluster, spread));
        let values = self.columns.iter().map(|column| draw_values(rng, column, cluster)).collect();
        ModelRow { order, vector, values, labels: labels(rng, 3) }
    }

    pub fn filter(&self, rng: &mut Rng, depth: usize, keys: usize) -> Filter {
        let some = |rng: &mut Rng| -> Vec<Filter> {
            (0..1 + rng.below(3)).map(|_| self.filter(rng, depth - 1, keys)).collect()
        };
        match rng.below(if depth == 0 { 12 } else { 24 }) {
            0 => Filter::Keys((0..rng.below(300)).map(|_| format!("k{}", rng.below(keys))).collect()),
            1 | 2 => Filter::Labels(labels(rng, 3).into_iter().collect()),
            3..12 => self.leaf(rng),
            12..16 => Filter::Not(Box::new(self.filter(rng, depth - 1, keys))),
            16 if rng.once_in(4) => Filter::And(vec![]),
            17 if rng.once_in(4) => Filter::Or(vec![]),
            16..20 => Filter::And(some(rng)),
            _ => Filter::Or(some(rng)),
        }
    }

    fn leaf(&self, rng: &mut Rng) -> Filter {
        let column = rng.pick(&self.columns);
        let field = column.name.clone();
        if rng.once_in(8) {
            return Filter::Exists { field };
        }
        let value = |rng: &mut Rng| operand(rng, column);
        match (column.kind, rng.below(6)) {
            (PayloadKind::Text, _) => {
                let words: Vec<&str> = (0..rng.below(4)).map(|_| *rng.pick(&WORDS)).collect();
                Filter::Match { field, text: words.join(" ? ") }
            }
            (PayloadKind::Keyword, 0 | 1) => {
                let Value::String(whole) = value(rng) else { panic!("not a keyword") };
                let chars = rng.below(3);
                Filter::Prefix { field, prefix: whole.chars().take(chars).collect() }
            }
            (PayloadKind::Bool, 0..4) | (_, 2) => Filter::Equals { field, value: value(rng) },
            (PayloadKind::Bool, _) | (_, 3) => {
                Filter::In { field, values: (0..rng.below(5)).map(|_| value(rng)).collect() }
            }
            _ => {
                let mut bound = |unless: usize| (!rng.once_in(unless)).then(|| value(rng));
                let (lower, upper) = (bound(3), bound(3));
                let lower = if upper.is_none() { lower.or_else(|| Some(value(rng))) } else { lower };
                let (gt, gte) = if rng.once_in(2) { (lower, None) } else { (None, lower) };
                let (lt, lte) = if rng.once_in(2) { (upper, None) } else { (None, upper) };
                Filter::Range { field, gt, gte, lt, lte }
            }
        }
    }
}

pub fn labels(rng: &mut Rng, most: usize) -> BTreeSet<String> {
    (0..rng.below(most + 1)).map(|_| format!("label {}", rng.below(LABELS))).collect()
}

fn column(rng: &mut Rng, at: usize, kind: PayloadKind) -> Column {
    let count = *rng.pick(&[2, 5, 30, 400]);
    let value = |rng: &mut Rng, at: usize| match kind {
        PayloadKind::Keyword => {
            let first = rng.pick(&["", "a", "ab", "abc", "b", "é", "日", "\u{10FFFF}"]);
            Value::from(format!("{first}{}", at / 3))
        }
        PayloadKind::Integer => Value::Integer(rng.below(900) as i64 - 450),
        PayloadKind::Float => Value::Float(rng.below(900) as f64 / 4.0 - 100.0),
        PayloadKind::Bool => Value::Bool(at == 0),
        PayloadKind::Datetime => Value::Integer(day_us(1 + rng.below(31) as i64)),
        _ => {
            let words: Vec<&str> = (0..rng.below(6)).map(|_| *rng.pick(&WORDS)).collect();
            Value::from(words.join(", "))
        }
    };
    Column {
        name: format!("f{at}"),
        kind,
        values: (0..count).map(|at| value(rng, at)).collect(),
        missing: *rng.pick(&[2, 5, 50]),
        lists: rng.once_in(3),
        placed: rng.once_in(3),
    }
}

/// The values of a row: the first of a column's are common, the last are rare.
fn draw_values(rng: &mut Rng, column: &Column, cluster: usize) -> Vec<Value> {
    if rng.once_in(column.missing) {
        return Vec::new();
    }
    let count = if column.lists { rng.below(4) } else { 1 };
    let of = &column.values;
    let draw = |rng: &mut Rng| match column.placed {
        true => of[(cluster * of.len() / CLUSTERS + rng.below(of.len() / CLUSTERS + 1)) % of.len()].clone(),
        false => {
            let most = 1 + rng.below(of.len());
            of[rng.below(most)].clone()
        }
    };
    (0..count).map(|_| draw(rng)).collect()
}

/// A value to compare with: one that rows have, one beside it, or the same in another form.
fn operand(rng: &mut Rng, column: &Column) -> Value {
    let value = rng.pick(&column.values).clone();
    match (column.kind, value) {
        (PayloadKind::Keyword, Value::String(text)) if rng.once_in(6) => Value::from(text + "0"),
        (PayloadKind::Integer, Value::Integer(number)) if rng.once_in(4) => {
            Value::Float(number as f64 + *rng.pick(&[0.0, 0.5, -0.25]))
        }
        (PayloadKind::Float, Value::Float(number)) if rng.once_in(4) => Value::Integer(number.round() as i64),
        (PayloadKind::Datetime, _) if rng.once_in(2) => {
            Value::from(format!("2026-01-{:02}T00:00:00Z", 1 + rng.below(31)))
        }
        (_, value) => value,
    }
}
