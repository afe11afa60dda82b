//! Passages, with copies of some planted among them.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use spandrel_index::dedup::shingle::stands_alone;

use crate::random::Random;
use crate::{Result, dataset};

/// Shares of the words of a copy that are changed, each as likely.
pub(crate) const RATES: [f64; 8] = [0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2];
/// Passages whose words are put into copies.
const VOCABULARY_PASSAGES: usize = 5_000;

#[derive(Deserialize)]
struct Passage {
    #[serde(default)]
    title: String,
    text: String,
}

/// The first `count` passages, or all.
///
/// # Errors
/// The file cannot be read or has none.
pub fn read(path: &Path, count: Option<usize>) -> Result<Vec<String>> {
    let passages: Vec<Passage> = dataset::json_lines(path)?;
    let passages = passages.into_iter().take(count.unwrap_or(usize::MAX));
    let texts: Vec<String> = passages.map(|passage| format!("{}. {}", passage.title, passage.text)).collect();
    if texts.is_empty() {
        return Err(format!("{} has no passages", path.display()).into());
    }
    Ok(texts)
}

/// The passages and so many copies of some, in a random order.
pub fn with_copies(passages: &[String], copies: usize, seed: u64) -> Vec<String> {
    let mut random = Random(seed);
    let some = (0..VOCABULARY_PASSAGES).map(|_| passages[random.below(passages.len())].as_str());
    let vocabulary = vocabulary(some);
    let mut texts = passages.to_vec();
    for _ in 0..copies {
        let original = &passages[random.below(passages.len())];
        texts.push(changed(original, RATES[random.below(RATES.len())], &vocabulary, &mut random));
    }
    for last in (1..texts.len()).rev() {
        texts.swap(last, random.below(last + 1));
    }
    texts
}

/// The words of passages, each once.
pub(crate) fn vocabulary<'a>(passages: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let words: BTreeSet<&str> = passages.flat_map(str::split_whitespace).collect();
    words.into_iter().collect()
}

/// The text with this share of its words replaced, left out, or followed by another.
pub(crate) fn changed(text: &str, rate: f64, vocabulary: &[&str], random: &mut Random) -> String {
    let mut words = Vec::new();
    for word in text.split_whitespace() {
        let uniform = random.unit();
        let kind = if uniform < rate { random.below(3) } else { 3 };
        let other = match (kind, vocabulary.len()) {
            (0 | 1, 1..) => Some(vocabulary[random.below(vocabulary.len())]),
            _ => None,
        };
        words.extend((kind == 1 || kind == 3).then_some(word));
        words.extend(other);
    }
    words.join(" ")
}

/// The words of a text as the engine reads them, a space between them: what all sides are given.
pub fn words(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    for letter in text.chars() {
        let (alone, inside) = (stands_alone(letter), letter.is_alphanumeric());
        spaced.extend((alone || !inside).then_some(' '));
        spaced.extend(letter.to_lowercase().filter(|_| inside));
        spaced.extend(alone.then_some(' '));
    }
    spaced.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}
