//! Selectors against brute force, and what holds for all of them, on random pools.

use spandrel_index::stop::{Cancel, Stop};

use super::bits::Bits;
use super::meter::{Meter, StoppedBy};
use super::mix::{Mix, Weights};
use super::objective::Objective;
use super::pool::{Aspects, Item, Pool};
use super::reward::Reward;
use super::*;
use crate::random::Random;

const SEEDS: std::ops::Range<u64> = 0..60;

fn below(random: &mut Random, count: usize) -> usize {
    (random.unit() * count as f64) as usize
}

/// A pool with everything in it; some chunks overlap others where `overlapping`.
fn pool(random: &mut Random, n: usize, overlapping: bool) -> Pool {
    let mut items: Vec<Item> = (0..n)
        .map(|_| {
            let start = below(random, 6) as u64 * 50;
            let span = if overlapping { start..start + 100 } else { 0..0 };
            Item {
                // Overlapping chunks are equally long, so that what they share costs the same in each.
                tokens: if overlapping { 40 } else { 5 + below(random, 60) as u32 },
                relevance: random.unit() as f32,
                document: below(random, 3) as u32,
                span,
            }
        })
        .collect();
    items.sort_by(|a, b| b.relevance.total_cmp(&a.relevance));
    let aspects = below(random, 5);
    let cover =
        (0..n * aspects).map(|_| if random.unit() < 0.4 { random.unit() as f32 } else { 0.0 }).collect();
    let weights = (0..aspects).map(|_| random.unit() as f32).collect();
    let vectors: Vec<[f32; 3]> = (0..n).map(|_| [0; 3].map(|_| random.unit() as f32)).collect();
    let norm = |v: &[f32; 3]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
    let cosine =
        |a: &[f32; 3], b: &[f32; 3]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>() / norm(a) / norm(b);
    let similarity = (0..n * n).map(|at| cosine(&vectors[at / n], &vectors[at % n])).collect();
    let mut references = Vec::new();
    for from in 0..n as u16 {
        for to in 0..n as u16 {
            if from != to && random.unit() < 0.15 {
                references.push((from, to, random.unit() as f32));
            }
        }
    }
    let pool = Pool::new(items)
        .with_similarity(similarity)
        .with_aspects(Aspects { weights, cover })
        .with_references(&references);
    if random.unit() < 0.5 {
        return pool;
    }
    let mut repeats = Vec::new();
    for worse in 1..n as u16 {
        for better in 0..worse {
            if random.unit() < 0.1 {
                repeats.push((better, worse, random.unit() as f32));
            }
        }
    }
    pool.with_repeats(&repeats)
}

fn weights(random: &mut Random) -> Weights {
    let mut some = |most: f64| if random.unit() < 0.6 { (random.unit() * most) as f32 } else { 0.0 };
    Weights {
        relevance: some(2.0) + 0.1,
        redundancy: some(0.2),
        facility: some(1.0),
        aspects: some(2.0),
        references: some(1.0),
        length: some(1.0),
        sharpness: 1.0 + some(2.0),
    }
}

/// The objective as its head defines it.
fn slow_value(pool: &Pool, w: &Weights, set: &[u16]) -> f64 {
    let mut has = Bits::default();
    set.iter().for_each(|&at| has.add(at));
    let n = pool.len() as u16;
    let mean = pool.items().iter().map(|item| f64::from(item.tokens)).sum::<f64>() / f64::from(n);
    let u = |at: u16| (f64::from(pool.item(at).tokens) / mean).powf(f64::from(w.length));
    let similar = |a: u16, b: u16| f64::from(pool.similarity(a).unwrap()[usize::from(b)]);
    let mut value = 0.0;
    for &x in set {
        let relevance = f64::from(pool.item(x).relevance).powf(f64::from(w.sharpness));
        value += f64::from(w.relevance) * u(x) * relevance * pool.news(x, &has);
        value -=
            f64::from(w.redundancy) * set.iter().filter(|&&y| y < x).map(|&y| similar(x, y)).sum::<f64>();
        let named = pool.referred(x).iter().filter(|(from, _)| has.has(*from));
        let clearest =
            named.map(|(from, strength)| pool.item(*from).relevance * strength).fold(0.0, f32::max);
        value += f64::from(w.references) * u(x) * f64::from(clearest);
    }
    let sum: f32 = pool.items().iter().map(|item| item.relevance).sum();
    for j in 0..n {
        let nearest = set.iter().map(|&x| similar(x, j)).fold(0.0, f64::max);
        value += f64::from(w.facility) * f64::from(pool.item(j).relevance / sum.max(1e-9)) * nearest;
    }
    for (a, weight) in pool.aspects().weights.iter().enumerate() {
        let covered = set.iter().map(|&x| pool.cover(x)[a]).fold(0.0, f32::max);
        value += f64::from(w.aspects) * f64::from(*weight) * f64::from(covered);
    }
    value
}

fn fits(pool: &Pool, set: &[u16], budget: u32) -> bool {
    let mut has = Bits::default();
    set.iter().for_each(|&at| has.add(at));
    pool.set_tokens(&has, set) <= budget
}

/// The best of all sets that fit.
fn best_of_all(pool: &Pool, w: &Weights, budget: u32) -> f64 {
    let set = |mask: u32| (0..pool.len() as u16).filter(|at| mask >> at & 1 == 1).collect::<Vec<u16>>();
    let sets = (0..1_u32 << pool.len()).map(set).filter(|set| fits(pool, set, budget));
    sets.map(|set| slow_value(pool, w, &set)).fold(f64::NEG_INFINITY, f64::max)
}

fn methods() -> Vec<Method> {
    vec![
        Method::TopK { overflow: Overflow::Skip },
        Method::TopK { overflow: Overflow::Stop },
        Method::Mmr { lambda: 0.7 },
        Method::Dpp { quality: 2.0 },
        Method::Adagres { redundancy: None },
        Method::Submodular { swaps: false },
        Method::Submodular { swaps: true },
        Method::Mcts(MctsParams::default()),
        Method::Exact { nodes_max: NODES_DEFAULT },
    ]
}

fn ask(method: Method, weights: Weights, budget_tokens: u32) -> Ask {
    Ask {
        method,
        weights,
        budget_tokens,
        chunks_max: 512,
        must: Vec::new(),
        exclude: Vec::new(),
        may_leave: true,
        seed: 7,
    }
}

fn chosen(pool: &Pool, ask: &Ask, evaluations_max: u64) -> Selection {
    choose(pool, ask, None, &mut Meter::new(evaluations_max, None, &Stop::default())).unwrap()
}

#[test]
fn gains_and_values_are_those_of_the_definition() {
    for seed in SEEDS {
        let mut random = Random(seed);
        let pool = pool(&mut random, 9, seed % 2 == 0);
        let w = weights(&mut random);
        let mix = Mix::new(&pool, w);
        let (mut state, mut set) = (mix.empty(), Vec::new());
        let mut left: Vec<u16> = (0..9).collect();
        while !left.is_empty() {
            let mut gains = Vec::new();
            mix.gains(&state, &left, &mut gains).unwrap();
            for (&at, gain) in left.iter().zip(&gains) {
                let with: Vec<u16> = set.iter().copied().chain([at]).collect();
                let slow = slow_value(&pool, &w, &with) - slow_value(&pool, &w, &set);
                assert!((gain - slow).abs() < 1e-4, "seed {seed}: {gain} {slow}");
            }
            let next = below(&mut random, left.len());
            let item = left.remove(next);
            mix.add(&mut state, item, gains[next]);
            set.push(item);
            assert!((mix.value(&state) - slow_value(&pool, &w, &set)).abs() < 1e-3, "seed {seed}");
            assert!((mix.value_of(&set) - mix.value(&state)).abs() < 1e-9);
        }
    }
}

#[test]
fn ceilings_bound_every_set_and_only_raised_gains_rise() {
    for seed in SEEDS {
        let mut random = Random(seed);
        let pool = pool(&mut random, 9, seed % 2 == 0);
        let mix = Mix::new(&pool, weights(&mut random));
        let start: Vec<u16> = (0..9).filter(|_| random.unit() < 0.3).collect();
        let mut state = mix.empty();
        for &at in &start {
            let mut gains = Vec::new();
            mix.gains(&state, &[at], &mut gains).unwrap();
            mix.add(&mut state, at, gains[0]);
        }
        let open: Vec<u16> = (0..9).filter(|at| !start.contains(at)).collect();
        let mut ceilings = Vec::new();
        let slack = mix.ceilings(&state, &open, &mut ceilings).unwrap();
        for mask in 0..1_u32 << open.len() {
            let more: Vec<usize> = (0..open.len()).filter(|at| mask >> at & 1 == 1).collect();
            let set: Vec<u16> = start.iter().copied().chain(more.iter().map(|&at| open[at])).collect();
            let bound = mix.value(&state) + slack + more.iter().map(|&at| ceilings[at]).sum::<f64>();
            assert!(mix.value_of(&set) <= bound + 1e-4, "seed {seed}: {set:?}");
        }
        for (place, &at) in open.iter().enumerate() {
            let (mut before, mut after) = (Vec::new(), Vec::new());
            mix.gains(&state, &open, &mut before).unwrap();
            let mut with = state.clone();
            mix.add(&mut with, at, before[place]);
            mix.gains(&with, &open, &mut after).unwrap();
            let raised: Vec<u16> = match mix.raised(at) {
                objective::Raised::All => continue,
                objective::Raised::These(a, b) => a.iter().chain(b).map(|(at, _)| *at).collect(),
            };
            for (other, &item) in open.iter().enumerate() {
                let may = item == at || raised.contains(&item);
                assert!(may || after[other] <= before[other] + 1e-6, "seed {seed}: {item} after {at}");
            }
        }
    }
}

#[test]
fn every_method_keeps_to_budget_chunks_and_what_must_be() {
    for seed in SEEDS {
        let mut random = Random(seed);
        let n = 1 + below(&mut random, 40);
        let pool = pool(&mut random, n, seed % 2 == 0);
        let w = weights(&mut random);
        for method in methods() {
            let mut ask = ask(method, w, below(&mut random, 400) as u32);
            ask.chunks_max = 1 + below(&mut random, 12);
            ask.may_leave = random.unit() < 0.5;
            let must = below(&mut random, n) as u16;
            if random.unit() < 0.5 && pool.item(must).tokens <= ask.budget_tokens {
                ask.must = vec![must];
            }
            let excluded = below(&mut random, n) as u16;
            if !ask.must.contains(&excluded) {
                ask.exclude = vec![excluded];
            }
            let found = chosen(&pool, &ask, 2_000);
            assert!(fits(&pool, &found.items, ask.budget_tokens), "seed {seed} {method:?}");
            assert!(found.items.len() <= ask.chunks_max, "seed {seed} {method:?}");
            assert!(found.items.starts_with(&ask.must), "seed {seed} {method:?}");
            assert!(found.items.iter().all(|at| !ask.exclude.contains(at)), "seed {seed} {method:?}");
            let mut sorted = found.items.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), found.items.len(), "seed {seed} {method:?}");
            assert!(found.evaluations <= 2_000, "seed {seed} {method:?}");
            assert_eq!(found, chosen(&pool, &ask, 2_000), "seed {seed} {method:?}: the same again");
            if let Some(greedy) = found.greedy_value {
                assert!(found.value >= greedy - 1e-6, "seed {seed} {method:?}");
            }
        }
    }
}

#[test]
fn exact_is_the_best_of_all_sets_and_the_others_come_near() {
    let (mut gaps, mut count) = ([0.0; 3], 0.0);
    for seed in SEEDS {
        let mut random = Random(seed);
        let pool = pool(&mut random, 11, seed % 3 == 0);
        let w = Weights { redundancy: 0.0, ..weights(&mut random) };
        let budget = 60 + below(&mut random, 150) as u32;
        let best = best_of_all(&pool, &w, budget);
        let exact = chosen(&pool, &ask(Method::Exact { nodes_max: NODES_DEFAULT }, w, budget), u64::MAX);
        assert!((exact.value - best).abs() < 1e-3, "seed {seed}: {} {best}", exact.value);
        assert!(
            exact.bound.unwrap() >= best - 1e-3 && exact.bound.unwrap() <= exact.value + 1e-6,
            "seed {seed}"
        );
        let others = [
            Method::Submodular { swaps: false },
            Method::Submodular { swaps: true },
            Method::Mcts(MctsParams::default()),
        ];
        for (gap, method) in gaps.iter_mut().zip(others) {
            let found = chosen(&pool, &ask(method, w, budget), 5_000);
            assert!(found.value <= best + 1e-3, "seed {seed} {method:?}");
            *gap += 1.0 - found.value / best;
        }
        count += 1.0;
    }
    let [greedy, swaps, mcts] = gaps.map(|gap| gap / count);
    assert!(greedy < 0.05 && swaps < 0.01 && mcts < 0.01, "{greedy} {swaps} {mcts}");
}

#[test]
fn a_search_that_is_cut_short_says_so_and_bounds_what_it_missed() {
    let mut random = Random(5);
    let pool = pool(&mut random, 40, false);
    let w = Weights { redundancy: 0.05, facility: 1.0, ..Weights::EVIDENCE };
    let cut = chosen(&pool, &ask(Method::Exact { nodes_max: 2 }, w, 400), u64::MAX);
    let whole = chosen(&pool, &ask(Method::Mcts(MctsParams::default()), w, 400), 200_000);
    assert!(cut.bound.unwrap() >= whole.value - 1e-6);
    for (method, most) in
        [(Method::Mcts(MctsParams::default()), 500), (Method::Submodular { swaps: true }, 200)]
    {
        let found = chosen(&pool, &ask(method, w, 400), most);
        assert_eq!(found.stopped_by, StoppedBy::Evaluations, "{method:?}");
        assert!(!found.items.is_empty());
    }
    let ended = std::time::Instant::now();
    let never = Stop::default();
    let mut meter = Meter::new(u64::MAX, Some(ended), &never);
    let mcts = ask(Method::Mcts(MctsParams::default()), w, 400);
    assert_eq!(choose(&pool, &mcts, None, &mut meter).unwrap().stopped_by, StoppedBy::Time);
    let cancel = Cancel::new();
    cancel.cancel();
    let stop = Stop::new(None, Some(cancel));
    assert!(choose(&pool, &mcts, None, &mut Meter::new(u64::MAX, None, &stop)).is_err());
}

#[test]
fn top_k_skips_or_stops_and_mmr_and_dpp_pass_over_copies() {
    let item = |tokens, relevance| Item { tokens, relevance, ..Item::default() };
    let pool = Pool::new(vec![item(10, 1.0), item(50, 0.9), item(10, 0.8), item(10, 0.1)]);
    let items = |method| chosen(&pool, &ask(method, Weights::default(), 30), 1_000).items;
    assert_eq!(items(Method::TopK { overflow: Overflow::Skip }), [0, 2, 3]);
    assert_eq!(items(Method::TopK { overflow: Overflow::Stop }), [0]);
    // The second is a copy of the first.
    let same = |a: usize, b: usize| if a == b || (a < 2 && b < 2) { 1.0 } else { 0.0 };
    let pool = Pool::new(vec![item(10, 1.0), item(10, 0.9), item(10, 0.5)])
        .with_similarity((0..9).map(|at| same(at / 3, at % 3)).collect());
    let items = |method| chosen(&pool, &ask(method, Weights::default(), 20), 1_000).items;
    assert_eq!(items(Method::TopK { overflow: Overflow::Skip }), [0, 1]);
    assert_eq!(items(Method::Mmr { lambda: 0.5 }), [0, 2]);
    assert_eq!(items(Method::Mmr { lambda: 1.0 }), [0, 1]);
    assert_eq!(items(Method::Dpp { quality: 1.0 }), [0, 2]);
    let all = chosen(&pool, &ask(Method::Dpp { quality: 1.0 }, Weights::default(), 30), 1_000);
    assert_eq!((all.items, all.stopped_by), (vec![0, 2], StoppedBy::NoGain));
}

#[test]
fn chunks_that_refer_to_each_other_are_found_together() {
    let item = |tokens, relevance| Item { tokens, relevance, ..Item::default() };
    // The last is worth little by itself and is what the first one speaks of.
    let pool = Pool::new(vec![item(10, 1.0), item(10, 0.6), item(10, 0.1)]).with_references(&[(0, 2, 1.0)]);
    for method in [Method::Submodular { swaps: false }, Method::Exact { nodes_max: 100 }] {
        assert_eq!(chosen(&pool, &ask(method, Weights::EVIDENCE, 20), 1_000).items, [0, 2], "{method:?}");
    }
    let relevance = chosen(&pool, &ask(Method::Submodular { swaps: true }, Weights::default(), 20), 1_000);
    assert_eq!(relevance.items, [0, 1]);
}

#[test]
fn overlapping_chunks_are_charged_once() {
    let chunk = |tokens, start: u64| Item { tokens, relevance: 0.5, document: 1, span: start..start + 100 };
    let pool = Pool::new(vec![chunk(40, 0), chunk(40, 50), chunk(40, 0)]);
    let mut has = Bits::default();
    has.add(0);
    assert_eq!(pool.added_tokens(1, &has), 20);
    assert_eq!(pool.added_tokens(2, &has), 0);
    let mut other = Bits::default();
    other.add(1);
    assert_eq!(pool.added_tokens(0, &other), 20);
    has.add(1);
    has.add(2);
    assert_eq!(pool.set_tokens(&has, &[0, 1, 2]), 60);
}

/// Worth most when the chunks stand in one order, and not at all by itself.
struct Story;

impl Reward for Story {
    fn score(&self, lists: &[&[u16]]) -> Result<Vec<f64>> {
        let worth = |list: &&[u16]| match **list {
            [2, 0] => 3.0,
            [0, 2] => 1.0,
            [0] | [1] | [2] => 0.5,
            _ => 0.1,
        };
        Ok(lists.iter().map(worth).collect())
    }
}

#[test]
fn a_callers_reward_may_depend_on_the_order() {
    let item = Item { tokens: 10, relevance: 0.5, ..Item::default() };
    let pool = Pool::new(vec![item.clone(), item.clone(), item]);
    let stop = Stop::default();
    for batch in [1, 8] {
        let method = Method::Mcts(MctsParams { batch, ..MctsParams::default() });
        let ask = ask(method, Weights::default(), 30);
        let found = choose(&pool, &ask, Some(&Story), &mut Meter::new(200, None, &stop)).unwrap();
        assert_eq!((found.items, found.value), (vec![2, 0], 3.0), "{batch}");
        assert!(found.evaluations <= 200);
    }
    let exact = ask(Method::Exact { nodes_max: 9 }, Weights::default(), 30);
    assert!(choose(&pool, &exact, Some(&Story), &mut Meter::new(200, None, &stop)).is_err());
}

#[test]
fn ranges_are_checked() {
    assert!(Method::Mmr { lambda: 1.5 }.check().is_err());
    assert!(Method::Dpp { quality: f32::NAN }.check().is_err());
    assert!(Method::Adagres { redundancy: Some(-1.0) }.check().is_err());
    assert!(Method::Mcts(MctsParams { batch: 0, ..MctsParams::default() }).check().is_err());
    assert!(methods().iter().all(|method| method.check().is_ok()));
    let pool = Pool::new(vec![Item { tokens: 10, ..Item::default() }]);
    let must = Ask { must: vec![0], ..ask(Method::default(), Weights::default(), 5) };
    assert!(choose(&pool, &must, None, &mut Meter::new(9, None, &Stop::default())).is_err());
}
