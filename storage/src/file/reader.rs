//! How a segment file is opened: header, footer and tables are read and checked, payload is not touched.
//!
//! Cost of an open: three small reads and the page table (4 bytes a page, kept in memory). Damage of the
//! payload is seen when its pages are read, or by [`SegmentFile::verify`].

use std::path::Path;
use std::sync::Arc;

use super::SegmentInfo;
use super::layout::{FOOTER_BYTES, Footer, decode_header, decode_sections, pages_of};
use super::scalar::Scalar;
use super::section::{Section, bulk};
use crate::error::{Error, Result};
use crate::io::{BatchRead, PAGE_BYTES, ReadFile};

/// An open segment file. Clones share it.
#[derive(Clone)]
pub struct SegmentFile {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub file: ReadFile,
    pub reader: Arc<dyn BatchRead>,
    pub info: SegmentInfo,
    /// crc32c of each payload page; page i of the table is page i + 1 of the file.
    pub page_crcs: Vec<u32>,
    pub sections: Vec<Place>,
}

/// Where a section is.
pub(super) struct Place {
    pub name: String,
    /// First byte in the file: a multiple of [`PAGE_BYTES`].
    pub offset: u64,
    pub len: u64,
}

impl SegmentFile {
    /// Opens `path`; its sections are read through `reader`. A section that is loaded once and then stays in
    /// memory may be read faster through [`Pread::buffered`](crate::io::Pread::buffered) while the file, just
    /// written, is in the page cache; what queries read belongs to [`probe`](crate::io::probe).
    ///
    /// # Errors
    /// [`Error::Version`] for a foreign file or a newer format, [`Error::Corrupt`] for damage, [`Error::Io`].
    pub fn open(path: &Path, reader: Arc<dyn BatchRead>) -> Result<Self> {
        let file = ReadFile::open(path)?;
        let header = raw(&file, &*reader, 0, file.len().min(PAGE_BYTES as u64) as usize)?;
        let (id, kind) = decode_header(&header, path)?;
        if file.len() < (PAGE_BYTES + FOOTER_BYTES) as u64 {
            return Err(Error::corrupt(path, file.len(), "the segment file is cut off"));
        }
        let footer = raw(&file, &*reader, file.len() - FOOTER_BYTES as u64, FOOTER_BYTES)?;
        let (footer, info) = Footer::decode(&footer, path, file.len())?;
        if (info.id, info.kind) != (id, kind) {
            let what = format!("header and footer are of segments {id} and {}", info.id);
            return Err(Error::corrupt(path, 0, what));
        }
        // Both agree with the length of the file since `decode`, and so are no reason to allocate more than
        // it.
        let (offset, len) = footer.tables_offset().zip(footer.tables_bytes()).unwrap_or_default();
        let tables = raw(&file, &*reader, offset, len as usize)?;
        let found = crc32c::crc32c(&tables);
        if found != footer.tables_crc {
            let what = format!("checksum of the tables is {found:08x}, expected {:08x}", footer.tables_crc);
            return Err(Error::corrupt(path, offset, what));
        }
        let (page_table, section_table) = tables.split_at(footer.page_count as usize * 4);
        let mut page_crcs = vec![0; footer.page_count as usize];
        u32::decode(page_table, &mut page_crcs);
        let at = offset + page_table.len() as u64;
        let mut offset = PAGE_BYTES as u64;
        let sections = decode_sections(section_table, &footer, path, at)?
            .into_iter()
            .map(|entry| {
                let place = Place { name: entry.name, offset, len: entry.len };
                offset += pages_of(place.len) * PAGE_BYTES as u64;
                place
            })
            .collect();
        Ok(Self { inner: Arc::new(Inner { file, reader, info, page_crcs, sections }) })
    }

    /// The id given at creation.
    pub fn id(&self) -> u64 {
        self.inner.info.id
    }

    /// The kind given at creation.
    pub fn kind(&self) -> [u8; 4] {
        self.inner.info.kind
    }

    /// What names this file: id, kind, length and checksum.
    pub fn info(&self) -> SegmentInfo {
        self.inner.info
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        self.inner.file.path()
    }

    /// Name and length in bytes of each section, in the order written.
    pub fn sections(&self) -> impl Iterator<Item = (&str, u64)> {
        self.inner.sections.iter().map(|section| (section.name.as_str(), section.len))
    }

    /// The section `name`. O(sections): look it up once, keep the [`Section`].
    pub fn section(&self, name: &str) -> Option<Section> {
        let index = self.inner.sections.iter().position(|section| section.name == name)?;
        Some(Section::new(Arc::clone(&self.inner), index))
    }

    /// The section `name`, which the format of the segment requires.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is not there.
    pub fn require(&self, name: &str) -> Result<Section> {
        let missing = || Error::corrupt(self.path(), 0, format!("section {name:?} is missing"));
        self.section(name).ok_or_else(missing)
    }

    /// Reads everything and compares every checksum.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the first damaged page found, [`Error::Io`].
    pub fn verify(&self) -> Result<()> {
        (0..self.inner.sections.len())
            .try_for_each(|index| Section::new(Arc::clone(&self.inner), index).verify())
    }
}

impl std::fmt::Debug for SegmentFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentFile").field("path", &self.path()).field("info", &self.info()).finish()
    }
}

/// `len` bytes at `offset` that are not under the page table. The caller knows that the file has them.
fn raw(file: &ReadFile, reader: &dyn BatchRead, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let extents = bulk(offset, len, 1);
    reader.read(file, &extents, &mut |index, part| {
        let at = (extents[index].offset - offset) as usize;
        bytes[at..at + part.len()].copy_from_slice(part);
        Ok(())
    })?;
    Ok(bytes)
}
