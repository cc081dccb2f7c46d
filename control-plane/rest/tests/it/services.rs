//! Small services that show what reached them, and the application around them.

use std::{pin::Pin, time::Duration};

use axum::{Router, body::Body};
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use prost_types::Timestamp;
use qrelay_proto::v1::{
    Code, CodeStatus, CreateCodeRequest, DeleteCodeRequest, Event, GetCodeRequest, GetEventRequest,
    ListCodesRequest, ListCodesResponse, ListEventsRequest, ListEventsResponse, StreamEventsRequest,
    StreamEventsResponse, UpdateCodeRequest, code_service_server::CodeService,
    code_service_server::CodeServiceServer, event_service_server::EventService,
    event_service_server::EventServiceServer,
};
use qrelay_rest::{Config, Transcoder};
use serde_json::Value;
use tonic::{Code as GrpcCode, Status, service::Routes};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::ServiceExt as _;

/// What an authentication layer would put into a request's extensions.
#[derive(Clone)]
pub(crate) struct Caller(pub(crate) &'static str);

/// Says in the code's fields what it was given; its behaviour is chosen by the name or id.
pub(crate) struct Codes;

#[tonic::async_trait]
impl CodeService for Codes {
    async fn create_code(
        &self,
        request: tonic::Request<CreateCodeRequest>,
    ) -> Result<tonic::Response<Code>, Status> {
        let caller = request.extensions().get::<Caller>().map_or("", |caller| caller.0);
        let timeout = request.metadata().get("grpc-timeout").is_some();
        let request_id = request.get_ref().request_id.clone();
        let code = request
            .into_inner()
            .code
            .ok_or_else(|| Status::invalid_argument("no code"))?;
        match code.name.as_str() {
            "panic" => panic!("a handler's fault"),
            "slow" => std::future::pending::<()>().await,
            "bad time" => {
                let created_at = Some(Timestamp {
                    seconds: i64::MAX,
                    nanos: 0,
                });
                return Ok(tonic::Response::new(Code { created_at, ..code }));
            }
            "bad field" => {
                let details = ErrorDetails::with_bad_request_violation("destination_url", "not absolute");
                return Err(Status::with_error_details(
                    GrpcCode::InvalidArgument,
                    "bad url",
                    details,
                ));
            }
            _ => {}
        }
        let mut response = tonic::Response::new(Code {
            id: "code_1".to_owned(),
            owner_id: caller.to_owned(),
            external_id: request_id,
            version: 9_007_199_254_740_993,
            created_at: Some(Timestamp {
                seconds: 1_777_636_800,
                nanos: 5_999_999,
            }),
            campaign_id: if timeout {
                "a deadline".to_owned()
            } else {
                String::new()
            },
            ..code
        });
        response
            .metadata_mut()
            .insert("x-shown", "yes".parse().expect("ASCII"));
        response
            .metadata_mut()
            .insert_bin("x-hidden-bin", tonic::metadata::MetadataValue::from_bytes(b"no"));
        Ok(response)
    }

    async fn list_codes(
        &self,
        request: tonic::Request<ListCodesRequest>,
    ) -> Result<tonic::Response<ListCodesResponse>, Status> {
        let code = |id: &str| Code {
            id: id.to_owned(),
            tags: vec![request.get_ref().tag.clone()],
            ..Code::default()
        };
        let codes = vec![code("code_2"), code("code_1")];
        Ok(tonic::Response::new(ListCodesResponse {
            codes,
            next_page_token: String::new(),
        }))
    }

    async fn get_code(
        &self,
        request: tonic::Request<GetCodeRequest>,
    ) -> Result<tonic::Response<Code>, Status> {
        let id = request.into_inner().id;
        match id.as_str() {
            "missing" => Err(Status::not_found("no such code")),
            "limited" => {
                let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1_500)));
                Err(Status::with_error_details(
                    GrpcCode::ResourceExhausted,
                    "too many",
                    details,
                ))
            }
            _ => Ok(tonic::Response::new(Code {
                id,
                status: CodeStatus::Active.into(),
                ..Code::default()
            })),
        }
    }

    async fn update_code(
        &self,
        request: tonic::Request<UpdateCodeRequest>,
    ) -> Result<tonic::Response<Code>, Status> {
        let request = request.into_inner();
        let mask = request
            .update_mask
            .map(|mask| mask.paths.join(" "))
            .unwrap_or_default();
        let code = request.code.ok_or_else(|| Status::invalid_argument("no code"))?;
        Ok(tonic::Response::new(Code {
            id: request.id,
            name: mask,
            ..code
        }))
    }

    async fn delete_code(
        &self,
        _request: tonic::Request<DeleteCodeRequest>,
    ) -> Result<tonic::Response<()>, Status> {
        Ok(tonic::Response::new(()))
    }
}

/// Its behaviour is chosen by the type that is asked for.
pub(crate) struct Events;

type Messages = Pin<Box<dyn Stream<Item = Result<StreamEventsResponse, Status>> + Send>>;

fn message(token: &str) -> Result<StreamEventsResponse, Status> {
    let event = Event {
        id: "evt_1".to_owned(),
        r#type: "scan.created".to_owned(),
        ..Event::default()
    };
    Ok(StreamEventsResponse {
        event: Some(event),
        resume_token: token.to_owned(),
    })
}

#[tonic::async_trait]
impl EventService for Events {
    type StreamEventsStream = Messages;

    async fn stream_events(
        &self,
        request: tonic::Request<StreamEventsRequest>,
    ) -> Result<tonic::Response<Messages>, Status> {
        let request = request.into_inner();
        let first = stream::iter([message(&format!("after {}", request.resume_token))]);
        let gone = Status::with_error_details(
            GrpcCode::Unavailable,
            "gone",
            ErrorDetails::with_retry_info(Some(Duration::from_secs(1))),
        );
        let stream: Messages = match request.r#type.as_str() {
            "refused" => return Err(Status::permission_denied("not yours")),
            "early" => stream::iter([Err(gone)]).boxed(),
            "broken" => first.chain(stream::iter([Err(gone)])).boxed(),
            "panic" => {
                // The pause lets the first message out; a panic before it is the call's.
                let fault = async {
                    tokio::task::yield_now().await;
                    panic!("a stream's fault")
                };
                first.chain(stream::once(fault)).boxed()
            }
            "silent" => stream::pending().boxed(),
            _ => {
                let only_token = StreamEventsResponse {
                    event: None,
                    resume_token: "t2".to_owned(),
                };
                first.chain(stream::iter([Ok(only_token)])).boxed()
            }
        };
        Ok(tonic::Response::new(stream))
    }

    async fn list_events(
        &self,
        _request: tonic::Request<ListEventsRequest>,
    ) -> Result<tonic::Response<ListEventsResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn get_event(
        &self,
        _request: tonic::Request<GetEventRequest>,
    ) -> Result<tonic::Response<Event>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

/// REST and gRPC on one router, as the product serves them.
pub(crate) fn app(config: Config) -> Router {
    let routes = Routes::new(CodeServiceServer::new(Codes)).add_service(EventServiceServer::new(Events));
    let transcoder =
        Transcoder::new(qrelay_proto::FILE_DESCRIPTOR_SET, config).expect("the contract is supported");
    transcoder.into_router(routes.prepare().into_axum_router())
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) async fn read(response: Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.expect("the body arrives").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Self {
            status: head.status,
            headers: head.headers,
            text,
        }
    }
}

/// A request with a JSON body, or with none if it is empty.
pub(crate) fn request(method: Method, uri: &str, body: &str) -> Request<Body> {
    let mut request = Request::new(Body::from(body.to_owned()));
    *request.method_mut() = method;
    *request.uri_mut() = uri.parse().expect("a URI");
    if !body.is_empty() {
        request
            .headers_mut()
            .insert("content-type", HeaderValue::from_static("application/json"));
    }
    request
}

pub(crate) async fn send(request: Request<Body>) -> Answer {
    let Ok(response) = app(Config::default()).oneshot(request).await;
    Answer::read(response).await
}

pub(crate) async fn call(method: Method, uri: &str, body: &str) -> Answer {
    send(request(method, uri, body)).await
}
