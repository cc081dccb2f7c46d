//! Each preset with a receiver that knows nothing but its service's documentation: it verifies the raw bytes as that
//! says, and expects its body, member by member and in its time formats.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{Method, Request};
use qrelay_tests::{
    api::Api,
    http::once,
    receiver::{Arrival, Behaviour, Receiver},
    server::{Server, Setup},
    wait_until,
};
use serde_json::{Value, json};
use sha2::Sha256;

const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Mobile/15E148 Safari/604.1";

struct Stage {
    server: Server,
    api: Api,
    tenant: String,
    receiver: Receiver,
    endpoint: Value,
    _dir: tempfile::TempDir,
}

impl Stage {
    /// A server and an endpoint that was registered with nothing but what the preset asks for.
    async fn start(preset: &str, events: Value, secret: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
        let (tenant, api) = server.admin().tenant(preset).await;
        let receiver = Receiver::start(Behaviour::Accept).await;
        let mut body = json!({"url": receiver.url(), "events": events, "preset": preset});
        if let Some(secret) = secret {
            body["secret"] = json!(secret);
        }
        let endpoint = api.post("/v1/endpoints", body).await;
        assert_eq!(
            (&endpoint["preset"], &endpoint["events"]),
            (&json!(preset), &events)
        );
        if let Some(secret) = secret {
            assert_eq!(endpoint["secret"], secret);
        }
        Self {
            server,
            api,
            tenant,
            receiver,
            endpoint,
            _dir: dir,
        }
    }

    fn secret(&self) -> &str {
        self.endpoint["secret"].as_str().unwrap()
    }

    fn path(&self, below: &str) -> String {
        format!("/v1/endpoints/{}{below}", self.endpoint["id"].as_str().unwrap())
    }

    /// Scans a code from an iPhone; the scan's event as the API shows it.
    async fn scan(&self, short_id: &str) -> Value {
        // A busy machine may make the edge answer 503; a person scans again.
        let answer = wait_until("the redirect", async || {
            let request = Request::get(format!("/{short_id}"))
                .header("host", self.server.edge().to_string())
                .header("user-agent", IPHONE)
                .header("referer", "https://instagram.com/")
                .body(http_body_util::Full::default())
                .unwrap();
            let answer = once(self.server.edge(), request).await.unwrap();
            Some(answer).filter(|answer| answer.status() == 302)
        })
        .await;
        let id = answer.headers()["x-qrelay-scan"].to_str().unwrap().to_owned();
        self.api.get(&format!("/v1/events/{id}")).await
    }

    async fn arrivals(&self, count: usize) -> Vec<Arrival> {
        wait_until("the webhooks", async || {
            Some(self.receiver.arrivals()).filter(|arrivals| arrivals.len() >= count)
        })
        .await
    }

    /// What a test sends.
    async fn test(&self) -> Arrival {
        let tested = self.api.post(&self.path("/test"), json!({})).await;
        assert_eq!(tested["status"], "succeeded");
        self.receiver.arrivals().pop().unwrap()
    }

    /// What a preview shows of an event that was delivered, signed with another secret.
    async fn preview(&self, event: &Value) -> Value {
        let endpoint = json!({"preset": self.endpoint["preset"], "events": self.endpoint["events"]});
        let asked = json!({"endpoint": endpoint, "event_id": event["id"]});
        let shown = self.api.post("/v1/endpoints:preview", asked).await;
        assert_ne!(shown["secret"], self.endpoint["secret"]);
        shown
    }

    /// Rotates the secret; the new one. An overlap is refused, because receivers know one secret.
    async fn rotate(&self) -> String {
        let overlap = json!({"overlap": "3600s"});
        let refused = self
            .api
            .call(Method::POST, &self.path("/rotate"), Some(&overlap))
            .await;
        assert_eq!(refused.unwrap().0, 400);
        let rotated = self.api.post(&self.path("/rotate"), json!({})).await;
        rotated["secret"].as_str().unwrap().to_owned()
    }
}

fn hex(secret: &str, parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    HEXLOWER.encode(&mac.finalize().into_bytes())
}

fn header<'a>(arrival: &'a Arrival, name: &str) -> &'a str {
    arrival.headers[name].to_str().unwrap()
}

fn text(arrival: &Arrival) -> &str {
    std::str::from_utf8(&arrival.body).unwrap()
}

/// `2026-05-09T14:01:23Z` of `2026-05-09T14:01:23.451Z`.
fn seconds(time: &Value) -> String {
    format!("{}Z", &time.as_str().unwrap()[..19])
}

/// `2026-01-01T10:00:00.000000+00:00` of `2026-01-01T10:00:00.000Z`.
fn micros(time: &Value) -> String {
    let time = time.as_str().unwrap().trim_end_matches('Z');
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    format!("{whole}.{fraction:0<6}+00:00")
}

fn is_hex_of_body(arrival: &Arrival, name: &str, secret: &str) -> bool {
    header(arrival, name) == hex(secret, &[&arrival.body])
}

#[tokio::test]
async fn a_receiver_of_qr_for_agent_notices_no_difference() {
    let stage = Stage::start("qr-for-agent", json!(["qr.scanned", "qr.conversion"]), None).await;
    assert!(stage.secret().starts_with("whsec_"));
    let code = json!({"short_id": "abc123", "destination_url": "https://example.com/"});
    stage.api.post("/v1/codes", code).await;
    let event = stage.scan("abc123").await;
    let arrival = &stage.arrivals(1).await[0];
    assert_eq!(header(arrival, "content-type"), "application/json");
    assert!(is_hex_of_body(arrival, "x-webhook-signature", stage.secret()));
    let at = &event["data"]["scanned_at"];
    let expected = format!(
        r#"{{"event":"qr.scanned","data":{{"shortId":"abc123","timestamp":{at},"userAgent":"{IPHONE}","device_type":"mobile","browser":"Safari","os":"iOS","country":null,"city":null,"referer":"https://instagram.com/"}}}}"#
    );
    assert_eq!(text(arrival), expected);

    let order = json!({
        "event_id": event["id"], "external_id": "order 1", "value": "49.90", "currency": "EUR", "properties": {"items": 2},
    });
    let conversion = stage.api.post("/v1/conversions", order).await;
    let arrival = &stage.arrivals(2).await[1];
    assert!(is_hex_of_body(arrival, "x-webhook-signature", stage.secret()));
    let recorded = stage
        .api
        .get(&format!("/v1/events/{}", conversion["id"].as_str().unwrap()))
        .await;
    let expected = format!(
        r#"{{"event":"qr.conversion","data":{{"shortId":"abc123","timestamp":{},"externalId":"order 1","value":"49.90","currency":"EUR","properties":{{"items":2}},"scan":{{"id":{},"timestamp":{at},"device_type":"mobile","browser":"Safari","os":"iOS","country":null,"city":null}}}}}}"#,
        recorded["created_at"], event["id"]
    );
    assert_eq!(text(arrival), expected);

    let secret = stage.rotate().await;
    let arrival = stage.test().await;
    assert!(is_hex_of_body(&arrival, "x-webhook-signature", &secret));
    assert!(text(&arrival).starts_with(r#"{"event":"qr.scanned","data":{"shortId":"test","timestamp":""#));
    stage.server.stop().await;
}

fn is_qrstudios(arrival: &Arrival, secret: &str) -> bool {
    let (time, signature) = header(arrival, "x-qrstudio-signature")
        .split_once(",v1=")
        .unwrap();
    let time = time.strip_prefix("t=").unwrap();
    signature == hex(secret, &[time.as_bytes(), b".", &arrival.body])
}

#[tokio::test]
async fn a_receiver_of_qrstudio_notices_no_difference() {
    let events = json!([
        "scan.created",
        "dynamic_qr.created",
        "dynamic_qr.updated",
        "quota.threshold_75",
        "quota.threshold_100"
    ]);
    let stage = Stage::start("qrstudio", events, None).await;
    assert!(stage.secret().starts_with("whsec_"));
    let code = json!({
        "short_id": "aBc12dEf", "name": "Spring 2026 menu", "owner_id": "42",
        "destination_url": "https://example.com/menus/spring-2026",
    });
    let code = stage.api.post("/v1/codes", code).await;
    stage.arrivals(1).await;
    let path = format!("/v1/codes/{}", code["id"].as_str().unwrap());
    let changed = stage.api.patch(&path, json!({"name": "Summer menu"})).await;
    stage.arrivals(2).await;
    let event = stage.scan("aBc12dEf").await;
    let arrivals = stage.arrivals(3).await;
    assert!(
        arrivals
            .iter()
            .all(|arrival| is_qrstudios(arrival, stage.secret()))
    );
    for (arrival, kind, name, at) in [
        (&arrivals[0], "created", "Spring 2026 menu", &code["created_at"]),
        (&arrivals[1], "updated", "Summer menu", &changed["updated_at"]),
    ] {
        let body: Value = serde_json::from_slice(&arrival.body).unwrap();
        assert!(body["id"].as_str().unwrap().starts_with("evt_"));
        let expected = format!(
            r#"{{"type":"dynamic_qr.{kind}","id":{},"created_at":"{}","data":{{"short_id":"aBc12dEf","name":"{name}","destination_url":"https://example.com/menus/spring-2026","owner_id":42}}}}"#,
            body["id"],
            seconds(at)
        );
        assert_eq!(text(arrival), expected);
    }
    let at = &event["data"]["scanned_at"];
    let expected = format!(
        r#"{{"type":"scan.created","id":{},"created_at":"{}","data":{{"short_id":"aBc12dEf","name":"Summer menu","owner_id":42,"destination_url":"https://example.com/menus/spring-2026","scanned_at":{at},"country":null,"city":null,"device_family":"iPhone","os_family":"iOS","browser_family":"Safari","referer":"https://instagram.com/","user_agent":"{IPHONE}","is_bot":false,"variant_label":"(default)"}}}}"#,
        event["id"],
        seconds(at)
    );
    assert_eq!(text(&arrivals[2]), expected);

    let shown = stage.preview(&event).await;
    assert_eq!(shown["body"], expected, "a preview shows what is delivered");
    let headers = shown["headers"].as_array().unwrap();
    let signature = headers
        .iter()
        .find(|header| header["name"] == "x-qrstudio-signature");
    let signature = signature.unwrap()["value"].as_str().unwrap();
    let (time, signature) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let signed = hex(
        shown["secret"].as_str().unwrap(),
        &[time.as_bytes(), b".", expected.as_bytes()],
    );
    assert_eq!(signature, signed);

    let secret = stage.rotate().await;
    let arrival = stage.test().await;
    assert!(is_qrstudios(&arrival, &secret) && !is_qrstudios(&arrival, stage.secret()));
    let body: Value = serde_json::from_slice(&arrival.body).unwrap();
    assert_eq!(
        (&body["type"], &body["data"]["owner_id"]),
        (&json!("scan.created"), &json!(1))
    );
    stage.server.stop().await;
}

#[tokio::test]
async fn a_receiver_of_scanforge_notices_no_difference() {
    let own = "the-customers-own-secret";
    let stage = Stage::start("scanforge", json!(["scan"]), Some(own)).await;
    let code = json!({"short_id": "flyer", "destination_url": "https://example.com/flyer"});
    let code = stage.api.post("/v1/codes", code).await;
    let event = stage.scan("flyer").await;
    let arrival = &stage.arrivals(1).await[0];
    assert!(is_hex_of_body(arrival, "x-scanforge-signature", own));
    let expected = format!(
        r#"{{"event":"scan","id":{},"code_id":{},"timestamp":{},"geo":{{"country":null,"region":null,"city":null}},"device":{{"type":"mobile","browser":"Safari","os":"iOS"}},"referrer":"https://instagram.com/","user_agent":"{IPHONE}","destination_url":"https://example.com/flyer","is_bot":false}}"#,
        event["id"], code["id"], event["data"]["scanned_at"]
    );
    assert_eq!(text(arrival), expected);
    let secret = stage.rotate().await;
    assert!(is_hex_of_body(
        &stage.test().await,
        "x-scanforge-signature",
        &secret
    ));
    stage.server.stop().await;
}

fn is_scribelesss(arrival: &Arrival, secret: &str) -> bool {
    let time = header(arrival, "x-scribeless-timestamp").as_bytes();
    let expected = hex(secret, &[time, b".", &arrival.body]);
    header(arrival, "x-scribeless-signature") == format!("sha256={expected}")
}

#[tokio::test]
async fn a_receiver_of_scribeless_notices_no_difference() {
    let stage = Stage::start("scribeless", json!(["qr_code.scanned"]), None).await;
    let recipient = json!({
        "id": "RECIPIENT_ID", "first_name": "Ada", "last_name": "Lovelace", "campaign_id": "CAMPAIGN_ID",
        "status": "pending", "variables": {"externalId": "order_12345"},
    });
    let code = json!({
        "short_id": "abc123", "destination_url": "https://example.com/offers/SPRING-25", "recipient": recipient,
        "metadata": {"template_id": "TEMPLATE_ID", "block_id": "spring-offer", "size": "24mm",
            "options": {"ecl": "Q", "dotsType": "square", "dotsColor": "#000000"}},
    });
    let code = stage.api.post("/v1/codes", code).await;
    let event = stage.scan("abc123").await;
    // What is known of the recipient later says nothing about the scan before.
    let path = format!("/v1/codes/{}", code["id"].as_str().unwrap());
    stage
        .api
        .patch(&path, json!({"recipient": {"id": "OTHER"}}))
        .await;
    let arrival = &stage.arrivals(1).await[0];
    assert!(is_scribelesss(arrival, stage.secret()));
    assert_eq!(header(arrival, "x-scribeless-event"), "qr_code.scanned");
    let delivery = wait_until("the delivery's row", async || {
        let list = stage.api.get(&stage.path("/deliveries")).await;
        list["deliveries"].get(0).cloned()
    })
    .await;
    assert_eq!(header(arrival, "x-scribeless-delivery"), delivery["id"]);

    let scan_id = event["id"].as_str().unwrap().strip_prefix("evt_").unwrap();
    let (id, team, at) = (
        code["id"].as_str().unwrap(),
        &stage.tenant,
        micros(&event["data"]["scanned_at"]),
    );
    let expected = json!({
        "id": format!("evt_qr_scan_{scan_id}"), "type": "qr_code.scanned", "created_at": at, "team_id": team,
        "scan": {"id": scan_id, "smart_qr_code_id": id, "team_id": team, "created_at": at},
        "qr_code": {
            "id": id, "key": "abc123", "destination_url": "https://example.com/offers/SPRING-25",
            "recipient_id": "RECIPIENT_ID", "template_id": "TEMPLATE_ID", "block_id": "spring-offer", "size": "24mm",
            "options": {"dotsColor": "#000000", "dotsType": "square", "ecl": "Q"}, "team_id": team,
            "created_at": micros(&code["created_at"]), "updated_at": micros(&code["updated_at"]),
        },
        "recipient": recipient,
    });
    assert_eq!(text(arrival), expected.to_string());

    let secret = stage.rotate().await;
    let arrival = stage.test().await;
    assert!(is_scribelesss(&arrival, &secret));
    assert_eq!(header(&arrival, "x-scribeless-event"), "qr_code.scanned");
    let body: Value = serde_json::from_slice(&arrival.body).unwrap();
    assert_eq!(body["recipient"]["first_name"], "Ada");
    stage.server.stop().await;
}

#[tokio::test]
async fn slack_discord_and_zapier_get_what_they_show() {
    for preset in ["slack", "discord", "zapier"] {
        let stage = Stage::start(preset, json!(["*"]), None).await;
        assert!(stage.endpoint["secret"].is_null(), "{preset} has no signature");
        let code = json!({"short_id": "menu", "name": "Menu <!here> @everyone", "destination_url": "https://example.com/"});
        stage.api.post("/v1/codes", code).await;
        stage.arrivals(1).await;
        let event = stage.scan("menu").await;
        let arrival = &stage.arrivals(2).await[1];
        let body: Value = serde_json::from_slice(&arrival.body).unwrap();
        let expected = match preset {
            "slack" => json!({
                "text": "Menu &lt;!here&gt; @everyone was scanned on iOS", "mrkdwn": false, "unfurl_links": false, "unfurl_media": false,
            }),
            "discord" => json!({
                "content": r"**Menu \<!here\> \@everyone** was scanned on iOS", "allowed_mentions": {"parse": []},
            }),
            _ => {
                assert!(
                    body.as_object()
                        .unwrap()
                        .values()
                        .all(|value| !value.is_array() && !value.is_object())
                );
                assert_eq!(
                    (&body["type"], &body["id"]),
                    (&json!("scan.created"), &event["id"])
                );
                assert_eq!(body["scanned_at"], event["data"]["scanned_at"]);
                body.clone()
            }
        };
        assert_eq!(body, expected);
        let names: Vec<_> = arrival.headers.keys().map(http::HeaderName::as_str).collect();
        assert!(!names.iter().any(|name| name.contains("signature")), "{names:?}");
        let test = stage.test().await;
        assert!(text(&test).contains(if preset == "zapier" {
            "scan.created"
        } else {
            "Test event"
        }));
        stage.server.stop().await;
    }
}
