//! Approximate nearest vectors from posting lists of quantized codes: the index of large segments.
//!
//! SPANN's shape (Chen et al., 2021): centroids in memory, the vectors of a cell together in one posting.
//! Departures: postings hold product codes of nibbles and their error bounds instead of vectors; a second
//! cell is chosen by SOAR's loss; cells are passed over by the angle a nearer vector would need instead of by
//! a ratio of distances, and whole groups of cells in the same way; how far to go is calibrated when the
//! cells are built. Exact scores, and everything that codes cannot do (small segments, selective filters,
//! far-off queries), are left to the [`Flat`] index over the same vectors.
//!
//! Memory ([`Tier`]): centroids, about 70 bytes a vector for postings, and a byte or a third of one a
//! dimension for what candidates are ranked by. Where there is room beside a byte, another 48 bytes a vector
//! hold the codes of postings one by one, for what a filter lets through ([`singles`]).

mod build;
mod bytes;
mod calibrate;
mod calibration;
mod cells;
mod closure;
mod cluster;
mod cost;
mod encode;
mod filter;
mod gathered;
mod groups;
mod halves;
mod incremental;
mod layout;
mod met;
mod odds;
mod partition;
mod parts;
mod patched;
mod plan;
mod points;
mod rank;
mod refine;
mod scan;
mod search;
mod singles;
mod spill;
mod together;
mod walk;

use std::ops::Range;
use std::sync::Arc;

use spandrel_storage::codec::{Decoder, Encoder};
use spandrel_storage::{DenseSpec, DocId, RowId};

pub use self::build::{Room, Vectors};
use self::cells::Cells;
pub use self::cells::{Tier, resident_bytes, singles_bytes};
use self::cluster::Work;
use self::filter::Filter;
pub use self::gathered::Gathered;
pub use self::incremental::NONE;
use self::partition::Among;
use self::plan::Plan;
pub(crate) use self::search::CellsScratch;
use self::search::Effort;
use self::together::TILE;
pub(crate) use self::together::TogetherScratch;
use super::flat::FirstFailure;
use super::space;
use super::standing::{Part, Reach};
use super::vectors::ChunkSource;
use super::{Ask, Choice, Flat, VectorIndex};
use crate::counters::Counters;
use crate::error::Result;
use crate::large::Large;
use crate::matrix::Matrix;
use crate::parallel;
use crate::quant::codebook;
use crate::scratch::Scratch;
use crate::simd::{self, Kernels};
use crate::topk::TopK;

/// Fewer vectors than this are scanned, not searched: measured, signs are as fast up to here.
pub const VECTORS_MIN: u32 = 8192;

/// Cells over the vectors of one field of one segment.
pub struct Ssd {
    flat: Flat,
    cells: Cells,
    section: Box<str>,
    source: Arc<dyn ChunkSource>,
    kernels: &'static Kernels,
}

/// Cells that were built and are not open yet.
pub struct Built(build::Made);

/// How far the searches of one field of one segment have to go, learned from queries that were asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned(calibration::Calibration);

impl Learned {
    /// The bytes of it, for a manifest.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Encoder::default();
        self.0.encode(&mut bytes);
        bytes.finish()
    }

    /// Reads what [`encode`](Self::encode) wrote; none for other bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Decoder::new(bytes);
        let calibration = calibration::Calibration::decode(&mut bytes).ok()??;
        (bytes.left() == 0 && calibration.is_sound()).then_some(Self(calibration))
    }
}

/// What cells were made with: other vectors of the field can be given cells by the same.
pub struct Trained<'a>(build::Trained<'a>);

/// Cells that others go on from.
#[derive(Clone, Copy)]
pub struct Prior<'a> {
    /// The cells.
    pub trained: &'a Trained<'a>,
    /// The position there of every vector, or [`NONE`]; absent where all are to be placed anew.
    pub kept: Option<&'a [u32]>,
}

/// Builds the cells over vectors. What was learned before is used again where it suits them, and the cells of
/// vectors that were there before.
///
/// # Errors
/// What was there before cannot be read, or is damaged; there is a folder to work in, and a file there cannot
/// be written or read.
///
/// # Panics
/// When not as many vectors are kept, or one that was not there.
pub fn build(
    spec: &DenseSpec,
    vectors: Vectors<'_>,
    prior: Option<Prior<'_>>,
    room: Room<'_>,
) -> Result<Built> {
    let prior = prior.map(|Prior { trained, kept }| build::Prior { trained: &trained.0, kept });
    build::build(spec, vectors, prior, room).map(Built)
}

/// Whether what queries have taught about the cells of so many vectors serves those that take their place.
pub fn lessons_hold(of: u32, count: u32) -> bool {
    build::measured_holds(of, count)
}

/// Bytes of memory that a build of so many vectors takes, besides the vectors, where there is that much.
pub fn build_bytes(spec: &DenseSpec, count: u32) -> u64 {
    build::bytes_needed(spec, count)
}

impl Built {
    /// Writes the section.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        parts::write(&self.0, out)
    }

    /// The positions that vectors had, in the order that they are in now; none where that is the same.
    pub fn order(&self) -> Option<&[u32]> {
        self.0.order.as_deref()
    }

    /// Whether all of it is in memory.
    pub fn is_at_hand(&self) -> bool {
        self.0.spill.is_none()
    }

    /// Bytes of memory that it takes, about.
    pub fn memory_bytes(&self) -> usize {
        let parts = &self.0.parts;
        [&parts.halves, &parts.refine, &parts.postings].map(Large::bytes).iter().sum()
    }
}

impl Ssd {
    /// Opens the section that [`Built::write`] wrote for the vectors of `flat`, with that much of it
    /// in memory.
    ///
    /// # Errors
    /// [`Error::Section`](crate::Error::Section) when the bytes are not cells of these vectors; a
    /// storage error when they cannot be read.
    pub fn open(
        section: &str,
        spec: &DenseSpec,
        flat: Flat,
        source: &Arc<dyn ChunkSource>,
        tier: Tier,
    ) -> Result<Self> {
        let cells = Cells::open(section, spec, flat.vectors(), source, tier)?;
        // What is known of docs by ranges has to hold of vectors.
        let in_a_row = |vectors: &Range<u32>| {
            flat.doc(vectors.end - 1) - flat.doc(vectors.start) == vectors.len() as u32 - 1
        };
        if cells.layout.ordered && !cells.partitions.iter().all(|partition| in_a_row(&partition.vectors)) {
            return Err(cells.damaged("docs without a vector lie between those of a partition".into()));
        }
        Ok(Self::new(section, flat, source, cells))
    }

    /// The same, when the section was just written and is still in memory.
    pub fn built(
        section: &str,
        flat: Flat,
        source: &Arc<dyn ChunkSource>,
        tier: Tier,
        Built(made): Built,
    ) -> Self {
        let cells = Cells::made(section, made, source, tier);
        Self::new(section, flat, source, cells)
    }

    fn new(section: &str, flat: Flat, source: &Arc<dyn ChunkSource>, cells: Cells) -> Self {
        let (section, source) = (section.into(), Arc::clone(source));
        Self { flat, cells, section, source, kernels: Kernels::best() }
    }

    /// The same index with the codes of its vectors one by one, where those help: they take
    /// [`singles_bytes`] of memory, and filters less time.
    pub fn with_singles(mut self) -> Self {
        self.cells.make_singles();
        self
    }

    /// The same index with the kernels of another level, for tests and measurements.
    pub fn with_kernels(mut self, kernels: &'static Kernels) -> Self {
        self.kernels = kernels;
        self
    }
}

/// Results that most searches ask for.
const USUAL_K: usize = 10;

impl VectorIndex for Ssd {
    fn search(
        &self,
        query: &[f32],
        ask: &Ask<'_>,
        top: &mut TopK,
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let plan = self.plan(ask, top.k());
        if plan == Plan::Exact {
            return self.flat.search(query, ask, top, scratch, counters);
        }
        self.flat.check(query, ask.rows)?;
        let mut found = std::mem::take(&mut scratch.found);
        let buffers = (&mut scratch.cells, &mut found);
        let scored = match self.by_codes(plan, query, ask, top.k(), buffers, counters) {
            Ok(true) if self.rescores(ask) => self.rescore(query, ask.rows, &found, top, scratch, counters),
            Ok(true) => {
                self.offer(query, ask.rows, &found, top);
                Ok(())
            }
            Ok(false) => self.flat.search(query, ask, top, scratch, counters),
            Err(error) => Err(error),
        };
        scratch.found = found;
        scored
    }

    fn search_batch(
        &self,
        queries: Matrix<'_, f32>,
        ask: &Ask<'_>,
        tops: &mut [TopK],
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let mut last: Option<(usize, Plan)> = None;
        let mut plan = |k: usize| match last {
            Some((same, plan)) if same == k => plan,
            _ => last.insert((k, self.plan(ask, k))).1,
        };
        let plans: Vec<Plan> = tops.iter().map(|top| plan(top.k())).collect();
        if queries.rows() != tops.len() || plans.contains(&Plan::Exact) {
            return self.flat.search_batch(queries, ask, tops, scratch, counters);
        }
        if plans.iter().any(|plan| matches!(plan, Plan::Scan(_))) {
            for (query, top) in queries.iter().zip(tops) {
                self.search(query, ask, top, scratch, counters)?;
            }
            return Ok(());
        }
        // Where vectors are found is the same for all of them.
        let (mut mask, doc_of) = (std::mem::take(&mut scratch.cells.mask), |at| self.flat.doc(at));
        let partition = plans.iter().find_map(|plan| match plan {
            Plan::Walk(at, _) => Some(*at),
            _ => None,
        });
        let filter = partition.and_then(|at| self.filter(ask, at, (&mut mask, &doc_of)));
        let tiles = tops.chunks_mut(TILE).zip(plans.chunks(TILE));
        let searched = (0..).step_by(TILE).zip(tiles).try_for_each(|(first, (tops, plans))| {
            let queries = queries.slice(first..first + tops.len());
            self.search_tile(queries, (ask, plans, filter), tops, scratch, counters)
        });
        scratch.cells.mask = mask;
        searched
    }

    fn scans(&self, ask: &Ask<'_>, k: usize) -> bool {
        self.plan(ask, k) == Plan::Exact
    }

    fn choice(&self, ask: &Ask<'_>, k: usize) -> Choice {
        let (plan, ns) = self.choose(ask, k);
        let plan = match plan {
            Plan::Exact => "exact",
            Plan::Scan(_) => "codes",
            Plan::Walk(..) => "cells",
        };
        Choice { plan, matches: ask.allow.count_max(), estimate_us: Some(ns / 1e3) }
    }

    fn gather(&self, ask: &Ask<'_>, k: usize, bytes_max: usize) -> Option<Gathered> {
        let (singles, filter) = (self.cells.singles.as_ref()?, ask.allow.filter?);
        let Plan::Scan(Some(at)) = self.plan(ask, k) else { return None };
        let asked = self.asked(&[], ask, k, (Some(at), Effort::ALL));
        let (count, most) = (ask.allow.count_max(), bytes_max / Gathered::vector_bytes(singles));
        if !self.sifts(ask, asked) || count > most as u64 {
            return None;
        }
        let docs = filter.range(ask.allow.range.clone());
        let ids = self.flat.positions(docs).flatten().collect();
        Some(Gathered::of(self.kernels, singles, ids))
    }

    fn reach(&self, docs: Range<DocId>) -> Option<Reach> {
        let vectors = self.flat.ordinals(docs);
        if vectors.is_empty() {
            return None;
        }
        Some(match partition::among(&self.cells.partitions, &vectors) {
            Among::Partition(_) => Reach::Cells,
            Among::None if vectors.len() > self.cells.fineness().depth(USUAL_K) => Reach::Ranked,
            Among::None | Among::Several => Reach::Scored,
        })
    }

    fn parts(&self, docs: Range<DocId>) -> Vec<Part<'_>> {
        let mut parts = self.cells.places(&self.flat.ordinals(docs.clone()));
        parts.push(self.flat.part(docs));
        parts
    }

    fn memory_bytes(&self) -> usize {
        self.flat.memory_bytes() + self.cells.memory_bytes()
    }

    fn kind(&self) -> &'static str {
        "cells"
    }

    fn flat(&self) -> &Flat {
        &self.flat
    }

    fn learn(&self, queries: Matrix<'_, f32>, threads: usize) -> Result<Option<Learned>> {
        let failure = FirstFailure::default();
        let rows = |first: usize, out: &mut [f32]| {
            let ordinals: Vec<u32> = (first as u32..).take(out.len() / queries.dim()).collect();
            failure.rows(&self.flat, &ordinals, out);
        };
        let work = Work { kernels: self.kernels, threads: parallel::threads(threads), seed: 0, bytes_max: 0 };
        let learned = calibrate::learn(&self.cells, queries, &rows, work);
        failure.check().map(|()| learned.map(Learned))
    }

    fn trained(&self) -> Result<Option<Trained<'_>>> {
        let trained = parts::read_trained(&self.section, &self.source, Some(&self.cells))?;
        Ok(Some(Trained(trained)))
    }
}

impl Ssd {
    /// Searches with a few queries together.
    fn search_tile(
        &self,
        queries: Matrix<'_, f32>,
        (ask, plans, filter): (&Ask<'_>, &[Plan], Option<Filter<'_>>),
        tops: &mut [TopK],
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let mut asked = Vec::with_capacity(tops.len());
        for ((query, top), plan) in queries.iter().zip(&*tops).zip(plans) {
            self.flat.check(query, ask.rows)?;
            let Plan::Walk(at, effort) = *plan else { continue };
            asked.push(self.asked(query, ask, top.k(), (Some(at), effort)));
        }
        let (mut docs, mut ends, mut far) = (std::mem::take(&mut scratch.docs), Vec::new(), Vec::new());
        docs.clear();
        let (kernels, buffers) = (self.kernels, &mut scratch.together);
        together::search(&self.cells, kernels, &asked, filter, buffers, counters, |at, found| {
            match found {
                Some(found) if !self.rescores(ask) => {
                    self.offer(asked[at].query, ask.rows, found, &mut tops[at]);
                }
                Some(found) => docs.extend(found.iter().map(|(_, ordinal)| self.flat.doc(*ordinal))),
                None => far.push(at),
            }
            ends.push(docs.len());
        })?;
        let mut scores = std::mem::take(&mut scratch.scores);
        scores.resize(docs.len(), 0.0);
        self.flat.score_lists(queries, (&docs, &ends), &mut scores, scratch, counters)?;
        let mut scored =
            docs.iter().zip(&scores).map(|(doc, score)| (*score, (ask.rows[*doc as usize], *doc)));
        let mut start = 0;
        for (end, top) in ends.iter().zip(&mut *tops) {
            scored.by_ref().take(end - start).for_each(|(score, row)| {
                top.push(score, row);
            });
            start = *end;
        }
        (scratch.docs, scratch.scores) = (docs, scores);
        for at in far {
            self.flat.search(queries.row(at), ask, &mut tops[at], scratch, counters)?;
        }
        Ok(())
    }

    /// Whether results get exact scores: always where they were ranked by half bytes, which are too coarse to
    /// order them.
    fn rescores(&self, ask: &Ask<'_>) -> bool {
        ask.params.rescore || self.cells.fineness() == cells::Fineness::Halves
    }

    /// Offers what was found, with the scores that it was ranked by.
    fn offer(&self, query: &[f32], rows: &[RowId], found: &[(f32, u32)], top: &mut TopK) {
        let distance_of = self.cells.space.distance_of(simd::norm(query));
        for (distance, ordinal) in found {
            let doc = self.flat.doc(*ordinal);
            top.push(distance_of.distance(*distance), (rows[doc as usize], doc));
        }
    }

    /// Offers what was found, with exact scores.
    fn rescore(
        &self,
        query: &[f32],
        rows: &[RowId],
        found: &[(f32, u32)],
        top: &mut TopK,
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let mut docs = std::mem::take(&mut scratch.docs);
        let mut scores = std::mem::take(&mut scratch.scores);
        docs.clear();
        docs.extend(found.iter().map(|(_, ordinal)| self.flat.doc(*ordinal)));
        scores.resize(docs.len(), 0.0);
        // Looked at when they are scored: they are on their way until then.
        docs.iter().for_each(|doc| self.kernels.prefetch(&rows[*doc as usize..=*doc as usize]));
        let scored = self.flat.score(query, &docs, &mut scores, scratch, counters);
        if scored.is_ok() {
            docs.iter().zip(&scores).for_each(|(doc, score)| {
                top.push(*score, (rows[*doc as usize], *doc));
            });
        }
        (scratch.docs, scratch.scores) = (docs, scores);
        scored
    }
}

#[cfg(test)]
mod tests;
