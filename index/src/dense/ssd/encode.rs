//! Writes vectors as codes: into the postings of their cells, and as rows of half bytes.
//!
//! Postings are filled by counting: how many vectors each cell has says where its posting is, and one pass
//! over the vectors, in their order, puts each into the next place of its cells. The vectors of which a cell
//! is the first come before those of which it is the second: who visits most cells need not look at those.
//! Memory: the postings of as many cells as are filled at once, and the codes of [`CHUNK_ROWS`] vectors.

use std::ops::Range;

use super::closure::Placement;
use super::cluster::Work;
use super::codebook::{self, Codebook};
use super::halves;
use super::points::{Buffer, PART_ROWS, Points, Projected};
use super::refine;
use super::space::Space;
use crate::error::Result;
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

/// Gives the rows and postings of a section, a part at a time.
pub(super) trait Encoded {
    fn placement(&self) -> &Placement;

    /// Rows of half bytes of a range of vectors; none without steps.
    fn halves(&self, steps: &[f32], more_axes: &[f32], vectors: Range<usize>) -> Result<Large<u8>>;

    /// Refine codes of a range of vectors.
    fn refine(&self, vectors: Range<usize>) -> Result<Large<u8>>;

    /// The postings of a range of cells, and the radii of those.
    fn postings(&self, codebook: &Codebook, room: Postings, radii: &mut [f32]) -> Result<Large<u8>>;
}

/// Postings of a range of cells that are being filled.
pub(super) struct Postings {
    cells: Range<usize>,
    lookups: usize,
    /// First block of each of the cells, and the end, counted from that of the first.
    starts: Vec<usize>,
    bytes: Large<u8>,
    filled: Vec<Filled>,
}

/// What a posting has so far.
struct Filled {
    /// Where its next vector goes of those that it is the first cell of, and of the others.
    next: [usize; 2],
    /// How many there are, and the sum of their squared distances from its centroid.
    size: usize,
    squared: f64,
}

impl Postings {
    /// Room for those of a range of cells, of which all begin at `starts` and are the first of so many
    /// vectors as `own` says.
    pub(super) fn new(lookups: usize, (starts, own): (&[u32], &[u32]), cells: Range<usize>) -> Self {
        let first = starts[cells.start];
        let starts: Vec<usize> =
            starts[cells.start..=cells.end].iter().map(|start| (start - first) as usize).collect();
        let bytes = Large::zeroed(starts[cells.len()] * nibble::block_bytes(lookups));
        let empty = |own: &u32| Filled { next: [0, *own as usize], size: 0, squared: 0.0 };
        let filled = own[cells.clone()].iter().map(empty).collect();
        Self { lookups, starts, bytes, filled, cells }
    }

    pub(super) fn cells(&self) -> Range<usize> {
        self.cells.clone()
    }

    /// Adds a vector to a cell, its first or its second.
    pub(super) fn put(
        &mut self,
        (cell, is_first): (usize, bool),
        code: &[u8],
        factors: nibble::Factors,
        squared: f64,
    ) {
        let cell = cell - self.cells.start;
        let filled = &mut self.filled[cell];
        let at = &mut filled.next[usize::from(!is_first)];
        let (block, row) = (self.starts[cell] + *at / BLOCK_ROWS, *at % BLOCK_ROWS);
        *at += 1;
        filled.size += 1;
        filled.squared += squared;
        let lookups = self.lookups;
        let block = self.block(block);
        nibble::put_code(block, row, code);
        nibble::put_factors(block, lookups, row, factors);
    }

    fn block(&mut self, block: usize) -> &mut [u8] {
        let bytes = nibble::block_bytes(self.lookups);
        &mut self.bytes[block * bytes..][..bytes]
    }

    /// The bytes, and the radius of every cell.
    pub(super) fn finish(mut self, radii: &mut [f32]) -> Large<u8> {
        for (cell, radius) in radii.iter_mut().enumerate() {
            let Filled { size, squared, .. } = self.filled[cell];
            *radius = (squared / size.max(1) as f64).sqrt() as f32;
            if !size.is_multiple_of(BLOCK_ROWS) {
                let (last, lookups) = (self.starts[cell] + size / BLOCK_ROWS, self.lookups);
                nibble::pad(self.block(last), lookups, size % BLOCK_ROWS);
            }
        }
        self.bytes
    }
}

/// Codes of a few vectors, one for each cell that a vector is in.
#[derive(Default)]
struct Codes {
    /// Each, and whether it is the first.
    cells: Vec<(u32, bool)>,
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
    /// Puts every vector into those of its cells that there is room for, as the number that `name` gives it.
    pub(super) fn fill(&self, codebook: &Codebook, room: &mut Postings, name: impl Fn(u32) -> u32) {
        let (count, cells) = (self.placement.primary.len(), room.cells());
        for first in (0..count).step_by(CHUNK_ROWS) {
            let end = count.min(first + CHUNK_ROWS);
            let mut parts: Vec<Codes> = Vec::new();
            parts.resize_with((end - first).div_ceil(PART_ROWS), Codes::default);
            for_parts(self.work.threads, &mut parts, 1, |part, codes| {
                let first = first + part * PART_ROWS;
                self.codes(codebook, first..end.min(first + PART_ROWS), &cells, &mut codes[0]);
            });
            for Codes { cells: of, codes, factors, squares } in parts {
                let each = of.iter().zip(codes.chunks_exact(codebook.lookups())).zip(factors).zip(squares);
                for ((((cell, is_first), code), factors), squared) in each {
                    let factors = nibble::Factors { id: name(factors.id), ..factors };
                    room.put((*cell as usize, *is_first), code, factors, squared.into());
                }
            }
        }
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
                out.cells.push((cell, self.placement.primary[vector] == cell));
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
}

impl Encoded for Given<'_> {
    fn placement(&self) -> &Placement {
        self.placement
    }

    fn halves(&self, steps: &[f32], more_axes: &[f32], vectors: Range<usize>) -> Result<Large<u8>> {
        if steps.is_empty() {
            return Ok(Large::zeroed(0));
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
                let centroid = self.placement.centroid(self.placement.primary[first + at]);
                let cell = self.placement.name(first + at);
                halves::encode(residual, rests[at], (cell, centroid), steps, row);
            }
        });
        Ok(bytes)
    }

    fn refine(&self, vectors: Range<usize>) -> Result<Large<u8>> {
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
        Ok(bytes)
    }

    fn postings(&self, codebook: &Codebook, mut room: Postings, radii: &mut [f32]) -> Result<Large<u8>> {
        self.fill(codebook, &mut room, |vector| vector);
        Ok(room.finish(radii))
    }
}
