//! PreviewEndpoint: what an endpoint with the given settings would be sent.
//!
//! The settings go through the same judgement as a create's, the body and the signature are made by the code that makes
//! an attempt's. The secret is made for the answer: no row is read for one, and none is written.

use std::sync::Arc;

use qrelay_proto::v1;
use qrelay_store::{
    event::{Event, EventType},
    id::{DeliveryKey, EventAddress, EventId},
    limits,
    model::{Code, Endpoint},
    payload::{Rendered, Renderer},
    signature::{Message, Signer, USER_AGENT},
};
use secrecy::ExposeSecret;
use tonic::Status;

use crate::{
    api::Api,
    caller::Caller,
    endpoints, events,
    presets::{self, Preset},
    refusal::{self, Violations},
    signing_secret::SigningSecret,
};

/// PreviewEndpoint.
pub(crate) async fn show(
    api: &Arc<Api>,
    caller: &Caller,
    request: v1::PreviewEndpointRequest,
) -> Result<v1::PreviewEndpointResponse, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    let mut given = request.endpoint.unwrap_or_default();
    let mut violations = Violations::default();
    if given.secret.take().is_some_and(|secret| !secret.is_empty()) {
        violations.add("endpoint.secret", "must be empty: a preview makes one of its own");
    }
    let recorded = match request.event_id.as_str() {
        "" => None,
        _ if !request.event_type.is_empty() => {
            violations.add("event_type", "must be empty beside event_id");
            None
        }
        id => Some(events::found(api, tenant.id, id).await?),
    };
    let preset = given.preset.as_deref().and_then(presets::named);
    event_type(preset, &request.event_type, &mut violations);
    // The type that is asked for is what the settings are judged by where they name none.
    let events_of = match (given.events.is_empty(), &recorded) {
        (false, _) => None,
        (true, Some(_)) => Some("event_id"),
        (true, None) => Some("event_type"),
    };
    std::mem::take(&mut violations).finish()?;
    if events_of.is_some() {
        let kind = recorded.as_ref().map(|(event, _)| event.kind.to_string());
        let asked = Some(request.event_type.clone()).filter(|asked| !asked.is_empty());
        let kind = kind.or(asked).or_else(|| preset.map(Preset::first));
        given.events.push(kind.unwrap_or_else(|| "*".to_owned()));
    }
    let mut found = Violations::default();
    let (endpoint, secret) = endpoints::described(api, &tenant, &given, &mut found).await?;
    violations.take(found, |field| match events_of {
        Some(asked) if field == "events[0]" => asked.to_owned(),
        _ => format!("endpoint.{field}"),
    });
    violations.finish()?;
    let asked = event_type(preset, &request.event_type, &mut Violations::default());
    let kind = asked.unwrap_or_else(|| endpoint.tested());
    let ids = &api.store.install().ids;
    let (address, event, code) = match recorded {
        Some((event, code)) => (ids.event_address(event.id), event, code),
        None => {
            let address = EventAddress::test();
            let (event, code) = Event::sample_of(kind, ids, address, api.now(), tenant.id);
            (address, event, code.map(Arc::new))
        }
    };
    let (kind, id) = (event.kind, event.id);
    let rendered = rendered(&endpoint, event, code).await?;
    let headers = headers(api, &endpoint, secret.as_ref(), (address, id, kind), &rendered)?;
    Ok(v1::PreviewEndpointResponse {
        event_type: kind.to_string(),
        headers,
        body: String::from_utf8_lossy(&rendered.body).into_owned(),
        secret: secret.map(|secret| secret.text().expose_secret().to_owned()),
        public_key: endpoint.public_key,
    })
}

/// The type that is asked for, in its own name or the preset's; none when none is.
fn event_type(preset: Option<&Preset>, given: &str, violations: &mut Violations) -> Option<EventType> {
    let own = preset.and_then(|preset| preset.event(given));
    let kind = own.or_else(|| given.parse().ok());
    if kind.is_none() && !given.is_empty() {
        let own = preset.map(|preset| format!("; the preset has {}", preset.names()));
        violations.add(
            "event_type",
            format!("is not an event type{}", own.unwrap_or_default()),
        );
    }
    kind
}

async fn rendered(endpoint: &Endpoint, event: Event, code: Option<Arc<Code>>) -> Result<Rendered, Status> {
    let (payload, kind) = (endpoint.payload.clone(), event.kind);
    // Compiling takes milliseconds.
    let made = tokio::task::spawn_blocking(move || {
        let renderer =
            Renderer::new(&payload).map_err(|error| (format!(".{}", error.field), error.reason))?;
        let made = renderer.render(&event, code.as_deref());
        made.map_err(|error| (String::new(), format!("makes no body of {kind}: {error}")))
    });
    match made.await {
        Ok(made) => {
            made.map_err(|(below, reason)| Violations::one(&format!("endpoint.payload{below}"), &reason))
        }
        Err(_) => Err(refusal::unavailable(
            "TEMPLATES_NOT_JUDGED",
            "the payload's templates could not be judged now",
            limits::DNS_TRY_TIMEOUT,
        )),
    }
}

fn headers(
    api: &Api,
    endpoint: &Endpoint,
    secret: Option<&SigningSecret>,
    (address, id, kind): (EventAddress, EventId, EventType),
    rendered: &Rendered,
) -> Result<Vec<v1::Header>, Status> {
    let secrets: Vec<_> = secret
        .map(|secret| secret.bytes().to_vec().into())
        .into_iter()
        .collect();
    let signer = Signer::new(&endpoint.signature, &secrets);
    let signer = signer.map_err(|error| Status::internal(error.to_string()))?;
    let now = api.now();
    let key = DeliveryKey {
        endpoint: endpoint.id,
        first_at: now,
        event: address,
    };
    let signed = signer.headers(Message {
        id: &id.to_string(),
        delivery: &api.store.install().ids.delivery_id(&key).to_string(),
        event: endpoint.payload.name_of(kind),
        timestamp_s: now.as_secs(),
        body: &rendered.body,
    });
    let header = |name: &str, value: &str| v1::Header {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let signed = signed
        .iter()
        .map(|(name, value)| header(name.as_str(), value.to_str().unwrap_or_default()));
    let fixed = [
        header("content-type", &rendered.content_type),
        header("user-agent", USER_AGENT),
    ];
    Ok(fixed.into_iter().chain(signed).collect())
}
