//! The seam of dense search: what every index over the dense vectors of one segment and field answers.
//!
//! One virtual call a query; inside, nothing is virtual per vector. [`flat`] is exact and the oracle of every
//! other index. Vectors may be absent: a doc without a vector in the field is never found and has no score.

pub mod flat;
pub mod vectors;

use spandrel_storage::{DocId, RowId};

use crate::allow::Allow;
use crate::counters::Counters;
use crate::error::Result;
use crate::matrix::Matrix;
use crate::scratch::Scratch;
use crate::topk::TopK;

/// An index over the vectors of one dense field of one segment.
///
/// Queries are as the user sent them, of the field's dimension and finite; a cosine index normalises them
/// itself. Scores are larger-is-better: minus the squared distance (L2), the inner product, or the cosine in
/// -1..=1. They are finite: a score outside the range of f32 is the nearest finite f32. `rows` names the row
/// of every doc of the segment.
pub trait VectorIndex: Send + Sync {
    /// Offers the allowed docs nearest to `query` to `top`. An exact index offers every doc that belongs
    /// there.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) when the query has another dimension, is not finite, or is
    /// zero under cosine, or when `rows` names fewer rows than there are docs; a storage error when vectors
    /// cannot be read. `top` then holds a part of the answer.
    fn search(
        &self,
        query: &[f32],
        rows: &[RowId],
        allow: &Allow<'_>,
        top: &mut TopK,
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()>;

    /// Searches with every query (`queries: q x dim`, `tops: q`): the same results, bit for bit, as one
    /// [`search`](Self::search) each, with the vectors read once for all.
    ///
    /// # Errors
    /// As [`search`](Self::search); also when there is not one `top` a query.
    fn search_batch(
        &self,
        queries: Matrix<'_, f32>,
        rows: &[RowId],
        allow: &Allow<'_>,
        tops: &mut [TopK],
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()>;

    /// The exact scores of `docs` (any order, may repeat), the same bits as an exact search gives. `scores`
    /// has one value a doc; it is NaN for a doc without a vector.
    ///
    /// # Errors
    /// As [`search`](Self::search); also when a doc is not of this segment or `scores` has another length
    /// than `docs`.
    fn score(
        &self,
        query: &[f32],
        docs: &[DocId],
        scores: &mut [f32],
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()>;

    /// Bytes of memory that the index keeps.
    fn memory_bytes(&self) -> usize;
}
