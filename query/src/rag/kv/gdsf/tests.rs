//! Tiers against a list that is searched from end to end.

use super::*;
use crate::rag::random::Random;

/// Says the same as [`Tiers`], slowly.
struct Slow<P> {
    limits: Vec<TierLimit>,
    policies: Vec<P>,
    entries: Vec<(u64, Item, usize, f64)>,
    uses: u64,
}

impl<P: EvictionPolicy> Slow<P> {
    fn worth(&self, tier: usize, item: &Item) -> Option<f64> {
        let load_us = |tier: usize| {
            let limit = self.limits[tier];
            limit.load.latency_us + item.size_bytes as f64 / limit.load.bytes_per_us
        };
        let takes = |tier: &usize| {
            let fits = item.size_bytes <= self.limits[*tier].budget_bytes;
            fits && (*tier == 0 || item.cost_us > load_us(*tier))
        };
        let below = (tier + 1..self.limits.len()).find(takes).map_or(item.cost_us, load_us);
        let cost_us = (below - load_us(tier)).max(0.0);
        takes(&tier).then(|| self.policies[tier].worth(&Item { cost_us, ..*item }))
    }

    fn bytes(&self, tier: usize) -> u64 {
        self.entries.iter().filter(|entry| entry.2 == tier).map(|entry| entry.1.size_bytes).sum()
    }

    fn least(&self, tier: usize) -> Option<usize> {
        let mut places: Vec<usize> =
            (0..self.entries.len()).filter(|at| self.entries[*at].2 == tier).collect();
        let key = |at: &usize| (self.entries[*at].3, self.entries[*at].1.used, self.entries[*at].0);
        places.sort_by(|a, b| key(a).partial_cmp(&key(b)).unwrap());
        places.first().copied()
    }

    fn place(&mut self, id: u64, item: Item, tier: usize) {
        for tier in tier..self.limits.len() {
            if self.worth(tier, &item).is_none() {
                continue;
            }
            while self.bytes(tier) + item.size_bytes > self.limits[tier].budget_bytes {
                let least = self.least(tier).unwrap();
                let (id, item, _, worth) = self.entries.remove(least);
                self.place(id, item, tier + 1);
                if self.entries.iter().all(|entry| entry.0 != id) {
                    let others = self.entries.iter().filter(|entry| entry.2 == tier).count();
                    self.policies[tier].went(worth, others);
                }
            }
            let worth = self.worth(tier, &item).unwrap();
            self.entries.push((id, item, tier, worth));
            return;
        }
    }

    fn remove(&mut self, id: u64) -> Option<(u64, Item, usize, f64)> {
        let at = self.entries.iter().position(|entry| entry.0 == id)?;
        Some(self.entries.remove(at))
    }

    fn insert(&mut self, id: u64, size_bytes: u64, cost_us: f64, tier: usize) {
        self.remove(id);
        self.uses += 1;
        let item = Item { size_bytes, cost_us, frequency: 1, used: self.uses };
        let last = (tier..self.limits.len()).filter(|tier| self.worth(*tier, &item).is_some()).max();
        let target = (tier..self.limits.len()).find(|tier| self.takes(*tier, &item)).or(last);
        target.into_iter().for_each(|target| self.place(id, item, target));
    }

    fn takes(&self, tier: usize, item: &Item) -> bool {
        let Some(worth) = self.worth(tier, item) else { return false };
        let has_room = self.bytes(tier) + item.size_bytes <= self.limits[tier].budget_bytes;
        let less = self.least(tier).map(|at| (self.entries[at].3, self.entries[at].1.used));
        has_room || less.is_some_and(|less| less < (worth, item.used))
    }

    fn hit(&mut self, id: u64, cost_us: f64) {
        let Some((_, mut item, tier, _)) = self.remove(id) else { return };
        self.uses += 1;
        item.used = self.uses;
        item.cost_us += (cost_us - item.cost_us) / (item.frequency + 1) as f64;
        item.frequency += 1;
        let target = (0..tier).find(|upper| self.takes(*upper, &item)).unwrap_or(tier);
        self.place(id, item, target);
    }
}

fn limits(random: &mut Random, tiers: usize) -> Vec<TierLimit> {
    let limit = |tier: usize| TierLimit {
        budget_bytes: (50 << tier) + random.below(100) as u64,
        load: Load { latency_us: tier as f64, bytes_per_us: 8.0 / (1 + tier) as f64 },
    };
    (0..tiers).map(limit).collect()
}

fn compare<P: EvictionPolicy>(seed: u64) {
    let mut random = Random::new(seed);
    let tiers = 1 + random.below(3);
    let limits = limits(&mut random, tiers);
    let policies = (0..tiers).map(|_| P::default()).collect();
    let mut slow = Slow::<P> { limits: limits.clone(), policies, entries: Vec::new(), uses: 0 };
    let (mut fast, mut places) = (Tiers::<P>::new(&limits), HashMap::new());
    for step in 0..2_000 {
        let (id, cost) = (random.below(60) as u64, random.below(50) as f64);
        let mut changes = Vec::new();
        match random.below(8) {
            0..3 => {
                let (size, tier) = (1 + random.below(40) as u64, random.below(tiers));
                if fast.insert(id, (size, cost, 1), tier, &mut changes) {
                    places.insert(id, tier);
                }
                slow.insert(id, size, cost, tier);
            }
            3..7 => {
                fast.hit(id, cost, &mut changes);
                slow.hit(id, cost);
            }
            _ => {
                assert_eq!(fast.remove(id), slow.remove(id).map(|entry| entry.2));
            }
        }
        let mut want: Vec<_> =
            slow.entries.iter().map(|entry| (entry.0, entry.1, entry.2, entry.3)).collect();
        want.sort_by_key(|entry| entry.0);
        let mut have: Vec<_> = fast.places.iter().map(|(id, at)| (*id, at.item, at.tier, at.worth)).collect();
        have.sort_by_key(|entry| entry.0);
        assert_eq!(have, want, "{} seed {seed} step {step}", P::NAME);
        for (tier, limit) in limits.iter().enumerate() {
            let (bytes, items) = fast.size(tier).unwrap();
            assert_eq!(bytes, slow.bytes(tier));
            assert!(bytes <= limit.budget_bytes, "{} seed {seed} step {step}", P::NAME);
            assert_eq!(items, want.iter().filter(|entry| entry.2 == tier).count());
        }
    }
}

#[test]
fn tiers_match_a_slow_model() {
    let seed = Random::new_seed();
    for round in 0..20 {
        compare::<Gdsf>(seed.wrapping_add(round));
        compare::<Lru>(seed.wrapping_add(round));
        compare::<Lfu>(seed.wrapping_add(round));
    }
}

/// Whoever follows the changes knows where every item is.
#[test]
fn changes_tell_all_that_moved() {
    let seed = Random::new_seed();
    let mut random = Random::new(seed);
    let limits = limits(&mut random, 3);
    let mut tiers = Tiers::<Gdsf>::new(&limits);
    let mut known: HashMap<u64, usize> = HashMap::new();
    for step in 0..20_000 {
        let (id, mut changes) = (random.below(60) as u64, Vec::new());
        if random.below(2) == 0 {
            let size = 1 + random.below(40) as u64;
            let is_in = tiers.insert(id, (size, random.below(50) as f64, 1), 0, &mut changes);
            known.remove(&id);
            if is_in {
                known.insert(id, tiers.tier(id).unwrap());
            }
        } else {
            tiers.hit(id, random.below(50) as f64, &mut changes);
        }
        for change in changes {
            assert_ne!(Some(change.from), change.to);
            match change.to {
                Some(to) => known.insert(change.id, to),
                None => known.remove(&change.id),
            };
        }
        assert_eq!(known.len(), tiers.len(), "seed {seed} step {step}");
        assert!(known.iter().all(|(id, tier)| tiers.tier(*id) == Some(*tier)), "seed {seed} step {step}");
    }
}

#[test]
fn a_costly_small_item_outlives_cheap_large_ones() {
    let load = Load { latency_us: 0.0, bytes_per_us: f64::INFINITY };
    let mut tiers = Tiers::<Gdsf>::new(&[TierLimit { budget_bytes: 100, load }]);
    let mut changes = Vec::new();
    assert!(tiers.insert(0, (10, 1_000.0, 1), 0, &mut changes));
    (1..50).for_each(|id| assert!(tiers.insert(id, (30, 10.0, 1), 0, &mut changes)));
    assert!(tiers.tier(0).is_some() && tiers.size(0).unwrap().0 <= 100);
    // The clock moves on: in the end even that goes.
    (50..5_000).for_each(|id| assert!(tiers.insert(id, (30, 10.0, 1), 0, &mut changes)));
    assert!(tiers.tier(0).is_none());
    assert!(!tiers.insert(7, (101, 1.0, 1), 0, &mut changes), "larger than all there is");
}
