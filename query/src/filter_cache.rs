//! Filters that are asked again: what they let through of a segment on disk, kept.
//!
//! A segment never changes, and a condition on payload fields lets the same docs through for as long as the
//! segment lives, whatever is deleted, granted or revoked meanwhile: those are looked at besides, as for any
//! search. Conditions on keys and labels, which change, are not kept. What is kept belongs to one tenant.
//!
//! A filter is kept from the second time on that it is asked, so that those asked once pass through without
//! a trace; from the third time on dense fields may add a copy of the codes of what passes
//! ([`VectorIndex::gather`]), which are looked at in a third of the time. Which filter goes when there is no
//! room is a matter of GreedyDual-Size with frequency (Cherkasova, 1998), as for pages: the one of least
//! worth, which is how often it was asked, times what it takes to find out what passes, by its bytes.
//! Departure: the least of [`SAMPLE`] drawn at random, which needs no queue.
//!
//! Cost: a lock and a hash of the filter, about 0.2 us a segment.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use roaring::RoaringBitmap;
use spandrel_index::dense::{Ask, Gathered, VectorIndex};
use spandrel_index::segment::Segment;
use spandrel_storage::codec::Encoder;
use spandrel_storage::{CollectionId, FieldId};

/// Filters of which the least goes.
const SAMPLE: usize = 8;
/// Filters that were asked once are remembered by their hash, in so many sets of so many places: where there
/// was one place for a hash, two filters asked in turn would keep each other out for ever.
const ASKED_SETS: usize = 1_024;
const ASKED_PLACES: usize = 4;
/// Times that a filter is asked until codes are gathered, and the share of all room that those may take.
const GATHERED_FROM: u32 = 3;
const GATHERED_SHARE: usize = 16;
/// Bytes that a filter takes besides what it lets through.
const ENTRY_BYTES: usize = 256;
/// About what looking at a gathered code saves, in nanoseconds.
const GATHERED_NS: f64 = 8.0;

/// What the names begin with of all that is kept of a segment on disk, or of a collection.
pub fn beginning(collection: CollectionId, segment: Option<&Segment>) -> Encoder {
    let mut name = Encoder::with_capacity(128);
    name.u32(collection.0);
    if let Some(segment) = segment {
        name.u64(segment.id());
    }
    name
}

/// What a filter lets through of a segment.
pub struct Passing {
    /// The docs.
    pub docs: RoaringBitmap,
    /// What it is kept under; empty where it is not.
    name: Arc<[u8]>,
    asked: AtomicU32,
    /// Codes of the docs, by field; no fields where it is not kept.
    gathered: Box<[OnceLock<Option<Gathered>>]>,
}

impl Passing {
    /// What a filter lets through that is not kept.
    pub fn once(docs: RoaringBitmap) -> Arc<Self> {
        Arc::new(Self { docs, name: Arc::default(), asked: AtomicU32::new(0), gathered: Box::default() })
    }
}

/// Filters, and what they let through.
pub struct FilterCache {
    limit_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    places: HashMap<Arc<[u8]>, usize>,
    slots: Vec<Slot>,
    bytes: usize,
    /// The worth of the last filter that went.
    gone: f64,
    hasher: RandomState,
    drawn: u64,
    /// Hashes of filters that were asked once, the latest of a set first.
    asked_once: Vec<[u64; ASKED_PLACES]>,
}

struct Slot {
    passing: Arc<Passing>,
    bytes: usize,
    asked: f64,
    /// What asking for it again saves.
    saved_ns: f64,
    worth: f64,
}

impl FilterCache {
    /// One that takes so many bytes, about; none where that is 0.
    pub fn new(limit_bytes: u64) -> Self {
        let limit_bytes = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
        Self { limit_bytes, kept: Mutex::default() }
    }

    /// Whether anything is ever kept.
    pub fn keeps(&self) -> bool {
        self.limit_bytes > 0
    }

    /// Bytes that it takes.
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.kept.lock().bytes as u64
    }

    /// What is kept under a name.
    pub fn get(&self, name: &[u8]) -> Option<Arc<Passing>> {
        let mut kept = self.kept.lock();
        let place = *kept.places.get(name)?;
        let gone = kept.gone;
        let slot = &mut kept.slots[place];
        slot.asked += 1.0;
        slot.weigh(gone);
        slot.passing.asked.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(&slot.passing))
    }

    /// What passes by a filter that was not kept, found in `took_ns`; it is kept where it was asked before.
    /// There are so many `fields`.
    pub fn offer(&self, name: &[u8], docs: RoaringBitmap, took_ns: f64, fields: usize) -> Arc<Passing> {
        let bytes = ENTRY_BYTES + name.len() + docs.serialized_size();
        let mut kept = self.kept.lock();
        if bytes > self.limit_bytes || !kept.was_asked(name) || kept.places.contains_key(name) {
            return Passing::once(docs);
        }
        let (name, asked): (Arc<[u8]>, _) = (name.into(), AtomicU32::new(2));
        let gathered = (0..fields).map(|_| OnceLock::new()).collect();
        let passing = Arc::new(Passing { docs, name: Arc::clone(&name), asked, gathered });
        let mut slot =
            Slot { passing: Arc::clone(&passing), bytes, asked: 2.0, saved_ns: took_ns, worth: 0.0 };
        slot.weigh(kept.gone);
        let place = kept.slots.len();
        kept.slots.push(slot);
        kept.places.insert(name, place);
        kept.bytes += bytes;
        kept.shrink(self.limit_bytes);
        passing
    }

    /// The codes of what passes in a field, where they are kept, or are from now on.
    pub fn gathered<'a>(
        &self,
        passing: &'a Arc<Passing>,
        (field, index): (FieldId, &dyn VectorIndex),
        (ask, k): (&Ask<'_>, usize),
    ) -> Option<&'a Gathered> {
        let place = passing.gathered.get(usize::from(field.0))?;
        if let Some(gathered) = place.get() {
            return gathered.as_ref();
        }
        if passing.asked.load(Ordering::Relaxed) < GATHERED_FROM {
            return None;
        }
        let mut made = false;
        let gathered = place.get_or_init(|| {
            made = true;
            index.gather(ask, k, self.limit_bytes / GATHERED_SHARE)
        });
        if let Some(gathered) = gathered.as_ref().filter(|_| made) {
            self.grow(passing, gathered);
        }
        gathered.as_ref()
    }

    /// Counts what a filter takes more.
    fn grow(&self, passing: &Arc<Passing>, by: &Gathered) {
        let mut kept = self.kept.lock();
        let Some(place) = kept.places.get(&passing.name).copied() else { return };
        let gone = kept.gone;
        let slot = &mut kept.slots[place];
        // It may have gone, and have come again, while codes were gathered.
        if Arc::ptr_eq(&slot.passing, passing) {
            slot.bytes += by.memory_bytes();
            slot.saved_ns += passing.docs.len() as f64 * GATHERED_NS;
            slot.weigh(gone);
            kept.bytes += by.memory_bytes();
            kept.shrink(self.limit_bytes);
        }
    }

    /// Forgets all that is kept of a segment on disk, or of a collection.
    pub fn forget(&self, collection: CollectionId, segment: Option<&Segment>) {
        let beginning = beginning(collection, segment).finish();
        let mut kept = self.kept.lock();
        let mut place = 0;
        while let Some(slot) = kept.slots.get(place) {
            if slot.passing.name.starts_with(&beginning) {
                kept.drop_slot(place);
            } else {
                place += 1;
            }
        }
    }
}

impl Slot {
    fn weigh(&mut self, gone: f64) {
        self.worth = gone + self.asked * self.saved_ns / self.bytes as f64;
    }
}

impl Kept {
    /// Whether a filter was asked lately; it was now.
    fn was_asked(&mut self, name: &[u8]) -> bool {
        let hash = self.hasher.hash_one(name);
        self.asked_once.resize(ASKED_SETS, [0; ASKED_PLACES]);
        let set = &mut self.asked_once[hash as usize % ASKED_SETS];
        let was_asked = set.contains(&hash);
        if !was_asked {
            set.rotate_right(1);
            set[0] = hash;
        }
        was_asked
    }

    /// Drops filters until they take at most so many bytes.
    fn shrink(&mut self, limit_bytes: usize) {
        while self.bytes > limit_bytes && !self.slots.is_empty() {
            let drawn: Vec<usize> = (0..SAMPLE).map(|_| self.draw()).collect();
            let least =
                drawn.into_iter().min_by(|a, b| self.slots[*a].worth.total_cmp(&self.slots[*b].worth));
            let place = least.unwrap_or(0);
            self.gone = self.gone.max(self.slots[place].worth);
            self.drop_slot(place);
        }
    }

    /// The place of any slot.
    fn draw(&mut self) -> usize {
        self.drawn += 1;
        (self.hasher.hash_one(self.drawn) % self.slots.len() as u64) as usize
    }

    fn drop_slot(&mut self, place: usize) {
        let slot = self.slots.swap_remove(place);
        self.bytes -= slot.bytes;
        self.places.remove(&slot.passing.name);
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(Arc::clone(&moved.passing.name), place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn docs(name: u32) -> RoaringBitmap {
        (0..20 + name % 50).map(|doc| doc * (1 + name)).collect()
    }

    /// Asks, as a search does; whether it was kept.
    fn ask(cache: &FilterCache, name: u32, took_ns: f64) -> bool {
        let bytes = name.to_le_bytes();
        let kept = cache.get(&bytes);
        let passing = kept.clone().unwrap_or_else(|| cache.offer(&bytes, docs(name), took_ns, 1));
        assert_eq!(passing.docs, docs(name), "{name}");
        kept.is_some()
    }

    #[test]
    fn what_is_asked_twice_is_kept_and_the_limit_holds() {
        let limit = 40 * (ENTRY_BYTES as u64 + 100);
        let (cache, mut state) = (FilterCache::new(limit), 1_u32);
        let mut hits = 0;
        for _ in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let name = (state >> 16) % 100;
            hits += u32::from(ask(&cache, name, 500.0));
            assert!(cache.bytes() <= limit);
            if state % 1_000 == 0 {
                cache.forget(CollectionId(name), None);
                assert!(cache.get(&name.to_le_bytes()).is_none());
            }
        }
        assert!(hits > 2_000, "{hits} of 20,000");
        let kept = cache.kept.lock();
        assert_eq!(kept.slots.iter().map(|slot| slot.bytes).sum::<usize>(), kept.bytes);
        assert!(kept.places.iter().all(|(name, place)| kept.slots[*place].passing.name == *name));
        assert_eq!(kept.places.len(), kept.slots.len());
    }

    #[test]
    fn filters_remembered_in_one_place_do_not_keep_each_other_out() {
        let cache = FilterCache::new(1 << 20);
        let names: Vec<u32> = {
            let kept = cache.kept.lock();
            let set = |name: u32| kept.hasher.hash_one(&name.to_le_bytes()[..]) as usize % ASKED_SETS;
            (0..).filter(|name| set(*name) == set(0)).take(ASKED_PLACES).collect()
        };
        for round in 0..4 {
            names.iter().for_each(|name| assert_eq!(ask(&cache, *name, 500.0), round > 1, "{names:?}"));
        }
    }

    #[test]
    fn filters_asked_once_pass_without_a_trace_and_costly_ones_stay() {
        let cache = FilterCache::new(40 * (ENTRY_BYTES as u64 + 100));
        (0..10_000).for_each(|name| assert!(!ask(&cache, name, 500.0)));
        assert!(cache.bytes() < 10 * (ENTRY_BYTES as u64 + 100), "but for chance: {}", cache.bytes());
        // Ten that take long and many that do not, asked as often.
        let mut hits = [0; 2];
        for round in 0..200 {
            for name in 0..100 {
                let is_costly = name < 10;
                let hit = ask(&cache, name, if is_costly { 50_000.0 } else { 500.0 });
                hits[usize::from(is_costly)] += usize::from(hit && round >= 20);
            }
        }
        // Which of them goes is drawn: all of a draw may be costly ones, hardly ever.
        assert!(hits[1] * 100 >= 180 * 10 * 98 && hits[0] < 180 * 90 / 2, "{hits:?}");
        let none = FilterCache::new(0);
        assert!(!none.keeps() && (0..5).all(|_| !ask(&none, 1, 500.0)) && none.bytes() == 0);
    }
}
