//! A file as a stream of bytes, unpacked from zstd where its name ends in `.zst`, with its progress.
//!
//! Memory is bounded by the buffer and the decoder's window (at most 128 MB by the decoder's default).

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Bytes read from disk at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// An open file. Its progress counts bytes on disk, its content is what is inside.
pub(super) struct Source {
    path: PathBuf,
    reader: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
    file_bytes: u64,
    packed: bool,
}

/// Counts what passes.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read(buffer)?;
        self.read.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

impl Source {
    /// Opens `path`; nothing is read yet.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |error| Error::from(spandrel_storage::Error::io("open", path, error));
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            return Err(Error::invalid(format!("{} is a folder, not a file", path.display())));
        }
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted { file, read: Arc::clone(&read) };
        let packed = is_packed(path);
        let reader: Box<dyn Read + Send> = if packed {
            let buffered = BufReader::with_capacity(BUFFER_BYTES, counted);
            Box::new(zstd::stream::read::Decoder::with_buffer(buffered).map_err(io)?)
        } else {
            Box::new(counted)
        };
        Ok(Self { path: path.to_path_buf(), reader, read, file_bytes: metadata.len(), packed })
    }

    /// The path it was opened by.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes read from disk so far, shared with whoever reports progress.
    pub(super) fn read_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// Bytes of the file on disk.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes of the content, where they are known: not for a packed file.
    pub(super) fn content_bytes(&self) -> Option<u64> {
        (!self.packed).then_some(self.file_bytes)
    }

    /// Fills `buffer`, or less where the content ends first; returns the bytes filled.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(filled)
    }

    /// Fills `buffer` whole.
    pub(super) fn fill_exact(&mut self, buffer: &mut [u8], what: &str) -> Result<()> {
        let filled = self.fill(buffer)?;
        if filled < buffer.len() {
            return Err(self.bad(format!("the file ends inside {what}")));
        }
        Ok(())
    }

    /// The content as a buffered reader, with the path for messages.
    pub(super) fn into_reader(self) -> BufReader<Box<dyn Read + Send>> {
        BufReader::with_capacity(BUFFER_BYTES, self.reader)
    }

    /// An error about the content.
    pub(super) fn bad(&self, what: impl std::fmt::Display) -> Error {
        bad(&self.path, what)
    }

    fn failed(&self, error: io::Error) -> Error {
        failed(&self.path, error)
    }
}

/// An error about the content of `path`.
pub(super) fn bad(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{}: {what}", path.display()))
}

/// A failed read: damaged zstd data is the content's fault, all else the system's.
pub(super) fn failed(path: &Path, error: io::Error) -> Error {
    let is_os = error.raw_os_error().is_some();
    if is_packed(path) && !is_os {
        return bad(path, format!("the zstd data is damaged or cut short ({error})"));
    }
    spandrel_storage::Error::io("read", path, error).into()
}

/// Whether the name ends in `.zst`.
pub(super) fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zst"))
}

/// The lower-case extension that names the format: the one before `.zst`, if that is the last.
pub(super) fn format(path: &Path) -> Option<String> {
    let stem;
    let mut inner = path;
    if is_packed(path) {
        stem = PathBuf::from(path.file_stem()?);
        inner = &stem;
    }
    Some(inner.extension()?.to_str()?.to_ascii_lowercase())
}
