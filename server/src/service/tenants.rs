//! `spandrel.v1.TenantService`; the export stream is in `export`.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use spandrel::{Collection, ErrorKind, TenantsRequest, TenantsResponse, Written};
use spandrel_proto::v1 as pb;
use spandrel_proto::v1::tenant_service_server::TenantService;
use tonic::{Request, Response, Status};

use super::export::{self, Messages};
use super::{Backend, Task};
use crate::auth::{Access, Caller, Tenants as Allowed};
use crate::call::Call;
use crate::convert::Invalid;
use crate::convert::response::written_to_wire;
use crate::convert::tenant::{list_from_wire, page_to_wire, quota_from_wire, quota_to_wire, stats_to_wire};
use crate::status;

/// The service over a backend.
pub struct Tenants(pub Arc<Backend>);

/// A tenant that has to be said.
fn said(tenant: Option<String>, path: &str) -> Result<String, Status> {
    let missing = || Invalid::new(path, "is required; empty is the default tenant");
    Ok(tenant.ok_or_else(missing)?)
}

fn list(task: &Task, caller: &Caller, name: &str, page: &TenantsRequest) -> Result<TenantsResponse, Status> {
    task.limits.check_page(page.limit)?;
    let collection = task.collection(name)?;
    let page = match caller.tenants() {
        Allowed::All => collection.list_tenants(page),
        Allowed::Only(names) => page_of(&collection, names, page),
    };
    page.map_err(status::from_engine)
}

/// A page of those of these tenants that there are.
fn page_of(
    collection: &Collection,
    names: &BTreeSet<String>,
    request: &TenantsRequest,
) -> spandrel::Result<TenantsResponse> {
    let mut page = TenantsResponse::default();
    let after = request.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    for name in names.range::<str, _>((after, Bound::Unbounded)) {
        match collection.tenant_stats(name) {
            Ok(_) if page.tenants.len() == request.limit => {
                page.next = page.tenants.last().map(|last| last.tenant.clone());
                break;
            }
            Ok(stats) => page.tenants.push(stats),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(page)
}

fn copy(task: &Task, collection: &Collection, (from, to): (&str, &str)) -> Result<Written, Status> {
    let written = collection.copy_tenant(from, to).map_err(status::from_engine)?;
    tracing::info!(collection = collection.name(), from, to, rows = written.rows, "tenant copied");
    task.metrics.wrote(written.rows);
    Ok(written)
}

fn set_quota(task: &Task, request: pb::SetQuotaRequest) -> Result<(), Status> {
    let pb::SetQuotaRequest { collection: name, tenant, quota } = request;
    let collection = task.collection(&name)?;
    let quota = quota.map(quota_from_wire);
    let set = match &tenant {
        Some(tenant) => collection.set_quota(tenant, quota),
        None => collection.set_default_quota(quota),
    };
    set.map_err(status::from_engine)?;
    tracing::info!(collection = name, tenant, ?quota, "quota set");
    Ok(())
}

/// Drops a tenant. Who may not set quotas does not rid the tenant of its own in this way, either.
fn drop_one(task: &Task, caller: &Caller, name: &str, tenant: &str) -> Result<Written, Status> {
    let collection = task.collection(name)?;
    let written = match caller.require_everywhere(Access::Admin) {
        Ok(()) => collection.drop_tenant(tenant),
        Err(_) => collection.empty_tenant(tenant),
    };
    let written = written.map_err(status::from_engine)?;
    tracing::info!(collection = name, tenant, rows = written.rows, "tenant dropped");
    task.metrics.deleted(written.rows);
    Ok(written)
}

#[tonic::async_trait]
impl TenantService for Tenants {
    async fn list(
        &self,
        request: Request<pb::ListTenantsRequest>,
    ) -> Result<Response<pb::ListTenantsResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        call.caller.require_all_rows()?;
        let (caller, mut request) = (call.caller.clone(), request.into_inner());
        let name = std::mem::take(&mut request.collection);
        let request = list_from_wire(request);
        let page = self.0.read(&call, move |task| list(task, &caller, &name, &request));
        Ok(Response::new(page_to_wire(page.await?)))
    }

    async fn get(
        &self,
        request: Request<pb::GetTenantRequest>,
    ) -> Result<Response<pb::GetTenantResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        call.caller.require_all_rows()?;
        let pb::GetTenantRequest { collection, tenant } = request.into_inner();
        let tenant = call.caller.tenant(tenant)?;
        let stats = self.0.read(&call, move |task| {
            task.collection(&collection)?.tenant_stats(&tenant).map_err(status::from_engine)
        });
        Ok(Response::new(pb::GetTenantResponse { tenant: Some(stats_to_wire(stats.await?)) }))
    }

    async fn warm(
        &self,
        request: Request<pb::WarmTenantRequest>,
    ) -> Result<Response<pb::WarmTenantResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        call.caller.require_all_rows()?;
        let pb::WarmTenantRequest { collection, tenant } = request.into_inner();
        let tenant = call.caller.tenant(tenant)?;
        let admitted = self.0.admit(&collection, [tenant.as_str()])?;
        let read_bytes = self.0.bulk(&call, move |task| {
            task.within(&admitted).warm_tenant(&tenant).map_err(status::from_engine)
        });
        Ok(Response::new(pb::WarmTenantResponse { read_bytes: read_bytes.await? }))
    }

    async fn copy(
        &self,
        request: Request<pb::CopyTenantRequest>,
    ) -> Result<Response<pb::CopyTenantResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Write)?;
        call.caller.require_all_rows()?;
        let pb::CopyTenantRequest { collection, from, to } = request.into_inner();
        let (from, to) = (said(from, "from")?, said(to, "to")?);
        call.caller.require_tenant(&from)?;
        call.caller.require_tenant(&to)?;
        let admitted = self.0.admit(&collection, [from.as_str()])?;
        let written = self.0.bulk(&call, move |task| copy(task, &task.within(&admitted), (&from, &to)));
        Ok(Response::new(pb::CopyTenantResponse { written: Some(written_to_wire(written.await?)) }))
    }

    type ExportStream = Messages;

    async fn export(&self, request: Request<pb::ExportTenantRequest>) -> Result<Response<Messages>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        let pb::ExportTenantRequest { collection, tenant } = request.into_inner();
        let tenant = call.caller.tenant(tenant)?;
        let admitted = self.0.admit(&collection, [tenant.as_str()])?;
        Ok(Response::new(export::begin(&self.0, call, admitted, tenant)))
    }

    async fn set_quota(
        &self,
        request: Request<pb::SetQuotaRequest>,
    ) -> Result<Response<pb::SetQuotaResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require_everywhere(Access::Admin)?;
        let request = request.into_inner();
        // Not behind the writes of a tenant that is to be held back.
        self.0.admin(&call, move |task| set_quota(task, request)).await?;
        Ok(Response::new(pb::SetQuotaResponse {}))
    }

    async fn get_default_quota(
        &self,
        request: Request<pb::GetDefaultQuotaRequest>,
    ) -> Result<Response<pb::GetDefaultQuotaResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Read)?;
        call.caller.require_all_rows()?;
        let name = request.into_inner().collection;
        let quota = self.0.read(&call, move |task| Ok(task.collection(&name)?.default_quota()));
        Ok(Response::new(pb::GetDefaultQuotaResponse { quota: quota.await?.map(quota_to_wire) }))
    }

    async fn drop(
        &self,
        request: Request<pb::DropTenantRequest>,
    ) -> Result<Response<pb::DropTenantResponse>, Status> {
        let call = Call::of(&request)?;
        call.caller.require(Access::Admin)?;
        call.caller.require_all_rows()?;
        let pb::DropTenantRequest { collection, tenant } = request.into_inner();
        let tenant = said(tenant, "tenant")?;
        // Exactly the tenant that was said: an empty name is never the key's only tenant.
        call.caller.require_tenant(&tenant)?;
        let caller = call.caller.clone();
        let written = self.0.write(&call, move |task| drop_one(task, &caller, &collection, &tenant));
        Ok(Response::new(pb::DropTenantResponse { written: Some(written_to_wire(written.await?)) }))
    }
}
