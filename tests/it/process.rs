//! The process itself: its data directory, signals, exit codes and first start.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
};

use qrelay_tests::{
    http,
    receiver::{Behaviour, Receiver},
    scan::Crowd,
    server::{Setup, code_and_endpoint},
    wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

#[tokio::test]
async fn a_second_owner_of_a_data_directory_is_refused_with_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let server = setup.start().await;
    let second = Command::new(super::BINARY)
        .args(["up", "--data-dir"])
        .arg(&setup.data_dir)
        .args([
            "--edge-listen",
            "127.0.0.1:0",
            "--api-listen",
            "127.0.0.1:0",
            "--ops-listen",
            "127.0.0.1:0",
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("in use"), "{text}");
    server.stop().await;
}

#[test]
fn usage_errors_name_every_violation_and_exit_64() {
    let wrong = [
        "up",
        "--edge-listen",
        "nowhere",
        "--retention",
        "soon",
        "--dangerous-allow-target",
        "10.0.0.0/99",
    ];
    let output = Command::new(super::BINARY)
        .args(wrong)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for name in ["--edge-listen", "--retention", "--dangerous-allow-target"] {
        assert!(text.contains(name), "{name} is not named in: {text}");
    }
    let unknown = Command::new(super::BINARY)
        .args(["up", "--nope"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(unknown.status.code(), Some(64));
}

/// Starts a server that is to refuse its configuration: its exit code and all that it said.
fn refused_start(data_dir: &std::path::Path, flags: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(super::BINARY)
        .args(["up", "--data-dir"])
        .arg(data_dir)
        .args(["--edge-listen=127.0.0.1:0", "--api-listen=127.0.0.1:0"])
        .args(["--ops-listen=127.0.0.1:0"])
        .args(flags)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

#[test]
fn a_file_that_is_not_what_its_flag_is_for_is_named_with_the_flag_and_exits_64() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let cert = file("cert.pem", made.cert.pem().as_bytes());
    let key = file("key.pem", made.signing_key.serialize_pem().as_bytes());
    let another = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let another = file("another.pem", another.signing_key.serialize_pem().as_bytes());
    let wrong = [
        dir.path().join("missing/file").display().to_string(),
        dir.path().display().to_string(),
        file("empty", b""),
        file("garbage", b"\x00\xff not what it should be \xfe\n"),
    ];
    let flags: [(&str, &[&str]); 6] = [
        ("--geoip-db", &[]),
        ("--ca-bundle", &[]),
        ("--api-tls-cert", &["--api-tls-key", &key]),
        ("--api-tls-key", &["--api-tls-cert", &cert]),
        ("--admin-key-file", &[]),
        ("--master-key-file", &[]),
    ];
    for (flag, others) in flags {
        for path in &wrong {
            let data_dir = tempfile::tempdir().unwrap();
            let (code, text) = refused_start(data_dir.path(), &[&[flag, path], others].concat());
            let told = text.contains(flag)
                && text.contains(path.as_str())
                && ["name a", "name the"].iter().any(|advice| text.contains(advice));
            assert!(code == Some(64) && told, "{flag} {path}: {code:?} {text}");
        }
    }
    let data_dir = tempfile::tempdir().unwrap();
    let pair = ["--api-tls-cert", &cert, "--api-tls-key", &another];
    let (code, text) = refused_start(data_dir.path(), &pair);
    assert!(
        code == Some(64) && text.contains(&cert) && text.contains(&another),
        "{text}"
    );
}

#[tokio::test]
async fn the_command_line_finds_a_code_by_its_short_id_and_takes_the_key_of_the_file_that_a_flag_names() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let server = setup.start().await;
    let (_, api) = server.admin().tenant("short").await;
    let code = json!({"short_id": "printed", "destination_url": "https://a.example/"});
    let code = api.post("/v1/codes", code).await;
    let key = dir.path().join("key");
    std::fs::write(&key, &api.key).unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(super::BINARY)
            .args(arguments)
            .arg("--key-file")
            .arg(&key)
            .env("QRELAY_API", format!("http://{}", api.address))
            .env("QRELAY_KEY", "qrk_of_another_shell")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            said,
        )
    };
    for id in ["printed", code["id"].as_str().unwrap()] {
        let (exit, shown, said) = run(&["code", "show", id]);
        assert_eq!(exit, Some(0), "{said}");
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["id"], code["id"]);
    }
    let (exit, _, said) = run(&["code", "show", "unknown"]);
    assert!(exit == Some(1) && said.contains("qrelay code list"), "{said}");
    // Without a name there is no filter either, which would find any code.
    let (exit, shown, _) = run(&["code", "show", ""]);
    assert_eq!((exit, shown.as_str()), (Some(1), ""));
    let (exit, _, said) = run(&["code", "list", "--ca-bundle", "/nowhere/ca.pem"]);
    assert!(exit == Some(64) && said.contains("/nowhere/ca.pem"), "{said}");
    server.stop().await;
}

#[tokio::test]
async fn another_installs_master_key_is_refused_by_a_store_with_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let server = setup.start().await;
    let (_, api) = server.admin().tenant("sealed").await;
    code_and_endpoint(&api, "sealed", "http://127.0.0.1:1024/").await;
    server.stop().await;
    let other = Setup::new(super::BINARY, &dir.path().join("other"));
    other.start().await.stop().await;
    let foreign = other.data_dir.join("master.key").display().to_string();
    let (code, text) = refused_start(&setup.data_dir, &["--master-key-file", &foreign]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("--master-key-file") && text.contains(&foreign),
        "{text}"
    );
    setup.start().await.stop().await;
}

#[tokio::test]
async fn an_admin_key_file_named_by_a_flag_beats_the_variable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin");
    std::fs::write(&path, "an-admin-key-that-stands-in-a-file\n").unwrap();
    // Its environment has QRELAY_ADMIN_KEY, as the shell of an operator may.
    let setup = Setup::new(super::BINARY, &dir.path().join("data"))
        .with(&["--admin-key-file", &path.display().to_string()]);
    let server = setup.start().await;
    let mut admin = server.admin();
    admin.key = "an-admin-key-that-stands-in-a-file".to_owned();
    admin.tenant("flag").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_drains_and_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let server = setup.start().await;
    let (_, api) = server.admin().tenant("drain").await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    code_and_endpoint(&api, "drain", &receiver.url()).await;
    let crowd = Crowd::start(server.edge(), "/drain", 200);
    wait_until("some scans are answered", async || {
        (crowd.ledger().count() > 100).then_some(())
    })
    .await;
    server.stop().await;
    let ledger = crowd.finish().await;

    let server = setup.start().await;
    wait_until("all that was answered is delivered", async || {
        let accepted = receiver.accepted();
        ledger
            .answered()
            .iter()
            .all(|id| accepted.contains_key(id))
            .then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let mut server = setup.start().await;
    // A request that never ends keeps the drain from finishing at once.
    let held = tokio::net::TcpStream::connect(server.edge()).await.unwrap();
    held.writable().await.unwrap();
    held.try_write(b"GET /never HTTP/1.1\r\nHost: a\r\n").unwrap();
    server.signal(Signal::TERM);
    wait_until("the drain begins", async || {
        server.log().contains("draining").then_some(())
    })
    .await;
    server.signal(Signal::TERM);
    let status = server.ended().await;
    // It may have drained before the second signal came; if not, it ends with 143.
    assert!(matches!(status.code(), Some(0 | 143)), "{status}");
    drop(held);
}

#[tokio::test]
async fn the_first_start_makes_a_master_key_and_an_admin_key_that_only_the_owner_can_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let mut command = setup.command();
    command.env_remove("QRELAY_ADMIN_KEY");
    let mut child = command.spawn().unwrap();
    let key_file = wait_until("the admin key is written", async || {
        let files = std::fs::read_dir(&setup.data_dir).ok()?;
        // Beside it stands its hash, which later starts know it by.
        files
            .flatten()
            .map(|file| file.path())
            .find(|path| path.ends_with("admin-key"))
    })
    .await;
    for file in std::fs::read_dir(&setup.data_dir).unwrap().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if name.contains("key") {
            assert_eq!(
                file.metadata().unwrap().permissions().mode() & 0o777,
                0o600,
                "{name}"
            );
        }
    }
    wait_until("the log names the key's file, not the key", async || {
        let log = std::fs::read_to_string(setup.log_path()).unwrap();
        let key = std::fs::read_to_string(&key_file).unwrap();
        let key = key.trim();
        assert!(key.is_empty() || !log.contains(key), "the key is in the log");
        (!key.is_empty() && log.contains(&*key_file.to_string_lossy())).then_some(())
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_demo_delivers_every_scan_and_says_so_in_one_json_object() {
    let output = Command::new(super::BINARY)
        .args(["demo", "--scans", "300", "--concurrency", "8", "--json"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let summary: Value = serde_json::from_str(&text).expect("stdout is one JSON object and nothing else");
    for field in ["scans", "answered", "recorded", "delivered"] {
        assert_eq!(summary[field], json!(300), "{field}: {summary}");
    }
    assert_eq!(summary["lost"], 0);
    assert!(
        summary["scan_to_webhook_ms"]["p50"].is_number() && summary["scan_to_webhook_ms"]["p99"].is_number()
    );
    assert!(summary["elapsed_s"].is_number() && summary["duplicates"].is_number());
}

#[tokio::test]
async fn health_and_metrics_are_served_beside_the_product() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("ops").await;
    api.post(
        "/v1/codes",
        json!({"short_id": "ops", "destination_url": "https://a.example/"}),
    )
    .await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    api.post(
        "/v1/endpoints",
        json!({"url": receiver.url(), "events": ["scan.created"]}),
    )
    .await;
    http::get(server.edge(), "/ops").await.unwrap();
    wait_until("a delivery is counted", async || {
        (server.metric("qrelay_deliveries_ended_total").await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(http::get(server.ops(), "/healthz").await.unwrap().status(), 200);
    let metrics = http::get(server.ops(), "/metrics").await.unwrap();
    let text = String::from_utf8(metrics.body().to_vec()).unwrap();
    let named = |mark: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(mark));
        lines
            .filter_map(|line| line.split(' ').next().map(str::to_owned))
            .collect()
    };
    let (types, helps) = (named("# TYPE "), named("# HELP "));
    assert!(types.len() > 10, "{text}");
    let bare: Vec<_> = types.difference(&helps).collect();
    assert!(bare.is_empty(), "metrics without a help text: {bare:?}");
    server.stop().await;
}
