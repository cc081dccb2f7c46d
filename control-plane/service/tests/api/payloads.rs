//! Payload settings: what may be written, what is refused and where.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Api, endpoint};

fn with(payload: &Value) -> Value {
    let mut endpoint = endpoint();
    endpoint["payload"] = payload.clone();
    endpoint
}

#[tokio::test]
async fn a_payload_is_shown_as_it_was_given_and_can_be_changed() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let plain = api.post(&key, "/v1/endpoints", endpoint()).await.ok();
    let native = json!({"format": "native", "template": "", "content_type": "", "by_event": []});
    assert_eq!(plain.body["payload"], native);
    let payload = json!({
        "format": "template", "template": r#"{"z": "${id}", "a": "${code.name}"}"#, "content_type": "application/x+json",
        "by_event": [{"event": "scan.created", "template": r#"{"at": "${time_s(created_at)}"}"#, "name": ""}],
    });
    let made = api.post(&key, "/v1/endpoints", with(&payload)).await.ok();
    assert_eq!(made.body["payload"], payload);
    let path = format!("/v1/endpoints/{}", made.text("id"));
    assert_eq!(api.get(&key, &path).await.ok().body["payload"], payload);
    let changed = api
        .patch(&key, &path, json!({"payload": {"format": "cloudevents"}}))
        .await
        .ok();
    assert_eq!(
        changed.body["payload"],
        json!({"format": "cloudevents", "template": "", "content_type": "", "by_event": []})
    );
    for refused in [
        json!({"payload": {"template": "1"}}),
        json!({"payload": {"format": "native", "template": "1"}}),
    ] {
        let answer = api.patch(&key, &path, refused).await;
        assert_eq!(answer.fields(), ["payload.template"], "{answer:?}");
    }
    let given = json!({"format": "template", "template": "1", "content_type": "application/x+json"});
    api.patch(&key, &path, json!({"payload": given})).await.ok();
    let part = json!({"payload": {"template": "2"}});
    let changed = api.patch(&key, &path, part).await.ok();
    assert_eq!(changed.body["payload"]["template"], "2");
    assert_eq!(changed.body["payload"]["content_type"], "application/x+json");
}

#[tokio::test]
async fn wrong_payloads_are_refused_with_their_place() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let template = |text: &str| json!({"format": "template", "template": text});
    for (payload, fields) in [
        (json!({"template": "{}"}), vec!["payload.template"]),
        (
            json!({"format": "cloudevents", "content_type": "application/json"}),
            vec!["payload.content_type"],
        ),
        (json!({"format": "template"}), vec!["payload"]),
        (template("{"), vec!["payload.template"]),
        (template(r#"{"a": "${nope}"}"#), vec!["payload.template"]),
        (
            json!({"format": "template", "template": "[]", "content_type": "application/x-www-form-urlencoded"}),
            vec!["payload.template"],
        ),
        (
            json!({"format": "template", "template": r#"{"a": "${data.tags}"}"#,
                "content_type": "application/x-www-form-urlencoded"}),
            vec!["payload"],
        ),
        (
            json!({"format": "template", "template": "1", "content_type": "text/plain"}),
            vec!["payload.content_type"],
        ),
        (
            json!({"format": "template", "by_event": [{"event": "scan.created", "template": "1"},
                {"event": "scan.created", "template": "2"}, {"event": "scan.*", "template": "3"}]}),
            vec!["payload.by_event[1].event", "payload.by_event[2].event"],
        ),
        (
            json!({"format": "template", "by_event": [{"event": "scan.created", "template": "${"}]}),
            vec!["payload.by_event[0].template"],
        ),
    ] {
        let answer = api.post(&key, "/v1/endpoints", with(&payload)).await;
        let found: BTreeSet<_> = answer.fields().into_iter().collect();
        let expected: BTreeSet<_> = fields.into_iter().map(str::to_owned).collect();
        assert_eq!((answer.status, found), (400, expected), "{payload}: {answer:?}");
    }
}

#[tokio::test]
async fn an_event_type_without_a_template_cannot_be_subscribed_to_later() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let payload = json!({"format": "template", "by_event": [{"event": "scan.created", "template": "1"}]});
    let mut endpoint = with(&payload);
    endpoint["events"] = json!(["scan.created"]);
    let made = api.post(&key, "/v1/endpoints", endpoint).await.ok();
    let path = format!("/v1/endpoints/{}", made.text("id"));
    let refused = api.patch(&key, &path, json!({"events": ["*"]})).await;
    assert_eq!(
        (refused.status, refused.fields()),
        (400, vec!["payload".to_owned()])
    );
    assert!(refused.body.to_string().contains("code.created"), "{refused:?}");
}
