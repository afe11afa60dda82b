//! Codes to rank by where memory is short: half a byte a dimension, for the directions that matter.
//!
//! A vector is the direction of its residual from the centroid of its first cell, along the principal axes
//! that leave out next to nothing, each in 16 steps of the size that suits its variance. The scale makes
//! products unbiased (see [`quant`](crate::quant)). A third of the bytes of
//! [`refine`](super::refine): on two real sets the ten nearest are among the first 20 by these codes with
//! 99.5 % (384 dimensions, 140 bytes) and 96.3 % (784 dimensions, 268 bytes), so that a search reads about
//! two vectors a result for their exact scores.
//!
//! A row: half a byte a value, then `add` and `scale` in f32 and the cell in u32; a squared distance is that
//! of the cell's centroid plus `add + scale * product`.

use crate::quant::Factors;
use crate::simd::lanes::{fold, larger};
use crate::simd::{HALF_GROUP, Kernels, put_half};

/// Bytes of a row's factors.
const FACTOR_BYTES: usize = 12;
/// Steps of a value, and the place of zero among them.
const STEPS: f32 = 16.0;
const MIDDLE: f32 = 7.5;
/// The step that is best for a normal variable, in its standard deviations (Max, 1960).
const STEP: f32 = 0.335;
/// Share of the energy that the axes may leave out.
const LEFT_OUT: f32 = 0.04;

/// Bytes of a row of so many values.
pub(super) fn stride(values: usize) -> usize {
    values / 2 + FACTOR_BYTES
}

/// Most values for a field of `dims` dimensions: about one in two thirds of them, so that with postings a
/// vector stays below 15 % of its f32 bytes; all of them where there are few.
pub(super) fn values_max(dims: usize) -> usize {
    let all = dims.next_multiple_of(HALF_GROUP);
    (dims * 2 / 3).next_multiple_of(HALF_GROUP).max(2 * HALF_GROUP).min(all)
}

/// How many values to keep, when `energies` is the mean square of the directions along each axis and `rest`
/// of what is along none: whole groups, at least `least`.
pub(super) fn values(energies: &[f32], rest: f32, least: usize) -> usize {
    let total = energies.iter().sum::<f32>() + rest;
    let mut left = total;
    let enough = energies.iter().position(|energy| {
        left -= energy;
        left <= LEFT_OUT * total
    });
    let wanted = enough.map_or(energies.len(), |at| at + 1);
    wanted.max(least).next_multiple_of(HALF_GROUP)
}

/// What a step is along an axis of this energy.
pub(super) fn step(energy: f32) -> f32 {
    STEP * energy.sqrt()
}

/// Encodes one vector into its row of zeros.
///
/// `residual` is along the axes, `rest` the squared norm along none of them, `centroid` that of `cell` along
/// the first axes, and nothing along the others.
pub(super) fn encode(
    residual: &[f32],
    rest: f32,
    (cell, centroid): (u32, &[f32]),
    steps: &[f32],
    row: &mut [u8],
) {
    let norm_squared = crate::simd::norm_squared(residual) + f64::from(rest);
    let norm = norm_squared.sqrt();
    let per_norm = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    let (mut product, mut decoded_squared, mut towards) = (0.0, 0.0, 0.0);
    for (at, (value, step)) in residual.iter().zip(steps).enumerate() {
        let value = f64::from(*value) * per_norm;
        let per_step = if *step > 0.0 { 1.0 / step } else { 0.0 };
        // A cast saturates, so that values beyond the last step get that.
        let code = ((value as f32 * per_step + STEPS / 2.0) as u8).min(STEPS as u8 - 1);
        put_half(row, at, code);
        let decoded = f64::from((f32::from(code) - MIDDLE) * step);
        product += value * decoded;
        decoded_squared += decoded * decoded;
        towards += centroid.get(at).map_or(0.0, |centroid| f64::from(*centroid) * decoded);
    }
    let unit = if norm > 0.0 { 1.0 } else { 0.0 };
    let scale = norm * f64::from(Factors::from_sums(unit, product, decoded_squared).scale);
    let add = (norm_squared + 2.0 * scale * towards).clamp(-1e30, 1e30) as f32;
    let factors = &mut row[steps.len() / 2..];
    factors[..4].copy_from_slice(&add.to_le_bytes());
    factors[4..8].copy_from_slice(&((-2.0 * scale) as f32).to_le_bytes());
    factors[8..12].copy_from_slice(&cell.to_le_bytes());
}

/// Makes a row name another cell of the same centroid.
pub(super) fn rename(row: &mut [u8], cell: u32) {
    let at = row.len() - 4;
    row[at..].copy_from_slice(&cell.to_le_bytes());
}

/// The cell that a row names.
pub(super) fn cell(row: &[u8]) -> u32 {
    let at = row.len() - 4;
    u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
}

/// A query in i8.
#[derive(Debug, Default)]
pub(super) struct HalfQuery {
    values: Vec<i8>,
    scaled: Vec<f32>,
    /// What a unit of a value is worth.
    step: f32,
    /// The sum of the values.
    sum: f32,
}

impl HalfQuery {
    /// Rounds a query along the axes, of which there may be fewer than `steps`.
    #[inline(always)]
    pub(super) fn set(&mut self, query: &[f32], steps: &[f32]) {
        const MOST: f32 = i8::MAX as f32;
        self.scaled.resize(steps.len(), 0.0);
        self.values.resize(steps.len(), 0);
        let each = self.scaled.iter_mut().zip(query.iter().zip(steps));
        each.for_each(|(scaled, (value, step))| *scaled = value * step);
        let most = fold(&self.scaled, f32::MIN_POSITIVE, f32::abs, larger);
        let (per_step, mut sum) = (MOST / most, 0_i32);
        for (rounded, value) in self.values.iter_mut().zip(&self.scaled) {
            // Adding 3 * 2^22 leaves the integer nearest to a small value in the low bits.
            *rounded = (value * per_step + 12_582_912.0).to_bits() as i8;
            sum += i32::from(*rounded);
        }
        self.step = most / MOST;
        self.sum = sum as f32;
    }
}

/// The rows of a field, wherever they are.
pub(super) struct Halves {
    pub(super) steps: Vec<f32>,
}

impl Halves {
    /// The cell that the row of an ordinal names.
    pub(super) fn cell(&self, rows: &[u8], ordinal: u32) -> u32 {
        let stride = stride(self.steps.len());
        cell(&rows[ordinal as usize * stride..][..stride])
    }

    /// Squared distances of the query to the rows of `ordinals`; `cells` has those of the centroids.
    ///
    /// A row of a cell that is not there is infinitely far.
    ///
    /// # Panics
    /// When an ordinal has no row.
    pub(super) fn distances(
        &self,
        kernels: &Kernels,
        (query, cells): (&HalfQuery, &[f32]),
        (rows, ordinals): (&[u8], &[u32]),
        sums: &mut Vec<i32>,
        distances: &mut Vec<f32>,
    ) {
        let values = self.steps.len();
        let stride = stride(values);
        sums.resize(ordinals.len(), 0);
        kernels.half_dots_picked(&query.values, rows, stride, ordinals, sums);
        distances.clear();
        distances.extend(ordinals.iter().zip(sums.iter()).map(|(ordinal, sum)| {
            let row = &rows[*ordinal as usize * stride..][..stride];
            let factor = |at: usize| {
                let at = values / 2 + 4 * at;
                f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
            };
            let product = (*sum as f32 - MIDDLE * query.sum) * query.step;
            cells.get(cell(row) as usize).map_or(f32::INFINITY, |cell| cell + factor(0) + factor(1) * product)
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::simd::l2_f64;

    fn values_of(random: &mut Random, energies: &[f32]) -> Vec<f32> {
        let mut float = || (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        energies.iter().map(|energy| 1.7 * energy.sqrt() * float()).collect()
    }

    #[test]
    fn distances_are_close_and_unbiased() {
        let mut random = Random(5);
        let energies: Vec<f32> = (0..128).map(|at| 1.0 / (1.0 + at as f32 / 8.0)).collect();
        let total: f32 = energies.iter().sum();
        let steps: Vec<f32> = energies.iter().map(|energy| step(*energy / total)).collect();
        let centroids = [values_of(&mut random, &energies[..96]), values_of(&mut random, &energies[..96])];
        let rows = 200;
        let mut bytes = vec![0; rows * stride(128)];
        let mut vectors = Vec::new();
        for (at, row) in bytes.chunks_exact_mut(stride(128)).enumerate() {
            let residual = values_of(&mut random, &energies);
            let centroid = &centroids[at % 2];
            // The last coordinate is along none of the axes.
            let rest = 0.05 * (at % 7) as f32;
            encode(&residual, rest * rest, (at as u32 % 2, centroid), &steps, row);
            let whole = |axis: usize| residual[axis] + centroid.get(axis).unwrap_or(&0.0);
            vectors.push((0..128).map(whole).chain([rest]).collect::<Vec<f32>>());
        }
        let halves = Halves { steps };
        let (mut sums, mut found, mut query) = (Vec::new(), Vec::new(), HalfQuery::default());
        let (mut error, mut bias, mut count) = (0.0_f64, 0.0_f64, 0.0_f64);
        for _ in 0..20 {
            let values = values_of(&mut random, &energies);
            query.set(&values, &halves.steps);
            let full: Vec<f32> = values.iter().copied().chain([0.0]).collect();
            let cells = centroids.each_ref().map(|centroid| {
                let mut centroid = centroid.clone();
                centroid.resize(129, 0.0);
                l2_f64(&full, &centroid) as f32
            });
            let ordinals: Vec<u32> = (0..rows as u32).rev().collect();
            halves.distances(Kernels::best(), (&query, &cells), (&bytes, &ordinals), &mut sums, &mut found);
            for (ordinal, distance) in ordinals.iter().zip(&found) {
                let exact = l2_f64(&full, &vectors[*ordinal as usize]);
                let relative = (f64::from(*distance) - exact) / exact;
                (error, bias, count) = (error + relative.abs(), bias + relative, count + 1.0);
            }
        }
        assert!(error / count < 0.02 && (bias / count).abs() < 0.002, "{} {}", error / count, bias / count);
    }

    #[test]
    fn values_are_as_many_as_the_energy_asks_for() {
        assert_eq!(values(&[1.0; 256], 0.0, 10), 256);
        let falling: Vec<f32> = (0..384).map(|at| (-(at as f32) / 30.0).exp()).collect();
        assert_eq!(values(&falling, 0.0, 10), 128);
        assert_eq!(values(&falling, 0.0, 192), 192);
        assert_eq!(values(&falling, 100.0, 10), 384, "they cannot have it all");
        assert_eq!(values(&[0.0; 5], 0.0, 3), 64);
        assert_eq!((values_max(2), values_max(96), values_max(384), values_max(1536)), (64, 128, 256, 1024));
        for dims in [384, 768, 784, 1024, 1536, 3072] {
            assert!(stride(values_max(dims)) + 66 <= dims * 4 * 15 / 100, "{dims} dimensions");
        }
    }

    #[test]
    fn what_has_no_extent_is_encoded() {
        let mut row = vec![0; stride(64)];
        encode(&[0.0; 64], 0.0, (7, &[1.0; 64]), &[0.0; 64], &mut row);
        assert_eq!(cell(&row), 7);
        let halves = Halves { steps: vec![0.0; 64] };
        let mut query = HalfQuery::default();
        query.set(&[0.0; 64], &halves.steps);
        let (mut sums, mut found) = (Vec::new(), Vec::new());
        halves.distances(Kernels::best(), (&query, &[3.5; 8]), (&row, &[0]), &mut sums, &mut found);
        assert_eq!(found, [3.5]);
        halves.distances(Kernels::best(), (&query, &[3.5; 7]), (&row, &[0]), &mut sums, &mut found);
        assert_eq!(found, [f32::INFINITY]);
    }
}
