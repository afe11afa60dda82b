//! Packs the texts of the best candidates into a context of at most so many tokens.
//!
//! Candidates are taken in rank order; one that does not fit any more is left out whole and the next is
//! tried. What counts is the context as assembled, separators included: neighbouring texts can share a token,
//! so the sum over the texts is not its count. A text that occurs twice is packed twice: de-duplication is
//! another stage's work.
//!
//! Each candidate is encoded about once: the context up to its last certain word boundary is already counted
//! ([`tokens::is_cut`](super::tokens::is_cut)), only what follows is counted with the next text. One that is
//! far too long is recognised without encoding it whole. Time is linear in the text looked at.

use std::ops::Range;

use spandrel_index::stop::Stop;

use crate::error::Result;
use crate::rag::tokens::{RUN_BYTES_MAX, Tokenizer, is_cut, last_cut};
use crate::response::{Hit, PackedChunk, RetrieveResponse};

/// A hit and the text that would stand for it in the context.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What was found.
    pub hit: Hit,
    /// The value of the text field that is packed; empty where the row has none.
    pub text: String,
}

/// Packs the texts of `candidates`, which come best first, with `separator` between them, into at most
/// `budget_tokens` tokens by `tokenizer`.
///
/// Candidates without text are considered and left out, and counted as skipped. `short` and `explain` of the
/// response are for the caller to set.
///
/// # Errors
/// Those of `stop`, which is looked at once a candidate.
pub fn assemble(
    candidates: Vec<Candidate>,
    separator: &str,
    budget_tokens: usize,
    tokenizer: &Tokenizer,
    stop: &Stop,
) -> Result<RetrieveResponse> {
    let texts = candidates.iter().map(|candidate| candidate.text.as_str());
    let packing = pack(texts, separator, budget_tokens, tokenizer, stop)?;
    let considered = candidates.len();
    let mut hits: Vec<_> = candidates.into_iter().map(|candidate| Some(candidate.hit)).collect();
    let packed = |text: PackedText| {
        let hit = hits.get_mut(text.candidate).and_then(Option::take)?;
        Some(PackedChunk { hit, context_span: text.span, tokens: text.tokens })
    };
    let chunks: Vec<_> = packing.texts.into_iter().filter_map(packed).collect();
    Ok(RetrieveResponse {
        context: packing.context,
        tokens: packing.tokens,
        skipped: (considered - chunks.len()) as u64,
        candidates: considered as u64,
        chunks,
        short: None,
        explain: None,
    })
}

/// A context and what it is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// The texts with the separator between them.
    pub context: String,
    /// Tokens of `context`.
    pub tokens: usize,
    /// The texts that fitted, in order.
    pub texts: Vec<PackedText>,
}

/// Where one text went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedText {
    /// Position among the candidates.
    pub candidate: usize,
    /// Its bytes in [`Packing::context`].
    pub span: Range<usize>,
    /// Its tokens, counted alone.
    pub tokens: usize,
}

/// Packs `texts`, which come best first; empty ones are left out.
///
/// # Errors
/// As [`assemble`].
pub fn pack<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    separator: &str,
    budget_tokens: usize,
    tokenizer: &Tokenizer,
    stop: &Stop,
) -> Result<Packing> {
    let mut packer = Packer {
        tokenizer,
        separator,
        budget: budget_tokens,
        packing: Packing::default(),
        closed_end: 0,
        closed_tokens: 0,
    };
    for (candidate, text) in texts.into_iter().enumerate() {
        if packer.packing.tokens >= budget_tokens {
            break;
        }
        stop.check()?;
        if !text.is_empty() {
            packer.offer(candidate, text);
        }
    }
    Ok(packer.finish())
}

/// A context that grows. `closed_end` is a certain word boundary: the tokens of the context before it,
/// `closed_tokens`, do not depend on what comes after.
struct Packer<'a> {
    tokenizer: &'a Tokenizer,
    separator: &'a str,
    budget: usize,
    packing: Packing,
    closed_end: usize,
    closed_tokens: usize,
}

impl Packer<'_> {
    /// Appends the text if the context stays within the budget.
    fn offer(&mut self, candidate: usize, text: &str) {
        let before = self.packing.context.len();
        if before > 0 {
            self.packing.context.push_str(self.separator);
        }
        let start = self.packing.context.len();
        let Some((alone, open_from)) = self.measure(start, text) else {
            self.packing.context.truncate(before);
            return;
        };
        self.packing.context.push_str(text);
        self.packing.texts.push(PackedText {
            candidate,
            span: start..self.packing.context.len(),
            tokens: alone,
        });
        self.close(open_from);
    }

    /// Counts the context with `text` appended at its end, `start`. None where that is over the budget; else
    /// the tokens of the text alone and the place up to which the count is already closed.
    fn measure(&mut self, start: usize, text: &str) -> Option<(usize, usize)> {
        let head = &self.packing.context[self.closed_end..];
        let left = self.budget.checked_sub(self.closed_tokens)?;
        let joined = matches!((head.chars().next_back(), text.chars().next()),
            (Some(before), Some(after)) if !is_cut(before, after));
        if joined {
            // The first word of the text may go on from the last of the context: they are counted together.
            let open = [head, text].concat();
            let tokens = self.tokenizer.count_up_to(&open, left);
            if tokens > left {
                return None;
            }
            self.packing.tokens = self.closed_tokens + tokens;
            return Some((self.tokenizer.count(text), self.closed_end));
        }
        let head_tokens = self.tokenizer.count_up_to(head, left);
        let left = left.checked_sub(head_tokens)?;
        let tokens = self.tokenizer.count_up_to(text, left);
        if tokens > left {
            return None;
        }
        self.closed_tokens += head_tokens;
        self.closed_end = start;
        self.packing.tokens = self.closed_tokens + tokens;
        Some((tokens, start))
    }

    /// Moves the closed end to the last certain boundary of the context after `from`.
    fn close(&mut self, from: usize) {
        let cut = from + last_cut(&self.packing.context[from..]);
        if cut > self.closed_end {
            self.closed_tokens = self.packing.tokens - self.tokenizer.count(&self.packing.context[cut..]);
            self.closed_end = cut;
        }
    }

    /// The count of the whole is what the budget is about. Counts add up exactly below [`RUN_BYTES_MAX`]; a
    /// longer context is counted again, and loses its last texts if it must.
    fn finish(mut self) -> Packing {
        let packing = &mut self.packing;
        if packing.context.len() >= RUN_BYTES_MAX {
            packing.tokens = self.tokenizer.count(&packing.context);
            while packing.tokens > self.budget {
                packing.texts.pop();
                packing.context.truncate(packing.texts.last().map_or(0, |text| text.span.end));
                packing.tokens = self.tokenizer.count(&packing.context);
            }
        }
        debug_assert_eq!(packing.tokens, self.tokenizer.count(&packing.context));
        self.packing
    }
}

#[cfg(test)]
mod tests;
