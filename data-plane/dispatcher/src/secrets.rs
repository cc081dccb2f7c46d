//! Signing secrets, opened and kept as ready signers.
//!
//! A signer is cached per (endpoint, version): every change of an endpoint, rotation included, raises its version
//! and is announced, so a cached signer is never older than the endpoint that the caller holds. A secret whose hour
//! has passed stops signing at once.

use std::{sync::Arc, time::Duration};

use data_encoding::BASE64;
use moka::future::Cache;
use qrelay_store::{
    Timestamp,
    id::{EndpointId, TenantId},
    limits::{SECRETS_PER_ENDPOINT_MAX, SIGNERS_MAX},
    model::{Endpoint, SecretRow},
    seal::{Purpose, Sealer},
    store::{SharedStore, StoreError},
};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::signature::{Scheme, SignatureError, Signer};

/// A signer that nobody used for so long is dropped, and its keys with it.
const SIGNER_IDLE: Duration = Duration::from_secs(600);

/// A secret that does not open. Says nothing about its content.
#[derive(Debug, thiserror::Error)]
#[error("the secret does not open: {0}")]
pub struct Unopened(pub String);

/// Opens sealed secrets.
pub trait SecretOpener: Send + Sync + 'static {
    /// The secret's text, as its receiver has it.
    ///
    /// # Errors
    /// When it was sealed for another row, or with a key that is not here.
    fn open(&self, tenant: TenantId, endpoint: EndpointId, row: &SecretRow)
    -> Result<SecretString, Unopened>;
}

impl SecretOpener for Sealer {
    fn open(
        &self,
        tenant: TenantId,
        endpoint: EndpointId,
        row: &SecretRow,
    ) -> Result<SecretString, Unopened> {
        let bytes = Sealer::open(
            self,
            Purpose::SigningSecret,
            tenant,
            endpoint,
            row.id,
            &row.sealed,
        )
        .map_err(|error| Unopened(error.to_string()))?;
        let encoded = Zeroizing::new(BASE64.encode(bytes.expose_secret()));
        let mut text = String::with_capacity("whsec_".len() + encoded.len());
        text.push_str("whsec_");
        text.push_str(&encoded);
        Ok(SecretString::from(text))
    }
}

/// Why an endpoint has no signer just now: our trouble, never the receiver's.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoSigner {
    /// The store failed.
    #[error("the endpoint's secrets cannot be read")]
    Store(#[source] Arc<StoreError>),
    /// A secret does not open.
    #[error("an endpoint's secret does not open")]
    Sealed(#[source] Arc<Unopened>),
    /// There is none, or it is not one.
    #[error("the endpoint has no usable secret")]
    Unusable(#[source] SignatureError),
}

/// Signers of endpoints.
#[derive(Clone)]
pub struct Signers {
    store: SharedStore,
    opener: Arc<dyn SecretOpener>,
    cache: Cache<(EndpointId, u64), Arc<Signing>>,
}

/// A signer, and until when it may be used.
struct Signing {
    signer: Arc<Signer>,
    expires_at: Option<Timestamp>,
}

impl Signers {
    /// With nothing opened yet.
    pub fn new(store: SharedStore, opener: Arc<dyn SecretOpener>) -> Self {
        let cache = Cache::builder()
            .max_capacity(SIGNERS_MAX)
            .time_to_idle(SIGNER_IDLE)
            .build();
        Self { store, opener, cache }
    }

    /// The signer of an endpoint, as it is at `now`.
    ///
    /// # Errors
    /// When the store fails, or a secret cannot be used.
    pub async fn signer(&self, endpoint: &Endpoint, now: Timestamp) -> Result<Arc<Signer>, NoSigner> {
        let key = (endpoint.id, endpoint.version);
        if let Some(signing) = self.cache.get(&key).await {
            if signing.expires_at.is_none_or(|at| now < at) {
                return Ok(Arc::clone(&signing.signer));
            }
            self.cache.invalidate(&key).await;
        }
        let signing = self.open(endpoint, now).await?;
        let signer = Arc::clone(&signing.signer);
        self.cache.insert(key, Arc::new(signing)).await;
        Ok(signer)
    }

    async fn open(&self, endpoint: &Endpoint, now: Timestamp) -> Result<Signing, NoSigner> {
        let rows = self
            .store
            .secrets(endpoint.id)
            .await
            .map_err(|error| NoSigner::Store(Arc::new(error)))?;
        let mut valid = rows;
        valid.retain(|row| row.expires_at.is_none_or(|at| now < at));
        valid.truncate(SECRETS_PER_ENDPOINT_MAX);
        let opened = valid
            .iter()
            .map(|row| self.opener.open(endpoint.tenant, endpoint.id, row))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| NoSigner::Sealed(Arc::new(error)))?;
        let signer = Signer::new(Scheme::Standard, &opened).map_err(NoSigner::Unusable)?;
        Ok(Signing {
            signer: Arc::new(signer),
            expires_at: valid.iter().filter_map(|row| row.expires_at).min(),
        })
    }
}
