//! Shingles against a slow oracle that makes words and n-grams as strings first.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::random::Random;

fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in text.chars() {
        let alone = stands_alone(letter);
        if (alone || !letter.is_alphanumeric()) && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if letter.is_alphanumeric() {
            words.last_mut().expect("never empty").extend(letter.to_lowercase());
            if alone {
                words.push(String::new());
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A word's hash, written out.
fn word_hash(word: &str) -> u64 {
    let (chunks, rest) = word.as_bytes().as_chunks::<8>();
    let state =
        chunks.iter().fold(WORD_START, |state, chunk| fold(state ^ u64::from_le_bytes(*chunk), FACTOR));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(fold(state ^ u64::from_le_bytes(last), K[1] ^ word.len() as u64))
}

fn slow(text: &str, n: usize) -> Vec<u64> {
    let hashes: Vec<u64> = words(text).iter().map(|word| word_hash(word)).collect();
    let sum = |words: &[u64]| words.iter().fold(0_u64, |sum, h| sum.wrapping_mul(FACTOR).wrapping_add(*h));
    match hashes.len() {
        0 => Vec::new(),
        few if few < n => vec![shingle(sum(&hashes), few)],
        _ => hashes.windows(n).map(|words| shingle(sum(words), n)).collect(),
    }
}

fn shingles(text: &str, n: usize) -> Vec<u64> {
    let mut out = vec![1, 2, 3];
    Shingler::new(n).unwrap().shingles(text, &mut out);
    out
}

fn text(random: &mut Random, letters: usize) -> String {
    const LETTERS: [char; 24] = [
        'a', 'B', 'c', 'Z', '0', '9', ' ', ' ', '\n', '-', '.', '_', 'É', 'ß', 'Σ', 'İ', '\u{301}', '中',
        '文', 'か', 'ก', '🦀', '𝒜', '\0',
    ];
    (0..letters).map(|_| LETTERS[random.below(LETTERS.len())]).collect()
}

#[test]
fn shingles_are_those_of_the_oracle() {
    let seed = 0x5eed_0001;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for round in 0..4_000 {
        let length = random.below(120);
        let text = text(&mut random, length);
        let n = 1 + random.below(SHINGLE_WORDS_MAX);
        assert_eq!(shingles(&text, n), slow(&text, n), "round {round}: {text:?} by {n}");
    }
}

#[test]
fn only_words_count() {
    for (a, b) in [("The  cat, sat", "the CAT sat"), ("Straße 5!", "«straße» 5"), ("中文 字", "中 文字")]
    {
        assert_eq!(shingles(a, 2), shingles(b, 2));
        assert_eq!(content_hash(a), content_hash(b));
    }
    for (a, b) in [("the cat sat", "the sat cat"), ("ab c", "a bc"), ("a", "a a"), ("a b", "ab"), ("x", "")] {
        assert_ne!(shingles(a, 2), shingles(b, 2));
        assert_ne!(content_hash(a), content_hash(b));
    }
    for n in [1, 5, SHINGLE_WORDS_MAX] {
        assert!(shingles("", n).is_empty() && shingles(" .-\u{301}🦀", n).is_empty());
        assert_eq!(shingles("one", n).len(), 1);
    }
    assert_eq!(content_hash("  "), 0);
    assert!(Shingler::new(0).is_err() && Shingler::new(SHINGLE_WORDS_MAX + 1).is_err());
    assert_eq!(Shingler::new(SHINGLE_WORDS_DEFAULT).unwrap(), Shingler::default());
}

#[test]
fn content_hashes_are_equal_only_for_equal_words() {
    let seed = 0x5eed_0002;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let mut seen: HashMap<u128, Vec<String>> = HashMap::new();
    for _ in 0..20_000 {
        let length = random.below(12);
        let text = text(&mut random, length);
        let words = words(&text);
        assert_eq!(seen.entry(content_hash(&text)).or_insert_with(|| words.clone()), &words);
    }
}

#[test]
fn shingles_do_not_collide_and_their_high_bits_are_even() {
    let mut hashes = HashSet::new();
    let mut counts = [0_u32; 64];
    let count = 200_000;
    for number in 0..count {
        let hash = shingles(&format!("passage {number} of many"), 4)[0];
        hashes.insert(hash);
        counts[(hash >> 58) as usize] += 1;
    }
    assert_eq!(hashes.len(), count);
    let expected = count as f64 / 64.0;
    let chi: f64 = counts.iter().map(|seen| (f64::from(*seen) - expected).powi(2) / expected).sum();
    // 63 degrees of freedom: beyond 120 once in 100,000 times.
    assert!(chi < 120.0, "chi squared {chi}");
}

/// These are on disk: they never change.
#[test]
fn golden_values() {
    let text = "The quick brown fox jumps over the lazy dog; Ærøskøbing 東京 2024";
    let golden =
        [(1, 13, 0xa5c1_7530_b8ac_db99), (5, 9, 0xd33e_51a5_9573_9951), (32, 1, 0xd31d_5a9d_f877_4a15)];
    for (n, count, last) in golden {
        let found = shingles(text, n);
        assert_eq!(
            (found.len(), *found.last().unwrap()),
            (count, last),
            "{n}: {:#x}",
            found[found.len() - 1]
        );
    }
    assert_eq!(content_hash(text), 0x1c02_a51b_c749_6eb4_1746_00c4_fcd4_3ae1, "{:#x}", content_hash(text));
    assert_eq!(content_hash("a"), 0x41a6_3924_0532_d366_efdf_e49e_0012_221b, "{:#x}", content_hash("a"));
}
