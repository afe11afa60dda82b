//! Which sparse vectors have the largest inner product with a query: learned term weights, tags with weights.
//!
//! A vector has up to 2^32 dimensions of which few are set. The score is the inner product over the
//! dimensions that both vectors have, summed in f32 in ascending order of dimension, so that every index
//! gives the same bits. Weights may be negative. A document that shares no dimension with the query is no
//! match and never returned, even where fewer than k documents match; one that shares some and whose products
//! cancel to zero is.
//!
//! [`SparseFlat`] scans every vector: exact, the index of fresh rows, and the oracle of the others.

mod flat;

use spandrel_storage::{DocId, RowId, SparseVector};

pub(crate) use self::flat::SparseScratch;
pub use self::flat::{SparseFlat, SparseFlatBuilder};
use crate::allow::Allow;
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::scratch::Scratch;
use crate::topk::TopK;

/// The sparse vectors of one field and segment. One virtual call a query and segment.
pub trait SparseIndex: Send + Sync {
    /// Offers the documents with the largest inner products to `top`, as rows.
    ///
    /// `rows` holds the row of each document of the segment; `allow` says which documents may be offered.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a query that [`check_vector`] refuses and for `rows` shorter than the segment.
    fn search(
        &self,
        query: &SparseVector,
        rows: &[RowId],
        allow: &Allow<'_>,
        top: &mut TopK,
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()>;

    /// The inner products of given documents into `scores`, NaN for one that shares no dimension with the
    /// query or does not have the field.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a query that [`check_vector`] refuses, for a document that the segment does not
    /// have, and for `scores` of another length than `docs`.
    fn score(
        &self,
        query: &SparseVector,
        docs: &[DocId],
        scores: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<()>;

    /// Documents of the segment, those without the field included.
    fn doc_count(&self) -> u32;

    /// Bytes of memory in use.
    fn memory_bytes(&self) -> usize;
}

/// Checks what a [`SparseVector`] promises.
///
/// # Errors
/// [`Error::Invalid`] when there are not as many weights as dimensions, when dimensions do not ascend
/// strictly, or when a weight is zero, NaN or infinite.
pub fn check_vector(vector: &SparseVector) -> Result<()> {
    let (dims, weights) = (&vector.dims, &vector.weights);
    if dims.len() != weights.len() {
        let message =
            format!("a sparse vector has one weight a dimension, not {} for {}", weights.len(), dims.len());
        return Err(Error::Invalid(message));
    }
    if let Some(pair) = dims.windows(2).find(|pair| pair[0] >= pair[1]) {
        let message =
            format!("dimensions of a sparse vector ascend, {} does not follow {}", pair[1], pair[0]);
        return Err(Error::Invalid(message));
    }
    match dims.iter().zip(weights).find(|(_, weight)| !weight.is_finite() || **weight == 0.0) {
        None => Ok(()),
        Some((dim, weight)) => {
            let message =
                format!("weights of a sparse vector are finite and not zero, dimension {dim} has {weight}");
            Err(Error::Invalid(message))
        }
    }
}

#[cfg(test)]
mod tests;
