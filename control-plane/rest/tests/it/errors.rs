//! What fails, in the contract's form.

use std::time::Duration;

use axum::body::Body;
use futures::stream;
use http::{HeaderValue, Method, StatusCode};
use qrelay_rest::Config;
use serde_json::json;
use tower::ServiceExt as _;

use crate::services::{Answer, app, call, request, send};

#[tokio::test]
async fn a_handlers_error_keeps_its_code_message_and_details() {
    let answer = call(Method::GET, "/v1/codes/missing", "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let expected =
        json!({"error": {"code": 404, "status": "NOT_FOUND", "message": "no such code", "details": []}});
    assert_eq!(answer.json(), expected);
    let answer = call(Method::POST, "/v1/codes", r#"{"name": "bad field"}"#).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let detail = &answer.json()["error"]["details"][0];
    assert_eq!(detail["@type"], "type.googleapis.com/google.rpc.BadRequest");
    assert_eq!(detail["field_violations"][0]["field"], "destination_url");
}

#[tokio::test]
async fn retry_info_is_also_a_header_rounded_up() {
    let answer = call(Method::GET, "/v1/codes/limited", "").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers["retry-after"], "2");
    assert_eq!(answer.json()["error"]["details"][0]["retry_delay"], "1.500s");
}

#[tokio::test]
async fn every_bad_field_of_a_body_is_named() {
    let answer = call(
        Method::POST,
        "/v1/codes",
        r#"{"destinationUrl": "x", "tags": [1], "status": "ACTIVE"}"#,
    )
    .await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let error = &answer.json()["error"];
    let named: Vec<_> = error["details"][0]["field_violations"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|violation| violation["field"].clone())
        .collect();
    assert_eq!(named, ["destinationUrl", "tags[0]", "status"]);
    let message = "destinationUrl: no such field: it is called destination_url (and 2 more)";
    assert_eq!(error["message"], message);
    let answer = call(Method::POST, "/v1/codes", r#"{"name": "a", "name": "b"}"#).await;
    assert_eq!(
        answer.json()["error"]["details"][0]["field_violations"][0]["field"],
        "name"
    );
}

#[tokio::test]
async fn transport_errors_carry_their_http_status_as_code() {
    let mut media = request(Method::POST, "/v1/codes", "{}");
    media
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("text/xml"));
    let large = format!(
        "{{\"name\": \"{}\"}}",
        "x".repeat(Config::default().body_bytes_max)
    );
    for (request, status) in [
        (request(Method::GET, "/v2", ""), 404),
        (request(Method::PUT, "/v1/codes", "{}"), 405),
        (request(Method::POST, "/openapi.json", ""), 405),
        (request(Method::POST, "/v1/codes", &large), 413),
        (media, 415),
        (request(Method::GET, "/v1/codes/%zz", ""), 400),
        (request(Method::GET, "/v1/codes?nope=1", ""), 400),
        (request(Method::POST, "/v1/codes", "{"), 400),
        (request(Method::DELETE, "/v1/codes/c", "{}"), 400),
    ] {
        let uri = request.uri().clone();
        let answer = send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{uri}: {}", answer.text);
        assert_eq!(answer.json()["error"]["code"], status);
        assert_eq!(answer.headers.contains_key("allow"), status == 405, "{uri}");
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_at_the_limit() {
    let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[b' '; 1024])));
    let mut request = request(Method::POST, "/v1/codes", "");
    *request.body_mut() = Body::from_stream(endless);
    assert_eq!(send(request).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_is_504_and_a_slow_body_408_after_the_own_timeout() {
    let started = tokio::time::Instant::now();
    let answer = call(Method::POST, "/v1/codes", r#"{"name": "slow"}"#).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.json()["error"]["status"], "DEADLINE_EXCEEDED");
    assert_eq!(started.elapsed().as_secs(), 30);
    let mut request = request(Method::POST, "/v1/codes", "");
    *request.body_mut() = Body::from_stream(stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    assert_eq!(send(request).await.status, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn a_body_that_is_cut_off_is_refused() {
    let pieces = [
        Ok(bytes::Bytes::from_static(b"{")),
        Err(std::io::Error::other("reset")),
    ];
    let mut request = request(Method::POST, "/v1/codes", "");
    *request.body_mut() = Body::from_stream(stream::iter(pieces));
    assert_eq!(send(request).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_answer_without_json_or_beyond_the_limit_is_an_internal_error_that_tells_nothing() {
    let answer = call(Method::POST, "/v1/codes", r#"{"name": "bad time"}"#).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(answer.json()["error"]["message"], "internal error");
    let config = Config {
        response_bytes_max: 10,
        ..Config::default()
    };
    let Ok(response) = app(config).oneshot(request(Method::GET, "/v1/codes", "")).await;
    let answer = Answer::read(response).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["status"]),
        (500, &json!("INTERNAL"))
    );
}

#[tokio::test]
async fn a_service_that_is_not_served_is_unimplemented() {
    let answer = call(Method::GET, "/v1/tenants", "").await;
    assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(answer.json()["error"]["status"], "UNIMPLEMENTED");
}

#[tokio::test]
async fn a_panic_has_a_json_body_to_be_answered_with() {
    let answer = Answer::read(qrelay_rest::panic_response()).await;
    let error = json!({"code": 500, "status": "INTERNAL", "message": "internal error", "details": []});
    assert_eq!(answer.json(), json!({ "error": error }));
    assert!(
        Config::default().timeout > Duration::from_secs(10),
        "a test of an endpoint takes 10 s"
    );
}
