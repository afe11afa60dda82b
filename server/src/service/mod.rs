//! One file a gRPC service: ask the caller, convert, call the engine on a pool, convert back.

pub mod admin;
pub mod chunk_caches;
pub mod collections;
mod export;
pub mod rows;
pub mod search;
mod stream;
pub mod tenants;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use spandrel::{Cancel, Collection, Database, Stop};
use tokio::sync::Semaphore;
use tonic::Status;

use crate::call::Call;
use crate::limits::Limits;
use crate::phase::Phases;
use crate::pool::{Deadline, Pool, Pools};
use crate::status;
use crate::telemetry::metrics::Metrics;

/// What all services work with.
pub struct Backend {
    /// The engine.
    pub database: Database,
    /// Where it is called.
    pub pools: Pools,
    /// Bounds on requests.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where backups are made.
    pub backup_folder: PathBuf,
    /// Upsert streams that may begin.
    pub streams: Arc<Semaphore>,
    /// Whether the server is shutting down.
    pub phases: Phases,
}

/// The backend as one call sees it: what the call starts gives up at its deadline, and when its client goes
/// away.
pub struct Task {
    backend: Arc<Backend>,
    stop: Stop,
}

impl Deref for Task {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}

impl Task {
    /// The collection, for this call.
    fn collection(&self, name: &str) -> Result<Collection, Status> {
        Ok(self.within(&*self.backend.find(name)?))
    }

    /// The same collection, with the turns that were taken, for this call.
    fn within(&self, collection: &Collection) -> Collection {
        collection.until(self.stop.clone())
    }
}

fn shutting_down() -> Status {
    Status::unavailable("the server is shutting down")
}

/// Cancels what runs for a call when nobody waits for the answer any more.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Backend {
    fn find(&self, name: &str) -> Result<Arc<Collection>, Status> {
        if name.is_empty() {
            return Err(Status::invalid_argument("collection: is required"));
        }
        self.database.collection(name).map_err(status::from_engine)
    }

    /// Takes the turn of one query for each of these tenants, before it waits for a thread: what a tenant has
    /// in the queue is bounded by its quota, too. The turns last as long as the handle that is returned.
    fn admit<'t>(
        &self,
        collection: &str,
        tenants: impl IntoIterator<Item = &'t str>,
    ) -> Result<Collection, Status> {
        self.find(collection)?.admit(tenants).map_err(status::from_engine)
    }

    /// Runs a query of a collection that it is admitted to; see [`Self::read`].
    async fn query<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        admitted: Collection,
        work: impl FnOnce(&Task, &Collection) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.read(call, move |task| work(task, &task.within(&admitted))).await
    }

    /// Runs a read: at most as long as the settings allow.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        work: impl FnOnce(&Task) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let most = Deadline::after(Duration::from_millis(self.limits.read_timeout_ms));
        let deadline = call.deadline.or_sooner(most);
        let cancel = CancelOnDrop(Cancel::new());
        let task = self.task(deadline, &cancel);
        self.pools.read.run(deadline, move || work(&task)).await
    }

    /// Runs a write.
    async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        work: impl FnOnce(&Task) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.run_on(&self.pools.write, call, work).await
    }

    /// As [`Self::write`], but waits for room in the queue: for streams, which flow control holds back.
    async fn write_patiently<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        work: impl FnOnce(&Task) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let cancel = CancelOnDrop(Cancel::new());
        let task = self.task(call.deadline, &cancel);
        self.pools.write.run_patiently(call.deadline, move || work(&task)).await
    }

    /// Runs what goes through all rows of a tenant.
    async fn bulk<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        work: impl FnOnce(&Task) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.run_on(&self.pools.bulk, call, work).await
    }

    /// Runs what makes or drops a collection, or limits a tenant.
    async fn admin<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        work: impl FnOnce(&Task) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.run_on(&self.pools.admin, call, work).await
    }

    /// Runs what may take minutes.
    async fn upkeep<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        work: impl FnOnce(&Task) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.run_on(&self.pools.upkeep, call, work).await
    }

    /// Runs what only looks at sizes and states.
    async fn stats<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        work: impl FnOnce(&Task) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.run_on(&self.pools.stats, call, work).await
    }

    async fn run_on<T: Send + 'static>(
        self: &Arc<Self>,
        pool: &Pool,
        call: &Call,
        work: impl FnOnce(&Task) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let cancel = CancelOnDrop(Cancel::new());
        let task = self.task(call.deadline, &cancel);
        pool.run(call.deadline, move || work(&task)).await
    }

    fn task(self: &Arc<Self>, deadline: Deadline, cancel: &CancelOnDrop) -> Task {
        let stop = Stop::new(deadline.instant(), Some(cancel.0.clone()));
        Task { backend: Arc::clone(self), stop }
    }
}
