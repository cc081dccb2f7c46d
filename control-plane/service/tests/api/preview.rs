//! Previews: what an endpoint would be sent, without an endpoint.

use serde_json::{Value, json};

use crate::harness::{Answer, Api, code};

const PATH: &str = "/v1/endpoints:preview";

fn header(answer: &Answer, name: &str) -> Option<String> {
    let headers = answer.body["headers"].as_array().unwrap();
    let found = headers.iter().find(|header| header["name"] == name)?;
    Some(found["value"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_preview_shows_body_and_headers_and_a_new_secret_each_time() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let plain = api.post(&key, PATH, json!({})).await.ok();
    let body: Value = serde_json::from_str(plain.body["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["type"], "scan.created");
    assert_eq!(header(&plain, "webhook-id").as_deref(), body["id"].as_str());
    assert_eq!(header(&plain, "content-type").unwrap(), "application/json");
    assert!(header(&plain, "webhook-signature").unwrap().starts_with("v1,"));
    let again = api.post(&key, PATH, json!({})).await.ok();
    assert_ne!(plain.text("secret"), again.text("secret"));

    let template = json!({"format": "template", "template": r#"{"n": "${data.name}", "t": "${type}"}"#});
    let signature = json!({"scheme": "standard_ed25519", "event_header": "X-Event"});
    let asked =
        json!({"endpoint": {"payload": template, "signature": signature}, "event_type": "code.updated"});
    let shown = api.post(&key, PATH, asked).await.ok();
    assert_eq!(shown.body["body"], r#"{"n":"Test event","t":"code.updated"}"#);
    assert_eq!(header(&shown, "x-event").unwrap(), "code.updated");
    assert!(header(&shown, "webhook-signature").unwrap().starts_with("v1a,"));
    assert!(shown.text("public_key").starts_with("whpk_") && shown.text("secret").starts_with("whsk_"));

    let none = json!({"endpoint": {"signature": {"scheme": "none"}, "payload": {"format": "cloudevents"}}});
    let shown = api.post(&key, PATH, none).await.ok();
    assert!(shown.body.get("secret").is_none(), "{:?}", shown.body);
    assert_eq!(
        header(&shown, "content-type").unwrap(),
        "application/cloudevents+json"
    );
    let list = api.get(&key, "/v1/endpoints").await.ok();
    assert_eq!(list.body["endpoints"], json!([]), "nothing was stored");
}

#[tokio::test]
async fn a_preset_is_shown_with_its_names_and_a_recorded_event_as_it_is_delivered() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    for (asked, event, body) in [
        (
            json!({"endpoint": {"preset": "scribeless"}}),
            "scan.created",
            r#""type":"qr_code.scanned""#,
        ),
        (
            json!({"endpoint": {"preset": "qrstudio"}, "event_type": "quota.threshold_75"}),
            "quota.threshold_75",
            r#"{"type":"quota.threshold_75","id":"evt_"#,
        ),
        (
            json!({"endpoint": {"preset": "qr-for-agent"}, "event_type": "qr.conversion"}),
            "qr.conversion",
            r#"{"event":"qr.conversion","data":{"shortId":"test""#,
        ),
        (
            json!({"endpoint": {"preset": "qrstudio"}, "event_type": "dynamic_qr.updated"}),
            "code.updated",
            r#"{"type":"dynamic_qr.updated","id":"evt_"#,
        ),
    ] {
        let shown = api.post(&key, PATH, asked.clone()).await.ok();
        assert_eq!(shown.body["event_type"], event);
        assert!(
            shown.text("body").contains(body),
            "{asked}: {}",
            shown.text("body")
        );
    }
    let made = api.post(&key, "/v1/codes", code()).await.ok();
    let events = api.get(&key, "/v1/events?type=code.created").await.ok();
    let id = events.body["events"][0]["id"].clone();
    let asked = json!({"endpoint": {"preset": "qrstudio"}, "event_id": id});
    let shown = api.post(&key, PATH, asked.clone()).await.ok();
    let body: Value = serde_json::from_str(&shown.text("body")).unwrap();
    assert_eq!((&body["type"], &body["id"]), (&json!("dynamic_qr.created"), &id));
    assert_eq!(body["data"]["short_id"], made.body["short_id"]);

    let (_, other) = api.tenant_and_key().await;
    assert_eq!(
        api.post(&other, PATH, asked).await.status,
        404,
        "another tenant's event"
    );
}

#[tokio::test]
async fn what_a_create_refuses_a_preview_refuses_and_a_real_secret_too() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    for (asked, field) in [
        (
            json!({"endpoint": {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}),
            "endpoint.secret",
        ),
        (json!({"event_type": "scan.*"}), "event_type"),
        (json!({"event_type": "nope"}), "event_type"),
        (
            json!({"endpoint": {"preset": "scribeless"}, "event_type": "code.deleted"}),
            "event_type",
        ),
        (json!({"endpoint": {"preset": "nope"}}), "endpoint.preset"),
        (
            json!({"endpoint": {"payload": {"format": "template", "template": "${"}}}),
            "endpoint.payload.template",
        ),
        (
            json!({"endpoint": {"signature": {"scheme": "hex_body", "header": "Host"}}}),
            "endpoint.signature.header",
        ),
        (
            json!({"event_type": "scan.created", "event_id": "evt_x"}),
            "event_type",
        ),
        (
            json!({"endpoint": {"preset": "scribeless", "events": ["qr_code.scanned"]}, "event_type": "code.deleted"}),
            "endpoint.payload",
        ),
    ] {
        let answer = api.post(&key, PATH, asked.clone()).await;
        let fields = answer.fields();
        assert_eq!(
            (answer.status, fields.as_slice()),
            (400, [field.to_owned()].as_slice()),
            "{asked}: {answer:?}"
        );
    }
    assert_eq!(
        api.post(&key, PATH, json!({"event_id": "evt_nope"})).await.status,
        404
    );
}
