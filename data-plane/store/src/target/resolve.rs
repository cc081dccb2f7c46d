//! Names to addresses: DNS by hickory, asked again when an answer's TTL has passed.
//!
//! Names are always asked as absolute ones, so that no search domain of this machine is ever appended to a
//! tenant's host. `localhost` and names below it are loopback without asking (RFC 6761 §6.3). The hosts file is
//! read once, at the start. Judging the answers is left to the policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use async_trait::async_trait;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};

use crate::limits::{
    DNS_ANSWERS_MAX, DNS_CACHE_ENTRIES_MAX, DNS_NEGATIVE_TTL_MAX, DNS_POSITIVE_TTL_MAX, DNS_REQUESTS_MAX,
    DNS_TIMEOUT, DNS_TRY_TIMEOUT,
};

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist, or has neither an A nor an AAAA record.
    #[error("the host name has no address")]
    NotFound,
    /// No name server answered in time.
    #[error("the host name could not be resolved in time")]
    Timeout,
    /// A name server failed or refused; an answer with more than [`DNS_ANSWERS_MAX`] addresses.
    #[error("the host name could not be resolved")]
    Failed,
    /// This machine has no name server configured: only addresses, `localhost` and the hosts file work.
    #[error("this installation has no name server configured")]
    NoNameServer,
}

/// Resolves a host name. A trait so that tests can script the answers.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All addresses of a name (ASCII, lower case, no trailing dot), at least one. Takes at most
    /// [`DNS_TIMEOUT`].
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// The resolver of this machine: `/etc/resolv.conf` and `/etc/hosts`.
pub struct SystemResolver {
    dns: Option<TokioResolver>,
    hosts: Arc<Hosts>,
}

impl SystemResolver {
    /// Reads the machine's configuration. Never fails: without a usable one, names other than `localhost` and
    /// those of the hosts file are [`ResolveError::NoNameServer`], which is logged once, here.
    pub fn from_system() -> Self {
        let hosts = Arc::new(Hosts::from_system().unwrap_or_else(|error| {
            tracing::debug!(%error, "no hosts file");
            Hosts::default()
        }));
        let dns = match build(&hosts) {
            Ok(dns) => Some(dns),
            Err(error) => {
                tracing::warn!(%error, "no name server is configured: endpoints need addresses for hosts");
                None
            }
        };
        SystemResolver { dns, hosts }
    }

    fn hosts_file_answers(&self, name: &Name) -> Vec<IpAddr> {
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)))
            .flat_map(|found| {
                found
                    .answers()
                    .iter()
                    .filter_map(|record| record.data.ip_addr())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

/// The resolver with the machine's name servers and our bounds.
fn build(hosts: &Arc<Hosts>) -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = DNS_TRY_TIMEOUT;
    options.attempts = 2;
    options.cache_size = DNS_CACHE_ENTRIES_MAX;
    options.positive_max_ttl = Some(DNS_POSITIVE_TTL_MAX);
    options.negative_max_ttl = Some(DNS_NEGATIVE_TTL_MAX);
    options.max_active_requests = DNS_REQUESTS_MAX;
    let mut resolver = builder.build()?;
    resolver.set_hosts(Arc::clone(hosts));
    Ok(resolver)
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if is_localhost(name) {
            return Ok(vec![
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ]);
        }
        let mut absolute = Name::from_ascii(name).map_err(|_| ResolveError::NotFound)?;
        absolute.set_fqdn(true);
        let Some(dns) = &self.dns else {
            let found = self.hosts_file_answers(&absolute);
            return if found.is_empty() {
                Err(ResolveError::NoNameServer)
            } else {
                Ok(found)
            };
        };
        let found = tokio::time::timeout(DNS_TIMEOUT, dns.lookup_ip(absolute))
            .await
            .map_err(|_| ResolveError::Timeout)?
            .map_err(|error| classify(&error))?;
        let answers: Vec<IpAddr> = found.iter().take(DNS_ANSWERS_MAX + 1).collect();
        match answers.len() {
            0 => Err(ResolveError::NotFound),
            // Judging some of them only would let the others through.
            len if len > DNS_ANSWERS_MAX => Err(ResolveError::Failed),
            _ => Ok(answers),
        }
    }
}

fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

fn classify(error: &NetError) -> ResolveError {
    match error {
        NetError::Timeout => ResolveError::Timeout,
        NetError::NoConnections => ResolveError::NoNameServer,
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            ResolveError::NotFound
        }
        _ => ResolveError::Failed,
    }
}
