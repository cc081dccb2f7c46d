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
    model::{Endpoint, SecretRow, TlsClient},
    seal::{Purpose, Sealer},
    signature::{SignatureError, Signer},
    store::{SharedStore, StoreError},
};
use secrecy::SecretSlice;

/// A signer that nobody used for so long is dropped, and its keys with it.
const SIGNER_IDLE: Duration = Duration::from_secs(600);

/// A secret that does not open. Says nothing about its content.
#[derive(Debug, thiserror::Error)]
#[error("the secret does not open: {0}")]
pub struct Unopened(pub String);

/// Opens sealed secrets.
pub trait SecretOpener: Send + Sync + 'static {
    /// The bytes that were sealed: [`qrelay_store::signature`] says what they are.
    ///
    /// # Errors
    /// When it was sealed for another row, or with a key that is not here.
    fn open(
        &self,
        tenant: TenantId,
        endpoint: EndpointId,
        row: &SecretRow,
    ) -> Result<SecretSlice<u8>, Unopened>;

    /// The private key of an endpoint's client certificate, PEM.
    ///
    /// # Errors
    /// As [`SecretOpener::open`].
    fn open_key(
        &self,
        tenant: TenantId,
        endpoint: EndpointId,
        client: &TlsClient,
    ) -> Result<SecretSlice<u8>, Unopened>;
}

impl SecretOpener for Sealer {
    fn open(
        &self,
        tenant: TenantId,
        endpoint: EndpointId,
        row: &SecretRow,
    ) -> Result<SecretSlice<u8>, Unopened> {
        let purpose = Purpose::SigningSecret;
        Sealer::open(self, purpose, tenant, endpoint, row.id, &row.sealed)
            .map_err(|error| Unopened(error.to_string()))
    }

    fn open_key(
        &self,
        tenant: TenantId,
        endpoint: EndpointId,
        client: &TlsClient,
    ) -> Result<SecretSlice<u8>, Unopened> {
        let sealed = BASE64
            .decode(client.sealed_key.as_bytes())
            .map_err(|_| Unopened("it is not base64".to_owned()))?;
        Sealer::open(self, Purpose::TlsClientKey, tenant, endpoint, client.id, &sealed)
            .map_err(|error| Unopened(error.to_string()))
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
        let signer = Signer::new(&endpoint.signature, &opened).map_err(NoSigner::Unusable)?;
        Ok(Signing {
            signer: Arc::new(signer),
            expires_at: valid.iter().filter_map(|row| row.expires_at).min(),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;
    use qrelay_store::{
        id::SecretId,
        model::Resource,
        signature::Message,
        sqlite::{Options, SqliteStore},
        store::{Change, Expected, SecretChange},
    };

    use super::*;
    use crate::fixture;

    /// What was sealed is the secret.
    struct Plain;

    impl SecretOpener for Plain {
        fn open(&self, _: TenantId, _: EndpointId, row: &SecretRow) -> Result<SecretSlice<u8>, Unopened> {
            Ok(row.sealed.clone().into())
        }

        fn open_key(&self, _: TenantId, _: EndpointId, _: &TlsClient) -> Result<SecretSlice<u8>, Unopened> {
            Err(Unopened("there is none".to_owned()))
        }
    }

    fn signatures(signer: &Signer) -> usize {
        let headers = signer.headers(Message {
            id: "evt_1",
            delivery: "dlv_1",
            event: "scan.created",
            timestamp_s: 0,
            body: &Bytes::new(),
        });
        let (_, value) = headers
            .iter()
            .find(|(name, _)| name == "webhook-signature")
            .unwrap();
        HeaderValue::to_str(value).unwrap().split(' ').count()
    }

    #[tokio::test]
    async fn a_secret_that_is_rotated_out_signs_until_its_hour_and_not_after() {
        let dir = tempfile::tempdir().unwrap();
        let store: SharedStore = SqliteStore::open(dir.path(), &Options::default()).unwrap();
        let mut endpoint = fixture::endpoint(1);
        let row = |endpoint: &Endpoint, byte| SecretRow {
            id: SecretId::random(),
            endpoint: endpoint.id,
            sealed: vec![byte; 32],
            created_at: Timestamp::EPOCH,
            expires_at: None,
        };
        let hour = Timestamp::from_millis(3_600_000);
        for version in 1..=2 {
            endpoint.version = version;
            let secret = row(&endpoint, 1);
            let (expected, secrets) = if version == 1 {
                (Expected::Absent, SecretChange::Replace(secret))
            } else {
                (Expected::Version(1), SecretChange::Rotate { secret, until: hour })
            };
            let change = Change {
                resource: Resource::Endpoint(Box::new(endpoint.clone())),
                expected,
                at: Timestamp::EPOCH,
                actor: "admin".into(),
                event: None,
                secrets,
                request: None,
                count_max: None,
            };
            store.change(change).await.unwrap();
        }
        let signers = Signers::new(store, Arc::new(Plain));
        let at = |ms| Timestamp::from_millis(ms);
        for (now, expected) in [(at(0), 2), (at(3_599_999), 2), (hour, 1), (at(3_600_001), 1)] {
            let signer = signers.signer(&endpoint, now).await.unwrap();
            assert_eq!(signatures(&signer), expected, "{now}");
        }
    }
}
