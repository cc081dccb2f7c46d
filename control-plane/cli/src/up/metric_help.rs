//! Help texts of the metrics that the store counts where it happens. The roles describe their own.

use metrics::describe_counter;

/// Tells the process's recorder. Harmless when repeated.
pub(crate) fn describe() {
    describe_counter!(
        "qrelay_append_failures_total",
        "Failed attempts to append a batch to the log. Each is repeated."
    );
    describe_counter!(
        "qrelay_log_gaps_total",
        "Batches given up as missing after ten minutes of looking: investigate each."
    );
    describe_counter!(
        "qrelay_log_expired_unread_batches_total",
        "Batches that retention took before they were read: a consumer was away for too long."
    );
    describe_counter!(
        "qrelay_store_checkpoint_failures_total",
        "Failed attempts to move committed pages from the write-ahead log into its file. Each is repeated."
    );
    describe_counter!("qrelay_store_expired_rows_total", "Rows that retention removed.");
}
