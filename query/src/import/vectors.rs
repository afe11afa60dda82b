//! Rows out of files of vectors: alone, or joined with rows of another file line by line.

use std::path::Path;

use spandrel_storage::{DenseSpec, Element, FieldKind, FieldValue, IndexKind, Metric, Row, Schema};

use super::matrix::{VectorElement, VectorFile};
use super::plan::number;
use super::source::bad;
use super::{ImportOptions, RowReader};
use crate::error::Result;

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
    fn next_batch(&mut self, rows_max: usize, rows: &mut Vec<Row>) -> Result<()> {
        rows.clear();
        let left = self.options.limit.unwrap_or(u64::MAX) - self.rows;
        let mut vectors = Vec::new();
        self.file.next_chunk(rows_max.min(usize::try_from(left).unwrap_or(usize::MAX)), &mut vectors)?;
        for vector in vectors.chunks_exact(self.file.dim()) {
            let key = number(&self.options, self.rows).map_err(|what| bad(self.file.path(), what))?;
            let row = Row::new(key).tenant(&self.options.tenant);
            rows.push(row.dense(&self.options.vector_field, vector.to_vec()));
            self.rows += 1;
        }
        Ok(())
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
    Box::new(Joined { rows, vectors, field: field.to_owned(), position: 0, ended: false })
}

struct Joined {
    rows: Box<dyn RowReader>,
    vectors: VectorFile,
    field: String,
    position: u64,
    ended: bool,
}

impl Joined {
    /// The next `count` vectors, one after another; on an error `vectors` has those before it.
    fn take(&mut self, count: usize, vectors: &mut Vec<f32>) -> Result<()> {
        let dim = self.vectors.dim();
        let mut chunk = Vec::new();
        while vectors.len() < count * dim {
            if self.vectors.next_chunk(count - vectors.len() / dim, &mut chunk)? == 0 {
                let have = self.position + (vectors.len() / dim) as u64;
                let what = format!("there are only {have} vectors, but more rows to give them to");
                return Err(bad(self.vectors.path(), what));
            }
            vectors.append(&mut chunk);
        }
        Ok(())
    }

    /// Whether both files ended together.
    fn finish(&mut self) -> Result<()> {
        self.ended = true;
        let mut rest = Vec::new();
        if !self.rows.is_cut_short() && self.vectors.next_chunk(1, &mut rest)? > 0 {
            let total =
                self.vectors.rows().map(|rows| format!("{rows} vectors")).unwrap_or("more vectors".into());
            return Err(bad(self.vectors.path(), format!("there are {total} for {} rows", self.position)));
        }
        Ok(())
    }
}

impl RowReader for Joined {
    fn next_batch(&mut self, rows_max: usize, rows: &mut Vec<Row>) -> Result<()> {
        rows.clear();
        if self.ended {
            return Ok(());
        }
        let read = self.rows.next_batch(rows_max, rows);
        if rows.is_empty() && read.is_ok() {
            return self.finish();
        }
        let mut vectors = Vec::new();
        let taken = self.take(rows.len(), &mut vectors);
        rows.truncate(vectors.len() / self.vectors.dim());
        for (row, vector) in rows.iter_mut().zip(vectors.chunks_exact(self.vectors.dim())) {
            row.fields.insert(self.field.clone(), FieldValue::Dense(vector.to_vec()));
        }
        self.position += rows.len() as u64;
        self.ended = read.is_err() || taken.is_err();
        taken.and(read)
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
