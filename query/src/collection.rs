//! A collection: rows of one schema, for many tenants.

use spandrel_storage::{Row, Schema};

use crate::error::Result;
use crate::request::{Fields, Filter, RetrieveRequest, ScrollRequest, SearchRequest};
use crate::response::{CollectionStats, RetrieveResponse, ScrollResponse, SearchResponse, Written};

/// Rows of one schema, for many tenants. All methods take `&self` and may be called from many threads.
pub struct Collection {}

impl Collection {
    /// The collection's name.
    pub fn name(&self) -> &str {
        unimplemented!()
    }
    /// Its schema.
    pub fn schema(&self) -> &Schema {
        unimplemented!()
    }
    /// Writes rows, replacing those of the same tenant and key. All or nothing; acknowledged as the settings say.
    pub fn upsert(&self, _rows: Vec<Row>) -> Result<Written> {
        unimplemented!()
    }
    /// Deletes rows by key; keys that are not there are not an error.
    pub fn delete(&self, _tenant: &str, _keys: &[String]) -> Result<Written> {
        unimplemented!()
    }
    /// Deletes every row that passes the filter.
    pub fn delete_by_filter(&self, _tenant: &str, _filter: &Filter) -> Result<Written> {
        unimplemented!()
    }
    /// Deletes all rows of a tenant; space comes back.
    pub fn drop_tenant(&self, _tenant: &str) -> Result<Written> {
        unimplemented!()
    }
    /// Rows by key, in the order of `keys`; none where there is no such row.
    pub fn get(&self, _tenant: &str, _keys: &[String], _fields: &Fields) -> Result<Vec<Option<Row>>> {
        unimplemented!()
    }
    /// A page of rows in key order.
    pub fn scroll(&self, _request: &ScrollRequest) -> Result<ScrollResponse> {
        unimplemented!()
    }
    /// How many rows of the tenant pass the filter.
    pub fn count(&self, _tenant: &str, _filter: Option<&Filter>) -> Result<u64> {
        unimplemented!()
    }
    /// Names of the tenants that have been written to, sorted.
    pub fn tenants(&self) -> Vec<String> {
        unimplemented!()
    }
    /// Finds the best rows.
    pub fn search(&self, _request: &SearchRequest) -> Result<SearchResponse> {
        unimplemented!()
    }
    /// Runs many searches on one snapshot; dense routes that share field, tenant and filter are scored together.
    pub fn search_batch(&self, _requests: &[SearchRequest]) -> Result<Vec<SearchResponse>> {
        unimplemented!()
    }
    /// Finds the best rows and packs their texts into a token budget.
    pub fn retrieve(&self, _request: &RetrieveRequest) -> Result<RetrieveResponse> {
        unimplemented!()
    }
    /// Builds all fresh rows into a segment on disk and waits for it.
    pub fn flush(&self) -> Result<()> {
        unimplemented!()
    }
    /// Sizes and states.
    pub fn stats(&self) -> Result<CollectionStats> {
        unimplemented!()
    }
}
