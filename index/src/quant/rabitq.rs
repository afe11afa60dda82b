//! Signs, or small integers, of the coordinates after a random rotation: 1 to 8 bits a dimension, nothing
//! to train, an unbiased estimate and a bound on its error for any data.
//!
//! Gao and Long, "RaBitQ: quantizing high-dimensional vectors with a theoretical error bound for
//! approximate nearest neighbor search", 2024, for 1 bit; Gao et al., "Practical and asymptotically
//! optimal quantization of high-dimensional vectors", 2025, for more. A vector is written as the grid
//! vector `x' = u - (2^B - 1) / 2` that points most nearly where it does ([`grid`](super::grid)), and only
//! its direction is meant: `x'` is not near `x` before it is scaled by [`Factors::scale`]. Over random
//! rotations the error of an estimate is distributed as [`Factors::deviation`] says.
//!
//! Where we depart: a code is kept as `B` planes of bits, the signs first, each read as nibbles of four
//! dimensions by [`nibble`], so that a scan is `B` times that of signs; no code is unpacked. Planes of
//! weight 16 and more are read by tables of two bytes an entry, in two passes, so that what rounding a
//! query adds stays below what the code itself has lost.
//!
//! Dimensions are padded to a multiple of 16 before they are rotated. A block: a plane after the other, the
//! highest first, each `padded / 4` lookups as in [`nibble`].

use super::grid::{self, Search};
use super::{BLOCK_ROWS, Factors, Quantizer, Rotation, check_shapes};
use crate::matrix::Matrix;
use crate::simd::nibble::{self, ENTRIES, GROUP, LOOKUPS_MAX};
use crate::simd::{Kernels, norm_squared};

/// Dimensions of a lookup.
const LOOKUP_DIMS: usize = 4;
/// The lowest plane that is read by tables of two bytes.
const FINE_FROM: u32 = 4;

/// Codes of a number of bits a dimension.
#[derive(Clone, Debug)]
pub struct Rabitq {
    dim: usize,
    bits: u32,
    search: Search,
    rotation: Rotation,
    kernels: &'static Kernels,
}

/// A query as tables.
#[derive(Clone, Debug, Default)]
pub struct RabitqQuery {
    rotated: Vec<f32>,
    /// `lookups x 16`: sums of coordinates, in 1 byte.
    coarse: Vec<u8>,
    coarse_step: f32,
    /// The same in 2 bytes, of which these are the high ones, and these the low ones.
    high: Vec<u8>,
    low: Vec<u8>,
    fine_step: f32,
    /// The sum of all magnitudes.
    magnitude: f32,
}

impl Rabitq {
    /// Codes of 1 to 8 `bits` a dimension; the seed is that of the rotation.
    ///
    /// # Panics
    /// When `dim` is 0 or there are no such codes.
    pub fn new(dim: usize, bits: u32, search: Search, seed: u64, kernels: &'static Kernels) -> Self {
        assert!((1..=8).contains(&bits), "{bits} bits are not 1 to 8");
        assert!(dim > 0, "vectors have at least one dimension");
        let rotation = Rotation::new(dim.next_multiple_of(LOOKUP_DIMS * GROUP), seed);
        Self { dim, bits, search, rotation, kernels }
    }

    fn lookups(&self) -> usize {
        self.rotation.dim() / LOOKUP_DIMS
    }

    /// The largest code of a dimension.
    fn top(&self) -> u8 {
        ((1_u32 << self.bits) - 1) as u8
    }

    /// The rotated vector over its largest magnitude, which is returned; `None` for zeros and what is not
    /// finite.
    fn rotate(&self, vector: &[f32], rotated: &mut Vec<f32>) -> Option<f32> {
        assert_eq!(vector.len(), self.dim, "vectors have the dimension of the quantizer");
        let most = vector.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        rotated.clear();
        rotated.resize(self.rotation.dim(), 0.0);
        if most == 0.0 || !vector.iter().all(|value| value.is_finite()) {
            return None;
        }
        rotated.iter_mut().zip(vector).for_each(|(rotated, value)| *rotated = value / most);
        self.rotation.apply(rotated);
        Some(most)
    }

    /// The value that a code stands for.
    fn value(&self, code: u8) -> f32 {
        f32::from(code) - f32::from(self.top()) / 2.0
    }
}

impl Quantizer for Rabitq {
    type Query = RabitqQuery;

    fn dim(&self) -> usize {
        self.dim
    }

    fn block_bytes(&self) -> usize {
        self.bits as usize * nibble::code_bytes(self.lookups())
    }

    fn encode(&self, rows: Matrix<'_, f32>, blocks: &mut [u8], factors: &mut [Factors]) {
        check_shapes(self, rows, blocks, factors);
        blocks.fill(0);
        let padded = self.rotation.dim();
        let (mut rotated, mut magnitudes) = (Vec::new(), vec![0.0; padded]);
        let (mut code, mut nibbles) = (vec![0; padded], vec![0; self.lookups()]);
        let half = 1 << (self.bits - 1);
        for (at, (row, factors)) in rows.iter().zip(factors).enumerate() {
            let Some(most) = self.rotate(row, &mut rotated) else {
                *factors = Factors::from_sums(norm_squared(row), 0.0, 0.0);
                continue;
            };
            magnitudes.iter_mut().zip(&rotated).for_each(|(magnitude, value)| *magnitude = value.abs());
            grid::code(&magnitudes, half - 1, self.search, &mut code);
            let (mut product, mut decoded_squared) = (0.0, 0.0);
            for (code, value) in code.iter_mut().zip(&rotated) {
                *code = if *value > 0.0 { half + *code } else { half - 1 - *code };
                let decoded = f64::from(self.value(*code));
                product += decoded * f64::from(*value);
                decoded_squared += decoded * decoded;
            }
            let block = &mut blocks[at / BLOCK_ROWS * self.block_bytes()..][..self.block_bytes()];
            let planes = block.chunks_exact_mut(nibble::code_bytes(self.lookups()));
            for (plane, bit) in planes.zip((0..self.bits).rev()) {
                for (nibble, codes) in nibbles.iter_mut().zip(code.chunks_exact(LOOKUP_DIMS)) {
                    *nibble = codes.iter().rev().fold(0, |nibble, code| nibble << 1 | (code >> bit & 1));
                }
                nibble::put_code(plane, at % BLOCK_ROWS, &nibbles);
            }
            *factors = Factors::from_sums(norm_squared(row), product * f64::from(most), decoded_squared);
        }
    }

    fn decode(&self, block: &[u8], row: usize, vector: &mut [f32]) {
        let mut code = vec![0; self.rotation.dim()];
        let mut nibbles = vec![0; self.lookups()];
        for plane in block.chunks_exact(nibble::code_bytes(self.lookups())) {
            nibble::code(plane, row, &mut nibbles);
            for (at, code) in code.iter_mut().enumerate() {
                *code = *code << 1 | (nibbles[at / LOOKUP_DIMS] >> (at % LOOKUP_DIMS) & 1);
            }
        }
        let mut rotated: Vec<f32> = code.into_iter().map(|code| self.value(code)).collect();
        self.rotation.undo(&mut rotated);
        vector.copy_from_slice(&rotated[..self.dim]);
    }

    fn prepare(&self, query: &[f32], prepared: &mut Self::Query) {
        let RabitqQuery { rotated, coarse, coarse_step, high, low, fine_step, magnitude } = prepared;
        let most = self.rotate(query, rotated).unwrap_or(0.0);
        let (groups, _) = rotated.as_chunks::<LOOKUP_DIMS>();
        let width = |group: &[f32; LOOKUP_DIMS]| group.iter().map(|value| value.abs()).sum::<f32>();
        let widest = groups.iter().map(width).fold(f32::MIN_POSITIVE, f32::max);
        // The step is the same for all lookups, so that the widest one fills its bytes.
        let (per_coarse, per_fine) = (255.0 / widest, 65_535.0 / widest);
        let len = groups.len() * ENTRIES;
        coarse.resize(len, 0);
        high.resize(len, 0);
        low.resize(len, 0);
        for (lookup, group) in groups.iter().enumerate() {
            let least: f32 = group.iter().map(|value| value.min(0.0)).sum();
            for entry in 0..ENTRIES {
                let set = group.iter().enumerate().filter(|(at, _)| entry >> at & 1 == 1);
                let sum = set.map(|(_, value)| value).sum::<f32>() - least;
                let (at, fine) = (lookup * ENTRIES + entry, (sum * per_fine + 0.5) as u16);
                coarse[at] = (sum * per_coarse + 0.5) as u8;
                [low[at], high[at]] = fine.to_le_bytes();
            }
        }
        *coarse_step = most * (widest / 255.0);
        *fine_step = most * (widest / 65_535.0);
        *magnitude = most * groups.iter().map(width).sum::<f32>();
    }

    fn products(&self, query: &mut Self::Query, blocks: &[u8], products: &mut [f32]) {
        let plane_bytes = nibble::code_bytes(self.lookups());
        // A set bit of a plane adds its sum over the least one, and the least ones and the grid's offset are
        // together half of all magnitudes.
        let offset = -0.5 * query.magnitude * f32::from(self.top());
        for (block, products) in blocks.chunks(self.block_bytes()).zip(products.chunks_mut(BLOCK_ROWS)) {
            let mut sums = [offset; BLOCK_ROWS];
            for (plane, bit) in block.chunks_exact(plane_bytes).zip((0..self.bits).rev()) {
                let weight = (1_u32 << bit) as f32;
                if bit < FINE_FROM {
                    self.add(&query.coarse, plane, weight * query.coarse_step, &mut sums);
                } else {
                    self.add(&query.high, plane, 256.0 * weight * query.fine_step, &mut sums);
                    self.add(&query.low, plane, weight * query.fine_step, &mut sums);
                }
            }
            products.copy_from_slice(&sums[..products.len()]);
        }
    }
}

impl Rabitq {
    /// Adds a plane's sums.
    fn add(&self, table: &[u8], plane: &[u8], weight: f32, sums: &mut [f32; BLOCK_ROWS]) {
        let mut part = [0; BLOCK_ROWS];
        let tables = table.chunks(LOOKUPS_MAX * ENTRIES);
        for (table, codes) in tables.zip(plane.chunks(nibble::code_bytes(LOOKUPS_MAX))) {
            self.kernels.nibble_sums(table, codes, &mut part);
            sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part as f32 * weight);
        }
    }
}
