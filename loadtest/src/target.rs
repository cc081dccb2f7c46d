//! What is asked, and where: a URL on this machine, and the bytes of one request for it.

use std::{net::SocketAddr, str::FromStr};

use anyhow::{Context, bail, ensure};
use http::Uri;

/// A phone's browser, as the edge sees it most: so the scan is classified as a human's.
const HEADERS: &str = "user-agent: Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 \
                       (KHTML, like Gecko) Version/19.1 Mobile/15E148 Safari/604.1\r\n\
                       accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
                       accept-language: en-GB,en;q=0.9\r\n\
                       accept-encoding: gzip, deflate, br\r\n";

/// An HTTP URL on a loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// Path and query.
    pub path: String,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    /// # Errors
    /// When it is no `http://` URL, or its host is not a loopback address.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let uri: Uri = text.parse().with_context(|| format!("`{text}` is no URL"))?;
        ensure!(
            uri.scheme_str() == Some("http"),
            "`{text}` does not start with http://"
        );
        let authority = uri.authority().context("the URL has no host")?;
        let port = authority.port_u16().unwrap_or(80);
        let host = authority.host().trim_matches(['[', ']']);
        let host = if host == "localhost" { "127.0.0.1" } else { host };
        let Ok(ip) = host.parse() else {
            bail!("`{host}` is no loopback address; load is sent to this machine only");
        };
        let address = SocketAddr::new(ip, port);
        ensure_loopback(address)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            address,
            host: authority.as_str().to_owned(),
            path: path.to_owned(),
        })
    }
}

impl Target {
    /// The same with a number behind its path.
    #[must_use]
    pub fn numbered(&self, number: u64) -> Self {
        Self {
            path: format!("{}{number}", self.path),
            ..self.clone()
        }
    }

    /// The bytes of one GET. A fresh connection's request asks the server to close it after the answer, so that every
    /// server compared pays for the same closing.
    #[must_use]
    pub fn request(&self, fresh: bool) -> Vec<u8> {
        let close = if fresh { "connection: close\r\n" } else { "" };
        format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\n{HEADERS}{close}\r\n",
            self.path, self.host
        )
        .into_bytes()
    }
}

/// Fails when an address is not on this machine's loopback interface.
///
/// # Errors
/// For every other address.
pub fn ensure_loopback(address: SocketAddr) -> anyhow::Result<()> {
    ensure!(
        address.ip().is_loopback(),
        "{address} is no loopback address; load stays on this machine"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_url_is_taken_apart() {
        let target: Target = "http://localhost:8080/spring?x=1".parse().unwrap();
        assert_eq!(target.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(target.host, "localhost:8080");
        assert_eq!(target.path, "/spring?x=1");
        let target: Target = "http://[::1]:81".parse().unwrap();
        assert_eq!(
            (target.address, target.path.as_str()),
            ("[::1]:81".parse().unwrap(), "/")
        );
    }

    #[test]
    fn load_is_sent_nowhere_else() {
        for elsewhere in [
            "http://10.0.0.1/",
            "http://example.com/",
            "https://127.0.0.1/",
            "127.0.0.1:80",
            "http://0.0.0.0/",
        ] {
            assert!(elsewhere.parse::<Target>().is_err(), "{elsewhere}");
        }
    }

    #[test]
    fn only_a_fresh_connection_asks_to_be_closed() {
        let target: Target = "http://127.0.0.1:1/a".parse().unwrap();
        let request = |fresh| String::from_utf8(target.request(fresh)).unwrap();
        assert!(request(true).contains("\r\nconnection: close\r\n"));
        assert!(!request(false).contains("connection"));
        assert!(request(false).starts_with("GET /a HTTP/1.1\r\nhost: 127.0.0.1:1\r\n"));
        assert!(request(false).ends_with("\r\n\r\n"));
    }
}
