//! The text index of fresh rows: postings in memory, scored without pruning.
//!
//! Build is one hash lookup and one counting-sort step a posting, so that a commit can afford it; nothing is
//! compressed: 8 bytes a posting, 13 bytes a document and field, and each distinct term once. A query adds up
//! the postings of its terms within the tenant's range of documents in an array of scores. Larger pieces and
//! segments on disk are built of the same [`TextDoc`]s again, so that no text is analysed twice.

use std::ops::Range;

use spandrel_storage::{DocId, FieldId, RowId};
use tantivy::fieldnorm::FieldNormReader;

use super::analyze::TextDoc;
use super::stats::QueryTerm;
use super::{Bm25, Match, TextIndex, TextQuery, TextStats, check_docs, check_rows};
use crate::allow::Allow;
use crate::counters::Counters;
use crate::error::Result;
use crate::intern::Interner;
use crate::topk::TopK;

/// A document that has a term, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Posting {
    doc: DocId,
    freq: u32,
}

/// The postings of one text field.
#[derive(Clone, Debug)]
struct FieldPostings {
    field: FieldId,
    terms: Interner,
    /// Where the postings of each term start; one entry more than there are terms.
    starts: Vec<u32>,
    /// Ascending by document within a term.
    postings: Vec<Posting>,
    /// The rounded length of each document.
    norms: Vec<u8>,
    /// How many documents before each one have the field; one entry more than there are documents.
    docs_before: Vec<u32>,
    /// How many tokens they have.
    tokens_before: Vec<u64>,
}

/// The text fields of some documents, in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryText {
    doc_count: u32,
    /// Ascending by field; only those that occur.
    fields: Vec<FieldPostings>,
}

impl MemoryText {
    /// The index of these documents, numbered from 0 in this order.
    ///
    /// # Panics
    /// When they have 2^32 postings or more; a piece of the memtable is far smaller.
    pub fn build<'a>(docs: impl IntoIterator<Item = &'a TextDoc>) -> Self {
        let (mut fields, mut doc_count): (Vec<Collected>, u32) = (Vec::new(), 0);
        for doc in docs {
            for terms in doc.fields() {
                let field = Collected::of(&mut fields, terms.field());
                field.lengths.push((doc_count, terms.tokens()));
                for (hash, term, freq) in terms.hashed() {
                    let term = field.terms.intern(hash, term.as_bytes());
                    field.entries.push((term, Posting { doc: doc_count, freq }));
                }
            }
            doc_count += 1;
        }
        Self::finish(fields, doc_count)
    }

    fn finish(mut fields: Vec<Collected>, doc_count: u32) -> Self {
        fields.retain(|field| !field.lengths.is_empty());
        fields.sort_by_key(|field| field.field);
        let fields = fields.into_iter().map(|field| field.finish(doc_count)).collect();
        Self { doc_count, fields }
    }

    fn field(&self, field: FieldId) -> Option<&FieldPostings> {
        self.fields.iter().find(|postings| postings.field == field)
    }
}

/// Postings of one field in the order of documents.
#[derive(Debug)]
struct Collected {
    field: FieldId,
    terms: Interner,
    entries: Vec<(u32, Posting)>,
    /// `(document, tokens)`, one a document that has the field.
    lengths: Vec<(DocId, u32)>,
}

impl Collected {
    fn of(fields: &mut Vec<Self>, field: FieldId) -> &mut Self {
        let at = fields.iter().position(|collected| collected.field == field).unwrap_or_else(|| {
            fields.push(Self { field, terms: Interner::default(), entries: Vec::new(), lengths: Vec::new() });
            fields.len() - 1
        });
        &mut fields[at]
    }

    fn finish(mut self, doc_count: u32) -> FieldPostings {
        let mut starts = vec![0u32; self.terms.len() + 1];
        for (term, _) in &self.entries {
            starts[*term as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] = starts[at].checked_add(starts[at - 1]).expect("fewer than 2^32 postings");
        }
        let mut next = starts.clone();
        let mut postings = vec![Posting { doc: 0, freq: 0 }; self.entries.len()];
        for (term, posting) in self.entries {
            let slot = &mut next[term as usize];
            postings[*slot as usize] = posting;
            *slot += 1;
        }
        for run in starts.windows(2) {
            let run = &mut postings[run[0] as usize..run[1] as usize];
            if !run.is_sorted_by_key(|posting| posting.doc) {
                run.sort_unstable_by_key(|posting| posting.doc);
            }
        }
        self.lengths.sort_unstable();
        let mut norms = vec![0; doc_count as usize];
        let (mut docs_before, mut tokens_before) = (Vec::new(), Vec::new());
        let (mut docs, mut tokens, mut lengths) = (0, 0, self.lengths.iter().peekable());
        for doc in 0..doc_count {
            docs_before.push(docs);
            tokens_before.push(tokens);
            if let Some((_, length)) = lengths.next_if(|(with, _)| *with == doc) {
                norms[doc as usize] = FieldNormReader::fieldnorm_to_id(*length);
                docs += 1;
                tokens += u64::from(*length);
            }
        }
        docs_before.push(docs);
        tokens_before.push(tokens);
        self.terms.shrink();
        let (field, terms) = (self.field, self.terms);
        FieldPostings { field, terms, starts, postings, norms, docs_before, tokens_before }
    }
}

impl FieldPostings {
    /// All postings of a term by its number.
    fn run(&self, term: u32) -> &[Posting] {
        &self.postings[self.starts[term as usize] as usize..self.starts[term as usize + 1] as usize]
    }

    /// The postings of a term within a range of documents.
    fn find(&self, term: &QueryTerm, docs: &Range<DocId>) -> &[Posting] {
        let Some(number) = self.terms.find(term.hash, term.text.as_bytes()) else { return &[] };
        let run = self.run(number);
        let from = run.partition_point(|posting| posting.doc < docs.start);
        let to = run.partition_point(|posting| posting.doc < docs.end);
        &run[from..to.max(from)]
    }
}

impl TextIndex for MemoryText {
    fn stats(&self, query: &TextQuery, docs: Range<DocId>, stats: &mut TextStats) -> Result<()> {
        let docs = docs.start.min(self.doc_count)..docs.end.min(self.doc_count);
        if let (Some(field), false) = (self.field(query.field), docs.is_empty()) {
            let (from, to) = (docs.start as usize, docs.end as usize);
            stats.docs += u64::from(field.docs_before[to] - field.docs_before[from]);
            let tokens = field.tokens_before[to] - field.tokens_before[from];
            stats.tokens = stats.tokens.saturating_add(tokens);
            for (term, doc_freq) in query.terms.iter().zip(&mut stats.doc_freq) {
                *doc_freq += field.find(term, &docs).len() as u64;
            }
        }
        Ok(())
    }

    fn search(
        &self,
        query: &TextQuery,
        bm25: &Bm25,
        rows: &[RowId],
        allow: &Allow<'_>,
        top: &mut TopK,
        counters: &mut Counters,
    ) -> Result<()> {
        check_rows(rows, self.doc_count)?;
        let docs = allow.range.start..allow.range.end.min(self.doc_count);
        let Some(field) = self.field(query.field).filter(|_| !docs.is_empty() && !bm25.is_empty()) else {
            return Ok(());
        };
        let mut scores = vec![(0f32, 0u16); docs.len()];
        let mut found = Vec::new();
        for (at, term) in query.terms.iter().enumerate() {
            allow.check_stop()?;
            for posting in field.find(term, &docs) {
                let (score, hits) = &mut scores[(posting.doc - docs.start) as usize];
                if *hits == 0 {
                    found.push(posting.doc);
                }
                *score += bm25.score(at, field.norms[posting.doc as usize], posting.freq);
                *hits += 1;
            }
        }
        let needed = if query.matching == Match::All { query.terms.len() } else { 1 };
        for doc in found {
            let (score, hits) = scores[(doc - docs.start) as usize];
            if usize::from(hits) < needed {
                continue;
            }
            counters.scored += 1;
            if score >= top.threshold() && allow.contains(doc) {
                top.push(score, (rows[doc as usize], doc));
            }
        }
        Ok(())
    }

    fn score(&self, query: &TextQuery, bm25: &Bm25, docs: &[DocId], scores: &mut [f32]) -> Result<()> {
        check_docs(docs, scores)?;
        scores.fill(f32::NAN);
        let Some(field) = self.field(query.field).filter(|_| !bm25.is_empty()) else { return Ok(()) };
        for (at, term) in query.terms.iter().enumerate() {
            let postings = field.find(term, &(0..self.doc_count));
            for (doc, score) in docs.iter().zip(scores.iter_mut()) {
                if let Ok(found) = postings.binary_search_by_key(doc, |posting| posting.doc) {
                    let before = if score.is_nan() { 0.0 } else { *score };
                    *score = before + bm25.score(at, field.norms[*doc as usize], postings[found].freq);
                }
            }
        }
        Ok(())
    }

    fn doc_count(&self) -> u32 {
        self.doc_count
    }

    fn memory_bytes(&self) -> usize {
        let field = |field: &FieldPostings| {
            size_of::<FieldPostings>()
                + field.terms.memory_bytes()
                + field.starts.capacity() * 4
                + field.postings.capacity() * size_of::<Posting>()
                + field.norms.capacity()
                + field.docs_before.capacity() * 4
                + field.tokens_before.capacity() * 8
        };
        size_of::<Self>() + self.fields.iter().map(field).sum::<usize>()
    }
}
