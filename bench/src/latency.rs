//! How long calls took, to three significant digits, in constant memory (HdrHistogram).

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Result;

/// Longest time told apart; longer ones count as this.
const LONGEST_NS: u64 = 600_000_000_000;
const DIGITS: u8 = 3;

/// Times of calls.
pub struct Latency(Histogram<u64>);

impl Latency {
    /// No call yet.
    ///
    /// # Errors
    /// Never with the constants above.
    pub fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST_NS, DIGITS)?))
    }

    /// Counts a call.
    pub fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS);
        self.0.saturating_record(ns.max(1));
    }

    /// Counts all calls of another.
    ///
    /// # Errors
    /// Never: both have the same bounds.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    /// The time in microseconds that the share `quantile` (0..=1) of the calls did not exceed; 0 without
    /// calls.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_known_set() {
        let (mut odd, mut even) = (Latency::new().unwrap(), Latency::new().unwrap());
        for us in 1..=1000 {
            let side = if us % 2 == 1 { &mut odd } else { &mut even };
            side.record(Duration::from_micros(us));
        }
        odd.add(&even).unwrap();
        for (quantile, us) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = odd.quantile_us(quantile);
            assert!((found - us).abs() <= us * 2e-3, "{quantile}: {found} us, not {us}");
        }
    }
}
