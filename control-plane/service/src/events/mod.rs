//! EventService: recorded events, listed backwards and looked up by id (followed as they come: [`crate::streams`]).
//!
//! All make an event's body with [`qrelay_store::event`], as the dispatcher does, so what a caller sees here
//! is what its webhooks carry.

mod history;
mod render;

use std::sync::Arc;

use qrelay_proto::v1::{self as pb, GetEventRequest, ListEventsRequest, ListEventsResponse};
use qrelay_store::{
    clock::Timestamp,
    event::EventType,
    id::{CodeId, EventId, TenantId},
    model::{EventPattern, UnknownEvent},
    record::Head,
};
use tonic::Status;

use self::history::{History, Position};
pub(crate) use self::render::{Found, Renderer, record_at, to_proto};
use crate::{
    api::Api,
    caller::Caller,
    page::{self, Bound},
    refusal::{self, Violations},
};

/// Which events a caller wants.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) tenant: TenantId,
    pub(crate) pattern: EventPattern,
    pub(crate) code: Option<CodeId>,
    pub(crate) start: Option<Timestamp>,
    pub(crate) end: Option<Timestamp>,
}

impl Filter {
    /// Whether it wants any events that are recorded, or any that are changes of the configuration.
    pub(crate) fn wants_recorded(&self, recorded: bool) -> bool {
        let mut kinds = EventType::ALL.iter();
        kinds.any(|kind| kind.is_recorded() == recorded && self.pattern.matches(*kind))
    }

    /// Whether it wants the event of a record with this head.
    pub(crate) fn takes(&self, head: &Head) -> bool {
        head.tenant == self.tenant
            && self.pattern.matches(head.event)
            && self.code.is_none_or(|code| code == head.code)
            && self.covers(head.at)
    }

    pub(crate) fn covers(&self, at: Timestamp) -> bool {
        self.start.is_none_or(|start| at >= start) && self.end.is_none_or(|end| at < end)
    }
}

/// ListEvents.
pub(crate) async fn list(
    api: &Arc<Api>,
    caller: &Caller,
    mut request: ListEventsRequest,
) -> Result<ListEventsResponse, Status> {
    let known = api.tenant(caller, &request.tenant_id).await?;
    // As it is now: the row that a key was judged by may be a second old, and lack partitions with the newest events.
    let tenant = api.tenant_row(known.id).await?;
    let mut violations = Violations::default();
    let size = page::size(request.page_size, &mut violations);
    let filter = Filter {
        tenant: tenant.id,
        pattern: pattern(&request.r#type, &mut violations),
        code: code(&request.code_id, &mut violations),
        start: time("start_time", request.start_time.as_ref(), &mut violations),
        end: time("end_time", request.end_time.as_ref(), &mut violations),
    };
    let token = std::mem::take(&mut request.page_token);
    request.page_size = 0;
    let bound = Bound::to_request("ListEvents", Some(tenant.id), &request);
    let position: Option<Position> = api.tokens.position(&bound, &token, "page_token", &mut violations);
    violations.finish()?;
    let renderer = Renderer::new(Arc::clone(&api.store));
    let history = History::open(&api.store, &renderer, &tenant, &filter, position);
    let (events, next) = history.page(size).await?;
    let next_page_token = next.map_or_else(String::new, |next| api.tokens.token(&bound, &next));
    Ok(ListEventsResponse {
        events,
        next_page_token,
    })
}

/// GetEvent.
pub(crate) async fn read(
    api: &Arc<Api>,
    caller: &Caller,
    request: GetEventRequest,
) -> Result<pb::Event, Status> {
    let tenant = caller.tenant(&request.tenant_id)?;
    if request.id.is_empty() {
        return Err(Violations::one("id", "is required"));
    }
    let absent = || refusal::not_found("Event", &request.id);
    let id: EventId = request.id.parse().map_err(|_| absent())?;
    let address = api.store.install().ids.event_address(id);
    let renderer = Renderer::new(Arc::clone(&api.store));
    let event = renderer.event_at(address, tenant).await.map_err(refusal::store)?;
    event.as_ref().map(to_proto).ok_or_else(absent)
}

/// A tenant's event and the version of the code that it is about, as a delivery renders it.
pub(crate) async fn found(api: &Api, tenant: TenantId, id: &str) -> Result<Found, Status> {
    let absent = || refusal::not_found("Event", id);
    let id: EventId = id.parse().map_err(|_| absent())?;
    let address = api.store.install().ids.event_address(id);
    let renderer = Renderer::new(Arc::clone(&api.store));
    let found = renderer.found_at(address, tenant).await.map_err(refusal::store)?;
    found.ok_or_else(absent)
}

pub(crate) fn pattern(text: &str, violations: &mut Violations) -> EventPattern {
    if text.is_empty() {
        return EventPattern::Any;
    }
    text.parse().unwrap_or_else(|error: UnknownEvent| {
        violations.add("type", error.to_string());
        EventPattern::Any
    })
}

pub(crate) fn code(text: &str, violations: &mut Violations) -> Option<CodeId> {
    if text.is_empty() {
        return None;
    }
    text.parse()
        .inspect_err(|_| violations.add("code_id", "is not a code's id"))
        .ok()
}

pub(crate) fn time(
    field: &str,
    at: Option<&prost_types::Timestamp>,
    violations: &mut Violations,
) -> Option<Timestamp> {
    let at = at?;
    // Events have whole milliseconds: the first one at or after the given instant bounds the same events.
    let up = i64::from(at.nanos % 1_000_000 > 0);
    let ms = at
        .seconds
        .checked_mul(1000)
        .and_then(|ms| ms.checked_add(i64::from(at.nanos / 1_000_000) + up));
    if ms.is_none() {
        violations.add(field, "must be a time between the years 1970 and 9999");
    }
    ms.map(Timestamp::from_millis)
}
