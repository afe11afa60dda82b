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
    /// The request's time was over before it was done.
    #[error("the search did not finish within its time; allow more, or ask for less")]
    Deadline,
    /// Whoever asked has gone.
    #[error("the search was cancelled")]
    Cancelled,
    /// The text index failed.
    #[error("text index: {0}")]
    Text(String),
}
