//! The engine under measurement: in this process, or behind gRPC, through one seam.
//!
//! Rows are numbered: row i of the base has the key `i` in decimal, in the default tenant. The vector field
//! is [`VECTOR`]. Methods that write or search hand out an object for one thread, which owns its connection.

mod embedded;
mod remote;
mod server;
#[cfg(test)]
pub mod testing;
mod wire;

use spandrel::{DenseSpec, FieldKind, Row, Schema};

pub use embedded::Embedded;
pub use remote::{Access, Remote, Write};
pub use server::Server;

use crate::{Error, Result};

/// The collection that benches write, unless they are told another.
pub const COLLECTION: &str = "bench";
/// Its vector field.
pub const VECTOR: &str = "embedding";

/// One hit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Row of the base.
    pub row: u32,
    /// Score that the engine returned.
    pub score: f32,
}

/// What the collection takes. Sizes an engine cannot tell are none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Size {
    /// Live rows.
    pub rows: u64,
    /// Segments on disk.
    pub segments: u64,
    /// Bytes of segment files.
    pub segment_bytes: u64,
    /// Bytes of memory held by indexes and fresh rows.
    pub memory_bytes: u64,
    /// Vector instructions in use.
    pub simd: String,
    /// How segments are read.
    pub reader: String,
}

/// What a search took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes read from disk.
    pub read_bytes: u64,
    /// Codes and vectors scored.
    pub scored: u64,
}

/// Where the work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// In this process.
    This,
    /// In another one of this machine.
    Other(u32),
    /// It is not known where.
    Unknown,
}

/// What every search asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Hits a query.
    pub k: usize,
    /// Share of the true nearest; none for the engine's default.
    pub recall: Option<f64>,
    /// Whether hits get exact scores.
    pub rescore: bool,
}

impl Wanted {
    /// Hits with exact scores.
    pub const fn new(k: usize, recall: Option<f64>) -> Self {
        Self { k, recall, rescore: true }
    }
}

/// A database with one collection.
pub trait Engine: Sync {
    /// A connection that writes, for one thread.
    ///
    /// # Errors
    /// It cannot be made.
    fn writer(&self) -> Result<Box<dyn Writer + Send + '_>>;

    /// A connection that searches, for one thread, with the requests for these calls made: `calls[c]` are the
    /// query vectors of call `c`.
    ///
    /// # Errors
    /// It cannot be made.
    fn searcher(&self, calls: &[Vec<&[f32]>], wanted: Wanted) -> Result<Box<dyn Searcher + Send + '_>>;

    /// Builds all fresh rows into segments and waits for it.
    ///
    /// # Errors
    /// The engine's.
    fn flush(&self) -> Result<()>;

    /// As [`flush`](Self::flush), merges segments as far as the engine lets its caller, and waits until that
    /// has ended: nothing runs beside what is measured next.
    ///
    /// # Errors
    /// The engine's.
    fn settle(&self) -> Result<()>;

    /// What it takes now.
    ///
    /// # Errors
    /// The engine's.
    fn size(&self) -> Result<Size>;

    /// What one search took, as the engine explains it.
    ///
    /// # Errors
    /// The engine's.
    fn work(&self, query: &[f32], wanted: Wanted) -> Result<Work>;

    /// The vectors that it keeps of these rows of the base, as they were sent; none where it has no such
    /// row.
    ///
    /// # Errors
    /// The engine's.
    fn vectors(&self, rows: &[usize]) -> Result<Vec<Option<Vec<f32>>>>;

    /// Whose memory and writes are the engine's.
    fn process(&self) -> Process;

    /// Ends it, so that a folder that is kept can be opened again. Bytes the collection takes on disk then,
    /// in a folder of its own the whole database: nothing is being merged any more.
    ///
    /// # Errors
    /// The engine's.
    fn close(&self) -> Result<u64>;
}

/// Writes rows.
pub trait Writer {
    /// Writes rows. They are acknowledged when this or, for a stream, [`Writer::finish`] returns.
    ///
    /// # Errors
    /// The engine's.
    fn upsert(&mut self, rows: Vec<Row>) -> Result<()>;

    /// Waits until everything sent is acknowledged. Nothing may be written after it.
    ///
    /// # Errors
    /// The engine's.
    fn finish(&mut self) -> Result<()>;
}

/// Sends prepared calls.
pub trait Searcher {
    /// Sends call `call` and waits: the hits of each of its queries, best first.
    ///
    /// # Errors
    /// The engine's; `call` was not prepared.
    fn call(&mut self, call: usize) -> Result<Vec<Vec<Found>>>;
}

/// A schema with the vector field alone.
pub fn vector_schema(spec: DenseSpec) -> Schema {
    Schema::new().field(VECTOR, FieldKind::Dense(spec))
}

/// The number of the row with this key.
///
/// # Errors
/// It is not a key that a bench wrote.
pub fn row_of(key: &str) -> Result<u32> {
    key.parse().map_err(|_| Error::from(format!("the engine returned a row '{key}' that was not written")))
}
