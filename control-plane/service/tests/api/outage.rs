//! A store that fails: clear answers, nothing of its insides, and repeats that are safe.

use qrelay_store::fault::{Fault, Op};
use serde_json::json;

use crate::harness::{ADMIN, Api, code, endpoint};

#[tokio::test]
async fn while_the_store_is_away_calls_are_503_and_work_again_after() {
    let api = Api::start().await;
    let (tenant, key) = api.tenant_and_key().await;
    let codes = format!("/v1/codes?tenant_id={tenant}");
    let id = api.post(&key, "/v1/codes", code()).await.ok().text("id");
    for (op, method, path, body) in [
        (Op::Change, "POST", codes.as_str(), Some(code())),
        (Op::Codes, "GET", &codes, None),
        (
            Op::Code,
            "GET",
            &format!("/v1/codes/{id}?tenant_id={tenant}"),
            None,
        ),
        (Op::Tenant, "GET", &codes, None),
    ] {
        api.faults.break_all(op, Fault::Unavailable);
        let answer = api.rest(ADMIN, method, path, body.clone()).await;
        assert_eq!(
            (answer.status, answer.body["error"]["status"].as_str()),
            (503, Some("UNAVAILABLE")),
            "{op:?}"
        );
        assert_eq!(answer.headers["retry-after"], "1");
        api.faults.heal_all();
        api.rest(ADMIN, method, path, body).await.ok();
    }
    api.faults.break_all(Op::Codes, Fault::Corrupt);
    let answer = api.get(ADMIN, &codes).await;
    assert_eq!(
        (answer.status, answer.body["error"]["status"].as_str()),
        (500, Some("INTERNAL"))
    );
}

#[tokio::test]
async fn a_key_that_cannot_be_looked_up_is_not_called_wrong() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    api.faults.break_all(Op::ApiKey, Fault::Unavailable);
    for _ in 0..30 {
        assert_eq!(api.get(&key, "/v1/codes").await.status, 503);
    }
    api.faults.heal_all();
    api.get(&key, "/v1/codes").await.ok();
    // What was noted of the use is nobody's concern but ours.
    let (_, other) = api.tenant_and_key().await;
    api.faults.break_all(Op::TouchApiKey, Fault::Unavailable);
    api.get(&other, "/v1/codes").await.ok();
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_repeated_safely() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    for (path, body, list) in [
        ("/v1/codes?request_id=r", code(), "/v1/codes"),
        ("/v1/endpoints?request_id=r", endpoint(), "/v1/endpoints"),
    ] {
        api.faults.break_next(Op::Change, 1, Fault::LoseAnswer);
        assert_eq!(api.post(&key, path, body.clone()).await.status, 503);
        let made = api.post(&key, path, body).await.ok();
        assert!(
            made.body.get("secret").is_none(),
            "nobody has its secret: it has to be rotated"
        );
        let listed = api.get(&key, list).await.ok();
        let rows = listed
            .body
            .as_object()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .as_array()
            .unwrap();
        assert_eq!(rows.len(), 1, "{listed:?}");
        assert_eq!(rows[0]["id"], made.body["id"]);
    }
    api.faults.break_next(Op::Change, 1, Fault::LoseAnswer);
    let path = format!(
        "/v1/codes/{}",
        api.get(&key, "/v1/codes").await.ok().body["codes"][0]["id"]
            .as_str()
            .unwrap()
    );
    assert_eq!(api.patch(&key, &path, json!({"name": "x"})).await.status, 503);
    let repeated = api.patch(&key, &path, json!({"name": "x"})).await.ok();
    assert_eq!(repeated.body["version"], 2, "the repeat found it done");
}
