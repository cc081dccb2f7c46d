//! The permit to begin a request, asked for in the connection's write path as the first byte goes out.
//!
//! A rate limit that is exact from above counts first bytes, so the permit is taken where they are written and not
//! where the exchange is planned: resolving, connecting and the TLS handshake may take as long as they like. The
//! same place checks that the shard still holds its lease.
//!
//! Invariants: no byte of a request is written without one [`Permit::Go`]; a gate is asked at most once per
//! exchange; on a kept connection it is asked only after the connection was found alive, so that a gate whose
//! request was provably not sent can be used again on a new connection.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::transport::Transport;

/// The gate's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Write the first byte now.
    Go,
    /// Do not begin this request.
    Abort,
}

/// A future that waits for the permit. Runs in the connection's task.
pub(super) type Gate = Pin<Box<dyn Future<Output = Permit> + Send>>;

enum State {
    /// No request is under way: nothing may be written.
    Shut,
    /// A request waits for its permit.
    Armed {
        gate: Gate,
        kept: bool,
        opened: oneshot::Sender<Instant>,
    },
    /// The permit was given.
    Open,
    /// The gate said no.
    Aborted,
    /// The kept connection was dead before the gate was asked.
    Stale(Gate),
}

/// Shared between the connection's stream and who exchanges over it.
#[derive(Clone)]
pub(super) struct GateCell {
    state: Arc<Mutex<State>>,
    /// What TLS said when it ended the connection. The HTTP library tells whoever waits for a response of what it
    /// noticed first, which may be a write that came too late, or nothing but that the connection is gone.
    tls: Arc<OnceLock<rustls::Error>>,
}

/// How a gate was left when the exchange was over.
pub(super) enum Left {
    /// The request was let go.
    Opened,
    /// The gate said no: nothing was written.
    Aborted,
    /// The gate was not answered: nothing was written, and it can be used again.
    Unasked(Gate),
}

impl GateCell {
    pub(super) fn new() -> Self {
        GateCell {
            state: Arc::new(Mutex::new(State::Shut)),
            tls: Arc::default(),
        }
    }

    /// What TLS said when it ended the connection, if it did.
    pub(super) fn tls_error(&self) -> Option<&rustls::Error> {
        self.tls.get()
    }

    /// Keeps what TLS says in an error.
    fn heed(&self, error: &io::Error) {
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            let error: &rustls::Error = error;
            // The first one is the cause of those after it.
            self.tls.get_or_init(|| error.clone());
        }
    }

    /// Sets the gate for the next request. The receiver hears when the permit is given.
    pub(super) fn arm(&self, gate: Gate, kept: bool) -> oneshot::Receiver<Instant> {
        let (opened, when) = oneshot::channel();
        *self.lock() = State::Armed { gate, kept, opened };
        when
    }

    /// Ends the exchange: nothing more is written. Says how the gate was left.
    pub(super) fn shut(&self) -> Left {
        match std::mem::replace(&mut *self.lock(), State::Shut) {
            State::Armed { gate, .. } | State::Stale(gate) => Left::Unasked(gate),
            State::Aborted => Left::Aborted,
            State::Open | State::Shut => Left::Opened,
        }
    }

    fn poll_permit(&self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        let State::Armed { gate, kept, .. } = &mut *state else {
            return Poll::Ready(match *state {
                State::Open => Ok(()),
                _ => Err(io::Error::other("a write without a permit")),
            });
        };
        let dead = *kept && stream.is_dead(cx);
        let permit = if dead {
            None
        } else {
            Some(ready!(gate.as_mut().poll(cx)))
        };
        let State::Armed { gate, opened, .. } = std::mem::replace(&mut *state, State::Open) else {
            unreachable!("invariant: the state was armed, under the same lock")
        };
        match permit {
            Some(Permit::Go) => {
                // Nobody hears it when the exchange was dropped; then the connection is dropped next.
                if opened.send(Instant::now()).is_ok() {
                    return Poll::Ready(Ok(()));
                }
                *state = State::Shut;
            }
            Some(Permit::Abort) => *state = State::Aborted,
            None => *state = State::Stale(gate),
        }
        Poll::Ready(Err(io::Error::other("the request was not begun")))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's bytes.
pub(super) enum Stream {
    Plain(Transport),
    Tls(Box<TlsStream<Transport>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(transport) => transport.tcp(),
            Stream::Tls(tls) => tls.get_ref().0.tcp(),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }

    /// What TLS says of what the peer sent last. Asks the kernel, not the reactor, which may not know of it yet. Through a
    /// proxy that is spoken to within TLS itself it stays unknown.
    fn last_words(&mut self) -> Option<rustls::Error> {
        let Stream::Tls(tls) = self else { return None };
        let (Transport::Tcp(tcp), session) = tls.get_mut() else {
            return None;
        };
        match session.read_tls(&mut &*SockRef::from(&*tcp)) {
            Ok(read) if read > 0 => session.process_new_packets().err(),
            _ => None,
        }
    }

    /// Whether the peer has ended a connection that lay idle. Asks the kernel, not the reactor, whose news may be
    /// late. What a peer says unasked ends a connection too; over TLS it may be a session ticket, so it is read.
    fn is_dead(&mut self, cx: &mut Context<'_>) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(self.tcp()).peek(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) | Ok(0) => true,
            Ok(_) => {
                let mut byte = [0_u8];
                let mut read = ReadBuf::new(&mut byte);
                match self {
                    Stream::Plain(Transport::Tcp(_)) => true,
                    _ => self.poll_read(cx, &mut read).is_ready(),
                }
            }
        }
    }
}

/// The stream that the HTTP connection writes to: every write passes the gate.
pub(super) struct GatedStream {
    stream: Stream,
    cell: GateCell,
}

impl GatedStream {
    pub(super) fn new(stream: Stream, cell: GateCell) -> Self {
        GatedStream { stream, cell }
    }

    /// After a write that failed: a peer that refuses us within TLS says why before it hangs up.
    fn heed_last_words(&mut self) {
        if let Some(error) = self.stream.last_words() {
            self.cell.tls.get_or_init(|| error);
        }
    }
}

impl AsyncRead for GatedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(self.stream.poll_read(cx, buf));
        if let Err(error) = &read {
            self.cell.heed(error);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for GatedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let GatedStream { stream, cell } = &mut *self;
        ready!(cell.poll_permit(cx, stream))?;
        let written = ready!(match stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        });
        if written.is_err() {
            self.heed_last_words();
        }
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let GatedStream { stream, cell } = &mut *self;
        ready!(cell.poll_permit(cx, stream))?;
        let written = ready!(match stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        });
        if written.is_err() {
            self.heed_last_words();
        }
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(tcp) => tcp.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        });
        if flushed.is_err() {
            self.heed_last_words();
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
