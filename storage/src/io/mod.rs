//! How many extents of a file are read at once, without the caller knowing by which system call.
//!
//! One trait, [`BatchRead`], with two implementations: [`Uring`] (io_uring with O_DIRECT and registered
//! buffers; every read of a batch is in flight together) and [`Pread`] (one `pread` after another; works
//! everywhere). [`probe`] picks. Extents are bytes at any offset; an implementation widens them to pages
//! where O_DIRECT asks for it, and joins extents that lie close together into one read (see
//! [`MERGE_GAP_BYTES`]).
//!
//! Not for writes, and no cache: every call reads. Cost of a batch of n extents: O(n log n) to plan and one
//! or two small allocations; the reads dominate.

mod aligned;
mod plan;
mod pread;
#[cfg(target_os = "linux")]
mod slots;
#[cfg(target_os = "linux")]
mod uring;

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

pub use aligned::AlignedBytes;
pub use pread::Pread;
#[cfg(target_os = "linux")]
pub use uring::Uring;

use crate::error::{Error, Result};

/// Unit of checksums, of section starts, and of O_DIRECT offsets, lengths and buffers.
pub const PAGE_BYTES: usize = 4096;
/// Extents with at most this many unwanted bytes between them are read as one: on an SSD the extra bytes cost
/// less than another request.
pub const MERGE_GAP_BYTES: u64 = 8 * 1024;
/// Extents are not joined into reads longer than this, so that a batch stays many reads in flight.
pub const MERGED_BYTES_MAX: u64 = 256 * 1024;

/// A range of bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First byte, from the start of the file (or of the section, where a section reads it).
    pub offset: u64,
    /// Bytes; 0 is allowed.
    pub len: usize,
}

impl Extent {
    /// First byte after the extent, or `None` past `u64::MAX`.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.len as u64)
    }
}

/// Receives the bytes of each extent of a batch, by its index in the batch.
pub type Done<'a> = dyn FnMut(usize, &[u8]) -> Result<()> + 'a;

/// Reads batches of extents. Object-safe; one virtual call per batch.
pub trait BatchRead: Send + Sync {
    /// Reads every extent of `extents` from `file` and calls `done(index, bytes)` once for each, on this
    /// thread, in the order of completion, which is any order. `bytes` is exactly the extent and lives until
    /// `done` returns. Extents may overlap, repeat and be empty. Earlier ones are asked for first.
    ///
    /// # Errors
    /// [`Error::Invalid`] when an extent passes the end of the file (nothing is read then),
    /// [`Error::Corrupt`] when the file became shorter, [`Error::Io`] when the system fails a read, and the
    /// first error of `done`. After an error `done` is not called again.
    fn read(&self, file: &ReadFile, extents: &[Extent], done: &mut Done<'_>) -> Result<()>;

    /// Name for logs and statistics.
    fn name(&self) -> &'static str;
}

/// The fastest implementation that works here: io_uring when a real read through it gives the right bytes,
/// else `pread`. The choice and its reason are logged.
pub fn probe() -> Arc<dyn BatchRead> {
    #[cfg(target_os = "linux")]
    match Uring::new() {
        Ok(uring) => {
            tracing::info!(reader = uring.name(), "batch reads");
            return Arc::new(uring);
        }
        Err(error) => tracing::info!(%error, "io_uring is not available, batch reads use pread"),
    }
    Arc::new(Pread::buffered())
}

/// A file open for batch reads: its length is fixed at open, as our files never change after they are
/// published.
#[derive(Debug)]
pub struct ReadFile {
    path: PathBuf,
    len: u64,
    buffered: File,
    /// A second handle with O_DIRECT, opened at first use; `None` where the filesystem refuses.
    direct: OnceLock<Option<File>>,
    /// Set when the filesystem opened the file with O_DIRECT but refuses its reads.
    direct_refused: AtomicBool,
}

impl ReadFile {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened or is not a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let buffered = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let metadata = buffered.metadata().map_err(|e| Error::io("stat", path, e))?;
        if !metadata.is_file() {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file");
            return Err(Error::io("open", path, source));
        }
        Ok(Self {
            path: path.to_path_buf(),
            len: metadata.len(),
            buffered,
            direct: OnceLock::new(),
            direct_refused: AtomicBool::new(false),
        })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it had no bytes when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The handle that goes through the page cache.
    fn buffered(&self) -> &File {
        &self.buffered
    }

    /// The handle that goes around the page cache: offset, length and buffer address are then multiples of
    /// [`PAGE_BYTES`]. `None` where the filesystem or the system has no such thing.
    fn direct(&self) -> Option<&File> {
        if self.direct_refused.load(Ordering::Relaxed) {
            return None;
        }
        self.direct.get_or_init(|| open_direct(&self.path, &self.buffered)).as_ref()
    }

    /// Stops the use of [`ReadFile::direct`] after the filesystem refused a read through it.
    fn refuse_direct(&self) {
        self.direct_refused.store(true, Ordering::Relaxed);
    }

    /// Fills `bytes` from `offset` through the page cache, looping over short reads and interrupts.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the file ends before, [`Error::Io`] otherwise.
    fn read_exact(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        use std::os::unix::fs::FileExt;
        self.buffered.read_exact_at(bytes, offset).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => self.shortened(offset + bytes.len() as u64),
            _ => Error::io("read", &self.path, e),
        })
    }

    /// The error of a read that found the file shorter than it was.
    fn shortened(&self, end: u64) -> Error {
        let what =
            format!("the file had {} bytes when it was opened and now ends before byte {end}", self.len);
        Error::corrupt(&self.path, end, what)
    }
}

/// Opens `path` with O_DIRECT if it still names the file that `buffered` has open.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path, buffered: &File) -> Option<File> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).ok()?;
    let (a, b) = (direct.metadata().ok()?, buffered.metadata().ok()?);
    // Between the two opens the name can have been given to another file.
    (a.dev() == b.dev() && a.ino() == b.ino()).then_some(direct)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path, _buffered: &File) -> Option<File> {
    None
}

#[cfg(test)]
mod tests;
