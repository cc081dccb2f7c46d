//! The k6 scripts of `loadtest/k6`, each for a few seconds at a low rate: they must run, and their checks hold.
//!
//! Their thresholds of latency and of dropped arrivals are for an idle machine; here they are wide open.

use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
};

use http::StatusCode;
use qrelay_loadtest::receiver::{self, Manner};
use qrelay_tests::server::{Server, Setup};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// Runs a script against the server, as one of its tenants.
async fn run(script: &str, server: &Server, settings: &[(&str, String)]) {
    let (_, api) = server.admin().tenant("k6").await;
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tests.parent().unwrap().join("loadtest/k6");
    let mut command = Command::new(tests.join("tools/k6"));
    command.args(["run", "--quiet", "--no-usage-report", "--no-color"]);
    let own = [
        ("EDGE", format!("http://{}", server.edge())),
        ("API", format!("http://{}", api.address)),
        ("KEY", api.key),
        ("SECONDS", "5".to_owned()),
        ("P99_MS", "60000".to_owned()),
        ("DROPPED_MAX", "1000000".to_owned()),
    ];
    for (name, value) in own.iter().chain(settings) {
        command.arg("-e").arg(format!("{name}={value}"));
    }
    command.arg(folder.join(script)).env("K6_NO_USAGE_REPORT", "true");
    command.stdin(Stdio::null());
    let output = spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{script}: {}\n{text}\n{errors}",
        output.status
    );
    // A script that never came to its checks would pass them all.
    let checked = text
        .lines()
        .any(|line| line.trim_start().starts_with("checks_succeeded"));
    assert!(checked, "{script} checked nothing:\n{text}\n{errors}");
    println!("{text}");
}

async fn server(dir: &Path) -> Server {
    Setup::new(super::BINARY, &dir.join("data")).start().await
}

#[tokio::test]
#[ignore = "needs k6: run by make test"]
async fn the_spike_of_scans_is_redirected() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path()).await;
    run("redirect-spike.js", &server, &[("RATE", "50".to_owned())]).await;
    server.stop().await;
}

#[tokio::test]
#[ignore = "needs k6: run by make test"]
async fn services_work_over_grpc() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path()).await;
    run("control-plane.js", &server, &[("RATE", "5".to_owned())]).await;
    server.stop().await;
}

#[tokio::test]
#[ignore = "needs k6: run by make test"]
async fn every_scan_comes_to_the_counting_receiver() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path()).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    // The receiver keeps to one thread of its own.
    let receiving = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let manner = Manner {
                status: StatusCode::OK,
                delay: std::time::Duration::ZERO,
            };
            receiver::serve(listener, manner, stopped).await.unwrap();
        });
    });
    let settings = [
        ("RATE", "5".to_owned()),
        ("RECEIVER", format!("http://{address}")),
    ];
    run("end-to-end.js", &server, &settings).await;
    server.stop().await;
    stop.cancel();
    receiving.join().unwrap();
}
