//! Whom we trust when a receiver shows its certificate: the system's roots, and the operator's `--ca-bundle`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

/// Why no TLS configuration could be made. The process should not start.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// The file cannot be read, or is not PEM.
    #[error("cannot read certificates from {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A certificate in it cannot be used as a root.
    #[error("a certificate in {path} cannot be a root")]
    Root {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The file holds no certificate.
    #[error("{path} holds no certificate")]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// The TLS library refuses the configuration.
    #[error("TLS cannot be configured")]
    Rustls(#[from] rustls::Error),
}

/// The authorities that receivers are checked against.
pub(super) fn roots(ca_bundle: Option<&Path>) -> Result<Arc<RootCertStore>, TlsConfigError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "a system certificate cannot be read");
    }
    // Some systems ship roots that are not well-formed; the others still count.
    let (_, ignored) = roots.add_parsable_certificates(native.certs);
    if ignored > 0 {
        tracing::debug!(ignored, "system certificates that are not well-formed");
    }
    if let Some(path) = ca_bundle {
        add_bundle(&mut roots, path)?;
    }
    if roots.is_empty() {
        tracing::warn!(
            "no root certificates: every https endpoint will fail; install them or give --ca-bundle"
        );
    }
    Ok(Arc::new(roots))
}

/// The configuration of TLS connections to receivers that are shown no certificate.
pub(super) fn client_config(roots: &Arc<RootCertStore>) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let config = builder(Arc::clone(roots))?.with_no_client_auth();
    Ok(Arc::new(speaking_http(config)))
}

/// What all configurations have in common.
pub(super) fn builder(
    roots: Arc<RootCertStore>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots))
}

/// With the protocol that is spoken inside.
pub(super) fn speaking_http(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn add_bundle(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsConfigError> {
    let read = |source| TlsConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let before = roots.len();
    for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
        roots
            .add(certificate.map_err(read)?)
            .map_err(|source| TlsConfigError::Root {
                path: path.to_owned(),
                source,
            })?;
    }
    if roots.len() == before {
        return Err(TlsConfigError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(())
}
