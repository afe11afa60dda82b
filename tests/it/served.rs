//! A server over a fresh folder, and clients of it: what the gRPC promises are tested with.

use std::collections::BTreeMap;
use std::path::PathBuf;

use spandrel::{Database, Settings};
use spandrel_proto::v1 as pb;
use spandrel_proto::v1::admin_service_client::AdminServiceClient;
use spandrel_proto::v1::chunk_cache_service_client::ChunkCacheServiceClient;
use spandrel_proto::v1::collection_service_client::CollectionServiceClient;
use spandrel_proto::v1::row_service_client::RowServiceClient;
use spandrel_proto::v1::search_service_client::SearchServiceClient;
use spandrel_proto::v1::tenant_service_client::TenantServiceClient;
use spandrel_server::auth::{Access, Tenants, keys};
use spandrel_server::{Config, Server};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Dimension of the vectors of [`schema`].
pub const DIM: u32 = 4;

type Keyed = InterceptedService<Channel, Bearer>;

/// A name as messages hold it.
pub fn named(name: &str) -> String {
    name.to_owned()
}

/// Adds a key to every request.
#[derive(Clone)]
pub struct Bearer(Option<String>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            let value = format!("Bearer {key}").parse().map_err(|_| Status::internal("key"))?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// A running server.
pub struct Served {
    pub folder: tempfile::TempDir,
    pub database: Database,
    pub server: Server,
    pub config: Config,
}

/// Clients with one key, or none.
pub struct Clients {
    pub collections: CollectionServiceClient<Keyed>,
    pub rows: RowServiceClient<Keyed>,
    pub search: SearchServiceClient<Keyed>,
    pub tenants: TenantServiceClient<Keyed>,
    pub caches: ChunkCacheServiceClient<Keyed>,
    pub admin: AdminServiceClient<Keyed>,
}

/// Serves a fresh database on free ports.
pub async fn serve() -> Served {
    serve_with(|_| {}).await
}

/// The same with other settings.
pub async fn serve_with(change: impl FnOnce(&mut Config)) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config_in(folder.path().join("data"));
    change(&mut config);
    serve_in(folder, config).await
}

/// The same where the settings say; `folder` is removed at the end.
pub async fn serve_in(folder: tempfile::TempDir, config: Config) -> Served {
    let database = open(&config).await;
    let server = spandrel_server::start(database.clone(), &config).await.unwrap();
    Served { folder, database, server, config }
}

/// Settings for a data folder, free ports.
pub fn config_in(data: PathBuf) -> Config {
    Config {
        data,
        listen: ([127, 0, 0, 1], 0).into(),
        metrics_listen: Some(([127, 0, 0, 1], 0).into()),
        shutdown_grace_ms: 5_000,
        engine: Settings { durability: spandrel::Durability::Buffered, ..Settings::default() },
        ..Config::default()
    }
}

/// Opens the data folder of the settings.
pub async fn open(config: &Config) -> Database {
    let (data, engine) = (config.data.clone(), config.engine.clone());
    tokio::task::spawn_blocking(move || Database::open(data, engine)).await.unwrap().unwrap()
}

impl Served {
    /// Clients without a key.
    pub async fn clients(&self) -> Clients {
        self.clients_of(None).await
    }

    /// Clients with a new key that the server knows when this returns.
    pub async fn clients_with(&self, access: Access, tenants: &[&str]) -> Clients {
        self.clients_bound(access, tenants, None).await
    }

    /// The same, with a key that is bound to labels.
    pub async fn clients_bound(&self, access: Access, tenants: &[&str], labels: Option<&[&str]>) -> Clients {
        let tenants = match tenants {
            ["*"] => Tenants::All,
            names => Tenants::Only(names.iter().map(|name| (*name).to_owned()).collect()),
        };
        let labels = labels.map(|labels| labels.iter().map(|label| (*label).to_owned()).collect());
        let file = self.config.keys_file();
        let (_, key) = keys::create_bound(&file, "test", access, tenants, labels).unwrap();
        let (mut clients, mut nobody) = (self.clients_of(Some(key)).await, self.clients().await);
        // A server looks at the file twice a second. Until it has seen the first key it lets everybody in.
        for _ in 0..100 {
            let keyed = clients.collections.list(pb::ListCollectionsRequest {}).await;
            let anonymous = nobody.collections.list(pb::ListCollectionsRequest {}).await;
            if keyed.is_ok() && anonymous.is_err() {
                return clients;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the server did not notice the new key");
    }

    /// Clients with this key.
    pub async fn clients_of(&self, key: Option<String>) -> Clients {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.server.address())).unwrap();
        clients(endpoint.connect().await.unwrap(), key)
    }

    /// An HTTP GET of the metrics port: status line and everything after it.
    pub async fn page(&self, path: &'static str) -> String {
        let address = self.server.metrics_address().unwrap();
        let get = move || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        tokio::task::spawn_blocking(get).await.unwrap()
    }
}

/// Clients over a channel.
pub fn clients(channel: Channel, key: Option<String>) -> Clients {
    let bearer = Bearer(key);
    Clients {
        collections: CollectionServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        rows: RowServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        search: SearchServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        tenants: TenantServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        caches: ChunkCacheServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        admin: AdminServiceClient::with_interceptor(channel, bearer),
    }
}

/// A collection with a field of every kind that the tests use.
pub fn schema() -> pb::Schema {
    use pb::field::Kind;
    let field = |name: &str, kind| pb::Field { name: name.to_owned(), kind: Some(kind) };
    let payload = |kind: pb::PayloadKind| Kind::Payload(pb::PayloadField { kind: kind.into() });
    let dense = |metric: pb::Metric| {
        Kind::Dense(pb::DenseField { dim: DIM, metric: metric.into(), ..pb::DenseField::default() })
    };
    pb::Schema {
        fields: vec![
            field("body", Kind::Text(pb::TextField { language: "english".to_owned() })),
            field("v", dense(pb::Metric::Ip)),
            field("cos", dense(pb::Metric::Cosine)),
            field("s", Kind::Sparse(pb::SparseField {})),
            field("year", payload(pb::PayloadKind::Integer)),
            field("tag", payload(pb::PayloadKind::Keyword)),
        ],
        tokenizer: String::new(),
        dedup: None,
    }
}

impl Clients {
    /// Creates collection `docs` of [`schema`].
    pub async fn create_docs(&mut self) {
        let request = pb::CreateCollectionRequest {
            name: "docs".to_owned(),
            schema: Some(schema()),
            if_not_exists: false,
        };
        self.collections.create(request).await.unwrap();
    }

    /// Upserts rows into `docs`.
    pub async fn upsert(&mut self, tenant: &str, rows: Vec<pb::Row>) -> Result<pb::Written, Status> {
        let request = pb::UpsertRequest { collection: "docs".to_owned(), tenant: tenant.to_owned(), rows };
        Ok(self.rows.upsert(request).await?.into_inner().written.unwrap())
    }

    /// How many rows `docs` has.
    pub async fn count(&mut self, tenant: &str) -> Result<u64, Status> {
        let request =
            pb::CountRequest { collection: "docs".to_owned(), tenant: tenant.to_owned(), filter: None };
        Ok(self.rows.count(request).await?.into_inner().rows)
    }
}

/// A dense vector as bytes.
pub fn dense(vector: &[f32]) -> pb::DenseVector {
    let bytes: Vec<u8> = vector.iter().flat_map(|element| element.to_le_bytes()).collect();
    pb::DenseVector { values: Vec::new(), f32_le: bytes.into() }
}

/// A field of a row.
pub fn field(kind: pb::field_value::Kind) -> pb::FieldValue {
    pb::FieldValue { kind: Some(kind) }
}

/// An integer.
pub fn integer(value: i64) -> pb::Value {
    pb::Value { kind: Some(pb::value::Kind::IntegerValue(value)) }
}

/// Text or keyword.
pub fn string(value: &str) -> pb::Value {
    pb::Value { kind: Some(pb::value::Kind::StringValue(value.to_owned())) }
}

/// Row number `at`: words, a vector, a year, a source.
pub fn row(at: u32) -> pb::Row {
    use pb::field_value::Kind;
    let angle = at as f32 * 0.37;
    let vector = [angle.cos(), angle.sin(), (at % 7) as f32 * 0.1, 1.0];
    let words = ["river", "mountain", "forest", "harbour", "desert"];
    let body = format!("the {} number {at} by the {}", words[at as usize % 5], words[at as usize / 5 % 5]);
    let fields = BTreeMap::from([
        ("body".to_owned(), field(Kind::Text(body))),
        ("v".to_owned(), field(Kind::Dense(dense(&vector)))),
        ("year".to_owned(), field(Kind::Payload(integer(2000 + i64::from(at % 30))))),
        ("tag".to_owned(), field(Kind::Payload(string(if at.is_multiple_of(2) { "even" } else { "odd" })))),
    ]);
    let chunk = pb::Chunk { document: format!("d{}", at / 10), span_start: 0, span_end: 9, tokens: 8 };
    pb::Row {
        key: format!("k{at:05}"),
        tenant: String::new(),
        fields,
        chunk: Some(chunk),
        labels: Vec::new(),
    }
}

/// Rows of a range of numbers.
pub fn rows(range: std::ops::Range<u32>) -> Vec<pb::Row> {
    range.map(row).collect()
}

/// A search of `docs` by one route, ten hits.
pub fn search(tenant: &str, field: &str, query: pb::route::Query) -> pb::SearchRequest {
    pb::SearchRequest {
        collection: "docs".to_owned(),
        tenant: tenant.to_owned(),
        routes: vec![pb::Route { field: field.to_owned(), query: Some(query), ..pb::Route::default() }],
        k: 10,
        ..pb::SearchRequest::default()
    }
}

/// A condition on the year.
pub fn year_is(year: i64) -> pb::Filter {
    let equals = pb::EqualsCondition { field: "year".to_owned(), value: Some(integer(year)) };
    pb::Filter { condition: Some(pb::filter::Condition::Equals(equals)) }
}
