//! All rows of a tenant, as of one moment: copied to another tenant, or handed out.
//!
//! Cost: linear in the tenant's rows, a page of them in memory at a time.

use spandrel_index::stop::Stop;
use spandrel_storage::record::FieldSet;
use spandrel_storage::{Row, RowId, TenantId};

use crate::check::check_rows;
use crate::error::{Error, Result};
use crate::fetch::{missing, stored, whole_row};
use crate::queue;
use crate::request::Fields;
use crate::response::Written;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::write::{PreparedRow, Work};

/// Rows read, and written, at once, and the bytes of those after which no other is.
const PAGE_ROWS: usize = 64;
const PAGE_BYTES: u64 = 16 << 20;

/// Hands out all rows of a tenant with all fields and labels, in the order of their keys, a page at a time;
/// returns how many.
///
/// # Errors
/// Those of `each`; rows cannot be read; `stop`.
pub fn export<E: From<Error>>(
    shared: &Shared,
    (tenant, id): (&str, TenantId),
    stop: &Stop,
    mut each: impl FnMut(Vec<Row>) -> Result<(), E>,
) -> Result<u64, E> {
    let snapshot = shared.snapshot();
    let (mut after, mut count) = (None, 0);
    while let Some((rows, last)) = page(shared, &snapshot, (tenant, id), after.as_deref(), stop)? {
        count += rows.len() as u64;
        each(rows)?;
        after = Some(last);
    }
    Ok(count)
}

/// Copies all rows of a tenant to another, where they replace those of the same keys. Each page is a commit;
/// a failure keeps those before it.
///
/// # Errors
/// The tenants are the same, or the rows do not fit the quota of the second; those of reading and writing.
pub fn copy(shared: &Shared, (from, id, to): (&str, TenantId, &str), stop: &Stop) -> Result<Written> {
    if from == to {
        return Err(Error::invalid(format!("tenant '{from}' is to be copied to itself; name another one")));
    }
    let mut total = Written { last_row: shared.snapshot().last_row.0, ..Written::default() };
    export(shared, (from, id), stop, |mut rows| {
        rows.iter_mut().for_each(|row| to.clone_into(&mut row.tenant));
        let rows = check_rows(&shared.schema, rows)?;
        // All of them: that some are alike was known when they were written.
        let rows = PreparedRow::as_they_are(shared, rows)?;
        let copied = total.rows;
        let written = queue::write(shared, Work::Upsert(rows), stop)
            .map_err(|error| error.context(format!("after {copied} rows, which are copied")))?;
        total.add(written);
        Ok::<_, Error>(())
    })?;
    Ok(total)
}

/// The rows of the keys after one, and the last key; none when there are none.
fn page(
    shared: &Shared,
    snapshot: &Snapshot,
    (tenant, id): (&str, TenantId),
    after: Option<&str>,
    stop: &Stop,
) -> Result<Option<(Vec<Row>, String)>> {
    let mut keys = snapshot.store.sized_after(shared.id, id, after, PAGE_ROWS)?;
    let mut bytes = 0;
    let fits = keys.iter().take_while(|(_, (_, size))| {
        bytes += u64::from(*size);
        bytes <= PAGE_BYTES
    });
    keys.truncate(fits.count().max(1));
    let Some((last, _)) = keys.last() else { return Ok(None) };
    let last = last.clone();
    let ids: Vec<RowId> = keys.iter().map(|(_, (row, _))| *row).collect();
    let found = stored(shared, &snapshot.store, &ids, &FieldSet::ALL, stop)?;
    let rows = ids
        .iter()
        .zip(found)
        .map(|(row, stored)| {
            let stored = stored.ok_or_else(|| missing(shared, *row))?;
            whole_row(shared, &snapshot.store, (tenant, &Fields::All), *row, stored)
        })
        .collect::<Result<_>>()?;
    Ok(Some((rows, last)))
}
