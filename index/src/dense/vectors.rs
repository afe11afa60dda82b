//! Where full vectors live: in memory, or in a section of a segment file that is read in batches.
//!
//! An *ordinal* is the position of a vector among the vectors of its segment and field. Whoever scans asks
//! for windows of ordinals, or for some ordinals gathered into one block, and does not see which of the two
//! it is. Memory is borrowed without a copy when the vectors are contiguous; from a file a window is
//! [`WINDOW_BYTES`], all of whose reads are in flight together, decoded where they land into one buffer that
//! the thread reuses. Which reads are joined is the reader's business (`storage/src/io/plan.rs`).

use std::ops::Range;
use std::sync::Arc;

use half::f16;
use spandrel_storage::io::Extent;

use super::standing::Part;
use crate::counters::Counters;
use crate::error::Result;
use crate::large::Large;
use crate::matrix::Matrix;
use crate::simd::Element;
use crate::stop::Stop;

/// Pages that files are read and checksummed in.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes of vectors that a scan of a file asks for at once: several long reads in flight.
const WINDOW_BYTES: usize = 2 << 20;
/// Bytes of one read of a window: long enough for a device's full rate.
const READ_BYTES: usize = 256 << 10;
/// Most vectors gathered from a file at once.
const GATHER_ROWS_MAX: usize = 4096;

/// Bytes of one section, readable at any position.
pub trait ChunkSource: Send + Sync {
    /// How many bytes there are.
    fn bytes(&self) -> u64;

    /// Fills `out` with the bytes from `at` on.
    ///
    /// # Errors
    /// When the bytes cannot be read, fail their checksum, or end before `out` is full.
    fn read(&self, at: u64, out: &mut [u8]) -> Result<()>;

    /// Reads every extent, none of them empty, and calls `done(index, bytes)` once for each as it lands, in
    /// any order; all may be in flight together. Returns the bytes of the pages that were read for that; one
    /// that two extents share counts twice.
    ///
    /// # Errors
    /// As [`read`](Self::read); `done` may have been called for some.
    fn read_batch(&self, extents: &[Extent], done: &mut dyn FnMut(usize, &[u8])) -> Result<u64>;

    /// Bytes of an extent that are in memory, about: 0 where nothing is kept.
    fn cached_bytes(&self, extent: Extent) -> u64 {
        let _ = extent;
        0
    }

    /// Reads an extent for those who will ask for it, as far as there is memory to keep it besides the
    /// `before` bytes that were read for the same; returns the bytes that were read.
    ///
    /// # Errors
    /// As [`read`](Self::read); and `stop` says so.
    fn warm(&self, extent: Extent, before: u64, stop: &Stop) -> Result<u64> {
        let _ = (extent, before, stop);
        Ok(0)
    }
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
    extents: Vec<Extent>,
}

/// An element with its own block buffer.
pub(crate) trait Stored: Element {
    /// The buffer for blocks of this element, and that for what is to be read.
    fn buffers(buffers: &mut VectorBuffers) -> (&mut Vec<Self>, &mut Vec<Extent>);

    /// The rows as i8 when that is what they are, for the integer kernels.
    fn as_ints(rows: Matrix<'_, Self>) -> Option<Matrix<'_, i8>>;
}

macro_rules! stored {
    ($element:ident, $rows:ident, $ints:expr) => {
        impl Stored for $element {
            fn buffers(buffers: &mut VectorBuffers) -> (&mut Vec<Self>, &mut Vec<Extent>) {
                (&mut buffers.$element, &mut buffers.extents)
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
pub(crate) struct Vectors<T> {
    dim: usize,
    count: u32,
    place: Place<T>,
}

enum Place<T> {
    Memory(Large<T>),
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
    pub(crate) fn in_memory(values: Large<T>, dim: usize, count: u32) -> Self {
        assert_eq!(values.len(), count as usize * dim, "whole vectors");
        Self { dim, count, place: Place::Memory(values) }
    }

    /// Vectors whose bytes start at `at` of `source`, or their copy in memory. The caller has checked that
    /// the source is long enough.
    pub(crate) fn open(
        source: Arc<dyn ChunkSource>,
        at: u64,
        (dim, count): (usize, u32),
        residency: Residency,
    ) -> Result<Self> {
        if residency == Residency::Disk {
            return Ok(Self { dim, count, place: Place::Source { source, at } });
        }
        let mut values = Large::<T>::zeroed(count as usize * dim);
        let (mut extents, mut at) = (Vec::new(), at);
        for window in values.chunks_mut(WINDOW_BYTES / T::BYTES) {
            read_run(&*source, at, window, &mut extents)?;
            at += (window.len() * T::BYTES) as u64;
        }
        Ok(Self::in_memory(values, dim, count))
    }

    /// Bytes of one vector.
    fn row_bytes(&self) -> usize {
        self.dim * T::BYTES
    }

    /// Bytes kept in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.place {
            Place::Memory(values) => values.bytes(),
            Place::Source { .. } => 0,
        }
    }

    /// Where the vectors of a range of ordinals are.
    ///
    /// # Panics
    /// When the range ends after the last vector.
    pub(crate) fn part(&self, range: Range<u32>) -> Part<'_> {
        assert!(range.end <= self.count, "the range is of these vectors");
        let (first, bytes) = (u64::from(range.start), range.len() * self.row_bytes());
        match &self.place {
            Place::Memory(_) => Part::in_memory(bytes),
            Place::Source { source, at } => {
                Part::on_disk(&**source, at + first * self.row_bytes() as u64, bytes)
            }
        }
    }

    /// All vectors, when they are in memory.
    pub(crate) fn at_hand(&self) -> Option<Matrix<'_, T>> {
        match &self.place {
            Place::Memory(values) => Some(Matrix::new(values, self.dim)),
            Place::Source { .. } => None,
        }
    }

    /// How many vectors a [`window`](Self::window) should hold: all of them when they are in memory.
    pub(crate) fn window_rows(&self) -> u32 {
        match &self.place {
            Place::Memory(_) => self.count.max(1),
            Place::Source { .. } => (WINDOW_BYTES / self.row_bytes()).max(1) as u32,
        }
    }

    /// How many vectors to [`gather`](Self::gather) at once: a block of `block_rows` when they are in memory.
    pub(crate) fn gather_rows(&self, block_rows: usize) -> usize {
        match &self.place {
            Place::Memory(_) => block_rows,
            Place::Source { .. } => (self.window_rows() as usize).min(GATHER_ROWS_MAX).max(block_rows),
        }
    }

    /// The vectors of a range of ordinals.
    ///
    /// # Panics
    /// When the range ends after the last vector.
    pub(crate) fn window<'a>(
        &'a self,
        range: Range<u32>,
        buffers: &'a mut VectorBuffers,
        counters: &mut Counters,
    ) -> Result<Matrix<'a, T>> {
        assert!(range.end <= self.count, "the range is of these vectors");
        match &self.place {
            Place::Memory(values) => {
                let values = &values[range.start as usize * self.dim..range.end as usize * self.dim];
                Ok(Matrix::new(values, self.dim))
            }
            Place::Source { source, at } => {
                let (values, extents) = T::buffers(buffers);
                values.resize(range.len() * self.dim, T::default());
                let start = at + u64::from(range.start) * self.row_bytes() as u64;
                counters.bytes_read += read_run(&**source, start, values, extents)?;
                Ok(Matrix::new(values, self.dim))
            }
        }
    }

    /// The vectors of `ordinals` in their order, all reads in flight together.
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
        let (values, extents) = T::buffers(buffers);
        match &self.place {
            Place::Memory(all) => {
                values.clear();
                for ordinal in ordinals {
                    let at = *ordinal as usize * self.dim;
                    values.extend_from_slice(&all[at..at + self.dim]);
                }
            }
            Place::Source { source, at } => {
                let len = self.row_bytes();
                let extent = |ordinal: &u32| Extent { offset: at + u64::from(*ordinal) * len as u64, len };
                extents.clear();
                extents.extend(ordinals.iter().map(extent));
                values.resize(ordinals.len() * self.dim, T::default());
                if !extents.is_empty() {
                    counters.bytes_read += source.read_batch(extents, &mut |index, bytes| {
                        T::decode_into(bytes, &mut values[index * self.dim..(index + 1) * self.dim]);
                    })?;
                }
            }
        }
        Ok(Matrix::new(values, self.dim))
    }
}

/// Bytes of the pages that reads touch: what the device transfers.
pub(crate) fn page_bytes(extents: &[Extent]) -> u64 {
    let end = |extent: &Extent| (extent.offset + extent.len as u64).next_multiple_of(PAGE_BYTES);
    extents.iter().map(|extent| end(extent) - extent.offset / PAGE_BYTES * PAGE_BYTES).sum()
}

/// Fills `values` from byte `at` on by reads of [`READ_BYTES`].
fn read_run<T: Stored>(
    source: &dyn ChunkSource,
    at: u64,
    values: &mut [T],
    extents: &mut Vec<Extent>,
) -> Result<u64> {
    let per_read = READ_BYTES / T::BYTES;
    extents.clear();
    extents.extend((0..values.len()).step_by(per_read).map(|first| Extent {
        offset: at + (first * T::BYTES) as u64,
        len: per_read.min(values.len() - first) * T::BYTES,
    }));
    if extents.is_empty() {
        return Ok(0);
    }
    source.read_batch(extents, &mut |index, bytes| {
        let first = index * per_read;
        T::decode_into(bytes, &mut values[first..first + bytes.len() / T::BYTES]);
    })
}
