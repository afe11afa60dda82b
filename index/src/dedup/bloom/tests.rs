//! Promises against the exact distribution and against what happens; bytes that are damaged.

use std::collections::HashSet;

use super::*;
use crate::random::Random;

/// [`chance_of_block`] by the exact distribution of set bits.
fn exact_chance_of_block(probes: u32, keys: u32) -> f64 {
    let mut odds = vec![0.0; BLOCK_BITS + 1];
    odds[0] = 1.0;
    for _ in 0..probes * keys {
        for set in (1..=BLOCK_BITS).rev() {
            let (hit, missed) = (set as f64, (BLOCK_BITS + 1 - set) as f64);
            odds[set] = (odds[set] * hit + odds[set - 1] * missed) / BLOCK_BITS as f64;
        }
        odds[0] = 0.0;
    }
    let all = |set| (set as f64 / BLOCK_BITS as f64).powi(probes as i32);
    odds.iter().enumerate().map(|(set, odds)| odds * all(set)).sum()
}

#[test]
fn chances_are_those_of_the_exact_distribution() {
    for (probes, bits_per_key) in [(20, 32.0), (13, 20.0), (4, 8.0)] {
        for times in [0.6, 1.0, 1.3] {
            let keys = (BLOCK_BITS as f64 / bits_per_key * times) as u32;
            let exact = exact_chance_of_block(probes, keys);
            let found = chance_of_block(probes, f64::from(keys * probes));
            assert!((found / exact - 1.0).abs() < 1e-2, "{probes} probes, {keys} keys: {found:e}, {exact:e}");
        }
    }
}

#[test]
fn sizes_hold_promises_and_are_the_smallest_that_do() {
    for promise in [CHANCE_MIN, 1e-9, 5.6e-7, 1e-5, 1e-3, 0.1, CHANCE_MAX] {
        let size = Size::new(promise).unwrap();
        let held = chance(size.probes, size.bits_per_key) / promise;
        assert!((0.6..1.0).contains(&held), "{promise:e}: {held} with {size:?}");
        for probes in 1..=PROBES_MAX {
            assert!(bits_for(probes, promise) * MARGIN * 1.002 >= size.bits_per_key, "{promise:e}: {probes}");
        }
        // No filter holds it with fewer bits than these.
        let classic = -promise.ln() / std::f64::consts::LN_2.powi(2);
        println!("{promise:e}: {:.2} bits, classic {classic:.2}, {} probes", size.bits_per_key, size.probes);
        assert!(size.bits_per_key > classic);
    }
    for promise in [0.0, 1e-13, 0.6, f64::NAN, -1.0] {
        assert!(Size::new(promise).is_err());
    }
}

#[test]
fn keys_are_found_and_others_as_rarely_as_promised() {
    let seed = 0x5eed_0006;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for (promise, keys, trials) in [
        (0.1, 3_000, 1_000_000),
        (1e-2, 20_000, 2_000_000),
        (1e-3, 200_000, 4_000_000),
        (1e-5, 500_000, 20_000_000),
    ] {
        let mut filter = Bloom::new(Size::new(promise).unwrap(), keys).unwrap();
        let start = random.next() >> 1;
        (0..keys).for_each(|at| filter.insert(mix(start + at)));
        assert!((0..keys).all(|at| filter.contains(mix(start + at))));
        let wrong = (0..trials).filter(|at| filter.contains(mix(start + keys + at))).count() as f64;
        let promised = promise * trials as f64;
        println!("{promise:e}: {wrong} of {promised} promised");
        assert!(wrong < promised + 4.0 * promised.sqrt(), "{promise:e}: {wrong}");
        assert!(wrong > 0.6 * promised - 4.0 * promised.sqrt(), "{promise:e}: {wrong}, bits are wasted");
    }
}

#[test]
fn it_is_a_set_with_some_more() {
    let seed = 0x5eed_0007;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for keys in [1, 2, 50, 700] {
        let mut filter = Bloom::new(Size::new(1e-6).unwrap(), keys).unwrap();
        let mut oracle = HashSet::new();
        for _ in 0..keys {
            // From the ends of the range, too.
            let key = [random.next(), 0, u64::MAX, random.next()][random.below(4)];
            assert_eq!(filter.contains(key), oracle.contains(&key), "once in a million");
            filter.insert(key);
            oracle.insert(key);
        }
        assert!(oracle.iter().all(|key| filter.contains(*key)));
        assert_eq!(filter.bytes() as u64, Size::new(1e-6).unwrap().bytes(keys));
    }
    let size = Size::new(1e-6).unwrap();
    assert!(Bloom::new(size, 0).is_err() && Bloom::new(size, KEYS_MAX + 1).is_err());
}

fn encoded(filter: &Bloom) -> Vec<u8> {
    let mut bytes = Encoder::default();
    filter.encode(&mut bytes);
    bytes.finish()
}

#[test]
fn damaged_bytes_are_errors_or_filters() {
    let mut filter = Bloom::new(Size::new(1e-4).unwrap(), 500).unwrap();
    (0..500).for_each(|at| filter.insert(mix(at)));
    crate::dedup::damage::check(0x5eed_0008, &encoded(&filter), |bytes| {
        let mut bytes = Decoder::new(bytes);
        let filter = Bloom::decode(&mut bytes).ok().filter(|_| bytes.left() == 0)?;
        // It answers whatever the bits are.
        (0..50).for_each(|at| assert!(filter.contains(mix(at)) || !filter.contains(mix(at))));
        Some(encoded(&filter))
    });
    // No room is made for blocks that are not there.
    let mut huge = encoded(&filter);
    huge[2..10].fill(u8::MAX);
    assert!(Bloom::decode(&mut Decoder::new(&huge)).is_err());
}

/// These are on disk: they never change.
#[test]
fn golden_values() {
    let mut filter = Bloom::new(Size { probes: 3, bits_per_key: 32.0 }, 1).unwrap();
    filter.insert(1);
    let bytes = encoded(&filter);
    let set: Vec<usize> =
        (0..8 * (bytes.len() - 10)).filter(|bit| bytes[10 + bit / 8] >> (bit % 8) & 1 == 1).collect();
    assert_eq!(bytes[..10], [1, 3, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(set, [2456, 3148, 3543]);
}

/// The measured rate over several filters, against the formula.
#[test]
fn rates_are_those_of_the_formula() {
    let promise = 1e-4;
    let size = Size::new(promise).unwrap();
    let formula = chance(size.probes, size.bits_per_key);
    let (keys, trials, mut ratios) = (200_000, 2_000_000, Vec::new());
    for filter_at in 1..=8_u64 {
        let mut filter = Bloom::new(size, keys).unwrap();
        let start = filter_at << 40;
        (0..keys).for_each(|at| filter.insert(mix(start + at)));
        let wrong = (keys..keys + trials).filter(|at| filter.contains(mix(start + at))).count() as f64;
        ratios.push(wrong / (formula * trials as f64));
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    println!(
        "{:.3} of the promise by formula; measured, of the formula: {mean:.3} {ratios:.3?}",
        formula / promise
    );
    // Of 1,600 mistakes, 160 are four standard errors.
    assert!((0.9..1.1).contains(&mean), "{mean}");
}
