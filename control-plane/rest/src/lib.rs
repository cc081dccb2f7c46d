//! REST/JSON and OpenAPI 3.1 over any tonic service, from its descriptors.
//!
//! The `google.api.http` options of a service say which URL means which RPC. [`Transcoder`] reads them at start,
//! turns a REST request into the RPC's request message, calls the tonic router in the same process and turns the
//! answer into JSON (or server-sent events for a server stream). No code is generated and no type of the
//! services is known here.
//!
//! What the JSON looks like is decided in the two walks of the module `json` and nowhere else: proto field names, enums in
//! lower case without their type's prefix, 64-bit integers as numbers, times in RFC 3339 with milliseconds.
//!
//! Left to others: authentication (a tower layer in front of [`Transcoder::into_router`]; it may put the caller
//! into the request's extensions, which reach the handlers), limits per caller, panics (a layer that answers
//! with [`panic_response`]), and every rule about values: a handler checks those for gRPC and REST alike.
//!
//! Invariants:
//! - Nothing read from a peer panics or grows without a bound: [`Config`] has a limit for each.
//! - A descriptor that cannot be served exactly is refused at start, never approximated ([`BuildError`]).
//! - gRPC's own headers, hop-by-hop headers and binary metadata do not cross from REST to gRPC or back.

mod call;
mod config;
mod error;
mod frame;
mod http_rule;
mod json;
mod mask;
mod openapi;
mod request;
mod response;
mod schema;
mod service;
mod sse;
mod status;
#[cfg(test)]
mod testing;
mod uri;

pub use config::{Config, FieldRange, HeaderConflict, HeaderField, OpenApiInfo};
pub use error::{BuildError, RequestError, Violation};
pub use request::ParsedRequest;
pub use response::{error_response, panic_response};
pub use service::{OPENAPI_PATH, Transcoder, is_grpc};
pub use status::http_status;

/// Feeds one request to everything that reads a peer's bytes, without a server: for fuzzing.
///
/// The request is routed, its path, query and body are decoded; an accepted request is encoded to JSON again.
/// Nothing is returned: the only possible finding is a panic.
pub fn fuzz_request(transcoder: &Transcoder, method: &str, uri: &str, body: &[u8]) {
    let (Ok(method), Ok(uri)) = (method.parse::<http::Method>(), uri.parse::<http::Uri>()) else {
        return;
    };
    let mut headers = http::HeaderMap::new();
    if !body.is_empty() {
        headers.insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
    }
    match transcoder.parse_request(&method, &uri, &headers, body) {
        Ok(parsed) => assert!(
            transcoder.message_to_json(&parsed.message).is_ok(),
            "invariant: what was accepted can be shown"
        ),
        Err(refused) => drop(transcoder.request_error_response(&refused)),
    }
}
