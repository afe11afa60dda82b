//! `spandrel.v1.RowService`; the upsert stream is in `stream`.

use std::sync::Arc;

use spandrel::{Collection, Row, Written};
use spandrel_proto::v1 as pb;
use spandrel_proto::v1::row_service_server::RowService;
use tonic::{Request, Response, Status, Streaming};

use super::{Backend, Task, stream};
use crate::auth::{Access, Caller};
use crate::call::Call;
use crate::convert::Invalid;
use crate::convert::filter::filter_from_wire;
use crate::convert::request::{fields_from_wire, scroll_from_wire};
use crate::convert::response::{scroll_to_wire, written_to_wire};
use crate::convert::row::{row_to_wire, rows_from_wire};
use crate::status;

/// The service over a backend.
pub struct Rows(pub Arc<Backend>);

/// Rows of one batch under the tenants that the caller may write; `tenant` is that of rows that name none.
fn rows_of(caller: &Caller, tenant: &str, rows: Vec<pb::Row>) -> Result<Vec<Row>, Status> {
    let mut rows = rows_from_wire(rows)?;
    // Most batches have one tenant: asked once, and again only where a row says something else.
    let mut last: Option<(String, String)> = None;
    for (at, row) in rows.iter_mut().enumerate() {
        let named = std::mem::take(&mut row.tenant);
        let requested = if named.is_empty() { tenant.to_owned() } else { named };
        if let Some((asked, granted)) = &last
            && *asked == requested
        {
            row.tenant.clone_from(granted);
            continue;
        }
        let granted = caller
            .tenant(requested.clone())
            .map_err(|error| Status::new(error.code(), format!("rows[{at}].{}", error.message())))?;
        row.tenant.clone_from(&granted);
        last = Some((requested, granted));
    }
    Ok(rows)
}

/// Writes one batch, of a unary call or of a stream.
pub(super) fn upsert(
    backend: &Task,
    caller: &Caller,
    collection: &str,
    tenant: &str,
    rows: Vec<pb::Row>,
) -> Result<Written, Status> {
    backend.limits.check_rows(rows.len())?;
    let rows = rows_of(caller, tenant, rows)?;
    let written = backend.collection(collection)?.upsert(rows).map_err(status::from_engine)?;
    backend.metrics.wrote(written.rows);
    Ok(written)
}

fn delete(backend: &Task, tenant: &str, request: pb::DeleteRequest) -> Result<Written, Status> {
    use pb::delete_request::Rows;
    let written = match request.rows {
        None => return Err(Invalid::new("rows", "keys or filter is required").into()),
        Some(Rows::Keys(keys)) => {
            backend.limits.check_keys(keys.keys.len())?;
            backend.collection(&request.collection)?.delete(tenant, &keys.keys)
        }
        Some(Rows::Filter(filter)) => {
            let filter = filter_from_wire(filter).map_err(|error| error.within("filter"))?;
            backend.collection(&request.collection)?.delete_by_filter(tenant, &filter)
        }
    };
    let written = written.map_err(status::from_engine)?;
    backend.metrics.deleted(written.rows);
    Ok(written)
}

fn get(
    (task, collection): (&Task, &Collection),
    caller: &Caller,
    tenant: &str,
    request: pb::GetRowsRequest,
) -> Result<pb::GetRowsResponse, Status> {
    task.limits.check_keys(request.keys.len())?;
    let fields = fields_from_wire(request.fields)?;
    let rows = match caller.labels(None) {
        None => collection.get(tenant, &request.keys, &fields),
        Some(labels) => collection.get_labelled(tenant, &request.keys, &labels, &fields),
    };
    let rows = rows.map_err(status::from_engine)?;
    let rows = rows.into_iter().map(|row| pb::MaybeRow { row: row.map(row_to_wire) }).collect();
    Ok(pb::GetRowsResponse { rows })
}

fn scroll(
    (task, collection): (&Task, &Collection),
    caller: &Caller,
    tenant: String,
    request: pb::ScrollRequest,
) -> Result<pb::ScrollResponse, Status> {
    let mut request = scroll_from_wire(request)?;
    task.limits.check_page(request.limit)?;
    request.tenant = tenant;
    request.filter = caller.filter(request.filter);
    collection.scroll(&request).map(scroll_to_wire).map_err(status::from_engine)
}

fn count(
    collection: &Collection,
    caller: &Caller,
    tenant: &str,
    request: pb::CountRequest,
) -> Result<pb::CountResponse, Status> {
    let filter = request.filter.map(filter_from_wire).transpose().map_err(|error| error.within("filter"))?;
    let filter = caller.filter(filter);
    let rows = collection.count(tenant, filter.as_ref()).map_err(status::from_engine)?;
    Ok(pb::CountResponse { rows })
}

#[tonic::async_trait]
impl RowService for Rows {
    async fn upsert(
        &self,
        request: Request<pb::UpsertRequest>,
    ) -> Result<Response<pb::UpsertResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Write)?;
        let caller = call.caller.clone();
        let request = request.into_inner();
        let written = self.0.write(&call, move |backend| {
            upsert(backend, &caller, &request.collection, &request.tenant, request.rows)
        });
        Ok(Response::new(pb::UpsertResponse { written: Some(written_to_wire(written.await?)) }))
    }

    async fn upsert_stream(
        &self,
        request: Request<Streaming<pb::UpsertStreamRequest>>,
    ) -> Result<Response<pb::UpsertStreamResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Write)?;
        stream::upsert(&self.0, call, request.into_inner()).await.map(Response::new)
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Write)?;
        let mut request = request.into_inner();
        let tenant = call.caller.tenant(std::mem::take(&mut request.tenant))?;
        let written = self.0.write(&call, move |backend| delete(backend, &tenant, request));
        Ok(Response::new(pb::DeleteResponse { written: Some(written_to_wire(written.await?)) }))
    }

    async fn get(
        &self,
        request: Request<pb::GetRowsRequest>,
    ) -> Result<Response<pb::GetRowsResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let mut request = request.into_inner();
        let tenant = call.caller.tenant(std::mem::take(&mut request.tenant))?;
        let caller = call.caller.clone();
        let admitted = self.0.admit(&request.collection, [tenant.as_str()])?;
        let work =
            move |task: &Task, collection: &Collection| get((task, collection), &caller, &tenant, request);
        self.0.query(&call, admitted, work).await.map(Response::new)
    }

    async fn scroll(
        &self,
        request: Request<pb::ScrollRequest>,
    ) -> Result<Response<pb::ScrollResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let mut request = request.into_inner();
        let tenant = call.caller.tenant(std::mem::take(&mut request.tenant))?;
        let caller = call.caller.clone();
        let admitted = self.0.admit(&request.collection, [tenant.as_str()])?;
        let work =
            move |task: &Task, collection: &Collection| scroll((task, collection), &caller, tenant, request);
        self.0.query(&call, admitted, work).await.map(Response::new)
    }

    async fn count(&self, request: Request<pb::CountRequest>) -> Result<Response<pb::CountResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let mut request = request.into_inner();
        let tenant = call.caller.tenant(std::mem::take(&mut request.tenant))?;
        let caller = call.caller.clone();
        let admitted = self.0.admit(&request.collection, [tenant.as_str()])?;
        let work = move |_: &Task, collection: &Collection| count(collection, &caller, &tenant, request);
        self.0.query(&call, admitted, work).await.map(Response::new)
    }

    async fn grant(&self, request: Request<pb::GrantRequest>) -> Result<Response<pb::GrantResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Write)?;
        let pb::GrantRequest { collection, tenant, keys, labels } = request.into_inner();
        let tenant = call.caller.tenant(tenant)?;
        let written = self.0.write(&call, move |backend| {
            backend.limits.check_keys(keys.len())?;
            backend.collection(&collection)?.grant(&tenant, &keys, &labels).map_err(status::from_engine)
        });
        Ok(Response::new(pb::GrantResponse { written: Some(written_to_wire(written.await?)) }))
    }

    async fn revoke(
        &self,
        request: Request<pb::RevokeRequest>,
    ) -> Result<Response<pb::RevokeResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Write)?;
        let pb::RevokeRequest { collection, tenant, keys, labels } = request.into_inner();
        let tenant = call.caller.tenant(tenant)?;
        let written = self.0.write(&call, move |backend| {
            backend.limits.check_keys(keys.len())?;
            backend.collection(&collection)?.revoke(&tenant, &keys, &labels).map_err(status::from_engine)
        });
        Ok(Response::new(pb::RevokeResponse { written: Some(written_to_wire(written.await?)) }))
    }

    async fn drop_label(
        &self,
        request: Request<pb::DropLabelRequest>,
    ) -> Result<Response<pb::DropLabelResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require_everywhere(Access::Admin)?;
        let pb::DropLabelRequest { collection, label } = request.into_inner();
        let dropped = self.0.write(&call, move |backend| {
            let dropped = backend.collection(&collection)?.drop_label(&label).map_err(status::from_engine)?;
            tracing::info!(collection, label, dropped, "label dropped");
            Ok(dropped)
        });
        Ok(Response::new(pb::DropLabelResponse { dropped: dropped.await? }))
    }

    async fn list_labels(
        &self,
        request: Request<pb::ListLabelsRequest>,
    ) -> Result<Response<pb::ListLabelsResponse>, Status> {
        let call = Call::of(&request)?;
        // Names of labels may tell of other tenants.
        call.caller.require_everywhere(Access::Read)?;
        let (caller, name) = (call.caller.clone(), request.into_inner().collection);
        let labels = self.0.read(&call, move |backend| {
            let labels = backend.collection(&name)?.labels();
            Ok(caller.labels(Some(labels)).unwrap_or_default())
        });
        Ok(Response::new(pb::ListLabelsResponse { labels: labels.await? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Tenants;
    use tonic::Code;

    fn row(tenant: &str) -> pb::Row {
        pb::Row { key: "k".to_owned(), tenant: tenant.to_owned(), ..pb::Row::default() }
    }

    fn tenants(caller: &Caller, request: &str, rows: &[&str]) -> Result<Vec<String>, Status> {
        let rows = rows_of(caller, request, rows.iter().map(|tenant| row(tenant)).collect())?;
        Ok(rows.into_iter().map(|row| row.tenant).collect())
    }

    #[test]
    fn a_rows_own_tenant_is_checked_like_the_requests() {
        let only = |names: &[&str]| Tenants::Only(names.iter().map(|name| (*name).to_owned()).collect());
        let one = Caller::new("k", Access::Write, only(&["acme"]));
        let two = Caller::new("k", Access::Write, only(&["acme", "beta"]));
        let all = Caller::new("k", Access::Write, Tenants::All);
        assert_eq!(tenants(&one, "", &["", "acme", ""]).unwrap(), ["acme", "acme", "acme"]);
        assert_eq!(tenants(&two, "beta", &["", "acme", ""]).unwrap(), ["beta", "acme", "beta"]);
        assert_eq!(tenants(&all, "", &["", "x", ""]).unwrap(), ["", "x", ""]);
        assert_eq!(tenants(&all, "t", &["", "x"]).unwrap(), ["t", "x"]);
        let refused: [(&Caller, &str, &[&str]); 4] = [
            (&one, "", &["acme", "beta"]),
            (&one, "beta", &[""]),
            (&two, "", &[""]),
            (&two, "acme", &["", "gamma"]),
        ];
        for (caller, request, rows) in refused {
            let status = tenants(caller, request, rows).unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied);
            assert!(status.message().starts_with("rows["), "{status}");
        }
    }
}
