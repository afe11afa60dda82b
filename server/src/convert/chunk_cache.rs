//! Chunk caches between wire and engine: descriptors, what is looked up and found, what is to be done.
//!
//! What a message alone shows is refused here with its path; ranges of a descriptor are the engine's to check
//! ([`Variant::check`]).

use std::ops::RangeInclusive;

use spandrel::rag::kv::catalogue::ORDER_CHUNKS_MAX;
use spandrel::rag::kv::descriptor::RECOMPUTE_US_MAX;
use spandrel::rag::kv::{
    Advice, Attention, ModelKey, Notice, NoticePage, Reusable, Reuse, Scope, Stats, Tier, TokenHash, Variant,
    VariantId, Wanted,
};
use spandrel_proto::v1 as pb;

use super::{Invalid, Result, required};

/// Most labels that a request may be on behalf of.
const LABELS_MAX: usize = 4_096;
/// What a use may save, in microseconds: more would drown all other uses.
const SAVED_US: RangeInclusive<f64> = -(RECOMPUTE_US_MAX as f64)..=RECOMPUTE_US_MAX as f64;

/// A token hash.
pub fn hash_from_wire(bytes: &[u8], path: &str) -> Result<TokenHash> {
    let hash = bytes.try_into().map(TokenHash);
    hash.map_err(|_| Invalid::new(path, format!("{} bytes; a token hash has 16", bytes.len())))
}

/// What caches have to be computed by.
pub(super) fn model_from_wire(model: Option<pb::ModelKey>) -> Result<ModelKey> {
    let model = required(model, "model")?;
    let shared_prefix = match model.shared_prefix.is_empty() {
        true => None,
        false => Some(hash_from_wire(&model.shared_prefix, "model.shared_prefix")?),
    };
    let key = ModelKey {
        model: model.model,
        revision: model.revision,
        tokenizer: model.tokenizer,
        dtype: model.dtype,
        position_base: model.position_base,
        shared_prefix,
    };
    key.check().map_err(|error| Invalid::new("model", error))?;
    Ok(key)
}

/// What caches have to be computed by, for the wire.
pub fn model_to_wire(model: ModelKey) -> pb::ModelKey {
    pb::ModelKey {
        model: model.model,
        revision: model.revision,
        tokenizer: model.tokenizer,
        dtype: model.dtype,
        position_base: model.position_base,
        shared_prefix: model.shared_prefix.map(hash_to_wire).unwrap_or_default(),
    }
}

/// A token hash, for the wire.
pub fn hash_to_wire<B: From<Vec<u8>>>(hash: TokenHash) -> B {
    hash.0.to_vec().into()
}

/// A tier; none where it is not said.
fn tier_from_wire(tier: i32, path: &str) -> Result<Option<Tier>> {
    Ok(match pb::CacheTier::try_from(tier) {
        Ok(pb::CacheTier::Unspecified) => None,
        Ok(pb::CacheTier::Hbm) => Some(Tier::Hbm),
        Ok(pb::CacheTier::Dram) => Some(Tier::Dram),
        Ok(pb::CacheTier::Ssd) => Some(Tier::Ssd),
        Err(_) => return Err(Invalid::new(path, format!("{tier} is not a value that is known here"))),
    })
}

fn tier_to_wire(tier: Option<Tier>) -> i32 {
    let tier = match tier {
        None => pb::CacheTier::Unspecified,
        Some(Tier::Hbm) => pb::CacheTier::Hbm,
        Some(Tier::Dram) => pb::CacheTier::Dram,
        Some(Tier::Ssd) => pb::CacheTier::Ssd,
    };
    tier.into()
}

/// A descriptor of this tenant of a collection; its ranges are checked, too.
fn cache_from_wire((collection, tenant): (&str, &str), cache: pb::ChunkCache) -> Result<Variant> {
    let hash = |(at, chunk): (usize, &_)| hash_from_wire(chunk, &format!("prefix[{at}]"));
    let attention = |(at, one): (usize, &pb::Attention)| {
        let chunk = hash_from_wire(&one.chunk, &format!("inter[{at}].chunk"))?;
        Ok(Attention { chunk, share: one.share })
    };
    let labels = Some(cache.labels).filter(|labels| !labels.is_empty());
    let labels = labels.map(|labels| labels.into_iter().collect());
    let variant = Variant {
        content: hash_from_wire(&cache.content, "content")?,
        scope: Scope { labels, ..Scope::tenant(collection, tenant) },
        prefix: cache.prefix.iter().map(AsRef::as_ref).enumerate().map(hash).collect::<Result<_>>()?,
        tokens: cache.tokens,
        bytes: cache.bytes,
        tier: required(tier_from_wire(cache.tier, "tier")?, "tier")?,
        uri: cache.uri,
        cci: required(cache.cci, "cci")?,
        inter: cache.inter.iter().enumerate().map(attention).collect::<Result<_>>()?,
        recompute_us: cache.recompute_us,
        created_us: cache.created_us,
        model: model_from_wire(cache.model)?,
        ..Variant::default()
    };
    variant.check().map_err(|error| Invalid::new("", error))?;
    Ok(variant)
}

/// Descriptors to take in.
pub fn caches_from_wire(owner: (&str, &str), caches: Vec<pb::ChunkCache>) -> Result<Vec<Variant>> {
    let read = |(at, cache)| {
        cache_from_wire(owner, cache).map_err(|error: Invalid| error.within(format!("caches[{at}]")))
    };
    caches.into_iter().enumerate().map(read).collect()
}

/// A descriptor, for the wire.
pub fn cache_to_wire(variant: Variant) -> pb::ChunkCache {
    let attention = |one: Attention| pb::Attention { chunk: hash_to_wire(one.chunk), share: one.share };
    pb::ChunkCache {
        content: hash_to_wire(variant.content),
        model: Some(model_to_wire(variant.model)),
        labels: variant.scope.labels.into_iter().flatten().collect(),
        prefix: variant.prefix.into_iter().map(hash_to_wire).collect(),
        tokens: variant.tokens,
        bytes: variant.bytes,
        tier: tier_to_wire(Some(variant.tier)),
        uri: variant.uri,
        cci: Some(variant.cci),
        inter: variant.inter.into_iter().map(attention).collect(),
        recompute_us: variant.recompute_us,
        created_us: variant.created_us,
    }
}

/// A cache in the catalogue.
pub fn kept_from_wire(kept: pb::KeptChunkCache) -> Result<(VariantId, Variant)> {
    let cache = required(kept.cache, "cache")?;
    let variant = cache_from_wire((&kept.collection, &kept.tenant), cache);
    let variant = variant.map_err(|error| error.within("cache"))?;
    Ok((VariantId(kept.id), Variant { hits: kept.hits, last_use_us: kept.last_use_us, ..variant }))
}

/// A cache in the catalogue, for the wire.
pub fn kept_to_wire((id, variant): (VariantId, Variant)) -> pb::KeptChunkCache {
    let (hits, last_use_us) = (variant.hits, variant.last_use_us);
    let Scope { collection, tenant, .. } = variant.scope.clone();
    pb::KeptChunkCache {
        id: id.0,
        cache: Some(cache_to_wire(variant)),
        hits,
        last_use_us,
        collection,
        tenant,
    }
}

/// On whose behalf a request is.
pub fn labels_from_wire(labels: Option<pb::LabelsCondition>) -> Result<Option<Vec<String>>> {
    let Some(pb::LabelsCondition { labels }) = labels else { return Ok(None) };
    match labels.len() <= LABELS_MAX {
        true => Ok(Some(labels)),
        false => Err(Invalid::new("labels", format!("{}, at most {LABELS_MAX}", labels.len()))),
    }
}

/// On whose behalf a request is, for the wire.
pub fn labels_to_wire(labels: Option<Vec<String>>) -> Option<pb::LabelsCondition> {
    labels.map(|labels| pb::LabelsCondition { labels })
}

/// A context whose caches are looked up.
pub fn lookup_from_wire(
    model: Option<pb::ModelKey>,
    chunks: &[pb::WantedChunk],
) -> Result<(ModelKey, Vec<Wanted>)> {
    let model = model_from_wire(model)?;
    if !(1..=ORDER_CHUNKS_MAX).contains(&chunks.len()) {
        return Err(Invalid::new("chunks", format!("{}, must be 1 to {ORDER_CHUNKS_MAX}", chunks.len())));
    }
    let wanted = |(at, chunk): (usize, &pb::WantedChunk)| {
        let content = hash_from_wire(&chunk.content, &format!("chunks[{at}].content"))?;
        Ok(Wanted { content, tokens: chunk.tokens })
    };
    Ok((model, chunks.iter().enumerate().map(wanted).collect::<Result<_>>()?))
}

/// Chunks of a context, for the wire.
pub fn wanted_to_wire(chunks: &[Wanted]) -> Vec<pb::WantedChunk> {
    let wanted =
        |chunk: &Wanted| pb::WantedChunk { content: hash_to_wire(chunk.content), tokens: chunk.tokens };
    chunks.iter().map(wanted).collect()
}

/// What there is of a chunk.
pub fn reusable_from_wire(reusable: pb::Reusable) -> Result<Reusable> {
    let best = match (reusable.best, reusable.reuse) {
        (None, None) => None,
        (Some(best), Some(reuse)) => {
            let (id, variant) = kept_from_wire(best).map_err(|error| error.within("best"))?;
            let pb::Reuse { exact, overlap, recompute_tokens, load_us, saved_us } = reuse;
            Some((variant, Reuse { id, exact, overlap, recompute_tokens, load_us, saved_us }))
        }
        _ => return Err(Invalid::new("reuse", "goes with best, and best with it")),
    };
    let advice = match pb::CacheAdvice::try_from(reusable.advice) {
        Ok(pb::CacheAdvice::Nothing) => Advice::Nothing,
        Ok(pb::CacheAdvice::Alone) => Advice::Alone,
        Ok(pb::CacheAdvice::InContext) => Advice::InContext,
        // Storing nothing is always right.
        Ok(pb::CacheAdvice::Unspecified) | Err(_) => Advice::Nothing,
    };
    Ok(Reusable { best, recompute_tokens: reusable.recompute_tokens, advice })
}

/// What there is of a chunk, for the wire.
pub fn reusable_to_wire(reusable: Reusable) -> pb::Reusable {
    let advice = match reusable.advice {
        Advice::Nothing => pb::CacheAdvice::Nothing,
        Advice::Alone => pb::CacheAdvice::Alone,
        Advice::InContext => pb::CacheAdvice::InContext,
    };
    let (best, reuse) =
        reusable.best.map(|(variant, reuse)| (kept_to_wire((reuse.id, variant)), reuse)).unzip();
    let reuse = reuse.map(|Reuse { id: _, exact, overlap, recompute_tokens, load_us, saved_us }| pb::Reuse {
        exact,
        overlap,
        recompute_tokens,
        load_us,
        saved_us,
    });
    pb::Reusable { best, reuse, recompute_tokens: reusable.recompute_tokens, advice: advice.into() }
}

/// Uses of caches and what each saved, in microseconds.
pub fn uses_from_wire(uses: Vec<pb::CacheUse>) -> Result<Vec<(VariantId, f64)>> {
    let read = |(at, one): (usize, pb::CacheUse)| match SAVED_US.contains(&one.saved_us) {
        true => Ok((VariantId(one.id), one.saved_us)),
        false => Err(Invalid::new(
            format!("uses[{at}].saved_us"),
            format!("{}, at most an hour ({RECOMPUTE_US_MAX}) in magnitude", one.saved_us),
        )),
    };
    uses.into_iter().enumerate().map(read).collect()
}

/// Uses of caches, for the wire.
pub fn uses_to_wire(uses: &[(VariantId, f64)]) -> Vec<pb::CacheUse> {
    uses.iter().map(|(id, saved_us)| pb::CacheUse { id: id.0, saved_us: *saved_us }).collect()
}

/// Notices, for the wire.
pub fn notices_to_wire(page: NoticePage) -> pb::ChunkCacheNoticesResponse {
    let notice = |notice: Notice| pb::ChunkCacheNotice {
        sequence: notice.sequence,
        id: notice.id.0,
        collection: notice.collection,
        tenant: notice.tenant,
        uri: notice.uri,
        from_tier: tier_to_wire(Some(notice.from)),
        to_tier: tier_to_wire(notice.to),
    };
    let notices = page.notices.into_iter().map(notice).collect();
    pb::ChunkCacheNoticesResponse { notices, next: page.next, more: page.more, lost: page.lost }
}

/// Notices. A tier that is not known is refused: what to do is not.
pub fn notices_from_wire(page: pb::ChunkCacheNoticesResponse) -> Result<NoticePage> {
    let notice = |(at, notice): (usize, pb::ChunkCacheNotice)| {
        let path = |name| format!("notices[{at}].{name}");
        Ok(Notice {
            sequence: notice.sequence,
            id: VariantId(notice.id),
            collection: notice.collection,
            tenant: notice.tenant,
            uri: notice.uri,
            from: required(tier_from_wire(notice.from_tier, &path("from_tier"))?, &path("from_tier"))?,
            to: tier_from_wire(notice.to_tier, &path("to_tier"))?,
        })
    };
    let notices = page.notices.into_iter().enumerate().map(notice).collect::<Result<_>>()?;
    Ok(NoticePage { notices, next: page.next, more: page.more, lost: page.lost })
}

/// What is held, for the wire.
pub fn stats_to_wire(stats: Stats) -> pb::ChunkCacheStatsResponse {
    let [hbm_bytes, dram_bytes, ssd_bytes] = stats.bytes;
    pb::ChunkCacheStatsResponse {
        caches: stats.descriptors,
        chunks: stats.chunks,
        hbm_bytes,
        dram_bytes,
        ssd_bytes,
        hits: stats.hits,
        notices_lost: stats.notices_lost,
    }
}

/// What is held.
pub fn stats_from_wire(stats: pb::ChunkCacheStatsResponse) -> Stats {
    Stats {
        descriptors: stats.caches,
        chunks: stats.chunks,
        bytes: [stats.hbm_bytes, stats.dram_bytes, stats.ssd_bytes],
        hits: stats.hits,
        notices_lost: stats.notices_lost,
    }
}

#[cfg(test)]
pub(super) mod tests;
