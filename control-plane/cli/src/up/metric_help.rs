//! Help texts of the metrics that the store and the control plane count where it happens. Edge and dispatcher
//! describe their own.

use metrics::{Unit, describe_counter, describe_histogram};

/// Tells the process's recorder. Harmless when repeated.
pub(crate) fn describe() {
    describe_counter!(
        "qrelay_api_requests_total",
        "Calls of the API that reached their handler, by RPC and status code."
    );
    describe_histogram!(
        "qrelay_api_request_seconds",
        Unit::Seconds,
        "How long those calls took, by RPC."
    );
    describe_counter!(
        "qrelay_api_auth_failures_total",
        "Calls of the API refused because of their key."
    );
    describe_counter!(
        "qrelay_api_panics_total",
        "Calls of the API that met a mistake of ours and were answered INTERNAL."
    );
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
