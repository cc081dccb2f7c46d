//! API keys: made, used, expired, revoked; wrong ones and too many requests; nothing of them in any log.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use qrelay_control::Rates;
use qrelay_store::{Timestamp, clock::ManualClock};
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    harness::{ADMIN, Api, Setup, code, endpoint},
    raw_grpc,
};

#[tokio::test]
async fn a_key_is_shown_once_and_listed_without_itself() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let path = format!("/v1/tenants/{tenant}/api_keys");
    let made = api
        .post(
            ADMIN,
            &format!("{path}?request_id=r"),
            json!({"name": "ci", "role": "read_only"}),
        )
        .await
        .ok();
    let key = made.text("key");
    assert!(key.starts_with("qrk_"), "{key}");
    assert_eq!(
        (made.body["name"].as_str(), made.body["role"].as_str()),
        (Some("ci"), Some("read_only"))
    );
    let again = api
        .post(
            ADMIN,
            &format!("{path}?request_id=r"),
            json!({"name": "ci", "role": "read_only"}),
        )
        .await
        .ok();
    assert_eq!(again.body["id"], made.body["id"]);
    assert!(again.body.get("key").is_none(), "{again:?}");
    let listed = api.get(ADMIN, &path).await.ok();
    assert_eq!(listed.body["api_keys"].as_array().unwrap().len(), 1);
    assert!(!listed.body.to_string().contains("qrk_"));
    assert!(listed.body["api_keys"][0].get("last_used_at").is_none());
    api.get(&key, "/v1/codes").await.ok();
    let used = api.get(ADMIN, &path).await.ok();
    assert!(used.body["api_keys"][0]["last_used_at"].is_string(), "{used:?}");
    let empty = api.post(ADMIN, &path, json!({})).await.ok();
    assert_eq!(empty.body["role"], "read_write");
    assert_eq!(
        api.post(
            ADMIN,
            &path,
            json!({"name": "\n", "expires_at": "2001-01-01T00:00:00Z"})
        )
        .await
        .fields(),
        ["name", "expires_at"]
    );
    assert_eq!(
        api.post(ADMIN, "/v1/tenants/ten_0000000000000000/api_keys", json!({}))
            .await
            .status,
        404
    );
    assert_eq!(
        api.delete(ADMIN, "/v1/api_keys/key_0000000000000000")
            .await
            .status,
        404
    );
    assert_eq!(api.delete(ADMIN, "/v1/api_keys/nonsense").await.status, 404);
}

#[tokio::test]
async fn a_key_stops_working_when_it_expires_or_is_revoked() {
    let clock = ManualClock::new(Timestamp::from_millis(1_800_000_000_000));
    let api = Api::start_with(Setup {
        clock: clock.clone(),
        ..Setup::default()
    })
    .await;
    let tenant = api.tenant().await;
    let path = format!("/v1/tenants/{tenant}/api_keys");
    let made = api
        .post(ADMIN, &path, json!({"expires_at": "2027-01-15T09:00:00Z"}))
        .await
        .ok();
    let key = made.text("key");
    api.get(&key, "/v1/codes").await.ok();
    clock.advance(Duration::from_secs(3600));
    let expired = api.get(&key, "/v1/codes").await;
    assert_eq!(expired.status, 401);
    assert!(
        expired.body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("expired")
    );
    let (id, key) = api.key(&tenant, "read_write").await;
    api.get(&key, "/v1/codes").await.ok();
    api.delete(ADMIN, &format!("/v1/api_keys/{id}")).await.ok();
    api.delete(ADMIN, &format!("/v1/api_keys/{id}")).await.ok();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while api.get(&key, "/v1/codes").await.status != 401 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "a revoked key still works"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let listed = api.get(ADMIN, &path).await.ok();
    assert!(!listed.body.to_string().contains(&id), "{listed:?}");
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_refused_but_keys_that_worked_still_do() {
    let api = Api::start().await;
    let (tenant, known) = api.tenant_and_key().await;
    let (_, fresh) = api.key(&tenant, "read_write").await;
    api.get(&known, "/v1/codes").await.ok();
    let mut statuses = Vec::new();
    for at in 0..40 {
        statuses.push(
            api.get(&format!("qrk_0000000000000000_{at}"), "/v1/codes")
                .await
                .status,
        );
    }
    let failed = statuses.iter().take_while(|status| **status == 401).count();
    assert!((20..30).contains(&failed), "{statuses:?}");
    assert!(statuses[failed..].contains(&429), "{statuses:?}");
    let refused = api.get(&fresh, "/v1/codes").await;
    assert_eq!(
        refused.status, 429,
        "a right guess looks like a wrong one: {refused:?}"
    );
    assert!(refused.headers.contains_key("retry-after"));
    api.get(&known, "/v1/codes").await.ok();
    api.get(ADMIN, "/v1/tenants").await.ok();
    let status = raw_grpc::call(
        api.channel().await,
        "/qrelay.v1.CodeService/ListCodes",
        "qrk_x",
        vec![],
    )
    .await;
    assert_eq!(status.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_key_has_its_own_rate_over_grpc_and_rest_together() {
    let rates = Rates {
        requests_per_second: 1,
        requests_burst: 5,
    };
    let api = Api::start_with(Setup {
        rates,
        ..Setup::default()
    })
    .await;
    let tenant = api.tenant().await;
    let (_, one) = api.key(&tenant, "read_write").await;
    let (_, two) = api.key(&tenant, "read_write").await;
    let mut last = None;
    for _ in 0..12 {
        last = Some(api.get(&one, "/v1/codes").await);
    }
    let last = last.unwrap();
    assert_eq!(
        (last.status, last.body["error"]["status"].as_str()),
        (429, Some("RESOURCE_EXHAUSTED"))
    );
    let wait: u64 = last.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    let mut client = api.codes(&one).await;
    let mut refused = None;
    for _ in 0..5 {
        refused = client
            .list_codes(qrelay_proto::v1::ListCodesRequest::default())
            .await
            .err()
            .or(refused);
    }
    let refused = refused.expect("the same key over gRPC is limited, too");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
    api.get(&two, "/v1/codes").await.ok();
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_key_and_no_secret_is_ever_logged() {
    let captured = Captured::default();
    let writer = captured.clone();
    // While there is only one subscriber, tracing asks the thread that meets a line first whether anybody listens, and keeps
    // the answer. That may be another test's thread, for which nobody does.
    let another = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(std::io::sink)
        .finish();
    let _another = tracing::Dispatch::new(another);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // The test's runtime has one thread, so this covers the server's tasks as well.
    let _guard = tracing::subscriber::set_default(subscriber);
    let api = Api::start().await;
    // Also for lines that were met just before.
    tracing::callsite::rebuild_interest_cache();
    let (_, key) = api.tenant_and_key().await;
    let made = api.post(&key, "/v1/endpoints", endpoint()).await.ok();
    let rotate = format!("/v1/endpoints/{}/rotate", made.text("id"));
    let rotated = api.post(&key, &rotate, json!({})).await.ok();
    api.post(&key, &rotate, json!({"secret": "whsec_bm90IGxvbmcgZW5vdWdo"}))
        .await;
    api.post(&key, "/v1/codes", code()).await.ok();
    api.get("qrk_0000000000000000_wrongwrongwrong", "/v1/codes").await;
    let mut client = api.endpoints(&key).await;
    client
        .list_endpoints(qrelay_proto::v1::ListEndpointsRequest::default())
        .await
        .unwrap();
    let log = String::from_utf8_lossy(&captured.0.lock().unwrap()).into_owned();
    assert!(log.len() > 1000, "nothing was captured: {log}");
    for secret in [
        key.as_str(),
        ADMIN,
        &made.text("secret")["whsec_".len()..],
        &rotated.text("secret")["whsec_".len()..],
        "bm90IGxvbmcgZW5vdWdo",
        "wrongwrongwrong",
    ] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a secret was logged");
    }
}
