//! Who is near: kernels, exact and approximate indexes, filters over payload, and the segments that hold them.
//!
//! Everything here works on what `spandrel-storage` defines; nothing here opens the row store.
#![deny(unsafe_code)]

pub mod allow;
pub mod dense;
pub mod error;
pub mod matrix;
pub mod scratch;
pub mod simd;
pub mod topk;

pub use allow::Allow;
pub use dense::{Counters, VectorIndex};
pub use error::{Error, Result};
pub use matrix::Matrix;
pub use scratch::Scratch;
pub use topk::{Scored, TopK};
