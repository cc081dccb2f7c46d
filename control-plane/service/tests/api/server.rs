//! The server itself: what is public, TLS, sizes, deadlines, and an orderly stop.

use std::{sync::Arc, time::Duration};

use qrelay_proto::v1;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request};

use crate::harness::{ADMIN, Api, Setup, code};

#[tokio::test]
async fn health_reflection_and_the_openapi_document_need_no_key() {
    let api = Api::start().await;
    let document = api.get("", "/openapi.json").await.ok();
    assert_eq!(
        document.body["openapi"].as_str().map(|version| &version[..3]),
        Some("3.1")
    );
    assert!(document.body["paths"]["/v1/codes"]["post"].is_object());
    let mut health = tonic_health::pb::health_client::HealthClient::new(api.channel().await);
    for service in ["", "qrelay.v1.CodeService", "qrelay.v1.EventService"] {
        let request = tonic_health::pb::HealthCheckRequest {
            service: service.into(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service}");
    }
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let mut reflection = ServerReflectionClient::new(api.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(listed) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains(&"qrelay.v1.CodeService".to_owned()), "{names:?}");
}

#[tokio::test]
async fn rest_tells_wrong_paths_methods_types_and_sizes_apart() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    assert_eq!(api.get(&key, "/v1/nowhere").await.status, 404);
    let answer = api.rest(&key, "PUT", "/v1/codes", None).await;
    assert_eq!(
        (
            answer.status,
            answer.headers["allow"].to_str().unwrap().contains("POST")
        ),
        (405, true)
    );
    let bearer = ("authorization", format!("Bearer {key}"));
    let xml = [bearer.clone(), ("content-type", "text/xml".to_owned())];
    assert_eq!(
        api.raw("POST", "/v1/codes", &xml, Vec::new()).await.status,
        400,
        "no body at all"
    );
    let large = json!({"destination_url": "https://example.com/", "name": "x".repeat(300_000)});
    assert_eq!(api.post(&key, "/v1/codes", large).await.status, 413);
    let named = [("x-api-key", key.clone())];
    assert_eq!(api.raw("GET", "/v1/codes", &named, Vec::new()).await.status, 200);
    let large = v1::Code {
        name: "x".repeat(300_000),
        ..Default::default()
    };
    let request = v1::CreateCodeRequest {
        code: Some(large),
        ..Default::default()
    };
    let status = api.codes(&key).await.create_code(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[tokio::test]
async fn a_grpc_deadline_is_obeyed() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let endpoint = api
        .post(&key, "/v1/endpoints", crate::harness::endpoint())
        .await
        .ok();
    let test = v1::TestEndpointRequest {
        id: endpoint.text("id"),
        ..Default::default()
    };
    let mut request = Request::new(test);
    request.set_timeout(Duration::from_millis(100));
    let started = tokio::time::Instant::now();
    let status = api
        .endpoints(&key)
        .await
        .test_endpoint(request)
        .await
        .unwrap_err();
    assert!(
        [Code::DeadlineExceeded, Code::Cancelled].contains(&status.code()),
        "{status:?}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "nobody waited for the 10 s of a test"
    );
}

#[tokio::test]
async fn a_stop_lets_running_calls_finish_and_then_returns() {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let mut client = api.codes(&key).await;
    let create = || v1::CreateCodeRequest {
        code: Some(v1::Code {
            destination_url: "https://example.com/".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    client.create_code(create()).await.unwrap();
    let calls = futures::future::join_all((0..4).map(|_| {
        let mut client = client.clone();
        async move { client.create_code(create()).await }
    }));
    let (answers, ()) = tokio::join!(calls, async { api.stop.cancel() });
    for status in answers.into_iter().filter_map(Result::err) {
        assert_eq!(
            status.code(),
            Code::Unavailable,
            "refused, but never cut off half-way: {status:?}"
        );
    }
    tokio::time::timeout(Duration::from_secs(10), api.tasks.wait())
        .await
        .expect("the server returns");
    assert!(
        TcpStream::connect(api.address).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn the_port_speaks_tls_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    assert!(qrelay_control::tls::load(&key, &cert).is_err(), "mixed up");
    assert!(qrelay_control::tls::load(&cert, &dir.path().join("none")).is_err());
    let tls = qrelay_control::tls::load(&cert, &key).unwrap();
    let api = Api::start_with(Setup {
        tls: Some(tls),
        ..Setup::default()
    })
    .await;
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let stream = TcpStream::connect(api.address).await.unwrap();
    let mut stream = connector
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await
        .unwrap();
    let request = format!(
        "GET /v1/tenants HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ADMIN}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let mut plain = TcpStream::connect(api.address).await.unwrap();
    plain.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    assert!(
        plain.read_to_end(&mut answer).await.is_err() || !answer.starts_with(b"HTTP"),
        "no plaintext"
    );
}

#[tokio::test]
async fn hostile_bytes_are_answered_or_cut_and_never_stop_the_server() {
    let api = Api::start().await;
    for bytes in [
        &b"\x00\x01\x02\x03"[..],
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"POST /v1/codes HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"GET /\x7f HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{} is kept open", bytes.escape_ascii());
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", answer.escape_ascii());
    }
    let (_, key) = api.tenant_and_key().await;
    api.post(&key, "/v1/codes", code()).await.ok();
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    let api = Api::start().await;
    let closed = [&b""[..], b"GET /v1/ten", b"PRI * HTTP/2.0\r\n"].map(|greeting| async {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(greeting).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{} is kept open", greeting.escape_ascii());
    });
    futures::future::join_all(closed).await;
}
