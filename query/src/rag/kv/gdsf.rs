//! What stays in which tier: a bounded set of items over tiers, each with a budget of bytes, by a policy.
//!
//! The policy says what an item is worth whenever it comes or is used; where there is no room, the item of
//! least worth of the tier goes down to the next one, and out of the last it is dropped. [`Gdsf`] is
//! GreedyDual-Size with frequency (Cherkasova, 1998): `clock + frequency * cost / size`; the cost is what a
//! use saves ("On Optimal Caching and Model Multiplexing for Large Model Inference", Zhu et al., 2023, has
//! why cost belongs in it), as a mean over uses. [`Lru`] and [`Lfu`] are there to be compared with.
//!
//! Departure from the paper, where the clock is the worth of the last that went: here it goes a part of the
//! way there, one over the items of the tier, so that it takes about a turnover of all of them to forget. All
//! the way is too fast where past uses are remembered ([`history`](super::history)): what comes back often
//! drives the clock up, and recency then counts for more than frequency. docs/rag-caches.md has what that is
//! worth.
//!
//! Departures from one tier: a tier's clock is its own, and moves on only when an item is dropped from there,
//! as one that goes down is not lost: the fast tiers would else forget what is popular. What counts in a tier
//! is what having the item there saves over the next one, which is only the longer load; all of the cost
//! counts in the last. A tier that saves nothing is passed over. A new item goes into the first tier that has
//! room or an item of less worth, else into the last; one that is used goes up by the same rule. Items of one
//! worth go the longest unused first, then by id.
//!
//! Cost: `O(log n)` an insertion, use or removal, and as much for each item that goes down; about 200 bytes
//! an item. No item is in two tiers.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::reuse::Load;

/// What an item is weighed by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Bytes that it takes; 0 counts as 1.
    pub size_bytes: u64,
    /// What a use of it saves, a mean.
    pub cost_us: f64,
    /// Times that it came or was used.
    pub frequency: u64,
    /// When that was last, in uses of all items.
    pub used: u64,
}

/// What items are worth. There is one of it a tier.
pub trait EvictionPolicy: Default {
    /// What it is called.
    const NAME: &str;

    /// What an item is worth that came or was used just now. Must be a number.
    fn worth(&self, item: &Item) -> f64;

    /// An item of this worth had to be dropped from among so many others.
    fn went(&mut self, _worth: f64, _others: usize) {}

    /// What it has to remember to go on later.
    fn clock(&self) -> f64 {
        0.0
    }

    /// Goes on from what [`clock`](Self::clock) was.
    fn set_clock(&mut self, _clock: f64) {}
}

/// GreedyDual-Size with frequency.
#[derive(Default)]
pub struct Gdsf {
    clock: f64,
}

impl EvictionPolicy for Gdsf {
    const NAME: &str = "gdsf";

    fn worth(&self, item: &Item) -> f64 {
        self.clock + item.frequency as f64 * item.cost_us / item.size_bytes.max(1) as f64
    }

    fn went(&mut self, worth: f64, others: usize) {
        self.clock += (worth - self.clock).max(0.0) / (others as f64 + 1.0);
    }

    fn clock(&self) -> f64 {
        self.clock
    }

    fn set_clock(&mut self, clock: f64) {
        self.clock = clock;
    }
}

/// The longest unused goes first.
#[derive(Default)]
pub struct Lru;

impl EvictionPolicy for Lru {
    const NAME: &str = "lru";

    fn worth(&self, item: &Item) -> f64 {
        item.used as f64
    }
}

/// The least often used goes first.
#[derive(Default)]
pub struct Lfu;

impl EvictionPolicy for Lfu {
    const NAME: &str = "lfu";

    fn worth(&self, item: &Item) -> f64 {
        item.frequency as f64
    }
}

/// A tier's limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TierLimit {
    /// Most bytes of items.
    pub budget_bytes: u64,
    /// What loading from it takes.
    pub load: Load,
}

/// An item changed its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The item.
    pub id: u64,
    /// The tier it was in.
    pub from: usize,
    /// The tier it is in now; none where it was dropped.
    pub to: Option<usize>,
}

/// An order of worth: the least is the first to go.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rank {
    worth: f64,
    used: u64,
    id: u64,
}

impl Eq for Rank {}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let worth = self.worth.total_cmp(&other.worth);
        worth.then(self.used.cmp(&other.used)).then(self.id.cmp(&other.id))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

struct Level<P> {
    limit: TierLimit,
    bytes: u64,
    ranks: BTreeSet<Rank>,
    policy: P,
}

#[derive(Clone, Copy)]
struct Place {
    item: Item,
    tier: usize,
    worth: f64,
}

/// Items in tiers.
pub struct Tiers<P> {
    levels: Vec<Level<P>>,
    places: HashMap<u64, Place>,
    uses: u64,
}

impl<P: EvictionPolicy> Tiers<P> {
    /// Empty tiers, fastest first.
    pub fn new(limits: &[TierLimit]) -> Self {
        let level = |limit: &TierLimit| Level {
            limit: *limit,
            bytes: 0,
            ranks: BTreeSet::new(),
            policy: P::default(),
        };
        Self { levels: limits.iter().map(level).collect(), places: HashMap::new(), uses: 0 }
    }

    /// Takes an item in, in the first tier from `tier` down that has room or an item of less worth, else in
    /// the last, and makes room for it. Its old place, if it has one, is given up. It was asked for
    /// `frequency` times, 1 where nothing is known. False where no tier takes it: it is in none then.
    pub fn insert(
        &mut self,
        id: u64,
        (size_bytes, cost_us, frequency): (u64, f64, u64),
        tier: usize,
        changes: &mut Vec<Change>,
    ) -> bool {
        self.remove(id);
        self.uses += 1;
        let item = Item { size_bytes, cost_us, frequency: frequency.max(1), used: self.uses };
        let tiers = tier..self.levels.len();
        // Where no tier has less to lose, the last has to take it: else nothing new would ever be kept.
        let last = tiers.clone().rev().find(|tier| self.worth(*tier, &item).is_some());
        let target = tiers.clone().find(|tier| self.takes(*tier, id, &item)).or(last);
        target.is_some_and(|target| self.place(id, item, target, changes).is_some())
    }

    /// Notes that an item was used, and saved `cost_us`, and moves it up if it is worth it. False where it is
    /// in no tier. It may be dropped on the way up and down: `changes` says so.
    pub fn hit(&mut self, id: u64, cost_us: f64, changes: &mut Vec<Change>) -> bool {
        let Some(Place { mut item, tier, .. }) = self.places.get(&id).copied() else { return false };
        self.remove(id);
        self.uses += 1;
        item.used = self.uses;
        // The first was an estimate and counts as one.
        item.cost_us += (cost_us - item.cost_us) / (item.frequency + 1) as f64;
        item.frequency += 1;
        let target = (0..tier).find(|upper| self.takes(*upper, id, &item)).unwrap_or(tier);
        let first = changes.len();
        let placed = self.place(id, item, target, changes);
        if placed != Some(tier) {
            changes.insert(first, Change { id, from: tier, to: placed });
        }
        true
    }

    /// Gives an item's place up; the tier it was in.
    pub fn remove(&mut self, id: u64) -> Option<usize> {
        let place = self.places.remove(&id)?;
        let level = &mut self.levels[place.tier];
        level.ranks.remove(&Rank { worth: place.worth, used: place.item.used, id });
        level.bytes -= place.item.size_bytes;
        Some(place.tier)
    }

    /// The tier an item is in.
    pub fn tier(&self, id: u64) -> Option<usize> {
        self.places.get(&id).map(|place| place.tier)
    }

    /// What an item is weighed by, and what it is worth in its tier.
    pub fn item(&self, id: u64) -> Option<(Item, f64)> {
        self.places.get(&id).map(|place| (place.item, place.worth))
    }

    /// The item of a tier that would go next; none where the tier is empty or not there.
    pub fn least(&self, tier: usize) -> Option<u64> {
        self.levels.get(tier)?.ranks.first().map(|rank| rank.id)
    }

    /// Removes an item as if there were no room for it: the clock moves on.
    pub fn evict(&mut self, id: u64) -> Option<Change> {
        let worth = self.places.get(&id)?.worth;
        let from = self.remove(id)?;
        let level = &mut self.levels[from];
        level.policy.went(worth, level.ranks.len());
        Some(Change { id, from, to: None })
    }

    /// Bytes and items of a tier; none where it is not there.
    pub fn size(&self, tier: usize) -> Option<(u64, usize)> {
        self.levels.get(tier).map(|level| (level.bytes, level.ranks.len()))
    }

    /// Items in all tiers.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Clocks of the policies, and the number of uses.
    pub fn clocks(&self) -> (Vec<f64>, u64) {
        (self.levels.iter().map(|level| level.policy.clock()).collect(), self.uses)
    }

    /// Goes on from what [`clocks`](Self::clocks) was.
    pub fn set_clocks(&mut self, clocks: &[f64], uses: u64) {
        self.levels.iter_mut().zip(clocks).for_each(|(level, clock)| level.policy.set_clock(*clock));
        self.uses = uses;
    }

    /// Puts an item where it was, worth what it was. False where the tier has no room for it.
    pub fn restore(&mut self, id: u64, (item, worth): (Item, f64), tier: usize) -> bool {
        let Some(level) = self.levels.get_mut(tier) else { return false };
        let room = level.limit.budget_bytes.saturating_sub(level.bytes);
        if item.size_bytes > room || self.places.contains_key(&id) {
            return false;
        }
        level.bytes += item.size_bytes;
        level.ranks.insert(Rank { worth, used: item.used, id });
        self.places.insert(id, Place { item, tier, worth });
        true
    }

    /// What having an item in a tier saves, where it is of use and fits in there alone: its cost, or loading
    /// it from the next such tier, less loading it from this one.
    fn gain_us(&self, tier: usize, item: &Item) -> Option<f64> {
        let load_us = |tier: usize| {
            let limit = &self.levels[tier].limit;
            let load_us = limit.load.us(item.size_bytes);
            let is_of_use = item.cost_us > load_us || tier == 0;
            (is_of_use && item.size_bytes <= limit.budget_bytes).then_some(load_us)
        };
        let here_us = load_us(tier)?;
        let otherwise_us = (tier + 1..self.levels.len()).find_map(load_us).unwrap_or(item.cost_us);
        Some((otherwise_us - here_us).max(0.0))
    }

    /// What an item is worth in a tier; none where it is of no use there.
    fn worth(&self, tier: usize, item: &Item) -> Option<f64> {
        let cost_us = self.gain_us(tier, item)?;
        Some(self.levels[tier].policy.worth(&Item { cost_us, ..*item }))
    }

    /// Whether a tier has room for an item, or an item of less worth.
    fn takes(&self, tier: usize, id: u64, item: &Item) -> bool {
        let Some(worth) = self.worth(tier, item) else { return false };
        let level = &self.levels[tier];
        let rank = Rank { worth, used: item.used, id };
        level.bytes + item.size_bytes <= level.limit.budget_bytes
            || level.ranks.first().is_some_and(|least| *least < rank)
    }

    /// Puts an item into `tier` or the next below that is of use; where it went.
    fn place(&mut self, id: u64, item: Item, tier: usize, changes: &mut Vec<Change>) -> Option<usize> {
        let tier = (tier..self.levels.len()).find(|tier| self.worth(*tier, &item).is_some())?;
        self.make_room(tier, item.size_bytes, changes);
        // The clock may have moved on.
        let worth = self.worth(tier, &item)?;
        let level = &mut self.levels[tier];
        level.bytes += item.size_bytes;
        level.ranks.insert(Rank { worth, used: item.used, id });
        self.places.insert(id, Place { item, tier, worth });
        Some(tier)
    }

    /// Sends items of a tier down until so many bytes, at most its budget, have room.
    fn make_room(&mut self, tier: usize, size_bytes: u64, changes: &mut Vec<Change>) {
        while self.levels[tier].bytes + size_bytes > self.levels[tier].limit.budget_bytes {
            let Some(rank) = self.levels[tier].ranks.first().copied() else { return };
            let Some(Place { item, .. }) = self.places.get(&rank.id).copied() else { return };
            self.remove(rank.id);
            let at = changes.len();
            changes.push(Change { id: rank.id, from: tier, to: None });
            changes[at].to = self.place(rank.id, item, tier + 1, changes);
            if changes[at].to.is_none() {
                let level = &mut self.levels[tier];
                level.policy.went(rank.worth, level.ranks.len());
            }
        }
    }
}

#[cfg(test)]
mod tests;
