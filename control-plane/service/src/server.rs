//! The server: connections on a bound listener, with limits on each, and an orderly stop.
//!
//! The connection loop is ours because it bounds what tonic's does not: how many connections there are, how long
//! a TLS handshake or a connection's first request may take, and how long a stop may take.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use qrelay_store::limits;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::server::HealthReporter;
use tower::Service;

use crate::{
    api::Api,
    auth::Authenticator,
    config::{Config, Deps},
    conversions::Recorder,
    gate::{Gate, Peer},
    measures::{self, Open},
    own_partitions::Spare,
    page::Tokens,
    router::{self, BuildError, SERVICES},
    streams::StreamSlots,
};

/// After an accept failed (too many open files), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that asked nothing may take to close.
const GOODBYE: Duration = Duration::from_secs(1);
/// How often an HTTP/2 peer must show that it is there.
const PING_PERIOD: Duration = Duration::from_secs(30);
/// Streams of one HTTP/2 connection at once.
const CONNECTION_STREAMS_MAX: u32 = 128;

/// The control plane, ready to serve.
pub struct Server {
    router: Router,
    tls: Option<Arc<ServerConfig>>,
    health: HealthReporter,
    stop: CancellationToken,
    conversions: Recorder,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server(..)")
    }
}

impl Server {
    /// Builds the control plane. Nothing runs before [`Server::serve`].
    ///
    /// # Errors
    /// When contract, roles and REST do not fit together: a mistake in the build, never in the configuration.
    pub fn build(config: Config, deps: Deps) -> Result<Self, BuildError> {
        measures::describe();
        let stop = CancellationToken::new();
        let auth = Arc::new(Authenticator::new(
            deps.store.clone(),
            deps.clock.clone(),
            config.admin_key.clone(),
        ));
        let conversions = Recorder::new(deps.store.clone(), deps.appender);
        let api = Arc::new(Api {
            store: deps.store,
            clock: deps.clock,
            tokens: Tokens::new(&deps.sealer),
            sealer: deps.sealer,
            targets: deps.targets,
            public_url: config.public_url,
            auth: Arc::clone(&auth),
            streams: StreamSlots::default(),
            conversions: conversions.clone(),
            spare: Spare::default(),
            stop: stop.clone(),
        });
        let (health, health_service) = tonic_health::server::health_reporter();
        let router = router::assemble(api, Gate::new(auth, config.rates), health_service)?;
        Ok(Self {
            router,
            tls: config.tls,
            health,
            stop,
            conversions,
        })
    }

    /// Serves on a bound listener until `stop`, then lets running calls finish for at most `drain` and ends
    /// open event streams. Returns when no connection is left.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken, drain: Duration) {
        for service in SERVICES {
            self.health
                .set_service_status(service, tonic_health::ServingStatus::Serving)
                .await;
        }
        let connections = TaskTracker::new();
        let (closing, closed) = (self.stop.clone(), CancellationToken::new());
        let acceptor = Acceptor {
            router: self.router,
            tls: self.tls.map(TlsAcceptor::from),
            slots: Arc::new(Semaphore::new(limits::API_CONNECTIONS_MAX)),
            closing: closing.clone(),
            closed: closed.clone(),
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = acceptor.accept(listener, &connections) => {}
        }
        for service in SERVICES {
            self.health
                .set_service_status(service, tonic_health::ServingStatus::NotServing)
                .await;
        }
        closing.cancel();
        connections.close();
        if timeout(drain, connections.wait()).await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "ending API connections that did not drain in time"
            );
            closed.cancel();
            connections.wait().await;
        }
        self.conversions.close();
    }
}

/// What every connection is served with.
#[derive(Clone)]
struct Acceptor {
    router: Router,
    tls: Option<TlsAcceptor>,
    slots: Arc<Semaphore>,
    /// No further requests on a connection.
    closing: CancellationToken,
    /// No connection any more.
    closed: CancellationToken,
}

impl Acceptor {
    async fn accept(&self, listener: TcpListener, connections: &TaskTracker) {
        loop {
            let slot = Arc::clone(&self.slots).acquire_owned().await;
            let slot = slot.expect("invariant: the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let this = self.clone();
                    connections.spawn(async move {
                        let _open = Open::connection();
                        let closed = this.closed.clone();
                        tokio::select! {
                            () = closed.cancelled() => {}
                            () = Box::pin(this.connection(stream, peer)) => {}
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an API connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %peer, "cannot turn off Nagle's algorithm");
        }
        let Some(acceptor) = self.tls.clone() else {
            return self.http(stream, peer).await;
        };
        match timeout(limits::API_HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.http(stream, peer).await,
            Ok(Err(error)) => tracing::debug!(%error, %peer, "TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
        }
    }

    async fn http(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: SocketAddr) {
        let (first, seen) = watch::channel(false);
        let router = self.router;
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            first.send_replace(true);
            request.extensions_mut().insert(Peer(peer));
            let mut router = router.clone();
            async move { Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {})) }
        });
        let builder = builder();
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return log_end(ended, peer),
            () = never_asked(seen) => {
                tracing::debug!(%peer, "no request on a new connection");
                connection.as_mut().graceful_shutdown();
                // A peer that speaks HTTP/2 is told and goes; what speaks nothing is cut.
                if let Ok(ended) = timeout(GOODBYE, connection).await {
                    log_end(ended, peer);
                }
                return;
            }
            () = self.closing.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        log_end(connection.await, peer);
    }
}

/// Ends when no first request came in time; never, once one came.
async fn never_asked(mut seen: watch::Receiver<bool>) {
    if timeout(limits::API_HANDSHAKE_TIMEOUT, seen.wait_for(|seen| *seen))
        .await
        .is_ok()
    {
        std::future::pending::<()>().await;
    }
}

fn log_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>, peer: SocketAddr) {
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "an API connection ended badly");
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let header_bytes = usize::try_from(limits::API_HEADER_BYTES_MAX).expect("invariant: u32 fits into usize");
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::API_HEADER_TIMEOUT)
        .max_buf_size(header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_PERIOD)
        .keep_alive_timeout(PING_PERIOD)
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .max_header_list_size(limits::API_HEADER_BYTES_MAX);
    builder
}
