//! The catalogue: which collections and tenants there are.
//!
//! Collections are few and are read as a whole. Ids of collections are never given twice, so that what a
//! dropped one left behind is never taken for another's.

use std::path::Path;

use rocksdb::{Direction, IteratorMode, WriteBatch};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::write::Purpose;
use super::{Durability, Engine, Store, layout};
use crate::error::{Error, Result};
use crate::id::{CollectionId, LabelId, RowId, TenantId};
use crate::schema::{Schema, check_name};

/// A collection of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionMeta {
    /// Its id, never given twice.
    pub id: CollectionId,
    /// Its name, unique in the store.
    pub name: String,
    /// Its fields.
    pub schema: Schema,
}

/// What the catalogue keeps of a collection, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    name: String,
    schema: Schema,
}

impl Store {
    /// Adds a collection; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Exists`] for a name in use, [`Error::Invalid`] for a name or schema outside the limits, and
    /// those of [`Store::commit`].
    pub fn create_collection(&self, name: &str, schema: &Schema) -> Result<CollectionMeta> {
        check_name("collection", name)?;
        schema.check()?;
        let engine = &*self.engine;
        let mut writer = engine.writer()?;
        if read(engine)?.iter().any(|other| other.name == name) {
            return Err(Error::Exists { what: format!("collection '{name}'") });
        }
        let id = match engine.meta_get(layout::NEXT_COLLECTION)? {
            Some(value) => {
                layout::value_u32(&value).ok_or_else(|| engine.corrupt("the next collection's id"))?
            }
            None => 1,
        };
        // The last id has no successor, which ends key ranges.
        let next = id.checked_add(1).filter(|next| *next < u32::MAX);
        let next = next.ok_or_else(|| Error::Invalid("no collection ids are left".into()))?;
        let stored = Stored { name: name.to_owned(), schema: schema.clone() };
        let json = serde_json::to_vec(&stored).map_err(|e| Error::Invalid(format!("schema: {e}")))?;
        let build = || {
            let mut batch = WriteBatch::default();
            batch.put_cf(engine.meta(), layout::NEXT_COLLECTION, next.to_le_bytes());
            batch.put_cf(engine.meta(), layout::catalogue(CollectionId(id)), &json);
            Ok(batch)
        };
        engine.write(&mut writer, build, Durability::Sync, Purpose::Add)?;
        writer.last_rows.insert(CollectionId(id), RowId(0));
        Ok(CollectionMeta { id: CollectionId(id), name: stored.name, schema: stored.schema })
    }

    /// The collections, by ascending id.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Version`] for a schema with parts that this build does not know.
    pub fn collections(&self) -> Result<Vec<CollectionMeta>> {
        read(&self.engine)
    }

    /// Removes a collection with all it holds, and gives its space back. The removal is whole and durable
    /// even when giving the space back fails; the space then comes back with later compactions. Readers of
    /// the collection's older snapshots may find its rows missing. Blob files that other collections share
    /// stay until half of what they hold is dead, or until those collections are compacted.
    ///
    /// # Errors
    /// [`Error::NotFound`], and those of [`Store::commit`].
    pub fn drop_collection(&self, id: CollectionId) -> Result<()> {
        let engine = &*self.engine;
        let mut writer = engine.writer()?;
        if !writer.last_rows.contains_key(&id) {
            return Err(Error::NotFound { what: format!("collection {id}") });
        }
        let (start, end) = (layout::collection(id), layout::collection_end(id));
        let build = || {
            let mut batch = WriteBatch::default();
            batch.delete_cf(engine.meta(), layout::catalogue(id));
            batch.delete_cf(engine.meta(), layout::last_row(id));
            batch.delete_range_cf(engine.meta(), layout::tenants(id), layout::tenants_end(id));
            batch.delete_cf(engine.meta(), layout::next_tenant(id));
            batch.delete_range_cf(engine.meta(), layout::sizes(id), layout::sizes_end(id));
            batch.delete_range_cf(engine.meta(), layout::quotas(id), layout::quotas_end(id));
            batch.delete_range_cf(engine.meta(), layout::labels(id), layout::labels_end(id));
            batch.delete_range_cf(engine.meta(), layout::grants(id), layout::grants_end(id));
            batch.delete_range_cf(engine.rows(), start, end);
            batch.delete_range_cf(engine.keys(), start, end);
            Ok(batch)
        };
        engine.write(&mut writer, build, Durability::Sync, Purpose::Free)?;
        writer.last_rows.remove(&id);
        drop(writer);
        if let Err(error) = engine.reclaim(id) {
            tracing::warn!(%error, collection = %id, "the space of a dropped collection comes back later");
        }
        Ok(())
    }

    /// The tenants of a collection, by ascending id.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn tenants(&self, collection: CollectionId) -> Result<Vec<(TenantId, String)>> {
        let engine = &*self.engine;
        let mut tenants = Vec::new();
        engine.scan_meta(&layout::tenants(collection), |key, value| {
            let id = layout::tenant_of(key).ok_or_else(|| engine.corrupt("a tenant's id"))?;
            let name = std::str::from_utf8(value).map_err(|_| engine.corrupt("a tenant's name"))?;
            tenants.push((id, name.to_owned()));
            Ok(())
        })?;
        Ok(tenants)
    }

    /// The id that the next tenant of a collection gets: above all that there ever were.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn next_tenant(&self, collection: CollectionId) -> Result<TenantId> {
        let engine = &*self.engine;
        let next = match engine.meta_get(&layout::next_tenant(collection))? {
            Some(value) => layout::value_u32(&value).ok_or_else(|| engine.corrupt("the next tenant's id"))?,
            None => 0,
        };
        Ok(TenantId(next))
    }

    /// Bytes of the records of tenants, by ascending id; none of those that have none.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn tenant_bytes(&self, collection: CollectionId) -> Result<Vec<(TenantId, u64)>> {
        let engine = &*self.engine;
        let mut sizes = Vec::new();
        engine.scan_meta(&layout::sizes(collection), |key, value| {
            let id = layout::tenant_of(key).zip(layout::value_u64(value));
            let (id, bytes) = id.ok_or_else(|| engine.corrupt("the size of a tenant"))?;
            sizes.push((id, bytes));
            Ok(())
        })?;
        Ok(sizes)
    }

    /// Quotas of tenants, by ascending id, as they were written.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn quotas(&self, collection: CollectionId) -> Result<Vec<(TenantId, Vec<u8>)>> {
        let engine = &*self.engine;
        let mut quotas = Vec::new();
        engine.scan_meta(&layout::quotas(collection), |key, value| {
            let id = layout::tenant_of(key).ok_or_else(|| engine.corrupt("the tenant of a quota"))?;
            quotas.push((id, value.to_vec()));
            Ok(())
        })?;
        Ok(quotas)
    }

    /// The labels of a collection, by ascending id; the name of one that was dropped is empty.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn labels(&self, collection: CollectionId) -> Result<Vec<(LabelId, String)>> {
        let engine = &*self.engine;
        let mut labels = Vec::new();
        engine.scan_meta(&layout::labels(collection), |key, value| {
            let id = layout::label_of(key).ok_or_else(|| engine.corrupt("a label's id"))?;
            let name = std::str::from_utf8(value).map_err(|_| engine.corrupt("a label's name"))?;
            labels.push((id, name.to_owned()));
            Ok(())
        })?;
        Ok(labels)
    }
}

/// The whole catalogue.
pub(super) fn read(engine: &Engine) -> Result<Vec<CollectionMeta>> {
    let mut collections = Vec::new();
    engine.scan_meta(&[layout::CATALOGUE], |key, value| {
        let id = layout::catalogue_of(key).ok_or_else(|| engine.corrupt("a collection's id"))?;
        let Stored { name, schema } = decode(&engine.closing.folder.rocksdb(), id, value)?;
        collections.push(CollectionMeta { id, name, schema });
        Ok(())
    })?;
    Ok(collections)
}

/// Name and schema of a collection. `file` is for messages.
///
/// # Errors
/// [`Error::Version`] where the entry is whole and has a part that this build does not know: dropping the
/// part would change what the schema means. [`Error::Corrupt`] for anything else that
/// [`Store::create_collection`] would not have written.
pub(crate) fn decode(file: &Path, id: CollectionId, entry: &[u8]) -> Result<Stored> {
    let damaged = |what: String| Error::corrupt(file, 0, format!("the entry of collection {id}: {what}"));
    let unknown = |what: String| Error::Version {
        path: file.to_path_buf(),
        what: format!(
            "collection {id} is described in a way that this build does not know ({what}); open it with a \
             newer Spandrel"
        ),
    };
    let json: Value = serde_json::from_slice(entry).map_err(|e| damaged(e.to_string()))?;
    let stored = Stored::deserialize(&json).map_err(|e| match e.to_string() {
        what if what.starts_with("unknown variant") || what.starts_with("unknown field") => unknown(what),
        what => damaged(what),
    })?;
    let known = serde_json::to_value(&stored).map_err(|e| damaged(e.to_string()))?;
    if let Some(part) = unknown_part(&json, &known) {
        return Err(unknown(format!("'{part}'")));
    }
    check_name("collection", &stored.name).map_err(|e| damaged(e.to_string()))?;
    stored.schema.check().map_err(|e| damaged(e.to_string()))?;
    Ok(stored)
}

/// The name of a part of `json` that is not in `known`, what was understood of it.
fn unknown_part<'a>(json: &'a Value, known: &Value) -> Option<&'a str> {
    match (json, known) {
        (Value::Object(parts), Value::Object(known)) => {
            parts.iter().filter(|(_, part)| !part.is_null()).find_map(|(name, part)| match known.get(name) {
                Some(known) => unknown_part(part, known),
                None => Some(name.as_str()),
            })
        }
        (Value::Array(parts), Value::Array(known)) => {
            parts.iter().zip(known).find_map(|(part, known)| unknown_part(part, known))
        }
        _ => None,
    }
}

impl Engine {
    /// Visits the entries of `meta` whose keys begin with `prefix`, in key order.
    fn scan_meta(&self, prefix: &[u8], mut visit: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        for entry in self.db.iterator_cf(self.meta(), IteratorMode::From(prefix, Direction::Forward)) {
            let (key, value) = entry.map_err(|e| self.read_error(e))?;
            if !key.starts_with(prefix) {
                break;
            }
            visit(&key, &value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Metric, PayloadKind};

    fn decoded(json: &str) -> Result<Stored> {
        decode(Path::new("rocksdb"), CollectionId(3), json.as_bytes())
    }

    fn sound() -> String {
        let schema = Schema::new()
            .text("body")
            .sparse("words")
            .dense("vector", 8, Metric::Ip)
            .payload("year", PayloadKind::Integer);
        serde_json::to_string(&Stored { name: "c".into(), schema }).unwrap()
    }

    #[test]
    fn entries_come_back_and_may_leave_out_what_has_a_default() {
        let sound = sound();
        assert_eq!(decoded(&sound).unwrap().schema.fields.len(), 4);
        let older = sound.replace(r#","element":"f32","index":"auto""#, "");
        assert_ne!(older, sound);
        assert_eq!(decoded(&older).unwrap().schema, decoded(&sound).unwrap().schema);
    }

    #[test]
    fn entries_of_a_later_build_are_told_from_damage() {
        let sound = sound();
        for (of, by) in [
            (r#""metric":"ip""#, r#""metric":"hamming""#),
            (r#""type":"sparse""#, r#""type":"picture""#),
            (r#""dim":8"#, r#""dim":8,"rotation":7"#),
            (r#""name":"c""#, r#""name":"c","owner":"x""#),
            (r#""kind":"integer""#, r#""kind":"decimal""#),
        ] {
            let later = sound.replace(of, by);
            assert_ne!(later, sound, "{of} of {sound}");
            let error = decoded(&later).unwrap_err();
            assert!(matches!(error, Error::Version { .. }), "{later}: {error}");
        }
        for (of, by) in [
            (r#""dim":8"#, r#""dim":0"#),
            (r#""dim":8"#, r#""dim":"8""#),
            (r#""name":"c""#, r#""name":"../c""#),
            (r#""name":"words""#, r#""name":"body""#),
            (r#""metric":"ip","#, ""),
            ("}", ""),
        ] {
            let damaged = sound.replace(of, by);
            assert_ne!(damaged, sound, "{of} of {sound}");
            let error = decoded(&damaged).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{damaged}: {error}");
        }
    }
}
