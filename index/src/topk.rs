//! Which k rows are best: a bounded heap with a total order, the same result whatever the order of arrival.
//!
//! Larger scores come first, equal scores by smaller [`RowId`]. A push costs one comparison when the
//! candidate is not good enough and `O(log k)` otherwise; nothing is allocated per push once the heap has
//! grown to k. Rows are not checked for duplicates: one row pushed twice takes two places.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use spandrel_storage::{DocId, RowId};

/// Places allocated at once; a larger heap grows as it fills, so that a huge k costs nothing until it is
/// needed.
const PLACES_AT_FIRST: usize = 16_384;

/// A row and how well it matches: larger is better. Ordered best first, and equal, by score and row.
#[derive(Clone, Copy, Debug)]
pub struct Scored {
    /// The score; never NaN, and never -0.0.
    pub score: f32,
    /// Its doc in the segment that has the row.
    pub doc: DocId,
    /// The row.
    pub row: RowId,
}

impl PartialEq for Scored {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scored {}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The best k of everything pushed.
#[derive(Clone, Debug, Default)]
pub struct TopK {
    k: usize,
    /// The worst kept row is on top, because [`Scored`] is ordered best first.
    heap: BinaryHeap<Scored>,
}

impl TopK {
    /// Keeps the best `k`; with `k` 0, nothing.
    pub fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::with_capacity(k.min(PLACES_AT_FIRST)) }
    }

    /// Empties the heap for another query, keeping its memory.
    pub fn reset(&mut self, k: usize) {
        self.heap.clear();
        self.k = k;
    }

    /// How many are kept at most.
    pub fn k(&self) -> usize {
        self.k
    }

    /// How many are kept now.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none is kept yet.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Whether k rows are kept, so that a new one must push another out.
    pub fn is_full(&self) -> bool {
        self.heap.len() >= self.k
    }

    /// The score that a new candidate must at least reach: -inf until k rows are kept, then the worst kept
    /// score. A candidate that equals it is kept only if its RowId is smaller. +inf when k is 0.
    #[inline]
    pub fn threshold(&self) -> f32 {
        if self.heap.len() < self.k {
            return f32::NEG_INFINITY;
        }
        self.heap.peek().map_or(f32::INFINITY, |worst| worst.score)
    }

    /// Offers a row, which is this doc of its segment; true when it is kept. A NaN score is never kept.
    #[inline]
    pub fn push(&mut self, score: f32, (row, doc): (RowId, DocId)) -> bool {
        if score.is_nan() {
            return false;
        }
        // Adding zero makes -0.0 into 0.0, so that the two tie.
        let candidate = Scored { score: score + 0.0, doc, row };
        if self.heap.len() < self.k {
            self.heap.push(candidate);
            return true;
        }
        match self.heap.peek_mut() {
            Some(mut worst) if candidate < *worst => {
                *worst = candidate;
                true
            }
            _ => false,
        }
    }

    /// What is kept, in no particular order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Scored> {
        self.heap.iter().copied()
    }

    /// What is kept, best first.
    pub fn into_sorted(self) -> Vec<Scored> {
        self.heap.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distinct rows with few distinct scores, so that ties are everywhere; shuffled by `seed`.
    fn candidates(seed: u64, count: u64) -> Vec<(f32, RowId)> {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let mut all: Vec<_> = (0..count).map(|row| ((next() % 19) as f32 - 9.0, RowId(row + 1))).collect();
        for at in (1..all.len()).rev() {
            all.swap(at, next() as usize % (at + 1));
        }
        all
    }

    fn sorted(all: &[(f32, RowId)], k: usize) -> Vec<Scored> {
        let mut all: Vec<_> =
            all.iter().map(|&(score, row)| Scored { score, doc: row.0 as u32, row }).collect();
        all.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap().then(a.row.cmp(&b.row)));
        all.truncate(k);
        all
    }

    #[test]
    fn keeps_what_a_sort_keeps() {
        for seed in 0..200 {
            let all = candidates(seed, 1 + seed * 7 % 400);
            for k in [0, 1, 2, 10, 100, 10_000] {
                let mut top = TopK::new(k);
                for &(score, row) in &all {
                    let floor = top.threshold();
                    let kept = top.push(score, (row, row.0 as u32));
                    assert!(!kept || score >= floor, "seed {seed}: a row below the threshold was kept");
                }
                assert_eq!(top.is_full(), all.len() >= k);
                assert_eq!(top.into_sorted(), sorted(&all, k), "seed {seed}, k {k}");
            }
        }
    }

    #[test]
    fn threshold_opens_until_full_and_zeros_tie() {
        let mut top = TopK::new(2);
        assert_eq!(top.threshold(), f32::NEG_INFINITY);
        assert!(top.push(0.0, (RowId(5), 5)) && top.push(f32::NEG_INFINITY, (RowId(6), 6)));
        assert_eq!(top.threshold(), f32::NEG_INFINITY);
        assert!(top.push(-0.0, (RowId(4), 4)) && !top.push(f32::NAN, (RowId(1), 1)));
        assert_eq!(top.threshold(), 0.0);
        top.reset(1);
        assert!(
            top.push(-0.0, (RowId(9), 9)) && top.push(0.0, (RowId(8), 8)) && !top.push(0.0, (RowId(10), 10))
        );
        assert_eq!(top.into_sorted(), [Scored { score: 0.0, doc: 8, row: RowId(8) }]);
        assert_eq!(TopK::new(0).threshold(), f32::INFINITY);
    }
}
