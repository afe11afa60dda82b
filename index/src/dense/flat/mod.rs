//! Which vectors are nearest, exactly: every allowed vector is scored.
//!
//! The right index for small segments, for selective filters and for fresh rows, and the oracle of every
//! other one. Time `O(allowed vectors x dim)`, bound by memory bandwidth for one query and by arithmetic for
//! a batch; memory `dim x element` a vector (nothing with [`Residency::Disk`]), 4 bytes more under L2 for
//! norms, 4 more when some docs have no vector.
//!
//! Scores of f16 and i8 fields are exact over the stored (rounded) values. A cosine is the dot product of the
//! normalised query with a vector normalised at build (f32, f16), or the dot product divided by the norms
//! (i8).

mod build;
mod layout;
mod query;
mod scan;

use std::ops::Range;
use std::sync::Arc;

use half::f16;
use spandrel_storage::{DenseSpec, DocId, Element, Metric, RowId};

use self::layout::{HEADER_BYTES, Layout, read_list};
use self::query::Queries;
use self::scan::{Block, Docs, Scan, ScoreBuffers, Scoring};
use super::vectors::{ChunkSource, Residency, Stored, VectorBuffers, Vectors};
use super::{Counters, VectorIndex};
use crate::allow::Allow;
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::scratch::Scratch;
use crate::simd::Kernels;
use crate::topk::TopK;

pub use self::build::FlatBuilder;

/// Bytes of vectors scored at once: they stay in the second-level cache while the queries of a batch pass.
const BLOCK_BYTES: usize = 192 << 10;
/// Vectors scored at once, at least and at most.
const BLOCK_ROWS: Range<usize> = 8..2048;
/// When at most one in this many vectors is allowed they are gathered one by one; else all are scored and the
/// good ones tested. Measured: gathering wins below a half for one query of 384 dimensions and below three
/// quarters for a batch.
const GATHER_SHARE: u64 = 2;

/// An exact index over the vectors of one field of one segment.
pub struct Flat {
    layout: Layout,
    /// Doc of each vector; empty when every doc has one.
    present: Vec<DocId>,
    /// What [`Layout::has_norms`] says; empty otherwise.
    norms: Vec<f32>,
    /// Largest of `norms`.
    norm_max: f32,
    vectors: AnyVectors,
    kernels: &'static Kernels,
}

enum AnyVectors {
    F32(Vectors<f32>),
    F16(Vectors<f16>),
    I8(Vectors<i8>),
}

/// Buffers of a flat search.
#[derive(Debug, Default)]
pub(crate) struct FlatScratch {
    queries: Queries,
    scores: ScoreBuffers,
    vectors: VectorBuffers,
    ordinals: Vec<u32>,
    docs: Vec<DocId>,
    norms: Vec<f32>,
}

impl Flat {
    /// Opens what [`FlatBuilder::write`] wrote for the field `spec`. `section` is the section's name, for
    /// messages.
    ///
    /// # Errors
    /// [`Error::Section`] when the bytes are not a flat index of this field; a storage error when they cannot
    /// be read.
    pub fn open(
        section: &str,
        spec: &DenseSpec,
        source: Arc<dyn ChunkSource>,
        residency: Residency,
    ) -> Result<Self> {
        let damaged = |what: &str| Error::Section { section: section.to_owned(), what: what.to_owned() };
        let layout = Layout::read(section, spec, source.as_ref())?;
        let present = read_list(&source, HEADER_BYTES, layout.docs_bytes(), u32::from_le_bytes)?;
        let ascending = present.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || present.last().is_some_and(|last| *last >= layout.docs) {
            return Err(damaged("its list of docs is not ascending within the segment"));
        }
        let norms_at = HEADER_BYTES + layout.docs_bytes();
        let norms = read_list(&source, norms_at, layout.norms_bytes(), f32::from_le_bytes)?;
        let positive = layout.metric == Metric::Cosine;
        if norms.iter().any(|norm| norm.is_nan() || *norm < 0.0 || (positive && *norm == 0.0)) {
            return Err(damaged("it holds a norm that no vector has"));
        }
        let (at, shape) = (layout.vectors_at(), (layout.dim as usize, layout.vectors));
        let vectors = match layout.element {
            Element::F32 => AnyVectors::F32(Vectors::open(source, at, shape, residency)?),
            Element::F16 => AnyVectors::F16(Vectors::open(source, at, shape, residency)?),
            Element::I8 => AnyVectors::I8(Vectors::open(source, at, shape, residency)?),
        };
        Ok(Self::new(layout, present, norms, vectors))
    }

    fn new(layout: Layout, present: Vec<DocId>, norms: Vec<f32>, vectors: AnyVectors) -> Self {
        let norm_max = norms.iter().copied().fold(0.0, f32::max);
        Self { layout, present, norms, norm_max, vectors, kernels: Kernels::best() }
    }

    /// The same index with the kernels of another level, for tests and measurements.
    pub fn with_kernels(mut self, kernels: &'static Kernels) -> Self {
        self.kernels = kernels;
        self
    }

    /// Docs of the segment, with a vector or without.
    pub fn docs(&self) -> u32 {
        self.layout.docs
    }

    /// Docs that have a vector.
    pub fn vectors(&self) -> u32 {
        self.layout.vectors
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Position of a doc's vector; `None` when it has none.
    fn ordinal(&self, doc: DocId) -> Option<u32> {
        if self.layout.is_complete() {
            return (doc < self.layout.docs).then_some(doc);
        }
        self.present.binary_search(&doc).ok().map(|at| at as u32)
    }

    /// Positions of the vectors of a range of docs.
    fn ordinals(&self, docs: Range<DocId>) -> Range<u32> {
        let docs = docs.start.min(self.layout.docs)..docs.end.min(self.layout.docs);
        if docs.is_empty() {
            return 0..0;
        }
        if self.layout.is_complete() {
            return docs;
        }
        let before = |doc: DocId| self.present.partition_point(|present| *present < doc) as u32;
        before(docs.start)..before(docs.end)
    }

    fn block_rows(&self) -> usize {
        let row_bytes = self.layout.dim as usize * self.layout.element.bytes();
        (BLOCK_BYTES / row_bytes).clamp(BLOCK_ROWS.start, BLOCK_ROWS.end) / 8 * 8
    }

    fn scoring(&self) -> Scoring {
        Scoring { kernels: self.kernels, metric: self.layout.metric }
    }

    /// Scores every allowed vector for the prepared queries.
    fn scan<T: Stored>(
        &self,
        vectors: &Vectors<T>,
        (rows, allow): (&[RowId], &Allow<'_>),
        tops: &mut [TopK],
        scratch: &mut FlatScratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let range = self.ordinals(allow.range.clone());
        if range.is_empty() || tops.is_empty() {
            return Ok(());
        }
        let FlatScratch { queries, scores, vectors: buffers, ordinals, docs, norms } = scratch;
        let gather = allow.count_max() * GATHER_SHARE <= range.len() as u64;
        let mut scan = Scan {
            scoring: self.scoring(),
            queries,
            rows,
            allow: Some(allow),
            norm_squared_max: f64::from(self.norm_max),
        };
        if !gather {
            let mut first = range.start;
            while first < range.end {
                allow.check_stop()?;
                let part = first..range.end.min(first.saturating_add(self.block_rows() as u32));
                let at = part.start as usize..part.end as usize;
                let block = Block {
                    vectors: vectors.block(part.clone(), buffers, counters)?,
                    norms: if self.norms.is_empty() { &[] } else { &self.norms[at.clone()] },
                    docs: match self.present.get(at) {
                        Some(docs) if !docs.is_empty() => Docs::List(docs),
                        _ => Docs::From(part.start),
                    },
                };
                scan.block(&block, tops, scores, counters);
                first = part.end;
            }
            return Ok(());
        }
        scan.allow = None;
        let mut allowed = allow.iter().take_while(|doc| *doc < self.layout.docs).peekable();
        while allowed.peek().is_some() {
            allow.check_stop()?;
            ordinals.clear();
            docs.clear();
            norms.clear();
            for doc in allowed.by_ref() {
                if let Some(ordinal) = self.ordinal(doc) {
                    ordinals.push(ordinal);
                    docs.push(doc);
                    norms.extend(self.norms.get(ordinal as usize));
                }
                if ordinals.len() == self.block_rows() {
                    break;
                }
            }
            let vectors = vectors.gather(ordinals, buffers, counters)?;
            if !vectors.is_empty() {
                scan.block(&Block { vectors, norms, docs: Docs::List(docs) }, tops, scores, counters);
            }
        }
        Ok(())
    }

    /// Scores `docs` for the one prepared query.
    fn score_docs<T: Stored>(
        &self,
        vectors: &Vectors<T>,
        (docs, scores): (&[DocId], &mut [f32]),
        scratch: &mut FlatScratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let FlatScratch { queries, scores: buffers, vectors: vector_buffers, ordinals, norms, .. } = scratch;
        let step = self.block_rows();
        for (docs, scores) in docs.chunks(step).zip(scores.chunks_mut(step)) {
            ordinals.clear();
            ordinals.extend(docs.iter().filter_map(|doc| self.ordinal(*doc)));
            norms.clear();
            norms.extend(ordinals.iter().filter_map(|ordinal| self.norms.get(*ordinal as usize)));
            scores.fill(f32::NAN);
            let vectors = vectors.gather(ordinals, vector_buffers, counters)?;
            if vectors.is_empty() {
                continue;
            }
            counters.vectors_scored += vectors.rows() as u64;
            let block = Block { vectors, norms, docs: Docs::From(0) };
            let values = self.scoring().one(queries, &block, buffers);
            let found = docs.iter().zip(scores).filter(|(doc, _)| self.ordinal(**doc).is_some());
            found.zip(values).for_each(|((_, score), value)| *score = *value);
        }
        Ok(())
    }

    fn check_rows(&self, rows: &[RowId]) -> Result<()> {
        if rows.len() < self.layout.docs as usize {
            return Err(Error::Invalid(format!(
                "{} rows are named for {} docs; name one a doc",
                rows.len(),
                self.layout.docs
            )));
        }
        Ok(())
    }

    fn prepare(&self, queries: Matrix<'_, f32>, scratch: &mut FlatScratch) -> Result<()> {
        let Layout { dim, element, metric, .. } = self.layout;
        scratch.queries.prepare(queries, dim as usize, element, metric)
    }
}

/// A query as a matrix of one row; one of no dimension cannot be.
fn one_query(query: &[f32]) -> Result<Matrix<'_, f32>> {
    if query.is_empty() {
        return Err(Error::Invalid("the query has 0 dimensions".into()));
    }
    Ok(Matrix::new(query, query.len()))
}

impl VectorIndex for Flat {
    fn search(
        &self,
        query: &[f32],
        rows: &[RowId],
        allow: &Allow<'_>,
        top: &mut TopK,
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let tops = std::slice::from_mut(top);
        self.search_batch(one_query(query)?, rows, allow, tops, scratch, counters)
    }

    fn search_batch(
        &self,
        queries: Matrix<'_, f32>,
        rows: &[RowId],
        allow: &Allow<'_>,
        tops: &mut [TopK],
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        self.check_rows(rows)?;
        if queries.rows() != tops.len() {
            let (queries, tops) = (queries.rows(), tops.len());
            return Err(Error::Invalid(format!("{queries} queries need as many results, not {tops}")));
        }
        self.prepare(queries, &mut scratch.flat)?;
        match &self.vectors {
            AnyVectors::F32(vectors) => self.scan(vectors, (rows, allow), tops, &mut scratch.flat, counters),
            AnyVectors::F16(vectors) => self.scan(vectors, (rows, allow), tops, &mut scratch.flat, counters),
            AnyVectors::I8(vectors) => self.scan(vectors, (rows, allow), tops, &mut scratch.flat, counters),
        }
    }

    fn score(
        &self,
        query: &[f32],
        docs: &[DocId],
        scores: &mut [f32],
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        if docs.len() != scores.len() {
            let (docs, scores) = (docs.len(), scores.len());
            return Err(Error::Invalid(format!("{docs} docs need as many scores, not {scores}")));
        }
        if let Some(doc) = docs.iter().find(|doc| **doc >= self.layout.docs) {
            let docs = self.layout.docs;
            return Err(Error::Invalid(format!("doc {doc} is not of this segment of {docs} docs")));
        }
        self.prepare(one_query(query)?, &mut scratch.flat)?;
        let wanted = (docs, scores);
        match &self.vectors {
            AnyVectors::F32(vectors) => self.score_docs(vectors, wanted, &mut scratch.flat, counters),
            AnyVectors::F16(vectors) => self.score_docs(vectors, wanted, &mut scratch.flat, counters),
            AnyVectors::I8(vectors) => self.score_docs(vectors, wanted, &mut scratch.flat, counters),
        }
    }

    fn memory_bytes(&self) -> usize {
        let vectors = match &self.vectors {
            AnyVectors::F32(vectors) => vectors.memory_bytes(),
            AnyVectors::F16(vectors) => vectors.memory_bytes(),
            AnyVectors::I8(vectors) => vectors.memory_bytes(),
        };
        size_of::<Self>()
            + vectors
            + self.present.len() * size_of::<DocId>()
            + self.norms.len() * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests;
