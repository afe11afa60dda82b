//! `spandrel.v1.ChunkCacheService`.

use std::sync::Arc;

use prost::Message;
use spandrel::ErrorKind;
use spandrel::rag::kv::{ChunkCatalogue, Scope, Variant, VariantId};
use spandrel_proto::v1 as pb;
use spandrel_proto::v1::chunk_cache_service_server::ChunkCacheService;
use tonic::{Request, Response, Status};

use super::{Backend, Task};
use crate::auth::{Access, Caller};
use crate::call::Call;
use crate::convert::Invalid;
use crate::convert::chunk_cache::{
    caches_from_wire, hash_from_wire, kept_to_wire, labels_from_wire, lookup_from_wire, notices_to_wire,
    reusable_to_wire, stats_to_wire, uses_from_wire,
};
use crate::status;

/// A page is ended before it gets larger than this, unless one cache is.
const PAGE_BYTES_TARGET: usize = 1 << 20;
/// Caches that are copied at a time.
const STEP: usize = 64;

/// The service over a backend.
pub struct ChunkCaches(pub Arc<Backend>);

impl Backend {
    fn catalogue(&self) -> Result<&ChunkCatalogue, Status> {
        self.database.chunk_caches().map_err(status::from_engine)
    }

    /// The catalogue, for what concerns a collection that is there.
    fn catalogue_of(&self, collection: &str) -> Result<&ChunkCatalogue, Status> {
        let catalogue = self.catalogue()?;
        self.find(collection)?;
        Ok(catalogue)
    }
}

/// What the caller may see of a tenant's caches.
fn scope_of(
    caller: &Caller,
    (collection, tenant): (String, String),
    labels: Option<pb::LabelsCondition>,
) -> Result<Scope, Status> {
    let labels = caller.labels(labels_from_wire(labels)?);
    let labels = labels.map(|labels| labels.into_iter().collect());
    Ok(Scope { labels, ..Scope::tenant(collection, caller.tenant(tenant)?) })
}

/// The tenant that the caller asks for, or none for all of them.
fn owner_of(
    caller: &Caller,
    needed: Access,
    (collection, tenant): (String, String),
    all: bool,
) -> Result<Option<(String, String)>, Status> {
    caller.require(needed)?;
    caller.require_all_rows()?;
    if !all {
        if collection.is_empty() {
            return Err(Invalid::new("collection", "is required").into());
        }
        return Ok(Some((collection, caller.tenant(tenant)?)));
    }
    caller.require_everywhere(needed)?;
    match collection.is_empty() && tenant.is_empty() {
        true => Ok(None),
        false => Err(Invalid::new("all", "goes with no collection and no tenant").into()),
    }
}

fn borrowed(owner: &Option<(String, String)>) -> Option<(&str, &str)> {
    owner.as_ref().map(|(collection, tenant)| (collection.as_str(), tenant.as_str()))
}

fn put(catalogue: &ChunkCatalogue, variant: Variant) -> Result<pb::PutOutcome, Status> {
    use pb::put_outcome::Outcome;
    let outcome = match catalogue.put(variant) {
        Ok(id) => Outcome::Id(id.0),
        Err(error) if error.kind() == ErrorKind::Exhausted => Outcome::Refused(error.message().to_owned()),
        Err(error) => return Err(status::from_engine(error)),
    };
    Ok(pb::PutOutcome { outcome: Some(outcome) })
}

fn list(catalogue: &ChunkCatalogue, scope: &Scope, after: u64, limit: usize) -> pb::ListChunkCachesResponse {
    let mut page = pb::ListChunkCachesResponse::default();
    let (mut after, mut bytes) = (VariantId(after), 0);
    loop {
        let some = catalogue.list(scope, after, STEP);
        let is_last = some.len() < STEP;
        for kept in some.into_iter().map(kept_to_wire) {
            bytes += kept.encoded_len();
            let is_full = page.caches.len() == limit || bytes > PAGE_BYTES_TARGET;
            if is_full && !page.caches.is_empty() {
                page.next = Some(after.0);
                return page;
            }
            after = VariantId(kept.id);
            page.caches.push(kept);
        }
        if is_last {
            return page;
        }
    }
}

fn lookup(
    task: &Task,
    scope: &Scope,
    model: Option<pb::ModelKey>,
    chunks: &[pb::WantedChunk],
) -> Result<pb::LookupChunkCachesResponse, Status> {
    let (model, wanted) = lookup_from_wire(model, chunks)?;
    let found = task.catalogue()?.lookup(scope, &model, &wanted, &task.stop).map_err(status::from_engine)?;
    Ok(pb::LookupChunkCachesResponse { chunks: found.into_iter().map(reusable_to_wire).collect() })
}

#[tonic::async_trait]
impl ChunkCacheService for ChunkCaches {
    async fn put(
        &self,
        request: Request<pb::PutChunkCachesRequest>,
    ) -> Result<Response<pb::PutChunkCachesResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Write)?;
        call.caller.require_all_rows()?;
        let pb::PutChunkCachesRequest { collection, tenant, caches } = request.into_inner();
        let tenant = call.caller.tenant(tenant)?;
        let outcomes = self.0.write(&call, move |task| {
            task.limits.check_batch("caches", caches.len())?;
            let catalogue = task.catalogue_of(&collection)?;
            let variants = caches_from_wire((&collection, &tenant), caches)?;
            variants.into_iter().map(|variant| put(catalogue, variant)).collect()
        });
        Ok(Response::new(pb::PutChunkCachesResponse { outcomes: outcomes.await? }))
    }

    async fn lookup(
        &self,
        request: Request<pb::LookupChunkCachesRequest>,
    ) -> Result<Response<pb::LookupChunkCachesResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let pb::LookupChunkCachesRequest { collection, tenant, labels, model, chunks } = request.into_inner();
        let scope = scope_of(&call.caller, (collection, tenant), labels)?;
        let admitted = self.0.admit(&scope.collection, [scope.tenant.as_str()])?;
        let found = self.0.query(&call, admitted, move |task, _| lookup(task, &scope, model, &chunks));
        found.await.map(Response::new)
    }

    async fn touch(
        &self,
        request: Request<pb::TouchChunkCachesRequest>,
    ) -> Result<Response<pb::TouchChunkCachesResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Write)?;
        let pb::TouchChunkCachesRequest { collection, tenant, labels, uses } = request.into_inner();
        let scope = scope_of(&call.caller, (collection, tenant), labels)?;
        let known = self.0.write(&call, move |task| {
            task.limits.check_batch("uses", uses.len())?;
            let uses = uses_from_wire(uses)?;
            Ok(task.catalogue_of(&scope.collection)?.touch(&scope, &uses))
        });
        Ok(Response::new(pb::TouchChunkCachesResponse { known: known.await? as u64 }))
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveChunkCachesRequest>,
    ) -> Result<Response<pb::RemoveChunkCachesResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Write)?;
        let pb::RemoveChunkCachesRequest { collection, tenant, labels, mut ids } = request.into_inner();
        let scope = scope_of(&call.caller, (collection, tenant), labels)?;
        let removed = self.0.write(&call, move |task| {
            task.limits.check_batch("ids", ids.len())?;
            let catalogue = task.catalogue_of(&scope.collection)?;
            ids.retain(|id| catalogue.remove(&scope, VariantId(*id)).is_some());
            Ok(ids)
        });
        Ok(Response::new(pb::RemoveChunkCachesResponse { removed: removed.await? }))
    }

    async fn forget_chunk(
        &self,
        request: Request<pb::ForgetChunkRequest>,
    ) -> Result<Response<pb::ForgetChunkResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Write)?;
        call.caller.require_all_rows()?;
        let pb::ForgetChunkRequest { collection, tenant, content } = request.into_inner();
        let tenant = call.caller.tenant(tenant)?;
        let removed = self.0.write(&call, move |task| {
            let content = hash_from_wire(&content, "content")?;
            Ok(task.catalogue_of(&collection)?.forget_chunk((&collection, &tenant), content))
        });
        Ok(Response::new(pb::ForgetChunkResponse { removed: removed.await? as u64 }))
    }

    async fn list(
        &self,
        request: Request<pb::ListChunkCachesRequest>,
    ) -> Result<Response<pb::ListChunkCachesResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let pb::ListChunkCachesRequest { collection, tenant, labels, after, limit } = request.into_inner();
        let scope = scope_of(&call.caller, (collection, tenant), labels)?;
        let limit = limit as usize;
        self.0.limits.check_page(limit)?;
        let admitted = self.0.admit(&scope.collection, [scope.tenant.as_str()])?;
        let work = move |task: &Task, _: &_| Ok(list(task.catalogue()?, &scope, after, limit));
        self.0.query(&call, admitted, work).await.map(Response::new)
    }

    async fn notices(
        &self,
        request: Request<pb::ChunkCacheNoticesRequest>,
    ) -> Result<Response<pb::ChunkCacheNoticesResponse>, Status> {
        let call = Call::of(&request)?;
        let pb::ChunkCacheNoticesRequest { collection, tenant, all, after, limit } = request.into_inner();
        // Of a collection that is gone, too: its tensors are still to be freed.
        let owner = owner_of(&call.caller, Access::Write, (collection, tenant), all)?;
        let limit = limit as usize;
        self.0.limits.check_page(limit)?;
        let page =
            self.0.write(&call, move |task| Ok(task.catalogue()?.notices(borrowed(&owner), after, limit)));
        Ok(Response::new(notices_to_wire(page.await?)))
    }

    async fn stats(
        &self,
        request: Request<pb::ChunkCacheStatsRequest>,
    ) -> Result<Response<pb::ChunkCacheStatsResponse>, Status> {
        let call = Call::of(&request)?;
        let pb::ChunkCacheStatsRequest { collection, tenant, all } = request.into_inner();
        let owner = owner_of(&call.caller, Access::Read, (collection, tenant), all)?;
        let stats = self.0.stats(&call, move |task| {
            let catalogue = match &owner {
                Some((collection, _)) => task.catalogue_of(collection)?,
                None => task.catalogue()?,
            };
            Ok(catalogue.stats(borrowed(&owner)))
        });
        Ok(Response::new(stats_to_wire(stats.await?)))
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::auth::Tenants;

    fn said(collection: &str, tenant: &str) -> (String, String) {
        (collection.to_owned(), tenant.to_owned())
    }

    #[test]
    fn a_scope_is_what_the_key_and_the_request_allow() {
        let labels = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        let only = || Tenants::Only(["acme".to_owned()].into());
        let bound = Caller::with_labels("k", Access::Read, only(), labels(&["a", "b"]));
        let asked = |names: &[&str]| {
            Some(pb::LabelsCondition { labels: names.iter().map(|name| (*name).to_owned()).collect() })
        };
        let scope = scope_of(&bound, said("docs", ""), None).unwrap();
        assert_eq!(scope, Scope { labels: labels(&["a", "b"]), ..Scope::tenant("docs", "acme") });
        let scope = scope_of(&bound, said("docs", "acme"), asked(&["b", "c"])).unwrap();
        assert_eq!(scope.labels, labels(&["b"]));
        let refused = scope_of(&bound, said("docs", "beta"), None).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let free = Caller::new("k", Access::Read, Tenants::All);
        assert_eq!(scope_of(&free, said("docs", "x"), None).unwrap(), Scope::tenant("docs", "x"));
        assert_eq!(scope_of(&free, said("docs", "x"), asked(&[])).unwrap().labels, labels(&[]));
    }

    #[test]
    fn all_tenants_are_for_who_may_see_all_of_them() {
        let one = Caller::new("k", Access::Write, Tenants::Only(["acme".to_owned()].into()));
        let all = Caller::new("k", Access::Write, Tenants::All);
        let read = Caller::new("k", Access::Read, Tenants::All);
        let bound = Caller::with_labels("k", Access::Admin, Tenants::All, Some(["a".to_owned()].into()));
        let owner = |caller: &Caller, at: (&str, &str), everything| {
            let owner = owner_of(caller, Access::Write, said(at.0, at.1), everything);
            owner.map_err(|status| status.code())
        };
        assert_eq!(owner(&one, ("docs", ""), false), Ok(Some(said("docs", "acme"))));
        assert_eq!(owner(&all, ("docs", ""), false), Ok(Some(said("docs", ""))));
        assert_eq!(owner(&all, ("", ""), true), Ok(None));
        assert_eq!(owner(&all, ("", ""), false), Err(Code::InvalidArgument));
        assert_eq!(owner(&all, ("docs", ""), true), Err(Code::InvalidArgument));
        assert_eq!(owner(&all, ("", "acme"), true), Err(Code::InvalidArgument));
        for (caller, at, everything) in [
            (&one, ("", ""), true),
            (&one, ("docs", "beta"), false),
            (&read, ("", ""), true),
            (&bound, ("", ""), true),
        ] {
            assert_eq!(owner(caller, at, everything), Err(Code::PermissionDenied), "{at:?}");
        }
    }
}
