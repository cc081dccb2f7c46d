//! Who we are to a receiver that asks: a client certificate with its key.

use std::fmt;
use std::sync::Arc;

use qrelay_store::id::SecretId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::tls;

/// A certificate, its key, and the sessions that were made with them: connections and sessions of different
/// identities never mix. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    pub(super) id: SecretId,
    pub(super) tls: Arc<ClientConfig>,
}

/// A certificate or key that cannot be used. Repeats nothing of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the client certificate and its key cannot be used")]
pub struct UnusableIdentity;

impl Identity {
    /// From PEM.
    pub(super) fn new(
        roots: &Arc<RootCertStore>,
        id: SecretId,
        cert: &str,
        key: &[u8],
    ) -> Result<Self, UnusableIdentity> {
        let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|_| UnusableIdentity)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| UnusableIdentity)?;
        let builder = tls::builder(Arc::clone(roots)).map_err(|_| UnusableIdentity)?;
        let config = builder
            .with_client_auth_cert(chain, key)
            .map_err(|_| UnusableIdentity)?;
        Ok(Self {
            id,
            tls: Arc::new(tls::speaking_http(config)),
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.id)
    }
}
