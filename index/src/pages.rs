//! Pages of segment files that were read lately, in what the memory budget has left.
//!
//! A page is kept after its checksum was compared, and found again by the section it is of and its number. It
//! takes only memory that nothing has reserved: with every page, and whenever something is reserved, the
//! cache is cut to what is left. Which page goes is decided by a clock (Corbato, 1968): a hand passes over
//! the pages, and takes the first that was not asked for since it last came by.
//!
//! Cost: a lock, a hash and a copy a page, about 0.2 us, where a read costs tens. Memory: 4,096 bytes a page
//! and about 60 for its place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::dense::vectors::PAGE_BYTES;

/// Bytes of a page and of what finds it.
const COST_BYTES: u64 = PAGE_BYTES + 64;
/// Locks, by number of the page: a search asks for pages that lie together.
const SHARDS: usize = 8;
/// Pages that memory is taken for at once: one by one they would be strewn among what queries allocate.
const SLAB_PAGES: usize = 64;
const PAGE: usize = PAGE_BYTES as usize;

/// A section, by a number of its own, and one of its pages.
pub(crate) type PageName = (u64, u32);

/// Pages in memory.
#[derive(Debug, Default)]
pub(crate) struct PageCache {
    shards: [Mutex<Shard>; SHARDS],
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    places: HashMap<PageName, usize>,
    slots: Vec<Slot>,
    /// The pages of the slots, [`SLAB_PAGES`] each.
    slabs: Vec<Box<[u8]>>,
    /// The slot that the hand is at.
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    name: PageName,
    asked: bool,
}

impl PageCache {
    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn shard(&self, name: PageName) -> &Mutex<Shard> {
        &self.shards[(name.1 as usize ^ name.0 as usize) % SHARDS]
    }

    /// Copies the bytes of a page from `at` on; false when it is not there.
    ///
    /// # Panics
    /// When the page ends before `out` is full.
    pub(crate) fn copy(&self, name: PageName, at: usize, out: &mut [u8]) -> bool {
        let mut shard = self.shard(name).lock();
        let Some(place) = shard.places.get(&name).copied() else { return false };
        shard.slots[place].asked = true;
        out.copy_from_slice(&shard.page(place)[at..at + out.len()]);
        true
    }

    /// Keeps a page, which may be cut short at the end of its section, if all pages together then take at
    /// most `limit_bytes`, or one can go for it.
    ///
    /// # Panics
    /// When `bytes` are more than a page.
    pub(crate) fn keep(&self, name: PageName, bytes: &[u8], limit_bytes: u64) {
        let mut shard = self.shard(name).lock();
        if shard.places.contains_key(&name) {
            return;
        }
        let grown = |bytes: u64| Some(bytes + COST_BYTES).filter(|bytes| *bytes <= limit_bytes);
        let fits = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        let place = match fits {
            true => {
                shard.slots.push(Slot { name, asked: false });
                if shard.slots.len() > shard.slabs.len() * SLAB_PAGES {
                    shard.slabs.push(vec![0; SLAB_PAGES * PAGE].into());
                }
                shard.slots.len() - 1
            }
            false => match shard.victim() {
                Some(place) => place,
                None => return,
            },
        };
        let before = std::mem::replace(&mut shard.slots[place], Slot { name, asked: false }).name;
        shard.page(place)[..bytes.len()].copy_from_slice(bytes);
        shard.places.remove(&before);
        shard.places.insert(name, place);
    }

    /// Drops pages until they take at most `limit_bytes`.
    pub(crate) fn shrink(&self, limit_bytes: u64) {
        let mut emptied = 0;
        for shard in self.shards.iter().cycle() {
            if self.bytes() <= limit_bytes || emptied == SHARDS {
                return;
            }
            let mut shard = shard.lock();
            match shard.victim() {
                Some(place) => {
                    shard.drop_slot(place);
                    self.bytes.fetch_sub(COST_BYTES, Ordering::Relaxed);
                    emptied = 0;
                }
                None => emptied += 1,
            }
        }
    }
}

impl Shard {
    /// The page of a slot.
    fn page(&mut self, place: usize) -> &mut [u8] {
        &mut self.slabs[place / SLAB_PAGES][place % SLAB_PAGES * PAGE..][..PAGE]
    }

    /// The slot that is to go; none when there is no slot.
    fn victim(&mut self) -> Option<usize> {
        loop {
            self.hand = if self.hand < self.slots.len() { self.hand } else { 0 };
            let place = self.hand;
            let slot = self.slots.get_mut(place)?;
            self.hand += 1;
            if !std::mem::take(&mut slot.asked) {
                return Some(place);
            }
        }
    }

    fn drop_slot(&mut self, place: usize) {
        let slot = self.slots.swap_remove(place);
        self.places.remove(&slot.name);
        let last = self.slots.len();
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.name, place);
            let mut page = [0; PAGE];
            page.copy_from_slice(self.page(last));
            self.page(place).copy_from_slice(&page);
        }
        self.slabs.truncate(last.div_ceil(SLAB_PAGES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn page(name: PageName) -> Vec<u8> {
        (0..PAGE as u64).map(|at| (at * 7 + name.0 * 31 + u64::from(name.1)) as u8).collect()
    }

    #[test]
    fn what_is_found_is_what_was_kept_and_the_limit_holds() {
        for seed in 0..20 {
            let (cache, mut random) = (PageCache::default(), Random(seed));
            let mut limit = 40 * COST_BYTES;
            let mut hits = 0;
            for step in 0..4_000 {
                let name = (random.below(3) as u64, random.below(60) as u32);
                let at = random.below(PAGE);
                let mut out = vec![0; random.below(PAGE + 1 - at)];
                match cache.copy(name, at, &mut out) {
                    true => {
                        hits += 1;
                        assert_eq!(out, page(name)[at..at + out.len()], "seed {seed}, step {step}");
                    }
                    false => cache.keep(name, &page(name), limit),
                }
                if step % 500 == 499 {
                    limit = random.below(60) as u64 * COST_BYTES;
                    cache.shrink(limit);
                }
                assert!(cache.bytes() <= limit, "seed {seed}, step {step}");
                let slots: usize = cache.shards.iter().map(|shard| shard.lock().slots.len()).sum();
                assert_eq!(slots as u64 * COST_BYTES, cache.bytes(), "seed {seed}, step {step}");
            }
            assert!(hits > 100, "seed {seed}: {hits} hits");
        }
    }

    #[test]
    fn pages_that_are_asked_for_stay() {
        let (cache, limit) = (PageCache::default(), 10 * SHARDS as u64 * COST_BYTES);
        let hot = |at: u32| (1, at % 40);
        for at in 0..4_000 {
            cache.keep((2, at), &page((2, at)), limit);
            if !cache.copy(hot(at), 0, &mut [0; 8]) {
                cache.keep(hot(at), &page(hot(at)), limit);
            }
        }
        let found = (0..40).filter(|at| cache.copy(hot(*at), 0, &mut [0; 8])).count();
        assert!(found >= 36, "{found} of 40 pages that are asked for again and again are there");
        assert!(!cache.copy((2, 0), 0, &mut [0; 8]), "a page of a scan has gone");
        cache.shrink(0);
        assert_eq!(cache.bytes(), 0);
        cache.keep((1, 1), &page((1, 1)), COST_BYTES - 1);
        assert!(!cache.copy((1, 1), 0, &mut [0; 1]));
    }
}
