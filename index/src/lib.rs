//! Who is near: kernels, exact and approximate indexes, filters over payload, and the segments that hold
//! them.
//!
//! Everything here works on what `spandrel-storage` defines; nothing here opens the row store.
#![deny(unsafe_code)]

pub mod allow;
pub mod budget;
pub mod counters;
pub mod dedup;
pub mod dense;
pub mod error;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod intern;
pub mod labels;
mod large;
mod linalg;
mod mask;
pub mod matrix;
pub mod pace;
mod pages;
pub mod parallel;
pub mod payload;
pub mod quant;
pub mod random;
pub mod scratch;
pub mod segment;
pub mod simd;
pub mod sparse;
pub mod stop;
pub mod text;
pub mod topk;

pub use allow::Allow;
pub use counters::Counters;
pub use dense::VectorIndex;
pub use error::{Error, Result};
pub use matrix::Matrix;
pub use scratch::Scratch;
pub use segment::{IndexDoc, Indexer, Segment};
pub use spandrel_storage::RowId;
pub use topk::{Scored, TopK};
