//! Which runs of words a text has, as numbers: its shingles (Broder, "On the resemblance and containment of
//! documents", 1997), and which texts are the same but for case, marks and spaces.
//!
//! Words are runs of letters and digits, in lower case. A letter of a script that is written without spaces
//! is a word of its own: a Chinese clause would be one word otherwise, and an edit would change all of it. A
//! shingle is so many words in a row; a text of fewer words has one, which is all of it. Texts are not
//! brought to one of Unicode's normal forms: where an accent is a character of its own, it ends a word.
//!
//! Each word is hashed once, 8 bytes a step, and a shingle's hash is the polynomial of its words' hashes,
//! which rolls: one multiplication takes a word in, one takes the last out. Cost: about 1.5 ns a byte of
//! ASCII, or 0.7 ns for [`content_hash`], and nothing is allocated but room in the caller's vector (AMD EPYC,
//! Zen 5). Hashes are on disk: they are the same on every machine, and from version to version but for
//! letters that Unicode did not have before. They keep no secret: who wants two texts to collide can make
//! them.

use super::hash::{K, fold, mix};
use crate::error::{Error, Result};

/// Most words of a shingle.
pub const SHINGLE_WORDS_MAX: usize = 32;
/// Words of a shingle when nothing else is asked for: 5 are rarely the same in unrelated texts.
pub const SHINGLE_WORDS_DEFAULT: usize = 5;

/// What a word's hash, or a text's, begins with.
const WORD_START: u64 = K[0];
const TEXT_START: [u64; 2] = [K[1], K[2]];
/// What the polynomial is of.
const FACTOR: u64 = K[3];

/// What a byte is: 0 between words, 255 of a character that is not ASCII, else itself in lower case.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        if !byte.is_ascii() {
            classes[at] = u8::MAX;
        } else if byte.is_ascii_alphanumeric() {
            classes[at] = byte.to_ascii_lowercase();
        }
        at += 1;
    }
    classes
};

/// Whether a script has no spaces between words: Thai, Lao, Burmese, Khmer, kana and Han.
pub fn stands_alone(letter: char) -> bool {
    matches!(letter as u32,
        0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff | 0x31f0..=0x31ff
        | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x2_0000..=0x3_ffff)
}

/// What is told the words of a text.
trait Sink {
    /// The next byte of a word, in UTF-8 and lower case.
    fn byte(&mut self, byte: u8);
    /// The word that had bytes is over.
    fn end(&mut self);
}

/// Tells the words of a text.
#[inline(always)]
fn read(text: &str, sink: &mut impl Sink) {
    let (bytes, mut at, mut inside) = (text.as_bytes(), 0, false);
    while let Some(byte) = bytes.get(at) {
        match CLASSES[usize::from(*byte)] {
            0 => {
                if inside {
                    sink.end();
                }
                (at, inside) = (at + 1, false);
            }
            u8::MAX => {
                // `at` moves by whole characters, so that there is one.
                let Some(letter) = text.get(at..).and_then(|rest| rest.chars().next()) else { break };
                inside = read_letter(letter, inside, sink);
                at += letter.len_utf8();
            }
            lower => {
                sink.byte(lower);
                (at, inside) = (at + 1, true);
            }
        }
    }
    if inside {
        sink.end();
    }
}

/// Tells a character that is not ASCII; returns whether a word goes on after it.
fn read_letter(letter: char, inside: bool, sink: &mut impl Sink) -> bool {
    let alone = stands_alone(letter);
    let is_letter = letter.is_alphanumeric();
    if inside && (alone || !is_letter) {
        sink.end();
    }
    if is_letter {
        let mut utf8 = [0; 4];
        for lower in letter.to_lowercase() {
            lower.encode_utf8(&mut utf8).bytes().for_each(|byte| sink.byte(byte));
        }
        if alone {
            sink.end();
        }
    }
    is_letter && !alone
}

/// Bytes, gathered to numbers of 8.
#[derive(Default)]
struct Gather {
    chunk: u64,
    bytes: u64,
}

impl Gather {
    /// Takes a byte; the number, when it is full.
    #[inline(always)]
    fn byte(&mut self, byte: u8) -> Option<u64> {
        self.chunk |= u64::from(byte) << (8 * (self.bytes % 8));
        self.bytes += 1;
        (self.bytes.is_multiple_of(8)).then(|| std::mem::take(&mut self.chunk))
    }
}

/// Makes shingles of words.
struct Roll<'a> {
    /// Words of a shingle, and the factor of the word that goes.
    words: usize,
    last_factor: u64,
    gather: Gather,
    word: u64,
    /// The hashes of the last words, the latest at `count - 1`, around the end.
    recent: [u64; SHINGLE_WORDS_MAX],
    count: usize,
    sum: u64,
    out: &'a mut Vec<u64>,
}

impl Sink for Roll<'_> {
    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        if let Some(chunk) = self.gather.byte(byte) {
            self.word = fold(self.word ^ chunk, FACTOR);
        }
    }

    #[inline(always)]
    fn end(&mut self) {
        let Gather { chunk, bytes } = std::mem::take(&mut self.gather);
        let word = mix(fold(self.word ^ chunk, K[1] ^ bytes));
        self.word = WORD_START;
        let place = self.count % self.words;
        // Nothing, until a word goes.
        let gone = std::mem::replace(&mut self.recent[place], word);
        self.sum = self.sum.wrapping_sub(gone.wrapping_mul(self.last_factor));
        self.sum = self.sum.wrapping_mul(FACTOR).wrapping_add(word);
        self.count += 1;
        if self.count >= self.words {
            self.out.push(shingle(self.sum, self.words));
        }
    }
}

/// The hash of so many words with this sum.
fn shingle(sum: u64, words: usize) -> u64 {
    mix(sum ^ (words as u64).wrapping_mul(K[2]))
}

/// Makes shingles of so many words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shingler {
    words: usize,
    last_factor: u64,
}

impl Default for Shingler {
    fn default() -> Self {
        Self::with(SHINGLE_WORDS_DEFAULT)
    }
}

impl Shingler {
    /// Shingles of 1 to [`SHINGLE_WORDS_MAX`] words.
    ///
    /// # Errors
    /// [`Error::Invalid`] for other numbers.
    pub fn new(words: usize) -> Result<Self> {
        if !(1..=SHINGLE_WORDS_MAX).contains(&words) {
            let what = format!("a shingle has 1 to {SHINGLE_WORDS_MAX} words, not {words}");
            return Err(Error::Invalid(what));
        }
        Ok(Self::with(words))
    }

    fn with(words: usize) -> Self {
        let last_factor = (1..words).fold(1_u64, |power, _| power.wrapping_mul(FACTOR));
        Self { words, last_factor }
    }

    /// Words of a shingle.
    pub fn words(&self) -> usize {
        self.words
    }

    /// The hashes of the shingles of a text, in their order and as often as they are there; none where it has
    /// no words. They replace what `out` held.
    pub fn shingles(&self, text: &str, out: &mut Vec<u64>) {
        out.clear();
        let mut roll = Roll {
            words: self.words,
            last_factor: self.last_factor,
            gather: Gather::default(),
            word: WORD_START,
            recent: [0; SHINGLE_WORDS_MAX],
            count: 0,
            sum: 0,
            out,
        };
        read(text, &mut roll);
        let Roll { count, sum, out, .. } = roll;
        if count > 0 && count < self.words {
            out.push(shingle(sum, count));
        }
    }
}

/// Two hashes of the words of a text, a space between them.
struct Whole {
    gather: Gather,
    states: [u64; 2],
    spaced: bool,
}

impl Whole {
    #[inline(always)]
    fn step(&mut self, byte: u8) {
        if let Some(chunk) = self.gather.byte(byte) {
            self.states = [fold(self.states[0] ^ chunk, K[0]), fold(self.states[1] ^ chunk, K[3])];
        }
    }
}

impl Sink for Whole {
    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        if std::mem::take(&mut self.spaced) {
            self.step(b' ');
        }
        self.step(byte);
    }

    #[inline(always)]
    fn end(&mut self) {
        self.spaced = true;
    }
}

/// One number for all texts that have the same words in the same order, whatever is between them; others
/// share it by accident once in 2^128 pairs. 0 for a text without words.
pub fn content_hash(text: &str) -> u128 {
    let mut whole = Whole { gather: Gather::default(), states: TEXT_START, spaced: false };
    read(text, &mut whole);
    let Whole { gather: Gather { chunk, bytes }, states: [a, b], .. } = whole;
    if bytes == 0 {
        return 0;
    }
    let (a, b) = (fold(a ^ chunk, K[3] ^ bytes), fold(b ^ chunk, K[0] ^ bytes));
    // Each half depends on both.
    u128::from(mix(a ^ b.rotate_left(32))) << 64 | u128::from(mix(b.wrapping_add(a.wrapping_mul(FACTOR))))
}

#[cfg(test)]
mod tests;
