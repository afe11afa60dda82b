//! What can go wrong in an index.

/// Result of index operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing a segment failed.
    #[error(transparent)]
    Storage(#[from] spandrel_storage::Error),
    /// A section of a segment does not hold what its checksummed bytes should.
    #[error("section '{section}' is not usable: {what}")]
    Section {
        /// The section's name.
        section: String,
        /// What was expected and found.
        what: String,
    },
    /// A query or value that does not fit the field.
    #[error("{0}")]
    Invalid(String),
    /// The text index failed.
    #[error("text index: {0}")]
    Text(String),
}
