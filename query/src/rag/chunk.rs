//! Splits a document into chunks of at most so many tokens, keeping where each came from.
//!
//! The text-splitter crate finds the boundaries: the largest of paragraphs, lines, sentences, words,
//! graphemes and characters (for markdown: headings, blocks, inline elements first) that fits. Every chunk is
//! exactly the document's bytes in its span, white space at its ends is left out (in markdown a first line
//! keeps its indentation), and nothing else is lost.
//!
//! The splitter looks at all text that is left for every chunk, so a long document is given to it in windows:
//! the last chunk of a window, which the window's end may have cut short, is split again at the start of the
//! next. That makes the time linear in the document, about that of encoding it a few times. A markdown code
//! fence longer than a window is split as prose after the window's end; spans and sizes hold all the same.

use serde::{Deserialize, Serialize};
use spandrel_storage::Chunk;
use text_splitter::{ChunkConfig, ChunkSizer, MarkdownSplitter, TextSplitter};

use crate::error::{Error, Result};
use crate::rag::tokens::{Tokenizer, char_floor};

/// Fewest tokens a chunk may be limited to: one character can take 4 tokens and is never split.
pub const CHUNK_TOKENS_LOW: usize = 8;
/// Most tokens a chunk may be limited to.
pub const CHUNK_TOKENS_HIGH: usize = 32_768;
/// Longest document in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 64 << 20;

/// Bytes of a document given to the splitter at a time, if its chunks are small.
const WINDOW_BYTES: usize = 128 << 10;
/// Least bytes of a window for each token of a chunk, so that a window holds many chunks.
const WINDOW_BYTES_PER_TOKEN: usize = 64;

/// How documents are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChunkOptions {
    /// Most tokens of a chunk: 8 to 32,768. Small enough for the embedding model to read whole.
    pub tokens_max: usize,
    /// Most tokens that a chunk repeats from the end of the one before: at most half of `tokens_max`.
    pub overlap_tokens: usize,
    /// Whether the text is markdown, which is split at headings and blocks first.
    pub markdown: bool,
}

impl Default for ChunkOptions {
    fn default() -> Self {
        Self { tokens_max: 256, overlap_tokens: 0, markdown: false }
    }
}

impl ChunkOptions {
    /// Checks the limits.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) with what to change.
    pub fn check(&self) -> Result<()> {
        if !(CHUNK_TOKENS_LOW..=CHUNK_TOKENS_HIGH).contains(&self.tokens_max) {
            return Err(Error::invalid(format!(
                "chunks of at most {} tokens: tokens_max must be {CHUNK_TOKENS_LOW} to {CHUNK_TOKENS_HIGH}",
                self.tokens_max
            )));
        }
        if self.overlap_tokens > self.tokens_max / 2 {
            return Err(Error::invalid(format!(
                "overlap_tokens is {}, more than half of tokens_max ({}): chunks would repeat each other",
                self.overlap_tokens, self.tokens_max
            )));
        }
        Ok(())
    }
}

/// The chunks of `text`, in its order, each with its document key, byte span and token count. A text of white
/// space has none.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the options are outside their limits or the text is
/// longer than [`DOCUMENT_BYTES_MAX`].
pub fn chunks(
    document: &str,
    text: &str,
    options: &ChunkOptions,
    tokenizer: &Tokenizer,
) -> Result<Vec<(String, Chunk)>> {
    options.check()?;
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(Error::invalid(format!(
            "document '{document}' has {} bytes, more than {DOCUMENT_BYTES_MAX}: split it into several",
            text.len()
        )));
    }
    let window_bytes = WINDOW_BYTES.max(options.tokens_max * WINDOW_BYTES_PER_TOKEN);
    let splitter = Splitter::new(options, tokenizer)?;
    let spans = spans(text, window_bytes, &splitter);
    let chunk = |(start, end): (usize, usize)| {
        let chunk = &text[start..end];
        let tokens = tokenizer.count(chunk);
        debug_assert!(tokens <= options.tokens_max);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        (chunk.to_owned(), Chunk { document: document.to_owned(), span: start as u64..end as u64, tokens })
    };
    Ok(spans.into_iter().map(chunk).collect())
}

/// Byte spans of the chunks of `text`.
fn spans(text: &str, window_bytes: usize, splitter: &Splitter<'_>) -> Vec<(usize, usize)> {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    let mut base = 0_usize;
    let mut window = window_bytes;
    loop {
        let stop = char_floor(text, base.saturating_add(window));
        let mut found = splitter.split(&text[base..stop]);
        // What ends here may go on behind the window: it is split again from its start.
        let next = if stop < text.len() { found.pop().map_or(stop, |(start, _)| base + start) } else { stop };
        for (start, end) in found {
            let (start, end) = (base + start, base + end);
            if spans.last().is_none_or(|&(_, last)| end > last) {
                // An overlap can be all of the chunk before: that one has nothing of its own.
                while spans.pop_if(|last| last.0 >= start).is_some() {}
                spans.push((start, end));
            }
        }
        if stop == text.len() {
            return spans;
        }
        // No chunk ended in the window: it has to be longer.
        window = if next == base { window * 2 } else { window_bytes };
        base = next;
    }
}

/// One of the two splitters, sized in tokens.
enum Splitter<'a> {
    Text(TextSplitter<Sizer<'a>>),
    Markdown(MarkdownSplitter<Sizer<'a>>),
}

impl<'a> Splitter<'a> {
    fn new(options: &ChunkOptions, tokenizer: &'a Tokenizer) -> Result<Self> {
        let sizer = Sizer { tokenizer, tokens_max: options.tokens_max };
        let config = ChunkConfig::new(options.tokens_max)
            .with_sizer(sizer)
            .with_overlap(options.overlap_tokens)
            .map_err(|error| Error::invalid(error.to_string()))?;
        Ok(if options.markdown {
            Self::Markdown(MarkdownSplitter::new(config))
        } else {
            Self::Text(TextSplitter::new(config))
        })
    }

    fn split(&self, text: &str) -> Vec<(usize, usize)> {
        let filled = |(_, chunk): &(usize, &str)| !chunk.trim().is_empty();
        let span = |(start, chunk): (usize, &str)| (start, start + chunk.len());
        match self {
            Self::Text(splitter) => splitter.chunk_indices(text).filter(filled).map(span).collect(),
            Self::Markdown(splitter) => splitter.chunk_indices(text).filter(filled).map(span).collect(),
        }
    }
}

/// Sizes in tokens, exact up to the limit: the splitter only compares larger ones with it.
struct Sizer<'a> {
    tokenizer: &'a Tokenizer,
    tokens_max: usize,
}

impl ChunkSizer for Sizer<'_> {
    fn size(&self, chunk: &str) -> usize {
        // What the splitter tries reaches far beyond a chunk. Where a start of it is clearly too long
        // already, all of it is; a short start is enough to see that even of a giant word, which would be
        // counted whole.
        const START_BYTES_PER_TOKEN: usize = 8;
        let limit = self.tokens_max + self.tokens_max / 4 + 1;
        let mut bytes = self.tokens_max * START_BYTES_PER_TOKEN;
        loop {
            let start = &chunk[..char_floor(chunk, bytes)];
            let tokens = self.tokenizer.count_up_to(start, limit);
            if tokens > limit || start.len() == chunk.len() {
                return tokens;
            }
            bytes *= 2;
        }
    }
}

#[cfg(test)]
mod tests;
