//! Exact search over sparse vectors by scanning all of them.
//!
//! Vectors lie row by row, each a run of (ordinal, weight) pairs where ordinals number the dimensions that
//! occur in the segment, ascending. A query becomes a dense array by ordinal, zero where it has no weight,
//! which the thread reuses and of which only the query's places are set and cleared. A document costs one
//! multiply-add and one `or` per set dimension with no branch: memory bandwidth, 8 bytes a set dimension, is
//! the limit. With a filter only its documents are scored.
//!
//! On disk, little-endian: u8 1 | u32 n, n dimensions ascending | u32 d + 1, where each vector starts |
//! u32 m, m ordinals | u32 m, m weights (f32).

use std::ops::Range;

use spandrel_storage::codec::{Decoder, Encoder, Truncated};
use spandrel_storage::{DocId, RowId, SparseVector};

use super::{SparseIndex, check_vector};
use crate::allow::Allow;
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::scratch::Scratch;
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

/// Buffers of a sparse search.
#[derive(Debug, Default)]
pub(crate) struct SparseScratch {
    /// A query's weights by ordinal; all zero between searches, at least as long as the dimensions of the
    /// largest segment searched.
    table: Vec<f32>,
    /// The places that are not zero.
    touched: Vec<usize>,
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

    /// The bytes of a section, in the layout in the module's head.
    pub fn encode(&self) -> Vec<u8> {
        let capacity = 17 + 4 * (self.dims.len() + self.starts.len() + 2 * self.ordinals.len());
        let mut encoder = Encoder::with_capacity(capacity);
        encoder.u8(FORMAT).u32s(&self.dims).u32s(&self.starts).u32s(&self.ordinals).f32s(&self.weights);
        encoder.finish()
    }

    /// Reads what [`Self::encode`] gave, all of `bytes`.
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

    /// Calls `run` with the query's weights by ordinal, zero where it has none; not at all when the segment
    /// has none of its dimensions.
    fn scattered(
        &self,
        query: &SparseVector,
        scratch: &mut SparseScratch,
        run: impl FnOnce(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let SparseScratch { table, touched } = scratch;
        if table.len() < self.dims.len() {
            table.resize(self.dims.len(), 0.0);
        }
        touched.clear();
        for (dim, weight) in query.dims.iter().zip(&query.weights) {
            if let Ok(ordinal) = self.dims.binary_search(dim) {
                table[ordinal] = *weight;
                touched.push(ordinal);
            }
        }
        let done = if touched.is_empty() { Ok(()) } else { run(table) };
        touched.iter().for_each(|ordinal| table[*ordinal] = 0.0);
        done
    }

    fn run(&self, doc: DocId) -> Range<usize> {
        self.starts[doc as usize] as usize..self.starts[doc as usize + 1] as usize
    }

    /// The inner product of a document and a scattered query; NaN when they share no dimension.
    fn dot(&self, doc: DocId, table: &[f32]) -> f32 {
        let run = self.run(doc);
        let (mut sum, mut shared) = (0.0, 0);
        for (ordinal, weight) in self.ordinals[run.clone()].iter().zip(&self.weights[run]) {
            // Adding the zero product of a dimension that the query lacks changes no bit of the sum; its
            // weights are not zero, so a bit of one says that the dimension is shared.
            let asked = table[*ordinal as usize];
            sum += weight * asked;
            shared |= asked.to_bits();
        }
        match shared {
            0 => f32::NAN,
            _ if f32::is_finite(sum) => sum,
            _ => self.dot_wide(doc, table),
        }
    }

    /// The inner product where f32 overflows on the way, cut to the range of f32.
    #[cold]
    fn dot_wide(&self, doc: DocId, table: &[f32]) -> f32 {
        let product = |at: usize| f64::from(self.weights[at]) * f64::from(table[self.ordinals[at] as usize]);
        self.run(doc).map(product).sum::<f64>().clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
    }
}

impl SparseIndex for SparseFlat {
    fn search(
        &self,
        query: &SparseVector,
        rows: &[RowId],
        allow: &Allow<'_>,
        top: &mut TopK,
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        check_vector(query)?;
        if rows.len() < self.doc_count() as usize {
            let message =
                format!("{} rows were given for a segment of {} documents", rows.len(), self.doc_count());
            return Err(Error::Invalid(message));
        }
        let docs = allow.range.start..allow.range.end.min(self.doc_count());
        if docs.is_empty() {
            return Ok(());
        }
        self.scattered(query, &mut scratch.sparse, |table| {
            let mut threshold = top.threshold();
            let mut offer = |doc: DocId| {
                counters.scored += 1;
                let score = self.dot(doc, table);
                // False for NaN, too.
                if score >= threshold && allow.contains(doc) && top.push(score, (rows[doc as usize], doc)) {
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
        })
    }

    fn score(
        &self,
        query: &SparseVector,
        docs: &[DocId],
        scores: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<()> {
        check_vector(query)?;
        let known = docs.iter().all(|doc| *doc < self.doc_count());
        if docs.len() != scores.len() || !known {
            let message = "documents to score must be of the segment, with one place for a score each";
            return Err(Error::Invalid(message.into()));
        }
        scores.fill(f32::NAN);
        self.scattered(query, &mut scratch.sparse, |table| {
            docs.iter().zip(scores).for_each(|(doc, score)| *score = self.dot(*doc, table));
            Ok(())
        })
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
