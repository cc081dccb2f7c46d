//! Takes hints of other processes.
//!
//! Invariant: nothing of a message is decoded before its tag was found good. Connections are bounded, and one that does
//! not prove the peer key in time is cut, so strangers can neither fill our memory nor keep our peers out for long.

use std::{convert::Infallible, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::Router;
use futures::{Stream, StreamExt, stream};
use http::Request as HttpRequest;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use qrelay_proto::internal::{
    TellRequest, TellResponse,
    hint_service_server::{HintService, HintServiceServer},
};
use qrelay_store::{limits, store::SharedStore};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming, service::Routes};
use tower::Service;

use crate::{
    key::{Challenge, InstallKey, PeerKey},
    wire,
};

/// After an accept failed (too many open files), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a peer must show that it is there.
const PING_PERIOD: Duration = Duration::from_secs(15);
/// Streams of one connection: a peer needs one, and another while it gives the first up.
const STREAMS_MAX: u32 = 4;
/// A request's headers: a peer sends a few hundred bytes.
const HEADER_BYTES_MAX: u32 = 8 * 1024;

/// The listener for other processes.
#[derive(Clone, Debug)]
pub struct PeerServer {
    listening: Listening,
    /// How long a stranger may take to prove that it knows the key.
    pub(crate) patience: Duration,
}

#[derive(Clone)]
struct Listening {
    store: SharedStore,
    key: InstallKey,
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listening(..)")
    }
}

impl PeerServer {
    /// What is heard goes into the store's hints.
    pub fn new(store: SharedStore, key: &PeerKey) -> Self {
        let key = key.of(store.install());
        Self {
            listening: Listening { store, key },
            patience: limits::PEER_ANSWER_TIMEOUT,
        }
    }

    /// Serves until `stop` is cancelled, and ends all connections then.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let service = Takes {
            listening: self.listening,
            patience: self.patience,
        };
        let service = HintServiceServer::new(service)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
        let router = Routes::new(service).prepare().into_axum_router();
        let slots = Arc::new(Semaphore::new(limits::PEER_CONNECTIONS_MAX));
        let connections = TaskTracker::new();
        let accepting = accept(&listener, &router, &slots, &connections, &stop, self.patience);
        tokio::select! {
            () = stop.cancelled() => {}
            () = accepting => {}
        }
        connections.close();
        connections.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    router: &Router,
    slots: &Arc<Semaphore>,
    connections: &TaskTracker,
    stop: &CancellationToken,
    patience: Duration,
) {
    loop {
        let slot = Arc::clone(slots).acquire_owned().await;
        let slot = slot.expect("invariant: the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, router.clone(), patience);
                let until_stop = stop.clone().run_until_cancelled_owned(connection);
                connections.spawn(async move {
                    until_stop.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of another process");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Set once a stream of the connection proved the key.
#[derive(Clone, Debug)]
struct Proven(Arc<watch::Sender<bool>>);

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, patience: Duration) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "cannot turn off Nagle's algorithm");
    }
    let proven = Proven(Arc::new(watch::Sender::new(false)));
    let mut seen = proven.0.subscribe();
    let service = hyper::service::service_fn(move |mut request: HttpRequest<Incoming>| {
        request.extensions_mut().insert(proven.clone());
        let mut router = router.clone();
        async move { Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_PERIOD)
        .keep_alive_timeout(PING_PERIOD)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let in_time = async { timeout(patience, seen.wait_for(|proven| *proven)).await.is_ok() };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        proved = in_time => {
            if !proved {
                return refused("it did not prove the peer key in time", Some(peer));
            }
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection of another process ended badly");
    }
}

fn refused(why: &str, peer: Option<SocketAddr>) {
    metrics::counter!("qrelay_peer_refused_total").increment(1);
    tracing::warn!(peer = peer.map(tracing::field::display), why, "refused hints");
}

/// The service.
#[derive(Clone)]
struct Takes {
    listening: Listening,
    patience: Duration,
}

type Answers = Pin<Box<dyn Stream<Item = Result<TellResponse, Status>> + Send>>;

#[tonic::async_trait]
impl HintService for Takes {
    type TellStream = Answers;

    async fn tell(&self, request: Request<Streaming<TellRequest>>) -> Result<Response<Answers>, Status> {
        let mut challenge = [0; 32];
        getrandom::fill(&mut challenge).map_err(|_| Status::internal("no randomness"))?;
        let proven = request.extensions().get::<Proven>().cloned();
        let heard = Heard {
            listening: self.listening.clone(),
            patience: self.patience,
            proven,
            challenge,
            number: 0,
            messages: request.into_inner(),
        };
        let first = TellResponse {
            challenge: challenge.to_vec(),
            unheard_partitions: Vec::new(),
        };
        let answers = stream::unfold(Some(heard), |heard| async { Heard::answer(heard?).await });
        Ok(Response::new(Box::pin(
            stream::once(async { Ok(first) }).chain(answers),
        )))
    }
}

/// One stream of a peer.
struct Heard {
    listening: Listening,
    patience: Duration,
    proven: Option<Proven>,
    challenge: Challenge,
    number: u64,
    messages: Streaming<TellRequest>,
}

impl Heard {
    /// Takes the next message in. The stream ends after a refusal.
    async fn answer(mut self) -> Option<(Result<TellResponse, Status>, Option<Self>)> {
        let message = match self.next().await {
            Ok(message) => message?,
            Err(status) => return Some((Err(status), None)),
        };
        match self.take(&message) {
            Ok(answer) => Some((Ok(answer), Some(self))),
            Err(status) => {
                refused(status.message(), None);
                Some((Err(status), None))
            }
        }
    }

    async fn next(&mut self) -> Result<Option<TellRequest>, Status> {
        if self.number > 0 {
            return self.messages.message().await;
        }
        timeout(self.patience, self.messages.message())
            .await
            .unwrap_or_else(|_| Err(Status::unauthenticated("the peer key was not proven in time")))
    }

    fn take(&mut self, message: &TellRequest) -> Result<TellResponse, Status> {
        let TellRequest { hints, tag } = message;
        if !self
            .listening
            .key
            .proves(tag, &self.challenge, self.number, hints)
        {
            return Err(Status::unauthenticated(
                "another peer key, or a process of another install",
            ));
        }
        self.number += 1;
        if let Some(proven) = self.proven.take() {
            proven.0.send_replace(true);
        }
        let tidings = wire::decode(hints).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let unheard = self.listening.store.hints().learn(&tidings);
        Ok(TellResponse {
            challenge: Vec::new(),
            unheard_partitions: unheard
                .iter()
                .map(|partition| partition.as_u16().into())
                .collect(),
        })
    }
}
