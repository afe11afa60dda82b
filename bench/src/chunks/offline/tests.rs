//! The bound against the optimum of tiny requests, and above every policy.

use super::super::flow::bound;
use super::*;
use spandrel::rag::kv::gdsf::{Gdsf, Lfu, Lru};

fn new_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let given = std::env::var("SPANDREL_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| RandomState::new().hash_one(0))
}

fn requests(random: &mut Random, (items, count, size_max): (usize, usize, u64)) -> Requests {
    let mut below = |end: usize| (random.next() % end as u64) as usize;
    Requests {
        sizes: (0..items).map(|_| 1 + below(size_max as usize) as u64).collect(),
        costs_us: (0..items).map(|_| below(100) as f64).collect(),
        items: (0..count).map(|_| below(items).min(below(items))).collect(),
    }
}

/// The best of all plans that keep items whole, by what is kept after each request.
fn optimum(requests: &Requests, room: u64) -> f64 {
    let sets = 1_usize << requests.sizes.len();
    let size = |set: usize| -> u64 {
        let of = |item: &usize| set >> item & 1 == 1;
        (0..requests.sizes.len()).filter(of).map(|item| requests.sizes[item]).sum()
    };
    let mut best = vec![f64::NEG_INFINITY; sets];
    best[0] = 0.0;
    for item in &requests.items {
        let mut next = vec![f64::NEG_INFINITY; sets];
        for (set, saved) in best.iter().enumerate().filter(|(_, saved)| saved.is_finite()) {
            let hit = if set >> item & 1 == 1 { requests.costs_us[*item] } else { 0.0 };
            let (all, mut kept) = (set | 1 << item, set | 1 << item);
            loop {
                if size(kept) <= room {
                    next[kept] = next[kept].max(saved + hit);
                }
                if kept == 0 {
                    break;
                }
                kept = (kept - 1) & all;
            }
        }
        best = next;
    }
    best.into_iter().fold(0.0, f64::max)
}

#[test]
fn the_bound_is_the_optimum_where_sizes_are_one() {
    let seed = new_seed();
    let mut random = Random(seed);
    for round in 0..100 {
        let requests = requests(&mut random, (5, 4 + round % 20, 1));
        for room in 0..5 {
            let (best, bound) = (optimum(&requests, room), bound(&requests, room));
            assert!((best - bound).abs() < 1e-3, "seed {seed}, round {round}, {room}: {best} {bound}");
        }
    }
}

#[test]
fn the_bound_is_above_every_plan_and_policy() {
    let seed = new_seed();
    let mut random = Random(seed);
    for round in 0..60 {
        let tiny = requests(&mut random, (5, 20, 4));
        let room = random.next() % 12;
        let (best, bound_us) = (optimum(&tiny, room), bound(&tiny, room));
        assert!(best <= bound_us + 1e-6, "seed {seed}, round {round}: {best} {bound_us}");
        assert!(tiny.greedy(room) <= best + 1e-6, "a plan that can be carried out");
        let requests = requests(&mut random, (40, 400, 20));
        let room = random.next() % 300;
        let bound = bound(&requests, room);
        let policies = [
            requests.greedy(room),
            requests.replay::<Gdsf>(room, 1 << 16).0,
            requests.replay::<Lru>(room, 0).0,
            requests.replay::<Lfu>(room, 0).0,
        ];
        let is_below = policies.iter().all(|saved| *saved <= bound + 1e-6);
        assert!(is_below, "seed {seed}, round {round}: {policies:?} {bound}");
        // Room for all: nothing is lost.
        let all: f64 = requests.intervals().iter().map(|interval| interval.cost_us).sum();
        let plenty = requests.working_size();
        assert!((super::super::flow::bound(&requests, plenty) - all).abs() < 1e-2);
        assert!((requests.replay::<Gdsf>(plenty, 1 << 16).0 - all).abs() < 1e-6);
        assert!((requests.greedy(plenty) - all).abs() < 1e-6);
    }
}

#[test]
fn gdsf_saves_most_where_costs_and_sizes_vary() {
    let assumed = Assumptions { queries: 4_000, ..Assumptions::default() };
    let requests = Requests::new(&assumed, &Trace::new(&assumed), 1.0);
    for percent in [1, 5, 10, 25] {
        let room = requests.working_size() * percent / 100;
        let gdsf = requests.replay::<Gdsf>(room, 1 << 16).0;
        let others = [requests.replay::<Lru>(room, 0).0, requests.replay::<Lfu>(room, 0).0];
        assert!(others.iter().all(|other| *other < gdsf), "{percent} %: {gdsf} {others:?}");
    }
}
