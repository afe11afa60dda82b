//! The numbers that `/metrics` shows, in the text format of OpenMetrics. No label ever holds a tenant, a key
//! or anything else that a client chooses, except the names of collections, which only administrators make.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use spandrel::DatabaseStats;
use tonic::Code;

/// Upper bounds of the latency histogram in seconds: 100 us to 60 s.
const LATENCY_BOUNDS_S: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0];

/// Methods by the last two parts of their path; others are counted as `unknown`, so that a client cannot make
/// labels.
const METHODS: [&str; 37] = [
    "CollectionService/Create",
    "CollectionService/Get",
    "CollectionService/List",
    "CollectionService/Drop",
    "RowService/Upsert",
    "RowService/UpsertStream",
    "RowService/Delete",
    "RowService/Get",
    "RowService/Scroll",
    "RowService/Count",
    "RowService/Grant",
    "RowService/Revoke",
    "RowService/DropLabel",
    "RowService/ListLabels",
    "SearchService/Search",
    "SearchService/SearchBatch",
    "SearchService/Retrieve",
    "TenantService/List",
    "TenantService/Get",
    "TenantService/Warm",
    "TenantService/Copy",
    "TenantService/Export",
    "TenantService/SetQuota",
    "TenantService/GetDefaultQuota",
    "TenantService/Drop",
    "ChunkCacheService/Put",
    "ChunkCacheService/Lookup",
    "ChunkCacheService/Touch",
    "ChunkCacheService/Remove",
    "ChunkCacheService/ForgetChunk",
    "ChunkCacheService/List",
    "ChunkCacheService/Notices",
    "ChunkCacheService/Stats",
    "AdminService/Flush",
    "AdminService/Stats",
    "AdminService/Backup",
    UNKNOWN,
];
const UNKNOWN: &str = "unknown";

/// The label of a request's path.
pub fn method_label(path: &str) -> &'static str {
    let name = path.strip_prefix("/spandrel.v1.").unwrap_or_default();
    METHODS.into_iter().find(|method| *method == name).unwrap_or(UNKNOWN)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CollectionLabels {
    collection: String,
}

type CollectionGauge = Family<CollectionLabels, Gauge<u64, AtomicU64>>;
/// One number of a collection.
type CollectionFigure = fn(&spandrel::CollectionStats) -> u64;
type PoolGauge = Family<PoolLabels, Gauge<u64, AtomicU64>>;

/// All numbers of a server.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<CallLabels, Counter>,
    latency: Family<CallLabels, Histogram>,
    in_flight: Gauge,
    streams: Gauge,
    rows_written: Counter,
    rows_deleted: Counter,
    panics: Counter,
    connections_refused: Counter,
    running: PoolGauge,
    waiting: PoolGauge,
    store_bytes: Gauge<u64, AtomicU64>,
    engine: [(CollectionFigure, CollectionGauge); 7],
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("spandrel")),
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BOUNDS_S)),
            in_flight: Gauge::default(),
            streams: Gauge::default(),
            rows_written: Counter::default(),
            rows_deleted: Counter::default(),
            panics: Counter::default(),
            connections_refused: Counter::default(),
            running: Family::default(),
            waiting: Family::default(),
            store_bytes: Gauge::default(),
            engine: [
                (|stats| stats.rows, Family::default()),
                (|stats| stats.tenants, Family::default()),
                (|stats| stats.segments, Family::default()),
                (|stats| stats.deleted_rows, Family::default()),
                (|stats| stats.memory_rows, Family::default()),
                (|stats| stats.segment_bytes, Family::default()),
                (|stats| stats.memory_bytes, Family::default()),
            ],
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock();
        registry.register("requests", "Requests finished, by method and gRPC code", self.requests.clone());
        registry.register(
            "request_duration_seconds",
            "Time from a request's first byte to its answer's last, by method and gRPC code",
            self.latency.clone(),
        );
        registry.register("requests_in_flight", "Requests in progress", self.in_flight.clone());
        registry.register("upsert_streams", "Upsert streams in progress", self.streams.clone());
        registry.register("rows_written", "Rows upserted", self.rows_written.clone());
        registry.register("rows_deleted", "Rows deleted", self.rows_deleted.clone());
        registry.register("panics", "Handlers and engine calls that panicked: defects", self.panics.clone());
        registry.register(
            "connections_refused",
            "Connections closed because of limits.connections_max",
            self.connections_refused.clone(),
        );
        registry.register("pool_running", "Engine calls that run, by pool", self.running.clone());
        registry.register("pool_waiting", "Engine calls that wait, by pool", self.waiting.clone());
        registry.register("store_bytes", "Bytes of the row store on disk", self.store_bytes.clone());
        let names = [
            ("collection_rows", "Live rows"),
            ("collection_tenants", "Tenants"),
            ("collection_segments", "Segments on disk"),
            ("collection_deleted_rows", "Deleted rows still in segments"),
            ("collection_memory_rows", "Rows searched in memory, not yet in a segment on disk"),
            ("collection_segment_bytes", "Bytes of segment files"),
            ("collection_memory_bytes", "Bytes of memory held by indexes and fresh rows"),
        ];
        for ((name, help), (_, gauge)) in names.into_iter().zip(&self.engine) {
            registry.register(name, help, gauge.clone());
        }
    }

    /// A request has come in.
    pub fn begin(&self) {
        self.in_flight.inc();
    }

    /// A request that came in has been answered.
    pub fn end(&self, method: &'static str, code: Code, took: Duration) {
        self.in_flight.dec();
        let labels = CallLabels { method, code: code_label(code) };
        self.requests.get_or_create(&labels).inc();
        self.latency.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A stream has begun (1) or ended (-1).
    pub fn stream(&self, change: i64) {
        self.streams.inc_by(change);
    }

    /// Rows were upserted.
    pub fn wrote(&self, rows: u64) {
        self.rows_written.inc_by(rows);
    }

    /// Rows were deleted.
    pub fn deleted(&self, rows: u64) {
        self.rows_deleted.inc_by(rows);
    }

    /// A handler panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// The counter of panics, for those who count their own.
    pub fn panics(&self) -> Counter {
        self.panics.clone()
    }

    /// A connection was closed because there are too many.
    pub fn refused_connection(&self) {
        self.connections_refused.inc();
    }

    /// Takes over how busy a pool is.
    pub fn set_pool(&self, pool: &'static str, running: usize, waiting: usize) {
        let labels = PoolLabels { pool };
        let wide = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.running.get_or_create(&labels).set(wide(running));
        self.waiting.get_or_create(&labels).set(wide(waiting));
    }

    /// Takes over what the engine says of itself; collections that are gone go from here, too.
    pub fn set_engine(&self, stats: &DatabaseStats) {
        self.store_bytes.set(stats.store_bytes);
        for (value, gauge) in &self.engine {
            gauge.clear();
            for collection in &stats.collections {
                let labels = CollectionLabels { collection: collection.name.clone() };
                gauge.get_or_create(&labels).set(value(collection));
            }
        }
    }

    /// Everything as text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string fails only when a collector does, and there are none.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        text
    }
}

/// The code's name in the gRPC specification.
pub fn code_label(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use spandrel::CollectionStats;

    #[test]
    fn every_method_has_a_label() {
        let files = prost_types::FileDescriptorSet::decode(spandrel_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut count = 0;
        for service in files.file.iter().flat_map(|file| &file.service) {
            for method in &service.method {
                let path = format!("/spandrel.v1.{}/{}", service.name(), method.name());
                assert_ne!(method_label(&path), UNKNOWN, "{path}");
                count += 1;
            }
        }
        assert_eq!(count, METHODS.len() - 1);
        assert_eq!(method_label("/spandrel.v1.RowService/Nothing"), UNKNOWN);
        assert_eq!(method_label("/x"), UNKNOWN);
    }

    #[test]
    fn the_text_has_what_happened() {
        let metrics = Metrics::new();
        metrics.begin();
        metrics.begin();
        metrics.end("RowService/Upsert", Code::Ok, Duration::from_millis(3));
        metrics.wrote(5);
        metrics.set_pool("read", 2, 1);
        let collection =
            |name: &str| CollectionStats { name: name.to_owned(), rows: 9, ..CollectionStats::default() };
        let stats = |names: &[&str]| DatabaseStats {
            collections: names.iter().map(|name| collection(name)).collect(),
            store_bytes: 77,
            ..DatabaseStats::default()
        };
        metrics.set_engine(&stats(&["old", "docs"]));
        metrics.set_engine(&stats(&["docs"]));
        let text = metrics.encode();
        for line in [
            "spandrel_requests_total{method=\"RowService/Upsert\",code=\"OK\"} 1",
            "spandrel_request_duration_seconds_bucket{le=\"0.005\",method=\"RowService/Upsert\",code=\"OK\"} 1",
            "spandrel_requests_in_flight 1",
            "spandrel_rows_written_total 5",
            "spandrel_pool_running{pool=\"read\"} 2",
            "spandrel_pool_waiting{pool=\"read\"} 1",
            "spandrel_collection_rows{collection=\"docs\"} 9",
            "spandrel_store_bytes 77",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("\"old\""));
    }
}
