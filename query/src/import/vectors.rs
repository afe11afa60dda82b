//! Rows out of files of vectors: alone, or joined with rows of another file line by line.

use std::path::Path;

use spandrel_storage::{DenseSpec, Element, FieldKind, FieldValue, IndexKind, Metric, Row, Schema};

use super::matrix::{VectorElement, VectorFile};
use super::plan::number;
use super::source::bad;
use super::{ImportOptions, RowReader};
use crate::error::{Error, Result};

/// A row a vector; keys are numbers.
pub(super) struct VectorRows {
    file: VectorFile,
    options: ImportOptions,
    rows: u64,
}

impl VectorRows {
    pub(super) fn open(path: &Path, options: ImportOptions) -> Result<Self> {
        Ok(Self { file: VectorFile::open(path)?, options, rows: 0 })
    }
}

impl RowReader for VectorRows {
    fn next_batch(&mut self, rows_max: usize) -> Result<Vec<Row>> {
        let left = self.options.limit.unwrap_or(u64::MAX) - self.rows;
        let mut vectors = Vec::new();
        let count =
            self.file.next_chunk(rows_max.min(usize::try_from(left).unwrap_or(usize::MAX)), &mut vectors)?;
        let row = |(vector, row): (&[f32], u64)| {
            let key = number(&self.options, row).map_err(|what| bad(self.file.path(), what))?;
            let row = Row::new(key).tenant(&self.options.tenant);
            Ok(row.dense(&self.options.vector_field, vector.to_vec()))
        };
        let rows = vectors.chunks_exact(self.file.dim()).zip(self.rows..).map(row);
        let rows = rows.collect::<Result<_>>()?;
        self.rows += count as u64;
        Ok(rows)
    }

    fn total_rows(&self) -> Option<u64> {
        self.file.rows().map(|rows| rows.min(self.options.limit.unwrap_or(u64::MAX)))
    }

    fn infer_schema(&mut self, metric: Metric) -> Result<Schema> {
        match &self.options.schema {
            Some(schema) => Ok(schema.clone()),
            None => with_field(Schema::new(), &self.file, &self.options.vector_field, metric),
        }
    }

    fn bytes_read(&self) -> u64 {
        self.file.bytes_read()
    }

    fn bytes_total(&self) -> Option<u64> {
        Some(self.file.bytes_total())
    }

    fn is_cut_short(&self) -> bool {
        self.options.limit == Some(self.rows) && self.file.rows().is_none_or(|rows| self.rows < rows)
    }
}

/// Puts vector i of `vectors` into field `field` of row i of `rows`.
///
/// A different number of rows and vectors is an error when the shorter file ends, or at once where both say
/// how many they have; rows that a limit leaves out are not counted. The sizes reported are those of both
/// files together.
pub fn with_vectors(rows: Box<dyn RowReader>, vectors: VectorFile, field: &str) -> Box<dyn RowReader> {
    Box::new(Joined { rows, vectors, field: field.to_owned(), position: 0, ended: false, failed: None })
}

struct Joined {
    rows: Box<dyn RowReader>,
    vectors: VectorFile,
    field: String,
    position: u64,
    ended: bool,
    /// What ended the vectors in the midst of a batch.
    failed: Option<Error>,
}

impl Joined {
    /// The next `count` vectors, one after another; fewer where something is wrong, which `failed` then says.
    fn take(&mut self, count: usize) -> Vec<f32> {
        let wanted = count * self.vectors.dim();
        let mut vectors = Vec::new();
        let mut chunk = Vec::new();
        while vectors.len() < wanted {
            let missing = (wanted - vectors.len()) / self.vectors.dim();
            match self.vectors.next_chunk(missing, &mut chunk) {
                Ok(0) => {
                    let have = self.position + (vectors.len() / self.vectors.dim()) as u64;
                    let what = format!("there are only {have} vectors, but more rows to give them to");
                    self.failed = Some(bad(self.vectors.path(), what));
                    break;
                }
                Ok(_) => vectors.append(&mut chunk),
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        vectors
    }
}

impl RowReader for Joined {
    fn next_batch(&mut self, rows_max: usize) -> Result<Vec<Row>> {
        if let Some(error) = self.failed.take() {
            self.ended = true;
            return Err(error);
        }
        if self.ended {
            return Ok(Vec::new());
        }
        let mut rows = self.rows.next_batch(rows_max)?;
        if rows.is_empty() {
            self.ended = true;
            let mut rest = Vec::new();
            if !self.rows.is_cut_short() && self.vectors.next_chunk(1, &mut rest)? > 0 {
                let total = self
                    .vectors
                    .rows()
                    .map(|rows| format!("{rows} vectors"))
                    .unwrap_or("more vectors".into());
                return Err(bad(
                    self.vectors.path(),
                    format!("there are {total} for {} rows", self.position),
                ));
            }
            return Ok(rows);
        }
        let vectors = self.take(rows.len());
        rows.truncate(vectors.len() / self.vectors.dim());
        if rows.is_empty() {
            return self.next_batch(rows_max);
        }
        for (row, vector) in rows.iter_mut().zip(vectors.chunks_exact(self.vectors.dim())) {
            row.fields.insert(self.field.clone(), FieldValue::Dense(vector.to_vec()));
        }
        self.position += rows.len() as u64;
        Ok(rows)
    }

    fn total_rows(&self) -> Option<u64> {
        match (self.rows.total_rows(), self.vectors.rows()) {
            (Some(rows), _) => Some(rows),
            (None, vectors) => vectors,
        }
    }

    fn infer_schema(&mut self, metric: Metric) -> Result<Schema> {
        let schema = self.rows.infer_schema(metric)?;
        with_field(schema, &self.vectors, &self.field, metric)
    }

    fn bytes_read(&self) -> u64 {
        self.rows.bytes_read() + self.vectors.bytes_read()
    }

    fn bytes_total(&self) -> Option<u64> {
        Some(self.rows.bytes_total()? + self.vectors.bytes_total())
    }

    fn is_cut_short(&self) -> bool {
        self.rows.is_cut_short()
    }
}

/// The schema with a dense field for the vectors of `file`; half-precision vectors are kept as such.
fn with_field(schema: Schema, file: &VectorFile, field: &str, metric: Metric) -> Result<Schema> {
    if let Some((_, found)) = schema.find(field) {
        return match &found.kind {
            FieldKind::Dense(spec) if spec.dim as usize == file.dim() => Ok(schema),
            FieldKind::Dense(spec) => {
                let what = format!("vectors have dimension {}, field '{field}' has {}", file.dim(), spec.dim);
                Err(bad(file.path(), what))
            }
            other => Err(bad(file.path(), format!("field '{field}' is {}, not dense", other.name()))),
        };
    }
    let element = if file.element() == VectorElement::F16 { Element::F16 } else { Element::F32 };
    // The dimension was checked against DIM_MAX when the file was opened.
    let dim = file.dim() as u32;
    Ok(schema.field(field, FieldKind::Dense(DenseSpec { dim, metric, element, index: IndexKind::Auto })))
}
