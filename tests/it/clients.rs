//! What others have written must work with what we serve: published clients and validators.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use qrelay_tests::{
    http,
    receiver::{Behaviour, Receiver},
    server::{Setup, code_and_endpoint},
    wait_until,
};
use serde_json::json;

fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(name)
}

#[tokio::test]
#[ignore = "needs node, python3 and their standardwebhooks packages: run by make test"]
async fn the_published_standard_webhooks_libraries_verify_a_real_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("clients").await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    let (_, endpoint) = code_and_endpoint(&api, "clients", &receiver.url()).await;
    http::get(server.edge(), "/clients").await.unwrap();
    let arrival = wait_until("the webhook", async || receiver.arrivals().into_iter().next()).await;

    let headers: serde_json::Map<_, _> = arrival
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("webhook-"))
        .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
        .collect();
    let body = String::from_utf8(arrival.body.to_vec()).unwrap();
    let genuine = json!({"secret": endpoint["secret"], "headers": headers, "body": body}).to_string();
    let forged =
        json!({"secret": endpoint["secret"], "headers": headers, "body": body.replace("clients", "forged!")})
            .to_string();
    for library in ["standardwebhooks-verify-node", "standardwebhooks-verify-python"] {
        assert!(accepts(library, &genuine), "{library} refuses a genuine delivery");
        assert!(!accepts(library, &forged), "{library} takes a forged body");
    }
    server.stop().await;
}

fn accepts(library: &str, delivery: &str) -> bool {
    let mut child = Command::new(tool(library))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(delivery.as_bytes())
        .unwrap();
    child.wait().unwrap().success()
}

#[tokio::test]
#[ignore = "needs the PyPI package openapi-spec-validator: run by make test"]
async fn a_public_validator_accepts_the_openapi_document() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let answer = http::get(server.admin().address, "/openapi.json").await.unwrap();
    assert_eq!(answer.status(), 200);
    let file = dir.path().join("openapi.json");
    std::fs::write(&file, answer.body()).unwrap();
    let output = Command::new(tool("openapi-validate"))
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let document: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    server.stop().await;
}
