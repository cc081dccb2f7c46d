//! Makes real scans: HTTP requests to the edge on connections that are kept open, so many at once and no more.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use qrelay_store::id::EventId;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::ledger::Ledger;

/// An edge answers in milliseconds; it gives up on a record after two seconds.
const SCAN_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause of one client after a scan failed, so that an edge that is away is not pestered.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);
/// A phone, so that scans count as those of people.
const USER_AGENT: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1";

/// What to scan, and how often.
pub(crate) struct Scans {
    pub(crate) edge: SocketAddr,
    pub(crate) path: String,
    pub(crate) count: u64,
    pub(crate) concurrency: usize,
}

impl Scans {
    /// Makes them all. Every scan ends in the ledger, answered or not; none is repeated.
    pub(crate) async fn make(self, ledger: &Arc<Ledger>) {
        let (scans, left) = (Arc::new(self), Arc::new(AtomicU64::new(0)));
        left.store(scans.count, Ordering::Relaxed);
        let mut clients = JoinSet::new();
        for _ in 0..scans.concurrency {
            clients.spawn(client(Arc::clone(&scans), Arc::clone(&left), Arc::clone(ledger)));
        }
        while let Some(ended) = clients.join_next().await {
            ended.expect("invariant: a client does not panic and is not aborted while it is waited for");
        }
    }
}

/// One client with a connection of its own.
async fn client(scans: Arc<Scans>, left: Arc<AtomicU64>, ledger: Arc<Ledger>) {
    let mut connection = None;
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
        .is_ok()
    {
        let began = Instant::now();
        match timeout(SCAN_TIMEOUT, scan(&scans, &mut connection)).await {
            Ok(Ok(id)) => ledger.answered(id, began),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a scan was not answered with a redirect");
                ledger.unanswered();
                if !matches!(error, ScanError::Answer(_)) {
                    connection = None;
                }
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
            Err(_) => {
                tracing::warn!("a scan was not answered in time");
                ledger.unanswered();
                connection = None;
            }
        }
    }
}

/// Why a scan does not count as answered.
#[derive(Debug, thiserror::Error)]
enum ScanError {
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("the connection broke")]
    Http(#[from] hyper::Error),
    #[error("the edge answered {0}")]
    Answer(StatusCode),
    #[error("the redirect names no event")]
    NoEvent,
}

async fn scan(scans: &Scans, connection: &mut Option<Connection>) -> Result<EventId, ScanError> {
    let open = match connection {
        Some(open) if !open.requests.is_closed() => open,
        _ => connection.insert(Connection::open(scans.edge).await?),
    };
    let request = Request::get(&scans.path)
        .header(header::HOST, scans.edge.to_string())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT_LANGUAGE, "en")
        .body(Empty::new())
        .expect("invariant: a short link's path and our headers are valid");
    open.requests.ready().await?;
    let response = open.requests.send_request(request).await?;
    let (head, body) = response.into_parts();
    // Read to its end, so that the connection serves the next scan.
    body.collect().await?;
    if head.status != StatusCode::FOUND {
        return Err(ScanError::Answer(head.status));
    }
    let id = head.headers.get("x-qrelay-scan").and_then(|id| id.to_str().ok());
    id.and_then(|id| id.parse().ok()).ok_or(ScanError::NoEvent)
}

/// A connection, and the task that drives it, which ends with it.
struct Connection {
    requests: SendRequest<Empty<Bytes>>,
    _driver: JoinSet<()>,
}

impl Connection {
    async fn open(edge: SocketAddr) -> Result<Self, ScanError> {
        let stream = TcpStream::connect(edge).await.map_err(ScanError::Connect)?;
        stream.set_nodelay(true).map_err(ScanError::Connect)?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a scanning connection ended with an error");
            }
        });
        Ok(Self {
            requests,
            _driver: driver,
        })
    }
}
