//! A filter over one segment becomes a bitmap of its docs.
//!
//! Every leaf is answered by the field's payload index; `not` is taken within the tenant's docs. The cost is
//! that of the bitmaps named, not of the rows; each operation stays within the tenant's range.

use std::ops::{Bound, Range};

use roaring::RoaringBitmap;
use spandrel_index::payload::{PayloadIndex, datetime};
use spandrel_index::segment::Segment;
use spandrel_storage::store::StoreSnapshot;
use spandrel_storage::{
    CollectionId, DocId, FieldId, FieldKind, PayloadKind, RowId, Schema, TenantId, Value,
};

use crate::check::{check_key, unknown_field};
use crate::error::{Error, Result};
use crate::request::{FILTER_DEPTH_MAX, FILTER_TERMS_MAX, Filter};

/// A filter checked against the schema, with its keys resolved to rows: one for all segments of a search.
pub struct CheckedFilter {
    root: Node,
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
}

/// Where the rows behind keys are looked up.
pub struct KeyLookup<'a> {
    /// The row store as the search sees it.
    pub store: &'a StoreSnapshot,
    /// The collection.
    pub collection: CollectionId,
    /// The tenant.
    pub tenant: TenantId,
}

impl CheckedFilter {
    /// Checks fields, value kinds, depth and size, and looks up keys.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) naming the field and what it accepts.
    pub fn new(schema: &Schema, filter: &Filter, keys: &KeyLookup<'_>) -> Result<Self> {
        let mut terms = 0;
        let root = check(schema, filter, Some(keys), 0, &mut terms)?;
        Ok(Self { root })
    }

    /// As [`CheckedFilter::new`], without looking up keys: only whether the filter fits the schema.
    ///
    /// # Errors
    /// As [`CheckedFilter::new`].
    pub fn check(schema: &Schema, filter: &Filter) -> Result<()> {
        check(schema, filter, None, 0, &mut 0).map(drop)
    }

    /// The docs of `range` in `segment` that pass.
    ///
    /// # Errors
    /// When a payload index refuses a value or is damaged.
    pub fn docs(&self, segment: &Segment, tenant: TenantId, range: &Range<DocId>) -> Result<RoaringBitmap> {
        let mut docs = eval(&self.root, segment, tenant, range)?;
        docs.remove_range(..range.start);
        docs.remove_range(range.end..);
        Ok(docs)
    }
}

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

fn eval(node: &Node, segment: &Segment, tenant: TenantId, range: &Range<DocId>) -> Result<RoaringBitmap> {
    let leaf =
        |id: FieldId, answer: &dyn Fn(&PayloadIndex) -> spandrel_index::Result<RoaringBitmap>| match segment
            .payload(id)
        {
            Some(index) => answer(index).map_err(|error| {
                Error::from(error).context(format!("field '{}'", segment.schema().get(id).name))
            }),
            None => Ok(RoaringBitmap::new()),
        };
    match node {
        Node::And(nodes) => {
            let Some((first, rest)) = nodes.split_first() else {
                return Ok(all_docs(range));
            };
            let mut docs = eval(first, segment, tenant, range)?;
            for node in rest {
                if docs.is_empty() {
                    break;
                }
                docs &= eval(node, segment, tenant, range)?;
            }
            Ok(docs)
        }
        Node::Or(nodes) => {
            let mut docs = RoaringBitmap::new();
            for node in nodes {
                docs |= eval(node, segment, tenant, range)?;
            }
            Ok(docs)
        }
        Node::Not(node) => Ok(all_docs(range) - eval(node, segment, tenant, range)?),
        Node::Equals(id, value) => leaf(*id, &|index| index.equals(value)),
        Node::In(id, values) => leaf(*id, &|index| index.any_of(values)),
        Node::Range(id, lower, upper) => leaf(*id, &|index| index.range(lower.as_ref(), upper.as_ref())),
        Node::Exists(id) => leaf(*id, &|index| Ok(index.exists().clone())),
        Node::Prefix(id, prefix) => leaf(*id, &|index| index.prefix(prefix)),
        Node::Match(id, text) => leaf(*id, &|index| index.matches(text)),
        Node::Rows(rows) => {
            let from = rows.partition_point(|row| *row < segment.first());
            let to = rows.partition_point(|row| *row <= segment.last());
            Ok(rows[from..to].iter().filter_map(|row| segment.doc(tenant, *row)).collect())
        }
    }
}

fn all_docs(range: &Range<DocId>) -> RoaringBitmap {
    let mut docs = RoaringBitmap::new();
    docs.insert_range(range.clone());
    docs
}
