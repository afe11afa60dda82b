//! How the bytes of a section are read: a batch of extents, a range, or all of it, each page checked first.
//!
//! Extents are widened to pages, as a checksum covers a page; the reader joins neighbours. Long ranges go as
//! a batch of [`BULK_BYTES`] extents, so that reading, checking and converting overlap: a flat scan streams
//! through here. Typed reads convert straight into the result. Memory: the result, and what the reader holds
//! in flight.
//!
//! A range that passes the end of the section is reported as damage: ranges come from other parts of the same
//! file.

use std::ops::Range;
use std::sync::Arc;

use super::reader::{Inner, Place};
use super::scalar::Scalar;
use crate::error::{Error, Result};
use crate::io::{AlignedBytes, Done, Extent, PAGE_BYTES};

/// Extents that a long range is read in: enough for the device's full rate, several of them fit in a reader's
/// buffers.
const BULK_BYTES: usize = 256 * 1024;

/// A named range of a segment file. Cheap to clone.
#[derive(Clone)]
pub struct Section {
    inner: Arc<Inner>,
    index: usize,
}

impl Section {
    pub(super) fn new(inner: Arc<Inner>, index: usize) -> Self {
        Self { inner, index }
    }

    fn place(&self) -> &Place {
        &self.inner.sections[self.index]
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.place().name
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.place().len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads every extent, whose offsets count from the start of the section, and calls `done(index, bytes)`
    /// for each as it lands, in any order; the contract is that of
    /// [`BatchRead::read`](crate::io::BatchRead::read).
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged page or an extent past the end, [`Error::Io`], and the first error of
    /// `done`.
    pub fn read_batch(&self, extents: &[Extent], done: &mut Done<'_>) -> Result<()> {
        let pages = extents.iter().map(|extent| self.widen(extent)).collect::<Result<Vec<Extent>>>()?;
        self.inner.reader.read(&self.inner.file, &pages, &mut |index, bytes| {
            // An empty one has no page, at whatever offset it stands.
            if extents[index].len == 0 {
                return done(index, &[]);
            }
            self.check(pages[index].offset, bytes)?;
            let at = (extents[index].offset % PAGE_BYTES as u64) as usize;
            done(index, &bytes[at..at + extents[index].len])
        })
    }

    /// The bytes of `range`.
    ///
    /// # Errors
    /// As [`Section::read_batch`].
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let len = range.end.saturating_sub(range.start);
        self.read_values(range.start, usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// All bytes.
    ///
    /// # Errors
    /// As [`Section::read_batch`].
    pub fn read_all(&self) -> Result<Vec<u8>> {
        self.read(0..self.len())
    }

    /// All bytes, the first at a multiple of `align` bytes: 64 for a cache line or a SIMD register.
    ///
    /// # Errors
    /// As [`Section::read_batch`].
    ///
    /// # Panics
    /// When `align` is not a power of two.
    pub fn read_aligned(&self, align: usize) -> Result<AlignedBytes> {
        let len = usize::try_from(self.len()).map_err(|_| self.past_end(0, u64::MAX))?;
        let mut bytes = AlignedBytes::zeroed(len, align);
        self.read_into(0, &mut bytes[..])?;
        Ok(bytes)
    }

    /// `count` little-endian values from byte `offset` on, at any alignment.
    ///
    /// # Errors
    /// As [`Section::read_batch`].
    pub fn read_values<T: Scalar>(&self, offset: u64, count: usize) -> Result<Vec<T>> {
        // Checked before the allocation.
        let len = count.checked_mul(T::BYTES).ok_or_else(|| self.past_end(offset, u64::MAX))?;
        self.widen(&Extent { offset, len })?;
        let mut values = vec![T::default(); count];
        self.read_into(offset, &mut values)?;
        Ok(values)
    }

    /// The whole section as values.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when its length is no multiple of the value's; else as [`Section::read_batch`].
    pub fn read_all_values<T: Scalar>(&self) -> Result<Vec<T>> {
        if !self.len().is_multiple_of(T::BYTES as u64) {
            let what =
                format!("section {:?} has {} bytes, not values of {}", self.name(), self.len(), T::BYTES);
            return Err(Error::corrupt(self.inner.file.path(), self.place().offset, what));
        }
        self.read_values(0, usize::try_from(self.len() / T::BYTES as u64).unwrap_or(usize::MAX))
    }

    /// Fills `values` from byte `offset` on: [`Section::read_values`] into memory that is there already.
    ///
    /// # Errors
    /// As [`Section::read_batch`]; `values` then holds a mixture.
    pub fn read_into<T: Scalar>(&self, offset: u64, values: &mut [T]) -> Result<()> {
        let extents = bulk(offset, size_of_val(values), T::BYTES);
        self.read_batch(&extents, &mut |index, bytes| {
            let at = (extents[index].offset - offset) as usize / T::BYTES;
            T::decode(bytes, &mut values[at..at + bytes.len() / T::BYTES]);
            Ok(())
        })
    }

    /// The whole section as `u16` values, for example the bits of f16 vectors.
    ///
    /// # Errors
    /// As [`Section::read_all_values`].
    pub fn read_u16s(&self) -> Result<Vec<u16>> {
        self.read_all_values()
    }

    /// The whole section as `u32` values.
    ///
    /// # Errors
    /// As [`Section::read_all_values`].
    pub fn read_u32s(&self) -> Result<Vec<u32>> {
        self.read_all_values()
    }

    /// The whole section as `u64` values.
    ///
    /// # Errors
    /// As [`Section::read_all_values`].
    pub fn read_u64s(&self) -> Result<Vec<u64>> {
        self.read_all_values()
    }

    /// The whole section as `f32` values.
    ///
    /// # Errors
    /// As [`Section::read_all_values`].
    pub fn read_f32s(&self) -> Result<Vec<f32>> {
        self.read_all_values()
    }

    /// Reads everything, padding included, and compares every checksum.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the first damaged page found, [`Error::Io`].
    pub fn verify(&self) -> Result<()> {
        let len = usize::try_from(self.len()).map_err(|_| self.past_end(0, u64::MAX))?;
        self.read_batch(&bulk(0, len, 1), &mut |_, _| Ok(()))
    }

    /// An extent of the section as whole pages of the file; an empty one stays empty.
    fn widen(&self, extent: &Extent) -> Result<Extent> {
        let place = self.place();
        let Some(end) = extent.end().filter(|end| *end <= place.len) else {
            return Err(self.past_end(extent.offset, extent.offset.saturating_add(extent.len as u64)));
        };
        let page = PAGE_BYTES as u64;
        let start = extent.offset - extent.offset % page;
        let len = if extent.len == 0 { 0 } else { (end.next_multiple_of(page) - start) as usize };
        Ok(Extent { offset: place.offset + start, len })
    }

    /// Compares the checksums of the whole pages `bytes`, which start at byte `offset` of the file.
    fn check(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        // Page 0 of the file is the header, which is not in the table.
        let first = (offset / PAGE_BYTES as u64) as usize - 1;
        let count = bytes.len() / PAGE_BYTES;
        let expected = &self.inner.page_crcs[first..first + count];
        for (place, (page, expected)) in bytes.chunks(PAGE_BYTES).zip(expected).enumerate() {
            let found = crc32c::crc32c(page);
            if found != *expected {
                let at = offset + (place * PAGE_BYTES) as u64;
                let name = self.name();
                let what =
                    format!("page of section {name:?} has checksum {found:08x}, expected {expected:08x}");
                return Err(Error::corrupt(self.inner.file.path(), at, what));
            }
        }
        Ok(())
    }

    fn past_end(&self, start: u64, end: u64) -> Error {
        let what = format!(
            "section {:?} has {} bytes; bytes {start}..{end} were asked for",
            self.name(),
            self.len()
        );
        Error::corrupt(self.inner.file.path(), self.place().offset, what)
    }
}

impl std::fmt::Debug for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Section").field("name", &self.name()).field("len", &self.len()).finish()
    }
}

/// `len` bytes at `offset` as extents of about [`BULK_BYTES`], each a whole number of units of `unit` bytes,
/// of which all but the first start at a page where the unit permits it.
pub(super) fn bulk(offset: u64, len: usize, unit: usize) -> Vec<Extent> {
    let over = (offset % PAGE_BYTES as u64) as usize;
    let mut at = 0;
    let mut next = BULK_BYTES - (over - over % unit);
    let mut extents = Vec::with_capacity(len / BULK_BYTES + 2);
    while at < len {
        let part = next.min(len - at);
        // A range past the end of numbers is refused where it is widened.
        extents.push(Extent { offset: offset.saturating_add(at as u64), len: part });
        at += part;
        next = BULK_BYTES;
    }
    extents
}
