//! Makes the cells of a field from its vectors.
//!
//! In order: the space; its principal axes, the first of which are all that cells and codes see; every vector
//! placed and projected; k-means; each vector into its nearest cell, and every second one into one more
//! ([`Placement`]); the axes dealt to the pieces of a code by the variance of residuals; words; rows and
//! postings; calibration.
//!
//! A merge goes on from what its largest part has learned ([`Trained`]). Where few vectors are new, the
//! others keep their cells and codes ([`incremental`](super::incremental)). Where many are, axes, words and
//! steps stay, centroids move, and there are more or fewer of them, so that every row ends in the cells that
//! are nearest to it: 6 times as fast as from nothing. Calibration stays up to a tenth more vectors.
//!
//! Memory while it runs ([`bytes_needed`]): `4 x coded dims` bytes a vector for the projections, half of that
//! again for k-means, 80 for the nearest cells, and the result. Where there is less, vectors are read and
//! projected again by every step, k-means takes as many groups at a time as have room, and the large parts of
//! the result go to a file ([`spill`](super::spill)): then it is 80 bytes a vector and the memory there is.
//! The cells are the same. Measured on 100,000 x 384: 3 s on two threads.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use spandrel_storage::DenseSpec;

use super::calibrate;
use super::cells::Cells;
use super::closure::Placement;
use super::cluster::{Centroids, Work};
use super::codebook::{self, Codebook, Training};
use super::encode::{Encoded, Given, Postings, starts};
use super::groups;
use super::halves;
use super::incremental;
use super::layout::Layout;
use super::parts::Parts;
use super::points::{self, Buffer, PART_ROWS, Points, Projected};
use super::refine;
use super::space::{Rows, Space};
use super::spill::Spill;
use crate::dense::vectors::ChunkSource;
use crate::error::Result;
use crate::large::Large;
use crate::linalg::principal_axes;
use crate::matrix::Matrix;
use crate::random::Random;
use crate::simd::nibble::{self, BLOCK_ROWS};
use crate::simd::{self, HALF_GROUP, Kernels};

/// Vectors a cell, before closure.
pub(super) const CELL_VECTORS: usize = 98;
/// Lookups of a code where the dimension asks for as many.
const LOOKUPS: usize = 64;
/// Rows that the axes are learned from, at most and for each dimension.
const AXES_ROWS: std::ops::Range<usize> = 16_384..65_536;
/// Rows that mean and scale are measured on, at most.
const SPACE_ROWS: usize = 1 << 13;
/// Rows whose codes are written to a file at once.
const SPILL_ROWS: usize = 1 << 16;

/// What was learned serves up to so many times more rows than it was learned from, and as long as they lie no
/// further from their centroids, squared; so many times fewer have fewer cells, which are further away.
const GROWN_MAX: u32 = 2;
const SPREAD_MAX: f64 = 1.15;
/// Recall is measured again when there are more than so many times the rows: the same share of more cells is
/// more of them, so that what was measured on fewer vectors finds less, and more of fewer.
const MEASURED_GROWTH: f64 = 1.1;

/// What cells of most of the rows were made with.
pub(super) struct Trained<'a> {
    pub(super) layout: Layout,
    /// Without rows and postings.
    pub(super) parts: Parts,
    /// Where those are.
    pub(super) section: Box<str>,
    pub(super) source: Arc<dyn ChunkSource>,
    /// The cells, open, where some of those may be in memory.
    pub(super) open: Option<&'a Cells>,
}

/// Cells that others go on from.
#[derive(Clone, Copy)]
pub(super) struct Prior<'a> {
    pub(super) trained: &'a Trained<'a>,
    /// The position there of every vector, or [`NONE`](incremental::NONE), ascending; absent where all are to
    /// be placed anew.
    pub(super) kept: Option<&'a [u32]>,
}

impl Trained<'_> {
    /// Whether so many vectors are not too many more than it was learned from.
    fn serves(&self, count: u32) -> bool {
        count <= self.layout.learned.saturating_mul(GROWN_MAX)
    }

    pub(super) fn space(&self) -> Space {
        Space {
            metric: self.layout.metric,
            scale: self.layout.scale,
            mean: self.parts.mean.clone(),
            radius: self.layout.radius,
            query_norm: self.layout.query_norm,
        }
    }
}

/// What a build may take.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    /// Threads.
    pub threads: usize,
    /// Bytes of memory, about.
    pub memory_bytes: u64,
    /// Where files may be that are gone when it ends; without one nothing is written to disk.
    pub folder: Option<&'a Path>,
}

impl Room<'_> {
    /// As much memory as it takes.
    pub fn of_threads(threads: usize) -> Self {
        Self { threads, memory_bytes: u64::MAX, folder: None }
    }
}

/// Cells that were built.
pub(super) struct Made {
    pub(super) layout: Layout,
    pub(super) parts: Parts,
    /// The large ones of the parts, where they are in a file.
    pub(super) spill: Option<Arc<Spill>>,
}

/// Bytes of memory that a build of so many vectors takes that keeps everything there.
pub(super) fn bytes_needed(spec: &DenseSpec, count: u32) -> u64 {
    let dims = Space::dims_of(spec.metric, spec.dim as usize);
    let (lookups, width) = Codebook::shape(dims, LOOKUPS);
    let projected = 4 * lookups * width;
    let codes = refine::stride(spec.dim as usize) + halves::stride(halves::values_max(dims));
    let posting = nibble::block_bytes(lookups) * 3 / (2 * BLOCK_ROWS);
    u64::from(count) * (projected * 2 + codes + posting + 80) as u64
}

/// Builds the cells of `count` rows, with what was learned for most of them where that still suits them, and
/// the cells they are in.
///
/// # Errors
/// A file cannot be written or read.
pub(super) fn build(
    spec: &DenseSpec,
    rows: Rows<'_>,
    count: u32,
    prior: Option<Prior<'_>>,
    room: Room<'_>,
) -> Result<Made> {
    let folder = room.folder.filter(|_| bytes_needed(spec, count) > room.memory_bytes);
    let bytes_max = if folder.is_some() { (room.memory_bytes / 3) as usize } else { usize::MAX };
    let work = Work { kernels: Kernels::best(), threads: room.threads, seed: 0x5eed, bytes_max };
    if let Some(Prior { trained, kept }) = prior.filter(|prior| prior.trained.serves(count)) {
        assert!(kept.is_none_or(|kept| kept.len() == count as usize), "a position for every vector");
        if let Some(kept) = kept
            && let Some(made) = incremental::merge(rows, kept, (work, folder), trained)?
        {
            return Ok(made);
        }
        if let Some(made) = adapt(rows, count, (work, folder), trained)? {
            return Ok(made);
        }
    }
    learn(spec, rows, count, (work, folder))
}

/// Learns everything from the rows.
fn learn(
    spec: &DenseSpec,
    rows: Rows<'_>,
    count: u32,
    (work, folder): (Work, Option<&Path>),
) -> Result<Made> {
    let total = count as usize;
    let space = Space::fit(spec.metric, rows, total, spec.dim as usize, (work.seed, SPACE_ROWS));
    let (lookups, width) = Codebook::shape(space.dims(), LOOKUPS);
    let coded = lookups * width;
    let wanted = halves::values_max(space.dims()).max(coded.next_multiple_of(HALF_GROUP));
    let mut axes = learn_axes(&space, rows, total, wanted, work);
    let mut more_axes = axes.split_off(coded * space.dims());
    let keep = folder.is_none();
    let mut projected = Projected::new(&space, rows, total, axes, keep, work.threads);
    let centroids = Centroids::fit(&projected, total.div_ceil(CELL_VECTORS), None, work);
    let mut placement = Placement::of(&projected, centroids, work);
    deal_axes(&mut projected, &mut placement, width);
    let groups = arrange(&mut placement, work);
    let codebook = train(&projected, &placement, width, work);
    let given = Given { space: &space, projected: &projected, placement: &placement, work };
    let steps = given.half_steps(&mut more_axes);
    let rows_of = write_rows(&given, &codebook, (&steps, &more_axes), (work, folder))?;
    let layout = Layout {
        metric: spec.metric,
        field_dim: spec.dim,
        vectors: count,
        cells: placement.cells() as u32,
        groups: groups.len() as u32 - 1,
        lookups: lookups as u32,
        width: width as u32,
        blocks: rows_of.starts.last().copied().unwrap_or(0),
        halves: steps.len() as u32,
        learned: count,
        measured: count,
        spread: mean_square(&rows_of.radii),
        scale: space.scale,
        radius: space.radius,
        query_norm: space.query_norm,
        calibration: calibrate::Calibration::default(),
    };
    let parts = Parts {
        mean: space.mean.clone(),
        axes: std::mem::take(&mut projected.axes),
        words: codebook.words,
        centroids: placement.centroids,
        radii: rows_of.radii,
        starts: rows_of.starts,
        groups,
        more_axes,
        steps,
        halves: rows_of.halves,
        refine: rows_of.refine,
        postings: rows_of.postings,
    };
    drop(projected);
    let made = Made { layout, parts, spill: rows_of.spill.map(Arc::new) };
    Ok(calibrate::fit(made, total, rows, work))
}

/// Places all rows by what was learned before: k-means goes on from the centroids that there are, as many as
/// there are to be, and every row is encoded again. None when the rows have outgrown that.
fn adapt(
    rows: Rows<'_>,
    count: u32,
    (work, folder): (Work, Option<&Path>),
    trained: &Trained<'_>,
) -> Result<Option<Made>> {
    let (parts, total) = (&trained.parts, count as usize);
    let mut space = trained.space();
    if space.widen(rows, total).is_none() {
        return Ok(None);
    }
    let (axes, keep) = (parts.axes.clone(), folder.is_none());
    let projected = Projected::new(&space, rows, total, axes, keep, work.threads);
    let cells = total.div_ceil(CELL_VECTORS);
    let centroids = Centroids::fit(&projected, cells, Some(&parts.centroids), work);
    let mut placement = Placement::of(&projected, centroids, work);
    let groups = arrange(&mut placement, work);
    let given = Given { space: &space, projected: &projected, placement: &placement, work };
    remake(trained, &given, (space.radius, groups), rows, (work, folder))
}

/// Cells of other vectors by what was learned before. None when they lie too far from their centroids for
/// that.
pub(super) fn remake(
    trained: &Trained<'_>,
    encoded: &impl Encoded,
    (radius, groups): (f64, Vec<u32>),
    rows: Rows<'_>,
    (work, folder): (Work, Option<&Path>),
) -> Result<Option<Made>> {
    let (layout, parts, placement) = (&trained.layout, &trained.parts, encoded.placement());
    let count = placement.primary.len() as u32;
    let codebook = Codebook { width: layout.width as usize, words: parts.words.clone() };
    let rows_of = write_rows(encoded, &codebook, (&parts.steps, &parts.more_axes), (work, folder))?;
    let comparable = count >= layout.vectors / GROWN_MAX;
    if comparable && mean_square(&rows_of.radii) > SPREAD_MAX * layout.spread {
        return Ok(None);
    }
    let layout = Layout {
        vectors: count,
        cells: placement.cells() as u32,
        groups: groups.len() as u32 - 1,
        blocks: rows_of.starts.last().copied().unwrap_or(0),
        radius,
        ..layout.clone()
    };
    let centroids = placement.centroids.clone();
    let RowParts { starts, radii, halves, refine, postings, spill } = rows_of;
    let parts = Parts { centroids, radii, starts, groups, halves, refine, postings, ..parts.clone() };
    let made = Made { layout, parts, spill: spill.map(Arc::new) };
    let holds = measured_holds(made.layout.measured, count);
    Ok(Some(if holds { made } else { calibrate::fit(made, count as usize, rows, work) }))
}

/// Numbers the cells group after group; the first cell of each group, and the end.
fn arrange(placement: &mut Placement, work: Work) -> Vec<u32> {
    let (order, groups) = groups::arrange(Matrix::new(&placement.centroids, placement.dim), work);
    placement.reorder(&order);
    groups
}

/// Whether what was measured on some vectors serves other ones in their place.
pub(super) fn measured_holds(measured: u32, count: u32) -> bool {
    f64::from(count) <= f64::from(measured) * MEASURED_GROWTH
}

/// What there is of each vector, and what follows from that.
struct RowParts {
    starts: Vec<u32>,
    radii: Vec<f32>,
    halves: Large<u8>,
    refine: Large<u8>,
    postings: Large<u8>,
    spill: Option<Spill>,
}

/// Encodes all vectors, into memory or a file.
fn write_rows(
    given: &impl Encoded,
    codebook: &Codebook,
    (steps, more_axes): (&[f32], &[f32]),
    (work, folder): (Work, Option<&Path>),
) -> Result<RowParts> {
    let (count, cells) = (given.placement().primary.len(), given.placement().cells());
    let (starts, mut radii) = (starts(given.placement()), vec![0.0; cells]);
    let room = |cells: Range<usize>| Postings::new(codebook.lookups(), &starts, cells);
    let Some(folder) = folder else {
        let (halves, refine) = (given.halves(steps, more_axes, 0..count)?, given.refine(0..count)?);
        let postings = given.postings(codebook, room(0..cells), &mut radii)?;
        return Ok(RowParts { starts, radii, halves, refine, postings, spill: None });
    };
    let mut spill = Spill::create(folder)?;
    for first in (0..count).step_by(SPILL_ROWS) {
        spill.append(&given.halves(steps, more_axes, first..count.min(first + SPILL_ROWS))?)?;
    }
    spill.end_part()?;
    for first in (0..count).step_by(SPILL_ROWS) {
        spill.append(&given.refine(first..count.min(first + SPILL_ROWS))?)?;
    }
    spill.end_part()?;
    let blocks_max = (work.bytes_max / nibble::block_bytes(codebook.lookups())) as u32;
    let mut first = 0;
    while first < cells {
        let fits = |start: &u32| *start - starts[first] <= blocks_max;
        let end = (first + starts[first..].partition_point(fits) - 1).clamp(first + 1, cells);
        spill.append(&given.postings(codebook, room(first..end), &mut radii[first..end])?)?;
        first = end;
    }
    let (halves, refine, postings) = Default::default();
    Ok(RowParts { starts, radii, halves, refine, postings, spill: Some(spill) })
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
    principal_axes(Matrix::new(&values, space.dims()), coded, work.threads).0
}

/// Reorders the axes, and all that is along them, so that neighbours make up pieces of about equal variance
/// of residuals.
fn deal_axes(projected: &mut Projected<'_>, placement: &mut Placement, width: usize) {
    let (coded, count) = (placement.dim, placement.primary.len());
    let mut variances = vec![0.0_f64; coded];
    let mut buffer = Buffer::default();
    for first in (0..count).step_by(PART_ROWS) {
        let block = projected.block(first..count.min(first + PART_ROWS), &mut buffer);
        for (row, cell) in block.iter().zip(&placement.primary[first..]) {
            for ((variance, value), mean) in variances.iter_mut().zip(row).zip(placement.centroid(*cell)) {
                *variance += f64::from(value - mean).powi(2);
            }
        }
    }
    let variances: Vec<f32> = variances.iter().map(|sum| (sum / count.max(1) as f64) as f32).collect();
    let order = Codebook::allocate(&variances, width);
    projected.reorder(&order);
    points::reorder(&mut placement.centroids, &order);
}

fn train(projected: &Projected<'_>, placement: &Placement, width: usize, work: Work) -> Codebook {
    let sample = Random(work.seed + 1).sample(projected.count(), codebook::SAMPLE_ROWS);
    let mut residuals = projected.gather(&sample, work.threads);
    for (at, residual) in sample.into_iter().zip(residuals.chunks_exact_mut(placement.dim)) {
        let centroid = placement.centroid(placement.primary[at]);
        residual.iter_mut().zip(centroid).for_each(|(value, mean)| *value -= mean);
        simd::normalize(residual);
    }
    let training = Training { threads: work.threads, seed: work.seed, ..Training::default() };
    Codebook::train(Matrix::new(&residuals, placement.dim), width, training)
}
