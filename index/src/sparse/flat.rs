//! Exact search over sparse vectors by scanning all of them.
//!
//! Vectors lie row by row, each a run of (ordinal, weight) pairs where ordinals number the dimensions that
//! occur in the segment, ascending. A query becomes a dense array by ordinal, zero where it has no weight,
//! and a document costs one multiply-add per set dimension with no branch: memory bandwidth, 8 bytes a set
//! dimension, is the limit. With a filter only its documents are scored.
//!
//! On disk, little-endian: u8 1 | u32 n, n dimensions ascending | u32 d + 1, where each vector starts |
//! u32 m, m ordinals | u32 m, m weights (f32).

use std::ops::Range;

use spandrel_storage::codec::{Decoder, Encoder, Truncated};
use spandrel_storage::{DocId, RowId, SparseVector};

use super::{SparseCounters, SparseIndex, check_vector};
use crate::allow::Allow;
use crate::error::{Error, Result};
use crate::topk::TopK;

/// Version of the layout in the module's head.
const FORMAT: u8 = 1;
/// Documents scanned between two looks at the clock.
const STOP_DOCS: DocId = 1 << 14;
/// Most set dimensions of all vectors of a segment together.
const SET_MAX: usize = u32::MAX as usize;
/// Build numbers dimensions through a table when the largest is below this many times the set ones.
const DIRECT_FACTOR: usize = 4;

/// The sparse vectors of one field of a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseFlat {
    /// Dimensions that occur, ascending; an ordinal is a place in here.
    dims: Vec<u32>,
    /// Where each vector starts; one entry more than there are documents.
    starts: Vec<u32>,
    ordinals: Vec<u32>,
    weights: Vec<f32>,
}

/// Collects sparse vectors in document order.
#[derive(Clone, Debug)]
pub struct SparseFlatBuilder {
    starts: Vec<u32>,
    dims: Vec<u32>,
    weights: Vec<f32>,
}

impl Default for SparseFlatBuilder {
    fn default() -> Self {
        Self { starts: vec![0], dims: Vec::new(), weights: Vec::new() }
    }
}

impl SparseFlatBuilder {
    /// Adds the next document's vector; none if it has not the field.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a vector that [`check_vector`] refuses and beyond 2^32 - 1 set dimensions a
    /// segment; the document is not added then.
    pub fn push(&mut self, vector: Option<&SparseVector>) -> Result<()> {
        if let Some(vector) = vector {
            check_vector(vector)?;
            if self.dims.len() + vector.dims.len() > SET_MAX {
                return Err(Error::Invalid(format!("a segment has at most {SET_MAX} set sparse dimensions")));
            }
            self.dims.extend_from_slice(&vector.dims);
            self.weights.extend_from_slice(&vector.weights);
        }
        self.starts.push(self.dims.len() as u32);
        Ok(())
    }

    /// The index of what was pushed.
    pub fn finish(self) -> SparseFlat {
        let Self { starts, dims: mut ordinals, weights } = self;
        let largest = ordinals.iter().max().map_or(0, |dim| *dim as usize);
        let mut dims;
        if largest < ordinals.len() * DIRECT_FACTOR {
            // Few dimensions for the vectors at hand: a table by dimension, first of presence, then of
            // ordinals.
            let mut table = vec![0; largest + 1];
            ordinals.iter().for_each(|dim| table[*dim as usize] = 1);
            dims = Vec::new();
            for (dim, slot) in table.iter_mut().enumerate().filter(|(_, present)| **present == 1) {
                *slot = dims.len() as u32;
                dims.push(dim as u32);
            }
            ordinals.iter_mut().for_each(|dim| *dim = table[*dim as usize]);
        } else {
            dims = ordinals.clone();
            dims.sort_unstable();
            dims.dedup();
            ordinals.iter_mut().for_each(|dim| *dim = dims.partition_point(|of| *of < *dim) as u32);
        }
        SparseFlat { dims, starts, ordinals, weights }
    }
}

impl SparseFlat {
    /// An empty builder.
    pub fn builder() -> SparseFlatBuilder {
        SparseFlatBuilder::default()
    }

    /// Appends the layout in the module's head to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let capacity = 17 + 4 * (self.dims.len() + self.starts.len() + 2 * self.ordinals.len());
        let mut encoder = Encoder::with_capacity(capacity);
        encoder.u8(FORMAT).u32s(&self.dims).u32s(&self.starts).u32s(&self.ordinals).f32s(&self.weights);
        out.append(&mut encoder.finish());
    }

    /// Reads what [`Self::write`] wrote, all of `bytes`.
    ///
    /// # Errors
    /// [`Error::Section`] for bytes of another format version or that do not hold vectors.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut bytes = Decoder::new(bytes);
        let mut read = || -> Result<(u8, Self), Truncated> {
            let format = bytes.u8("format")?;
            let (dims, starts) = (bytes.u32s("dimensions")?, bytes.u32s("vector starts")?);
            let (ordinals, weights) = (bytes.u32s("ordinals")?, bytes.f32s("weights")?);
            Ok((format, Self { dims, starts, ordinals, weights }))
        };
        let (format, flat) = read().map_err(damaged)?;
        if format != FORMAT {
            return Err(damaged(format!("format {format} is not {FORMAT}, the one this build reads")));
        }
        let ends = (flat.starts.first(), flat.starts.last().map(|end| *end as usize));
        let shaped = ends == (Some(&0), Some(flat.ordinals.len()))
            && flat.starts.is_sorted()
            && flat.weights.len() == flat.ordinals.len()
            && flat.dims.is_sorted_by(|a, b| a < b)
            && bytes.left() == 0;
        if !shaped || flat.weights.iter().any(|weight| !weight.is_finite() || *weight == 0.0) {
            return Err(damaged("dimensions, starts or weights are not those of sparse vectors"));
        }
        for run in flat.starts.windows(2) {
            let ordinals = &flat.ordinals[run[0] as usize..run[1] as usize];
            let ascends = ordinals.is_sorted_by(|a, b| a < b);
            if !ascends || ordinals.last().is_some_and(|last| *last as usize >= flat.dims.len()) {
                return Err(damaged("the dimensions of a vector do not ascend within those of the segment"));
            }
        }
        Ok(flat)
    }

    /// The query's weights by ordinal, zero where it has none.
    fn scatter(&self, query: &SparseVector) -> Vec<f32> {
        let mut table = vec![0.0; self.dims.len()];
        for (dim, weight) in query.dims.iter().zip(&query.weights) {
            if let Ok(ordinal) = self.dims.binary_search(dim) {
                table[ordinal] = *weight;
            }
        }
        table
    }

    fn run(&self, doc: DocId) -> Range<usize> {
        self.starts[doc as usize] as usize..self.starts[doc as usize + 1] as usize
    }

    /// The inner product of a document and a scattered query.
    fn dot(&self, doc: DocId, table: &[f32]) -> f32 {
        let run = self.run(doc);
        let mut sum = 0.0;
        for (ordinal, weight) in self.ordinals[run.clone()].iter().zip(&self.weights[run]) {
            // Adding the zero product of a dimension that the query lacks changes no bit of the sum.
            sum += weight * table[*ordinal as usize];
        }
        if f32::is_finite(sum) { sum } else { self.dot_wide(doc, table) }
    }

    /// The inner product where f32 overflows on the way, cut to the range of f32.
    #[cold]
    fn dot_wide(&self, doc: DocId, table: &[f32]) -> f32 {
        let product = |at: usize| f64::from(self.weights[at]) * f64::from(table[self.ordinals[at] as usize]);
        self.run(doc).map(product).sum::<f64>().clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
    }

    /// Whether a document shares a dimension with a scattered query.
    fn overlaps(&self, doc: DocId, table: &[f32]) -> bool {
        self.ordinals[self.run(doc)].iter().any(|ordinal| table[*ordinal as usize] != 0.0)
    }
}

impl SparseIndex for SparseFlat {
    fn search(
        &self,
        query: &SparseVector,
        rows: &[RowId],
        allow: &Allow<'_>,
        top: &mut TopK,
        counters: &mut SparseCounters,
    ) -> Result<()> {
        check_vector(query)?;
        if rows.len() < self.doc_count() as usize {
            let message =
                format!("{} rows were given for a segment of {} documents", rows.len(), self.doc_count());
            return Err(Error::Invalid(message));
        }
        let docs = allow.range.start..allow.range.end.min(self.doc_count());
        let table = self.scatter(query);
        if docs.is_empty() || table.iter().all(|weight| *weight == 0.0) {
            return Ok(());
        }
        let mut threshold = top.threshold();
        let mut offer = |doc: DocId| {
            counters.scored += 1;
            let score = self.dot(doc, &table);
            if score < threshold || (score == 0.0 && !self.overlaps(doc, &table)) {
                return;
            }
            if !allow.contains(doc) {
                counters.refused += 1;
            } else if top.push(score, rows[doc as usize]) {
                counters.kept += 1;
                threshold = top.threshold();
            }
        };
        for start in docs.clone().step_by(STOP_DOCS as usize) {
            allow.check_stop()?;
            let docs = start..docs.end.min(start.saturating_add(STOP_DOCS));
            match allow.filter {
                None => docs.for_each(&mut offer),
                Some(filter) => filter.range(docs).for_each(&mut offer),
            }
        }
        Ok(())
    }

    fn score(&self, query: &SparseVector, docs: &[DocId], scores: &mut [f32]) -> Result<()> {
        check_vector(query)?;
        let known = docs.iter().all(|doc| *doc < self.doc_count());
        if docs.len() != scores.len() || !known {
            let message = "documents to score must be of the segment, with one place for a score each";
            return Err(Error::Invalid(message.into()));
        }
        let table = self.scatter(query);
        for (doc, score) in docs.iter().zip(scores) {
            *score = self.dot(*doc, &table);
        }
        Ok(())
    }

    fn doc_count(&self) -> u32 {
        self.starts.len() as u32 - 1
    }

    fn memory_bytes(&self) -> usize {
        let values = self.dims.capacity() + self.starts.capacity() + self.ordinals.capacity();
        size_of::<Self>() + 4 * (values + self.weights.capacity())
    }
}

fn damaged(what: impl ToString) -> Error {
    Error::Section { section: "sparse".into(), what: what.to_string() }
}
