//! Why a target was refused. The text is public: it is shown to the tenant and kept in the attempt log.

use super::address::AddressRule;
use super::resolve::ResolveError;

/// Why a webhook URL was refused, or could not be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Longer than [`crate::limits::ENDPOINT_URL_BYTES_MAX`].
    #[error("the URL is longer than {bytes_max} bytes")]
    TooLong {
        /// The limit, in bytes.
        bytes_max: usize,
    },
    /// Not an absolute URL with a host.
    #[error("the URL is malformed: {reason}")]
    Malformed {
        /// What the URL parser says.
        reason: String,
    },
    /// Neither `https` nor an allowed `http`.
    #[error("the URL must begin with https://")]
    Scheme,
    /// `http`, and not all of the host's addresses lie inside `--dangerous-allow-target`.
    #[error("http:// is not allowed for this host, use https://")]
    Plaintext,
    /// A user name or password before the host.
    #[error("the URL must not hold a user name or password")]
    UserInfo,
    /// A `#` part, which is never sent.
    #[error("the URL must not hold a fragment")]
    Fragment,
    /// A port where no webhook receiver listens.
    #[error("port {port} is not allowed: use 443 or a port from 1024 up")]
    Port {
        /// The port that was asked for.
        port: u16,
    },
    /// This installation itself.
    #[error("the URL points to this service itself")]
    OwnAuthority,
    /// The URL holds an address that is not a public one.
    #[error("{address_rule} addresses are not allowed")]
    Address {
        /// The rule that refused it.
        address_rule: AddressRule,
    },
    /// The name has an answer that is not a public address. Which rule it broke is for our logs only.
    #[error("the host resolves to an address that is not allowed")]
    Answer {
        /// The rule that refused it; not shown to the tenant.
        address_rule: AddressRule,
    },
    /// The name could not be resolved.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}
