//! What the control plane is told, and what it is built from.

use std::{fmt, sync::Arc};

use qrelay_store::{
    appender::Appender, clock::SharedClock, limits, seal::Sealer, store::SharedStore, target::Targets,
};
use rustls::ServerConfig;
use url::Url;

use crate::api_key::AdminKey;

/// Plain settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where short links point (`--public-url`): what a code's `url` begins with.
    pub public_url: Url,
    /// The operator's key.
    pub admin_key: AdminKey,
    /// How often one key may call.
    pub rates: Rates,
    /// TLS on the API's port, if any: see [`crate::tls::load`].
    pub tls: Option<Arc<ServerConfig>>,
}

/// How often one key may call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rates {
    /// Sustained.
    pub requests_per_second: u32,
    /// At once, after a pause.
    pub requests_burst: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            requests_per_second: limits::API_REQUESTS_PER_SECOND,
            requests_burst: limits::API_REQUESTS_BURST,
        }
    }
}

/// What the control plane works on.
#[derive(Clone)]
pub struct Deps {
    /// Everything that is remembered.
    pub store: SharedStore,
    /// Wall time.
    pub clock: SharedClock,
    /// Seals secrets, and encrypts page tokens.
    pub sealer: Sealer,
    /// Judges endpoint URLs.
    pub targets: Targets,
    /// Records conversions.
    pub appender: Appender,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deps(..)")
    }
}
