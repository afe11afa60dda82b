//! Named places where a test makes the process die, to prove that a crash there loses nothing.
//!
//! With the feature `failpoints`, [`reach`] aborts the process at the place that the environment names:
//! `SPANDREL_CRASH_AT=place` or `place:n` for the n-th time it is reached. Without the feature it is nothing.

/// Every place, for tests that try them all.
pub const PLACES: [&str; 8] = [
    "commit.before",
    "commit.after",
    "segment.built",
    "file.renaming",
    "manifest.saved",
    "trim.before",
    "inputs.removing",
    "trim.half",
];

/// Dies here if the environment says so.
#[cfg(feature = "failpoints")]
pub fn reach(place: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ASKED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    debug_assert!(PLACES.contains(&place), "{place} is not listed");
    let asked = ASKED.get_or_init(|| {
        let text = std::env::var("SPANDREL_CRASH_AT").ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), AtomicU64::new(count.parse().unwrap_or(1))))
    });
    if let Some((name, left)) = asked
        && name == place
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_place: &str) {}
