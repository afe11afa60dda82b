//! One selection: candidates, objective, budget and caps, and the steps that all searches are made of.

use super::bits::Bits;
use super::meter::{Meter, StoppedBy};
use super::objective::{Objective, Set};
use super::pool::Pool;
use crate::error::Result;

/// Differences of worth below this are none: sums in another order differ by less.
pub const EPSILON: f64 = 1e-9;

/// What to choose, and within what.
#[derive(Debug)]
pub struct Problem<'a, O> {
    /// The candidates.
    pub pool: &'a Pool,
    /// What sets of them are worth.
    pub objective: &'a O,
    /// Most tokens.
    pub budget_tokens: u32,
    /// Most candidates.
    pub chunks_max: usize,
    /// What is chosen whatever it is worth, in order; it fits.
    pub must: Vec<u16>,
    /// What may be chosen besides, best first.
    pub open: Vec<u16>,
    /// Whether budget may be left over where nothing adds worth.
    pub may_leave: bool,
}

/// A set with its worth, in the order in which it was put together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chosen {
    /// Its members.
    pub items: Vec<u16>,
    /// Its worth.
    pub value: f64,
}

impl<O: Objective> Problem<'_, O> {
    /// The set that every answer starts from.
    ///
    /// # Errors
    /// Those of a caller's reward.
    pub fn start(&self, meter: &mut Meter<'_>) -> Result<Set<O::State>> {
        self.set_of(&self.must, meter)
    }

    /// The set of these, added in this order. Costs an evaluation for each, whatever is left of them.
    ///
    /// # Errors
    /// Those of a caller's reward.
    pub fn set_of(&self, items: &[u16], meter: &mut Meter<'_>) -> Result<Set<O::State>> {
        let mut set =
            Set { state: self.objective.empty(), items: Vec::new(), has: Bits::default(), tokens: 0 };
        let mut gains = Vec::with_capacity(1);
        for &item in items {
            gains.clear();
            meter.take(1)?;
            self.objective.gains(&set.state, &[item], &mut gains)?;
            self.add(&mut set, item, gains[0]);
        }
        Ok(set)
    }

    /// Adds one with its gain.
    pub fn add(&self, set: &mut Set<O::State>, item: u16, gain: f64) {
        set.tokens += self.pool.added_tokens(item, &set.has);
        self.objective.add(&mut set.state, item, gain);
        set.items.push(item);
        set.has.add(item);
    }

    /// Whether one that is not in the set can be added.
    pub fn fits(&self, set: &Set<O::State>, item: u16) -> bool {
        !set.has.has(item)
            && set.items.len() < self.chunks_max
            && set.tokens + self.pool.added_tokens(item, &set.has) <= self.budget_tokens
    }

    /// Gains of adding each of `items`; false when the meter is over, and then there are none.
    ///
    /// # Errors
    /// Those of a caller's reward, and of the request's end.
    pub fn gains(
        &self,
        state: &O::State,
        items: &[u16],
        gains: &mut Vec<f64>,
        meter: &mut Meter<'_>,
    ) -> Result<bool> {
        gains.clear();
        if !meter.take(items.len())? {
            return Ok(false);
        }
        self.objective.gains(state, items, gains)?;
        Ok(true)
    }

    /// What a set is as an answer.
    pub fn chosen(&self, set: &Set<O::State>) -> Chosen {
        Chosen { items: set.items.clone(), value: self.objective.value(&set.state) }
    }

    /// Why nothing was added to a set any more, where nothing that fits was worth it.
    pub fn why_full(&self, set: &Set<O::State>) -> StoppedBy {
        if set.items.len() >= self.chunks_max {
            StoppedBy::Chunks
        } else if self.open.iter().any(|&item| self.fits(set, item)) {
            StoppedBy::NoGain
        } else {
            StoppedBy::Budget
        }
    }
}

/// The larger worth; of equal ones the first.
pub fn better(a: Chosen, b: Chosen) -> Chosen {
    if b.value > a.value + EPSILON { b } else { a }
}
