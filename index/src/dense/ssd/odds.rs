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

/// The steepness for this many dimensions, and the largest.
const STEEPNESS_PER_DIM: f32 = 0.5;
const STEEPNESS_MAX: f32 = 20.0;
/// Steps of distance that ranks are counted in.
const STEPS: usize = 128;
/// Bins of expected vectors: all of an f32's exponents, in quarters.
const BINS: usize = 1 << (32 - BIN_SHIFT - 1);
const BIN_SHIFT: u32 = 21;
/// Natural exponents below this are as good as none.
const EXPONENT_MIN: f32 = -60.0;

/// What is known of the cells of a query that does not depend on T.
#[derive(Debug, Default)]
pub(super) struct Odds {
    /// The cosine that a cell needs is `at_zero - T * per_distance`.
    at_zero: Vec<f32>,
    per_distance: Vec<f32>,
    /// 1 / (1 + rank), negative for a cell that was visited.
    weights: Vec<f32>,
    steepness: f32,
    /// Expected vectors of the cells, in no unit, negative for those visited.
    expected: Vec<f32>,
}

/// `e^x` within 6 %, never falling with x, for x in `EXPONENT_MIN..=0`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const PER_UNIT: f32 = (1 << 23) as f32 / std::f32::consts::LN_2;
    // 127 in the exponent is 1; a bit less halves the largest error.
    const ONE: f32 = (127 << 23) as f32 - 486_411.0;
    f32::from_bits((x.max(EXPONENT_MIN) * PER_UNIT + ONE) as i32 as u32)
}

#[inline(always)]
fn bin(expected: f32) -> usize {
    (expected.max(0.0).to_bits() >> BIN_SHIFT) as usize
}

impl Odds {
    /// Sets the cells of a query, whose centroids are at these squared distances; their vectors have `dims`
    /// dimensions that matter.
    pub(super) fn set(&mut self, distances: &[f32], radii: &[f32], dims: f32) {
        self.steepness = (dims * STEEPNESS_PER_DIM).min(STEEPNESS_MAX);
        let both = || distances.iter().zip(radii);
        self.per_distance.clear();
        self.per_distance.extend(both().map(|(d, radius)| 0.5 / (radius * d.sqrt()).max(1e-12)));
        self.at_zero.clear();
        let all = both().zip(&self.per_distance);
        self.at_zero.extend(all.map(|((d, radius), per)| (d + radius * radius) * per));
        self.rank(distances);
    }

    /// How many cells are nearer, counted in steps: exact for the nearest, of which there is one a step.
    fn rank(&mut self, distances: &[f32]) {
        let least = distances.iter().copied().fold(f32::INFINITY, f32::min);
        let most = distances.iter().copied().fold(0.0, f32::max);
        let per_step = STEPS as f32 / (most - least).max(f32::MIN_POSITIVE);
        let step = |d: f32| (((d - least) * per_step) as usize).min(STEPS - 1);
        let mut counts = [0_u32; STEPS];
        distances.iter().for_each(|d| counts[step(*d)] += 1);
        let mut before = 0;
        let weights = counts.map(|count| {
            // The middle of those in a step.
            let rank = before as f32 + 0.5 * (count.max(1) - 1) as f32;
            before += count;
            1.0 / (1.0 + rank)
        });
        self.weights.clear();
        self.weights.extend(distances.iter().map(|d| weights[step(*d)]));
    }

    /// The cell was visited.
    pub(super) fn visit(&mut self, cell: usize) {
        self.weights[cell] = -self.weights[cell].abs();
    }

    pub(super) fn is_visited(&self, cell: usize) -> bool {
        self.weights[cell] < 0.0
    }

    /// Calls `each(cell, expected)` for cells not visited, the most promising of them, so that those left out
    /// are expected to hold at most a share `missing` of the vectors nearer than `limit`, a squared distance.
    pub(super) fn choose(&mut self, limit: f32, missing: f32, mut each: impl FnMut(usize, f32)) {
        let Self { at_zero, per_distance, weights, steepness, expected } = self;
        // At -1 and below, all of the cell is nearer.
        let cosine = |(a, b): (&f32, &f32)| (a - limit * b).max(-1.0);
        let least = at_zero.iter().zip(&*per_distance).map(cosine).fold(f32::INFINITY, f32::min);
        expected.clear();
        let all = at_zero.iter().zip(&*per_distance).map(cosine).zip(&*weights);
        expected.extend(all.map(|(cosine, weight)| weight * exp(*steepness * (least - cosine))));
        let (mut bins, mut total) = ([0.0_f32; BINS], 0.0);
        for expected in &*expected {
            total += expected.abs();
            bins[bin(*expected)] += expected.max(0.0);
        }
        let mut left = missing * total;
        let cut = bins.iter().position(|here| {
            let enough = *here > left;
            if !enough {
                left -= here;
            }
            enough
        });
        // Nothing is left that is worth a visit.
        let Some(cut) = cut else { return };
        let edge = |bin: usize| f32::from_bits((bin as u32) << BIN_SHIFT);
        // A part of this bin, as if its cells were spread evenly.
        let cutoff = edge(cut) + (edge(cut + 1) - edge(cut)) * left / bins[cut];
        for (cell, expected) in expected.iter().enumerate() {
            if *expected >= cutoff {
                each(cell, *expected);
            }
        }
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

    #[test]
    fn those_left_out_hold_what_may_be_missing() {
        let mut random = Random(7);
        for (cells, spread) in [(1, 1.0), (2, 1.0), (700, 0.2), (700, 3.0), (5000, 0.5)] {
            let distances: Vec<f32> = (0..cells).map(|_| 0.4 + spread * float(&mut random)).collect();
            let radii: Vec<f32> = (0..cells).map(|_| 0.6 + 0.3 * float(&mut random)).collect();
            let mut odds = Odds::default();
            odds.set(&distances, &radii, 30.0);
            for missing in [0.0, 0.01, 0.1, 0.5, 0.9] {
                let mut chosen = vec![false; cells];
                odds.choose(0.5, missing, |cell, _| chosen[cell] = true);
                let with = |which: bool| {
                    let all = odds.expected.iter().zip(&chosen);
                    all.filter(move |(_, chosen)| **chosen == which).map(|(expected, _)| *expected)
                };
                let (kept, out): (f32, f32) = (with(true).sum(), with(false).sum());
                let share = out / (kept + out);
                assert!(share <= missing * 1.2 + 1e-6 || chosen.iter().all(|chosen| !chosen), "{cells} {spread} {missing}: {share}");
                assert!(
                    share >= missing * 0.7 - 1e-6 || cells < 700,
                    "{cells} {spread} {missing}: {share} is less than may be"
                );
                let worst_kept = with(true).fold(f32::INFINITY, f32::min);
                assert!(with(false).all(|out| out <= worst_kept), "the most promising are kept");
            }
        }
    }

    #[test]
    fn visited_cells_are_not_chosen_again_and_count_as_found() {
        let mut odds = Odds::default();
        odds.set(&[0.1, 0.2, 0.9, 1.0], &[0.3; 4], 30.0);
        odds.visit(0);
        odds.visit(0);
        assert!(odds.is_visited(0) && !odds.is_visited(1));
        let mut chosen = Vec::new();
        odds.choose(0.1, 0.0, |cell, expected| {
            assert!(expected > 0.0);
            chosen.push(cell);
        });
        assert_eq!(chosen, [1, 2, 3]);
        odds.visit(1);
        chosen.clear();
        odds.choose(0.1, 0.2, |cell, _| chosen.push(cell));
        assert_eq!(chosen, [0_usize; 0], "the two that were visited hold nearly all");
    }

    #[test]
    fn cells_and_queries_without_extent_are_no_trouble() {
        let mut odds = Odds::default();
        for (distances, radii) in [
            (vec![0.0; 3], vec![0.0; 3]),
            (vec![1e12, 1e12, 3e12], vec![1e-6, 0.0, 2.0]),
            (vec![], vec![]),
        ] {
            odds.set(&distances, &radii, 30.0);
            for limit in [0.0, 1e-30, 1.0, 1e12] {
                let mut count = 0;
                odds.choose(limit, 0.0, |_, _| count += 1);
                assert_eq!(count, distances.len(), "with nothing to miss all are chosen");
            }
        }
    }
}
