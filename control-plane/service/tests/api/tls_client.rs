//! Client certificates of endpoints: judged when they are set, shown without their key.

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use crate::harness::{Api, endpoint};

/// A self-signed certificate and its key, in PEM.
fn identity(ends_in: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "sender.example");
    params.not_after = date_time_ymd(ends_in, 1, 1);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn with(cert: &str, key: &str) -> Value {
    let mut body = endpoint();
    body["tls_client"] = json!({"cert": cert, "key": key});
    body
}

#[tokio::test]
async fn a_client_certificate_is_shown_with_subject_and_end_and_its_key_never() {
    let api = Api::start().await;
    let (_, caller) = api.tenant_and_key().await;
    let (cert, key) = identity(2040);
    let made = api.post(&caller, "/v1/endpoints", with(&cert, &key)).await.ok();
    let shown = json!({
        "cert": cert, "key": "", "subject": "CN=sender.example", "expires_at": "2040-01-01T00:00:00.000Z",
    });
    assert_eq!(made.body["tls_client"], shown);
    let path = format!("/v1/endpoints/{}", made.text("id"));
    assert_eq!(api.get(&caller, &path).await.ok().body["tls_client"], shown);

    let row = api
        .store
        .endpoint(made.text("id").parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let inner = key.lines().nth(1).unwrap();
    assert!(
        !serde_json::to_string(&*row).unwrap().contains(inner),
        "the key is sealed"
    );

    let kept = api
        .patch(&caller, &path, json!({"description": "x", "tls_client": shown}))
        .await
        .ok();
    assert_eq!(
        kept.body["tls_client"], shown,
        "what was read can be written back"
    );
    let unchanged = api.store.endpoint(row.id).await.unwrap().unwrap();
    assert_eq!(unchanged.tls_client, row.tls_client);

    let (other_cert, other_key) = identity(2041);
    let changed = json!({"tls_client": {"cert": other_cert, "key": other_key}});
    let changed = api.patch(&caller, &path, changed).await.ok();
    assert_eq!(
        changed.body["tls_client"]["expires_at"],
        "2041-01-01T00:00:00.000Z"
    );
    let masked = format!("{path}?update_mask=tls_client");
    let removed = api.patch(&caller, &masked, json!({})).await.ok();
    assert_eq!(
        removed.body.get("tls_client").unwrap_or(&Value::Null),
        &Value::Null
    );

    api.patch(&caller, &path, json!({"tls_client": {"cert": cert, "key": key}}))
        .await
        .ok();
    api.delete(&caller, &path).await.ok();
    assert_eq!(
        api.store.endpoint(row.id).await.unwrap().unwrap().tls_client,
        None
    );
}

#[tokio::test]
async fn a_certificate_that_no_server_would_take_is_refused_with_its_field() {
    let api = Api::start().await;
    let (_, caller) = api.tenant_and_key().await;
    let ((cert, key), (_, other_key), (ended, ended_key)) = (identity(2040), identity(2040), identity(2020));
    let long = format!("{cert}{}", " ".repeat(17 * 1024));
    for (cert, key, field) in [
        (cert.as_str(), "", "tls_client.key"),
        ("", key.as_str(), "tls_client.cert"),
        (&cert, &other_key, "tls_client.key"),
        (&cert, &cert, "tls_client.key"),
        (&key, &key, "tls_client.cert"),
        (&ended, &ended_key, "tls_client.cert"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &key,
            "tls_client.cert",
        ),
        (&long, &key, "tls_client.cert"),
    ] {
        let refused = api.post(&caller, "/v1/endpoints", with(cert, key)).await;
        assert_eq!(refused.fields(), [field], "{refused:?}");
        assert!(!refused.body.to_string().contains("PRIVATE"), "{refused:?}");
    }
}
