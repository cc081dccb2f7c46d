//! What came of one exchange, in the words of the attempt log.

use std::time::Duration;

use bytes::Bytes;
use qrelay_store::Timestamp;
use qrelay_store::target::{ResolveError, TargetError};
use tokio::time::Instant;

/// What kind of failure an exchange was; [`ErrorClass::Ok`] for a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// A 2xx status line and headers came in time.
    Ok,
    /// The name could not be resolved.
    Dns,
    /// The target is not allowed (see [`qrelay_store::target`]). Nothing was connected to.
    Blocked,
    /// Every address refused the connection.
    Refused,
    /// No connection for another reason.
    Connect,
    /// No TLS session: certificate, name, version.
    Tls,
    /// Connecting or answering took too long.
    Timeout,
    /// What came back is not HTTP, or the connection ended before the response's head did.
    Protocol,
    /// A response with a status other than 2xx.
    Http,
}

impl ErrorClass {
    /// As the attempt log writes it; empty for a success.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorClass::Ok => "",
            ErrorClass::Dns => "dns",
            ErrorClass::Blocked => "blocked",
            ErrorClass::Refused => "refused",
            ErrorClass::Connect => "connect",
            ErrorClass::Tls => "tls",
            ErrorClass::Timeout => "timeout",
            ErrorClass::Protocol => "protocol",
            ErrorClass::Http => "http",
        }
    }
}

/// Whose fault a failure is, as far as it can be told from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The endpoint's URL or server.
    Receiver,
    /// Something in between.
    Network,
    /// This installation: out of sockets, no name server.
    Ours,
}

impl Fault {
    /// As the attempt log writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Receiver => "receiver",
            Fault::Network => "network",
            Fault::Ours => "ours",
        }
    }
}

/// A failure: what kind, whose fault, and a sentence that a tenant may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind; never [`ErrorClass::Ok`].
    pub class: ErrorClass,
    /// Whose fault.
    pub fault: Fault,
    /// Public text: names nothing of our network.
    pub text: String,
}

impl Failure {
    pub(super) fn new(class: ErrorClass, fault: Fault, text: impl Into<String>) -> Self {
        Failure {
            class,
            fault,
            text: text.into(),
        }
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        let (class, fault) = match &error {
            TargetError::Resolve(ResolveError::NotFound) => (ErrorClass::Dns, Fault::Receiver),
            TargetError::Resolve(ResolveError::Timeout | ResolveError::Failed) => {
                (ErrorClass::Dns, Fault::Network)
            }
            TargetError::Resolve(ResolveError::NoNameServer) => (ErrorClass::Dns, Fault::Ours),
            _ => (ErrorClass::Blocked, Fault::Receiver),
        };
        Failure::new(class, fault, error.to_string())
    }
}

/// How long each part took. `None`: the exchange did not get to it, or used a kept connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Resolving and vetting the name (from the cache it takes no time).
    pub dns: Option<Duration>,
    /// TCP connect.
    pub connect: Option<Duration>,
    /// TLS handshake.
    pub tls: Option<Duration>,
    /// From the request's first byte to the end of the response's head.
    pub first_byte: Option<Duration>,
    /// The whole, response body included, without waiting for the permit.
    pub total: Duration,
}

/// When a receiver wants to be asked again (RFC 9110 §10.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// So long after the response.
    Delay(Duration),
    /// At this time.
    At(Timestamp),
}

impl RetryAfter {
    /// How long to wait from `now`; zero for a time that has passed. Not capped.
    pub fn from(self, now: Timestamp) -> Duration {
        match self {
            RetryAfter::Delay(delay) => delay,
            RetryAfter::At(at) => at.since(now),
        }
    }
}

/// What a receiver says of its deliveries in the response header `webhook-delivery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// `disable`: send nothing more to this endpoint.
    Disable,
    /// `abort-message`: do not try this delivery again.
    Abort,
}

/// All that is known of one exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The response's status, if one came.
    pub status: Option<u16>,
    /// Why it failed; `None` for a success.
    pub failure: Option<Failure>,
    /// How long each part took.
    pub phases: Phases,
    /// When the request's first byte was let go; `None` if none was.
    pub begun_at: Option<Instant>,
    /// Whether a kept connection was used.
    pub reused: bool,
    /// The request's headers, bounded, credentials and signatures masked. None when there was no request.
    pub request_headers: Vec<(String, String)>,
    /// The response's headers in order, bounded, credentials masked.
    pub response_headers: Vec<(String, String)>,
    /// The response body's first [`qrelay_store::limits::RESPONSE_SNIPPET_BYTES`] as they came.
    pub response_body: Bytes,
    /// The response's `Retry-After`, if there is one that makes sense.
    pub retry_after: Option<RetryAfter>,
    /// What the receiver asks for beside its status.
    pub wish: Option<Wish>,
}

impl Outcome {
    /// Whether the delivery is done.
    pub fn is_success(&self) -> bool {
        self.failure.is_none()
    }

    /// The class of failure, [`ErrorClass::Ok`] for none.
    pub fn class(&self) -> ErrorClass {
        self.failure
            .as_ref()
            .map_or(ErrorClass::Ok, |failure| failure.class)
    }

    /// Whose fault, if it failed.
    pub fn fault(&self) -> Option<Fault> {
        self.failure.as_ref().map(|failure| failure.fault)
    }

    /// What went wrong, for people; empty for a success.
    pub fn error(&self) -> &str {
        self.failure.as_ref().map_or("", |failure| failure.text.as_str())
    }
}

/// The gate did not let the request go: nothing was sent, and this was no attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the exchange was not permitted to begin")]
pub struct Aborted;
