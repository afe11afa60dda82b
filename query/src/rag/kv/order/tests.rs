//! Orders against all permutations.

use super::*;
use crate::rag::random::Random;

/// What chunks reuse behind others, by a table of their own.
struct World {
    chunks: Vec<Ranked>,
    /// For each chunk the prefixes that it was computed behind.
    prefixes: Vec<Vec<Vec<usize>>>,
    context: Vec<f64>,
}

impl World {
    fn new(random: &mut Random, count: usize) -> Self {
        let ranked =
            |random: &mut Random| Ranked { score: random.unit(), tokens: 100 + 16 * random.below(20) as u32 };
        let prefixes = |random: &mut Random, chunk: usize| {
            let mut others: Vec<usize> = (0..count).filter(|other| *other != chunk).collect();
            let prefix = |random: &mut Random, others: &mut Vec<usize>| {
                random.shuffle(others);
                others[..random.below(others.len().min(4) + 1)].to_vec()
            };
            (0..random.below(4)).map(|_| prefix(random, &mut others)).collect()
        };
        Self {
            chunks: (0..count).map(|_| ranked(random)).collect(),
            prefixes: (0..count).map(|chunk| prefixes(random, chunk)).collect(),
            context: (0..count).map(|_| random.unit()).collect(),
        }
    }

    fn reuse(&self, chunk: usize, others: &[usize]) -> Reused {
        let tokens = f64::from(self.chunks[chunk].tokens);
        let share = |prefix: &Vec<usize>| {
            let common = prefix.iter().filter(|other| others.contains(other)).count() as f64;
            let all = prefix.len().max(others.len()).max(1) as f64;
            if prefix == others { 1.0 } else { 1.0 - self.context[chunk] * (1.0 - common / all) }
        };
        let best = self.prefixes[chunk].iter().map(share).fold(0.0, f64::max);
        Reused { tokens: tokens * best, exact: self.prefixes[chunk].iter().any(|prefix| prefix == others) }
    }

    fn quality(&self, order: &[usize]) -> f64 {
        let places = order.iter().enumerate();
        places.map(|(place, chunk)| self.chunks[*chunk].score / (place as f64 + 2.0).log2()).sum()
    }

    fn best_first(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.chunks.len()).collect();
        order.sort_by(|a, b| self.chunks[*b].score.partial_cmp(&self.chunks[*a].score).unwrap());
        order
    }

    fn reused(&self, order: &[usize]) -> f64 {
        (0..order.len()).map(|place| self.reuse(order[place], &order[..place]).tokens).sum()
    }

    fn order(&self, tolerance: f64) -> Ordered {
        order(&self.chunks, tolerance, |chunk, others| self.reuse(chunk, others))
    }
}

fn permutations(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let longer = |order: Vec<usize>| {
        (0..count).map(move |at| {
            let mut order = order.clone();
            order.insert(at, count - 1);
            order
        })
    };
    permutations(count - 1).into_iter().flat_map(longer).collect()
}

#[test]
fn few_chunks_are_ordered_best_of_all_permutations() {
    let seed = Random::new_seed();
    let mut random = Random::new(seed);
    for round in 0..60 {
        let count = random.below(8);
        let world = World::new(&mut random, count);
        let tolerance = [0.01, 0.05, 0.2, 1.0][random.below(4)];
        let floor = (1.0 - tolerance) * world.quality(&world.best_first());
        let allowed = permutations(count).into_iter().filter(|order| world.quality(order) >= floor - 1e-12);
        let best = allowed.map(|order| world.reused(&order)).fold(0.0, f64::max);
        let ordered = world.order(tolerance);
        let message = format!("seed {seed}, round {round}: {ordered:?}");
        assert!((ordered.reused_tokens - best).abs() < 1e-6, "{message}, {best}");
        assert!((world.reused(&ordered.order) - best).abs() < 1e-6, "{message}");
        assert!(world.quality(&ordered.order) >= floor - 1e-9, "{message}");
        assert_eq!(world.order(tolerance), ordered, "the same again");
    }
}

#[test]
fn many_chunks_are_ordered_within_the_tolerance_and_no_worse_than_best_first() {
    let seed = Random::new_seed();
    let mut random = Random::new(seed);
    let (mut gained, mut sum) = (0.0, 0.0);
    for round in 0..40 {
        let count = 9 + random.below(8);
        let world = World::new(&mut random, count);
        let best_first = world.best_first();
        let ordered = world.order(0.1);
        let mut sorted = ordered.order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..count).collect::<Vec<_>>());
        let message = format!("seed {seed}, round {round}: {ordered:?}");
        assert!(world.quality(&ordered.order) >= 0.9 * world.quality(&best_first) - 1e-9, "{message}");
        assert!((world.reused(&ordered.order) - ordered.reused_tokens).abs() < 1e-6, "{message}");
        assert!(ordered.reused_tokens >= world.reused(&best_first), "{message}");
        gained += ordered.reused_tokens;
        sum += world.reused(&best_first);
    }
    assert!(gained > 1.02 * sum, "seed {seed}: {gained} {sum}");
}

/// What is done above eight chunks is near the best where that is known.
#[test]
fn moves_come_near_the_best_order() {
    let seed = Random::new_seed();
    let mut random = Random::new(seed);
    let (mut near, mut best) = (0.0, 0.0);
    for _ in 0..40 {
        let world = World::new(&mut random, 6);
        best += world.order(0.2).reused_tokens;
        let weights: Vec<f64> = world.chunks.iter().map(|chunk| chunk.score).collect();
        let tokens = world.chunks.iter().map(|chunk| f64::from(chunk.tokens)).collect();
        let (best_first, reuse) = (world.best_first(), |chunk, others: &[usize]| world.reuse(chunk, others));
        let best = Ordered::default();
        let mut search = Search { weights, tokens, best_first, floor: 0.0, ideal: 0.0, reuse, best };
        search.ideal = search.discounted(&search.best_first);
        search.floor = 0.8 * search.ideal;
        search.best = search.weigh(search.best_first.clone());
        search.approximate();
        near += search.best.reused_tokens;
    }
    assert!(near <= best + 1e-6 && near >= 0.97 * best, "seed {seed}: {near} of {best}");
}

#[test]
fn no_tolerance_or_no_number_is_best_first() {
    let mut random = Random::new(5);
    let mut world = World::new(&mut random, 6);
    assert_eq!(world.order(0.0).order, world.best_first());
    assert_eq!(world.order(f64::NAN).order, world.best_first());
    assert_eq!(world.order(0.0).quality, 1.0);
    world.chunks.iter_mut().for_each(|chunk| chunk.score = 1.0);
    assert_eq!(world.order(0.0).order, [0, 1, 2, 3, 4, 5], "ties by position");
    world.chunks.iter_mut().for_each(|chunk| chunk.score -= 3.0);
    assert_eq!(world.order(0.05).quality, 1.0, "all the same, below 0");
    world.chunks[3].score = f64::NAN;
    assert_eq!(world.order(0.5).order, [3, 0, 1, 2, 4, 5]);
    assert_eq!(order(&[], 0.5, |_, _| Reused::default()), Ordered { quality: 1.0, ..Ordered::default() });
}
