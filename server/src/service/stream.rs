//! The upsert stream: many batches, written in order, with the client never far ahead of the disk.
//!
//! While one batch is written the next message is read and decoded; a third is not asked for, so HTTP/2 flow
//! control holds the client back. At most two messages of a stream are in memory, `limits.streams_max`
//! streams at a time. A batch waits for the write pool like every other call, but patiently: a full queue
//! slows a stream, it does not end it. Between two batches the stream ends with UNAVAILABLE when the server
//! shuts down; what was acknowledged to the engine until then is told in the trailing metadata, as with every
//! other failure.

use std::pin::Pin;
use std::sync::Arc;

use spandrel::Written;
use spandrel_proto::v1 as pb;
use tonic::metadata::MetadataValue;
use tonic::{Status, Streaming};

use super::{Backend, Task, rows};
use crate::call::Call;
use crate::convert::response::written_to_wire;
use crate::pool::expired;
use crate::status;
use crate::telemetry::metrics::Metrics;

/// Trailing metadata of a failure: messages written before it.
pub const BATCHES_WRITTEN: &str = "spandrel-batches-written";
/// Trailing metadata of a failure: rows written before it.
pub const ROWS_WRITTEN: &str = "spandrel-rows-written";

/// What the stream has written.
#[derive(Default)]
struct Totals {
    written: Written,
    batches: u64,
}

impl Totals {
    fn add(&mut self, written: Written) {
        self.written.rows += written.rows;
        self.written.last_row = written.last_row;
        self.batches += 1;
    }

    /// The failure with what was written before it.
    fn attach(&self, status: Status) -> Status {
        let mut status = status::reword(status);
        let (rows, batches) = (self.written.rows, self.batches);
        let message = format!(
            "batch {batches}: {}; {batches} batches ({rows} rows) before it are written",
            status.message()
        );
        let mut metadata = std::mem::take(status.metadata_mut());
        metadata.insert(BATCHES_WRITTEN, MetadataValue::from(batches));
        metadata.insert(ROWS_WRITTEN, MetadataValue::from(rows));
        Status::with_metadata(status.code(), message, metadata)
    }
}

/// Counts the stream while it lives.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.stream(1);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.stream(-1);
    }
}

type Pending = Pin<Box<dyn Future<Output = Result<Written, Status>> + Send>>;

/// Writes all batches of `messages`.
pub(super) async fn upsert(
    backend: &Arc<Backend>,
    call: Call,
    messages: Streaming<pb::UpsertStreamRequest>,
) -> Result<pb::UpsertStreamResponse, Status> {
    let Ok(_permit) = Arc::clone(&backend.streams).try_acquire_owned() else {
        let most = backend.limits.streams_max;
        return Err(Status::resource_exhausted(format!(
            "{most} upsert streams are in progress (limits.streams_max); retry later"
        )));
    };
    let _counted = Counted::new(&backend.metrics);
    let mut totals = Totals::default();
    match write_all(backend, &call, messages, &mut totals).await {
        Ok(()) => Ok(pb::UpsertStreamResponse {
            written: Some(written_to_wire(totals.written)),
            batches: totals.batches,
        }),
        Err(status) => Err(totals.attach(status)),
    }
}

async fn write_all(
    backend: &Arc<Backend>,
    call: &Call,
    mut messages: Streaming<pb::UpsertStreamRequest>,
    totals: &mut Totals,
) -> Result<(), Status> {
    let mut stopping = backend.stopping.clone();
    let mut collection = String::new();
    let mut tenant = String::new();
    let mut pending: Option<Pending> = None;
    loop {
        // A failed write ends the stream at once, even while the client is silent.
        let message = loop {
            tokio::select! {
                biased;
                written = wait_for(&mut pending), if pending.is_some() => {
                    pending = None;
                    totals.add(written?);
                }
                () = stopped(&mut stopping), if pending.is_none() => {
                    return Err(shutting_down());
                }
                message = messages.message() => break message?,
                () = call.deadline.passed() => return Err(expired("while the stream waited for a batch")),
            }
        };
        if let Some(earlier) = pending.take() {
            totals.add(earlier.await?);
        }
        let Some(message) = message else { return Ok(()) };
        // Between two batches, however fast they come.
        if *stopping.borrow() {
            return Err(shutting_down());
        }
        backend.keyring.still_allows(&call.caller)?;
        take_over(&mut collection, &mut tenant, &message)?;
        pending = Some(write_one(backend, call, &collection, &tenant, message.rows));
    }
}

fn shutting_down() -> Status {
    Status::unavailable("the server is shutting down")
}

/// The collection and tenant of this message: its own, or those of the message before.
fn take_over(
    collection: &mut String,
    tenant: &mut String,
    message: &pb::UpsertStreamRequest,
) -> Result<(), Status> {
    if collection.is_empty() {
        collection.clone_from(&message.collection);
    } else if !message.collection.is_empty() && message.collection != *collection {
        return Err(Status::invalid_argument(format!(
            "collection: '{}', the stream began with '{collection}'",
            message.collection
        )));
    }
    if !message.tenant.is_empty() {
        tenant.clone_from(&message.tenant);
    }
    Ok(())
}

fn write_one(
    backend: &Arc<Backend>,
    call: &Call,
    collection: &str,
    tenant: &str,
    rows: Vec<pb::Row>,
) -> Pending {
    let (backend, call) = (Arc::clone(backend), call.clone());
    let (collection, tenant) = (collection.to_owned(), tenant.to_owned());
    Box::pin(async move {
        let caller = call.caller.clone();
        let work = move |task: &Task| rows::upsert(task, &caller, &collection, &tenant, rows);
        backend.write_patiently(&call, work).await
    })
}

async fn wait_for(pending: &mut Option<Pending>) -> Result<Written, Status> {
    match pending {
        Some(future) => future.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn stopped(stopping: &mut tokio::sync::watch::Receiver<bool>) {
    if stopping.wait_for(|stopping| *stopping).await.is_err() {
        // The sender lives as long as the server; without it there is nobody to stop for.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_has_one_collection_and_the_last_tenant_named() {
        let message = |collection: &str, tenant: &str| pb::UpsertStreamRequest {
            collection: collection.to_owned(),
            tenant: tenant.to_owned(),
            rows: Vec::new(),
        };
        let (mut collection, mut tenant) = (String::new(), String::new());
        take_over(&mut collection, &mut tenant, &message("docs", "acme")).unwrap();
        take_over(&mut collection, &mut tenant, &message("", "")).unwrap();
        assert_eq!((collection.as_str(), tenant.as_str()), ("docs", "acme"));
        take_over(&mut collection, &mut tenant, &message("docs", "beta")).unwrap();
        assert_eq!(tenant, "beta");
        let error = take_over(&mut collection, &mut tenant, &message("other", "")).unwrap_err();
        assert!(error.message().contains("the stream began with 'docs'"), "{error}");
    }

    #[test]
    fn a_failure_tells_how_far_the_stream_came() {
        let mut totals = Totals::default();
        totals.add(Written { rows: 10, last_row: 10 });
        totals.add(Written { rows: 5, last_row: 15 });
        let status = totals.attach(Status::invalid_argument("rows[3].key: is empty"));
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "batch 2: rows[3].key: is empty; 2 batches (15 rows) before it are written"
        );
        assert_eq!(status.metadata().get(BATCHES_WRITTEN).unwrap(), "2");
        assert_eq!(status.metadata().get(ROWS_WRITTEN).unwrap(), "15");
    }
}
