//! Times of one row, and what can be said of them.
//!
//! Runs in: bench. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest time that is told apart, nanoseconds.
const LONGEST: u64 = 600_000_000_000;

/// Times in nanoseconds, by rounds.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    all: Histogram<u64>,
    /// The median of each round.
    rounds: Vec<f64>,
    round: Histogram<u64>,
}

impl Default for Times {
    fn default() -> Self {
        Self { all: histogram(), rounds: Vec::new(), round: histogram() }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("these bounds are allowed")
}

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(LONGEST).clamp(1, LONGEST);
        self.all.saturating_record(nanoseconds);
        self.round.saturating_record(nanoseconds);
    }

    /// The row's turn in this round is over.
    pub(crate) fn end_round(&mut self) {
        if !self.round.is_empty() {
            self.rounds.push(micros(self.round.value_at_quantile(0.5)));
            self.round.reset();
        }
    }

    #[must_use]
    pub(crate) fn count(&self) -> u64 {
        self.all.len()
    }

    /// Microseconds within which this share of them lies.
    #[must_use]
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        micros(self.all.value_at_quantile(share))
    }

    /// Smallest and largest of the rounds' medians, microseconds.
    #[must_use]
    pub(crate) fn spread(&self) -> (f64, f64) {
        let low = self.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.rounds.iter().copied().fold(0.0, f64::max);
        if self.rounds.is_empty() { (0.0, 0.0) } else { (low, high) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "ten minutes in nanoseconds fit")]
fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_rounds_are_of_what_was_added() {
        let mut times = Times::default();
        for round in 1..=3_u64 {
            for step in 1..=100 {
                times.add(Duration::from_micros(round * 1000 + step));
            }
            times.end_round();
        }
        times.end_round();
        assert_eq!(times.count(), 300);
        let near = |value: f64, wanted: f64| (value / wanted - 1.0).abs() < 0.002;
        assert!(near(times.quantile(0.5), 2050.0), "{}", times.quantile(0.5));
        assert!(near(times.quantile(0.99), 3097.0), "{}", times.quantile(0.99));
        let (low, high) = times.spread();
        assert!(near(low, 1050.0) && near(high, 3050.0), "{low} {high}");
        assert_eq!(Times::default().spread(), (0.0, 0.0));
    }
}
