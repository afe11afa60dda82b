//! A walk over links: from where it starts to the vectors that are near, best first.
//!
//! The beam is one sorted list of the best met so far. The best of it whose links were not followed yet is
//! next; when there is none, the walk is over. A vector is scored once: what was met is marked in a bitmap
//! that is cleared through a list, so that a walk costs nothing for what it does not meet. The layers above
//! the lowest are walked with a narrow beam that only has to find where to start below.
//!
//! Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
//! Navigable Small World graphs", 2018; the list in place of two heaps is that of DiskANN.

use super::graph::{Graph, Layer};
use crate::error::Result;

/// Beam in the layers above the lowest.
const UPPER_BEAM: usize = 4;
/// Vectors whose links are followed between two looks at the clock.
const STEPS_A_LOOK: usize = 32;

/// A vector that was met.
#[derive(Clone, Copy, Debug)]
pub(super) struct Met {
    pub(super) score: f32,
    /// Its position in the layer.
    pub(super) at: u32,
    followed: bool,
}

/// Buffers of a walk.
#[derive(Debug, Default)]
pub(crate) struct WalkScratch {
    /// The best met, best first.
    pub(super) beam: Vec<Met>,
    met: Vec<u64>,
    /// What is marked in `met`.
    marked: Vec<u32>,
    fresh: Vec<u32>,
    vectors: Vec<u32>,
    scores: Vec<f32>,
    starts: Vec<u32>,
}

impl WalkScratch {
    /// Forgets what was met, and makes room for so many.
    fn clear(&mut self, count: usize) {
        self.marked.drain(..).for_each(|at| self.met[at as usize / 64] = 0);
        self.met.resize(self.met.len().max(count.div_ceil(64)), 0);
        self.beam.clear();
    }

    /// Marks what `fresh` holds, and leaves what was not marked.
    fn only_new(&mut self) {
        let (met, marked) = (&mut self.met, &mut self.marked);
        self.fresh.retain(|at| {
            let (word, bit) = (&mut met[*at as usize / 64], 1 << (at % 64));
            let new = *word & bit == 0;
            *word |= bit;
            if new {
                marked.push(*at);
            }
            new
        });
    }

    /// Scores `fresh` and keeps what belongs among the best `width`: the first place that changed.
    fn offer(&mut self, layer: &Layer, width: usize, score: &mut impl FnMut(&[u32], &mut Vec<f32>)) -> usize {
        self.only_new();
        self.vectors.clear();
        self.vectors.extend(self.fresh.iter().map(|at| layer.vector(*at)));
        score(&self.vectors, &mut self.scores);
        let mut first = usize::MAX;
        for (at, score) in self.fresh.iter().zip(&self.scores) {
            if self.beam.len() == width && self.beam[width - 1].score >= *score {
                continue;
            }
            let place = self.beam.partition_point(|met| met.score >= *score);
            self.beam.truncate(width - 1);
            self.beam.insert(place, Met { score: *score, at: *at, followed: false });
            first = first.min(place);
        }
        first
    }
}

/// Leaves the best `width` of a layer that links lead to from `starts` in the beam of `scratch`. `score`
/// gives the scores of vectors, larger is better; `without` is not met.
fn walk(
    layer: &Layer,
    starts: &[u32],
    (width, without): (usize, Option<u32>),
    score: &mut impl FnMut(&[u32], &mut Vec<f32>),
    stop: &impl Fn() -> Result<()>,
    scratch: &mut WalkScratch,
) -> Result<()> {
    scratch.clear(layer.count());
    scratch.fresh.clear();
    scratch.fresh.extend(without.and_then(|vector| layer.position(vector)));
    scratch.only_new();
    scratch.fresh.clear();
    scratch.fresh.extend_from_slice(starts);
    stop()?;
    scratch.offer(layer, width, score);
    let (mut at, mut steps) = (0, 0);
    while at < scratch.beam.len() {
        if std::mem::replace(&mut scratch.beam[at].followed, true) {
            at += 1;
            continue;
        }
        steps += 1;
        if steps % STEPS_A_LOOK == 0 {
            stop()?;
        }
        scratch.fresh.clear();
        scratch.fresh.extend(layer.links(scratch.beam[at].at));
        at = scratch.offer(layer, width, score).min(at + 1);
    }
    Ok(())
}

/// As [`walk`], where nothing ends it early.
pub(super) fn walk_to_the_end(
    layer: &Layer,
    starts: &[u32],
    width: usize,
    score: &mut impl FnMut(&[u32], &mut Vec<f32>),
    scratch: &mut WalkScratch,
) {
    let walked = walk(layer, starts, (width, None), score, &|| Ok(()), scratch);
    debug_assert!(walked.is_ok(), "nothing stops it");
}

impl Graph {
    /// Leaves the best `width` that are found from the entry in the beam of `scratch`, as vectors.
    ///
    /// # Errors
    /// That of `stop`, which is asked now and then.
    pub(super) fn search(
        &self,
        (width, without): (usize, Option<u32>),
        score: &mut impl FnMut(&[u32], &mut Vec<f32>),
        stop: &impl Fn() -> Result<()>,
        scratch: &mut WalkScratch,
    ) -> Result<()> {
        let mut starts = std::mem::take(&mut scratch.starts);
        starts.clear();
        starts.push(self.entry);
        let mut walked = Ok(());
        for (depth, layer) in self.layers.iter().enumerate().rev() {
            let width = if depth == 0 { width } else { UPPER_BEAM };
            starts.extend(self.starts.iter().filter(|_| depth == 0));
            walked = walk(layer, &starts, (width, without), score, stop, scratch);
            if walked.is_err() || depth == 0 {
                break;
            }
            let below = &self.layers[depth - 1];
            starts.clear();
            starts.extend(scratch.beam.iter().filter_map(|met| below.position(layer.vector(met.at))));
        }
        scratch.starts = starts;
        walked
    }
}
