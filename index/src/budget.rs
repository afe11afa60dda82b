//! One bound on the memory of resident indexes, shared by all segments of a database.
//!
//! An index asks before it keeps its data in memory and gives the bytes back when it is dropped; one that is
//! refused reads from disk instead. What nobody has asked for is used for pages that were read lately
//! ([`pages`](crate::pages)), and taken from them again when somebody does. The bound is on what stays
//! resident, not on buffers of queries and builds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dense::ssd::Tier;
use crate::pages::PageCache;

/// Bytes that may be resident, and how many are.
#[derive(Debug)]
pub struct MemoryBudget {
    limit_bytes: u64,
    tier_max: Tier,
    used_bytes: AtomicU64,
    returning_bytes: AtomicU64,
    pages: PageCache,
}

impl MemoryBudget {
    /// A budget of `limit_bytes`, none of it used.
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            tier_max: Tier::Hot,
            used_bytes: AtomicU64::new(0),
            returning_bytes: AtomicU64::new(0),
            pages: PageCache::default(),
        }
    }

    /// The same, with cells held to a tier where there would be room for more. Below [`Tier::Hot`] the
    /// vectors under cells stay on disk.
    pub fn with_tier_max(self, tier_max: Tier) -> Self {
        Self { tier_max, ..self }
    }

    /// The most of cells that is kept.
    pub fn tier_max(&self) -> Tier {
        self.tier_max
    }

    /// Lets reservations use `bytes` that are about to be given back, while the guard lives: the output of a
    /// merge is opened before its inputs go, and would be sent to disk for ever if both had to fit at once.
    pub fn returning(self: &Arc<Self>, bytes: u64) -> Returning {
        self.returning_bytes.fetch_add(bytes, Ordering::AcqRel);
        Returning { budget: Arc::clone(self), bytes }
    }

    /// Takes `bytes` if they fit; they are given back when the reservation is dropped.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let limit = self.limit_with_returning();
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit);
        self.used_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        self.pages.shrink(self.left_bytes());
        Some(Reservation { budget: Arc::clone(self), bytes })
    }

    /// Bytes that a reservation could have now.
    pub(crate) fn room_bytes(&self) -> u64 {
        self.limit_with_returning().saturating_sub(self.used_bytes())
    }

    fn limit_with_returning(&self) -> u64 {
        self.limit_bytes.saturating_add(self.returning_bytes.load(Ordering::Acquire))
    }

    /// Bytes that nobody has reserved: what pages may take.
    pub(crate) fn left_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes())
    }

    /// Pages that were read lately.
    pub(crate) fn pages(&self) -> &PageCache {
        &self.pages
    }

    /// Bytes of pages that were read lately.
    pub fn page_bytes(&self) -> u64 {
        self.pages.bytes()
    }

    /// Bytes that are reserved.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Acquire)
    }

    /// The bound.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }
}

/// Bytes taken from a budget.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl Reservation {
    /// Bytes taken.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// See [`MemoryBudget::returning`].
#[derive(Debug)]
pub struct Returning {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl Drop for Returning {
    fn drop(&mut self) {
        self.budget.returning_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_refused_beyond_the_limit_and_come_back() {
        let budget = Arc::new(MemoryBudget::new(100));
        let first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        let second = budget.reserve(40).unwrap();
        assert_eq!(budget.used_bytes(), 100);
        drop(first);
        assert_eq!(budget.used_bytes(), 40);
        assert!(budget.reserve(u64::MAX).is_none());
        let expected = budget.returning(40);
        let third = budget.reserve(90).unwrap();
        drop((second, expected));
        assert_eq!(budget.used_bytes(), 90);
        assert!(budget.reserve(20).is_none());
        drop(third);
        assert_eq!(budget.used_bytes(), 0);
    }
}
