//! The way out through an egress proxy: HTTP CONNECT (RFC 9110 §9.3.6), in the clear or over TLS, and SOCKS5 (RFC 1928,
//! RFC 1929).
//!
//! Invariants: the proxy is asked for an address that was vetted, never for a name, so that it cannot resolve
//! anew; nothing is sent past a proxy that fails; its address and credentials stand in no error that a tenant reads, and
//! its credentials nowhere at all.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use data_encoding::BASE64;
use qrelay_store::limits::PROXY_ANSWER_BYTES_MAX;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::outcome::{ErrorClass, Failure, Fault};
use super::transport::Transport;

/// How the proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Https,
    Socks5,
}

/// The proxy that every connection to a receiver goes through (`--egress-proxy`).
#[derive(Clone)]
pub struct EgressProxy {
    protocol: Protocol,
    host: String,
    port: u16,
    credentials: Option<Credentials>,
}

#[derive(Clone)]
struct Credentials {
    user: String,
    password: SecretString,
}

/// Why a text names no egress proxy. Repeats nothing of it: a password may stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressProxyError {
    /// It is no URL of a proxy.
    #[error(
        "is no proxy, such as http://proxy.internal:3128, https://… or socks5://…, with user:password@ if it needs them"
    )]
    Form,
    /// SOCKS5 has a byte for their length.
    #[error("has a user name or password that is empty or longer than 255 bytes, which SOCKS5 cannot send")]
    Credentials,
}

impl EgressProxy {
    /// Reads `http://`, `https://` or `socks5://`, perhaps `user:password@`, a host, and perhaps a port (80, 443 and 1080
    /// are the schemes' own).
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &str) -> Result<Self, EgressProxyError> {
        let url = Url::parse(text.trim()).map_err(|_| EgressProxyError::Form)?;
        let (protocol, default_port) = match url.scheme() {
            "http" => (Protocol::Http, 80),
            "https" => (Protocol::Https, 443),
            "socks5" => (Protocol::Socks5, 1080),
            _ => return Err(EgressProxyError::Form),
        };
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let host = url.host_str().filter(|host| !host.is_empty() && bare);
        let host = host.ok_or(EgressProxyError::Form)?;
        let proxy = Self {
            protocol,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: url.port().unwrap_or(default_port),
            credentials: credentials(&url)?,
        };
        let fits = |text: &str| (1..=255).contains(&text.len());
        match &proxy.credentials {
            Some(given)
                if protocol == Protocol::Socks5
                    && !(fits(&given.user) && fits(given.password.expose_secret())) =>
            {
                Err(EgressProxyError::Credentials)
            }
            _ => Ok(proxy),
        }
    }

    /// Host and port as a URL, for the policy: no webhook may go to the proxy itself.
    pub fn authority(&self) -> Option<Url> {
        let host = match self.host.parse() {
            Ok(IpAddr::V6(v6)) => format!("[{v6}]"),
            _ => self.host.clone(),
        };
        Url::parse(&format!("http://{host}:{}", self.port)).ok()
    }

    /// Opens a way to `target` through the proxy.
    pub(super) async fn dial(&self, target: SocketAddr, tls: &TlsConnector) -> Result<Transport, Failure> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
        let tcp = tcp.map_err(|error| self.unreachable(&error))?;
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
        let mut way = match self.protocol {
            Protocol::Http | Protocol::Socks5 => Transport::Tcp(tcp),
            Protocol::Https => {
                let name = ServerName::try_from(self.host.clone())
                    .map_err(|error| self.unreachable(&io::Error::other(error)))?;
                let tls = tls.connect(name, tcp).await;
                Transport::Tls(Box::new(tls.map_err(|error| self.unreachable(&error))?))
            }
        };
        let answer = match self.protocol {
            Protocol::Http | Protocol::Https => connect(&mut way, target, self.credentials.as_ref()).await,
            Protocol::Socks5 => socks5(&mut way, target, self.credentials.as_ref()).await,
        };
        match answer {
            Ok(Answer::Open) => Ok(way),
            Ok(Answer::Refused(failure)) => {
                if failure.fault == Fault::Ours {
                    tracing::warn!(proxy = ?self, "the egress proxy refuses connections: {}", failure.text);
                }
                Err(failure)
            }
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        tracing::warn!(%error, proxy = ?self, "the egress proxy cannot be used");
        Failure::new(
            ErrorClass::Connect,
            Fault::Ours,
            "the sender's egress proxy cannot be used",
        )
    }
}

impl fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As a URL, its credentials masked.
impl fmt::Display for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Http => "http",
            Protocol::Https => "https",
            Protocol::Socks5 => "socks5",
        };
        let masked = if self.credentials.is_some() {
            "********@"
        } else {
            ""
        };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://{masked}[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{masked}{}:{}", self.host, self.port),
        }
    }
}

fn credentials(url: &Url) -> Result<Option<Credentials>, EgressProxyError> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decoded = |text: &str| {
        let text = percent_encoding::percent_decode_str(text).decode_utf8();
        text.map(String::from).map_err(|_| EgressProxyError::Form)
    };
    Ok(Some(Credentials {
        user: decoded(url.username())?,
        password: decoded(url.password().unwrap_or_default())?.into(),
    }))
}

/// What a proxy says.
enum Answer {
    /// The way is open.
    Open,
    /// It is not.
    Refused(Failure),
}

fn refused(class: ErrorClass, fault: Fault, text: impl Into<String>) -> Answer {
    Answer::Refused(Failure::new(class, fault, text))
}

async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    way: &mut S,
    target: SocketAddr,
    credentials: Option<&Credentials>,
) -> io::Result<Answer> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(Credentials { user, password }) = credentials {
        let pair = format!("{user}:{}", password.expose_secret());
        let pair = BASE64.encode(pair.as_bytes());
        request.push_str(&format!("Proxy-Authorization: Basic {pair}\r\n"));
    }
    request.push_str("\r\n");
    way.write_all(request.as_bytes()).await?;
    way.flush().await?;
    // Byte by byte: what follows the head is the receiver's.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_ANSWER_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(way.read_u8().await?);
    }
    let status = head
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| str::from_utf8(rest.get(2..5)?).ok())
        .and_then(|status| status.parse::<u16>().ok());
    Ok(match status {
        None => return Err(io::ErrorKind::InvalidData.into()),
        Some(200..=299) => Answer::Open,
        Some(status @ (502..=504)) => refused(
            ErrorClass::Connect,
            Fault::Network,
            format!("no connection could be made through the sender's egress proxy (HTTP {status})"),
        ),
        Some(status) => refused(
            ErrorClass::Connect,
            Fault::Ours,
            format!("the sender's egress proxy refuses the connection (HTTP {status})"),
        ),
    })
}

async fn socks5<S: AsyncRead + AsyncWrite + Unpin>(
    way: &mut S,
    target: SocketAddr,
    credentials: Option<&Credentials>,
) -> io::Result<Answer> {
    const NO_AUTHENTICATION: u8 = 0;
    const USER_AND_PASSWORD: u8 = 2;
    let offered: &[u8] = match credentials {
        Some(_) => &[5, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
        None => &[5, 1, NO_AUTHENTICATION],
    };
    way.write_all(offered).await?;
    way.flush().await?;
    let ours = |text: &str| refused(ErrorClass::Connect, Fault::Ours, text);
    let [version, method] = read(way).await?;
    match (version, method, credentials) {
        (5, NO_AUTHENTICATION, _) => {}
        (5, USER_AND_PASSWORD, Some(credentials)) => {
            way.write_all(&log_in(credentials)?).await?;
            way.flush().await?;
            let [_, status] = read(way).await?;
            if status != 0 {
                return Ok(ours("the sender's egress proxy refuses its credentials"));
            }
        }
        (5, _, _) => return Ok(ours("the sender's egress proxy asks for other credentials")),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    let mut request = vec![5, 1, 0];
    match target.ip() {
        IpAddr::V4(v4) => {
            request.push(1);
            request.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            request.push(4);
            request.extend(v6.octets());
        }
    }
    request.extend(target.port().to_be_bytes());
    way.write_all(&request).await?;
    way.flush().await?;
    let [version, reply, _, kind] = read(way).await?;
    // The address that the proxy bound, which nobody needs.
    match kind {
        1 => read::<_, 6>(way).await.map(drop)?,
        4 => read::<_, 18>(way).await.map(drop)?,
        3 => {
            let mut name = vec![0; usize::from(way.read_u8().await?) + 2];
            way.read_exact(&mut name).await?;
        }
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    let text = "no connection could be made through the sender's egress proxy";
    Ok(match (version, reply) {
        (5, 0) => Answer::Open,
        (5, 2) => ours("the sender's egress proxy refuses the connection"),
        (5, 5) => refused(ErrorClass::Refused, Fault::Receiver, "the connection was refused"),
        (5, _) => refused(ErrorClass::Connect, Fault::Network, text),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    })
}

/// RFC 1929.
fn log_in(credentials: &Credentials) -> io::Result<Vec<u8>> {
    let mut message = vec![1];
    for text in [credentials.user.as_str(), credentials.password.expose_secret()] {
        let length = u8::try_from(text.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        message.push(length);
        message.extend(text.as_bytes());
    }
    Ok(message)
}

async fn read<S: AsyncRead + Unpin, const N: usize>(way: &mut S) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    way.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_scheme_a_host_and_a_port_and_shows_no_credentials() {
        for (text, shown) in [
            ("http://proxy.internal:3128", "http://proxy.internal:3128"),
            ("https://proxy.internal", "https://proxy.internal:443"),
            ("http://proxy.internal/", "http://proxy.internal:80"),
            ("socks5://10.0.0.1", "socks5://10.0.0.1:1080"),
            ("socks5://[::1]:9050", "socks5://[::1]:9050"),
            (
                "http://us%65r:hunter2@proxy.internal:3128",
                "http://********@proxy.internal:3128",
            ),
            (" socks5://user:hunter2@proxy:1 ", "socks5://********@proxy:1"),
        ] {
            let proxy = EgressProxy::parse(text).unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert_eq!(format!("{proxy:?}"), shown);
            assert!(proxy.authority().is_some(), "{text}");
        }
        for text in [
            "",
            "proxy:3128",
            "ftp://proxy",
            "socks5h://proxy",
            "socks4://proxy",
            "http://",
            "http://proxy/path",
            "http://proxy?x",
            "http://proxy#x",
            "socks5://user@proxy",
            "socks5://:x@proxy",
            "http://proxy:99999",
        ] {
            let error = EgressProxy::parse(text).err().map(|error| error.to_string());
            assert!(error.is_some_and(|error| !error.contains("proxy:3128")), "{text}");
        }
        let long = format!("socks5://user:{}@proxy", "x".repeat(256));
        assert_eq!(
            EgressProxy::parse(&long).err(),
            Some(EgressProxyError::Credentials)
        );
    }
}
