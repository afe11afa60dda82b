//! The engine behind gRPC.
//!
//! Each writer and searcher has a connection and a runtime of its own, so that threads of a bench share
//! nothing. A searcher's runtime runs on the thread that calls it: its latency has no hand-over between
//! threads.

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
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{Engine, Found, Process, Searcher, Size, Writer, row_of, wire};
use crate::{Error, Result};

/// Looks at a server's segments that have to agree before it counts as settled, and the pause between them.
const SETTLED_LOOKS: usize = 4;
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

/// A collection of a server.
pub struct Remote {
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
    /// Nobody answers; the key is refused; the collection that is there has another schema.
    pub fn open(url: &str, key: Option<&str>, name: &str, schema: &Schema) -> Result<(Self, bool)> {
        let mut bearer = None;
        if let Some(key) = key {
            let mut value: MetadataValue<Ascii> = format!("Bearer {key}").parse()?;
            value.set_sensitive(true);
            bearer = Some(value);
        }
        let (url, collection) = (url.to_owned(), name.to_owned());
        let remote = Self { url, bearer, collection, process: Process::Unknown, write: Write::Calls };
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
        let endpoint = Endpoint::from_shared(self.url.clone())
            .map_err(|error| -> Error { format!("'{}' is no URL of a server: {error}", self.url).into() })?
            .tcp_nodelay(true);
        let channel = runtime.block_on(endpoint.connect()).map_err(|error| -> Error {
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

    fn searcher(&self, calls: &[Vec<&[f32]>], k: usize) -> Result<Box<dyn Searcher + Send + '_>> {
        let request = |query: &&[f32]| wire::search(&self.collection, query, k, false);
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

    fn read_bytes(&self, query: &[f32], k: usize) -> Result<u64> {
        let connection = self.connect(Builder::new_current_thread())?;
        let request = connection.request(wire::search(&self.collection, query, k, true)?);
        let answer = connection.runtime.block_on(connection.search_client().search(request)).map_err(told)?;
        let explain = answer.into_inner().explain.ok_or("the server did not explain a search")?;
        Ok(explain.stages.iter().map(|stage| stage.read_bytes).sum())
    }

    fn process(&self) -> Process {
        self.process
    }

    /// The server goes on; bytes are what it says of all its collections.
    fn close(&self) -> Result<u64> {
        let stats = self.stats()?;
        let segment_bytes: u64 = stats.collections.iter().map(|collection| collection.segment_bytes).sum();
        Ok(stats.store_bytes + segment_bytes)
    }
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
