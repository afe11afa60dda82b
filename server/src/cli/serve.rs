//! `spandrel serve`: until SIGINT or SIGTERM, then a graceful end; a second signal ends it at once.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;

use super::target::open_database;
use super::{CliError, Common, output};
use crate::config::Config;
use crate::serve::{ServeError, Server};
use crate::telemetry::start_logging;

/// Exit code when a second signal ends the process at once.
const ABORTED: i32 = 130;

/// Serves a data folder through gRPC, with metrics over HTTP. Every setting can also be given as --set
/// KEY=VALUE, as an environment variable SPANDREL_..., or in a TOML file; docs/configuration.md lists them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  spandrel serve
  spandrel serve --data /var/lib/spandrel --config /etc/spandrel.toml
  spandrel serve --listen 0.0.0.0:7780 --tls-cert server.pem --tls-key server.key
  SPANDREL_LIMITS_K_MAX=1000 spandrel serve --log-format json

Other than on a loopback address, API keys are needed: see `spandrel key create --help`.
SIGINT (Ctrl-C) or SIGTERM: stop accepting, finish what is in progress, close, exit 0. A second one: exit at once.")]
pub(super) struct ServeArgs {
    /// Data folder; made if it is not there [setting: data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where gRPC is served [setting: listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where /metrics and /healthz are served, or off [setting: metrics_listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_listen: Option<String>,
    /// The file of API keys [setting: auth.keys_file]
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
    /// PEM file with the server's certificate chain; turns TLS on [setting: tls.cert]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// PEM file with its private key [setting: tls.key]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// PEM file with the authorities of client certificates [setting: tls.client_ca]
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Folder under which backups are made [setting: backup_dir]
    #[arg(long, value_name = "DIR")]
    backup_dir: Option<PathBuf>,
    /// When a write is acknowledged: sync or buffered [setting: engine.durability]
    #[arg(long, value_name = "WHEN")]
    durability: Option<String>,
    /// Memory for indexes and caches, such as 2GiB [setting: engine.memory_budget_bytes]
    #[arg(long, value_name = "BYTES")]
    memory_budget: Option<String>,
    /// error, warn, info, debug, trace, or directives [setting: log.level]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json [setting: log.format]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl From<ServeError> for CliError {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Close(_) | ServeError::Transport(_) => Self::failed(error.to_string()),
            _ => Self::usage(error.to_string()),
        }
    }
}

impl ServeArgs {
    fn config(self, common: &Common) -> Result<Config, CliError> {
        let path = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
        common.config(vec![
            ("data", path(self.data)),
            ("listen", self.listen.map(|address| address.to_string())),
            ("metrics_listen", self.metrics_listen),
            ("auth.keys_file", path(self.keys_file)),
            ("tls.cert", path(self.tls_cert)),
            ("tls.key", path(self.tls_key)),
            ("tls.client_ca", path(self.tls_client_ca)),
            ("backup_dir", path(self.backup_dir)),
            ("engine.durability", self.durability),
            ("engine.memory_budget_bytes", self.memory_budget),
            ("log.level", self.log_level),
            ("log.format", self.log_format),
        ])
    }
}

pub(super) fn run(common: &Common, args: ServeArgs) -> Result<(), CliError> {
    let config = args.config(common)?;
    start_logging(&config.log).map_err(CliError::usage)?;
    let database = open_database(&config, true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("threads: {error}")))?;
    let result = runtime.block_on(async {
        // Listened to before anything is served, so that no signal is missed.
        let mut signals = Signals::new()?;
        let server = crate::start(database, &config).await?;
        announce(common, &config, &server)?;
        until_signal(server, &mut signals).await
    });
    // Calls that did not return within the grace time must not hold the process.
    runtime.shutdown_background();
    result
}

fn announce(common: &Common, config: &Config, server: &Server) -> Result<(), CliError> {
    let (listen, metrics) = (server.address(), server.metrics_address());
    tracing::info!(%listen, data = %config.data.display(), tls = config.tls.cert.is_some(), "serving gRPC");
    if let Some(metrics) = metrics {
        tracing::info!("metrics on http://{metrics}/metrics");
    }
    if common.json {
        return output::print_json(
            &json!({"listen": listen, "metrics_listen": metrics, "data": config.data}),
        );
    }
    let scheme = if config.tls.cert.is_some() { "https" } else { "http" };
    output::print(&format!("listening on {scheme}://{listen}\n"))
}

async fn until_signal(mut server: Server, signals: &mut Signals) -> Result<(), CliError> {
    tokio::select! {
        () = signals.next() => {}
        error = server.failed() => {
            tracing::error!(%error, "the listener failed; closing");
            server.shutdown().await?;
            return Err(error.into());
        }
    }
    tokio::select! {
        ended = server.shutdown() => Ok(ended?),
        () = signals.next() => {
            tracing::error!("second signal: ended at once; what was acknowledged is recovered at the next start");
            std::process::exit(ABORTED);
        }
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let failed = |error: std::io::Error| CliError::failed(format!("signals: {error}"));
            let terminate = signal(SignalKind::terminate()).map_err(failed)?;
            let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
            Ok(Self { terminate, interrupt })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
