//! Makes the cells of a field from its vectors.
//!
//! In order: the space; its principal axes, the first of which are all that cells and codes see; every vector
//! placed, projected and given its refine code, in one pass; k-means; each vector into its nearest cell, and
//! every second one into one more ([`Placement`]); the axes dealt to the pieces of a code by the variance of
//! residuals; words; postings; calibration.
//!
//! A merge goes on from what its largest part has learned ([`Trained`]): axes, words, steps and calibration
//! stay, centroids move, and there are more or fewer of them. That is 6 times as fast, and every row still
//! ends in the cells that are nearest to it.
//!
//! Memory while it runs: `coded dims x 4` bytes a vector for the projections and 100 for the nearest cells,
//! besides the vectors themselves and the result. Measured on 100,000 x 384: 3 s on two threads.

use spandrel_storage::DenseSpec;

use super::calibrate;
use super::cells::Parts;
use super::closure::Placement;
use super::cluster::{Centroids, Work};
use super::codebook::{self, Codebook, Training};
use super::groups;
use super::halves;
use super::layout::Layout;
use super::refine;
use super::space::{Rows, Space};
use crate::large::Large;
use crate::linalg::principal_axes;
use crate::matrix::Matrix;
use crate::parallel::for_parts;
use crate::quant::Factors;
use crate::random::Random;
use crate::simd::nibble::{self, BLOCK_ROWS};
use crate::simd::{self, HALF_GROUP, Kernels};
use half::f16;

/// Vectors a cell, before closure.
const CELL_VECTORS: usize = 98;
/// Lookups of a code where the dimension asks for as many.
const LOOKUPS: usize = 64;
/// Rows that the axes are learned from, at most and for each dimension.
const AXES_ROWS: std::ops::Range<usize> = 16_384..65_536;
/// Rows that mean and scale are measured on, at most.
const SPACE_ROWS: usize = 1 << 15;
/// Rows that are placed at once.
const PART_ROWS: usize = 128;

/// What was learned serves up to so many times more or fewer rows than it was learned from, and as long as
/// they lie no further from their centroids, squared.
const GROWN_MAX: u32 = 2;
const SPREAD_MAX: f64 = 1.15;

/// What cells of most of the rows were made with.
pub(super) struct Trained {
    pub(super) layout: Layout,
    /// Without rows and postings.
    pub(super) parts: Parts,
}

impl Trained {
    fn space(&self) -> Space {
        Space {
            metric: self.layout.metric,
            scale: self.layout.scale,
            mean: self.parts.mean.clone(),
            radius: self.layout.radius,
            query_norm: self.layout.query_norm,
        }
    }
}

/// Vectors in the projected space.
struct Projected {
    /// `vectors x coded`.
    values: Vec<f32>,
    /// Squared norm of what the projection leaves out.
    rests: Vec<f32>,
}

/// Builds the cells of `count` rows, with what was learned for most of them where that still suits them.
pub(super) fn build(
    spec: &DenseSpec,
    rows: Rows<'_>,
    count: u32,
    threads: usize,
    trained: Option<&Trained>,
) -> (Layout, Parts) {
    let work = Work { kernels: Kernels::best(), threads, seed: 0x5eed };
    trained
        .and_then(|trained| adapt(rows, count, work, trained))
        .unwrap_or_else(|| learn(spec, rows, count, work))
}

/// Learns everything from the rows.
fn learn(spec: &DenseSpec, rows: Rows<'_>, count: u32, work: Work) -> (Layout, Parts) {
    let total = count as usize;
    let space = Space::fit(spec.metric, rows, total, spec.dim as usize, (work.seed, SPACE_ROWS));
    let (lookups, width) = Codebook::shape(space.dims(), LOOKUPS);
    let coded = lookups * width;
    let wanted = halves::values_max(space.dims()).max(coded.next_multiple_of(HALF_GROUP));
    let mut axes = learn_axes(&space, rows, total, wanted, work);
    let mut more_axes = axes.split_off(coded * space.dims());
    let (mut projected, refine) = project(&space, rows, total, &axes, work);
    let cells = total.div_ceil(CELL_VECTORS);
    let centroids = Centroids::fit(Matrix::new(&projected.values, coded), cells, None, work);
    let mut placement = Placement::of(Matrix::new(&projected.values, coded), centroids, work);
    deal_axes(
        &mut projected.values,
        &mut placement.centroids,
        &mut axes,
        space.dims(),
        &placement.primary,
        width,
    );
    let groups = groups::arrange(&mut placement, work);
    let codebook = train(&projected.values, &placement, width, work);
    let given = Given { space: &space, rows, projected: &projected, placement: &placement };
    let steps = given.half_steps(&mut more_axes);
    let halves = given.encode_halves(&steps, &more_axes, work);
    let (starts, postings, radii) = encode(&projected, &placement, &codebook, work);
    let mut layout = Layout {
        metric: spec.metric,
        field_dim: spec.dim,
        vectors: count,
        cells: radii.len() as u32,
        groups: groups.len() as u32 - 1,
        lookups: lookups as u32,
        width: width as u32,
        blocks: starts.last().copied().unwrap_or(0),
        halves: steps.len() as u32,
        learned: count,
        scale: space.scale,
        radius: space.radius,
        query_norm: space.query_norm,
        calibration: calibrate::Calibration::default(),
    };
    let parts = Parts {
        mean: space.mean.clone(),
        axes,
        words: codebook.words,
        centroids: placement.centroids,
        radii,
        starts,
        groups,
        more_axes,
        steps,
        halves,
        refine,
        postings,
    };
    drop(projected);
    let (calibration, parts) = calibrate::fit(layout.clone(), parts, total, rows, work);
    layout.calibration = calibration;
    (layout, parts)
}

/// Places all rows by what was learned before: k-means goes on from the centroids that there are, as many as
/// there are to be, and every row is encoded again. None when the rows have outgrown that.
fn adapt(rows: Rows<'_>, count: u32, work: Work, trained: &Trained) -> Option<(Layout, Parts)> {
    let (layout, parts, total) = (&trained.layout, &trained.parts, count as usize);
    if !(layout.learned / GROWN_MAX..=layout.learned.saturating_mul(GROWN_MAX)).contains(&count) {
        return None;
    }
    let mut space = trained.space();
    space.widen(rows, total)?;
    let coded = layout.coded();
    let (projected, refine) = project(&space, rows, total, &parts.axes, work);
    let values = Matrix::new(&projected.values, coded);
    let centroids = Centroids::fit(values, total.div_ceil(CELL_VECTORS), Some(&parts.centroids), work);
    let mut placement = Placement::of(values, centroids, work);
    let groups = groups::arrange(&mut placement, work);
    let codebook = Codebook { width: layout.width as usize, words: parts.words.clone() };
    let (starts, postings, radii) = encode(&projected, &placement, &codebook, work);
    if mean_square(&radii) > SPREAD_MAX * mean_square(&parts.radii) {
        return None;
    }
    let given = Given { space: &space, rows, projected: &projected, placement: &placement };
    let halves = given.encode_halves(&parts.steps, &parts.more_axes, work);
    let layout = Layout {
        vectors: count,
        cells: radii.len() as u32,
        groups: groups.len() as u32 - 1,
        blocks: starts.last().copied().unwrap_or(0),
        radius: space.radius,
        ..layout.clone()
    };
    let centroids = placement.centroids;
    let parts = Parts { centroids, radii, starts, groups, halves, refine, postings, ..parts.clone() };
    Some((layout, parts))
}

fn mean_square(radii: &[f32]) -> f64 {
    crate::simd::norm_squared(radii) / radii.len().max(1) as f64
}

fn learn_axes(space: &Space, rows: Rows<'_>, count: usize, coded: usize, work: Work) -> Vec<f32> {
    let wanted = (16 * space.dims()).clamp(AXES_ROWS.start, AXES_ROWS.end);
    let sample = Random(work.seed).sample(count, wanted);
    let (mut row, mut placed) = (vec![0.0; space.field_dim()], vec![0.0; space.dims()]);
    let mut values = Vec::with_capacity(sample.len() * space.dims());
    for at in sample {
        rows(at, &mut row);
        space.place(&row, &mut placed);
        values.extend_from_slice(&placed);
    }
    principal_axes(Matrix::new(&values, space.dims()), &vec![0.0; space.dims()], coded).0
}

/// Every vector's projection and refine code.
fn project(space: &Space, rows: Rows<'_>, count: usize, axes: &[f32], work: Work) -> (Projected, Large<u8>) {
    let dims = space.dims();
    let (coded, stride) = (axes.len() / dims, refine::stride(space.field_dim()));
    let mut codes = Large::<u8>::zeroed(count * stride);
    let mut projected = Projected { values: vec![0.0; count * coded], rests: vec![0.0; count] };
    let values = projected.values.chunks_mut(PART_ROWS * coded);
    let rests = projected.rests.chunks_mut(PART_ROWS);
    let mut parts: Vec<_> = values.zip(rests).zip(codes.chunks_mut(PART_ROWS * stride)).collect();
    for_parts(work.threads, &mut parts, 1, |part, slices| {
        let mut row = vec![0.0; space.field_dim()];
        let mut placed = vec![0.0; PART_ROWS * dims];
        for ((values, rests), codes) in slices {
            let placed = &mut placed[..rests.len() * dims];
            for (at, placed) in placed.chunks_exact_mut(dims).enumerate() {
                rows(part * PART_ROWS + at, &mut row);
                space.place(&row, placed);
                refine::encode(space, placed, &mut codes[at * stride..(at + 1) * stride]);
            }
            work.kernels.dot_tile(Matrix::new(placed, dims), Matrix::new(axes, dims), values);
            for ((rest, placed), value) in
                rests.iter_mut().zip(placed.chunks_exact(dims)).zip(values.chunks_exact(coded))
            {
                *rest = (simd::norm_squared(placed) - simd::norm_squared(value)).max(0.0) as f32;
            }
        }
    });
    drop(parts);
    (projected, codes)
}

/// Reorders the axes, and all that is along them, so that neighbours make up pieces of about equal variance
/// of residuals.
fn deal_axes(
    values: &mut [f32],
    centroids: &mut [f32],
    axes: &mut Vec<f32>,
    dims: usize,
    primary: &[u32],
    width: usize,
) {
    let coded = axes.len() / dims;
    let mut variances = vec![0.0_f64; coded];
    for (row, cell) in values.chunks_exact(coded).zip(primary) {
        let centroid = &centroids[*cell as usize * coded..][..coded];
        for ((variance, value), mean) in variances.iter_mut().zip(row).zip(centroid) {
            *variance += f64::from(value - mean).powi(2);
        }
    }
    let variances: Vec<f32> =
        variances.iter().map(|sum| (sum / primary.len().max(1) as f64) as f32).collect();
    let order = Codebook::allocate(&variances, width);
    let mut moved = vec![0.0; coded];
    for row in values.chunks_exact_mut(coded).chain(centroids.chunks_exact_mut(coded)) {
        moved.iter_mut().zip(&order).for_each(|(to, from)| *to = row[*from]);
        row.copy_from_slice(&moved);
    }
    *axes = order.iter().flat_map(|from| &axes[from * dims..(from + 1) * dims]).copied().collect();
}

fn train(values: &[f32], placement: &Placement, width: usize, work: Work) -> Codebook {
    let coded = placement.dim;
    let count = values.len() / coded;
    let mut residuals = Vec::new();
    for at in Random(work.seed + 1).sample(count, codebook::SAMPLE_ROWS) {
        let centroid = placement.centroid(placement.primary[at]);
        let start = residuals.len();
        residuals.extend(values[at * coded..(at + 1) * coded].iter().zip(centroid).map(|(a, b)| a - b));
        simd::normalize(&mut residuals[start..]);
    }
    let training = Training { threads: work.threads, seed: work.seed, ..Training::default() };
    Codebook::train(Matrix::new(&residuals, coded), width, training)
}

/// What rows of half bytes are made of.
struct Given<'a> {
    space: &'a Space,
    rows: Rows<'a>,
    projected: &'a Projected,
    placement: &'a Placement,
}

impl Given<'_> {
    /// Residuals of rows from `first` on along the coded axes and `more_axes`, and the rest of their squared
    /// norms.
    fn residuals(&self, first: usize, more_axes: &[f32], out: &mut [f32], rests: &mut [f32]) {
        let (dims, coded, kernels) = (self.space.dims(), self.placement.dim, Kernels::best());
        let values = coded + more_axes.len() / dims;
        let (mut row, mut placed) = (vec![0.0; self.space.field_dim()], vec![0.0; rests.len() * dims]);
        for (at, placed) in placed.chunks_exact_mut(dims).enumerate() {
            (self.rows)(first + at, &mut row);
            self.space.place(&row, placed);
        }
        let mut more = vec![0.0; rests.len() * (values - coded)];
        if values > coded {
            kernels.dot_tile(Matrix::new(&placed, dims), Matrix::new(more_axes, dims), &mut more);
        }
        for (at, (out, rest)) in out.chunks_exact_mut(values).zip(rests).enumerate() {
            let centroid = self.placement.centroid(self.placement.primary[first + at]);
            let value = &self.projected.values[(first + at) * coded..][..coded];
            out.iter_mut().zip(value.iter().zip(centroid)).for_each(|(out, (v, c))| *out = v - c);
            out[coded..].copy_from_slice(&more[at * (values - coded)..][..values - coded]);
            let along = simd::norm_squared(&out[coded..]) as f32;
            *rest = (self.projected.rests[first + at] - along).max(0.0);
        }
    }

    /// The steps of half bytes; axes that they do not need are dropped. None where rows of half bytes would
    /// be no shorter than rows of bytes.
    fn half_steps(&self, more_axes: &mut Vec<f32>) -> Vec<f32> {
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

    /// Rows of half bytes; none without steps.
    fn encode_halves(&self, steps: &[f32], more_axes: &[f32], work: Work) -> Large<u8> {
        if steps.is_empty() {
            return Large::zeroed(0);
        }
        let (values, stride) = (steps.len(), halves::stride(steps.len()));
        let mut bytes = Large::<u8>::zeroed(self.placement.primary.len() * stride);
        for_parts(work.threads, &mut bytes, PART_ROWS * stride, |part, bytes| {
            let here = bytes.len() / stride;
            let (mut out, mut rests) = (vec![0.0; here * values], vec![0.0; here]);
            self.residuals(part * PART_ROWS, more_axes, &mut out, &mut rests);
            let rows = bytes.chunks_exact_mut(stride).zip(out.chunks_exact(values));
            for (at, (row, residual)) in rows.enumerate() {
                let cell = self.placement.primary[part * PART_ROWS + at];
                halves::encode(residual, rests[at], (cell, self.placement.centroid(cell)), steps, row);
            }
        });
        bytes
    }
}

/// The starts of the postings, the postings and the radii of the cells.
fn encode(
    projected: &Projected,
    placement: &Placement,
    codebook: &Codebook,
    work: Work,
) -> (Vec<u32>, Large<u8>, Vec<f32>) {
    let members = placement.members();
    let block_bytes = nibble::block_bytes(codebook.lookups());
    let mut starts = vec![0_u32];
    for members in &members {
        starts.push(starts[starts.len() - 1] + members.len().div_ceil(BLOCK_ROWS) as u32);
    }
    let mut postings = Large::<u8>::zeroed(starts[members.len()] as usize * block_bytes);
    let mut radii = vec![0.0_f32; members.len()];
    let mut rest = &mut *postings;
    let mut parts = Vec::with_capacity(members.len());
    for (members, radius) in members.iter().zip(&mut radii) {
        let (posting, after) = rest.split_at_mut(members.len().div_ceil(BLOCK_ROWS) * block_bytes);
        rest = after;
        parts.push((members, posting, radius));
    }
    for_parts(work.threads, &mut parts, 1, |cell, part| {
        for (members, posting, radius) in part {
            let centroid = placement.centroid(cell as u32);
            **radius = encode_posting(projected, members, centroid, codebook, posting);
        }
    });
    (starts, postings, radii)
}

/// Fills the posting of one cell and returns its radius.
fn encode_posting(
    projected: &Projected,
    members: &[u32],
    centroid: &[f32],
    codebook: &Codebook,
    posting: &mut [u8],
) -> f32 {
    let (lookups, coded) = (codebook.lookups(), codebook.dims());
    let block_bytes = nibble::block_bytes(lookups);
    let (mut code, mut decoded) = (vec![0; lookups], vec![0.0; coded]);
    let (mut residual, mut direction) = (vec![0.0; coded], vec![0.0; coded]);
    let mut squared = 0.0_f64;
    for (at, id) in members.iter().enumerate() {
        let value = &projected.values[*id as usize * coded..][..coded];
        residual.iter_mut().zip(value).zip(centroid).for_each(|((r, v), c)| *r = v - c);
        // Codes are of directions: how long a residual is, its scale says.
        direction.copy_from_slice(&residual);
        simd::normalize(&mut direction);
        codebook.encode(&direction, &mut code, &mut decoded);
        let factors = Factors::of(&residual, &decoded);
        let rest = projected.rests[*id as usize];
        let towards: f64 = decoded.iter().zip(centroid).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let full = factors.norm_squared + rest;
        squared += f64::from(full);
        let block = &mut posting[at / BLOCK_ROWS * block_bytes..][..block_bytes];
        nibble::put_code(block, at % BLOCK_ROWS, &code);
        nibble::put_factors(
            block,
            lookups,
            at % BLOCK_ROWS,
            nibble::Factors {
                add: (f64::from(full) + 2.0 * f64::from(factors.scale) * towards).clamp(-1e30, 1e30) as f32,
                scale: f16::from_f32(-2.0 * factors.scale),
                error: f16::from_f32(2.0 * (factors.error * factors.error + rest).sqrt().min(30_000.0)),
                id: *id,
            },
        );
    }
    if !members.len().is_multiple_of(BLOCK_ROWS) {
        let last = posting.len() - block_bytes;
        nibble::pad(&mut posting[last..], lookups, members.len() % BLOCK_ROWS);
    }
    (squared / members.len().max(1) as f64).sqrt() as f32
}
