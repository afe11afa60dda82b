//! Which vectors are nearest, exactly: every allowed vector is scored.
//!
//! The right index for small segments, for selective filters and for fresh rows, and the oracle of every
//! other one. Time `O(allowed vectors x dim)`, bound by memory bandwidth for one query and by arithmetic for
//! a batch; memory `dim x element` a vector (nothing with [`Residency::Disk`]), 4 bytes more for
//! norms where they are kept, 4 more when some docs have no vector.
//!
//! Scores of f16 and i8 fields are exact over the stored (rounded) values. A cosine is the dot product of the
//! normalised query with a vector normalised at build (f32), or the dot product divided by the norms of what
//! is stored (f16, i8).

mod build;
mod layout;
mod lists;
mod near;
mod place;
mod positions;
mod query;
mod scan;

use std::ops::Range;
use std::sync::Arc;

use half::f16;
use spandrel_storage::{DenseSpec, DocId, Element, Metric, RowId};

use self::layout::{HEADER_BYTES, Layout, read_list};
use self::positions::Places;
use self::query::{Queries, check_query};
use self::scan::{Block, Docs, Scan, ScoreBuffers, Scoring};
use super::vectors::{ChunkSource, Residency, Stored, VectorBuffers, Vectors};
use super::{Ask, VectorIndex};
use crate::allow::Allow;
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::scratch::Scratch;
use crate::simd::{Kernels, STREAM_BYTES};
use crate::topk::TopK;

pub(crate) use self::build::FirstFailure;
pub use self::build::{AppendBuffers, FlatBuilder};

/// Bytes of vectors scored at once: they stay in the second-level cache while the queries of a batch pass.
const BLOCK_BYTES: usize = 192 << 10;
/// Vectors scored at once, at least and at most; their scores take 4 bytes each.
const BLOCK_ROWS: Range<usize> = 8..65_536;
/// Vectors that are on their way while one is scored where it lies.
const AHEAD_ROWS: usize = 3;
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

    /// Bytes of a vector.
    pub(crate) fn vector_bytes(&self) -> usize {
        self.layout.dim as usize * self.layout.element.bytes()
    }

    /// The doc of a vector.
    ///
    /// # Panics
    /// When there are not as many vectors.
    pub(crate) fn doc(&self, ordinal: u32) -> DocId {
        if self.layout.is_complete() { ordinal } else { self.present[ordinal as usize] }
    }

    /// Whether a search by `query` is a valid one; see [`VectorIndex::search`].
    pub(crate) fn check(&self, query: &[f32], rows: &[RowId]) -> Result<()> {
        self.check_rows(rows)?;
        check_query(query, self.layout.dim as usize, self.layout.metric)
    }

    /// Position of a doc's vector; `None` when it has none.
    pub(crate) fn ordinal(&self, doc: DocId) -> Option<u32> {
        if self.layout.is_complete() {
            return (doc < self.layout.docs).then_some(doc);
        }
        self.present.binary_search(&doc).ok().map(|at| at as u32)
    }

    /// Whether every doc has a vector, so that positions are docs.
    pub(crate) fn is_complete(&self) -> bool {
        self.layout.is_complete()
    }

    /// Positions of the vectors of ascending docs; none for a doc without one.
    pub(crate) fn positions(&self, docs: impl Iterator<Item = DocId>) -> impl Iterator<Item = Option<u32>> {
        let mut places = Places::new(self);
        docs.map(move |doc| places.next(doc))
    }

    /// Positions of the vectors of a range of docs.
    pub(crate) fn ordinals(&self, docs: Range<DocId>) -> Range<u32> {
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

    /// Vectors of a block of this many bytes.
    fn block_rows(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.vector_bytes()).clamp(BLOCK_ROWS.start, BLOCK_ROWS.end).next_multiple_of(8)
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
        if allow.count_max() * GATHER_SHARE <= range.len() as u64 {
            return self.scan_gathered(vectors, (rows, allow), tops, scratch, counters);
        }
        let FlatScratch { queries, scores, vectors: buffers, .. } = scratch;
        let scan = Scan { allow: Some(allow), ..self.over(queries, rows) };
        // For one query nothing has to stay in a cache, and the kernel is to see that it reads a long run.
        let bytes = if tops.len() == 1 { STREAM_BYTES } else { BLOCK_BYTES };
        let (block_rows, window_rows) = (self.block_rows(bytes) as u32, vectors.window_rows());
        let mut first = range.start;
        while first < range.end {
            allow.check_stop()?;
            let window = first..range.end.min(first.saturating_add(window_rows));
            let rows_at_hand = vectors.window(window.clone(), buffers, counters)?;
            for start in window.clone().step_by(block_rows as usize) {
                allow.check_stop()?;
                let at = start as usize..window.end.min(start.saturating_add(block_rows)) as usize;
                let base = window.start as usize;
                let block = Block {
                    vectors: rows_at_hand.slice(at.start - base..at.end - base),
                    norms: if self.norms.is_empty() { &[] } else { &self.norms[at.clone()] },
                    docs: match self.present.get(at) {
                        Some(docs) if !docs.is_empty() => Docs::List(docs),
                        _ => Docs::From(start),
                    },
                };
                scan.block(&block, tops, scores, counters);
            }
            first = window.end;
        }
        Ok(())
    }

    /// As `scan`, by the vectors of the allowed docs alone.
    fn scan_gathered<T: Stored>(
        &self,
        vectors: &Vectors<T>,
        (rows, allow): (&[RowId], &Allow<'_>),
        tops: &mut [TopK],
        scratch: &mut FlatScratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let FlatScratch { queries, scores, vectors: buffers, ordinals, docs, norms } = scratch;
        let scan = self.over(queries, rows);
        let block_rows = self.block_rows(BLOCK_BYTES);
        let gather_rows = vectors.gather_rows(block_rows);
        let mut places = Places::new(self);
        let mut allowed = allow.iter().take_while(|doc| *doc < self.layout.docs).peekable();
        while allowed.peek().is_some() {
            allow.check_stop()?;
            ordinals.clear();
            docs.clear();
            norms.clear();
            for doc in allowed.by_ref() {
                if let Some(ordinal) = places.next(doc) {
                    ordinals.push(ordinal);
                    docs.push(doc);
                    norms.extend(self.norms.get(ordinal as usize));
                }
                if ordinals.len() == gather_rows {
                    break;
                }
            }
            if let ([top], Some(all)) = (&mut *tops, vectors.at_hand()) {
                counters.scored += ordinals.len() as u64;
                // Their rows are on the way with the vectors.
                let ask_for = |doc: &DocId| self.kernels.prefetch(&rows[*doc as usize..=*doc as usize]);
                docs.iter().take(2 * AHEAD_ROWS).for_each(ask_for);
                self.score_in_place(all, ordinals, norms, queries, scores, |at, score| {
                    docs.get(at + 2 * AHEAD_ROWS).into_iter().for_each(ask_for);
                    top.push(score, (rows[docs[at] as usize], docs[at]));
                });
                continue;
            }
            let gathered = vectors.gather(ordinals, buffers, counters)?;
            for start in (0..gathered.rows()).step_by(block_rows) {
                let at = start..gathered.rows().min(start + block_rows);
                let block = Block {
                    vectors: gathered.slice(at.clone()),
                    norms: if norms.is_empty() { &[] } else { &norms[at.clone()] },
                    docs: Docs::List(&docs[at]),
                };
                scan.block(&block, tops, scores, counters);
            }
        }
        Ok(())
    }

    /// A scan whose docs are all allowed.
    fn over<'a>(&self, queries: &'a Queries, rows: &'a [RowId]) -> Scan<'a> {
        let norm_squared_max = f64::from(self.norm_max);
        Scan { scoring: self.scoring(), queries, rows, allow: None, norm_squared_max }
    }

    /// Scores `docs` for the one prepared query.
    fn score_docs<T: Stored>(
        &self,
        vectors: &Vectors<T>,
        (docs, scores): (&[DocId], &mut [f32]),
        scratch: &mut FlatScratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let FlatScratch { queries, scores: buffers, vectors: vector_buffers, ordinals, docs: places, norms } =
            scratch;
        let step = vectors.gather_rows(self.block_rows(BLOCK_BYTES));
        for (docs, scores) in docs.chunks(step).zip(scores.chunks_mut(step)) {
            ordinals.clear();
            places.clear();
            norms.clear();
            for (place, doc) in (0..).zip(docs) {
                if let Some(ordinal) = self.ordinal(*doc) {
                    ordinals.push(ordinal);
                    places.push(place);
                    norms.extend(self.norms.get(ordinal as usize));
                }
            }
            scores.fill(f32::NAN);
            counters.scored += ordinals.len() as u64;
            if let Some(rows) = vectors.at_hand() {
                self.score_in_place(rows, ordinals, norms, queries, buffers, |at, score| {
                    scores[places[at] as usize] = score;
                });
                continue;
            }
            let vectors = vectors.gather(ordinals, vector_buffers, counters)?;
            if vectors.is_empty() {
                continue;
            }
            let block = Block { vectors, norms, docs: Docs::From(0) };
            let values = self.scoring().one(queries, &block, buffers);
            places.iter().zip(values).for_each(|(place, value)| scores[*place as usize] = *value);
        }
        Ok(())
    }

    /// Scores vectors where they lie, the next ones on their way while one is scored.
    fn score_in_place<T: Stored>(
        &self,
        rows: Matrix<'_, T>,
        ordinals: &[u32],
        norms: &[f32],
        queries: &Queries,
        buffers: &mut ScoreBuffers,
        mut each: impl FnMut(usize, f32),
    ) {
        let fetch = |ordinal: &u32| self.kernels.prefetch(rows.row(*ordinal as usize));
        ordinals.iter().take(AHEAD_ROWS).for_each(fetch);
        for (at, ordinal) in ordinals.iter().enumerate() {
            ordinals.get(at + AHEAD_ROWS).into_iter().for_each(fetch);
            let ordinal = *ordinal as usize;
            let norms = if norms.is_empty() { &[] } else { &norms[at..=at] };
            let block = Block { vectors: rows.slice(ordinal..ordinal + 1), norms, docs: Docs::From(0) };
            each(at, self.scoring().one(queries, &block, buffers)[0]);
        }
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
        scratch.queries.prepare(self.kernels, queries, dim as usize, element, metric)
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
        ask: &Ask<'_>,
        top: &mut TopK,
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let tops = std::slice::from_mut(top);
        self.search_batch(one_query(query)?, ask, tops, scratch, counters)
    }

    fn search_batch(
        &self,
        queries: Matrix<'_, f32>,
        ask: &Ask<'_>,
        tops: &mut [TopK],
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let Ask { rows, allow, .. } = *ask;
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

    fn scans(&self, _: &Ask<'_>, _: usize) -> bool {
        true
    }

    fn memory_bytes(&self) -> usize {
        let vectors = match &self.vectors {
            AnyVectors::F32(vectors) => vectors.memory_bytes(),
            AnyVectors::F16(vectors) => vectors.memory_bytes(),
            AnyVectors::I8(vectors) => vectors.memory_bytes(),
        };
        size_of::<Self>() + vectors + (self.present.len() + self.norms.len()) * 4
    }

    fn kind(&self) -> &'static str {
        "flat"
    }

    fn flat(&self) -> &Flat {
        self
    }
}

#[cfg(test)]
mod tests;
