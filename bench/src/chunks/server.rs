//! A server with chunk caches: it asks the catalogue for the best variant of each chunk of a context,
//! computes what that leaves, and stores what it had to compute whole.
//!
//! What it stores is the chunk as computed in its context (Cache-Craft; Agarwal et al., 2025), for nothing;
//! or, as CacheBlend (Yao et al., 2024) does, computed alone, whose context is then computed at once at the
//! formula's price. A variant that would leave more than [`WHOLE_ABOVE`] to compute is not used. What was
//! computed in part is not stored again: errors would add up.

use super::simulate::{Served, System};
use super::trace::{Assumptions, Chunk, Hit, Trace};
use crate::random::Random;
use spandrel::Result;
use spandrel::rag::kv::KvSettings;
use spandrel::rag::kv::catalogue::{ChunkCaches, Wanted};
use spandrel::rag::kv::descriptor::{Attention, ModelKey, Scope, TokenHash, Variant};
use spandrel::rag::kv::gdsf::EvictionPolicy;
use spandrel::rag::kv::order::Reused;

/// Where more than this share would be computed again, all of the chunk is, and stored.
pub const WHOLE_ABOVE: f64 = 0.5;

/// What is stored of a chunk that had to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// As computed behind the chunks before it.
    InContext,
    /// Computed alone.
    Alone,
}

/// A server with chunk caches.
pub struct ChunkServer<'a, P> {
    assumed: &'a Assumptions,
    chunks: &'a [Chunk],
    caches: ChunkCaches<P>,
    alpha: f64,
    store: Store,
    scope: Scope,
    model: ModelKey,
    now_us: u64,
}

impl<'a, P: EvictionPolicy> ChunkServer<'a, P> {
    /// One with an empty catalogue.
    ///
    /// # Errors
    /// Those of the settings.
    pub fn new(
        assumed: &'a Assumptions,
        trace: &'a Trace,
        settings: KvSettings,
        store: Store,
    ) -> Result<Self> {
        let name = || "assumed".to_owned();
        let model = ModelKey {
            model: name(),
            revision: name(),
            tokenizer: name(),
            dtype: name(),
            ..ModelKey::default()
        };
        let alpha = settings.rule.alpha;
        let (caches, scope) = (ChunkCaches::new(settings)?, Scope::tenant("trace", "trace"));
        Ok(Self { assumed, chunks: &trace.chunks, caches, alpha, store, scope, model, now_us: 0 })
    }

    fn chunk(&self, hit: &Hit) -> &'a Chunk {
        &self.chunks[hit.chunk as usize]
    }

    /// Takes in what was computed whole; one that has no room is not kept.
    fn put(&mut self, chunk: &Chunk, prefix: &[TokenHash], recompute_us: f64) {
        let prefix = if self.store == Store::Alone { &[] } else { prefix };
        let weights: Vec<f64> = prefix.iter().map(|other| attention(chunk.content, *other)).collect();
        let sum: f64 = weights.iter().sum();
        let inter = prefix.iter().zip(weights);
        let inter = inter.map(|(chunk, weight)| Attention { chunk: *chunk, share: weight / sum }).collect();
        let variant = Variant {
            content: chunk.content,
            model: self.model.clone(),
            scope: self.scope.clone(),
            prefix: prefix.to_vec(),
            tokens: chunk.tokens,
            bytes: chunk.bytes,
            uri: "kv".into(),
            cci: chunk.cci,
            inter,
            recompute_us: recompute_us as u64,
            created_us: self.now_us,
            ..Variant::default()
        };
        // Too large for what the trace is given: it is computed every time.
        let _ = self.caches.put(variant);
    }
}

/// How much a chunk attends to another, before shares: skewed, and the same whenever they meet.
fn attention(chunk: TokenHash, other: TokenHash) -> f64 {
    let bits = u128::from_le_bytes(chunk.0) ^ u128::from_le_bytes(other.0).rotate_left(64);
    let drawn = Random(bits as u64 ^ (bits >> 64) as u64).unit();
    0.01 + drawn * drawn
}

impl<P: EvictionPolicy> System for ChunkServer<'_, P> {
    fn reuse(&self, hits: &[Hit], at: usize, before: &[usize]) -> Reused {
        let chunk = self.chunk(&hits[at]);
        let preceding: Vec<TokenHash> = before.iter().map(|at| self.chunk(&hits[*at]).content).collect();
        let best = self.caches.best(&self.scope, &self.model, chunk.content, &preceding);
        let reused = best.map(|reuse| {
            let tokens = f64::from(chunk.tokens.saturating_sub(reuse.recompute_tokens));
            Reused { tokens, exact: reuse.exact }
        });
        reused
            .filter(|reused| reused.tokens >= f64::from(chunk.tokens) * (1.0 - WHOLE_ABOVE))
            .unwrap_or_default()
    }

    fn serve(&mut self, hits: &[Hit]) -> Served {
        self.now_us += 1;
        let wanted = |hit: &Hit| Wanted { content: self.chunk(hit).content, tokens: self.chunk(hit).tokens };
        let order: Vec<Wanted> = hits.iter().map(wanted).collect();
        // Contexts of a trace are far shorter than a lookup may be.
        let Ok(found) = self.caches.lookup(&self.scope, &self.model, &order) else {
            return Served::default();
        };
        let found: Vec<_> = found.iter().map(|found| found.best.map(|(_, reuse)| reuse)).collect();
        let hashes: Vec<TokenHash> = order.iter().map(|wanted| wanted.content).collect();
        let (mut served, mut before, mut uses, mut whole) = (Served::default(), 0.0, Vec::new(), Vec::new());
        for (at, hit) in hits.iter().enumerate() {
            let chunk = self.chunk(hit);
            let tokens = f64::from(chunk.tokens);
            let all_us = self.assumed.compute_us(chunk, tokens, before);
            let used = found[at].filter(|reuse| f64::from(reuse.recompute_tokens) <= WHOLE_ABOVE * tokens);
            let (computed, load_us) = match used {
                Some(reuse) => (f64::from(reuse.recompute_tokens), reuse.load_us),
                None if self.store == Store::Alone && at > 0 => {
                    (tokens + (tokens * (self.alpha * chunk.cci).min(1.0)).ceil(), 0.0)
                }
                None => (tokens, 0.0),
            };
            let compute_us = self.assumed.compute_us(chunk, computed, before);
            match used {
                Some(reuse) => {
                    uses.push((reuse.id, all_us - compute_us - load_us));
                    served.moved_bytes += if load_us > 0.0 { chunk.bytes } else { 0 };
                }
                None => whole.push((at, all_us)),
            }
            served.computed_tokens += computed;
            served.compute_us += compute_us;
            served.load_us += load_us;
            before += tokens;
        }
        self.caches.touch(&self.scope, &uses, self.now_us);
        for (at, all_us) in whole {
            self.put(self.chunk(&hits[at]), &hashes[..at], all_us);
        }
        for notice in self.caches.take_notices(None) {
            let moved = notice.to.and_then(|_| self.caches.bytes(notice.id));
            served.moved_bytes += moved.unwrap_or(0);
        }
        served
    }
}
