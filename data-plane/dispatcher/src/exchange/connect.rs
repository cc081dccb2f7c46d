//! A new connection to one of the vetted addresses, with TLS where the URL says so.
//!
//! Only addresses that were vetted for this very exchange are connected to; the certificate is checked against the
//! URL's name, whatever the address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use qrelay_store::limits::{CONNECT_ADDRESSES_MAX, CONNECT_STAGGER};
use qrelay_store::target::{TargetHost, TargetUrl};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;

use super::gate::Stream;
use super::outcome::{ErrorClass, Failure, Fault, Phases};

/// Makes connections.
pub(super) struct Connector {
    pub(super) tls: Arc<ClientConfig>,
    pub(super) connect_timeout: Duration,
}

impl Connector {
    /// Connects to the first of the addresses that answers and, for `https`, makes the TLS session, all before
    /// `deadline`. Notes in `phases` how long it took.
    pub(super) async fn connect(
        &self,
        url: &TargetUrl,
        addresses: &[SocketAddr],
        deadline: Instant,
        phases: &mut Phases,
    ) -> Result<(Stream, SocketAddr), Failure> {
        let started = Instant::now();
        let tcp_deadline = deadline.min(started + self.connect_timeout);
        let tcp = timeout_at(tcp_deadline, connect_any(addresses)).await;
        phases.connect = Some(started.elapsed());
        let (tcp, peer) = tcp
            .map_err(|_| Failure::new(ErrorClass::Timeout, Fault::Network, "connecting took too long"))?
            .map_err(|error| connect_failure(&error))?;
        // A request is one or two writes, sent at once: waiting to gather more would only delay it.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
        if url.is_plaintext() {
            return Ok((Stream::Plain(tcp), peer));
        }
        let started = Instant::now();
        let session = timeout_at(deadline, self.handshake(url, tcp)).await;
        phases.tls = Some(started.elapsed());
        session
            .map_err(|_| {
                Failure::new(
                    ErrorClass::Timeout,
                    Fault::Receiver,
                    "the TLS handshake took too long",
                )
            })?
            .map(|stream| (stream, peer))
    }

    async fn handshake(&self, url: &TargetUrl, tcp: TcpStream) -> Result<Stream, Failure> {
        let name = match url.host() {
            TargetHost::Ip(address) => ServerName::from(*address),
            TargetHost::Name(name) => ServerName::try_from(name.clone()).map_err(|_| {
                Failure::new(
                    ErrorClass::Tls,
                    Fault::Receiver,
                    "the host is no name that a certificate can hold",
                )
            })?,
        };
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        match connector.connect(name, tcp).await {
            Ok(session) => Ok(Stream::Tls(Box::new(session))),
            Err(error) => Err(tls_failure(&error)),
        }
    }
}

/// Tries the addresses in turn, the next one when the one before failed or has not answered for
/// [`CONNECT_STAGGER`] (the idea of RFC 8305): a dead address costs little when another one lives.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr)> {
    let mut rest = addresses.iter().copied().take(CONNECT_ADDRESSES_MAX);
    let mut trying = FuturesUnordered::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match rest.next() {
            Some(address) => trying.push(async move { (TcpStream::connect(address).await, address) }),
            None if trying.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! {
            Some((result, address)) = trying.next() => match result {
                Ok(tcp) => return Ok((tcp, address)),
                Err(error) => failure = error,
            },
            () = sleep(CONNECT_STAGGER), if rest.len() > 0 => {}
        }
    }
}

fn connect_failure(error: &io::Error) -> Failure {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    match error.kind() {
        ConnectionRefused => Failure::new(ErrorClass::Refused, Fault::Receiver, "the connection was refused"),
        HostUnreachable => Failure::new(ErrorClass::Connect, Fault::Network, "the host is unreachable"),
        NetworkUnreachable => Failure::new(ErrorClass::Connect, Fault::Network, "the network is unreachable"),
        _ if is_ours(error) => {
            tracing::warn!(%error, "no connection can be opened");
            Failure::new(ErrorClass::Connect, Fault::Ours, "no connection could be opened")
        }
        _ => Failure::new(ErrorClass::Connect, Fault::Network, "no connection could be made"),
    }
}

/// Out of file descriptors, ports or memory, or not permitted to connect at all.
fn is_ours(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, OutOfMemory, PermissionDenied};
    const NO_FILES: [i32; 2] = [23, 24]; // ENFILE, EMFILE: std has no kind for them
    matches!(
        error.kind(),
        AddrInUse | AddrNotAvailable | OutOfMemory | PermissionDenied
    ) || error.raw_os_error().is_some_and(|code| NO_FILES.contains(&code))
}

fn tls_failure(error: &io::Error) -> Failure {
    let text = match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(error) => format!("TLS: {error}"),
        None => "the connection ended during the TLS handshake".to_owned(),
    };
    Failure::new(ErrorClass::Tls, Fault::Receiver, text)
}
