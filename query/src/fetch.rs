//! From row ids back to rows, with the fields that were asked for.

use std::collections::BTreeSet;

use spandrel_index::payload::datetime;
use spandrel_index::stop::Stop;
use spandrel_storage::record::{FieldSet, StoredRow};
use spandrel_storage::store::StoreSnapshot;
use spandrel_storage::{
    Chunk, FieldId, FieldKind, FieldValue, LabelId, PayloadKind, Row, RowId, Schema, TenantId, Value,
};

use crate::check::unknown_field;
use crate::error::{Error, ErrorKind, Result};
use crate::filter::{CheckedFilter, KeyLookup};
use crate::live::labels_of;
use crate::request::{Fields, K_MAX, ScrollRequest, SearchRequest};
use crate::response::ScrollResponse;
use crate::search::{has_label, known_labels};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// Keys read at once while scrolling under a filter.
const SCROLL_KEYS: usize = 1_024;
/// Rows fetched between two looks at the clock and the bound of the answer.
const FETCH_ROWS: usize = 256;

/// The ids of the fields asked for.
pub fn field_set(schema: &Schema, fields: &Fields) -> Result<FieldSet> {
    let mut set = FieldSet::NONE;
    match fields {
        Fields::All => return Ok(FieldSet::ALL),
        Fields::None => {}
        Fields::Default => {
            for (at, field) in schema.fields.iter().enumerate() {
                if matches!(field.kind, FieldKind::Text(_) | FieldKind::Payload { .. }) {
                    set.insert(FieldId(at as u16));
                }
            }
        }
        Fields::Named(names) => {
            for name in names {
                set.insert(schema.find(name).ok_or_else(|| unknown_field(schema, name))?.0);
            }
        }
    }
    Ok(set)
}

/// The names of the labels that a row has now.
pub fn label_names(
    shared: &Shared,
    store: &StoreSnapshot,
    row: RowId,
    stored: &StoredRow,
) -> Result<BTreeSet<String>> {
    let labels = labels_of(shared.id, store, (row, stored.labels.clone()))?;
    Ok(labels.into_iter().filter_map(|label| shared.labels.name(label)).collect())
}

/// A stored row as the caller knows it, its labels aside; instants come back as RFC 3339 text in UTC.
pub fn to_row(schema: &Schema, tenant: &str, stored: StoredRow) -> Row {
    let mut row = Row::new(stored.key).tenant(tenant);
    row.chunk = stored.chunk;
    for (id, value) in stored.fields {
        let field = schema.get(id);
        let value = match (value, &field.kind) {
            (FieldValue::Payload(value), FieldKind::Payload { kind: PayloadKind::Datetime }) => {
                FieldValue::Payload(instants(value))
            }
            (value, _) => value,
        };
        row.fields.insert(field.name.clone(), value);
    }
    row
}

/// As [`to_row`], with labels where all fields are asked for.
pub fn whole_row(
    shared: &Shared,
    store: &StoreSnapshot,
    (tenant, fields): (&str, &Fields),
    row: RowId,
    stored: StoredRow,
) -> Result<Row> {
    let labels = match fields {
        Fields::All => label_names(shared, store, row, &stored)?,
        _ => BTreeSet::new(),
    };
    Ok(Row { labels, ..to_row(&shared.schema, tenant, stored) })
}

/// The key that an index keeps of a row: none when an answer without fields has more than the key.
pub fn key_of(key: &str, chunk: &Option<Chunk>) -> Option<Box<str>> {
    chunk.is_none().then(|| key.into())
}

fn instants(value: Value) -> Value {
    match value {
        Value::Integer(micros) => datetime::format(micros).map_or(Value::Integer(micros), Value::String),
        Value::List(values) => Value::List(values.into_iter().map(instants).collect()),
        other => other,
    }
}

/// The error for a row that an index names and the store does not have.
pub fn missing(shared: &Shared, row: RowId) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "row {row} of collection '{}' is in an index but not in the row store; restore from a backup",
            shared.name
        ),
    )
}

/// Records of rows, in their order. What one answer may take of memory is bounded.
pub fn stored(
    shared: &Shared,
    store: &StoreSnapshot,
    rows: &[RowId],
    wanted: &FieldSet,
    stop: &Stop,
) -> Result<Vec<Option<StoredRow>>> {
    let max = shared.settings.response_bytes_max;
    let (mut found, mut bytes) = (Vec::with_capacity(rows.len()), 0);
    for rows in rows.chunks(FETCH_ROWS) {
        stop.check()?;
        let stored = store.get(shared.id, rows, wanted)?;
        bytes += stored.iter().flatten().map(StoredRow::bytes).sum::<usize>() as u64;
        if bytes > max {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "the rows of this answer have more than {max} bytes (response_bytes_max); ask for fewer rows or \
                     fields"
                ),
            ));
        }
        found.extend(stored);
    }
    Ok(found)
}

/// Rows by key; where there are `labels`, those that have one of them.
pub fn get(
    shared: &Shared,
    tenant: &str,
    keys: &[String],
    labels: Option<&[String]>,
    fields: &Fields,
    stop: &Stop,
) -> Result<Vec<Option<Row>>> {
    let wanted = field_set(&shared.schema, fields)?;
    let Some(id) = shared.tenants.get(tenant) else { return Ok(vec![None; keys.len()]) };
    let snapshot = shared.snapshot();
    let names: Vec<_> = keys.iter().map(|key| (id, key.as_str())).collect();
    let mut rows = snapshot.store.lookup(shared.id, &names)?;
    if let Some(labels) = labels {
        let labels = shared.labels.known(labels);
        let may_see = |row: &RowId| {
            let place = snapshot.locate(id, *row);
            place.is_some_and(|(at, doc)| !snapshot.views[at].labelled(&labels, &(doc..doc + 1)).is_empty())
        };
        rows.iter_mut().for_each(|row| *row = row.filter(may_see));
    }
    let present: Vec<RowId> = rows.iter().flatten().copied().collect();
    let mut stored = stored(shared, &snapshot.store, &present, &wanted, stop)?.into_iter();
    rows.into_iter()
        .map(|row| {
            row.map(|row| {
                let stored = stored.next().flatten().ok_or_else(|| missing(shared, row))?;
                whole_row(shared, &snapshot.store, (tenant, fields), row, stored)
            })
            .transpose()
        })
        .collect()
}

/// Rows by key at a snapshot, as far as a search would be allowed to find them.
pub fn visible(
    shared: &Shared,
    snapshot: &Snapshot,
    tenant: TenantId,
    keys: &[String],
    search: &SearchRequest,
    stop: &Stop,
) -> Result<Vec<Option<Row>>> {
    let wanted = field_set(&shared.schema, &search.fields)?;
    let lookup = KeyLookup { store: &snapshot.store, collection: shared.id, tenant, labels: &shared.labels };
    let filter = search
        .filter
        .as_ref()
        .map(|filter| CheckedFilter::new(&shared.schema, filter, &lookup))
        .transpose()?;
    let newest = shared.snapshot();
    let labels = search.labels.as_ref().map(|names| known_labels(shared, &shared.labels.known(names)));
    let names: Vec<_> = keys.iter().map(|key| (tenant, key.as_str())).collect();
    let mut rows = snapshot.store.lookup(shared.id, &names)?;
    for row in &mut rows {
        stop.check()?;
        let Some((at, doc)) = row.and_then(|row| snapshot.locate(tenant, row)) else {
            *row = None;
            continue;
        };
        let passes = match &filter {
            Some(filter) => filter.docs(&snapshot.views[at], tenant, &(doc..doc + 1))?.contains(doc),
            None => true,
        };
        let seen = |row: RowId| {
            let has = |snapshot: &Snapshot, labels: &[LabelId]| has_label(snapshot, labels, (tenant, row));
            labels.as_ref().is_none_or(|labels| has(snapshot, labels) && has(&newest, labels))
        };
        *row = row.filter(|row| passes && seen(*row));
    }
    let present: Vec<RowId> = rows.iter().flatten().copied().collect();
    let mut stored = stored(shared, &snapshot.store, &present, &wanted, stop)?.into_iter();
    let row = |row: RowId| {
        let stored = stored.next().flatten().ok_or_else(|| missing(shared, row))?;
        whole_row(shared, &snapshot.store, (&search.tenant, &search.fields), row, stored)
    };
    let mut row = row;
    rows.into_iter().map(|one| one.map(&mut row).transpose()).collect()
}

/// A page of rows in key order.
pub fn scroll(shared: &Shared, request: &ScrollRequest, stop: &Stop) -> Result<ScrollResponse> {
    if request.limit == 0 || request.limit > K_MAX {
        return Err(Error::invalid(format!("limit is {}; a page has 1 to {K_MAX} rows", request.limit)));
    }
    let wanted = field_set(&shared.schema, &request.fields)?;
    let snapshot = shared.snapshot();
    let id = shared.tenants.get(&request.tenant);
    let lookup = KeyLookup {
        store: &snapshot.store,
        collection: shared.id,
        tenant: id.unwrap_or_default(),
        labels: &shared.labels,
    };
    let filter = request
        .filter
        .as_ref()
        .map(|filter| CheckedFilter::new(&shared.schema, filter, &lookup))
        .transpose()?;
    let Some(id) = id else { return Ok(ScrollResponse::default()) };
    let mut passing = Vec::new();
    if let Some(filter) = &filter {
        for view in &snapshot.views {
            stop.check()?;
            passing.push(match view.allow(id) {
                Some(allow) => filter.docs(view, id, &allow.range)? - &*view.deleted,
                None => Default::default(),
            });
        }
    }
    let passes = |row: RowId| {
        filter.is_none() || snapshot.locate(id, row).is_some_and(|(at, doc)| passing[at].contains(doc))
    };
    let mut after = request.after.clone();
    let mut page: Vec<(String, RowId)> = Vec::new();
    // One more than the page tells whether there is a next one.
    while page.len() <= request.limit {
        stop.check()?;
        let want = if filter.is_some() { SCROLL_KEYS } else { request.limit + 1 };
        let keys = snapshot.store.keys_after(shared.id, id, after.as_deref(), want)?;
        let Some((last, _)) = keys.last() else { break };
        after = Some(last.clone());
        page.extend(keys.into_iter().filter(|(_, row)| passes(*row)));
    }
    let more = page.len() > request.limit;
    page.truncate(request.limit);
    let next = if more { page.last().map(|(key, _)| key.clone()) } else { None };
    let ids: Vec<RowId> = page.iter().map(|(_, row)| *row).collect();
    let stored = stored(shared, &snapshot.store, &ids, &wanted, stop)?;
    let rows = ids
        .iter()
        .zip(stored)
        .map(|(row, stored)| {
            let stored = stored.ok_or_else(|| missing(shared, *row))?;
            whole_row(shared, &snapshot.store, (&request.tenant, &request.fields), *row, stored)
        })
        .collect::<Result<_>>()?;
    Ok(ScrollResponse { rows, next })
}
