//! `qrelay up`: all roles in one process, on a data directory or in a keyspace of a CQL cluster.
//!
//! [`start`] is the library: the demo and tests start the same process inside themselves. [`run`] is the command
//! around it: configuration, logs, signals, exit codes.

mod admin_key;
mod check;
mod cluster;
mod config;
mod edge_runtime;
mod error;
mod flags;
mod logging;
mod metric_help;
mod opened;
mod ops;
mod process;
mod readiness;
mod role;
mod roles;
mod signals;
mod start;
#[cfg(test)]
mod start_tests;

use std::{
    io::{self, Write},
    process::ExitCode,
};

pub use self::{
    admin_key::{AdminKeyError, AdminKeyTo},
    cluster::ClusterConfig,
    config::{
        ApiConfig, ApiTls, Config, DispatcherConfig, EdgeConfig, ProcessConfig, StoreConfig, TargetConfig,
    },
    error::{StartError, StopError},
    ops::{Metrics, MetricsError},
    start::{Addresses, Running, start},
};
pub(crate) use self::{
    flags::Flags,
    logging::start as log_to_stderr,
    process::raise_open_files_limit,
    signals::{Signals, Stop},
};
use crate::failure::{Failure, chain};

/// Runs until a signal ends it.
pub(crate) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    let config = Config::from_flags(flags)?;
    if flags.process.print_config {
        io::stdout().write_all(config.print(&flags.process.log).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    log_to_stderr(&flags.process.log)?;
    raise_open_files_limit();
    let metrics = Metrics::install().map_err(|error| Failure::because("cannot start", &error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start", &error))?;
    let code = runtime.block_on(serve(config, metrics));
    // What still runs now was cut off, or is a start that was broken off: there is nothing to wait for.
    runtime.shutdown_background();
    code
}

async fn serve(config: Config, metrics: Metrics) -> Result<ExitCode, Failure> {
    let mut signals =
        Signals::listen().map_err(|error| Failure::because("cannot listen for signals", &error))?;
    let started = tokio::select! {
        started = start(config, metrics, AdminKeyTo::fitting()) => started,
        stop = signals.next() => {
            tracing::info!(signal = stop.name(), "stopped before the start was complete");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let mut running = started.map_err(cannot_start)?;
    announce(&running);
    let failed = tokio::select! {
        (role, reason) = running.failed() => {
            tracing::error!(role, reason, "a role ended by itself; stopping");
            true
        }
        stop = signals.next() => {
            tracing::info!(signal = stop.name(), "draining; a second signal ends the process at once");
            false
        }
    };
    let stopped = tokio::select! {
        stopped = running.stop() => stopped,
        stop = signals.next() => {
            tracing::warn!(signal = stop.name(), "ended at once");
            // Nothing may be waited for any more, a commit neither: what was answered is durable.
            std::process::exit(i32::from(stop.exit_code()));
        }
    };
    match stopped {
        Ok(()) => tracing::info!("stopped"),
        Err(error) => tracing::error!(error = chain(&error), "stopped, not cleanly"),
    }
    if failed {
        return Err(Failure::failed("a role ended by itself").hint("the log says which and why"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The lines that tests and people read the bound ports from.
fn announce(running: &Running) {
    let Addresses { edge, api, ops } = running.addresses();
    tracing::info!(
        edge_listen = %edge,
        api_listen = %api,
        ops_listen = %ops,
        public_url = config::origin(running.public_url()),
        "listening"
    );
    tracing::info!("ready");
}

fn cannot_start(error: StartError) -> Failure {
    let message = format!("cannot start: {}", chain(&error));
    let failure = match error.is_usage() {
        true => Failure::usage(message),
        false => Failure::failed(message),
    };
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
