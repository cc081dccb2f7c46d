//! The API's metrics: one name per thing, each with its help text.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tokio::time::Instant;
use tonic::Code;

const REQUESTS: &str = "qrelay_api_requests_total";
const SECONDS: &str = "qrelay_api_request_seconds";
const REFUSED: &str = "qrelay_api_refused_total";
const AUTH_FAILURES: &str = "qrelay_api_auth_failures_total";
const PANICS: &str = "qrelay_api_panics_total";
const CONNECTIONS: &str = "qrelay_api_connections";
const STREAMS: &str = "qrelay_api_streams";

/// Says what each is.
pub(crate) fn describe() {
    describe_counter!(
        REQUESTS,
        "Calls that reached an RPC, over gRPC or REST, by RPC and outcome."
    );
    describe_histogram!(
        SECONDS,
        Unit::Seconds,
        "Time until an RPC's answer began, by RPC."
    );
    describe_counter!(
        REFUSED,
        "Requests refused before they reached an RPC, by outcome."
    );
    describe_counter!(AUTH_FAILURES, "Requests with a key that is not valid.");
    describe_counter!(PANICS, "Requests whose handler panicked: a bug.");
    describe_gauge!(CONNECTIONS, "Open connections to the API.");
    describe_gauge!(STREAMS, "Open event streams.");
}

/// A call reached its RPC.
pub(crate) fn answered(rpc: &'static str, code: Code, started: Instant) {
    counter!(REQUESTS, "rpc" => rpc, "code" => format!("{code:?}")).increment(1);
    histogram!(SECONDS, "rpc" => rpc).record(started.elapsed().as_secs_f64());
}

/// A request was refused at the gate.
pub(crate) fn refused(code: Code) {
    counter!(REFUSED, "code" => format!("{code:?}")).increment(1);
}

/// A key was not valid.
pub(crate) fn auth_failed() {
    counter!(AUTH_FAILURES).increment(1);
}

/// A handler panicked.
pub(crate) fn panicked() {
    counter!(PANICS).increment(1);
}

/// Counts something while it is open.
#[derive(Debug)]
pub(crate) struct Open(&'static str);

impl Open {
    /// A connection.
    pub(crate) fn connection() -> Self {
        Self::count(CONNECTIONS)
    }

    /// An event stream.
    pub(crate) fn stream() -> Self {
        Self::count(STREAMS)
    }

    fn count(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        Self(name)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}
