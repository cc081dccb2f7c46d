//! The harness of the end-to-end tests: the real binary, real HTTP clients and receivers, and patience.
//!
//! Waiting is level-triggered ([`wait_until`]): a condition is looked at again and again until it holds or a
//! generous deadline passes, which is a failure. There are no retries of tests and no sleeps as synchronisation.

#![allow(
    clippy::unwrap_used,
    reason = "a harness fails by panicking with the place where it did"
)]
#![allow(clippy::print_stdout, reason = "tests print the seed and the ledger")]

pub mod api;
pub mod cql;
pub mod http;
pub mod nodes;
pub mod proxy;
pub mod receiver;
pub mod scan;
pub mod server;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything may take before a test calls it lost. Never what passes: only what fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks at a condition until it gives a value.
///
/// # Panics
/// When it has not after [`PATIENCE`].
pub async fn wait_until<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, condition).await
}

/// Looks at a condition until it gives a value, for at most `patience`.
///
/// # Panics
/// When it has not by then.
pub async fn wait_within<T>(
    patience: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A number from the environment, such as `QRELAY_TEST_KILLS`.
///
/// # Panics
/// When it is set to something else.
#[allow(clippy::disallowed_methods, reason = "tests are steered by the environment")]
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} is not a number"))
    })
}
