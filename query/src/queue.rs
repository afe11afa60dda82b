//! The queue in front of the write path: callers queue checked work, and one of them commits for all that
//! wait (group commit), so that concurrent writers share a sync of the disk.
//!
//! Nobody waits for a timer: whoever finds no leader leads, and takes what is there. Work whose effect
//! depends on the state at its commit (a delete by filter, a document, the drop of a tenant) is a group of
//! its own.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};
use spandrel_index::stop::Stop;

use crate::error::{Error, ErrorKind, Result};
use crate::response::Written;
use crate::shared::Shared;
use crate::write::{Work, apply};

/// Rows that one group commits together at most; a larger upsert is a group of its own.
const GROUP_ROWS_MAX: usize = 8_192;

/// Callers that wait for their commit.
#[derive(Default)]
pub struct Queue {
    state: Mutex<QueueState>,
    done: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: Vec<Arc<Ticket>>,
    leading: bool,
}

struct Ticket {
    work: Mutex<Option<Work>>,
    result: Mutex<Option<Result<Written, Arc<Error>>>>,
}

/// Writes, in a group with whoever else is writing, and returns when it is durable and visible.
///
/// # Errors
/// [`ErrorKind::Deadline`] when `stop` says so before the commit has begun: nothing is written then. A commit
/// that has begun is waited for.
pub fn write(shared: &Shared, work: Work, stop: &Stop) -> Result<Written> {
    shared.writable()?;
    stop.check()?;
    if work.needs_room() {
        shared.wait_for_room(stop)?;
    }
    let ticket = Arc::new(Ticket { work: Mutex::new(Some(work)), result: Mutex::new(None) });
    let queue = &shared.queue;
    let mut state = queue.state.lock();
    state.waiting.push(Arc::clone(&ticket));
    loop {
        if let Some(result) = ticket.result.lock().take() {
            return result.map_err(|error| Error::new(error.kind(), error.message()));
        }
        if state.leading {
            wait(&queue.done, &mut state, stop.deadline());
            if let Err(error) = stop.check()
                && let Some(at) = state.waiting.iter().position(|waiting| Arc::ptr_eq(waiting, &ticket))
            {
                state.waiting.remove(at);
                return Err(error.into());
            }
            continue;
        }
        state.leading = true;
        let group = take_group(&mut state.waiting);
        drop(state);
        let leader = Leadership { queue };
        commit_group(shared, &group);
        drop(leader);
        state = queue.state.lock();
    }
}

fn wait(done: &Condvar, state: &mut MutexGuard<'_, QueueState>, deadline: Option<Instant>) {
    match deadline {
        Some(deadline) if deadline > Instant::now() => drop(done.wait_until(state, deadline)),
        _ => done.wait(state),
    }
}

/// Gives up leadership on every way out, so that a panic of one leader does not leave the others waiting.
struct Leadership<'a> {
    queue: &'a Queue,
}

impl Drop for Leadership<'_> {
    fn drop(&mut self) {
        self.queue.state.lock().leading = false;
        self.queue.done.notify_all();
    }
}

/// The oldest waiting work, and what may join it.
fn take_group(waiting: &mut Vec<Arc<Ticket>>) -> Vec<Arc<Ticket>> {
    let mut rows = 0;
    let mut count = 0;
    for ticket in waiting.iter() {
        let work = ticket.work.lock();
        let Some(work) = work.as_ref() else { break };
        rows += work.rows();
        if count > 0 && (rows > GROUP_ROWS_MAX || !work.groups()) {
            break;
        }
        count += 1;
        if !work.groups() {
            break;
        }
    }
    waiting.drain(..count).collect()
}

fn commit_group(shared: &Shared, group: &[Arc<Ticket>]) {
    let works: Vec<Work> = group.iter().filter_map(|ticket| ticket.work.lock().take()).collect();
    // A panic in here is a defect: the callers learn of it, and the collection stops taking writes.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| apply(shared, works)));
    let outcome = outcome.unwrap_or_else(|_| {
        let what = "a write failed half way; reopen the database to recover what was acknowledged";
        shared.poison(what);
        Err(Error::new(ErrorKind::Poisoned, what))
    });
    match outcome {
        Ok(written) => {
            for (ticket, written) in group.iter().zip(written) {
                *ticket.result.lock() = Some(written.map_err(Arc::new));
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for ticket in group {
                *ticket.result.lock() = Some(Err(Arc::clone(&error)));
            }
        }
    }
}
