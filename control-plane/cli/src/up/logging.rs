//! Logs: text for a person at a terminal, JSON lines for everything else, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

use crate::failure::Failure;

/// What the CQL driver says of each connection that it cannot set to the keyspace yet. That is tried again, and told by us where
/// it stays so.
const QUIET: &str = "scylla::network::connection_pool=error";

/// The filter that was asked for. It says all that it names; nothing else is left out but what is [`QUIET`].
fn filter(asked: &str) -> Result<EnvFilter, Failure> {
    let parse = |text: &str| {
        EnvFilter::try_new(text)
            .map_err(|error| Failure::usage(format!("{asked:?} is no log filter: {error}")))
    };
    let plain = parse(asked)?;
    match asked.contains("scylla") {
        true => Ok(plain),
        false => parse(&format!("{QUIET},{asked}")),
    }
}

/// Starts logging, once per process.
pub(crate) fn start(asked: &str) -> Result<(), Failure> {
    let filter = filter(asked)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_quiet_unless_somebody_asks_for_it() {
        assert!(filter("info").unwrap().to_string().contains(QUIET));
        for asked in ["info,scylla=debug", "scylla::network=warn"] {
            assert!(!filter(asked).unwrap().to_string().contains(QUIET));
        }
        assert!(filter("no=such=filter").is_err());
    }
}
