//! Which slots of a ring's arena are free: pure arithmetic on the bits of a `u128`.
//!
//! A read takes a run of neighbouring slots, found first-fit in O(log run) shifts.

/// Slots of an arena.
pub(super) const SLOT_COUNT: usize = u128::BITS as usize;

/// The free slots of an arena of [`SLOT_COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    /// Bit i is set when slot i is free.
    free: u128,
}

impl Slots {
    /// All slots free.
    pub const ALL: Self = Self { free: u128::MAX };

    /// Takes the first run of `count` free slots, 1 to [`SLOT_COUNT`], and returns where it starts.
    pub fn take(&mut self, count: usize) -> Option<usize> {
        // Bit i of `starts` stays set when bits i .. i + have of `free` are.
        let mut starts = self.free;
        let mut have = 1;
        while have < count {
            let step = have.min(count - have);
            starts &= starts >> step;
            have += step;
        }
        let first = starts.trailing_zeros() as usize;
        if first >= SLOT_COUNT {
            return None;
        }
        self.free &= !(run(count) << first);
        Some(first)
    }

    /// Gives back the run of `count` slots that starts at `first`.
    pub fn give_back(&mut self, first: usize, count: usize) {
        self.free |= run(count) << first;
    }
}

/// The lowest `count` bits.
fn run(count: usize) -> u128 {
    u128::MAX >> (SLOT_COUNT - count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_in_runs_and_given_back() {
        let mut slots = Slots::ALL;
        assert_eq!(slots.take(1), Some(0));
        assert_eq!(slots.take(32), Some(1));
        assert_eq!(slots.take(95), Some(33));
        assert_eq!((slots.free, slots.take(1)), (0, None));
        slots.give_back(125, 3);
        slots.give_back(7, 2);
        assert_eq!(slots.take(3), Some(125));
        assert_eq!(slots.take(3), None);
        assert_eq!(slots.take(2), Some(7));
        slots = Slots::ALL;
        assert_eq!(slots.take(128), Some(0));
        slots.give_back(0, 128);
        assert_eq!(slots, Slots::ALL);
    }
}
