//! A small generator (SplitMix64, Steele et al., 2014): the same numbers from a seed on every machine, for
//! sampling in builds, queries and benches, and the mixing that hashes are made with. Not for secrets.

/// A bijection in which every bit of the result depends on every bit of `z`: the finaliser of SplitMix64.
/// What it gives lies on disk: it never changes.
#[inline(always)]
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of numbers, from its seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    #[allow(clippy::should_implement_trait, reason = "a stream without an end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform below `count`.
    ///
    /// # Panics
    /// When `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        assert!(count > 0, "there is something to choose from");
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }

    /// `wanted` different numbers below `count`, ascending; all of them when there are no more.
    pub fn sample(&mut self, count: usize, wanted: usize) -> Vec<usize> {
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
