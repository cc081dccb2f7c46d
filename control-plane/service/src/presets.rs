//! Presets: the settings that make an endpoint look like another service's webhooks, so that a receiver written for
//! that service works unchanged.
//!
//! A preset is a data file in `presets/`, part of the binary. Creating an endpoint copies its settings into the row, where the
//! request's own settings replace them; so a later release's preset changes no endpoint that is there. Looked up by
//! name afterwards are only the preset's names of event types, and whether its secrets rotate at once.

use std::sync::LazyLock;

use qrelay_proto::v1;
use qrelay_store::{
    event::EventType,
    model::{
        Endpoint, EventPattern, EventPayload, FailureRules, Payload, PayloadFormat, RateLimit, Signature,
    },
};
use serde::Deserialize;
use serde_json::Value;

use crate::{endpoint_signature, refusal::Violations};

const FILES: [&str; 7] = [
    include_str!("../presets/qr-for-agent.json"),
    include_str!("../presets/qrstudio.json"),
    include_str!("../presets/scanforge.json"),
    include_str!("../presets/scribeless.json"),
    include_str!("../presets/slack.json"),
    include_str!("../presets/discord.json"),
    include_str!("../presets/zapier.json"),
];

/// A preset as its file has it. What is left out is an endpoint's default.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Preset {
    name: String,
    events: Vec<PresetEvent>,
    /// The template of event types without one of their own.
    #[serde(default)]
    template: Option<Value>,
    #[serde(default)]
    signature: Signature,
    retry_schedule_s: Vec<u64>,
    #[serde(default)]
    failure: FailureRules,
    #[serde(default)]
    rate_limit: Option<RateLimit>,
    /// Its receivers know one secret at a time: a rotation has no overlap.
    #[serde(default)]
    rotates_at_once: bool,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct PresetEvent {
    event: EventType,
    /// What the service calls it; its own name if not given.
    #[serde(default)]
    name: String,
    template: Value,
}

static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    let read = |text: &&str| serde_json::from_str(text);
    let presets: Result<_, _> = FILES.iter().map(read).collect();
    presets.expect("invariant: a test reads every preset")
});

/// The preset of this name.
pub(crate) fn named(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// The preset that a caller names, if any.
pub(crate) fn chosen(given: &v1::Endpoint, violations: &mut Violations) -> Option<&'static Preset> {
    let name = given.preset.as_deref().filter(|name| !name.is_empty())?;
    let preset = named(name);
    if preset.is_none() {
        let all: Vec<_> = PRESETS.iter().map(|preset| preset.name.as_str()).collect();
        violations.add("preset", format!("must be one of {}", all.join(", ")));
    }
    preset
}

impl Preset {
    /// Gives an endpoint the preset's settings.
    pub(crate) fn apply(&self, endpoint: &mut Endpoint) {
        endpoint.preset.clone_from(&self.name);
        endpoint.payload = Payload {
            format: PayloadFormat::Template,
            template: self.template.as_ref().map_or_else(String::new, Value::to_string),
            content_type: String::new(),
            by_event: self.events.iter().map(PresetEvent::payload).collect(),
        };
        endpoint.signature.clone_from(&self.signature);
        endpoint.retry_schedule_ms = self.retry_schedule_s.iter().map(|pause| pause * 1000).collect();
        endpoint.failure = self.failure;
        endpoint.rate_limit = self.rate_limit;
    }

    /// What the preset has for event types which a caller's own list leaves out.
    pub(crate) fn complete(&self, payload: &mut Payload) {
        for own in &self.events {
            if !payload.by_event.iter().any(|given| given.event == own.event) {
                payload.by_event.push(own.payload());
            }
        }
    }

    /// A template that a caller gives takes the place of the preset's, which would win over it; the names stay.
    /// `own` are event types whose templates are the caller's.
    pub(crate) fn make_way(&self, payload: &mut Payload, own: &[v1::EventPayload]) {
        for entry in &mut payload.by_event {
            let is_own = own.iter().any(|given| given.event == entry.event.as_str());
            let is_presets = |preset: &PresetEvent| {
                preset.event == entry.event && preset.payload().template == entry.template
            };
            if !is_own && self.events.iter().any(is_presets) {
                entry.template.clear();
            }
        }
        payload
            .by_event
            .retain(|entry| !entry.template.is_empty() || !entry.name.is_empty());
    }

    /// Whether the receivers of an endpoint with this preset know one secret at a time: not those that verify another
    /// scheme than the service's.
    pub(crate) fn rotates_at_once(&self, endpoint: &Endpoint) -> bool {
        self.rotates_at_once && endpoint.signature.scheme == self.signature.scheme
    }

    /// The event type that the service calls so.
    pub(crate) fn event(&self, name: &str) -> Option<EventType> {
        let known = self
            .events
            .iter()
            .find(|own| !name.is_empty() && own.name == name);
        known.map(|own| own.event)
    }

    /// What may stand in `events` for those that the preset has, as its users know them.
    pub(crate) fn names(&self) -> String {
        let names = self
            .events
            .iter()
            .map(|own| self.show(&EventPattern::Exact(own.event)));
        names.collect::<Vec<_>>().join(", ")
    }

    /// The event type that its receivers surely take.
    pub(crate) fn first(&self) -> String {
        let first = self
            .events
            .first()
            .map_or(EventType::ScanCreated, |own| own.event);
        first.to_string()
    }

    /// A pattern as the service's users know it.
    fn show(&self, pattern: &EventPattern) -> String {
        let own = |event: EventType| self.events.iter().find(|own| own.event == event);
        match pattern {
            EventPattern::Exact(event) => own(*event)
                .map(|own| own.name.clone())
                .filter(|name| !name.is_empty()),
            EventPattern::Any | EventPattern::Family(_) => None,
        }
        .unwrap_or_else(|| pattern.to_string())
    }
}

impl PresetEvent {
    fn payload(&self) -> EventPayload {
        EventPayload {
            event: self.event,
            template: self.template.to_string(),
            name: self.name.clone(),
        }
    }
}

/// What an endpoint subscribes to, in the names of its preset.
pub(crate) fn show_events(endpoint: &Endpoint) -> Vec<String> {
    let preset = named(&endpoint.preset);
    let shown =
        |pattern: &EventPattern| preset.map_or_else(|| pattern.to_string(), |preset| preset.show(pattern));
    endpoint.events.iter().map(shown).collect()
}

/// The fields of a create that replace a preset's: of its messages only the parts that are given.
pub(crate) fn overrides(given: &v1::Endpoint, preset: &Preset) -> Vec<&'static str> {
    let mut paths = Vec::new();
    let mut part = |path: &'static str, is_given: bool| {
        if is_given {
            paths.push(path);
        }
    };
    if let Some(signature) = &given.signature {
        // Names that go with another scheme are not kept.
        let other = endpoint_signature::sets_scheme("signature", Some(signature))
            && signature.scheme != endpoint_signature::show(&preset.signature).scheme;
        part("signature", other);
        part("signature.header", !signature.header.is_empty());
        part(
            "signature.timestamp_header",
            !signature.timestamp_header.is_empty(),
        );
        part("signature.event_header", !signature.event_header.is_empty());
        part("signature.delivery_header", !signature.delivery_header.is_empty());
        // What is not known is refused where it is set.
        part(
            "signature.scheme",
            v1::SignatureScheme::try_from(signature.scheme).is_err(),
        );
    }
    if let Some(failure) = &given.failure {
        part("failure.retry_after_max", failure.retry_after_max.is_some());
        part("failure.gone_disables", failure.gone_disables.is_some());
        part("failure.overload_slows", failure.overload_slows.is_some());
        part("failure.degrade_after", failure.degrade_after.is_some());
        part("failure.disable_after", failure.disable_after.is_some());
        part(
            "failure.client_errors_retried",
            failure.client_errors_retried.is_some(),
        );
    }
    if let Some(payload) = &given.payload {
        part("payload.format", payload.format != 0);
        part("payload.template", !payload.template.is_empty());
        part("payload.content_type", !payload.content_type.is_empty());
        part("payload.by_event", !payload.by_event.is_empty());
    }
    paths
}

#[cfg(test)]
mod tests;
