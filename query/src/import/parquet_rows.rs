//! Parquet files, read batch by batch through the arrow crates.
//!
//! Parquet's footer is at the end of the file, so a `.parquet.zst` is unpacked to a temporary file first.
//! Columns of strings, numbers, booleans, timestamps, dates and lists of them are read; structs with `dims`
//! and `weights` (or `indices` and `values`) are sparse vectors, others JSON. A NaN in a scalar column is a
//! missing value.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use arrow_array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use spandrel_storage::{FieldKind, Metric, Row, Schema};

use super::arrow_cell::{is_instant, json, vector};
use super::infer::Sample;
use super::plan::{Draft, Plan, Target};
use super::source::{Source, bad, is_packed};
use super::{ImportOptions, RowReader, SAMPLE_BYTES_MAX};
use crate::error::{Error, Result};

/// Rows decoded at a time, at most, and the bytes that they may have together by the file's own sizes.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: u64 = 16 << 20;
/// Bytes unpacked at a time.
const UNPACK_BYTES: usize = 1 << 20;

/// Rows of a Parquet file.
pub(super) struct ParquetRows {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    file_bytes: u64,
    file_rows: u64,
    options: ImportOptions,
    plan: Option<Plan>,
    /// Decoded batches that are not rows yet; of the first one, rows before `offset` are done.
    batches: VecDeque<RecordBatch>,
    offset: usize,
    rows: u64,
}

impl ParquetRows {
    pub(super) fn open(path: &Path, options: ImportOptions) -> Result<Self> {
        let source = Source::open(path)?;
        let file_bytes = source.file_bytes();
        let file = if is_packed(path) { unpack(source)? } else { reopen(path)? };
        // The Arrow schema that writers embed asks for dictionaries and the like; the plain types are enough
        // here.
        let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = guarded(path, || ParquetRecordBatchReaderBuilder::try_new_with_options(file, plain))?;
        let file_rows = builder.metadata().file_metadata().num_rows();
        let file_rows =
            u64::try_from(file_rows).map_err(|_| bad(path, format!("the footer says {file_rows} rows")))?;
        let groups = builder.metadata().row_groups();
        let bytes: u64 = groups.iter().map(|group| u64::try_from(group.total_byte_size()).unwrap_or(0)).sum();
        let row_bytes = (bytes / file_rows.max(1)).max(1);
        let batch_rows = usize::try_from(BATCH_BYTES / row_bytes).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS);
        let reader = guarded(path, || builder.with_batch_size(batch_rows).build())?;
        Ok(Self {
            path: path.to_path_buf(),
            reader,
            file_bytes,
            file_rows,
            options,
            plan: None,
            batches: VecDeque::new(),
            offset: 0,
            rows: 0,
        })
    }

    /// Decodes another batch; false at the end.
    fn decode(&mut self) -> Result<bool> {
        let reader = &mut self.reader;
        let batch = guarded(&self.path, || reader.next().transpose())?;
        let Some(batch) = batch else { return Ok(false) };
        if batch.num_rows() > 0 {
            self.batches.push_back(batch);
        }
        Ok(true)
    }

    /// Samples the first batches and makes the plan, once.
    fn make_plan(&mut self) -> Result<()> {
        if self.plan.is_some() {
            return Ok(());
        }
        let rows_max = self.options.sample_rows.max(1);
        let rows = |batches: &VecDeque<RecordBatch>| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        let bytes = |batches: &VecDeque<RecordBatch>| {
            batches.iter().map(RecordBatch::get_array_memory_size).sum::<usize>()
        };
        while rows(&self.batches) < rows_max && bytes(&self.batches) < SAMPLE_BYTES_MAX && self.decode()? {}
        let mut sample = Sample::default();
        for batch in &self.batches {
            self.see(&mut sample, batch, rows_max)?;
        }
        let plan = Plan::new(self.options.clone(), &sample).map_err(|what| bad(&self.path, what))?;
        self.plan = Some(plan);
        Ok(())
    }

    fn see(&self, sample: &mut Sample, batch: &RecordBatch, rows_max: usize) -> Result<()> {
        let schema = batch.schema();
        for row in 0..batch.num_rows() {
            if sample.rows() == rows_max {
                break;
            }
            sample.next_row();
            for (field, column) in schema.fields().iter().zip(batch.columns()) {
                match json(column, row) {
                    Ok(value) if is_instant(field.data_type()) && !value.is_null() => {
                        sample.see_instant(field.name());
                    }
                    Ok(value) => sample.see(field.name(), &value),
                    Err(_) if self.options.ignore_unknown => {}
                    Err(what) => return Err(bad(&self.path, format!("field '{}': {what}", field.name()))),
                }
            }
        }
        Ok(())
    }

    /// The row at `at` of a batch.
    fn row(&self, plan: &Plan, batch: &RecordBatch, targets: &[Target], at: usize) -> Result<Row> {
        let mut draft = plan.draft();
        let schema = batch.schema_ref();
        for ((target, column), field) in targets.iter().zip(batch.columns()).zip(schema.fields()) {
            set(plan, &mut draft, *target, column, at).map_err(|what| {
                bad(&self.path, format!("row {}, field '{}': {what}", self.rows, field.name()))
            })?;
        }
        plan.finish(draft, self.rows).map_err(|what| bad(&self.path, format!("row {}, {what}", self.rows)))
    }

    fn append(&mut self, plan: &Plan, rows: &mut Vec<Row>, rows_max: usize) -> Result<()> {
        let limit = self.options.limit.unwrap_or(u64::MAX);
        while rows.len() < rows_max && self.rows < limit {
            let Some(batch) = self.batches.front().cloned() else {
                if self.decode()? {
                    continue;
                }
                return Ok(());
            };
            let schema = batch.schema();
            let target = |field: &arrow_schema::FieldRef| {
                let place = |what| bad(&self.path, format!("field '{}': {what}", field.name()));
                plan.target(field.name()).map_err(place)
            };
            let targets: Vec<Target> = schema.fields().iter().map(target).collect::<Result<_>>()?;
            while self.offset < batch.num_rows() && rows.len() < rows_max && self.rows < limit {
                rows.push(self.row(plan, &batch, &targets, self.offset)?);
                self.rows += 1;
                self.offset += 1;
            }
            if self.offset == batch.num_rows() {
                self.batches.pop_front();
                self.offset = 0;
            }
        }
        Ok(())
    }
}

/// Reads one value of a column into a row.
fn set(plan: &Plan, draft: &mut Draft, target: Target, column: &dyn Array, at: usize) -> Result<(), String> {
    if target == Target::default() {
        return Ok(());
    }
    if let Some(field) = target.field
        && matches!(plan.schema.fields[field].kind, FieldKind::Dense(_))
    {
        return match vector(column, at)? {
            Some(vector) => plan.set_dense(draft, field, vector),
            None => Ok(()),
        };
    }
    plan.set(draft, target, &json(column, at)?).map_err(|error| error.to_string())
}

impl RowReader for ParquetRows {
    fn next_batch(&mut self, rows_max: usize, rows: &mut Vec<Row>) -> Result<()> {
        rows.clear();
        self.make_plan()?;
        let Some(plan) = self.plan.take() else { return Ok(()) };
        let outcome = self.append(&plan, rows, rows_max);
        self.plan = Some(plan);
        outcome
    }

    fn total_rows(&self) -> Option<u64> {
        Some(self.file_rows.min(self.options.limit.unwrap_or(u64::MAX)))
    }

    fn infer_schema(&mut self, metric: Metric) -> Result<Schema> {
        self.make_plan()?;
        Ok(self.plan.as_ref().map(|plan| plan.schema(metric)).unwrap_or_default())
    }

    fn bytes_read(&self) -> u64 {
        let share = self.rows as f64 / self.file_rows.max(1) as f64;
        (self.file_bytes as f64 * share.min(1.0)) as u64
    }

    fn bytes_total(&self) -> Option<u64> {
        Some(self.file_bytes)
    }

    fn is_cut_short(&self) -> bool {
        self.options.limit == Some(self.rows) && self.rows < self.file_rows
    }
}

fn reopen(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| spandrel_storage::Error::io("open", path, error).into())
}

/// The content of `source` as a temporary file without a name.
fn unpack(mut source: Source) -> Result<File> {
    let folder = std::env::temp_dir();
    let io = |error| Error::from(spandrel_storage::Error::io("unpack into", &folder, error));
    let mut file = tempfile::tempfile().map_err(io)?;
    let mut buffer = vec![0; UNPACK_BYTES];
    loop {
        let len = source.fill(&mut buffer)?;
        if len == 0 {
            return Ok(file);
        }
        file.write_all(&buffer[..len]).map_err(io)?;
    }
}

/// Runs a step of the Parquet decoder, whose checks of damaged files include assertions.
fn guarded<T, E: std::fmt::Display>(path: &Path, step: impl FnOnce() -> Result<T, E>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(bad(path, format!("the Parquet file is damaged or not supported: {error}"))),
        Err(_) => Err(bad(path, "the Parquet file is damaged: its decoder gave up")),
    }
}
