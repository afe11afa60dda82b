//! What an LLM server has to do about a cache: free its tensors, or move them.
//!
//! Room is made for one tenant at the cost of others, so what happened waits until the other tenant, or who
//! serves all of them, asks: a tenant is told of its own caches only. The number that waits is bounded; a
//! server that hears of lost notices compares what it holds with a list of all descriptors.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::descriptor::{Owner, Scope, Tier, Variant, VariantId};

/// Most notices that wait.
pub const NOTICES_MAX: usize = 1 << 16;

/// A cache moved, or went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// The variant.
    pub id: VariantId,
    /// The collection it is of.
    pub collection: String,
    /// Whose it is there.
    pub tenant: String,
    /// Where the server finds its tensors.
    pub uri: String,
    /// The tier that they are in.
    pub from: Tier,
    /// The tier to move them to; none: free them.
    #[serde(default)]
    pub to: Option<Tier>,
}

impl Notice {
    /// That a variant went from a tier to another.
    pub(super) fn of(id: u64, variant: &Variant, from: Tier, to: Option<Tier>) -> Self {
        let Scope { collection, tenant, .. } = variant.scope.clone();
        Self { id: VariantId(id), collection, tenant, uri: variant.uri.clone(), from, to }
    }
}

/// Notices that wait, by collection and tenant.
#[derive(Default)]
pub(super) struct Notices {
    waiting: BTreeMap<(String, String), VecDeque<Notice>>,
    count: usize,
    /// Notices that found no room.
    pub lost: u64,
}

impl Notices {
    /// Adds one.
    pub fn add(&mut self, notice: Notice) {
        if self.count >= NOTICES_MAX {
            self.lost += 1;
            return;
        }
        self.count += 1;
        self.waiting.entry((notice.collection.clone(), notice.tenant.clone())).or_default().push_back(notice);
    }

    /// Takes those of a tenant, the oldest first; of all, by tenant, where none is named.
    pub fn take(&mut self, owner: Option<Owner<'_>>) -> Vec<Notice> {
        let taken: Vec<Notice> = match owner {
            Some((collection, tenant)) => self
                .waiting
                .remove(&(collection.to_owned(), tenant.to_owned()))
                .into_iter()
                .flatten()
                .collect(),
            None => std::mem::take(&mut self.waiting).into_values().flatten().collect(),
        };
        self.count -= taken.len();
        taken
    }

    /// Those that wait.
    pub fn iter(&self) -> impl Iterator<Item = &Notice> {
        self.waiting.values().flatten()
    }
}
