//! HTTP's own methods, and who gets a request.

use http::{HeaderValue, Method, StatusCode};

use crate::services::{call, request, send};

#[tokio::test]
async fn head_answers_as_get_without_a_body() {
    let get = call(Method::GET, "/v1/codes/code_1", "").await;
    let head = call(Method::HEAD, "/v1/codes/code_1", "").await;
    assert_eq!((head.status, head.text.as_str()), (StatusCode::OK, ""));
    assert_eq!(head.headers["content-length"], get.text.len().to_string());
    assert_eq!(head.headers["content-type"], "application/json");
    assert_eq!(
        call(Method::HEAD, "/v1/codes/missing", "").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn head_of_a_stream_ends() {
    let head = call(Method::HEAD, "/v1/events:stream?type=silent", "").await;
    assert_eq!((head.status, head.text.as_str()), (StatusCode::OK, ""));
    assert_eq!(head.headers["content-type"], "text/event-stream");
}

#[tokio::test]
async fn options_lists_the_methods_of_a_path() {
    for (uri, allow) in [
        ("/v1/codes", "GET, HEAD, OPTIONS, POST"),
        ("/v1/codes/x", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/v1/events:stream", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
    ] {
        let answer = call(Method::OPTIONS, uri, "").await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (StatusCode::NO_CONTENT, "")
        );
        assert_eq!(answer.headers["allow"], allow, "{uri}");
    }
    assert_eq!(
        call(Method::OPTIONS, "/v2", "").await.status,
        StatusCode::NOT_FOUND
    );
    let refused = call(Method::PUT, "/v1/codes/x", "").await;
    assert_eq!(refused.headers["allow"], "DELETE, GET, HEAD, OPTIONS, PATCH");
}

#[tokio::test]
async fn the_openapi_document_is_served() {
    let answer = call(Method::GET, qrelay_rest::OPENAPI_PATH, "").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["openapi"], "3.1.0");
    let head = call(Method::HEAD, qrelay_rest::OPENAPI_PATH, "").await;
    assert_eq!(head.headers["content-length"], answer.text.len().to_string());
}

#[tokio::test]
async fn what_speaks_grpc_goes_to_grpc() {
    for (media_type, to_grpc) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("Application/GRPC; x=y", true),
        ("application/grpcx", false),
        ("application/json", false),
    ] {
        let mut request = request(Method::POST, "/qrelay.v1.CodeService/Nothing", "");
        request
            .headers_mut()
            .insert("content-type", HeaderValue::from_static(media_type));
        assert_eq!(qrelay_rest::is_grpc(request.headers()), to_grpc, "{media_type}");
        let answer = send(request).await;
        let status = answer.headers.get("grpc-status").map(HeaderValue::as_bytes);
        assert_eq!(status, to_grpc.then_some(&b"12"[..]), "{media_type}");
        assert_eq!(answer.status == StatusCode::NOT_FOUND, !to_grpc, "{media_type}");
    }
}
