//! Every level against the oracle, estimates against theory, and values that never change.

use super::*;
use crate::dedup::shingle::Shingler;

fn numbers(random: &mut Random, count: usize) -> Vec<u64> {
    (0..count).map(|_| random.next()).collect()
}

fn sign(hash: &MinHash, shingles: &[u64]) -> Vec<u32> {
    let mut signature = vec![7; hash.permutations()];
    hash.sign(shingles, &mut signature);
    signature
}

#[test]
fn every_level_gives_the_oracles_bits() {
    let seed = 0x5eed_0003;
    let levels: Vec<&str> = Kernels::available().iter().map(|kernels| kernels.level()).collect();
    println!("seed {seed:#x}, levels {levels:?}");
    let mut random = Random(seed);
    for permutations in (PERMUTATIONS_MIN..=PERMUTATIONS_MAX).step_by(LANES) {
        let oracle = MinHash::with_kernels(permutations, Kernels::available()[0]).unwrap();
        for count in [0, 1, 2, 3, 17, 100] {
            let mut shingles = numbers(&mut random, count);
            // The ends of the range, too.
            shingles.extend([0, u64::MAX].iter().take(count % 3));
            let expected = sign(&oracle, &shingles);
            for kernels in Kernels::available() {
                let hash = MinHash::with_kernels(permutations, kernels).unwrap();
                assert_eq!(sign(&hash, &shingles), expected, "{kernels:?}, {permutations}, {count}");
                let (some, others) = shingles.split_at(random.below(shingles.len() + 1));
                let mut parts = sign(&hash, some);
                hash.add(others, &mut parts);
                assert_eq!(parts, expected, "in two parts: {kernels:?}, {permutations}, {count}");
            }
        }
    }
}

/// Mean and variance over many pairs of sets, against `J` and `J (1 - J) / P`.
#[test]
fn estimates_are_unbiased_and_vary_as_theory_says() {
    let seed = 0x5eed_0004;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for (permutations, shared, alone, pairs) in [
        (128, 7, 3, 8_000),
        (128, 67, 33, 4_000),
        (64, 89, 11, 4_000),
        (256, 95, 5, 4_000),
        (16, 30, 10, 4_000),
    ] {
        let hash = MinHash::new(permutations).unwrap();
        let exact = f64::from(shared) / f64::from(shared + 2 * alone);
        let estimates: Vec<f64> = (0..pairs)
            .map(|_| {
                let all = numbers(&mut random, (shared + 2 * alone) as usize);
                let (a, b) = (&all[..(shared + alone) as usize], &all[alone as usize..]);
                similarity(&sign(&hash, a), &sign(&hash, b))
            })
            .collect();
        let mean = estimates.iter().sum::<f64>() / f64::from(pairs);
        let variance = estimates.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / f64::from(pairs - 1);
        let theory = exact * (1.0 - exact) / permutations as f64;
        let errors = (mean - exact) / (theory / f64::from(pairs)).sqrt();
        let ratio = variance / theory;
        println!("J {exact:.3}, {permutations} lanes: {errors:+.2} standard errors, variance {ratio:.3}");
        assert!(errors.abs() < 4.0, "{mean} is not {exact}");
        assert!((ratio - 1.0).abs() < 5.0 * (2.0 / f64::from(pairs)).sqrt(), "variance {ratio} of theory");
    }
}

#[test]
fn ranges_are_checked() {
    for permutations in [0, 8, 24, 127, 272] {
        assert!(matches!(MinHash::new(permutations), Err(Error::Invalid(_))), "{permutations}");
    }
    let hash = MinHash::new(PERMUTATIONS_DEFAULT).unwrap();
    assert!(sign(&hash, &[]).iter().all(|lane| *lane == u32::MAX));
}

/// These are on disk: they never change.
#[test]
fn golden_values() {
    let text = "The quick brown fox jumps over the lazy dog; Ærøskøbing 東京 2024";
    let mut shingles = Vec::new();
    Shingler::default().shingles(text, &mut shingles);
    let signature = sign(&MinHash::new(128).unwrap(), &shingles);
    assert_eq!(signature[..3], [0x24dc_3d24, 0x008b_be0c, 0x2554_112e], "{:#x?}", &signature[..3]);
    assert_eq!(signature[127], 0x1411_7f8e);
    assert_eq!(sign(&MinHash::new(16).unwrap(), &shingles), signature[..16]);
}
