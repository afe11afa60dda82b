//! The large parts of cells that are built in less memory than they take: a file that nobody else sees, in
//! the folder where the segment is going to be.
//!
//! It holds rows of half bytes, refine codes and postings as they lie in the section
//! ([`layout`](super::layout)), is read for the calibration, copied to the section and gone.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use spandrel_storage::io::Extent;

use super::layout::{Layout, Part};
use crate::dense::vectors::{ChunkSource, PAGE_BYTES};
use crate::error::Result;

/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

pub(super) struct Spill {
    folder: PathBuf,
    file: Mutex<File>,
    bytes: u64,
}

impl Spill {
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder)
            .map_err(|error| spandrel_storage::Error::io("create a file in", folder, error))?;
        Ok(Self { folder: folder.to_path_buf(), file: Mutex::new(file), bytes: 0 })
    }

    /// Where a part begins in here.
    pub(super) fn at(layout: &Layout, part: Part) -> u64 {
        layout.at(part) - layout.at(Part::Halves)
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.get_mut().write_all(bytes);
        written.map_err(|error| self.failed("write to a file in", error))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// The next part begins at a page.
    pub(super) fn end_part(&mut self) -> Result<()> {
        let padding = self.bytes.next_multiple_of(PAGE_BYTES) - self.bytes;
        self.append(&vec![0; padding as usize])
    }

    /// Writes all of it.
    pub(super) fn copy_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut file = self.file.lock();
        file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut left = self.bytes;
        while left > 0 {
            let here = &mut buffer[..left.min(COPY_BYTES as u64) as usize];
            file.read_exact(here)?;
            out.write_all(here)?;
            left -= here.len() as u64;
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, error: io::Error) -> crate::Error {
        spandrel_storage::Error::io(action, &self.folder, error).into()
    }
}

impl ChunkSource for Spill {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let mut file = self.file.lock();
        let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(out));
        read.map_err(|error| self.failed("read from a file in", error))
    }

    fn read_batch(&self, extents: &[Extent], done: &mut dyn FnMut(usize, &[u8])) -> Result<u64> {
        let mut bytes = Vec::new();
        for (index, extent) in extents.iter().enumerate() {
            bytes.resize(extent.len, 0);
            self.read(extent.offset, &mut bytes)?;
            done(index, &bytes);
        }
        Ok(extents.iter().map(|extent| extent.len as u64).sum())
    }
}
