//! `spandrel.v1.SearchService`.

use std::sync::Arc;

use spandrel::{Collection, SearchRequest};
use spandrel_proto::v1 as pb;
use spandrel_proto::v1::search_service_server::SearchService;
use tonic::{Request, Response, Status};

use super::{Backend, Task};
use crate::auth::{Access, Caller};
use crate::call::Call;
use crate::convert::Invalid;
use crate::convert::request::search_from_wire;
use crate::convert::response::search_to_wire;
use crate::convert::retrieve::{request_from_wire, response_to_wire};
use crate::status;

/// The service over a backend.
pub struct Searches(pub Arc<Backend>);

/// The engine's request: within the limits, for the caller's tenant.
fn prepare(
    (task, caller): (&Task, &Caller),
    tenant: String,
    at: &str,
    request: SearchRequest,
) -> Result<SearchRequest, Status> {
    task.limits.check_search(at, &request)?;
    Ok(SearchRequest { tenant, labels: caller.labels(request.labels), ..request })
}

fn search(
    (task, collection): (&Task, &Collection),
    caller: &Caller,
    tenant: String,
    request: pb::SearchRequest,
) -> Result<pb::SearchResponse, Status> {
    let request = prepare((task, caller), tenant, "", search_from_wire(request)?)?;
    collection.search(&request).map(search_to_wire).map_err(status::from_engine)
}

/// The tenant of each search of a batch.
fn tenants_of(caller: &Caller, searches: &[pb::SearchRequest]) -> Result<Vec<String>, Status> {
    let tenant = |(at, one): (usize, &pb::SearchRequest)| {
        let path = |error: Status| Status::new(error.code(), format!("searches[{at}].{}", error.message()));
        caller.tenant(one.tenant.clone()).map_err(path)
    };
    searches.iter().enumerate().map(tenant).collect()
}

fn search_batch(
    (task, collection): (&Task, &Collection),
    caller: &Caller,
    tenants: Vec<String>,
    request: pb::SearchBatchRequest,
) -> Result<pb::SearchBatchResponse, Status> {
    let mut searches = Vec::with_capacity(request.searches.len());
    for (at, (one, tenant)) in request.searches.into_iter().zip(tenants).enumerate() {
        let path = format!("searches[{at}]");
        if !one.collection.is_empty() && one.collection != request.collection {
            let what = format!("'{}', the batch is of '{}'", one.collection, request.collection);
            return Err(Invalid::new("collection", what).within(path).into());
        }
        let one = search_from_wire(one).map_err(|error| error.within(&path))?;
        searches.push(prepare((task, caller), tenant, &format!("{path}."), one)?);
    }
    let responses = collection.search_batch(&searches).map_err(status::from_engine)?;
    Ok(pb::SearchBatchResponse { responses: responses.into_iter().map(search_to_wire).collect() })
}

fn retrieve(
    (task, collection): (&Task, &Collection),
    caller: &Caller,
    tenant: String,
    request: pb::RetrieveRequest,
) -> Result<pb::RetrieveResponse, Status> {
    let mut request = request_from_wire(request)?;
    task.limits.check_retrieve(&request)?;
    request.depth_max = task.limits.k_max;
    request.search = prepare((task, caller), tenant, "search.", request.search)?;
    collection.retrieve(&request).map(response_to_wire).map_err(status::from_engine)
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
        let admitted = self.0.admit(&request.collection, [tenant.as_str()])?;
        let caller = call.caller.clone();
        let work =
            move |task: &Task, collection: &Collection| search((task, collection), &caller, tenant, request);
        self.0.query(&call, admitted, work).await.map(Response::new)
    }

    async fn search_batch(
        &self,
        request: Request<pb::SearchBatchRequest>,
    ) -> Result<Response<pb::SearchBatchResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let caller = call.caller.clone();
        let request = request.into_inner();
        self.0.limits.check_searches(request.searches.len())?;
        let tenants = tenants_of(&caller, &request.searches)?;
        let admitted = self.0.admit(&request.collection, tenants.iter().map(String::as_str))?;
        let work = move |task: &Task, collection: &Collection| {
            search_batch((task, collection), &caller, tenants, request)
        };
        self.0.query(&call, admitted, work).await.map(Response::new)
    }

    async fn retrieve(
        &self,
        request: Request<pb::RetrieveRequest>,
    ) -> Result<Response<pb::RetrieveResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let mut request = request.into_inner();
        let search = request.search.as_mut().ok_or_else(|| Invalid::new("search", "is required"))?;
        let tenant = call.caller.tenant(std::mem::take(&mut search.tenant))?;
        if search.collection.is_empty() {
            return Err(Invalid::new("search.collection", "is required").into());
        }
        let admitted = self.0.admit(&search.collection, [tenant.as_str()])?;
        let caller = call.caller.clone();
        let work = move |task: &Task, collection: &Collection| {
            retrieve((task, collection), &caller, tenant, request)
        };
        self.0.query(&call, admitted, work).await.map(Response::new)
    }
}
