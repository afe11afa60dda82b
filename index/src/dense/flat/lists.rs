//! Exact scores of a few docs for each of several queries, all of whose vectors are read together.
//!
//! In memory this is a search's scoring, list by list. From a file the vectors of all lists are in flight at
//! once, where scoring one list after the other would wait for the device once a list.

use spandrel_storage::DocId;

use super::scan::{Block, Docs};
use super::{AnyVectors, BLOCK_BYTES, Flat, FlatScratch, one_query};
use crate::counters::Counters;
use crate::dense::VectorIndex;
use crate::dense::vectors::{Stored, Vectors};
use crate::error::Result;
use crate::matrix::Matrix;
use crate::scratch::Scratch;

impl Flat {
    /// Scores `docs` as [`score`](VectorIndex::score) does: those before `ends[0]` for the first query, from
    /// there to `ends[1]` for the second, and so on. All have vectors.
    ///
    /// # Errors
    /// As [`score`](VectorIndex::score).
    ///
    /// # Panics
    /// When there is not an end for each query and a score for each doc, or a doc has no vector.
    pub(crate) fn score_lists(
        &self,
        queries: Matrix<'_, f32>,
        (docs, ends): (&[DocId], &[usize]),
        scores: &mut [f32],
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        assert!(queries.rows() == ends.len() && docs.len() == scores.len(), "a list for each query");
        if self.is_at_hand() {
            let mut start = 0;
            for (query, end) in queries.iter().zip(ends) {
                let (list, scores) = (&docs[start..*end], &mut scores[start..*end]);
                self.score(query, list, scores, scratch, counters)?;
                start = *end;
            }
            return Ok(());
        }
        let (lists, scratch) = ((docs, ends), &mut scratch.flat);
        match &self.vectors {
            AnyVectors::F32(vectors) => self.score_read(vectors, queries, lists, scores, scratch, counters),
            AnyVectors::F16(vectors) => self.score_read(vectors, queries, lists, scores, scratch, counters),
            AnyVectors::I8(vectors) => self.score_read(vectors, queries, lists, scores, scratch, counters),
        }
    }

    fn score_read<T: Stored>(
        &self,
        vectors: &Vectors<T>,
        queries: Matrix<'_, f32>,
        (docs, ends): (&[DocId], &[usize]),
        scores: &mut [f32],
        scratch: &mut FlatScratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let FlatScratch { queries: ready, scores: buffers, vectors: vector_buffers, ordinals, norms, .. } =
            scratch;
        let (dim, element, metric) = (self.layout.dim as usize, self.layout.element, self.layout.metric);
        let step = vectors.gather_rows(self.block_rows(BLOCK_BYTES));
        for first in (0..docs.len()).step_by(step) {
            let part = first..docs.len().min(first + step);
            ordinals.clear();
            norms.clear();
            for doc in &docs[part.clone()] {
                let ordinal = self.ordinal(*doc).expect("the doc has a vector");
                ordinals.push(ordinal);
                norms.extend(self.norms.get(ordinal as usize));
            }
            counters.scored += ordinals.len() as u64;
            let rows = vectors.gather(ordinals, vector_buffers, counters)?;
            let mut start = 0;
            for (query, end) in queries.iter().zip(ends) {
                let list = start.clamp(part.start, part.end)..(*end).clamp(part.start, part.end);
                start = *end;
                if list.is_empty() {
                    continue;
                }
                ready.prepare(self.kernels, one_query(query)?, dim, element, metric)?;
                let at = list.start - part.start..list.end - part.start;
                let norms = if norms.is_empty() { &[] } else { &norms[at.clone()] };
                let block = Block { vectors: rows.slice(at), norms, docs: Docs::From(0) };
                scores[list].copy_from_slice(self.scoring().one(ready, &block, buffers));
            }
        }
        Ok(())
    }
}
