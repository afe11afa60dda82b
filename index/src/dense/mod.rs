//! The seam of dense search: what every index over the dense vectors of one segment and field answers.
//!
//! One virtual call a query; inside, nothing is virtual per vector. [`flat`] is exact and the oracle of every
//! other index. Vectors may be absent: a doc without a vector in the field is never found and has no score.

pub mod flat;
pub mod hnsw;
pub mod signs;
mod space;
pub mod ssd;
pub mod standing;
pub mod vectors;

pub use flat::Flat;
pub use hnsw::Hnsw;
pub use signs::Signs;
pub(crate) use space::Rows;
pub use ssd::{Gathered, Learned, Ssd};

use std::ops::Range;

use spandrel_storage::{DocId, RowId};

use self::standing::{Part, Reach};

use crate::allow::Allow;
use crate::counters::Counters;
use crate::error::Result;
use crate::matrix::Matrix;
use crate::scratch::Scratch;
use crate::topk::TopK;

/// How good an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchParams {
    /// Share of the true nearest that an approximate index is to find, on average.
    pub recall: f32,
    /// Whether every vector is to be scored instead.
    pub exact: bool,
    /// Whether what was found by codes gets its exact score. Where it does not and codes are of a byte a
    /// dimension, results have the scores that they were ranked by, and no vector is read.
    pub rescore: bool,
}

impl Default for SearchParams {
    fn default() -> Self {
        Self { recall: 0.95, exact: false, rescore: true }
    }
}

/// What a search is asked of, besides its query.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The row of every doc of the segment.
    pub rows: &'a [RowId],
    /// The docs that the query may see.
    pub allow: &'a Allow<'a>,
    /// How good the answer has to be; an exact index has no use for it.
    pub params: SearchParams,
    /// What queries have taught about the index, where they have.
    pub learned: Option<&'a Learned>,
    /// What the index has [gathered](VectorIndex::gather) of exactly the docs that the filter lets through.
    pub gathered: Option<&'a Gathered>,
}

impl<'a> Ask<'a> {
    /// With the default parameters.
    pub fn new(rows: &'a [RowId], allow: &'a Allow<'a>) -> Self {
        Self { rows, allow, params: SearchParams::default(), learned: None, gathered: None }
    }
}

/// How a search is going to be answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// `exact`, `codes`, `signs`, `cells` or `graph`.
    pub plan: &'static str,
    /// How many vectors it may find, at most: which of those that match are deleted is not counted.
    pub matches: u64,
    /// The time that it is expected to take, where that is why it was chosen.
    pub estimate_us: Option<f32>,
}

/// An index over the vectors of one dense field of one segment.
///
/// Queries are as the user sent them, of the field's dimension and finite; a cosine index normalises them
/// itself. Scores are larger-is-better: minus the squared distance (L2), the inner product, or the cosine in
/// -1..=1. They are finite: a score outside the range of f32 is the nearest finite f32.
pub trait VectorIndex: Send + Sync {
    /// Offers the allowed docs nearest to `query` to `top`. An exact index offers every doc that belongs
    /// there.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) when the query has another dimension, is not finite, or is
    /// zero under cosine, or when `ask` names fewer rows than there are docs; a storage error when vectors
    /// cannot be read. `top` then holds a part of the answer.
    fn search(
        &self,
        query: &[f32],
        ask: &Ask<'_>,
        top: &mut TopK,
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()>;

    /// Searches with every query (`queries: q x dim`, `tops: q`), with what they have in common read once for
    /// all. Of an exact index the results are the same, bit for bit, as of one [`search`](Self::search) each;
    /// any other finds as many of the nearest, not always the same.
    ///
    /// # Errors
    /// As [`search`](Self::search); also when there is not one `top` a query.
    fn search_batch(
        &self,
        queries: Matrix<'_, f32>,
        ask: &Ask<'_>,
        tops: &mut [TopK],
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        if queries.rows() != tops.len() || tops.iter().any(|top| self.scans(ask, top.k())) {
            return self.flat().search_batch(queries, ask, tops, scratch, counters);
        }
        for (query, top) in queries.iter().zip(tops) {
            self.search(query, ask, top, scratch, counters)?;
        }
        Ok(())
    }

    /// Whether a search for `k` results leaves all of it to the exact index.
    fn scans(&self, ask: &Ask<'_>, k: usize) -> bool;

    /// How a search for `k` results is going to be answered, for `explain`.
    fn choice(&self, ask: &Ask<'_>, k: usize) -> Choice {
        let plan = match self.kind() {
            "flat" => "exact",
            _ if self.scans(ask, k) => "exact",
            kind => kind,
        };
        Choice { plan, matches: ask.allow.count_max(), estimate_us: None }
    }

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
    ) -> Result<()> {
        self.flat().score(query, docs, scores, scratch, counters)
    }

    /// Bytes of memory that the index keeps.
    fn memory_bytes(&self) -> usize;

    /// What it searches by, in a word: `flat`, `signs`, `cells` or `graph`.
    fn kind(&self) -> &'static str;

    /// The exact index over the same vectors.
    fn flat(&self) -> &Flat;

    /// Measures how far searches like `queries` have to go for a recall: what to [ask](Ask) with from now on.
    /// None where it has no use for that, or there are too few queries. Takes as long as some thousands of
    /// searches and an exact one by all queries together.
    ///
    /// # Errors
    /// Vectors cannot be read.
    fn learn(&self, queries: Matrix<'_, f32>, threads: usize) -> Result<Option<Learned>> {
        let _ = (queries, threads);
        Ok(None)
    }

    /// A copy of what searches like this one look at of the docs that its filter lets through: what to
    /// [ask](Ask) with as long as a filter lets through exactly these. None where that helps nothing, or
    /// would take more than `bytes_max` of memory. About 30 ns a doc.
    fn gather(&self, ask: &Ask<'_>, k: usize, bytes_max: usize) -> Option<Gathered> {
        let _ = (ask, k, bytes_max);
        None
    }

    /// How the vectors of a range of docs are searched; none where there are none.
    fn reach(&self, docs: Range<DocId>) -> Option<Reach> {
        (!self.flat().ordinals(docs).is_empty()).then_some(Reach::Scored)
    }

    /// What searches of the vectors of a range of docs read.
    fn parts(&self, docs: Range<DocId>) -> Vec<Part<'_>> {
        vec![self.flat().part(docs)]
    }

    /// Its sign codes, when it searches by those.
    fn codes(&self) -> Option<&signs::Codes> {
        None
    }

    /// What its cells were made with, when it has cells.
    ///
    /// # Errors
    /// Its section cannot be read, or is damaged.
    fn trained(&self) -> Result<Option<ssd::Trained<'_>>> {
        Ok(None)
    }
}
