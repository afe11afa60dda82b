//! How a segment file is written: front to back, once.
//!
//! Bytes gather in a buffer of [`BUFFER_BYTES`]; each full buffer is checksummed by page and written. The
//! file grows under a temp name and takes its own name in [`SegmentWriter::finish`], after it was synced, so
//! that a name without [`TEMP_SUFFIX`](crate::durable::TEMP_SUFFIX) is always a whole file. Memory: the
//! buffer, and 4 bytes a page.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::layout::{Footer, SectionEntry, encode_header, encode_sections};
use super::{SECTION_NAME_BYTES_MAX, Scalar, SegmentInfo};
use crate::durable;
use crate::error::{Error, Result};
use crate::io::PAGE_BYTES;

/// Bytes gathered before they are written: whole pages.
const BUFFER_BYTES: usize = 256 * PAGE_BYTES;
/// Bytes of values converted at a time.
const CONVERT_BYTES: usize = 4096;

/// Writes one segment file. Dropped without [`SegmentWriter::finish`], it removes what it wrote.
pub struct SegmentWriter {
    path: PathBuf,
    temp: PathBuf,
    file: File,
    id: u64,
    kind: [u8; 4],
    /// Starts at a page of the file; shorter than [`BUFFER_BYTES`] between calls.
    buffer: Vec<u8>,
    /// crc32c of each page written.
    page_crcs: Vec<u32>,
    sections: Vec<SectionEntry>,
    /// A write failed: the bytes in the file are not what the caller gave.
    failed: bool,
    finished: bool,
}

impl SegmentWriter {
    /// Starts the file that will be `path`. `kind` says what wrote the sections, for example `DOCS`.
    ///
    /// # Errors
    /// When the temp file cannot be created or written.
    pub fn create(path: &Path, id: u64, kind: [u8; 4]) -> Result<Self> {
        let temp = durable::temp_path(path);
        let file = File::create(&temp).map_err(|e| Error::io("create", &temp, e))?;
        let mut writer = Self {
            path: path.to_path_buf(),
            temp,
            file,
            id,
            kind,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            page_crcs: Vec::new(),
            sections: Vec::new(),
            failed: false,
            finished: false,
        };
        writer.write_file(&encode_header(id, kind))?;
        Ok(writer)
    }

    /// Ends the section before, if any, and starts section `name` at the next page.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty or too long name, [`Error::Exists`] for one already used,
    /// [`Error::Io`].
    pub fn section(&mut self, name: &str) -> Result<()> {
        if name.is_empty() || name.len() > SECTION_NAME_BYTES_MAX {
            return Err(Error::Invalid(format!(
                "section name {name:?} has {} bytes; 1 to {SECTION_NAME_BYTES_MAX} are allowed",
                name.len()
            )));
        }
        if self.sections.iter().any(|section| section.name == name) {
            return Err(Error::Exists { what: format!("section {name:?} of {}", self.path.display()) });
        }
        self.end_section()?;
        self.sections.push(SectionEntry { name: name.to_owned(), len: 0 });
        Ok(())
    }

    /// Appends `bytes` to the current section.
    ///
    /// # Errors
    /// [`Error::Invalid`] before the first section or after a failed write, [`Error::Io`],
    /// [`Error::NoSpace`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(section) = self.sections.last_mut() else {
            return Err(Error::Invalid(format!("no section of {} was started", self.path.display())));
        };
        section.len += bytes.len() as u64;
        self.append(bytes)
    }

    /// Appends `values`, little-endian, to the current section.
    ///
    /// # Errors
    /// As [`SegmentWriter::write`].
    pub fn write_values<T: Scalar>(&mut self, values: &[T]) -> Result<()> {
        let mut bytes = [0; CONVERT_BYTES];
        for part in values.chunks(CONVERT_BYTES / T::BYTES) {
            let bytes = &mut bytes[..part.len() * T::BYTES];
            T::encode(part, bytes);
            self.write(bytes)?;
        }
        Ok(())
    }

    /// Appends zeros until [`SegmentWriter::position`] is a multiple of `align` bytes, for example a page or
    /// 64.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `align` is 0 or over a page; else as [`SegmentWriter::write`].
    pub fn align(&mut self, align: usize) -> Result<()> {
        if align == 0 || align > PAGE_BYTES {
            return Err(Error::Invalid(format!("alignment {align} is not between 1 and {PAGE_BYTES}")));
        }
        let over = (self.position() % align as u64) as usize;
        if over == 0 { Ok(()) } else { self.write(&[0; PAGE_BYTES][..align - over]) }
    }

    /// Bytes written to the current section; 0 before the first.
    pub fn position(&self) -> u64 {
        self.sections.last().map_or(0, |section| section.len)
    }

    /// Writes the tables, syncs the file, gives it its name and syncs the folder. A file already there is
    /// replaced.
    ///
    /// # Errors
    /// [`Error::Invalid`] after a failed write, [`Error::Io`], [`Error::NoSpace`]. The temp file is then
    /// removed.
    pub fn finish(mut self) -> Result<SegmentInfo> {
        self.end_section()?;
        self.flush()?;
        let mut tables = vec![0; self.page_crcs.len() * 4];
        u32::encode(&self.page_crcs, &mut tables);
        let table = encode_sections(&self.sections);
        tables.extend_from_slice(&table);
        let count = |len: usize| {
            u32::try_from(len).map_err(|_| Error::Invalid("the section table passes 4 GiB".into()))
        };
        let footer = Footer {
            id: self.id,
            kind: self.kind,
            page_count: self.page_crcs.len() as u64,
            section_count: count(self.sections.len())?,
            section_table_bytes: count(table.len())?,
            tables_crc: crc32c::crc32c(&tables),
        };
        let (footer, info) = footer.encode();
        self.write_file(&tables)?;
        self.write_file(&footer)?;
        durable::publish(&self.file, &self.temp, &self.path)?;
        self.finished = true;
        Ok(info)
    }

    /// Pads the current section to a page.
    fn end_section(&mut self) -> Result<()> {
        let over = self.buffer.len() % PAGE_BYTES;
        if over == 0 { Ok(()) } else { self.append(&[0; PAGE_BYTES][over..]) }
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(BUFFER_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(head);
            bytes = tail;
            if self.buffer.len() == BUFFER_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes the buffer, which holds whole pages.
    fn flush(&mut self) -> Result<()> {
        self.page_crcs.extend(self.buffer.chunks(PAGE_BYTES).map(crc32c::crc32c));
        let buffer = std::mem::take(&mut self.buffer);
        let written = self.write_file(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
        written
    }

    fn write_file(&mut self, bytes: &[u8]) -> Result<()> {
        if self.failed {
            return Err(Error::Invalid(format!("an earlier write of {} failed", self.path.display())));
        }
        self.file.write_all(bytes).map_err(|e| {
            self.failed = true;
            Error::io("write", &self.temp, e)
        })
    }
}

impl std::fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentWriter").field("path", &self.path).field("sections", &self.sections).finish()
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: what stays is removed with the other orphans at the next open.
            let _ = fs::remove_file(&self.temp);
        }
    }
}
