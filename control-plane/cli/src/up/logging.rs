//! Logs: text for a person at a terminal, JSON lines for everything else, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

use crate::failure::Failure;

/// Starts logging, once per process.
pub(crate) fn start(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failure::usage(format!("{filter:?} is no log filter: {error}")))?;
    let logs = fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if io::stderr().is_terminal() {
        logs.try_init()
    } else {
        logs.json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init()
    };
    started.map_err(|error| Failure::failed(format!("cannot start logging: {error}")))
}
