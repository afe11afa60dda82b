//! The dictionary of tenants: names to ids, in few bytes a tenant, because most tenants are idle.
//!
//! All names lie in one text; a slot of 24 bytes says where, and slots are found by id, in order of which
//! they are, or by name, through a table of their numbers. Ids are never reused. A name that is dropped
//! leaves a hole, and holes are closed when a quarter is.
//!
//! Memory: 24 bytes, the name, and 6 to 12 for the table.

use std::collections::BinaryHeap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, Ordering};

use hashbrown::{DefaultHashBuilder, HashTable};
use spandrel_storage::TenantId;

/// Holes are closed when there are this many, at least.
const DROPPED_MIN: usize = 64;
/// Names that are looked at in one go.
const PART: usize = if cfg!(test) { 7 } else { 4_096 };

/// Names to ids.
#[derive(Default)]
pub struct Names {
    text: String,
    /// By ascending id, the dropped ones among them.
    slots: Vec<Slot>,
    dropped: usize,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
    next: u32,
}

struct Slot {
    place: Place,
    bytes: u64,
    queries: AtomicU32,
    id: TenantId,
}

/// Where a name begins in the text, 48 bits, and its length, 16 bits.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    /// Of a name that was dropped.
    const NONE: Self = Self(u64::MAX);

    fn of(text: &str, start: usize) -> Self {
        Self((start as u64) << 16 | (text.len() - start) as u64)
    }

    fn name(self, text: &str) -> &str {
        match self.0 {
            u64::MAX => "",
            place => &text[(place >> 16) as usize..][..(place & 0xffff) as usize],
        }
    }
}

impl Names {
    /// These names, by ascending id; the next new one gets `next`, or the first id above theirs.
    pub fn new(entries: Vec<(TenantId, String)>, next: TenantId) -> Self {
        let mut names = Self { next: next.0, ..Self::default() };
        names.text.reserve_exact(entries.iter().map(|(_, name)| name.len()).sum());
        names.slots.reserve_exact(entries.len());
        entries.iter().for_each(|(id, name)| names.insert(*id, name));
        names
    }

    pub fn get(&self, name: &str) -> Option<TenantId> {
        self.find(name).map(|slot| slot.id)
    }

    /// As [`get`](Self::get), and counts so many queries.
    pub fn asked(&self, name: &str, queries: u32) -> Option<TenantId> {
        let slot = self.find(name)?;
        slot.queries.fetch_add(queries, Ordering::Relaxed);
        Some(slot.id)
    }

    pub fn next(&self) -> TenantId {
        TenantId(self.next)
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.dropped
    }

    pub fn bytes(&self, id: TenantId) -> u64 {
        self.at(id).map_or(0, |at| self.slots[at].bytes)
    }

    pub fn queries(&self, id: TenantId) -> u32 {
        self.at(id).map_or(0, |at| self.slots[at].queries.load(Ordering::Relaxed))
    }

    /// All names, in no order.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.by_name.iter().map(|at| self.slots[*at as usize].place.name(&self.text))
    }

    /// Looks at some names, from an id on, which moves: the first `limit` of them after one, with those that
    /// are there already, are there then. Returns whether there are more.
    pub fn after(
        &self,
        id: &mut TenantId,
        after: Option<&str>,
        limit: usize,
        first: &mut BinaryHeap<String>,
    ) -> bool {
        let left = &self.slots[self.slots.partition_point(|slot| slot.id < *id)..];
        let part = &left[..left.len().min(PART)];
        for slot in part.iter().filter(|slot| slot.place.0 != Place::NONE.0) {
            let name = slot.place.name(&self.text);
            let last = first.peek().filter(|_| first.len() >= limit);
            if after.is_none_or(|after| name > after) && last.is_none_or(|last| name < last.as_str()) {
                first.push(name.to_owned());
                if first.len() > limit {
                    first.pop();
                }
            }
        }
        *id = part.last().map_or(*id, |last| TenantId(last.id.0.saturating_add(1)));
        part.len() < left.len()
    }

    /// Adds a name, unless it is there.
    ///
    /// # Panics
    /// When the id is not above those before.
    pub fn insert(&mut self, id: TenantId, name: &str) {
        if self.get(name).is_some() {
            return;
        }
        assert!(self.slots.last().is_none_or(|last| last.id < id), "tenant {id}: ids grow");
        if self.slots.len() == self.slots.capacity() {
            // By an eighth: a vector that doubles wastes a third of its memory.
            self.slots.reserve_exact((self.slots.len() / 8).max(16));
        }
        self.next = self.next.max(id.0.saturating_add(1));
        let start = self.text.len();
        self.text.push_str(name);
        let place = Place::of(&self.text, start);
        self.slots.push(Slot { place, bytes: 0, queries: AtomicU32::new(0), id });
        self.link(self.slots.len() - 1);
    }

    pub fn set_bytes(&mut self, id: TenantId, bytes: u64) {
        if let Some(at) = self.at(id) {
            self.slots[at].bytes = bytes;
        }
    }

    pub fn remove(&mut self, id: TenantId) {
        let Some(at) = self.at(id) else { return };
        let hash = self.hasher.hash_one(self.slots[at].place.name(&self.text));
        if let Ok(entry) = self.by_name.find_entry(hash, |other| *other == at as u32) {
            entry.remove();
            self.slots[at].place = Place::NONE;
            self.dropped += 1;
        }
    }

    /// Whether holes are to be closed.
    pub fn has_many_holes(&self) -> bool {
        self.dropped >= DROPPED_MIN.max(self.slots.len() / 4)
    }

    /// The same names without holes.
    pub fn without_holes(&self) -> Self {
        let named = || self.slots.iter().filter(|slot| slot.place.0 != Place::NONE.0);
        let mut closed = Self { next: self.next, ..Self::default() };
        closed.text.reserve_exact(named().map(|slot| slot.place.name(&self.text).len()).sum());
        closed.slots.reserve_exact(self.len());
        closed.by_name = HashTable::with_capacity(self.len());
        for slot in named() {
            closed.insert(slot.id, slot.place.name(&self.text));
            closed.set_bytes(slot.id, slot.bytes);
        }
        closed
    }

    /// Becomes what [`without_holes`](Self::without_holes) has made of it, if it is the same still; queries
    /// were counted meanwhile.
    pub fn close_holes(&mut self, mut closed: Self) {
        let named = self.slots.iter_mut().filter(|slot| slot.place.0 != Place::NONE.0);
        for (slot, closed) in named.zip(&mut closed.slots) {
            debug_assert_eq!(slot.id, closed.id, "names change one at a time");
            *closed.queries.get_mut() = *slot.queries.get_mut();
        }
        *self = closed;
    }

    fn link(&mut self, at: usize) {
        let Self { text, slots, by_name, hasher, .. } = self;
        let hash = |at: &u32| hasher.hash_one(slots[*at as usize].place.name(text));
        by_name.insert_unique(hash(&(at as u32)), at as u32, hash);
    }

    fn find(&self, name: &str) -> Option<&Slot> {
        let named = |at: &u32| self.slots[*at as usize].place.name(&self.text) == name;
        self.by_name.find(self.hasher.hash_one(name), named).map(|at| &self.slots[*at as usize])
    }

    fn at(&self, id: TenantId) -> Option<usize> {
        self.slots.binary_search_by_key(&id, |slot| slot.id).ok()
    }

    /// Bytes of memory in use.
    pub fn memory_bytes(&self) -> usize {
        self.text.capacity() + self.slots.capacity() * size_of::<Slot>() + self.by_name.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn it_does_what_a_map_does() {
        for seed in 0..10_u64 {
            let (mut names, mut map): (Names, HashMap<String, (TenantId, u64)>) = Default::default();
            let mut state = seed;
            let mut below = |most: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % most
            };
            for step in 0..6_000 {
                let name = format!("{}-{}", "ü".repeat(below(3) as usize), below(800));
                match below(3) {
                    0 => match map.remove(&name) {
                        Some((id, _)) => {
                            names.remove(id);
                            if names.has_many_holes() {
                                names.close_holes(names.without_holes());
                            }
                        }
                        None => assert_eq!(names.get(&name), None, "seed {seed}, step {step}"),
                    },
                    1 if !map.contains_key(&name) => {
                        let id = names.next();
                        names.insert(id, &name);
                        map.insert(name, (id, 0));
                    }
                    _ => {
                        if let Some((id, bytes)) = map.get_mut(&name) {
                            assert_eq!(names.get(&name), Some(*id), "seed {seed}, step {step}");
                            assert_eq!(names.bytes(*id), *bytes, "seed {seed}, step {step}");
                            *bytes = below(1_000);
                            names.set_bytes(*id, *bytes);
                        }
                    }
                }
                assert_eq!(names.len(), map.len(), "seed {seed}, step {step}");
            }
            let mut all: Vec<&str> = map.keys().map(String::as_str).collect();
            all.sort_unstable();
            let after = |after: Option<&str>, limit: usize| {
                let (mut first, mut id) = (BinaryHeap::new(), TenantId(0));
                while names.after(&mut id, after, limit, &mut first) {}
                first.into_sorted_vec()
            };
            assert_eq!(after(None, 10_000), all, "seed {seed}");
            assert_eq!(after(Some(all[4]), 3), all[5..8], "seed {seed}");
            assert!(names.slots.len() <= names.len() * 4 / 3 + DROPPED_MIN);
        }
    }

    #[test]
    fn ids_are_not_used_again_and_a_tenant_takes_few_bytes() {
        let mut names = Names::new(vec![(TenantId(3), "a".into()), (TenantId(7), "b".into())], TenantId(0));
        assert_eq!(names.next(), TenantId(8));
        names.remove(TenantId(7));
        assert_eq!((names.next(), names.get("b")), (TenantId(8), None));
        assert_eq!(Names::new(vec![(TenantId(3), "a".into())], TenantId(8)).next(), TenantId(8));
        let many = |count: u32| (0..count).map(|at| (TenantId(at), format!("tenant-{at:06}"))).collect();
        for count in [100_000, 120_000] {
            let names = Names::new(many(count), TenantId(0));
            let each = names.memory_bytes() as f64 / f64::from(count);
            assert!(each <= 52.0, "{each} bytes a tenant");
        }
    }
}
