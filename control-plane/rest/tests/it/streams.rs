//! Server streams as server-sent events.

use axum::body::Body;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use qrelay_rest::Config;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::services::{app, call, request, send};

const EVENT: &str = r#"{"type":"scan.created","id":"evt_1"}"#;

async fn next(response: &mut Response<Body>) -> String {
    let frame = response
        .body_mut()
        .frame()
        .await
        .expect("it goes on")
        .expect("it arrives");
    String::from_utf8(frame.into_data().expect("data").to_vec()).expect("UTF-8")
}

#[tokio::test]
async fn events_carry_their_token_as_id_and_a_token_alone_has_no_data() {
    let mut request = request(Method::GET, "/v1/events:stream", "");
    request
        .headers_mut()
        .insert("last-event-id", HeaderValue::from_static("t0"));
    let answer = send(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(
        answer.text,
        format!(": open\n\nid: after t0\ndata: {EVENT}\n\nid: t2\n\n")
    );
}

#[tokio::test]
async fn an_error_before_the_first_event_is_a_plain_one() {
    let refused = call(Method::GET, "/v1/events:stream?type=refused", "").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.json()["error"]["message"], "not yours");
    let early = call(Method::GET, "/v1/events:stream?type=early", "").await;
    assert_eq!(
        (early.status, &early.headers["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().expect("ASCII"))
    );
    assert_eq!(early.headers["content-type"], "application/json");
}

#[tokio::test]
async fn a_stream_that_fails_says_so_in_its_last_event() {
    let answer = call(Method::GET, "/v1/events:stream?type=broken", "").await;
    assert_eq!(answer.status, StatusCode::OK);
    let (_, last) = answer
        .text
        .split_once("event: error\ndata: ")
        .expect("an error event");
    let error: Value = serde_json::from_str(last.trim_end()).expect("JSON");
    let details = json!([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1s"}]);
    let expected = json!({"code": 503, "status": "UNAVAILABLE", "message": "gone", "details": details});
    assert_eq!(error, json!({ "error": expected }));
    assert!(last.ends_with("\n\n"));
}

#[tokio::test]
async fn a_stream_that_panics_says_that_it_failed() {
    let answer = call(Method::GET, "/v1/events:stream?type=panic", "").await;
    assert!(
        answer
            .text
            .contains("event: error\ndata: {\"error\":{\"code\":500"),
        "{}",
        answer.text
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_answers_soon_and_sends_comments() {
    let started = tokio::time::Instant::now();
    let silent = request(Method::GET, "/v1/events:stream?type=silent", "");
    let Ok(mut response) = app(Config::default()).oneshot(silent).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(started.elapsed().as_millis(), 50);
    assert_eq!(next(&mut response).await, ": open\n\n");
    for _ in 0..10 {
        let before = tokio::time::Instant::now();
        assert_eq!(next(&mut response).await, ": heartbeat\n\n");
        assert_eq!(
            before.elapsed().as_secs(),
            15,
            "longer than a call's timeout in all"
        );
    }
}
