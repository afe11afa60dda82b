//! The words of a text as numbers: what texts of one pool are compared by.
//!
//! A word is a run of letters and digits, lower-cased, a plural `s` taken off words of four characters and
//! more, and hashed to 64 bits. No dictionary and no language: what matters here is which texts of a pool
//! share a word, and how rare it is among them; what is frequent there weighs little by itself. Some 100 MB
//! of text a second; nothing is kept but the hashes.

/// The words of `text`, in its order.
pub fn terms(text: &str) -> Vec<u64> {
    let mut terms = Vec::with_capacity(text.len() / 6);
    each_word(text, |hash, _| terms.push(hash));
    terms
}

/// Calls `found` with the hash of each word and the byte after its last one.
pub fn each_word(text: &str, mut found: impl FnMut(u64, usize)) {
    let mut word = Word::default();
    for (at, char) in text.char_indices() {
        if char.is_ascii() {
            if char.is_ascii_alphanumeric() {
                word.add(char.to_ascii_lowercase() as u32);
            } else if let Some(hash) = word.take() {
                found(hash, at);
            }
        } else if char.is_alphanumeric() {
            char.to_lowercase().for_each(|lower| word.add(lower as u32));
        } else if let Some(hash) = word.take() {
            found(hash, at);
        }
    }
    if let Some(hash) = word.take() {
        found(hash, text.len());
    }
}

/// A word that grows.
#[derive(Default)]
struct Word {
    hash: u64,
    /// Without the last character, for when that turns out to be a plural.
    before: u64,
    last: u32,
    chars: usize,
}

impl Word {
    fn add(&mut self, char: u32) {
        self.before = self.hash;
        self.last = char;
        self.chars += 1;
        self.hash = (self.hash.rotate_left(5) ^ u64::from(char)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn take(&mut self) -> Option<u64> {
        let word = std::mem::take(self);
        let plural = word.chars >= 4 && word.last == u32::from('s');
        (word.chars > 0).then(|| crate::random::mix(if plural { word.before } else { word.hash }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_without_case_and_plural() {
        assert_eq!(terms("The  cats-sat: ÉTÉ 3.14"), terms("the cat, sats été 3 14"));
        assert_ne!(terms("bus"), terms("bu"));
        assert_ne!(terms("cat"), terms("act"));
        assert!(terms(" .,!\n").is_empty());
        assert_eq!(terms("文書 データ").len(), 2);
        let mut ends = Vec::new();
        each_word("ab é", |_, end| ends.push(end));
        assert_eq!(ends, [2, 5]);
    }
}
