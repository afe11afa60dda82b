//! The lines of a text file, unpacked where it is packed, one at a time.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::source::{Source, bad, failed};
use crate::error::Result;

/// Longest line in bytes.
pub const LINE_BYTES_MAX: usize = 64 << 20;

/// Reads lines; blank ones are passed over. Memory: that of a line, in the caller's buffer.
pub struct Lines {
    path: PathBuf,
    reader: BufReader<Box<dyn Read + Send>>,
    read: Arc<AtomicU64>,
    file_bytes: u64,
    number: u64,
}

impl Lines {
    /// Opens a file, which is unpacked where its name ends in `.zst`.
    ///
    /// # Errors
    /// It cannot be opened, or is a folder.
    pub fn open(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            read: source.read_bytes(),
            file_bytes: source.file_bytes(),
            reader: source.into_reader(),
            number: 0,
        })
    }

    /// Puts the next line that is not blank into `line`, with its end; false after the last.
    ///
    /// # Errors
    /// The file cannot be read, or a line has more than [`LINE_BYTES_MAX`].
    pub fn next(&mut self, line: &mut Vec<u8>) -> Result<bool> {
        loop {
            line.clear();
            let mut limited = (&mut self.reader).take(LINE_BYTES_MAX as u64 + 1);
            let len = limited.read_until(b'\n', line).map_err(|error| failed(&self.path, error))?;
            if len == 0 {
                return Ok(false);
            }
            self.number += 1;
            if len > LINE_BYTES_MAX {
                let what = format!("line {}: the line has more than {LINE_BYTES_MAX} bytes", self.number);
                return Err(bad(&self.path, what));
            }
            if self.number == 1 && line.starts_with(b"\xEF\xBB\xBF") {
                line.drain(..3);
            }
            if !line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    /// The number of the line that was read last, among all, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file on disk.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes read from disk so far, for whoever reports progress.
    pub fn read_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }
}
