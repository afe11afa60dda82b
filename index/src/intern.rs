//! Byte strings to dense numbers, in the order in which they are first seen.
//!
//! Serves the builders of dictionaries: words of a text, keywords of a payload field. It is a table in
//! memory, not a format: whoever writes a dictionary sorts it first. Open addressing over one arena; about 20
//! ns a lookup of a short string, `len + 24` bytes a distinct string. Hashes are seeded once a process, so
//! that nobody can send strings that collide; nothing observable depends on them.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// An empty slot of the table.
const EMPTY: u32 = u32::MAX;

/// Memory that a cleared table keeps for the next use.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// When at most one slot in this many is taken, clearing visits those instead of writing all.
const SPARSE_SHARE: usize = 16;

/// Hashes a string for [`Interner`]; equal within a process only.
pub(crate) fn hash(bytes: &[u8]) -> u32 {
    static SEED: OnceLock<u64> = OnceLock::new();
    let seed = *SEED.get_or_init(|| RandomState::new().hash_one(0u8));
    let mut state = seed ^ bytes.len() as u64;
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        state = fold(state ^ u64::from_le_bytes(*word), 0x9E37_79B9_7F4A_7C15 ^ seed);
    }
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    state = fold(state ^ u64::from_le_bytes(last), 0xD6E8_FEB8_6659_FD93);
    (state ^ (state >> 32)) as u32
}

/// Both halves of the 128-bit product, mixed.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b | 1);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Distinct byte strings numbered from 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interner {
    bytes: Vec<u8>,
    /// Where each string ends in `bytes`.
    ends: Vec<usize>,
    hashes: Vec<u32>,
    /// Numbers of strings by hash; the length is 0 or a power of two, at least half of it empty.
    slots: Vec<u32>,
}

impl Interner {
    /// Distinct strings so far.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Forgets all strings. Keeps the memory unless it is more than [`KEPT_BYTES_MAX`]. Costs as much as the
    /// strings at hand did, whatever the table has seen before.
    pub(crate) fn clear(&mut self) {
        if self.memory_bytes() > KEPT_BYTES_MAX {
            *self = Self::default();
            return;
        }
        if self.len() < self.slots.len() / SPARSE_SHARE {
            let mask = self.slots.len() - 1;
            for (number, hash) in (0..).zip(&self.hashes) {
                let mut slot = *hash as usize & mask;
                // Past slots emptied just now: every number has a slot.
                while self.slots[slot] != number {
                    slot = (slot + 1) & mask;
                }
                self.slots[slot] = EMPTY;
            }
        } else {
            self.slots.fill(EMPTY);
        }
        self.bytes.clear();
        self.ends.clear();
        self.hashes.clear();
    }

    /// The string with this number.
    ///
    /// # Panics
    /// When the number was not given out by this table.
    pub(crate) fn get(&self, number: u32) -> &[u8] {
        let at = number as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }

    /// The [`hash`] of the string with this number.
    ///
    /// # Panics
    /// When the number was not given out by this table.
    pub(crate) fn hash_of(&self, number: u32) -> u32 {
        self.hashes[number as usize]
    }

    /// The number of `bytes`, whose [`hash`] is `hash`, if it was interned.
    pub(crate) fn find(&self, hash: u32, bytes: &[u8]) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let number = self.slots[self.slot(hash, bytes)];
        (number != EMPTY).then_some(number)
    }

    /// The number of `bytes`, whose [`hash`] is `hash`; a new one if it was not seen before.
    pub(crate) fn intern(&mut self, hash: u32, bytes: &[u8]) -> u32 {
        if self.slots.len() < (self.len() + 1) * 2 {
            self.grow();
        }
        let slot = self.slot(hash, bytes);
        if self.slots[slot] != EMPTY {
            return self.slots[slot];
        }
        let number = self.ends.len() as u32;
        self.slots[slot] = number;
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self.hashes.push(hash);
        number
    }

    /// Bytes of memory in use.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.ends.capacity() * 8
            + self.hashes.capacity() * 4
            + self.slots.capacity() * 4
    }

    /// Gives back spare memory.
    pub(crate) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.hashes.shrink_to_fit();
    }

    /// The slot that holds `bytes`, or the empty one where it belongs.
    fn slot(&self, hash: u32, bytes: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            let number = self.slots[slot];
            if number == EMPTY || (self.hashes[number as usize] == hash && self.get(number) == bytes) {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let len = (self.slots.len() * 2).max(16);
        self.slots.clear();
        self.slots.resize(len, EMPTY);
        for (number, hash) in self.hashes.iter().enumerate() {
            let mut slot = *hash as usize & (len - 1);
            while self.slots[slot] != EMPTY {
                slot = (slot + 1) & (len - 1);
            }
            self.slots[slot] = number as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_first_sight() {
        let mut table = Interner::default();
        let words: Vec<String> = (0..5000).map(|n| format!("{}", (n * 7919) % 1000)).collect();
        let mut seen: Vec<&str> = Vec::new();
        for word in &words {
            let number = table.intern(hash(word.as_bytes()), word.as_bytes());
            if !seen.contains(&word.as_str()) {
                seen.push(word);
            }
            assert_eq!(seen[number as usize], word);
            assert_eq!(table.get(number), word.as_bytes());
        }
        assert_eq!(table.len(), seen.len());
        assert_eq!(table.find(hash(b"absent"), b"absent"), None);
        table.clear();
        assert_eq!(table.find(hash(b"7"), b"7"), None);
        assert_eq!(table.intern(hash(b"7"), b"7"), 0);
    }

    #[test]
    fn cleared_tables_are_empty_and_small() {
        let mut table = Interner::default();
        let fill = |table: &mut Interner, count: u32| {
            for n in 0..count {
                // Few hashes, so that runs of taken slots are long.
                assert_eq!(table.intern(n % 7 * 1000, &n.to_le_bytes()), n);
            }
            table.clear();
            assert_eq!(table.len(), 0);
            assert!(table.slots.iter().all(|slot| *slot == EMPTY));
        };
        for count in [1, 2000, 3, 0, 120, 1] {
            fill(&mut table, count);
        }
        assert!(table.slots.len() >= 4000, "the memory is kept");
        for n in 0..200_000u32 {
            table.intern(hash(&n.to_le_bytes()), &n.to_le_bytes());
        }
        assert!(table.memory_bytes() > KEPT_BYTES_MAX);
        table.clear();
        assert!(table.memory_bytes() < KEPT_BYTES_MAX && table.find(hash(b"a"), b"a").is_none());
    }

    #[test]
    fn equal_hashes_are_told_apart() {
        let mut table = Interner::default();
        for n in 0..100u8 {
            assert_eq!(table.intern(5, &[n]), u32::from(n));
        }
        for n in 0..100u8 {
            assert_eq!(table.find(5, &[n]), Some(u32::from(n)));
        }
        assert_eq!(table.find(5, b""), None);
        assert_eq!(table.intern(5, b""), 100);
    }
}
