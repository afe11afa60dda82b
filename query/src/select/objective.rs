//! What a set of candidates is worth, for selectors to compare.
//!
//! [`Objective`] is the seam: what adding one more is worth, in batches, so that a reward that is asked of a
//! model can be asked for many at once. [`Mix`](super::mix::Mix) has the built-in ones, [`super::reward`] the
//! caller's.

use super::bits::Bits;
use crate::error::Result;

/// The worth of sets. Larger is better; the empty set is worth 0.
pub trait Objective {
    /// What is known of a set that grows.
    type State: Clone;

    /// The empty set.
    fn empty(&self) -> Self::State;

    /// The worth of the set.
    fn value(&self, state: &Self::State) -> f64;

    /// What adding each of `items`, which are not in the set, would be worth; appended to `gains` in their
    /// order.
    ///
    /// # Errors
    /// Those of a caller's reward.
    fn gains(&self, state: &Self::State, items: &[u16], gains: &mut Vec<f64>) -> Result<()>;

    /// Adds one that is not in the set, at the end, with its gain.
    fn add(&self, state: &mut Self::State, item: u16, gain: f64);

    /// Which gains can have become larger by adding `item`; those of all others can only have become smaller.
    fn raised(&self, item: u16) -> Raised<'_>;

    /// A bound on what is still to be had: for every set of the candidates in `open`, what adding it is worth
    /// is at most the number returned plus the sum of its members' `ceilings` (one an item of `open`, in its
    /// order). None: no bound is known.
    fn ceilings(&self, state: &Self::State, open: &[u16], ceilings: &mut Vec<f64>) -> Option<f64>;

    /// Whether the worth depends on the order.
    fn ordered(&self) -> bool {
        false
    }
}

/// Candidates whose gains may have risen.
#[derive(Clone, Copy, Debug)]
pub enum Raised<'a> {
    /// Any of them.
    All,
    /// These at most.
    These(&'a [(u16, f32)], &'a [(u16, f32)]),
}

/// A set that is being put together: the objective's state, what it costs, and its members.
#[derive(Clone, Debug)]
pub struct Set<S> {
    /// What the objective knows of it.
    pub state: S,
    /// Its members in the order in which they were added.
    pub items: Vec<u16>,
    /// The same.
    pub has: Bits,
    /// Their tokens.
    pub tokens: u32,
}
