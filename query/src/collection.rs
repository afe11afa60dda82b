//! A collection: rows of one schema, for many tenants. The front door; the work is in `write`, `search`,
//! `maintain`.

use std::sync::Arc;

use spandrel_index::stop::Stop;
use spandrel_storage::{DedupPolicy, FieldKind, Row, Schema};

use crate::check::{check_key, check_rows, check_tenant, unknown_field};
use crate::error::{Error, Result};
use crate::filter::CheckedFilter;
use crate::labels::{self, check_count};
use crate::rag::ingest::{self, Document};
use crate::rag::tokens::Tokenizer;
use crate::request::{Fields, Filter, IngestOptions, ROWS_MAX, ScrollRequest, SearchRequest};
use crate::response::{CollectionStats, Copied, ScrollResponse, SearchResponse, Written};
use crate::retrieve::request::RetrieveRequest;
use crate::retrieve::response::RetrieveResponse;
use crate::shared::Shared;
use crate::tenants::Permit;
use crate::write::{DELETE_ROWS_MAX, PreparedRow, Work, copies};
use crate::{fetch, maintain, queue, retrieve, search};

/// Rows of one schema, for many tenants. All methods take `&self` and may be called from many threads; a
/// write returns when it is durable (see [`Settings::durability`]) and visible to every later search.
///
/// [`Collection::until`] makes a handle whose calls end by a deadline, or when they are cancelled.
#[derive(Clone)]
pub struct Collection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: Stop,
    /// Turns that were taken for the queries of this handle.
    pub(crate) permits: Option<Arc<[Permit]>>,
}

impl Collection {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, stop: Stop::default(), permits: None }
    }

    /// The same collection, every call of which gives up, with
    /// [`ErrorKind::Deadline`](crate::ErrorKind::Deadline), when `stop` says so. A write gives up only while
    /// nothing of it is written yet.
    pub fn until(&self, stop: Stop) -> Self {
        Self { shared: Arc::clone(&self.shared), stop, permits: self.permits.clone() }
    }

    /// The collection's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its schema.
    pub fn schema(&self) -> &Schema {
        &self.shared.schema
    }

    /// Writes rows, replacing those of the same tenant and key, and returns how many. All or nothing; where
    /// the schema says so, copies of rows that are there are left out, or marked.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a row that does not fit the schema (nothing is written);
    /// [`ErrorKind::Exhausted`] when the disk is full; [`ErrorKind::Poisoned`] after a failed write to disk.
    pub fn upsert(&self, rows: Vec<Row>) -> Result<Written> {
        self.shared.writable()?;
        let rows = check_rows(&self.shared.schema, rows)?;
        let rows = PreparedRow::all(&self.shared, rows)?;
        queue::write(&self.shared, Work::Upsert(rows), &self.stop)
    }

    /// Splits a document into chunks, embeds them where the database has an embedder and `options` name a
    /// vector field, and writes one row a chunk under the keys `DOCUMENT#0`, `DOCUMENT#1` and so on. Chunks
    /// of a longer earlier version are deleted in the same commit, so that no search sees two versions mixed.
    /// Chunks that the schema leaves out as copies are not embedded either.
    ///
    /// # Errors
    /// As [`Collection::upsert`]; [`ErrorKind::Unavailable`] when the embedder cannot be reached.
    pub fn ingest(&self, document: &Document, options: &IngestOptions) -> Result<Written> {
        self.shared.writable()?;
        let tokenizer = Tokenizer::named(&self.shared.schema.tokenizer)?;
        let text_field = retrieve::text_field_name(&self.shared.schema, options.text_field.as_deref())?;
        let mut rows = ingest::rows(document, &text_field, &options.chunk, tokenizer)?;
        let (chunks, mut left_out) = (rows.len(), Vec::new());
        if let Some(vector_field) = &options.vector_field {
            let embedder = self.shared.components.embedder.as_ref().ok_or_else(|| {
                Error::invalid(
                    "to embed chunks, open the database with an embedder, or send vectors with upsert",
                )
            })?;
            // What cannot be written, and what is not going to be, is not paid for.
            check_field(&self.shared.schema, vector_field, embedder.dim())?;
            let checked = check_rows(&self.shared.schema, rows.clone())?;
            if self.shared.schema.dedup.as_ref().is_some_and(|dedup| dedup.policy == DedupPolicy::Skip) {
                let copies = copies::left_out(&self.shared, checked, &document.key)?;
                let mut each = copies.iter().map(Option::is_none);
                rows.retain(|_| each.next().unwrap_or(true));
                left_out = copies.into_iter().flatten().collect();
            }
            ingest::embed_rows(&mut rows, &text_field, vector_field, &**embedder, &self.stop)?;
        }
        let rows = check_rows(&self.shared.schema, rows)?;
        let rows = PreparedRow::all(&self.shared, rows)?;
        let (tenant, document) = (document.tenant.clone(), document.key.clone());
        let keys = left_out.iter().map(|copied: &Copied| copied.key.clone()).collect();
        let work = Work::Document { tenant, document, rows, chunks, left_out: keys };
        let mut written = queue::write(&self.shared, work, &self.stop)?;
        written.copies += left_out.len() as u64;
        written.copied.splice(0..0, left_out);
        Ok(written)
    }

    /// Deletes rows by key and returns how many were there.
    ///
    /// # Errors
    /// As [`Collection::upsert`].
    pub fn delete(&self, tenant: &str, keys: &[String]) -> Result<Written> {
        check_tenant(tenant)?;
        check_keys(keys)?;
        queue::write(
            &self.shared,
            Work::Delete { tenant: tenant.to_owned(), keys: keys.to_vec() },
            &self.stop,
        )
    }

    /// Gives rows access labels, by key, and returns how many rows were there. Labels that nobody has used
    /// get a name. Durable, and in effect for every search that begins, or ends, after it.
    ///
    /// # Errors
    /// As [`Collection::upsert`]; [`ErrorKind::Invalid`] for a bad label.
    pub fn grant(&self, tenant: &str, keys: &[String], labels: &[String]) -> Result<Written> {
        check_tenant(tenant)?;
        check_keys(keys)?;
        check_count(labels.len())?;
        self.shared.writable()?;
        let labels = labels::define(&self.shared, labels)?;
        let (tenant, keys) = (tenant.to_owned(), keys.to_vec());
        queue::write(&self.shared, Work::Label { tenant, keys, labels, granted: true }, &self.stop)
    }

    /// Takes access labels from rows, by key, and returns how many rows were there. As durable, and as soon
    /// in effect, as [`Collection::grant`].
    ///
    /// # Errors
    /// As [`Collection::grant`].
    pub fn revoke(&self, tenant: &str, keys: &[String], labels: &[String]) -> Result<Written> {
        check_tenant(tenant)?;
        check_keys(keys)?;
        check_count(labels.len())?;
        labels.iter().try_for_each(|name| labels::check_label(name))?;
        let labels = self.shared.labels.known(labels);
        let (tenant, keys) = (tenant.to_owned(), keys.to_vec());
        queue::write(&self.shared, Work::Label { tenant, keys, labels, granted: false }, &self.stop)
    }

    /// Drops an access label: no row of any tenant has it any more. Says whether there was one. Its name can
    /// be used again and then begins with no rows.
    ///
    /// # Errors
    /// As [`Collection::upsert`].
    pub fn drop_label(&self, label: &str) -> Result<bool> {
        self.shared.open()?;
        labels::drop_label(&self.shared, label)
    }

    /// Names of the access labels that there are, sorted.
    pub fn labels(&self) -> Vec<String> {
        self.shared.labels.all()
    }

    /// Deletes every row that passes the filter and was written before the call, and returns how many. Up to
    /// 65,536 rows are one commit; more are several, and a failure keeps those before it: call it again.
    ///
    /// # Errors
    /// As [`Collection::upsert`]; [`ErrorKind::Invalid`] for a filter that does not fit the schema.
    pub fn delete_by_filter(&self, tenant: &str, filter: &Filter) -> Result<Written> {
        check_tenant(tenant)?;
        CheckedFilter::check(&self.shared.schema, filter)?;
        let up_to = self.shared.snapshot().last_row;
        let mut total = Written::default();
        loop {
            let (tenant, filter) = (tenant.to_owned(), filter.clone());
            let written =
                queue::write(&self.shared, Work::DeleteByFilter { tenant, filter, up_to }, &self.stop)?;
            let done = written.rows < DELETE_ROWS_MAX as u64;
            total.add(written);
            if done {
                return Ok(total);
            }
        }
    }

    /// Deletes all rows of a tenant in one commit and returns how many there were. Their records are removed,
    /// and their space given back, in the background.
    ///
    /// # Errors
    /// As [`Collection::upsert`].
    pub fn drop_tenant(&self, tenant: &str) -> Result<Written> {
        self.drop_tenant_rows(tenant, false)
    }

    /// As [`Collection::drop_tenant`], and the quota of its own that the tenant has stays, in the same
    /// commit: for callers that may not set quotas.
    ///
    /// # Errors
    /// As [`Collection::upsert`].
    pub fn empty_tenant(&self, tenant: &str) -> Result<Written> {
        self.drop_tenant_rows(tenant, true)
    }

    fn drop_tenant_rows(&self, tenant: &str, keeps_quota: bool) -> Result<Written> {
        check_tenant(tenant)?;
        let work = Work::DropTenant { tenant: tenant.to_owned(), keeps_quota };
        let written = queue::write(&self.shared, work, &self.stop)?;
        if let Some(caches) = &self.shared.chunk_caches {
            caches.forget_tenant((&self.shared.name, tenant));
        }
        Ok(written)
    }

    /// Rows by key, in the order of `keys`; none where there is no such row.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a bad key or unknown field; [`ErrorKind::Corrupt`] for damage on disk.
    pub fn get(&self, tenant: &str, keys: &[String], fields: &Fields) -> Result<Vec<Option<Row>>> {
        self.shared.open()?;
        check_tenant(tenant)?;
        check_keys(keys)?;
        let _turn = self.permits([tenant])?;
        fetch::get(&self.shared, tenant, keys, None, fields, &self.stop)
    }

    /// As [`Collection::get`], on behalf of someone who may see rows with one of these access labels: none
    /// where there is no such row, or none with such a label.
    ///
    /// # Errors
    /// As [`Collection::get`].
    pub fn get_labelled(
        &self,
        tenant: &str,
        keys: &[String],
        labels: &[String],
        fields: &Fields,
    ) -> Result<Vec<Option<Row>>> {
        self.shared.open()?;
        check_tenant(tenant)?;
        check_keys(keys)?;
        check_count(labels.len())?;
        let _turn = self.permits([tenant])?;
        fetch::get(&self.shared, tenant, keys, Some(labels), fields, &self.stop)
    }

    /// A page of rows in key order.
    ///
    /// # Errors
    /// As [`Collection::get`].
    pub fn scroll(&self, request: &ScrollRequest) -> Result<ScrollResponse> {
        self.shared.open()?;
        check_tenant(&request.tenant)?;
        let _turn = self.permits([&*request.tenant])?;
        fetch::scroll(&self.shared, request, &self.stop)
    }

    /// How many rows of the tenant pass the filter.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a filter that does not fit the schema.
    pub fn count(&self, tenant: &str, filter: Option<&Filter>) -> Result<u64> {
        self.shared.open()?;
        check_tenant(tenant)?;
        let _turn = self.permits([tenant])?;
        search::count(&self.shared, tenant, filter, &self.stop)
    }

    /// Finds the best rows of a tenant.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a request that does not fit the schema or the limits;
    /// [`ErrorKind::Deadline`] when its timeout passes; [`ErrorKind::Unavailable`] when a text must be
    /// embedded and the embedder cannot.
    pub fn search(&self, request: &SearchRequest) -> Result<SearchResponse> {
        self.shared.open()?;
        let _turn = self.permits([&*request.tenant])?;
        search::search(&self.shared, request, &self.stop)
    }

    /// Runs many searches on one snapshot, answers in order. Searches of one dense route that share field,
    /// tenant and filter are scored together, which is several times faster than one by one, with the same
    /// results.
    ///
    /// # Errors
    /// As [`Collection::search`], for the first request that fails.
    pub fn search_batch(&self, requests: &[SearchRequest]) -> Result<Vec<SearchResponse>> {
        self.shared.open()?;
        let _turns = self.permits(requests.iter().map(|request| &*request.tenant))?;
        search::search_batch(&self.shared, requests, &self.stop)
    }

    /// Finds the best rows and packs their texts, whole and in rank order, into a token budget.
    ///
    /// # Errors
    /// As [`Collection::search`]; [`ErrorKind::Invalid`] when the schema has no such text field.
    pub fn retrieve(&self, request: &RetrieveRequest) -> Result<RetrieveResponse> {
        self.shared.open()?;
        let _turn = self.permits([&*request.search.tenant])?;
        retrieve::retrieve(&self.shared, request, &self.stop)
    }

    /// Loads what the first [`Collection::retrieve`] would otherwise wait for: the tokenizer's vocabulary,
    /// some hundred milliseconds and tens of MB, once a process. Does nothing without a text field.
    pub fn warm_up(&self) {
        let schema = self.schema();
        if schema.fields.iter().any(|field| matches!(field.kind, FieldKind::Text(_)))
            && let Ok(tokenizer) = Tokenizer::named(&schema.tokenizer)
        {
            tokenizer.count("a word");
        }
    }

    /// Builds every row written so far into segments on disk and waits for it.
    ///
    /// # Errors
    /// When building fails; [`ErrorKind::Deadline`] when it takes longer than ten minutes (it goes on then).
    pub fn flush(&self) -> Result<()> {
        maintain::flush(&self.shared, &self.stop)
    }

    /// Builds every row written so far into as few segments on disk as they fit in, and waits for it: a
    /// search
    /// visits every segment, so that fewer are faster. Worth it after a load; background merging does the
    /// same little by little.
    ///
    /// # Errors
    /// As [`Collection::flush`], without its time limit.
    pub fn optimize(&self) -> Result<()> {
        maintain::optimize(&self.shared, &self.stop)
    }

    /// As [`Collection::flush`], and waits until background merging is done too, so that searches cost what
    /// they will cost from then on. For benchmarks.
    ///
    /// # Errors
    /// As [`Collection::flush`].
    pub fn settle(&self) -> Result<()> {
        maintain::settle(&self.shared, &self.stop)
    }

    /// Checks that indexes and row store agree: every row found by search is the row of its key, and none is
    /// missing. Reads every row's key; for tests and after repairs.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] naming the first row that differs.
    pub fn verify(&self) -> Result<()> {
        self.shared.open()?;
        self.shared.snapshot().verify(self.shared.id)
    }

    /// Sizes and states.
    ///
    /// # Errors
    /// When the collection was dropped.
    pub fn stats(&self) -> Result<CollectionStats> {
        self.shared.open()?;
        let snapshot = self.shared.snapshot();
        let mut stats = CollectionStats {
            name: self.shared.name.clone(),
            tenants: self.shared.tenants.len() as u64,
            last_row: snapshot.last_row.0,
            memory_bytes: self.shared.tenants.memory_bytes(),
            ..CollectionStats::default()
        };
        for view in &snapshot.views {
            let docs = u64::from(view.segment.docs());
            stats.rows += docs - view.deleted.len();
            stats.memory_bytes += view.segment.memory_bytes();
            if view.segment.on_disk() {
                stats.segments += 1;
                stats.segment_rows += docs;
                stats.deleted_rows += view.deleted.len();
                stats.segment_bytes += view.segment.disk_bytes();
            } else {
                stats.memory_rows += docs - view.deleted.len();
            }
        }
        Ok(stats)
    }
}

/// Checks that an embedder's vectors of `dim` elements fit the field.
fn check_field(schema: &Schema, name: &str, dim: Option<usize>) -> Result<()> {
    let Some((_, field)) = schema.find(name) else { return Err(unknown_field(schema, name)) };
    match &field.kind {
        FieldKind::Dense(spec) if dim.is_none_or(|dim| dim == spec.dim as usize) => Ok(()),
        FieldKind::Dense(spec) => Err(Error::invalid(format!(
            "the embedder makes vectors of {} elements, field '{name}' takes {}",
            dim.unwrap_or_default(),
            spec.dim
        ))),
        kind => {
            Err(Error::invalid(format!("vector_field '{name}' is a {} field, not a dense one", kind.name())))
        }
    }
}

fn check_keys(keys: &[String]) -> Result<()> {
    if keys.len() > ROWS_MAX {
        return Err(Error::invalid(format!("at most {ROWS_MAX} keys at once, got {}", keys.len())));
    }
    keys.iter().try_for_each(|key| check_key(key))
}
