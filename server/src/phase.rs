//! How far the end of the server has come, as everything that waits for something can see it.
//!
//! One value goes one way: [`Lead`] moves it on, [`Phases`] are its readers. Where the lead is gone, because
//! the server was dropped, every phase counts as reached, so that nothing outlives it.

use tokio::sync::watch;

/// A phase of a server's life; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Requests are welcome.
    Serving,
    /// Nothing new is begun; requests in progress finish.
    Stopping,
    /// The grace time is over: whatever still runs is answered UNAVAILABLE.
    Ended,
    /// The answers have had their time: connections are dropped.
    Cut,
}

/// Moves the phase on.
pub struct Lead(watch::Sender<Phase>);

/// Sees the phase.
#[derive(Clone)]
pub struct Phases(watch::Receiver<Phase>);

/// A server that serves.
pub fn start() -> (Lead, Phases) {
    let (lead, phases) = watch::channel(Phase::Serving);
    (Lead(lead), Phases(phases))
}

impl Lead {
    /// Moves on to `phase`; never back.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }
}

impl Phases {
    /// Whether `phase` is reached.
    pub fn has_reached(&self, phase: Phase) -> bool {
        *self.0.borrow() >= phase || self.0.has_changed().is_err()
    }

    /// Waits until `phase` is reached.
    pub async fn reached(&mut self, phase: Phase) {
        // An error says that the lead is gone.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_go_one_way_and_end_with_their_lead() {
        let (lead, mut phases) = start();
        assert!(phases.has_reached(Phase::Serving) && !phases.has_reached(Phase::Stopping));
        lead.advance(Phase::Ended);
        lead.advance(Phase::Stopping);
        phases.reached(Phase::Stopping).await;
        phases.reached(Phase::Ended).await;
        assert!(!phases.has_reached(Phase::Cut));
        drop(lead);
        phases.reached(Phase::Cut).await;
        assert!(phases.has_reached(Phase::Cut));
    }
}
