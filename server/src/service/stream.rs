//! The upsert stream: many batches, written in order, with the client never far ahead of the disk.
//!
//! While one batch is written the next message is read and decoded; a third is not asked for, so HTTP/2 flow
//! control holds the client back. At most two messages of a stream are in memory, `limits.streams_max`
//! streams at a time. A batch waits for the write pool like every other call, but patiently: a full queue
//! slows a stream, it does not end it.
//!
//! A stream lives long, so what a call asks once is asked here before every batch: whether the server shuts
//! down (UNAVAILABLE), whether the key is still in force, whether the deadline has passed. A client that
//! sends nothing for `limits.stream_idle_timeout_ms` gives its place to another. However a stream ends, the
//! trailing metadata tells what was written until then.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use spandrel::Written;
use spandrel_proto::v1 as pb;
use tonic::metadata::MetadataValue;
use tonic::{Status, Streaming};

use super::{Backend, Task, rows, shutting_down};
use crate::auth::Access;
use crate::call::Call;
use crate::convert::response::written_to_wire;
use crate::phase::{Phase, Phases};
use crate::pool::{Deadline, expired};
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
        self.written.add(written);
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
    let mut phases = backend.phases.clone();
    let mut collection = String::new();
    let mut tenant = String::new();
    let mut pending: Option<Pending> = None;
    loop {
        let message = next(backend, call, &mut messages, &mut pending, &mut phases, totals).await?;
        // A message that cannot be read does not undo the batch before it.
        finish(&mut pending, &mut phases, totals).await?;
        let Some(message) = message? else { return Ok(()) };
        if phases.has_reached(Phase::Stopping) {
            return Err(shutting_down());
        }
        if call.deadline.has_passed() {
            return Err(expired("between two batches"));
        }
        let call = call.asked_again()?;
        call.caller.require(Access::Write)?;
        take_over(&mut collection, &mut tenant, &message)?;
        pending = Some(write_one(backend, call, &collection, &tenant, message.rows));
    }
}

/// What the client sent.
type Message = Result<Option<pb::UpsertStreamRequest>, Status>;

/// Waits for the next message. A write that fails meanwhile ends the stream at once, even while the client is
/// silent.
async fn next(
    backend: &Backend,
    call: &Call,
    messages: &mut Streaming<pb::UpsertStreamRequest>,
    pending: &mut Option<Pending>,
    phases: &mut Phases,
    totals: &mut Totals,
) -> Result<Message, Status> {
    let idle_ms = backend.limits.stream_idle_timeout_ms;
    let idle = || Deadline::after(Duration::from_millis(idle_ms));
    let mut idle_until = idle();
    let mut ended = phases.clone();
    loop {
        tokio::select! {
            biased;
            written = wait_for(pending), if pending.is_some() => {
                *pending = None;
                totals.add(written?);
                idle_until = idle();
            }
            () = ended.reached(Phase::Ended) => return Err(shutting_down()),
            () = phases.reached(Phase::Stopping), if pending.is_none() => return Err(shutting_down()),
            () = call.deadline.passed(), if pending.is_none() => {
                return Err(expired("while the stream waited for a batch"));
            }
            () = idle_until.passed(), if pending.is_none() => {
                let what = format!("no message for {idle_ms} ms (limits.stream_idle_timeout_ms)");
                return Err(Status::deadline_exceeded(what));
            }
            message = messages.message() => return Ok(message),
        }
    }
}

/// Waits for the batch that is being written.
async fn finish(
    pending: &mut Option<Pending>,
    phases: &mut Phases,
    totals: &mut Totals,
) -> Result<(), Status> {
    if pending.is_some() {
        let written = tokio::select! {
            biased;
            written = wait_for(pending) => written,
            () = phases.reached(Phase::Ended) => return Err(shutting_down()),
        };
        *pending = None;
        totals.add(written?);
    }
    Ok(())
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
    call: Call,
    collection: &str,
    tenant: &str,
    rows: Vec<pb::Row>,
) -> Pending {
    let backend = Arc::clone(backend);
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
        totals.add(Written { rows: 10, last_row: 10, ..Written::default() });
        totals.add(Written { rows: 5, last_row: 15, ..Written::default() });
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
