//! The HTTP half of an exchange: one request over one connection, and what its failure means.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    USER_AGENT,
};
use http::{HeaderValue, Method, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use qrelay_store::limits::{
    CONNECTION_READY_WAIT, GATE_WAIT_MAX, RESPONSE_HEAD_BYTES_MAX, RESPONSE_HEADERS_MAX,
};
use qrelay_store::target::TargetUrl;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::gate::{Gate, GateCell, GatedStream, Left};
use super::identity::Identity;
use super::outcome::{Aborted, ErrorClass, Failure, Fault, Outcome, Phases};
use super::pool::{Connection, Driver, PoolKey};
use super::{Request, Shared, response};

/// Headers that frame the message or the connection: never a caller's.
const FRAMING: [HeaderName; 8] = [
    HOST,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

type Message = http::Request<Full<Bytes>>;

/// A request whose gate was answered with a permit.
pub(super) struct Sent {
    pub(super) outcome: Outcome,
    /// How long the permit was waited for.
    pub(super) waited: Duration,
}

/// A request of which provably no byte was sent: its gate can be used again.
pub(super) struct Unsent {
    pub(super) gate: Gate,
    pub(super) failure: Failure,
}

/// The request as it goes over the wire.
pub(super) fn message(url: &TargetUrl, request: &Request) -> Result<Message, Failure> {
    let unsendable = || {
        Failure::new(
            ErrorClass::Blocked,
            Fault::Receiver,
            "the URL cannot be sent as HTTP",
        )
    };
    let uri: Uri = url.path_and_query().parse().map_err(|_| unsendable())?;
    let host = HeaderValue::from_str(&url.authority()).map_err(|_| unsendable())?;
    let mut message = http::Request::new(Full::new(request.body.clone()));
    *message.method_mut() = Method::POST;
    *message.uri_mut() = uri;
    let headers = message.headers_mut();
    headers.insert(HOST, host);
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(qrelay_store::signature::USER_AGENT),
    );
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    for (name, value) in &request.headers {
        if !FRAMING.contains(name) {
            headers.insert(name, value.clone());
        }
    }
    Ok(message)
}

impl Shared {
    /// A new connection, ready for a request.
    pub(super) async fn open(
        &self,
        url: &TargetUrl,
        addresses: &[SocketAddr],
        identity: Option<&Identity>,
        deadline: Instant,
        phases: &mut Phases,
    ) -> Result<Connection, Failure> {
        let (stream, peer) = self
            .connector
            .connect(url, addresses, identity, deadline, phases)
            .await?;
        let gate = GateCell::new();
        let io = TokioIo::new(GatedStream::new(stream, gate.clone()));
        let handshake = http1::Builder::new()
            .max_buf_size(RESPONSE_HEAD_BYTES_MAX)
            .max_headers(RESPONSE_HEADERS_MAX)
            .handshake(io)
            .await;
        let (sender, connection) = handshake.map_err(|error| failure_of(&error))?;
        let driver = self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                // The exchange hears of it too; between exchanges it is only a peer that hung up.
                tracing::trace!(%error, "a connection ended");
            }
        });
        Ok(Connection {
            sender,
            gate,
            peer,
            _driver: Driver(driver.abort_handle()),
        })
    }

    /// Sends the request over the connection and reads the response; keeps the connection if it can be used again.
    pub(super) async fn send(
        &self,
        mut connection: Connection,
        key: &PoolKey,
        message: Message,
        gate: Gate,
        deadline: Instant,
        kept: bool,
    ) -> Result<Result<Sent, Unsent>, Aborted> {
        let armed_at = Instant::now();
        let opened = connection.gate.arm(gate, kept);
        let answer = answer(connection.sender.send_request(message), opened, deadline).await;
        let Some(mut answer) = answer else {
            return Err(Aborted);
        };
        if let (Err(failure), Some(tls)) = (&mut answer.result, connection.gate.tls_error()) {
            // TLS 1.3 lets a server refuse a client's certificate, or its absence, only after the handshake.
            *failure = Failure::new(ErrorClass::Tls, Fault::Receiver, format!("TLS: {tls}"));
        }
        let Some(begun_at) = answer.begun_at else {
            return match connection.gate.shut() {
                Left::Aborted => Err(Aborted),
                Left::Unasked(gate) => {
                    let failure = answer.result.err().unwrap_or_else(unasked_response);
                    Ok(Err(Unsent { gate, failure }))
                }
                Left::Opened => Ok(Ok(Sent {
                    outcome: without_response(
                        answer.result.err().unwrap_or_else(unasked_response),
                        None,
                        kept,
                    ),
                    waited: Duration::ZERO,
                })),
            };
        };
        let waited = begun_at - armed_at;
        let response = match answer.result {
            Ok(response) => response,
            Err(failure) => {
                return Ok(Ok(Sent {
                    outcome: without_response(failure, Some(begun_at), kept),
                    waited,
                }));
            }
        };
        let head_at = Instant::now();
        let (head, body) = response.into_parts();
        let body = response::read_body(body, deadline + waited).await;
        if body.complete {
            self.keep(key.clone(), connection, &head).await;
        }
        let phases = Phases {
            first_byte: Some(head_at - begun_at),
            ..Phases::default()
        };
        let outcome = Outcome {
            status: Some(head.status.as_u16()),
            failure: judge(head.status),
            phases,
            begun_at: Some(begun_at),
            reused: kept,
            request_headers: Vec::new(),
            response_headers: super::kept_headers::of_response(&head.headers),
            response_body: body.snippet,
            retry_after: response::retry_after(&head.headers),
            wish: response::wish(&head.headers),
        };
        Ok(Ok(Sent { outcome, waited }))
    }

    /// Puts a connection whose exchange is over aside for the next one.
    async fn keep(&self, key: PoolKey, mut connection: Connection, head: &http::response::Parts) {
        let said =
            response::keep_alive(&head.headers).map(|said| said.saturating_sub(Duration::from_secs(1)));
        let idle_max = said.map_or(self.config.idle_timeout, |said| {
            said.min(self.config.idle_timeout)
        });
        let ready = timeout(CONNECTION_READY_WAIT, connection.sender.ready()).await;
        if !idle_max.is_zero()
            && matches!(ready, Ok(Ok(())))
            && matches!(connection.gate.shut(), Left::Opened)
        {
            self.pool.put(key, connection, idle_max);
        }
    }
}

struct Answer {
    result: Result<http::Response<Incoming>, Failure>,
    /// When the permit was given, if it was.
    begun_at: Option<Instant>,
}

/// Waits for the permit, then for the response's head. `None`: the permit did not come.
async fn answer(
    response: impl Future<Output = hyper::Result<http::Response<Incoming>>>,
    mut opened: oneshot::Receiver<Instant>,
    deadline: Instant,
) -> Option<Answer> {
    let mut response = std::pin::pin!(response);
    let armed_at = Instant::now();
    let begun_at = tokio::select! {
        // The permit first: a response that came with it is looked at below.
        biased;
        Ok(begun_at) = &mut opened => begun_at,
        result = &mut response => {
            // Both may have become ready since the first branch was polled.
            let begun_at = opened.try_recv().ok();
            return Some(Answer { result: result.map_err(|error| failure_of(&error)), begun_at });
        }
        () = sleep(GATE_WAIT_MAX) => return None,
    };
    let head_deadline = deadline + (begun_at - armed_at);
    let result = match timeout_at(head_deadline, response).await {
        Ok(result) => result.map_err(|error| failure_of(&error)),
        Err(_) => Err(Failure::new(
            ErrorClass::Timeout,
            Fault::Receiver,
            "no response in time",
        )),
    };
    Some(Answer {
        result,
        begun_at: Some(begun_at),
    })
}

/// Success is 2xx and nothing else; redirects are not followed, so they are failures.
fn judge(status: http::StatusCode) -> Option<Failure> {
    if status.is_success() {
        return None;
    }
    let text = match (status.is_redirection(), status.canonical_reason()) {
        (true, _) => format!("HTTP {}: redirects are not followed", status.as_u16()),
        (false, Some(reason)) => format!("HTTP {} {reason}", status.as_u16()),
        (false, None) => format!("HTTP {}", status.as_u16()),
    };
    Some(Failure::new(ErrorClass::Http, Fault::Receiver, text))
}

fn failure_of(error: &hyper::Error) -> Failure {
    let protocol = |text: &str| Failure::new(ErrorClass::Protocol, Fault::Receiver, text);
    if error.is_parse_too_large() {
        protocol("the response's head is too large")
    } else if error.is_parse() {
        protocol("the response is not valid HTTP/1.1")
    } else if error.is_incomplete_message() {
        protocol("the connection was closed before a response")
    } else {
        // Reset while writing or reading, or closed while idle.
        protocol("the connection was broken before a response")
    }
}

/// A response that came before the request was begun.
fn unasked_response() -> Failure {
    Failure::new(
        ErrorClass::Protocol,
        Fault::Receiver,
        "a response came before the request",
    )
}

fn without_response(failure: Failure, begun_at: Option<Instant>, reused: bool) -> Outcome {
    Outcome {
        begun_at,
        reused,
        ..super::failed(failure, Phases::default())
    }
}
