//! A graph over vectors in memory: the index of fields that ask for it (`"index": "hnsw"`).
//!
//! Every vector is linked to some near ones in all directions; a search follows links to ever nearer ones
//! ([`search`]), and scores are exact, from the vectors themselves. hnsw_rs makes the links ([`build`]),
//! they are mended ([`mend`]), written to a section of the segment ([`graph`]) and walked by code of ours,
//! together with filters, deletions and deadlines. How wide the beam is follows from the recall asked for
//! ([`calibrate`]).
//!
//! Cost: about 136 bytes a vector besides the vectors themselves, all in memory. Where the memory budget has
//! no room for both, the segment is searched by its sign codes instead, or scanned.
//!
//! Docs that are not allowed are walked over and not offered; the beam is wider for that. When the beam ends
//! with fewer allowed docs than asked for (a filter that has to do with the query), and whenever a walk would
//! cost more than the scan of what is allowed, everything allowed is scored.

mod build;
mod calibrate;
mod graph;
mod mend;
mod search;

use std::ops::Range;
use std::sync::Arc;

use spandrel_storage::{DenseSpec, DocId, IndexKind};

pub use self::build::build;
pub use self::graph::Graph;
pub(crate) use self::search::WalkScratch;
use super::standing::Reach;
use super::vectors::ChunkSource;
use super::{Ask, Flat, VectorIndex};
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::scratch::Scratch;
use crate::topk::TopK;

/// Fewer vectors than this are not linked: sign codes answer as fast.
pub const VECTORS_MIN: u32 = 2048;
/// At most this many allowed docs are scored one by one.
const GATHER_MAX: u64 = 1024;
/// Vectors that are scanned in the time that one is met by a walk.
const WALK_COST: f32 = 3.0;

/// Whether so many vectors of a field get a graph.
pub fn has_graph(spec: &DenseSpec, vectors: u32) -> bool {
    spec.index == IndexKind::Hnsw && vectors >= VECTORS_MIN
}

/// A graph over the vectors of one field of one segment, and the vectors.
pub struct Hnsw {
    flat: Flat,
    graph: Graph,
}

impl Hnsw {
    /// The graph over the vectors of `flat`, which are in memory, together with them.
    ///
    /// # Panics
    /// When they are not, or the graph is over another number of them.
    pub fn new(flat: Flat, graph: Graph) -> Self {
        assert!(flat.is_at_hand(), "a walk scores vectors in memory");
        assert_eq!(graph.vectors(), flat.vectors(), "one place a vector");
        Self { flat, graph }
    }

    /// Opens the section that [`Graph::write`] wrote for the vectors of `flat`, which are in memory.
    ///
    /// # Errors
    /// [`Error::Section`] when the bytes are not a graph over these vectors; a storage error when they cannot
    /// be read.
    pub fn open(section: &str, spec: &DenseSpec, flat: Flat, source: &Arc<dyn ChunkSource>) -> Result<Self> {
        let bytes = usize::try_from(source.bytes());
        let bytes = bytes.map_err(|_| Error::Section { section: section.into(), what: "too long".into() })?;
        let mut bytes = vec![0; bytes];
        source.read(0, &mut bytes)?;
        let graph = Graph::decode(section, spec, flat.vectors(), &bytes)?;
        Ok(Self::new(flat, graph))
    }

    /// The beam for what the caller asks; none to score everything.
    fn beam(&self, ask: &Ask<'_>, k: usize) -> Option<usize> {
        let allowed = ask.allow.count_max();
        if ask.params.exact || k == 0 || allowed <= GATHER_MAX || k as u64 * 8 >= allowed {
            return None;
        }
        // The k nearest of those allowed are among as many more of all.
        let wanted = k as f32 / ask.allow.share(self.flat.docs()).max(f32::MIN_POSITIVE);
        let (beam, cost) = self.graph.calibration.beam(wanted, ask.params.recall)?;
        (cost * WALK_COST <= allowed as f32).then_some(beam)
    }

    /// Walks, and leaves what was found in `found`. Whether that answers the query.
    fn walk(
        &self,
        query: &[f32],
        (ask, k, beam): (&Ask<'_>, usize, usize),
        found: &mut Vec<(f32, DocId)>,
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<bool> {
        let Scratch { flat, walk, .. } = scratch;
        let mut near = self.flat.near(query, flat)?;
        let mut score = |vectors: &[u32], scores: &mut Vec<f32>| {
            counters.scored += vectors.len() as u64;
            near.score(vectors, scores);
        };
        self.graph.search((beam, None), &mut score, &|| ask.allow.check_stop(), walk)?;
        found.clear();
        for met in &walk.beam {
            let docs = self.graph.copies_of(met.at).map(|vector| self.flat.doc(vector));
            // The first k of equal vectors are all that can count: rows of a tenant ascend with docs.
            let docs = docs.filter(|doc| ask.allow.contains(*doc)).take(k);
            found.extend(docs.map(|doc| (met.score, doc)));
        }
        Ok(found.len() >= k)
    }
}

impl VectorIndex for Hnsw {
    fn search(
        &self,
        query: &[f32],
        ask: &Ask<'_>,
        top: &mut TopK,
        scratch: &mut Scratch,
        counters: &mut Counters,
    ) -> Result<()> {
        let Some(beam) = self.beam(ask, top.k()) else {
            return self.flat.search(query, ask, top, scratch, counters);
        };
        self.flat.check(query, ask.rows)?;
        let mut found = std::mem::take(&mut scratch.found);
        let answered = self.walk(query, (ask, top.k(), beam), &mut found, scratch, counters);
        if let Ok(true) = answered {
            found.iter().for_each(|(score, doc)| {
                top.push(*score, (ask.rows[*doc as usize], *doc));
            });
        }
        scratch.found = found;
        match answered? {
            true => Ok(()),
            false => self.flat.search(query, ask, top, scratch, counters),
        }
    }

    fn scans(&self, ask: &Ask<'_>, k: usize) -> bool {
        self.beam(ask, k).is_none()
    }

    fn reach(&self, docs: Range<DocId>) -> Option<Reach> {
        (!self.flat.ordinals(docs).is_empty()).then_some(Reach::Cells)
    }

    fn memory_bytes(&self) -> usize {
        self.flat.memory_bytes() + self.graph.memory_bytes()
    }

    fn kind(&self) -> &'static str {
        "graph"
    }

    fn flat(&self) -> &Flat {
        &self.flat
    }
}

#[cfg(test)]
mod tests;
