//! A blocking client of a Spandrel server, in the engine's own words: what the command line uses for `--url`.
//!
//! It owns a small runtime, so it must not be used from within one. Programs that are async already use the
//! generated clients of `spandrel-proto`.

mod chunk_caches;
mod tenants;

use std::sync::mpsc::Receiver;
use std::time::Duration;

use prost::Message;
use spandrel::{
    DatabaseStats, RetrieveRequest, RetrieveResponse, Row, Schema, SearchRequest, SearchResponse, Written,
};
use spandrel_proto::v1 as pb;
use spandrel_proto::v1::admin_service_client::AdminServiceClient;
use spandrel_proto::v1::collection_service_client::CollectionServiceClient;
use spandrel_proto::v1::row_service_client::RowServiceClient;
use spandrel_proto::v1::search_service_client::SearchServiceClient;
use tokio::runtime::Runtime;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::convert::{request, response, retrieve, row, schema};

pub use chunk_caches::ChunkCachePage;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest deadline of a call; gRPC cannot say all longer ones.
const TIMEOUT_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Answers of any size are read: they are bounded by what was asked for.
const ANSWER_BYTES_MAX: usize = usize::MAX;
/// A message of an upsert stream is split when it is larger; well under a server's default limit.
const MESSAGE_BYTES_TARGET: usize = 16 << 20;
/// Messages on their way to the connection.
const MESSAGES_QUEUED_MAX: usize = 1;

/// A connection to a server.
pub struct Client {
    runtime: Runtime,
    channel: Channel,
    bearer: Option<MetadataValue<Ascii>>,
}

/// How to reach a server.
#[derive(Clone, Debug, Default)]
pub struct ClientSettings {
    /// `http://host:port` or `https://host:port`.
    pub url: String,
    /// The API key.
    pub api_key: Option<String>,
    /// PEM text of the authorities that an `https` server's certificate must come from; none: those that
    /// browsers trust (Mozilla's list, part of this program).
    pub authorities: Option<Vec<u8>>,
    /// PEM texts of the certificate chain and private key that the client shows; none: it shows none.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

fn invalid(what: impl std::fmt::Display) -> Status {
    Status::invalid_argument(what.to_string())
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for settings that cannot be; UNAVAILABLE when nobody answers.
    pub fn connect(settings: &ClientSettings) -> Result<Self, Status> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| Status::internal(error.to_string()))?;
        let url = &settings.url;
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(invalid(format!(
                "--url '{url}': it looks like http://127.0.0.1:7780 or https://HOST:PORT"
            )));
        }
        let mut endpoint = Endpoint::from_shared(url.clone())
            .map_err(|error| invalid(format!("--url '{url}': {error}; it looks like http://127.0.0.1:7780")))?
            .connect_timeout(CONNECT_TIMEOUT);
        if url.starts_with("https:") {
            let mut tls = match &settings.authorities {
                Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
                None => ClientTlsConfig::new().with_webpki_roots(),
            };
            if let Some((cert, key)) = &settings.identity {
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            let failed = |error| invalid(format!("certificates: {}", crate::status::chain(&error)));
            endpoint = endpoint.tls_config(tls).map_err(failed)?;
        } else if settings.authorities.is_some() || settings.identity.is_some() {
            return Err(invalid(format!("certificates are for https servers, the server is {url}")));
        }
        let bearer = match &settings.api_key {
            None => None,
            Some(key) => {
                let mut value: MetadataValue<Ascii> = format!("Bearer {}", key.trim())
                    .parse()
                    .map_err(|_| invalid("the API key holds characters that no key has"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let channel = runtime.block_on(endpoint.connect()).map_err(|error| {
            Status::unavailable(format!("cannot connect to {url}: {}", crate::status::chain(&error)))
        })?;
        Ok(Self { runtime, channel, bearer })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }

    fn request_within<T>(&self, timeout: Option<Duration>, message: T) -> Request<T> {
        let mut request = self.request(message);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout.min(TIMEOUT_MAX));
        }
        request
    }

    fn collections_client(&self) -> CollectionServiceClient<Channel> {
        CollectionServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn search_client(&self) -> SearchServiceClient<Channel> {
        SearchServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    fn admin_client(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Names and schemas of all collections.
    ///
    /// # Errors
    /// The server's.
    pub fn collections(&self) -> Result<Vec<(String, Schema)>, Status> {
        let request = self.request(pb::ListCollectionsRequest {});
        let mut client = self.collections_client();
        let answer = self.runtime.block_on(client.list(request))?.into_inner();
        answer.collections.into_iter().map(read_collection).collect()
    }

    /// The schema of a collection.
    ///
    /// # Errors
    /// The server's; NOT_FOUND when there is no such collection.
    pub fn schema(&self, name: &str) -> Result<Schema, Status> {
        let request = self.request(pb::GetCollectionRequest { name: name.to_owned() });
        let mut client = self.collections_client();
        let answer = self.runtime.block_on(client.get(request))?.into_inner();
        Ok(read_collection(answer.collection.unwrap_or_default())?.1)
    }

    /// Creates a collection.
    ///
    /// # Errors
    /// The server's; ALREADY_EXISTS when the name is taken.
    pub fn create_collection(&self, name: &str, fields: &Schema) -> Result<(), Status> {
        let schema = Some(schema::schema_to_wire(fields));
        let message = pb::CreateCollectionRequest { name: name.to_owned(), schema, if_not_exists: false };
        let request = self.request(message);
        self.runtime.block_on(self.collections_client().create(request)).map(drop)
    }

    /// Drops a collection.
    ///
    /// # Errors
    /// The server's; NOT_FOUND when there is none.
    pub fn drop_collection(&self, name: &str) -> Result<(), Status> {
        let request = self.request(pb::DropCollectionRequest { name: name.to_owned(), if_exists: false });
        self.runtime.block_on(self.collections_client().drop(request)).map(drop)
    }

    /// Runs a search; its timeout becomes the call's deadline.
    ///
    /// # Errors
    /// The server's.
    pub fn search(&self, collection: &str, search: SearchRequest) -> Result<SearchResponse, Status> {
        let timeout = search.timeout;
        let request = self.request_within(timeout, request::search_to_wire(collection, search));
        let answer = self.runtime.block_on(self.search_client().search(request))?.into_inner();
        response::search_from_wire(answer).map_err(|error| bad_answer(&error))
    }

    /// Runs a retrieve; its search's timeout becomes the call's deadline.
    ///
    /// # Errors
    /// The server's.
    pub fn retrieve(&self, collection: &str, asked: RetrieveRequest) -> Result<RetrieveResponse, Status> {
        let timeout = asked.search.timeout;
        let request = self.request_within(timeout, retrieve::request_to_wire(collection, asked));
        let answer = self.runtime.block_on(self.search_client().retrieve(request))?.into_inner();
        retrieve::response_from_wire(answer).map_err(|error| bad_answer(&error))
    }

    /// Gives rows labels, or takes them.
    ///
    /// # Errors
    /// The server's.
    pub fn label(
        &self,
        collection: &str,
        (tenant, keys): (&str, &[String]),
        labels: &[String],
        granted: bool,
    ) -> Result<Written, Status> {
        let (collection, tenant) = (collection.to_owned(), tenant.to_owned());
        let (keys, labels) = (keys.to_vec(), labels.to_vec());
        let mut client = RowServiceClient::new(self.channel.clone());
        let written = if granted {
            let request = self.request(pb::GrantRequest { collection, tenant, keys, labels });
            self.runtime.block_on(client.grant(request))?.into_inner().written
        } else {
            let request = self.request(pb::RevokeRequest { collection, tenant, keys, labels });
            self.runtime.block_on(client.revoke(request))?.into_inner().written
        };
        Ok(response::written_from_wire(written))
    }

    /// Drops a label; says whether there was one.
    ///
    /// # Errors
    /// The server's.
    pub fn drop_label(&self, collection: &str, label: &str) -> Result<bool, Status> {
        let (collection, label) = (collection.to_owned(), label.to_owned());
        let request = self.request(pb::DropLabelRequest { collection, label });
        let mut client = RowServiceClient::new(self.channel.clone());
        Ok(self.runtime.block_on(client.drop_label(request))?.into_inner().dropped)
    }

    /// Names of labels.
    ///
    /// # Errors
    /// The server's.
    pub fn labels(&self, collection: &str) -> Result<Vec<String>, Status> {
        let request = self.request(pb::ListLabelsRequest { collection: collection.to_owned() });
        let mut client = RowServiceClient::new(self.channel.clone());
        Ok(self.runtime.block_on(client.list_labels(request))?.into_inner().labels)
    }

    /// Statistics.
    ///
    /// # Errors
    /// The server's.
    pub fn stats(&self) -> Result<DatabaseStats, Status> {
        let request = self.request(pb::StatsRequest {});
        let answer = self.runtime.block_on(self.admin_client().stats(request))?.into_inner();
        Ok(response::stats_from_wire(answer))
    }

    /// Makes a backup on the server's machine and returns its folder there.
    ///
    /// # Errors
    /// The server's.
    pub fn backup(&self, name: &str) -> Result<String, Status> {
        let request = self.request(pb::BackupRequest { name: name.to_owned() });
        Ok(self.runtime.block_on(self.admin_client().backup(request))?.into_inner().path)
    }

    /// Writes all batches that `batches` yields, in order, through one upsert stream; `on_sent` is told the
    /// rows of each message when the connection takes it, which flow control keeps close to when it is
    /// written.
    ///
    /// # Errors
    /// The server's, with what was written before it in its message and metadata.
    pub fn upsert_stream(
        &self,
        collection: &str,
        batches: Receiver<Vec<Row>>,
        mut on_sent: impl FnMut(u64) + Send + 'static,
    ) -> Result<(Written, u64), Status> {
        let (send, receive) = tokio::sync::mpsc::channel(MESSAGES_QUEUED_MAX);
        let name = collection.to_owned();
        let feeder = std::thread::spawn(move || {
            for batch in batches {
                let rows = batch.into_iter().map(row::row_to_wire).collect();
                for rows in split(rows) {
                    let count = rows.len() as u64;
                    let message =
                        pb::UpsertStreamRequest { collection: name.clone(), tenant: String::new(), rows };
                    // The server has ended the stream; it says why in its answer.
                    if send.blocking_send(message).is_err() {
                        return;
                    }
                    on_sent(count);
                }
            }
        });
        let request = self.request(tokio_stream::wrappers::ReceiverStream::new(receive));
        let mut client = RowServiceClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.upsert_stream(request));
        // After the answer the receiver is gone, and the feeder with its next message.
        drop(feeder);
        let answer = answer?.into_inner();
        Ok((response::written_from_wire(answer.written), answer.batches))
    }
}

fn read_collection(collection: pb::Collection) -> Result<(String, Schema), Status> {
    let schema = schema::schema_from_wire(collection.schema.unwrap_or_default())
        .map_err(|error| bad_answer(&error))?;
    Ok((collection.name, schema))
}

fn bad_answer(error: &dyn std::error::Error) -> Status {
    Status::internal(format!("the server's answer makes no sense to this version: {error}"))
}

/// The rows in messages of bounded size; a row that is larger alone goes alone.
fn split(mut rows: Vec<pb::Row>) -> Vec<Vec<pb::Row>> {
    let bytes: usize = rows.iter().map(Message::encoded_len).sum();
    if bytes <= MESSAGE_BYTES_TARGET || rows.len() < 2 {
        return vec![rows];
    }
    let rest = rows.split_off(rows.len() / 2);
    let mut parts = split(rows);
    parts.extend(split(rest));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_batches_are_split_in_order() {
        let row = |at: usize| row::row_to_wire(Row::new(at.to_string()).text("body", "x".repeat(5 << 20)));
        let parts = split((0..10).map(row).collect());
        assert!(parts.len() > 2);
        assert!(parts.iter().all(|part| part.len() <= 3));
        let keys: Vec<String> = parts.into_iter().flatten().map(|row| row.key).collect();
        assert_eq!(keys, (0..10).map(|at| at.to_string()).collect::<Vec<_>>());
        assert_eq!(split(Vec::new()).len(), 1);
        assert_eq!(split(vec![row(0)]).len(), 1);
    }

    #[test]
    fn settings_that_cannot_be_are_told() {
        let connect = |url: &str, api_key: Option<&str>| {
            let api_key = api_key.map(str::to_owned);
            let settings = ClientSettings { url: url.to_owned(), api_key, ..ClientSettings::default() };
            Client::connect(&settings).err().unwrap()
        };
        assert!(connect("not a url", None).message().contains("--url"));
        assert_eq!(connect("https://127.0.0.1:1", None).code(), tonic::Code::Unavailable);
        let nonsense = ClientSettings {
            url: "https://127.0.0.1:1".to_owned(),
            identity: Some((b"x".to_vec(), b"y".to_vec())),
            ..ClientSettings::default()
        };
        assert!(Client::connect(&nonsense).err().unwrap().message().contains("certificates"));
        let plain = ClientSettings { url: "http://127.0.0.1:1".to_owned(), ..nonsense };
        assert!(Client::connect(&plain).err().unwrap().message().contains("https"));
        assert!(connect("http://127.0.0.1:1", Some("sp\nd")).message().contains("API key"));
        let refused = connect("http://127.0.0.1:1", None);
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert!(refused.message().contains("http://127.0.0.1:1"), "{refused}");
    }
}
