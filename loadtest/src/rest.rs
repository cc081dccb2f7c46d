//! A JSON call over one connection: what sets a benchmark up and asks for its counts. Not for load.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use crate::target::ensure_loopback;

/// An answer's body at most.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// One call at most, from connect to the answer's last byte.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// A request that is being put together.
#[derive(Debug)]
pub struct Call {
    address: SocketAddr,
    request: Request<Full<Bytes>>,
}

impl Call {
    /// A GET.
    #[must_use]
    pub fn fetch(address: SocketAddr, path: &str) -> Self {
        Self::new(address, Method::GET, path)
    }

    /// A POST, with an empty body until [`Call::body`].
    #[must_use]
    pub fn post(address: SocketAddr, path: &str) -> Self {
        Self::new(address, Method::POST, path)
    }

    /// A PATCH.
    #[must_use]
    pub fn patch(address: SocketAddr, path: &str) -> Self {
        Self::new(address, Method::PATCH, path)
    }

    fn new(address: SocketAddr, method: Method, path: &str) -> Self {
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("invariant: paths are written in this crate");
        let host =
            HeaderValue::from_str(&address.to_string()).expect("invariant: an address is visible ASCII");
        request.headers_mut().insert(header::HOST, host);
        Self { address, request }
    }

    /// With a header.
    ///
    /// # Panics
    /// When the value is not visible ASCII.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("invariant: header values here are visible ASCII");
        self.request
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
        self
    }

    /// With a body, as JSON.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        *self.request.body_mut() = Full::new(body.into());
        self.header("content-type", "application/json")
    }

    /// Sends it and returns the status and the body, whatever they are.
    ///
    /// # Errors
    /// When there is no whole answer within 15 s, or the address is not on this machine.
    pub async fn send(self) -> anyhow::Result<(StatusCode, Bytes)> {
        ensure_loopback(self.address)?;
        let what = format!(
            "{} {} at {}",
            self.request.method(),
            self.request.uri(),
            self.address
        );
        let exchange = async {
            let stream = TcpStream::connect(self.address).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // Dropping the sender after the answer ends the connection.
            let answer = async move {
                let (head, body) = sender.send_request(self.request).await?.into_parts();
                let body = Limited::new(body, ANSWER_BYTES_MAX)
                    .collect()
                    .await
                    .map_err(anyhow::Error::from_boxed)?;
                anyhow::Ok((head.status, body.to_bytes()))
            };
            // The answer tells of a broken connection, too.
            tokio::join!(answer, connection).0
        };
        timeout(CALL_TIMEOUT, exchange)
            .await
            .context("timed out")
            .and_then(|answer| answer)
            .context(what)
    }

    /// Sends it and returns the JSON of a 2xx answer.
    ///
    /// # Errors
    /// As [`Call::send`], and for every other status, with the body's text.
    pub async fn json(self) -> anyhow::Result<Value> {
        let what = format!("{} {}", self.request.method(), self.request.uri());
        let (status, body) = self.send().await?;
        let text = String::from_utf8_lossy(&body);
        ensure!(status.is_success(), "{what} answered {status}: {text}");
        serde_json::from_slice(&body).with_context(|| format!("{what} answered what is no JSON: {text}"))
    }
}
