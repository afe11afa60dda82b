//! One tier, requests one after the other: what eviction policies save, and what any could have saved that
//! had known all requests.
//!
//! A request for an item that is kept saves the item's cost. The bound is the flow of [`flow`](super::flow);
//! the greedy plan is one that can be carried out: intervals between requests for the same item are kept by
//! cost over bytes times length, the most first, each where it has room all the time (PFOO-L; Berger et al.,
//! 2018, with cost in place of hits). Cost: `O(n log n)` a policy, `O(n^2)` for the plan.

use super::trace::{Assumptions, Trace};
use crate::random::Random;
use spandrel::rag::kv::gdsf::{EvictionPolicy, TierLimit, Tiers};
use spandrel::rag::kv::history::History;
use spandrel::rag::kv::reuse::Load;

/// Requests for items of different sizes and costs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    /// Size of each item, 1 or more, in blocks.
    pub sizes: Vec<u64>,
    /// What a hit saves, 0 or more.
    pub costs_us: Vec<f64>,
    /// Items, in the order that they are asked for.
    pub items: Vec<usize>,
}

/// The time between two requests for the same item, and what keeping the item saves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The place of the first request.
    pub from: usize,
    /// The place of the next.
    pub to: usize,
    /// The item's size.
    pub size: u64,
    /// Its cost.
    pub cost_us: f64,
}

impl Requests {
    /// The chunks of a trace as if they came one after the other, each saving what it would at the start of a
    /// context, less what the formula computes again where nothing is known of its context.
    pub fn new(assumed: &Assumptions, trace: &Trace, alpha: f64) -> Self {
        let block_tokens = assumed.block_tokens.max(1);
        let sizes = trace.chunks.iter().map(|chunk| u64::from(chunk.tokens / block_tokens).max(1)).collect();
        let costs = trace.chunks.iter().map(|chunk| {
            let kept = 1.0 - (alpha * chunk.cci).min(1.0);
            kept * assumed.compute_us(chunk, f64::from(chunk.tokens), 0.0)
        });
        let items = trace.queries.iter().flatten().map(|hit| hit.chunk as usize).collect();
        Self { sizes, costs_us: costs.collect(), items }
    }

    /// The size of all items that are asked for, once each.
    pub fn working_size(&self) -> u64 {
        let asked: std::collections::BTreeSet<_> = self.items.iter().collect();
        asked.into_iter().map(|item| self.sizes[*item]).sum()
    }

    /// All times between requests for the same item.
    pub fn intervals(&self) -> Vec<Interval> {
        let (mut last, mut intervals) = (vec![None; self.sizes.len()], Vec::new());
        for (to, item) in self.items.iter().enumerate() {
            if let Some(from) = last[*item].replace(to) {
                intervals.push(Interval { from, to, size: self.sizes[*item], cost_us: self.costs_us[*item] });
            }
        }
        intervals
    }

    /// What a policy saves with so much room, and how many requests it hits; so many counts of past requests
    /// outlive what goes.
    pub fn replay<P: EvictionPolicy>(&self, room: u64, counts: usize) -> (f64, u64) {
        let load = Load { latency_us: 0.0, bytes_per_us: f64::INFINITY };
        let mut tier = Tiers::<P>::new(&[TierLimit { budget_bytes: room, load }]);
        let (mut saved_us, mut hits, mut changes) = (0.0, 0, Vec::new());
        let mut history = History::new(counts);
        for item in &self.items {
            let (id, cost_us) = (*item as u64, self.costs_us[*item]);
            changes.clear();
            let asks = history.ask(Random(id).next());
            if tier.hit(id, cost_us, &mut changes) {
                saved_us += cost_us;
                hits += 1;
            } else {
                tier.insert(id, (self.sizes[*item], cost_us, asks), 0, &mut changes);
            }
        }
        (saved_us, hits)
    }

    /// What the greedy plan saves with so much room.
    pub fn greedy(&self, room: u64) -> f64 {
        let mut intervals = self.intervals();
        let density = |interval: &Interval| {
            interval.cost_us / (interval.size as f64 * (interval.to - interval.from) as f64)
        };
        intervals.sort_by(|a, b| density(b).total_cmp(&density(a)).then(a.from.cmp(&b.from)));
        let (mut kept, mut saved_us) = (vec![0; self.items.len()], 0.0);
        for interval in intervals {
            let during = &mut kept[interval.from..interval.to];
            if during.iter().all(|size| size + interval.size <= room) {
                during.iter_mut().for_each(|size| *size += interval.size);
                saved_us += interval.cost_us;
            }
        }
        saved_us
    }
}

#[cfg(test)]
mod tests;
