//! The listener side: accepts connections, lets hyper speak HTTP/1 on them, and drains them at a stop.
//!
//! What is answered is the redirector's; time limits are the connection table's. hyper's own header time-out
//! (which does nothing without a timer) is not used: it cannot tell a slow head from an idle connection, and
//! allocates a timer per request. Invariants: no connection is open without a place in the table; every task
//! lives in the tracker; a request with a body is answered without reading it, and ends its connection.

mod connections;
mod framing;
mod stream;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connections::{Connection, Order, Place};
pub(crate) use self::connections::{ConnectionTimes, Connections};
use self::stream::ClientStream;
use crate::pages::{Body, Page};
use crate::proxy_protocol;
use crate::redirect::Redirector;

/// A request's head, bytes. More is answered 431.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Pause after a failed accept: out of file descriptors, most often.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// After the drain deadline, what is left is cut and waited for so long.
const CUT_WAIT: Duration = Duration::from_secs(1);

/// Where a connection's client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerSource {
    /// At the connection's other end (or, behind trusted proxies, where `X-Forwarded-For` says).
    #[default]
    Socket,
    /// Where the PROXY header says with which every connection must begin.
    ProxyProtocol,
}

/// Serves connections.
pub(crate) struct Server {
    pub(crate) redirector: Redirector,
    pub(crate) connections: Arc<Connections>,
    pub(crate) peer_source: PeerSource,
    pub(crate) tasks: TaskTracker,
    pub(crate) http: http1::Builder,
}

/// hyper as the edge uses it.
pub(crate) fn http1_builder() -> http1::Builder {
    let mut http = http1::Builder::new();
    // A client that has sent its request and its end still gets its answer.
    http.half_close(true)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    http
}

impl Server {
    /// Accepts connections until the token is cancelled.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let mut was_failing = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => {
                    was_failing = false;
                    self.admit(tcp, peer);
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    if !was_failing {
                        tracing::warn!(%error, "cannot accept connections; closing idle ones");
                    }
                    was_failing = true;
                    self.connections.relieve();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, tcp: TcpStream, peer: SocketAddr) {
        match self.connections.admit(peer.ip()) {
            Some(place) => {
                self.tasks.spawn(Arc::clone(self).serve(tcp, peer, place));
            }
            None => self.redirector.measures.connections_refused.increment(1),
        }
    }

    /// Ends all connections: each after the answer it owes, or at the deadline.
    pub(crate) async fn drain(&self, deadline: Duration) {
        self.connections.drain();
        self.tasks.close();
        if tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(
            open = self.connections.len(),
            "connections outlived the drain deadline and are cut"
        );
        self.connections.cut();
        if tokio::time::timeout(CUT_WAIT, self.tasks.wait()).await.is_err() {
            tracing::error!(open = self.connections.len(), "connections do not end");
        }
    }

    async fn serve(self: Arc<Self>, mut tcp: TcpStream, peer: SocketAddr, place: Place) {
        let connection = place.connection();
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended at once");
            return;
        }
        let Some((client, ahead)) = self.client_of(&mut tcp, peer, connection).await else {
            return;
        };
        let stream = ClientStream::new(tcp, ahead, connection.clone());
        let service = service_fn(|request| self.respond(request, client, connection));
        let mut http = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        loop {
            tokio::select! {
                ended = http.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended with an error");
                    }
                    return;
                }
                order = connection.order() => match order {
                    Order::None => {}
                    Order::Drain => http.as_mut().graceful_shutdown(),
                    Order::Cut => return,
                },
            }
        }
    }

    /// The client's address before any header is read, and bytes already read of the first request.
    async fn client_of(
        &self,
        tcp: &mut TcpStream,
        peer: SocketAddr,
        connection: &Connection,
    ) -> Option<(IpAddr, Bytes)> {
        if self.peer_source == PeerSource::Socket {
            return Some((peer.ip(), Bytes::new()));
        }
        tokio::select! {
            read = proxy_protocol::read(tcp, peer) => {
                read.inspect_err(|error| tracing::debug!(%error, "a connection was refused")).ok()
            }
            // Cut for its time, or draining: it owes us its first byte.
            _order = connection.order() => None,
        }
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        client: IpAddr,
        connection: &Connection,
    ) -> Result<Response<Body>, Infallible> {
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let has_two_lengths = connection.on_request(has_body);
        let mut response = match has_two_lengths {
            true => self.redirector.refuse(Page::BadRequest),
            false => self.redirector.answer(&head, client).await,
        };
        if has_two_lengths || has_body || head.method == Method::CONNECT {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// Errors of accept that are one connection's, not the listener's.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
