//! The catalogue: which collections and tenants there are.
//!
//! Collections are few and are read as a whole. Ids of collections are never given twice, so that what a
//! dropped one left behind is never taken for another's.

use rocksdb::{Direction, IteratorMode, WriteBatch};
use serde::{Deserialize, Serialize};

use super::{Durability, Engine, Store, layout};
use crate::error::{Error, Result};
use crate::id::{CollectionId, TenantId};
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
#[derive(Serialize, Deserialize)]
struct Stored {
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
        engine.write(&mut writer, build, Durability::Sync)?;
        writer.live.insert(CollectionId(id));
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
        if !writer.live.contains(&id) {
            return Err(Error::NotFound { what: format!("collection {id}") });
        }
        let (start, end) = (layout::collection(id), layout::collection_end(id));
        let build = || {
            let mut batch = WriteBatch::default();
            batch.delete_cf(engine.meta(), layout::catalogue(id));
            batch.delete_cf(engine.meta(), layout::last_row(id));
            batch.delete_range_cf(engine.meta(), layout::tenants(id), layout::tenants_end(id));
            batch.delete_range_cf(engine.rows(), start, end);
            batch.delete_range_cf(engine.keys(), start, end);
            Ok(batch)
        };
        engine.write(&mut writer, build, Durability::Sync)?;
        writer.live.remove(&id);
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
            let id = layout::trailing_u32(key).ok_or_else(|| engine.corrupt("a tenant's id"))?;
            let name = std::str::from_utf8(value).map_err(|_| engine.corrupt("a tenant's name"))?;
            tenants.push((TenantId(id), name.to_owned()));
            Ok(())
        })?;
        Ok(tenants)
    }
}

/// The whole catalogue.
pub(super) fn read(engine: &Engine) -> Result<Vec<CollectionMeta>> {
    let mut collections = Vec::new();
    engine.scan_meta(&[layout::CATALOGUE], |key, value| {
        let id = layout::trailing_u32(key).ok_or_else(|| engine.corrupt("a collection's id"))?;
        let stored: Stored = serde_json::from_slice(value).map_err(|e| Error::Version {
            path: engine.path().to_path_buf(),
            what: format!(
                "collection {id} is described in a way that this build does not know ({e}); open it with a \
                 newer Spandrel"
            ),
        })?;
        collections.push(CollectionMeta { id: CollectionId(id), name: stored.name, schema: stored.schema });
        Ok(())
    })?;
    Ok(collections)
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
