//! What a client asks of tenants.

use spandrel::{Quota, Row, TenantStats, TenantsRequest, TenantsResponse, Written};
use spandrel_proto::v1 as pb;
use spandrel_proto::v1::tenant_service_client::TenantServiceClient;
use tonic::Status;
use tonic::transport::Channel;

use super::{ANSWER_BYTES_MAX, Client, bad_answer};
use crate::convert::{required, response, row, tenant};

impl Client {
    fn tenants_client(&self) -> TenantServiceClient<Channel> {
        TenantServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// A page of tenants.
    ///
    /// # Errors
    /// The server's.
    pub fn tenants(&self, collection: &str, page: TenantsRequest) -> Result<TenantsResponse, Status> {
        let request = self.request(tenant::list_to_wire(collection, page));
        let answer = self.runtime.block_on(self.tenants_client().list(request))?.into_inner();
        Ok(tenant::page_from_wire(answer))
    }

    /// What a tenant has and uses.
    ///
    /// # Errors
    /// The server's; NOT_FOUND when there is no such tenant.
    pub fn tenant(&self, collection: &str, tenant: &str) -> Result<TenantStats, Status> {
        let (collection, tenant) = (collection.to_owned(), tenant.to_owned());
        let request = self.request(pb::GetTenantRequest { collection, tenant });
        let answer = self.runtime.block_on(self.tenants_client().get(request))?.into_inner();
        let stats = required(answer.tenant, "tenant").map_err(|error| bad_answer(&error))?;
        Ok(tenant::stats_from_wire(stats))
    }

    /// Reads what a tenant's first search would have to; returns the bytes read.
    ///
    /// # Errors
    /// The server's.
    pub fn warm_tenant(&self, collection: &str, tenant: &str) -> Result<u64, Status> {
        let (collection, tenant) = (collection.to_owned(), tenant.to_owned());
        let request = self.request(pb::WarmTenantRequest { collection, tenant });
        Ok(self.runtime.block_on(self.tenants_client().warm(request))?.into_inner().read_bytes)
    }

    /// Copies all rows of a tenant to another.
    ///
    /// # Errors
    /// The server's, with what was copied before it.
    pub fn copy_tenant(&self, collection: &str, (from, to): (&str, &str)) -> Result<Written, Status> {
        let (from, to) = (Some(from.to_owned()), Some(to.to_owned()));
        let request = self.request(pb::CopyTenantRequest { collection: collection.to_owned(), from, to });
        let answer = self.runtime.block_on(self.tenants_client().copy(request))?.into_inner();
        Ok(response::written_from_wire(answer.written))
    }

    /// Gives all rows of a tenant to `each`, some at a time, in the order of their keys. An error of `each`
    /// ends the export.
    ///
    /// # Errors
    /// Those of `each`, and the server's.
    pub fn export_tenant<E: From<Status>>(
        &self,
        collection: &str,
        tenant: &str,
        mut each: impl FnMut(Vec<Row>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (collection, tenant) = (collection.to_owned(), tenant.to_owned());
        let request = self.request(pb::ExportTenantRequest { collection, tenant });
        let mut messages = self.runtime.block_on(self.tenants_client().export(request))?.into_inner();
        while let Some(message) = self.runtime.block_on(messages.message())? {
            each(row::rows_from_wire(message.rows).map_err(|error| bad_answer(&error))?)?;
        }
        Ok(())
    }

    /// Sets the quota of a tenant, or of all that have none of their own.
    ///
    /// # Errors
    /// The server's.
    pub fn set_quota(
        &self,
        collection: &str,
        tenant: Option<&str>,
        quota: Option<Quota>,
    ) -> Result<(), Status> {
        let (collection, tenant) = (collection.to_owned(), tenant.map(str::to_owned));
        let quota = quota.map(tenant::quota_to_wire);
        let request = self.request(pb::SetQuotaRequest { collection, tenant, quota });
        self.runtime.block_on(self.tenants_client().set_quota(request)).map(drop)
    }

    /// The quota of all tenants that have none of their own.
    ///
    /// # Errors
    /// The server's.
    pub fn default_quota(&self, collection: &str) -> Result<Option<Quota>, Status> {
        let request = self.request(pb::GetDefaultQuotaRequest { collection: collection.to_owned() });
        let answer = self.runtime.block_on(self.tenants_client().get_default_quota(request))?.into_inner();
        Ok(answer.quota.map(tenant::quota_from_wire))
    }

    /// Drops a tenant.
    ///
    /// # Errors
    /// The server's.
    pub fn drop_tenant(&self, collection: &str, tenant: &str) -> Result<Written, Status> {
        let (collection, tenant) = (collection.to_owned(), Some(tenant.to_owned()));
        let request = self.request(pb::DropTenantRequest { collection, tenant });
        let answer = self.runtime.block_on(self.tenants_client().drop(request))?.into_inner();
        Ok(response::written_from_wire(answer.written))
    }
}
