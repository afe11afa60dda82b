//! Which share of a query's nearest vectors a cell is expected to hold, by where the cell lies.
//!
//! A vector of a cell with radius r, at distance sqrt(d) of the query, is nearer than sqrt(T) only if it lies
//! in a direction of the centroid, seen along the line to the query, with a cosine of at least
//! `(d + r^2 - T) / (2 r sqrt(d))`. In many dimensions large cosines are rare. And of two cells that need the
//! same cosine the one with fewer cells before it holds more, as it is where the vectors are dense. Together:
//! `exp(-s cosine) / (1 + rank)`, as a share of the sum over all cells.
//!
//! As a share, because only differences between cells count then: an error of T shifts all cosines alike, and
//! a query far from everything, to which all cells look alike, has its nearest vectors spread over all of
//! them and is searched widely. Measured on two real sets and four kinds of queries from elsewhere: at a
//! recall of 0.95 a third fewer vectors are visited than by SPANN's ratio of distances or by the number of
//! cells, and the budget that gives a recall for vectors of the field gives it for other queries too, where
//! those rules lose half of the nearest or visit everything. The steepness s matters little between 15 and 40
//! on those sets; of vectors with few dimensions it is half of them, as the caps of spheres are.

use crate::simd::Kernels;
use crate::simd::lanes::{fold, larger, smaller};

/// The steepness for this many dimensions, and the largest.
const STEEPNESS_PER_DIM: f32 = 0.5;
const STEEPNESS_MAX: f32 = 20.0;
/// Steps of distance that ranks are counted in.
const STEPS: usize = 128;
/// Natural exponents below this are as good as none.
const EXPONENT_MIN: f32 = -60.0;

/// What is known of the cells of a query that does not depend on T.
#[derive(Debug, Default)]
pub(super) struct Odds {
    /// The cosine that a cell needs is `at_zero - T * per_distance`.
    at_zero: Vec<f32>,
    per_distance: Vec<f32>,
    /// 1 / (1 + rank) times the share of its vectors that may be found, negative for a cell that was visited.
    weights: Vec<f32>,
    /// Those shares; empty where all may be found.
    shares: Vec<f32>,
    steepness: f32,
    /// Expected vectors of the cells, in no unit, negative for those visited.
    expected: Vec<f32>,
    steps: Vec<u32>,
}

/// The whole number nearest to a small one that is not negative: adding 2^23 leaves it in the low bits.
#[inline(always)]
fn whole(value: f32) -> u32 {
    (value + 8_388_608.0).to_bits() & 0x7f_ffff
}

/// `e^x` within 6 %, never falling with x, for x up to 0; those below `EXPONENT_MIN` count as that.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // An f32's bits are about its logarithm; the upper 23 of 30 are enough.
    const SHIFT: u32 = 7;
    const PER_UNIT: f32 = (1 << (23 - SHIFT)) as f32 / std::f32::consts::LN_2;
    // 127 in the exponent is 1; a bit less halves the largest error.
    const ONE: f32 = ((127 << 23) - 486_411) as f32 / (1 << SHIFT) as f32;
    f32::from_bits(whole(larger(x, EXPONENT_MIN) * PER_UNIT + ONE) << SHIFT)
}

impl Odds {
    /// Forgets all cells.
    pub(super) fn clear(&mut self) {
        self.weights.clear();
        self.shares.clear();
    }

    /// The share of the vectors of the next cell that may be found: of those that are going to be set, all
    /// have one, or none has.
    pub(super) fn share(&mut self, share: f32) {
        self.shares.push(share);
    }

    /// Sets the cells of a query, whose centroids are at these squared distances; their vectors have `dims`
    /// dimensions that matter. Those that there were before come first, and stay visited.
    pub(super) fn set(&mut self, kernels: &Kernels, distances: &[f32], radii: &[f32], dims: f32) {
        let cells = distances.len();
        self.steepness = (dims * STEEPNESS_PER_DIM).min(STEEPNESS_MAX);
        for values in [&mut self.at_zero, &mut self.per_distance, &mut self.weights, &mut self.expected] {
            values.resize(cells, 0.0);
        }
        self.steps.resize(cells, 0);
        let Self { at_zero, per_distance, steps, .. } = &mut *self;
        kernels.vectorized(
            #[inline(always)]
            || {
                let each = distances.iter().zip(radii).zip(at_zero.iter_mut().zip(per_distance.iter_mut()));
                for ((distance, radius), (at_zero, per_distance)) in each {
                    *per_distance = 0.5 / larger(radius * distance.sqrt(), 1e-12);
                    *at_zero = (distance + radius * radius) * *per_distance;
                }
                let least = fold(distances, f32::INFINITY, |value| value, smaller);
                let most = fold(distances, 0.0, |value| value, larger);
                let per_step = (STEPS - 1) as f32 / larger(most - least, 1e-30);
                for (step, distance) in steps.iter_mut().zip(distances) {
                    *step = whole((distance - least) * per_step);
                }
            },
        );
        self.rank();
    }

    /// How many cells are nearer, counted in steps: exact for the nearest, of which there is one a step.
    fn rank(&mut self) {
        let at = |step: &u32| *step as usize % STEPS;
        let mut counts = [0_u32; STEPS];
        self.steps.iter().for_each(|step| counts[at(step)] += 1);
        let mut before = 0;
        let weights = counts.map(|count| {
            // The middle of those in a step.
            let rank = before as f32 + 0.5 * (count.max(1) - 1) as f32;
            before += count;
            1.0 / (1.0 + rank)
        });
        let each = self.weights.iter_mut().zip(&self.steps);
        each.for_each(|(weight, step)| *weight = weights[at(step)].copysign(*weight));
        for (weight, share) in self.weights.iter_mut().zip(&self.shares) {
            // One without any counts as visited: there is nothing to find.
            *weight = if *share > 0.0 { *weight * share } else { -f32::MIN_POSITIVE };
        }
    }

    /// The cell was visited.
    pub(super) fn visit(&mut self, cell: usize) {
        self.weights[cell] = -self.weights[cell].abs();
    }

    /// What the cell was expected to hold when cells were last chosen.
    pub(super) fn expected(&self, cell: usize) -> f32 {
        self.expected[cell]
    }

    pub(super) fn is_visited(&self, cell: usize) -> bool {
        self.weights[cell] < 0.0
    }

    /// Fills `order` with the cells not visited that can be worth a visit, as numbers that order them from
    /// the most promising to the least and whose low half is the cell. Returns how much of what they are
    /// [expected](Self::expected) to hold of the vectors nearer than `limit`, a squared distance, has to be
    /// visited so that at most a share `missing` is in the rest; nothing, when it is 0 or less.
    pub(super) fn choose(
        &mut self,
        kernels: &Kernels,
        limit: f32,
        missing: f32,
        order: &mut Vec<u64>,
    ) -> f32 {
        let Self { at_zero, per_distance, weights, steepness, expected, .. } = self;
        let steepness = *steepness;
        let (all, visited) = kernels.vectorized(
            #[inline(always)]
            || {
                // The cosines, for now. At -1 and below, all of the cell is nearer.
                for (expected, (a, b)) in expected.iter_mut().zip(at_zero.iter().zip(&*per_distance)) {
                    *expected = larger(a - limit * b, -1.0);
                }
                let least = fold(expected, f32::INFINITY, |value| value, smaller);
                for (expected, weight) in expected.iter_mut().zip(&*weights) {
                    *expected = weight * exp(steepness * (least - *expected));
                }
                let add = |a, b| a + b;
                let all = fold(expected, 0.0, f32::abs, add);
                (all, -fold(expected, 0.0, |value| smaller(value, 0.0), add))
            },
        );
        // All cells that are expected to hold less than this may be left out together.
        let floor = missing * all / expected.len() as f32;
        order.clear();
        order.resize(expected.len(), 0);
        let mut count = 0;
        for (expected, cell) in expected.iter().zip(0_u32..) {
            order[count] = u64::from(!expected.to_bits()) << 32 | u64::from(cell);
            count += usize::from(*expected > floor);
        }
        order.truncate(count);
        if missing > 0.0 { all - visited - missing * all } else { f32::INFINITY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn float(random: &mut Random) -> f32 {
        (random.next() >> 40) as f32 / (1 << 24) as f32
    }

    #[test]
    fn exponentials_are_close_and_never_fall() {
        let values: Vec<f32> = (0..=6000).map(|at| exp(-60.0 + at as f32 / 100.0)).collect();
        assert!(values.is_sorted());
        for (at, value) in values.iter().enumerate() {
            let exact = (-60.0 + at as f64 / 100.0).exp();
            assert!((f64::from(*value) / exact - 1.0).abs() < 0.06, "{at}: {value} is not {exact}");
        }
        assert!(exp(f32::NEG_INFINITY) > 0.0);
    }

    /// Cells in the order in which they would be visited, up to where the search would stop.
    fn chosen(odds: &mut Odds, kernels: &Kernels, limit: f32, missing: f32) -> Vec<usize> {
        let mut order = Vec::new();
        let mut left = odds.choose(kernels, limit, missing, &mut order);
        order.sort_unstable();
        let mut chosen = Vec::new();
        for key in order {
            if left <= 0.0 {
                break;
            }
            let cell = key as u32 as usize;
            left -= odds.expected(cell);
            chosen.push(cell);
        }
        chosen
    }

    #[test]
    fn those_left_out_hold_what_may_be_missing_on_every_level() {
        let mut random = Random(7);
        for (cells, spread) in [(1, 1.0), (2, 1.0), (700, 0.2), (700, 3.0), (5000, 0.5)] {
            let distances: Vec<f32> = (0..cells).map(|_| 0.4 + spread * float(&mut random)).collect();
            let radii: Vec<f32> = (0..cells).map(|_| 0.6 + 0.3 * float(&mut random)).collect();
            for missing in [0.0, 0.0001, 0.01, 0.1, 0.5, 0.9] {
                let mut first = None;
                for kernels in Kernels::available() {
                    let mut odds = Odds::default();
                    odds.set(kernels, &distances, &radii, 30.0);
                    let chosen = chosen(&mut odds, kernels, 0.5, missing);
                    let kept: f32 = chosen.iter().map(|cell| odds.expected(*cell)).sum();
                    let all: f32 = odds.expected.iter().sum();
                    let (share, what) = (1.0 - kept / all, format!("{cells} {spread} {missing}"));
                    assert!(share <= missing + 1e-4, "{what}: {share} are left out");
                    let last = chosen.last().map_or(0.0, |cell| odds.expected(*cell));
                    assert!(share + last / all >= missing - 1e-4, "{what}: {share} are less than may be");
                    assert!(chosen.is_sorted_by(|a, b| odds.expected(*a) >= odds.expected(*b)), "{what}");
                    assert_eq!(first.get_or_insert_with(|| chosen.clone()), &chosen, "{what} {kernels:?}");
                }
            }
        }
    }

    #[test]
    fn visited_cells_are_not_chosen_again_and_count_as_found() {
        let (kernels, mut odds) = (Kernels::best(), Odds::default());
        odds.set(kernels, &[0.1, 0.2, 0.9, 1.0], &[0.3; 4], 30.0);
        odds.visit(0);
        odds.visit(0);
        assert!(odds.is_visited(0) && !odds.is_visited(1));
        assert_eq!(chosen(&mut odds, kernels, 0.1, 0.0), [1, 2, 3]);
        odds.visit(1);
        assert_eq!(chosen(&mut odds, kernels, 0.1, 0.2), [0_usize; 0], "the two visited hold nearly all");
        // Visited all that had to be, nothing is left to visit, wherever among the cells they are.
        let mut random = Random(8);
        let distances: Vec<f32> = (0..333).map(|_| 0.4 + float(&mut random)).collect();
        odds.set(kernels, &distances, &[0.7; 333], 30.0);
        let first = chosen(&mut odds, kernels, 0.5, 0.3);
        assert!(first.len() > 3);
        first.iter().for_each(|cell| odds.visit(*cell));
        assert_eq!(chosen(&mut odds, kernels, 0.5, 0.3), [0_usize; 0]);
        let more = chosen(&mut odds, kernels, 0.5, 0.1);
        assert!(!more.is_empty() && more.iter().all(|cell| !first.contains(cell)));
    }

    #[test]
    fn cells_and_queries_without_extent_are_no_trouble() {
        let (kernels, mut odds) = (Kernels::best(), Odds::default());
        for (distances, radii) in
            [(vec![0.0; 3], vec![0.0; 3]), (vec![1e12, 1e12, 3e12], vec![1e-6, 0.0, 2.0]), (vec![], vec![])]
        {
            odds.set(kernels, &distances, &radii, 2.0);
            for limit in [0.0, 1e-30, 1.0, 1e12] {
                let count = chosen(&mut odds, kernels, limit, 0.0).len();
                assert_eq!(count, distances.len(), "with nothing to miss all are chosen");
            }
        }
    }
}
