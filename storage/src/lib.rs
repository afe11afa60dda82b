//! What is true: rows, schemas, segment files and the manifests that name them.
//!
//! This crate knows no index. It keeps rows on RocksDB, writes and reads immutable segment files, reads
//! batches of extents from SSD, and keeps the manifest that says which segment files are live.
#![deny(unsafe_code)]

pub mod codec;
pub mod durable;
pub mod error;
pub mod failpoint;
pub mod file;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod id;
pub mod io;
pub mod manifest;
pub mod record;
pub mod row;
pub mod schema;
mod seal;
pub mod store;
pub mod value;
pub mod vector;

pub use error::{Error, Result};
pub use file::{Section, SegmentFile, SegmentWriter};
pub use id::{CollectionId, DocId, FieldId, LabelId, RowId, TenantId};
pub use record::{FieldSet, Record, StoredRow};
pub use row::{Chunk, Row};
pub use schema::{
    DedupPolicy, DedupSpec, DenseSpec, Element, Field, FieldKind, IndexKind, Metric, PayloadKind, Schema,
    TextSpec,
};
pub use store::{CollectionMeta, Commit, Durability, Entry, Store, StoreOptions, StoreSnapshot};
pub use value::Value;
pub use vector::{FieldValue, SparseVector};
