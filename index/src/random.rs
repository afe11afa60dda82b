//! A small generator (SplitMix64, Steele et al., 2014): the same numbers from a seed on every machine, for
//! sampling in builds. Not for secrets.

/// A stream of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform below `count`.
    ///
    /// # Panics
    /// When `count` is 0.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        assert!(count > 0, "there is something to choose from");
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }

    /// `wanted` different numbers below `count`, ascending; all of them when there are no more.
    pub(crate) fn sample(&mut self, count: usize, wanted: usize) -> Vec<usize> {
        // Selection sampling (Knuth, algorithm S): each number is taken with what is wanted over what
        // is left.
        let mut left = wanted.min(count);
        let mut taken = Vec::with_capacity(left);
        for at in 0..count {
            if left > 0 && self.below(count - at) < left {
                taken.push(at);
                left -= 1;
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_ascending_distinct_and_of_the_wanted_size() {
        let mut random = Random(5);
        for (count, wanted) in [(0, 0), (0, 3), (10, 3), (10, 10), (10, 20), (1000, 1)] {
            let sample = random.sample(count, wanted);
            assert_eq!(sample.len(), wanted.min(count));
            assert!(sample.is_sorted_by(|a, b| a < b) && sample.iter().all(|at| *at < count));
        }
    }
}
