//! Who is near: kernels, exact and approximate indexes, filters over payload, and the segments that hold them.
//!
//! Everything here works on what `spandrel-storage` defines; nothing here opens the row store.
#![deny(unsafe_code)]

pub mod allow;
pub mod error;
mod intern;
pub mod payload;
pub mod sparse;
pub mod text;
pub mod topk;

pub use error::{Error, Result};
