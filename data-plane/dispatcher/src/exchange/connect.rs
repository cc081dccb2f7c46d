//! A new connection to one of the vetted addresses, straight or through the egress proxy, with TLS where the URL says so.
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
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;

use super::gate::Stream;
use super::identity::Identity;
use super::outcome::{ErrorClass, Failure, Fault, Phases};
use super::proxy::EgressProxy;
use super::transport::Transport;

/// Makes connections.
pub(super) struct Connector {
    pub(super) tls: Arc<ClientConfig>,
    /// Whom receivers' certificates are checked against, under every identity.
    pub(super) roots: Arc<RootCertStore>,
    pub(super) connect_timeout: Duration,
    /// What everything goes through, if anything.
    pub(super) proxy: Option<EgressProxy>,
}

impl Connector {
    /// Connects to the first of the addresses that answers and, for `https`, makes the TLS session, all before
    /// `deadline`. Notes in `phases` how long it took.
    pub(super) async fn connect(
        &self,
        url: &TargetUrl,
        addresses: &[SocketAddr],
        identity: Option<&Identity>,
        deadline: Instant,
        phases: &mut Phases,
    ) -> Result<(Stream, SocketAddr), Failure> {
        let started = Instant::now();
        let tcp_deadline = deadline.min(started + self.connect_timeout);
        let transport = timeout_at(tcp_deadline, self.connect_any(addresses)).await;
        phases.connect = Some(started.elapsed());
        let (transport, peer) = transport
            .map_err(|_| Failure::new(ErrorClass::Timeout, Fault::Network, "connecting took too long"))??;
        if url.is_plaintext() {
            return Ok((Stream::Plain(transport), peer));
        }
        let started = Instant::now();
        let session = timeout_at(deadline, self.handshake(url, identity, transport)).await;
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

    /// Tries the addresses in turn, the next one when the one before failed or has not answered for
    /// [`CONNECT_STAGGER`] (the idea of RFC 8305): a dead address costs little when another one lives.
    async fn connect_any(&self, addresses: &[SocketAddr]) -> Result<(Transport, SocketAddr), Failure> {
        let mut rest = addresses.iter().copied().take(CONNECT_ADDRESSES_MAX);
        let mut trying = FuturesUnordered::new();
        let mut failure = None;
        loop {
            match rest.next() {
                Some(address) => trying.push(async move { (self.dial(address).await, address) }),
                None if trying.is_empty() => {
                    let none = || connect_failure(&io::ErrorKind::AddrNotAvailable.into());
                    return Err(failure.unwrap_or_else(none));
                }
                None => {}
            }
            tokio::select! {
                Some((result, address)) = trying.next() => match result {
                    Ok(transport) => return Ok((transport, address)),
                    Err(error) => failure = Some(error),
                },
                () = sleep(CONNECT_STAGGER), if rest.len() > 0 => {}
            }
        }
    }

    /// To one address, straight or through the proxy: there is no way around one.
    async fn dial(&self, address: SocketAddr) -> Result<Transport, Failure> {
        if let Some(proxy) = &self.proxy {
            return proxy
                .dial(address, &TlsConnector::from(Arc::clone(&self.tls)))
                .await;
        }
        let tcp = TcpStream::connect(address).await;
        let tcp = tcp.map_err(|error| connect_failure(&error))?;
        // A request is one or two writes, sent at once: waiting to gather more would only delay it.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
        Ok(Transport::Tcp(tcp))
    }

    async fn handshake(
        &self,
        url: &TargetUrl,
        identity: Option<&Identity>,
        transport: Transport,
    ) -> Result<Stream, Failure> {
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
        let tls = identity.map_or(&self.tls, |identity| &identity.tls);
        let connector = TlsConnector::from(Arc::clone(tls));
        match connector.connect(name, transport).await {
            Ok(session) => Ok(Stream::Tls(Box::new(session))),
            Err(error) => Err(tls_failure(&error)),
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
