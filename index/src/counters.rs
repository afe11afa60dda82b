//! What searches did, for `explain` and metrics: one set of counters for every family of index, so that a
//! search by several routes adds up.

/// Every index adds to the caller's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Pairs of query and vector, or documents, that got a score or a bound.
    pub scored: u64,
    /// Pairs of query and dense vector that were scored a second time, because a bound did not decide.
    pub rescored: u64,
    /// Bytes of the pages of segment files that were read.
    pub bytes_read: u64,
}
