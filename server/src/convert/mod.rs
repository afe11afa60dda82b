//! Where the wire's words and the engine's words meet, and nowhere else.
//!
//! `*_from_wire` reads what a peer sent: nothing is trusted, everything wrong is told with the path of the
//! field. `*_to_wire` cannot fail. Servers read requests and write responses, clients the other way round, so
//! both directions of everything are here, and a round trip is a test. What needs the schema (dimensions,
//! kinds, names, limits of the engine) is left to the engine, which checks it for embedded callers as well.
//!
//! Cost: one pass over the message; a dense vector sent as `f32_le` is copied once.

pub mod chunk_cache;
pub mod filter;
pub mod request;
pub mod response;
pub mod retrieve;
pub mod row;
pub mod schema;
pub mod tenant;

use std::fmt;

use tonic::Status;

/// A part of a message that cannot be: its path, for example `rows[3].fields["embedding"].dense`, and what is
/// wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    path: String,
    what: String,
}

/// Result of reading a message.
pub type Result<T, E = Invalid> = std::result::Result<T, E>;

impl Invalid {
    /// Something wrong with the field `path`.
    pub fn new(path: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { path: path.to_string(), what: what.to_string() }
    }

    /// The same, seen from the message that holds it as `outer`.
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.path = match self.path.as_str() {
            "" => outer.to_string(),
            path if path.starts_with('[') => format!("{outer}{path}"),
            path => format!("{outer}.{path}"),
        };
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.what);
        }
        write!(f, "{}: {}", self.path, self.what)
    }
}

impl std::error::Error for Invalid {}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        Status::invalid_argument(invalid.to_string())
    }
}

/// A message that must be there.
pub fn required<T>(value: Option<T>, path: &str) -> Result<T> {
    value.ok_or_else(|| Invalid::new(path, "is required"))
}

/// A value of an enum in a request that is not known here.
fn unknown(path: &str, number: i32) -> Invalid {
    Invalid::new(path, format!("{number} is not a value that this server knows"))
}

/// A number of things as the engine counts them. Lossless where `usize` has 32 bits or more.
fn size(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A count as the wire has it; more than the wire can say cannot come from a response that was within the
/// limits.
pub(crate) fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
