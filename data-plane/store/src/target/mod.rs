//! Where webhooks may go: the rules that keep a tenant's URL from reaching anything but a public server.
//!
//! The control plane checks a URL when an endpoint is created or changed, the dispatcher before every exchange, with
//! this same code. [`Targets::check_url`] judges the text; [`Targets::vet`] resolves the name and judges every
//! answer. What is sent to must be one of the addresses that [`Targets::vet`] returned: the caller pins its
//! connection to them, so that a second look-up cannot answer otherwise.
//!
//! Invariants:
//! - one bad answer among many refuses the name;
//! - `--deny-target` and the addresses of cloud platforms are refused even inside `--dangerous-allow-target`;
//! - an error's text tells a tenant nothing about our network: it names an address's rule only if the tenant
//!   wrote that address.

mod address;
mod error;
mod policy;
mod resolve;
#[cfg(any(test, feature = "testing"))]
mod scripted;
mod url;

pub use address::AddressRule;
pub use error::TargetError;
pub use policy::TargetPolicy;
pub use resolve::{Resolve, ResolveError, SystemResolver};
#[cfg(any(test, feature = "testing"))]
pub use scripted::ScriptedResolver;
pub use url::{TargetHost, TargetUrl};

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The policy and the resolver together: what an endpoint's URL is checked with.
#[derive(Clone)]
pub struct Targets {
    policy: Arc<TargetPolicy>,
    resolver: Arc<dyn Resolve>,
}

impl Targets {
    /// Judges by `policy`, resolving names with `resolver`.
    pub fn new(policy: TargetPolicy, resolver: Arc<dyn Resolve>) -> Self {
        Targets {
            policy: Arc::new(policy),
            resolver,
        }
    }

    /// The policy in force.
    pub fn policy(&self) -> &TargetPolicy {
        &self.policy
    }

    /// Judges the text of a URL: form, scheme, port, own authority, and the address if it is written as one. Asks
    /// no name server.
    pub fn check_url(&self, text: &str) -> Result<TargetUrl, TargetError> {
        self.policy.check_url(text)
    }

    /// Resolves the URL's host and judges every answer. The addresses to connect to, at least one, each once.
    pub async fn vet(&self, url: &TargetUrl) -> Result<Vec<SocketAddr>, TargetError> {
        let answers = match url.host() {
            TargetHost::Ip(address) => vec![*address],
            TargetHost::Name(name) => self.resolver.resolve(name).await?,
        };
        self.policy.judge_answers(url, &answers)
    }
}

/// The address that is really meant: an IPv4 address written as IPv6 (`::ffff:a.b.c.d`) is that IPv4 address.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests;
