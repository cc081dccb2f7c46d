//! The form of a target's URL, by the WHATWG URL standard: what is judged here is what will be connected to.
//!
//! A host written in decimal, octal or hex is the IPv4 address that it means; a name is lower case, in its ASCII
//! (IDNA) form, and without a trailing dot, so that one place has one name.

use std::net::IpAddr;

use url::{Host, Url};

use super::TargetError;
use crate::limits::ENDPOINT_URL_BYTES_MAX;

/// A URL that passed the policy. Made by [`super::Targets::check_url`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetUrl {
    url: Url,
    host: TargetHost,
    port: u16,
}

/// Who a URL points to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetHost {
    /// An address written in the URL.
    Ip(IpAddr),
    /// A DNS name: ASCII, lower case, no trailing dot.
    Name(String),
}

impl TargetUrl {
    /// The host, in its one spelling.
    pub fn host(&self) -> &TargetHost {
        &self.host
    }

    /// The port, the scheme's own if none is written.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is `http`: no TLS.
    pub fn is_plaintext(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// Path and query as they go on the request line, at least `/`.
    pub fn path_and_query(&self) -> &str {
        &self.url[url::Position::BeforePath..url::Position::AfterQuery]
    }

    /// The value of the `Host` header (RFC 9110 §7.2): host, and the port unless it is the scheme's own.
    pub fn authority(&self) -> String {
        let host = match &self.host {
            TargetHost::Ip(IpAddr::V6(address)) => format!("[{address}]"),
            TargetHost::Ip(address) => address.to_string(),
            TargetHost::Name(name) => name.clone(),
        };
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// The same of a stored URL; empty when it is none.
    pub fn origin_of(text: &str) -> String {
        parse(text).map_or_else(|_| String::new(), |url| url.origin())
    }

    /// Scheme and authority: all of a tenant's URL that may stand in a log, since path and query may hold secrets.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.url.scheme(), self.authority())
    }
}

/// Takes the text apart and refuses what no policy allows.
pub(super) fn parse(text: &str) -> Result<TargetUrl, TargetError> {
    if text.len() > ENDPOINT_URL_BYTES_MAX {
        return Err(TargetError::TooLong {
            bytes_max: ENDPOINT_URL_BYTES_MAX,
        });
    }
    // The URL standard drops these in silence; what is stored must be what was meant.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(malformed("it holds a space or a control character"));
    }
    let url = Url::parse(text).map_err(|error| malformed(&error.to_string()))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(TargetError::Scheme);
    }
    // `https://@host` parses as without user info, so the text is looked at.
    if !url.username().is_empty() || url.password().is_some() || authority_text(text).contains('@') {
        return Err(TargetError::UserInfo);
    }
    if url.fragment().is_some() {
        return Err(TargetError::Fragment);
    }
    // Both schemes have a host and a known port by the URL standard; neither is taken on trust.
    let host = host_of(&url).ok_or_else(|| malformed("it has no host"))?;
    let port = url
        .port_or_known_default()
        .ok_or_else(|| malformed("it has no port"))?;
    if port == 0 {
        return Err(TargetError::Port { port });
    }
    Ok(TargetUrl { url, host, port })
}

/// The host of a URL in its one spelling, unless it has none.
pub(super) fn host_of(url: &Url) -> Option<TargetHost> {
    Some(match url.host()? {
        Host::Ipv4(address) => TargetHost::Ip(IpAddr::V4(address)),
        Host::Ipv6(address) => TargetHost::Ip(IpAddr::V6(address).to_canonical()),
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            // More than one trailing dot, or nothing else, is no DNS name.
            if name.is_empty() || name.ends_with('.') || name.split('.').any(str::is_empty) {
                return None;
            }
            TargetHost::Name(name.to_ascii_lowercase())
        }
    })
}

/// What stands between the slashes after the scheme and the path.
fn authority_text(text: &str) -> &str {
    let rest = text
        .split_once(':')
        .map_or("", |(_, rest)| rest)
        .trim_start_matches(['/', '\\']);
    rest.split(['/', '\\', '?', '#']).next().unwrap_or_default()
}

fn malformed(reason: &str) -> TargetError {
    TargetError::Malformed {
        reason: reason.to_owned(),
    }
}
