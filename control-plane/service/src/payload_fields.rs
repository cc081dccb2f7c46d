//! An endpoint's payload: what a caller may write, and how it looks on the wire.

use qrelay_proto::v1;
use qrelay_store::{
    event::{Event, EventType},
    id::EventAddress,
    limits,
    model::{Endpoint, EventPattern, EventPayload, Payload, PayloadFormat},
    payload::{FORM, Renderer, template::RenderError},
};
use tonic::Status;

use crate::{api::Api, presets, refusal, refusal::Violations};

/// The paths of the field, for update masks.
pub(crate) const PATHS: [&str; 5] = [
    "payload",
    "payload.format",
    "payload.template",
    "payload.content_type",
    "payload.by_event",
];

/// Sets what one of [`PATHS`] names; the rest stays. Templates are judged by [`judge`].
pub(crate) fn set(
    payload: &mut Payload,
    path: &str,
    given: Option<&v1::Payload>,
    violations: &mut Violations,
) {
    let none = v1::Payload::default();
    let given = given.unwrap_or(&none);
    let named = |part: &str| path == "payload" || path.strip_prefix("payload.") == Some(part);
    if named("format") {
        payload.format = match v1::PayloadFormat::try_from(given.format) {
            Ok(v1::PayloadFormat::Unspecified | v1::PayloadFormat::Native) => PayloadFormat::Native,
            Ok(v1::PayloadFormat::Cloudevents) => PayloadFormat::Cloudevents,
            Ok(v1::PayloadFormat::Template) => PayloadFormat::Template,
            Err(_) => {
                violations.add("payload.format", "must be native, cloudevents or template");
                PayloadFormat::Native
            }
        };
    }
    if named("template") {
        payload.template.clone_from(&given.template);
    }
    if named("content_type") {
        if !is_content_type(&given.content_type) {
            let rule = format!("must be application/json, {FORM} or application/…+json");
            violations.add("payload.content_type", rule);
        }
        payload.content_type.clone_from(&given.content_type);
    }
    if named("by_event") {
        payload.by_event = by_event(&given.by_event, violations);
    }
}

/// After all paths are set: a format that has no templates keeps none, and takes none; a template that is given alone
/// is not hidden by the preset's.
pub(crate) fn settle(
    endpoint: &mut Endpoint,
    paths: &[&str],
    given: Option<&v1::Payload>,
    violations: &mut Violations,
) {
    let payload = &mut endpoint.payload;
    let none = v1::Payload::default();
    let given = given.unwrap_or(&none);
    if payload.format == PayloadFormat::Template {
        let alone = paths.contains(&"payload.template") && !paths.contains(&"payload.by_event");
        if let Some(preset) = presets::named(&endpoint.preset)
            && alone
            && !given.template.is_empty()
        {
            preset.make_way(payload, &[]);
        }
        return;
    }
    for (path, is_given) in [
        ("payload.template", !given.template.is_empty()),
        ("payload.content_type", !given.content_type.is_empty()),
        ("payload.by_event", !given.by_event.is_empty()),
    ] {
        if is_given && (paths.contains(&path) || paths.contains(&"payload")) {
            violations.add(path, "goes with the format template only");
        }
    }
    *payload = Payload {
        format: payload.format,
        ..Payload::default()
    };
}

fn by_event(given: &[v1::EventPayload], violations: &mut Violations) -> Vec<EventPayload> {
    // Repeats are refused, so more is one too many, and not looked at.
    if given.len() > EventType::ALL.len() {
        violations.add("payload.by_event", "names an event type twice");
        return Vec::new();
    }
    let mut taken: Vec<EventPayload> = Vec::with_capacity(given.len());
    for (at, own) in given.iter().enumerate() {
        let field = |name: &str| format!("payload.by_event[{at}].{name}");
        if own.template.is_empty() && own.name.is_empty() {
            violations.add(field("template"), "is required, or a name");
        }
        let is_visible = own.name.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_visible || own.name.len() > limits::EVENT_NAME_CHARS_MAX {
            let rule = format!(
                "must be at most {} visible ASCII characters",
                limits::EVENT_NAME_CHARS_MAX
            );
            violations.add(field("name"), rule);
        }
        match own.event.parse::<EventType>() {
            Ok(event) if taken.iter().any(|other| other.event == event) => {
                violations.add(field("event"), "is there already");
            }
            Ok(event) => taken.push(EventPayload {
                event,
                template: own.template.clone(),
                name: own.name.clone(),
            }),
            Err(why) => violations.add(field("event"), format!("is {why}")),
        }
    }
    taken
}

/// Empty, one of the two plain ones, or a JSON type of an application's own without parameters.
fn is_content_type(text: &str) -> bool {
    let is_own = |subtype: &str| {
        subtype.ends_with("+json")
            && subtype
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
    };
    matches!(text, "" | "application/json" | FORM)
        || (text.len() <= limits::CONTENT_TYPE_CHARS_MAX
            && text.strip_prefix("application/").is_some_and(is_own))
}

/// Judges an endpoint of which these paths were set.
///
/// # Errors
/// UNAVAILABLE when that is not possible now.
pub(crate) async fn judge(
    api: &Api,
    endpoint: &mut Endpoint,
    paths: &[&str],
    given: &v1::Endpoint,
    violations: &mut Violations,
) -> Result<(), Status> {
    settle(endpoint, paths, given.payload.as_ref(), violations);
    if paths.iter().any(|path| PATHS.contains(path) || *path == "events") {
        let events: &[String] = if paths.contains(&"events") {
            &given.events
        } else {
            &[]
        };
        check(api, endpoint, events, violations).await?;
    }
    Ok(())
}

/// What an event type without a template is: with a preset the fault of the entry of `events` that asks for it.
fn untemplated(endpoint: &Endpoint, events: &[String], kind: EventType) -> Option<(String, String)> {
    let preset = presets::named(&endpoint.preset)?;
    let asks = |text: &String| match preset.event(text) {
        Some(own) => own == kind,
        None => text
            .parse()
            .is_ok_and(|pattern: EventPattern| pattern.matches(kind)),
    };
    let at = events.iter().position(asks)?;
    let reason = format!(
        "asks for {kind}, for which the preset has no template; it has {}",
        preset.names()
    );
    Some((format!("events[{at}]"), reason))
}

/// Compiles the endpoint's templates and renders a sample of each event type that it subscribes to.
async fn check(
    api: &Api,
    endpoint: &Endpoint,
    events: &[String],
    violations: &mut Violations,
) -> Result<(), Status> {
    if endpoint.payload.format != PayloadFormat::Template {
        return Ok(());
    }
    let (ids, now) = (api.store.install().ids.clone(), api.now());
    let (endpoint, events) = (endpoint.clone(), events.to_vec());
    let judged = tokio::task::spawn_blocking(move || {
        let renderer = Renderer::new(&endpoint.payload).map_err(|error| {
            let field = format!("payload.{}", error.field);
            (field, error.reason, error.is_busy)
        })?;
        let subscribed = EventType::ALL.iter().filter(|kind| endpoint.subscribes(**kind));
        for kind in subscribed {
            let (event, code) = Event::sample_of(*kind, &ids, EventAddress::test(), now, endpoint.tenant);
            renderer.render(&event, code.as_ref()).map_err(|error| {
                let asked = Some(error).filter(|error| *error == RenderError::NoTemplate);
                let asked = asked.and_then(|_| untemplated(&endpoint, &events, *kind));
                let (field, reason) = asked.unwrap_or_else(|| {
                    let reason = format!("makes no body of {kind}: {error}");
                    ("payload".to_owned(), reason)
                });
                (field, reason, false)
            })?;
        }
        Ok(())
    });
    match judged.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err((field, reason, false))) => {
            violations.add(field, reason);
            Ok(())
        }
        Ok(Err((_, _, true))) | Err(_) => Err(refusal::unavailable(
            "TEMPLATES_NOT_JUDGED",
            "the payload's templates could not be judged now",
            limits::DNS_TRY_TIMEOUT,
        )),
    }
}

/// On the wire.
pub(crate) fn show(payload: &Payload) -> v1::Payload {
    let format = match payload.format {
        PayloadFormat::Native => v1::PayloadFormat::Native,
        PayloadFormat::Cloudevents => v1::PayloadFormat::Cloudevents,
        PayloadFormat::Template => v1::PayloadFormat::Template,
    };
    v1::Payload {
        format: format.into(),
        template: payload.template.clone(),
        content_type: payload.content_type.clone(),
        by_event: payload
            .by_event
            .iter()
            .map(|own| v1::EventPayload {
                event: own.event.to_string(),
                template: own.template.clone(),
                name: own.name.clone(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_json_or_a_form() {
        for (text, fits) in [
            ("", true),
            ("application/json", true),
            (FORM, true),
            ("application/vnd.shop.v2+json", true),
            ("application/json; charset=utf-8", false),
            ("application/a\r\nb+json", false),
            ("application/xml", false),
            ("text/plain", false),
            ("application/+json/+json", false),
        ] {
            assert_eq!(is_content_type(text), fits, "{text:?}");
        }
    }
}
