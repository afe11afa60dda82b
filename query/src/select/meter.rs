//! What a selection may spend: evaluations of its objective, and time.
//!
//! One evaluation is the worth of one set, or of adding one candidate to one set: the unit in which a
//! reranker is paid for, and in which selectors are compared. All selectors count by this one counter.
//! Evaluations are the cap that keeps results the same from run to run; a cap on time does not.

use std::time::Instant;

use spandrel_index::stop::Stop;

use crate::error::Result;

/// What ended a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppedBy {
    /// Nothing else fits into the budget, or everything is chosen.
    Budget,
    /// Nothing else is worth anything: budget is left over on purpose.
    NoGain,
    /// As many chunks as allowed are chosen.
    Chunks,
    /// The search is over: no better set was found, or there is none.
    Converged,
    /// As many evaluations as allowed were made.
    Evaluations,
    /// The time allowed has passed.
    Time,
}

/// How often the clock is looked at, in evaluations.
const LOOK_EVERY: u64 = 64;

/// Counts evaluations and ends what takes too many.
#[derive(Debug)]
pub struct Meter<'a> {
    evaluations: u64,
    evaluations_max: u64,
    /// The selection's own end: past it the best set so far is the answer.
    time_out: Option<Instant>,
    /// The request's end: past it there is no answer.
    stop: &'a Stop,
    next_look: u64,
    over: Option<StoppedBy>,
}

impl<'a> Meter<'a> {
    /// At most so many evaluations, until `time_out`; `stop` is the request's own.
    pub fn new(evaluations_max: u64, time_out: Option<Instant>, stop: &'a Stop) -> Self {
        Self { evaluations: 0, evaluations_max, time_out, stop, next_look: 0, over: None }
    }

    /// Evaluations so far.
    pub fn evaluations(&self) -> u64 {
        self.evaluations
    }

    /// Evaluations left.
    pub fn left(&self) -> u64 {
        self.evaluations_max - self.evaluations.min(self.evaluations_max)
    }

    /// Why there are no more, once there are none.
    pub fn over(&self) -> Option<StoppedBy> {
        self.over
    }

    /// Takes `count` evaluations; false when that is more than are left, or the time is over.
    ///
    /// # Errors
    /// The deadline or the cancellation of the request.
    pub fn take(&mut self, count: usize) -> Result<bool> {
        if self.over.is_some() {
            return Ok(false);
        }
        if count as u64 > self.left() {
            self.over = Some(StoppedBy::Evaluations);
            return Ok(false);
        }
        self.evaluations += count as u64;
        if self.evaluations >= self.next_look {
            self.next_look = self.evaluations + LOOK_EVERY;
            self.stop.check()?;
            if self.time_out.is_some_and(|end| Instant::now() >= end) {
                self.over = Some(StoppedBy::Time);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lends the next `count` evaluations to something that is to leave the rest alone.
    pub fn capped<T>(&mut self, count: u64, run: impl FnOnce(&mut Self) -> T) -> T {
        let whole = self.evaluations_max;
        self.evaluations_max = whole.min(self.evaluations.saturating_add(count));
        let result = run(self);
        self.evaluations_max = whole;
        if self.over == Some(StoppedBy::Evaluations) && self.left() > 0 {
            self.over = None;
        }
        result
    }
}
