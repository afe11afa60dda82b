//! Scores of a few vectors at hand at a time, for one query: what an index asks for that goes from vector to
//! vector.
//!
//! The same bits as [`Flat::score`](crate::dense::VectorIndex::score) gives, without its look-up of docs and
//! without making the query ready again. A vector is fetched while the one before it is scored.

use spandrel_storage::Metric;

use super::scan::ScoreBuffers;
use super::{AnyVectors, Flat, FlatScratch, one_query};
use crate::dense::vectors::{Stored, Vectors};
use crate::error::Result;

/// One query, ready to be compared.
pub(in crate::dense) struct Near<'a> {
    flat: &'a Flat,
    scratch: &'a mut FlatScratch,
}

impl Flat {
    /// Makes a query ready.
    ///
    /// # Errors
    /// As [`VectorIndex::search`](crate::dense::VectorIndex::search).
    pub(in crate::dense) fn near<'a>(
        &'a self,
        query: &[f32],
        scratch: &'a mut FlatScratch,
    ) -> Result<Near<'a>> {
        scratch.queries.prepare(
            self.kernels,
            one_query(query)?,
            self.layout.dim as usize,
            self.layout.element,
            self.layout.metric,
        )?;
        Ok(Near { flat: self, scratch })
    }
}

impl Near<'_> {
    /// Scores vectors by their ordinals.
    ///
    /// # Panics
    /// When there are not as many vectors, or they are not in memory.
    pub(in crate::dense) fn score(&mut self, ordinals: &[u32], scores: &mut Vec<f32>) {
        scores.clear();
        match &self.flat.vectors {
            AnyVectors::F32(vectors) => self.of(vectors, ordinals, scores),
            AnyVectors::F16(vectors) => self.of(vectors, ordinals, scores),
            AnyVectors::I8(vectors) => self.of(vectors, ordinals, scores),
        }
    }

    fn of<T: Stored>(&mut self, vectors: &Vectors<T>, ordinals: &[u32], scores: &mut Vec<f32>) {
        let rows = vectors.at_hand().expect("vectors are in memory");
        let FlatScratch { queries, scores: buffers, norms, .. } = &mut *self.scratch;
        norms.clear();
        if self.flat.layout.metric == Metric::Cosine {
            norms.extend(ordinals.iter().filter_map(|ordinal| self.flat.norms.get(*ordinal as usize)));
        }
        let buffers: &mut ScoreBuffers = buffers;
        self.flat.score_in_place(rows, ordinals, norms, queries, buffers, |_, score| scores.push(score));
    }
}
