//! The text index of a segment on disk: opens its tantivy sections and searches them with exact block-max
//! pruning.
//!
//! A query is a pure OR (or AND) of terms of one tenant, the only shapes that tantivy prunes; deletes,
//! filters and the tenant's range are tested on the few documents that beat the threshold. The threshold that
//! goes back to tantivy is the heap's divided by [`Bm25::slack`], because stored block maxima assume the
//! segment's own average length. tantivy adds terms up in an order that depends on postings; a document that
//! may enter the heap is scored again in the query's order, so that its score is the same in every segment
//! and in memory.
//!
//! Cost: a dictionary lookup a term, then postings that pruning cannot skip; with a filter that leaves few
//! documents, one seek a document and term instead. Resident: all sections (`memory_bytes`), nothing else of
//! size.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spandrel_storage::codec::Decoder;
use spandrel_storage::{DocId, FieldId, RowId, TenantId};
use tantivy::directory::ManagedDirectory;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::{Postings, SegmentPostings, TermInfo};
use tantivy::query::{
    Bm25StatisticsProvider, BooleanWeight, BoostWeight, EnableScoring, Occur, Query, SumCombiner, TermQuery,
    Weight,
};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{DocSet, Index, InvertedIndexReader, ReloadPolicy, Searcher, Term};

use super::build::{FORMAT, TenantTotals, failed, field_name, push_prefix, schema};
use super::directory::{EXTENSIONS, META, SEGMENT_ID, SectionDirectory};
use super::{Bm25, Match, TextIndex, TextQuery, TextStats, check_docs, check_rows};
use crate::allow::Allow;
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::topk::TopK;

/// A filter is walked document by document when that takes this many times fewer seeks than there are
/// postings.
const SEEK_COST: u64 = 8;
/// The fixed end of every tantivy file: the length of its footer and a mark. tantivy reads it before checking
/// lengths.
const FOOTER_BYTES: usize = 8;

/// The text fields of one segment on disk.
pub struct SegmentText {
    searcher: Searcher,
    fields: Vec<SegmentField>,
    doc_count: u32,
    section_bytes: usize,
}

struct SegmentField {
    id: FieldId,
    field: Field,
    postings: Arc<InvertedIndexReader>,
    norms: FieldNormReader,
    /// The average length that block maxima were chosen with.
    average: f32,
    /// Ascending.
    tenants: Vec<TenantTotals>,
}

/// A term of the query that the segment has.
struct FoundTerm {
    /// Its place in the query.
    at: usize,
    term: Term,
    info: TermInfo,
}

impl std::fmt::Debug for SegmentText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentText").field("doc_count", &self.doc_count).finish_non_exhaustive()
    }
}

impl SegmentText {
    /// Opens what [`TextBuilder::finish`](super::TextBuilder::finish) gave; sections of other names are
    /// ignored.
    ///
    /// Every tantivy file carries a checksum, which is verified here: tantivy trusts its bytes.
    ///
    /// # Errors
    /// [`Error::Section`] for a missing or damaged section.
    pub fn open(sections: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Self> {
        let (mut files, mut totals, mut section_bytes) = (Vec::new(), None, 0);
        for (name, bytes) in sections {
            section_bytes += bytes.len();
            if bytes.len() < FOOTER_BYTES && name.starts_with("text.") && name != "text.stats" {
                return Err(damaged(&name, "too short to be a file of a text index"));
            }
            match name.strip_prefix("text.") {
                Some("stats") => totals = Some(read_totals(&bytes)?),
                Some("meta") => files.push((PathBuf::from(META), bytes)),
                Some(extension) if EXTENSIONS.contains(&extension) => files.push((path(extension), bytes)),
                _ => section_bytes -= bytes.len(),
            }
        }
        let (doc_count, totals) = totals.ok_or_else(|| damaged("text.stats", "missing"))?;
        let directory = SectionDirectory::new(files);
        let managed = ManagedDirectory::wrap(Box::new(directory.clone())).map_err(failed)?;
        for extension in EXTENSIONS {
            let valid = managed.validate_checksum(&path(extension));
            if !matches!(valid, Ok(true)) {
                let what = valid.map_or_else(|error| error.to_string(), |_| "checksum mismatch".into());
                return Err(damaged(&format!("text.{extension}"), what));
            }
        }
        let index = Index::open(directory).map_err(|error| damaged("text.meta", error.to_string()))?;
        let searcher = Self::searcher(&index, doc_count, &totals)?;
        let fields = totals
            .into_iter()
            .map(|(id, tenants)| SegmentField::open(&searcher, id, tenants))
            .collect::<Result<_>>()?;
        Ok(Self { searcher, fields, doc_count, section_bytes })
    }

    /// Opens the one tantivy segment after checking that it is the one that `text.stats` is about.
    fn searcher(index: &Index, doc_count: u32, totals: &[(FieldId, Vec<TenantTotals>)]) -> Result<Searcher> {
        let fields: Vec<FieldId> = totals.iter().map(|(field, _)| *field).collect();
        let metas = index.searchable_segment_metas().map_err(failed)?;
        let fits = metas.len() == 1 && metas[0].max_doc() == doc_count && !metas[0].has_deletes();
        if !fits || index.schema() != schema(&fields) {
            return Err(damaged("text.meta", "other fields or documents than text.stats"));
        }
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .doc_store_cache_num_blocks(0)
            .try_into()
            .map_err(|error| damaged("text.meta", error.to_string()))?;
        Ok(reader.searcher())
    }

    fn field(&self, field: FieldId) -> Option<&SegmentField> {
        self.fields.iter().find(|known| known.id == field)
    }

    /// Lets tantivy walk the postings and offers what may enter `top`.
    fn prune(&self, search: &mut Search<'_>, weight: &dyn Weight, scale: f32, slack: f32) -> Result<()> {
        // Zero and less is no threshold to prune by: a term that every document has may weigh nothing.
        let lower = |threshold: f32| {
            if threshold > 0.0 { threshold / scale / slack } else { f32::NEG_INFINITY }
        };
        let start = lower(search.top.threshold());
        weight
            .for_each_pruning(start, self.searcher.segment_reader(0), &mut |doc, score| {
                search.offer(doc, score * scale);
                lower(search.top.threshold())
            })
            .map_err(failed)
    }

    /// What tantivy walks: the terms' weights, and by what its scores are multiplied to be ours.
    fn weight(&self, query: &TextQuery, bm25: &Bm25, found: &[FoundTerm]) -> Result<(Box<dyn Weight>, f32)> {
        let mut weights = Vec::with_capacity(found.len());
        for term in found {
            let statistics = TermStatistics { bm25, doc_freq: bm25.stats().doc_freq[term.at] };
            let scoring = EnableScoring::enabled_from_statistics_provider(&statistics, &self.searcher);
            let weight = TermQuery::new(term.term.clone(), IndexRecordOption::WithFreqs).weight(scoring);
            weights.push((query.terms[term.at].count as f32, weight.map_err(failed)?));
        }
        if weights.len() == 1
            && let Some((count, weight)) = weights.pop()
        {
            // Only a bare term is pruned; its count is multiplied in outside.
            return Ok((weight, count));
        }
        let occur = if query.matching == Match::All { Occur::Must } else { Occur::Should };
        let clauses = weights.into_iter().map(|(count, weight)| {
            let weight = if count == 1.0 { weight } else { Box::new(BoostWeight::new(weight, count)) };
            (occur, weight)
        });
        let should = usize::from(occur == Occur::Should);
        let sum = Box::new(SumCombiner::default);
        let all = BooleanWeight::with_minimum_number_should_match(clauses.collect(), should, true, sum);
        Ok((Box::new(all), 1.0))
    }
}

impl SegmentField {
    fn open(searcher: &Searcher, id: FieldId, tenants: Vec<TenantTotals>) -> Result<Self> {
        let reader = searcher.segment_reader(0);
        let field = reader.schema().get_field(&field_name(id)).map_err(failed)?;
        let postings = reader.inverted_index(field).map_err(failed)?;
        let norms = reader.get_fieldnorms_reader(field).map_err(failed)?;
        if norms.num_docs() != reader.max_doc() {
            return Err(damaged("text.fieldnorm", "other documents than text.stats"));
        }
        // As tantivy's serializer computes it.
        let average = postings.total_num_tokens() as f32 / norms.num_docs() as f32;
        Ok(Self { id, field, postings, norms, average, tenants })
    }

    /// The terms of the query that the tenant has in this segment, in the query's order.
    fn find(&self, query: &TextQuery) -> Result<Vec<FoundTerm>> {
        let mut found = Vec::new();
        let known = self.tenants.binary_search_by_key(&query.tenant, |totals| totals.tenant);
        if known.is_err() {
            return Ok(found);
        }
        let mut prefixed = String::new();
        for (at, term) in query.terms.iter().enumerate() {
            prefixed.clear();
            push_prefix(query.tenant, &mut prefixed);
            prefixed.push_str(&term.text);
            let term = Term::from_field_text(self.field, &prefixed);
            if let Some(info) = self.postings.get_term_info(&term).map_err(failed)? {
                found.push(FoundTerm { at, term, info });
            }
        }
        Ok(found)
    }

    fn exact<'a>(&'a self, bm25: &'a Bm25, found: &[FoundTerm]) -> Result<Exact<'a>> {
        let mut terms = Vec::with_capacity(found.len());
        for term in found {
            let option = IndexRecordOption::WithFreqs;
            let postings = self.postings.read_postings_from_terminfo(&term.info, option).map_err(failed)?;
            terms.push((term.at, postings));
        }
        Ok(Exact { bm25, norms: &self.norms, terms })
    }
}

/// Scores documents in ascending order, terms in the query's order.
struct Exact<'a> {
    bm25: &'a Bm25,
    norms: &'a FieldNormReader,
    terms: Vec<(usize, SegmentPostings)>,
}

impl Exact<'_> {
    /// The score of a document and how many of the found terms it has; documents never descend.
    fn score(&mut self, doc: DocId) -> (f32, usize) {
        let (mut score, mut hits) = (0.0, 0);
        for (at, postings) in &mut self.terms {
            if postings.doc() < doc {
                postings.seek(doc);
            }
            if postings.doc() == doc {
                score += self.bm25.score(*at, self.norms.fieldnorm_id(doc), postings.term_freq());
                hits += 1;
            }
        }
        (score, hits)
    }
}

/// One search of one segment under way.
struct Search<'a> {
    exact: Exact<'a>,
    rows: &'a [RowId],
    allow: &'a Allow<'a>,
    top: &'a mut TopK,
    counters: &'a mut Counters,
    /// Terms a document must have.
    needed: usize,
}

impl Search<'_> {
    /// Offers a document whose score is about `estimate`; documents ascend.
    fn offer(&mut self, doc: DocId, estimate: f32) {
        self.counters.scored += 1;
        if estimate * self.exact.bm25.rounding() < self.top.threshold() || !self.allow.contains(doc) {
            return;
        }
        let (score, hits) = self.exact.score(doc);
        if let Some(row) = self.rows.get(doc as usize).filter(|_| hits >= self.needed) {
            self.top.push(score, (*row, doc));
        }
    }
}

impl TextIndex for SegmentText {
    fn stats(&self, query: &TextQuery, _: Range<DocId>, stats: &mut TextStats) -> Result<()> {
        let Some(field) = self.field(query.field) else { return Ok(()) };
        if let Ok(at) = field.tenants.binary_search_by_key(&query.tenant, |totals| totals.tenant) {
            stats.docs += u64::from(field.tenants[at].docs);
            stats.tokens = stats.tokens.saturating_add(field.tenants[at].tokens);
        }
        for term in field.find(query)? {
            if let Some(doc_freq) = stats.doc_freq.get_mut(term.at) {
                *doc_freq += u64::from(term.info.doc_freq);
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
        let Some(field) = self.field(query.field).filter(|_| !bm25.is_empty()) else { return Ok(()) };
        let found = field.find(query)?;
        let needed = if query.matching == Match::All { query.terms.len() } else { 1 };
        if found.len() < needed {
            return Ok(());
        }
        let exact = field.exact(bm25, &found)?;
        let mut search = Search { exact, rows, allow, top, counters, needed };
        if let Some(filter) = allow.filter {
            let postings: u64 = found.iter().map(|term| u64::from(term.info.doc_freq)).sum();
            let seeks = filter.range_cardinality(allow.range.clone()) * found.len() as u64;
            if seeks * SEEK_COST < postings {
                for doc in filter.range(allow.range.clone()) {
                    search.offer(doc, f32::INFINITY);
                }
                return Ok(());
            }
        }
        let (weight, scale) = self.weight(query, bm25, &found)?;
        self.prune(&mut search, weight.as_ref(), scale, bm25.slack(field.average))
    }

    fn score(&self, query: &TextQuery, bm25: &Bm25, docs: &[DocId], scores: &mut [f32]) -> Result<()> {
        check_docs(docs, scores)?;
        scores.fill(f32::NAN);
        let Some(field) = self.field(query.field).filter(|_| !bm25.is_empty()) else { return Ok(()) };
        let mut exact = field.exact(bm25, &field.find(query)?)?;
        for (doc, score) in docs.iter().zip(scores) {
            let (sum, hits) = exact.score(*doc);
            *score = if hits > 0 { sum } else { f32::NAN };
        }
        Ok(())
    }

    fn doc_count(&self) -> u32 {
        self.doc_count
    }

    fn memory_bytes(&self) -> usize {
        self.section_bytes
    }
}

/// The caller's statistics for one term, in place of the segment's.
struct TermStatistics<'a> {
    bm25: &'a Bm25,
    doc_freq: u64,
}

impl Bm25StatisticsProvider for TermStatistics<'_> {
    fn total_num_tokens(&self, _: Field) -> tantivy::Result<u64> {
        Ok(self.bm25.stats().tokens)
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.bm25.stats().docs)
    }

    fn doc_freq(&self, _: &Term) -> tantivy::Result<u64> {
        Ok(self.doc_freq)
    }
}

/// tantivy's path of a file of the segment.
fn path(extension: &str) -> PathBuf {
    Path::new(SEGMENT_ID[0]).with_extension(extension)
}

fn damaged(section: &str, what: impl Into<String>) -> Error {
    Error::Section { section: section.into(), what: what.into() }
}

/// Documents of the segment, and the totals of each field by tenant.
pub(crate) type Totals = (u32, Vec<(FieldId, Vec<TenantTotals>)>);

pub(crate) fn read_totals(bytes: &[u8]) -> Result<Totals> {
    let mut bytes = Decoder::new(bytes);
    let mut read = || -> Result<Totals, spandrel_storage::codec::Truncated> {
        let format = bytes.u8("format")?;
        let doc_count = bytes.u32("document count")?;
        let mut fields = Vec::new();
        let field_count = if format == FORMAT { bytes.u16("field count")? } else { 0 };
        for _ in 0..field_count {
            let (id, mut tenants) = (FieldId(bytes.u16("field")?), Vec::new());
            for _ in 0..bytes.u32("tenant count")? {
                let tenant = TenantId(bytes.u32("tenant")?);
                let (docs, tokens) = (bytes.u32("documents")?, bytes.u64("tokens")?);
                tenants.push(TenantTotals { tenant, docs, tokens });
            }
            fields.push((id, tenants));
        }
        Ok((doc_count, fields))
    };
    let (doc_count, fields) = read().map_err(|error| damaged("text.stats", error.to_string()))?;
    let fields_ascend = fields.is_sorted_by(|a, b| a.0 < b.0);
    let tenants_ascend = fields.iter().all(|(_, tenants)| tenants.is_sorted_by(|a, b| a.tenant < b.tenant));
    if bytes.left() > 0 || !fields_ascend || !tenants_ascend {
        return Err(damaged("text.stats", "another format version, or fields or tenants out of order"));
    }
    // A document that counts has at least one token, and a text has fewer than 2^32.
    let can_be = |tenant: &TenantTotals| {
        let docs = u64::from(tenant.docs);
        tenant.docs <= doc_count && (docs..=docs * u64::from(u32::MAX)).contains(&tenant.tokens)
    };
    if !fields.iter().flat_map(|(_, tenants)| tenants).all(can_be) {
        return Err(damaged("text.stats", "a tenant has more documents or other tokens than can be"));
    }
    Ok((doc_count, fields))
}
