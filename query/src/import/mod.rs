//! Reads files into rows and matrices: what `import` and the benches start from.
//!
//! [`VectorFile`] reads matrices: fvecs, bvecs, fbin, u8bin, i8bin, npy. [`open`] reads rows: the same files
//! (a row a vector), JSON lines and Parquet. Each also with `.zst` behind its name, unpacked as it is read.
//! [`with_vectors`] joins a file of rows and a file of vectors.
//!
//! Files are read in one pass in bounded memory. A damaged file is an error that names the file and the
//! place, never a panic, and no length in a file is believed before its bytes are there.

mod arrow_cell;
mod cell;
mod infer;
mod jsonl;
mod lines;
mod matrix;
mod npy;
mod parquet_rows;
mod plan;
mod source;
mod vectors;

use std::path::Path;

use spandrel_storage::{Metric, Row, Schema};

use crate::error::{Error, Result};

pub use lines::{LINE_BYTES_MAX, Lines};
pub use matrix::{EXTENSIONS as VECTOR_EXTENSIONS, VectorElement, VectorFile, read_fbin, read_ibin};
pub use vectors::with_vectors;

/// How the columns of a file become rows.
///
/// ```
/// use spandrel::import::ImportOptions;
///
/// let options = ImportOptions {
///     text_field: Some("abstract".into()),
///     limit: Some(1000),
///     ..ImportOptions::default()
/// };
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ImportOptions {
    /// The column of the keys: strings or integers. None: the first of `key`, `id`, `_id` that the first row
    /// has, else keys are numbers, counted from `start_key` by the rows of the file.
    pub key_field: Option<String>,
    /// The column of the tenants' names; a row without one goes to `tenant`.
    pub tenant_field: Option<String>,
    /// The tenant of rows that name none; empty is the default tenant.
    pub tenant: String,
    /// The column of the access labels, lists of strings; a row without one has none.
    pub labels_field: Option<String>,
    /// The column that an inferred schema makes its first text field. None: the first of `text`, `body`,
    /// `content`, `passage` that holds strings.
    pub text_field: Option<String>,
    /// The column of the vectors, and the field that a file of vectors fills.
    pub vector_field: String,
    /// The column that names the document a row's text is a piece of; it is also kept as a payload value. The
    /// whole text is the chunk.
    pub document_field: Option<String>,
    /// The collection's schema; none: inferred from the first `sample_rows` rows.
    pub schema: Option<Schema>,
    /// Whether columns that the schema does not have are left out; else they are an error.
    pub ignore_unknown: bool,
    /// Rows after which reading ends.
    pub limit: Option<u64>,
    /// The number of the first row, where keys are numbers.
    pub start_key: u64,
    /// Rows that a schema is inferred from; fewer where they take more than 64 MiB.
    pub sample_rows: usize,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            key_field: None,
            tenant_field: None,
            tenant: String::new(),
            labels_field: None,
            text_field: None,
            vector_field: "embedding".to_owned(),
            document_field: None,
            schema: None,
            ignore_unknown: false,
            limit: None,
            start_key: 0,
            sample_rows: 10_000,
        }
    }
}

/// Bytes of a file that a schema is inferred from.
const SAMPLE_BYTES_MAX: usize = 64 << 20;

/// Rows of a file, in its order.
pub trait RowReader: Send {
    /// Puts the next rows into `rows`, at most `rows_max` (at least 1) and none at the end, in place of what
    /// is there.
    ///
    /// # Errors
    /// What is wrong with the file, with its name, the line or row, and the field. `rows` has the rows before
    /// that place.
    fn next_batch(&mut self, rows_max: usize, rows: &mut Vec<Row>) -> Result<()>;

    /// Rows of the file where it says so, the limit observed.
    fn total_rows(&self) -> Option<u64>;

    /// The schema of the options, or one that fits the first rows, with dense fields compared by `metric`. No
    /// row is lost; call it before the first batch or later.
    ///
    /// # Errors
    /// Those of [`next_batch`](Self::next_batch), or that no schema fits.
    fn infer_schema(&mut self, metric: Metric) -> Result<Schema>;

    /// Bytes read from disk so far; for Parquet in proportion to the rows read.
    fn bytes_read(&self) -> u64;

    /// Bytes of the file on disk.
    fn bytes_total(&self) -> Option<u64>;

    /// Whether the limit ended the rows before the file did.
    fn is_cut_short(&self) -> bool;
}

/// Opens a file of rows; the extension says which format: `jsonl` or `ndjson`, `parquet`, or one of
/// [`VECTOR_EXTENSIONS`], each also with `.zst`.
///
/// # Errors
/// When the file cannot be opened, has another extension, or its header does not make sense.
pub fn open(path: &Path, options: &ImportOptions) -> Result<Box<dyn RowReader>> {
    if options.limit == Some(0) {
        return Err(Error::invalid("a limit of 0 rows leaves nothing to import"));
    }
    match source::format(path).as_deref() {
        Some("jsonl" | "ndjson") => Ok(Box::new(jsonl::JsonlRows::open(path, options.clone())?)),
        Some("parquet" | "pq") => Ok(Box::new(parquet_rows::ParquetRows::open(path, options.clone())?)),
        Some(format) if VECTOR_EXTENSIONS.contains(&format) => {
            Ok(Box::new(vectors::VectorRows::open(path, options.clone())?))
        }
        _ => Err(source::bad(
            path,
            format!(
                "rows are read from jsonl, parquet, {} and the same with .zst",
                VECTOR_EXTENSIONS.join(", ")
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
