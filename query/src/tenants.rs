//! The tenant dictionary of a collection: names to ids. Ids are never reused, names never forgotten.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use spandrel_storage::TenantId;

/// Names to ids, shared by writers and readers. A lookup takes a read lock once a request.
#[derive(Default)]
pub struct Tenants {
    names: RwLock<HashMap<Box<str>, TenantId>>,
    next: AtomicU32,
}

impl Tenants {
    /// From what the row store holds.
    pub fn new(entries: Vec<(TenantId, String)>) -> Self {
        let tenants = Self::default();
        tenants.insert(entries);
        tenants
    }

    /// The id of a name that has been written to.
    pub fn get(&self, name: &str) -> Option<TenantId> {
        self.names.read().get(name).copied()
    }

    /// The id that the next new name gets.
    pub fn next(&self) -> TenantId {
        TenantId(self.next.load(Ordering::Acquire))
    }

    /// Adds names whose commit is durable.
    pub fn insert(&self, entries: Vec<(TenantId, String)>) {
        if entries.is_empty() {
            return;
        }
        let mut names = self.names.write();
        let next = entries.iter().map(|(id, _)| id.0 + 1).max().unwrap_or(0);
        self.next.fetch_max(next, Ordering::AcqRel);
        names.extend(entries.into_iter().map(|(id, name)| (name.into_boxed_str(), id)));
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.names.read().keys().map(|name| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.read().len()
    }
}
