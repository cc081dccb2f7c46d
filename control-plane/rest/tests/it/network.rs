//! Both protocols on one real port.

use std::net::SocketAddr;

use http::HeaderValue;
use qrelay_proto::v1::{GetCodeRequest, code_service_client::CodeServiceClient};
use qrelay_rest::Config;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, service::Routes, transport::Server};

use crate::services::{Caller, app};

async fn serve(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let app = app(Config::default()).layer(axum::middleware::map_request(
        |mut request: axum::extract::Request| async move {
            request.extensions_mut().insert(Caller("from the layer"));
            request
        },
    ));
    let server = Server::builder().accept_http1(true).add_routes(Routes::from(app));
    tasks.spawn(async move {
        server
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .expect("it serves");
    });
    address
}

async fn http1(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

#[tokio::test]
async fn grpc_and_rest_share_a_port_and_the_layers_around_them() {
    let mut tasks = JoinSet::new();
    let address = serve(&mut tasks).await;
    let mut client = CodeServiceClient::connect(format!("http://{address}"))
        .await
        .expect("it listens");
    let request = GetCodeRequest {
        id: "code_1".to_owned(),
        ..GetCodeRequest::default()
    };
    assert_eq!(
        client.get_code(request).await.expect("known").into_inner().id,
        "code_1"
    );
    let missing = GetCodeRequest {
        id: "missing".to_owned(),
        ..GetCodeRequest::default()
    };
    assert_eq!(
        client.get_code(missing).await.expect_err("unknown").code(),
        Code::NotFound
    );

    let head = "HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    let body = r#"{"name":"über"}"#;
    let length = body.len();
    let post = format!(
        "POST /v1/codes {head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let answer = http1(address, &post).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains(r#""name":"über""#) && answer.contains(r#""owner_id":"from the layer""#),
        "{answer}"
    );

    let answer = http1(address, &format!("HEAD /v1/codes/c {head}\r\n")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
    let answer = http1(address, &format!("GET /v1/events:stream {head}\r\n")).await;
    assert!(
        answer.contains("content-type: text/event-stream") && answer.contains("id: t2\n\n"),
        "{answer}"
    );
    tasks.shutdown().await;
}

#[test]
fn a_layer_in_front_can_tell_who_speaks_grpc() {
    let mut headers = http::HeaderMap::new();
    assert!(!qrelay_rest::is_grpc(&headers));
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    assert!(qrelay_rest::is_grpc(&headers));
}
