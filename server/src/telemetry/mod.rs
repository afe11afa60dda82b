//! What is going on? Logs on standard error, metrics and health over HTTP.

pub mod http;
pub mod metrics;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Sends logs to standard error from now on. Called once by a program; a second call changes nothing.
///
/// # Errors
/// When `log.level` is not a level and not a list of directives.
pub fn start_logging(log: &Log) -> Result<(), String> {
    let filter = EnvFilter::builder().parse(&log.level).map_err(|error| {
        format!("log.level: '{}': {error}; try info, debug, or info,spandrel_server=debug", log.level)
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error says that a subscriber is there: a test's, or an embedding program's.
    let _ = match log.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
