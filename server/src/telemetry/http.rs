//! Metrics and health over plain HTTP, for Prometheus and for probes: `/metrics` and `/healthz`, nothing
//! else, no authentication. A scrape asks the engine for its statistics on a pool of their own.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::metrics::Metrics;
use crate::phase::{Phase, Phases};
use crate::pool::{Deadline, Pools};
use crate::status;

/// Longest wait for the engine's statistics in a scrape; past it the last ones are shown.
const STATS_TIMEOUT: Duration = Duration::from_secs(5);

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// How busy they are.
    pub pools: Pools,
    /// Asked for its statistics.
    pub database: spandrel::Database,
    /// Whether the server is shutting down.
    pub phases: Phases,
}

/// Serves the pages until the server has shut down, which the sender of `stopped` tells by going away.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    pages: Pages,
    mut stopped: watch::Receiver<()>,
) -> std::io::Result<()> {
    let router =
        axum::Router::new().route("/metrics", get(metrics)).route("/healthz", get(health)).with_state(pages);
    let until_stopped = async move { while stopped.changed().await.is_ok() {} };
    axum::serve(listener, router).with_graceful_shutdown(until_stopped).await
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let database = pages.database.clone();
    let deadline = Deadline::after(STATS_TIMEOUT);
    let stats = pages.pools.stats.run(deadline, move || database.stats().map_err(status::from_engine)).await;
    match stats {
        Ok(stats) => pages.metrics.set_engine(&stats),
        Err(error) => tracing::warn!(%error, "no engine statistics for this scrape"),
    }
    for pool in pages.pools.all() {
        let (running, waiting) = pool.load();
        pages.metrics.set_pool(pool.name(), running, waiting);
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], pages.metrics.encode()).into_response()
}

async fn health(State(pages): State<Pages>) -> (StatusCode, &'static str) {
    if pages.phases.has_reached(Phase::Stopping) {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n");
    }
    (StatusCode::OK, "ok\n")
}
