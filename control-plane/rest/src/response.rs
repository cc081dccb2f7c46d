//! REST answers: JSON, and errors as `{"error": {"code", "status", "message", "details"}}`.
//!
//! No answer may be stored by a cache: some hold a secret that is shown once.

use std::{sync::LazyLock, time::Duration};

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use prost::Message as _;
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    call::passed_on,
    error::{RequestError, Violation},
    json::any_to_json,
    schema::Schema,
    status,
};

/// The types of error details, for layers that stand in front of any transcoder.
static RPC_TYPES: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .expect("invariant: tonic-types ships a complete descriptor set")
});

/// A gRPC status as a REST error, for layers in front of the transcoder (authentication, limits).
///
/// `google.rpc` details become JSON with their `@type`, `RetryInfo` also the header `Retry-After`; details of
/// other types are base64. 401 carries `WWW-Authenticate: Bearer` (RFC 9110 §15.5.2).
pub fn error_response(status: &Status) -> Response<Body> {
    status_response(&RPC_TYPES, status)
}

/// The answer to a request whose handler panicked, for a `CatchPanicLayer`. It tells nothing about the panic.
pub fn panic_response() -> Response<Body> {
    error_response(&Status::internal("internal error"))
}

/// As [`error_response`], with all the types that the pool knows.
pub(crate) fn status_response(pool: &DescriptorPool, status: &Status) -> Response<Body> {
    let mut response = json_response(status::http_status(status.code()), &status_to_json(pool, status));
    let headers = response.headers_mut();
    for (name, value) in &passed_on(&status.metadata().clone().into_headers()) {
        headers.append(name, value.clone());
    }
    if let Some(delay) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds_rounded_up(delay)));
    }
    if status.code() == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The error object of a status, as an answer's body or as a stream's last event.
pub(crate) fn status_to_json(pool: &DescriptorPool, status: &Status) -> Value {
    let details = match tonic_types::pb::Status::decode(status.details()) {
        Ok(decoded) => decoded
            .details
            .iter()
            .map(|any| any_to_json(pool, &any.type_url, &any.value))
            .collect(),
        Err(error) => {
            tracing::warn!(%error, code = ?status.code(), "the details of a status cannot be read");
            Vec::new()
        }
    };
    error_object(
        status::http_status(status.code()),
        status::name(status.code()),
        status.message(),
        details,
    )
}

/// The answer to a request that no handler saw.
pub(crate) fn request_error_response(error: &RequestError) -> Response<Body> {
    let (http, name) = match error {
        RequestError::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        RequestError::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "UNIMPLEMENTED"),
        RequestError::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "INVALID_ARGUMENT"),
        RequestError::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "DEADLINE_EXCEEDED"),
        RequestError::MediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "INVALID_ARGUMENT"),
        RequestError::MalformedUri(_)
        | RequestError::BodyCutOff
        | RequestError::Syntax(_)
        | RequestError::Invalid(..) => (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT"),
    };
    let details = match error {
        RequestError::Invalid(violations, _) => vec![bad_request(violations)],
        _ => Vec::new(),
    };
    let mut response = json_response(http, &error_object(http, name, &error.to_string(), details));
    if let RequestError::MethodNotAllowed { allow } = error {
        response.headers_mut().insert(header::ALLOW, allow_value(allow));
    }
    response
}

/// The value of `Allow`.
pub(crate) fn allow_value(allow: &str) -> HeaderValue {
    HeaderValue::from_str(allow).expect("invariant: a list of method names is visible ASCII")
}

/// A JSON answer.
pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// The answer to a call whose own answer cannot be used; the reason is for the log only.
pub(crate) fn broken_answer(schema: &Schema, rpc: &str, reason: impl std::fmt::Display) -> Response<Body> {
    tracing::error!(rpc, %reason, "the answer of an RPC cannot be turned into JSON");
    status_response(&schema.pool, &Status::internal("internal error"))
}

fn error_object(http: StatusCode, name: &str, message: &str, details: Vec<Value>) -> Value {
    json!({"error": {"code": http.as_u16(), "status": name, "message": message, "details": details}})
}

fn bad_request(violations: &[Violation]) -> Value {
    let violations: Vec<_> = violations
        .iter()
        .map(
            |violation| json!({"field": violation.field, "description": violation.description, "reason": ""}),
        )
        .collect();
    json!({"@type": "type.googleapis.com/google.rpc.BadRequest", "field_violations": violations})
}

/// `Retry-After` has whole seconds: rounded up, so that nobody comes too early.
fn seconds_rounded_up(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tonic_types::ErrorDetails;

    use super::*;

    async fn body(response: Response<Body>) -> Value {
        let bytes = response
            .into_body()
            .collect()
            .await
            .expect("a buffered body")
            .to_bytes();
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[tokio::test]
    async fn details_become_readable_json_and_retry_info_a_header() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("name", "too long")
            .set_retry_info(Some(Duration::from_millis(1_001)));
        let status = Status::with_error_details(Code::ResourceExhausted, "slow down", details);
        let response = error_response(&status);
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let body = body(response).await;
        assert_eq!(body["error"]["code"], 429);
        assert_eq!(body["error"]["status"], "RESOURCE_EXHAUSTED");
        let details = body["error"]["details"].as_array().expect("a list");
        let retry = json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1.001s"});
        assert!(details.contains(&retry), "{details:?}");
        assert!(
            details
                .iter()
                .any(|detail| detail["field_violations"][0]["field"] == "name"),
            "{details:?}"
        );
    }

    #[tokio::test]
    async fn details_that_cannot_be_read_cost_the_details_only() {
        let status = Status::with_details(Code::NotFound, "gone", bytes::Bytes::from_static(b"\xff"));
        let body = body(error_response(&status)).await;
        let expected =
            json!({"error": {"code": 404, "status": "NOT_FOUND", "message": "gone", "details": []}});
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn details_of_an_unknown_type_are_shown_as_base64() {
        let details = vec![prost_types::Any {
            type_url: "x/acme.Secret".to_owned(),
            value: vec![1, 2],
        }];
        let status = tonic_types::pb::Status {
            code: 5,
            message: String::new(),
            details,
        };
        let status = Status::with_details(Code::NotFound, "gone", status.encode_to_vec().into());
        let body = body(error_response(&status)).await;
        assert_eq!(
            body["error"]["details"],
            json!([{"@type": "x/acme.Secret", "value": "AQI="}])
        );
    }

    #[test]
    fn a_missing_key_is_answered_with_the_way_to_give_one() {
        let response = error_response(&Status::unauthenticated("no key"));
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
}
