//! Pages of segment files that were read lately, in what the memory budget has left.
//!
//! A page is kept after its checksum was compared, and found again by the section it is of and its number. It
//! takes only memory that nothing has reserved: with every page, and whenever something is reserved, the
//! cache is cut to what is left.
//!
//! Which page goes: the one of least worth by GreedyDual-Size with frequency (Cherkasova, 1998), where worth
//! is how often a page was asked for, times what it costs to read it again, on top of the worth of what has
//! gone before. All pages have one size; their cost differs: a page that was read alone costs a whole access,
//! one of a long run next to nothing. So the few pages of a small tenant stay while those of a long scan
//! pass, and a new page that is worth less than all others is not kept. Departure: the least of [`SAMPLE`]
//! pages drawn at random goes instead of the least of all, as in Redis, which needs no queue.
//!
//! Cost: a lock, a hash and a copy a page, about 0.2 us, where a read costs tens. Memory: 4,096 bytes a page
//! and about 60 for its place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::dense::vectors::PAGE_BYTES;
use crate::random::Random;

/// Bytes of a page and of what finds it.
const COST_BYTES: u64 = PAGE_BYTES + 64;
/// Locks, by number of the page: a search asks for pages that lie together.
const SHARDS: usize = 8;
/// Pages that memory is taken for at once: one by one they would be strewn among what queries allocate.
const SLAB_PAGES: usize = 64;
/// Pages of which the least goes.
const SAMPLE: usize = 8;
/// What an access costs besides the bytes, in the time that a page takes: about 60 us of 1.3 us on an SSD.
const ACCESS_PAGES: f32 = 45.0;
const PAGE: usize = PAGE_BYTES as usize;

/// A section, by a number of its own, and one of its pages.
pub(crate) type PageName = (u64, u32);

/// What a page costs to be read again, with so many together: about 1 for one alone.
pub(crate) fn cost(pages_together: usize) -> f32 {
    (ACCESS_PAGES / pages_together.max(1) as f32 + 1.0) / (ACCESS_PAGES + 1.0)
}

/// Pages in memory.
#[derive(Debug, Default)]
pub(crate) struct PageCache {
    shards: [Mutex<Shard>; SHARDS],
    bytes: AtomicU64,
}

#[derive(Debug)]
struct Shard {
    places: HashMap<PageName, usize>,
    slots: Vec<Slot>,
    /// The pages of the slots, [`SLAB_PAGES`] each.
    slabs: Vec<Box<[u8]>>,
    /// The worth of the last page that went.
    gone: f64,
    random: Random,
}

#[derive(Debug)]
struct Slot {
    name: PageName,
    asked: f32,
    cost: f32,
    /// In 64 bits: it grows by a page's worth with every one that goes.
    worth: f64,
}

impl Default for Shard {
    fn default() -> Self {
        let (places, slots, slabs) = (HashMap::new(), Vec::new(), Vec::new());
        Self { places, slots, slabs, gone: 0.0, random: Random(1) }
    }
}

impl PageCache {
    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn shard(&self, name: PageName) -> &Mutex<Shard> {
        &self.shards[(name.1 as usize ^ name.0 as usize) % SHARDS]
    }

    /// Whether a page is there; that is not asking for it.
    pub(crate) fn contains(&self, name: PageName) -> bool {
        self.shard(name).lock().places.contains_key(&name)
    }

    /// Copies the bytes of a page from `at` on; false when it is not there.
    ///
    /// # Panics
    /// When the page ends before `out` is full.
    pub(crate) fn copy(&self, name: PageName, at: usize, out: &mut [u8]) -> bool {
        let mut shard = self.shard(name).lock();
        let Some(place) = shard.places.get(&name).copied() else { return false };
        let gone = shard.gone;
        let slot = &mut shard.slots[place];
        slot.asked += 1.0;
        slot.worth = gone + f64::from(slot.asked * slot.cost);
        out.copy_from_slice(&shard.page(place)[at..at + out.len()]);
        true
    }

    /// Keeps a page of this [`cost`], which may be cut short at the end of its section, if all pages together
    /// then take at most `limit_bytes`, or one of less worth can go for it.
    ///
    /// # Panics
    /// When `bytes` are more than a page.
    pub(crate) fn keep(&self, name: PageName, (bytes, cost): (&[u8], f32), limit_bytes: u64) {
        let mut shard = self.shard(name).lock();
        if shard.places.contains_key(&name) {
            return;
        }
        let grown = |bytes: u64| Some(bytes + COST_BYTES).filter(|bytes| *bytes <= limit_bytes);
        let fits = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        let slot = Slot { name, asked: 1.0, cost, worth: shard.gone + f64::from(cost) };
        let place = if fits {
            shard.slots.push(slot);
            if shard.slots.len() > shard.slabs.len() * SLAB_PAGES {
                shard.slabs.push(vec![0; SLAB_PAGES * PAGE].into());
            }
            shard.slots.len() - 1
        } else {
            let Some(place) = shard.victim() else { return };
            // Either it goes, or the new one does.
            shard.gone = shard.gone.max(shard.slots[place].worth.min(slot.worth));
            if shard.slots[place].worth > slot.worth {
                return;
            }
            let before = std::mem::replace(&mut shard.slots[place], slot).name;
            shard.places.remove(&before);
            place
        };
        shard.page(place)[..bytes.len()].copy_from_slice(bytes);
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
                    shard.gone = shard.gone.max(shard.slots[place].worth);
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
        if self.slots.is_empty() {
            return None;
        }
        let drawn = (0..SAMPLE).map(|_| self.random.below(self.slots.len()));
        drawn.min_by(|a, b| self.slots[*a].worth.total_cmp(&self.slots[*b].worth))
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
                    false => cache.keep(name, (&page(name), cost(1 + step % 9)), limit),
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

    /// Of 40 pages that are asked for in turn, how many are there after a scan that is ten times as long.
    fn left_after_a_scan(cost_of_scan: f32) -> usize {
        let (cache, limit) = (PageCache::default(), 10 * SHARDS as u64 * COST_BYTES);
        let hot = |at: u32| (1, at % 40);
        for at in 0..4_000 {
            cache.keep((2, at), (&page((2, at)), cost_of_scan), limit);
            if !cache.copy(hot(at), 0, &mut [0; 8]) {
                cache.keep(hot(at), (&page(hot(at)), cost(1)), limit);
            }
        }
        assert!(!cache.contains((2, 0)), "a page of a scan has gone");
        let left = (0..40).filter(|at| cache.contains(hot(*at))).count();
        cache.shrink(0);
        assert_eq!(cache.bytes(), 0);
        left
    }

    #[test]
    fn pages_that_are_asked_for_stay() {
        for pages_together in [1, 16] {
            let left = left_after_a_scan(cost(pages_together));
            assert!(left >= 36, "{left} of 40 pages that are asked for again and again are there");
        }
        let cache = PageCache::default();
        cache.keep((1, 1), (&page((1, 1)), 1.0), COST_BYTES - 1);
        assert!(!cache.copy((1, 1), 0, &mut [0; 1]));
    }

    /// Pages read one by one are worth more than those of long runs, asked for as often.
    #[test]
    fn what_costs_more_to_read_stays() {
        let (cache, limit) = (PageCache::default(), 20 * SHARDS as u64 * COST_BYTES);
        let mut random = Random(3);
        for _ in 0..20_000 {
            let name = (random.below(2) as u64, random.below(400) as u32);
            let cost = cost(if name.0 == 0 { 1 } else { 64 });
            if !cache.copy(name, 0, &mut [0; 8]) {
                cache.keep(name, (&page(name), cost), limit);
            }
        }
        let alone = (0..400).filter(|at| cache.contains((0, *at))).count();
        let together = (0..400).filter(|at| cache.contains((1, *at))).count();
        assert!(alone > 4 * together, "{alone} read alone, {together} of runs");
        assert!((cost(1) - 1.0).abs() < 1e-6 && cost(64) < 0.04);
    }

    /// What was asked for often, long ago, goes at last.
    #[test]
    fn what_is_asked_for_no_more_goes() {
        let (cache, limit) = (PageCache::default(), 20 * SHARDS as u64 * COST_BYTES);
        for at in (0..100).cycle().take(2_000) {
            if !cache.copy((1, at), 0, &mut [0; 8]) {
                cache.keep((1, at), (&page((1, at)), cost(1)), limit);
            }
        }
        let mut hits = 0;
        for step in 0..8_000 {
            let name = (2, step % 140);
            match cache.copy(name, 0, &mut [0; 8]) {
                true => hits += u32::from(step >= 7_000),
                false => cache.keep(name, (&page(name), cost(1)), limit),
            }
        }
        assert!(hits > 900, "{hits} of 1,000");
    }
}
