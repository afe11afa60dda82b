//! The k best rows of a search, larger score first, ties by smaller row.
//!
//! A bounded binary heap: `O(log k)` a kept candidate, one comparison a refused one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use spandrel_storage::RowId;

/// A row and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Larger is better.
    pub score: f32,
    /// The row.
    pub row: RowId,
}

/// Orders the worst candidate first, so that a max-heap keeps it on top.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Worst(Scored);

impl Eq for Worst {}

impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Worst {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.score.total_cmp(&self.0.score).then(self.0.row.cmp(&other.0.row))
    }
}

/// Keeps the `k` best candidates that were pushed.
#[derive(Clone, Debug)]
pub struct TopK {
    k: usize,
    heap: BinaryHeap<Worst>,
}

impl TopK {
    /// Keeps at most `k` candidates.
    pub fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new() }
    }

    /// The worst kept score once `k` are kept, negative infinity before.
    pub fn threshold(&self) -> f32 {
        match self.heap.peek() {
            Some(worst) if self.heap.len() >= self.k => worst.0.score,
            _ => f32::NEG_INFINITY,
        }
    }

    /// Offers a candidate; whether it was kept.
    pub fn push(&mut self, score: f32, row: RowId) -> bool {
        let candidate = Worst(Scored { score, row });
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

    /// The kept candidates, best first.
    pub fn into_sorted(self) -> Vec<Scored> {
        self.heap.into_sorted_vec().into_iter().map(|worst| worst.0).collect()
    }
}
