//! How is the server told what to do? Flags, then environment, then a TOML file, then defaults; the first
//! that speaks wins.
//!
//! Every key has one name: `limits.k_max` in the file and in `--set limits.k_max=100`,
//! `SPANDREL_LIMITS_K_MAX` in the environment. [`keys::KEYS`] lists them all with what they mean; a key
//! outside that list is an error which names the nearest one. Values are checked where they are read, so that
//! a message names the flag, variable or file to change.

pub mod keys;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use spandrel::rag::openai::OpenAiSettings;

use crate::limits::Limits;
use keys::Kind;

/// What environment variables of the configuration start with.
pub const ENV_PREFIX: &str = "SPANDREL_";
/// Variables with that prefix that are not keys of the configuration: they belong to the command line, and to
/// the scripts and tests of this repository.
const ENV_OTHERS: [&str; 11] = [
    "SPANDREL_CONFIG",
    "SPANDREL_URL",
    "SPANDREL_API_KEY",
    "SPANDREL_CA_CERT",
    "SPANDREL_CLIENT_CERT",
    "SPANDREL_CLIENT_KEY",
    "SPANDREL_CACHE",
    "SPANDREL_SETUP",
    "SPANDREL_PYTHON_TESTS",
    "SPANDREL_TESTS_REQUIRE_ALL",
    "SPANDREL_CRASH_AT",
];

/// Everything a server is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The data folder.
    pub data: PathBuf,
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where metrics and health are served over HTTP; none: nowhere.
    #[serde(with = "address_or_off")]
    pub metrics_listen: Option<SocketAddr>,
    /// Folder under which backups are made; none: the data folder's name with `.backups`.
    pub backup_dir: Option<PathBuf>,
    /// Time that requests in progress get at shutdown, in milliseconds.
    pub shutdown_grace_ms: u64,
    /// Whether clients may ask for the descriptors of the services (server reflection).
    pub reflection: bool,
    /// API keys.
    pub auth: Auth,
    /// Transport security.
    pub tls: Tls,
    /// Bounds on requests.
    pub limits: Limits,
    /// Threads and queues between gRPC and the engine.
    pub pool: PoolSizes,
    /// Logging.
    pub log: Log,
    /// The engine's own settings.
    pub engine: spandrel::Settings,
    /// The embeddings endpoint; none while its model is empty.
    pub embedder: OpenAiSettings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("spandrel-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7780)),
            metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], 7781))),
            backup_dir: None,
            shutdown_grace_ms: 30_000,
            reflection: true,
            auth: Auth::default(),
            tls: Tls::default(),
            limits: Limits::default(),
            pool: PoolSizes::default(),
            log: Log::default(),
            engine: spandrel::Settings::default(),
            embedder: OpenAiSettings::default(),
        }
    }
}

/// API keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// The keys file; none: beside the data folder, with `.keys.json`.
    pub keys_file: Option<PathBuf>,
}

/// Transport security; off unless `cert` and `key` are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the server's certificate chain.
    pub cert: Option<PathBuf>,
    /// PEM file with its private key.
    pub key: Option<PathBuf>,
    /// PEM file with the authorities that client certificates must come from; none: clients show no
    /// certificate.
    pub client_ca: Option<PathBuf>,
}

/// Threads and queues between gRPC and the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolSizes {
    /// Searches and fetches that run at once; 0: as many as there are cores.
    pub read_threads: usize,
    /// Upserts and deletes that run at once.
    pub write_threads: usize,
    /// Calls that may wait in front of each pool.
    pub queue_max: usize,
}

impl Default for PoolSizes {
    fn default() -> Self {
        Self { read_threads: 0, write_threads: 4, queue_max: 512 }
    }
}

/// Logging to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,spandrel_server=debug`.
    pub level: String,
    /// For people or for machines.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A setting that cannot be used: where it was set, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct ConfigError {
    /// The flag, variable or file and key.
    pub at: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl ConfigError {
    fn new(at: impl fmt::Display, what: impl Into<String>) -> Self {
        Self { at: at.to_string(), what: what.into() }
    }
}

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Keys and values given as flags.
    pub flags: Vec<(String, String)>,
    /// The process's environment, or a part of it.
    pub env: Vec<(String, String)>,
    /// A TOML file.
    pub file: Option<PathBuf>,
}

impl Sources {
    /// Flags, the environment of this process, and the file that `file` or `SPANDREL_CONFIG` names.
    ///
    /// # Errors
    /// A setting's variable that is not Unicode. Variables of others may hold what they like.
    pub fn of_process(flags: Vec<(String, String)>, file: Option<PathBuf>) -> Result<Self, ConfigError> {
        let file = file.or_else(|| std::env::var_os("SPANDREL_CONFIG").map(PathBuf::from));
        Ok(Self { flags, env: settings_in(std::env::vars_os())?, file })
    }
}

/// The variables that are, or look like, settings.
fn settings_in(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut settings = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX) && !is_of_others(name))
        else {
            continue;
        };
        let value = value
            .into_string()
            .map_err(|_| ConfigError::new(format!("environment variable {name}"), "is not UTF-8"))?;
        settings.push((name.to_owned(), value));
    }
    Ok(settings)
}

/// Beside `folder`, its name with `suffix`: `data`, `data/` and `.` within it have the same siblings.
pub fn sibling(folder: &Path, suffix: &str) -> PathBuf {
    let beside = |folder: &Path| {
        let mut name = folder.file_name()?.to_owned();
        name.push(suffix);
        Some(folder.with_file_name(name))
    };
    // `.`, `..` and `/` end in no name; the first two have one where they lead to.
    beside(folder)
        .or_else(|| beside(&std::fs::canonicalize(folder).ok()?))
        .unwrap_or_else(|| folder.join(suffix.trim_start_matches('.')))
}

/// A value and where it was set.
type Settings = BTreeMap<&'static str, (toml::Value, String)>;

impl Config {
    /// Reads all sources.
    ///
    /// # Errors
    /// An unknown key, a value of the wrong type or out of range, a file that cannot be read.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut settings = Settings::new();
        if let Some(path) = &sources.file {
            read_file(path, &mut settings)?;
        }
        for (name, value) in &sources.env {
            if is_of_others(name) {
                continue;
            }
            let Some(key) = keys::KEYS.iter().find(|key| key.variable() == *name) else {
                let nearest = keys::nearest(name, keys::KEYS.iter().map(|key| key.variable()));
                return Err(ConfigError::new(
                    format!("environment variable {name}"),
                    format!("there is no such setting; did you mean {nearest}?"),
                ));
            };
            set(
                &mut settings,
                key,
                format!("environment variable {name}"),
                &toml::Value::from(value.as_str()),
            )?;
        }
        for (name, value) in &sources.flags {
            let at = format!("flag for {name}");
            set(&mut settings, find(name, &at)?, at, &toml::Value::from(value.as_str()))?;
        }
        let config = assemble(settings)?;
        config.check()?;
        Ok(config)
    }

    /// The keys file in use.
    pub fn keys_file(&self) -> PathBuf {
        self.auth.keys_file.clone().unwrap_or_else(|| crate::auth::keys::default_path(&self.data))
    }

    /// The folder of backups in use.
    pub fn backup_folder(&self) -> PathBuf {
        self.backup_dir.clone().unwrap_or_else(|| sibling(&self.data, ".backups"))
    }

    /// Checks what no single key can tell.
    fn check(&self) -> Result<(), ConfigError> {
        self.limits.check().map_err(|what| ConfigError::new("limits", what))?;
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return Err(ConfigError::new("tls", "tls.cert and tls.key belong together: set both or neither"));
        }
        if self.tls.client_ca.is_some() && self.tls.cert.is_none() {
            return Err(ConfigError::new("tls", "tls.client_ca needs tls.cert and tls.key"));
        }
        self.engine.check().map_err(|error| ConfigError::new("engine", error.to_string()))?;
        if !self.embedder.model.is_empty() {
            self.embedder.check().map_err(|error| ConfigError::new("embedder", error.to_string()))?;
        }
        if self.metrics_listen == Some(self.listen) && self.listen.port() != 0 {
            return Err(ConfigError::new("metrics_listen", format!("is {} as `listen` is", self.listen)));
        }
        Ok(())
    }
}

/// Whether a variable of our prefix is no setting.
fn is_of_others(name: &str) -> bool {
    ENV_OTHERS.contains(&name) || is_service_link(name)
}

/// Kubernetes puts `SPANDREL_SERVICE_HOST`, `SPANDREL_PORT_7780_TCP_ADDR` and the like into the environment
/// of every pod beside a service called spandrel.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix(ENV_PREFIX).unwrap_or_default();
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_")
}

fn find(name: &str, at: &str) -> Result<&'static keys::Key, ConfigError> {
    keys::KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
        let nearest = keys::nearest(name, keys::KEYS.iter().map(|key| key.name.to_owned()));
        ConfigError::new(at, format!("there is no setting '{name}'; did you mean '{nearest}'?"))
    })
}

fn set(
    settings: &mut Settings,
    key: &'static keys::Key,
    at: String,
    raw: &toml::Value,
) -> Result<(), ConfigError> {
    let value = key.kind.read(raw).map_err(|what| ConfigError::new(&at, format!("{}: {what}", key.name)))?;
    settings.insert(key.name, (value, at));
    Ok(())
}

fn read_file(path: &Path, settings: &mut Settings) -> Result<(), ConfigError> {
    let at = format!("configuration file {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::new(&at, error.to_string()))?;
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| ConfigError::new(&at, error.to_string()))?;
    flatten("", &toml::Value::Table(table), &mut |name, value| {
        let at = format!("{at}, key {name}");
        set(settings, find(name, &at)?, at, value)
    })
}

fn flatten(
    name: &str,
    value: &toml::Value,
    each: &mut dyn FnMut(&str, &toml::Value) -> Result<(), ConfigError>,
) -> Result<(), ConfigError> {
    let toml::Value::Table(table) = value else { return each(name, value) };
    for (key, value) in table {
        let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        flatten(&name, value, each)?;
    }
    Ok(())
}

fn assemble(settings: Settings) -> Result<Config, ConfigError> {
    let mut root = toml::Table::new();
    let mut sources = Vec::new();
    for (name, (value, at)) in settings {
        sources.push(format!("{name} from {at}"));
        let (sections, key) = name.rsplit_once('.').unwrap_or(("", name));
        let mut table = Some(&mut root);
        for section in sections.split('.').filter(|section| !section.is_empty()) {
            let entry = table.map(|table| table.entry(section));
            let inner = entry.map(|entry| entry.or_insert_with(|| toml::Value::Table(toml::Table::new())));
            table = inner.and_then(toml::Value::as_table_mut);
        }
        if let Some(table) = table {
            table.insert(key.to_owned(), value);
        }
    }
    // Each value has passed its own check; what is left to go wrong is a disagreement between KEYS and
    // Config.
    root.try_into().map_err(|error: toml::de::Error| ConfigError::new(sources.join(", "), error.to_string()))
}

/// `off` or an address.
mod address_or_off {
    use super::{Deserialize, SocketAddr};

    pub fn serialize<S: serde::Serializer>(
        value: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str(super::Kind::OFF),
        }
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == super::Kind::OFF {
            return Ok(None);
        }
        text.parse().map(Some).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
