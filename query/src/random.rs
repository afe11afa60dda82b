//! Chance and hashes that are the same on every machine, so that the same request has the same answer. Not
//! for secrets.

pub(crate) use spandrel_index::random::{Random, mix};

/// A hash of bytes, the same on every machine: FNV-1a, stirred.
pub(crate) fn hashed(seed: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    mix(bytes.iter().fold(seed ^ 0xcbf2_9ce4_8422_2325, step))
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
        let draw = |seed| (0..4).map(|_| 0).scan(Random(seed), |random, _: u64| Some(random.next()));
        assert!(draw(1).eq(draw(1)) && !draw(1).eq(draw(2)));
        let mut random = Random(3);
        let mean = (0..10_000).map(|_| random.unit()).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02);
        let hashes = (0..10_000_u32).map(|n| hashed_unit(7, &n.to_le_bytes()));
        assert!((hashes.sum::<f64>() / 10_000.0 - 0.5).abs() < 0.02);
    }
}
