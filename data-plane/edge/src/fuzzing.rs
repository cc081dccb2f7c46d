//! Entry points for fuzz targets: everything that the edge reads of remote bytes, without a socket.
//!
//! Invariant: no input makes them panic or run for long.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use http::Request;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::client_address::TrustedProxies;
use crate::redirect::read_head;
use crate::server::http1_builder;

pub use crate::proxy_protocol::parse as proxy_header;

/// A connection on which `bytes` come in, and to which everything can be written.
struct Replay<'a>(&'a [u8]);

impl AsyncRead for Replay<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads all requests in `bytes` as a connection would. Returns how many asked for a code.
pub fn request_heads(bytes: &[u8]) -> usize {
    let everybody =
        ["0.0.0.0/0", "::/0"].map(|net| net.parse::<IpNet>().expect("invariant: a constant network"));
    let trusted = TrustedProxies::new(everybody);
    let asked = AtomicUsize::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        let (head, _) = request.into_parts();
        trusted.client_address(std::net::Ipv4Addr::LOCALHOST.into(), &head.headers);
        let page = match read_head(&head) {
            Ok(_) => {
                asked.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(page) => Some(page),
        };
        let response = page.map_or_else(
            || hyper::Response::new(Full::new(Bytes::new())),
            |page| page.response(),
        );
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let mut connection = pin!(http1_builder().serve_connection(TokioIo::new(Replay(bytes)), service));
    let mut context = Context::from_waker(Waker::noop());
    // hyper yields now and then; the stream never makes it wait, so polling on comes to an end.
    for _ in 0..=bytes.len() {
        if connection.as_mut().poll(&mut context).is_ready() {
            break;
        }
    }
    asked.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_on_a_connection() {
        assert_eq!(
            request_heads(b"GET /abc HTTP/1.1\r\nHost: a\r\n\r\nGET /d HTTP/1.1\r\nHost: a\r\n\r\n"),
            2
        );
        assert_eq!(request_heads(b"GET /abc HTTP/1.1\r\n\r\n"), 0);
        assert_eq!(request_heads(b""), 0);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(bytes: Vec<u8>, tail in "[ -~\r\n]{0,200}") {
            request_heads(&bytes);
            let text = format!("GET /{tail} HTTP/1.1\r\nHost: a\r\n\r\n");
            request_heads(text.as_bytes());
            let text = format!("GET /a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {tail}\r\n\r\n");
            request_heads(text.as_bytes());
        }
    }
}
