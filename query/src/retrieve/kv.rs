//! What of a context's chunks LLM servers have cached, and an order that reuses more of it.
//!
//! A chunk is named by the hash of the token ids of its text and the separator behind it, the last one too,
//! so that its name is the same wherever it stands; a server computes it in the same form. For a server with
//! another tokenizer than the engine has, the hash still names the text, and tokens are an estimate; or the
//! caller says both. Looked up is what the request's tenant and labels may see of this collection, all at one
//! moment.
//!
//! The order is chosen when it is known which chunks stand in the context; where the string in that order
//! takes more tokens than the budget has, as tokens can span chunks, the best stay first. Cost: texts are
//! encoded once more; the order as [`order`](crate::rag::kv::order) says, of the first [`ORDERED_MAX`]
//! chunks, and the rest follow.

use serde::{Deserialize, Serialize};

use super::assemble::{Block, Built, Frame};
use super::candidate::Candidate;
use super::check::Task;
use super::request::{Assemble, Order};
use crate::error::{Error, Result};
use crate::rag::kv::catalogue::ORDER_CHUNKS_MAX;
use crate::rag::kv::keeper::{Reusable, there_is_none};
use crate::rag::kv::order::{Ranked, Reused, order};
use crate::rag::kv::{
    Found, ModelKey, Rule, Scope, TokenHash, Variant, VariantId, Wanted, aligned_tokens, hash_tokens, reuse,
};
use crate::shared::Shared;

/// Most chunks whose order is chosen.
pub const ORDERED_MAX: usize = 32;

/// Which caches can be used, and how chunks are named.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvRequest {
    /// What they have to be computed by.
    pub model: ModelKey,
    /// The server's block, to a multiple of which tokens are rounded up; 0: not at all.
    #[serde(default)]
    pub block_tokens: u32,
    /// Chunks whose token ids the caller knows, by key; the engine hashes the others.
    #[serde(default)]
    pub known: Vec<KnownChunk>,
}

/// A chunk whose token ids the caller knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownChunk {
    /// The row's key.
    pub key: String,
    /// The hash of its token ids, what stands behind it included.
    pub content: TokenHash,
    /// How many.
    pub tokens: u32,
}

/// What there is of a chunk in the context.
#[derive(Clone, Debug, PartialEq)]
pub struct KvChunk {
    /// The hash of its token ids, to put a cache of it under.
    pub content: TokenHash,
    /// Its tokens, rounded up to blocks.
    pub tokens: u32,
    /// The best variant behind the chunks before it, and how much is left to compute.
    pub reusable: Reusable,
}

/// Checks ranges, and that there is a catalogue.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) with what to change.
pub(super) fn check(shared: &Shared, assemble: &Assemble) -> Result<()> {
    if let Order::CacheAware { tolerance } = assemble.order {
        if !(0.0..=1.0).contains(&tolerance) {
            return Err(Error::invalid(format!("assemble.order: tolerance is {tolerance}; it is 0 to 1")));
        }
        if assemble.kv.is_none() {
            return Err(Error::invalid("assemble.order is cache_aware: say which caches in assemble.kv"));
        }
    }
    let Some(kv) = &assemble.kv else { return Ok(()) };
    if shared.chunk_caches.is_none() {
        return Err(there_is_none().context("assemble.kv"));
    }
    if kv.known.len() > ORDER_CHUNKS_MAX {
        let known = kv.known.len();
        return Err(Error::invalid(format!(
            "assemble.kv.known has {known} chunks, at most {ORDER_CHUNKS_MAX}"
        )));
    }
    kv.model.check().map_err(|error| error.context("assemble.kv.model"))
}

/// Puts blocks into the order asked for and says what is reused of each; nothing where it was not asked for.
///
/// # Errors
/// The request's end; the database has no catalogue.
pub(super) fn place(
    task: &Task<'_>,
    frame: &Frame<'_>,
    candidates: &[Candidate],
    built: &mut Built,
) -> Result<Vec<KvChunk>> {
    let Some(request) = &task.request.assemble.kv else { return Ok(Vec::new()) };
    frame.stop.check()?;
    let catalogue = task.shared.chunk_caches.as_ref().ok_or_else(there_is_none)?;
    let mut wanted: Vec<Wanted> =
        built.blocks.iter().map(|block| named(task, request, candidates, block)).collect();
    let labels = task.search.labels.as_ref().map(|labels| labels.iter().cloned().collect());
    let scope = Scope { labels, ..Scope::tenant(&task.shared.name, &task.search.tenant) };
    let contents = wanted.iter().map(|wanted| wanted.content);
    let mut caches =
        Caches { rule: catalogue.rule(), of: catalogue.usable(&scope, &request.model, contents) };
    if let Order::CacheAware { tolerance } = frame.order
        && caches.of.iter().any(|variants| !variants.is_empty())
    {
        let scores = built.blocks.iter().map(|block| f64::from(candidates[block.best].score));
        let places = caches.order(&scores.collect::<Vec<_>>(), &wanted, tolerance);
        let blocks = places.iter().map(|&at| built.blocks[at].clone()).collect();
        let other = frame.lay_out(blocks);
        if other.tokens + other.blocks.len() * frame.overhead_tokens <= frame.budget_tokens {
            *built = other;
            wanted = places.iter().map(|&at| wanted[at]).collect();
            caches.of = places.iter().map(|&at| std::mem::take(&mut caches.of[at])).collect();
        }
    }
    Ok(caches.chunks(&wanted))
}

/// A block's name and tokens.
fn named(task: &Task<'_>, request: &KvRequest, candidates: &[Candidate], block: &Block) -> Wanted {
    let key = candidates[block.best].key();
    let known = request.known.iter().find(|known| block.members.len() == 1 && known.key == key);
    let (content, tokens) = match known {
        Some(known) => (known.content, known.tokens),
        None => {
            let ids = task.tokenizer.ids(&format!("{}{}", block.text, task.request.separator));
            (hash_tokens(&ids), u32::try_from(ids.len()).unwrap_or(u32::MAX))
        }
    };
    Wanted { content, tokens: aligned_tokens(tokens, request.block_tokens).unwrap_or(u32::MAX) }
}

/// What there is of each block.
struct Caches<'a> {
    rule: &'a Rule,
    of: Vec<Vec<(VariantId, Variant)>>,
}

impl Caches<'_> {
    fn variants(&self, at: usize) -> impl Iterator<Item = (VariantId, &Variant)> + Clone {
        self.of[at].iter().map(|(id, variant)| (*id, variant))
    }

    /// Places of blocks in the order that reuses most within the tolerance, which the first ones take up.
    fn order(&self, scores: &[f64], wanted: &[Wanted], tolerance: f64) -> Vec<usize> {
        let first = wanted.len().min(ORDERED_MAX);
        // What has no cache reuses nothing.
        let tokens = |at: usize| if self.of[at].is_empty() { 0 } else { wanted[at].tokens };
        let ranked: Vec<Ranked> =
            (0..first).map(|at| Ranked { score: scores[at], tokens: tokens(at) }).collect();
        let mut preceding: Vec<TokenHash> = Vec::with_capacity(first);
        let chosen = order(&ranked, tolerance, |at, before| {
            preceding.clear();
            preceding.extend(before.iter().map(|&before| wanted[before].content));
            let best = reuse::best(self.rule, self.variants(at), &preceding);
            best.map_or(Reused::default(), |best| Reused {
                tokens: f64::from(wanted[at].tokens.saturating_sub(best.recompute_tokens)),
                exact: best.exact,
            })
        });
        chosen.order.into_iter().chain(first..wanted.len()).collect()
    }

    fn chunks(&self, wanted: &[Wanted]) -> Vec<KvChunk> {
        let contents: Vec<TokenHash> = wanted.iter().map(|wanted| wanted.content).collect();
        let chunk = |(at, wanted): (usize, &Wanted)| {
            let found = Found::of(self.rule, self.variants(at), *wanted, &contents[..at]);
            KvChunk { content: wanted.content, tokens: wanted.tokens, reusable: found.into() }
        };
        wanted.iter().enumerate().map(chunk).collect()
    }
}

#[cfg(test)]
mod tests;
