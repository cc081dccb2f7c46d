//! What the deliverer tells the operator: one name per thing.

use std::time::Duration;

use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use qrelay_store::id::PartitionId;

const MATCHED: &str = "qrelay_deliveries_matched_total";
const ATTEMPTS: &str = "qrelay_delivery_attempts_total";
const ENDED: &str = "qrelay_deliveries_ended_total";
const WAITING: &str = "qrelay_deliveries_waiting";
const LAG: &str = "qrelay_delivery_lag_seconds";
const SCAN_TO_WEBHOOK: &str = "qrelay_scan_to_webhook_seconds";
const UNREADABLE: &str = "qrelay_log_unreadable_total";
const CHECKPOINTS: &str = "qrelay_checkpoints_total";
const LEASES: &str = "qrelay_leases_held";
const DAMAGED: &str = "qrelay_checkpoint_damaged_total";
const GONE: &str = "qrelay_deliveries_expired_ranges_total";
const SKIPPED: &str = "qrelay_deliveries_skipped_total";
const OVERSIZED: &str = "qrelay_checkpoint_oversized_total";
const NOT_MADE: &str = "qrelay_delivery_attempts_not_made_total";
const FILTER_FAILED: &str = "qrelay_filter_failures_total";
const FILTER_UNDECIDED: &str = "qrelay_filter_undecided_total";

const REPLAYS: &str = "qrelay_replays_running";

/// Describes all metrics of the deliverer. To be called once a recorder is installed.
pub fn describe() {
    describe_counter!(
        MATCHED,
        "Events matched to an endpoint: deliveries that are owed."
    );
    describe_counter!(ATTEMPTS, "Attempts made, by error class (`ok` for a 2xx).");
    describe_counter!(ENDED, "Deliveries that ended, by status: succeeded or given_up.");
    describe_gauge!(
        WAITING,
        "Deliveries that wait, by partition and cause: fresh, retry or throttled."
    );
    describe_gauge!(
        LAG,
        Unit::Seconds,
        "How long the oldest fresh delivery of a partition has waited for its turn."
    );
    describe_histogram!(
        SCAN_TO_WEBHOOK,
        Unit::Seconds,
        "From an event's recording to its first 2xx."
    );
    describe_counter!(
        UNREADABLE,
        "Batches and records of the log that cannot be read, and are given up. Alert above 0."
    );
    describe_counter!(
        CHECKPOINTS,
        "Saves of checkpoints, by result: applied, never, unknown or fenced."
    );
    describe_gauge!(REPLAYS, "Replays under way, by partition.");
    describe_gauge!(LEASES, "Partitions that this process holds.");
    describe_counter!(
        DAMAGED,
        "Rows and chunks of checkpoints that cannot be read. Alert above 0."
    );
    describe_counter!(
        GONE,
        "Ranges of batches that retention took before a lagging endpoint was sent their events. Alert above 0."
    );
    describe_counter!(
        SKIPPED,
        "Events that were not sent because their endpoint was set active with resume: now."
    );
    describe_counter!(
        OVERSIZED,
        "Saves beyond their size, because thousands of writers wrote, or a tenant has many partitions. Alert above 0."
    );
    describe_counter!(
        NOT_MADE,
        "Attempts that could not be made for reasons of our own, and are tried again."
    );
    describe_counter!(
        FILTER_FAILED,
        "Events for which a filter's expression had no value, and which it held back for that."
    );
    describe_counter!(
        FILTER_UNDECIDED,
        "Endpoints that went on in a run of their own because filters took too long for the shared one."
    );
}

pub(crate) fn matched(count: usize) {
    counter!(MATCHED).increment(u64::try_from(count).unwrap_or(u64::MAX));
}

pub(crate) fn attempted(class: &'static str) {
    let class = if class.is_empty() { "ok" } else { class };
    counter!(ATTEMPTS, "class" => class).increment(1);
}

pub(crate) fn not_made() {
    counter!(NOT_MADE).increment(1);
}

pub(crate) fn filter_failed() {
    counter!(FILTER_FAILED).increment(1);
}

pub(crate) fn filters_undecided(count: usize) {
    counter!(FILTER_UNDECIDED).increment(u64::try_from(count).unwrap_or(u64::MAX));
}

pub(crate) fn gone() {
    counter!(GONE).increment(1);
}

pub(crate) fn skipped(events: usize) {
    counter!(SKIPPED).increment(u64::try_from(events).unwrap_or(u64::MAX));
}

pub(crate) fn oversized_cursor() {
    counter!(OVERSIZED).increment(1);
}

pub(crate) fn delivered(after: Duration) {
    counter!(ENDED, "status" => "succeeded").increment(1);
    histogram!(SCAN_TO_WEBHOOK).record(after.as_secs_f64());
}

pub(crate) fn given_up() {
    counter!(ENDED, "status" => "given_up").increment(1);
}

pub(crate) fn waiting(
    partition: PartitionId,
    (fresh, retry, throttled): (usize, usize, usize),
    oldest: Duration,
) {
    for (cause, count) in [("fresh", fresh), ("retry", retry), ("throttled", throttled)] {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        gauge!(WAITING, "partition" => partition.to_string(), "cause" => cause).set(f64::from(count));
    }
    gauge!(LAG, "partition" => partition.to_string()).set(oldest.as_secs_f64());
}

/// What a partition's gauges say is its next owner's to say: they count across processes.
pub(crate) fn left(partition: PartitionId) {
    waiting(partition, (0, 0, 0), Duration::ZERO);
    replays(partition, 0);
}

pub(crate) fn replays(partition: PartitionId, count: usize) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    gauge!(REPLAYS, "partition" => partition.to_string()).set(f64::from(count));
}

pub(crate) fn unreadable(what: &'static str) {
    counter!(UNREADABLE, "what" => what).increment(1);
}

pub(crate) fn checkpoint(result: &'static str) {
    counter!(CHECKPOINTS, "result" => result).increment(1);
}

pub(crate) fn leases_held(change: f64) {
    gauge!(LEASES).increment(change);
}

pub(crate) fn damaged(count: usize) {
    counter!(DAMAGED).increment(u64::try_from(count).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::{
            Arc, Mutex,
            atomic::{AtomicU64, Ordering},
        },
    };

    use metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder,
    };

    use super::*;

    /// The gauges, as bits.
    #[derive(Default)]
    struct Gauges(Mutex<HashMap<Key, Arc<AtomicU64>>>);

    impl Recorder for Gauges {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            let mut gauges = self.0.lock().unwrap();
            Gauge::from_arc(Arc::clone(gauges.entry(key.clone()).or_default()))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn of_a_partition_that_was_left_nothing_waits_here() {
        let gauges = Gauges::default();
        let told = || {
            let gauges = gauges.0.lock().unwrap();
            let values = gauges
                .values()
                .map(|bits| f64::from_bits(bits.load(Ordering::SeqCst)));
            (gauges.len(), values.sum::<f64>())
        };
        with_local_recorder(&gauges, || {
            let partition = PartitionId::new(7);
            waiting(partition, (1, 2, 3), Duration::from_secs(4));
            replays(partition, 5);
            assert_eq!(told(), (5, 15.0));
            left(partition);
            assert_eq!(told(), (5, 0.0));
        });
    }
}
