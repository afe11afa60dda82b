//! The embedded front door of Spandrel.
#![forbid(unsafe_code)]

pub mod collection;
pub mod database;
pub mod error;
pub mod fuse;
#[cfg(feature = "import")]
pub mod import;
pub mod rag;
pub mod request;
pub mod response;
pub mod settings;

pub use collection::Collection;
pub use database::Database;
pub use error::{Error, ErrorKind, Result};
pub use rag::embed::{EmbedPurpose, Embedder};
pub use request::{Fields, Filter, Fusion, RetrieveRequest, Route, RouteQuery, ScrollRequest, SearchRequest};
pub use response::{
    CollectionStats, DatabaseStats, Explain, Hit, PackedChunk, RetrieveResponse, RouteScore, ScrollResponse,
    SearchResponse, Short, Stage, Written,
};
pub use settings::{Components, Durability, Settings};
pub use spandrel_storage::{
    Chunk, DenseSpec, Element, Field, FieldKind, FieldValue, IndexKind, Metric, PayloadKind, Row, Schema,
    SparseVector, TextSpec, Value,
};
