//! Writes vectors as codes: into the postings of their cells, and as rows of half bytes.
//!
//! Postings are filled by counting: how many vectors each cell has says where its posting is, and one pass
//! over the vectors, in their order, puts each into the next place of its cells. Memory: the postings of as
//! many cells as are filled at once, and the codes of [`CHUNK_ROWS`] vectors.

use std::ops::Range;

use super::closure::Placement;
use super::cluster::Work;
use super::codebook::{self, Codebook};
use super::halves;
use super::points::{Buffer, PART_ROWS, Points, Projected};
use super::refine;
use super::space::Space;
use crate::large::Large;
use crate::matrix::Matrix;
use crate::parallel::for_parts;
use crate::quant::Factors;
use crate::simd;
use crate::simd::nibble::{self, BLOCK_ROWS};
use half::f16;

/// Vectors whose codes wait to be put into postings.
const CHUNK_ROWS: usize = 16_384;

/// What codes are made of.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) space: &'a Space,
    pub(super) projected: &'a Projected<'a>,
    pub(super) placement: &'a Placement,
    pub(super) work: Work,
}

/// Codes of a few vectors, one for each cell that a vector is in.
#[derive(Default)]
struct Codes {
    cells: Vec<u32>,
    /// `lookups` each.
    codes: Vec<u8>,
    factors: Vec<nibble::Factors>,
    /// Squared distances from the centroids.
    squares: Vec<f32>,
}

/// First block of each cell, and the end.
pub(super) fn starts(placement: &Placement) -> Vec<u32> {
    let mut starts = vec![0_u32];
    for size in placement.sizes() {
        starts.push(starts[starts.len() - 1] + size.div_ceil(BLOCK_ROWS as u32));
    }
    starts
}

impl Given<'_> {
    /// The postings of a range of cells, whose blocks begin at `starts`, and the radii of those cells.
    pub(super) fn postings(
        &self,
        codebook: &Codebook,
        starts: &[u32],
        cells: Range<usize>,
        radii: &mut [f32],
    ) -> Large<u8> {
        let (lookups, count) = (codebook.lookups(), self.placement.primary.len());
        let block_bytes = nibble::block_bytes(lookups);
        let first_block = starts[cells.start];
        let mut postings = Large::<u8>::zeroed((starts[cells.end] - first_block) as usize * block_bytes);
        let block_of = |cell: usize, at: usize| {
            let block = (starts[cell] - first_block) as usize + at / BLOCK_ROWS;
            block * block_bytes..(block + 1) * block_bytes
        };
        let mut filled = vec![(0_usize, 0.0_f64); cells.len()];
        for first in (0..count).step_by(CHUNK_ROWS) {
            let end = count.min(first + CHUNK_ROWS);
            let mut parts: Vec<Codes> = Vec::new();
            parts.resize_with((end - first).div_ceil(PART_ROWS), Codes::default);
            for_parts(self.work.threads, &mut parts, 1, |part, codes| {
                let first = first + part * PART_ROWS;
                self.codes(codebook, first..end.min(first + PART_ROWS), &cells, &mut codes[0]);
            });
            for Codes { cells: of, codes, factors, squares } in parts {
                let each = of.iter().zip(codes.chunks_exact(lookups)).zip(factors).zip(squares);
                for (((cell, code), factors), squared) in each {
                    let (at, sum) = &mut filled[*cell as usize - cells.start];
                    let block = &mut postings[block_of(*cell as usize, *at)];
                    nibble::put_code(block, *at % BLOCK_ROWS, code);
                    nibble::put_factors(block, lookups, *at % BLOCK_ROWS, factors);
                    *at += 1;
                    *sum += f64::from(squared);
                }
            }
        }
        for ((cell, (size, sum)), radius) in cells.zip(filled).zip(radii) {
            *radius = (sum / size.max(1) as f64).sqrt() as f32;
            if !size.is_multiple_of(BLOCK_ROWS) {
                nibble::pad(&mut postings[block_of(cell, size)], lookups, size % BLOCK_ROWS);
            }
        }
        postings
    }

    /// The codes of a range of vectors in a range of cells.
    fn codes(&self, codebook: &Codebook, vectors: Range<usize>, cells: &Range<usize>, out: &mut Codes) {
        let wanted = |cell: &u32| cells.contains(&(*cell as usize));
        if !vectors.clone().any(|vector| self.placement.cells_of(vector).any(|cell| wanted(&cell))) {
            return;
        }
        let (mut decoded, mut buffer) = (vec![0.0; codebook.dims()], Buffer::default());
        let (mut residual, mut direction) = (vec![0.0; codebook.dims()], vec![0.0; codebook.dims()]);
        let values = self.projected.block(vectors.clone(), &mut buffer);
        for (vector, value) in vectors.zip(values.iter()) {
            for cell in self.placement.cells_of(vector).filter(wanted) {
                let centroid = self.placement.centroid(cell);
                residual.iter_mut().zip(value).zip(centroid).for_each(|((r, v), c)| *r = v - c);
                // Codes are of directions: how long a residual is, its scale says.
                direction.copy_from_slice(&residual);
                simd::normalize(&mut direction);
                let start = out.codes.len();
                out.codes.resize(start + codebook.lookups(), 0);
                codebook.encode(&direction, &mut out.codes[start..], &mut decoded);
                let factors = Factors::of(&residual, &decoded);
                let rest = self.projected.rests[vector];
                let towards: f64 =
                    decoded.iter().zip(centroid).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let full = factors.norm_squared + rest;
                out.cells.push(cell);
                out.squares.push(full);
                out.factors.push(nibble::Factors {
                    add: (f64::from(full) + 2.0 * f64::from(factors.scale) * towards).clamp(-1e30, 1e30)
                        as f32,
                    scale: f16::from_f32(-2.0 * factors.scale),
                    error: f16::from_f32(2.0 * (factors.error * factors.error + rest).sqrt().min(30_000.0)),
                    id: vector as u32,
                });
            }
        }
    }

    /// Residuals of rows from `first` on along the coded axes and `more_axes`, and the rest of their squared
    /// norms.
    fn residuals(&self, first: usize, more_axes: &[f32], out: &mut [f32], rests: &mut [f32]) {
        let (dims, coded, range) = (self.space.dims(), self.placement.dim, first..first + rests.len());
        let values = coded + more_axes.len() / dims;
        let mut buffer = Buffer::default();
        let mut more = vec![0.0; rests.len() * (values - coded)];
        if values > coded {
            let placed = self.projected.placed(range.clone(), &mut buffer);
            self.work.kernels.dot_tile(placed, Matrix::new(more_axes, dims), &mut more);
        }
        let block = self.projected.block(range, &mut buffer);
        for (at, (out, rest)) in out.chunks_exact_mut(values).zip(rests).enumerate() {
            let centroid = self.placement.centroid(self.placement.primary[first + at]);
            out.iter_mut().zip(block.row(at).iter().zip(centroid)).for_each(|(out, (v, c))| *out = v - c);
            out[coded..].copy_from_slice(&more[at * (values - coded)..][..values - coded]);
            let along = simd::norm_squared(&out[coded..]) as f32;
            *rest = (self.projected.rests[first + at] - along).max(0.0);
        }
    }

    /// The steps of half bytes; axes that they do not need are dropped. None where rows of half bytes would
    /// be no shorter than rows of bytes.
    pub(super) fn half_steps(&self, more_axes: &mut Vec<f32>) -> Vec<f32> {
        let (dims, coded) = (self.space.dims(), self.placement.dim);
        // What a sample has along each axis says which are worth it.
        let count = self.placement.primary.len();
        let every = (count / codebook::SAMPLE_ROWS).max(1);
        let all = coded + more_axes.len() / dims;
        let (mut energies, mut rest, mut sampled) = (vec![0.0_f32; all], 0.0, 0);
        for first in (0..count).step_by(every * PART_ROWS) {
            let here = PART_ROWS.min(count - first);
            let (mut out, mut rests) = (vec![0.0; here * all], vec![0.0; here]);
            self.residuals(first, more_axes, &mut out, &mut rests);
            for (row, left) in out.chunks_exact(all).zip(rests) {
                // Of directions, so that a few long vectors do not stand for all.
                let norm_squared = simd::norm_squared(row) as f32 + left;
                if norm_squared > 0.0 {
                    energies
                        .iter_mut()
                        .zip(row)
                        .for_each(|(energy, value)| *energy += value * value / norm_squared);
                    rest += left / norm_squared;
                    sampled += 1;
                }
            }
        }
        energies.iter_mut().for_each(|energy| *energy /= sampled.max(1) as f32);
        let values = halves::values(&energies, rest / sampled.max(1) as f32, coded).min(all);
        if halves::stride(values) >= refine::stride(self.space.field_dim()) {
            more_axes.clear();
            return Vec::new();
        }
        more_axes.truncate((values - coded) * dims);
        energies[..values].iter().map(|energy| halves::step(*energy)).collect()
    }

    /// Rows of half bytes of a range of vectors; none without steps.
    pub(super) fn halves(&self, steps: &[f32], more_axes: &[f32], vectors: Range<usize>) -> Large<u8> {
        if steps.is_empty() {
            return Large::zeroed(0);
        }
        let (values, stride) = (steps.len(), halves::stride(steps.len()));
        let mut bytes = Large::<u8>::zeroed(vectors.len() * stride);
        for_parts(self.work.threads, &mut bytes, PART_ROWS * stride, |part, bytes| {
            let first = vectors.start + part * PART_ROWS;
            let here = bytes.len() / stride;
            let (mut out, mut rests) = (vec![0.0; here * values], vec![0.0; here]);
            self.residuals(first, more_axes, &mut out, &mut rests);
            let rows = bytes.chunks_exact_mut(stride).zip(out.chunks_exact(values));
            for (at, (row, residual)) in rows.enumerate() {
                let cell = self.placement.primary[first + at];
                halves::encode(residual, rests[at], (cell, self.placement.centroid(cell)), steps, row);
            }
        });
        bytes
    }

    /// Refine codes of a range of vectors.
    pub(super) fn refine(&self, vectors: Range<usize>) -> Large<u8> {
        let stride = refine::stride(self.space.field_dim());
        let mut bytes = Large::<u8>::zeroed(vectors.len() * stride);
        for_parts(self.work.threads, &mut bytes, PART_ROWS * stride, |part, bytes| {
            let first = vectors.start + part * PART_ROWS;
            let mut buffer = Buffer::default();
            let placed = self.projected.placed(first..first + bytes.len() / stride, &mut buffer);
            for (placed, code) in placed.iter().zip(bytes.chunks_exact_mut(stride)) {
                refine::encode(self.space, placed, code);
            }
        });
        bytes
    }
}
