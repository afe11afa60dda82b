//! `spandrel.v1.SearchService`.

use std::sync::Arc;

use spandrel::SearchRequest;
use spandrel_proto::v1 as pb;
use spandrel_proto::v1::search_service_server::SearchService;
use tonic::{Request, Response, Status};

use super::{Backend, Task};
use crate::auth::{Access, Caller};
use crate::call::Call;
use crate::convert::Invalid;
use crate::convert::request::{retrieve_from_wire, search_from_wire};
use crate::convert::response::{retrieve_to_wire, search_to_wire};
use crate::status;

/// The service over a backend.
pub struct Searches(pub Arc<Backend>);

/// The engine's request: within the limits, for the caller's tenant.
fn prepare(
    (backend, caller): (&Task, &Caller),
    tenant: String,
    at: &str,
    request: SearchRequest,
) -> Result<SearchRequest, Status> {
    backend.limits.check_search(at, &request)?;
    Ok(SearchRequest { tenant, labels: caller.labels(request.labels), ..request })
}

fn search(
    backend: &Task,
    caller: &Caller,
    tenant: String,
    request: pb::SearchRequest,
) -> Result<pb::SearchResponse, Status> {
    let collection = backend.collection(&request.collection)?;
    let request = prepare((backend, caller), tenant, "", search_from_wire(request)?)?;
    collection.search(&request).map(search_to_wire).map_err(status::from_engine)
}

fn search_batch(
    backend: &Task,
    caller: &Caller,
    request: pb::SearchBatchRequest,
) -> Result<pb::SearchBatchResponse, Status> {
    backend.limits.check_searches(request.searches.len())?;
    let collection = backend.collection(&request.collection)?;
    let mut searches = Vec::with_capacity(request.searches.len());
    for (at, one) in request.searches.into_iter().enumerate() {
        let path = format!("searches[{at}]");
        if !one.collection.is_empty() && one.collection != request.collection {
            let what = format!("'{}', the batch is of '{}'", one.collection, request.collection);
            return Err(Invalid::new("collection", what).within(path).into());
        }
        let one = search_from_wire(one).map_err(|error| error.within(&path))?;
        let tenant = caller
            .tenant(one.tenant.clone())
            .map_err(|error| Status::new(error.code(), format!("{path}.{}", error.message())))?;
        searches.push(prepare((backend, caller), tenant, &format!("{path}."), one)?);
    }
    let responses = collection.search_batch(&searches).map_err(status::from_engine)?;
    Ok(pb::SearchBatchResponse { responses: responses.into_iter().map(search_to_wire).collect() })
}

fn retrieve(
    backend: &Task,
    caller: &Caller,
    tenant: String,
    request: pb::RetrieveRequest,
) -> Result<pb::RetrieveResponse, Status> {
    let name = request.search.as_ref().map(|search| search.collection.clone()).unwrap_or_default();
    let mut request = retrieve_from_wire(request)?;
    if name.is_empty() {
        return Err(Invalid::new("search.collection", "is required").into());
    }
    backend.limits.check_budget(request.budget_tokens)?;
    let collection = backend.collection(&name)?;
    request.search = prepare((backend, caller), tenant, "search.", request.search)?;
    collection.retrieve(&request).map(retrieve_to_wire).map_err(status::from_engine)
}

#[tonic::async_trait]
impl SearchService for Searches {
    async fn search(
        &self,
        request: Request<pb::SearchRequest>,
    ) -> Result<Response<pb::SearchResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let mut request = request.into_inner();
        let tenant = call.caller.tenant(std::mem::take(&mut request.tenant))?;
        let caller = call.caller.clone();
        let response = self.0.read(&call, move |backend| search(backend, &caller, tenant, request));
        response.await.map(Response::new)
    }

    async fn search_batch(
        &self,
        request: Request<pb::SearchBatchRequest>,
    ) -> Result<Response<pb::SearchBatchResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let caller = call.caller.clone();
        let request = request.into_inner();
        let response = self.0.read(&call, move |backend| search_batch(backend, &caller, request));
        response.await.map(Response::new)
    }

    async fn retrieve(
        &self,
        request: Request<pb::RetrieveRequest>,
    ) -> Result<Response<pb::RetrieveResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let mut request = request.into_inner();
        let named =
            request.search.as_mut().map(|search| std::mem::take(&mut search.tenant)).unwrap_or_default();
        let tenant = call.caller.tenant(named)?;
        let caller = call.caller.clone();
        let response = self.0.read(&call, move |backend| retrieve(backend, &caller, tenant, request));
        response.await.map(Response::new)
    }
}
