//! What an LLM server has to do about a cache: free its tensors, or move them.
//!
//! Room is made for one tenant at the cost of others, so what happened waits until the other tenant, or who
//! serves all of them, asks: a tenant is told of its own caches only. Notices are numbered as they come, and
//! one waits until a page is asked for behind it: an answer that got lost is given again. The number that
//! waits is bounded; a server that hears of lost notices compares what it holds with a list of all
//! descriptors.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::descriptor::{Owner, Scope, Tier, Variant, VariantId};

/// Most notices that wait.
pub const NOTICES_MAX: usize = 1 << 16;
/// Numbers, of notices and of variants, that are left out when a saved catalogue is opened: more than come
/// between two saves.
pub(super) const SKIP: u64 = 1 << 32;

/// A cache moved, or went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// Its number, from 1; later ones have larger numbers, not necessarily the next.
    #[serde(default)]
    pub sequence: u64,
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
        Self { sequence: 0, id: VariantId(id), collection, tenant, uri: variant.uri.clone(), from, to }
    }
}

/// Some of the notices that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoticePage {
    /// The oldest first.
    pub notices: Vec<Notice>,
    /// What to ask behind when all of these are done.
    pub next: u64,
    /// Whether more wait.
    pub more: bool,
    /// Whether some were lost since the page before: what is held has to be compared with a list.
    pub lost: bool,
}

/// Notices that wait, by collection and tenant.
#[derive(Default)]
pub(super) struct Notices {
    waiting: BTreeMap<(String, String), Waiting>,
    /// How many.
    pub count: usize,
    /// The last number that was given.
    pub last: u64,
    /// Notices that found no room.
    pub lost: u64,
    /// The number of the last of these; 0: none.
    lost_at: u64,
}

/// Those of a tenant.
#[derive(Default)]
struct Waiting {
    notices: VecDeque<Notice>,
    lost_at: u64,
}

impl Waiting {
    /// Drops what is done, up to this number; how many.
    fn acknowledge(&mut self, done: u64) -> usize {
        let gone = self.notices.iter().take_while(|notice| notice.sequence <= done).count();
        self.notices.drain(..gone);
        if self.lost_at <= done {
            self.lost_at = 0;
        }
        gone
    }

    fn is_empty(&self) -> bool {
        self.notices.is_empty() && self.lost_at == 0
    }
}

impl Notices {
    /// Adds one under the next number.
    pub fn add(&mut self, mut notice: Notice) {
        self.last += 1;
        notice.sequence = self.last;
        self.push(notice);
    }

    /// Adds one that was saved, under its own number if it has one.
    pub fn restore(&mut self, notice: Notice) {
        if notice.sequence == 0 {
            return self.add(notice);
        }
        self.last = self.last.max(notice.sequence);
        self.push(notice);
    }

    /// What was numbered after the last save has numbers that are not given again.
    pub fn skip(&mut self) {
        self.last = self.last.saturating_add(SKIP);
    }

    fn push(&mut self, notice: Notice) {
        let owner = (notice.collection.clone(), notice.tenant.clone());
        let has_room = self.count < NOTICES_MAX;
        if !has_room {
            self.lost += 1;
            self.lost_at = notice.sequence;
            // Bounded, too: beyond it only who serves all tenants hears of the loss.
            if self.waiting.len() >= NOTICES_MAX && !self.waiting.contains_key(&owner) {
                return;
            }
        }
        let waiting = self.waiting.entry(owner).or_default();
        if has_room {
            waiting.notices.push_back(notice);
            self.count += 1;
        } else {
            waiting.lost_at = notice.sequence;
        }
    }

    /// Takes those of a tenant, the oldest first; of all, by tenant, where none is named.
    pub fn take(&mut self, owner: Option<Owner<'_>>) -> Vec<Notice> {
        let taken: Vec<Notice> = match owner {
            Some((collection, tenant)) => {
                let waiting = self.waiting.remove(&(collection.to_owned(), tenant.to_owned()));
                waiting.into_iter().flat_map(|waiting| waiting.notices).collect()
            }
            None => {
                self.lost_at = 0;
                std::mem::take(&mut self.waiting).into_values().flat_map(|waiting| waiting.notices).collect()
            }
        };
        self.count -= taken.len();
        taken
    }

    /// Drops what is done, up to number `after`, and gives up to `limit` of those behind it: of a tenant, or
    /// of all where none is named. A number that was never given, as of a catalogue that is lost, drops
    /// nothing.
    pub fn page(&mut self, owner: Option<Owner<'_>>, after: u64, limit: usize) -> NoticePage {
        let is_known = after <= self.last;
        let done = if is_known { after } else { 0 };
        let mut page = NoticePage { next: done, lost: !is_known, ..NoticePage::default() };
        let waiting: Vec<&Waiting> = match owner {
            Some((collection, tenant)) => {
                let owner = (collection.to_owned(), tenant.to_owned());
                if let Some(waiting) = self.waiting.get_mut(&owner) {
                    self.count -= waiting.acknowledge(done);
                    if waiting.is_empty() {
                        self.waiting.remove(&owner);
                    }
                }
                self.waiting.get(&owner).into_iter().collect()
            }
            None => {
                self.count -= self.waiting.values_mut().map(|of_one| of_one.acknowledge(done)).sum::<usize>();
                self.waiting.retain(|_, of_one| !of_one.is_empty());
                self.waiting.values().collect()
            }
        };
        let lost_at = match owner {
            Some(_) => waiting.first().map_or(0, |of_one| of_one.lost_at),
            None => self.lost_at,
        };
        let mut oldest: Vec<&Notice> =
            waiting.iter().flat_map(|waiting| waiting.notices.iter().take(limit)).collect();
        oldest.sort_unstable_by_key(|notice| notice.sequence);
        oldest.truncate(limit);
        page.more = waiting.iter().map(|waiting| waiting.notices.len()).sum::<usize>() > oldest.len();
        page.lost |= lost_at > done;
        page.next = oldest.last().map_or(done, |last| last.sequence);
        if !page.more {
            page.next = page.next.max(lost_at);
        }
        page.notices = oldest.into_iter().cloned().collect();
        page
    }

    /// Those that wait.
    pub fn iter(&self) -> impl Iterator<Item = &Notice> {
        self.waiting.values().flat_map(|waiting| &waiting.notices)
    }
}

#[cfg(test)]
mod tests;
