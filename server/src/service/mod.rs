//! One file a gRPC service: ask the caller, convert, call the engine on a pool, convert back.

pub mod admin;
pub mod collections;
pub mod rows;
pub mod search;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use spandrel::{Collection, Database};
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

impl Backend {
    fn collection(&self, name: &str) -> Result<Arc<Collection>, Status> {
        if name.is_empty() {
            return Err(Status::invalid_argument("collection: is required"));
        }
        self.database.collection(name).map_err(status::from_engine)
    }

    /// Runs a read: at most as long as the settings allow.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        work: impl FnOnce(&Self, Deadline) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let most = Deadline::after(Duration::from_millis(self.limits.read_timeout_ms));
        let deadline = call.deadline.or_sooner(most);
        let backend = Arc::clone(self);
        self.pools.read.run(deadline, move || work(&backend, deadline)).await
    }

    /// Runs a write.
    async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        work: impl FnOnce(&Self) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.run_on(&self.pools.write, call, work).await
    }

    /// Runs what makes or drops a collection.
    async fn admin<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        work: impl FnOnce(&Self) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.run_on(&self.pools.admin, call, work).await
    }

    /// Runs what may take minutes. The caller is answered at its deadline, with or without a result.
    async fn upkeep<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        work: impl FnOnce(&Self) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.run_on(&self.pools.upkeep, call, work).await
    }

    /// Runs what only looks at sizes and states.
    async fn stats<T: Send + 'static>(
        self: &Arc<Self>,
        call: &Call,
        work: impl FnOnce(&Self) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.run_on(&self.pools.stats, call, work).await
    }

    async fn run_on<T: Send + 'static>(
        self: &Arc<Self>,
        pool: &Pool,
        call: &Call,
        work: impl FnOnce(&Self) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let backend = Arc::clone(self);
        pool.run(call.deadline, move || work(&backend)).await
    }
}
