//! The cells of a field, ready to be searched: what stays in memory, and where the postings are.

use std::ops::Range;
use std::sync::Arc;

use spandrel_storage::DenseSpec;
use spandrel_storage::io::Extent;

use super::build::Made;
use super::bytes::ByteRows;
use super::codebook::Codebook;
use super::groups::Groups;
use super::halves::{self, Halves};
use super::layout::{Layout, Part};
use super::partition::{self, Among, Partition};
use super::parts::{Parts, read, read_layout, read_parts};
use super::refine::{self, Refine};
use super::singles::{self, Singles};
use super::space::Space;
use super::spill::Spill;
use crate::counters::Counters;
use crate::dense::standing;
use crate::dense::vectors::ChunkSource;
use crate::error::{Error, Result};
use crate::large::Large;
use crate::matrix::Matrix;
use crate::simd::nibble;

/// How much of the cells is in memory, from the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Centroids only: postings are read, and then half a byte for the dimensions that matter of every
    /// candidate.
    Lean,
    /// Postings, and half a byte for the dimensions that matter: about two vectors are read for a result.
    Default,
    /// Postings, and a byte a dimension to rank candidates by: next to no vector needs to be read that is not
    /// a result. Where there is room, the codes of postings vector by vector besides ([`singles_bytes`]).
    Hot,
}

impl Tier {
    /// All, from the most.
    pub const ALL: [Self; 3] = [Self::Hot, Self::Default, Self::Lean];
}

/// What candidates are ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fineness {
    Bytes,
    Halves,
}

impl Fineness {
    /// What there is of it.
    fn of(tier: Tier, layout: &Layout) -> Self {
        match tier {
            Tier::Default | Tier::Lean if layout.halves > 0 => Self::Halves,
            _ => Self::Bytes,
        }
    }

    /// How many of the nearest by these codes hold the `k` nearest.
    pub(super) fn depth(self, k: usize) -> usize {
        match self {
            Self::Bytes => k + k / 16 + 2,
            Self::Halves => k + k * 4 / 5 + 6,
        }
    }

    /// Where the rows are.
    fn part(self) -> Part {
        match self {
            Self::Bytes => Part::Refine,
            Self::Halves => Part::Halves,
        }
    }
}

/// How the rows are read that candidates are ranked by.
pub(super) enum Fine {
    Bytes(Refine),
    Halves {
        halves: Halves,
        /// Projection beyond the coded dimensions, and its lift.
        axes: ByteRows,
        lift: Vec<f32>,
    },
}

/// The bytes of a part.
pub(super) enum Rows {
    Memory(Large<u8>),
    /// From byte `at` of a section.
    Disk {
        source: Arc<dyn ChunkSource>,
        at: u64,
    },
}

impl Rows {
    /// The bytes, when they are in memory.
    pub(super) fn at_hand(&self) -> Option<&[u8]> {
        match self {
            Self::Memory(bytes) => Some(bytes),
            Self::Disk { .. } => None,
        }
    }

    /// Fills `out` with the bytes of `extents` one after the other, all reads in flight together.
    pub(super) fn read(
        &self,
        extents: &mut [Extent],
        out: &mut Vec<u8>,
        counters: &mut Counters,
    ) -> Result<()> {
        let Self::Disk { source, at } = self else { return Ok(()) };
        let mut starts = Vec::with_capacity(extents.len());
        let mut bytes = 0;
        for extent in extents.iter_mut() {
            starts.push(bytes);
            bytes += extent.len;
            extent.offset += at;
        }
        out.resize(bytes, 0);
        if extents.is_empty() {
            return Ok(());
        }
        counters.bytes_read += source.read_batch(extents, &mut |index, bytes| {
            out[starts[index]..starts[index] + bytes.len()].copy_from_slice(bytes);
        })?;
        Ok(())
    }

    /// Where some of the bytes are.
    fn of(&self, bytes: Range<usize>) -> standing::Part<'_> {
        match self {
            Self::Memory(_) => standing::Part::in_memory(bytes.len()),
            Self::Disk { source, at } => {
                standing::Part::on_disk(&**source, at + bytes.start as u64, bytes.len())
            }
        }
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.bytes(),
            Self::Disk { .. } => 0,
        }
    }

    fn take(self) -> Large<u8> {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Disk { .. } => Large::zeroed(0),
        }
    }
}

/// What a search needs of cells.
pub(super) struct Cells {
    /// The name of their section; empty while they are built.
    section: Box<str>,
    pub(super) layout: Layout,
    pub(super) space: Space,
    /// Projection of the field's own dimensions, and what the extra coordinate of every query adds.
    pub(super) axes: ByteRows,
    pub(super) lift: Vec<f32>,
    pub(super) codebook: Codebook,
    /// Of the codebook.
    pub(super) dims_that_matter: f32,
    pub(super) centroids: ByteRows,
    pub(super) centroid_norms: Vec<f32>,
    pub(super) radii: Vec<f32>,
    /// First block of each cell, and the end.
    pub(super) starts: Vec<u32>,
    pub(super) groups: Groups,
    pub(super) partitions: Vec<Partition>,
    /// First vector of each cell, and the end of the last; empty where vectors are not in order.
    pub(super) firsts: Vec<u32>,
    pub(super) postings: Rows,
    pub(super) fine: Fine,
    pub(super) fine_rows: Rows,
    /// The codes in postings by vector, where there is memory for all that helps.
    pub(super) singles: Option<Singles>,
}

impl Cells {
    /// Makes parts ready, which fit the layout; `rows` are those of postings and of what candidates are
    /// ranked by.
    fn new(layout: Layout, parts: Parts, fineness: Fineness, (postings, fine_rows): (Rows, Rows)) -> Self {
        let (dims, coded, field_dim) = (layout.dims(), layout.coded(), layout.field_dim as usize);
        // The projection of the field's own dimensions, and what the extra coordinate of every query adds.
        let projection = |axes: &[f32]| -> (ByteRows, Vec<f32>) {
            let axes = Matrix::new(axes, dims);
            let own: Vec<f32> = axes.iter().flat_map(|axis| &axis[..field_dim]).copied().collect();
            let lift = |axis: &[f32]| -> f32 {
                axis[field_dim..].iter().zip(&parts.mean[field_dim..]).map(|(a, b)| -a * b).sum()
            };
            (ByteRows::of(Matrix::new(&own, field_dim)), axes.iter().map(lift).collect())
        };
        let (axes, lift) = projection(&parts.axes);
        let fine = match fineness {
            Fineness::Bytes => Fine::Bytes(Refine { dim: field_dim }),
            Fineness::Halves => {
                let (axes, lift) = projection(&parts.more_axes);
                Fine::Halves { halves: Halves { steps: parts.steps }, axes, lift }
            }
        };
        let space = Space {
            metric: layout.metric,
            scale: layout.scale,
            mean: parts.mean,
            radius: layout.radius,
            query_norm: layout.query_norm,
        };
        let centroids = Matrix::new(&parts.centroids, coded);
        let codebook = Codebook { width: layout.width as usize, words: parts.words };
        Self {
            section: Box::default(),
            space,
            lift,
            axes,
            dims_that_matter: codebook.dims_that_matter(),
            codebook,
            centroids: ByteRows::of(centroids),
            centroid_norms: super::cluster::norms_squared(centroids),
            groups: Groups::of(parts.groups, centroids, &parts.radii, &parts.starts),
            radii: parts.radii,
            starts: parts.starts,
            partitions: parts.partitions,
            firsts: parts.firsts,
            postings,
            fine,
            fine_rows,
            singles: None,
            layout,
        }
    }

    /// Makes the codes of vectors one by one, where that helps.
    pub(super) fn make_singles(&mut self) {
        if let (Fineness::Bytes, true, Some(postings)) =
            (self.fineness(), self.layout.ordered, self.postings.at_hand())
        {
            let (lookups, vectors) = (self.codebook.lookups(), self.layout.vectors as usize);
            let cells = (&self.firsts[..], |cell| self.own_posting(cell));
            self.singles = Some(Singles::of(postings, lookups, cells, vectors));
        }
    }

    /// Opens the section named `section` of the field `spec`, whose vectors are `vectors` in number.
    ///
    /// # Errors
    /// [`Error::Section`] for bytes that are not cells of this field; a storage error when they cannot be
    /// read.
    pub(super) fn open(
        section: &str,
        spec: &DenseSpec,
        vectors: u32,
        source: &Arc<dyn ChunkSource>,
        tier: Tier,
    ) -> Result<Self> {
        let damaged = |what: String| Error::Section { section: section.to_owned(), what };
        let layout = read_layout(section, source.as_ref())?;
        let fineness = Fineness::of(tier, &layout);
        if (layout.metric, layout.field_dim, layout.vectors) != (spec.metric, spec.dim, vectors) {
            return Err(damaged(format!(
                "it holds {} vectors of {} dimensions under {:?}, the field has {vectors}, {} and {:?}",
                layout.vectors, layout.field_dim, layout.metric, spec.dim, spec.metric
            )));
        }
        let parts = read_parts(section, &layout, source.as_ref())?;
        let rows = |part: Part| -> Result<Rows> {
            let at = layout.at(part);
            Ok(match tier {
                Tier::Lean => Rows::Disk { source: Arc::clone(source), at },
                _ => Rows::Memory(read(source.as_ref(), at, layout.bytes(part))?),
            })
        };
        let (postings, fine_rows) = (rows(Part::Postings)?, rows(fineness.part())?);
        if let Some(postings) = postings.at_hand() {
            check_postings(&layout, postings).map_err(damaged)?;
        }
        let cells = Self::new(layout, parts, fineness, (postings, fine_rows));
        Ok(Self { section: section.into(), ..cells })
    }

    /// What [`open`](Self::open) gives for a section that `made` was just written to.
    pub(super) fn made(section: &str, made: Made, source: &Arc<dyn ChunkSource>, tier: Tier) -> Self {
        let Made { layout, mut parts, spill, .. } = made;
        debug_assert!(spill.is_none(), "what is in a file has to be read");
        let fineness = Fineness::of(tier, &layout);
        let (postings, halves) = (std::mem::take(&mut parts.postings), std::mem::take(&mut parts.halves));
        let refine = std::mem::take(&mut parts.refine);
        let rows = |part: Part, bytes: Large<u8>| match tier {
            Tier::Lean => Rows::Disk { source: Arc::clone(source), at: layout.at(part) },
            _ => Rows::Memory(bytes),
        };
        let fine_rows = match fineness {
            Fineness::Bytes => rows(Part::Refine, refine),
            Fineness::Halves => rows(Part::Halves, halves),
        };
        let postings = rows(Part::Postings, postings);
        let cells = Self::new(layout, parts, fineness, (postings, fine_rows));
        Self { section: section.into(), ..cells }
    }

    /// Cells over parts that are to come back, and the parts that they do not keep.
    /// Of those in a file, as much is read as `bytes_max` allows.
    pub(super) fn lend(made: &mut Made, fineness: Fineness, mut bytes_max: usize) -> (Self, Parts) {
        let (layout, mut parts) = (made.layout.clone(), std::mem::take(&mut made.parts));
        if let Some(spill) = &made.spill {
            let mut rows = |part: Part| {
                let source: Arc<dyn ChunkSource> = Arc::clone(spill) as _;
                let (at, bytes) = (Spill::at(&layout, part), layout.bytes(part));
                if bytes <= bytes_max as u64
                    && let Ok(all) = read(source.as_ref(), at, bytes)
                {
                    bytes_max -= bytes as usize;
                    return Rows::Memory(all);
                }
                Rows::Disk { source, at }
            };
            let rows = (rows(Part::Postings), rows(fineness.part()));
            return (Self::new(layout.clone(), parts.clone(), fineness, rows), parts);
        }
        let postings = std::mem::take(&mut parts.postings);
        let rows = match fineness {
            Fineness::Bytes => std::mem::take(&mut parts.refine),
            Fineness::Halves => std::mem::take(&mut parts.halves),
        };
        let (halves, refine) = (std::mem::take(&mut parts.halves), std::mem::take(&mut parts.refine));
        let lent = parts.clone();
        (parts.halves, parts.refine) = (halves, refine);
        (Self::new(layout, lent, fineness, (Rows::Memory(postings), Rows::Memory(rows))), parts)
    }

    /// The parts again.
    pub(super) fn give_back(self, parts: Parts) -> Parts {
        let (fineness, rows, postings) = (self.fineness(), self.fine_rows.take(), self.postings.take());
        match fineness {
            Fineness::Bytes => Parts { refine: rows, postings, ..parts },
            Fineness::Halves => Parts { halves: rows, postings, ..parts },
        }
    }

    /// Whether rows that candidates are ranked by are in memory.
    pub(super) fn is_at_hand(&self) -> bool {
        self.fine_rows.at_hand().is_some()
    }

    /// All bytes of a part, where they are in memory.
    pub(super) fn part(&self, part: Part) -> Option<&[u8]> {
        match part {
            Part::Postings => self.postings.at_hand(),
            _ if part == self.fineness().part() => self.fine_rows.at_hand(),
            _ => None,
        }
    }

    /// Where that is of vectors which searches read, besides the vectors.
    pub(super) fn places(&self, vectors: &Range<u32>) -> Vec<standing::Part<'_>> {
        let stride = self.fine_stride();
        let rows = vectors.start as usize * stride..vectors.end as usize * stride;
        let mut parts = vec![self.fine_rows.of(rows)];
        if let Among::Partition(at) = partition::among(&self.partitions, vectors) {
            let Range { start, end } = self.partitions[at].cells.clone();
            if start < end {
                let postings = self.posting(start as usize).start..self.posting(end as usize - 1).end;
                parts.push(self.postings.of(postings));
            }
        }
        parts
    }

    /// What candidates are ranked by.
    pub(super) fn fineness(&self) -> Fineness {
        match self.fine {
            Fine::Bytes(_) => Fineness::Bytes,
            Fine::Halves { .. } => Fineness::Halves,
        }
    }

    /// Bytes of a block of the postings.
    pub(super) fn block_bytes(&self) -> usize {
        nibble::block_bytes(self.codebook.lookups())
    }

    /// Where the blocks of a cell are in the postings.
    pub(super) fn posting(&self, cell: usize) -> Range<usize> {
        let block = self.block_bytes();
        self.starts[cell] as usize * block..self.starts[cell + 1] as usize * block
    }

    /// The same, without blocks that have none of the vectors that it is the first cell of.
    pub(super) fn own_posting(&self, cell: usize) -> Range<usize> {
        let Range { start, end } = self.posting(cell);
        let Some([first, next]) = self.firsts.get(cell..cell + 2) else { return start..end };
        let blocks = ((next - first) as usize).div_ceil(nibble::BLOCK_ROWS);
        start..end.min(start + blocks * self.block_bytes())
    }

    /// Bytes of a row that candidates are ranked by.
    pub(super) fn fine_stride(&self) -> usize {
        match &self.fine {
            Fine::Bytes(refine) => refine::stride(refine.dim),
            Fine::Halves { halves, .. } => halves::stride(halves.steps.len()),
        }
    }

    /// Appends where the rows of these vectors are.
    pub(super) fn fine_extents(&self, ids: &[u32], extents: &mut Vec<Extent>) {
        let len = self.fine_stride();
        extents.extend(ids.iter().map(|id| Extent { offset: u64::from(*id) * len as u64, len }));
    }

    /// The error for bytes of these cells that cannot be.
    pub(super) fn damaged(&self, what: String) -> Error {
        Error::Section { section: self.section.to_string(), what }
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let floats = self.space.mean.len()
            + self.lift.len()
            + self.codebook.words.len()
            + self.centroid_norms.len()
            + self.radii.len()
            + self.starts.len()
            + self.firsts.len()
            + 6 * self.partitions.len();
        let fine = match &self.fine {
            Fine::Bytes(_) => 0,
            Fine::Halves { halves, axes, lift } => {
                axes.memory_bytes() + 4 * (halves.steps.len() + lift.len())
            }
        };
        size_of::<Self>()
            + self.axes.memory_bytes()
            + self.centroids.memory_bytes()
            + 4 * floats
            + self.groups.memory_bytes()
            + self.postings.memory_bytes()
            + self.fine_rows.memory_bytes()
            + self.singles.as_ref().map_or(0, Singles::memory_bytes)
            + fine
    }
}

/// Bytes of memory that the cells in `source` take when so much of them is open.
///
/// # Errors
/// [`Error::Section`] for bytes that are not those of cells; a storage error when they cannot be read.
pub fn resident_bytes(section: &str, source: &dyn ChunkSource, tier: Tier) -> Result<u64> {
    let layout = read_layout(section, source)?;
    let fineness = Fineness::of(tier, &layout);
    let (dim, coded) = (layout.field_dim as usize, layout.coded());
    let more_axes = match fineness {
        Fineness::Bytes => 0,
        Fineness::Halves => (layout.halves as usize).saturating_sub(coded) * dim,
    };
    let quantized = (coded * dim + more_axes + (layout.cells + layout.groups) as usize * coded) as u64;
    let rows = match tier {
        Tier::Lean => 0,
        _ => layout.bytes(Part::Postings) + layout.bytes(fineness.part()),
    };
    Ok(quantized
        + rows
        + layout.bytes(Part::Words)
        + u64::from(layout.cells + layout.groups) * 24
        + layout.bytes(Part::Partitions))
}

/// Bytes of memory that the codes of its vectors one by one take besides, where they help.
///
/// # Errors
/// As [`resident_bytes`].
pub fn singles_bytes(section: &str, source: &dyn ChunkSource, tier: Tier) -> Result<u64> {
    let layout = read_layout(section, source)?;
    let helps = layout.ordered && tier == Tier::Hot;
    let each = if helps { singles::stride(layout.lookups as usize) as u64 } else { 0 };
    Ok(u64::from(layout.vectors) * each)
}

/// Every id of a vector that can be found is that of a vector: one that is infinitely far (padding), or at a
/// distance that is no number, is never found.
fn check_postings(layout: &Layout, postings: &[u8]) -> Result<(), String> {
    let lookups = layout.lookups as usize;
    for block in postings.chunks_exact(nibble::block_bytes(lookups)) {
        for row in 0..nibble::BLOCK_ROWS {
            let factors = nibble::factors(block, lookups, row);
            if factors.add < f32::INFINITY && factors.id >= layout.vectors {
                return Err(format!("a posting names vector {} of {}", factors.id, layout.vectors));
            }
        }
    }
    Ok(())
}
