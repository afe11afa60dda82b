//! Keys of the three column families. Numbers are big-endian, so that byte order is number order.
//!
//! | family | key                                       | value                               |
//! |--------|-------------------------------------------|-------------------------------------|
//! | `rows` | collection u32, RowId u64                 | a [record](crate::record)           |
//! | `keys` | collection u32, tenant u32, key bytes     | RowId u64, bytes of the record u32  |
//! | `meta` | `n`                                       | the next collection's id, u32       |
//! |        | `w`                                       | number of the last commit, u64      |
//! |        | `c`, collection u32                       | name and schema, JSON               |
//! |        | `l`, collection u32                       | the last RowId committed, u64       |
//! |        | `t`, collection u32, tenant u32           | the tenant's name                   |
//! |        | `x`, collection u32                       | the next tenant's id, u32           |
//! |        | `u`, collection u32, tenant u32           | bytes of the tenant's records, u64  |
//! |        | `q`, collection u32, tenant u32           | its quota, as the engine writes it; |
//! |        |                                           | of tenant `u32::MAX`: of all others |
//! |        | `a`, collection u32, label u32            | the label's name; empty: dropped    |
//! |        | `g`, collection u32, RowId u64, label u32 | u8: since it was written, the row |
//! |        |                                           | has got the label (1) or lost it (0) |

use crate::id::{CollectionId, LabelId, RowId, TenantId};

pub(super) const ROWS: &str = "rows";
pub(super) const KEYS: &str = "keys";
pub(super) const META: &str = "meta";

pub(super) const NEXT_COLLECTION: &[u8] = b"n";
pub(super) const COMMITS: &[u8] = b"w";
pub(super) const CATALOGUE: u8 = b'c';
const LAST_ROW: u8 = b'l';
const TENANT: u8 = b't';
const NEXT_TENANT: u8 = b'x';
const BYTES: u8 = b'u';
const QUOTA: u8 = b'q';
const LABEL: u8 = b'a';
const GRANT: u8 = b'g';

/// Length of a key of `rows`.
pub(super) const ROW_KEY_BYTES: usize = 12;
/// Length of a key of `keys` before the user's bytes.
pub(super) const KEY_PREFIX_BYTES: usize = 8;

pub(super) fn row(collection: CollectionId, row: RowId) -> [u8; ROW_KEY_BYTES] {
    let mut key = [0; ROW_KEY_BYTES];
    key[..4].copy_from_slice(&collection.0.to_be_bytes());
    key[4..].copy_from_slice(&row.0.to_be_bytes());
    key
}

/// The RowId of a key of `rows`.
pub(super) fn row_of(key: &[u8]) -> Option<RowId> {
    let key: [u8; ROW_KEY_BYTES] = key.try_into().ok()?;
    Some(RowId(u64::from_be_bytes(*key.last_chunk()?)))
}

/// Where rows and keys of a collection begin; those of the next one end it.
pub(super) fn collection(collection: CollectionId) -> [u8; 4] {
    collection.0.to_be_bytes()
}

/// The first key past a collection. Ids stay below `u32::MAX`, see `create_collection`.
pub(super) fn collection_end(collection: CollectionId) -> [u8; 4] {
    collection.0.saturating_add(1).to_be_bytes()
}

pub(super) fn tenant_keys(collection: CollectionId, tenant: TenantId) -> [u8; KEY_PREFIX_BYTES] {
    let mut key = [0; KEY_PREFIX_BYTES];
    key[..4].copy_from_slice(&collection.0.to_be_bytes());
    key[4..].copy_from_slice(&tenant.0.to_be_bytes());
    key
}

/// The first key past a tenant's.
pub(super) fn tenant_keys_end(of: CollectionId, tenant: TenantId) -> Vec<u8> {
    match tenant.0.checked_add(1) {
        Some(next) => tenant_keys(of, TenantId(next)).to_vec(),
        None => collection_end(of).to_vec(),
    }
}

/// Appends a key of `keys`.
pub(super) fn push_key(out: &mut Vec<u8>, collection: CollectionId, tenant: TenantId, key: &str) {
    out.extend_from_slice(&tenant_keys(collection, tenant));
    out.extend_from_slice(key.as_bytes());
}

fn tagged(tag: u8, collection: CollectionId) -> [u8; 5] {
    let [a, b, c, d] = collection.0.to_be_bytes();
    [tag, a, b, c, d]
}

pub(super) fn catalogue(collection: CollectionId) -> [u8; 5] {
    tagged(CATALOGUE, collection)
}

pub(super) fn last_row(collection: CollectionId) -> [u8; 5] {
    tagged(LAST_ROW, collection)
}

/// Where the tenant names of a collection begin.
pub(super) fn tenants(collection: CollectionId) -> [u8; 5] {
    tagged(TENANT, collection)
}

pub(super) fn tenants_end(collection: CollectionId) -> [u8; 5] {
    tagged(TENANT, CollectionId(collection.0.saturating_add(1)))
}

pub(super) fn tenant(collection: CollectionId, tenant: TenantId) -> [u8; 9] {
    numbered(tenants(collection), tenant.0)
}

fn numbered(prefix: [u8; 5], number: u32) -> [u8; 9] {
    let mut key = [0; 9];
    key[..5].copy_from_slice(&prefix);
    key[5..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The next tenant's id.
pub(super) fn next_tenant(collection: CollectionId) -> [u8; 5] {
    tagged(NEXT_TENANT, collection)
}

/// Where the sizes of a collection's tenants begin.
pub(super) fn sizes(collection: CollectionId) -> [u8; 5] {
    tagged(BYTES, collection)
}

pub(super) fn sizes_end(collection: CollectionId) -> [u8; 5] {
    tagged(BYTES, CollectionId(collection.0.saturating_add(1)))
}

pub(super) fn size(collection: CollectionId, tenant: TenantId) -> [u8; 9] {
    numbered(sizes(collection), tenant.0)
}

/// Where the quotas of a collection's tenants begin.
pub(super) fn quotas(collection: CollectionId) -> [u8; 5] {
    tagged(QUOTA, collection)
}

pub(super) fn quotas_end(collection: CollectionId) -> [u8; 5] {
    tagged(QUOTA, CollectionId(collection.0.saturating_add(1)))
}

pub(super) fn quota(collection: CollectionId, tenant: TenantId) -> [u8; 9] {
    numbered(quotas(collection), tenant.0)
}

/// Where the label names of a collection begin.
pub(super) fn labels(collection: CollectionId) -> [u8; 5] {
    tagged(LABEL, collection)
}

pub(super) fn labels_end(collection: CollectionId) -> [u8; 5] {
    tagged(LABEL, CollectionId(collection.0.saturating_add(1)))
}

pub(super) fn label(collection: CollectionId, label: LabelId) -> [u8; 9] {
    numbered(labels(collection), label.0)
}

/// Where what rows have got and lost begins, and the next collection's.
pub(super) fn grants(collection: CollectionId) -> [u8; 5] {
    tagged(GRANT, collection)
}

pub(super) fn grants_end(collection: CollectionId) -> [u8; 5] {
    tagged(GRANT, CollectionId(collection.0.saturating_add(1)))
}

/// Where that of a row begins.
pub(super) fn grants_of(collection: CollectionId, row: RowId) -> [u8; 13] {
    let mut key = [0; 13];
    key[..5].copy_from_slice(&grants(collection));
    key[5..].copy_from_slice(&row.0.to_be_bytes());
    key
}

pub(super) fn grant(collection: CollectionId, row: RowId, label: LabelId) -> [u8; 17] {
    let mut key = [0; 17];
    key[..13].copy_from_slice(&grants_of(collection, row));
    key[13..].copy_from_slice(&label.0.to_be_bytes());
    key
}

/// The row and the label of a key of what rows have got and lost.
pub(super) fn grant_of(key: &[u8]) -> Option<(RowId, LabelId)> {
    let key: [u8; 17] = key.try_into().ok()?;
    let (row, label) =
        (u64::from_be_bytes(*key[5..13].first_chunk()?), u32::from_be_bytes(*key.last_chunk()?));
    Some((RowId(row), LabelId(label)))
}

/// The collection of a key of the catalogue.
pub(super) fn catalogue_of(key: &[u8]) -> Option<CollectionId> {
    let key: [u8; 5] = key.try_into().ok()?;
    Some(CollectionId(u32::from_be_bytes(*key.last_chunk()?)))
}

/// The tenant of a key of a tenant's name, size or quota.
pub(super) fn tenant_of(key: &[u8]) -> Option<TenantId> {
    number_of(key).map(TenantId)
}

/// The label of a key of a label's name.
pub(super) fn label_of(key: &[u8]) -> Option<LabelId> {
    number_of(key).map(LabelId)
}

fn number_of(key: &[u8]) -> Option<u32> {
    let key: [u8; 9] = key.try_into().ok()?;
    Some(u32::from_be_bytes(*key.last_chunk()?))
}

/// A value that is a little-endian u64.
pub(super) fn value_u64(value: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(value.try_into().ok()?))
}

/// What a key names: the row, and the bytes of its record; 0 where an earlier build has not written them.
pub(super) fn named(value: &[u8]) -> Option<(RowId, u32)> {
    let (row, bytes) = value.split_at_checked(8)?;
    let bytes = if bytes.is_empty() { 0 } else { value_u32(bytes)? };
    Some((RowId(value_u64(row)?), bytes))
}

/// The value of a key.
pub(super) fn naming(row: RowId, bytes: u32) -> [u8; 12] {
    let mut value = [0; 12];
    value[..8].copy_from_slice(&row.0.to_le_bytes());
    value[8..].copy_from_slice(&bytes.to_le_bytes());
    value
}

/// A value that is a little-endian u32.
pub(super) fn value_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_another_length_are_no_keys() {
        let (c, t) = (CollectionId(7), TenantId(9));
        for longer in [false, true] {
            let resized = |key: &[u8]| match longer {
                true => [key, &[0]].concat(),
                false => key[..key.len() - 1].to_vec(),
            };
            assert_eq!(row_of(&resized(&row(c, RowId(5)))), None);
            assert_eq!(catalogue_of(&resized(&catalogue(c))), None);
            assert_eq!(tenant_of(&resized(&tenant(c, t))), None);
            assert_eq!(label_of(&resized(&label(c, LabelId(9)))), None);
            assert_eq!(grant_of(&resized(&grant(c, RowId(5), LabelId(9)))), None);
        }
        for length in 0..16 {
            let value = &naming(RowId(5), 6).repeat(2)[..length];
            let known = [(8, (RowId(5), 0)), (12, (RowId(5), 6))];
            let expected = known.into_iter().find(|(of, _)| *of == length).map(|(_, named)| named);
            assert_eq!(named(value), expected, "{length} bytes");
        }
        assert_eq!(row_of(&row(c, RowId(5))), Some(RowId(5)));
        assert_eq!(catalogue_of(&catalogue(c)), Some(c));
        assert_eq!(tenant_of(&tenant(c, t)), Some(t));
        assert_eq!(label_of(&label(c, LabelId(9))), Some(LabelId(9)));
        assert_eq!(grant_of(&grant(c, RowId(5), LabelId(9))), Some((RowId(5), LabelId(9))));
    }
}
