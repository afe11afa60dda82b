//! When a search has to give up: its deadline has passed, or whoever asked has gone.
//!
//! One is made for a request and lent to every stage. Scans look at it once a block, which is some hundred
//! microseconds of work; a look costs a clock read and a relaxed load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::error::{Error, Result};

/// The end of a request's time. The default never stops anything.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    deadline: Option<Instant>,
    cancel: Option<Cancel>,
}

/// Cancels what was started with it. Clones cancel the same.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// One that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everything that was started with it give up soon.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Stop {
    /// Stops at `deadline`, and when `cancel` says so.
    pub fn new(deadline: Option<Instant>, cancel: Option<Cancel>) -> Self {
        Self { deadline, cancel }
    }

    /// The same, and at `deadline` at the latest.
    pub fn by(&self, deadline: Option<Instant>) -> Self {
        let deadline = match (self.deadline, deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self { deadline, cancel: self.cancel.clone() }
    }

    /// When the time is over; none: never.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Goes on or gives up.
    ///
    /// # Errors
    /// [`Error::Cancelled`], [`Error::Deadline`].
    #[inline]
    pub fn check(&self) -> Result<()> {
        if self.cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            return Err(Error::Cancelled);
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Error::Deadline),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn deadlines_and_cancels_stop() {
        let cancel = Cancel::new();
        let later = Instant::now() + Duration::from_secs(3_600);
        let stop = Stop::new(Some(later), Some(cancel.clone()));
        assert!(stop.check().is_ok() && Stop::default().check().is_ok());
        assert!(matches!(Stop::new(Some(Instant::now()), None).check(), Err(Error::Deadline)));
        cancel.cancel();
        assert!(matches!(stop.check(), Err(Error::Cancelled)));
    }
}
