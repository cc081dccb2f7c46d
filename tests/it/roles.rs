//! The roles' commands, where they have no cluster to run on.

use std::process::{Command, Stdio};

use qrelay_tests::{http, server::Setup, wait_until};

const ROLES: [&str; 3] = ["data-plane", "control-plane", "dispatcher"];

/// Runs a command that is to refuse: its exit code and all that it said.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(super::BINARY)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

#[test]
fn a_role_of_its_own_refuses_the_embedded_store_with_the_reason() {
    for role in ROLES {
        let (code, text) = refused(&[role]);
        assert_eq!(code, Some(64), "{role}: {text}");
        assert!(
            text.contains("--scylla-nodes (QRELAY_SCYLLA_NODES): is missing") && text.contains("`qrelay up`"),
            "{role}: {text}"
        );
        let (code, text) = refused(&[role, "--data-dir", "here"]);
        assert!(code == Some(64) && text.contains("--data-dir"), "{role}: {text}");
    }
}

#[test]
fn a_role_needs_what_it_cannot_make_and_is_given_nothing_else() {
    let (code, text) = refused(&["control-plane", "--scylla-nodes", "127.0.0.1:1"]);
    assert_eq!(code, Some(64), "{text}");
    for flag in ["--admin-key-file", "--master-key-file", "--public-url"] {
        assert!(text.contains(&format!("- {flag} (")), "{flag}: {text}");
    }
    let (code, text) = refused(&[
        "dispatcher",
        "--scylla-nodes",
        "127.0.0.1:1",
        "--peer-listen=0.0.0.0:0",
    ]);
    assert_eq!(code, Some(64), "{text}");
    for flag in [
        "--master-key-file",
        "--public-url",
        "--peer-listen",
        "--peer-advertise",
    ] {
        assert!(text.contains(&format!("- {flag} (")), "{flag}: {text}");
    }
    for flag in [
        "--master-key-file",
        "--admin-key-file",
        "--api-listen",
        "--peer-listen",
    ] {
        let (code, text) = refused(&["data-plane", flag, "x"]);
        assert!(
            code == Some(64) && text.contains("unexpected argument"),
            "{flag}: {text}"
        );
    }
}

#[tokio::test]
async fn a_role_waits_for_nodes_that_cannot_be_reached_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["data-plane", "dispatcher"] {
        let setup = Setup::new(super::BINARY, &dir.path().join(command))
            .on_cluster("127.0.0.1:1", "qrelay")
            .role(command);
        let server = setup.spawn();
        wait_until("it says what it waits for", async || {
            let ready = http::get(server.ops(), "/readyz").await.ok()?;
            assert_eq!(ready.status(), 503);
            let text = String::from_utf8(ready.body().to_vec()).unwrap();
            (text.contains("cannot connect") && text.contains("127.0.0.1:1")).then_some(())
        })
        .await;
        let alive = http::get(server.ops(), "/healthz").await.unwrap();
        assert_eq!(alive.status(), 200);
        let log = server.log();
        assert!(
            log.contains("--scylla-nodes") && log.contains("trying again"),
            "{log}"
        );
        server.stop().await;
    }
}
