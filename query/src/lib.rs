//! The embedded front door of Spandrel.
#![forbid(unsafe_code)]

mod backup;
pub mod check;
pub mod collection;
pub mod database;
pub mod error;
mod fetch;
mod filter;
pub mod fuse;
#[cfg(feature = "import")]
pub mod import;
mod maintain;
pub mod rag;
mod recover;
pub mod request;
pub mod response;
mod retrieve;
mod route;
mod scratch;
mod search;
pub mod settings;
mod snapshot;
mod tenants;
mod write;

pub use collection::Collection;
pub use database::Database;
pub use error::{Error, ErrorKind, Result};
pub use rag::chunk::ChunkOptions;
pub use rag::embed::{EmbedPurpose, Embedder};
pub use rag::ingest::Document;
pub use request::{
    Fields, Filter, Fusion, IngestOptions, RetrieveRequest, Route, RouteQuery, ScrollRequest, SearchRequest,
};
pub use response::{
    CollectionStats, DatabaseStats, Explain, Hit, PackedChunk, RetrieveResponse, RouteScore, ScrollResponse,
    SearchResponse, Short, Stage, Written,
};
pub use settings::{Components, Durability, Settings};
pub use spandrel_storage::{
    Chunk, DenseSpec, Element, Field, FieldKind, FieldValue, IndexKind, Metric, PayloadKind, Row, Schema,
    SparseVector, TextSpec, Value,
};
