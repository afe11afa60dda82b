//! A small generator (SplitMix64, Steele et al., 2014): the same numbers from a seed on every machine, so
//! that the same request has the same answer. Not for secrets.

/// A stream of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// Uniform in 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// All bits of a number stirred into each other.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash of bytes, the same on every machine: FNV-1a, stirred.
pub(crate) fn hashed(seed: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    mixed(bytes.iter().fold(seed ^ 0xcbf2_9ce4_8422_2325, step))
}

/// A hash in 0..1.
pub(crate) fn hashed_unit(seed: u64, bytes: &[u8]) -> f64 {
    (hashed(seed, bytes) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_those_of_their_seed_and_units_are_spread() {
        let draw = |seed| (0..4).map(|_| 0).scan(Random::new(seed), |random, _: u64| Some(random.next()));
        assert!(draw(1).eq(draw(1)) && !draw(1).eq(draw(2)));
        let mut random = Random::new(3);
        let mean = (0..10_000).map(|_| random.unit()).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02);
        let hashes = (0..10_000_u32).map(|n| hashed_unit(7, &n.to_le_bytes()));
        assert!((hashes.sum::<f64>() / 10_000.0 - 0.5).abs() < 0.02);
    }
}
