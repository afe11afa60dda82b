//! The rows and postings of cells in which most vectors were before: theirs are copied, those of the others
//! made.
//!
//! Cost: one pass over the bytes there were, a part at a time.

use std::ops::Range;

use super::build::Trained;
use super::closure::{NONE as NO_CELL, Placement};
use super::codebook::Codebook;
use super::encode::{Encoded, Given, Postings};
use super::halves;
use super::incremental::NONE;
use super::layout::Part;
use super::parts::read;
use super::refine;
use crate::error::{Error, Result};
use crate::large::Large;
use crate::pace;
use crate::simd::nibble::{self, BLOCK_ROWS};

/// Rows that are copied at once, and bytes of postings.
pub(super) const COPY_ROWS: usize = 8192;
const COPY_BYTES: usize = 1 << 20;

/// Vectors of which most are encoded already.
pub(super) struct Patched<'a> {
    /// Those that were touched, by themselves.
    pub(super) given: Given<'a>,
    /// Their numbers, ascending, as they are in `given`.
    pub(super) touched: &'a [u32],
    /// Where all are.
    pub(super) all: &'a Placement,
    /// Where they were.
    pub(super) trained: &'a Trained<'a>,
    /// The position there of each, or none.
    pub(super) kept: &'a [u32],
    /// The number of each of the others, by its old one.
    pub(super) now: Vec<u32>,
    /// The old cell that each cell is, or none.
    pub(super) origin: &'a [u32],
}

impl Patched<'_> {
    /// Rows of a range of vectors, of which `made` gives those of a range of the ones that were touched. All
    /// others are copied, and given to `each` with their numbers.
    fn rows(
        &self,
        (part, stride): (Part, usize),
        vectors: Range<usize>,
        made: impl Fn(Range<usize>) -> Result<Large<u8>>,
        each: impl Fn(usize, &mut [u8]),
    ) -> Result<Large<u8>> {
        let before = |number: usize| self.touched.partition_point(|touched| (*touched as usize) < number);
        let touched = before(vectors.start)..before(vectors.end);
        let made = made(touched.clone())?;
        let mut out = Large::<u8>::zeroed(vectors.len() * stride);
        let first = vectors.start;
        let place = |number: usize| (number - first) * stride..(number - first + 1) * stride;
        for (number, row) in self.touched[touched].iter().zip(made.chunks_exact(stride)) {
            out[place(*number as usize)].copy_from_slice(row);
        }
        let stays =
            |number: &usize| self.kept[*number] != NONE && self.now[self.kept[*number] as usize] != NONE;
        let mut stay = vectors.filter(stays).map(|number| (number, self.kept[number] as usize)).peekable();
        let mut run: Vec<(usize, usize)> = Vec::new();
        while let Some((number, start)) = stay.next() {
            pace::breathe();
            // Those that follow there, as far as they do.
            run.clear();
            run.push((number, start));
            let mut end = start + 1;
            while let Some((number, old)) = stay.next_if(|(_, old)| (end..start + COPY_ROWS).contains(old)) {
                end = old + 1;
                run.push((number, old));
            }
            let rows = self.trained.rows(part, stride, start..end)?;
            for (number, old) in run.drain(..) {
                let row = &mut out[place(number)];
                row.copy_from_slice(&rows[(old - start) * stride..][..stride]);
                each(number, row);
            }
        }
        Ok(out)
    }
}

impl Encoded for Patched<'_> {
    fn placement(&self) -> &Placement {
        self.all
    }

    fn halves(&self, steps: &[f32], more_axes: &[f32], vectors: Range<usize>) -> Result<Large<u8>> {
        if steps.is_empty() {
            return Ok(Large::zeroed(0));
        }
        let made = |touched| self.given.halves(steps, more_axes, touched);
        let rename = |number: usize, row: &mut [u8]| halves::rename(row, self.all.name(number));
        self.rows((Part::Halves, halves::stride(steps.len())), vectors, made, rename)
    }

    fn refine(&self, vectors: Range<usize>) -> Result<Large<u8>> {
        let stride = refine::stride(self.given.space.field_dim());
        self.rows((Part::Refine, stride), vectors, |touched| self.given.refine(touched), |_, _| ())
    }

    fn postings(&self, codebook: &Codebook, mut room: Postings, radii: &mut [f32]) -> Result<Large<u8>> {
        let (lookups, mut postings) = (codebook.lookups(), OldPostings::of(self.trained));
        let mut code = vec![0; lookups];
        let mut cells: Vec<(u32, usize)> = room.cells().map(|cell| (self.origin[cell], cell)).collect();
        cells.retain(|(old, _)| *old != NO_CELL);
        cells.sort_unstable();
        for (old, cell) in cells {
            // What each of them is off is not known any more, only what all are.
            let squared = f64::from(self.trained.parts.radii[old as usize]).powi(2);
            for (factors, block, row) in entries(postings.of_cell(old as usize)?, lookups) {
                let Some(id) = self.now.get(factors.id as usize).copied().filter(|id| *id != NONE) else {
                    continue;
                };
                nibble::code(block, row, &mut code);
                let is_first = self.all.primary[id as usize] as usize == cell;
                room.put((cell, is_first), &code, nibble::Factors { id, ..factors }, squared);
            }
        }
        self.given.fill(codebook, &mut room, |at| self.touched[at as usize]);
        Ok(room.finish(radii))
    }
}

/// Reads the postings of ascending cells, many at a time.
pub(super) struct OldPostings<'a> {
    trained: &'a Trained<'a>,
    cells: Range<usize>,
    bytes: Held<'a>,
}

impl<'a> OldPostings<'a> {
    pub(super) fn of(trained: &'a Trained<'a>) -> Self {
        Self { trained, cells: 0..0, bytes: Held::Here(&[]) }
    }

    pub(super) fn of_cell(&mut self, cell: usize) -> Result<&[u8]> {
        let (starts, block_bytes) =
            (&self.trained.parts.starts, nibble::block_bytes(self.trained.layout.lookups as usize));
        if !self.cells.contains(&cell) {
            pace::breathe();
            let fits = |end: &u32| (*end - starts[cell]) as usize * block_bytes <= COPY_BYTES;
            let end = (cell + starts[cell..].partition_point(fits) - 1).max(cell + 1);
            let blocks = starts[cell] as usize..starts[end] as usize;
            self.bytes = self.trained.rows(Part::Postings, block_bytes, blocks)?;
            self.cells = cell..end;
        }
        let from = |cell: usize| (starts[cell] - starts[self.cells.start]) as usize * block_bytes;
        Ok(&self.bytes[from(cell)..from(cell + 1)])
    }
}

/// The vectors of a posting: their factors, and their block and row there.
pub(super) fn entries(
    posting: &[u8],
    lookups: usize,
) -> impl Iterator<Item = (nibble::Factors, &[u8], usize)> {
    posting.chunks_exact(nibble::block_bytes(lookups)).flat_map(move |block| {
        let entries = (0..BLOCK_ROWS).map(move |row| (nibble::factors(block, lookups, row), block, row));
        entries.filter(|(factors, _, _)| factors.id != NONE)
    })
}

/// Bytes of cells that were there before: in memory, or just read.
pub(super) enum Held<'a> {
    Here(&'a [u8]),
    Read(Large<u8>),
}

impl std::ops::Deref for Held<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Here(bytes) => bytes,
            Self::Read(bytes) => bytes,
        }
    }
}

impl Trained<'_> {
    pub(super) fn rows(&self, part: Part, stride: usize, rows: Range<usize>) -> Result<Held<'_>> {
        if let Some(all) = self.open.and_then(|cells| cells.part(part)) {
            return Ok(Held::Here(&all[rows.start * stride..rows.end * stride]));
        }
        let at = self.layout.at(part) + (rows.start * stride) as u64;
        read(self.source.as_ref(), at, (rows.len() * stride) as u64).map(Held::Read)
    }

    pub(super) fn damaged(&self, what: String) -> Error {
        Error::Section { section: self.section.to_string(), what }
    }
}
