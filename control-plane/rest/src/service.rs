//! The transcoder in front of a tonic router: who gets a request, and how one runs from bytes to bytes.

use std::sync::Arc;

use axum::{Router, body::Body, extract::Request};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header, request::Parts};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, MethodDescriptor, ReflectMessage};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tower::ServiceExt as _;

use crate::{
    call,
    config::Config,
    error::{BuildError, RequestError},
    http_rule::{Matched, Routes},
    json, openapi,
    request::{self, ParsedRequest},
    response,
    schema::Schema,
    sse,
};

/// Where the OpenAPI document is served, by GET and without authentication: a layer in front lets it pass.
pub const OPENAPI_PATH: &str = "/openapi.json";

/// Whether a request speaks gRPC, so that the tonic router gets it and a layer in front answers in gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let Some((start, rest)) = media_type.split_at_checked("application/grpc".len()) else {
        return false;
    };
    start.eq_ignore_ascii_case(b"application/grpc") && rest.first().is_none_or(|next| b"+-; ".contains(next))
}

/// REST/JSON in front of gRPC services. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Transcoder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    schema: Arc<Schema>,
    routes: Routes,
    openapi: Value,
    openapi_bytes: Bytes,
}

impl Transcoder {
    /// Reads an encoded `FileDescriptorSet` (with all imports; with source info, if OpenAPI is to have comments).
    ///
    /// # Errors
    /// A descriptor set or an HTTP option that cannot be served exactly: see [`BuildError`].
    pub fn new(descriptor_set: &[u8], config: Config) -> Result<Self, BuildError> {
        if !(1..=32).contains(&config.depth_max) {
            return Err(BuildError::Depth(config.depth_max));
        }
        let schema = Schema::load(descriptor_set)?;
        let routes = Routes::build(&schema, &config)?;
        let openapi = openapi::document(&schema, &routes, &config);
        let openapi_bytes = Bytes::from(openapi.to_string());
        let inner = Inner {
            config,
            schema: Arc::new(schema),
            routes,
            openapi,
            openapi_bytes,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// One router for both: requests of gRPC go to `grpc` untouched, all others are REST. Layers around it (and
    /// extensions they set) reach the handlers either way.
    pub fn into_router(self, grpc: Router) -> Router {
        Router::new().fallback(move |request: Request| {
            let (transcoder, grpc) = (self.clone(), grpc.clone());
            async move { transcoder.serve(grpc, request).await }
        })
    }

    /// The OpenAPI 3.1 document.
    pub fn openapi(&self) -> Value {
        self.inner.openapi.clone()
    }

    /// What a whole REST request means, without calling anything.
    ///
    /// # Errors
    /// Everything that REST refuses before a handler is asked.
    pub fn parse_request(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<ParsedRequest, RequestError> {
        let matched = self.inner.routes.find(method, uri.path())?;
        if body.len() > self.inner.config.body_bytes_max {
            return Err(RequestError::BodyTooLarge {
                bytes_max: self.inner.config.body_bytes_max,
            });
        }
        self.inner.parse(&matched, uri, headers, body)
    }

    /// A message as this API's JSON.
    ///
    /// # Errors
    /// A `Timestamp` or `Duration` out of its range has no JSON; the text says which.
    pub fn message_to_json(&self, message: &DynamicMessage) -> Result<Value, String> {
        self.inner.json_of(message)
    }

    /// A gRPC status as this API's error, with details of the services' own types decoded.
    pub fn error_response(&self, status: &Status) -> Response<Body> {
        response::status_response(&self.inner.schema.pool, status)
    }

    /// The answer to a request that REST refuses.
    pub fn request_error_response(&self, error: &RequestError) -> Response<Body> {
        response::request_error_response(error)
    }

    async fn serve(&self, grpc: Router, request: Request) -> Response<Body> {
        if is_grpc(request.headers()) {
            let Ok(response) = grpc.oneshot(request).await;
            return response;
        }
        let is_head = request.method() == Method::HEAD;
        let (parts, body) = request.into_parts();
        let answered = Box::pin(self.inner.rest(grpc, parts, body)).await;
        let response = answered.unwrap_or_else(|refused| match refused {
            Refused::Request(error) => self.request_error_response(&error),
            Refused::Rpc(status) => self.error_response(&status),
        });
        if is_head { without_body(response) } else { response }
    }
}

/// Why a request got no answer from its RPC.
enum Refused {
    Request(RequestError),
    Rpc(Box<Status>),
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}

impl Inner {
    async fn rest(&self, grpc: Router, mut parts: Parts, body: Body) -> Result<Response<Body>, Refused> {
        let deadline = Instant::now() + self.config.timeout;
        if parts.uri.path() == OPENAPI_PATH {
            return self.openapi(&parts.method).map_err(Refused::from);
        }
        if parts.method == Method::OPTIONS {
            return Ok(options(&self.routes.allow(parts.uri.path())?));
        }
        let matched = self.routes.find(&parts.method, parts.uri.path())?;
        let body = self.read(body, deadline).await?;
        let message = self.parse(&matched, &parts.uri, &parts.headers, &body)?;
        let rpc = &matched.route.rpc;
        let caller = (&parts.headers, std::mem::take(&mut parts.extensions));
        let answered = timeout_at(deadline, self.run(grpc, rpc, caller, &message.message)).await;
        Ok(answered
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the deadline passed before the answer")))?)
    }

    fn openapi(&self, method: &Method) -> Result<Response<Body>, RequestError> {
        match *method {
            Method::GET | Method::HEAD => {
                let mut response = Response::new(Body::from(self.openapi_bytes.clone()));
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                Ok(response)
            }
            Method::OPTIONS => Ok(options("GET, HEAD, OPTIONS")),
            _ => Err(RequestError::MethodNotAllowed {
                allow: "GET, HEAD, OPTIONS".to_owned(),
            }),
        }
    }

    /// The whole body, refused as soon as it is known to be too large.
    async fn read(&self, body: Body, deadline: Instant) -> Result<Bytes, RequestError> {
        let bytes_max = self.config.body_bytes_max;
        let too_large = RequestError::BodyTooLarge { bytes_max };
        if body.size_hint().lower() > u64::try_from(bytes_max).unwrap_or(u64::MAX) {
            return Err(too_large);
        }
        match timeout_at(deadline, Limited::new(body, bytes_max).collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large),
            Ok(Err(_)) => Err(RequestError::BodyCutOff),
            Err(_) => Err(RequestError::BodyTimeout),
        }
    }

    fn parse(
        &self,
        matched: &Matched<'_>,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<ParsedRequest, RequestError> {
        request::check_media_type(headers, !body.is_empty())?;
        let query = uri.query().unwrap_or_default();
        let message = request::message(&self.schema, &self.config, matched, query, headers, body)?;
        Ok(ParsedRequest {
            rpc: matched.route.rpc.clone(),
            message,
        })
    }

    async fn run(
        &self,
        grpc: Router,
        rpc: &MethodDescriptor,
        caller: (&HeaderMap, http::Extensions),
        message: &DynamicMessage,
    ) -> Result<Response<Body>, Status> {
        let (headers, messages) =
            call::call(grpc, rpc, caller, message, self.config.response_bytes_max).await?;
        if rpc.is_server_streaming() {
            let settings = sse::Settings {
                heartbeat: self.config.heartbeat,
                first_message_wait: self.config.first_message_wait,
            };
            let shape = sse::Shape::of(&rpc.output());
            return sse::respond(self.schema.clone(), shape, &settings, (headers, messages)).await;
        }
        let bytes = messages.only().await?;
        let answer = DynamicMessage::decode(rpc.output(), bytes)
            .map_err(|error| error.to_string())
            .and_then(|message| self.json_of(&message));
        Ok(match answer {
            Err(reason) => response::broken_answer(&self.schema, rpc.full_name(), reason),
            Ok(json) => {
                let mut response = response::json_response(StatusCode::OK, &json);
                response.headers_mut().extend(headers);
                response
            }
        })
    }

    /// What this API answers with.
    fn json_of(&self, answer: &DynamicMessage) -> Result<Value, String> {
        let mut json = json::message_to_json(answer).map_err(|error| error.to_string())?;
        leave_out_details(&answer.descriptor(), &self.config.detail_fields, &mut json);
        Ok(json)
    }
}

/// Leaves fields that are shown only in an answer of their own out of an answer's lists.
fn leave_out_details(output: &MessageDescriptor, details: &[String], json: &mut Value) {
    for list in output.fields().filter(FieldDescriptor::is_list) {
        let kind = list.kind();
        let Some(item) = kind.as_message() else { continue };
        let hidden = item
            .fields()
            .filter(|field| details.iter().any(|name| name == field.full_name()));
        for field in hidden {
            let rows = json.get_mut(list.name()).and_then(Value::as_array_mut);
            for row in rows.into_iter().flatten().filter_map(Value::as_object_mut) {
                row.shift_remove(field.name());
            }
        }
    }
}

fn options(allow: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
        .headers_mut()
        .insert(header::ALLOW, response::allow_value(allow));
    response
}

/// The answer to HEAD: what GET answers, with the length of the body that is left out (RFC 9110 §9.3.2).
fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(bytes) = body.size_hint().exact() {
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    Response::from_parts(head, Body::empty())
}
