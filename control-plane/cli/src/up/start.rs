//! Starts the roles of a process.
//!
//! Order of a start: the store (on a directory: its lock; a cluster is waited for), keys, listeners, the writers of processes
//! that are known to be dead, our writers, the roles.

use std::{net::SocketAddr, sync::Arc};

use ipnet::IpNet;
use qrelay_control::AdminKey;
use qrelay_peers::{PeerServer, Teller, tell};
use qrelay_store::seal::Sealer;
use tokio::{net::TcpListener, runtime::Handle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

use super::{
    admin_key::AdminKeyTo,
    config::{Config, StoreConfig, TargetConfig},
    edge_runtime::EdgeRuntime,
    error::StartError,
    keys,
    opened::Opened,
    ops::{self, Metrics},
    peers::PeerConfig,
    plan::Plan,
    readiness::Ready,
    role::Role,
    roles::{self, Ground, api, dispatcher, edge},
    running::{Addresses, Bound, Process, Running},
    waiting,
    writers::Writers,
};

/// Of a stop's time, what the writer, dispatcher and control plane have at least, however long the edge takes.
pub(super) const STOP_SHARE: u32 = 2;

/// Starts all roles in one process. When this returns, all listeners answer. `show_to`: where the admin key is shown if this
/// start makes one. Must be called within a multi-thread tokio runtime; metrics are to be installed before.
///
/// # Errors
/// When the data directory is in use or damaged, or the cluster cannot be used, keys are missing or wrong, an address is
/// taken, or a role cannot be built. Nothing runs then.
pub async fn start(config: Config, metrics: Metrics, show_to: AdminKeyTo) -> Result<Running, StartError> {
    let process = begin(Plan::from(config), metrics, show_to).await?;
    let Bound { edge, api, ops, .. } = process.bound;
    let (Some(edge), Some(api), Some(public_url)) = (edge, api, process.public_url.clone()) else {
        unreachable!("invariant: a plan of all roles has an edge and a control plane")
    };
    Ok(Running {
        addresses: Addresses { edge, api, ops },
        public_url,
        process,
    })
}

/// As [`start`], for the roles of a plan.
pub(super) async fn begin(plan: Plan, metrics: Metrics, show_to: AdminKeyTo) -> Result<Process, StartError> {
    let (store, ground, ops) = opened(&plan, &metrics).await?;
    let keys = Keys::obtain(&plan, &ground, show_to).await?;
    let edge_runtime = match &plan.edge {
        Some(_) => Some(EdgeRuntime::start().map_err(StartError::Threads)?),
        None => None,
    };
    let here = Handle::current();
    let scans = edge_runtime.as_ref().map_or(&here, EdgeRuntime::handle);
    let listeners = Listeners::bind(&plan, scans, ops)?;
    let bound = listeners.bound.clone();
    let public_url = public_url(&plan.targets, bound.edge);
    warn_of_exposure(&plan, &bound);
    let writers = Writers::start(&plan, &ground, scans).await?;
    let built = Built::new(&plan, &ground, &writers, keys, (public_url.as_ref(), &bound)).await?;

    let ready = Arc::new(Ready::new(writers.clone()));
    let (background, background_stop) = (TaskTracker::new(), CancellationToken::new());
    keep_up(&plan, &store, &background, &background_stop);
    if let Some(peers) = &plan.peers {
        let me = advertised(&plan, &bound);
        hear_and_tell(peers, me, &ground, listeners.peer, &background, &background_stop);
    }
    let readiness = Arc::clone(&ready) as Arc<_>;
    let answering = ops::serve(listeners.ops, metrics, readiness, background_stop.clone());
    background.spawn(answering);
    let drain_deadline = plan.process.drain_deadline;
    let drain = drain_deadline / STOP_SHARE;
    Ok(Process {
        edge: built.edge.zip(listeners.edge).map(|(edge, listener)| {
            Role::spawn_on(scans, "edge", &ready, |stop| edge.serve(vec![listener], stop))
        }),
        api: built.api.zip(listeners.api).map(|(api, listener)| {
            Role::spawn_on(&here, "api", &ready, |stop| api.serve(listener, stop, drain))
        }),
        dispatcher: built
            .dispatcher
            .map(|dispatcher| Role::spawn_on(&here, "dispatcher", &ready, |stop| dispatcher.run(stop))),
        bound,
        public_url,
        drain_deadline,
        writers,
        background,
        background_stop,
        ready,
        edge_runtime,
        store,
    })
}

/// The store, and the operations listener. That of a process on a cluster answers while the cluster is waited for. A directory
/// comes first: two processes on one are told that.
async fn opened(
    plan: &Plan,
    metrics: &Metrics,
) -> Result<(Opened, Ground, (Arc<TcpListener>, SocketAddr)), StartError> {
    let listen = || {
        let (listener, bound) = roles::listen("ops", plan.process.ops_listen)?;
        Ok::<_, StartError>((Arc::new(listener), bound))
    };
    match &plan.store {
        StoreConfig::Embedded(_) => {
            let (store, ground) = Opened::open(&plan.store).await?;
            Ok((store, ground, listen()?))
        }
        StoreConfig::Cluster(_) => {
            let (listener, bound) = listen()?;
            let (store, ground) = waiting::open(&plan.store, metrics.clone(), &listener, bound).await?;
            Ok((store, ground, (listener, bound)))
        }
    }
}

/// The keys that the roles of a plan need.
struct Keys {
    admin: Option<AdminKey>,
    sealer: Option<Sealer>,
}

impl Keys {
    async fn obtain(plan: &Plan, ground: &Ground, show_to: AdminKeyTo) -> Result<Self, StartError> {
        let admin = plan.api.as_ref();
        let admin = admin.map(|api| keys::admin_key(&plan.store, api, show_to));
        let sealer = match plan.seals() {
            true => Some(keys::sealer(&plan.store, &plan.master_key, &*ground.store).await?),
            false => None,
        };
        Ok(Self {
            admin: admin.transpose()?,
            sealer,
        })
    }
}

/// What is done for the store beside the roles: on a cluster that is the control planes' business.
fn keep_up(plan: &Plan, store: &Opened, tasks: &TaskTracker, stop: &CancellationToken) {
    if plan.api.is_some() {
        store.keep_up(tasks, plan.retention, stop.clone());
    }
}

/// Where other processes tell this one what happens; nowhere, if they do not.
fn advertised(plan: &Plan, bound: &Bound) -> String {
    let advertise = plan.peers.as_ref().and_then(|peers| peers.advertise.clone());
    match (advertise, bound.peer) {
        (Some(advertise), Some(_)) => advertise,
        (None, Some(bound)) => bound.to_string(),
        (_, None) => String::new(),
    }
}

/// Hears and tells what happens.
fn hear_and_tell(
    peers: &PeerConfig,
    me: String,
    ground: &Ground,
    listener: Option<TcpListener>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    if let Some(listener) = listener {
        let server = PeerServer::new(Arc::clone(&ground.store), &peers.key);
        tasks.spawn(server.serve(listener, stop.clone()));
    }
    let teller = Teller {
        store: Arc::clone(&ground.store),
        key: peers.key.clone(),
        me,
    };
    tasks.spawn(tell(teller, stop.clone()));
}

/// The roles, before they run.
#[derive(Default)]
struct Built {
    edge: Option<qrelay_edge::Edge>,
    api: Option<qrelay_control::Server>,
    dispatcher: Option<qrelay_dispatcher::Dispatcher>,
}

impl Built {
    /// Builds the roles of a plan. `at`: what short links begin with, and where this process listens.
    async fn new(
        plan: &Plan,
        ground: &Ground,
        writers: &Writers,
        keys: Keys,
        (public_url, bound): (Option<&Url>, &Bound),
    ) -> Result<Self, StartError> {
        let drain = plan.process.drain_deadline / STOP_SHARE;
        let mut built = Self::default();
        if let (Some(config), Some(appender)) = (&plan.edge, &writers.edge) {
            built.edge = Some(edge::build(config, ground, appender, drain / 2).await?);
        }
        let (Some(sealer), Some(public_url)) = (keys.sealer, public_url) else {
            return Ok(built);
        };
        let proxy = plan
            .dispatcher
            .as_ref()
            .and_then(|config| config.egress_proxy.as_ref());
        let targets = roles::targets(&plan.targets, proxy, public_url, &bound.all());
        if let (Some(config), Some(appender), Some(admin_key)) = (&plan.api, &writers.api, keys.admin) {
            let needs = api::Needs {
                appender: appender.clone(),
                admin_key,
                sealer: sealer.clone(),
                targets: targets.clone(),
                public_url: public_url.clone(),
            };
            built.api = Some(api::build(config, ground, needs)?);
        }
        if let Some(config) = &plan.dispatcher {
            let needs = dispatcher::Needs {
                sealer,
                targets,
                addr: advertised(plan, bound),
                drain,
            };
            built.dispatcher = Some(dispatcher::build(config, ground, needs)?);
        }
        Ok(built)
    }
}

struct Listeners {
    edge: Option<TcpListener>,
    api: Option<TcpListener>,
    peer: Option<TcpListener>,
    ops: Arc<TcpListener>,
    bound: Bound,
}

impl Listeners {
    /// The edge's is the edge's runtime's. `ops` is there already.
    fn bind(
        plan: &Plan,
        scans: &Handle,
        (ops, at_ops): (Arc<TcpListener>, SocketAddr),
    ) -> Result<Self, StartError> {
        let bind = |flag, address: Option<SocketAddr>| match address {
            Some(address) => {
                let (listener, bound) = roles::listen(flag, address)?;
                Ok::<_, StartError>((Some(listener), Some(bound)))
            }
            None => Ok((None, None)),
        };
        let (edge, at_edge) = {
            let _entered = scans.enter();
            bind("edge", plan.edge.as_ref().map(|edge| edge.listen))?
        };
        let (api, at_api) = bind("api", plan.api.as_ref().map(|api| api.listen))?;
        let (peer, at_peer) = bind("peer", plan.peers.as_ref().and_then(|peers| peers.listen))?;
        let bound = Bound {
            edge: at_edge,
            api: at_api,
            peer: at_peer,
            ops: at_ops,
        };
        Ok(Self {
            edge,
            api,
            peer,
            ops,
            bound,
        })
    }
}

/// What short links begin with: what was given, or this process's edge.
fn public_url(targets: &TargetConfig, edge: Option<SocketAddr>) -> Option<Url> {
    if targets.public_url.is_some() {
        return targets.public_url.clone();
    }
    // What is bound to every address is reached by any of them; of those, loopback is certain.
    let reached = match edge? {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, v6.port()))
        }
        other => other,
    };
    let url = Url::parse(&format!("http://{reached}"));
    Some(url.expect("invariant: an address and a port make a URL"))
}

fn warn_of_exposure(plan: &Plan, bound: &Bound) {
    if let (Some(api), Some(address)) = (&plan.api, bound.api)
        && api.tls.is_none()
        && !address.ip().is_loopback()
    {
        tracing::warn!(
            api_listen = %address,
            "the API is open to other machines without TLS: keys can be read on the way; set --api-tls-cert and --api-tls-key, or put a proxy in front"
        );
    }
    let allowed = &plan.targets.dangerous_allow;
    if !allowed.is_empty() {
        let networks: Vec<_> = allowed.iter().map(IpNet::to_string).collect();
        tracing::warn!(
            networks = networks.join(","),
            "webhooks may go to networks that are not public"
        );
    }
}
