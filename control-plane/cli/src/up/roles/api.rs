//! The control plane: the API.

use std::sync::Arc;

use qrelay_control::{AdminKey, tls::TlsError};
use qrelay_store::{appender::Appender, seal::Sealer, target::Targets};
use url::Url;

use super::{
    super::{
        config::{ApiConfig, ApiTls},
        error::StartError,
    },
    Ground,
};

/// What a control plane needs beside its configuration.
pub(crate) struct Needs {
    pub(crate) appender: Appender,
    pub(crate) admin_key: AdminKey,
    pub(crate) sealer: Sealer,
    pub(crate) targets: Targets,
    pub(crate) public_url: Url,
}

/// Builds a control plane.
pub(crate) fn build(
    config: &ApiConfig,
    ground: &Ground,
    needs: Needs,
) -> Result<qrelay_control::Server, StartError> {
    let settings = qrelay_control::Config {
        public_url: needs.public_url,
        admin_key: needs.admin_key,
        rates: qrelay_control::Rates::default(),
        tls: config.tls.as_ref().map(api_tls).transpose()?,
    };
    let deps = qrelay_control::Deps {
        store: Arc::clone(&ground.store),
        clock: Arc::clone(&ground.clock),
        sealer: needs.sealer,
        targets: needs.targets,
        appender: needs.appender,
    };
    Ok(qrelay_control::Server::build(settings, deps)?)
}

fn api_tls(files: &ApiTls) -> Result<Arc<rustls::ServerConfig>, StartError> {
    qrelay_control::tls::load(&files.cert, &files.key).map_err(|source| match &source {
        TlsError::Pem { expected, .. } if *expected == "private key" => StartError::TlsKey(source),
        TlsError::File { path, .. } if *path == files.key => StartError::TlsKey(source),
        TlsError::Pem { .. } | TlsError::File { .. } => StartError::TlsCert(source),
        TlsError::Unusable(_) => StartError::TlsPair {
            cert: files.cert.clone(),
            key: files.key.clone(),
            source,
        },
    })
}
