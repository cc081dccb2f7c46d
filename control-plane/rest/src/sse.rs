//! A server stream as server-sent events (HTML standard §9.2).
//!
//! Where the stream's message has a string `resume_token`, that is the event's `id:`, which a browser sends back
//! as `Last-Event-ID`; if the message has but one other field, a message, then that is the event's data. A message
//! with only a token moves the browser's position without an event. A silent stream sends comments; one that
//! fails sends `event: error` with the error object and ends.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::{FutureExt as _, stream};
use http::{HeaderMap, HeaderValue, Response, header};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use tonic::Status;

use crate::{call::Messages, json, response, schema::Schema};

/// The field that becomes `id:`.
const TOKEN_FIELD: &str = "resume_token";

/// Sent at once, so that proxies pass the headers on.
const OPENING: &str = ": open\n\n";
const HEARTBEAT: &str = ": heartbeat\n\n";

/// How a stream's message becomes an event.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    message: MessageDescriptor,
    token: Option<FieldDescriptor>,
    /// The field that is the data; without it the whole message is.
    pub(crate) data: Option<FieldDescriptor>,
}

impl Shape {
    pub(crate) fn of(message: &MessageDescriptor) -> Self {
        let token = message.get_field_by_name(TOKEN_FIELD);
        let token = token.filter(|field| matches!(field.kind(), Kind::String) && !field.is_list());
        let mut others = message.fields().filter(|field| Some(field) != token.as_ref());
        let data = match (&token, others.next(), others.next()) {
            (Some(_), Some(field), None) if is_one_message(&field) => Some(field),
            _ => None,
        };
        Self {
            message: message.clone(),
            token,
            data,
        }
    }

    fn event(&self, bytes: Bytes) -> Result<String, String> {
        let message =
            DynamicMessage::decode(self.message.clone(), bytes).map_err(|error| error.to_string())?;
        let mut event = String::new();
        if let Some(token) = &self.token {
            let value = message.get_field(token);
            // A line break would end the field, and a NUL makes browsers ignore it.
            let id = value
                .as_str()
                .filter(|id| !id.is_empty() && !id.contains(['\n', '\r', '\0']));
            event.extend(id.map(|id| format!("id: {id}\n")));
        }
        let data = match &self.data {
            None => Some(json::message_to_json(&message)),
            Some(field) if message.has_field(field) => {
                message.get_field(field).as_message().map(json::message_to_json)
            }
            Some(_) => None,
        };
        if let Some(data) = data {
            // JSON on one line: the serializer escapes line breaks.
            event.push_str(&format!("data: {}\n", data.map_err(|error| error.to_string())?));
        }
        event.push('\n');
        Ok(event)
    }
}

fn is_one_message(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(_)) && !field.is_list() && !field.is_map()
}

/// What a stream needs beside its messages.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) heartbeat: Duration,
    pub(crate) first_message_wait: Duration,
}

struct Events {
    schema: Arc<Schema>,
    shape: Shape,
    heartbeat: Duration,
    messages: Messages,
    /// Formatted, not sent yet.
    ready: Option<String>,
    ended: bool,
}

/// The answer to a stream's request. An error that comes before the first message, and soon, is a plain one.
pub(crate) async fn respond(
    schema: Arc<Schema>,
    shape: Shape,
    settings: &Settings,
    (headers, messages): (HeaderMap, Messages),
) -> Result<Response<Body>, Status> {
    let heartbeat = settings.heartbeat;
    let mut events = Events {
        schema,
        shape,
        heartbeat,
        messages,
        ready: Some(OPENING.to_owned()),
        ended: false,
    };
    match tokio::time::timeout(settings.first_message_wait, events.messages.next()).await {
        Err(_) => {}
        Ok(first) => {
            let first = first.map(|message| events.message(message))?;
            events.ready = Some(format!("{OPENING}{first}"));
        }
    }
    let stream = stream::unfold(events, |mut events| async move {
        let text = events.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), events))
    });
    let mut response = Response::new(Body::from_stream(stream));
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // nginx would hold events back until its buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

impl Events {
    async fn next(&mut self) -> Option<String> {
        if let Some(ready) = self.ready.take() {
            return Some(ready);
        }
        if self.ended {
            return None;
        }
        // A panic in the handler's stream would cut the connection without a word.
        let next = AssertUnwindSafe(self.messages.next()).catch_unwind();
        match tokio::time::timeout(self.heartbeat, next).await {
            Err(_) => Some(HEARTBEAT.to_owned()),
            Ok(Ok(Ok(message))) => Some(self.message(message)).filter(|text| !text.is_empty()),
            Ok(Ok(Err(status))) => Some(self.error(&status)),
            Ok(Err(_panic)) => Some(self.error(&Status::internal("internal error"))),
        }
    }

    /// The event of a message; after the last message nothing.
    fn message(&mut self, message: Option<Bytes>) -> String {
        let Some(bytes) = message else {
            self.ended = true;
            return String::new();
        };
        self.shape.event(bytes).unwrap_or_else(|reason| {
            tracing::error!(
                message = self.shape.message.full_name(),
                reason,
                "a stream's message has no JSON"
            );
            self.error(&Status::internal("internal error"))
        })
    }

    fn error(&mut self, status: &Status) -> String {
        self.ended = true;
        format!(
            "event: error\ndata: {}\n\n",
            response::status_to_json(&self.schema.pool, status)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::test_schema;

    fn event(json: serde_json::Value) -> String {
        let schema = test_schema();
        let descriptor = schema
            .pool
            .get_message_by_name("qrelay.v1.StreamEventsResponse")
            .expect("known");
        let mut decoder = json::Decoder::new(&schema);
        let message = decoder.message(
            &descriptor,
            json.as_object().expect("an object"),
            &json::Path::Root,
        );
        let bytes = prost::Message::encode_to_vec(&message);
        Shape::of(&descriptor).event(bytes.into()).expect("it has JSON")
    }

    #[test]
    fn the_token_is_the_id_and_the_other_message_the_data() {
        let text = event(serde_json::json!({"resume_token": "t1", "event": {"type": "a\nb", "id": "evt_1"}}));
        assert_eq!(text, "id: t1\ndata: {\"type\":\"a\\nb\",\"id\":\"evt_1\"}\n\n");
    }

    #[test]
    fn a_token_without_an_event_moves_the_position_only() {
        assert_eq!(event(serde_json::json!({"resume_token": "t2"})), "id: t2\n\n");
    }

    #[test]
    fn a_token_that_would_break_the_framing_is_left_out() {
        assert_eq!(event(serde_json::json!({"resume_token": "t\nevent: x"})), "\n");
    }

    #[test]
    fn a_message_without_a_token_is_the_data_itself() {
        let schema = test_schema();
        let descriptor = schema
            .pool
            .get_message_by_name("qrelay.v1.Privacy")
            .expect("known");
        assert_eq!(
            Shape::of(&descriptor).event(Bytes::new()).expect("it has JSON"),
            "data: {\"ip\":\"unspecified\"}\n\n"
        );
    }
}
