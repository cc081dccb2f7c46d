//! The edge: answers scans, and knows no key.

use std::{sync::Arc, time::Duration};

use qrelay_store::appender::Appender;

use super::{
    super::{config::EdgeConfig, error::StartError},
    Ground,
};

/// Builds an edge. `drain`: how long its connections may take to end.
pub(crate) async fn build(
    config: &EdgeConfig,
    ground: &Ground,
    appender: &Appender,
    drain: Duration,
) -> Result<qrelay_edge::Edge, StartError> {
    let peer_source = match config.proxy_protocol {
        true => qrelay_edge::PeerSource::ProxyProtocol,
        false => qrelay_edge::PeerSource::Socket,
    };
    let settings = qrelay_edge::Config {
        trusted_proxies: qrelay_edge::TrustedProxies::new(config.trusted_proxies.clone()),
        peer_source,
        geoip_db: config.geoip_db.clone(),
        drain_deadline: drain,
        ..qrelay_edge::Config::default()
    };
    let deps = qrelay_edge::Deps {
        store: Arc::clone(&ground.store),
        appender: appender.clone(),
        clock: Arc::clone(&ground.clock),
    };
    settings.build(deps).await.map_err(|error| match error {
        qrelay_edge::BuildError::Geo(source) => StartError::Geo(source),
        other => other.into(),
    })
}
