//! What a client asks of chunk caches.

use spandrel::rag::kv::{
    ModelKey, NoticePage, Owner, Reusable, Scope, Stats, TokenHash, Variant, VariantId, Wanted,
};
use spandrel_proto::v1 as pb;
use spandrel_proto::v1::chunk_cache_service_client::ChunkCacheServiceClient;
use tonic::Status;
use tonic::transport::Channel;

use super::{ANSWER_BYTES_MAX, Client, bad_answer};
use crate::convert::chunk_cache::{
    cache_to_wire, hash_to_wire, kept_from_wire, labels_to_wire, model_to_wire, notices_from_wire,
    reusable_from_wire, stats_from_wire, uses_to_wire, wanted_to_wire,
};
use crate::convert::count;

/// A page of caches, and what to list the next one after; none: this is the last.
pub type ChunkCachePage = (Vec<(VariantId, Variant)>, Option<VariantId>);

/// A scope as requests say it.
fn said(scope: &Scope) -> (String, String, Option<pb::LabelsCondition>) {
    let labels = scope.labels.as_ref().map(|labels| labels.iter().cloned().collect());
    (scope.collection.clone(), scope.tenant.clone(), labels_to_wire(labels))
}

/// Whose caches; all of them where none is named.
fn owned(owner: Option<Owner<'_>>) -> (String, String, bool) {
    let (collection, tenant) = owner.unwrap_or_default();
    (collection.to_owned(), tenant.to_owned(), owner.is_none())
}

impl Client {
    fn chunk_caches_client(&self) -> ChunkCacheServiceClient<Channel> {
        ChunkCacheServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Takes caches in as those of this tenant, whatever they say; for each its id, or why it is not worth
    /// its room.
    ///
    /// # Errors
    /// The server's; nothing is taken in then.
    pub fn put_chunk_caches(
        &self,
        (collection, tenant): Owner<'_>,
        caches: Vec<Variant>,
    ) -> Result<Vec<Result<VariantId, String>>, Status> {
        use pb::put_outcome::Outcome;
        let (collection, tenant) = (collection.to_owned(), tenant.to_owned());
        let caches = caches.into_iter().map(cache_to_wire).collect();
        let request = self.request(pb::PutChunkCachesRequest { collection, tenant, caches });
        let answer = self.runtime.block_on(self.chunk_caches_client().put(request))?.into_inner();
        let outcome = |one: pb::PutOutcome| match one.outcome {
            Some(Outcome::Id(id)) => Ok(VariantId(id)),
            Some(Outcome::Refused(why)) => Err(why),
            None => Err("the server does not say why".to_owned()),
        };
        Ok(answer.outcomes.into_iter().map(outcome).collect())
    }

    /// For each chunk of a context, in its order, what can be reused.
    ///
    /// # Errors
    /// The server's.
    pub fn lookup_chunk_caches(
        &self,
        scope: &Scope,
        model: ModelKey,
        order: &[Wanted],
    ) -> Result<Vec<Reusable>, Status> {
        let (collection, tenant, labels) = said(scope);
        let (model, chunks) = (Some(model_to_wire(model)), wanted_to_wire(order));
        let request =
            self.request(pb::LookupChunkCachesRequest { collection, tenant, labels, model, chunks });
        let answer = self.runtime.block_on(self.chunk_caches_client().lookup(request))?.into_inner();
        let found = answer.chunks.into_iter().map(reusable_from_wire);
        found.collect::<Result<_, _>>().map_err(|error| bad_answer(&error))
    }

    /// Notes uses of caches and what each saved, in microseconds; how many of them are there.
    ///
    /// # Errors
    /// The server's.
    pub fn touch_chunk_caches(&self, scope: &Scope, uses: &[(VariantId, f64)]) -> Result<u64, Status> {
        let (collection, tenant, labels) = said(scope);
        let uses = uses_to_wire(uses);
        let request = self.request(pb::TouchChunkCachesRequest { collection, tenant, labels, uses });
        Ok(self.runtime.block_on(self.chunk_caches_client().touch(request))?.into_inner().known)
    }

    /// Removes caches, whose tensors the caller frees; those that were there.
    ///
    /// # Errors
    /// The server's.
    pub fn remove_chunk_caches(&self, scope: &Scope, ids: &[VariantId]) -> Result<Vec<VariantId>, Status> {
        let (collection, tenant, labels) = said(scope);
        let ids = ids.iter().map(|id| id.0).collect();
        let request = self.request(pb::RemoveChunkCachesRequest { collection, tenant, labels, ids });
        let answer = self.runtime.block_on(self.chunk_caches_client().remove(request))?.into_inner();
        Ok(answer.removed.into_iter().map(VariantId).collect())
    }

    /// Removes all that was computed from a chunk; how many caches went.
    ///
    /// # Errors
    /// The server's.
    pub fn forget_chunk(&self, (collection, tenant): Owner<'_>, content: TokenHash) -> Result<u64, Status> {
        let (collection, tenant) = (collection.to_owned(), tenant.to_owned());
        let content = hash_to_wire(content);
        let request = self.request(pb::ForgetChunkRequest { collection, tenant, content });
        Ok(self.runtime.block_on(self.chunk_caches_client().forget_chunk(request))?.into_inner().removed)
    }

    /// Up to `limit` caches with ids above `after`, by id.
    ///
    /// # Errors
    /// The server's.
    pub fn chunk_caches(
        &self,
        scope: &Scope,
        after: VariantId,
        limit: usize,
    ) -> Result<ChunkCachePage, Status> {
        let (collection, tenant, labels) = said(scope);
        let (after, limit) = (after.0, count(limit));
        let request = self.request(pb::ListChunkCachesRequest { collection, tenant, labels, after, limit });
        let page = self.runtime.block_on(self.chunk_caches_client().list(request))?.into_inner();
        let caches = page.caches.into_iter().map(kept_from_wire).collect::<Result<_, _>>();
        Ok((caches.map_err(|error| bad_answer(&error))?, page.next.map(VariantId)))
    }

    /// Up to `limit` notices behind number `after`, of a tenant or of all; those up to it are done.
    ///
    /// # Errors
    /// The server's.
    pub fn chunk_cache_notices(
        &self,
        owner: Option<Owner<'_>>,
        after: u64,
        limit: usize,
    ) -> Result<NoticePage, Status> {
        let (collection, tenant, all) = owned(owner);
        let limit = count(limit);
        let request = self.request(pb::ChunkCacheNoticesRequest { collection, tenant, all, after, limit });
        let page = self.runtime.block_on(self.chunk_caches_client().notices(request))?.into_inner();
        notices_from_wire(page).map_err(|error| bad_answer(&error))
    }

    /// What is held of a tenant, or of all.
    ///
    /// # Errors
    /// The server's.
    pub fn chunk_cache_stats(&self, owner: Option<Owner<'_>>) -> Result<Stats, Status> {
        let (collection, tenant, all) = owned(owner);
        let request = self.request(pb::ChunkCacheStatsRequest { collection, tenant, all });
        let stats = self.runtime.block_on(self.chunk_caches_client().stats(request))?.into_inner();
        Ok(stats_from_wire(stats))
    }
}
