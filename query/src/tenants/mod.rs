//! The tenants of a collection: their names and ids, what they may use and what they use.
//!
//! | file | question |
//! |---|---|
//! | `door` | what may callers ask of them? |
//! | `names` | which id has a name? |
//! | `quota` | how much may a tenant hold and ask? |
//! | `standing` | what has it, and where? |
//! | `transfer` | all of its rows: copied, handed out |

mod door;
mod names;
mod quota;
mod standing;
mod transfer;

use std::collections::BinaryHeap;

use parking_lot::RwLock;
use spandrel_storage::TenantId;
use spandrel_storage::store::Store;

use self::names::Names;
pub use self::quota::Quota;
use self::quota::Quotas;
pub(crate) use self::quota::{Held, Permit};
pub use self::standing::{TenantState, TenantStats, TenantsRequest, TenantsResponse};
use crate::error::Result;

/// The tenants of a collection, shared by writers and readers.
pub(crate) struct Tenants {
    names: RwLock<Names>,
    pub quotas: Quotas,
}

impl Tenants {
    /// From what the row store holds.
    pub fn open(store: &Store, collection: spandrel_storage::CollectionId) -> Result<Self> {
        let mut names = Names::new(store.tenants(collection)?, store.next_tenant(collection)?);
        for (tenant, bytes) in store.tenant_bytes(collection)? {
            names.set_bytes(tenant, bytes);
        }
        let quotas = Quotas::new(store.quotas(collection)?)?;
        Ok(Self { names: RwLock::new(names), quotas })
    }

    /// The id of a name that has been written to and not dropped.
    pub fn get(&self, name: &str) -> Option<TenantId> {
        self.names.read().get(name)
    }

    /// As [`get`](Self::get), for queries of the tenant, which are counted.
    pub fn asked(&self, name: &str, queries: u32) -> Option<TenantId> {
        self.names.read().asked(name, queries)
    }

    /// The id that the next new name gets.
    pub fn next(&self) -> TenantId {
        self.names.read().next()
    }

    /// Bytes of the records of a tenant.
    pub fn bytes(&self, tenant: TenantId) -> u64 {
        self.names.read().bytes(tenant)
    }

    /// Takes in a commit that is durable. One at a time: under the write lock.
    pub fn note(
        &self,
        new: Vec<(TenantId, String)>,
        bytes: &[(TenantId, u64)],
        dropped: Option<TenantId>,
        quotas: &[(TenantId, Option<Quota>)],
    ) {
        // Queries find a tenant's quota as soon as they find the tenant.
        quotas.iter().for_each(|(id, quota)| self.quotas.note(*id, *quota));
        if new.is_empty() && bytes.is_empty() && dropped.is_none() {
            return;
        }
        let mut names = self.names.write();
        if let Some(id) = dropped {
            names.remove(id);
            self.quotas.forget(id);
        }
        new.into_iter().for_each(|(id, name)| names.insert(id, &name));
        bytes.iter().for_each(|(id, bytes)| names.set_bytes(*id, *bytes));
        if !names.has_many_holes() {
            return;
        }
        drop(names);
        // Queries go on meanwhile.
        let closed = self.names.read().without_holes();
        self.names.write().close_holes(closed);
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.names.read().all().map(str::to_owned).collect();
        names.sort_unstable();
        names
    }

    /// Up to `limit` names after one, sorted.
    pub fn names_after(&self, after: Option<&str>, limit: usize) -> Vec<String> {
        let (mut first, mut id) = (BinaryHeap::new(), TenantId::default());
        // A few at a time: whoever adds a tenant meanwhile, and all who wait behind, wait for no more.
        while self.names.read().after(&mut id, after, limit, &mut first) {}
        first.into_sorted_vec()
    }

    /// How often a tenant was asked since the collection was opened.
    pub fn queries(&self, tenant: TenantId) -> u32 {
        self.names.read().queries(tenant)
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.read().len()
    }

    /// Bytes of memory that all of this takes.
    pub fn memory_bytes(&self) -> u64 {
        self.names.read().memory_bytes() as u64
    }
}
