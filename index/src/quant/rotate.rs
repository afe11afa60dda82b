//! A random rotation that costs `O(dim log dim)`: it spreads a vector evenly over its coordinates, so that
//! the error of a sign or a small integer a coordinate does not depend on the data.
//!
//! A round flips signs at random and applies a Hadamard transform (Ailon and Chazelle, "The fast
//! Johnson-Lindenstrauss transform", 2009). Where the dimension is no power of two, rounds transform the
//! first and the last coordinates in turn, as many as the largest power of two below, and then each
//! coordinate of the first half with its partner in the second (a step of Kac's walk), as the library of
//! RaBitQ does. Everything is orthogonal, whatever the signs; nothing is padded. Memory: 4 bytes a
//! coordinate and round.
//!
//! The same seed and dimension give the same rotation everywhere. Not for values near the largest f32: sums
//! of up to `dim` of them are formed.

use crate::random::Random;
use crate::simd::Kernels;

/// Rounds. With 4, a coordinate that only the last of them reach is spread unevenly where the halves hardly
/// overlap (1023 dimensions: 8 times the mean instead of below 6).
const ROUNDS: usize = 6;
/// Values that are worked on side by side.
const LANES: usize = 16;

/// An orthogonal map of `dim` coordinates onto themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    dim: usize,
    seed: u64,
    /// `rounds x dim`: the sign bit of an f32, set or not.
    flips: Vec<u32>,
}

impl Rotation {
    /// The rotation of a seed.
    ///
    /// # Panics
    /// When `dim` is 0.
    pub fn new(dim: usize, seed: u64) -> Self {
        assert!(dim > 0, "vectors have at least one dimension");
        let mut random = Random(seed);
        let flips = (0..ROUNDS * dim).map(|_| (random.next() >> 63 << 31) as u32).collect();
        Self { dim, seed, flips }
    }

    /// Dimensions.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// What it was made from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Rotates `vector` in place.
    ///
    /// # Panics
    /// When it has another dimension.
    pub fn apply(&self, vector: &mut [f32]) {
        assert_eq!(vector.len(), self.dim, "vectors have the dimension of the rotation");
        Kernels::best().vectorized(
            #[inline(always)]
            || {
                for (round, flips) in self.flips.chunks_exact(self.dim).enumerate() {
                    flip(vector, flips);
                    hadamard(self.half(round, vector));
                    self.walk(vector);
                }
            },
        );
    }

    /// Bytes of memory in use.
    pub fn memory_bytes(&self) -> usize {
        self.flips.len() * size_of::<u32>()
    }

    /// Rotates `vector` back in place.
    ///
    /// # Panics
    /// When it has another dimension.
    pub fn undo(&self, vector: &mut [f32]) {
        assert_eq!(vector.len(), self.dim, "vectors have the dimension of the rotation");
        for (round, flips) in self.flips.chunks_exact(self.dim).enumerate().rev() {
            // Each of the three is its own inverse.
            self.walk(vector);
            hadamard(self.half(round, vector));
            flip(vector, flips);
        }
    }

    /// What a round transforms: all, or the first or last coordinates.
    #[inline(always)]
    fn half<'a>(&self, round: usize, vector: &'a mut [f32]) -> &'a mut [f32] {
        let len = 1 << self.dim.ilog2();
        let first = if round.is_multiple_of(2) { 0 } else { self.dim - len };
        &mut vector[first..first + len]
    }

    /// Mixes the halves, where one transform does not reach all coordinates.
    #[inline(always)]
    fn walk(&self, vector: &mut [f32]) {
        if self.dim.is_power_of_two() {
            return;
        }
        let half = self.dim / 2;
        let (first, second) = vector.split_at_mut(self.dim - half);
        butterfly(&mut first[..half], second, std::f32::consts::FRAC_1_SQRT_2);
    }
}

#[inline(always)]
fn flip(vector: &mut [f32], flips: &[u32]) {
    for (value, flip) in vector.iter_mut().zip(flips) {
        *value = f32::from_bits(value.to_bits() ^ flip);
    }
}

/// The orthonormal transform of a power of two of values.
#[inline(always)]
fn hadamard(values: &mut [f32]) {
    let mut width = 1;
    if values.len() >= LANES {
        for lanes in values.as_chunks_mut::<LANES>().0 {
            *lanes = level::<8>(level::<4>(level::<2>(level::<1>(*lanes))));
        }
        width = LANES;
    }
    while width < values.len() {
        for pair in values.chunks_exact_mut(2 * width) {
            let (first, second) = pair.split_at_mut(width);
            butterfly(first, second, 1.0);
        }
        width *= 2;
    }
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|value| *value *= scale);
}

/// The butterflies between lanes that differ in the bit `WIDTH`.
#[inline(always)]
fn level<const WIDTH: usize>(lanes: [f32; LANES]) -> [f32; LANES] {
    let mut mixed = [0.0; LANES];
    for at in 0..LANES {
        let own = if at & WIDTH == 0 { lanes[at] } else { -lanes[at] };
        mixed[at] = lanes[at ^ WIDTH] + own;
    }
    mixed
}

/// Sums and differences, scaled.
#[inline(always)]
fn butterfly(first: &mut [f32], second: &mut [f32], scale: f32) {
    let ((a, a_rest), (b, b_rest)) = (first.as_chunks_mut::<LANES>(), second.as_chunks_mut::<LANES>());
    for (a, b) in a.iter_mut().zip(b) {
        let (mut sums, mut differences) = ([0.0; LANES], [0.0; LANES]);
        for at in 0..LANES {
            sums[at] = (a[at] + b[at]) * scale;
            differences[at] = (a[at] - b[at]) * scale;
        }
        (*a, *b) = (sums, differences);
    }
    for (a, b) in a_rest.iter_mut().zip(b_rest) {
        (*a, *b) = ((*a + *b) * scale, (*a - *b) * scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{dot_f64, norm};

    const DIMS: [usize; 11] = [1, 2, 3, 7, 16, 31, 96, 100, 384, 784, 1023];

    fn vector(random: &mut Random, dim: usize) -> Vec<f32> {
        (0..dim).map(|_| (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    #[test]
    fn unit_vectors_become_orthonormal_ones() {
        for dim in [1, 2, 3, 7, 16, 31, 96, 100] {
            let rotation = Rotation::new(dim, 11);
            let mut rows = vec![vec![0.0; dim]; dim];
            for (at, row) in rows.iter_mut().enumerate() {
                row[at] = 1.0;
                rotation.apply(row);
            }
            for a in 0..dim {
                for b in 0..dim {
                    let expected = if a == b { 1.0 } else { 0.0 };
                    let product = dot_f64(&rows[a], &rows[b]);
                    assert!((product - expected).abs() < 1e-5, "{dim}: {a} and {b}: {product}");
                }
            }
        }
    }

    #[test]
    fn products_stay_and_undo_undoes() {
        for dim in DIMS {
            for seed in 0..5 {
                let mut random = Random(seed);
                let (a, b) = (vector(&mut random, dim), vector(&mut random, dim));
                let rotation = Rotation::new(dim, seed);
                let (mut x, mut y) = (a.clone(), b.clone());
                rotation.apply(&mut x);
                rotation.apply(&mut y);
                let size = norm(&a) * norm(&b);
                assert!((dot_f64(&x, &y) - dot_f64(&a, &b)).abs() < 1e-5 * size, "seed {seed}, {dim}");
                rotation.undo(&mut x);
                let off = a.iter().zip(&x).fold(0.0_f32, |most, (a, x)| most.max((a - x).abs()));
                assert!(off < 1e-5 * norm(&a) as f32, "seed {seed}, {dim}: {off}");
            }
        }
    }

    /// A single coordinate, the worst case for codes, is spread about as evenly as by any rotation: the
    /// largest of `dim` normal values is near `sqrt(2 ln dim)` and all but never 6.
    #[test]
    fn a_coordinate_is_spread_over_all() {
        for dim in DIMS.into_iter().filter(|dim| *dim >= 96) {
            for at in [0, dim / 2, dim - 1] {
                let mut unit = vec![0.0; dim];
                unit[at] = 1.0;
                Rotation::new(dim, 3).apply(&mut unit);
                let most = unit.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                assert!(most * (dim as f32).sqrt() < 6.0, "{dim}, {at}: {most}");
            }
        }
    }

    #[test]
    fn a_seed_is_a_rotation() {
        let rotation = Rotation::new(100, 5);
        assert_eq!(rotation, Rotation::new(100, rotation.seed()));
        assert_ne!(rotation.flips, Rotation::new(100, 6).flips);
    }
}
