//! The demo's receiver: an HTTP server that verifies every webhook before it believes it.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use qrelay_store::{
    clock::{Clock, SystemClock},
    id::EventId,
};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ledger::Ledger,
    verify::{Rejected, Secret},
};

/// A scan's event is below 32 KiB with metadata at its largest.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// The sender's connections are few and all from this process.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Webhooks that wait to be printed; when a terminal stands still, further ones are counted only.
const PRINT_QUEUE: usize = 1024;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A webhook that verified, for printing.
pub(crate) struct Webhook {
    /// The event, as it was sent.
    pub(crate) event: Value,
    /// Whether the event was received before.
    pub(crate) repeated: bool,
}

/// The running receiver.
pub(crate) struct Receiver {
    /// Where webhooks go.
    pub(crate) url: String,
    /// The webhooks that arrive.
    pub(crate) webhooks: mpsc::Receiver<Webhook>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Shared {
    secret: OnceLock<Secret>,
    ledger: Arc<Ledger>,
    print: mpsc::Sender<Webhook>,
    rejected: AtomicU64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Receiver {
    /// Begins to listen on a free port of loopback.
    pub(crate) async fn start(ledger: Arc<Ledger>) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let url = format!("http://{}/webhooks", listener.local_addr()?);
        let (print, webhooks) = mpsc::channel(PRINT_QUEUE);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let shared = Arc::new(Shared {
            secret: OnceLock::new(),
            ledger,
            print,
            rejected: AtomicU64::new(0),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        tasks.spawn(
            stop.clone()
                .run_until_cancelled_owned(accept(Arc::clone(&shared), listener)),
        );
        Ok(Self {
            url,
            webhooks,
            shared,
            stop,
            tasks,
        })
    }

    /// Says with which secret webhooks are signed. Until then none is believed.
    pub(crate) fn expect(&self, secret: Secret) {
        assert!(
            self.shared.secret.set(secret).is_ok(),
            "invariant: a demo has one endpoint"
        );
    }

    /// How many webhooks did not verify.
    pub(crate) fn rejected(&self) -> u64 {
        self.shared.rejected.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let serving = serve(Arc::clone(&shared), stream);
                shared
                    .tasks
                    .spawn(shared.stop.clone().run_until_cancelled_owned(serving));
            }
            Err(error) => {
                tracing::warn!(%error, "the receiver cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let answering = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move {
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = shared.receive(request).await;
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answering);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the receiver ended with an error");
    }
}

impl Shared {
    async fn receive(&self, request: Request<Incoming>) -> StatusCode {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return StatusCode::PAYLOAD_TOO_LARGE;
        };
        let (at, body) = (Instant::now(), body.to_bytes());
        let Some(secret) = self.secret.get() else {
            return StatusCode::SERVICE_UNAVAILABLE;
        };
        match verified(secret, &head.headers, &body) {
            Ok((id, event)) => {
                let repeated = !self.ledger.arrived(id, at);
                // With the queue full, or nobody printing any more, it is counted and not shown.
                drop(self.print.try_send(Webhook { event, repeated }));
                StatusCode::NO_CONTENT
            }
            Err(reason) => {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%reason, "a webhook did not verify");
                StatusCode::BAD_REQUEST
            }
        }
    }
}

fn verified(secret: &Secret, headers: &http::HeaderMap, body: &[u8]) -> Result<(EventId, Value), Doubt> {
    let id = secret.verify(headers, body, SystemClock.now())?;
    let event: Value = serde_json::from_slice(body).map_err(|_| Doubt::NotJson)?;
    if event["id"].as_str() != Some(id) {
        return Err(Doubt::OtherId);
    }
    Ok((id.parse().map_err(|_| Doubt::OtherId)?, event))
}

/// Why a request is not a webhook that counts.
#[derive(Debug, thiserror::Error)]
enum Doubt {
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error("the body is no JSON")]
    NotJson,
    #[error("webhook-id is not the event's id")]
    OtherId,
}
