//! Help texts of the metrics that the store counts where it happens. The roles describe their own.

use metrics::{Unit, describe_counter, describe_gauge};

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
    describe_gauge!(
        "qrelay_journal_bytes",
        Unit::Bytes,
        "What the journal takes on its disk."
    );
    describe_gauge!(
        "qrelay_journal_unshipped_batches",
        "Batches in the journal that are not known to be in the store."
    );
    describe_counter!(
        "qrelay_journal_batches_total",
        "Batches that the store did not take in time, and the journal did."
    );
    describe_counter!(
        "qrelay_journal_shipped_batches_total",
        "Batches of the journal that the store has taken since."
    );
    describe_counter!(
        "qrelay_journal_full_total",
        "Times that the journal had no room for a batch: its scans were refused, or answered and not recorded."
    );
    describe_counter!(
        "qrelay_journal_damaged_total",
        "Pieces of the journal that are not what was written: what they held is lost. Investigate each."
    );
}
