//! Which role an RPC needs: one table by full method name, checked in front of every handler.
//!
//! [`verify`] compares the table with the contract's descriptors at every start, so that an RPC without a line
//! here cannot be served. gRPC and REST meet here: REST requests are transcoded into the same router.

use std::{collections::BTreeSet, sync::Arc};

use axum::{extract::Request, middleware::Next, response::Response};
use prost::Message;
use prost_types::FileDescriptorSet;
use qrelay_store::model::KeyRole;
use tonic::Status;

use crate::{
    caller::{Caller, Role},
    measures, refusal,
};

/// What a caller must be for an RPC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Any key: of the tenant concerned, or the admin key.
    Read,
    /// A read-write key of the tenant concerned, or the admin key.
    Write,
    /// The admin key.
    Admin,
}

/// Every RPC of the contract and what it needs.
const TABLE: &[(&str, Access)] = &[
    ("/qrelay.v1.TenantService/CreateTenant", Access::Admin),
    ("/qrelay.v1.TenantService/ListTenants", Access::Admin),
    ("/qrelay.v1.TenantService/GetTenant", Access::Read),
    ("/qrelay.v1.TenantService/UpdateTenant", Access::Admin),
    ("/qrelay.v1.TenantService/DeleteTenant", Access::Admin),
    ("/qrelay.v1.TenantService/GetUsage", Access::Read),
    ("/qrelay.v1.TenantService/CreateApiKey", Access::Admin),
    ("/qrelay.v1.TenantService/ListApiKeys", Access::Admin),
    ("/qrelay.v1.TenantService/DeleteApiKey", Access::Admin),
    ("/qrelay.v1.CodeService/CreateCode", Access::Write),
    ("/qrelay.v1.CodeService/ListCodes", Access::Read),
    ("/qrelay.v1.CodeService/GetCode", Access::Read),
    ("/qrelay.v1.CodeService/UpdateCode", Access::Write),
    ("/qrelay.v1.CodeService/DeleteCode", Access::Write),
    ("/qrelay.v1.EndpointService/CreateEndpoint", Access::Write),
    ("/qrelay.v1.EndpointService/ListEndpoints", Access::Read),
    ("/qrelay.v1.EndpointService/GetEndpoint", Access::Read),
    ("/qrelay.v1.EndpointService/UpdateEndpoint", Access::Write),
    ("/qrelay.v1.EndpointService/DeleteEndpoint", Access::Write),
    ("/qrelay.v1.EndpointService/TestEndpoint", Access::Write),
    ("/qrelay.v1.EndpointService/PreviewEndpoint", Access::Read),
    ("/qrelay.v1.EndpointService/RotateSecret", Access::Write),
    ("/qrelay.v1.EndpointService/ListDeliveries", Access::Read),
    ("/qrelay.v1.EndpointService/GetDelivery", Access::Read),
    ("/qrelay.v1.EndpointService/RetryDelivery", Access::Write),
    ("/qrelay.v1.ConversionService/CreateConversion", Access::Write),
    ("/qrelay.v1.ReplayService/CreateReplay", Access::Write),
    ("/qrelay.v1.ReplayService/GetReplay", Access::Read),
    ("/qrelay.v1.ReplayService/ListReplays", Access::Read),
    ("/qrelay.v1.ReplayService/CancelReplay", Access::Write),
    ("/qrelay.v1.EventService/ListEvents", Access::Read),
    ("/qrelay.v1.EventService/GetEvent", Access::Read),
    ("/qrelay.v1.EventService/StreamEvents", Access::Read),
];

/// What tells nothing about anybody's data and so needs no key: health and reflection.
const PUBLIC: [&str; 2] = ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/"];

/// Whether a gRPC path needs no key.
pub(crate) fn is_public(path: &str) -> bool {
    PUBLIC.iter().any(|service| path.starts_with(service))
}

/// What the RPC at a gRPC path needs, if there is such an RPC. The path comes back as a constant, for metrics.
pub fn required(path: &str) -> Option<(&'static str, Access)> {
    TABLE.iter().find(|(known, _)| *known == path).copied()
}

/// The table of roles and the contract differ.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the table of roles does not fit the contract: without a role {missing:?}, unknown {unknown:?}")]
pub struct TableMismatch {
    /// RPCs of the contract without a line.
    pub missing: Vec<String>,
    /// Lines without an RPC.
    pub unknown: Vec<String>,
}

/// Checks that each RPC of the descriptor set has exactly one line.
///
/// # Errors
/// When one has none, or a line names no RPC.
pub(crate) fn verify(descriptors: &[u8]) -> Result<(), TableMismatch> {
    let contract = methods(descriptors);
    let table: BTreeSet<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
    let mismatch = TableMismatch {
        missing: contract.difference(&table).cloned().collect(),
        unknown: table.difference(&contract).cloned().collect(),
    };
    let fits = mismatch.missing.is_empty() && mismatch.unknown.is_empty();
    if fits { Ok(()) } else { Err(mismatch) }
}

fn methods(descriptors: &[u8]) -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(descriptors).expect("invariant: our build script encoded it");
    let mut paths = BTreeSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                paths.insert(format!(
                    "/{}.{}/{}",
                    file.package(),
                    service.name(),
                    method.name()
                ));
            }
        }
    }
    paths
}

/// Whether `role` may call what needs `access`. That a tenant's key sees its own tenant only is for
/// [`Caller::tenant`] to say.
fn allows(role: &Role, access: Access) -> bool {
    match (role, access) {
        (Role::Admin, _) | (Role::Tenant { .. }, Access::Read) => true,
        (Role::Tenant { access, .. }, Access::Write) => *access == KeyRole::ReadWrite,
        (Role::Tenant { .. }, Access::Admin) => false,
    }
}

/// The layer around the gRPC router: refuses callers whose role does not do, and measures every RPC.
pub(crate) async fn authorize(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if is_public(path) {
        return next.run(request).await;
    }
    let Some((rpc, access)) = required(path) else {
        return Status::unimplemented("there is no such method").into_http();
    };
    let started = tokio::time::Instant::now();
    let response = match request.extensions().get::<Arc<Caller>>() {
        None => refusal::unauthenticated("no key was checked").into_http(),
        Some(caller) if !allows(&caller.role, access) => denied(&caller.role, access).into_http(),
        Some(_) => next.run(request).await,
    };
    measure(rpc, &response, started);
    response
}

fn denied(role: &Role, access: Access) -> Status {
    match (role, access) {
        (_, Access::Admin) => refusal::denied("ADMIN_ONLY", "only the admin key may do this"),
        _ => refusal::denied("READ_ONLY_KEY", "this key is read-only"),
    }
}

fn measure(rpc: &'static str, response: &Response, started: tokio::time::Instant) {
    // An error stands in the headers; success only follows in the trailers.
    let code = Status::from_header_map(response.headers()).map_or(tonic::Code::Ok, |status| status.code());
    measures::answered(rpc, code, started);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rpc_of_the_contract_has_a_role() {
        assert_eq!(verify(qrelay_proto::FILE_DESCRIPTOR_SET), Ok(()));
        assert!(methods(qrelay_proto::FILE_DESCRIPTOR_SET).len() >= 26);
    }

    #[test]
    fn an_rpc_without_a_role_and_a_role_without_an_rpc_are_named() {
        let mismatch = verify(&[]).unwrap_err();
        assert_eq!(mismatch.unknown.len(), TABLE.len());
        let mut set = FileDescriptorSet::decode(qrelay_proto::FILE_DESCRIPTOR_SET).unwrap();
        let file = set.file.iter_mut().find(|file| !file.service.is_empty()).unwrap();
        file.service[0].method[0].name = Some("Forgotten".into());
        let mismatch = verify(&set.encode_to_vec()).unwrap_err();
        assert!(mismatch.missing[0].ends_with("/Forgotten"), "{mismatch}");
        assert_eq!(mismatch.unknown.len(), 1);
    }

    #[test]
    fn only_health_and_reflection_are_public() {
        assert!(is_public("/grpc.health.v1.Health/Check"));
        assert!(is_public(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        ));
        assert!(!is_public("/qrelay.v1.CodeService/GetCode"));
        assert!(!is_public("/grpc.health.v1.HealthX/Check"));
        assert!(TABLE.iter().all(|(path, _)| !is_public(path)));
    }
}
