//! The layer in front of gRPC and REST: who calls, how often, how long; answered in the caller's protocol.
//!
//! Nothing of a request but its path and headers is read before its key was found good. Panics of handlers end
//! here, too, as errors that tell nothing.

use std::{
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures::FutureExt;
use http::{HeaderMap, header};
use qrelay_rest::{OPENAPI_PATH, error_response, is_grpc};
use qrelay_store::limits;
use tokio::{sync::Semaphore, time::timeout};
use tonic::Status;

use crate::{
    access, auth::Authenticator, caller::Caller, config::Rates, grpc_timeout, limiter::Limiter, measures,
    refusal,
};

/// Over REST the transcoder answers its own deadline; this one is the net below it.
const MARGIN: Duration = Duration::from_secs(5);

/// The peer of a connection, as the server puts it into each request's extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// What the layer needs.
pub(crate) struct Gate {
    auth: Arc<Authenticator>,
    requests: Limiter<String>,
    in_flight: Semaphore,
}

impl Gate {
    pub(crate) fn new(auth: Arc<Authenticator>, rates: Rates) -> Self {
        let period = Duration::from_secs(1) / rates.requests_per_second.max(1);
        Self {
            auth,
            requests: Limiter::new(period, rates.requests_burst),
            in_flight: Semaphore::new(limits::API_IN_FLIGHT_MAX),
        }
    }

    async fn caller(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Caller, Status> {
        let caller = self.auth.authenticate(presented(headers)?, peer).await?;
        self.requests.check(&caller.actor()).map_err(|wait| {
            refusal::too_fast("TOO_MANY_REQUESTS", "too many requests with this key", wait)
        })?;
        Ok(caller)
    }
}

/// The layer.
pub(crate) async fn admit(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let grpc = is_grpc(request.headers());
    let refuse = |status: Status| {
        measures::refused(status.code());
        if grpc {
            status.into_http()
        } else {
            error_response(&status)
        }
    };
    let path = request.uri().path();
    let public = if grpc {
        access::is_public(path)
    } else {
        path == OPENAPI_PATH
    };
    let Ok(_permit) = gate.in_flight.try_acquire() else {
        let busy = "too many requests are being carried out";
        return refuse(refusal::unavailable("SERVER_BUSY", busy, Duration::from_secs(1)));
    };
    if !public {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        match gate.caller(request.headers(), peer).await {
            Ok(caller) => drop(request.extensions_mut().insert(Arc::new(caller))),
            Err(status) => return refuse(status),
        }
    }
    let wanted = if grpc {
        grpc_timeout::parse(request.headers())
    } else {
        None
    };
    let own = limits::API_REQUEST_TIMEOUT + if grpc { Duration::ZERO } else { MARGIN };
    let time = wanted.map_or(own, |wanted| wanted.min(own));
    let answered = timeout(time, AssertUnwindSafe(next.run(request)).catch_unwind()).await;
    match answered {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => {
            // The panic hook has printed where.
            measures::panicked();
            refuse(Status::internal("internal error"))
        }
        Err(_) => refuse(Status::deadline_exceeded("the deadline passed before the answer")),
    }
}

/// The key in the headers.
fn presented(headers: &HeaderMap) -> Result<&str, Status> {
    let none = || refusal::unauthenticated("there is no API key; send it as `Authorization: Bearer KEY`");
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    if let Some(value) = given.next() {
        let (scheme, key) = value
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .ok_or_else(none)?;
        let single = given.next().is_none() && scheme.eq_ignore_ascii_case("bearer");
        return if single {
            Ok(key.trim_matches(' '))
        } else {
            Err(none())
        };
    }
    let key = headers.get("x-api-key").filter(|_| !is_grpc(headers));
    key.and_then(|value| value.to_str().ok()).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware::from_fn_with_state};
    use http::HeaderValue;
    use http_body_util::BodyExt;
    use qrelay_store::{
        clock::{SharedClock, SystemClock},
        sqlite::{Options, SqliteStore},
    };
    use tower::ServiceExt;

    use super::*;
    use crate::api_key::AdminKey;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    /// A gate in front of one handler.
    async fn behind_a_gate(handler: fn() -> &'static str, request: Request) -> Response {
        let dir = tempfile::tempdir().unwrap();
        let clock: SharedClock = Arc::new(SystemClock);
        let options = Options {
            partitions: 1,
            clock: Arc::clone(&clock),
        };
        let store = SqliteStore::open(dir.path(), &options).unwrap();
        let admin = AdminKey::new(&"a".repeat(32).into()).unwrap();
        let gate = Arc::new(Gate::new(
            Arc::new(Authenticator::new(store, clock, admin)),
            Rates::default(),
        ));
        let router = Router::new().fallback(move || async move { handler() });
        router
            .layer(from_fn_with_state(gate, admit))
            .oneshot(request)
            .await
            .unwrap()
    }

    fn request(content_type: &str) -> Request {
        let request = Request::builder()
            .uri("/x")
            .header("authorization", format!("Bearer {}", "a".repeat(32)));
        request
            .header("content-type", content_type)
            .body(Body::empty())
            .unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_an_error_in_the_callers_protocol_that_tells_nothing() {
        let rest = behind_a_gate(|| panic!("secret inside"), request("application/json")).await;
        assert_eq!(rest.status(), 500);
        let body = rest.into_body().collect().await.unwrap().to_bytes();
        assert!(
            !body.is_empty() && !body.windows(6).any(|window| window == b"secret"),
            "{body:?}"
        );
        let grpc = behind_a_gate(|| panic!("secret inside"), request("application/grpc")).await;
        let status = Status::from_header_map(grpc.headers()).unwrap();
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::Internal, "internal error")
        );
        assert_eq!(
            behind_a_gate(|| "fine", request("application/json"))
                .await
                .status(),
            200
        );
    }

    #[test]
    fn a_key_comes_as_a_bearer_token_and_over_rest_as_x_api_key() {
        for (pairs, expected) in [
            (&[("authorization", "Bearer k")][..], Some("k")),
            (&[("authorization", "bearer  k ")], Some("k")),
            (&[("x-api-key", "k")], Some("k")),
            (&[("authorization", "Bearer a"), ("x-api-key", "b")], Some("a")),
            (&[("authorization", "Basic k")], None),
            (&[("authorization", "k")], None),
            (
                &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
                None,
            ),
            (&[("x-api-key", "k"), ("content-type", "application/grpc")], None),
            (&[], None),
        ] {
            assert_eq!(presented(&headers(pairs)).ok(), expected, "{pairs:?}");
        }
    }
}
