//! Which texts say the words of a question: BM25 over the text fields of a segment.
//!
//! Two forms of one index behind [`TextIndex`]: [`MemoryText`] for fresh rows, built on the write path, and
//! [`SegmentText`], a tantivy segment that is part of a segment file. Both give a document the same score to
//! the bit: same terms ([`Analyzer`]), same length quantisation, same f32 operations in the order of the
//! query's terms, and statistics of the tenant over the whole collection ([`TextStats`]), which the caller
//! sums over all segments of its snapshot first. Statistics count deleted documents until a merge drops them,
//! as in Lucene.
//!
//! A query runs in three steps: [`TextIndex::stats`] on every segment, [`Bm25::new`] once,
//! [`TextIndex::search`] on every segment. It is not for phrases or positions (none are kept), nor for
//! filters over words: that is [`payload`](crate::payload)'s text kind. tantivy's types do not leave this
//! folder.

mod analyze;
mod bm25;
mod build;
mod directory;
mod memory;
mod search;
mod stats;

use std::ops::Range;

use spandrel_storage::{DocId, RowId};

pub use self::analyze::{Analyzer, FieldTerms, TERM_BYTES_MAX, TextDoc};
pub use self::bm25::Bm25;
pub use self::build::TextBuilder;
pub use self::memory::MemoryText;
pub use self::search::SegmentText;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use self::search::read_totals;
pub use self::stats::{Match, QUERY_TERMS_MAX, TextQuery, TextStats};
use crate::allow::Allow;
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::topk::TopK;

/// The text fields of one segment, in memory or on disk. One virtual call a query and segment.
pub trait TextIndex: Send + Sync {
    /// Adds what this segment knows of the query's tenant to `stats`.
    ///
    /// `docs` is the tenant's range of documents in this segment. Cost: one dictionary lookup a term.
    ///
    /// # Errors
    /// [`Error::Text`] when the index on disk cannot be read.
    fn stats(&self, query: &TextQuery, docs: Range<DocId>, stats: &mut TextStats) -> Result<()>;

    /// Offers the best documents of the query to `top`, scored by `bm25`, as rows.
    ///
    /// `rows` holds the row of each document of the segment; `allow` says which documents may be offered,
    /// `allow.range` is the tenant's. Every document that belongs into `top` is offered; a document without
    /// any (for [`Match::All`]: without all) of the terms is not.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `rows` is shorter than the segment; [`Error::Text`] when the index cannot be
    /// read.
    fn search(
        &self,
        query: &TextQuery,
        bm25: &Bm25,
        rows: &[RowId],
        allow: &Allow<'_>,
        top: &mut TopK,
        counters: &mut Counters,
    ) -> Result<()>;

    /// The scores of given documents of the tenant, ascending, into `scores`; NaN for one without any of
    /// the terms.
    ///
    /// [`Match::All`] plays no part: a document is scored for the terms that it has.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `docs` do not ascend or `scores` has another length; [`Error::Text`] when the
    /// index cannot be read.
    fn score(&self, query: &TextQuery, bm25: &Bm25, docs: &[DocId], scores: &mut [f32]) -> Result<()>;

    /// Documents of the segment.
    fn doc_count(&self) -> u32;

    /// Bytes of memory in use.
    fn memory_bytes(&self) -> usize;
}

/// Checks that `rows` covers a segment.
fn check_rows(rows: &[RowId], doc_count: u32) -> Result<()> {
    if rows.len() >= doc_count as usize {
        return Ok(());
    }
    Err(Error::Invalid(format!("{} rows were given for a segment of {doc_count} documents", rows.len())))
}

/// Checks the arguments of [`TextIndex::score`].
fn check_docs(docs: &[DocId], scores: &[f32]) -> Result<()> {
    if docs.len() == scores.len() && docs.is_sorted() {
        return Ok(());
    }
    Err(Error::Invalid("documents to score must ascend, with one place for a score each".into()))
}

#[cfg(test)]
mod tests;
