//! Endpoints' client certificates, their keys opened and kept ready.
//!
//! An identity is cached by its own id: a changed key has another one, so what is cached is never older than the
//! endpoint that the caller holds.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use qrelay_store::{
    id::{EndpointId, SecretId},
    limits::IDENTITIES_MAX,
    model::Endpoint,
};
use secrecy::ExposeSecret;

use crate::{
    exchange::{Exchanger, Identity},
    secrets::{SecretOpener, Unopened},
};

/// An identity that nobody used for so long is dropped, and its key with it.
const IDENTITY_IDLE: Duration = Duration::from_secs(600);

/// Identities of endpoints.
#[derive(Clone)]
pub struct Identities {
    opener: Arc<dyn SecretOpener>,
    cache: Cache<(EndpointId, SecretId), Identity>,
}

impl Identities {
    /// With nothing opened yet.
    pub fn new(opener: Arc<dyn SecretOpener>) -> Self {
        let cache = Cache::builder()
            .max_capacity(IDENTITIES_MAX)
            .time_to_idle(IDENTITY_IDLE)
            .build();
        Self { opener, cache }
    }

    /// The identity of an endpoint, if it has one.
    ///
    /// # Errors
    /// When its key does not open, or is none: our trouble, never the receiver's.
    pub async fn of(
        &self,
        endpoint: &Endpoint,
        exchanger: &Exchanger,
    ) -> Result<Option<Identity>, Arc<Unopened>> {
        let Some(client) = &endpoint.tls_client else {
            return Ok(None);
        };
        let open = async {
            let key = self.opener.open_key(endpoint.tenant, endpoint.id, client)?;
            exchanger
                .identity(client.id, &client.cert, key.expose_secret())
                .map_err(|error| Unopened(error.to_string()))
        };
        let identity = self.cache.try_get_with((endpoint.id, client.id), open).await;
        identity.map(Some)
    }
}
