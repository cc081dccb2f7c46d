//! The roles: each is built from its own configuration and a store, whichever that is and whoever else uses it.
//!
//! `qrelay up` builds all three on one store, in one process. Nothing here assumes that: roles that share no process share the
//! store and nothing else, and hear of each other's doings by hints, or by looking.

pub(crate) mod api;
pub(crate) mod dispatcher;
pub(crate) mod edge;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use qrelay_dispatcher::exchange::EgressProxy;
use qrelay_store::{
    clock::SharedClock,
    store::SharedStore,
    target::{SystemResolver, TargetPolicy, Targets},
};
use tokio::net::{TcpListener, TcpSocket};
use url::Url;

use super::{config::TargetConfig, error::StartError};

/// Connections that wait to be accepted at most: as many as most systems allow without tuning.
const LISTEN_BACKLOG: u32 = 4096;

/// What every role stands on.
#[derive(Clone)]
pub(crate) struct Ground {
    /// Everything that is remembered.
    pub(crate) store: SharedStore,
    /// Wall time.
    pub(crate) clock: SharedClock,
}

/// Where webhooks may go, and never to ourselves: what short links begin with, and this process's own addresses.
pub(crate) fn targets(
    config: &TargetConfig,
    proxy: Option<&EgressProxy>,
    public_url: &Url,
    own: &[SocketAddr],
) -> Targets {
    let policy =
        TargetPolicy::new(config.dangerous_allow.clone(), config.deny.clone()).with_own_url(public_url);
    let policy = own
        .iter()
        .fold(policy, |policy, address| policy.with_own_address(*address));
    let policy = match proxy.and_then(EgressProxy::authority) {
        Some(proxy) => policy.with_own_url(&proxy),
        None => policy,
    };
    Targets::new(policy, Arc::new(SystemResolver::from_system()))
}

/// Listens at an address: the socket, and what was bound.
pub(crate) fn listen(
    flag: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // A restart does not wait for the last connections of the process before.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(LISTEN_BACKLOG)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bound().map_err(|source| StartError::Listen {
        flag,
        address,
        source,
    })
}
