//! The parts of cells as they are on disk, decoded: read from a section, and written as one.

use std::io::{self, Write};
use std::sync::Arc;

use super::build::{Made, Trained};
use super::cells::Cells;
use super::layout::{HEADER_BYTES, Layout, Part};
use super::partition::Partition;
use super::refine;
use crate::dense::vectors::{ChunkSource, PAGE_BYTES};
use crate::error::{Error, Result};
use crate::large::Large;
use crate::simd::Element;

/// Bytes read at once when a part is loaded.
const READ_BYTES: usize = 1 << 20;

/// The parts of cells as they are on disk, decoded.
#[derive(Clone, Default)]
pub(super) struct Parts {
    pub(super) mean: Vec<f32>,
    pub(super) axes: Vec<f32>,
    pub(super) words: Vec<f32>,
    pub(super) centroids: Vec<f32>,
    pub(super) radii: Vec<f32>,
    pub(super) starts: Vec<u32>,
    pub(super) groups: Vec<u32>,
    pub(super) partitions: Vec<Partition>,
    /// Empty where vectors are not in order.
    pub(super) firsts: Vec<u32>,
    pub(super) more_axes: Vec<f32>,
    pub(super) steps: Vec<f32>,
    /// One of these two is empty where cells are open.
    pub(super) halves: Large<u8>,
    pub(super) refine: Large<u8>,
    pub(super) postings: Large<u8>,
}

impl Parts {
    /// The centroids of a partition.
    pub(super) fn centroids_of(&self, partition: u32) -> &[f32] {
        let dim = self.centroids.len() / self.radii.len().max(1);
        let cells = &self.partitions[partition as usize].cells;
        &self.centroids[cells.start as usize * dim..cells.end as usize * dim]
    }
}

/// The parts of a section that are no rows and no postings.
pub(super) fn read_parts(section: &str, layout: &Layout, source: &dyn ChunkSource) -> Result<Parts> {
    let damaged = |what: String| Error::Section { section: section.to_owned(), what };
    if layout.section_bytes() != source.bytes() {
        let (bytes, found) = (layout.section_bytes(), source.bytes());
        return Err(damaged(format!("its parts take {bytes} bytes, there are {found}")));
    }
    let floats = |part: Part, name: &str| -> Result<Vec<f32>> {
        let bytes = read(source, layout.at(part), layout.bytes(part))?;
        let mut values = Vec::with_capacity(bytes.len() / 4);
        f32::decode(&bytes, &mut values);
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(damaged(format!("a value of its {name} is not finite"))),
        }
    };
    let ints = |part: Part| -> Result<Vec<u32>> {
        let bytes = read(source, layout.at(part), layout.bytes(part))?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
    };
    // From 0 to `end`.
    let ascending = |part: Part, end: u32, name: &str| -> Result<Vec<u32>> {
        let starts = ints(part)?;
        match starts.is_sorted() && starts.first() == Some(&0) && starts.last() == Some(&end) {
            true => Ok(starts),
            false => Err(damaged(format!("the starts of its {name} do not ascend to their end"))),
        }
    };
    let (partitions, firsts) = (partitions_of(layout, &ints(Part::Partitions)?), ints(Part::Firsts)?);
    let partitions = partitions.ok_or_else(|| damaged("its partitions do not follow each other".into()))?;
    if layout.ordered && !are_firsts(&firsts, &partitions) {
        return Err(damaged("its cells do not divide the vectors of their partitions".into()));
    }
    Ok(Parts {
        partitions,
        firsts,
        mean: floats(Part::Mean, "mean")?,
        axes: floats(Part::Axes, "axes")?,
        words: floats(Part::Words, "words")?,
        centroids: floats(Part::Centroids, "centroids")?,
        radii: floats(Part::Radii, "radii")?,
        starts: ascending(Part::Starts, layout.blocks, "postings")?,
        groups: ascending(Part::Groups, layout.cells, "groups")?,
        more_axes: floats(Part::MoreAxes, "axes")?,
        steps: floats(Part::Steps, "steps")?,
        halves: Large::zeroed(0),
        refine: Large::zeroed(0),
        postings: Large::zeroed(0),
    })
}

/// The partitions, if they are such: each with vectors, cells and groups, that follow those before.
fn partitions_of(layout: &Layout, values: &[u32]) -> Option<Vec<Partition>> {
    let (mut partitions, mut before) = (Vec::new(), [0, 0, 0]);
    for [vector, vectors_end, cell, cells_end, group, groups_end] in values.as_chunks::<6>().0.iter().copied()
    {
        let follows = vector >= before[0] && (cell, group) == (before[1], before[2]);
        let some = vector < vectors_end && cell < cells_end && group < groups_end;
        if !follows || !some || vectors_end > layout.vectors {
            return None;
        }
        before = [vectors_end, cells_end, groups_end];
        let (vectors, cells, groups) = (vector..vectors_end, cell..cells_end, group..groups_end);
        partitions.push(Partition { vectors, cells, groups });
    }
    (before[1..] == [layout.cells, layout.groups]).then_some(partitions)
}

/// Whether the cells of each partition divide its vectors.
fn are_firsts(firsts: &[u32], partitions: &[Partition]) -> bool {
    let last = partitions.last().map_or(0, |last| last.vectors.end);
    let divides = |of: &Partition| {
        let cells = &firsts[of.cells.start as usize..of.cells.end as usize];
        cells.first() == Some(&of.vectors.start)
            && cells.is_sorted()
            && cells.last().is_some_and(|last| *last <= of.vectors.end)
    };
    firsts.last() == Some(&last) && partitions.iter().all(divides)
}

/// What the cells of a section were made with; `open` are the same cells, where they are open.
///
/// # Errors
/// [`Error::Section`] for bytes that are not those of cells; a storage error when they cannot be read.
pub(super) fn read_trained<'a>(
    section: &str,
    source: &Arc<dyn ChunkSource>,
    open: Option<&'a Cells>,
) -> Result<Trained<'a>> {
    let layout = read_layout(section, source.as_ref())?;
    let parts = read_parts(section, &layout, source.as_ref())?;
    Ok(Trained { layout, parts, section: section.into(), source: Arc::clone(source), open })
}

pub(super) fn read_layout(section: &str, source: &dyn ChunkSource) -> Result<Layout> {
    let damaged = |what: String| Error::Section { section: section.to_owned(), what };
    if source.bytes() < HEADER_BYTES {
        return Err(damaged(format!("{} bytes are no header of {HEADER_BYTES}", source.bytes())));
    }
    let mut header = [0; HEADER_BYTES as usize];
    source.read(0, &mut header)?;
    Layout::decode(&header).map_err(damaged)
}

/// Reads bytes of a section.
pub(super) fn read(source: &dyn ChunkSource, at: u64, bytes: u64) -> Result<Large<u8>> {
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
pub(super) fn write(made: &Made, out: &mut impl Write) -> io::Result<()> {
    let Made { layout, parts, spill, .. } = made;
    out.write_all(&layout.encode())?;
    let floats = |values: &[f32]| {
        let mut bytes = Vec::with_capacity(4 * values.len());
        f32::encode(values, &mut bytes);
        bytes
    };
    let ints = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let partitions: Vec<u32> = parts
        .partitions
        .iter()
        .flat_map(|Partition { vectors: v, cells: c, groups: g }| {
            [v.start, v.end, c.start, c.end, g.start, g.end]
        })
        .collect();
    let small = [
        floats(&parts.mean),
        floats(&parts.axes),
        floats(&parts.words),
        floats(&parts.centroids),
        floats(&parts.radii),
        ints(&parts.starts),
        ints(&parts.groups),
        ints(&partitions),
        ints(&parts.firsts),
        floats(&parts.more_axes),
        floats(&parts.steps),
    ];
    for mut bytes in small {
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES as usize), 0);
        out.write_all(&bytes)?;
    }
    if let Some(spill) = spill {
        return spill.copy_to(out);
    }
    for rows in [&parts.halves, &parts.refine] {
        out.write_all(rows)?;
        out.write_all(&vec![0; rows.len().next_multiple_of(PAGE_BYTES as usize) - rows.len()])?;
    }
    debug_assert_eq!(parts.refine.len(), layout.vectors as usize * refine::stride(layout.field_dim as usize));
    out.write_all(&parts.postings)
}
