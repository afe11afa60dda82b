//! The engine behind gRPC.
//!
//! Each writer and searcher has a connection and a runtime of its own, so that threads of a bench share
//! nothing. A searcher's runtime runs on the thread that calls it: its latency has no hand-over between
//! threads.

use std::path::PathBuf;

use spandrel::{Row, Schema};
use spandrel_proto::v1 as pb;
use spandrel_proto::v1::admin_service_client::AdminServiceClient;
use spandrel_proto::v1::collection_service_client::CollectionServiceClient;
use spandrel_proto::v1::row_service_client::RowServiceClient;
use spandrel_proto::v1::search_service_client::SearchServiceClient;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use super::{Engine, Found, Process, Searcher, Size, VECTOR, Wanted, Work, Writer, row_of, wire};
use crate::{Error, Result};

/// Looks at a server's segments that have to agree before it counts as settled, and the pause between them.
const SETTLED_LOOKS: usize = 14;
const SETTLED_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// Messages of a stream that wait for the connection.
const STREAM_MESSAGES: usize = 1;

/// How rows are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// One call a batch, acknowledged before the next.
    Calls,
    /// One stream a writer, acknowledged at its end; the server reads on while it writes.
    Stream,
}

/// What a server wants to see, and what it is known by.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Access {
    /// API key for the server
    #[arg(long, env = "SPANDREL_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// PEM file of the authority of an https server's certificate; left out: those that browsers trust
    #[arg(long, env = "SPANDREL_CA_CERT")]
    ca_cert: Option<PathBuf>,
    /// PEM file of the certificate to show to the server
    #[arg(long, env = "SPANDREL_CLIENT_CERT", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// PEM file of that certificate's private key
    #[arg(long, env = "SPANDREL_CLIENT_KEY", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

impl Access {
    fn bearer(&self) -> Result<Option<MetadataValue<Ascii>>> {
        let Some(key) = self.api_key.as_ref().filter(|key| !key.is_empty()) else { return Ok(None) };
        let mut value: MetadataValue<Ascii> = format!("Bearer {key}").parse()?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn tls(&self) -> Result<ClientTlsConfig> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| -> Error { format!("{}: {error}", path.display()).into() })
        };
        let tls = match &self.ca_cert {
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
            None => ClientTlsConfig::new().with_webpki_roots(),
        };
        Ok(match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => tls.identity(Identity::from_pem(read(cert)?, read(key)?)),
            _ => tls,
        })
    }
}

/// A collection of a server.
pub struct Remote {
    endpoint: Endpoint,
    url: String,
    bearer: Option<MetadataValue<Ascii>>,
    collection: String,
    process: Process,
    write: Write,
}

/// A connection of one thread.
struct Connection {
    runtime: Runtime,
    channel: Channel,
    bearer: Option<MetadataValue<Ascii>>,
}

impl Remote {
    /// Connects to `url` and creates the collection `name` if it is not there. The flag says whether it was
    /// there.
    ///
    /// # Errors
    /// Nobody answers; key or certificate are refused; the collection that is there has another schema.
    pub fn open(url: &str, access: &Access, name: &str, schema: &Schema) -> Result<(Self, bool)> {
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| -> Error { format!("'{url}' is no URL of a server: {error}").into() })?
            .tcp_nodelay(true);
        if url.starts_with("https:") {
            endpoint = endpoint.tls_config(access.tls()?)?;
        }
        let (url, collection, bearer) = (url.to_owned(), name.to_owned(), access.bearer()?);
        let (process, write) = (Process::Unknown, Write::Calls);
        let remote = Self { endpoint, url, bearer, collection, process, write };
        let connection = remote.connect(Builder::new_current_thread())?;
        let message = pb::CreateCollectionRequest {
            name: name.to_owned(),
            schema: Some(wire::schema(schema)),
            if_not_exists: true,
        };
        let request = connection.request(message);
        let mut client = CollectionServiceClient::new(connection.channel.clone());
        let answer = connection.runtime.block_on(client.create(request)).map_err(told)?;
        Ok((remote, !answer.into_inner().created))
    }

    /// Says in which process of this machine the server runs.
    pub fn in_process(mut self, pid: u32) -> Self {
        self.process = Process::Other(pid);
        self
    }

    /// Says how rows are sent; at first: [`Write::Calls`].
    pub fn write(mut self, write: Write) -> Self {
        self.write = write;
        self
    }

    fn stats(&self) -> Result<pb::StatsResponse> {
        let connection = self.connect(Builder::new_current_thread())?;
        let request = connection.request(pb::StatsRequest {});
        let mut client = AdminServiceClient::new(connection.channel.clone());
        Ok(connection.runtime.block_on(client.stats(request)).map_err(told)?.into_inner())
    }

    fn connect(&self, mut builder: Builder) -> Result<Connection> {
        let runtime = builder.enable_all().build()?;
        let channel = runtime.block_on(self.endpoint.connect()).map_err(|error| -> Error {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("cannot connect to {}: {error}{cause}", self.url).into()
        })?;
        Ok(Connection { runtime, channel, bearer: self.bearer.clone() })
    }
}

impl Connection {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }

    fn search_client(&self) -> SearchServiceClient<Channel> {
        SearchServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }
}

impl Engine for Remote {
    fn writer(&self) -> Result<Box<dyn Writer + Send + '_>> {
        let collection = self.collection.clone();
        Ok(match self.write {
            Write::Calls => {
                let connection = self.connect(Builder::new_current_thread())?;
                let client = RowServiceClient::new(connection.channel.clone());
                Box::new(Calls { connection, client, collection })
            }
            Write::Stream => {
                // A worker of its own sends while the caller makes the next batch.
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(1);
                Box::new(Stream::open(self.connect(builder)?, collection))
            }
        })
    }

    fn searcher(&self, calls: &[Vec<&[f32]>], wanted: Wanted) -> Result<Box<dyn Searcher + Send + '_>> {
        let request = |query: &&[f32]| wire::search(&self.collection, query, wanted, false);
        let calls =
            calls.iter().map(|call| call.iter().map(request).collect()).collect::<Result<Vec<_>>>()?;
        let connection = self.connect(Builder::new_current_thread())?;
        let client = connection.search_client();
        Ok(Box::new(Searches { connection, client, collection: self.collection.clone(), calls }))
    }

    fn flush(&self) -> Result<()> {
        let connection = self.connect(Builder::new_current_thread())?;
        let request = connection.request(pb::FlushRequest { collection: self.collection.clone() });
        let mut client = AdminServiceClient::new(connection.channel.clone());
        connection.runtime.block_on(client.flush(request)).map_err(told)?;
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        self.flush()?;
        // The wire has no word for it: segments that stay the same for a while are taken for settled.
        let (mut before, mut same) = (self.size()?, 0);
        while same < SETTLED_LOOKS {
            std::thread::sleep(SETTLED_PAUSE);
            let now = self.size()?;
            let still = (now.segments, now.segment_bytes) == (before.segments, before.segment_bytes);
            same = if still { same + 1 } else { 0 };
            before = now;
        }
        Ok(())
    }

    fn size(&self) -> Result<Size> {
        let stats = self.stats()?;
        let mine = stats.collections.into_iter().find(|collection| collection.name == self.collection);
        let mine = mine.ok_or_else(|| format!("the server has no collection '{}'", self.collection))?;
        Ok(Size {
            rows: mine.rows,
            segments: mine.segments,
            segment_bytes: mine.segment_bytes,
            memory_bytes: mine.memory_bytes,
            simd: stats.simd,
            reader: stats.reader,
        })
    }

    fn work(&self, query: &[f32], wanted: Wanted) -> Result<Work> {
        let connection = self.connect(Builder::new_current_thread())?;
        let request = connection.request(wire::search(&self.collection, query, wanted, true)?);
        let answer = connection.runtime.block_on(connection.search_client().search(request)).map_err(told)?;
        let explain = answer.into_inner().explain.ok_or("the server did not explain a search")?;
        let sum = |work: Work, stage: &pb::Stage| Work {
            read_bytes: work.read_bytes + stage.read_bytes,
            scored: work.scored + stage.scored,
        };
        Ok(explain.stages.iter().fold(Work::default(), sum))
    }

    fn vectors(&self, rows: &[usize]) -> Result<Vec<Option<Vec<f32>>>> {
        let connection = self.connect(Builder::new_current_thread())?;
        let request = connection.request(pb::GetRowsRequest {
            collection: self.collection.clone(),
            tenant: String::new(),
            keys: rows.iter().map(usize::to_string).collect(),
            fields: Some(pb::Fields { mode: pb::fields::Mode::All.into(), names: Vec::new() }),
        });
        let mut client =
            RowServiceClient::new(connection.channel.clone()).max_decoding_message_size(usize::MAX);
        let answer = connection.runtime.block_on(client.get(request)).map_err(told)?.into_inner();
        let vector = |row: pb::MaybeRow| wire::vector(row.row?.fields.remove(VECTOR)?);
        Ok(answer.rows.into_iter().map(vector).collect())
    }

    fn process(&self) -> Process {
        self.process
    }

    /// The server goes on. Its row store is one for all collections: where there are others, this one counts
    /// for as much of it as it has of the rows.
    fn close(&self) -> Result<u64> {
        let stats = self.stats()?;
        let all_rows: u64 = stats.collections.iter().map(|collection| collection.rows).sum();
        let mine = stats.collections.iter().find(|collection| collection.name == self.collection);
        let mine = mine.ok_or_else(|| format!("the server has no collection '{}'", self.collection))?;
        if mine.rows != all_rows {
            eprintln!(
                "the server holds other collections, too: bytes of its row store are shared out by rows"
            );
        }
        Ok(mine.segment_bytes + shared_out(stats.store_bytes, mine.rows, all_rows))
    }
}

/// The part of `bytes` that `rows` of `all_rows` take.
fn shared_out(bytes: u64, rows: u64, all_rows: u64) -> u64 {
    let part = u128::from(bytes) * u128::from(rows) / u128::from(all_rows.max(1));
    u64::try_from(part).unwrap_or(bytes)
}

struct Calls {
    connection: Connection,
    client: RowServiceClient<Channel>,
    collection: String,
}

impl Writer for Calls {
    fn upsert(&mut self, rows: Vec<Row>) -> Result<()> {
        let rows = rows.into_iter().map(wire::row).collect();
        let message = pb::UpsertRequest { collection: self.collection.clone(), tenant: String::new(), rows };
        let request = self.connection.request(message);
        self.connection.runtime.block_on(self.client.upsert(request)).map_err(told)?;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

type StreamAnswer = Result<tonic::Response<pb::UpsertStreamResponse>, Status>;

struct Stream {
    connection: Connection,
    collection: String,
    sender: Option<mpsc::Sender<pb::UpsertStreamRequest>>,
    answer: Option<JoinHandle<StreamAnswer>>,
}

impl Stream {
    fn open(connection: Connection, collection: String) -> Self {
        let (sender, receiver) = mpsc::channel(STREAM_MESSAGES);
        let request = connection.request(ReceiverStream::new(receiver));
        let mut client = RowServiceClient::new(connection.channel.clone());
        let answer = connection.runtime.spawn(async move { client.upsert_stream(request).await });
        Self { connection, collection, sender: Some(sender), answer: Some(answer) }
    }
}

impl Writer for Stream {
    fn upsert(&mut self, rows: Vec<Row>) -> Result<()> {
        let rows = rows.into_iter().map(wire::row).collect();
        let message =
            pb::UpsertStreamRequest { collection: self.collection.clone(), tenant: String::new(), rows };
        let sender = self.sender.as_ref().ok_or("the stream is finished")?;
        // The server has ended the stream: its answer says why.
        if sender.blocking_send(message).is_err() {
            return self.finish();
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.sender = None;
        if let Some(answer) = self.answer.take() {
            self.connection.runtime.block_on(answer)?.map_err(told)?;
        }
        Ok(())
    }
}

struct Searches {
    connection: Connection,
    client: SearchServiceClient<Channel>,
    collection: String,
    calls: Vec<Vec<pb::SearchRequest>>,
}

impl Searcher for Searches {
    fn call(&mut self, call: usize) -> Result<Vec<Vec<Found>>> {
        let searches = self.calls.get(call).ok_or("no such call")?;
        let runtime = &self.connection.runtime;
        if let [search] = searches.as_slice() {
            let request = self.connection.request(search.clone());
            let answer = runtime.block_on(self.client.search(request)).map_err(told)?;
            return Ok(vec![found(&answer.into_inner())?]);
        }
        let message =
            pb::SearchBatchRequest { collection: self.collection.clone(), searches: searches.clone() };
        let request = self.connection.request(message);
        let answer = runtime.block_on(self.client.search_batch(request)).map_err(told)?;
        answer.into_inner().responses.iter().map(found).collect()
    }
}

fn found(answer: &pb::SearchResponse) -> Result<Vec<Found>> {
    let found = |hit: &pb::Hit| {
        let key = hit.row.as_ref().map_or("", |row| row.key.as_str());
        Ok(Found { row: row_of(key)?, score: hit.score })
    };
    answer.hits.iter().map(found).collect()
}

/// The server's error as a person reads it.
fn told(status: Status) -> Error {
    format!("the server answers {:?}: {}", status.code(), status.message()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_pays_for_its_own_rows() {
        assert_eq!(shared_out(1_000, 25, 100), 250);
        assert_eq!(shared_out(1_000, 100, 100), 1_000);
        assert_eq!(shared_out(1_000, 0, 0), 0);
        assert_eq!(shared_out(u64::MAX, 7, 7), u64::MAX);
    }

    #[test]
    fn certificates_are_read_where_they_are_needed() {
        let schema = Schema::new();
        let open =
            |url: &str, access: &Access| Remote::open(url, access, "x", &schema).err().unwrap().to_string();
        let missing = Access { ca_cert: Some("/nowhere/ca.pem".into()), ..Access::default() };
        assert!(open("https://127.0.0.1:1", &missing).contains("/nowhere/ca.pem"));
        assert!(open("http://127.0.0.1:1", &missing).contains("cannot connect"));
        assert!(open("https://127.0.0.1:1", &Access::default()).contains("cannot connect"));
    }
}
