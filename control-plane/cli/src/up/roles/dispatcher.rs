//! The dispatcher: delivers.

use std::{sync::Arc, time::Duration};

use qrelay_dispatcher::exchange::{self, Exchanger, TlsConfigError};
use qrelay_store::{limits, seal::Sealer, target::Targets};

use super::{
    super::{config::DispatcherConfig, error::StartError},
    Ground,
};

/// What a dispatcher needs beside its configuration.
pub(crate) struct Needs {
    pub(crate) sealer: Sealer,
    pub(crate) targets: Targets,
    /// Where other processes reach this one; it stands in the leases. Empty when there are none.
    pub(crate) addr: String,
    /// How long exchanges under way are waited for at a stop, at most.
    pub(crate) drain: Duration,
}

/// Builds a dispatcher.
pub(crate) fn build(
    config: &DispatcherConfig,
    ground: &Ground,
    needs: Needs,
) -> Result<qrelay_dispatcher::Dispatcher, StartError> {
    let exchanges = exchange::Config {
        ca_bundle: config.ca_bundle.clone(),
        egress_proxy: config.egress_proxy.clone(),
        ..exchange::Config::default()
    };
    let deps = qrelay_dispatcher::Deps {
        store: Arc::clone(&ground.store),
        clock: Arc::clone(&ground.clock),
        exchanger: Exchanger::new(exchanges, needs.targets).map_err(|source| match source {
            TlsConfigError::Rustls(_) => StartError::Dispatcher(source),
            _ => StartError::CaBundle(source),
        })?,
        secrets: Arc::new(needs.sealer),
    };
    let settings = qrelay_dispatcher::Config::default();
    let checkpoint_period = match ground.store.exclusive() {
        true => limits::CHECKPOINT_PERIOD_EMBEDDED,
        false => limits::CHECKPOINT_PERIOD_CLUSTER,
    };
    let drain_deadline = settings.drain_deadline.min(needs.drain);
    Ok(qrelay_dispatcher::Config {
        addr: needs.addr,
        drain_deadline,
        checkpoint_period,
        ..settings
    }
    .build(deps))
}
