//! Starts all roles in one process, and stops them in order.
//!
//! Order of a start: the store (on a directory: its lock), keys, listeners, the writers of processes that are known to be
//! dead, our writer, the roles.
//! Order of a stop: the edge first, so that nothing new is answered; then the writer, so that all that was answered
//! is acknowledged; then dispatcher and control plane, side by side; the store last.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use ipnet::IpNet;
use qrelay_store::{
    appender::Appender,
    reader::close_dead_writers,
    seal::{CheckError, MasterKeys, Sealer},
    store::SharedStore,
};
use secrecy::ExposeSecret;
use tokio::{net::TcpListener, runtime::Handle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

use super::{
    admin_key::{self, AdminKeyTo},
    config::{Config, ProcessConfig, StoreConfig},
    edge_runtime::EdgeRuntime,
    error::{StartError, StopError},
    opened::Opened,
    ops::{self, Metrics},
    readiness::Ready,
    role::Role,
    roles::{self, Ground, api, dispatcher, edge},
};

/// How often changed heads are published.
const HEADS_PERIOD: Duration = Duration::from_millis(50);
/// Of a stop's time, what the writer, dispatcher and control plane have at least, however long the edge takes.
const STOP_SHARE: u32 = 2;

/// The addresses that were bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// Scans.
    pub edge: SocketAddr,
    /// The API.
    pub api: SocketAddr,
    /// Metrics and health.
    pub ops: SocketAddr,
}

/// All roles, running.
pub struct Running {
    addresses: Addresses,
    public_url: Url,
    drain_deadline: Duration,
    appender: Appender,
    edge: Role,
    api: Role,
    dispatcher: Role,
    background: TaskTracker,
    background_stop: CancellationToken,
    ready: Arc<Ready>,
    // Outlives the edge and the writer.
    edge_runtime: EdgeRuntime,
    // Dropped last: the store waits for what is being committed and gives the directory free.
    store: Opened,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Starts everything. When this returns, all listeners answer. `show_to`: where the admin key is shown if this start
/// makes one. Must be called within a multi-thread tokio runtime; metrics are to be installed before.
///
/// # Errors
/// When the data directory is in use or damaged, keys are missing or wrong, an address is taken, or a role cannot be
/// built. Nothing runs then.
pub async fn start(config: Config, metrics: Metrics, show_to: AdminKeyTo) -> Result<Running, StartError> {
    let (store, ground) = Opened::open(&config.store).await?;
    let admin_key = admin_key(&config, show_to)?;
    let sealer = sealer(&config, &*ground.store).await?;
    let edge_runtime = EdgeRuntime::start().map_err(StartError::Threads)?;
    let scans = edge_runtime.handle();
    let listeners = Listeners::bind(&config, scans)?;
    let addresses = listeners.addresses.clone();
    let public_url = public_url(&config, addresses.edge);
    warn_of_exposure(&config, &addresses);
    if ground.store.exclusive() {
        close_dead_writers(&ground.store, &[]).await?;
    }
    let node = node(&config.process);
    let store_of_writer = Arc::clone(&ground.store);
    let appender = Appender::start_on(scans, store_of_writer, &ground.clock, &node, HEADS_PERIOD).await?;
    let drain_deadline = config.process.drain_deadline;
    let drain = drain_deadline / STOP_SHARE;
    let own = [addresses.edge, addresses.api, addresses.ops];
    let keys = (admin_key, sealer);
    let roles = build(&config, &ground, &appender, keys, (&public_url, &own)).await?;

    let ready = Arc::new(Ready::new(appender.clone()));
    let (background, background_stop) = (TaskTracker::new(), CancellationToken::new());
    let here = Handle::current();
    let running = Running {
        edge: Role::spawn_on(scans, "edge", &ready, |stop| {
            roles.edge.serve(vec![listeners.edge], stop)
        }),
        api: Role::spawn_on(&here, "api", &ready, |stop| {
            roles.api.serve(listeners.api, stop, drain)
        }),
        dispatcher: Role::spawn_on(&here, "dispatcher", &ready, |stop| roles.dispatcher.run(stop)),
        addresses,
        public_url,
        drain_deadline,
        appender,
        background,
        background_stop: background_stop.clone(),
        ready: Arc::clone(&ready),
        edge_runtime,
        store,
    };
    running
        .store
        .keep_up(&running.background, config.retention, background_stop.clone());
    running
        .background
        .spawn(ops::serve(listeners.ops, metrics, ready, background_stop));
    Ok(running)
}

/// The roles, before they run.
struct Built {
    edge: qrelay_edge::Edge,
    api: qrelay_control::Server,
    dispatcher: qrelay_dispatcher::Dispatcher,
}

/// Builds all roles. `at`: what short links begin with, and where this process listens.
async fn build(
    config: &Config,
    ground: &Ground,
    appender: &Appender,
    (admin_key, sealer): (qrelay_control::AdminKey, Sealer),
    (public_url, own): (&Url, &[SocketAddr]),
) -> Result<Built, StartError> {
    let drain = config.process.drain_deadline / STOP_SHARE;
    let proxy = config.dispatcher.egress_proxy.as_ref();
    let targets = roles::targets(&config.targets, proxy, public_url, own);
    let edge = edge::build(&config.edge, ground, appender, drain / 2).await?;
    let needs = api::Needs {
        appender: appender.clone(),
        admin_key,
        sealer: sealer.clone(),
        targets: targets.clone(),
        public_url: public_url.clone(),
    };
    let api = api::build(&config.api, ground, needs)?;
    let needs = dispatcher::Needs {
        sealer,
        targets,
        addr: String::new(),
        drain,
    };
    let dispatcher = dispatcher::build(&config.dispatcher, ground, needs)?;
    Ok(Built {
        edge,
        api,
        dispatcher,
    })
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
        self.store.shared()
    }

    /// Waits until a role ends although nobody asked it to: which one, and why.
    pub async fn failed(&mut self) -> (&'static str, String) {
        tokio::select! {
            why = self.edge.ended() => (self.edge.name(), why),
            why = self.api.ended() => (self.api.name(), why),
            why = self.dispatcher.ended() => (self.dispatcher.name(), why),
        }
    }

    /// Stops everything in order, within the drain deadline. Nothing that was answered is lost either way.
    ///
    /// # Errors
    /// What did not end in time.
    pub async fn stop(self) -> Result<(), StopError> {
        let began = Instant::now();
        let (half, deadline) = (
            began + self.drain_deadline / STOP_SHARE,
            began + self.drain_deadline,
        );
        self.ready.stopping();
        let mut late = Vec::new();
        late.extend(self.edge.stop(half).await);
        let closed = self.appender.close(deadline).await;
        let (dispatcher, api) = tokio::join!(self.dispatcher.stop(deadline), self.api.stop(deadline));
        late.extend(dispatcher);
        late.extend(api);
        self.background_stop.cancel();
        self.background.close();
        if tokio::time::timeout_at(deadline, self.background.wait())
            .await
            .is_err()
        {
            late.push("background");
        }
        // All others who hold the store.
        drop((self.ready, self.appender));
        drop_store(self.edge_runtime, self.store).await;
        match closed {
            Err(error) => Err(StopError::Writer(error)),
            Ok(()) if late.is_empty() => Ok(()),
            Ok(()) => Err(StopError::Late(late.join(", "))),
        }
    }
}

/// Dropping the store waits for the disk. A writer that could not be closed in time holds it, too, and ends with its threads.
async fn drop_store(threads: EdgeRuntime, store: Opened) {
    let dropped = tokio::task::spawn_blocking(move || {
        threads.end();
        drop(store);
    })
    .await;
    dropped.expect("invariant: closing the store does not panic");
}

/// The admin key of this start.
fn admin_key(config: &Config, show_to: AdminKeyTo) -> Result<qrelay_control::AdminKey, StartError> {
    let given = config.api.admin_key.as_ref();
    match &config.store {
        StoreConfig::Embedded(directory) => Ok(admin_key::obtain(directory, given, show_to)?),
        StoreConfig::Cluster(_) => Ok(admin_key::given(given.ok_or(StartError::KeysNeeded)?)?),
    }
}

/// The keys of this start, which open what is stored.
async fn sealer(config: &Config, store: &dyn qrelay_store::Store) -> Result<Sealer, StartError> {
    let path = config.master_key_path();
    let keys = match (&config.master_key, &path) {
        (Some(text), _) => MasterKeys::from_env_text(text.expose_secret())?,
        (None, Some(path)) if store.exclusive() => keys_in_file(path, store).await?,
        (None, Some(path)) => MasterKeys::load(path)?,
        (None, None) => return Err(StartError::KeysNeeded),
    };
    let sealer = Sealer::new(Arc::new(keys));
    match sealer.check(store).await {
        Ok(()) => Ok(sealer),
        Err(CheckError::Store(error)) => Err(error.into()),
        Err(source @ CheckError::WrongKeys { .. }) => Err(match path {
            None => StartError::WrongKey { source },
            Some(path) => StartError::WrongKeys { path, source },
        }),
    }
}

/// A missing key file is made only for a store without secrets: otherwise it was lost, and another key would not do.
async fn keys_in_file(path: &Path, store: &dyn qrelay_store::Store) -> Result<MasterKeys, StartError> {
    let is_new = store.any_secret().await?.is_none();
    if !is_new && matches!(path.try_exists(), Ok(false)) {
        return Err(StartError::MasterKeyLost {
            path: path.to_owned(),
        });
    }
    let (keys, made) = MasterKeys::load_or_create(path)?;
    if made {
        tracing::warn!(master_key_file = %path.display(), "made the master key; without a copy of it, stored secrets cannot be restored");
    }
    Ok(keys)
}

struct Listeners {
    edge: TcpListener,
    api: TcpListener,
    ops: TcpListener,
    addresses: Addresses,
}

impl Listeners {
    /// The edge's is the edge's runtime's.
    fn bind(config: &Config, scans: &Handle) -> Result<Self, StartError> {
        let (edge, at_edge) = {
            let _entered = scans.enter();
            roles::listen("edge", config.edge.listen)?
        };
        let (api, at_api) = roles::listen("api", config.api.listen)?;
        let (ops, at_ops) = roles::listen("ops", config.process.ops_listen)?;
        let addresses = Addresses {
            edge: at_edge,
            api: at_api,
            ops: at_ops,
        };
        Ok(Self {
            edge,
            api,
            ops,
            addresses,
        })
    }
}

fn public_url(config: &Config, edge: SocketAddr) -> Url {
    config.targets.public_url.clone().unwrap_or_else(|| {
        // What is bound to every address is reached by any of them; of those, loopback is certain.
        let reached = match edge {
            SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
                SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, v6.port()))
            }
            other => other,
        };
        Url::parse(&format!("http://{reached}")).expect("invariant: an address and a port make a URL")
    })
}

fn warn_of_exposure(config: &Config, addresses: &Addresses) {
    if config.api.tls.is_none() && !addresses.api.ip().is_loopback() {
        tracing::warn!(
            api_listen = %addresses.api,
            "the API is open to other machines without TLS: keys can be read on the way; set --api-tls-cert and --api-tls-key, or put a proxy in front"
        );
    }
    if !config.targets.dangerous_allow.is_empty() {
        let networks: Vec<_> = config
            .targets
            .dangerous_allow
            .iter()
            .map(IpNet::to_string)
            .collect();
        tracing::warn!(
            networks = networks.join(","),
            "webhooks may go to networks that are not public"
        );
    }
}

/// What this process is called where processes are listed.
fn node(config: &ProcessConfig) -> String {
    let name = config.node_name.clone().unwrap_or_else(|| {
        let system = rustix::system::uname();
        system.nodename().to_string_lossy().into_owned()
    });
    format!("{name}/up/{}", std::process::id())
}
