//! Vectors and texts of a data set, read by path.
//!
//! A base can be larger than memory, so it is only ever streamed ([`chunks`]); queries are read whole.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::DeserializeOwned;
use spandrel::import::VectorFile;

use crate::{Error, Result};

/// Vectors in rows: `rows x dim`, row-major.
#[derive(Clone)]
pub struct Matrix {
    /// Elements a row.
    pub dim: usize,
    /// `rows * dim` elements.
    pub data: Vec<f32>,
}

impl Matrix {
    /// The rows of even number, and those of odd.
    pub fn halves(&self) -> (Self, Self) {
        let every_other = |first: usize| {
            let rows = (first..self.rows()).step_by(2);
            Self { dim: self.dim, data: rows.flat_map(|row| self.row(row)).copied().collect() }
        };
        (every_other(0), every_other(1))
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.dim
    }

    /// Row `at`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, at: usize) -> &[f32] {
        &self.data[at * self.dim..][..self.dim]
    }

    /// Keeps the first `rows` rows.
    pub fn truncate(&mut self, rows: usize) {
        self.data.truncate(rows * self.dim);
    }
}

/// Rows and dimension of a vector file (fvecs, bvecs, fbin, u8bin, i8bin or npy, each also as .zst). A packed
/// file that does not say its rows is read through once.
///
/// # Errors
/// The file cannot be read, has no rows or is not such a file; the message names it.
pub fn shape(path: &Path) -> Result<(usize, usize)> {
    let file = VectorFile::open(path)?;
    let rows = match file.rows() {
        Some(rows) => usize::try_from(rows)?,
        None => {
            let mut rows = 0;
            chunks(path, usize::MAX, |_, chunk| {
                rows += chunk.rows();
                Ok(())
            })?;
            rows
        }
    };
    if rows == 0 {
        return Err(format!("{} holds no vectors", path.display()).into());
    }
    Ok((rows, file.dim()))
}

/// Reads a whole vector file.
///
/// # Errors
/// As [`shape`].
pub fn read(path: &Path) -> Result<Matrix> {
    let mut file = VectorFile::open(path)?;
    let data = file.read_all_f32()?;
    if data.is_empty() {
        return Err(format!("{} holds no vectors", path.display()).into());
    }
    Ok(Matrix { dim: file.dim(), data })
}

/// Calls `visit(first row, rows)` for the first `limit` rows of the file, in order, about a megabyte at a
/// time.
///
/// # Errors
/// The file cannot be read, and those of `visit`.
pub fn chunks(path: &Path, limit: usize, mut visit: impl FnMut(usize, &Matrix) -> Result<()>) -> Result<()> {
    let mut file = VectorFile::open(path)?;
    let (mut chunk, mut first) = (Matrix { dim: file.dim(), data: Vec::new() }, 0);
    while first < limit {
        let rows = file.next_chunk(limit - first, &mut chunk.data)?;
        if rows == 0 {
            break;
        }
        visit(first, &chunk)?;
        first += rows;
    }
    Ok(())
}

/// Reads a file of one JSON object a line, also as .zst.
///
/// # Errors
/// The file cannot be read or a line is not such an object; the message names file and line.
pub fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let failed = |what: &dyn std::fmt::Display| -> Error { format!("{}: {what}", path.display()).into() };
    let file = File::open(path).map_err(|error| failed(&error))?;
    let bytes: Box<dyn Read> = if path.extension().is_some_and(|extension| extension == "zst") {
        Box::new(zstd::Decoder::new(file).map_err(|error| failed(&error))?)
    } else {
        Box::new(file)
    };
    let mut records = Vec::new();
    for (at, line) in BufReader::new(bytes).lines().enumerate() {
        let line = line.map_err(|error| failed(&error))?;
        let record =
            serde_json::from_str(&line).map_err(|error| failed(&format!("line {}: {error}", at + 1)))?;
        records.push(record);
    }
    Ok(records)
}
