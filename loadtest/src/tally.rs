//! What a run saw: latencies, status codes, failures.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::connection::{Answer, Failure};

/// Latencies are kept in microseconds up to a minute, to three significant digits (0.1 %).
const LATENCY_MAX_US: u64 = 60_000_000;

/// Quantiles of one latency, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half of the requests were faster.
    pub p50: u64,
    /// Nine of ten were faster.
    pub p90: u64,
    /// 99 of 100 were faster.
    pub p99: u64,
    /// 999 of 1,000 were faster.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
}

/// What is counted while a run goes on.
#[derive(Debug)]
pub struct Tally {
    latency: Histogram<u64>,
    service: Histogram<u64>,
    statuses: BTreeMap<u16, u64>,
    failures: BTreeMap<String, u64>,
    /// Connections opened in the run itself.
    pub connects: u64,
}

/// A finished run, as it is printed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Requests that were due.
    pub due: u64,
    /// Requests that got an answer of any status.
    pub answered: u64,
    /// Answers by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Connections opened during the run.
    pub connects: u64,
    /// From the first request that was due to the last answer.
    pub elapsed_s: f64,
    /// Answers per second.
    pub rate_per_s: f64,
    /// From the instant at which a request was due to its answer: what a person waits, also while the server stalls and
    /// the generator could not have sent (the correction for coordinated omission).
    pub latency_us: Quantiles,
    /// From the instant at which a request was begun (its connect, if fresh) to its answer.
    pub service_us: Quantiles,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram = || {
            Histogram::new_with_max(LATENCY_MAX_US, 3)
                .expect("invariant: these bounds are within the library's")
        };
        Self {
            latency: histogram(),
            service: histogram(),
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            connects: 0,
        }
    }
}

impl Tally {
    /// Counts an answer: `latency` since it was due, `service` since it was begun.
    pub fn answered(&mut self, answer: &Answer, latency: Duration, service: Duration) {
        self.latency.saturating_record(micros(latency));
        self.service.saturating_record(micros(service));
        *self.statuses.entry(answer.status).or_default() += 1;
    }

    /// Counts a request without an answer.
    pub fn failed(&mut self, failure: Failure) {
        *self.failures.entry(failure.to_string()).or_default() += 1;
    }

    /// Sums up.
    #[must_use]
    pub fn report(&self, due: u64, elapsed: Duration) -> Report {
        let answered = self.latency.len();
        let elapsed_s = elapsed.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
        let rate_per_s = if elapsed_s > 0.0 {
            answered as f64 / elapsed_s
        } else {
            0.0
        };
        Report {
            due,
            answered,
            statuses: self.statuses.clone(),
            failures: self.failures.clone(),
            connects: self.connects,
            elapsed_s,
            rate_per_s,
            latency_us: quantiles(&self.latency),
            service_us: quantiles(&self.service),
        }
    }
}

impl Report {
    /// Requests that were not answered with `status`.
    #[must_use]
    pub fn not_answered_with(&self, status: u16) -> u64 {
        self.due
            .saturating_sub(self.statuses.get(&status).copied().unwrap_or(0))
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Reads a histogram of microseconds.
pub(crate) fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let at = |quantile| histogram.value_at_quantile(quantile);
    Quantiles {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: histogram.max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_adds_up() {
        let mut tally = Tally::default();
        let answer = Answer {
            status: 302,
            stays_open: true,
            scan: None,
        };
        for millis in 1..=100 {
            tally.answered(&answer, Duration::from_millis(millis), Duration::from_millis(1));
        }
        tally.failed(Failure::Closed);
        let report = tally.report(101, Duration::from_secs(2));
        assert_eq!((report.answered, report.not_answered_with(302)), (100, 1));
        assert_eq!(report.failures["closed"], 1);
        assert!((report.rate_per_s - 50.0).abs() < 1e-9);
        assert!(
            (50_000..=50_100).contains(&report.latency_us.p50),
            "{:?}",
            report.latency_us
        );
        assert!(
            (1_000..=1_001).contains(&report.service_us.p999),
            "{:?}",
            report.service_us
        );
    }

    #[test]
    fn a_latency_beyond_the_histogram_counts_as_its_maximum() {
        let mut tally = Tally::default();
        let answer = Answer {
            status: 302,
            stays_open: true,
            scan: None,
        };
        tally.answered(&answer, Duration::from_secs(3600), Duration::ZERO);
        assert!(tally.report(1, Duration::from_secs(1)).latency_us.max >= LATENCY_MAX_US);
    }
}
