//! What callers ask of tenants; part of [`Collection`].

use std::sync::Arc;

use spandrel_storage::Row;

use super::{Permit, Quota, TenantStats, TenantsRequest, TenantsResponse};
use super::{quota, standing, transfer};
use crate::check::check_tenant;
use crate::collection::Collection;
use crate::error::{Error, Result};
use crate::response::Written;

impl Collection {
    /// Names of the tenants that there are, sorted: those that were written to or given a quota, and not
    /// dropped. [`Collection::list_tenants`] gives them a page at a time.
    pub fn tenants(&self) -> Vec<String> {
        self.shared.tenants.names()
    }

    /// A page of tenants with what each has and uses, by name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a bad limit.
    pub fn list_tenants(&self, request: &TenantsRequest) -> Result<TenantsResponse> {
        self.shared.open()?;
        standing::list(&self.shared, request, &self.stop)
    }

    /// What a tenant has and uses.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a tenant that there is not.
    pub fn tenant_stats(&self, tenant: &str) -> Result<TenantStats> {
        self.shared.open()?;
        check_tenant(tenant)?;
        standing::stats(&self.shared, tenant).ok_or_else(|| no_tenant(tenant))
    }

    /// Reads what the first search of a tenant would have to read, as far as the memory budget has room, and
    /// returns the bytes that were read: 0 where all of it is in memory, or there is no such tenant. It
    /// counts as a query, as copies and exports do.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for damage on disk.
    pub fn warm_tenant(&self, tenant: &str) -> Result<u64> {
        self.shared.open()?;
        check_tenant(tenant)?;
        let _turn = self.permits([tenant])?;
        standing::warm(&self.shared, tenant, &self.stop)
    }

    /// Copies all rows of a tenant, as they are now, to another, where they replace those of the same keys.
    /// Labels are copied, quotas are not. Each 64 rows are a commit; a failure keeps those before it.
    ///
    /// # Errors
    /// As [`Collection::upsert`]; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a tenant that there
    /// is not.
    pub fn copy_tenant(&self, from: &str, to: &str) -> Result<Written> {
        self.shared.writable()?;
        [from, to].into_iter().try_for_each(check_tenant)?;
        let _turn = self.permits([from])?;
        let id = self.shared.tenants.get(from).ok_or_else(|| no_tenant(from))?;
        transfer::copy(&self.shared, (from, id, to), &self.stop)
    }

    /// Hands out all rows of a tenant, as they are now, with all fields and labels, in key order, at most 64
    /// at a time; returns how many.
    ///
    /// # Errors
    /// Those of `each`; as [`Collection::get`]; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a
    /// tenant that there is not.
    pub fn export_tenant(&self, tenant: &str, each: impl FnMut(Vec<Row>) -> Result<()>) -> Result<u64> {
        self.try_export_tenant(tenant, each)
    }

    /// As [`Collection::export_tenant`], for an `each` that fails in its own ways.
    ///
    /// # Errors
    /// As [`Collection::export_tenant`].
    pub fn try_export_tenant<E: From<Error>>(
        &self,
        tenant: &str,
        each: impl FnMut(Vec<Row>) -> Result<(), E>,
    ) -> Result<u64, E> {
        self.shared.open()?;
        check_tenant(tenant)?;
        let _turn = self.permits([tenant])?;
        let id = self.shared.tenants.get(tenant).ok_or_else(|| no_tenant(tenant))?;
        transfer::export(&self.shared, (tenant, id), &self.stop, each)
    }

    /// Sets what a tenant may use, durably, or with none leaves it to what holds for all. The tenant need not
    /// have rows yet.
    ///
    /// # Errors
    /// As [`Collection::upsert`]; [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a bad limit.
    pub fn set_quota(&self, tenant: &str, quota: Option<Quota>) -> Result<()> {
        quota::set(&self.shared, Some(tenant), quota)
    }

    /// Sets what each tenant may use that has no quota of its own.
    ///
    /// # Errors
    /// As [`Collection::set_quota`].
    pub fn set_default_quota(&self, quota: Option<Quota>) -> Result<()> {
        quota::set(&self.shared, None, quota)
    }

    /// What each tenant may use that has no quota of its own.
    pub fn default_quota(&self) -> Option<Quota> {
        self.shared.tenants.quotas.every()
    }

    /// Takes the turn of one query for each of these tenants, as their quotas allow, or none; the queries of
    /// the handle that is returned count no more. For callers that wait between a query's arrival and its
    /// start: a tenant's share of the queue is bounded then, too.
    ///
    /// # Errors
    /// [`ErrorKind::Exhausted`](crate::ErrorKind::Exhausted) with when to come back.
    pub fn admit<'t>(&self, tenants: impl IntoIterator<Item = &'t str>) -> Result<Self> {
        let permits = self.permits(tenants)?;
        let shared = Arc::clone(&self.shared);
        Ok(Self { shared, stop: self.stop.clone(), permits: Some(Arc::from(permits)) })
    }

    /// The turns of queries of these tenants, until dropped.
    pub(crate) fn permits<'t>(&self, tenants: impl IntoIterator<Item = &'t str>) -> Result<Vec<Permit>> {
        let mut permits: Vec<Permit> = Vec::new();
        if self.permits.is_some() {
            return Ok(permits);
        }
        let mut names: Vec<&str> = tenants.into_iter().collect();
        names.sort_unstable();
        for same in names.chunk_by(|a, b| a == b) {
            let (name, queries) = (same[0], u32::try_from(same.len()).unwrap_or(u32::MAX));
            let Some(id) = self.shared.tenants.asked(name, queries) else { continue };
            match self.shared.tenants.quotas.admit(id, name, queries) {
                Ok(permit) => permits.extend(permit),
                Err(error) => {
                    permits.into_iter().for_each(Permit::refund);
                    return Err(error);
                }
            }
        }
        Ok(permits)
    }
}

fn no_tenant(name: &str) -> Error {
    Error::not_found(format!("no tenant '{name}' has been written to"))
}
