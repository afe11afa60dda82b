//! Makes the cells of a field from its vectors.
//!
//! In order: the space; its principal axes, the first of which are all that cells and codes see; every vector
//! placed and projected; in each [`partition`](super::partition) k-means, and each vector into its nearest
//! cell, and every second one into one more ([`Placement`]); the axes dealt to the pieces of a code by the
//! variance of residuals; words; the vectors put into the order of their cells; rows and postings;
//! calibration.
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
use super::closure::{NONE, Placement};
use super::cluster::Work;
use super::codebook::{self, Codebook, Training};
use super::encode::{Encoded, Given, Postings, starts};
use super::halves;
use super::incremental;
use super::layout::Layout;
use super::partition::{self, Partition, Placed, Wanted};
use super::parts::Parts;
use super::points::{self, Buffer, PART_ROWS, Points, Projected, picked};
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
    /// The position there of every vector, or [`NONE`](incremental::NONE); absent where all are to be placed
    /// anew.
    pub(super) kept: Option<&'a [u32]>,
}

impl Prior<'_> {
    /// The partition that the vectors of a range were.
    fn before(&self, vectors: Range<u32>) -> Option<u32> {
        let partitions = &self.trained.parts.partitions;
        let of_vector = |vector: u32| partition::of_vector(partitions, vector).map(|at| at as u32);
        match self.kept {
            Some(kept) => {
                let kept = &kept[vectors.start as usize..vectors.end as usize];
                of_vector(*kept.iter().find(|old| **old != incremental::NONE)?)
            }
            None => (partitions.len() == 1).then_some(0),
        }
    }
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

/// The vectors of a field.
#[derive(Clone, Copy)]
pub struct Vectors<'a> {
    /// Gives those from a position on, as many as it is given room for.
    pub rows: Rows<'a>,
    /// How many there are.
    pub count: u32,
    /// The first of each tenant, ascending; the first of all is 0.
    pub tenants: &'a [u32],
    /// Whether they may be put into another order, each tenant's for itself.
    pub ordered: bool,
}

impl<'a> Vectors<'a> {
    /// Those of one tenant, in the order of their cells.
    pub fn new(rows: Rows<'a>, count: u32) -> Self {
        Self { rows, count, tenants: &[0], ordered: true }
    }
}

/// Cells that were built.
pub(super) struct Made {
    pub(super) layout: Layout,
    pub(super) parts: Parts,
    /// The positions that vectors had, in the order that they are in; none where that is the same.
    pub(super) order: Option<Vec<u32>>,
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

/// Builds the cells of vectors, with what was learned for most of them where that still suits them, and
/// the cells they are in.
///
/// # Errors
/// A file cannot be written or read.
pub(super) fn build(
    spec: &DenseSpec,
    vectors: Vectors<'_>,
    prior: Option<Prior<'_>>,
    room: Room<'_>,
) -> Result<Made> {
    let folder = room.folder.filter(|_| bytes_needed(spec, vectors.count) > room.memory_bytes);
    let bytes_max = if folder.is_some() { (room.memory_bytes / 3) as usize } else { usize::MAX };
    let work = Work { kernels: Kernels::best(), threads: room.threads, seed: 0x5eed, bytes_max };
    let before = |range: Range<u32>| prior.and_then(|prior| prior.before(range));
    let wanted = partition::choose(vectors.tenants, vectors.count, before);
    if let Some(Prior { trained, kept }) = prior.filter(|prior| prior.trained.serves(vectors.count)) {
        assert!(kept.is_none_or(|kept| kept.len() == vectors.count as usize), "a position for every vector");
        if let Some(kept) = kept
            && let Some(made) = incremental::merge((vectors, kept), &wanted, (work, folder), trained)?
        {
            return Ok(made);
        }
        if let Some(made) = adapt(vectors, &wanted, (work, folder), trained)? {
            return Ok(made);
        }
    }
    learn(spec, vectors, &wanted, (work, folder))
}

/// Learns everything from the rows.
fn learn(
    spec: &DenseSpec,
    vectors: Vectors<'_>,
    wanted: &[Wanted],
    (work, folder): (Work, Option<&Path>),
) -> Result<Made> {
    let (rows, total) = (vectors.rows, vectors.count as usize);
    let space = Space::fit(spec.metric, rows, total, spec.dim as usize, (work.seed, SPACE_ROWS));
    let (lookups, width) = Codebook::shape(space.dims(), LOOKUPS);
    let coded = lookups * width;
    let halves = halves::values_max(space.dims()).max(coded.next_multiple_of(HALF_GROUP));
    let mut axes = learn_axes(&space, rows, total, halves, work);
    let mut more_axes = axes.split_off(coded * space.dims());
    let keep = folder.is_none();
    let mut projected = Projected::new(&space, rows, total, axes, keep, work.threads);
    let mut placed = Placed::of(&projected, wanted, |_| None, work);
    deal_axes(&mut projected, &mut placed.placement, width);
    let order = placed.put_in_order(vectors.ordered, &mut projected);
    let Placed { placement, partitions, groups } = placed;
    let codebook = train(&projected, &placement, width, work);
    let given = Given { space: &space, projected: &projected, placement: &placement, work };
    let steps = given.half_steps(&mut more_axes);
    let rows_of = write_rows(&given, &codebook, (&steps, &more_axes), (work, folder))?;
    let layout = Layout {
        metric: spec.metric,
        ordered: vectors.ordered,
        field_dim: spec.dim,
        vectors: vectors.count,
        cells: placement.cells() as u32,
        groups: groups.len() as u32 - 1,
        partitions: partitions.len() as u32,
        lookups: lookups as u32,
        width: width as u32,
        blocks: rows_of.starts.last().copied().unwrap_or(0),
        halves: steps.len() as u32,
        learned: vectors.count,
        measured: 0,
        spread: mean_square(&rows_of.radii),
        scale: space.scale,
        radius: space.radius,
        query_norm: space.query_norm,
        calibration: super::calibration::Calibration::default(),
    };
    let parts = Parts {
        mean: space.mean.clone(),
        axes: std::mem::take(&mut projected.axes),
        words: codebook.words,
        firsts: firsts(vectors.ordered, &partitions, &placement),
        partitions,
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
    let made = Made { layout, parts, order, spill: rows_of.spill.map(Arc::new) };
    Ok(measured(made, rows, work))
}

/// Measures how hard to search.
fn measured(made: Made, rows: Rows<'_>, work: Work) -> Made {
    let Some(order) = made.order.clone() else { return calibrate::fit(made, rows, work) };
    let dim = made.layout.field_dim as usize;
    calibrate::fit(made, &picked(rows, &order, dim), work)
}

/// The first vector of each cell, where there is one.
fn firsts(ordered: bool, partitions: &[Partition], placement: &Placement) -> Vec<u32> {
    if ordered { partition::firsts(partitions, placement) } else { Vec::new() }
}

/// Places all rows by what was learned before: k-means goes on from the centroids that there are, as many as
/// there are to be, and every row is encoded again. None when the rows have outgrown that.
fn adapt(
    vectors: Vectors<'_>,
    wanted: &[Wanted],
    (work, folder): (Work, Option<&Path>),
    trained: &Trained<'_>,
) -> Result<Option<Made>> {
    let (parts, total) = (&trained.parts, vectors.count as usize);
    let mut space = trained.space();
    if space.widen(vectors.rows, total).is_none() {
        return Ok(None);
    }
    let (axes, keep) = (parts.axes.clone(), folder.is_none());
    let mut projected = Projected::new(&space, vectors.rows, total, axes, keep, work.threads);
    let known = |wanted: &Wanted| Some(parts.centroids_of(wanted.before?));
    let mut placed = Placed::of(&projected, wanted, known, work);
    let order = placed.put_in_order(vectors.ordered, &mut projected);
    let given = Given { space: &space, projected: &projected, placement: &placed.placement, work };
    let continued = Continued { trained, radius: space.radius, placed: &placed, order };
    continued.remake(&given, vectors, (work, folder))
}

/// Vectors placed by what was learned from others.
pub(super) struct Continued<'a> {
    pub(super) trained: &'a Trained<'a>,
    pub(super) radius: f64,
    pub(super) placed: &'a Placed,
    pub(super) order: Option<Vec<u32>>,
}

impl Continued<'_> {
    /// Makes their cells. None when they lie too far from their centroids for that.
    pub(super) fn remake(
        self,
        encoded: &impl Encoded,
        vectors: Vectors<'_>,
        (work, folder): (Work, Option<&Path>),
    ) -> Result<Option<Made>> {
        let Self { trained, radius, placed, order } = self;
        let (layout, parts, placement) = (&trained.layout, &trained.parts, &placed.placement);
        let count = placement.primary.len() as u32;
        let codebook = Codebook { width: layout.width as usize, words: parts.words.clone() };
        let rows_of = write_rows(encoded, &codebook, (&parts.steps, &parts.more_axes), (work, folder))?;
        let comparable = count >= layout.vectors / GROWN_MAX;
        if comparable && mean_square(&rows_of.radii) > SPREAD_MAX * layout.spread {
            return Ok(None);
        }
        let layout = Layout {
            ordered: vectors.ordered,
            vectors: count,
            cells: placement.cells() as u32,
            groups: placed.groups.len() as u32 - 1,
            partitions: placed.partitions.len() as u32,
            blocks: rows_of.starts.last().copied().unwrap_or(0),
            radius,
            ..layout.clone()
        };
        let RowParts { starts, radii, halves, refine, postings, spill } = rows_of;
        let parts = Parts {
            partitions: placed.partitions.clone(),
            firsts: firsts(vectors.ordered, &placed.partitions, placement),
            centroids: placement.centroids.clone(),
            groups: placed.groups.clone(),
            radii,
            starts,
            halves,
            refine,
            postings,
            ..parts.clone()
        };
        let made = Made { layout, parts, order, spill: spill.map(Arc::new) };
        let largest = calibrate::largest(&made.parts.partitions).map_or(0, |of| of.vectors.len() as u32);
        let holds = measured_holds(made.layout.measured, largest);
        Ok(Some(if holds { made } else { measured(made, vectors.rows, work) }))
    }
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
    let own = given.placement().own_sizes();
    let room = |cells: Range<usize>| Postings::new(codebook.lookups(), (&starts, &own), cells);
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
        let cells = placement.primary[first..].iter();
        for (row, cell) in block.iter().zip(cells).filter(|(_, cell)| is_coded(placement, **cell)) {
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

/// Whether vectors in this cell get codes of nibbles, where that is not one of all.
fn is_coded(placement: &Placement, cell: u32) -> bool {
    cell != NONE || placement.cells() == 0
}

fn train(projected: &Projected<'_>, placement: &Placement, width: usize, work: Work) -> Codebook {
    let coded = (0..projected.count()).filter(|vector| is_coded(placement, placement.primary[*vector]));
    let coded: Vec<usize> = coded.collect();
    let sample = Random(work.seed + 1).sample(coded.len(), codebook::SAMPLE_ROWS);
    let sample: Vec<usize> = sample.into_iter().map(|at| coded[at]).collect();
    let mut residuals = projected.gather(&sample, work.threads);
    for (at, residual) in sample.into_iter().zip(residuals.chunks_exact_mut(placement.dim)) {
        let centroid = placement.centroid(placement.primary[at]);
        residual.iter_mut().zip(centroid).for_each(|(value, mean)| *value -= mean);
        simd::normalize(residual);
    }
    let training = Training { threads: work.threads, seed: work.seed, ..Training::default() };
    Codebook::train(Matrix::new(&residuals, placement.dim), width, training)
}
