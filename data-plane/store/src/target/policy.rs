//! What this installation allows and refuses beyond the fixed tables: the operator's lists and our own authorities.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use url::Url;

use super::address::{AddressRule, embedded_v4, is_platform, not_public};
use super::url::{self as target_url, TargetHost, TargetUrl};
use super::{TargetError, canonical};

/// The operator's rules. The default allows public `https` servers and nothing else.
#[derive(Clone, Debug, Default)]
pub struct TargetPolicy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    own_names: Vec<(TargetHost, u16)>,
    own_addresses: Vec<SocketAddr>,
}

impl TargetPolicy {
    /// `allow` is `--dangerous-allow-target`: addresses that may be sent to although they are not public, and over
    /// plain `http`. `deny` is `--deny-target`, which wins over `allow`.
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        TargetPolicy {
            allow,
            deny,
            ..TargetPolicy::default()
        }
    }

    /// Refuses the authority (host and port) of a URL that this installation serves itself, such as `--public-url`.
    #[must_use]
    pub fn with_own_url(mut self, url: &Url) -> Self {
        if let (Some(host), Some(port)) = (target_url::host_of(url), url.port_or_known_default()) {
            self.own_names.push((host, port));
        }
        self
    }

    /// Refuses an address that this installation listens on. An unspecified address (`0.0.0.0`, `::`) stands for
    /// this host: loopback in both families.
    #[must_use]
    pub fn with_own_address(mut self, address: SocketAddr) -> Self {
        self.own_addresses.push(address);
        self
    }

    /// Judges the text of a URL; see [`super::Targets::check_url`].
    pub fn check_url(&self, text: &str) -> Result<TargetUrl, TargetError> {
        let url = target_url::parse(text)?;
        if url.is_plaintext() && self.allow.is_empty() {
            return Err(TargetError::Scheme);
        }
        if !port_is_allowed(&url) {
            return Err(TargetError::Port { port: url.port() });
        }
        if self
            .own_names
            .iter()
            .any(|(host, port)| host == url.host() && *port == url.port())
        {
            return Err(TargetError::OwnAuthority);
        }
        if let TargetHost::Ip(address) = url.host() {
            self.judge_answers(&url, &[*address])?;
        }
        Ok(url)
    }

    /// Judges the addresses that the URL's host stands for: all are good, or the URL is refused.
    pub(super) fn judge_answers(
        &self,
        url: &TargetUrl,
        answers: &[IpAddr],
    ) -> Result<Vec<SocketAddr>, TargetError> {
        let mut vetted = Vec::with_capacity(answers.len());
        for answer in answers {
            let socket = SocketAddr::new(canonical(*answer), url.port());
            if let Some(address_rule) = self.refusal(socket.ip()) {
                return Err(match url.host() {
                    TargetHost::Ip(_) => TargetError::Address { address_rule },
                    TargetHost::Name(_) => TargetError::Answer { address_rule },
                });
            }
            if url.is_plaintext() && !self.allows(socket.ip()) {
                return Err(TargetError::Plaintext);
            }
            if self.own_addresses.iter().any(|own| is_own(*own, socket)) {
                return Err(TargetError::OwnAuthority);
            }
            if !vetted.contains(&socket) {
                vetted.push(socket);
            }
        }
        if vetted.is_empty() {
            return Err(super::ResolveError::NotFound.into());
        }
        Ok(vetted)
    }

    fn refusal(&self, address: IpAddr) -> Option<AddressRule> {
        if is_platform(address) {
            return Some(AddressRule::Platform);
        }
        if holds(&self.deny, address) {
            return Some(AddressRule::Denied);
        }
        not_public(address).filter(|_| !self.allows(address))
    }

    /// Whether the address lies inside `allow`. `::1` is the same place as `127.0.0.1`, so that `localhost` works
    /// for who allowed 127.0.0.0/8.
    fn allows(&self, address: IpAddr) -> bool {
        holds(&self.allow, address)
            || (address == IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)
                && holds(&self.allow, IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)))
    }
}

/// Whether a list holds the address, or the IPv4 address inside it.
fn holds(nets: &[IpNet], address: IpAddr) -> bool {
    let inner = embedded_v4(address).map(IpAddr::V4);
    nets.iter()
        .any(|net| net.contains(&address) || inner.is_some_and(|inner| net.contains(&inner)))
}

/// 443 for `https`, 80 for `http`, and what an unprivileged server can listen on: never SSH, SMTP and their like.
fn port_is_allowed(url: &TargetUrl) -> bool {
    let standard = if url.is_plaintext() { 80 } else { 443 };
    url.port() == standard || url.port() >= 1024
}

fn is_own(own: SocketAddr, target: SocketAddr) -> bool {
    let own_ip = canonical(own.ip());
    own.port() == target.port()
        && (own_ip == target.ip() || (own_ip.is_unspecified() && target.ip().is_loopback()))
}
