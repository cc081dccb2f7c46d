//! What an endpoint's webhooks look like.

use serde::{Deserialize, Serialize};

use crate::event::EventType;

/// The form of an endpoint's webhooks. The default is what the API itself shows of an event.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Payload {
    /// How a body is made.
    pub format: PayloadFormat,
    /// The template of events that have none of their own; empty: there is none.
    pub template: String,
    /// The Content-Type of templates; empty: `application/json`.
    pub content_type: String,
    /// Event types with a template of their own.
    pub by_event: Vec<EventPayload>,
}

impl Payload {
    /// What receivers know an event type as.
    pub fn name_of(&self, event: EventType) -> &str {
        let own = self.by_event.iter().find(|own| own.event == event);
        own.map(|own| own.name.as_str())
            .filter(|name| !name.is_empty())
            .unwrap_or(event.as_str())
    }

    /// Bytes of all templates.
    pub fn template_bytes(&self) -> usize {
        let own: usize = self.by_event.iter().map(|own| own.template.len()).sum();
        self.template.len().saturating_add(own)
    }
}

/// How a body is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadFormat {
    /// The event's own JSON.
    #[default]
    Native,
    /// CloudEvents 1.0 in structured mode.
    Cloudevents,
    /// From templates.
    Template,
}

/// What a payload says of one event type.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventPayload {
    /// Which.
    pub event: EventType,
    /// Its template; empty: the payload's own.
    #[serde(default)]
    pub template: String,
    /// What the signature's event header calls it: visible ASCII; empty: its own name.
    #[serde(default)]
    pub name: String,
}
