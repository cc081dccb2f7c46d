//! The edge among hostile clients: whatever they send, others are served.

use std::{net::SocketAddr, process::Command, time::Duration};

use qrelay_tests::{http, server::Setup};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Sends bytes and reads until the server closes.
async fn raw(edge: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(edge).await.unwrap();
    // The server may close before it has read all: that is what is tested.
    stream.write_all(bytes).await.ok();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(30), stream.read_to_end(&mut answer))
        .await
        .expect("the server closes")
        .ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn hostile_requests_are_answered_with_an_error_and_a_closed_connection() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("hostile").await;
    api.post(
        "/v1/codes",
        json!({"short_id": "ok", "destination_url": "https://a.example/"}),
    )
    .await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20_000));
    let many = format!("GET /ok HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(5_000));
    let cases: Vec<(&[u8], &[u16])> = vec![
        (b"\x16\x03\x01\x02\x00\x01\x00", &[400]),
        (b"GET / HTTP/9.9\r\n\r\n", &[400, 505]),
        (b"GET /ok HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400]),
        (b"GET /ok HTTP/1.1\r\n\r\n", &[400]),
        (b"GET /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", &[400]),
        (b"GET /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400]),
        (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        (long.as_bytes(), &[400, 414, 431]),
        (many.as_bytes(), &[400, 431]),
    ];
    for (bytes, statuses) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let answer = raw(server.edge(), bytes).await;
        let status = answer.split(' ').nth(1).and_then(|word| word.parse::<u16>().ok());
        assert!(
            status.is_none_or(|status| statuses.contains(&status)),
            "{shown:?}: {answer}"
        );
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"] {
        let answer = raw(
            server.edge(),
            format!("{method} /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await;
        assert!(
            answer.starts_with("HTTP/1.1 405") && answer.to_lowercase().contains("allow: get, head"),
            "{method}: {answer}"
        );
    }
    let pipelined = b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\nGET /ok HTTP/1.1\r\nHost: a\r\n\r\nHEAD /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = raw(server.edge(), pipelined).await;
    assert_eq!(answer.matches("HTTP/1.1 302").count(), 3, "{answer}");
    assert_eq!(http::get(server.edge(), "/ok").await.unwrap().status(), 302);
    server.stop().await;
}

#[tokio::test]
#[ignore = "needs slowhttptest: run by make test"]
async fn slow_clients_are_cut_while_others_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("slow").await;
    api.post(
        "/v1/codes",
        json!({"short_id": "ok", "destination_url": "https://a.example/"}),
    )
    .await;
    let url = format!("http://{}/ok", server.edge());
    // Slow headers, slow body, slow reading: 300 connections each for 12 seconds.
    let attacks: [&[&str]; 3] = [
        &["-H", "-i", "3"],
        &["-B", "-i", "3", "-s", "8192"],
        &["-X", "-w", "1", "-y", "8", "-n", "3", "-z", "1"],
    ];
    for attack in attacks {
        let mut child = Command::new("slowhttptest")
            .args(attack)
            .args(["-c", "300", "-r", "150", "-l", "12", "-p", "3", "-u", &url])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut served = 0_u32;
        while child.try_wait().unwrap().is_none() {
            let answer = timeout(Duration::from_secs(5), http::get(server.edge(), "/ok")).await;
            assert_eq!(
                answer.expect("others are served at once").unwrap().status(),
                302,
                "{attack:?}"
            );
            served += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(
            served > 0,
            "{attack:?}: the attack ended before anybody else came"
        );
    }
    qrelay_tests::wait_until("the attackers' connections are gone", async || {
        (server.metric("qrelay_edge_connections").await <= 1.0).then_some(())
    })
    .await;
    server.stop().await;
}
