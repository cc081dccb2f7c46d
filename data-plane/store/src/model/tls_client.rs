//! What an endpoint's TLS server is shown.

use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, id::SecretId};

/// A client certificate and its sealed key. Public but for the key, which is in no form but the sealed one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TlsClient {
    /// Part of what the seal is bound to, and the name of this identity: a new key has a new one.
    pub id: SecretId,
    /// PEM, the client's own certificate first.
    pub cert: String,
    /// The private key's PEM, sealed ([`crate::seal::Purpose::TlsClientKey`]), in base64.
    pub sealed_key: String,
    /// The certificate's subject, as text.
    pub subject: String,
    /// When the certificate ends.
    pub expires_at: Timestamp,
}
