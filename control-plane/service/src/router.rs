//! One router for everything on the API's port: the gate, then gRPC or REST.

use std::sync::Arc;

use axum::{Router, middleware};
use qrelay_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        code_service_server::CodeServiceServer, conversion_service_server::ConversionServiceServer,
        endpoint_service_server::EndpointServiceServer, event_service_server::EventServiceServer,
        replay_service_server::ReplayServiceServer, tenant_service_server::TenantServiceServer,
    },
};
use qrelay_rest::{FieldRange, OpenApiInfo, Transcoder};
use qrelay_store::limits;
use tonic::service::Routes;

use crate::{
    access::{self, TableMismatch},
    api::Api,
    gate::{self, Gate},
    handlers::Handlers,
};

/// Why the API cannot be served: a mistake of ours, found at the start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An RPC has no role.
    #[error(transparent)]
    Access(#[from] TableMismatch),
    /// The contract cannot be served over REST.
    #[error("the contract cannot be served over REST")]
    Rest(#[from] qrelay_rest::BuildError),
    /// The descriptors cannot be reflected.
    #[error("the contract cannot be reflected")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The services that health answers for.
pub(crate) const SERVICES: [&str; 6] = [
    "qrelay.v1.TenantService",
    "qrelay.v1.CodeService",
    "qrelay.v1.EndpointService",
    "qrelay.v1.ReplayService",
    "qrelay.v1.EventService",
    "qrelay.v1.ConversionService",
];

/// Assembles the router.
pub(crate) fn assemble<H>(
    api: Arc<Api>,
    gate: Gate,
    health: tonic_health::pb::health_server::HealthServer<H>,
) -> Result<Router, BuildError>
where
    H: tonic_health::pb::health_server::Health,
{
    access::verify(FILE_DESCRIPTOR_SET)?;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let (handlers, bytes_max) = (Handlers(api), limits::API_REQUEST_BYTES_MAX);
    let grpc = Routes::new(health)
        .add_service(reflection)
        .add_service(TenantServiceServer::new(handlers.clone()).max_decoding_message_size(bytes_max))
        .add_service(CodeServiceServer::new(handlers.clone()).max_decoding_message_size(bytes_max))
        .add_service(EndpointServiceServer::new(handlers.clone()).max_decoding_message_size(bytes_max))
        .add_service(ConversionServiceServer::new(handlers.clone()).max_decoding_message_size(bytes_max))
        .add_service(ReplayServiceServer::new(handlers.clone()).max_decoding_message_size(bytes_max))
        .add_service(EventServiceServer::new(handlers).max_decoding_message_size(bytes_max))
        .prepare()
        .into_axum_router()
        .layer(middleware::from_fn(access::authorize));
    let transcoder = Transcoder::new(FILE_DESCRIPTOR_SET, rest_config())?;
    Ok(transcoder
        .into_router(grpc)
        .layer(middleware::from_fn_with_state(Arc::new(gate), gate::admit)))
}

/// How the contract is served over REST.
pub fn rest_config() -> qrelay_rest::Config {
    qrelay_rest::Config {
        services: SERVICES.map(str::to_owned).to_vec(),
        body_bytes_max: limits::API_REQUEST_BYTES_MAX,
        timeout: limits::API_REQUEST_TIMEOUT,
        openapi: OpenApiInfo {
            title: "qrelay".to_owned(),
            version: "1".to_owned(),
            description: "Dynamic QR codes: scans in, signed webhooks out.".to_owned(),
        },
        detail_fields: vec!["qrelay.v1.Delivery.attempt_log".to_owned()],
        ranges: vec![FieldRange {
            field: "page_size".to_owned(),
            least: 1,
            most: limits::PAGE_SIZE_MAX.into(),
        }],
        ..qrelay_rest::Config::default()
    }
}
