//! A process's roles while they run: watched, and stopped in order.
//!
//! The edge stops first, so that nothing new is answered; then the writers, so that all that was answered is acknowledged;
//! then dispatcher and control plane, side by side; what was done beside them, and the store last.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use qrelay_store::store::SharedStore;
use tokio::time::{Instant, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

use super::{
    edge_runtime::EdgeRuntime, error::StopError, opened::Opened, readiness::Ready, role::Role,
    start::STOP_SHARE, writers::Writers,
};

/// The addresses that all roles in one process were bound to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// Scans.
    pub edge: SocketAddr,
    /// The API.
    pub api: SocketAddr,
    /// Metrics and health.
    pub ops: SocketAddr,
}

/// The addresses that a process was bound to.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) edge: Option<SocketAddr>,
    pub(crate) api: Option<SocketAddr>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) ops: SocketAddr,
}

impl Bound {
    /// All of them.
    pub(crate) fn all(&self) -> Vec<SocketAddr> {
        let some = [self.edge, self.api, self.peer, Some(self.ops)];
        some.into_iter().flatten().collect()
    }
}

/// A process's roles, running.
pub(crate) struct Process {
    pub(crate) bound: Bound,
    pub(crate) public_url: Option<Url>,
    pub(super) drain_deadline: Duration,
    pub(super) writers: Writers,
    pub(super) edge: Option<Role>,
    pub(super) api: Option<Role>,
    pub(super) dispatcher: Option<Role>,
    pub(super) background: TaskTracker,
    pub(super) background_stop: CancellationToken,
    pub(super) ready: Arc<Ready>,
    // Outlives the edge and the writer.
    pub(super) edge_runtime: Option<EdgeRuntime>,
    // Dropped last: the store waits for what is being committed and gives the directory free.
    pub(super) store: Opened,
}

impl Process {
    /// Waits until a role ends although nobody asked it to: which one, and why.
    pub(crate) async fn failed(&mut self) -> (&'static str, String) {
        tokio::select! {
            ended = ended(&mut self.edge) => ended,
            ended = ended(&mut self.api) => ended,
            ended = ended(&mut self.dispatcher) => ended,
        }
    }

    /// Stops everything in order, within the drain deadline. Nothing that was answered is lost either way.
    pub(crate) async fn stop(self) -> Result<(), StopError> {
        let began = Instant::now();
        let (half, deadline) = (
            began + self.drain_deadline / STOP_SHARE,
            began + self.drain_deadline,
        );
        self.ready.stopping();
        let mut late = Vec::new();
        late.extend(stop(self.edge, half).await);
        let closed = self.writers.close(deadline).await;
        let (dispatcher, api) = tokio::join!(stop(self.dispatcher, deadline), stop(self.api, deadline));
        late.extend(dispatcher);
        late.extend(api);
        self.background_stop.cancel();
        self.background.close();
        if timeout_at(deadline, self.background.wait()).await.is_err() {
            late.push("background");
        }
        // All others who hold the store.
        drop((self.ready, self.writers));
        drop_store(self.edge_runtime, self.store).await;
        match closed {
            Err(error) => Err(StopError::Writer(error)),
            Ok(()) if late.is_empty() => Ok(()),
            Ok(()) => Err(StopError::Late(late.join(", "))),
        }
    }
}

async fn ended(role: &mut Option<Role>) -> (&'static str, String) {
    match role {
        Some(role) => (role.name(), role.ended().await),
        None => std::future::pending().await,
    }
}

async fn stop(role: Option<Role>, deadline: Instant) -> Option<&'static str> {
    role?.stop(deadline).await
}

/// Dropping the store waits for the disk. A writer that could not be closed in time holds it, too, and ends with its threads.
async fn drop_store(threads: Option<EdgeRuntime>, store: Opened) {
    let dropped = tokio::task::spawn_blocking(move || {
        if let Some(threads) = threads {
            threads.end();
        }
        drop(store);
    })
    .await;
    dropped.expect("invariant: closing the store does not panic");
}

/// All roles, running.
pub struct Running {
    pub(super) process: Process,
    pub(super) addresses: Addresses,
    pub(super) public_url: Url,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Running {
    /// Where everything listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What short links begin with.
    pub fn public_url(&self) -> &Url {
        &self.public_url
    }

    /// The store, for tests.
    pub fn store(&self) -> SharedStore {
        self.process.store.shared()
    }

    /// Waits until a role ends although nobody asked it to: which one, and why.
    pub async fn failed(&mut self) -> (&'static str, String) {
        self.process.failed().await
    }

    /// Stops everything in order, within the drain deadline. Nothing that was answered is lost either way.
    ///
    /// # Errors
    /// What did not end in time.
    pub async fn stop(self) -> Result<(), StopError> {
        self.process.stop().await
    }
}
