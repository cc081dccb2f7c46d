//! Which cluster and keyspace, and how to get there.

use std::{num::NonZeroU8, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use secrecy::SecretString;

use super::OpenError;
use crate::{
    clock::{SharedClock, SystemClock},
    limits,
};

/// How to open a keyspace.
#[derive(Clone, Debug)]
pub struct ScyllaConfig {
    /// Nodes to begin with, each `host:port` (`host` alone: port 9042). The others are found from them.
    pub nodes: Vec<String>,
    /// The keyspace: lower-case letters, digits and `_`, beginning with a letter, at most 48.
    pub keyspace: String,
    /// The data centre to use. May be left out where the cluster has only one.
    pub datacenter: Option<String>,
    /// How many nodes keep each row. Counts when the keyspace is created, and never again.
    pub replication: NonZeroU8,
    /// Who logs in, where the cluster asks.
    pub credentials: Option<Credentials>,
    /// Certificates (PEM) of which one must have signed the nodes' certificates, which must name their addresses.
    /// None: connections are not encrypted.
    pub tls_ca: Option<PathBuf>,
    /// Shared partitions. Counts when the tables are created, and never again.
    pub partitions: u16,
    /// How long events and attempts are kept.
    pub keep: Duration,
    /// Stamps the creation, and what ages.
    pub clock: SharedClock,
}

/// A login.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The role's name.
    pub user: String,
    /// Its password.
    pub password: SecretString,
}

impl ScyllaConfig {
    /// The configuration for these nodes and this keyspace, all else by default.
    pub fn new(nodes: Vec<String>, keyspace: &str, keep: Duration) -> Self {
        Self {
            nodes,
            keyspace: keyspace.to_owned(),
            datacenter: None,
            replication: limits::CQL_REPLICATION,
            credentials: None,
            tls_ca: None,
            partitions: limits::PARTITIONS_CLUSTER,
            keep,
            clock: Arc::new(SystemClock),
        }
    }

    /// Refuses what no cluster could be asked with: names go into statements as they are. Opening does so, too.
    ///
    /// # Errors
    /// [`OpenError::Keyspace`].
    pub fn check(&self) -> Result<(), OpenError> {
        let name = self.keyspace.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
        if !name.first().is_some_and(u8::is_ascii_lowercase) || name.len() > 48 || !name.iter().all(plain) {
            return Err(OpenError::Keyspace {
                keyspace: self.keyspace.clone(),
            });
        }
        Ok(())
    }

    /// The TLS configuration, if connections are to be encrypted.
    pub(super) fn tls(&self) -> Result<Option<Arc<ClientConfig>>, OpenError> {
        let Some(file) = &self.tls_ca else {
            return Ok(None);
        };
        let failed = |reason: String| OpenError::Tls {
            file: file.clone(),
            reason,
        };
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(file).map_err(|error| failed(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| failed(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(failed("there is no certificate in it".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(Arc::new(config)))
    }

    /// The time to live of a row of the log, in seconds: somewhat longer than events are kept, so that what must still
    /// be read when its time comes can be read.
    pub(super) fn ttl_seconds(&self) -> i32 {
        let all = self.keep.saturating_add(limits::CQL_TTL_SPARE).as_secs();
        // Servers refuse more than twenty years.
        i32::try_from(all.min(20 * 365 * 24 * 3600)).unwrap_or(i32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(keyspace: &str) -> Result<(), OpenError> {
        ScyllaConfig::new(Vec::new(), keyspace, Duration::ZERO).check()
    }

    #[test]
    fn a_keyspace_has_a_plain_name() {
        for good in ["q", "qrelay", "qrelay_2", &"q".repeat(48)] {
            named(good).unwrap();
        }
        for bad in ["", "2q", "_q", "Qrelay", "q relay", "q;", "q\"", &"q".repeat(49)] {
            assert!(named(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let mut config = ScyllaConfig::new(Vec::new(), "q", Duration::ZERO);
        config.credentials = Some(Credentials {
            user: "someone".to_owned(),
            password: "opensesame".into(),
        });
        let printed = format!("{config:?}");
        assert!(
            printed.contains("someone") && !printed.contains("opensesame"),
            "{printed}"
        );
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut config = ScyllaConfig::new(Vec::new(), "q", Duration::ZERO);
        config.tls_ca = Some(file.path().to_owned());
        let error = config.tls().unwrap_err().to_string();
        assert!(error.contains("no certificate"), "{error}");
    }

    #[test]
    fn rows_live_longer_than_events_are_kept_and_no_longer_than_servers_take() {
        let mut config = ScyllaConfig::new(Vec::new(), "q", Duration::ZERO);
        config.keep = Duration::from_secs(10);
        assert_eq!(config.ttl_seconds(), 10 + 2 * 24 * 3600);
        config.keep = Duration::MAX;
        assert_eq!(config.ttl_seconds(), 630_720_000);
    }
}
