//! A Gaussian mixture fitted to real vectors: as many rows as are wanted, that lie about as real ones do.
//!
//! Components are the cells of k-means (Lloyd, 1982). One has the weight, the mean and the covariance S of
//! its rows, all of S that they can tell: a draw adds `sum of g * residual / sqrt(rows - 1)` to the mean,
//! with one normal g for each row of the component, whose covariance is S without a decomposition. S has no
//! more directions than the component has rows, so a share of its variance is spread over all directions
//! alike. Vectors of a unit base are normalised. What the mixture does not have is structure finer than a
//! component: within one it is smooth, however many rows are drawn.
//!
//! Memory: the rows of the sample. A row costs `rows of a component x dim` multiplications to draw.

use rayon::prelude::*;
use serde::Serialize;
use spandrel_index::matrix::Matrix as Rows;
use spandrel_index::simd::{Kernels, l2_f64, norm, normalize};

use crate::dataset::Matrix;
use crate::random::{Draw, Random};
use crate::{Error, Result};

/// Passes of k-means.
const PASSES: usize = 10;
/// Rows that are compared with all means at once.
const PART_ROWS: usize = 64;
/// Rows a component has at least: its rows are given to others otherwise.
const COMPONENT_ROWS_MIN: usize = 16;
/// How far from 1 the norms of a unit base may be; halves are rounded.
const UNIT_ERROR_MAX: f64 = 2e-3;

/// The distribution.
pub struct Mixture {
    dim: usize,
    /// Rows of the sample, component after component, less their means.
    residuals: Vec<f32>,
    means: Vec<f32>,
    /// First row of each component, and the end.
    starts: Vec<usize>,
    /// Standard deviation of a component in a direction, on average.
    spreads: Vec<f32>,
    /// Whether rows are normalised.
    unit: bool,
    isotropic: f32,
}

/// What was fitted.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fit {
    /// Rows it was fitted to.
    pub rows: usize,
    /// Components.
    pub components: usize,
    /// Share of the rows' variance that is within components.
    pub variance_within: f64,
    /// Whether rows are normalised.
    pub unit: bool,
}

impl Mixture {
    /// Fits at most `components` components to the rows of `sample`; `isotropic` is the share (0..=1) of a
    /// component's variance that goes to all directions alike.
    ///
    /// # Errors
    /// The sample has too few rows.
    pub fn fit(sample: Matrix, components: usize, isotropic: f64, seed: u64) -> Result<(Self, Fit)> {
        let Matrix { dim, data } = sample;
        let rows = data.len() / dim;
        if rows < 2 * COMPONENT_ROWS_MIN {
            return Err(Error::from(format!("{rows} rows are too few to fit a mixture to")));
        }
        let unit = data.par_chunks(dim).all(|row| (norm(row) - 1.0).abs() < UNIT_ERROR_MAX);
        let mut random = Random(seed);
        let wanted = components.clamp(1, rows / COMPONENT_ROWS_MIN);
        let mut means: Vec<f32> = Vec::with_capacity(wanted * dim);
        for _ in 0..wanted {
            let at = random.below(rows) * dim;
            means.extend_from_slice(&data[at..at + dim]);
        }
        for _ in 0..PASSES {
            let nearest = nearest(&data, &means, dim);
            means = means_of(&data, &nearest, &means, dim).0;
        }
        // Components of few rows have next to no covariance.
        let (mut means, counts) = means_of(&data, &nearest(&data, &means, dim), &means, dim);
        let large = means.chunks_exact(dim).zip(&counts).filter(|(_, count)| **count >= COMPONENT_ROWS_MIN);
        means = large.flat_map(|(mean, _)| mean).copied().collect();
        let nearest = nearest(&data, &means, dim);
        let (means, counts) = means_of(&data, &nearest, &means, dim);
        let centre = means_of(&data, &vec![0; rows], &vec![0.0; dim], dim).0;
        let pairs = || data.chunks_exact(dim).zip(&nearest);
        let all: f64 = pairs().map(|(row, _)| l2_f64(row, &centre)).sum();
        let within: f64 = pairs().map(|(row, at)| l2_f64(row, &means[at * dim..][..dim])).sum();
        let fit = Fit {
            rows,
            components: counts.len(),
            variance_within: within / all.max(f64::MIN_POSITIVE),
            unit,
        };
        Ok((Self::of(data, &nearest, (means, &counts), unit, isotropic as f32), fit))
    }

    fn of(
        data: Vec<f32>,
        nearest: &[usize],
        (means, counts): (Vec<f32>, &[usize]),
        unit: bool,
        isotropic: f32,
    ) -> Self {
        let dim = means.len() / counts.len();
        let mut starts = vec![0];
        starts.extend(counts.iter().scan(0, |end, count| {
            *end += count;
            Some(*end)
        }));
        let (mut next, mut squares) = (starts.clone(), vec![0.0_f64; counts.len()]);
        let mut residuals = vec![0.0; data.len()];
        for (row, component) in data.chunks_exact(dim).zip(nearest) {
            let residual = &mut residuals[next[*component] * dim..][..dim];
            let mean = &means[component * dim..][..dim];
            residual
                .iter_mut()
                .zip(row.iter().zip(mean))
                .for_each(|(out, (value, mean))| *out = value - mean);
            squares[*component] += norm(residual).powi(2);
            next[*component] += 1;
        }
        let spread = |(square, count): (&f64, &usize)| (square / (*count * dim).max(1) as f64).sqrt() as f32;
        let spreads = squares.iter().zip(counts).map(spread).collect();
        Self { dim, residuals, means, starts, spreads, unit, isotropic }
    }

    /// Elements a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Rows `first..first + rows` of the stream of `seed`: whatever is asked for before and with them, they
    /// are the same.
    pub fn rows(&self, seed: u64, first: usize, rows: usize) -> Matrix {
        let mut data = vec![0.0; rows * self.dim];
        data.par_chunks_mut(self.dim).enumerate().for_each(|(at, row)| {
            self.draw(&mut Random(seed).jump(first + at), row);
        });
        Matrix { dim: self.dim, data }
    }

    fn draw(&self, random: &mut Random, out: &mut [f32]) {
        // The component of a row of the sample is drawn by the weights.
        let row = random.below(self.residuals.len() / self.dim);
        let component = self.starts.partition_point(|start| *start <= row) - 1;
        let (start, end) = (self.starts[component], self.starts[component + 1]);
        out.copy_from_slice(&self.means[component * self.dim..][..self.dim]);
        let scale = ((1.0 - self.isotropic) / (end - start - 1).max(1) as f32).sqrt();
        for residual in self.residuals[start * self.dim..end * self.dim].chunks_exact(self.dim) {
            let by = scale * random.normal();
            out.iter_mut().zip(residual).for_each(|(out, value)| *out += by * value);
        }
        let scale = self.isotropic.sqrt() * self.spreads[component];
        out.iter_mut().for_each(|out| *out += scale * random.normal());
        if self.unit {
            // A row of zeros does not come up, and would be an error of the engine's.
            let _ = normalize(out);
        }
    }
}

/// The nearest mean of every row.
fn nearest(data: &[f32], means: &[f32], dim: usize) -> Vec<usize> {
    let (kernels, means) = (Kernels::best(), Rows::new(means, dim));
    let part = |rows: &[f32]| -> Vec<usize> {
        let mut distances = vec![0.0; rows.len() / dim * means.rows()];
        kernels.l2_tile(Rows::new(rows, dim), means, &mut distances);
        let least =
            |row: &[f32]| row.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(at, _)| at);
        distances.chunks_exact(means.rows()).map(least).collect()
    };
    data.par_chunks(PART_ROWS * dim).flat_map_iter(part).collect()
}

/// The mean of the rows of each component, and their number; of none, the mean before.
fn means_of(data: &[f32], nearest: &[usize], before: &[f32], dim: usize) -> (Vec<f32>, Vec<usize>) {
    let mut sums = vec![0.0_f64; before.len()];
    let mut counts = vec![0; before.len() / dim];
    for (row, component) in data.chunks_exact(dim).zip(nearest) {
        counts[*component] += 1;
        let sum = &mut sums[component * dim..][..dim];
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let mean = |at: usize| match counts[at / dim] {
        0 => before[at],
        count => (sums[at] / count as f64) as f32,
    };
    ((0..before.len()).map(mean).collect(), counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two clouds on a line each, at -10 and at 10 in the first dimension.
    fn clouds() -> Matrix {
        let mut random = Random(3);
        let row = |at: usize| {
            let (side, along) = (if at.is_multiple_of(4) { -10.0 } else { 10.0 }, random.normal());
            [side + 0.5 * along, along, 0.0]
        };
        Matrix { dim: 3, data: (0..4_000).flat_map(row).collect() }
    }

    #[test]
    fn draws_have_the_weights_means_and_covariances_of_the_sample() {
        let (mixture, fit) = Mixture::fit(clouds(), 2, 0.0, 1).unwrap();
        assert_eq!((fit.rows, fit.components, fit.unit), (4_000, 2, false));
        let rows = mixture.rows(7, 0, 4_000);
        let left: Vec<&[f32]> = rows.data.chunks(3).filter(|row| row[0] < 0.0).collect();
        assert!((800..1_200).contains(&left.len()), "{} of 4,000 in a quarter", left.len());
        let mean =
            |of: &dyn Fn(&[f32]) -> f32| left.iter().map(|row| of(row)).sum::<f32>() / left.len() as f32;
        assert!((mean(&|row| row[0]) + 10.0).abs() < 0.1);
        assert!((mean(&|row| row[1] * row[1]) - 1.0).abs() < 0.15);
        // All on the line, as the sample is.
        assert!(mean(&|row| (row[0] + 10.0 - 0.5 * row[1]).abs() + row[2].abs()) < 0.05);
        assert!(fit.variance_within < 0.05, "{}", fit.variance_within);
    }

    #[test]
    fn a_stream_is_the_same_in_parts_and_unit_rows_stay_so() {
        let mut sample = clouds();
        sample.data.chunks_mut(3).for_each(|row| {
            normalize(row);
        });
        let (mixture, fit) = Mixture::fit(sample, 8, 0.2, 1).unwrap();
        assert!(fit.unit);
        let (all, part) = (mixture.rows(5, 0, 100), mixture.rows(5, 40, 20));
        assert_eq!(all.data[40 * 3..60 * 3], part.data);
        assert!(all.data.chunks(3).all(|row| (norm(row) - 1.0).abs() < 1e-6));
        assert_ne!(all.data, mixture.rows(6, 0, 100).data);
        assert!(Mixture::fit(Matrix { dim: 3, data: vec![0.0; 9] }, 2, 0.1, 1).is_err());
    }
}
