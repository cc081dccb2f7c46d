//! A client's TCP stream that tells the table of connections what happens on it.
//!
//! It leaves HTTP to hyper and deadlines to the table. Invariants: bytes that came with a PROXY header are read
//! first; after our last byte, what the client still sends is read and dropped for a while (a close with unread
//! bytes would reset the connection, and the client might never see the answer), at most
//! [`DISCARDED_BYTES_MAX`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::connections::Connection;
use super::framing::FramingWatch;

/// What is read after our last byte, bytes.
const DISCARDED_BYTES_MAX: usize = 64 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct ClientStream {
    tcp: TcpStream,
    ahead: Bytes,
    connection: Arc<Connection>,
    framing: FramingWatch,
    written_since_flush: bool,
    /// How many bytes may still be discarded, once we have said goodbye.
    discard_bytes: Option<usize>,
}

impl ClientStream {
    /// `ahead`: bytes of this stream that were read already.
    pub(crate) fn new(tcp: TcpStream, ahead: Bytes, connection: Arc<Connection>) -> Self {
        Self {
            tcp,
            ahead,
            connection,
            framing: FramingWatch::default(),
            written_since_flush: false,
            discard_bytes: None,
        }
    }

    fn on_read(&mut self, bytes: &[u8]) {
        self.connection.on_bytes_read();
        if let Some(place) = self.framing.see(bytes) {
            self.connection.on_conflicting_lengths(place);
        }
    }

    fn after_write(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => self.connection.on_write_blocked(),
            Poll::Ready(_) => self.written_since_flush = true,
        }
        result
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>, mut left: usize) -> Poll<()> {
        let mut scratch = [0u8; 4096];
        while left > 0 {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.tcp).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    self.discard_bytes = Some(left);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    left = left.saturating_sub(buffer.filled().len())
                }
                Poll::Ready(_) => break,
            }
        }
        self.discard_bytes = Some(0);
        Poll::Ready(())
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let take = self.ahead.len().min(buffer.remaining());
            let bytes = self.ahead.split_to(take);
            buffer.put_slice(&bytes);
            self.on_read(&bytes);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.on_read(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.after_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        self.after_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes only when its own buffer is empty.
        ready!(Pin::new(&mut self.tcp).poll_flush(cx))?;
        if self.written_since_flush {
            self.written_since_flush = false;
            self.connection.on_flushed();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let left = match self.discard_bytes {
            Some(left) => left,
            None => {
                ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
                if self.connection.on_shutdown() {
                    DISCARDED_BYTES_MAX
                } else {
                    0
                }
            }
        };
        self.poll_discard(cx, left).map(Ok)
    }
}
