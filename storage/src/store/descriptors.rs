//! How many files the process may have open, and RocksDB's share of them.
//!
//! Soft limits are 1024 on most systems for the sake of programs that call `select`; hard limits are far
//! higher. A database with many segments and tables needs more than 1024, and running out would fail reads
//! and flushes alike: so the soft limit is raised once, as Go's runtime and others do.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the soft limit is raised to, where the hard limit permits it.
const OPEN_FILES_WANTED: u64 = 65_536;
/// Fewest files that RocksDB works with.
const OPEN_FILES_MIN: u64 = 20;

/// Raises the soft limit of open files towards the hard one and returns what it then is.
pub(super) fn allowed() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let now = limit.current.unwrap_or(u64::MAX);
    let wanted = OPEN_FILES_WANTED.min(limit.maximum.unwrap_or(u64::MAX));
    if now >= wanted {
        return now;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, now, wanted, "the limit of open files stays as it is");
            now
        }
    }
}

/// The files that RocksDB may have open of `allowed`: what was asked for, at most half. The other half is for
/// segment files and connections.
pub(super) fn share(asked: u32, allowed: u64) -> i32 {
    let share = u64::from(asked).min(allowed / 2).max(OPEN_FILES_MIN);
    i32::try_from(share).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rocksdb_takes_at_most_half() {
        assert_eq!(share(1000, 65_536), 1000);
        assert_eq!(share(1000, 1024), 512);
        assert_eq!(share(1000, 10), 20);
        assert_eq!(share(u32::MAX, u64::MAX), i32::MAX);
    }
}
