//! Requests that reach their handler, and what comes back.

use http::{HeaderValue, Method, StatusCode};
use qrelay_rest::{Config, FieldRange};
use serde_json::json;
use tower::ServiceExt as _;

use crate::services::{Answer, Caller, app, call, request, send};

#[tokio::test]
async fn a_created_resource_comes_back_in_the_contracts_json() {
    let body =
        r#"{"destination_url": "https://e.com", "status": "paused", "metadata": {"n": 2.0, "none": null}}"#;
    let answer = call(Method::POST, "/v1/codes", body).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(
        answer.json(),
        json!({
            "id": "code_1",
            "short_id": "",
            "name": "",
            "destination_url": "https://e.com",
            "url": "",
            "status": "paused",
            "tags": [],
            "campaign_id": "",
            "owner_id": "",
            "external_id": "",
            "metadata": {"n": 2, "none": null},
            "version": 9_007_199_254_740_993_i64,
            "etag": "",
            "created_at": "2026-05-01T12:00:00.005Z",
            "tenant_id": "",
            "conversion_param": "",
        })
    );
}

#[tokio::test]
async fn the_callers_extensions_reach_the_handler_and_grpc_timeout_does_not() {
    let mut request = request(Method::POST, "/v1/codes", "{}");
    request.extensions_mut().insert(Caller("ten_1"));
    for (name, value) in [
        ("grpc-timeout", "1n"),
        ("idempotency-key", "k1"),
        ("x-shown", "request"),
    ] {
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    let answer = send(request).await;
    let json = answer.json();
    assert_eq!(
        (&json["owner_id"], &json["external_id"]),
        (&json!("ten_1"), &json!("k1"))
    );
    assert_eq!(json["campaign_id"], "", "the deadline of another protocol");
}

#[tokio::test]
async fn a_handlers_headers_reach_the_caller_without_binary_ones() {
    let answer = call(Method::POST, "/v1/codes", "{}").await;
    assert_eq!(answer.headers["x-shown"], "yes");
    let names: Vec<&str> = answer.headers.keys().map(http::HeaderName::as_str).collect();
    assert!(
        !names
            .iter()
            .any(|name| name.ends_with("-bin") || name.starts_with("grpc-")),
        "{names:?}"
    );
}

#[tokio::test]
async fn a_patch_tells_the_handler_which_fields_are_present() {
    let body =
        r#"{"destination_url": "https://e.com", "tags": [], "etag": "e", "id": "x", "metadata": null}"#;
    let answer = call(Method::PATCH, "/v1/codes/code_7", body).await;
    let json = answer.json();
    assert_eq!(
        (&json["id"], &json["name"]),
        (&json!("code_7"), &json!("destination_url tags metadata"))
    );
    let body = answer.text.replace("code_7", "other");
    let again = call(Method::PATCH, "/v1/codes/code_7", &body).await;
    assert_eq!(
        again.status,
        StatusCode::OK,
        "an answer can be sent back: {}",
        again.text
    );
    assert_eq!(again.json()["id"], "code_7");
}

#[tokio::test]
async fn lists_have_their_plural_name_and_deletes_answer_an_empty_object() {
    let list = call(Method::GET, "/v1/codes?tag=a%26b", "").await.json();
    assert_eq!(list["codes"][0]["id"], "code_2");
    assert_eq!(
        (&list["codes"][1]["tags"], &list["next_page_token"]),
        (&json!(["a&b"]), &json!(""))
    );
    let deleted = call(Method::DELETE, "/v1/codes/code_1", "").await;
    assert_eq!((deleted.status, deleted.text.as_str()), (StatusCode::OK, "{}"));
}

#[tokio::test]
async fn an_encoded_slash_is_part_of_the_id() {
    assert_eq!(
        call(Method::GET, "/v1/codes/a%2Fb%20c", "").await.json()["id"],
        "a/b c"
    );
}

#[tokio::test]
async fn fields_of_details_are_left_out_of_lists_only() {
    let config = Config {
        detail_fields: vec!["qrelay.v1.Code.tags".to_owned()],
        ..Config::default()
    };
    let Ok(listed) = app(config.clone())
        .oneshot(request(Method::GET, "/v1/codes?tag=a", ""))
        .await;
    let listed = Answer::read(listed).await.json();
    assert_eq!(listed["codes"][1]["id"], "code_1");
    assert_eq!(listed["codes"][1].get("tags"), None);
    let Ok(one) = app(config)
        .oneshot(request(Method::GET, "/v1/codes/code_1", ""))
        .await;
    assert_eq!(Answer::read(one).await.json()["tags"], json!([]));
}

#[tokio::test]
async fn a_number_that_is_none_is_told_its_own_range_where_that_is_known() {
    let config = Config {
        ranges: vec![FieldRange {
            field: "page_size".to_owned(),
            least: 1,
            most: 500,
        }],
        ..Config::default()
    };
    let Ok(refused) = app(config)
        .oneshot(request(Method::GET, "/v1/codes?page_size=abc", ""))
        .await;
    let refused = Answer::read(refused).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        refused.json()["error"]["message"],
        "page_size: must be a whole number from 1 to 500"
    );
}
