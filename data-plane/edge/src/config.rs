//! The edge's settings, and how its parts are put together.
//!
//! Binding sockets, opening the store and starting the writer are the caller's. Invariant: once
//! [`Edge::serve`] has returned, no connection is open and no task of the edge runs; the caller may then close
//! the writer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use qrelay_store::appender::Appender;
use qrelay_store::clock::SharedClock;
use qrelay_store::id::ConfigSeq;
use qrelay_store::seldom::Seldom;
use qrelay_store::store::{SharedStore, StoreError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::classify::Classifier;
use crate::client_address::TrustedProxies;
use crate::codes::Codes;
use crate::geo::{GeoDatabase, GeoError};
use crate::measures::Measures;
use crate::redirect::{Redirector, UNRECORDED_TOLD};
use crate::server::{ConnectionTimes, Connections, PeerSource, Server, http1_builder};

/// Settings. The defaults are for a machine of two cores and a gibibyte.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: TrustedProxies,
    /// Whether connections begin with a PROXY header.
    pub peer_source: PeerSource,
    /// A GeoIP database in MaxMind's format.
    pub geoip_db: Option<PathBuf>,
    /// Open connections. Each takes up to 32 KiB of buffers and a file descriptor.
    pub connections_max: usize,
    /// From the first byte of a request (or the connection's beginning) to the end of its head.
    pub head_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// How long a client may take to read an answer that its window did not hold.
    pub write_timeout: Duration,
    /// How long connections may take to end at a stop.
    pub drain_deadline: Duration,
    /// Memory for codes, bytes: about 400 bytes a code with a short destination.
    pub code_cache_bytes_max: u64,
    /// Memory for short ids that no code has, bytes.
    pub unknown_cache_bytes_max: u64,
    /// Memory for user agents, bytes: about 600 bytes each.
    pub user_agent_cache_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            trusted_proxies: TrustedProxies::default(),
            peer_source: PeerSource::Socket,
            geoip_db: None,
            connections_max: 10_000,
            head_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(5),
            drain_deadline: Duration::from_secs(10),
            code_cache_bytes_max: 64 * MIB,
            unknown_cache_bytes_max: 8 * MIB,
            user_agent_cache_bytes_max: 16 * MIB,
        }
    }
}

/// What the edge works with.
pub struct Deps {
    /// Codes, tenants, the configuration log.
    pub store: SharedStore,
    /// The process's writer.
    pub appender: Appender,
    /// Wall time.
    pub clock: SharedClock,
}

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deps")
    }
}

/// Why an edge could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The GeoIP database cannot be used.
    #[error("the edge cannot start")]
    Geo(#[from] GeoError),
    /// The configuration log cannot be read.
    #[error("the edge cannot read the configuration log")]
    Store(#[from] StoreError),
}

/// An edge that is ready to serve.
pub struct Edge {
    server: Arc<Server>,
    codes: Codes,
    store: SharedStore,
    config_cursor: ConfigSeq,
    background: TaskTracker,
    drain_deadline: Duration,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge")
            .field("connections", &self.server.connections.len())
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Puts an edge together. The process's metrics recorder must be installed before.
    ///
    /// # Errors
    /// When the GeoIP database cannot be opened or the store cannot be read.
    pub async fn build(self, deps: Deps) -> Result<Edge, BuildError> {
        let Deps {
            store,
            appender,
            clock,
        } = deps;
        let measures = Arc::new(Measures::register());
        let geo = match self.geoip_db.clone() {
            Some(path) => Some(Arc::new(open_geo(path).await?)),
            None => None,
        };
        // Before anything is cached: all later changes are then seen by the tail.
        let config_cursor = store.config_head().await?;
        let background = TaskTracker::new();
        let codes = Codes::new(
            store.clone(),
            self.code_cache_bytes_max,
            self.unknown_cache_bytes_max,
            background.clone(),
            measures.clone(),
        );
        let redirector = Redirector {
            codes: codes.clone(),
            appender,
            ids: store.install().ids.clone(),
            clock,
            classifier: Classifier::new(self.user_agent_cache_bytes_max, measures.clone()),
            geo,
            trusted_proxies: self.trusted_proxies.clone(),
            measures: measures.clone(),
            unrecorded_told: Seldom::new(UNRECORDED_TOLD),
        };
        let server = Server {
            redirector,
            connections: Arc::new(Connections::new(
                self.connections_max,
                self.connection_times(),
                measures,
            )),
            peer_source: self.peer_source,
            tasks: TaskTracker::new(),
            http: http1_builder(),
        };
        let drain_deadline = self.drain_deadline;
        Ok(Edge {
            server: Arc::new(server),
            codes,
            store,
            config_cursor,
            background,
            drain_deadline,
        })
    }

    fn connection_times(&self) -> ConnectionTimes {
        ConnectionTimes {
            head: self.head_timeout,
            idle: self.idle_timeout,
            write: self.write_timeout,
            linger: self.write_timeout.min(Duration::from_secs(1)),
        }
    }
}

async fn open_geo(path: PathBuf) -> Result<GeoDatabase, GeoError> {
    let opened = tokio::task::spawn_blocking(move || GeoDatabase::open(&path)).await;
    opened.expect("invariant: opening a database does not panic, and the runtime is running")
}

impl Edge {
    /// Serves the listeners until `shutdown` is cancelled, then ends each connection after the answer it owes.
    /// Returns when all have ended, at the latest a second after the drain deadline.
    pub async fn serve(self, listeners: Vec<TcpListener>, shutdown: CancellationToken) {
        let stop = CancellationToken::new();
        self.start_background(&stop);
        let accepting = listeners
            .into_iter()
            .map(|listener| Arc::clone(&self.server).accept(listener, shutdown.clone()));
        // Each returns only at the shutdown, and drops its listener then.
        join_all(accepting).await;
        shutdown.cancelled().await;
        self.server.drain(self.drain_deadline).await;
        stop.cancel();
        self.background.close();
        self.background.wait().await;
    }

    fn start_background(&self, stop: &CancellationToken) {
        let codes = self.codes.clone();
        let (cursor, hints) = (self.config_cursor, self.store.hints().config());
        let following = async move { codes.follow(cursor, hints).await };
        let connections = Arc::clone(&self.server.connections);
        let sweeping = async move { connections.keep_sweeping().await };
        self.background
            .spawn(stop.clone().run_until_cancelled_owned(following));
        self.background
            .spawn(stop.clone().run_until_cancelled_owned(sweeping));
        self.background.spawn_blocking(Classifier::warm_up);
    }
}
