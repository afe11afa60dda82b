//! A caller's own worth of sets: a reranker of whole contexts, a reader's answer, anything that takes a list
//! of chunks and gives a number.
//!
//! CORAG scores the concatenation of the chosen chunks by a cross-encoder; here that model is the caller's
//! component. It is asked in batches, with the chunks in the order in which they would stand, and nothing is
//! assumed of it: not that more is better, not that order is unimportant. The meter counts each list as one
//! evaluation.

use super::objective::{Objective, Raised};
use crate::error::{Error, Result};

/// Scores lists of chunks.
pub trait Reward {
    /// The worth of each list, in order; larger is better, and at least 0. Lists hold positions in the pool.
    ///
    /// # Errors
    /// Whatever kept it from an answer; the selection fails with it.
    fn score(&self, lists: &[&[u16]]) -> Result<Vec<f64>>;
}

/// A reward as an objective.
pub struct Rewarded<'a>(pub &'a dyn Reward);

/// A list and its worth.
#[derive(Clone, Debug, Default)]
pub struct RewardedState {
    items: Vec<u16>,
    value: f64,
}

impl Objective for Rewarded<'_> {
    type State = RewardedState;

    fn empty(&self) -> RewardedState {
        RewardedState::default()
    }

    fn value(&self, state: &RewardedState) -> f64 {
        state.value
    }

    fn gains(&self, state: &RewardedState, items: &[u16], gains: &mut Vec<f64>) -> Result<()> {
        let with = |&item: &u16| state.items.iter().copied().chain([item]).collect::<Vec<u16>>();
        let lists: Vec<Vec<u16>> = items.iter().map(with).collect();
        let lists: Vec<&[u16]> = lists.iter().map(Vec::as_slice).collect();
        if lists.is_empty() {
            return Ok(());
        }
        let scores = self.0.score(&lists)?;
        if scores.len() != lists.len() || scores.iter().any(|score| !score.is_finite()) {
            return Err(Error::invalid(format!(
                "the reward answered {} numbers for {} lists, or one that is not finite",
                scores.len(),
                lists.len()
            )));
        }
        gains.extend(scores.iter().map(|score| score - state.value));
        Ok(())
    }

    fn add(&self, state: &mut RewardedState, item: u16, gain: f64) {
        state.items.push(item);
        state.value += gain;
    }

    fn raised(&self, _: u16) -> Raised<'_> {
        Raised::All
    }

    fn ceilings(&self, _: &RewardedState, _: &[u16], _: &mut Vec<f64>) -> Option<f64> {
        None
    }

    fn ordered(&self) -> bool {
        true
    }
}
