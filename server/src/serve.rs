//! A running server: addresses bound, services wired, and an end that loses nothing.
//!
//! Shutting down, in order (`phase`): health says NOT_SERVING and `/healthz` 503; no connection is accepted
//! and clients are told to go elsewhere; upsert streams and exports end between two messages; requests in
//! progress finish, all within `shutdown_grace_ms`; what is left then is answered UNAVAILABLE, watches of
//! health end, connections are dropped, and the database is closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use spandrel::Database;
use spandrel::rag::openai::OpenAiEmbedder;
use spandrel_proto::v1;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::auth::keyring::Keyring;
use crate::auth::keys::KeysError;
use crate::call::{CallLayer, Shared};
use crate::config::{Config, Tls};
use crate::connection::{self, Connection};
use crate::limits::Limits;
use crate::phase::{self, Lead, Phase, Phases};
use crate::pool::{Pool, Pools};
use crate::service::Backend;
use crate::service::admin::Admin;
use crate::service::chunk_caches::ChunkCaches;
use crate::service::collections::{self, Collections};
use crate::service::rows::Rows;
use crate::service::search::Searches;
use crate::service::tenants::Tenants;
use crate::telemetry::http::{self, Pages};
use crate::telemetry::metrics::Metrics;

/// HTTP/2 windows: how much a client may send ahead of what the server has read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Largest block of request headers.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// A peer that is silent for this long is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// A peer that does not answer within this time is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls that administration, upkeep and statistics run at once, each.
const ADMIN_THREADS: usize = 2;
/// Tenants that are copied, exported and warmed at once. A thread may wait for a client all the time.
const BULK_THREADS: usize = 16;
/// Time that answers which are ready get to reach their clients, when the grace time is over.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a server did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address that cannot be bound.
    #[error("{key} {address}: {source}; choose another address with --set {key}=ADDRESS:PORT")]
    Bind {
        /// The setting.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// Keys that cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// No keys where there must be some.
    #[error(
        "{address} is not a loopback address and there are no API keys in {keys_file}, so anybody who reaches it could \
         read and write everything; create a key first: `spandrel key create --keys-file {keys_file} --access admin \
         --tenant '*'`, or listen on 127.0.0.1"
    )]
    NoKeys {
        /// Where the server would listen.
        address: SocketAddr,
        /// Where keys would be.
        keys_file: String,
    },
    /// Certificates that cannot be used.
    #[error("{key}: {what}")]
    Tls {
        /// The setting.
        key: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The listener failed.
    #[error("gRPC server: {0}")]
    Transport(String),
    /// The database could not be closed.
    #[error("closing the database: {0}")]
    Close(spandrel::Error),
}

/// A running server. Dropping it ends it without waiting; [`Server::shutdown`] ends it well.
pub struct Server {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    database: Database,
    pools: Pools,
    shared: Arc<Shared>,
    health: HealthReporter,
    grace: Duration,
    lead: Lead,
    stopped: watch::Sender<()>,
    grpc: JoinHandle<Result<(), tonic::transport::Error>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Serves `database` as `config` says; port 0 picks a free one. Returns when requests are accepted.
///
/// # Errors
/// When an address cannot be bound, keys or certificates cannot be used, or keys are needed and there are
/// none.
pub async fn start(database: Database, config: &Config) -> Result<Server, ServeError> {
    let keyring = Arc::new(Keyring::open(config.keys_file())?);
    if !config.listen.ip().is_loopback() && !keyring.has_keys() {
        let keys_file = keyring.path().display().to_string();
        return Err(ServeError::NoKeys { address: config.listen, keys_file });
    }
    if !keyring.is_closed() {
        tracing::warn!(keys_file = %keyring.path().display(), "no API keys: every local process may do everything");
    }
    let tls = config.tls.cert.is_some().then(|| tls_config(&config.tls)).transpose()?;
    let (listener, address) = bind("listen", config.listen).await?;
    let pages_listener = match config.metrics_listen {
        Some(address) => Some(bind("metrics_listen", address).await?),
        None => None,
    };
    let metrics = Arc::new(Metrics::new());
    let (lead, phases) = phase::start();
    let (stopped, is_stopped) = watch::channel(());
    let pools = pools_of(config, &metrics);
    let backend = Arc::new(Backend {
        database: database.clone(),
        pools: pools.clone(),
        limits: config.limits.clone(),
        metrics: Arc::clone(&metrics),
        backup_folder: config.backup_folder(),
        streams: Arc::new(Semaphore::new(config.limits.streams_max)),
        phases: phases.clone(),
    });
    let names = database.collections();
    collections::warm_up(names.iter().filter_map(|name| database.collection(name).ok()).collect());
    let health = HealthReporter::new();
    let shared =
        Shared::new(Arc::clone(&keyring), Arc::clone(&metrics), phases.clone(), config.limits.requests_max);
    let incoming = connection::incoming(listener, &config.limits, &phases, &metrics);
    let routes = routes(&backend, &health, config).await?;
    let mut tasks = vec![tokio::spawn(keyring.watch())];
    let metrics_address = pages_listener.as_ref().map(|(_, address)| *address);
    if let Some((listener, _)) = pages_listener {
        let pages =
            Pages { metrics, pools: pools.clone(), database: database.clone(), phases: phases.clone() };
        tasks.push(tokio::spawn(async move {
            if let Err(error) = http::serve(listener, pages, is_stopped).await {
                tracing::error!(%error, "metrics are not served any more");
            }
        }));
    }
    let layer = CallLayer(Arc::clone(&shared));
    let grpc = tokio::spawn(serve_grpc(incoming, (tls, &config.tls), &config.limits, layer, routes, phases)?);
    let grace = Duration::from_millis(config.shutdown_grace_ms);
    Ok(Server {
        address,
        metrics_address,
        database,
        pools,
        shared,
        health,
        grace,
        lead,
        stopped,
        grpc,
        tasks,
    })
}

impl Server {
    /// Where gRPC is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Waits until the listener fails; it does not end by itself otherwise. May be called again after it is
    /// dropped.
    ///
    /// # Errors
    /// Always, with the failure.
    pub async fn failed(&mut self) -> ServeError {
        match (&mut self.grpc).await {
            Ok(Ok(())) => ServeError::Transport("the listener ended".to_owned()),
            Ok(Err(error)) => ServeError::Transport(error.to_string()),
            Err(error) => ServeError::Transport(error.to_string()),
        }
    }

    /// Ends the server and closes the database; what was acknowledged stays.
    ///
    /// # Errors
    /// When the database could not be closed.
    pub async fn shutdown(mut self) -> Result<(), ServeError> {
        tracing::info!(grace_ms = self.grace.as_millis() as u64, "shutting down");
        for name in SERVICE_NAMES {
            self.health.set_service_status(name, ServingStatus::NotServing).await;
        }
        // One deadline for everything that is waited for.
        let deadline = Instant::now() + self.grace;
        self.lead.advance(Phase::Stopping);
        if timeout_at(deadline, self.shared.all_ended()).await.is_err() {
            tracing::warn!("requests were still in progress after the grace time; they end with UNAVAILABLE");
        }
        self.lead.advance(Phase::Ended);
        self.drain(deadline).await;
        // Watches of health have seen the change; now they end.
        for name in SERVICE_NAMES {
            self.health.clear_service_status(name).await;
        }
        if !self.grpc.is_finished() {
            let _ = tokio::time::timeout(FAREWELL, &mut self.grpc).await;
        }
        self.lead.advance(Phase::Cut);
        let database = self.database.clone();
        let closed = tokio::task::spawn_blocking(move || database.close()).await;
        drop(self.stopped);
        // They hold clones of the database; its folder is free when the last is gone.
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
        if !self.grpc.is_finished() {
            let _ = self.grpc.await;
        }
        match closed {
            Ok(closed) => closed.map_err(ServeError::Close),
            Err(error) => Err(ServeError::Transport(error.to_string())),
        }
    }

    /// Waits for the engine calls of all pools together, until `deadline`.
    async fn drain(&self, deadline: Instant) {
        let mut pools = JoinSet::new();
        for pool in self.pools.all() {
            let pool = pool.clone();
            pools.spawn(async move {
                if timeout_at(deadline, pool.drain()).await.is_err() {
                    tracing::warn!(
                        pool = pool.name(),
                        "calls still run; they end with errors when the database closes"
                    );
                }
            });
        }
        pools.join_all().await;
    }
}

/// Names under which health is told; the empty one is the whole server.
const SERVICE_NAMES: [&str; 7] = [
    "",
    "spandrel.v1.CollectionService",
    "spandrel.v1.RowService",
    "spandrel.v1.SearchService",
    "spandrel.v1.TenantService",
    "spandrel.v1.ChunkCacheService",
    "spandrel.v1.AdminService",
];

async fn bind(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Bind { key, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn pools_of(config: &Config, metrics: &Metrics) -> Pools {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let read = if config.pool.read_threads == 0 { cores } else { config.pool.read_threads };
    let pool = |name, threads| Pool::new(name, threads, config.pool.queue_max, metrics.panics());
    Pools {
        read: pool("read", read),
        write: pool("write", config.pool.write_threads),
        bulk: pool("bulk", BULK_THREADS),
        admin: pool("admin", ADMIN_THREADS),
        upkeep: pool("upkeep", ADMIN_THREADS),
        stats: pool("stats", ADMIN_THREADS),
    }
}

async fn routes(
    backend: &Arc<Backend>,
    health: &HealthReporter,
    config: &Config,
) -> Result<Routes, ServeError> {
    // A 32-bit system cannot hold more than it can count.
    let message_bytes = usize::try_from(config.limits.message_bytes_max).unwrap_or(usize::MAX);
    for name in SERVICE_NAMES {
        health.set_service_status(name, ServingStatus::Serving).await;
    }
    let collections =
        v1::collection_service_server::CollectionServiceServer::new(Collections(Arc::clone(backend)));
    let rows = v1::row_service_server::RowServiceServer::new(Rows(Arc::clone(backend)));
    let searches = v1::search_service_server::SearchServiceServer::new(Searches(Arc::clone(backend)));
    let tenants = v1::tenant_service_server::TenantServiceServer::new(Tenants(Arc::clone(backend)));
    let chunk_caches =
        v1::chunk_cache_service_server::ChunkCacheServiceServer::new(ChunkCaches(Arc::clone(backend)));
    let admin = v1::admin_service_server::AdminServiceServer::new(Admin(Arc::clone(backend)));
    let health_service = tonic_health::server::HealthService::from_health_reporter(health.clone());
    let mut routes = Routes::new(collections.max_decoding_message_size(message_bytes))
        .add_service(rows.max_decoding_message_size(message_bytes))
        .add_service(searches.max_decoding_message_size(message_bytes))
        .add_service(tenants.max_decoding_message_size(message_bytes))
        .add_service(chunk_caches.max_decoding_message_size(message_bytes))
        .add_service(admin.max_decoding_message_size(message_bytes))
        .add_service(tonic_health::pb::health_server::HealthServer::new(health_service));
    if config.reflection {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(spandrel_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let failed = |error: tonic_reflection::server::Error| ServeError::Transport(error.to_string());
        // Tools of before 2023 ask for v1alpha.
        routes = routes
            .add_service(builder().build_v1().map_err(failed)?)
            .add_service(builder().build_v1alpha().map_err(failed)?);
    }
    Ok(routes)
}

fn serve_grpc<I: Stream<Item = std::io::Result<Connection>> + Send>(
    incoming: I,
    (tls, config): (Option<ServerTlsConfig>, &Tls),
    limits: &Limits,
    layer: CallLayer,
    routes: Routes,
    mut phases: Phases,
) -> Result<impl Future<Output = Result<(), tonic::transport::Error>> + Send + use<I>, ServeError> {
    let mut builder = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits.connection_requests_max)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT));
    if let Some(tls) = tls {
        builder = builder.tls_config(tls).map_err(|error| tls_failed(config, &error))?;
    }
    let until_stopping = async move { phases.reached(Phase::Stopping).await };
    let router = builder.layer(layer).add_routes(routes);
    Ok(router.serve_with_incoming_shutdown(incoming, until_stopping))
}

/// The library names no file, and a certificate that is not one it lays on a peer.
fn tls_failed(tls: &Tls, error: &tonic::transport::Error) -> ServeError {
    let name = |path: &Option<std::path::PathBuf>| path.clone().unwrap_or_default().display().to_string();
    let (cert, key) = (name(&tls.cert), name(&tls.key));
    let text = crate::status::chain(error);
    let what = if text.contains("sent no certificates") {
        format!(
            "there is no certificate in {cert}; it is a file of PEM text that begins with BEGIN CERTIFICATE"
        )
    } else if text.contains("no RSA or PKCS8") {
        format!(
            "there is no usable private key in {key}; it is PEM text of a PKCS #8, RSA or EC key that is not encrypted"
        )
    } else if text.contains("KeyMismatch") {
        format!("the key in {key} does not belong to the certificate in {cert}")
    } else {
        format!("the certificates of {cert}, the key of {key} and tls.client_ca do not work together: {text}")
    };
    ServeError::Tls { key: "tls", what }
}

fn tls_config(tls: &Tls) -> Result<ServerTlsConfig, ServeError> {
    let read = |key: &'static str, path: &Option<std::path::PathBuf>| {
        let path = path.clone().unwrap_or_default();
        std::fs::read(&path)
            .map_err(|error| ServeError::Tls { key, what: format!("{}: {error}", path.display()) })
    };
    let identity = Identity::from_pem(read("tls.cert", &tls.cert)?, read("tls.key", &tls.key)?);
    let config = ServerTlsConfig::new().identity(identity);
    if tls.client_ca.is_none() {
        return Ok(config);
    }
    let authorities = Certificate::from_pem(read("tls.client_ca", &tls.client_ca)?);
    Ok(config.client_ca_root(authorities).client_auth_optional(false))
}

/// What the engine is given besides settings: the embedder, where the configuration has one.
///
/// # Errors
/// When its settings cannot be.
pub fn components(config: &Config) -> Result<spandrel::Components, spandrel::Error> {
    if config.embedder.model.is_empty() {
        return Ok(spandrel::Components::default());
    }
    let embedder = OpenAiEmbedder::new(config.embedder.clone())?;
    Ok(spandrel::Components { embedder: Some(Arc::new(embedder)), ..Default::default() })
}
