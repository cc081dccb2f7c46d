//! Starts all roles in one process, and stops them in order.
//!
//! Order of a start: the directory's lock, keys, listeners, the writers of dead processes, our writer, the roles.
//! Order of a stop: the edge first, so that nothing new is answered; then the writer, so that all that was answered
//! is acknowledged; then dispatcher and control plane, side by side; the store last.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use qrelay_control::tls::TlsError;
use qrelay_dispatcher::exchange::{self, EgressProxy, Exchanger, TlsConfigError};
use qrelay_store::{
    appender::Appender,
    clock::{SharedClock, SystemClock},
    reader::close_dead_writers,
    seal::{CheckError, MasterKeys, Sealer},
    sqlite::{self, SqliteStore},
    store::SharedStore,
    target::{SystemResolver, TargetPolicy, Targets},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::Handle,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

use super::{
    admin_key::{self, AdminKeyTo},
    config::{ApiTls, Config},
    edge_runtime::EdgeRuntime,
    error::{StartError, StopError},
    ops::{self, Metrics},
    readiness::Ready,
    role::Role,
};

/// How often changed heads are published.
const HEADS_PERIOD: Duration = Duration::from_millis(50);
/// Connections that wait to be accepted at most: as many as most systems allow without tuning.
const LISTEN_BACKLOG: u32 = 4096;
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
    _edge_runtime: EdgeRuntime,
    // Dropped last: the store waits for what is being committed and gives the directory free.
    store: Arc<SqliteStore>,
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
    let opened = open(&config).await?;
    let admin_key = admin_key::obtain(&config.data_dir, config.admin_key.as_ref(), show_to)?;
    let sealer = sealer(&config, &*opened.shared).await?;
    let edge_runtime = EdgeRuntime::start().map_err(StartError::Threads)?;
    let scans = edge_runtime.handle();
    let listeners = Listeners::bind(&config, scans)?;
    let addresses = listeners.addresses.clone();
    let public_url = public_url(&config, addresses.edge);
    warn_of_exposure(&config, &addresses);
    close_dead_writers(&opened.shared, None).await?;
    let node = node();
    let appender = Appender::start_on(
        scans,
        Arc::clone(&opened.shared),
        &opened.clock,
        &node,
        HEADS_PERIOD,
    )
    .await?;
    let targets = targets(&config, &addresses, &public_url);

    let edge = edge(&config, &opened, &appender).await?;
    let api = api(
        &config,
        &opened,
        &appender,
        admin_key,
        sealer.clone(),
        targets.clone(),
        public_url.clone(),
    )?;
    let dispatcher = dispatcher(&config, &opened, sealer, targets)?;

    let ready = Arc::new(Ready::new(appender.clone()));
    let (background, background_stop) = (TaskTracker::new(), CancellationToken::new());
    let (drain, here) = (config.drain_deadline / STOP_SHARE, Handle::current());
    let running = Running {
        edge: Role::spawn_on(scans, "edge", &ready, |stop| {
            edge.serve(vec![listeners.edge], stop)
        }),
        api: Role::spawn_on(&here, "api", &ready, |stop| api.serve(listeners.api, stop, drain)),
        dispatcher: Role::spawn_on(&here, "dispatcher", &ready, |stop| dispatcher.run(stop)),
        addresses,
        public_url,
        drain_deadline: config.drain_deadline,
        appender,
        background,
        background_stop: background_stop.clone(),
        ready: Arc::clone(&ready),
        _edge_runtime: edge_runtime,
        store: opened.store,
    };
    running.background.spawn(sqlite::retention::run(
        Arc::clone(&running.store),
        config.retention,
        background_stop.clone(),
    ));
    running
        .background
        .spawn(ops::serve(listeners.ops, metrics, ready, background_stop));
    Ok(running)
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
        Arc::clone(&self.store) as SharedStore
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
        drop_store(self.store).await;
        match closed {
            Err(error) => Err(StopError::Writer(error)),
            Ok(()) if late.is_empty() => Ok(()),
            Ok(()) => Err(StopError::Late(late.join(", "))),
        }
    }
}

/// Dropping the store waits for the disk.
async fn drop_store(store: Arc<SqliteStore>) {
    let dropped = tokio::task::spawn_blocking(move || drop(store)).await;
    dropped.expect("invariant: closing the store does not panic");
}

struct Opened {
    store: Arc<SqliteStore>,
    shared: SharedStore,
    clock: SharedClock,
}

async fn open(config: &Config) -> Result<Opened, StartError> {
    let directory = config.data_dir.clone();
    let clock: SharedClock = Arc::new(SystemClock);
    let options = sqlite::Options {
        clock: Arc::clone(&clock),
        ..sqlite::Options::default()
    };
    let opening = tokio::task::spawn_blocking(move || SqliteStore::open(&directory, &options)).await;
    let store = opening.expect("invariant: opening a store does not panic")?;
    let shared: SharedStore = store.clone();
    Ok(Opened { store, shared, clock })
}

/// A missing key file is made only for a store without secrets: otherwise it was lost, and another key would not do.
async fn sealer(config: &Config, store: &dyn qrelay_store::Store) -> Result<Sealer, StartError> {
    let path = config.master_key_path();
    let is_new = store.any_secret().await?.is_none();
    if !is_new && matches!(path.try_exists(), Ok(false)) {
        return Err(StartError::MasterKeyLost { path });
    }
    let (keys, made) = MasterKeys::load_or_create(&path)?;
    if made {
        tracing::warn!(master_key_file = %path.display(), "made the master key; without a copy of it, stored secrets cannot be restored");
    }
    let sealer = Sealer::new(Arc::new(keys));
    match sealer.check(store).await {
        Ok(()) => Ok(sealer),
        Err(CheckError::Store(error)) => Err(error.into()),
        Err(source @ CheckError::WrongKeys { .. }) => Err(StartError::WrongKeys { path, source }),
    }
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
        let edge = {
            let _entered = scans.enter();
            listener("edge", config.edge_listen)?
        };
        let api = listener("api", config.api_listen)?;
        let ops = listener("ops", config.ops_listen)?;
        let address = |flag, listener: &TcpListener, wanted| {
            listener.local_addr().map_err(|source| StartError::Listen {
                flag,
                address: wanted,
                source,
            })
        };
        let addresses = Addresses {
            edge: address("edge", &edge, config.edge_listen)?,
            api: address("api", &api, config.api_listen)?,
            ops: address("ops", &ops, config.ops_listen)?,
        };
        Ok(Self {
            edge,
            api,
            ops,
            addresses,
        })
    }
}

fn listener(flag: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // A restart does not wait for the last connections of the process before.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(LISTEN_BACKLOG)
    };
    bound().map_err(|source| StartError::Listen {
        flag,
        address,
        source,
    })
}

fn public_url(config: &Config, edge: SocketAddr) -> Url {
    config.public_url.clone().unwrap_or_else(|| {
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
    if config.api_tls.is_none() && !addresses.api.ip().is_loopback() {
        tracing::warn!(
            api_listen = %addresses.api,
            "the API is open to other machines without TLS: keys can be read on the way; set --api-tls-cert and --api-tls-key, or put a proxy in front"
        );
    }
    if !config.dangerous_allow_target.is_empty() {
        let networks: Vec<_> = config
            .dangerous_allow_target
            .iter()
            .map(IpNet::to_string)
            .collect();
        tracing::warn!(
            networks = networks.join(","),
            "webhooks may go to networks that are not public"
        );
    }
}

fn targets(config: &Config, addresses: &Addresses, public_url: &Url) -> Targets {
    let policy = TargetPolicy::new(config.dangerous_allow_target.clone(), config.deny_target.clone())
        .with_own_url(public_url)
        .with_own_address(addresses.edge)
        .with_own_address(addresses.api)
        .with_own_address(addresses.ops);
    let proxy = config.egress_proxy.as_ref().and_then(EgressProxy::authority);
    let policy = match proxy {
        Some(proxy) => policy.with_own_url(&proxy),
        None => policy,
    };
    Targets::new(policy, Arc::new(SystemResolver::from_system()))
}

async fn edge(
    config: &Config,
    opened: &Opened,
    appender: &Appender,
) -> Result<qrelay_edge::Edge, StartError> {
    let peer_source = match config.proxy_protocol {
        true => qrelay_edge::PeerSource::ProxyProtocol,
        false => qrelay_edge::PeerSource::Socket,
    };
    let settings = qrelay_edge::Config {
        trusted_proxies: qrelay_edge::TrustedProxies::new(config.trusted_proxies.clone()),
        peer_source,
        geoip_db: config.geoip_db.clone(),
        drain_deadline: config.drain_deadline / STOP_SHARE / 2,
        ..qrelay_edge::Config::default()
    };
    let deps = qrelay_edge::Deps {
        store: Arc::clone(&opened.shared),
        appender: appender.clone(),
        clock: Arc::clone(&opened.clock),
    };
    settings.build(deps).await.map_err(|error| match error {
        qrelay_edge::BuildError::Geo(source) => StartError::Geo(source),
        other => other.into(),
    })
}

fn api(
    config: &Config,
    opened: &Opened,
    appender: &Appender,
    admin_key: qrelay_control::AdminKey,
    sealer: Sealer,
    targets: Targets,
    public_url: Url,
) -> Result<qrelay_control::Server, StartError> {
    let tls = config.api_tls.as_ref().map(api_tls).transpose()?;
    let settings = qrelay_control::Config {
        public_url,
        admin_key,
        rates: qrelay_control::Rates::default(),
        tls,
    };
    let deps = qrelay_control::Deps {
        store: Arc::clone(&opened.shared),
        clock: Arc::clone(&opened.clock),
        sealer,
        targets,
        appender: appender.clone(),
    };
    Ok(qrelay_control::Server::build(settings, deps)?)
}

fn api_tls(files: &ApiTls) -> Result<Arc<rustls::ServerConfig>, StartError> {
    qrelay_control::tls::load(&files.cert, &files.key).map_err(|source| match &source {
        TlsError::Pem { expected, .. } if *expected == "private key" => StartError::TlsKey(source),
        TlsError::File { path, .. } if *path == files.key => StartError::TlsKey(source),
        TlsError::Pem { .. } | TlsError::File { .. } => StartError::TlsCert(source),
        TlsError::Unusable(_) => StartError::TlsPair {
            cert: files.cert.clone(),
            key: files.key.clone(),
            source,
        },
    })
}

fn dispatcher(
    config: &Config,
    opened: &Opened,
    sealer: Sealer,
    targets: Targets,
) -> Result<qrelay_dispatcher::Dispatcher, StartError> {
    let exchanges = exchange::Config {
        ca_bundle: config.ca_bundle.clone(),
        egress_proxy: config.egress_proxy.clone(),
        ..exchange::Config::default()
    };
    let deps = qrelay_dispatcher::Deps {
        store: Arc::clone(&opened.shared),
        clock: Arc::clone(&opened.clock),
        exchanger: Exchanger::new(exchanges, targets).map_err(|source| match source {
            TlsConfigError::Rustls(_) => StartError::Dispatcher(source),
            _ => StartError::CaBundle(source),
        })?,
        secrets: Arc::new(sealer),
    };
    let settings = qrelay_dispatcher::Config::default();
    let drain_deadline = settings.drain_deadline.min(config.drain_deadline / STOP_SHARE);
    Ok(qrelay_dispatcher::Config {
        drain_deadline,
        ..settings
    }
    .build(deps))
}

fn node() -> String {
    let name = rustix::system::uname();
    format!("{}/up/{}", name.nodename().to_string_lossy(), std::process::id())
}
