//! `qrelay up`: all roles in one process, on a data directory or in a keyspace of a CQL cluster; and `qrelay control-plane`,
//! `data-plane` and `dispatcher`: one role in a process of its own, any number of each on one keyspace.
//!
//! [`start`] is the library: the demo and tests start the same process inside themselves. [`run`] is a command around it:
//! configuration, logs, signals, exit codes.

mod admin_key;
mod check;
mod cluster;
mod config;
mod edge_runtime;
mod error;
mod flags;
mod journal;
mod journal_flags;
mod keys;
mod logging;
mod metric_help;
mod opened;
mod ops;
mod peers;
mod plan;
mod process;
mod readiness;
mod role;
mod roles;
mod running;
mod signals;
mod start;
#[cfg(test)]
mod start_tests;
mod waiting;
mod writers;

use std::{
    io::{self, Write},
    process::ExitCode,
};

pub use self::{
    admin_key::{AdminKeyError, AdminKeyTo},
    cluster::ClusterConfig,
    config::{
        ApiConfig, ApiTls, Config, DispatcherConfig, EdgeConfig, MasterKeyConfig, ProcessConfig, StoreConfig,
        TargetConfig,
    },
    error::{StartError, StopError},
    ops::{Metrics, MetricsError},
    peers::PeerConfig,
    running::{Addresses, Running},
    start::start,
};
pub(crate) use self::{
    cluster::ClusterFlags,
    flags::{ControlPlaneFlags, DataPlaneFlags, DispatcherRoleFlags, Flags},
    logging::start as log_to_stderr,
    process::raise_open_files_limit,
    signals::{Signals, Stop},
};
use self::{flags::ProcessFlags, plan::Plan, running::Process, start::begin};
use crate::failure::{Failure, chain};

/// Runs all roles until a signal ends them.
pub(crate) fn run(flags: &Flags) -> Result<ExitCode, Failure> {
    let config = Config::from_flags(flags)?;
    let printed = config.print(&flags.process.log);
    run_plan(config.into(), &flags.process, &printed)
}

/// Runs an edge until a signal ends it.
pub(crate) fn run_data_plane(flags: &DataPlaneFlags) -> Result<ExitCode, Failure> {
    run_role(Plan::data_plane(flags)?, &flags.process)
}

/// Runs a control plane until a signal ends it.
pub(crate) fn run_control_plane(flags: &ControlPlaneFlags) -> Result<ExitCode, Failure> {
    run_role(Plan::control_plane(flags)?, &flags.process)
}

/// Runs a dispatcher until a signal ends it.
pub(crate) fn run_dispatcher(flags: &DispatcherRoleFlags) -> Result<ExitCode, Failure> {
    run_role(Plan::dispatcher(flags)?, &flags.process)
}

fn run_role(plan: Plan, flags: &ProcessFlags) -> Result<ExitCode, Failure> {
    let printed = plan.print(&flags.log);
    run_plan(plan, flags, &printed)
}

fn run_plan(plan: Plan, flags: &ProcessFlags, printed: &str) -> Result<ExitCode, Failure> {
    if flags.print_config {
        io::stdout().write_all(printed.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    log_to_stderr(&flags.log)?;
    raise_open_files_limit();
    let metrics = Metrics::install().map_err(|error| Failure::because("cannot start", &error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start", &error))?;
    let code = runtime.block_on(serve(plan, metrics));
    // What still runs now was cut off, or is a start that was broken off: there is nothing to wait for.
    runtime.shutdown_background();
    code
}

async fn serve(plan: Plan, metrics: Metrics) -> Result<ExitCode, Failure> {
    let mut signals =
        Signals::listen().map_err(|error| Failure::because("cannot listen for signals", &error))?;
    let started = tokio::select! {
        started = begin(plan, metrics, AdminKeyTo::fitting()) => started,
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
fn announce(running: &Process) {
    let bound = &running.bound;
    tracing::info!(
        edge_listen = bound.edge.map(tracing::field::display),
        api_listen = bound.api.map(tracing::field::display),
        peer_listen = bound.peer.map(tracing::field::display),
        ops_listen = %bound.ops,
        public_url = running.public_url.as_ref().map(config::origin),
        "listening"
    );
    tracing::info!("ready");
}

fn cannot_start(error: StartError) -> Failure {
    cannot("start", &error)
}

/// What was to be done with the store did not work.
pub(crate) fn cannot(what: &str, error: &StartError) -> Failure {
    let message = format!("cannot {what}: {}", chain(error));
    let failure = match error.is_usage() {
        true => Failure::usage(message),
        false => Failure::failed(message),
    };
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
