//! Endpoints: what may be written, where a URL may lead, secrets, findings of the owner, tests, deliveries.

use std::{collections::BTreeSet, sync::Arc};

use qrelay_proto::v1;
use qrelay_store::{
    Timestamp,
    checkpoint::{Backlog, BacklogReason, EndpointHealth, HealthState, RowKey},
    event::EventType,
    id::{CodeId, EndpointId, EventAddress, OwnerId, PartitionId},
    model::Endpoint,
    seal::{MasterKeys, Purpose, Sealer},
    store::{AttemptRow, Cas, CheckpointDelta, CommandKind, CommandResult, DeliveryStatus, Fence, Lease},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::harness::{ADMIN, Api, endpoint};

#[tokio::test]
async fn rules_of_failure_have_defaults_and_are_set_one_by_one() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let mut body = endpoint();
    body["failure"] = json!({"degrade_after": 0, "gone_disables": false});
    let made = api.post(&key, "/v1/endpoints", body).await.ok();
    let mut rules = json!({
        "retry_after_max": "86400s", "gone_disables": false, "overload_slows": true, "degrade_after": 0,
        "disable_after": "86400s", "client_errors_retried": true,
    });
    assert_eq!(made.body["failure"], rules);
    let path = format!("/v1/endpoints/{}", made.text("id"));
    let set = async |rules: Value| api.patch(&key, &path, json!({"failure": rules})).await;
    for (rule, value) in [
        ("retry_after_max", json!("0s")),
        ("gone_disables", json!(true)),
        ("overload_slows", json!(false)),
        ("degrade_after", json!(12)),
        ("disable_after", json!("0s")),
        ("client_errors_retried", json!(false)),
    ] {
        rules[rule] = value.clone();
        assert_eq!(set(json!({rule: value})).await.ok().body["failure"], rules);
    }
    for (rule, wrong) in [
        ("retry_after_max", json!("86401s")),
        ("degrade_after", json!(1001)),
        ("degrade_after", json!(-1)),
        ("disable_after", json!("59s")),
        ("disable_after", json!("2592001s")),
    ] {
        let refused = set(json!({rule: wrong})).await;
        assert!(
            refused.status == 400 && refused.body.to_string().contains(rule),
            "{refused:?}"
        );
    }
    let cleared = set(json!({"degrade_after": null})).await.ok();
    assert_eq!(cleared.body["failure"]["degrade_after"], 5);
}

#[tokio::test]
async fn a_rate_limit_is_set_changed_by_its_parts_and_lifted() {
    let api = Api::start().await;
    let (tenant, key) = api.tenant_and_key().await;
    let with = |limit: Value| {
        let mut body = endpoint();
        body["rate_limit"] = limit;
        body
    };
    let made = api
        .post(&key, "/v1/endpoints", with(json!({"per_second": 2.5})))
        .await
        .ok();
    assert_eq!(made.body["rate_limit"], json!({"per_second": 2.5, "burst": 1}));
    let tenant = format!("/v1/tenants/{tenant}");
    for (who, path) in [
        (key.as_str(), format!("/v1/endpoints/{}", made.text("id"))),
        (ADMIN, tenant),
    ] {
        let set = async |limit: Value| api.patch(who, &path, json!({"rate_limit": limit})).await;
        let shown = set(json!({"burst": 7, "per_second": 5})).await.ok();
        assert_eq!(shown.body["rate_limit"], json!({"per_second": 5, "burst": 7}));
        let shown = set(json!({"per_second": 0.1})).await.ok();
        assert_eq!(shown.body["rate_limit"], json!({"per_second": 0.1, "burst": 7}));
        assert_eq!(
            api.get(who, &path).await.ok().body["rate_limit"],
            shown.body["rate_limit"]
        );
        for (wrong, field) in [
            (json!({"per_second": 0}), "rate_limit.per_second"),
            (json!({"per_second": 100_001}), "rate_limit.per_second"),
            (json!({"burst": -1}), "rate_limit.burst"),
        ] {
            let refused = set(wrong).await;
            assert_eq!(refused.status, 400);
            assert!(refused.body.to_string().contains(field), "{refused:?}");
        }
        let shown = set(Value::Null).await.ok();
        assert!(shown.body.get("rate_limit").is_none(), "{shown:?}");
    }
}

#[tokio::test]
async fn a_filter_is_set_whole_or_by_its_parts_and_its_entries_are_named() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let codes = [CodeId::from_bytes([1; 10]), CodeId::from_bytes([2; 10])].map(|id| id.to_string());
    let mut body = endpoint();
    body["filter"] = json!({"codes": [codes[1], codes[0], codes[1]], "humans_only": true});
    let made = api.post(&key, "/v1/endpoints", body.clone()).await.ok();
    let filter = json!({
        "codes": codes, "tags": [], "campaigns": [], "classifications": [], "humans_only": true, "expression": "",
    });
    assert_eq!(made.body["filter"], filter, "repeats count once");
    for (wrong, field) in [
        (json!({"codes": ["menu"]}), "filter.codes[0]"),
        (json!({"codes": vec![&codes[0]; 501]}), "filter.codes"),
        (
            json!({"classifications": ["human", "people"]}),
            "filter.classifications[1]",
        ),
    ] {
        body["filter"] = wrong;
        let refused = api.post(&key, "/v1/endpoints", body.clone()).await;
        assert_eq!((refused.status, refused.fields()), (400, vec![field.to_owned()]));
    }

    let mut client = api.endpoints(&key).await;
    let mut update = async |filter: Option<v1::Filter>, path: &str| {
        let request = v1::UpdateEndpointRequest {
            id: made.text("id"),
            endpoint: Some(v1::Endpoint {
                filter,
                ..Default::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec![path.to_owned()],
            }),
            ..Default::default()
        };
        let changed = client.update_endpoint(request).await;
        changed.map(|answer| answer.into_inner().filter)
    };
    let given = v1::Filter {
        codes: vec![codes[0].clone()],
        classifications: vec!["tool".into()],
        tags: vec!["lobby".into()],
        campaigns: vec!["spring".into()],
        ..v1::Filter::default()
    };
    let by_code = update(Some(given.clone()), "filter.codes")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(by_code.codes, [codes[0].clone()]);
    assert!(by_code.classifications.is_empty() && by_code.humans_only);
    let all = update(Some(given.clone()), "filter").await.unwrap();
    assert_eq!(all, Some(given.clone()));
    let fewer = update(None, "filter.codes").await.unwrap().unwrap();
    assert!(fewer.codes.is_empty() && fewer.classifications == given.classifications);
    assert_eq!(update(None, "filter").await.unwrap(), None);
    assert!(update(None, "filter.nope").await.is_err());
}

#[tokio::test]
async fn a_filters_expression_is_judged_when_it_is_written_and_the_place_is_named() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let with = |expression: &str| {
        let mut body = endpoint();
        body["filter"] = json!({"expression": expression});
        body
    };
    for (wrong, place) in [
        ("data.country ==", "line 1, column"),
        ("true &&\n  data.tags.all(tag, true)", "line 2, column"),
        ("nothing.there", "line 1, column 1: unknown name `nothing`"),
        ("data.country", "not a boolean"),
    ] {
        let refused = api.post(&key, "/v1/endpoints", with(wrong)).await;
        assert_eq!(
            (refused.status, refused.fields()),
            (400, vec!["filter.expression".to_owned()])
        );
        assert!(refused.body.to_string().contains(place), "{refused:?}");
    }
    let long = format!("true || '{}' == ''", "x".repeat(2048));
    assert_eq!(api.post(&key, "/v1/endpoints", with(&long)).await.status, 400);

    let made = api
        .post(&key, "/v1/endpoints", with("data.metadata.table > 5"))
        .await
        .ok();
    let path = format!("/v1/endpoints/{}", made.text("id"));
    let changes = json!({"filter": {"expression": "data.country in ['CA'"}});
    let refused = api.patch(&key, &path, changes).await;
    assert_eq!(
        (refused.status, refused.fields()),
        (400, vec!["filter.expression".to_owned()])
    );
    let changes = json!({"filter": {"expression": "data.country in ['CA']"}});
    let changed = api.patch(&key, &path, changes).await.ok();
    assert_eq!(changed.body["filter"]["expression"], "data.country in ['CA']");
}

#[tokio::test]
async fn an_endpoint_is_created_read_changed_and_deleted() {
    let api = Api::start().await;
    let (tenant, key) = api.tenant_and_key().await;
    let made = api.post(&key, "/v1/endpoints", endpoint()).await.ok();
    let secret = made.text("secret");
    assert!(secret.starts_with("whsec_"), "{secret}");
    assert_eq!(made.body["status"], "active");
    assert_eq!(made.body["max_concurrency"], 16);
    assert_eq!(made.body["consecutive_failures"], 0);
    assert_eq!(made.body["tenant_id"], tenant);
    let schedule = [
        "0s", "60s", "300s", "1800s", "7200s", "14400s", "14400s", "14400s", "14400s", "14400s",
    ];
    assert_eq!(made.body["retry_schedule"], json!(schedule));
    assert!(made.body.get("backlog").is_none(), "nothing waits: {made:?}");
    let path = format!("/v1/endpoints/{}", made.text("id"));
    let read = api.get(&key, &path).await.ok();
    let mut without_secret = made.body.clone();
    without_secret.as_object_mut().unwrap().remove("secret");
    assert_eq!(read.body, without_secret, "a secret is shown once");
    let changes = json!({
        "description": "orders", "events": ["scan.*", "code.created"], "retry_schedule": ["0s", "1.500s"],
        "max_concurrency": 3, "status": "paused", "url": "https://other.example.com/x",
    });
    let changed = api.patch(&key, &path, changes.clone()).await.ok();
    for (field, value) in changes.as_object().unwrap() {
        assert_eq!(&changed.body[field], value, "{field}");
    }
    assert_ne!(changed.body["etag"], made.body["etag"]);
    let listed = api.get(&key, "/v1/endpoints").await.ok();
    assert_eq!(
        listed.body,
        json!({"endpoints": [changed.body], "next_page_token": ""})
    );
    let stale = api
        .delete(&key, &format!("{path}?etag={}", made.text("etag")))
        .await;
    assert_eq!(stale.status, 409);
    assert_eq!(api.delete(&key, &path).await.ok().body, json!({}));
    assert_eq!(api.delete(&key, &path).await.ok().body, json!({}));
    assert_eq!(api.get(&key, &path).await.status, 404);
    assert_eq!(
        api.patch(&key, &path, json!({"status": "active"})).await.status,
        404
    );
    assert_eq!(
        api.get(&key, "/v1/endpoints").await.ok().body["endpoints"],
        json!([])
    );
    assert_eq!(
        api.get(&key, &format!("{path}/deliveries")).await.ok().body["deliveries"],
        json!([])
    );
}

#[tokio::test]
async fn wrong_fields_are_all_named() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let with = |field: &str, value: Value| {
        let mut endpoint = endpoint();
        endpoint[field] = value;
        endpoint
    };
    for (body, fields) in [
        (json!({}), vec!["events", "url"]),
        (with("events", json!([])), vec!["events"]),
        (
            with("events", json!(["*", "scan", "nope.*"])),
            vec!["events[1]", "events[2]"],
        ),
        (with("status", json!("degraded")), vec!["status"]),
        (with("status", json!("disabled")), vec!["status"]),
        (
            with("retry_schedule", json!(["0s", "0.5s"])),
            vec!["retry_schedule[1]"],
        ),
        (
            with("retry_schedule", json!(["86401s"])),
            vec!["retry_schedule[0]"],
        ),
        (
            with("retry_schedule", json!(vec!["1s"; 21])),
            vec!["retry_schedule"],
        ),
        (with("max_concurrency", json!(257)), vec!["max_concurrency"]),
        (with("max_concurrency", json!(-1)), vec!["max_concurrency"]),
        (with("description", json!("x".repeat(501))), vec!["description"]),
        (with("secret", json!("")), vec!["secret"]),
        (with("secret", json!("whsec_c2hvcnQ=")), vec!["secret"]),
        (with("secret", json!("not-a-secret")), vec!["secret"]),
    ] {
        let answer = api.post(&key, "/v1/endpoints", body.clone()).await;
        let found: BTreeSet<_> = answer.fields().into_iter().collect();
        let expected: BTreeSet<_> = fields.into_iter().map(str::to_owned).collect();
        assert_eq!((answer.status, found), (400, expected), "{body}: {answer:?}");
        assert!(
            !answer.body.to_string().contains("c2hvcnQ"),
            "a given secret is never repeated"
        );
    }
    assert_eq!(
        api.get(&key, "/v1/endpoints").await.ok().body["endpoints"],
        json!([])
    );
}

#[tokio::test]
async fn a_url_that_does_not_lead_to_a_public_server_is_refused_at_create_and_change() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let path = format!(
        "/v1/endpoints/{}",
        api.post(&key, "/v1/endpoints", endpoint()).await.ok().text("id")
    );
    for url in [
        "http://hooks.example.com/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://inside.example.com/",
        "https://unknown.example.com/",
        "https://hooks.example.com:22/",
        "https://user:pass@hooks.example.com/",
        "ftp://hooks.example.com/",
        "nonsense",
    ] {
        let body = json!({"url": url, "events": ["*"]});
        let created = api.post(&key, "/v1/endpoints", body).await;
        assert_eq!(
            (created.status, created.fields()),
            (400, vec!["url".to_owned()]),
            "{url}: {created:?}"
        );
        assert!(
            !created.body.to_string().contains("10.0.0.7"),
            "our network stays untold"
        );
        assert_eq!(
            api.patch(&key, &path, json!({"url": url})).await.fields(),
            ["url"],
            "{url}"
        );
    }
    let body = json!({"url": "https://down.example.com/", "events": ["*"]});
    let unknown = api.post(&key, "/v1/endpoints", body).await;
    assert_eq!(
        unknown.status, 503,
        "nobody knows whether it is good: {unknown:?}"
    );
    assert!(unknown.headers.contains_key("retry-after"));
    assert_eq!(
        api.get(&key, &path).await.ok().text("url"),
        "https://hooks.example.com/in"
    );
}

#[tokio::test]
async fn secrets_are_sealed_for_their_row_and_shown_only_by_the_call_that_made_them() {
    let api = Api::start().await;
    let (tenant, key) = api.tenant_and_key().await;
    let own = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let mut body = endpoint();
    body["secret"] = json!(own);
    let made = api
        .post(&key, "/v1/endpoints?request_id=r", body.clone())
        .await
        .ok();
    assert_eq!(made.text("secret"), own);
    let replayed = api.post(&key, "/v1/endpoints?request_id=r", body).await.ok();
    assert_eq!(replayed.body["id"], made.body["id"]);
    assert!(replayed.body.get("secret").is_none(), "{replayed:?}");
    let id: EndpointId = made.text("id").parse().unwrap();
    let (keys, created) = MasterKeys::load_or_create(&api.dir.path().join("master.key")).unwrap();
    assert!(!created);
    let sealer = Sealer::new(Arc::new(keys));
    let stored = api.store.secrets(id).await.unwrap();
    assert_eq!(stored.len(), 1);
    let opened = sealer
        .open(
            Purpose::SigningSecret,
            tenant.parse().unwrap(),
            id,
            stored[0].id,
            &stored[0].sealed,
        )
        .unwrap();
    assert_eq!(opened.expose_secret(), b"0123456789abcdef0123456789abcdef");
    sealer.check(&*api.store).await.unwrap();
    let path = format!("/v1/endpoints/{id}");
    let rotated = api.post(&key, &format!("{path}/rotate"), json!({})).await.ok();
    assert!(rotated.text("secret").starts_with("whsec_") && rotated.text("secret") != own);
    assert_ne!(rotated.body["etag"], made.body["etag"]);
    let after = api.store.secrets(id).await.unwrap();
    assert_eq!(after.len(), 1, "the old one ends at once");
    assert_ne!(after[0].id, stored[0].id);
    let mine = api
        .post(&key, &format!("{path}/rotate"), json!({"secret": own}))
        .await
        .ok();
    assert_eq!(mine.text("secret"), own);
    assert_eq!(
        api.post(&key, &format!("{path}/rotate"), json!({"secret": "x"}))
            .await
            .fields(),
        ["secret"]
    );
    assert_eq!(api.patch(&key, &path, json!({"secret": own})).await.status, 400);
    assert!(api.get(&key, &path).await.ok().body.get("secret").is_none());
    assert!(
        !api.get(&key, "/v1/endpoints")
            .await
            .ok()
            .body
            .to_string()
            .contains("whsec_")
    );
    api.delete(&key, &path).await.ok();
    assert_eq!(
        api.store.secrets(id).await.unwrap(),
        [],
        "a deleted endpoint keeps no secret"
    );
}

#[tokio::test]
async fn a_change_of_the_scheme_makes_a_new_secret_and_one_of_a_header_does_not() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let made = api.post(&key, "/v1/endpoints", endpoint()).await.ok();
    let path = format!("/v1/endpoints/{}", made.text("id"));
    let id: EndpointId = made.text("id").parse().unwrap();
    assert_eq!(made.body["signature"]["scheme"], "standard");
    let ed25519 = json!({"signature": {"scheme": "standard_ed25519"}});
    let changed = api.patch(&key, &path, ed25519.clone()).await.ok();
    assert!(changed.text("secret").starts_with("whsk_"));
    assert!(changed.text("public_key").starts_with("whpk_"));
    assert_eq!(api.store.secrets(id).await.unwrap().len(), 1);
    let again = api.patch(&key, &path, ed25519).await.ok();
    assert!(again.body.get("secret").is_none(), "nothing changed");
    assert_eq!(again.body["public_key"], changed.body["public_key"]);

    let own = "the-customers-own-text";
    let hex = json!({"signature": {"scheme": "hex_body", "header": "X-Sig"}, "secret": own});
    let changed = api.patch(&key, &path, hex).await.ok();
    assert_eq!(changed.text("secret"), own);
    assert!(changed.body.get("public_key").is_none());
    let header = json!({"signature": {"event_header": "X-Event"}});
    let changed = api.patch(&key, &path, header).await.ok();
    assert!(changed.body.get("secret").is_none());
    assert_eq!(
        changed.body["signature"],
        json!({"scheme": "hex_body", "header": "X-Sig", "timestamp_header": "", "event_header": "X-Event",
            "delivery_header": ""})
    );
    for (body, field) in [
        (json!({"signature": {"header": "Host"}}), "signature.header"),
        (json!({"signature": {"header": "x-event"}}), "signature.header"),
        (json!({"secret": own}), "secret"),
        (
            json!({"signature": {"scheme": "standard", "header": ""}, "secret": own}),
            "secret",
        ),
    ] {
        let refused = api.patch(&key, &path, body.clone()).await;
        assert_eq!(refused.status, 400, "{body}: {refused:?}");
        assert!(
            refused.fields().contains(&field.to_owned()),
            "{body}: {refused:?}"
        );
    }
    let none = json!({"signature": {"scheme": "none", "header": ""}});
    let changed = api.patch(&key, &path, none).await.ok();
    assert!(changed.body.get("secret").is_none());
    assert_eq!(api.store.secrets(id).await.unwrap(), []);
    let refused = api.post(&key, &format!("{path}/rotate"), json!({})).await;
    assert_eq!(refused.status, 400, "{refused:?}");
}

#[tokio::test]
async fn a_rotation_with_an_overlap_keeps_the_old_secret_until_its_hour() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let made = api.post(&key, "/v1/endpoints", endpoint()).await.ok();
    let id: EndpointId = made.text("id").parse().unwrap();
    let rotate = format!("/v1/endpoints/{id}/rotate");
    let old = api.store.secrets(id).await.unwrap();
    api.post(&key, &rotate, json!({"overlap": "86400s"})).await.ok();
    let both = api.store.secrets(id).await.unwrap();
    assert_eq!((both.len(), both[0].expires_at), (2, None));
    assert_eq!(both[1].id, old[0].id);
    let expected = both[0].created_at.after(std::time::Duration::from_secs(86_400));
    assert_eq!(both[1].expires_at, Some(expected));
    for body in [
        json!({"overlap": "604801s"}),
        json!({"overlap": "-1s"}),
        json!({"overlap": "60s", "immediate": true}),
    ] {
        let refused = api.post(&key, &rotate, body.clone()).await;
        assert_eq!(
            (refused.status, refused.fields()),
            (400, vec!["overlap".to_owned()]),
            "{body}"
        );
    }
    // Its answer is lost and it is sent again: the old secret stays.
    let secret = format!("whsec_{}", data_encoding::BASE64.encode(&[5; 32]));
    let again = json!({"secret": secret, "overlap": "60s"});
    api.post(&key, &rotate, again.clone()).await.ok();
    let before = api.store.secrets(id).await.unwrap();
    let answer = api.post(&key, &rotate, again).await.ok();
    assert_eq!(answer.text("secret"), secret);
    assert_eq!(api.store.secrets(id).await.unwrap(), before);
    let at_once = json!({"secret": secret, "immediate": true});
    api.post(&key, &rotate, at_once).await.ok();
    assert_eq!(api.store.secrets(id).await.unwrap().len(), 1);
    api.post(&key, &rotate, json!({"overlap": "60s"})).await.ok();
    api.post(&key, &rotate, json!({"immediate": true})).await.ok();
    assert_eq!(api.store.secrets(id).await.unwrap().len(), 1);

    let mut one_signature = endpoint();
    one_signature["signature"] = json!({"scheme": "hex_body"});
    let made = api.post(&key, "/v1/endpoints", one_signature).await.ok();
    let rotate = format!("/v1/endpoints/{}/rotate", made.text("id"));
    let refused = api.post(&key, &rotate, json!({"overlap": "60s"})).await;
    assert_eq!(refused.fields(), ["overlap"], "it carries one signature");
    api.post(&key, &rotate, json!({})).await.ok();
}

/// Saves an endpoint's health as the owner of its home would.
async fn found(api: &Api, endpoint: &Endpoint, health: &EndpointHealth) {
    let store = &api.store;
    let fence = match store.lease(endpoint.home).await.unwrap() {
        Some(lease) => lease.fence,
        None => {
            let fence = Fence { epoch: 1, beat: 0 };
            let lease = Lease {
                fence,
                owner: Some(OwnerId::random()),
                addr: String::new(),
            };
            assert_eq!(
                store.claim(endpoint.home, None, &lease).await.unwrap(),
                Cas::Applied
            );
            fence
        }
    };
    let mut delta = CheckpointDelta::default();
    delta.rows.insert(
        RowKey::health(endpoint.id),
        Some(serde_json::to_string(health).unwrap()),
    );
    assert_eq!(
        store
            .save(endpoint.home, fence, fence.beat + 1, &delta)
            .await
            .unwrap(),
        Cas::Applied
    );
}

/// Failures, and a backlog that is due at the start of 2027.
fn degraded() -> EndpointHealth {
    let at = Timestamp::from_millis(1_800_000_000_000);
    let backlog = Backlog {
        events: 7,
        oldest_at: Some(at),
        reason: BacklogReason::Retrying,
        next_send_at: Some(at),
        by_limit: false,
    };
    EndpointHealth {
        state: HealthState::Degraded,
        consecutive_failures: 5,
        backlog: Some(backlog),
        ..EndpointHealth::default()
    }
}

#[tokio::test]
async fn what_the_owner_found_is_shown_until_the_endpoint_is_set_active() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let id = api.post(&key, "/v1/endpoints", endpoint()).await.ok().text("id");
    let path = format!("/v1/endpoints/{id}");
    let row = api.store.endpoint(id.parse().unwrap()).await.unwrap().unwrap();
    let health = degraded();
    found(&api, &row, &health).await;
    let shown = api.get(&key, &path).await.ok();
    assert_eq!(
        (
            shown.body["status"].as_str(),
            shown.body["consecutive_failures"].as_i64()
        ),
        (Some("degraded"), Some(5))
    );
    let expected = json!({
        "events": 7, "oldest_at": "2027-01-15T08:00:00.000Z", "reason": "retrying",
        "next_send_at": "2027-01-15T08:00:00.000Z",
    });
    assert_eq!(shown.body["backlog"], expected);
    assert_eq!(
        api.patch(&key, &path, json!({"status": "disabled"}))
            .await
            .fields(),
        ["status"]
    );
    assert_eq!(
        api.patch(&key, &path, json!({"status": "paused"}))
            .await
            .ok()
            .body["status"],
        "paused"
    );
    let active = api.patch(&key, &path, json!({"status": "active"})).await.ok();
    assert_eq!(
        active.body["status"], "active",
        "what was found before counts no more"
    );
    assert_eq!(active.body["consecutive_failures"], 0);
    assert!(active.body.get("backlog").is_none(), "{active:?}");
    let row = api.store.endpoint(id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.enabled_epoch, 1);
    let again = EndpointHealth {
        state: HealthState::Disabled,
        enabled_epoch: 1,
        ..health
    };
    found(&api, &row, &again).await;
    let shown = api.get(&key, &path).await.ok();
    assert_eq!(shown.body["status"], "disabled");
    assert_eq!(shown.body["backlog"]["events"], 7);
    assert!(
        shown.body["backlog"].get("next_send_at").is_none(),
        "it waits for its tenant: {shown:?}"
    );
    assert_eq!(
        api.get(&key, "/v1/endpoints").await.ok().body["endpoints"][0]["status"],
        "disabled"
    );
    api.patch(&key, &path, json!({"description": "x"})).await.ok();
    assert_eq!(
        api.get(&key, &path).await.ok().body["status"],
        "disabled",
        "another change enables nothing"
    );
}

#[tokio::test]
async fn what_waits_is_never_said_to_wait_for_a_pause_that_is_over_or_for_anything_else_in_one() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let id = api.post(&key, "/v1/endpoints", endpoint()).await.ok().text("id");
    let path = format!("/v1/endpoints/{id}");
    let row = api.store.endpoint(id.parse().unwrap()).await.unwrap().unwrap();
    let mut health = EndpointHealth {
        state: HealthState::Healthy,
        consecutive_failures: 0,
        ..degraded()
    };
    found(&api, &row, &health).await;
    let paused = api
        .patch(&key, &path, json!({"status": "paused"}))
        .await
        .ok()
        .body;
    assert_eq!(paused["backlog"]["reason"], "paused");
    assert!(paused["backlog"].get("next_send_at").is_none(), "{paused}");
    health.backlog = health.backlog.map(|backlog| Backlog {
        reason: BacklogReason::Paused,
        next_send_at: None,
        ..backlog
    });
    found(&api, &row, &health).await;
    let active = api
        .patch(&key, &path, json!({"status": "active"}))
        .await
        .ok()
        .body;
    assert_eq!(active["backlog"]["reason"], "catching_up");
    assert!(active["backlog"].get("next_send_at").is_some(), "{active}");
}

#[tokio::test]
async fn what_waits_is_skipped_only_when_the_status_is_set_active_with_resume_now() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let mut given = endpoint();
    given["resume"] = json!("now");
    let refused = api.post(&key, "/v1/endpoints", given).await;
    assert_eq!(refused.fields(), ["resume"], "nothing waits for a new one");
    let id = api.post(&key, "/v1/endpoints", endpoint()).await.ok().text("id");
    let path = format!("/v1/endpoints/{id}");
    for alone in [
        json!({"resume": "now"}),
        json!({"resume": "where_stopped", "description": "x"}),
        json!({"resume": "now", "status": "paused"}),
        json!({"resume": "later", "status": "active"}),
    ] {
        assert_eq!(api.patch(&key, &path, alone).await.fields(), ["resume"]);
    }
    let masked = format!("{path}?update_mask=description");
    let masked = api.patch(&key, &masked, json!({"status": "active", "resume": "now"}));
    assert_eq!(masked.await.fields(), ["resume"]);
    let stored = async || api.store.endpoint(id.parse().unwrap()).await.unwrap().unwrap();
    for keeps in [
        json!({"status": "active"}),
        json!({"status": "active", "resume": "where_stopped"}),
    ] {
        let etag = api.get(&key, &path).await.ok().text("etag");
        let shown = api.patch(&key, &path, keeps).await.ok();
        assert_eq!(shown.text("etag"), etag, "nothing changed");
        assert_eq!(stored().await.skip_before, None);
    }
    let health = EndpointHealth {
        state: HealthState::Healthy,
        consecutive_failures: 0,
        backlog: degraded().backlog.map(|backlog| Backlog {
            oldest_at: Some(Timestamp::from_millis(1_700_000_000_000)),
            ..backlog
        }),
        ..EndpointHealth::default()
    };
    found(&api, &*stored().await, &health).await;
    assert_eq!(api.get(&key, &path).await.ok().body["backlog"]["events"], 7);
    let shown = api
        .patch(&key, &path, json!({"status": "active", "resume": "now"}))
        .await
        .ok();
    let first = stored().await.skip_before.unwrap();
    assert!(first >= stored().await.created_at);
    assert!(shown.body.get("resume").is_none(), "{shown:?}");
    assert!(
        shown.body.get("backlog").is_none(),
        "what is skipped does not wait: {shown:?}"
    );
    api.patch(&key, &path, json!({"status": "active"})).await.ok();
    assert_eq!(stored().await.skip_before, Some(first), "another one leaves it");
}

fn attempt(endpoint: &Endpoint, first_ms: i64, number: u32, status: DeliveryStatus) -> AttemptRow {
    let first_at = Timestamp::from_millis(first_ms);
    let failed = status != DeliveryStatus::Succeeded;
    AttemptRow {
        endpoint: endpoint.id,
        first_at,
        event: EventAddress {
            index: u16::try_from(first_ms % 60_000).unwrap(),
            ..EventAddress::test()
        },
        event_type: EventType::ScanCreated,
        number,
        started_at: Timestamp::from_millis(first_ms + i64::from(number) * 60_000),
        duration_ms: 31,
        status,
        response_status: if failed { Some(500) } else { Some(200) },
        error_class: if failed { "http".into() } else { String::new() },
        fault: String::new(),
        error: if failed {
            "answered 500".into()
        } else {
            String::new()
        },
        next_attempt_at: None,
        detail: json!({}),
        response_body: bytes::Bytes::from_static(b"\xffoops"),
        code: None,
    }
}

#[tokio::test]
async fn a_retry_is_never_due_in_the_past_and_not_at_all_while_its_endpoint_is_paused() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let id = api.post(&key, "/v1/endpoints", endpoint()).await.ok().text("id");
    let path = format!("/v1/endpoints/{id}");
    let row = api.store.endpoint(id.parse().unwrap()).await.unwrap().unwrap();
    let overdue = AttemptRow {
        next_attempt_at: Some(Timestamp::from_millis(1_700_000_060_000)),
        ..attempt(&row, 1_700_000_000_000, 1, DeliveryStatus::Retrying)
    };
    api.store.record_attempts(vec![overdue]).await.unwrap();
    let list = format!("{path}/deliveries");
    let first = async || api.get(&key, &list).await.ok().body["deliveries"][0].clone();
    let shown = first().await;
    assert!(
        shown["next_attempt_at"].as_str().unwrap() > "2025",
        "it is due now: {shown}"
    );
    api.patch(&key, &path, json!({"status": "paused"})).await.ok();
    let shown = first().await;
    assert_eq!(shown["status"], "retrying");
    assert!(shown.get("next_attempt_at").is_none(), "{shown}");
    let delivery = format!("/v1/deliveries/{}", shown["id"].as_str().unwrap());
    let shown = api.get(&key, &delivery).await.ok().body;
    assert!(shown.get("next_attempt_at").is_none(), "{shown}");
}

/// Records deliveries that failed once and then succeeded, and lists them in pages of two.
async fn listed_deliveries(api: &Api, key: &str, id: &str, count: i64) -> Vec<Value> {
    let row = api.store.endpoint(id.parse().unwrap()).await.unwrap().unwrap();
    let mut rows = Vec::new();
    for at in 0..count {
        let first = attempt(&row, 1_800_000_000_000 + at, 1, DeliveryStatus::Retrying);
        let second = attempt(&row, 1_800_000_000_000 + at, 2, DeliveryStatus::Succeeded);
        rows.extend([
            AttemptRow {
                event: second.event,
                ..first
            },
            second,
        ]);
    }
    api.store.record_attempts(rows).await.unwrap();
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/endpoints/{id}/deliveries?page_size=2&page_token={token}");
        let page = api.get(key, &path).await.ok();
        seen.extend(page.body["deliveries"].as_array().unwrap().iter().cloned());
        token = page.text("next_page_token");
        if token.is_empty() {
            return seen;
        }
    }
}

#[tokio::test]
async fn deliveries_are_listed_newest_first_in_pages_and_read_with_their_attempts() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let id = api.post(&key, "/v1/endpoints", endpoint()).await.ok().text("id");
    let seen = listed_deliveries(&api, &key, &id, 5).await;
    assert_eq!(seen.len(), 5);
    let times: Vec<_> = seen
        .iter()
        .map(|row| row["created_at"].as_str().unwrap())
        .collect();
    assert!(times.is_sorted_by(|a, b| a > b), "{times:?}");
    let first = &seen[0];
    assert_eq!(
        (&first["status"], &first["attempts"]),
        (&json!("succeeded"), &json!(2))
    );
    assert_eq!(
        (&first["response_status"], &first["error"]),
        (&json!(200), &json!(""))
    );
    assert!(first["event_id"].as_str().unwrap().starts_with("evt_"));
    assert!(
        seen.iter().all(|row| row.get("attempt_log").is_none()),
        "attempts are shown in a delivery's own answer only: {first}"
    );
    let delivery = first["id"].as_str().unwrap();
    let read = api.get(&key, &format!("/v1/deliveries/{delivery}")).await.ok();
    let log = &read.body["attempt_log"];
    assert_eq!((&log[0]["number"], &log[1]["number"]), (&json!(1), &json!(2)));
    assert_eq!(
        (&log[0]["error_class"], &log[0]["response_body"]),
        (&json!("http"), &json!("\u{fffd}oops"))
    );
    let (_, other) = api.tenant_and_key().await;
    let foreign = api.get(&other, &format!("/v1/deliveries/{delivery}")).await;
    assert_eq!(foreign.status, 404);
    for nonsense in ["dlv_", "x", &delivery.replace("dlv_", "dlv_0")] {
        let answer = api.get(&key, &format!("/v1/deliveries/{nonsense}")).await;
        assert_eq!(answer.status, 404, "{nonsense}");
    }
}

#[tokio::test]
async fn deliveries_are_filtered_and_a_token_holds_for_its_filter_only() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let id = api.post(&key, "/v1/endpoints", endpoint()).await.ok().text("id");
    let row = api.store.endpoint(id.parse().unwrap()).await.unwrap().unwrap();
    let code = CodeId::random();
    let rows = (0..4_i64).map(|at| AttemptRow {
        code: (at < 2).then_some(code),
        ..attempt(
            &row,
            1_800_000_000_000 + at * 1000,
            1,
            if at % 2 == 0 {
                DeliveryStatus::GivenUp
            } else {
                DeliveryStatus::Succeeded
            },
        )
    });
    api.store.record_attempts(rows.collect()).await.unwrap();
    let list = async |query: &str| {
        api.get(&key, &format!("/v1/endpoints/{id}/deliveries?{query}"))
            .await
    };
    let of_code = format!("code_id={code}");
    let both = format!("code_id={code}&status=given_up&type=scan.*");
    for (query, count) in [
        ("", 4),
        ("status=given_up", 2),
        ("status=retrying", 0),
        (of_code.as_str(), 2),
        (both.as_str(), 1),
        ("type=code.*", 0),
        ("start_time=2027-01-15T08:00:01Z", 3),
        ("start_time=2027-01-15T08:00:01Z&end_time=2027-01-15T08:00:02Z", 1),
    ] {
        let found = list(query).await.ok().body["deliveries"]
            .as_array()
            .unwrap()
            .len();
        assert_eq!(found, count, "{query}");
    }
    let first = list("status=given_up&page_size=1").await.ok();
    assert_eq!(first.body["deliveries"][0]["code_id"], "");
    let token = first.text("next_page_token");
    let second = list(&format!("status=given_up&page_size=1&page_token={token}")).await;
    assert_eq!(second.ok().body["deliveries"][0]["code_id"], code.to_string());
    for (query, field) in [
        (format!("status=succeeded&page_token={token}"), "page_token"),
        ("type=nope".to_owned(), "type"),
        ("code_id=nope".to_owned(), "code_id"),
    ] {
        let answer = list(&query).await;
        assert_eq!(
            (answer.status, answer.fields()),
            (400, vec![field.to_owned()]),
            "{query}"
        );
    }
}

#[tokio::test]
async fn an_attempt_is_shown_with_headers_timing_and_whose_fault_it_was() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let id = api.post(&key, "/v1/endpoints", endpoint()).await.ok().text("id");
    let row = api.store.endpoint(id.parse().unwrap()).await.unwrap().unwrap();
    let kept = json!({
        "phases_ms": {"dns": 0.5, "connect": null, "tls": null, "first_byte": 2.25, "total": 3.0},
        "connection_reused": true,
        "request_headers": [["webhook-id", "evt_1"], ["webhook-signature", "***"]],
        "response_headers": [["x-a", "1"], ["x-a", "2"]],
    });
    let failed = AttemptRow {
        detail: kept,
        fault: "ours".to_owned(),
        ..attempt(&row, 1_800_000_000_000, 1, DeliveryStatus::GivenUp)
    };
    // A row of a release that kept nothing of this.
    let old = attempt(&row, 1_800_000_000_001, 1, DeliveryStatus::GivenUp);
    api.store.record_attempts(vec![failed, old]).await.unwrap();
    let listed = api
        .get(&key, &format!("/v1/endpoints/{id}/deliveries"))
        .await
        .ok();
    let read = async |at: usize| {
        let delivery = listed.body["deliveries"][at]["id"].as_str().unwrap();
        api.get(&key, &format!("/v1/deliveries/{delivery}"))
            .await
            .ok()
            .body["attempt_log"][0]
            .clone()
    };
    let shown = read(1).await;
    assert_eq!(shown["fault"], "sender");
    assert_eq!(
        shown["request_headers"][1],
        json!({"name": "webhook-signature", "value": "***"})
    );
    assert_eq!(shown["response_headers"][1]["value"], "2");
    let timing = &shown["timing"];
    assert_eq!(
        (
            &timing["dns_ms"],
            &timing["first_byte_ms"],
            &timing["connection_reused"]
        ),
        (&json!(0.5), &json!(2.25), &json!(true))
    );
    assert!(
        timing.get("connect_ms").is_none(),
        "a kept connection needed none: {timing}"
    );
    let shown = read(0).await;
    assert_eq!(
        (&shown["request_headers"], shown.get("timing")),
        (&json!([]), None)
    );
}

#[tokio::test]
async fn a_retry_is_a_command_to_the_owner_and_answered_at_once() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let id = api.post(&key, "/v1/endpoints", endpoint()).await.ok().text("id");
    let row = api.store.endpoint(id.parse().unwrap()).await.unwrap().unwrap();
    api.post(
        &key,
        "/v1/codes",
        json!({"destination_url": "https://example.com/"}),
    )
    .await
    .ok();
    let events = api.get(&key, "/v1/events").await.ok();
    let event = events.body["events"][0]["id"].as_str().unwrap().parse().unwrap();
    let event = api.store.install().ids.event_address(event);
    let of = |event: EventAddress, at: i64, number: u32| AttemptRow {
        event,
        ..attempt(&row, 1_800_000_000_000 + at, number, DeliveryStatus::GivenUp)
    };
    let gone = EventAddress {
        seq: qrelay_store::id::Seq::new(77),
        ..event
    };
    let test = EventAddress::test();
    let rows = vec![
        of(event, 0, 1),
        of(event, 0, 2),
        of(gone, 1, 1),
        of(test, 2, 1),
        of(event, 3, 0),
    ];
    api.store.record_attempts(rows).await.unwrap();
    let listed = api
        .get(&key, &format!("/v1/endpoints/{id}/deliveries"))
        .await
        .ok();
    let ask = async |key: &str, at: usize| {
        let delivery = listed.body["deliveries"][at]["id"].as_str().unwrap();
        api.post(key, &format!("/v1/deliveries/{delivery}/retry"), json!({}))
            .await
    };
    for (at, reason) in [(1, "TEST_DELIVERY"), (2, "EVENT_GONE")] {
        let answer = ask(&key, at).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body.to_string().contains(reason), "{answer:?}");
    }
    let (_, other) = api.tenant_and_key().await;
    assert_eq!(ask(&other, 3).await.status, 404, "another tenant's");
    assert!(api.store.pending_commands(row.home, 10).await.unwrap().is_empty());
    let answer = ask(&key, 3).await.ok();
    assert_eq!(
        (&answer.body["status"], &answer.body["attempts"]),
        (&json!("retrying"), &json!(2))
    );
    assert_eq!(answer.body["id"], listed.body["deliveries"][3]["id"]);
    let pending = api.store.pending_commands(row.home, 10).await.unwrap();
    let expected = CommandKind::Retry {
        endpoint: row.id,
        event,
        first_at: Timestamp::from_millis(1_800_000_000_000),
        after: 2,
    };
    assert_eq!(pending[0].kind, expected);
    let unsent = ask(&key, 0).await.ok();
    assert_eq!(
        unsent.body["status"], "retrying",
        "its template may make a body now"
    );
    api.delete(&key, &format!("/v1/endpoints/{id}")).await.ok();
    assert!(ask(&key, 3).await.body.to_string().contains("ENDPOINT_DELETED"));
}

/// Plays the owner for one test: the first command of any partition gets this result.
async fn finish_one(api: &Api, result: impl Fn(EndpointId) -> CommandResult) {
    loop {
        for partition in (0..4).map(PartitionId::new) {
            let pending = api.store.pending_commands(partition, 1).await.unwrap();
            let Some(command) = pending.first() else { continue };
            let endpoint = command.kind.endpoint();
            api.store
                .finish_command(partition, command.id, &result(endpoint))
                .await
                .unwrap();
            api.store.hints().partition(partition).publish_command();
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_test_is_carried_out_by_the_owner_and_answers_what_came_of_it() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let id = api.post(&key, "/v1/endpoints", endpoint()).await.ok().text("id");
    let row = api.store.endpoint(id.parse().unwrap()).await.unwrap().unwrap();
    let path = format!("/v1/endpoints/{id}/test");
    let failed = attempt(&row, 1_800_000_000_000, 1, DeliveryStatus::GivenUp);
    let owner = finish_one(&api, |_| CommandResult::Attempt(Box::new(failed.clone())));
    let (answer, ()) = tokio::join!(api.post(&key, &path, json!({})), owner);
    let answer = answer.ok();
    assert_eq!(
        (
            answer.body["status"].as_str(),
            answer.body["response_status"].as_i64()
        ),
        (Some("given_up"), Some(500))
    );
    assert_eq!(
        (answer.body["duration_ms"].as_i64(), answer.body["error"].as_str()),
        (Some(31), Some("answered 500"))
    );
    assert!(answer.text("id").starts_with("dlv_"));
    let owner = finish_one(&api, |_| CommandResult::Refused {
        reason: "the endpoint was deleted".into(),
    });
    let (answer, ()) = tokio::join!(api.rest(&key, "POST", &path, None), owner);
    assert_eq!(
        (answer.status, answer.body["error"]["status"].as_str()),
        (400, Some("FAILED_PRECONDITION"))
    );
    let (_, other) = api.tenant_and_key().await;
    assert_eq!(api.post(&other, &path, json!({})).await.status, 404);
    let (tenant, _) = api.tenant_and_key().await;
    assert_eq!(
        api.post(ADMIN, &path, json!({"tenant_id": tenant})).await.status,
        404
    );
}

#[tokio::test]
async fn a_test_that_nobody_carries_out_ends_in_504() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let id = api.post(&key, "/v1/endpoints", endpoint()).await.ok().text("id");
    let answer = api
        .post(&key, &format!("/v1/endpoints/{id}/test"), json!({}))
        .await;
    assert_eq!(
        (answer.status, answer.body["error"]["status"].as_str()),
        (504, Some("DEADLINE_EXCEEDED"))
    );
}

#[tokio::test]
async fn a_tenant_has_at_most_100_endpoints_and_the_limit_is_named() {
    let api = Api::start().await;
    let (tenant, key) = api.tenant_and_key().await;
    for _ in 0..100 {
        api.post(&key, "/v1/endpoints", endpoint()).await.ok();
    }
    let refused = api.post(&key, "/v1/endpoints", endpoint()).await;
    assert_eq!(
        (refused.status, refused.body["error"]["status"].as_str()),
        (429, Some("RESOURCE_EXHAUSTED"))
    );
    let details = refused.body["error"]["details"].to_string();
    assert!(
        details.contains("ENDPOINTS_LIMIT_REACHED") && details.contains(&tenant),
        "{details}"
    );
    let one = api.get(&key, "/v1/endpoints?page_size=1").await.ok();
    let id = one.body["endpoints"][0]["id"].as_str().unwrap().to_owned();
    api.delete(&key, &format!("/v1/endpoints/{id}")).await.ok();
    api.post(&key, "/v1/endpoints", endpoint()).await.ok();
}

#[tokio::test]
async fn a_concurrency_of_zero_is_the_default_in_a_create_and_in_an_update() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let mut body = endpoint();
    body["max_concurrency"] = json!(0);
    let made = api.post(&key, "/v1/endpoints", body).await.ok();
    assert_eq!(made.body["max_concurrency"], 16);
    let path = format!("/v1/endpoints/{}", made.text("id"));
    for (given, expected) in [(3, 3), (0, 16)] {
        let changed = api
            .patch(&key, &path, json!({"max_concurrency": given}))
            .await
            .ok();
        assert_eq!(changed.body["max_concurrency"], expected, "{given}");
    }
}

#[tokio::test]
async fn a_pause_below_a_millisecond_is_refused_and_not_cut() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let mut body = endpoint();
    body["retry_schedule"] = json!(["0s", "1.0005s"]);
    let refused = api.post(&key, "/v1/endpoints", body).await;
    assert_eq!(
        (refused.status, refused.fields()),
        (400, vec!["retry_schedule[1]".to_owned()])
    );
}

#[tokio::test]
async fn requests_that_mean_nothing_are_told_what_is_wanted() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let message = async |method, path, headers: &[(&str, String)], body: &str| {
        let bearer = ("authorization", format!("Bearer {key}"));
        let headers = [&[bearer][..], headers].concat();
        let answer = api.raw(method, path, &headers, body.as_bytes().to_vec()).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        (
            answer.fields().join(" "),
            answer.body["error"]["message"].to_string(),
        )
    };
    let bogus = [("last-event-id", "bogus".to_owned())];
    let (field, text) = message("GET", "/v1/events:stream", &bogus, "").await;
    assert_eq!(field, "resume_token");
    assert!(text.contains("Last-Event-ID"), "{text}");
    let (field, text) = message("GET", "/v1/endpoints?page_size=abc", &[], "").await;
    assert_eq!(field, "page_size");
    assert!(text.contains("from 1 to 500"), "{text}");
    for body in ["[]", "null"] {
        let (field, text) = message("POST", "/v1/endpoints", &[], body).await;
        assert_eq!(field, "body");
        assert!(text.contains("must be a JSON object"), "{text}");
    }
    let body = endpoint().to_string();
    let (field, _) = message("POST", "/v1/endpoints?request_id=", &[], &body).await;
    assert_eq!(field, "request_id");
    let listed = api.get(&key, "/v1/endpoints").await.ok();
    assert_eq!(listed.body["endpoints"], json!([]), "nothing was made");
}
