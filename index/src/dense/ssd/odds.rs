//! How many of a query's nearest vectors a cell is expected to hold, by where the cell lies.
//!
//! A vector of a cell with radius r, at distance sqrt(d) of the query, is nearer than sqrt(T) only if
//! it lies in
//! a direction of the centroid, seen along the line to the query, with a cosine of at least `(d + r^2 -
//! T) / (2 r
//! sqrt(d))`. In many dimensions large cosines are rare, and how rare is much the same for all cells and
//! queries of a field: the table says how many vectors a cell has beyond a cosine, measured when the cells
//! are built. It stays right for queries unlike the vectors, which have T and d of another size but meet the
//! same cells. (SPANN's rule, a ratio of distances, visits a third more vectors for the same recall.)

/// Steps of the cosine from -1 to 1.
pub(super) const BINS: usize = 64;
/// Counts below this are too few to go by alone.
const COUNT_MIN: f64 = 16.0;
/// No bin counts as impossible.
const LEAST: f32 = 1e-7;

/// Expected vectors a cell, by the cosine they would need.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Odds(pub(super) [f32; BINS]);

/// The bin of a cosine.
#[inline(always)]
fn bin(cosine: f32) -> usize {
    let at = (cosine + 1.0) * (BINS as f32 / 2.0);
    (at.max(0.0) as usize).min(BINS - 1)
}

/// What was counted to make a table.
#[derive(Clone, Debug)]
pub(super) struct Count {
    cells: [f64; BINS],
    vectors: [f64; BINS],
}

impl Count {
    pub(super) fn new() -> Self {
        Self { cells: [0.0; BINS], vectors: [0.0; BINS] }
    }

    /// A cell at this cosine, and how many of the nearest it holds.
    pub(super) fn add(&mut self, cosine: f32, vectors: usize) {
        self.cells[bin(cosine)] += 1.0;
        self.vectors[bin(cosine)] += vectors as f64;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.cells.iter_mut().zip(other.cells).for_each(|(sum, count)| *sum += count);
        self.vectors.iter_mut().zip(other.vectors).for_each(|(sum, count)| *sum += count);
    }

    /// The table: counts where there are enough, never more at a larger cosine; beyond the last bin with
    /// enough, falling on as it fell before.
    pub(super) fn odds(&self) -> Odds {
        // Neighbouring bins that do not fall are one bin (pool adjacent violators).
        let mut pools: Vec<(f64, f64, usize)> = Vec::new();
        for at in 0..BINS {
            let mut last = (self.vectors[at], self.cells[at], 1);
            while let Some(before) = pools.pop_if(|before| last.0 * before.1 >= before.0 * last.1) {
                last = (before.0 + last.0, before.1 + last.1, before.2 + last.2);
            }
            pools.push(last);
        }
        let mut odds = [LEAST; BINS];
        let mut at = 0;
        let mut middles = Vec::new();
        for (vectors, cells, bins) in pools {
            let value = if cells > 0.0 { (vectors / cells) as f32 } else { LEAST };
            odds[at..at + bins].fill(value.max(LEAST));
            if vectors >= COUNT_MIN {
                middles.push((at as f32 + bins as f32 / 2.0, value.max(LEAST).ln(), at + bins));
            }
            at += bins;
        }
        // The tail, by the slope of the last few.
        if let [.., first, _, last] = middles.as_slice() {
            let slope = ((last.1 - first.1) / (last.0 - first.0)).min(-0.05);
            for (at, odds) in odds.iter_mut().enumerate().skip(last.2) {
                *odds = (last.1 + slope * (at as f32 + 0.5 - last.0)).exp().clamp(LEAST, 1e6);
            }
        }
        Odds(odds)
    }
}

impl Odds {
    /// Whether they can be from a count.
    pub(super) fn is_sound(&self) -> bool {
        self.0.iter().all(|value| value.is_finite() && *value > 0.0)
    }

    /// The cosine beyond which cells can be left out so that `budget` of the nearest are expected to be in
    /// them. `cosines` are those of the cells that were not visited.
    pub(super) fn cutoff(&self, cosines: impl Iterator<Item = f32>, budget: f32) -> f32 {
        let mut cells = [0_u32; BINS];
        cosines.for_each(|cosine| cells[bin(cosine)] += 1);
        let mut left = budget;
        for at in (0..BINS).rev() {
            let here = cells[at] as f32 * self.0[at];
            if here > left {
                // A part of this bin's cells, as if they were spread evenly.
                let edge = (at + 1) as f32 - left / here;
                return edge * (2.0 / BINS as f32) - 1.0;
            }
            left -= here;
        }
        f32::NEG_INFINITY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_fall_and_follow_the_counts() {
        let mut count = Count::new();
        for at in 0..BINS {
            let cosine = (at as f32 + 0.5) * 2.0 / BINS as f32 - 1.0;
            // Falls by a third a bin, with noise of parity; rare beyond the middle.
            let expected = 1000.0 * 0.7_f64.powi(at as i32) * if at % 2 == 0 { 1.2 } else { 0.8 };
            (0..1000).for_each(|_| count.add(cosine, 0));
            count.vectors[at] = expected.floor();
        }
        let odds = count.odds();
        assert!(odds.is_sound() && odds.0.is_sorted_by(|a, b| a >= b), "{:?}", odds.0);
        assert!((odds.0[10] / (0.7_f32.powi(10)) - 1.0).abs() < 0.4, "{}", odds.0[10]);
        assert!(odds.0[40] < odds.0[20] * 0.1, "the tail goes on falling: {:?}", odds.0);
        assert!(Count::new().odds().is_sound());
    }

    #[test]
    fn what_is_left_out_stays_within_the_budget() {
        let odds = Odds(std::array::from_fn(|at| 0.8_f32.powi(at as i32)));
        let cosines: Vec<f32> = (0..640).map(|at| at as f32 / 320.0 - 1.0).collect();
        for budget in [0.01, 0.5, 3.0, 20.0] {
            let cutoff = odds.cutoff(cosines.iter().copied(), budget);
            let left_out: f32 = cosines.iter().filter(|c| **c >= cutoff).map(|c| odds.0[bin(*c)]).sum();
            assert!(
                left_out <= budget * 1.05 + 0.01 && left_out >= budget * 0.7 - 0.02,
                "{budget}: {left_out}"
            );
        }
        assert_eq!(odds.cutoff(cosines.iter().copied(), 1e9), f32::NEG_INFINITY);
        assert!(odds.cutoff(cosines.iter().copied(), 0.0) >= 1.0);
    }
}
