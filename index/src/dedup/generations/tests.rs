//! Growth against a plain set, promises against what happens, near copies of known likeness from text to
//! decision, and damaged bytes.

use std::collections::HashSet;

use super::*;
use crate::dedup::bands::Bands;
use crate::dedup::hash::mix;
use crate::dedup::minhash::MinHash;
use crate::dedup::shingle::Shingler;
use crate::random::Random;

fn keys(random: &mut Random, bands: usize) -> Vec<u64> {
    (0..bands).map(|_| mix(random.next())).collect()
}

#[test]
fn it_decides_as_a_set_does() {
    let seed = 0x5eed_0010;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for (bands, room, docs) in [(1, 1, 200), (9, 16, 1_000), (25, 1_000, 900), (256, 3, 60)] {
        let mut seen = Generations::new(bands, PROMISE_MIN, room).unwrap();
        let mut oracle = HashSet::new();
        let mut kept = Vec::new();
        for _ in 0..docs {
            let mut keys = keys(&mut random, bands);
            if !kept.is_empty() && random.below(3) == 0 {
                let other: &Vec<u64> = &kept[random.below(kept.len())];
                let band = random.below(bands);
                keys[band] = other[band];
            }
            let expected = keys.iter().any(|key| oracle.contains(key));
            assert_eq!(seen.seen(&keys), expected);
            assert_eq!(seen.insert_if_absent(&keys).unwrap(), expected);
            assert!(seen.seen(&keys), "now it was");
            if !expected {
                oracle.extend(keys.iter().copied());
                kept.push(keys);
            }
        }
        assert_eq!(seen.docs(), kept.len() as u64);
        assert_eq!(Generations::decode(&seen.encode()).unwrap(), seen);
    }
}

#[test]
fn promises_hold_as_it_grows() {
    let seed = 0x5eed_0011;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for (bands, promise, trials) in [(9, 0.01, 50_000), (25, 1e-3, 100_000), (9, 1e-4, 400_000)] {
        let mut seen = Generations::new(bands, promise, 1_000).unwrap();
        // All generations are full, which is when mistakes are the most.
        for _ in 0..1_000 * 31 {
            seen.insert(&keys(&mut random, bands)).unwrap();
        }
        assert_eq!(seen.generations.len(), 5);
        let wrong = (0..trials).filter(|_| seen.seen(&keys(&mut random, bands))).count() as f64;
        let promised = promise * f64::from(trials);
        println!("{bands} bands: {wrong} of {promised} promised, {} bytes a document", seen.bytes() / 31_000);
        assert!(wrong < promised + 4.0 * promised.sqrt());
        assert!(wrong > 0.4 * promised, "{wrong}: bits are wasted");
    }
}

#[test]
fn shares_add_up_to_less_than_the_promise() {
    let seen = Generations::new(25, 1e-5, 1 << 16).unwrap();
    let kept: f64 = (0..GENERATIONS_MAX).map(|g| 25.0 * (-seen.chance(g)).ln_1p()).sum();
    let total = 1.0 - kept.exp();
    assert!((0.96e-5..1e-5).contains(&total), "{total:e}");
}

/// Texts of words drawn from a large vocabulary, with some of them replaced.
fn near_copy(random: &mut Random, words: &[u32], replaced: usize) -> Vec<u32> {
    let mut copy = words.to_vec();
    for at in random.sample(words.len(), replaced) {
        copy[at] = random.below(1 << 30) as u32;
    }
    copy
}

fn shingles(words: &[u32]) -> Vec<u64> {
    let text: Vec<String> = words.iter().map(|word| format!("w{word}")).collect();
    let mut out = Vec::new();
    Shingler::default().shingles(&text.join(" "), &mut out);
    out
}

fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (a, b): (HashSet<_>, HashSet<_>) = (a.iter().collect(), b.iter().collect());
    let both = a.intersection(&b).count();
    both as f64 / (a.len() + b.len() - both) as f64
}

/// Near copies with a Jaccard similarity of 0.5 to 1 are found as often as the bands say.
#[test]
fn near_copies_are_found_as_often_as_theory_says() {
    let seed = 0x5eed_0012;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let hash = MinHash::new(128).unwrap();
    let mut signature = vec![0; 128];
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for threshold in [0.5, 0.8] {
        let bands = Bands::for_threshold(threshold, 128).unwrap();
        // One for all pairs: their words are not those of others.
        let mut seen = Generations::new(bands.bands(), 1e-5, 5_000).unwrap();
        for replaced in [0, 2, 4, 6, 8, 12, 16] {
            let (mut found, mut expected, mut variance, mut likeness) = (0.0, 0.0, 0.0, 0.0);
            let pairs = 1_500;
            for _ in 0..pairs {
                let words: Vec<u32> = (0..200).map(|_| random.below(1 << 30) as u32).collect();
                let [a, b] = [shingles(&words), shingles(&near_copy(&mut random, &words, replaced))];
                hash.sign(&a, &mut signature);
                bands.keys(&signature, &mut first);
                hash.sign(&b, &mut signature);
                bands.keys(&signature, &mut second);
                seen.insert(&first).unwrap();
                found += f64::from(u8::from(seen.seen(&second)));
                let jaccard = jaccard(&a, &b);
                let chance = bands.chance(jaccard);
                (expected, variance) = (expected + chance, variance + chance * (1.0 - chance));
                likeness += jaccard / f64::from(pairs);
            }
            println!("{threshold}: J {likeness:.3}, {found} of {pairs}, expected {expected:.1}");
            assert!(f64::abs(found - expected) <= 4.0 * f64::sqrt(variance) + 1.0);
        }
    }
}

#[test]
fn damaged_bytes_are_errors_or_filters() {
    let mut random = Random(4);
    let mut seen = Generations::new(3, 1e-3, 50).unwrap();
    let docs: Vec<Vec<u64>> = (0..120).map(|_| keys(&mut random, 3)).collect();
    for keys in &docs {
        seen.insert(keys).unwrap();
    }
    crate::dedup::damage::check(0x5eed_0013, &seen.encode(), |bytes| {
        let seen = Generations::decode(bytes).ok()?;
        if seen.bands() == 3 {
            let mut more = seen.clone();
            docs.iter().for_each(|keys| assert!(more.insert_if_absent(keys).is_ok()));
        }
        Some(seen.encode())
    });
}

#[test]
fn ranges_are_checked() {
    for (bands, promise, room) in [
        (0, 1e-5, 1),
        (257, 1e-5, 1),
        (1, 0.0, 1),
        (1, 0.2, 1),
        (1, f64::NAN, 1),
        (1, 1e-5, 0),
        (1, 1e-5, 1 << 33),
    ] {
        assert!(Generations::new(bands, promise, room).is_err(), "{bands} {promise} {room}");
    }
    let empty = Generations::new(9, PROMISE_DEFAULT, 1).unwrap();
    assert!(!empty.seen(&[0; 9]) && empty.bytes() == 0);
    assert_eq!(Generations::decode(&empty.encode()).unwrap(), empty);
}
