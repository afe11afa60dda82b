//! What a decoder does with bytes that are not those that were written.

use crate::random::Random;

/// Gives `decode` all beginnings of `bytes`, and `bytes` with some changed. It returns what it encodes again,
/// or nothing for an error: what is read has to be written the same.
pub(crate) fn check(seed: u64, bytes: &[u8], decode: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    assert_eq!(decode(bytes).as_deref(), Some(bytes), "what was written is read");
    for len in (0..bytes.len().min(300)).chain((0..100).map(|_| random.below(bytes.len()))) {
        assert_eq!(decode(&bytes[..len]), None, "{len} of {} bytes", bytes.len());
    }
    let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
    assert_eq!(decode(&longer), None, "a byte follows");
    for round in 0..4_000 {
        let mut changed = bytes.to_vec();
        for _ in 0..1 + random.below(3) {
            // Half of the changes are where lengths and ranges are.
            let within = if random.next().is_multiple_of(2) { bytes.len().min(64) } else { bytes.len() };
            let at = random.below(within);
            changed[at] = match random.below(3) {
                0 => changed[at] ^ 1 << random.below(8),
                1 => random.next() as u8,
                _ => [0, u8::MAX][random.below(2)],
            };
        }
        if let Some(again) = decode(&changed) {
            assert_eq!(again, changed, "round {round}");
        }
    }
}
