//! What a command works on: a data folder opened in this process, or a server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use spandrel::{
    Collection, Database, DatabaseStats, ErrorKind, RetrieveRequest, RetrieveResponse, Schema, SearchRequest,
    SearchResponse, Written,
};

use super::{CliError, Common};
use crate::client::{Client, ClientSettings};
use crate::config::Config;

/// Where the collections are.
#[derive(clap::Args)]
pub(super) struct TargetArgs {
    /// Data folder, opened in this process [default: the setting `data`, ./spandrel-data]
    #[arg(long, value_name = "DIR", help_heading = "Where")]
    data: Option<PathBuf>,
    /// Server, for example http://127.0.0.1:7780 [env: SPANDREL_URL]
    #[arg(long, value_name = "URL", help_heading = "Where")]
    url: Option<String>,
    /// API key for the server
    #[arg(
        long,
        env = "SPANDREL_API_KEY",
        hide_env_values = true,
        value_name = "KEY",
        help_heading = "Where"
    )]
    api_key: Option<String>,
    /// PEM file of the authority that an https server's certificate is signed by [default: those that
    /// browsers trust]
    #[arg(long, env = "SPANDREL_CA_CERT", value_name = "FILE", help_heading = "Where")]
    ca_cert: Option<PathBuf>,
    /// PEM file of the certificate to show to a server that asks for one
    #[arg(
        long,
        env = "SPANDREL_CLIENT_CERT",
        value_name = "FILE",
        requires = "client_key",
        help_heading = "Where"
    )]
    client_cert: Option<PathBuf>,
    /// PEM file of that certificate's private key
    #[arg(
        long,
        env = "SPANDREL_CLIENT_KEY",
        value_name = "FILE",
        requires = "client_cert",
        help_heading = "Where"
    )]
    client_key: Option<PathBuf>,
}

/// A data folder that is open, or a server that is connected.
pub(super) enum Target {
    /// In this process.
    Local(Database),
    /// Elsewhere.
    Remote(Client),
}

impl TargetArgs {
    /// Opens or connects. A folder that is not there is made only where `make_folder` says so: a search in a
    /// folder that is spelled wrong is an error.
    pub(super) fn open(&self, common: &Common, make_folder: bool) -> Result<Target, CliError> {
        let url = match (&self.data, &self.url) {
            (Some(_), Some(_)) => return Err(CliError::usage("give --data or --url, not both")),
            (Some(_), None) => None,
            (None, Some(url)) => Some(url.clone()),
            (None, None) => std::env::var("SPANDREL_URL").ok().filter(|url| !url.is_empty()),
        };
        if let Some(url) = url {
            return self.connect(url).map(Target::Remote);
        }
        let data = self.data.as_ref().map(|path| path.display().to_string());
        let config = common.config(vec![("data", data)])?;
        open_database(&config, make_folder).map(Target::Local)
    }

    fn connect(&self, url: String) -> Result<Client, CliError> {
        let read = |flag: &str, path: &Option<PathBuf>| match path {
            None => Ok(None),
            Some(path) => std::fs::read(path)
                .map(Some)
                .map_err(|error| CliError::usage(format!("{flag} {}: {error}", path.display()))),
        };
        let (mut authorities, mut identity) = (None, None);
        // A plain server has no use for what the environment says of certificates.
        if url.starts_with("https:") {
            authorities = read("--ca-cert", &self.ca_cert)?;
            identity = read("--client-cert", &self.client_cert)?.zip(read("--client-key", &self.client_key)?);
        }
        let api_key = self.api_key.clone().filter(|key| !key.is_empty());
        Client::connect(&ClientSettings { url, api_key, authorities, identity }).map_err(|status| {
            let mut error = CliError::from(status.clone());
            let what = status.message();
            if what.contains("certificate") || what.contains("UnknownIssuer") {
                error.code = super::FAILED;
                return error.hint("name the authority of the server's certificate with --ca-cert FILE");
            }
            match status.code() {
                tonic::Code::Unavailable if what.contains("http2 error") || what.contains("h2 protocol") => {
                    error.hint("a server with TLS is reached by https://")
                }
                tonic::Code::Unavailable if what.contains("InvalidContentType") => {
                    error.hint("a server without TLS is reached by http://")
                }
                tonic::Code::Unavailable => error.hint("is the server running? `spandrel serve` starts one"),
                _ => error,
            }
        })
    }
}

/// Opens the data folder that the configuration names.
pub(super) fn open_database(config: &Config, make_folder: bool) -> Result<Database, CliError> {
    if !make_folder && !config.data.is_dir() {
        return Err(CliError {
            message: format!("there is no data folder {}", config.data.display()),
            code: super::NOT_FOUND,
        }
        .hint("name it with --data DIR, or a server with --url URL; `spandrel import` makes one"));
    }
    let components = crate::serve::components(config)?;
    Database::open_with(&config.data, config.engine.clone(), components).map_err(|error| {
        let locked = error.kind() == ErrorKind::Conflict;
        let error = CliError::from(error);
        if locked {
            error.hint("if a server has it open, ask the server: --url http://127.0.0.1:7780")
        } else {
            error
        }
    })
}

impl Target {
    /// Names and schemas of all collections, by name.
    pub(super) fn collections(&self) -> Result<Vec<(String, Schema)>, CliError> {
        match self {
            Self::Local(database) => {
                let mut all = Vec::new();
                for name in database.collections() {
                    let schema = database.collection(&name)?.schema().clone();
                    all.push((name, schema));
                }
                Ok(all)
            }
            Self::Remote(client) => Ok(client.collections()?),
        }
    }

    /// The schema of a collection; none when there is no such collection.
    pub(super) fn find_schema(&self, name: &str) -> Result<Option<Schema>, CliError> {
        match self {
            Self::Local(database) => match database.collection(name) {
                Ok(collection) => Ok(Some(collection.schema().clone())),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            },
            Self::Remote(client) => match client.schema(name) {
                Ok(schema) => Ok(Some(schema)),
                Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
                Err(status) => Err(status.into()),
            },
        }
    }

    /// The schema of a collection.
    pub(super) fn schema(&self, name: &str) -> Result<Schema, CliError> {
        self.find_schema(name)?.ok_or_else(|| {
            let names = self.collections().unwrap_or_default();
            let names: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
            let hint = match names.as_slice() {
                [] => "there are no collections yet; `spandrel import FILE --create` makes one".to_owned(),
                names => format!("collections: {}", names.join(", ")),
            };
            CliError { message: format!("there is no collection '{name}'"), code: super::NOT_FOUND }
                .hint(&hint)
        })
    }

    /// Creates a collection.
    pub(super) fn create(&self, name: &str, schema: &Schema) -> Result<(), CliError> {
        match self {
            Self::Local(database) => database.create_collection(name, schema.clone()).map(drop)?,
            Self::Remote(client) => client.create_collection(name, schema)?,
        }
        Ok(())
    }

    /// Drops a collection.
    pub(super) fn drop_collection(&self, name: &str) -> Result<(), CliError> {
        match self {
            Self::Local(database) => database.drop_collection(name)?,
            Self::Remote(client) => client.drop_collection(name)?,
        }
        Ok(())
    }

    /// Runs a search.
    pub(super) fn search(
        &self,
        collection: &str,
        request: SearchRequest,
    ) -> Result<SearchResponse, CliError> {
        match self {
            Self::Local(database) => Ok(local(database, collection)?.search(&request)?),
            Self::Remote(client) => Ok(client.search(collection, request)?),
        }
    }

    /// Runs a retrieve.
    pub(super) fn retrieve(
        &self,
        collection: &str,
        request: RetrieveRequest,
    ) -> Result<RetrieveResponse, CliError> {
        match self {
            Self::Local(database) => Ok(local(database, collection)?.retrieve(&request)?),
            Self::Remote(client) => Ok(client.retrieve(collection, request)?),
        }
    }

    /// Gives rows labels, or takes them.
    pub(super) fn label(
        &self,
        collection: &str,
        (tenant, keys): (&str, &[String]),
        labels: &[String],
        granted: bool,
    ) -> Result<Written, CliError> {
        match self {
            Self::Local(database) => {
                let collection = local(database, collection)?;
                Ok(match granted {
                    true => collection.grant(tenant, keys, labels)?,
                    false => collection.revoke(tenant, keys, labels)?,
                })
            }
            Self::Remote(client) => Ok(client.label(collection, (tenant, keys), labels, granted)?),
        }
    }

    /// Drops a label; says whether there was one.
    pub(super) fn drop_label(&self, collection: &str, label: &str) -> Result<bool, CliError> {
        match self {
            Self::Local(database) => Ok(local(database, collection)?.drop_label(label)?),
            Self::Remote(client) => Ok(client.drop_label(collection, label)?),
        }
    }

    /// Names of labels.
    pub(super) fn labels(&self, collection: &str) -> Result<Vec<String>, CliError> {
        match self {
            Self::Local(database) => Ok(local(database, collection)?.labels()),
            Self::Remote(client) => Ok(client.labels(collection)?),
        }
    }

    /// Statistics.
    pub(super) fn stats(&self) -> Result<DatabaseStats, CliError> {
        match self {
            Self::Local(database) => Ok(database.stats()?),
            Self::Remote(client) => Ok(client.stats()?),
        }
    }

    /// Makes a backup: in the folder `to` here, or under the name `to` on the server. Returns its folder.
    pub(super) fn backup(&self, to: &str) -> Result<String, CliError> {
        match self {
            Self::Local(database) => {
                database.backup(Path::new(to))?;
                Ok(to.to_owned())
            }
            Self::Remote(client) => Ok(client.backup(to)?),
        }
    }

    /// Closes what is open; a folder's fresh rows are built into segments.
    pub(super) fn close(self) -> Result<(), CliError> {
        if let Self::Local(database) = self {
            database.close()?;
        }
        Ok(())
    }
}

pub(super) fn local(database: &Database, name: &str) -> Result<Arc<Collection>, CliError> {
    Ok(database.collection(name)?)
}
