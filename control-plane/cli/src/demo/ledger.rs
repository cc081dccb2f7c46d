//! What was scanned and what arrived, by event id: the demo's book-keeping.
//!
//! A webhook may arrive before the scan's answer was read: both sides make an entry, whoever comes first.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use hdrhistogram::Histogram;
use qrelay_store::id::EventId;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

/// The longest latency that is told apart: an hour, in microseconds.
const LATENCY_US_MAX: u64 = 3600 * 1_000_000;

/// All scans and webhooks of a demo.
pub(crate) struct Ledger {
    entries: Mutex<HashMap<EventId, Entry>>,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct Entry {
    scanned_at: Option<Instant>,
    arrived_at: Option<Instant>,
    arrivals: u64,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Progress {
    /// Scans made, answered or not.
    pub(crate) scans: u64,
    /// Scans answered with a redirect and an event's id.
    pub(crate) answered: u64,
    /// Answered scans whose webhook arrived.
    pub(crate) matched: u64,
    /// Webhooks that arrived and verified, repeats included.
    pub(crate) arrivals: u64,
}

/// A demo's result.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Summary {
    pub(crate) scans: u64,
    pub(crate) answered: u64,
    pub(crate) recorded: u64,
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    pub(crate) lost: u64,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) elapsed_s: f64,
}

impl Summary {
    /// As `--json` prints it.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "scans": self.scans,
            "answered": self.answered,
            "recorded": self.recorded,
            "delivered": self.delivered,
            "duplicates": self.duplicates,
            "lost": self.lost,
            "scan_to_webhook_ms": { "p50": self.p50_ms, "p99": self.p99_ms },
            "elapsed_s": self.elapsed_s,
        })
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            progress: watch::Sender::new(Progress::default()),
        }
    }
}

impl Ledger {
    /// A scan that got no redirect.
    pub(crate) fn unanswered(&self) {
        self.progress.send_modify(|progress| progress.scans += 1);
    }

    /// A scan, begun at `at`, was answered with a redirect and this event's id.
    pub(crate) fn answered(&self, id: EventId, at: Instant) {
        let mut entries = self.lock();
        let entry = entries.entry(id).or_default();
        entry.scanned_at = Some(at);
        let matched = u64::from(entry.arrivals > 0);
        drop(entries);
        self.progress.send_modify(|progress| {
            progress.scans += 1;
            progress.answered += 1;
            progress.matched += matched;
        });
    }

    /// A verified webhook arrived: whether it is the first of its event.
    pub(crate) fn arrived(&self, id: EventId, at: Instant) -> bool {
        let mut entries = self.lock();
        let entry = entries.entry(id).or_default();
        entry.arrivals += 1;
        let first = entry.arrivals == 1;
        if first {
            entry.arrived_at = Some(at);
        }
        let matched = u64::from(first && entry.scanned_at.is_some());
        drop(entries);
        self.progress.send_modify(|progress| {
            progress.arrivals += 1;
            progress.matched += matched;
        });
        first
    }

    /// Follows the progress.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The result, `recorded` being what the API counted and `began` when the first scan began.
    pub(crate) fn summary(&self, recorded: u64, began: Instant) -> Summary {
        let entries = self.lock();
        let progress = *self.progress.borrow();
        let mut latencies = Histogram::<u64>::new_with_bounds(1, LATENCY_US_MAX, 3)
            .expect("invariant: these bounds and three digits are valid");
        let (mut delivered, mut lost, mut last) = (0, 0, began);
        for entry in entries.values() {
            delivered += u64::from(entry.arrivals > 0);
            lost += u64::from(entry.scanned_at.is_some() && entry.arrivals == 0);
            last = last.max(entry.arrived_at.unwrap_or(began));
            if let (Some(scanned), Some(arrived)) = (entry.scanned_at, entry.arrived_at) {
                let us = u64::try_from((arrived - scanned).as_micros()).unwrap_or(u64::MAX);
                latencies.saturating_record(us);
            }
        }
        let quantile = |q: f64| {
            let us = u32::try_from(latencies.value_at_quantile(q)).unwrap_or(u32::MAX);
            (!latencies.is_empty()).then(|| round(f64::from(us) / 1000.0))
        };
        Summary {
            scans: progress.scans,
            answered: progress.answered,
            recorded,
            delivered,
            duplicates: progress.arrivals - delivered,
            lost,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            elapsed_s: round((last - began).as_secs_f64()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EventId, Entry>> {
        // Nothing under this lock panics half-way through a change.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// To three digits: more says nothing.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(byte: u8) -> EventId {
        EventId::from_bytes([byte; 16])
    }

    #[tokio::test(start_paused = true)]
    async fn every_answered_scan_is_delivered_or_lost_and_repeats_are_told_apart() {
        let (ledger, began) = (Ledger::default(), Instant::now());
        let ms = |ms| began + Duration::from_millis(ms);
        ledger.answered(id(1), ms(0));
        assert!(ledger.arrived(id(1), ms(10)));
        assert!(!ledger.arrived(id(1), ms(20)), "a repeat");
        assert!(ledger.arrived(id(2), ms(30)), "before its answer was read");
        ledger.answered(id(2), ms(10));
        ledger.answered(id(3), ms(40));
        ledger.unanswered();
        let summary = ledger.summary(3, began);
        assert_eq!(
            summary.to_json().to_string(),
            r#"{"scans":4,"answered":3,"recorded":3,"delivered":2,"duplicates":1,"lost":1,"scan_to_webhook_ms":{"p50":10.007,"p99":20.015},"elapsed_s":0.03}"#
        );
        let progress = *ledger.progress().borrow();
        assert_eq!((progress.matched, progress.arrivals), (2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_webhook_there_is_no_latency() {
        let ledger = Ledger::default();
        let summary = ledger.summary(0, Instant::now());
        assert_eq!(summary.to_json()["scan_to_webhook_ms"]["p50"], Value::Null);
    }
}
