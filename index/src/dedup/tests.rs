//! The front: what is new, exact and near; texts without words; state that is written, read and damaged.

use super::*;
use crate::random::Random;

const SEED: u64 = 0x5eed_0020;

fn text(random: &mut Random, words: usize) -> Vec<String> {
    (0..words).map(|_| format!("w{:x}", random.below(1 << 20))).collect()
}

fn seen(dedup: &mut Dedup, text: &str) -> Seen {
    let signature = dedup.signer().sign(text);
    dedup.insert_if_absent(&signature).unwrap()
}

#[test]
fn copies_are_told_from_what_is_new() {
    println!("seed {SEED:#x}");
    let mut random = Random(SEED);
    let mut dedup = Dedup::new(Spec { room: 64, ..Spec::default() }).unwrap();
    let texts: Vec<Vec<String>> = (0..500).map(|_| text(&mut random, 120)).collect();
    for words in &texts {
        assert_eq!(seen(&mut dedup, &words.join(" ")), Seen::New);
    }
    assert_eq!(dedup.docs(), 500);
    let mut near = 0;
    for words in &texts {
        assert_eq!(seen(&mut dedup, &words.join(" ")), Seen::Exact, "in whatever generation it is");
        assert_eq!(seen(&mut dedup, &words.join(", ").to_uppercase()), Seen::Exact);
        // One word of 120 is another: 111 of 121 shingles are shared, J is .92.
        let mut changed = words.clone();
        changed[60] = "another".into();
        let first = seen(&mut dedup, &changed.join(" "));
        near += usize::from(first == Seen::Near);
        let again = seen(&mut dedup, &changed.join(" "));
        let expected = if first == Seen::Near { Seen::Near } else { Seen::Exact };
        assert_eq!((first == Seen::Exact, again), (false, expected), "what is not kept has no exact copy");
    }
    let chance = dedup.signer().bands().chance(111.0 / 121.0);
    let (mean, spread) = (500.0 * chance, (500.0 * chance * (1.0 - chance)).sqrt());
    assert!((near as f64 - mean).abs() < 4.0 * spread + 1.0, "{near} of 500, expected {mean}");
    assert_eq!(dedup.docs(), 500 + (500 - near as u64), "changed ones that were new");
}

#[test]
fn scopes_share_nothing() {
    let mut dedup = Dedup::new(Spec { room: 64, ..Spec::default() }).unwrap();
    let signature = dedup.signer().sign("some words that are the same in every scope");
    for scope in [0, 1, 2, u64::MAX] {
        let scoped = signature.clone().within(scope);
        assert_eq!(dedup.insert_if_absent(&scoped).unwrap(), Seen::New);
        assert_eq!(dedup.insert_if_absent(&scoped).unwrap(), Seen::Exact);
    }
}

#[test]
fn texts_without_words_are_like_no_other() {
    let mut dedup = Dedup::new(Spec::default()).unwrap();
    for text in ["", " ", "...", "..."] {
        assert_eq!(seen(&mut dedup, text), Seen::New);
    }
    assert_eq!((dedup.docs(), dedup.bytes()), (0, 0));
    let signature = dedup.signer().sign("!");
    assert_eq!((content_hash("!"), signature.keys()), (0, &[][..]));
    assert_eq!(seen(&mut dedup, "one"), Seen::New);
    assert_eq!(seen(&mut dedup, "One!"), Seen::Exact);
    assert_eq!(seen(&mut dedup, "two"), Seen::New);
}

#[test]
fn state_is_read_as_it_was_written() {
    let mut random = Random(SEED ^ 1);
    let spec = Spec { threshold: 0.5, permutations: 64, words: 3, promise: 1e-3, room: 10 };
    let mut dedup = Dedup::new(spec).unwrap();
    let empty = Dedup::decode(&dedup.encode()).unwrap();
    assert_eq!((*empty.spec(), empty.docs()), (spec, 0));
    let texts: Vec<String> = (0..25).map(|_| text(&mut random, 30).join(" ")).collect();
    texts.iter().for_each(|text| assert_eq!(seen(&mut dedup, text), Seen::New));
    let mut read = Dedup::decode(&dedup.encode()).unwrap();
    assert_eq!((*read.spec(), read.docs(), read.bytes()), (spec, 25, dedup.bytes()));
    assert_eq!(read.signer().bands(), dedup.signer().bands());
    texts.iter().for_each(|text| assert_eq!(seen(&mut read, text), Seen::Exact));
    assert_eq!(read.encode(), dedup.encode());
}

#[test]
fn damage_is_an_error() {
    let mut dedup = Dedup::new(Spec { room: 3, ..Spec::default() }).unwrap();
    for text in ["one two three four five six", "seven", "eight nine", "ten"] {
        seen(&mut dedup, text);
    }
    let bytes = dedup.encode();
    damage::check(SEED ^ 2, &bytes, |bytes| Some(Dedup::decode(bytes).ok()?.encode()));
    // Filters of another number of bands.
    let other = Generations::new(4, PROMISE_DEFAULT, 1).unwrap().encode();
    assert!(Dedup::decode(&[&bytes[..16], &other].concat()).is_err());
}

#[test]
fn ranges_are_checked_and_all_that_is_in_them_works() {
    let invalid = |spec| assert!(matches!(Dedup::new(spec), Err(Error::Invalid(_))), "{spec:?}");
    for threshold in [0.0, 0.09, 0.991, 1.0, f64::NAN] {
        invalid(Spec { threshold, ..Spec::default() });
    }
    invalid(Spec { permutations: 100, ..Spec::default() });
    invalid(Spec { words: 0, ..Spec::default() });
    invalid(Spec { promise: 0.5, ..Spec::default() });
    invalid(Spec { room: 0, ..Spec::default() });
    for permutations in [16, 128, 256] {
        for threshold in [THRESHOLD_MIN, 0.5, THRESHOLD_MAX] {
            let spec = Spec { threshold, permutations, room: 1, ..Spec::default() };
            let mut dedup = Dedup::new(spec).unwrap();
            assert_eq!(seen(&mut dedup, "some words of a text"), Seen::New);
            assert_eq!(seen(&mut dedup, "some words of a text"), Seen::Exact);
        }
    }
}

/// These are on disk: they never change.
#[test]
fn golden_values() {
    let signature = Dedup::new(Spec::default()).unwrap().signer().sign("The quick brown fox jumps");
    let content = content_hash("the quick brown fox jumps");
    assert_eq!(signature.keys.len(), 10);
    assert_eq!(signature.keys[9], mix(content as u64 ^ 0x9758_35de_1c97_56cf));
}
