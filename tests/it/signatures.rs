//! Every signature scheme, verified by a receiver that is written from what the contract says of it.

use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::{Verifier as _, VerifyingKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use qrelay_tests::{
    receiver::{Arrival, Behaviour, Receiver, verify},
    server::Setup,
};
use serde_json::{Value, json};
use sha2::Sha256;

fn hex(secret: &str, parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    HEXLOWER.encode(&mac.finalize().into_bytes())
}

fn header<'a>(arrival: &'a Arrival, name: &str) -> &'a str {
    arrival.headers[name].to_str().unwrap()
}

/// Whether the delivery is what `scheme` promises for this endpoint.
fn verifies(scheme: &str, endpoint: &Value, arrival: &Arrival) -> bool {
    let secret = endpoint["secret"].as_str().unwrap_or_default();
    match scheme {
        "standard" => {
            let (time, signature) = (
                header(arrival, "webhook-timestamp"),
                header(arrival, "webhook-signature"),
            );
            verify(secret, &arrival.id, time, &arrival.body, signature)
        }
        "standard_ed25519" => {
            let public = endpoint["public_key"]
                .as_str()
                .unwrap()
                .strip_prefix("whpk_")
                .unwrap();
            let public = BASE64.decode(public.as_bytes()).unwrap();
            let public = VerifyingKey::from_bytes(public.as_slice().try_into().unwrap()).unwrap();
            let content = format!("{}.{}.", arrival.id, header(arrival, "webhook-timestamp"));
            let content = [content.as_bytes(), &arrival.body].concat();
            let signature = header(arrival, "webhook-signature").strip_prefix("v1a,").unwrap();
            let signature = BASE64.decode(signature.as_bytes()).unwrap();
            public
                .verify(&content, &signature.as_slice().try_into().unwrap())
                .is_ok()
        }
        "timestamped" => {
            let (time, signature) = header(arrival, "x-sig").split_once(",v1=").unwrap();
            let time = time.strip_prefix("t=").unwrap();
            signature == hex(secret, &[time.as_bytes(), b".", &arrival.body])
        }
        "sha256_timestamp" => {
            let time = header(arrival, "x-time").as_bytes();
            let expected = hex(secret, &[time, b".", &arrival.body]);
            header(arrival, "x-sig") == format!("sha256={expected}")
        }
        "hex_body" => header(arrival, "x-sig") == hex(secret, &[&arrival.body]),
        other => panic!("unknown scheme {other}"),
    }
}

#[tokio::test]
async fn a_receiver_verifies_every_scheme_and_gets_the_headers_that_were_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("signatures").await;
    let names = json!({"header": "X-Sig", "event_header": "X-Event", "delivery_header": "X-Delivery"});
    for (scheme, extra, secret) in [
        ("standard", json!({}), None),
        ("standard_ed25519", json!({"event_header": "X-Event"}), None),
        ("timestamped", names.clone(), None),
        (
            "sha256_timestamp",
            json!({"header": "X-Sig", "timestamp_header": "X-Time"}),
            None,
        ),
        ("hex_body", names, Some("the-customers-own-text")),
    ] {
        let receiver = Receiver::start(Behaviour::Accept).await;
        let mut signature = extra.clone();
        signature["scheme"] = json!(scheme);
        let mut body = json!({"url": receiver.url(), "events": ["*"], "signature": signature});
        if let Some(secret) = secret {
            body["secret"] = json!(secret);
        }
        let endpoint = api.post("/v1/endpoints", body).await;
        let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap());
        let tested = api.post(&format!("{path}/test"), json!({})).await;
        assert_eq!(tested["status"], "succeeded", "{scheme}");
        let arrival = &receiver.arrivals()[0];
        assert!(
            verifies(scheme, &endpoint, arrival),
            "{scheme}: {:?}",
            arrival.headers
        );
        if extra["event_header"].is_string() {
            assert_eq!(header(arrival, "x-event"), "scan.created");
        }
        if extra["delivery_header"].is_string() {
            assert_eq!(header(arrival, "x-delivery"), tested["id"]);
        }
        assert_eq!(
            arrival.headers.contains_key("webhook-id"),
            scheme.starts_with("standard")
        );

        // A new secret signs at once, under the same scheme.
        let rotated = api.post(&format!("{path}/rotate"), json!({})).await;
        assert_ne!(rotated["secret"], endpoint["secret"]);
        api.post(&format!("{path}/test"), json!({})).await;
        assert!(
            verifies(scheme, &rotated, &receiver.arrivals()[1]),
            "{scheme} rotated"
        );
    }
    let receiver = Receiver::start(Behaviour::Accept).await;
    let body = json!({"url": receiver.url(), "events": ["*"], "signature": {"scheme": "none"}});
    let endpoint = api.post("/v1/endpoints", body).await;
    assert!(endpoint.get("secret").is_none());
    let test = format!("/v1/endpoints/{}/test", endpoint["id"].as_str().unwrap());
    assert_eq!(api.post(&test, json!({})).await["status"], "succeeded");
    let headers = &receiver.arrivals()[0].headers;
    assert!(!headers.keys().any(|name| name.as_str().contains("signature")));
    server.stop().await;
}

#[tokio::test]
async fn during_a_rotations_overlap_receivers_with_either_secret_verify() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("rotation").await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    let endpoint = api
        .post("/v1/endpoints", json!({"url": receiver.url(), "events": ["*"]}))
        .await;
    let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap());
    let rotated = api
        .post(&format!("{path}/rotate"), json!({"overlap": "86400s"}))
        .await;
    api.post(&format!("{path}/test"), json!({})).await;
    let arrival = &receiver.arrivals()[0];
    assert!(verifies("standard", &endpoint, arrival), "the old one");
    assert!(verifies("standard", &rotated, arrival), "the new one");
    api.post(&format!("{path}/rotate"), json!({"immediate": true}))
        .await;
    api.post(&format!("{path}/test"), json!({})).await;
    let arrival = &receiver.arrivals()[1];
    assert!(!verifies("standard", &endpoint, arrival) && !verifies("standard", &rotated, arrival));
    server.stop().await;
}
