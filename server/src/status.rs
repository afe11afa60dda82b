//! From what went wrong to the gRPC status that tells a client what to do: one match.
//!
//! Internal failures are logged whole under an id; the client gets the id and no detail. All else is the
//! caller's to know, and the engine's messages are written for the caller.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};

use spandrel::{Error, ErrorKind};
use tonic::{Code, Status};

/// The status of an engine failure.
pub fn from_engine(error: Error) -> Status {
    let code = match error.kind() {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Conflict => Code::AlreadyExists,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Deadline => Code::DeadlineExceeded,
        // Closing: another server, or this one later, may answer.
        ErrorKind::Unavailable | ErrorKind::Closed => Code::Unavailable,
        ErrorKind::Corrupt => Code::DataLoss,
        // Not UNAVAILABLE: clients would retry, and only a restart helps.
        ErrorKind::Poisoned => Code::FailedPrecondition,
        _ => return internal(&error),
    };
    if matches!(code, Code::DataLoss | Code::FailedPrecondition | Code::Unavailable) {
        tracing::error!(kind = ?error.kind(), "{}", chain(&error));
    }
    Status::new(code, error.message())
}

/// INTERNAL with an id; the log has the id and the whole failure.
pub fn internal(error: &dyn std::error::Error) -> Status {
    hidden(&chain(error))
}

/// INTERNAL with an id, for a panic; the log has its message.
pub fn panicked(panic: &(dyn Any + Send)) -> Status {
    let what = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    hidden(&format!("panic: {what}"))
}

fn hidden(what: &str) -> Status {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Unique in this process, and with the process's start in it unlikely to be met twice in one log.
    let id = format!("{:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    tracing::error!(id, "internal error: {what}");
    Status::internal(format!(
        "internal error {id}; the server's log has the details under this id, please report them"
    ))
}

/// A failure with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Wrappers that show their cause would say it twice.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// What the gRPC library itself answers, in our words: a message that is too large is RESOURCE_EXHAUSTED and
/// names the setting; one that is not valid protobuf, or nested too deeply, is INVALID_ARGUMENT.
pub fn reword(status: Status) -> Status {
    let message = status.message();
    match status.code() {
        Code::OutOfRange if message.contains("message length too large") => {
            let what = message.trim_start_matches("Error, ");
            Status::resource_exhausted(format!("limits.message_bytes_max: {what}; send smaller batches"))
        }
        Code::Internal if message.starts_with("failed to decode Protobuf message") => {
            Status::invalid_argument(format!(
                "{message}; filters nest at most {} levels",
                spandrel::request::FILTER_DEPTH_MAX
            ))
        }
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_code() {
        let cases = [
            (ErrorKind::Invalid, Code::InvalidArgument),
            (ErrorKind::NotFound, Code::NotFound),
            (ErrorKind::Conflict, Code::AlreadyExists),
            (ErrorKind::Exhausted, Code::ResourceExhausted),
            (ErrorKind::Deadline, Code::DeadlineExceeded),
            (ErrorKind::Unavailable, Code::Unavailable),
            (ErrorKind::Corrupt, Code::DataLoss),
            (ErrorKind::Poisoned, Code::FailedPrecondition),
            (ErrorKind::Internal, Code::Internal),
        ];
        for (kind, code) in cases {
            let status = from_engine(Error::new(kind, "what it was"));
            assert_eq!(status.code(), code);
            assert_eq!(status.message().contains("what it was"), kind != ErrorKind::Internal);
        }
    }

    #[test]
    fn internal_errors_have_ids_of_their_own() {
        let one = from_engine(Error::new(ErrorKind::Internal, "x"));
        let two = panicked(&"y");
        assert_ne!(one.message(), two.message());
    }

    #[test]
    fn the_librarys_own_answers_are_reworded() {
        let large = reword(Status::out_of_range(
            "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
        ));
        assert_eq!(large.code(), Code::ResourceExhausted);
        assert!(
            large.message().contains("limits.message_bytes_max") && large.message().contains("found 9 bytes")
        );
        let broken = reword(Status::internal("failed to decode Protobuf message: recursion limit reached"));
        assert_eq!(broken.code(), Code::InvalidArgument);
        let other = reword(Status::not_found("x"));
        assert_eq!(other.code(), Code::NotFound);
    }
}
