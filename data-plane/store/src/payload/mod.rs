//! Bodies of webhooks: the event's own JSON, CloudEvents, or an endpoint's templates.
//!
//! A body is a pure function of the event, its code as it stood, and the endpoint's payload settings: every attempt
//! and replay has the same bytes. Work and output are bounded, whatever a tenant wrote (see [`template`]).

pub mod template;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::{
    event::{Event, EventType},
    expression::Subject,
    limits::TEMPLATES_BYTES_MAX,
    model::{Code, Payload, PayloadFormat},
};
use template::{Encoding, RenderError, Template, TemplateError};

const JSON: &str = "application/json";
const CLOUDEVENTS: &str = "application/cloudevents+json";
/// The content type of flat bodies.
pub const FORM: &str = "application/x-www-form-urlencoded";

/// A payload that is none, and which of its fields (`template`, `by_event[2].template`, …) is wrong. Public text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
pub struct PayloadError {
    /// The field, below the payload; empty for the payload as a whole.
    pub field: String,
    /// What is wrong, to go on from the field's name.
    pub reason: String,
    /// Whether it could not be judged now: not the text's fault, try again.
    pub is_busy: bool,
}

/// A payload that is ready to render.
#[derive(Debug)]
pub struct Renderer {
    format: PayloadFormat,
    content_type: String,
    fallback: Option<Template>,
    own: HashMap<EventType, Template>,
}

/// A body and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Its Content-Type: visible ASCII.
    pub content_type: String,
    /// Its bytes.
    pub body: Vec<u8>,
}

impl Renderer {
    /// Compiles a payload's templates. Any texts are answered; takes milliseconds for each template, so call it where
    /// blocking is allowed.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(payload: &Payload) -> Result<Self, PayloadError> {
        let wrong = |field: &str, reason: String| PayloadError {
            field: field.to_owned(),
            reason,
            is_busy: false,
        };
        if payload.template_bytes() > TEMPLATES_BYTES_MAX {
            let reason = format!("is longer than {TEMPLATES_BYTES_MAX} bytes, all templates together");
            return Err(wrong("template", reason));
        }
        let encoding = match payload.content_type.as_str() {
            FORM => Encoding::Form,
            _ => Encoding::Json,
        };
        let compile = |field: String, text: &str| {
            Template::compile(text, encoding).map_err(|error| PayloadError {
                is_busy: matches!(error, TemplateError::Busy),
                field,
                reason: error.to_string(),
            })
        };
        let fallback = match payload.template.as_str() {
            "" => None,
            text => Some(compile("template".to_owned(), text)?),
        };
        let mut own = HashMap::new();
        for (at, event) in payload.by_event.iter().enumerate() {
            let field = format!("by_event[{at}].template");
            if !event.template.is_empty() {
                own.insert(event.event, compile(field, &event.template)?);
            }
        }
        let content_type = match (payload.format, payload.content_type.as_str()) {
            (PayloadFormat::Native, _) | (PayloadFormat::Template, "") => JSON,
            (PayloadFormat::Cloudevents, _) => CLOUDEVENTS,
            (PayloadFormat::Template, given) => given,
        };
        Ok(Self {
            format: payload.format,
            content_type: content_type.to_owned(),
            fallback,
            own,
        })
    }

    /// The body of an event: the same bytes every time. `code` is the version that the event is about, if it is about one.
    ///
    /// # Errors
    /// When the templates make no body of this event. That never changes with time.
    pub fn render(&self, event: &Event, code: Option<&Code>) -> Result<Rendered, RenderError> {
        let body = match self.format {
            PayloadFormat::Native => event.to_bytes(),
            PayloadFormat::Cloudevents => cloudevent(event).to_string().into_bytes(),
            PayloadFormat::Template => {
                let template = self.own.get(&event.kind).or(self.fallback.as_ref());
                let template = template.ok_or(RenderError::NoTemplate)?;
                template.render(&subject(event, code))?
            }
        };
        Ok(Rendered {
            content_type: self.content_type.clone(),
            body,
        })
    }
}

/// CloudEvents 1.0, structured mode. `source` and `id` together are unique, as the specification wants.
fn cloudevent(event: &Event) -> Value {
    let tenant = event.data.get("tenant_id").and_then(Value::as_str).unwrap_or("");
    json!({
        "specversion": "1.0",
        "id": event.id,
        "source": format!("/tenants/{tenant}"),
        "type": event.kind,
        "time": event.created_at.to_string(),
        "datacontenttype": JSON,
        "subject": event.data.get("code_id"),
        "data": event.data,
    })
}

/// What expressions of templates and filters refer to. An unknown value is null, and an empty text is an unknown value.
pub fn subject(event: &Event, code: Option<&Code>) -> Subject {
    Subject::new(&json!({
        "type": event.kind,
        "id": event.id,
        "created_at": event.created_at.to_string(),
        "data": event.data,
        "code": code.map(shown),
    }))
}

fn shown(code: &Code) -> Value {
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "id": code.id,
        "short_id": code.link.short_id,
        "name": known(&code.name),
        "destination_url": code.destination_url,
        "status": code.status,
        "tags": code.tags,
        "campaign_id": known(&code.campaign_id),
        "owner_id": known(&code.owner_id),
        "external_id": known(&code.external_id),
        "metadata": code.metadata,
        "recipient": code.recipient,
        "created_at": code.created_at.to_string(),
        "updated_at": code.updated_at.to_string(),
        "version": code.version,
    })
}
