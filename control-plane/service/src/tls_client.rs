//! An endpoint's client certificate: what a caller may set, and how it looks on the wire. The key is sealed here and
//! never shown.

use data_encoding::BASE64;
use qrelay_proto::v1;
use qrelay_store::{
    Timestamp,
    id::SecretId,
    limits,
    model::{Endpoint, TlsClient},
    seal::Purpose,
};
use rustls::{
    Error, InconsistentKeys,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::{api::Api, refusal::Violations, wire};

/// The paths of the field, for update masks. Whichever is named, the field is set as a whole.
pub(crate) const PATHS: [&str; 3] = ["tls_client", "tls_client.cert", "tls_client.key"];

fn named(paths: &[&str]) -> bool {
    paths.iter().any(|path| PATHS.contains(path))
}

/// Sets the certificate if `paths` name it.
pub(crate) fn change(
    api: &Api,
    endpoint: &mut Endpoint,
    paths: &[&str],
    given: &v1::Endpoint,
    violations: &mut Violations,
) {
    if named(paths) {
        endpoint.tls_client = take(api, endpoint, given.tls_client.as_ref(), violations);
    }
}

/// Sets what [`change`] made of it: once, however often the row is written.
pub(crate) fn settle(endpoint: &mut Endpoint, paths: &[&str], changed: &Endpoint) {
    if named(paths) {
        endpoint.tls_client.clone_from(&changed.tls_client);
    }
}

/// What an endpoint has once `given` is set: none where nothing is given. A certificate without its key is the one that
/// the endpoint has, or a violation.
fn take(
    api: &Api,
    endpoint: &Endpoint,
    given: Option<&v1::TlsClient>,
    violations: &mut Violations,
) -> Option<TlsClient> {
    let given = given.filter(|given| !given.cert.is_empty() || !given.key.is_empty())?;
    let current = endpoint.tls_client.as_ref();
    if given.key.is_empty()
        && let Some(current) = current.filter(|current| current.cert == given.cert)
    {
        return Some(current.clone());
    }
    let judged = judge(given, api.now());
    let (subject, expires_at) = judged.map_err(|(field, why)| violations.add(field, why)).ok()?;
    let id = SecretId::random();
    let key = given.key.as_bytes();
    let sealed = api
        .sealer
        .seal(Purpose::TlsClientKey, endpoint.tenant, endpoint.id, id, key);
    Some(TlsClient {
        id,
        cert: given.cert.clone(),
        sealed_key: BASE64.encode(&sealed),
        subject,
        expires_at,
    })
}

/// On the wire, without the key.
pub(crate) fn show(client: &TlsClient) -> v1::TlsClient {
    v1::TlsClient {
        cert: client.cert.clone(),
        key: String::new(),
        subject: client.subject.clone(),
        expires_at: Some(wire::time(client.expires_at)),
    }
}

/// The certificate's subject and end, if it can be shown to a server with this key.
fn judge(given: &v1::TlsClient, now: Timestamp) -> Result<(String, Timestamp), (&'static str, String)> {
    const CERT: &str = "tls_client.cert";
    const KEY: &str = "tls_client.key";
    let wrong = |field, why: &str| (field, why.to_owned());
    for (field, text) in [(CERT, &given.cert), (KEY, &given.key)] {
        if text.len() > limits::TLS_CLIENT_PEM_BYTES_MAX {
            return Err((
                field,
                format!("must have at most {} bytes", limits::TLS_CLIENT_PEM_BYTES_MAX),
            ));
        }
    }
    let chain: Vec<_> = CertificateDer::pem_slice_iter(given.cert.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| wrong(CERT, "must be certificates in PEM"))?;
    let own = chain
        .first()
        .ok_or_else(|| wrong(CERT, "must hold a certificate in PEM"))?;
    let not_x509 = |_| wrong(CERT, "must hold X.509 certificates");
    let (_, own) = X509Certificate::from_der(own).map_err(not_x509)?;
    let (subject, ends_s) = (own.subject().to_string(), own.validity().not_after.timestamp());
    let expires_at = Timestamp::from_millis(ends_s.saturating_mul(1000));
    if expires_at <= now {
        return Err((CERT, format!("ended at {expires_at}")));
    }
    let key = PrivateKeyDer::from_pem_slice(given.key.as_bytes())
        .map_err(|_| wrong(KEY, "must be the certificate's private key in PEM, not encrypted"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok((subject, expires_at)),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(wrong(KEY, "is not the certificate's"))
        }
        Err(_) => Err(wrong(KEY, "must be an RSA, ECDSA or Ed25519 key")),
    }
}
