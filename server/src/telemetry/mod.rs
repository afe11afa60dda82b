//! What is going on? Logs on standard error, metrics and health over HTTP.

pub mod http;
pub mod metrics;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{Log, LogFormat};

/// Sends logs to standard error from now on. Called once by a program; a second call changes nothing.
///
/// # Errors
/// When `log.level` is not a level and not a list of directives.
pub fn start_logging(log: &Log) -> Result<(), String> {
    // The parser takes a word that is no level for the name of a module, and then shows nothing else.
    let wrong = |directive: &str| {
        !directive.contains(['=', ':', '[']) && directive.trim().parse::<LevelFilter>().is_err()
    };
    if let Some(directive) = log.level.split(',').find(|directive| wrong(directive)) {
        return Err(format!(
            "log.level: '{directive}' is not a level; they are off, error, warn, info, debug and trace, and \
             for one module info,spandrel_server=debug"
        ));
    }
    let filter = EnvFilter::builder().parse(&log.level).map_err(|error| {
        format!("log.level: '{}': {error}; try info, debug, or info,spandrel_server=debug", log.level)
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // An error says that a subscriber is there: a test's, or an embedding program's.
    let _ = match log.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
