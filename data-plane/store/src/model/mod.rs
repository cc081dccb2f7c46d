//! The registry's resources as they are stored: plain values, serialized as JSON.
//!
//! Rules about what a caller may write are the control plane's; these types say what a stored row holds.

mod code;
mod endpoint;
mod filter;
mod key;
mod payload;
mod signature;
mod tenant;
mod tls_client;

pub use code::{Code, CodeStatus, Host, ShortLink};
pub use endpoint::{
    Endpoint, EndpointIntent, EventPattern, FailureRules, Ordering, RateLimit, SecretRow, UnknownEvent,
};
pub use filter::Filter;
pub use key::{ApiKey, KeyRole};
pub use payload::{EventPayload, Payload, PayloadFormat};
pub use signature::{Signature, SignatureScheme, refused_name};
pub use tenant::{Durability, IpPrivacy, Tenant, TenantStatus, UnrecordableScans, partition_of};
pub use tls_client::TlsClient;

use serde::{Deserialize, Serialize};

use crate::id::{CodeId, EndpointId, KeyId, TenantId};

/// What kind of row a change is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    /// A tenant.
    Tenant,
    /// An API key.
    ApiKey,
    /// A code.
    Code,
    /// An endpoint.
    Endpoint,
}

impl ResourceKind {
    /// As it is stored: `tenant`, `api_key`, `code`, `endpoint`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::ApiKey => "api_key",
            Self::Code => "code",
            Self::Endpoint => "endpoint",
        }
    }
}

/// Names one row of the registry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum ResourceId {
    /// A tenant.
    Tenant(TenantId),
    /// An API key.
    ApiKey(KeyId),
    /// A code.
    Code(CodeId),
    /// An endpoint.
    Endpoint(EndpointId),
}

impl ResourceId {
    /// Its kind.
    pub const fn kind(&self) -> ResourceKind {
        match self {
            Self::Tenant(_) => ResourceKind::Tenant,
            Self::ApiKey(_) => ResourceKind::ApiKey,
            Self::Code(_) => ResourceKind::Code,
            Self::Endpoint(_) => ResourceKind::Endpoint,
        }
    }
}

/// One row of the registry, whole.
#[derive(Clone, PartialEq, Debug)]
pub enum Resource {
    /// A tenant.
    Tenant(Tenant),
    /// An API key.
    ApiKey(ApiKey),
    /// A code.
    Code(Box<Code>),
    /// An endpoint.
    Endpoint(Box<Endpoint>),
}

impl Resource {
    /// Its name.
    pub fn id(&self) -> ResourceId {
        match self {
            Self::Tenant(row) => ResourceId::Tenant(row.id),
            Self::ApiKey(row) => ResourceId::ApiKey(row.id),
            Self::Code(row) => ResourceId::Code(row.id),
            Self::Endpoint(row) => ResourceId::Endpoint(row.id),
        }
    }

    /// Whose it is.
    pub fn tenant(&self) -> TenantId {
        match self {
            Self::Tenant(row) => row.id,
            Self::ApiKey(row) => row.tenant,
            Self::Code(row) => row.tenant,
            Self::Endpoint(row) => row.tenant,
        }
    }

    /// Its version, from 1.
    pub fn version(&self) -> u64 {
        match self {
            Self::Tenant(row) => row.version,
            Self::ApiKey(row) => row.version,
            Self::Code(row) => row.version,
            Self::Endpoint(row) => row.version,
        }
    }
}
