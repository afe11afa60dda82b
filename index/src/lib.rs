//! Who is near: kernels, exact and approximate indexes, filters over payload, and the segments that hold them.
//!
//! Everything here works on what `spandrel-storage` defines; nothing here opens the row store.
#![deny(unsafe_code)]

pub mod error;

pub use error::{Error, Result};
