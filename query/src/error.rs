//! What a caller of the engine has to know about a failure: what to do next. Detail stays in the message.

use std::fmt;

/// Result of every public operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Change the request; it can never succeed as it is.
    Invalid,
    /// The named collection, tenant or field is not there.
    NotFound,
    /// The name is taken, or another process holds the database.
    Conflict,
    /// Ask for less, or free the resource that the message names (disk, memory, a limit).
    Exhausted,
    /// The deadline passed or the request was cancelled; a longer deadline may succeed.
    Deadline,
    /// A component (such as an embeddings endpoint) or the engine is not available now; retry later.
    Unavailable,
    /// Bytes on disk are damaged; restore from a backup or rebuild as the message says.
    Corrupt,
    /// An earlier write could not be made durable; reopen the database.
    Poisoned,
    /// The database was closed; open it again.
    Closed,
    /// A defect of the engine; please report it.
    Internal,
}

/// A failure: its kind, a message for people, and the cause if there is one.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure without a cause of its own.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// An [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message, without the cause.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same failure with `context: ` before its message.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<spandrel_storage::Error> for Error {
    fn from(error: spandrel_storage::Error) -> Self {
        use spandrel_storage::Error as Storage;
        let kind = match &error {
            Storage::Invalid(_) | Storage::Version { .. } => ErrorKind::Invalid,
            Storage::NotFound { .. } => ErrorKind::NotFound,
            Storage::Exists { .. } | Storage::Locked { .. } => ErrorKind::Conflict,
            Storage::NoSpace { .. } => ErrorKind::Exhausted,
            Storage::Corrupt { .. } => ErrorKind::Corrupt,
            Storage::Poisoned { .. } | Storage::SyncFailed { .. } => ErrorKind::Poisoned,
            Storage::Io { .. } => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        };
        Self { kind, message: error.to_string(), source: Some(Box::new(error)) }
    }
}

impl From<spandrel_index::Error> for Error {
    fn from(error: spandrel_index::Error) -> Self {
        use spandrel_index::Error as Index;
        match error {
            Index::Storage(error) => error.into(),
            Index::Invalid(message) => Self::invalid(message),
            error @ (Index::Deadline | Index::Cancelled) => Self::new(ErrorKind::Deadline, error.to_string()),
            error @ Index::Section { .. } => {
                Self { kind: ErrorKind::Corrupt, message: error.to_string(), source: Some(Box::new(error)) }
            }
            error => {
                Self { kind: ErrorKind::Internal, message: error.to_string(), source: Some(Box::new(error)) }
            }
        }
    }
}
