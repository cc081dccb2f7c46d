//! When requests are due in an open loop: fixed before the run, so that a slow server cannot slow its own load down.

use std::time::Duration;

use clap::ValueEnum;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// How the gaps between arrivals are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Gaps {
    /// All the same.
    Constant,
    /// Exponential, as independent people arrive: bursts included.
    Poisson,
}

/// The instants, counted from the start of a run, at which requests are due; without end.
#[derive(Debug)]
pub struct Arrivals {
    rate_per_s: f64,
    gaps: Gaps,
    random: StdRng,
    count: f64,
    at_s: f64,
}

impl Arrivals {
    /// Arrivals at `rate_per_s`, which must be above zero. The same seed draws the same gaps.
    #[must_use]
    pub fn new(rate_per_s: f64, gaps: Gaps, seed: u64) -> Self {
        assert!(rate_per_s > 0.0, "invariant: a rate is above zero");
        Self {
            rate_per_s,
            gaps,
            random: StdRng::seed_from_u64(seed),
            count: 0.0,
            at_s: 0.0,
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        match self.gaps {
            // Multiplied, not added up: rounding must not drift over millions of arrivals.
            Gaps::Constant => {
                self.at_s = self.count / self.rate_per_s;
                self.count += 1.0;
            }
            Gaps::Poisson => self.at_s -= (1.0 - self.random.random::<f64>()).ln() / self.rate_per_s,
        }
        Some(Duration::from_secs_f64(self.at_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_do_not_drift() {
        let arrivals = Arrivals::new(3.0, Gaps::Constant, 0);
        assert_eq!(
            arrivals.into_iter().nth(3_000_000),
            Some(Duration::from_secs(1_000_000))
        );
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_vary() {
        let times: Vec<_> = Arrivals::new(1000.0, Gaps::Poisson, 7).take(100_000).collect();
        let last_s = times.last().unwrap().as_secs_f64();
        assert!(
            (98.0..102.0).contains(&last_s),
            "100,000 arrivals at 1,000/s took {last_s} s"
        );
        assert!(times.is_sorted());
        let short = times
            .windows(2)
            .filter(|pair| pair[1] - pair[0] < Duration::from_micros(100))
            .count();
        assert!(
            (8_000..11_000).contains(&short),
            "{short} of the gaps are below a tenth of the mean"
        );
    }

    #[test]
    fn a_seed_draws_the_same_arrivals_again() {
        let times = |seed| {
            Arrivals::new(10.0, Gaps::Poisson, seed)
                .take(20)
                .collect::<Vec<_>>()
        };
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }
}
