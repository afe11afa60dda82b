//! Files of dense vectors: fvecs, bvecs, fbin, u8bin, i8bin and npy, each also as `.zst`, read as f32 in
//! chunks.
//!
//! | extension | bytes |
//! |---|---|
//! | `fvecs`, `bvecs` | for each row: i32 dimension, then f32 or u8 elements |
//! | `fbin`, `u8bin`, `i8bin` | u32 rows, u32 dimension, then all elements row by row |
//! | `npy` | NumPy's header, then all elements row by row |
//!
//! All little-endian. A header is checked against the file's size where that is known, and otherwise believed
//! only as far as bytes arrive: nothing is allocated on its word. Reading takes one pass; memory is that of a
//! chunk.

use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use spandrel_storage::schema::DIM_MAX;

use super::npy;
use super::source::{Source, format};
use crate::error::{Error, Result};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// How the elements are kept in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorElement {
    /// Unsigned bytes.
    U8,
    /// Signed bytes.
    I8,
    /// IEEE 754 half precision.
    F16,
    /// IEEE 754 single precision.
    F32,
}

impl VectorElement {
    /// Bytes an element takes.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// An open file of vectors.
pub struct VectorFile {
    source: Source,
    rows: Option<u64>,
    dim: usize,
    element: VectorElement,
    /// Whether every row starts with its own dimension.
    prefixed: bool,
    /// Rows returned so far.
    position: u64,
    bytes: Vec<u8>,
    /// The first row's dimension has been read already.
    first: bool,
}

impl std::fmt::Debug for VectorFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VectorFile")
            .field("path", &self.source.path())
            .field("rows", &self.rows)
            .field("dim", &self.dim)
            .field("element", &self.element)
            .finish_non_exhaustive()
    }
}

/// Extensions that [`VectorFile::open`] knows, each also with `.zst` behind it.
pub const EXTENSIONS: [&str; 6] = ["fvecs", "bvecs", "fbin", "u8bin", "i8bin", "npy"];

impl VectorFile {
    /// Opens a file of vectors; the extension says which format.
    ///
    /// # Errors
    /// When it cannot be opened, has another extension, or its header does not make sense.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let source = Source::open(path)?;
        match format(path).as_deref() {
            Some("fvecs") => Self::open_prefixed(source, VectorElement::F32),
            Some("bvecs") => Self::open_prefixed(source, VectorElement::U8),
            Some("fbin") => Self::open_bin(source, VectorElement::F32),
            Some("u8bin") => Self::open_bin(source, VectorElement::U8),
            Some("i8bin") => Self::open_bin(source, VectorElement::I8),
            Some("npy") => Self::open_npy(source),
            _ => {
                Err(source
                    .bad(format!("vectors are read from {} and the same with .zst", EXTENSIONS.join(", "))))
            }
        }
    }

    fn open_bin(mut source: Source, element: VectorElement) -> Result<Self> {
        let mut header = [0; 8];
        source.fill_exact(&mut header, "the header")?;
        let [rows, dim] = two_u32(header);
        Self::with_header(source, u64::from(rows), u64::from(dim), element, 8)
    }

    fn open_npy(mut source: Source) -> Result<Self> {
        let header = npy::read(&mut source)?;
        Self::with_header(source, header.rows, header.dim, header.element, header.bytes)
    }

    fn with_header(source: Source, rows: u64, dim: u64, element: VectorElement, before: u64) -> Result<Self> {
        let dim = check_dim(&source, dim)?;
        let expected =
            rows.checked_mul(dim as u64 * element.bytes() as u64).and_then(|bytes| bytes.checked_add(before));
        check_size(&source, rows, dim, expected)?;
        let bytes = Vec::new();
        Ok(Self { source, rows: Some(rows), dim, element, prefixed: false, position: 0, bytes, first: false })
    }

    fn open_prefixed(mut source: Source, element: VectorElement) -> Result<Self> {
        let mut prefix = [0; 4];
        let filled = source.fill(&mut prefix)?;
        if filled < 4 {
            return Err(source.bad("the file ends before its first row"));
        }
        let dim = check_dim(&source, u64::from(u32::from_le_bytes(prefix)))?;
        let row_bytes = (4 + dim * element.bytes()) as u64;
        let rows = source.content_bytes().map(|bytes| bytes / row_bytes);
        if let Some(bytes) = source.content_bytes()
            && bytes % row_bytes != 0
        {
            return Err(source.bad(format!(
                "{bytes} bytes are no whole rows of {row_bytes} bytes (dimension {dim}); is it cut short?"
            )));
        }
        Ok(Self { source, rows, dim, element, prefixed: true, position: 0, bytes: Vec::new(), first: true })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Rows of the file; none for packed fvecs and bvecs, which do not say.
    pub fn rows(&self) -> Option<u64> {
        self.rows
    }

    /// Elements of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How the elements are kept in the file.
    pub fn element(&self) -> VectorElement {
        self.element
    }

    /// Bytes read from disk so far.
    pub fn bytes_read(&self) -> u64 {
        self.source.read_bytes().load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Bytes of the file on disk.
    pub fn bytes_total(&self) -> u64 {
        self.source.file_bytes()
    }

    /// Puts the next rows, at most `rows_max`, in place of what `rows` holds (rows x dim) and returns how
    /// many there are; 0 at the end. A call may return fewer than asked for before the end.
    ///
    /// # Errors
    /// When the file ends early or a row has another dimension.
    pub fn next_chunk(&mut self, rows_max: usize, rows: &mut Vec<f32>) -> Result<usize> {
        rows.clear();
        self.append_chunk(rows_max, rows)
    }

    /// All remaining rows (rows x dim).
    ///
    /// # Errors
    /// Those of [`next_chunk`](Self::next_chunk).
    pub fn read_all_f32(&mut self) -> Result<Vec<f32>> {
        let mut rows = Vec::new();
        // A header whose size matches the file is believed; else the vector grows as rows arrive.
        if let (Some(count), Some(_)) = (self.rows, self.source.content_bytes()) {
            rows.reserve_exact((count - self.position) as usize * self.dim);
        }
        while self.append_chunk(usize::MAX, &mut rows)? > 0 {}
        Ok(rows)
    }

    fn append_chunk(&mut self, rows_max: usize, rows: &mut Vec<f32>) -> Result<usize> {
        let count = self.fill_rows(rows_max)?;
        for elements in self.elements() {
            append_f32(self.element, elements, rows);
        }
        Ok(count)
    }

    /// Bytes before the elements of a row.
    fn prefix_bytes(&self) -> usize {
        if self.prefixed { 4 } else { 0 }
    }

    /// The elements of the rows read last.
    fn elements(&self) -> impl Iterator<Item = &[u8]> {
        let row_bytes = self.prefix_bytes() + self.dim * self.element.bytes();
        self.bytes.chunks_exact(row_bytes).map(|row| &row[self.prefix_bytes()..])
    }

    /// Reads the next rows into `bytes`, whole and checked, and returns how many; 0 at the end.
    fn fill_rows(&mut self, rows_max: usize) -> Result<usize> {
        let row_bytes = self.prefix_bytes() + self.dim * self.element.bytes();
        let left = self.rows.map_or(u64::MAX, |rows| rows - self.position);
        let wanted =
            (CHUNK_BYTES / row_bytes).max(1).min(rows_max).min(usize::try_from(left).unwrap_or(usize::MAX));
        self.bytes.resize(wanted * row_bytes, 0);
        let mut have = 0;
        if wanted > 0 && std::mem::take(&mut self.first) {
            self.bytes[..4].copy_from_slice(&(self.dim as u32).to_le_bytes());
            have = 4;
        }
        let filled = have + self.source.fill(&mut self.bytes[have..])?;
        if filled % row_bytes != 0 || (self.rows.is_some() && filled < wanted * row_bytes) {
            let row = self.position + (filled / row_bytes) as u64;
            return Err(self.source.bad(format!("the file ends inside row {row}, it is cut short")));
        }
        self.bytes.truncate(filled);
        let dim = (self.dim as u32).to_le_bytes();
        if self.prefixed
            && let Some(at) = self.bytes.chunks_exact(row_bytes).position(|row| row[..4] != dim)
        {
            let row = self.position + at as u64;
            return Err(self.source.bad(format!("row {row} does not have dimension {}", self.dim)));
        }
        let count = filled / row_bytes;
        self.position += count as u64;
        if self.rows == Some(self.position) && self.source.fill(&mut [0])? > 0 {
            return Err(self.source.bad(format!("there are bytes after the last of {} rows", self.position)));
        }
        Ok(count)
    }
}

/// Appends the elements in `bytes`.
fn append_f32(element: VectorElement, bytes: &[u8], rows: &mut Vec<f32>) {
    match element {
        VectorElement::U8 => rows.extend(bytes.iter().map(|&byte| f32::from(byte))),
        VectorElement::I8 => rows.extend(bytes.iter().map(|&byte| f32::from(byte.cast_signed()))),
        VectorElement::F32 => {
            rows.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)))
        }
        VectorElement::F16 => {
            const BLOCK: usize = 256;
            let mut halves = [f16::ZERO; BLOCK];
            for block in bytes.chunks(BLOCK * 2) {
                let pairs = block.as_chunks::<2>().0;
                for (half, pair) in halves.iter_mut().zip(pairs) {
                    *half = f16::from_le_bytes(*pair);
                }
                let start = rows.len();
                rows.resize(start + pairs.len(), 0.0);
                halves[..pairs.len()].convert_to_f32_slice(&mut rows[start..]);
            }
        }
    }
}

/// Neighbours of queries: `(k, rows x k)`, best first, -1 where there are fewer. Reads `ibin` and `ivecs`.
///
/// # Errors
/// When the file cannot be read, has another extension, or ends early.
pub fn read_ibin(path: impl AsRef<Path>) -> Result<(usize, Vec<i32>)> {
    read_words(path.as_ref(), "ibin", "ivecs", i32::from_le_bytes)
}

/// A matrix of f32: `(dim, rows x dim)`. Reads `fbin` and `fvecs`.
///
/// # Errors
/// When the file cannot be read, has another extension, or ends early.
pub fn read_fbin(path: impl AsRef<Path>) -> Result<(usize, Vec<f32>)> {
    read_words(path.as_ref(), "fbin", "fvecs", f32::from_le_bytes)
}

fn read_words<T>(path: &Path, bin: &str, vecs: &str, word: fn([u8; 4]) -> T) -> Result<(usize, Vec<T>)> {
    let source = Source::open(path)?;
    // The element only says that a word has 4 bytes.
    let mut file = match format(path).as_deref() {
        Some(format) if format == bin => VectorFile::open_bin(source, VectorElement::F32)?,
        Some(format) if format == vecs => VectorFile::open_prefixed(source, VectorElement::F32)?,
        _ => return Err(source.bad(format!("expected .{bin} or .{vecs}, or the same with .zst"))),
    };
    let mut words = Vec::new();
    while file.fill_rows(usize::MAX)? > 0 {
        words.extend(file.elements().flat_map(|row| row.as_chunks::<4>().0).map(|bytes| word(*bytes)));
    }
    Ok((file.dim, words))
}

fn two_u32(bytes: [u8; 8]) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = bytes;
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

fn check_dim(source: &Source, dim: u64) -> Result<usize> {
    match usize::try_from(dim) {
        Ok(dim) if (1..=DIM_MAX as usize).contains(&dim) => Ok(dim),
        _ => Err(source.bad(format!(
            "the header says dimension {dim}, outside 1..={DIM_MAX}; is it really this format?"
        ))),
    }
}

/// Compares the size the header implies with the file's, where that is known.
fn check_size(source: &Source, rows: u64, dim: usize, expected: Option<u64>) -> Result<()> {
    let claim = || format!("the header says {rows} rows of dimension {dim}");
    let expected: u64 = expected.ok_or_else(|| -> Error { source.bad(format!("{}, too many", claim())) })?;
    match source.content_bytes() {
        Some(found) if found != expected => Err(source.bad(format!(
            "{}, which is {expected} bytes, but the file has {found}; is it cut short or another format?",
            claim()
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
