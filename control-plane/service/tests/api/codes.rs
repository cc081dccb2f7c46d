//! Codes: what may be written, versions, short ids, blocking, pages, idempotency.

use std::collections::BTreeSet;

use qrelay_proto::v1;
use qrelay_store::{event::EventType, id::ConfigSeq};
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::{ADMIN, Api, code};

#[tokio::test]
async fn a_code_is_created_read_changed_and_deleted() {
    let api = Api::start().await;
    let (tenant, key) = api.tenant_and_key().await;
    let given = json!({
        "name": "Menu", "destination_url": "https://example.com/menu?a=1#b", "tags": ["a", "b"],
        "campaign_id": "c1", "owner_id": "o1", "external_id": "e1",
        "metadata": {"table": 7, "nested": {"x": [1, 2.5, null, true]}}, "recipient": {"email": "a@example.com"},
    });
    let made = api.post(&key, "/v1/codes", given.clone()).await.ok();
    for (field, value) in given.as_object().unwrap() {
        assert_eq!(&made.body[field], value, "{field}");
    }
    let short_id = made.text("short_id");
    assert!(
        short_id.len() >= 8 && short_id.to_lowercase() == short_id,
        "{short_id}"
    );
    assert_eq!(made.text("url"), format!("https://qr.example/{short_id}"));
    assert_eq!(
        (made.body["status"].as_str(), made.body["version"].as_i64()),
        (Some("active"), Some(1))
    );
    assert_eq!(made.body["tenant_id"], tenant);
    let path = format!("/v1/codes/{}", made.text("id"));
    assert_eq!(api.get(&key, &path).await.ok().body, made.body);
    let changed = api
        .patch(&key, &path, json!({"destination_url": "https://example.com/b"}))
        .await
        .ok();
    assert_eq!(changed.body["version"], 2);
    assert_eq!(changed.body["name"], "Menu", "what is not named stays");
    let cleared = api
        .patch(&key, &path, json!({"tags": [], "metadata": {}, "name": ""}))
        .await
        .ok();
    assert_eq!(
        (&cleared.body["tags"], &cleared.body["metadata"]),
        (&json!([]), &json!({}))
    );
    assert_eq!(api.delete(&key, &path).await.ok().body, json!({}));
    assert_eq!(api.delete(&key, &path).await.ok().body, json!({}));
    assert_eq!(api.get(&key, &path).await.ok().body["status"], "deleted");
    assert_eq!(api.get(&key, "/v1/codes").await.ok().body["codes"], json!([]));
    let after = api.patch(&key, &path, json!({"name": "x"})).await;
    assert_eq!(
        (after.status, after.body["error"]["status"].as_str()),
        (400, Some("FAILED_PRECONDITION"))
    );
}

#[tokio::test]
async fn each_change_is_announced_once_with_its_event() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let path = format!(
        "/v1/codes/{}",
        api.post(&key, "/v1/codes", code()).await.ok().text("id")
    );
    api.patch(&key, &path, json!({"name": "x"})).await.ok();
    api.patch(&key, &path, json!({"name": "x"})).await.ok();
    api.patch(&key, &path, json!({})).await.ok();
    api.delete(&key, &path).await.ok();
    api.delete(&key, &path).await.ok();
    let rows = api.store.config_after(ConfigSeq::ZERO, 100).await.unwrap();
    let changes = rows
        .iter()
        .flat_map(|row| &row.changes)
        .filter(|change| change.event.is_some());
    let seen: Vec<_> = changes
        .map(|change| (change.event.unwrap(), change.version))
        .collect();
    assert_eq!(
        seen,
        [
            (EventType::CodeCreated, 1),
            (EventType::CodeUpdated, 2),
            (EventType::CodeDeleted, 3)
        ]
    );
}

#[tokio::test]
async fn wrong_fields_are_all_named_as_the_caller_wrote_them() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let with = |field: &str, value: Value| {
        let mut code = code();
        code[field] = value;
        code
    };
    let deep = (0..17).fold(json!(1), |inner, _| json!({"a": inner}));
    for (body, fields) in [
        (json!({}), vec!["destination_url"]),
        (
            with("destination_url", json!("javascript:alert(1)")),
            vec!["destination_url"],
        ),
        (
            with(
                "destination_url",
                json!(format!("https://e.com/{}", "x".repeat(9000))),
            ),
            vec!["destination_url"],
        ),
        (
            with("destination_url", json!("https://e.com/\r\nx: y")),
            vec!["destination_url"],
        ),
        (with("short_id", json!("a b")), vec!["short_id"]),
        (with("name", json!("x".repeat(201))), vec!["name"]),
        (with("status", json!("deleted")), vec!["status"]),
        (
            with("tags", json!(["a", "", "a", "x".repeat(65)])),
            vec!["tags[1]", "tags[2]", "tags[3]"],
        ),
        (
            with(
                "tags",
                json!((0..33).map(|at| at.to_string()).collect::<Vec<_>>()),
            ),
            vec!["tags"],
        ),
        (with("campaign_id", json!("x".repeat(129))), vec!["campaign_id"]),
        (with("owner_id", json!("\u{7}")), vec!["owner_id"]),
        (with("metadata", json!({"a": "x".repeat(8200)})), vec!["metadata"]),
        (with("recipient", deep), vec!["recipient"]),
        (
            json!({"short_id": "/", "name": "\u{1b}", "destination_url": "x"}),
            vec!["name", "destination_url", "short_id"],
        ),
    ] {
        let answer = api.post(&key, "/v1/codes", body.clone()).await;
        let found: BTreeSet<_> = answer.fields().into_iter().collect();
        let expected: BTreeSet<_> = fields.into_iter().map(str::to_owned).collect();
        assert_eq!((answer.status, found), (400, expected), "{body}: {answer:?}");
    }
    let short = json!({"short_id": "own", "destination_url": "https://qr.example/own"});
    assert_eq!(
        api.post(&key, "/v1/codes", short).await.fields(),
        ["destination_url"]
    );
    assert_eq!(
        api.get(&key, "/v1/codes").await.ok().body["codes"],
        json!([]),
        "nothing was created"
    );
}

#[tokio::test]
async fn the_same_findings_come_over_grpc() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let code = v1::Code {
        tags: vec![String::new()],
        ..Default::default()
    };
    let request = v1::CreateCodeRequest {
        code: Some(code),
        ..Default::default()
    };
    let status = api.codes(&key).await.create_code(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let found = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = found.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["destination_url", "tags[0]"]);
}

#[tokio::test]
async fn a_short_id_is_never_given_out_twice_not_even_after_deletion_or_to_its_owner() {
    let api = Api::start().await;
    let ((_, ours), (_, theirs)) = (api.tenant_and_key().await, api.tenant_and_key().await);
    let wanted = json!({"short_id": "Menu-1", "destination_url": "https://example.com/"});
    let made = api.post(&ours, "/v1/codes", wanted.clone()).await.ok();
    assert_eq!(made.text("short_id"), "Menu-1");
    for key in [&ours, &theirs] {
        let taken = api.post(key, "/v1/codes", wanted.clone()).await;
        assert_eq!(
            (taken.status, taken.body["error"]["status"].as_str()),
            (409, Some("ALREADY_EXISTS"))
        );
        assert_eq!(taken.body["error"]["details"][0]["resource_name"], "Menu-1");
        assert!(!taken.body.to_string().contains("ten_"), "{taken:?}");
    }
    api.delete(&ours, &format!("/v1/codes/{}", made.text("id")))
        .await
        .ok();
    assert_eq!(api.post(&theirs, "/v1/codes", wanted).await.status, 409);
    let lower = json!({"short_id": "menu-1", "destination_url": "https://example.com/"});
    api.post(&theirs, "/v1/codes", lower).await.ok();
}

#[tokio::test]
async fn a_short_id_cannot_be_changed_and_what_was_read_can_be_sent_back() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let made = api.post(&key, "/v1/codes", code()).await.ok();
    let path = format!("/v1/codes/{}", made.text("id"));
    assert_eq!(
        api.patch(&key, &path, json!({"short_id": "other"}))
            .await
            .fields(),
        ["short_id"]
    );
    let mut whole = made.body.clone();
    whole["name"] = json!("Renamed");
    let changed = api.patch(&key, &path, whole).await.ok();
    assert_eq!(
        (changed.body["name"].as_str(), changed.body["version"].as_i64()),
        (Some("Renamed"), Some(2))
    );
    let masked = format!("{path}?update_mask=metadata.a");
    assert_eq!(
        api.patch(&key, &masked, json!({"metadata": {"a": 1}}))
            .await
            .fields(),
        ["update_mask"]
    );
}

#[tokio::test]
async fn only_the_admin_key_blocks_a_code_and_ends_its_block() {
    let api = Api::start().await;
    let (tenant, key) = api.tenant_and_key().await;
    let blocked = json!({"destination_url": "https://example.com/", "status": "blocked"});
    assert_eq!(api.post(&key, "/v1/codes", blocked).await.status, 403);
    let path = format!(
        "/v1/codes/{}",
        api.post(&key, "/v1/codes", code()).await.ok().text("id")
    );
    assert_eq!(
        api.patch(&key, &path, json!({"status": "blocked"})).await.status,
        403
    );
    let by_admin = format!("{path}?tenant_id={tenant}");
    api.patch(ADMIN, &by_admin, json!({"status": "blocked"}))
        .await
        .ok();
    for status in ["active", "paused"] {
        assert_eq!(
            api.patch(&key, &path, json!({"status": status})).await.status,
            403
        );
    }
    assert_eq!(api.delete(&key, &path).await.status, 403);
    api.patch(&key, &path, json!({"name": "still mine"})).await.ok();
    api.patch(ADMIN, &by_admin, json!({"status": "active"}))
        .await
        .ok();
    api.patch(&key, &path, json!({"status": "paused"})).await.ok();
}

#[tokio::test]
async fn the_admin_key_must_say_whose_codes_and_a_foreign_tenant_is_not_found() {
    let api = Api::start().await;
    let ((ours, key), (theirs, _)) = (api.tenant_and_key().await, api.tenant_and_key().await);
    assert_eq!(api.get(ADMIN, "/v1/codes").await.fields(), ["tenant_id"]);
    assert_eq!(api.post(ADMIN, "/v1/codes", code()).await.fields(), ["tenant_id"]);
    api.get(ADMIN, &format!("/v1/codes?tenant_id={ours}")).await.ok();
    api.get(&key, &format!("/v1/codes?tenant_id={ours}")).await.ok();
    assert_eq!(
        api.get(&key, &format!("/v1/codes?tenant_id={theirs}"))
            .await
            .status,
        404
    );
    assert_eq!(
        api.get(ADMIN, "/v1/codes?tenant_id=ten_0000000000000000")
            .await
            .status,
        404
    );
    assert_eq!(api.get(ADMIN, "/v1/codes?tenant_id=nonsense").await.status, 404);
}

#[tokio::test]
async fn lists_filter_and_page_tokens_are_bound_to_the_filter_and_the_tenant() {
    let api = Api::start().await;
    let ((_, key), (_, other)) = (api.tenant_and_key().await, api.tenant_and_key().await);
    for at in 0..5 {
        let tag = if at % 2 == 0 { "even" } else { "odd" };
        let code = json!({
            "destination_url": "https://example.com/", "tags": [tag, "all"], "campaign_id": format!("c{at}"),
            "external_id": format!("e{at}"), "short_id": format!("s{at}"),
        });
        api.post(&key, "/v1/codes", code).await.ok();
    }
    for (query, count) in [
        ("tag=even", 3),
        ("tag=all", 5),
        ("tag=none", 0),
        ("campaign_id=c1", 1),
        ("external_id=e4", 1),
        ("short_id=s0", 1),
        ("tag=odd&campaign_id=c0", 0),
    ] {
        let listed = api.get(&key, &format!("/v1/codes?{query}")).await.ok();
        assert_eq!(listed.body["codes"].as_array().unwrap().len(), count, "{query}");
    }
    assert_eq!(
        api.get(&other, "/v1/codes?tag=all").await.ok().body["codes"],
        json!([])
    );
    let token = api
        .get(&key, "/v1/codes?tag=all&page_size=2")
        .await
        .ok()
        .text("next_page_token");
    assert!(!token.is_empty());
    api.get(&key, &format!("/v1/codes?tag=all&page_size=3&page_token={token}"))
        .await
        .ok();
    for query in ["tag=even", "", "tag=all&campaign_id=c1"] {
        let answer = api
            .get(&key, &format!("/v1/codes?{query}&page_token={token}"))
            .await;
        assert_eq!(answer.fields(), ["page_token"], "{query}");
    }
    let answer = api
        .get(&other, &format!("/v1/codes?tag=all&page_token={token}"))
        .await;
    assert_eq!(answer.fields(), ["page_token"]);
}

#[tokio::test]
async fn pages_skip_and_repeat_nothing_while_codes_are_created_and_changed() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let mut before = BTreeSet::new();
    for _ in 0..20 {
        before.insert(api.post(&key, "/v1/codes", code()).await.ok().text("id"));
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = api
            .get(&key, &format!("/v1/codes?page_size=3&page_token={token}"))
            .await
            .ok();
        for row in page.body["codes"].as_array().unwrap() {
            seen.push(row["id"].as_str().unwrap().to_owned());
        }
        token = page.text("next_page_token");
        if token.is_empty() {
            break;
        }
        api.post(&key, "/v1/codes", code()).await.ok();
        api.patch(
            &key,
            &format!("/v1/codes/{}", seen[0]),
            json!({"name": token[..8]}),
        )
        .await
        .ok();
    }
    let distinct: BTreeSet<_> = seen.iter().cloned().collect();
    assert_eq!(distinct.len(), seen.len(), "nothing twice");
    assert!(before.is_subset(&distinct), "everything that was there");
}

#[tokio::test]
async fn concurrent_creates_with_one_request_id_create_once() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let create = || api.post(&key, "/v1/codes?request_id=once", code());
    let answers = futures::future::join_all((0..8).map(|_| create())).await;
    let ids: BTreeSet<_> = answers.into_iter().map(|answer| answer.ok().text("id")).collect();
    assert_eq!(ids.len(), 1);
    let other = json!({"destination_url": "https://example.com/other"});
    assert_eq!(
        api.post(&key, "/v1/codes?request_id=once", other).await.status,
        409
    );
    let (_, theirs) = api.tenant_and_key().await;
    let fresh = api
        .post(&theirs, "/v1/codes?request_id=once", code())
        .await
        .ok()
        .text("id");
    assert!(!ids.contains(&fresh), "request ids are a tenant's own");
    assert_eq!(
        api.post(&key, &format!("/v1/codes?request_id={}", "x".repeat(129)), code())
            .await
            .fields(),
        ["request_id"]
    );
}

#[tokio::test]
async fn concurrent_changes_without_etag_all_land_and_with_it_one_does() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let made = api.post(&key, "/v1/codes", code()).await.ok();
    let path = format!("/v1/codes/{}", made.text("id"));
    let names = ["a", "b", "c", "d"].map(|name| json!({"name": name}));
    let answers = futures::future::join_all(names.into_iter().map(|name| api.patch(&key, &path, name))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let now = api.get(&key, &path).await.ok();
    assert_eq!(now.body["version"], 5);
    let etag = now.text("etag");
    let names = ["e", "f", "g"].map(|name| json!({"name": name, "etag": etag}));
    let answers = futures::future::join_all(names.into_iter().map(|name| api.patch(&key, &path, name))).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409]);
    assert_eq!(api.delete(&key, &format!("{path}?etag={etag}")).await.status, 409);
}

#[tokio::test]
async fn a_mask_over_grpc_names_what_changes_and_without_one_the_populated_fields_do() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let made = api.post(&key, "/v1/codes", code()).await.ok();
    let mut client = api.codes(&key).await;
    let mut update = async |code: v1::Code, paths: Option<&[&str]>| {
        let update_mask = paths.map(|paths| prost_types::FieldMask {
            paths: paths.iter().map(ToString::to_string).collect(),
        });
        let request = v1::UpdateCodeRequest {
            id: made.text("id"),
            code: Some(code),
            update_mask,
            ..Default::default()
        };
        client.update_code(request).await.map(tonic::Response::into_inner)
    };
    let named = v1::Code {
        name: "a".into(),
        owner_id: "o".into(),
        ..Default::default()
    };
    let changed = update(named.clone(), None).await.unwrap();
    assert_eq!((changed.name.as_str(), changed.owner_id.as_str()), ("a", "o"));
    let changed = update(
        v1::Code {
            name: "b".into(),
            ..Default::default()
        },
        Some(&["owner_id"]),
    )
    .await
    .unwrap();
    assert_eq!((changed.name.as_str(), changed.owner_id.as_str()), ("a", ""));
    for bad in [&["nope"][..], &["*"], &["tags.0"], &["short_id.x"]] {
        assert_eq!(
            update(named.clone(), Some(bad)).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{bad:?}"
        );
    }
    let status = update(v1::Code::default(), Some(&["status"])).await.unwrap_err();
    assert_eq!(
        status.get_details_bad_request().unwrap().field_violations[0].field,
        "status"
    );
}

#[tokio::test]
async fn a_conversion_parameter_is_a_plain_name_that_the_destination_does_not_have() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let create = async |param: &str, destination: &str| {
        let body = json!({"destination_url": destination, "conversion_param": param});
        api.post(&key, "/v1/codes", body).await
    };
    let made = create("qr_eid", "https://example.com/?a=b#qr_eid=1").await.ok();
    assert_eq!(made.body["conversion_param"], "qr_eid");
    for bad in ["1a", "a b", "a=b", "a&b", "ä", "_a", &"a".repeat(33)] {
        let refused = create(bad, "https://example.com/").await;
        assert_eq!(refused.fields(), ["conversion_param"], "{bad}");
    }
    let taken = create("qr_eid", "https://example.com/?x=1&qr%5Feid=2").await;
    assert_eq!(taken.fields(), ["conversion_param"]);
    let path = format!("/v1/codes/{}", made.text("id"));
    let taken = api
        .patch(
            &key,
            &path,
            json!({"destination_url": "https://example.com/?qr_eid"}),
        )
        .await;
    assert_eq!(taken.fields(), ["conversion_param"]);
    let off = format!("{path}?update_mask=conversion_param");
    assert_eq!(
        api.patch(&key, &off, json!({"conversion_param": ""}))
            .await
            .ok()
            .body["conversion_param"],
        ""
    );
}
