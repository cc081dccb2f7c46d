//! The way out, end to end: through an egress proxy.

use std::sync::{Arc, Mutex};

use qrelay_tests::{
    http,
    receiver::{Behaviour, Receiver},
    server::{Setup, code_and_endpoint},
    wait_until,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// A proxy on loopback: what it was asked to connect to.
async fn proxy(tasks: &mut JoinSet<()>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    tasks.spawn(async move {
        let mut ways = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let asked = Arc::clone(&noted);
            ways.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = client.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split(' ').nth(1).unwrap().to_owned();
                asked.lock().unwrap().push(target.clone());
                let mut upstream = TcpStream::connect(target).await.unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                drop(copy_bidirectional(&mut client, &mut upstream).await);
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn webhooks_go_through_the_egress_proxy() {
    let (dir, mut tasks) = (tempfile::tempdir().unwrap(), JoinSet::new());
    let (address, asked) = proxy(&mut tasks).await;
    let flag = format!("--egress-proxy=http://{address}");
    let server = Setup::new(super::BINARY, &dir.path().join("data"))
        .with(&[&flag])
        .start()
        .await;
    let (_, api) = server.admin().tenant("proxied").await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    code_and_endpoint(&api, "menu", &receiver.url()).await;
    http::get(server.edge(), "/menu").await.unwrap();
    wait_until("the webhook", async || receiver.arrivals().into_iter().next()).await;
    let target = receiver.url().replace("http://", "").replace("/hook", "");
    assert_eq!(*asked.lock().unwrap(), [target]);

    let (status, refused) = api
        .call(
            ::http::Method::POST,
            "/v1/endpoints",
            Some(&json!({"url": format!("http://{address}/"), "events": ["*"]})),
        )
        .await
        .unwrap();
    assert_eq!(status, 400, "the proxy itself is no receiver: {refused}");
    server.stop().await;
}
