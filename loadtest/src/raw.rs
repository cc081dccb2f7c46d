//! A redirect that does nothing else: what hyper costs on this machine, and so the ceiling of the edge.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::serving;

/// Answers everything with a 302 to `location`, on the calling thread, until `stop`.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    location: HeaderValue,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let service = service_fn(move |_: Request<Incoming>| {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert(header::LOCATION, location.clone());
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        std::future::ready(Ok::<_, Infallible>(response))
    });
    serving::serve(listener, service, stop).await
}
