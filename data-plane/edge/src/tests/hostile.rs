//! Tests of what strangers do to a server: malformed requests, slowness, greed.

use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::fixture::{Fixture, PATIENCE};
use crate::{Config, PeerSource};

/// Requests that must be refused, with the status (0: the connection just ends).
fn malformed() -> Vec<(Vec<u8>, u16)> {
    let text = |text: &str, status| (text.as_bytes().to_vec(), status);
    let long = |bytes: usize| "a".repeat(bytes);
    vec![
        text("GET /abc HTTP/1.1\r\n\r\n", 400),
        text("GET /abc HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        text("GET /abc HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", 400),
        text("GET /abc HTTP/1.1\r\nHost: \r\n\r\n", 400),
        text("GET /abc HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        text("GET /abc HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        text("GET /abc HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        text("GET /abc HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n", 400),
        text("GET /abc HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        text("GET /abc HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
        text("GET /abc HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
        text("GET /abc HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        text("GET /abc HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        text("GET /abc\r\n\r\n", 400),
        text("GET  /abc HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        text("GET /a bc HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        text("GET abc HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        text("G@T /abc HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        text("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400),
        text("GET /abc HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        text("GET /abc HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        text(
            "GET /abc HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
        ),
        text(
            "GET /abc HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            400,
        ),
        text(
            "GET /abc HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        text(
            "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
            405,
        ),
        text(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(9_000)), 414),
        text(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(40_000)), 431),
        text(
            &format!("GET /abc HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long(40_000)),
            431,
        ),
        text(
            &format!("GET /abc HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200)),
            431,
        ),
        text("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0),
        (vec![0; 20_000], 400),
    ]
}

#[tokio::test]
async fn malformed_requests_are_refused_and_end_their_connection() {
    let edge = Fixture::start().await;
    edge.add_code("abc", "https://example.com/");
    for (bytes, status) in malformed() {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
        let mut client = edge.client().await;
        client.send(&bytes).await;
        if status == 404 {
            assert_eq!(client.answer().await.status, status, "{shown}");
            continue;
        }
        if status != 0 {
            assert_eq!(client.answer().await.status, status, "{shown}");
        }
        assert_eq!(client.end().await, 0, "{shown}");
    }
    assert!(edge.store.scans().is_empty());
    assert_eq!(edge.get("/abc").await.status, 302, "the edge is well");
}

#[tokio::test]
async fn nothing_behind_a_body_is_taken_for_a_request() {
    let edge = Fixture::start().await;
    edge.add_code("abc", "https://example.com/");
    for framing in [
        "Content-Length: 3",
        "Content-Length: 4000",
        "Transfer-Encoding: chunked",
    ] {
        let mut client = edge.client().await;
        let behind = "0\r\n\r\nGET /abc HTTP/1.1\r\nHost: a\r\n\r\n";
        client
            .send(format!("GET /abc HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{behind}").as_bytes())
            .await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.header("connection").as_deref()),
            (302, Some("close")),
            "{framing}"
        );
        assert_eq!(client.end().await, 0, "{framing}");
    }
    assert_eq!(edge.store.scans().len(), 3);
}

#[tokio::test]
async fn a_request_with_two_lengths_is_refused_and_ends_its_connection() {
    let edge = Fixture::start().await;
    edge.add_code("abc", "https://example.com/");
    let plain = "GET /abc HTTP/1.1\r\nHost: a\r\n\r\n";
    for framing in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "CONTENT-LENGTH:0\r\ntransfer-encoding:chunked",
        "Content-Length: 3\nTransfer-Encoding: chunked",
        "Content-Length: 3\r\nX: y\r\nTransfer-Encoding: gzip, chunked",
        "Content-Length: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: x",
    ] {
        let mut client = edge.client().await;
        let both = format!("GET /abc HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n0\r\n\r\n{plain}");
        // Behind another one on the same connection: the right one of them is refused.
        let (first, second) = both.split_at(both.len() / 3);
        client.send(format!("{plain}\r\n{first}").as_bytes()).await;
        assert_eq!(client.answer().await.status, 302, "{framing}");
        client.send(second.as_bytes()).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.header("connection").as_deref()),
            (400, Some("close")),
            "{framing}"
        );
        assert_eq!(client.end().await, 0, "{framing}");
    }
    assert_eq!(edge.store.scans().len(), 7, "none of the refused ones");
}

#[tokio::test]
async fn a_client_that_is_still_sending_is_not_reset_before_it_can_read_its_answer() {
    let edge = Fixture::start().await;
    let mut client = edge.client().await;
    client
        .send(b"POST /abc HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 405);
    // A reset would make the second of these fail, or one soon after.
    for _ in 0..30 {
        client.send(&[b'x'; 1000]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    client.tcp.shutdown().await.unwrap();
    assert_eq!(client.end().await, 0);
}

#[tokio::test]
async fn unusual_but_proper_requests_are_answered() {
    let edge = Fixture::start().await;
    edge.add_code("abc", "https://example.com/");
    for request in [
        "GET http://other.example/abc HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /abc HTTP/1.0\r\n\r\n",
        "GET /abc HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
        "\r\nGET /abc HTTP/1.1\r\nHost: a\r\n\r\n",
        // A lone line feed may end a line (RFC 9112 §2.2): hand-written clients send it.
        "GET /abc HTTP/1.1\nHost: a\n\n",
        "GET /abc HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "GET /abc HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "GET /abc HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        "GET /abc HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert_eq!(edge.request(request).await.status, 302, "{request}");
    }
}

#[tokio::test]
async fn a_client_that_closes_its_side_after_the_request_still_gets_its_answer() {
    let edge = Fixture::start().await;
    edge.add_code("abc", "https://example.com/");
    let mut client = edge.client().await;
    client.send(b"GET /abc HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.tcp.shutdown().await.unwrap();
    assert_eq!(client.answer().await.status, 302);
    assert_eq!(client.end().await, 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let edge = Fixture::start().await;
    for i in 0..50 {
        edge.add_code(&format!("code{i}"), &format!("https://example.com/{i}"));
    }
    let mut client = edge.client().await;
    let requests: String = (0..50)
        .map(|i| format!("GET /code{i} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    client.send(requests.as_bytes()).await;
    for i in 0..50 {
        assert_eq!(
            client.answer().await.header("location").unwrap(),
            format!("https://example.com/{i}")
        );
    }
}

fn impatient() -> Config {
    let short = Duration::from_millis(150);
    Config {
        head_timeout: short,
        idle_timeout: short,
        write_timeout: short,
        ..Config::default()
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let edge = Fixture::start_with(impatient(), |_| {}).await;
    for beginning in ["", "G", "GET /abc HTTP/1.1\r\nHost: a\r\n"] {
        let mut client = edge.client().await;
        client.send(beginning.as_bytes()).await;
        assert_eq!(client.end().await, 0, "{beginning:?}");
    }
}

#[tokio::test]
async fn a_head_that_trickles_is_not_waited_for() {
    let edge = Fixture::start_with(impatient(), |_| {}).await;
    let mut client = edge.client().await;
    client.send(b"GET /abc HTTP/1.1\r\nHost: a\r\n").await;
    let trickling = async {
        // A write fails once the edge has closed: the first after it makes the edge's side reset.
        while client.tcp.write_all(b"X: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trickling)
        .await
        .expect("the connection is cut");
}

#[tokio::test]
async fn a_proxy_header_that_does_not_come_is_not_waited_for() {
    let config = Config {
        peer_source: PeerSource::ProxyProtocol,
        ..impatient()
    };
    let edge = Fixture::start_with(config, |_| {}).await;
    for beginning in ["", "PROXY TCP4 "] {
        let mut client = edge.client().await;
        client.send(beginning.as_bytes()).await;
        assert_eq!(client.end().await, 0, "{beginning:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let edge = Fixture::start_with(impatient(), |_| {}).await;
    let mut client = edge.client().await;
    client.send(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 404);
    assert_eq!(client.end().await, 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_cut() {
    let edge = Fixture::start_with(impatient(), |_| {}).await;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&edge.addr.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut tcp = TcpStream::from_std(socket.into()).unwrap();
    let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let writing = async { while tcp.write_all(requests.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, writing)
        .await
        .expect("the connection is cut");
}

#[tokio::test]
async fn when_connections_run_out_idle_ones_make_room() {
    let edge = Fixture::start_with(
        Config {
            connections_max: 4,
            ..Config::default()
        },
        |_| {},
    )
    .await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut client = edge.client().await;
        client.send(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 404);
        idle.push(client);
    }
    assert_eq!(edge.get("/none").await.status, 404, "the fifth is served");
    assert_eq!(idle[0].end().await, 0, "the longest idle one was closed");
}
