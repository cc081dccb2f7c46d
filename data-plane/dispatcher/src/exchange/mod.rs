//! One HTTP attempt at a delivery: resolve, vet, connect, ask the gate, send, read the head, note what happened.
//!
//! What to send and when, retries, limits and health are the caller's. Here stands what must hold for every single
//! exchange with a stranger's server:
//! - the target is judged again at every attempt, and the connection is pinned to an address that was vetted for it;
//! - the request's first byte leaves only with the gate's permit ([`gate`]), and nothing is ever sent twice;
//! - a 2xx status line and headers in time are a success, whatever the body does;
//! - time, bytes and headers that a receiver can cost are bounded; redirects are not followed, nothing is unpacked.

mod connect;
mod gate;
mod identity;
mod kept_headers;
mod outcome;
mod pool;
mod proxy;
mod response;
mod send;
mod tls;
mod transport;

#[cfg(test)]
mod tests;

pub use gate::Permit;
pub use identity::{Identity, UnusableIdentity};
pub use outcome::{Aborted, ErrorClass, Failure, Fault, Outcome, Phases, RetryAfter, Wish};
pub use proxy::{EgressProxy, EgressProxyError};
pub use tls::TlsConfigError;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use qrelay_store::id::{EndpointId, SecretId};
use qrelay_store::limits::{
    CONNECT_TIMEOUT, EXCHANGE_TIMEOUT, IDLE_CONNECTION_TIMEOUT, IDLE_CONNECTIONS_MAX, IDLE_SWEEP_PERIOD,
};
use qrelay_store::target::{TargetUrl, Targets};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use connect::Connector;
use gate::Gate;
use pool::{Pool, PoolKey};
use send::Sent;

/// What an [`Exchanger`] is made with. The default is what production uses.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--ca-bundle`: root certificates in PEM beside the system's.
    pub ca_bundle: Option<PathBuf>,
    /// `--egress-proxy`: what every connection goes through.
    pub egress_proxy: Option<EgressProxy>,
    /// For connecting.
    pub connect_timeout: Duration,
    /// From the start to the end of the response's head, without waiting for the permit.
    pub exchange_timeout: Duration,
    /// How long a connection is kept idle at most.
    pub idle_timeout: Duration,
    /// How many connections are kept idle.
    pub idle_connections_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            ca_bundle: None,
            egress_proxy: None,
            connect_timeout: CONNECT_TIMEOUT,
            exchange_timeout: EXCHANGE_TIMEOUT,
            idle_timeout: IDLE_CONNECTION_TIMEOUT,
            idle_connections_max: IDLE_CONNECTIONS_MAX,
        }
    }
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose delivery it is: connections are kept per endpoint.
    pub endpoint: EndpointId,
    /// Where to: the endpoint's URL as it stands.
    pub url: String,
    /// Content type, signature, and the endpoint's own. Framing headers and `Host` are set here, whatever stands
    /// in it; `User-Agent` is `qrelay/VERSION` unless it is given.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What a TLS server is shown that asks who we are.
    pub identity: Option<Identity>,
}

/// Makes exchanges. Cheap to clone; all clones share the kept connections.
#[derive(Clone)]
pub struct Exchanger {
    via: Via,
}

#[derive(Clone)]
enum Via {
    Network(Arc<Shared>),
    #[cfg(test)]
    Stage(Arc<dyn Stage>),
}

/// What a simulation has in place of a network and all receivers.
#[cfg(test)]
#[async_trait::async_trait]
pub(crate) trait Stage: Send + Sync {
    /// As [`Exchanger::attempt`].
    async fn attempt(&self, request: Request, gate: Gate) -> Result<Outcome, Aborted>;
}

struct Shared {
    config: Config,
    targets: Targets,
    connector: Connector,
    pool: Arc<Pool>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Exchanger {
    /// Reads the root certificates and starts the task that closes idle connections. Must be called within a tokio
    /// runtime.
    pub fn new(config: Config, targets: Targets) -> Result<Self, TlsConfigError> {
        let roots = tls::roots(config.ca_bundle.as_deref())?;
        let tls = tls::client_config(&roots)?;
        let pool = Arc::new(Pool::new(config.idle_connections_max));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(sweep(Arc::clone(&pool), stop.clone()));
        let connector = Connector {
            tls,
            roots,
            connect_timeout: config.connect_timeout,
            proxy: config.egress_proxy.clone(),
        };
        let shared = Arc::new(Shared {
            config,
            targets,
            connector,
            pool,
            tasks,
            stop,
        });
        let via = Via::Network(shared);
        Ok(Exchanger { via })
    }

    /// One whose exchanges are played.
    #[cfg(test)]
    pub(crate) fn on(stage: Arc<dyn Stage>) -> Self {
        let via = Via::Stage(stage);
        Exchanger { via }
    }

    fn network(&self) -> &Shared {
        match &self.via {
            Via::Network(shared) => shared,
            #[cfg(test)]
            Via::Stage(_) => unreachable!("nobody in a simulation asks for the network"),
        }
    }

    /// The policy and resolver that every attempt is judged with.
    pub fn targets(&self) -> &Targets {
        &self.network().targets
    }

    /// An identity from a certificate chain and its key in PEM, for requests that go out under it.
    ///
    /// # Errors
    /// When they are none, or do not fit each other.
    pub fn identity(&self, id: SecretId, cert: &str, key: &[u8]) -> Result<Identity, UnusableIdentity> {
        Identity::new(&self.network().connector.roots, id, cert, key)
    }

    /// How many idle connections are kept open, for the metrics.
    pub fn idle_connections(&self) -> usize {
        self.network().pool.kept()
    }

    /// Makes one attempt. `gate` is awaited in the connection's write path when the request's first byte is about to
    /// be written, at most once; on [`Permit::Abort`] nothing is sent, and neither if it stays silent for
    /// [`qrelay_store::limits::GATE_WAIT_MAX`]. Waiting for it does not count against the exchange's time. Dropping
    /// the returned future closes the connection.
    pub async fn attempt<G>(&self, request: Request, gate: G) -> Result<Outcome, Aborted>
    where
        G: Future<Output = Permit> + Send + 'static,
    {
        #[cfg(test)]
        if let Via::Stage(stage) = &self.via {
            return stage.attempt(request, Box::pin(gate)).await;
        }
        let started = Instant::now();
        let mut phases = Phases::default();
        let mut request_headers = Vec::new();
        let sent = self
            .network()
            .exchange(request, Box::pin(gate), &mut phases, &mut request_headers)
            .await?;
        let (outcome, waited) = match sent {
            Ok(Sent { mut outcome, waited }) => {
                outcome.phases = Phases {
                    first_byte: outcome.phases.first_byte,
                    ..phases
                };
                (outcome, waited)
            }
            Err(failure) => (failed(failure, phases), Duration::ZERO),
        };
        let total = started.elapsed().saturating_sub(waited);
        Ok(Outcome {
            phases: Phases {
                total,
                ..outcome.phases
            },
            request_headers,
            ..outcome
        })
    }

    /// Closes the idle connections and waits for all connection tasks to end. Attempts still under way are not cut.
    pub async fn close(&self) {
        #[cfg(test)]
        if let Via::Stage(_) = &self.via {
            return;
        }
        let shared = self.network();
        shared.stop.cancel();
        shared.pool.close();
        shared.tasks.close();
        shared.tasks.wait().await;
    }
}

impl Shared {
    /// Up to two connections: a kept one that proves dead before the gate is asked is replaced by a new one.
    async fn exchange(
        &self,
        request: Request,
        gate: Gate,
        phases: &mut Phases,
        request_headers: &mut Vec<(String, String)>,
    ) -> Result<Result<Sent, Failure>, Aborted> {
        let deadline = Instant::now() + self.config.exchange_timeout;
        let (url, addresses) = match self.vet(&request.url, deadline, phases).await {
            Ok(vetted) => vetted,
            Err(failure) => return Ok(Err(failure)),
        };
        let key = PoolKey {
            endpoint: request.endpoint,
            origin: url.origin(),
            identity: request.identity.as_ref().map(|identity| identity.id),
        };
        let message = match send::message(&url, &request) {
            Ok(message) => message,
            Err(failure) => return Ok(Err(failure)),
        };
        *request_headers = kept_headers::of_request(message.headers());
        let mut gate = gate;
        if let Some(kept) = self.pool.take(&key, &addresses) {
            match self
                .send(kept, &key, message.clone(), gate, deadline, true)
                .await?
            {
                Ok(sent) => return Ok(Ok(sent)),
                Err(unsent) => gate = unsent.gate,
            }
        }
        let identity = request.identity.as_ref();
        let fresh = match self.open(&url, &addresses, identity, deadline, phases).await {
            Ok(fresh) => fresh,
            Err(failure) => return Ok(Err(failure)),
        };
        let sent = self.send(fresh, &key, message, gate, deadline, false).await?;
        Ok(sent.map_err(|unsent| unsent.failure))
    }

    async fn vet(
        &self,
        url: &str,
        deadline: Instant,
        phases: &mut Phases,
    ) -> Result<(TargetUrl, Vec<SocketAddr>), Failure> {
        let started = Instant::now();
        let url = self.targets.check_url(url)?;
        let addresses = timeout_at(deadline, self.targets.vet(&url)).await;
        phases.dns = Some(started.elapsed());
        let addresses = addresses.map_err(|_| {
            Failure::new(
                ErrorClass::Dns,
                Fault::Network,
                "the host name could not be resolved in time",
            )
        })??;
        Ok((url, addresses))
    }
}

/// The outcome of an attempt that got no response.
fn failed(failure: Failure, phases: Phases) -> Outcome {
    Outcome {
        status: None,
        failure: Some(failure),
        phases,
        begun_at: None,
        reused: false,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        response_body: Bytes::new(),
        retry_after: None,
        wish: None,
    }
}

async fn sweep(pool: Arc<Pool>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(IDLE_SWEEP_PERIOD);
    // Missed ticks need not be made up for: one sweep closes all.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => pool.sweep(),
            () = stop.cancelled() => return,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
