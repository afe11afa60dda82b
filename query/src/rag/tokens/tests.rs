//! Counts against the encoder itself, and inputs that are long or odd.

use super::*;
use crate::rag::random::Random;

fn reference(tokenizer: &Tokenizer, text: &str) -> usize {
    (tokenizer.encoding)().encode_ordinary(text).len()
}

#[test]
fn names() {
    assert_eq!(Tokenizer::named("o200k_base").unwrap().name(), "o200k_base");
    assert_eq!(Tokenizer::named("cl100k_base").unwrap().name(), "cl100k_base");
    let error = Tokenizer::named("gpt2").unwrap_err();
    assert!(error.message().contains("o200k_base, cl100k_base"), "{error}");
    for name in spandrel_storage::schema::TOKENIZERS {
        assert!(Tokenizer::named(name).is_ok(), "{name}");
    }
}

#[test]
fn known_counts() {
    for tokenizer in &KNOWN {
        assert_eq!(tokenizer.count(""), 0);
        assert_eq!(tokenizer.count("hello world"), 2);
        assert_eq!(
            tokenizer.count("\u{1F469}\u{200D}\u{1F4BB}"),
            reference(tokenizer, "\u{1F469}\u{200D}\u{1F4BB}")
        );
    }
}

#[test]
fn special_tokens_are_ordinary_text() {
    for tokenizer in &KNOWN {
        assert!(tokenizer.count("<|endoftext|>") > 1);
    }
}

#[test]
fn no_token_is_longer_than_documented() {
    for tokenizer in &KNOWN {
        let encoding = (tokenizer.encoding)();
        let longest = (0..210_000)
            .filter_map(|token| encoding.decode_bytes(&[token]).ok())
            .map(|bytes| bytes.len())
            .max();
        assert!(longest.unwrap() <= TOKEN_BYTES_MAX, "{}: {longest:?}", tokenizer.name);
    }
}

#[test]
fn pieces_add_up_to_the_whole() {
    let seed = Random::new_seed();
    let mut random = Random::new(seed);
    for tokenizer in &KNOWN {
        for _ in 0..60 {
            let text = random.text(12_000);
            assert_eq!(tokenizer.count(&text), reference(tokenizer, &text), "seed {seed}: {text:?}");
        }
    }
}

#[test]
fn every_cut_separates_words() {
    let seed = Random::new_seed();
    let mut random = Random::new(seed);
    for tokenizer in &KNOWN {
        for _ in 0..400 {
            let text = random.text(60);
            let whole = reference(tokenizer, &text);
            let mut before = None;
            for (at, after) in text.char_indices() {
                if before.is_some_and(|before| is_cut(before, after)) {
                    let parts = reference(tokenizer, &text[..at]) + reference(tokenizer, &text[at..]);
                    assert_eq!(parts, whole, "seed {seed}: {:?} | {:?}", &text[..at], &text[at..]);
                }
                before = Some(after);
            }
            let cut = last_cut(&text);
            let parts = reference(tokenizer, &text[..cut]) + reference(tokenizer, &text[cut..]);
            assert_eq!(parts, whole, "seed {seed}: {:?} | {:?}", &text[..cut], &text[cut..]);
        }
    }
}

#[test]
fn counting_stops_soon_after_the_limit() {
    let seed = Random::new_seed();
    let mut random = Random::new(seed);
    for tokenizer in &KNOWN {
        for _ in 0..40 {
            let text = random.text(20_000);
            let count = tokenizer.count(&text);
            for limit in [0, 1, 10, 100, 1000, count.saturating_sub(1), count, count + 1] {
                let found = tokenizer.count_up_to(&text, limit);
                if count <= limit {
                    assert_eq!(found, count, "seed {seed} limit {limit}");
                } else {
                    assert!(found > limit && found <= count, "seed {seed} limit {limit}: {found} of {count}");
                }
            }
        }
    }
}

/// The encoder alone panics on a million spaces, and takes long for other giant words.
#[test]
fn giant_runs() {
    let spaces = " ".repeat(1_100_000);
    assert!(KNOWN[0].count(&spaces) >= spaces.len() / TOKEN_BYTES_MAX);
    for tokenizer in &KNOWN {
        for letter in ["a", "A", "\n", "\t", "1", "!", "\u{4E2D}", "\u{1F600}", "e\u{301}", "\r\n"] {
            let text = letter.repeat(RUN_BYTES_MAX * 3 / 2 / letter.len());
            let (count, whole) = (tokenizer.count(&text), reference(tokenizer, &text));
            assert!(count.abs_diff(whole) <= 4, "{} {letter:?}: {count} and {whole}", tokenizer.name);
        }
    }
}

#[test]
fn ids_are_those_that_are_counted() {
    for known in &KNOWN {
        assert_eq!(known.ids(""), Vec::<u32>::new());
        for text in ["tide and bell", &"a long text of words \n\n".repeat(500)] {
            let ids = known.ids(text);
            assert_eq!(ids.len(), known.count(text));
            assert_eq!(ids, (known.encoding)().encode_ordinary(text));
        }
    }
}
