//! The catalogue of chunk caches: which there are, which of them a context reuses best, which have to go.
//!
//! A variant is found by collection and tenant, then by the hash of its tokens, and never by its prefix: a
//! store keyed by chains of prefixes gets a new key for nearly every context. A chunk has at most so many
//! variants, as in Cache-Craft (Agarwal et al., 2025), and all of them at most so many bytes a tier; GDSF
//! chooses what goes ([`gdsf`](super::gdsf)), weighed by what uses did save, where the paper weighs by uses
//! over recomputation.
//!
//! A tenant is found first and holds its own chunks: nothing of another one is ever looked at. But budgets
//! are common, so a tenant can tell by what goes that others are busy; catalogues of their own prevent that.
//! How often a chunk was asked for outlives its variants ([`history`](super::history)).
//!
//! Cost: a lookup of `n` chunks with `m` variants behind `p` others is `O(n * m * p^2)`; a put or use
//! `O(log n)` and as much for all that moves. Time is the caller's, so that replays are the
//! same.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::descriptor::{ModelKey, Owner, PREFIX_CHUNKS_MAX, Scope, Tier, TokenHash, Variant, VariantId};
use super::gdsf::{Change, EvictionPolicy, Gdsf, TierLimit, Tiers};
use super::history::History;
use super::notice::{Notice, NoticePage, Notices, SKIP};
use super::reuse::{Reuse, Rule, best};
use super::settings::KvSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::random::hashed;

/// Most chunks of a lookup: those behind the prefix that a variant can have are only found without one.
pub const ORDER_CHUNKS_MAX: usize = 1_024;
/// Where the best variant leaves more than this share to compute again, one of this context is worth keeping.
const STORE_ABOVE: f64 = 0.5;

/// A chunk of the context that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its tokens.
    pub content: TokenHash,
    /// How many.
    pub tokens: u32,
}

/// What had better be stored of a chunk once it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advice {
    /// Nothing more.
    Nothing,
    /// A variant without prefix: it is of use in any context.
    Alone,
    /// A variant of this context, as those that there are leave much to compute.
    InContext,
}

/// What there is of a chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct Found<'a> {
    /// The best variant and what using it comes to; none: compute all of the chunk.
    pub best: Option<(&'a Variant, Reuse)>,
    /// Tokens to compute.
    pub recompute_tokens: u32,
    /// What to store then.
    pub advice: Advice,
}

impl<'a> Found<'a> {
    /// What there is of a chunk behind others, where these are its variants.
    pub fn of(
        rule: &Rule,
        variants: impl Iterator<Item = (VariantId, &'a Variant)> + Clone,
        wanted: Wanted,
        preceding: &[TokenHash],
    ) -> Self {
        let best = best(rule, variants.clone(), preceding);
        let mut variants = variants;
        let best = best.and_then(|reuse| {
            let variant = variants.find(|(id, _)| *id == reuse.id)?;
            Some((variant.1, reuse))
        });
        let recompute_tokens =
            best.map_or(wanted.tokens, |(_, reuse)| reuse.recompute_tokens.min(wanted.tokens));
        let is_much = f64::from(recompute_tokens) > STORE_ABOVE * f64::from(wanted.tokens);
        let advice = match best {
            None => Advice::Alone,
            Some(_) if is_much && preceding.len() <= PREFIX_CHUNKS_MAX => Advice::InContext,
            Some(_) => Advice::Nothing,
        };
        Found { best, recompute_tokens, advice }
    }
}

/// Checks how many chunks are looked up.
pub(super) fn check_order(chunks: usize) -> Result<()> {
    match chunks <= ORDER_CHUNKS_MAX {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "a lookup of {chunks} chunks, must be at most {ORDER_CHUNKS_MAX}: ask for the context's only"
        ))),
    }
}

/// What a chunk is remembered by: of a tenant alone.
fn demand(variant: &Variant) -> u64 {
    let (collection, tenant) = variant.scope.owner();
    [collection.as_bytes(), tenant.as_bytes(), &variant.content.0]
        .iter()
        .fold(0, |seed, part| hashed(seed, part))
}

/// What is held, of one tenant or all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Descriptors.
    pub descriptors: u64,
    /// Chunks that they are of.
    pub chunks: u64,
    /// Bytes of tensors, by tier.
    pub bytes: [u64; 3],
    /// Uses of what is held.
    pub hits: u64,
    /// Notices that were lost since the catalogue was opened; of all tenants together, else 0.
    pub notices_lost: u64,
}

/// Descriptors of chunk caches of all tenants.
pub struct ChunkCaches<P = Gdsf> {
    pub(super) settings: KvSettings,
    pub(super) variants: BTreeMap<u64, Variant>,
    /// By collection, then by tenant.
    tenants: BTreeMap<String, BTreeMap<String, Tenant>>,
    pub(super) tiers: Tiers<P>,
    pub(super) notices: Notices,
    pub(super) history: History,
    pub(super) next_id: u64,
}

#[derive(Default)]
struct Tenant {
    chunks: BTreeMap<TokenHash, Vec<u64>>,
    ids: BTreeSet<u64>,
}

impl<P: EvictionPolicy> ChunkCaches<P> {
    /// An empty catalogue.
    ///
    /// # Errors
    /// Those of [`KvSettings::check`].
    pub fn new(settings: KvSettings) -> Result<Self> {
        settings.check()?;
        let tier =
            |at: usize| TierLimit { budget_bytes: settings.bytes_max[at], load: settings.rule.load[at] };
        let tiers = Tiers::new(&[tier(0), tier(1), tier(2)]);
        let (variants, tenants) = (BTreeMap::new(), BTreeMap::new());
        let (notices, history) = (Notices::default(), History::new(settings.history_chunks));
        Ok(Self { settings, variants, tenants, tiers, notices, history, next_id: 1 })
    }

    /// Takes a variant in, in its tier or below, in place of one of the same chunk, model and prefix if there
    /// is one. What has to go or to move for it is in [`take_notices`](Self::take_notices), its own move too.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] as [`Variant::check`] says; [`ErrorKind::Exhausted`] where no tier is as large
    /// as the variant, or loading it takes longer than computing it: nothing is changed then.
    pub fn put(&mut self, variant: Variant) -> Result<VariantId> {
        variant.check()?;
        let said = variant.tier;
        let gain_us = variant.recompute_us as f64 * (1.0 - self.expected_fraction(&variant));
        let rule = self.settings.rule;
        let is_of_use = |at: usize| {
            let pays = at == 0 || gain_us > rule.load[at].us(variant.bytes);
            pays && variant.bytes <= self.settings.bytes_max[at]
        };
        if !(said as usize..Tier::ALL.len()).any(is_of_use) {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "no tier from {said:?} down takes {} bytes that save {gain_us:.0} us: raise bytes_max, \
                     or do not cache this chunk",
                    variant.bytes
                ),
            ));
        }
        self.replace(&variant);
        while self.variants.len() >= self.settings.descriptors_max {
            let Some(least) = (0..Tier::ALL.len()).rev().find_map(|tier| self.tiers.least(tier)) else {
                break;
            };
            self.evict(least);
        }
        let id = self.next_id;
        self.next_id += 1;
        let mut changes = Vec::new();
        // What is remembered belongs to the first variant of a chunk: a second has to show its own use.
        let is_first = self.ids(variant.scope.owner(), &variant.content).is_empty();
        let asks = if is_first { self.history.ask(demand(&variant)) } else { 1 };
        self.tiers.insert(id, (variant.bytes, gain_us, asks), said as usize, &mut changes);
        let tier = self.tiers.tier(id);
        self.enter(id, variant);
        if tier != Some(said as usize) {
            changes.push(Change { id, from: said as usize, to: tier });
        }
        self.apply(&changes);
        self.thin(id);
        Ok(VariantId(id))
    }

    /// For each chunk of a context, in its order, the variant that saves most behind those before it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the order has more than [`ORDER_CHUNKS_MAX`] chunks.
    pub fn lookup(&self, scope: &Scope, model: &ModelKey, order: &[Wanted]) -> Result<Vec<Found<'_>>> {
        check_order(order.len())?;
        let hashes: Vec<TokenHash> = order.iter().map(|wanted| wanted.content).collect();
        let found = |(at, wanted): (usize, &Wanted)| {
            let variants = self.usable(scope, model, wanted.content);
            Found::of(&self.settings.rule, variants, *wanted, &hashes[..at])
        };
        Ok(order.iter().enumerate().map(found).collect())
    }

    /// The variants of a chunk that the scope covers, by when they came.
    pub fn usable<'a, 'b>(
        &'a self,
        scope: &'b Scope,
        model: &'b ModelKey,
        content: TokenHash,
    ) -> impl Iterator<Item = (VariantId, &'a Variant)> + Clone + use<'a, 'b, P> {
        let variant = move |id: &'a u64| self.variants.get(id).map(|variant| (VariantId(*id), variant));
        let usable = move |(_, v): &(VariantId, &Variant)| v.model == *model && scope.covers(&v.scope);
        self.ids(scope.owner(), &content).iter().filter_map(variant).filter(usable)
    }

    /// What the best variant of one chunk comes to behind others; what an order is chosen by.
    pub fn best(
        &self,
        scope: &Scope,
        model: &ModelKey,
        content: TokenHash,
        preceding: &[TokenHash],
    ) -> Option<Reuse> {
        best(&self.settings.rule, self.usable(scope, model, content), preceding)
    }

    /// Notes uses of variants and what each saved, in us; how many of them the scope covers. Others, and
    /// those that went meanwhile, are passed over. What moves for it is in the notices.
    pub fn touch(&mut self, scope: &Scope, uses: &[(VariantId, f64)], now_us: u64) -> usize {
        let mut known = 0;
        for (id, saved_us) in uses {
            let variant = self.variants.get_mut(&id.0).filter(|variant| scope.covers(&variant.scope));
            let Some(variant) = variant else { continue };
            known += 1;
            self.history.ask(demand(variant));
            variant.hits += 1;
            variant.last_use_us = variant.last_use_us.max(now_us);
            // The tier's own load is taken off again where it counts.
            let load_us = self.settings.rule.load[variant.tier as usize].us(variant.bytes);
            let gain_us = if saved_us.is_finite() { (saved_us + load_us).max(0.0) } else { 0.0 };
            let mut changes = Vec::new();
            self.tiers.hit(id.0, gain_us, &mut changes);
            self.apply(&changes);
        }
        known
    }

    /// Removes a variant, whose tensors the caller frees. None where the scope does not cover it.
    pub fn remove(&mut self, scope: &Scope, id: VariantId) -> Option<Variant> {
        self.variants.get(&id.0).filter(|variant| scope.covers(&variant.scope))?;
        self.tiers.remove(id.0);
        self.leave(id.0)
    }

    /// Removes all that was computed from a chunk of a tenant, which was deleted: its variants and those of
    /// other chunks behind it. Notices say so; how many went. Linear in the tenant's descriptors.
    pub fn forget_chunk(&mut self, owner: Owner<'_>, content: TokenHash) -> usize {
        self.forget(owner, |variant| variant.content == content || variant.prefix.contains(&content))
    }

    /// Removes all of a tenant; notices say so. How many went.
    pub fn forget_tenant(&mut self, owner: Owner<'_>) -> usize {
        self.forget(owner, |_| true)
    }

    /// Removes all of a collection; notices say so. How many went.
    pub fn forget_collection(&mut self, collection: &str) -> usize {
        self.retain(|(other, _)| other != collection)
    }

    /// Removes all of the tenants that `stays` does not hold for; notices say so. How many went.
    pub fn retain(&mut self, stays: impl Fn(Owner<'_>) -> bool) -> usize {
        let all = self.tenants.iter();
        let all =
            all.flat_map(|(collection, held)| held.iter().map(move |(name, held)| (collection, name, held)));
        let gone = all.filter(|(collection, name, _)| !stays((collection, name)));
        let ids: Vec<u64> = gone.flat_map(|(.., held)| held.ids.iter().copied()).collect();
        ids.iter().for_each(|id| self.forget_id(*id));
        ids.len()
    }

    /// Up to `limit` variants that the scope covers with ids above `after`, by id.
    pub fn list(&self, scope: &Scope, after: VariantId, limit: usize) -> Vec<(VariantId, &Variant)> {
        let Some(tenant) = self.tenant(scope.owner()) else { return Vec::new() };
        let ids = tenant.ids.range(after.0.saturating_add(1)..);
        let variants = ids.filter_map(|id| Some((VariantId(*id), self.variants.get(id)?)));
        variants.filter(|(_, variant)| scope.covers(&variant.scope)).take(limit).collect()
    }

    /// Bytes of a variant's tensors, for who serves all tenants; none where it went.
    pub fn bytes(&self, id: VariantId) -> Option<u64> {
        self.variants.get(&id.0).map(|variant| variant.bytes)
    }

    /// What is held of a tenant, or of all. Linear in its descriptors.
    pub fn stats(&self, owner: Option<Owner<'_>>) -> Stats {
        let mut stats = Stats::default();
        let held: Vec<&Tenant> = match owner {
            Some(owner) => self.tenant(owner).into_iter().collect(),
            None => self.tenants.values().flat_map(BTreeMap::values).collect(),
        };
        for held in held {
            stats.chunks += held.chunks.len() as u64;
            for variant in held.ids.iter().filter_map(|id| self.variants.get(id)) {
                stats.descriptors += 1;
                stats.bytes[variant.tier as usize] += variant.bytes;
                stats.hits += variant.hits;
            }
        }
        stats.notices_lost = if owner.is_none() { self.notices.lost } else { 0 };
        stats
    }

    /// Takes what the server has to do about caches of a tenant, the oldest first; of all tenants where none
    /// is named, which is for who serves all of them.
    pub fn take_notices(&mut self, owner: Option<Owner<'_>>) -> Vec<Notice> {
        self.notices.take(owner)
    }

    /// Ids and numbers that were given after the last save are not given again.
    pub(super) fn skip(&mut self) {
        self.next_id = self.next_id.saturating_add(SKIP);
        self.notices.skip();
    }

    /// Up to `limit` notices behind number `after`, the oldest first, of a tenant or of all; those up to it
    /// are done and are not given again.
    pub fn notices(&mut self, owner: Option<Owner<'_>>, after: u64, limit: usize) -> NoticePage {
        self.notices.page(owner, after, limit)
    }

    /// The share that is computed again where nothing is known of the context.
    fn expected_fraction(&self, variant: &Variant) -> f64 {
        let is_whole = variant.model.shared_prefix.is_some() && variant.prefix.is_empty();
        if is_whole { 0.0 } else { (self.settings.rule.alpha * variant.cci).min(1.0) }
    }

    /// Makes a variant known by its id.
    pub(super) fn enter(&mut self, id: u64, variant: Variant) {
        let collection = self.tenants.entry(variant.scope.collection.clone()).or_default();
        let tenant = collection.entry(variant.scope.tenant.clone()).or_default();
        tenant.ids.insert(id);
        tenant.chunks.entry(variant.content).or_default().push(id);
        self.variants.insert(id, variant);
    }

    fn leave(&mut self, id: u64) -> Option<Variant> {
        let variant = self.variants.remove(&id)?;
        let Scope { collection, tenant: name, .. } = &variant.scope;
        let tenants = self.tenants.get_mut(collection)?;
        if let Some(tenant) = tenants.get_mut(name) {
            tenant.ids.remove(&id);
            if let Some(ids) = tenant.chunks.get_mut(&variant.content) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    tenant.chunks.remove(&variant.content);
                }
            }
            if tenant.ids.is_empty() {
                tenants.remove(name);
            }
        }
        if tenants.is_empty() {
            self.tenants.remove(collection);
        }
        Some(variant)
    }

    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let to = change.to.and_then(|tier| Tier::ALL.get(tier).copied());
            let (Some(variant), Some(from)) =
                (self.variants.get_mut(&change.id), Tier::ALL.get(change.from).copied())
            else {
                continue;
            };
            variant.tier = to.unwrap_or(variant.tier);
            self.notices.add(Notice::of(change.id, variant, from, to));
            if to.is_none() {
                self.leave(change.id);
            }
        }
    }

    fn evict(&mut self, id: u64) {
        let change = self.tiers.evict(id);
        self.apply(change.as_slice());
    }

    fn tenant(&self, (collection, tenant): Owner<'_>) -> Option<&Tenant> {
        self.tenants.get(collection)?.get(tenant)
    }

    /// Those of a chunk.
    fn ids(&self, owner: Owner<'_>, content: &TokenHash) -> &[u64] {
        self.tenant(owner).and_then(|tenant| tenant.chunks.get(content)).map_or(&[], Vec::as_slice)
    }

    /// Drops what a variant takes the place of; tensors under the same URI are not to be freed.
    fn replace(&mut self, by: &Variant) {
        let is_same = |id: &&u64| {
            let old = self.variants.get(*id);
            old.is_some_and(|old| old.model == by.model && old.prefix == by.prefix && old.scope == by.scope)
        };
        let Some(old) = self.ids(by.scope.owner(), &by.content).iter().find(is_same).copied() else {
            return;
        };
        let is_kept = self.variants.get(&old).is_some_and(|old| old.uri == by.uri);
        if is_kept {
            self.tiers.remove(old);
            self.leave(old);
        } else {
            self.forget_id(old);
        }
    }

    /// Drops the variants of least worth of a chunk, but for `newest`, until they are few enough.
    fn thin(&mut self, newest: u64) {
        loop {
            let Some(new) = self.variants.get(&newest) else { return };
            let of_model =
                |id: &&u64| self.variants.get(*id).is_some_and(|variant| variant.model == new.model);
            let all = self.ids(new.scope.owner(), &new.content).iter();
            let ids: Vec<u64> = all.filter(of_model).copied().collect();
            if ids.len() <= self.settings.variants_per_chunk {
                return;
            }
            let saves = |id: &u64| {
                let (item, _) = self.tiers.item(*id)?;
                Some((item.frequency as f64 * item.cost_us / item.size_bytes as f64, item.used, *id))
            };
            let worths = ids.iter().filter(|id| **id != newest).filter_map(saves);
            let least = worths.min_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
            let Some((_, _, least)) = least else { return };
            // Not for want of room: the clock stays.
            self.forget_id(least);
        }
    }

    fn forget(&mut self, owner: Owner<'_>, goes: impl Fn(&Variant) -> bool) -> usize {
        let Some(held) = self.tenant(owner) else { return 0 };
        let goes = |id: &&u64| self.variants.get(*id).is_some_and(&goes);
        let ids: Vec<u64> = held.ids.iter().filter(goes).copied().collect();
        ids.iter().for_each(|id| self.forget_id(*id));
        ids.len()
    }

    fn forget_id(&mut self, id: u64) {
        if let Some(from) = self.tiers.remove(id) {
            self.apply(&[Change { id, from, to: None }]);
        }
    }
}
