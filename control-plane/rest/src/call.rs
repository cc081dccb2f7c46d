//! One RPC in the same process: the request goes into the tonic router as gRPC, the answer's messages come out.
//!
//! It leaves deadlines to the caller, which drops the future; the handler is cancelled with it, as by a client
//! that goes away.

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use tonic::{Code, Status};
use tower::ServiceExt as _;

use crate::frame;

/// Headers that belong to one connection (RFC 9110 §7.6.1) or to one body, and so end here.
const NOT_PASSED_ON: [HeaderName; 16] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::DATE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The headers that cross between REST and gRPC, either way: not those of a connection or body, not those that
/// `Connection` names, not gRPC's own (a REST caller must not set `grpc-timeout`), not binary metadata.
pub(crate) fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    let mut passed = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let text = name.as_str();
        let ends_here = NOT_PASSED_ON.contains(name)
            || text.starts_with("grpc-")
            || text.ends_with("-bin")
            || named.iter().any(|named| named == text);
        if !ends_here {
            passed.append(name, value.clone());
        }
    }
    passed
}

/// Calls an RPC. The answer's headers have arrived; a refusal that came with them is the error.
pub(crate) async fn call(
    grpc: Router,
    rpc: &MethodDescriptor,
    (headers, extensions): (&HeaderMap, http::Extensions),
    message: &DynamicMessage,
    message_bytes_max: usize,
) -> Result<(HeaderMap, Messages), Status> {
    let frame = frame::encode(message).map_err(|error| broken(rpc, &error))?;
    let mut request = Request::new(Body::from(frame));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name())
        .parse()
        .expect("invariant: names of protobuf are valid in a path");
    *request.headers_mut() = passed_on(headers);
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request
        .headers_mut()
        .insert(header::TE, HeaderValue::from_static("trailers"));
    *request.extensions_mut() = extensions;
    let Ok(response) = grpc.oneshot(request).await;
    answer(rpc, response, message_bytes_max)
}

fn answer(
    rpc: &MethodDescriptor,
    response: Response<Body>,
    message_bytes_max: usize,
) -> Result<(HeaderMap, Messages), Status> {
    let (head, body) = response.into_parts();
    let status = Status::from_header_map(&head.headers);
    let ended = status.is_some();
    match status {
        Some(status) if status.code() != Code::Ok => return Err(status),
        None if head.status != StatusCode::OK => {
            return Err(broken(
                rpc,
                &format!("HTTP status {} instead of a gRPC status", head.status),
            ));
        }
        _ => {}
    }
    let decoder = frame::Decoder::new(message_bytes_max);
    Ok((
        passed_on(&head.headers),
        Messages {
            rpc: rpc.clone(),
            body,
            decoder,
            ended,
        },
    ))
}

/// The messages of an answer.
#[derive(Debug)]
pub(crate) struct Messages {
    rpc: MethodDescriptor,
    body: Body,
    decoder: frame::Decoder,
    ended: bool,
}

impl Messages {
    /// The next message; `None` after the last one, if the RPC ended well. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.decoder.next().map_err(|error| broken(&self.rpc, &error))? {
                return Ok(Some(message));
            }
            if self.ended {
                return self
                    .decoder
                    .finish()
                    .map(|()| None)
                    .map_err(|error| broken(&self.rpc, &error));
            }
            let frame = match self.body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(broken(&self.rpc, &error)),
                None => return Err(broken(&self.rpc, &"the answer ended without a status")),
            };
            match frame.into_data() {
                Ok(data) => self.decoder.push(&data),
                Err(frame) => self.trailers(frame.into_trailers().unwrap_or_default())?,
            }
        }
    }

    fn trailers(&mut self, trailers: HeaderMap) -> Result<(), Status> {
        match Status::from_header_map(&trailers) {
            Some(status) if status.code() == Code::Ok => {
                self.ended = true;
                Ok(())
            }
            Some(status) => Err(status),
            None => Err(broken(&self.rpc, &"the answer's trailers have no status")),
        }
    }

    /// The only message of a unary call.
    pub(crate) async fn only(mut self) -> Result<Bytes, Status> {
        let Some(message) = self.next().await? else {
            return Err(broken(&self.rpc, &"the answer has no message"));
        };
        match self.next().await? {
            None => Ok(message),
            Some(_) => Err(broken(&self.rpc, &"the answer has a second message")),
        }
    }
}

/// A fault between this process and itself: the caller learns only that there was one.
fn broken(rpc: &MethodDescriptor, reason: &dyn std::fmt::Display) -> Status {
    tracing::error!(rpc = rpc.full_name(), %reason, "an RPC in this process failed outside its handler");
    Status::internal("internal error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_end_to_end_headers_cross() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer k"),
            ("x-api-key", "k"),
            ("x-twice", "1"),
            ("x-twice", "2"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("grpc-timeout", "1n"),
            ("grpc-encoding", "gzip"),
            ("trace-bin", "AA"),
            ("content-type", "application/json"),
            ("content-length", "2"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let passed = passed_on(&headers);
        let names: Vec<&str> = passed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["authorization", "x-api-key", "x-twice", "x-twice"]);
    }
}
