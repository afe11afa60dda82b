//! How many tokens a text has, by the tokenizer a schema names.
//!
//! Counts are those of tiktoken's byte-pair encodings, whose vocabularies are part of the program: nothing is
//! downloaded. A vocabulary is loaded on the first count (some hundred milliseconds, tens of MB) and then
//! shared by all threads. A count takes linear time for ordinary text and `n log n` for one giant word.
//! Special tokens such as `<|endoftext|>` in a text are counted as the ordinary text they are.
//!
//! The encoder first splits a text into words by a regular expression and then merges bytes within each word.
//! Some places always separate two words, whatever stands around them ([`is_cut`]). Counts of the two sides
//! of such a place add up exactly, which is what lets [`Tokenizer::count_up_to`] stop early and a context be
//! counted as it grows. Only a run of more than [`RUN_BYTES_MAX`] bytes without such a place is cut by force,
//! because the expression matcher gives up on very long runs; its count may then be a few tokens off per run
//! length.

use tiktoken_rs::{CoreBPE, cl100k_base_singleton, o200k_base_singleton};

use crate::error::{Error, Result};

/// No token of a known vocabulary is longer than this many bytes.
pub const TOKEN_BYTES_MAX: usize = 128;
/// Longest run without a certain word boundary that is encoded in one piece.
pub const RUN_BYTES_MAX: usize = 64 << 10;
/// Where a piece ends when a text is counted piece by piece: at the first certain boundary after this many
/// bytes.
const PIECE_BYTES: usize = 2048;

/// Counts tokens by one vocabulary.
pub struct Tokenizer {
    name: &'static str,
    encoding: fn() -> &'static CoreBPE,
}

static KNOWN: [Tokenizer; 2] = [
    Tokenizer { name: "o200k_base", encoding: o200k_base_singleton },
    Tokenizer { name: "cl100k_base", encoding: cl100k_base_singleton },
];

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// The tokenizer called `name`: `o200k_base` or `cl100k_base`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for any other name.
    pub fn named(name: &str) -> Result<&'static Tokenizer> {
        KNOWN.iter().find(|known| known.name == name).ok_or_else(|| {
            let names: Vec<_> = KNOWN.iter().map(|known| known.name).collect();
            Error::invalid(format!("unknown tokenizer '{name}'; known: {}", names.join(", ")))
        })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Tokens of `text`; 0 for the empty text.
    pub fn count(&self, text: &str) -> usize {
        self.count_up_to(text, usize::MAX)
    }

    /// Tokens of `text` where they are at most `limit`; otherwise some number above `limit` and at most the
    /// count. Does not encode much more text than `limit` tokens take.
    pub fn count_up_to(&self, text: &str, limit: usize) -> usize {
        let at_least = text.len().div_ceil(TOKEN_BYTES_MAX);
        if at_least > limit {
            return at_least;
        }
        let encoding = (self.encoding)();
        let mut rest = text;
        let mut tokens = 0;
        while !rest.is_empty() && tokens <= limit {
            let (piece, after) = rest.split_at(piece_end(rest));
            tokens += encoding.encode_ordinary(piece).len();
            rest = after;
        }
        tokens
    }
}

impl Tokenizer {
    /// Ids of the tokens of `text`: those that [`count`](Self::count) counts.
    pub fn ids(&self, text: &str) -> Vec<u32> {
        let encoding = (self.encoding)();
        let (mut rest, mut ids) = (text, Vec::new());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_end(rest));
            ids.extend(encoding.encode_ordinary(piece));
            rest = after;
        }
        ids
    }
}

/// Whether a word always ends between these two neighbours, in every known vocabulary: before a space or tab
/// that follows anything but white space, and after a line break unless white space or `/` follows.
///
/// In the words' expressions white space other than line breaks occurs only as the first character of a word
/// or in a run of white space, and a line break only as the last of a word, with `/` after it in one of them.
pub fn is_cut(before: char, after: char) -> bool {
    let breaks_line = |c| c == '\n' || c == '\r';
    if after.is_whitespace() {
        !before.is_whitespace() && !breaks_line(after)
    } else {
        breaks_line(before) && after != '/'
    }
}

/// The last place in `text`, in bytes, where a word ends for certain; 0 where there is none inside.
pub fn last_cut(text: &str) -> usize {
    let mut chars = text.char_indices().rev();
    let Some((mut at, mut after)) = chars.next() else { return 0 };
    for (before_at, before) in chars {
        if is_cut(before, after) {
            return at;
        }
        (at, after) = (before_at, before);
    }
    0
}

/// Where the first piece of `text` ends: at a certain boundary, else at [`RUN_BYTES_MAX`], else at the end.
fn piece_end(text: &str) -> usize {
    if text.len() <= PIECE_BYTES {
        return text.len();
    }
    let start = char_floor(text, PIECE_BYTES);
    let stop = char_floor(text, RUN_BYTES_MAX);
    let mut before = ' ';
    for (at, after) in text[start..stop].char_indices() {
        if at > 0 && is_cut(before, after) {
            return start + at;
        }
        before = after;
    }
    stop
}

/// The last place at or before byte `at` where a character of `text` starts or the text ends.
pub(crate) fn char_floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests;
