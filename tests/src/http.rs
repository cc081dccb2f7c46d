//! A small HTTP client: one exchange, nothing hidden.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A connection that is kept between requests.
pub type Connection = SendRequest<Full<Bytes>>;

/// Opens a connection; its driver ends with it.
///
/// # Errors
/// When nobody listens.
pub async fn connect(to: SocketAddr) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, driver) = handshake(TokioIo::new(stream)).await?;
    #[allow(
        clippy::disallowed_methods,
        reason = "the driver ends when the connection does"
    )]
    tokio::spawn(async move {
        // A cut connection shows in the request's own result.
        driver.await.ok();
    });
    Ok(sender)
}

/// One exchange on an open connection, body read whole.
///
/// # Errors
/// When the connection breaks.
pub async fn exchange(on: &mut Connection, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
    on.ready().await?;
    let (head, body) = on.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

/// One exchange on a fresh connection.
///
/// # Errors
/// When the connection cannot be made or breaks.
pub async fn once(to: SocketAddr, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
    exchange(&mut connect(to).await?, request).await
}

/// GET of a path.
///
/// # Errors
/// When the connection cannot be made or breaks.
///
/// # Panics
/// When `path` is not one.
pub async fn get(to: SocketAddr, path: &str) -> anyhow::Result<Response<Bytes>> {
    let request = Request::get(path)
        .header("host", to.to_string())
        .body(Full::default())
        .unwrap();
    once(to, request).await
}
