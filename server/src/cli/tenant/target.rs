//! What commands ask of tenants, of a folder or of a server.

use spandrel::{Quota, Row, TenantStats, TenantsRequest, TenantsResponse, Written};

use super::super::CliError;
use super::super::target::{Target, local};

impl Target {
    /// A page of tenants.
    pub(super) fn tenants(
        &self,
        collection: &str,
        page: TenantsRequest,
    ) -> Result<TenantsResponse, CliError> {
        match self {
            Self::Local(database) => Ok(local(database, collection)?.list_tenants(&page)?),
            Self::Remote(client) => Ok(client.tenants(collection, page)?),
        }
    }

    /// What a tenant has and uses.
    pub(super) fn tenant(&self, collection: &str, tenant: &str) -> Result<TenantStats, CliError> {
        match self {
            Self::Local(database) => Ok(local(database, collection)?.tenant_stats(tenant)?),
            Self::Remote(client) => Ok(client.tenant(collection, tenant)?),
        }
    }

    /// Reads what the tenant's first search would have to; returns the bytes read.
    pub(super) fn warm_tenant(&self, collection: &str, tenant: &str) -> Result<u64, CliError> {
        match self {
            Self::Local(database) => Ok(local(database, collection)?.warm_tenant(tenant)?),
            Self::Remote(client) => Ok(client.warm_tenant(collection, tenant)?),
        }
    }

    /// Copies all rows of a tenant to another.
    pub(super) fn copy_tenant(
        &self,
        collection: &str,
        (from, to): (&str, &str),
    ) -> Result<Written, CliError> {
        match self {
            Self::Local(database) => Ok(local(database, collection)?.copy_tenant(from, to)?),
            Self::Remote(client) => Ok(client.copy_tenant(collection, (from, to))?),
        }
    }

    /// Gives all rows of a tenant to `each`, some at a time; an error of `each` ends it.
    pub(super) fn export_tenant(
        &self,
        collection: &str,
        tenant: &str,
        each: impl FnMut(Vec<Row>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        match self {
            Self::Local(database) => {
                Ok(local(database, collection)?.try_export_tenant(tenant, each).map(drop)?)
            }
            Self::Remote(client) => client.export_tenant(collection, tenant, each),
        }
    }

    /// Sets the quota of a tenant, or of all that have none of their own.
    pub(super) fn set_quota(
        &self,
        collection: &str,
        tenant: Option<&str>,
        quota: Option<Quota>,
    ) -> Result<(), CliError> {
        match (self, tenant) {
            (Self::Local(database), Some(tenant)) => local(database, collection)?.set_quota(tenant, quota)?,
            (Self::Local(database), None) => local(database, collection)?.set_default_quota(quota)?,
            (Self::Remote(client), tenant) => client.set_quota(collection, tenant, quota)?,
        }
        Ok(())
    }

    /// The quota of all tenants that have none of their own.
    pub(super) fn default_quota(&self, collection: &str) -> Result<Option<Quota>, CliError> {
        match self {
            Self::Local(database) => Ok(local(database, collection)?.default_quota()),
            Self::Remote(client) => Ok(client.default_quota(collection)?),
        }
    }

    /// Drops a tenant.
    pub(super) fn drop_tenant(&self, collection: &str, tenant: &str) -> Result<Written, CliError> {
        match self {
            Self::Local(database) => Ok(local(database, collection)?.drop_tenant(tenant)?),
            Self::Remote(client) => Ok(client.drop_tenant(collection, tenant)?),
        }
    }
}
