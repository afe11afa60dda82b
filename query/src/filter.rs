//! A filter over one segment becomes a bitmap of its docs.
//!
//! Every leaf is answered by the field's payload index, within the tenant's range of docs; `not` is taken
//! within it. `and` begins with what the indexes estimate to be cheapest, goes on within the range that is
//! left, and stops when nothing is. The cost is that of the bitmaps named, not of the rows.

use std::ops::{Bound, Range};
use std::sync::Arc;
use std::time::Instant;

use roaring::RoaringBitmap;
use spandrel_index::payload::{Predicate, datetime};
use spandrel_index::segment::Segment;
use spandrel_storage::codec::Encoder;
use spandrel_storage::store::StoreSnapshot;
use spandrel_storage::{
    CollectionId, DocId, FieldId, FieldKind, LabelId, PayloadKind, RowId, Schema, TenantId, Value,
};

use crate::check::{check_key, unknown_field};
use crate::error::{Error, Result};
use crate::filter_cache::{self, Passing};
use crate::labels::{Labels, check_label};
use crate::request::{FILTER_DEPTH_MAX, FILTER_TERMS_MAX, Filter};
use crate::shared::Shared;
use crate::snapshot::View;

/// A filter checked against the schema, with its keys resolved to rows: one for all segments of a search.
pub struct CheckedFilter {
    root: Node,
    /// What it is called, where what it lets through of a segment never changes.
    lasting: Option<Vec<u8>>,
}

enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Equals(FieldId, Value),
    In(FieldId, Vec<Value>),
    Range(FieldId, Bound<Value>, Bound<Value>),
    Exists(FieldId),
    Prefix(FieldId, String),
    Match(FieldId, String),
    Rows(Vec<RowId>),
    Labels(Vec<LabelId>),
}

/// Where the rows behind keys are looked up.
pub struct KeyLookup<'a> {
    /// The row store as the search sees it.
    pub store: &'a StoreSnapshot,
    /// The collection.
    pub collection: CollectionId,
    /// The tenant.
    pub tenant: TenantId,
    /// The names of labels.
    pub labels: &'a Labels,
}

impl CheckedFilter {
    /// Checks fields, value kinds, depth and size, and looks up keys.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) naming the field and what it accepts.
    pub fn new(schema: &Schema, filter: &Filter, keys: &KeyLookup<'_>) -> Result<Self> {
        let mut terms = 0;
        let root = check(schema, filter, Some(keys), 0, &mut terms)?;
        let mut name = Encoder::default();
        let lasting = (root.name(&mut name) && name.len() <= KEPT_NAME_BYTES_MAX).then(|| name.finish());
        Ok(Self { root, lasting })
    }

    /// As [`CheckedFilter::new`], without looking up keys: only whether the filter fits the schema.
    ///
    /// # Errors
    /// As [`CheckedFilter::new`].
    pub fn check(schema: &Schema, filter: &Filter) -> Result<()> {
        check(schema, filter, None, 0, &mut 0).map(drop)
    }

    /// Rows with one of these labels that pass a filter, if there is one.
    pub fn labelled(filter: Option<Self>, labels: Vec<LabelId>) -> Self {
        let labels = Node::Labels(labels);
        Self {
            root: match filter.map(|filter| filter.root) {
                None => labels,
                Some(Node::And(mut nodes)) => {
                    nodes.push(labels);
                    Node::And(nodes)
                }
                Some(root) => Node::And(vec![root, labels]),
            },
            lasting: None,
        }
    }

    /// As [`docs`](Self::docs), from a cache where it was asked before.
    ///
    /// # Errors
    /// As [`docs`](Self::docs).
    pub fn passing(
        &self,
        shared: &Shared,
        view: &View,
        tenant: TenantId,
        range: &Range<DocId>,
    ) -> Result<Arc<Passing>> {
        let cache = &shared.filters;
        let Some(filter) = self.lasting.as_ref().filter(|_| cache.keeps() && view.segment.on_disk()) else {
            return Ok(Passing::once(self.docs(view, tenant, range)?));
        };
        let mut name = filter_cache::beginning(shared.id, Some(&view.segment));
        name.u32(tenant.0).raw(filter);
        let name = name.finish();
        if let Some(passing) = cache.get(&name) {
            return Ok(passing);
        }
        let started = Instant::now();
        let docs = self.docs(view, tenant, range)?;
        let took_ns = started.elapsed().as_nanos() as f64;
        Ok(cache.offer(&name, docs, took_ns, view.segment.schema().fields.len()))
    }

    /// The docs of `range` in a segment that pass.
    ///
    /// # Errors
    /// When a payload index refuses a value or is damaged.
    pub fn docs(&self, view: &View, tenant: TenantId, range: &Range<DocId>) -> Result<RoaringBitmap> {
        let within = Within { view, segment: &view.segment, tenant };
        within.eval(&self.root, range)
    }
}

/// Longest name of a filter that is kept: longer ones take as long to compare as to evaluate.
const KEPT_NAME_BYTES_MAX: usize = 4_096;

const RANGE_KINDS: [PayloadKind; 4] =
    [PayloadKind::Integer, PayloadKind::Float, PayloadKind::Datetime, PayloadKind::Keyword];

fn check(
    schema: &Schema,
    filter: &Filter,
    keys: Option<&KeyLookup<'_>>,
    depth: usize,
    terms: &mut usize,
) -> Result<Node> {
    if depth > FILTER_DEPTH_MAX {
        return Err(Error::invalid(format!("a filter nests at most {FILTER_DEPTH_MAX} deep")));
    }
    *terms += match filter {
        Filter::In { values, .. } => values.len().max(1),
        Filter::Keys(keys) => keys.len().max(1),
        Filter::Labels(labels) => labels.len().max(1),
        _ => 1,
    };
    if *terms > FILTER_TERMS_MAX {
        return Err(Error::invalid(format!("a filter has at most {FILTER_TERMS_MAX} conditions and values")));
    }
    let mut all = |filters: &[Filter]| -> Result<Vec<Node>> {
        filters.iter().map(|filter| check(schema, filter, keys, depth + 1, terms)).collect()
    };
    Ok(match filter {
        Filter::And(filters) => Node::And(all(filters)?),
        Filter::Or(filters) => Node::Or(all(filters)?),
        Filter::Not(filter) => Node::Not(Box::new(check(schema, filter, keys, depth + 1, terms)?)),
        Filter::Equals { field, value } => {
            let (id, kind) = payload_field(schema, field)?;
            Node::Equals(id, operand(kind, value, field)?)
        }
        Filter::In { field, values } => {
            let (id, kind) = payload_field(schema, field)?;
            Node::In(id, values.iter().map(|value| operand(kind, value, field)).collect::<Result<_>>()?)
        }
        Filter::Range { field, gt, gte, lt, lte } => {
            let (id, kind) = payload_field(schema, field)?;
            expect_kind(field, "range", kind, &RANGE_KINDS)?;
            let lower = bound(kind, field, "gt", gt.as_ref(), "gte", gte.as_ref())?;
            let upper = bound(kind, field, "lt", lt.as_ref(), "lte", lte.as_ref())?;
            if matches!((&lower, &upper), (Bound::Unbounded, Bound::Unbounded)) {
                return Err(Error::invalid(format!("the range on '{field}' needs gt, gte, lt or lte")));
            }
            Node::Range(id, lower, upper)
        }
        Filter::Exists { field } => Node::Exists(payload_field(schema, field)?.0),
        Filter::Prefix { field, prefix } => {
            let (id, kind) = payload_field(schema, field)?;
            expect_kind(field, "prefix", kind, &[PayloadKind::Keyword])?;
            Node::Prefix(id, prefix.clone())
        }
        Filter::Match { field, text } => {
            let (id, kind) = payload_field(schema, field)?;
            expect_kind(field, "match", kind, &[PayloadKind::Text])?;
            Node::Match(id, text.clone())
        }
        Filter::Labels(names) => {
            names.iter().try_for_each(|name| check_label(name))?;
            Node::Labels(keys.map_or(Vec::new(), |keys| keys.labels.known(names)))
        }
        Filter::Keys(names) => {
            names.iter().try_for_each(|key| check_key(key))?;
            let Some(keys) = keys else { return Ok(Node::Rows(Vec::new())) };
            let names: Vec<_> = names.iter().map(|name| (keys.tenant, name.as_str())).collect();
            let mut rows: Vec<RowId> =
                keys.store.lookup(keys.collection, &names)?.into_iter().flatten().collect();
            rows.sort_unstable();
            rows.dedup();
            Node::Rows(rows)
        }
    })
}

fn payload_field(schema: &Schema, name: &str) -> Result<(FieldId, PayloadKind)> {
    match schema.find(name) {
        Some((_, field)) if matches!(field.kind, FieldKind::Payload { kind: PayloadKind::Json }) => {
            Err(Error::invalid(format!("field '{name}' is json, which is stored and not filtered")))
        }
        Some((id, field)) => match &field.kind {
            FieldKind::Payload { kind } => Ok((id, *kind)),
            kind => Err(Error::invalid(format!(
                "field '{name}' is a {} field; filters test payload fields",
                kind.name()
            ))),
        },
        None => Err(unknown_field(schema, name)),
    }
}

/// A filter's value in the field's own type.
fn operand(kind: PayloadKind, value: &Value, field: &str) -> Result<Value> {
    let wants = match (kind, value) {
        (PayloadKind::Datetime, Value::String(text)) => {
            return datetime::parse_rfc3339(text).map(Value::Integer).ok_or_else(|| {
                Error::invalid(format!(
                    "field '{field}': '{text}' is not an RFC 3339 instant such as 2026-01-31T12:00:00Z"
                ))
            });
        }
        (PayloadKind::Integer | PayloadKind::Float, Value::Float(number)) if number.is_nan() => {
            return Err(Error::invalid(format!(
                "field '{field}': NaN equals nothing and orders with nothing"
            )));
        }
        (PayloadKind::Keyword, Value::String(_))
        | (PayloadKind::Integer | PayloadKind::Float, Value::Integer(_) | Value::Float(_))
        | (PayloadKind::Bool, Value::Bool(_))
        | (PayloadKind::Datetime, Value::Integer(_)) => return Ok(value.clone()),
        (PayloadKind::Keyword, _) => "strings",
        (PayloadKind::Integer | PayloadKind::Float, _) => "numbers",
        (PayloadKind::Bool, _) => "true or false",
        (PayloadKind::Datetime, _) => "RFC 3339 strings or integer microseconds since 1970",
        (PayloadKind::Text, _) => "'match' only",
        (PayloadKind::Json, _) => "no filter",
    };
    Err(Error::invalid(format!("field '{field}' takes {wants} in a filter, not a {}", value.kind_name())))
}

/// Checks that a condition is one that fields of this kind answer.
fn expect_kind(field: &str, condition: &str, kind: PayloadKind, takes: &[PayloadKind]) -> Result<()> {
    if takes.contains(&kind) {
        return Ok(());
    }
    let takes: Vec<String> = takes.iter().map(|kind| format!("{kind:?}").to_lowercase()).collect();
    let kind = format!("{kind:?}").to_lowercase();
    Err(Error::invalid(format!("field '{field}' is {kind}; '{condition}' tests {} fields", takes.join(", "))))
}

fn bound(
    kind: PayloadKind,
    field: &str,
    open_name: &str,
    open: Option<&Value>,
    closed_name: &str,
    closed: Option<&Value>,
) -> Result<Bound<Value>> {
    match (open, closed) {
        (None, None) => Ok(Bound::Unbounded),
        (Some(value), None) => Ok(Bound::Excluded(operand(kind, value, field)?)),
        (None, Some(value)) => Ok(Bound::Included(operand(kind, value, field)?)),
        (Some(_), Some(_)) => Err(Error::invalid(format!(
            "the range on '{field}' has both {open_name} and {closed_name}; give one"
        ))),
    }
}

/// Appends what tells values from others.
fn name_values(out: &mut Encoder, values: &[Value]) {
    out.u32(values.len() as u32);
    for value in values {
        match value {
            Value::Bool(value) => {
                out.u8(0).u8(u8::from(*value));
            }
            Value::Integer(value) => {
                out.u8(1).i64(*value);
            }
            Value::Float(value) => {
                out.u8(2).f64(*value);
            }
            Value::String(text) => {
                out.u8(3).str(text);
            }
            Value::List(values) => name_values(out.u8(4), values),
        }
    }
}

impl Node {
    /// Appends what tells this from every other node; false when what it lets through of a segment changes.
    fn name(&self, out: &mut Encoder) -> bool {
        let many = |out: &mut Encoder, tag: u8, nodes: &[Self]| {
            out.u8(tag).u32(nodes.len() as u32);
            nodes.iter().all(|node| node.name(out))
        };
        match self {
            Self::And(nodes) => return many(out, 0, nodes),
            Self::Or(nodes) => return many(out, 1, nodes),
            Self::Not(node) => return node.name(out.u8(2)),
            Self::Rows(_) | Self::Labels(_) => return false,
            Self::Equals(id, value) => name_values(out.u8(3).u16(id.0), std::slice::from_ref(value)),
            Self::In(id, values) => name_values(out.u8(4).u16(id.0), values),
            Self::Range(id, lower, upper) => {
                out.u8(5).u16(id.0);
                for bound in [lower, upper] {
                    match bound {
                        Bound::Unbounded => {
                            out.u8(0);
                        }
                        Bound::Included(value) => name_values(out.u8(1), std::slice::from_ref(value)),
                        Bound::Excluded(value) => name_values(out.u8(2), std::slice::from_ref(value)),
                    }
                }
            }
            Self::Exists(id) => {
                out.u8(6).u16(id.0);
            }
            Self::Prefix(id, prefix) => {
                out.u8(7).u16(id.0).str(prefix);
            }
            Self::Match(id, text) => {
                out.u8(8).u16(id.0).str(text);
            }
        }
        true
    }

    /// The field and the test of it, for a condition that one payload index answers.
    fn leaf(&self) -> Option<(FieldId, Predicate<'_>)> {
        Some(match self {
            Self::Equals(id, value) => (*id, Predicate::Equals(value)),
            Self::In(id, values) => (*id, Predicate::AnyOf(values)),
            Self::Range(id, lower, upper) => {
                (*id, Predicate::Range { lower: lower.as_ref(), upper: upper.as_ref() })
            }
            Self::Exists(id) => (*id, Predicate::Exists),
            Self::Prefix(id, prefix) => (*id, Predicate::Prefix(prefix)),
            Self::Match(id, text) => (*id, Predicate::Matches(text)),
            Self::And(_) | Self::Or(_) | Self::Not(_) | Self::Rows(_) | Self::Labels(_) => return None,
        })
    }
}

/// The docs of one tenant in one segment, where a filter is evaluated.
struct Within<'a> {
    view: &'a View,
    segment: &'a Segment,
    tenant: TenantId,
}

impl Within<'_> {
    /// The docs of `range` that pass.
    fn eval(&self, node: &Node, range: &Range<DocId>) -> Result<RoaringBitmap> {
        if let Some((id, test)) = node.leaf() {
            let Some(index) = self.segment.payload(id) else { return Ok(RoaringBitmap::new()) };
            return index.select(&test, range.clone()).map_err(|error| self.at(id, error));
        }
        match node {
            Node::And(nodes) => self.all_of(nodes, range),
            Node::Or(nodes) => {
                let mut docs = RoaringBitmap::new();
                for node in nodes {
                    docs |= self.eval(node, range)?;
                }
                Ok(docs)
            }
            Node::Not(node) => Ok(all_docs(range) - self.eval(node, range)?),
            Node::Rows(rows) => {
                let found = self.rows(rows).iter().filter_map(|row| self.segment.doc(self.tenant, *row));
                Ok(found.filter(|doc| range.contains(doc)).collect())
            }
            Node::Labels(labels) => Ok(self.view.labelled(labels, range)),
            _ => Ok(RoaringBitmap::new()),
        }
    }

    fn all_of(&self, nodes: &[Node], range: &Range<DocId>) -> Result<RoaringBitmap> {
        if let [only] = nodes {
            return self.eval(only, range);
        }
        let mut order = Vec::with_capacity(nodes.len());
        for node in nodes {
            order.push((self.cost(node, range)?, node));
        }
        order.sort_by_key(|(cost, _)| *cost);
        let Some(((_, first), rest)) = order.split_first() else {
            return Ok(all_docs(range));
        };
        let mut docs = self.eval(first, range)?;
        for (_, node) in rest {
            let (Some(first), Some(last)) = (docs.min(), docs.max()) else { break };
            docs &= self.eval(node, &(first..last + 1))?;
        }
        Ok(docs)
    }

    /// About how many docs are touched by evaluating a node.
    fn cost(&self, node: &Node, range: &Range<DocId>) -> Result<u64> {
        if let Some((id, test)) = node.leaf() {
            let Some(index) = self.segment.payload(id) else { return Ok(0) };
            return index.estimate(&test).map_err(|error| self.at(id, error));
        }
        Ok(match node {
            Node::And(nodes) => {
                let costs = nodes.iter().map(|node| self.cost(node, range)).collect::<Result<Vec<_>>>()?;
                costs.into_iter().min().unwrap_or(range.len() as u64)
            }
            Node::Or(nodes) => nodes.iter().map(|node| self.cost(node, range)).sum::<Result<u64>>()?,
            Node::Not(node) => range.len() as u64 + self.cost(node, range)?,
            Node::Rows(rows) => self.rows(rows).len() as u64,
            _ => 0,
        })
    }

    /// Those of the rows that lie in the segment.
    fn rows<'r>(&self, rows: &'r [RowId]) -> &'r [RowId] {
        let from = rows.partition_point(|row| *row < self.segment.first());
        &rows[from..rows.partition_point(|row| *row <= self.segment.last())]
    }

    fn at(&self, field: FieldId, error: spandrel_index::Error) -> Error {
        Error::from(error).context(format!("field '{}'", self.segment.schema().get(field).name))
    }
}

fn all_docs(range: &Range<DocId>) -> RoaringBitmap {
    let mut docs = RoaringBitmap::new();
    docs.insert_range(range.clone());
    docs
}
