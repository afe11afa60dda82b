//! How much of a chunk has to be computed again when a cache of it is used behind other chunks than it was
//! computed behind.
//!
//! After Cache-Craft (Agarwal et al., 2025): the overlap `beta` is the share of the attention to the old
//! prefix that went to chunks which come before now too; the order penalty `gamma` is the share of pairs of
//! those that come in the other order; the fraction of tokens to compute again is
//! `alpha * cci * (1 - beta * (1 - gamma))`. A prefix that is exactly the same needs nothing. A cache without
//! a prefix (CacheBlend; Yao et al., 2024) has seen nothing of what comes before: its overlap is 0. One that
//! was encoded in parallel behind a shared prefix (APE; Yang et al., 2025) is used as it is.
//!
//! Departure: the paper's overlap looks only at the old prefix, so a cache behind one chunk is as good as new
//! behind that chunk and nine more. With [`Rule::count_unseen`] (the default) the overlap is also multiplied
//! by the share of chunks before it now that the cache has seen.
//!
//! Cost: `p^2 / 2` for a prefix of `p <= 64` chunks; the estimate is a model, not a measurement of quality.

use serde::{Deserialize, Serialize};

use super::descriptor::{TokenHash, Variant, VariantId};
use crate::error::{Error, Result};

/// How fast a tier gives tensors to the accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Time to the first byte, 0 or more.
    pub latency_us: f64,
    /// More than 0; infinite where nothing has to be moved, which JSON cannot say: leave it out there.
    #[serde(default = "unbounded", skip_serializing_if = "is_unbounded")]
    pub bytes_per_us: f64,
}

fn unbounded() -> f64 {
    f64::INFINITY
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_unbounded(bytes_per_us: &f64) -> bool {
    bytes_per_us.is_infinite()
}

impl Load {
    /// What loading so many bytes takes.
    pub fn us(&self, bytes: u64) -> f64 {
        self.latency_us + bytes as f64 / self.bytes_per_us
    }
}

/// What reuse is estimated by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// What the recomputed fraction is multiplied by: 0 to 8. A model's own value is found by trying.
    pub alpha: f64,
    /// Whether chunks that a cache has not seen lessen its overlap.
    pub count_unseen: bool,
    /// What loading takes, by tier.
    pub load: [Load; 3],
}

impl Default for Rule {
    /// Nothing from an accelerator's memory, 25 GB/s from the host's, 6 GB/s from disk.
    fn default() -> Self {
        let load = |latency_us, bytes_per_us| Load { latency_us, bytes_per_us };
        let load = [load(0.0, f64::INFINITY), load(20.0, 25_000.0), load(200.0, 6_000.0)];
        Self { alpha: 1.0, count_unseen: true, load }
    }
}

impl Rule {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::error::ErrorKind::Invalid) with what to change.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=8.0).contains(&self.alpha) {
            return Err(Error::invalid(format!("alpha is {}, must be 0 to 8: 1 to begin with", self.alpha)));
        }
        let is_load = |load: &Load| load.latency_us >= 0.0 && load.bytes_per_us > 0.0;
        if !self.load.iter().all(is_load) {
            return Err(Error::invalid(
                "a tier's load must have latency_us of 0 or more and bytes_per_us above 0: measure them",
            ));
        }
        Ok(())
    }
}

/// What using a variant comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reuse {
    /// The variant.
    pub id: VariantId,
    /// Whether its prefix is exactly what comes before.
    pub exact: bool,
    /// The overlap less the order penalty, 0 to 1; 1 where nothing has to be computed again.
    pub overlap: f64,
    /// Tokens to compute again.
    pub recompute_tokens: u32,
    /// What loading it takes.
    pub load_us: f64,
    /// What it saves: less than 0 where computing anew is faster.
    pub saved_us: f64,
}

/// The overlap `beta`, 0 to 1: how much of the attention to the variant's prefix went to chunks of
/// `preceding`. Attention that the variant does not tell is spread over the rest of the prefix.
pub fn overlap(variant: &Variant, preceding: &[TokenHash]) -> f64 {
    let named: f64 = variant.inter.iter().map(|attention| attention.share).sum();
    let unnamed = variant.prefix.len().saturating_sub(variant.inter.len());
    let left = (1.0 - named).max(0.0);
    let rest = if unnamed > 0 { left / unnamed as f64 } else { 0.0 };
    let share = |chunk: &TokenHash| {
        let told = variant.inter.iter().find(|attention| attention.chunk == *chunk);
        told.map_or(rest, |attention| attention.share)
    };
    let (mut common, mut all) = (0.0, 0.0);
    for chunk in &variant.prefix {
        all += share(chunk);
        common += if preceding.contains(chunk) { share(chunk) } else { 0.0 };
    }
    if all > 0.0 { (common / all).clamp(0.0, 1.0) } else { 0.0 }
}

/// The order penalty `gamma`, 0 to 1: the share of pairs of chunks in both that come in the other order.
/// 0 where there are no pairs.
pub fn order_penalty(prefix: &[TokenHash], preceding: &[TokenHash]) -> f64 {
    let place = |chunk: &TokenHash| preceding.iter().position(|other| other == chunk);
    let places: Vec<usize> = prefix.iter().filter_map(place).collect();
    let pairs = places.len() * places.len().saturating_sub(1) / 2;
    let discordant = |(at, place): (usize, &usize)| places[at + 1..].iter().filter(|p| *p < place).count();
    let discordant: usize = places.iter().enumerate().map(discordant).sum();
    if pairs > 0 { discordant as f64 / pairs as f64 } else { 0.0 }
}

/// The overlap less the order penalty and, if the rule says so, less what the variant has not seen.
pub fn adjusted_overlap(rule: &Rule, variant: &Variant, preceding: &[TokenHash]) -> f64 {
    let adjusted = overlap(variant, preceding) * (1.0 - order_penalty(&variant.prefix, preceding));
    if !rule.count_unseen || preceding.is_empty() {
        return adjusted;
    }
    let seen = preceding.iter().filter(|chunk| variant.prefix.contains(chunk)).count();
    adjusted * seen as f64 / preceding.len() as f64
}

/// Whether nothing has to be computed again, whatever the formulas say.
fn is_whole(variant: &Variant, preceding: &[TokenHash]) -> bool {
    let is_parallel = variant.model.shared_prefix.is_some() && variant.prefix.is_empty();
    is_parallel || variant.prefix == preceding
}

/// The fraction of the variant's tokens to compute again behind `preceding`, 0 to 1.
pub fn recompute_fraction(rule: &Rule, variant: &Variant, preceding: &[TokenHash]) -> f64 {
    if is_whole(variant, preceding) {
        return 0.0;
    }
    let overlap = adjusted_overlap(rule, variant, preceding);
    (rule.alpha * variant.cci * (1.0 - overlap)).clamp(0.0, 1.0)
}

/// What using the variant behind `preceding` comes to.
pub fn reuse(rule: &Rule, (id, variant): (VariantId, &Variant), preceding: &[TokenHash]) -> Reuse {
    let fraction = recompute_fraction(rule, variant, preceding);
    let load_us = rule.load[variant.tier as usize].us(variant.bytes);
    let is_whole = is_whole(variant, preceding);
    Reuse {
        id,
        exact: variant.prefix == preceding,
        overlap: if is_whole { 1.0 } else { adjusted_overlap(rule, variant, preceding) },
        recompute_tokens: (f64::from(variant.tokens) * fraction).ceil() as u32,
        load_us,
        saved_us: variant.recompute_us as f64 * (1.0 - fraction) - load_us,
    }
}

/// The variant that saves most behind `preceding`; of those that save as much the one of fewest bytes, then
/// of the least id. None where computing anew is as fast as any.
pub fn best<'a>(
    rule: &Rule,
    variants: impl IntoIterator<Item = (VariantId, &'a Variant)>,
    preceding: &[TokenHash],
) -> Option<Reuse> {
    let reuses = variants.into_iter().map(|(id, variant)| (reuse(rule, (id, variant), preceding), variant));
    let useful = reuses.filter(|(reuse, _)| reuse.saved_us > 0.0);
    let best = useful.min_by(|(a, variant_a), (b, variant_b)| {
        let saved = b.saved_us.total_cmp(&a.saved_us);
        saved.then(variant_a.bytes.cmp(&variant_b.bytes)).then(a.id.cmp(&b.id))
    });
    best.map(|(reuse, _)| reuse)
}

#[cfg(test)]
mod tests;
