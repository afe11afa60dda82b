//! Where full vectors live: in memory, or in a section of a segment file that is read in chunks.
//!
//! An *ordinal* is the position of a vector among the vectors of its segment and field. Whoever scans asks
//! for blocks of ordinals, or for some ordinals gathered into one block, and does not see which of the two it
//! is. Memory is borrowed without a copy when the block is contiguous.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

use crate::dense::Counters;
use crate::error::Result;
use crate::matrix::Matrix;
use crate::simd::Element;

/// Pages that files are read and checksummed in.
pub const PAGE_BYTES: u64 = 4096;
/// Two wanted vectors this close are read together, with what lies between them.
const GAP_BYTES_MAX: usize = 8 << 10;
/// Longest read of a gather.
const READ_BYTES_MAX: usize = 1 << 20;

/// Bytes of one section, readable at any position.
pub trait ChunkSource: Send + Sync {
    /// How many bytes there are.
    fn bytes(&self) -> u64;

    /// Fills `out` with the bytes from `at` on.
    ///
    /// # Errors
    /// When the bytes cannot be read, fail their checksum, or end before `out` is full.
    fn read(&self, at: u64, out: &mut [u8]) -> Result<()>;
}

/// Whether vectors are loaded when an index is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// All vectors are read at open and kept.
    Memory,
    /// Vectors stay in the file; every search reads what it needs.
    Disk,
}

/// Buffers for blocks that are not borrowed.
#[derive(Debug, Default)]
pub(crate) struct VectorBuffers {
    f32: Vec<f32>,
    f16: Vec<f16>,
    i8: Vec<i8>,
    bytes: Vec<u8>,
}

/// An element with its own block buffer.
pub(crate) trait Stored: Element {
    /// The buffer for blocks of this element, and that for bytes.
    fn buffers(buffers: &mut VectorBuffers) -> (&mut Vec<Self>, &mut Vec<u8>);

    /// The rows as i8 when that is what they are, for the integer kernels.
    fn as_ints(rows: Matrix<'_, Self>) -> Option<Matrix<'_, i8>>;
}

macro_rules! stored {
    ($element:ident, $rows:ident, $ints:expr) => {
        impl Stored for $element {
            fn buffers(buffers: &mut VectorBuffers) -> (&mut Vec<Self>, &mut Vec<u8>) {
                (&mut buffers.$element, &mut buffers.bytes)
            }

            fn as_ints($rows: Matrix<'_, Self>) -> Option<Matrix<'_, i8>> {
                $ints
            }
        }
    };
}
stored!(f32, _rows, None);
stored!(f16, _rows, None);
stored!(i8, rows, Some(rows));

/// `count x dim` vectors of one element type, by ordinal.
#[derive(Clone)]
pub(crate) struct Vectors<T> {
    dim: usize,
    count: u32,
    place: Place<T>,
}

#[derive(Clone)]
enum Place<T> {
    Memory(Arc<[T]>),
    /// Little-endian elements from byte `at` of `source`.
    Source {
        source: Arc<dyn ChunkSource>,
        at: u64,
    },
}

impl<T: Stored> Vectors<T> {
    /// Vectors in memory.
    ///
    /// # Panics
    /// When `values` is not `count x dim`.
    pub(crate) fn in_memory(values: Vec<T>, dim: usize, count: u32) -> Self {
        assert_eq!(values.len(), count as usize * dim, "whole vectors");
        Self { dim, count, place: Place::Memory(values.into()) }
    }

    /// Vectors whose bytes start at `at` of `source`, or their copy in memory. The caller has checked that
    /// the source is long enough.
    pub(crate) fn open(
        source: Arc<dyn ChunkSource>,
        at: u64,
        (dim, count): (usize, u32),
        residency: Residency,
    ) -> Result<Self> {
        let vectors = Self { dim, count, place: Place::Source { source, at } };
        if residency == Residency::Disk {
            return Ok(vectors);
        }
        let mut values = Vec::with_capacity(count as usize * dim);
        let step = (READ_BYTES_MAX / vectors.row_bytes()).max(1) as u32;
        let (mut bytes, mut counters) = (Vec::new(), Counters::default());
        for first in (0..count).step_by(step as usize) {
            let range = first..count.min(first.saturating_add(step));
            vectors.read(range, &mut values, &mut bytes, &mut counters)?;
        }
        Ok(Self::in_memory(values, dim, count))
    }

    /// Bytes of one vector.
    pub(crate) fn row_bytes(&self) -> usize {
        self.dim * T::BYTES
    }

    /// Bytes kept in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.place {
            Place::Memory(values) => values.len() * T::BYTES,
            Place::Source { .. } => 0,
        }
    }

    /// The vectors of a range of ordinals.
    ///
    /// # Panics
    /// When the range ends after the last vector.
    pub(crate) fn block<'a>(
        &'a self,
        range: Range<u32>,
        buffers: &'a mut VectorBuffers,
        counters: &mut Counters,
    ) -> Result<Matrix<'a, T>> {
        assert!(range.end <= self.count, "the range is of these vectors");
        if let Place::Memory(values) = &self.place {
            let values = &values[range.start as usize * self.dim..range.end as usize * self.dim];
            return Ok(Matrix::new(values, self.dim));
        }
        let (values, bytes) = T::buffers(buffers);
        values.clear();
        self.read(range, values, bytes, counters)?;
        Ok(Matrix::new(values, self.dim))
    }

    /// The vectors of `ordinals` in their order. Ascending neighbours that lie close together are read at
    /// once.
    ///
    /// # Panics
    /// When an ordinal is not below the number of vectors.
    pub(crate) fn gather<'a>(
        &'a self,
        ordinals: &[u32],
        buffers: &'a mut VectorBuffers,
        counters: &mut Counters,
    ) -> Result<Matrix<'a, T>> {
        assert!(ordinals.iter().all(|ordinal| *ordinal < self.count), "ordinals are of these vectors");
        let (values, bytes) = T::buffers(buffers);
        values.clear();
        match &self.place {
            Place::Memory(all) => {
                for ordinal in ordinals {
                    let at = *ordinal as usize * self.dim;
                    values.extend_from_slice(&all[at..at + self.dim]);
                }
            }
            Place::Source { .. } => {
                let gap = (GAP_BYTES_MAX / self.row_bytes()) as u32 + 1;
                let most = (READ_BYTES_MAX / self.row_bytes()).max(1) as u32;
                let mut rest = ordinals;
                while let Some(&first) = rest.first() {
                    let near = |pair: &[u32]| {
                        pair[0] < pair[1] && pair[1] - pair[0] <= gap && pair[1] - first < most
                    };
                    let run = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
                    let (together, others) = rest.split_at(run);
                    self.read_some(together, values, bytes, counters)?;
                    rest = others;
                }
            }
        }
        Ok(Matrix::new(values, self.dim))
    }

    /// Appends the vectors of strictly ascending `ordinals`, read at once with what lies between them.
    fn read_some(
        &self,
        ordinals: &[u32],
        values: &mut Vec<T>,
        bytes: &mut Vec<u8>,
        counters: &mut Counters,
    ) -> Result<()> {
        let (Some(&first), Some(&last)) = (ordinals.first(), ordinals.last()) else {
            return Ok(());
        };
        self.fetch(first..last + 1, bytes, counters)?;
        for ordinal in ordinals {
            let at = (ordinal - first) as usize * self.row_bytes();
            T::decode(&bytes[at..at + self.row_bytes()], values);
        }
        Ok(())
    }

    /// Appends the vectors of a range of ordinals to `values`.
    fn read(
        &self,
        range: Range<u32>,
        values: &mut Vec<T>,
        bytes: &mut Vec<u8>,
        counters: &mut Counters,
    ) -> Result<()> {
        self.fetch(range, bytes, counters)?;
        T::decode(bytes, values);
        Ok(())
    }

    /// Fills `bytes` with the bytes of a range of ordinals. Only for vectors that are in a source.
    fn fetch(&self, range: Range<u32>, bytes: &mut Vec<u8>, counters: &mut Counters) -> Result<()> {
        bytes.clear();
        if let Place::Source { source, at } = &self.place {
            let start = at + u64::from(range.start) * self.row_bytes() as u64;
            bytes.resize(range.len() * self.row_bytes(), 0);
            source.read(start, bytes)?;
            let end = start + bytes.len() as u64;
            counters.reads += 1;
            counters.bytes_read += bytes.len() as u64;
            counters.pages_read += end.div_ceil(PAGE_BYTES) - start / PAGE_BYTES;
        }
        Ok(())
    }
}
