//! The export stream: all rows of a tenant, read no faster than the client takes them.
//!
//! A thread of the `bulk` pool reads a page of rows, makes messages of about 1 MiB of it, and waits until
//! there is room for the next one before it hands it over: a page and two messages are in memory, whatever
//! the client does. The engine's snapshot stays the same from the first row to the last.
//!
//! A stream lives long, so what a call asks once is asked here for every message, when there is room for it:
//! whether the server shuts down, whether the deadline has passed, whether the key is still in force and
//! allows the tenant, and, with a key of labels, which rows have one of them now. A client that takes nothing
//! for `limits.stream_idle_timeout_ms` gives its place to another.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use spandrel::{Cancel, Collection, Error, Fields, Row};
use spandrel_proto::v1 as pb;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Permit, Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Backend, CancelOnDrop, Task, shutting_down};
use crate::auth::Access;
use crate::call::Call;
use crate::convert::row::row_to_wire;
use crate::phase::Phase;
use crate::pool::{Deadline, expired};
use crate::status;

/// A message is ended before it gets larger than this, unless one row is.
const MESSAGE_BYTES_TARGET: usize = 1 << 20;
/// Messages that wait for the client, besides the one that waits for room.
const MESSAGES_QUEUED_MAX: usize = 1;

/// What the client gets: messages, and at last, perhaps, why there are no more.
pub(super) type Messages = ReceiverStream<Answer>;
type Answer = Result<pb::ExportTenantResponse, Status>;

/// Begins to hand out the rows of a tenant that the caller may see.
pub(super) fn begin(backend: &Arc<Backend>, call: Call, collection: Collection, tenant: String) -> Messages {
    let (send, receive) = channel(MESSAGES_QUEUED_MAX);
    let cancel = CancelOnDrop(Cancel::new());
    let task = backend.task(call.deadline, &cancel);
    let (pool, deadline) = (backend.pools.bulk.clone(), call.deadline);
    let outlet = Outlet { runtime: Handle::current(), send: send.clone(), call, tenant };
    tokio::spawn(async move {
        let reading = pool.run(deadline, move || outlet.read(&task, &task.within(&collection)));
        let ended = tokio::select! {
            ended = reading => ended,
            // The client went away: what runs for it is cancelled.
            () = send.closed() => return,
        };
        if let Err(status) = ended {
            // It may have gone away meanwhile.
            let _ = send.send(Err(status)).await;
        }
        drop(cancel);
    });
    ReceiverStream::new(receive)
}

/// How an export ends before its time.
struct End(Status);

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self(status::from_engine(error))
    }
}

/// Where rows go out to one client.
struct Outlet {
    runtime: Handle,
    send: Sender<Answer>,
    call: Call,
    tenant: String,
}

impl Outlet {
    fn read(&self, task: &Task, collection: &Collection) -> Result<(), Status> {
        let read = collection.try_export_tenant(&self.tenant, |rows| {
            messages(rows).into_iter().try_for_each(|rows| self.push(task, collection, rows)).map_err(End)
        });
        let rows = read.map_err(|End(status)| status)?;
        tracing::info!(collection = collection.name(), tenant = self.tenant, rows, "tenant exported");
        Ok(())
    }

    /// Hands over a message when there is room for it, by the rights that the key has then.
    fn push(&self, task: &Task, collection: &Collection, mut rows: Vec<pb::Row>) -> Result<(), Status> {
        let room = self.room(task)?;
        let caller = self.call.asked_again()?.caller;
        caller.require(Access::Read)?;
        caller.require_tenant(&self.tenant)?;
        if let Some(labels) = caller.labels(None) {
            rows = self.visible(collection, &labels, rows).map_err(status::from_engine)?;
        }
        if !rows.is_empty() {
            room.send(Ok(pb::ExportTenantResponse { rows }));
        }
        Ok(())
    }

    /// Waits until the client has taken the message before the last.
    fn room(&self, task: &Task) -> Result<Permit<'_, Answer>, Status> {
        let mut phases = task.phases.clone();
        let idle_ms = task.limits.stream_idle_timeout_ms;
        let idle = Deadline::after(Duration::from_millis(idle_ms));
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = phases.reached(Phase::Stopping) => Err(shutting_down()),
                () = self.call.deadline.passed() => Err(expired("before all rows were taken")),
                room = self.send.reserve() => room.map_err(|_| Status::cancelled("the client went away")),
                () = idle.passed() => Err(Status::deadline_exceeded(format!(
                    "no message was taken for {idle_ms} ms (limits.stream_idle_timeout_ms)"
                ))),
            }
        })
    }

    /// Those of the rows that had one of the labels when the export began, and whose key has one now.
    fn visible(
        &self,
        collection: &Collection,
        labels: &[String],
        mut rows: Vec<pb::Row>,
    ) -> spandrel::Result<Vec<pb::Row>> {
        rows.retain(|row| row.labels.iter().any(|label| labels.contains(label)));
        let keys: Vec<String> = rows.iter().map(|row| row.key.clone()).collect();
        let now = collection.get_labelled(&self.tenant, &keys, labels, &Fields::None)?;
        let mut now = now.into_iter();
        rows.retain(|_| now.next().flatten().is_some());
        Ok(rows)
    }
}

/// The rows in messages of bounded size, in order; a row that is larger alone goes alone.
fn messages(rows: Vec<Row>) -> Vec<Vec<pb::Row>> {
    let mut messages: Vec<Vec<pb::Row>> = Vec::new();
    let mut bytes = 0;
    for row in rows {
        let row = row_to_wire(row);
        let row_bytes = row.encoded_len();
        match messages.last_mut() {
            Some(message) if bytes + row_bytes <= MESSAGE_BYTES_TARGET => message.push(row),
            _ => {
                messages.push(vec![row]);
                bytes = 0;
            }
        }
        bytes += row_bytes;
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_and_in_order() {
        let sizes = [10, 400, 700, 2_000, 1, 2, 900, 100];
        let row = |kib: usize| Row::new(kib.to_string()).text("body", "x".repeat(kib << 10));
        let messages = messages(sizes.into_iter().map(row).collect());
        let keys = |message: &Vec<pb::Row>| message.iter().map(|row| row.key.clone()).collect::<Vec<_>>();
        let keys: Vec<Vec<String>> = messages.iter().map(keys).collect();
        assert_eq!(keys, [vec!["10", "400"], vec!["700"], vec!["2000"], vec!["1", "2", "900", "100"]]);
        assert!(super::messages(Vec::new()).is_empty());
    }
}
