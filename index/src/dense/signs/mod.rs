//! A scan over sign codes, with exact scores for what it does not rule out: the index of fresh rows and of
//! small segments.
//!
//! RaBitQ's use of its bound (Gao and Long, 2024): a code gives an estimate of the distance and a deviation;
//! a vector whose estimate lies more than so many deviations behind the worst of the best so far is passed
//! over, and every other gets its exact score. How many deviations follows from the recall asked for, because
//! errors are as good as normal after the rotation: vectors as near as the best so far are to be lost with
//! the probability that is allowed, on average; those that only just belong there more often than those well
//! inside. (Until there are enough of them, of those that only just belong there a share of [`LOST_SHARE`]
//! times what may be missed.) Best rows of segments searched before count: most of a small segment is then
//! ruled out by its codes.
//!
//! Cost at 384 dimensions: 60 bytes and 1.5 ns a vector, 4 us a query. Nothing is trained, which is why
//! segments that live for seconds have this and no cells.

mod codes;

use std::ops::Range;
use std::sync::Arc;

use spandrel_storage::{DenseSpec, DocId, IndexKind};

use self::codes::SignQuery;
pub use self::codes::{Before, Codes};
use super::flat::FlatBuilder;
use super::standing::{Part, Reach};
use super::vectors::ChunkSource;
use super::{Ask, Flat, VectorIndex};
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::scratch::Scratch;
use crate::simd::Kernels;
use crate::simd::nibble::{BLOCK_ROWS, Candidates};
use crate::topk::TopK;

/// Fewer vectors than this, or of fewer dimensions, are scored one by one.
const VECTORS_MIN: u32 = 128;
const DIM_MIN: u32 = 64;
/// Blocks scanned at once, the first time and at most, each time twice as many: the threshold falls in
/// between. Where exact scores need a read there is one round of reads for as many.
const CHUNK_BLOCKS: Range<u32> = 4..64;
const CHUNK_BLOCKS_ON_DISK: u32 = 4096;
/// Candidates scored before there is a threshold, a wanted result.
const OPENING: usize = 2;
/// How much more often than any a vector is lost that only just belongs to the best; measured, a quarter of
/// what may be missed is missed with it, and never more than all.
const LOST_SHARE: f32 = 2.0;
/// Standard deviations that stand for certainty.
const DEVIATIONS_MAX: f32 = 4.0;
/// Of the best so far as many say what is lost, and so many halvings of the deviations find how many.
const JUDGED: usize = 16;
const SLACK_STEPS: usize = 12;

/// Sign codes over the vectors of one field of one segment.
pub struct Signs {
    flat: Flat,
    codes: Codes,
    kernels: &'static Kernels,
}

/// Buffers of a search.
#[derive(Debug, Default)]
pub(crate) struct SignsScratch {
    query: SignQuery,
    candidates: Candidates,
    /// `(bound, doc)` of candidates.
    near: Vec<(f32, DocId)>,
    docs: Vec<DocId>,
    scores: Vec<f32>,
}

/// Whether so many vectors of a field are worth codes.
pub fn has_signs(spec: &DenseSpec, vectors: u32) -> bool {
    spec.index != IndexKind::Flat && spec.dim >= DIM_MIN && vectors >= VECTORS_MIN
}

/// The index of vectors that stay in memory; `before` as in [`Codes::encode`].
///
/// # Panics
/// As that.
pub fn in_memory(builder: FlatBuilder, before: Before<'_>) -> Box<dyn VectorIndex> {
    if !has_signs(builder.spec(), builder.vectors()) {
        return Box::new(builder.finish());
    }
    let rows = |at: usize, out: &mut [f32]| builder.rows(at, out);
    let codes = Codes::encode(builder.spec(), &rows, builder.vectors(), before);
    Box::new(Signs::new(builder.finish(), codes))
}

impl Signs {
    /// The codes of the vectors of `flat`, together with them.
    ///
    /// # Panics
    /// When there are not as many codes as vectors.
    pub fn new(flat: Flat, codes: Codes) -> Self {
        assert_eq!(codes.vectors(), flat.vectors(), "one code a vector");
        Self { flat, codes, kernels: Kernels::best() }
    }

    /// Opens the section that [`Codes::write`] wrote for the vectors of `flat`.
    ///
    /// # Errors
    /// [`Error::Section`] when the bytes are not signs of these vectors; a storage error when they cannot be
    /// read.
    pub fn open(section: &str, spec: &DenseSpec, flat: Flat, source: &Arc<dyn ChunkSource>) -> Result<Self> {
        if source.bytes() != Codes::section_bytes(spec, flat.vectors()) {
            let what = format!("{} bytes are not the signs of {} vectors", source.bytes(), flat.vectors());
            return Err(Error::Section { section: section.to_owned(), what });
        }
        let mut bytes = vec![0; source.bytes() as usize];
        source.read(0, &mut bytes)?;
        let codes = Codes::decode(section, spec, flat.vectors(), &bytes)?;
        Ok(Self::new(flat, codes))
    }

    /// The same index with the kernels of another level, for tests and measurements.
    pub fn with_kernels(mut self, kernels: &'static Kernels) -> Self {
        self.kernels = kernels;
        self
    }

    /// Scores the candidates among `near` that may still be among the best.
    fn rescore(
        &self,
        query: &[f32],
        ask: &Ask<'_>,
        (near, limit): (&[(f32, DocId)], f32),
        (docs, scores): (&mut Vec<DocId>, &mut Vec<f32>),
        top: &mut TopK,
        (scratch, counters): (&mut Scratch, &mut Counters),
    ) -> Result<()> {
        docs.clear();
        docs.extend(near.iter().filter(|(bound, _)| *bound < limit).map(|(_, doc)| *doc));
        if docs.is_empty() {
            return Ok(());
        }
        scores.clear();
        scores.resize(docs.len(), 0.0);
        self.flat.score(query, docs, scores, scratch, counters)?;
        for (doc, score) in docs.iter().zip(scores.iter()) {
            top.push(*score, (ask.rows[*doc as usize], *doc));
        }
        Ok(())
    }

    /// How many deviations behind the worst of the best so far an estimate may lie. Another row that belongs
    /// there is as near as one of them, but for the worst, in whose place it comes.
    fn slack(&self, recall: f32, top: &TopK, ready: &SignQuery) -> f32 {
        let lost = 1.0 - recall;
        if !top.is_full() || top.k() == 1 {
            return slack_of(&[0.0], LOST_SHARE * lost);
        }
        let distance_of = self.codes.space.distance_of(ready.norm);
        let limit = distance_of.score(top.threshold());
        let usual = self.codes.deviation(ready, limit);
        let (mut inside, mut count) = ([0.0; JUDGED], 0);
        // The worst is the first.
        let every = (top.len() - 1).div_ceil(JUDGED);
        for (inside, hit) in inside.iter_mut().zip(top.iter().skip(1).step_by(every)) {
            // Nothing where there is no telling.
            *inside = ((limit - distance_of.score(hit.score)) / usual).max(0.0);
            count += 1;
        }
        slack_of(&inside[..count], lost)
    }

    fn scan(
        &self,
        query: &[f32],
        ask: &Ask<'_>,
        top: &mut TopK,
        own: &mut SignsScratch,
        (scratch, counters): (&mut Scratch, &mut Counters),
    ) -> Result<()> {
        let SignsScratch { query: ready, candidates, near, docs, scores } = own;
        let ordinals = self.flat.ordinals(ask.allow.range.clone());
        let all = ask.allow.is_unrestricted(self.flat.docs());
        let distance_of = self.codes.space.distance_of(ready.norm);
        let limit = |top: &TopK| distance_of.score(top.threshold());
        let end = ordinals.end.div_ceil(BLOCK_ROWS as u32);
        let mut first = ordinals.start / BLOCK_ROWS as u32;
        let mut step = match (self.flat.is_at_hand(), top.is_full()) {
            (true, false) => CHUNK_BLOCKS.start,
            (true, true) => CHUNK_BLOCKS.end,
            (false, _) => CHUNK_BLOCKS_ON_DISK,
        };
        while first < end {
            ask.allow.check_stop()?;
            let chunk = first..end.min(first.saturating_add(step));
            first = chunk.end;
            step = step.max(CHUNK_BLOCKS.end.min(2 * step));
            counters.scored += chunk.len() as u64 * BLOCK_ROWS as u64;
            candidates.clear();
            let open = !top.is_full();
            let slack = self.slack(ask.params.recall, top, ready);
            self.codes.scan(self.kernels, ready, chunk, (limit(top), slack), candidates);
            near.clear();
            for (bound, ordinal) in candidates.bounds.iter().zip(&candidates.ids) {
                if *ordinal >= self.codes.vectors() {
                    let what = format!("a code names vector {ordinal} of {}", self.codes.vectors());
                    return Err(Error::Section { section: "signs".into(), what });
                }
                let doc = self.flat.doc(*ordinal);
                if all || ask.allow.contains(doc) {
                    near.push((*bound, doc));
                }
            }
            let mut opening = 0;
            if open {
                // The most promising first, so that they rule out the others.
                opening = (OPENING * top.k()).min(near.len());
                if (1..near.len()).contains(&opening) {
                    near.select_nth_unstable_by(opening - 1, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                }
                let part = (&near[..opening], f32::INFINITY);
                self.rescore(query, ask, part, (docs, scores), top, (&mut *scratch, &mut *counters))?;
            }
            let part = (&near[opening..], limit(top));
            self.rescore(query, ask, part, (docs, scores), top, (&mut *scratch, &mut *counters))?;
        }
        Ok(())
    }
}

impl VectorIndex for Signs {
    fn search(
        &self,
        query: &[f32],
        ask: &Ask<'_>,
        top: &mut TopK,
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        if top.k() == 0 || self.scans(ask, top.k()) {
            return self.flat.search(query, ask, top, scratch, counters);
        }
        self.flat.check(query, ask.rows)?;
        let mut own = std::mem::take(&mut scratch.signs);
        let searched = match self.codes.prepare(self.kernels, query, &mut own.query) {
            true => self.scan(query, ask, top, &mut own, (scratch, counters)),
            false => self.flat.search(query, ask, top, scratch, counters),
        };
        scratch.signs = own;
        searched
    }

    fn scans(&self, ask: &Ask<'_>, k: usize) -> bool {
        let few = u64::from(VECTORS_MIN).max(OPENING as u64 * k as u64);
        ask.params.exact || ask.allow.count_max() <= few
    }

    fn reach(&self, docs: Range<DocId>) -> Option<Reach> {
        match self.flat.ordinals(docs).len() as u32 {
            0 => None,
            1..=VECTORS_MIN => Some(Reach::Scored),
            _ => Some(Reach::Ranked),
        }
    }

    fn parts(&self, docs: Range<DocId>) -> Vec<Part<'_>> {
        let share = self.flat.ordinals(docs.clone()).len() as f64 / f64::from(self.codes.vectors().max(1));
        let codes = (self.codes.memory_bytes() as f64 * share) as usize;
        vec![Part::in_memory(codes), self.flat.part(docs)]
    }

    fn memory_bytes(&self) -> usize {
        self.flat.memory_bytes() + self.codes.memory_bytes()
    }

    fn kind(&self) -> &'static str {
        "signs"
    }

    fn codes(&self) -> Option<&Codes> {
        Some(&self.codes)
    }

    fn flat(&self) -> &Flat {
        &self.flat
    }
}

/// With how many standard deviations of slack values that lie so many `inside` of the limit are lost with the
/// probability `lost`, on average.
fn slack_of(inside: &[f32], lost: f32) -> f32 {
    let (mut least, mut most) = (0.0, DEVIATIONS_MAX);
    for _ in 0..SLACK_STEPS {
        let slack = 0.5 * (least + most);
        let sum: f32 = inside.iter().map(|inside| tail(slack + inside)).sum();
        match sum > lost * inside.len() as f32 {
            true => least = slack,
            false => most = slack,
        }
    }
    most
}

/// Probability that a normal value lies more than `x`, at least 0, standard deviations below its mean
/// (Abramowitz and Stegun, 26.2.19: off by less than 0.0000002).
fn tail(x: f32) -> f32 {
    let mut root = 0.000_005_383;
    for factor in [0.000_048_890_6, 0.000_038_003_6, 0.003_277_626_3, 0.021_141_006, 0.049_867_347, 1.0] {
        root = root * x + factor;
    }
    0.5 / f32::powi(root, 16)
}

#[cfg(test)]
mod tests;
