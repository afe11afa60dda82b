//! A set of candidates as bits, copied by value.

use super::pool::POOL_MAX;

const WORDS: usize = POOL_MAX / 64;

/// A set of positions below [`POOL_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bits([u64; WORDS]);

impl Bits {
    /// Whether the position is in the set; those beyond the bound never are.
    pub fn has(&self, at: u16) -> bool {
        self.0.get(usize::from(at) / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Adds a position below [`POOL_MAX`].
    pub fn add(&mut self, at: u16) {
        self.0[usize::from(at) / 64] |= 1 << (at % 64);
    }

    /// How many positions are in the set.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Takes a position out.
    pub fn remove(&mut self, at: u16) {
        self.0[usize::from(at) / 64] &= !(1 << (at % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_and_go() {
        let mut bits = Bits::default();
        for at in [0, 63, 64, POOL_MAX as u16 - 1] {
            assert!(!bits.has(at));
            bits.add(at);
            assert!(bits.has(at));
        }
        assert_eq!(bits.count(), 4);
        bits.remove(64);
        assert_eq!(bits.count(), 3);
        assert!(!bits.has(64) && bits.has(63) && !bits.has(POOL_MAX as u16));
    }
}
