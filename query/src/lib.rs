//! Spandrel inside a program: a database of text chunks with their vectors and facts, for many tenants, in a
//! folder.
//!
//! [`Database`] opens a folder, [`Collection`] writes and searches rows of one [`Schema`]; requests and
//! responses are plain data. Calls are synchronous and may come from many threads. Everything acknowledged is
//! durable, everything durable is visible to the next search. `docs/embedded.md` in the repository has more.
//!
//! ```
//! use spandrel::{Database, Metric, Route, Row, Schema, SearchRequest, Settings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("data");
//! let database = Database::open(&path, Settings::default())?;
//! let schema = Schema::new().text("body").dense("embedding", 2, Metric::Cosine);
//! let notes = database.create_collection("notes", schema)?;
//! notes.upsert(vec![
//!     Row::new("a").text("body", "a note on tides").dense("embedding", vec![1.0, 0.1]),
//!     Row::new("b").text("body", "a note on bells").dense("embedding", vec![0.1, 1.0]),
//! ])?;
//! let request = SearchRequest::new(Route::dense("embedding", vec![0.9, 0.2])).k(1);
//! assert_eq!(notes.search(&request)?.hits[0].row.key, "a");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod backup;
pub mod check;
pub mod collection;
pub mod database;
pub mod error;
mod fetch;
mod filter;
mod filter_cache;
pub mod fuse;
#[cfg(feature = "import")]
pub mod import;
mod labels;
mod learn;
mod live;
mod maintain;
mod publish;
mod queue;
pub mod rag;
mod random;
mod recover;
pub mod request;
pub mod response;
pub mod retrieve;
mod route;
mod scope;
mod scratch;
mod search;
pub mod seen;
pub mod select;
pub mod settings;
mod shared;
mod snapshot;
mod tenants;
mod write;

pub use collection::Collection;
pub use database::Database;
pub use error::{Error, ErrorKind, Result};
pub use rag::chunk::ChunkOptions;
pub use rag::embed::{EmbedPurpose, Embedder};
pub use rag::ingest::Document;
pub use rag::kv::{ChunkCatalogue, KvSettings};
pub use rag::rerank::{ContextScorer, Reranker};
pub use request::{Fields, Filter, Fusion, IngestOptions, Route, RouteQuery, ScrollRequest, SearchRequest};
pub use response::{
    COPIED_MAX, CollectionStats, Copied, DatabaseStats, Explain, Hit, Planned, RouteScore, ScrollResponse,
    SearchResponse, Short, Stage, Written,
};
pub use retrieve::kv::{KnownChunk, KvChunk, KvRequest};
pub use retrieve::request::{
    Aggregate, AsIf, Assemble, Cut, FunnelLevel, Order, Parent, PostStage, RetrieveRequest, Select,
};
pub use retrieve::response::{Estimate, PackedChunk, RetrieveResponse, SelectionReport};
pub use select::Method;
pub use select::mix::Weights;
pub use settings::{Components, Durability, Residency, Settings};
pub use spandrel_index::stop::{Cancel, Stop};
pub use spandrel_storage::{
    Chunk, DedupPolicy, DedupSpec, DenseSpec, Element, Field, FieldKind, FieldValue, IndexKind, Metric,
    PayloadKind, Row, Schema, SparseVector, TextSpec, Value,
};
pub use tenants::{Quota, TenantState, TenantStats, TenantsRequest, TenantsResponse};

/// The pages for people who embed the engine are run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embedded.md")]
struct EmbeddedPage;

/// What is shown there is run, too.
#[cfg(doctest)]
#[doc = include_str!("../../docs/tenants.md")]
struct TenantsPage;

/// The first page everybody reads is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct FirstPage;
