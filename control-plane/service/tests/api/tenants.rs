//! Tenants over REST: creation, change, deletion, pages, and what their keys may then do.

use std::{collections::BTreeSet, time::Duration};

use qrelay_store::{
    checkpoint::Follows,
    conformance::samples,
    id::{OwnerId, TenantId},
    store::{CheckpointDelta, Fence},
};
use serde_json::json;

use crate::harness::{ADMIN, Api, code};

#[tokio::test]
async fn a_tenant_is_created_read_changed_and_deleted() {
    let api = Api::start().await;
    let made = api.post(ADMIN, "/v1/tenants", json!({"name": "Acme"})).await.ok();
    let id = made.text("id");
    assert!(id.starts_with("ten_"), "{made:?}");
    assert_eq!(made.body["status"], "active");
    assert_eq!(made.body["durability"], "durable");
    assert_eq!(made.body["unrecordable_scans"], "refuse");
    assert_eq!(made.body["privacy"], json!({"ip": "drop"}));
    assert_eq!(made.body["created_at"], made.body["updated_at"]);
    let path = format!("/v1/tenants/{id}");
    let changes = json!({"name": "Acme Ltd", "privacy": {"ip": "truncate"}, "durability": "relaxed", "unrecordable_scans": "answer"});
    let changed = api.patch(ADMIN, &path, changes).await.ok();
    assert_eq!(changed.body["name"], "Acme Ltd");
    assert_eq!(changed.body["privacy"]["ip"], "truncate");
    assert_eq!(changed.body["durability"], "relaxed");
    assert_eq!(changed.body["unrecordable_scans"], "answer");
    assert_ne!(changed.body["etag"], made.body["etag"]);
    assert_eq!(api.get(ADMIN, &path).await.ok().body, changed.body);
    let listed = api.get(ADMIN, "/v1/tenants").await.ok();
    assert_eq!(
        listed.body,
        json!({"tenants": [changed.body], "next_page_token": ""})
    );
    assert_eq!(api.delete(ADMIN, &path).await.ok().body, json!({}));
    assert_eq!(
        api.delete(ADMIN, &path).await.ok().body,
        json!({}),
        "a repeated delete is harmless"
    );
    assert_eq!(api.get(ADMIN, &path).await.ok().body["status"], "deleted");
    assert_eq!(
        api.get(ADMIN, "/v1/tenants").await.ok().body["tenants"],
        json!([])
    );
    assert_eq!(
        api.patch(ADMIN, &path, json!({"name": "x"})).await.status,
        400,
        "deleted is for good"
    );
}

#[tokio::test]
async fn wrong_fields_are_all_named() {
    let api = Api::start().await;
    let answer = api.post(ADMIN, "/v1/tenants", json!({})).await;
    assert_eq!((answer.status, answer.fields()), (400, vec!["name".to_owned()]));
    let wrong = json!({"name": "x".repeat(201), "status": "deleted"});
    assert_eq!(
        api.post(ADMIN, "/v1/tenants", wrong).await.fields(),
        ["name", "status"]
    );
    assert_eq!(
        api.post(ADMIN, "/v1/tenants", json!({"name": "a\nb"}))
            .await
            .fields(),
        ["name"]
    );
    let id = api.tenant().await;
    let path = format!("/v1/tenants/{id}");
    assert_eq!(
        api.patch(ADMIN, &path, json!({"name": ""})).await.fields(),
        ["name"]
    );
    assert_eq!(
        api.patch(ADMIN, &path, json!({"status": "deleted"}))
            .await
            .fields(),
        ["status"]
    );
    let masked = format!("{path}?update_mask=nope");
    assert_eq!(api.patch(ADMIN, &masked, json!({"name": "x"})).await.status, 400);
    assert_eq!(
        api.get(ADMIN, "/v1/tenants?page_size=501").await.fields(),
        ["page_size"]
    );
    assert_eq!(
        api.get(ADMIN, "/v1/tenants?page_size=-1").await.fields(),
        ["page_size"]
    );
    assert_eq!(
        api.get(ADMIN, "/v1/tenants?page_token=bm9wZQ").await.fields(),
        ["page_token"]
    );
    assert_eq!(
        api.get(ADMIN, "/v1/tenants/ten_0000000000000000").await.status,
        404
    );
    assert_eq!(api.get(ADMIN, "/v1/tenants/nonsense").await.status, 404);
}

#[tokio::test]
async fn a_repeated_create_creates_once() {
    let api = Api::start().await;
    let first = api
        .post(ADMIN, "/v1/tenants?request_id=r1", json!({"name": "Acme"}))
        .await
        .ok();
    let again = api
        .post(ADMIN, "/v1/tenants?request_id=r1", json!({"name": "Acme"}))
        .await
        .ok();
    assert_eq!(first.body, again.body);
    let other = api
        .post(ADMIN, "/v1/tenants?request_id=r1", json!({"name": "Other"}))
        .await;
    assert_eq!(
        (other.status, other.body["error"]["status"].as_str()),
        (409, Some("ALREADY_EXISTS"))
    );
    let header = [
        ("authorization", format!("Bearer {ADMIN}")),
        ("idempotency-key", "r1".to_owned()),
    ];
    let by_header = api
        .raw("POST", "/v1/tenants", &header, br#"{"name":"Acme"}"#.to_vec())
        .await
        .ok();
    assert_eq!(by_header.body, first.body);
    assert_eq!(
        api.get(ADMIN, "/v1/tenants").await.ok().body["tenants"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_stale_etag_is_refused_and_changes_nothing() {
    let api = Api::start().await;
    let id = api.tenant().await;
    let path = format!("/v1/tenants/{id}");
    let etag = api.get(ADMIN, &path).await.ok().text("etag");
    api.patch(ADMIN, &path, json!({"name": "First", "etag": etag}))
        .await
        .ok();
    let stale = api
        .patch(ADMIN, &path, json!({"name": "Second", "etag": etag}))
        .await;
    assert_eq!(
        (stale.status, stale.body["error"]["status"].as_str()),
        (409, Some("ABORTED"))
    );
    assert_eq!(api.get(ADMIN, &path).await.ok().body["name"], "First");
}

#[tokio::test]
async fn suspended_keys_are_refused_and_deleted_ones_unknown() {
    let api = Api::start().await;
    let (tenant, key) = api.tenant_and_key().await;
    api.post(&key, "/v1/codes", code()).await.ok();
    let path = format!("/v1/tenants/{tenant}");
    api.patch(ADMIN, &path, json!({"status": "suspended"})).await.ok();
    let refused = until(&api, &key, 403).await;
    assert_eq!(refused.body["error"]["details"][0]["reason"], "TENANT_SUSPENDED");
    api.patch(ADMIN, &path, json!({"status": "active"})).await.ok();
    until(&api, &key, 200).await;
    api.delete(ADMIN, &path).await.ok();
    until(&api, &key, 401).await;
    let by_admin = api
        .post(ADMIN, &format!("/v1/codes?tenant_id={tenant}"), code())
        .await;
    assert_eq!(
        by_admin.body["error"]["details"][0]["reason"], "TENANT_DELETED",
        "{by_admin:?}"
    );
}

/// Asks until the answer has this status: what is known of a key is at most a second old.
async fn until(api: &Api, key: &str, status: u16) -> crate::harness::Answer {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let answer = api.get(key, "/v1/codes").await;
        if answer.status == status {
            return answer;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{answer:?} instead of {status}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn pages_are_newest_first_and_hold_each_tenant_once() {
    let api = Api::start().await;
    let mut made = Vec::new();
    for at in 0..7 {
        made.push(
            api.post(ADMIN, "/v1/tenants", json!({"name": format!("t{at}")}))
                .await
                .ok()
                .text("id"),
        );
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = api
            .get(ADMIN, &format!("/v1/tenants?page_size=3&page_token={token}"))
            .await
            .ok();
        let rows = page.body["tenants"].as_array().unwrap().clone();
        assert!(!rows.is_empty() && rows.len() <= 3);
        seen.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        token = page.text("next_page_token");
        if token.is_empty() {
            break;
        }
        // What is created meanwhile is newer than the pages that follow.
        api.tenant().await;
    }
    seen.sort();
    made.sort();
    assert_eq!(seen, made);
}

#[tokio::test]
async fn usage_is_zero_before_anything_was_scanned_and_months_are_checked() {
    let api = Api::start().await;
    let (tenant, key) = api.tenant_and_key().await;
    let usage = api
        .get(&key, &format!("/v1/tenants/{tenant}/usage?month=2026-05"))
        .await
        .ok();
    assert_eq!(usage.body["month"], "2026-05");
    assert_eq!(usage.body["scans"], 0);
    assert_eq!(usage.body["scans_by_class"]["human"], 0);
    assert_eq!(
        api.get(&key, &format!("/v1/tenants/{tenant}/usage?month=May"))
            .await
            .fields(),
        ["month"]
    );
    let month = api
        .get(&key, &format!("/v1/tenants/{tenant}/usage"))
        .await
        .ok()
        .text("month");
    assert_eq!(month.len(), 7);
    let (other, _) = api.tenant_and_key().await;
    assert_eq!(
        api.get(&key, &format!("/v1/tenants/{other}/usage")).await.status,
        404
    );
}

/// How many partitions of tenants' own were ever claimed.
async fn claimed(api: &Api) -> u16 {
    api.store.own_partitions().await.unwrap() - api.store.install().partitions
}

#[tokio::test]
async fn partitions_of_its_own_are_given_and_raised_and_what_is_no_number_of_them_is_named() {
    let api = Api::start().await;
    let shared = api
        .post(ADMIN, "/v1/tenants", json!({"name": "Small"}))
        .await
        .ok();
    assert_eq!((&shared.body["partitions"], claimed(&api).await), (&json!(0), 0));
    for wrong in [-1, 65, i32::MAX, i32::MIN] {
        let create = json!({"name": "Large", "partitions": wrong});
        let refused = api.post(ADMIN, "/v1/tenants", create).await;
        assert_eq!(refused.fields(), ["partitions"], "{wrong}");
    }
    let create = json!({"name": "Large", "partitions": 2});
    let large = api.post(ADMIN, "/v1/tenants", create).await.ok();
    assert_eq!(large.body["partitions"], 2);
    let path = format!("/v1/tenants/{}", large.text("id"));
    for (given, then) in [(2, 2), (5, 5), (5, 5), (64, 64)] {
        let raised = api.patch(ADMIN, &path, json!({"partitions": given})).await.ok();
        assert_eq!(raised.body["partitions"], then);
    }
    assert_eq!(api.get(ADMIN, &path).await.ok().body["partitions"], 64);
    for wrong in [0, 63, 65, -1] {
        let refused = api.patch(ADMIN, &path, json!({"partitions": wrong})).await;
        assert_eq!(refused.fields(), ["partitions"], "{wrong}");
    }
    // What else is changed leaves them alone.
    let renamed = api.patch(ADMIN, &path, json!({"name": "Larger"})).await.ok();
    assert_eq!(renamed.body["partitions"], 64);
    let path = format!("/v1/tenants/{}", shared.text("id"));
    let given = api.patch(ADMIN, &path, json!({"partitions": 1})).await.ok();
    assert_eq!((&given.body["partitions"], claimed(&api).await), (&json!(1), 65));
}

#[tokio::test]
async fn a_limit_has_a_part_of_its_burst_for_each_partition() {
    let api = Api::start().await;
    let limit = |burst: i32| json!({"per_second": 10, "burst": burst});
    let create = |burst| json!({"name": "Large", "partitions": 4, "rate_limit": limit(burst)});
    let refused = api.post(ADMIN, "/v1/tenants", create(3)).await;
    assert_eq!(refused.fields(), ["rate_limit.burst"]);
    assert_eq!(claimed(&api).await, 0);
    let made = api.post(ADMIN, "/v1/tenants", create(4)).await.ok();
    let path = format!("/v1/tenants/{}", made.text("id"));
    let refused = api.patch(ADMIN, &path, json!({"rate_limit": limit(3)})).await;
    assert_eq!(refused.fields(), ["rate_limit.burst"]);
    let refused = api.patch(ADMIN, &path, json!({"partitions": 5})).await;
    assert_eq!(refused.fields(), ["partitions"]);
    let both = json!({"partitions": 5, "rate_limit": limit(4)});
    assert_eq!(api.patch(ADMIN, &path, both).await.fields(), ["rate_limit.burst"]);
    assert_eq!(claimed(&api).await, 4);
}

#[tokio::test]
async fn repeated_and_refused_requests_use_no_partitions_up() {
    let api = Api::start().await;
    let create = json!({"name": "Large", "partitions": 8});
    let path = "/v1/tenants?request_id=r1";
    let made = api.post(ADMIN, path, create.clone()).await.ok();
    for _ in 0..3 {
        assert_eq!(api.post(ADMIN, path, create.clone()).await.ok().body, made.body);
        let other = json!({"name": "Other", "partitions": 8});
        assert_eq!(api.post(ADMIN, path, other).await.status, 409);
    }
    // Those that were claimed for a repetition are there for the next tenant.
    assert!(claimed(&api).await <= 16);
    api.post(ADMIN, "/v1/tenants", create).await.ok();
    assert_eq!(claimed(&api).await, 16);
}

#[tokio::test]
async fn raises_by_two_control_planes_at_once_give_no_more_than_was_asked_for() {
    let api = Api::start().await;
    let other = api.again().await;
    let id = api.tenant().await;
    let path = format!("/v1/tenants/{id}");
    for wanted in [3, 6, 12] {
        let raise = json!({"partitions": wanted});
        let (one, two) = tokio::join!(
            api.patch(ADMIN, &path, raise.clone()),
            other.patch(ADMIN, &path, raise.clone())
        );
        for answer in [one, two] {
            assert_eq!(answer.ok().body["partitions"], wanted);
        }
        let tenant = api.store.tenant(id.parse().unwrap()).await.unwrap().unwrap();
        let numbers: BTreeSet<_> = tenant.partitions.iter().collect();
        // The shared one, which it has left, and its own, each once.
        assert_eq!(numbers.len(), usize::try_from(wanted).unwrap() + 1);
        assert_eq!(tenant.partitions.len(), numbers.len());
    }
}

#[tokio::test]
async fn new_partitions_of_a_limited_tenant_are_homes_once_all_owners_have_heard_of_them() {
    let api = Api::start().await;
    let limit = json!({"per_second": 10, "burst": 10});
    let create = json!({"name": "Large", "partitions": 1, "rate_limit": limit});
    let made = api.post(ADMIN, "/v1/tenants", create).await.ok();
    let id: TenantId = made.text("id").parse().unwrap();
    let path = format!("/v1/tenants/{id}");
    let row = async || api.store.tenant(id).await.unwrap().unwrap();
    let own = row().await.partitions[0];
    let hear = async {
        // The raise is made and announced; nobody has heard of it.
        while row().await.partitions.len() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(row().await.settling, 2);
        let lease = samples::lease(1, 0, Some(OwnerId::random()));
        api.store.claim(own, None, &lease).await.unwrap();
        for beat in 0.. {
            let seq = api.store.config_head().await.unwrap();
            let run = format!("{{\"cursor\":{{\"config\":{}}}}}", seq.as_u64());
            let rows = [(Follows::key(), Some(run))].into();
            let delta = CheckpointDelta { rows };
            let fence = Fence { epoch: 1, beat };
            api.store.save(own, fence, beat + 1, &delta).await.unwrap();
            if row().await.settling == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Who is told to ask again does.
    let raise = async {
        loop {
            let answer = api.patch(ADMIN, &path, json!({"partitions": 3})).await;
            if answer.status != 503 {
                return answer.ok();
            }
        }
    };
    let (raised, ()) = tokio::join!(raise, hear);
    assert_eq!(raised.body["partitions"], 3);
    assert_eq!(raised.body["etag"], api.get(ADMIN, &path).await.ok().body["etag"]);
}
