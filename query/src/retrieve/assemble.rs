//! Puts chosen chunks together: merged where they touch, in the order asked for, counted as one string.
//!
//! What counts is the assembled string, by the tokenizer the caller names: neighbouring texts can share a
//! token, so sums over chunks are estimates. Where the string is over the budget after all, the chunk chosen
//! last goes, until it fits. Chunks of one document that overlap or touch become one text with what they
//! share once; white space that the chunker left out between two is put back as one space, or an empty line
//! where there was more. That is done only where a text is exactly the bytes of its span, and the shared
//! bytes are the same in both.
//!
//! Cost: the string is built and counted once, and once more for each chunk that has to go or neighbour that
//! is tried.

use std::ops::Range;

use spandrel_index::stop::Stop;

use super::candidate::Candidate;
use super::request::Order;
use crate::error::Result;
use crate::rag::tokens::Tokenizer;

/// Bytes between two chunks that are taken for white space the chunker left out.
const GAP_BYTES_MAX: u64 = 4;

/// How a context is made of chunks.
pub struct Frame<'a> {
    /// Stands between two blocks.
    pub separator: &'a str,
    /// In what order they stand.
    pub order: Order,
    /// Whether chunks that touch become one.
    pub merge: bool,
    /// Most tokens of the context.
    pub budget_tokens: usize,
    /// Tokens that the caller puts around each block.
    pub overhead_tokens: usize,
    /// Counts.
    pub tokenizer: &'a Tokenizer,
    /// The request's end.
    pub stop: &'a Stop,
}

/// A context and what it is made of.
#[derive(Debug, Default)]
pub struct Built {
    /// The string.
    pub context: String,
    /// Its tokens.
    pub tokens: usize,
    /// Its blocks, in its order.
    pub blocks: Vec<Block>,
}

/// One chunk, or several that became one.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Candidates, in the order of their text.
    pub members: Vec<usize>,
    /// The text.
    pub text: String,
    /// The best ranked of the members.
    pub best: usize,
    /// Its bytes in its document, where they are known.
    pub source: Option<Range<u64>>,
    /// Its bytes in the context.
    pub span: Range<usize>,
}

impl Frame<'_> {
    /// The context of `chosen`, positions among `candidates` in the order in which they were chosen; those
    /// that do not fit as a whole are taken off its end.
    ///
    /// # Errors
    /// The request's end.
    pub fn build(&self, candidates: &[Candidate], chosen: &mut Vec<usize>) -> Result<Built> {
        loop {
            self.stop.check()?;
            let built = self.join(candidates, chosen);
            let around = built.blocks.len() * self.overhead_tokens;
            if built.tokens + around <= self.budget_tokens || chosen.is_empty() {
                return Ok(built);
            }
            chosen.pop();
        }
    }

    /// The context of `chosen`, whatever it costs; its tokens are exact up to the budget and above it some
    /// number that is larger.
    fn join(&self, candidates: &[Candidate], chosen: &[usize]) -> Built {
        let mut blocks = if self.merge {
            merged(candidates, chosen)
        } else {
            chosen.iter().map(|&at| single(candidates, at)).collect()
        };
        arrange(&mut blocks, candidates, self.order);
        self.lay_out(blocks)
    }

    /// The context of blocks in their order; its tokens are as `join` says.
    pub fn lay_out(&self, mut blocks: Vec<Block>) -> Built {
        let mut context = String::new();
        for block in &mut blocks {
            if !context.is_empty() {
                context.push_str(self.separator);
            }
            let start = context.len();
            context.push_str(&block.text);
            block.span = start..context.len();
        }
        let tokens = self.tokenizer.count_up_to(&context, self.budget_tokens);
        Built { context, tokens, blocks }
    }
}

/// The bytes of its document that a candidate's text is, where it is exactly those.
pub fn source_of(candidate: &Candidate) -> Option<Range<u64>> {
    let chunk = candidate.hit.row.chunk.as_ref()?;
    let bytes = chunk.span.end.checked_sub(chunk.span.start)?;
    (bytes == candidate.text.len() as u64).then(|| chunk.span.clone())
}

fn single(candidates: &[Candidate], at: usize) -> Block {
    let candidate = &candidates[at];
    Block {
        members: vec![at],
        text: candidate.text.clone(),
        best: at,
        source: source_of(candidate),
        span: 0..0,
    }
}

/// Blocks of chosen candidates, those that touch as one.
fn merged(candidates: &[Candidate], chosen: &[usize]) -> Vec<Block> {
    let mut order = chosen.to_vec();
    let place = |at: usize| {
        let source = source_of(&candidates[at]);
        (candidates[at].document().filter(|_| source.is_some()), source.map_or(0, |span| span.start), at)
    };
    order.sort_by(|&a, &b| place(a).cmp(&place(b)));
    let mut blocks: Vec<Block> = Vec::new();
    for at in order {
        let joined = blocks.last_mut().is_some_and(|last| {
            let document = candidates[at].document();
            document.is_some()
                && document == candidates[last.best].document()
                && last.take(&candidates[at], at)
        });
        if !joined {
            blocks.push(single(candidates, at));
        }
    }
    blocks
}

impl Block {
    /// Takes in a candidate of the same document that begins where this one does or later; false where the
    /// two do not touch or do not agree.
    fn take(&mut self, candidate: &Candidate, at: usize) -> bool {
        let (Some(own), Some(other)) = (self.source.clone(), source_of(candidate)) else { return false };
        if other.start > own.end {
            let gap = other.start - own.end;
            if gap > GAP_BYTES_MAX {
                return false;
            }
            self.text.push_str(if gap == 1 { " " } else { "\n\n" });
            self.text.push_str(&candidate.text);
        } else {
            // The block's text ends where its source does, whatever white space was put into it.
            let shared = (own.end.min(other.end) - other.start) as usize;
            let end = self.text.len() - (own.end - own.end.min(other.end)) as usize;
            let tail = end.checked_sub(shared).and_then(|start| self.text.as_bytes().get(start..end));
            if tail != candidate.text.as_bytes().get(..shared) {
                return false;
            }
            if other.end > own.end {
                let Some(rest) = candidate.text.get(shared..) else { return false };
                self.text.push_str(rest);
            }
        }
        self.source = Some(own.start..own.end.max(other.end));
        self.members.push(at);
        self.best = self.best.min(at);
        true
    }
}

fn arrange(blocks: &mut [Block], candidates: &[Candidate], order: Order) {
    blocks.sort_by_key(|block| block.best);
    match order {
        // Chunk caches are looked at when it is known what stands in the context.
        Order::Score | Order::CacheAware { .. } => {}
        Order::BestLast => blocks.reverse(),
        Order::Document => {
            let mut firsts: Vec<(&str, usize)> = Vec::new();
            for block in blocks.iter() {
                let name = candidates[block.best].document().unwrap_or(candidates[block.best].key());
                if firsts.iter().all(|(known, _)| *known != name) {
                    firsts.push((name, firsts.len()));
                }
            }
            let place = |block: &Block| {
                let one = &candidates[block.best];
                let name = one.document().unwrap_or(one.key());
                let document =
                    firsts.iter().find(|(known, _)| *known == name).map_or(usize::MAX, |(_, at)| *at);
                let start = one.hit.row.chunk.as_ref().map_or(0, |chunk| chunk.span.start);
                (document, block.source.as_ref().map_or(start, |source| source.start), block.best)
            };
            blocks.sort_by_key(place);
        }
        Order::Edges => {
            // The first, third, fifth from the front, the others from the back.
            let mut ends = blocks.to_vec();
            let back = ends.iter().skip(1).step_by(2).rev().cloned().collect::<Vec<_>>();
            ends = ends.into_iter().step_by(2).chain(back).collect();
            blocks.clone_from_slice(&ends);
        }
    }
}

#[cfg(test)]
mod tests;
