//! Endpoints whose webhooks have another form than the event's own.

use qrelay_tests::{
    http,
    receiver::{Arrival, Behaviour, Receiver},
    server::Setup,
    wait_until,
};
use serde_json::{Value, json};

async fn arrivals(receiver: &Receiver, count: usize) -> Vec<Arrival> {
    wait_until("the webhooks", async || {
        Some(receiver.arrivals()).filter(|arrivals| arrivals.len() >= count)
    })
    .await
}

#[tokio::test]
async fn a_template_makes_the_same_signed_bytes_on_every_attempt_and_in_a_test() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("templates").await;
    let receiver = Receiver::start(Behaviour::Answer(500)).await;
    let template = r#"{"what": "${type}", "at": "${time_s(data.scanned_at)}", "owner": "${number_or_text(code.owner_id)}",
        "note": "${code.name} for ${code.recipient.name}", "shop": "${code.metadata.shop}"}"#;
    let endpoint = json!({
        "url": receiver.url(), "events": ["scan.created"], "retry_schedule": ["0s", "1s"],
        "payload": {"format": "template", "template": template, "content_type": "application/vnd.shop+json"},
    });
    let endpoint = api.post("/v1/endpoints", endpoint).await;
    receiver.expect_secret(endpoint["secret"].as_str().unwrap());
    let code = json!({
        "short_id": "menu", "destination_url": "https://example.com/", "name": "Menu", "owner_id": "42",
        "recipient": {"name": "Ada"},
    });
    api.post("/v1/codes", code).await;

    let answer = http::get(server.edge(), "/menu").await.unwrap();
    let id = answer.headers()["x-qrelay-scan"].to_str().unwrap().to_owned();
    let both = arrivals(&receiver, 2).await;
    let event = api.get(&format!("/v1/events/{id}")).await;
    let scanned_at = event["data"]["scanned_at"].as_str().unwrap();
    let seconds = format!("{}Z", &scanned_at[..19]);
    let expected =
        format!(r#"{{"what":"scan.created","at":"{seconds}","owner":42,"note":"Menu for Ada","shop":null}}"#);
    for arrival in &both {
        assert_eq!(String::from_utf8_lossy(&arrival.body), expected);
        assert_eq!((arrival.id.as_str(), arrival.verified), (id.as_str(), Some(true)));
        assert_eq!(arrival.headers["content-type"], "application/vnd.shop+json");
    }

    receiver.behave(Behaviour::Accept);
    let test = api
        .post(
            &format!("/v1/endpoints/{}/test", endpoint["id"].as_str().unwrap()),
            json!({}),
        )
        .await;
    assert_eq!(test["status"], "succeeded");
    let last = receiver.arrivals().pop().unwrap();
    let body: Value = serde_json::from_slice(&last.body).unwrap();
    assert_eq!(
        (&body["what"], &body["note"]),
        (&json!("scan.created"), &json!("Test event for "))
    );
    server.stop().await;
}

#[tokio::test]
async fn cloudevents_and_forms_arrive_as_such_and_a_body_that_cannot_be_made_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (tenant, api) = server.admin().tenant("formats").await;
    let events = Receiver::start(Behaviour::Accept).await;
    let forms = Receiver::start(Behaviour::Accept).await;
    let make = async |receiver: &Receiver, payload: Value| {
        let endpoint = json!({"url": receiver.url(), "events": ["code.*"], "payload": payload});
        api.post("/v1/endpoints", endpoint).await
    };
    make(&events, json!({"format": "cloudevents"})).await;
    let form = json!({
        "format": "template", "content_type": "application/x-www-form-urlencoded",
        "template": r#"{"kind": "${type}", "name": "${data.name}", "meta": "${data.metadata.shop}"}"#,
    });
    let form = make(&forms, form).await;

    let code = |short_id: &str, shop: Value| {
        json!({
            "short_id": short_id, "destination_url": "https://example.com/", "name": "A & B", "metadata": {"shop": shop},
        })
    };
    let poison = api.post("/v1/codes", code("poison", json!(["a", "list"]))).await;
    api.post("/v1/codes", code("good", json!("7"))).await;

    let cloud = arrivals(&events, 2).await;
    let body: Value = serde_json::from_slice(&cloud[0].body).unwrap();
    assert_eq!(cloud[0].headers["content-type"], "application/cloudevents+json");
    assert_eq!(
        (&body["specversion"], &body["id"], &body["type"], &body["source"]),
        (
            &json!("1.0"),
            &json!(cloud[0].id),
            &json!("code.created"),
            &json!(format!("/tenants/{tenant}"))
        )
    );
    assert_eq!(
        (&body["subject"], &body["data"]["code_id"]),
        (&poison["id"], &poison["id"])
    );

    // The form of the first code cannot be made; the second one is not held up by it.
    let form_arrivals = arrivals(&forms, 1).await;
    assert_eq!(
        form_arrivals[0].headers["content-type"],
        "application/x-www-form-urlencoded"
    );
    assert_eq!(
        &form_arrivals[0].body[..],
        b"kind=code.created&name=A+%26+B&meta=7"
    );
    let list = format!("/v1/endpoints/{}/deliveries", form["id"].as_str().unwrap());
    let given_up = wait_until("the poison event is given up", async || {
        let deliveries = api.get(&list).await["deliveries"].as_array().unwrap().clone();
        deliveries
            .into_iter()
            .find(|delivery| delivery["status"] == "given_up")
    })
    .await;
    assert!(
        given_up["error"].as_str().unwrap().contains("a list or a map"),
        "{given_up}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_changed_template_is_obeyed_by_the_later_attempts_of_an_event() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("changes").await;
    let receiver = Receiver::start(Behaviour::Answer(500)).await;
    let payload = |text: &str| json!({"format": "template", "template": text});
    let schedule = [
        "0s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s",
    ];
    let endpoint = json!({
        "url": receiver.url(), "events": ["code.created"], "retry_schedule": schedule, "payload": payload("\"before\""),
        "failure": {"degrade_after": 0},
    });
    let endpoint = api.post("/v1/endpoints", endpoint).await;
    let code = json!({"short_id": "menu", "destination_url": "https://example.com/"});
    api.post("/v1/codes", code).await;
    let first = arrivals(&receiver, 1).await;
    let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap());
    api.patch(&path, json!({"payload": {"template": "\"after\""}}))
        .await;
    let last = wait_until("an attempt with the new template", async || {
        let arrivals = receiver.arrivals();
        arrivals
            .into_iter()
            .find(|arrival| &arrival.body[..] == b"\"after\"")
    })
    .await;
    assert_eq!(&first[0].body[..], b"\"before\"");
    assert_eq!(last.id, first[0].id, "the same event");
    server.stop().await;
}
