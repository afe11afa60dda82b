//! The cells of a field, ready to be searched: what stays in memory, and where the postings are.

use std::sync::Arc;

use spandrel_storage::DenseSpec;

use super::bytes::ByteRows;
use super::codebook::Codebook;
use super::layout::{HEADER_BYTES, Layout, Part};
use super::refine::{self, Refine};
use super::space::Space;
use crate::dense::vectors::{ChunkSource, PAGE_BYTES};
use crate::error::{Error, Result};
use crate::large::Large;
use crate::matrix::Matrix;
use crate::simd::{Element, nibble};

/// Bytes read at once when a part is loaded.
const READ_BYTES: usize = 1 << 20;

/// What a search needs of cells.
pub(super) struct Cells {
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
    pub(super) postings: Large<u8>,
    pub(super) refine: Refine,
}

/// The parts of cells as they are on disk, decoded.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) mean: Vec<f32>,
    pub(super) axes: Vec<f32>,
    pub(super) words: Vec<f32>,
    pub(super) centroids: Vec<f32>,
    pub(super) radii: Vec<f32>,
    pub(super) starts: Vec<u32>,
    pub(super) refine: Large<u8>,
    pub(super) postings: Large<u8>,
}

impl Cells {
    /// Makes parts ready, which fit the layout.
    pub(super) fn new(layout: Layout, parts: Parts) -> Self {
        let (dims, coded, field_dim) = (layout.dims(), layout.coded(), layout.field_dim as usize);
        let axes = Matrix::new(&parts.axes, dims);
        let own: Vec<f32> = axes.iter().flat_map(|axis| &axis[..field_dim]).copied().collect();
        let lift = |axis: &[f32]| -> f32 {
            axis[field_dim..].iter().zip(&parts.mean[field_dim..]).map(|(a, b)| -a * b).sum()
        };
        let space = Space {
            metric: layout.metric,
            scale: layout.scale,
            mean: parts.mean.clone(),
            radius: layout.radius,
            query_norm: layout.query_norm,
        };
        let centroids = Matrix::new(&parts.centroids, coded);
        let codebook = Codebook { width: layout.width as usize, words: parts.words };
        Self {
            space,
            lift: axes.iter().map(lift).collect(),
            axes: ByteRows::of(Matrix::new(&own, field_dim)),
            dims_that_matter: codebook.dims_that_matter(),
            codebook,
            centroids: ByteRows::of(centroids),
            centroid_norms: super::cluster::norms_squared(centroids),
            radii: parts.radii,
            starts: parts.starts,
            postings: parts.postings,
            refine: Refine { dim: field_dim, bytes: parts.refine },
            layout,
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
    ) -> Result<Self> {
        let damaged = |what: String| Error::Section { section: section.to_owned(), what };
        let layout = read_layout(section, source.as_ref())?;
        if (layout.metric, layout.field_dim, layout.vectors) != (spec.metric, spec.dim, vectors) {
            return Err(damaged(format!(
                "it holds {} vectors of {} dimensions under {:?}, the field has {vectors}, {} and {:?}",
                layout.vectors, layout.field_dim, layout.metric, spec.dim, spec.metric
            )));
        }
        if layout.section_bytes() != source.bytes() {
            let (bytes, found) = (layout.section_bytes(), source.bytes());
            return Err(damaged(format!("its parts take {bytes} bytes, there are {found}")));
        }
        let floats = |part: Part, name: &str| -> Result<Vec<f32>> {
            let bytes = read(source.as_ref(), layout.at(part), layout.bytes(part))?;
            let mut values = Vec::with_capacity(bytes.len() / 4);
            f32::decode(&bytes, &mut values);
            match values.iter().all(|value| value.is_finite()) {
                true => Ok(values),
                false => Err(damaged(format!("a value of its {name} is not finite"))),
            }
        };
        let starts = read(source.as_ref(), layout.at(Part::Starts), layout.bytes(Part::Starts))?;
        let starts: Vec<u32> = starts.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let ordered =
            starts.is_sorted() && starts.first() == Some(&0) && starts.last() == Some(&layout.blocks);
        if !ordered {
            return Err(damaged("the starts of its postings do not ascend to their end".into()));
        }
        let parts = Parts {
            mean: floats(Part::Mean, "mean")?,
            axes: floats(Part::Axes, "axes")?,
            words: floats(Part::Words, "words")?,
            centroids: floats(Part::Centroids, "centroids")?,
            radii: floats(Part::Radii, "radii")?,
            starts,
            refine: read(source.as_ref(), layout.at(Part::Refine), layout.bytes(Part::Refine))?,
            postings: read(source.as_ref(), layout.at(Part::Postings), layout.bytes(Part::Postings))?,
        };
        check_postings(&layout, &parts.postings).map_err(damaged)?;
        Ok(Self::new(layout, parts))
    }

    /// Cells over parts that are to come back, and the parts that they do not keep.
    pub(super) fn lend(layout: Layout, mut parts: Parts) -> (Self, Parts) {
        let (refine, postings) = (std::mem::take(&mut parts.refine), std::mem::take(&mut parts.postings));
        let lent = Parts { refine, postings, ..parts.clone() };
        (Self::new(layout, lent), parts)
    }

    /// The parts again.
    pub(super) fn give_back(self, parts: Parts) -> Parts {
        Parts { refine: self.refine.bytes, postings: self.postings, ..parts }
    }

    /// The blocks of a cell.
    pub(super) fn posting(&self, cell: usize) -> &[u8] {
        let block = nibble::block_bytes(self.codebook.lookups());
        &self.postings[self.starts[cell] as usize * block..self.starts[cell + 1] as usize * block]
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let floats = self.space.mean.len()
            + self.lift.len()
            + self.codebook.words.len()
            + self.centroid_norms.len()
            + self.radii.len()
            + self.starts.len();
        size_of::<Self>()
            + self.axes.memory_bytes()
            + self.centroids.memory_bytes()
            + 4 * floats
            + self.postings.bytes()
            + self.refine.bytes.bytes()
    }
}

/// Bytes of memory that the cells in `source` will take.
///
/// # Errors
/// As [`Cells::open`].
pub(super) fn resident_bytes(section: &str, source: &dyn ChunkSource) -> Result<u64> {
    let layout = read_layout(section, source)?;
    let quantized =
        (layout.coded() * layout.field_dim as usize + layout.cells as usize * layout.coded()) as u64;
    Ok(quantized + layout.bytes(Part::Postings) + layout.bytes(Part::Refine) + u64::from(layout.cells) * 20)
}

fn read_layout(section: &str, source: &dyn ChunkSource) -> Result<Layout> {
    let damaged = |what: String| Error::Section { section: section.to_owned(), what };
    if source.bytes() < HEADER_BYTES {
        return Err(damaged(format!("{} bytes are no header of {HEADER_BYTES}", source.bytes())));
    }
    let mut header = [0; HEADER_BYTES as usize];
    source.read(0, &mut header)?;
    Layout::decode(&header).map_err(damaged)
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

fn read(source: &dyn ChunkSource, at: u64, bytes: u64) -> Result<Large<u8>> {
    let mut out = Large::zeroed(bytes as usize);
    for (chunk, at) in out.chunks_mut(READ_BYTES).zip((at..).step_by(READ_BYTES)) {
        source.read(at, chunk)?;
    }
    Ok(out)
}

/// Writes cells as a section.
///
/// # Errors
/// Those of `out`.
pub(super) fn write(layout: &Layout, parts: &Parts, out: &mut impl std::io::Write) -> std::io::Result<()> {
    out.write_all(&layout.encode())?;
    let floats = |values: &[f32]| {
        let mut bytes = Vec::with_capacity(4 * values.len());
        f32::encode(values, &mut bytes);
        bytes
    };
    let starts: Vec<u8> = parts.starts.iter().flat_map(|start| start.to_le_bytes()).collect();
    let small = [
        floats(&parts.mean),
        floats(&parts.axes),
        floats(&parts.words),
        floats(&parts.centroids),
        floats(&parts.radii),
        starts,
    ];
    for mut bytes in small {
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES as usize), 0);
        out.write_all(&bytes)?;
    }
    out.write_all(&parts.refine)?;
    let filled = parts.refine.len();
    out.write_all(&vec![0; filled.next_multiple_of(PAGE_BYTES as usize) - filled])?;
    debug_assert_eq!(parts.refine.len(), layout.vectors as usize * refine::stride(layout.field_dim as usize));
    out.write_all(&parts.postings)
}
