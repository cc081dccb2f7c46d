//! Connections kept open between exchanges, per endpoint.
//!
//! A kept connection is used only by the endpoint that opened it, under the same identity, for the same origin, and only while the address
//! it leads to is still among those vetted for the exchange at hand: a name that moved is followed, and a name that
//! turned private is never reached over an old connection. The number kept is bounded; who comes too late is
//! closed. Nothing is kept longer than its idle time, which the receiver may shorten (`Keep-Alive: timeout=…`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use qrelay_store::id::{EndpointId, SecretId};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::gate::GateCell;

/// One open HTTP/1.1 connection.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Full<Bytes>>,
    pub(super) gate: GateCell,
    pub(super) peer: SocketAddr,
    pub(super) _driver: Driver,
}

/// The task that moves a connection's bytes; ends with whoever holds this.
pub(super) struct Driver(pub(super) AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whose connections, and to where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    pub(super) endpoint: EndpointId,
    /// Scheme, host and port.
    pub(super) origin: String,
    /// Who we are on it.
    pub(super) identity: Option<SecretId>,
}

struct Idle {
    connection: Connection,
    until: Instant,
}

impl Idle {
    fn is_usable(&self, now: Instant) -> bool {
        now < self.until && self.connection.sender.is_ready()
    }
}

#[derive(Default)]
struct Inner {
    idle: HashMap<PoolKey, Vec<Idle>>,
    kept: usize,
    closed: bool,
}

/// The idle connections of all endpoints.
pub(super) struct Pool {
    inner: Mutex<Inner>,
    kept_max: usize,
}

impl Pool {
    pub(super) fn new(kept_max: usize) -> Self {
        Pool {
            inner: Mutex::default(),
            kept_max,
        }
    }

    /// A live connection to one of the addresses, the one used last. Those that died or lead elsewhere are closed.
    pub(super) fn take(&self, key: &PoolKey, addresses: &[SocketAddr]) -> Option<Connection> {
        let now = Instant::now();
        let mut inner = self.lock();
        let idle = inner.idle.get_mut(key)?;
        let before = idle.len();
        idle.retain(|idle| idle.is_usable(now) && addresses.contains(&idle.connection.peer));
        let taken = idle.pop();
        let (left, gone) = (idle.len(), before - idle.len());
        inner.kept -= gone;
        if left == 0 {
            inner.idle.remove(key);
        }
        taken.map(|idle| idle.connection)
    }

    /// Keeps a connection for at most `idle_max`, if there is room.
    pub(super) fn put(&self, key: PoolKey, connection: Connection, idle_max: Duration) {
        let mut inner = self.lock();
        if inner.closed || inner.kept >= self.kept_max {
            return;
        }
        inner.kept += 1;
        inner.idle.entry(key).or_default().push(Idle {
            connection,
            until: Instant::now() + idle_max,
        });
    }

    /// Closes what has lain idle too long or was closed by its peer.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.idle.retain(|_, idle| {
            idle.retain(|idle| idle.is_usable(now));
            !idle.is_empty()
        });
        inner.kept = inner.idle.values().map(Vec::len).sum();
    }

    /// Closes all, and keeps none from now on.
    pub(super) fn close(&self) {
        *self.lock() = Inner {
            closed: true,
            ..Inner::default()
        };
    }

    /// How many connections are kept.
    pub(super) fn kept(&self) -> usize {
        self.lock().kept
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
