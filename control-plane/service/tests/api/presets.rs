//! Presets: what they set, what a request may set beside them, and what stays.

use serde_json::{Value, json};

use crate::harness::{Api, endpoint};

fn with(preset: &str, events: &[&str], more: Value) -> Value {
    let mut endpoint = endpoint();
    endpoint["preset"] = json!(preset);
    endpoint["events"] = json!(events);
    for (name, value) in more.as_object().unwrap() {
        endpoint[name] = value.clone();
    }
    endpoint
}

#[tokio::test]
async fn a_preset_sets_everything_and_its_event_names_are_read_and_shown() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let given = with("qrstudio", &["scan.created", "dynamic_qr.updated"], json!({}));
    let made = api.post(&key, "/v1/endpoints", given).await.ok();
    assert_eq!(made.body["preset"], "qrstudio");
    assert_eq!(made.body["events"], json!(["scan.created", "dynamic_qr.updated"]));
    assert_eq!(made.body["signature"]["scheme"], "timestamped");
    assert_eq!(made.body["signature"]["header"], "X-QRStudio-Signature");
    assert_eq!(
        made.body["retry_schedule"],
        json!(["0s", "60s", "300s", "1800s", "7200s"])
    );
    assert_eq!(made.body["failure"]["degrade_after"], 5);
    assert_eq!(made.body["failure"]["disable_after"], "86400s");
    assert_eq!(made.body["failure"]["gone_disables"], false);
    assert_eq!(made.body["payload"]["format"], "template");
    assert!(made.text("secret").starts_with("whsec_"));

    let path = format!("/v1/endpoints/{}", made.text("id"));
    let events = json!({"events": ["dynamic_qr.created", "code.updated", "quota.threshold_75"]});
    let changed = api.patch(&key, &path, events).await.ok();
    let shown = json!(["dynamic_qr.created", "dynamic_qr.updated", "quota.threshold_75"]);
    assert_eq!(changed.body["events"], shown);
    let plain = api.post(&key, "/v1/endpoints", endpoint()).await.ok();
    assert!(plain.body.get("preset").is_none(), "{:?}", plain.body);
}

#[tokio::test]
async fn what_a_request_gives_replaces_its_part_of_the_preset_and_nothing_else() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let more = json!({
        "retry_schedule": ["0s", "7s"], "failure": {"degrade_after": 3}, "signature": {"header": "X-Mine"},
        "payload": {"by_event": [{"event": "scan.created", "template": "1"}]}, "rate_limit": {"per_second": 2.0},
    });
    let made = api
        .post(
            &key,
            "/v1/endpoints",
            with("qrstudio", &["scan.created", "dynamic_qr.created"], more),
        )
        .await
        .ok();
    assert_eq!(made.body["retry_schedule"], json!(["0s", "7s"]));
    assert_eq!(made.body["failure"]["degrade_after"], 3);
    assert_eq!(made.body["failure"]["gone_disables"], false, "the preset's");
    assert_eq!(made.body["signature"]["header"], "X-Mine");
    assert_eq!(made.body["signature"]["scheme"], "timestamped", "the preset's");
    assert_eq!(made.body["rate_limit"]["per_second"], 2.0);
    let by_event = made.body["payload"]["by_event"].as_array().unwrap();
    assert_eq!((by_event.len(), &by_event[0]["template"]), (5, &json!("1")));

    let more = json!({"payload": {"format": "native"}, "signature": {"scheme": "standard"}});
    let made = api
        .post(
            &key,
            "/v1/endpoints",
            with("qrstudio", &["scan"; 0], more.clone()),
        )
        .await;
    assert_eq!(made.fields(), ["events"]);
    let made = api
        .post(
            &key,
            "/v1/endpoints",
            with("scribeless", &["qr_code.scanned"], more),
        )
        .await
        .ok();
    assert_eq!(made.body["payload"]["format"], "native");
    assert_eq!(made.body["payload"]["by_event"], json!([]));
    assert_eq!(
        made.body["signature"],
        json!({"scheme": "standard", "header": "", "timestamp_header": "", "event_header": "", "delivery_header": ""})
    );
}

#[tokio::test]
async fn unknown_presets_foreign_events_and_changes_of_the_preset_are_refused() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    for (given, field) in [
        (with("qrstudios", &["scan.created"], json!({})), "preset"),
        (with("qrstudio", &["qr.scanned"], json!({})), "events[0]"),
        (
            with("qrstudio", &["scan.created", "code.deleted"], json!({})),
            "events[1]",
        ),
        (with("qr-for-agent", &["*"], json!({})), "events[0]"),
        (
            with("slack", &["*"], json!({"secret": "0123456789abcdef"})),
            "secret",
        ),
        (with("scanforge", &["scan"], json!({"secret": "short"})), "secret"),
    ] {
        let answer = api.post(&key, "/v1/endpoints", given).await;
        assert_eq!(
            (answer.status, answer.fields()),
            (400, vec![field.to_owned()]),
            "{answer:?}"
        );
    }
    let own = json!({"secret": "customers-own-secret"});
    let made = api
        .post(&key, "/v1/endpoints", with("scanforge", &["scan"], own))
        .await
        .ok();
    assert_eq!(made.text("secret"), "customers-own-secret");
    let path = format!("/v1/endpoints/{}", made.text("id"));
    let changed = api.patch(&key, &path, json!({"preset": "slack"})).await;
    assert_eq!(changed.fields(), ["preset"]);
    let same = api
        .patch(&key, &path, json!({"preset": "scanforge", "description": "x"}))
        .await
        .ok();
    assert_eq!(same.body["description"], "x");
}

#[tokio::test]
async fn a_template_of_ones_own_takes_the_place_of_the_presets_and_its_names_stay() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let own = json!({"payload": {"template": r#"{"n":"${type}"}"#}});
    let events = ["scan.created", "dynamic_qr.created"];
    let asked =
        json!({"endpoint": {"preset": "qrstudio", "payload": own["payload"]}, "event_type": "code.created"});
    let shown = api.post(&key, "/v1/endpoints:preview", asked).await.ok();
    assert_eq!(shown.body["body"], r#"{"n":"code.created"}"#);
    let made = api
        .post(&key, "/v1/endpoints", with("qrstudio", &events, own.clone()))
        .await
        .ok();
    let plain = api
        .post(&key, "/v1/endpoints", with("qrstudio", &events, json!({})))
        .await
        .ok();
    let path = format!("/v1/endpoints/{}", plain.text("id"));
    let changed = api.patch(&key, &path, own.clone()).await.ok();
    for endpoint in [&made, &changed] {
        let by_event = endpoint.body["payload"]["by_event"].as_array().unwrap();
        assert!(
            by_event.iter().all(|entry| entry["template"] == ""),
            "{by_event:?}"
        );
        assert_eq!(
            (by_event.len(), &by_event[1]["name"]),
            (5, &json!("dynamic_qr.created"))
        );
    }
    // What the caller wrote for one event type wins over its template for all, and stays.
    let one = json!({"payload": {"template": "1", "by_event": [{"event": "scan.created", "template": "2"}]}});
    let made = api
        .post(&key, "/v1/endpoints", with("slack", &events[..1], one))
        .await
        .ok();
    let path = format!("/v1/endpoints/{}", made.text("id"));
    let changed = api
        .patch(&key, &path, json!({"payload": {"template": "3"}}))
        .await
        .ok();
    let kept = json!([{"event": "scan.created", "template": "2", "name": ""}]);
    for endpoint in [&made, &changed] {
        assert_eq!(endpoint.body["payload"]["by_event"], kept);
    }
}

#[tokio::test]
async fn another_scheme_than_the_presets_drops_its_names_and_rotates_with_an_overlap() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let made = api
        .post(
            &key,
            "/v1/endpoints",
            with("qrstudio", &["scan.created"], json!({})),
        )
        .await
        .ok();
    let path = format!("/v1/endpoints/{}", made.text("id"));
    let overlap = json!({"overlap": "60s"});
    let refused = api.post(&key, &format!("{path}/rotate"), overlap.clone()).await;
    assert_eq!(
        refused.fields(),
        ["overlap"],
        "the service's receivers know one secret"
    );
    let header = json!({"signature": {"scheme": "standard", "header": "X-Mine"}});
    assert_eq!(
        api.patch(&key, &path, header).await.fields(),
        ["signature.header"]
    );
    let changed = api
        .patch(&key, &path, json!({"signature": {"scheme": "standard"}}))
        .await
        .ok();
    assert_eq!(changed.body["signature"]["header"], "");
    assert!(changed.text("secret").starts_with("whsec_"));
    api.post(&key, &format!("{path}/rotate"), overlap).await.ok();
}

#[tokio::test]
async fn an_empty_object_in_an_update_changes_nothing() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let more = json!({"filter": {"humans_only": true}, "failure": {"degrade_after": 3}, "rate_limit": {"per_second": 2.0}});
    let made = api
        .post(&key, "/v1/endpoints", with("qrstudio", &["scan.created"], more))
        .await
        .ok();
    let path = format!("/v1/endpoints/{}", made.text("id"));
    for name in [
        "filter",
        "failure",
        "rate_limit",
        "signature",
        "payload",
        "tls_client",
    ] {
        let same = api.patch(&key, &path, json!({name: {}})).await.ok();
        assert_eq!(same.body["etag"], made.body["etag"], "{name}");
    }
    let cleared = api.patch(&key, &path, json!({"filter": null})).await.ok();
    assert!(cleared.body.get("filter").is_none(), "{:?}", cleared.body);
    let cleared = api
        .patch(
            &key,
            &format!("{path}?update_mask=failure"),
            json!({"failure": {}}),
        )
        .await
        .ok();
    assert_eq!(cleared.body["failure"]["gone_disables"], true);
}
