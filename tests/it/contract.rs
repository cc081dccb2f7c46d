//! The REST contract as other software relies on it: paths, fields, errors, tenancy.

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use qrelay_tests::{
    http as client,
    receiver::{Behaviour, Receiver},
    server::{Server, Setup},
    wait_until,
};
use serde_json::{Value, json};

async fn server(dir: &tempfile::TempDir) -> Server {
    Setup::new(super::BINARY, &dir.path().join("data")).start().await
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

fn is_time(value: &Value) -> bool {
    let text = text(value);
    text.len() == "2026-01-01T00:00:00.000Z".len() && text.ends_with('Z') && text.as_bytes()[19] == b'.'
}

#[tokio::test]
async fn tenants_keys_and_usage_have_the_contracts_fields() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let admin = server.admin();
    let tenant = admin.post("/v1/tenants", json!({"name": "Shop"})).await;
    assert_eq!(
        (&tenant["name"], &tenant["status"], &tenant["durability"]),
        (&json!("Shop"), &json!("active"), &json!("durable"))
    );
    assert_eq!(tenant["privacy"]["ip"], "drop");
    assert!(is_time(&tenant["created_at"]));
    let path = format!("/v1/tenants/{}", text(&tenant["id"]));
    let changed = admin
        .patch(
            &path,
            json!({"durability": "relaxed", "privacy": {"ip": "truncate"}}),
        )
        .await;
    assert_eq!(
        (
            &changed["durability"],
            &changed["privacy"]["ip"],
            &changed["name"]
        ),
        (&json!("relaxed"), &json!("truncate"), &json!("Shop"))
    );

    let key = admin
        .post(
            &format!("{path}/api_keys"),
            json!({"name": "reader", "role": "read_only"}),
        )
        .await;
    assert_eq!(key["role"], "read_only");
    assert!(text(&key["key"]).starts_with("qrk_"));
    let keys = admin.get(&format!("{path}/api_keys")).await;
    assert_eq!(
        (
            keys["api_keys"].as_array().unwrap().len(),
            &keys["next_page_token"]
        ),
        (1, &json!(""))
    );
    assert!(keys["api_keys"][0].get("key").is_none(), "a key is shown once");

    let reader = admin.with_key(text(&key["key"]));
    assert_eq!(
        reader.get(&path).await["id"],
        tenant["id"],
        "a tenant reads itself"
    );
    let usage = reader.get(&format!("{path}/usage?month=2026-05")).await;
    assert_eq!(
        (&usage["scans"], &usage["events"], &usage["deliveries"]),
        (&json!(0), &json!(0), &json!(0))
    );
    let (status, refused) = reader
        .call(
            Method::POST,
            "/v1/codes",
            Some(&json!({"destination_url": "https://a.example"})),
        )
        .await
        .unwrap();
    assert_eq!(
        (status, &refused["error"]["status"]),
        (StatusCode::FORBIDDEN, &json!("PERMISSION_DENIED"))
    );
    let (status, _) = reader.call(Method::GET, "/v1/tenants", None).await.unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN);

    assert_eq!(
        admin.delete(&format!("/v1/api_keys/{}", text(&key["id"]))).await,
        json!({})
    );
    wait_until("a revoked key is refused", async || {
        let (status, _) = reader.call(Method::GET, &path, None).await.unwrap();
        (status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    assert_eq!(admin.delete(&path).await, json!({}));
    server.stop().await;
}

#[tokio::test]
async fn codes_have_the_contracts_fields_and_are_listed_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let (_, api) = server.admin().tenant("codes").await;
    let body = json!({
        "short_id": "Spring-2026", "name": "Menu", "destination_url": "https://example.com/?q=1&x=ü", "tags": ["a", "b"],
        "campaign_id": "c1", "owner_id": "42", "external_id": "x-1",
        "metadata": {"n": 7, "f": 1.5, "deep": {"list": [1, null, "t"]}}, "recipient": {"first_name": "Ada"},
    });
    let code = api.post("/v1/codes", body.clone()).await;
    for (field, value) in body.as_object().unwrap() {
        assert_eq!(&code[field], value, "{field} comes back as it was given");
    }
    assert_eq!((&code["status"], &code["version"]), (&json!("active"), &json!(1)));
    assert!(
        code.to_string().contains(r#""n":7,"#) || code.to_string().contains(r#""n":7}"#),
        "whole numbers have no .0: {code}"
    );
    assert!(
        text(&code["url"]).ends_with("/Spring-2026")
            && is_time(&code["created_at"])
            && is_time(&code["updated_at"])
    );
    assert_eq!(
        client::get(server.edge(), "/Spring-2026").await.unwrap().status(),
        302
    );
    assert_eq!(
        client::get(server.edge(), "/spring-2026").await.unwrap().status(),
        404,
        "given ids keep their case"
    );

    let generated = api
        .post("/v1/codes", json!({"destination_url": "https://example.com/"}))
        .await;
    let short_id = text(&generated["short_id"]);
    assert!(
        short_id.len() >= 8
            && short_id
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    );
    assert_eq!(
        client::get(server.edge(), &format!("/{}", short_id.to_uppercase()))
            .await
            .unwrap()
            .status(),
        302
    );

    let page = api.get("/v1/codes?page_size=1").await;
    assert_eq!(page["codes"][0]["id"], generated["id"]);
    let rest = api
        .get(&format!(
            "/v1/codes?page_size=1&page_token={}",
            text(&page["next_page_token"])
        ))
        .await;
    assert_eq!(
        (&rest["codes"][0]["id"], &rest["next_page_token"]),
        (&code["id"], &json!(""))
    );

    let path = format!("/v1/codes/{}", text(&code["id"]));
    let paused = api.patch(&path, json!({"status": "paused"})).await;
    assert_eq!(
        (&paused["status"], &paused["version"], &paused["name"]),
        (&json!("paused"), &json!(2), &json!("Menu"))
    );
    wait_until("a paused code is 404", async || {
        (client::get(server.edge(), "/Spring-2026").await.unwrap().status() == 404).then_some(())
    })
    .await;
    let stale = json!({"name": "x", "etag": code["etag"]});
    let (status, error) = api.call(Method::PATCH, &path, Some(&stale)).await.unwrap();
    assert_eq!(
        (status, &error["error"]["code"]),
        (StatusCode::CONFLICT, &json!(409))
    );
    assert_eq!(api.delete(&path).await, json!({}));
    server.stop().await;
}

#[tokio::test]
async fn endpoints_show_their_secret_once_and_can_be_tested_and_rotated() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let (_, api) = server.admin().tenant("endpoints").await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    let made = api
        .post(
            "/v1/endpoints",
            json!({"url": receiver.url(), "events": ["scan.created"], "description": "d"}),
        )
        .await;
    let first_secret = text(&made["secret"]).to_owned();
    assert!(first_secret.starts_with("whsec_"));
    let schedule = json!([
        "0s", "60s", "300s", "1800s", "7200s", "14400s", "14400s", "14400s", "14400s", "14400s"
    ]);
    assert_eq!(
        (&made["retry_schedule"], &made["max_concurrency"]),
        (&schedule, &json!(16))
    );
    assert_eq!(
        (&made["status"], &made["consecutive_failures"]),
        (&json!("active"), &json!(0))
    );
    let path = format!("/v1/endpoints/{}", text(&made["id"]));
    assert!(api.get(&path).await.get("secret").is_none());
    assert!(
        api.get("/v1/endpoints").await["endpoints"][0]
            .get("secret")
            .is_none()
    );

    receiver.expect_secret(&first_secret);
    let tested = api.post(&format!("{path}/test"), json!({})).await;
    assert_eq!(
        (&tested["status"], &tested["response_status"], &tested["error"]),
        (&json!("succeeded"), &json!(200), &json!(""))
    );
    assert!(tested["duration_ms"].is_number() && text(&tested["id"]).starts_with("dlv_"));
    assert_eq!(receiver.arrivals()[0].verified, Some(true));

    let rotated = api.post(&format!("{path}/rotate"), json!({})).await;
    let second_secret = text(&rotated["secret"]).to_owned();
    assert_ne!(first_secret, second_secret);
    receiver.expect_secret(&second_secret);
    api.post(&format!("{path}/test"), json!({})).await;
    assert_eq!(
        receiver.arrivals()[1].verified,
        Some(true),
        "the new secret signs at once"
    );

    receiver.behave(Behaviour::Answer(503));
    let failed = api.post(&format!("{path}/test"), json!({})).await;
    assert_eq!(
        (&failed["status"], &failed["response_status"]),
        (&json!("given_up"), &json!(503))
    );

    let own =
        json!({"url": receiver.url(), "events": ["*"], "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"});
    assert_eq!(
        api.post("/v1/endpoints", own).await["secret"],
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    );
    assert_eq!(api.delete(&path).await, json!({}));
    server.stop().await;
}

#[tokio::test]
async fn bad_requests_name_every_field() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let (_, api) = server.admin().tenant("fields").await;
    let cases = [
        ("/v1/codes", json!({}), vec!["destination_url"]),
        (
            "/v1/codes",
            json!({"destination_url": "javascript:alert(1)", "short_id": "no spaces"}),
            vec!["destination_url", "short_id"],
        ),
        (
            "/v1/codes",
            json!({"destination_url": "https://a.example/", "nope": 1}),
            vec!["nope"],
        ),
        (
            "/v1/codes",
            json!({"destination_url": 7}),
            vec!["destination_url"],
        ),
        (
            "/v1/endpoints",
            json!({"url": "https://example.com", "events": []}),
            vec!["events"],
        ),
        (
            "/v1/endpoints",
            json!({"url": "ftp://example.com", "events": ["scan.nope"]}),
            vec!["url", "events"],
        ),
        (
            "/v1/endpoints",
            json!({"url": "https://169.254.169.254/", "events": ["*"]}),
            vec!["url"],
        ),
        (
            "/v1/endpoints",
            json!({"url": "https://10.0.0.1/", "events": ["*"], "max_concurrency": 257}),
            vec!["url", "max_concurrency"],
        ),
        (
            "/v1/endpoints",
            json!({"url": "http://127.0.0.1:9/", "events": ["*"], "retry_schedule": ["0s", "0.5s"]}),
            vec!["retry_schedule"],
        ),
        (
            "/v1/endpoints",
            json!({"url": "http://127.0.0.1:9/", "events": ["*"], "secret": "short"}),
            vec!["secret"],
        ),
    ];
    for (path, body, fields) in cases {
        let (status, answer) = api.call(Method::POST, path, Some(&body)).await.unwrap();
        assert_eq!(
            (status, &answer["error"]["status"]),
            (StatusCode::BAD_REQUEST, &json!("INVALID_ARGUMENT")),
            "{body}: {answer}"
        );
        let details = answer["error"]["details"].to_string();
        assert!(details.contains("google.rpc.BadRequest"), "{body}: {answer}");
        for field in fields {
            assert!(
                details.contains(&format!("\"field\":\"{field}")),
                "{body} does not name {field}: {answer}"
            );
        }
    }
    for query in ["page_size=501", "page_size=-1", "page_token=forged", "nope=1"] {
        let (status, answer) = api
            .call(Method::GET, &format!("/v1/codes?{query}"), None)
            .await
            .unwrap();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn errors_have_one_shape_whatever_goes_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let (_, api) = server.admin().tenant("errors").await;
    let (_, other) = server.admin().tenant("other").await;
    let code = api
        .post(
            "/v1/codes",
            json!({"short_id": "mine", "destination_url": "https://a.example/"}),
        )
        .await;
    let path = format!("/v1/codes/{}", text(&code["id"]));
    let taken = json!({"short_id": "mine", "destination_url": "https://a.example/"});
    let anybody = api.with_key("qrk_nonsense");
    let cases = [
        (&other, Method::GET, path.as_str(), None, 404),
        (&other, Method::DELETE, path.as_str(), None, 404),
        (&api, Method::GET, "/v1/codes/code_0000000000000000", None, 404),
        (&api, Method::GET, "/v1/codes/nonsense", None, 404),
        (&api, Method::GET, "/v1/nothing", None, 404),
        (&other, Method::POST, "/v1/codes", Some(&taken), 409),
        (&anybody, Method::POST, "/v1/codes", Some(&taken), 401),
        (&api, Method::PUT, "/v1/codes", Some(&taken), 405),
    ];
    for (caller, method, path, body, code) in cases {
        let (status, answer) = caller.call(method.clone(), path, body).await.unwrap();
        assert_eq!(status.as_u16(), code, "{method} {path}: {answer}");
        assert_eq!(answer["error"]["code"], code, "{method} {path}: {answer}");
        assert!(
            answer["error"]["message"].is_string() && answer["error"]["details"].is_array(),
            "{answer}"
        );
    }
    let admin = server.admin();
    let (status, answer) = admin.call(Method::GET, "/v1/codes", None).await.unwrap();
    assert_eq!(status, 400, "with the admin key tenant_id is required: {answer}");

    // What no JSON client would send.
    let raw = async |content_type: &str, body: Vec<u8>| {
        let request = Request::post("/v1/codes")
            .header("host", "api")
            .header("x-api-key", &api.key)
            .header("content-type", content_type)
            .body(Full::from(body))
            .unwrap();
        client::once(api.address, request).await.unwrap()
    };
    assert_eq!(raw("text/plain", b"{}".to_vec()).await.status(), 415);
    assert_eq!(raw("application/json", b"{".to_vec()).await.status(), 400);
    assert_eq!(
        raw("application/json", br#"{"name":"a","name":"b"}"#.to_vec())
            .await
            .status(),
        400
    );
    assert_eq!(raw("application/json", vec![b'['; 100_000]).await.status(), 400);
    assert_eq!(raw("application/json", vec![b' '; 300_000]).await.status(), 413);
    let answer = client::once(
        api.address,
        Request::put("/v1/codes")
            .header("host", "api")
            .header("x-api-key", &api.key)
            .body(Full::default())
            .unwrap(),
    )
    .await
    .unwrap();
    assert!(answer.headers()["allow"].to_str().unwrap().contains("POST"));
    server.stop().await;
}

#[tokio::test]
async fn a_retried_create_creates_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let (_, api) = server.admin().tenant("once").await;
    let body = json!({"url": "http://127.0.0.1:9999/", "events": ["*"]});
    let first = api.post("/v1/endpoints?request_id=r1", body.clone()).await;
    let again = api.post("/v1/endpoints?request_id=r1", body.clone()).await;
    assert_eq!(first["id"], again["id"]);
    assert!(
        first.get("secret").is_some() && again.get("secret").is_none(),
        "a replayed answer has no secret"
    );
    let other = json!({"url": "http://127.0.0.1:9998/", "events": ["*"]});
    let (status, _) = api
        .call(Method::POST, "/v1/endpoints?request_id=r1", Some(&other))
        .await
        .unwrap();
    assert_eq!(status, 409);
    let request = Request::post("/v1/endpoints")
        .header("host", "api")
        .header("authorization", format!("Bearer {}", api.key))
        .header("content-type", "application/json")
        .header("idempotency-key", "r1")
        .body(Full::from(body.to_string()))
        .unwrap();
    let answer: Value =
        serde_json::from_slice(client::once(api.address, request).await.unwrap().body()).unwrap();
    assert_eq!(answer["id"], first["id"], "the header is the same request id");
    assert_eq!(
        api.get("/v1/endpoints").await["endpoints"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    server.stop().await;
}

#[tokio::test]
async fn usage_counts_each_scan_and_delivery_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let (tenant, api) = server.admin().tenant("usage").await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    qrelay_tests::server::code_and_endpoint(&api, "usage", &receiver.url()).await;
    for _ in 0..20 {
        assert_eq!(client::get(server.edge(), "/usage").await.unwrap().status(), 302);
    }
    let path = format!("/v1/tenants/{tenant}/usage");
    wait_until("the usage is counted", async || {
        let usage = api.get(&path).await;
        let classes = usage["scans_by_class"]
            .as_object()
            .unwrap()
            .values()
            .map(|count| count.as_u64().unwrap())
            .sum::<u64>();
        // Each scan, and the creation of the code.
        let whole =
            (&usage["scans"], &usage["events"], &usage["deliveries"]) == (&json!(20), &json!(21), &json!(20));
        (whole && classes == 20).then_some(())
    })
    .await;
    server.stop().await;
}
