//! The most that any eviction policy can save in one tier: the flow offline optimum (FOO; Berger, Beckmann
//! and Harchol-Balter, 2018), with costs in place of hits.
//!
//! Requests are nodes. Room flows from the first to the last: from each to the next for nothing, or along the
//! time between two requests for the same item, as much of it as the item is large, for what a hit saves. The
//! flow of least cost keeps parts of items, which no cache can, so what it saves is an upper bound; it is the
//! optimum where all sizes are the same and divide the room. Costs are whole multiples of `2^-20` us a block,
//! rounded up, so that the bound stays one.
//!
//! Cost: a shortest path (Dijkstra, with potentials) a change of the flow. A few thousand requests take
//! seconds, 20,000 minutes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::offline::Requests;

/// Parts of a microsecond that costs are counted in.
const SCALE: f64 = (1_u64 << 20) as f64;

/// An arc and, at the odd place after it, the way back.
struct Arc {
    to: usize,
    left: u64,
    cost: i64,
}

struct Network {
    arcs: Vec<Arc>,
    /// Arcs that leave each node.
    leaving: Vec<Vec<usize>>,
}

impl Network {
    fn add(&mut self, (from, to): (usize, usize), capacity: u64, cost: i64) {
        self.leaving[from].push(self.arcs.len());
        self.arcs.push(Arc { to, left: capacity, cost });
        self.leaving[to].push(self.arcs.len());
        self.arcs.push(Arc { to: from, left: 0, cost: -cost });
    }
}

/// An upper bound of what any policy saves on these requests with so much room, in us.
pub fn bound(requests: &Requests, room: u64) -> f64 {
    let nodes = requests.items.len();
    if nodes < 2 {
        return 0.0;
    }
    let mut network = Network { arcs: Vec::new(), leaving: vec![Vec::new(); nodes] };
    (1..nodes).for_each(|to| network.add((to - 1, to), room, 0));
    for interval in requests.intervals() {
        let cost = (interval.cost_us / interval.size as f64 * SCALE).ceil() as i64;
        network.add((interval.from, interval.to), interval.size.min(room), -cost);
    }
    saved(&mut network, room) as f64 / SCALE
}

/// What the flow of least cost saves, at most `room` of it.
fn saved(network: &mut Network, room: u64) -> i128 {
    let (end, mut left, mut saved) = (network.leaving.len() - 1, room, 0_i128);
    // Arcs go forward at first: distances in the order of nodes.
    let mut potential = vec![0_i64; end + 1];
    for from in 0..=end {
        for arc in network.leaving[from].iter().map(|arc| &network.arcs[*arc]).filter(|arc| arc.left > 0) {
            potential[arc.to] = potential[arc.to].min(potential[from] + arc.cost);
        }
    }
    while left > 0 {
        let came_by = shortest(network, &mut potential);
        // What is left flows straight on, for nothing.
        let distance = potential[end] - potential[0];
        if distance >= 0 {
            break;
        }
        let (mut at, mut flow) = (end, left);
        while at != 0 {
            flow = flow.min(network.arcs[came_by[at]].left);
            at = network.arcs[came_by[at] ^ 1].to;
        }
        at = end;
        while at != 0 {
            network.arcs[came_by[at]].left -= flow;
            network.arcs[came_by[at] ^ 1].left += flow;
            at = network.arcs[came_by[at] ^ 1].to;
        }
        left -= flow;
        saved += i128::from(-distance) * i128::from(flow);
    }
    saved
}

/// Moves potentials to the distances from the first node; the arc that each node is reached by.
fn shortest(network: &Network, potential: &mut [i64]) -> Vec<usize> {
    let nodes = potential.len();
    let (mut distance, mut came_by) = (vec![i64::MAX; nodes], vec![usize::MAX; nodes]);
    let mut queue = BinaryHeap::from([Reverse((0_i64, 0_usize))]);
    distance[0] = 0;
    let mut farthest = 0;
    while let Some(Reverse((so_far, from))) = queue.pop() {
        if so_far > distance[from] {
            continue;
        }
        farthest = so_far;
        for at in &network.leaving[from] {
            let arc = &network.arcs[*at];
            if arc.left == 0 {
                continue;
            }
            let through = so_far + arc.cost + potential[from] - potential[arc.to];
            if through < distance[arc.to] {
                distance[arc.to] = through;
                came_by[arc.to] = *at;
                queue.push(Reverse((through, arc.to)));
            }
        }
    }
    // The chain reaches all nodes as long as there is room left; none is farther than the last one found.
    for (potential, distance) in potential.iter_mut().zip(distance) {
        *potential += distance.min(farthest);
    }
    came_by
}
