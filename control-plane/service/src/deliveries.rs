//! Deliveries: what became of an endpoint's events, from the attempt log.

use std::sync::Arc;

use qrelay_proto::v1;
use qrelay_store::{
    checkpoint::EndpointHealth,
    clock::Timestamp,
    id::{CommandId, DeliveryId, DeliveryKey, PartitionId},
    model::{Endpoint, EventPattern, Tenant},
    store::{
        AttemptRow, Command, CommandKind, DeliveryFilter, DeliveryPosition, DeliveryStatus, DeliverySummary,
    },
};
use tonic::Status;

use crate::{
    api::Api,
    caller::Caller,
    command, endpoint_fields, endpoints,
    events::{self, Renderer},
    page::{self, Bound},
    refusal::{self, Violations},
    wire,
};

/// ListDeliveries. A deleted endpoint's log can still be read.
pub(crate) async fn list(
    api: &Api,
    caller: &Caller,
    mut request: v1::ListDeliveriesRequest,
) -> Result<v1::ListDeliveriesResponse, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    let endpoint = endpoints::any_of(api, &tenant, &request.endpoint_id).await?;
    let mut violations = Violations::default();
    let size = page::size(request.page_size, &mut violations);
    let filter = filter(&request, &mut violations);
    let token = std::mem::take(&mut request.page_token);
    request.page_size = 0;
    let bound = Bound::to_request("ListDeliveries", Some(tenant.id), &request);
    let before: Option<DeliveryPosition> = api.tokens.position(&bound, &token, "page_token", &mut violations);
    violations.finish()?;
    let page = api
        .store
        .find_deliveries(endpoint.id, &filter, before, size)
        .await
        .map_err(refusal::store)?;
    let token = |position: &DeliveryPosition| api.tokens.token(&bound, position);
    let (count, rows) = (page.deliveries.len(), page.deliveries);
    let of_row = |row: &DeliverySummary| token(&(row.last.first_at, row.last.event));
    let due = Due::of(api, &endpoint).await?;
    let (deliveries, cut_at) = page::cut(rows, size, |row| show(api, row, &due), of_row);
    let next_page_token = if deliveries.len() < count {
        cut_at
    } else {
        page.next.as_ref().map_or_else(String::new, token)
    };
    Ok(v1::ListDeliveriesResponse {
        deliveries,
        next_page_token,
    })
}

fn filter(request: &v1::ListDeliveriesRequest, violations: &mut Violations) -> DeliveryFilter {
    let status = match v1::DeliveryStatus::try_from(request.status) {
        Ok(v1::DeliveryStatus::Unspecified) => None,
        Ok(v1::DeliveryStatus::Retrying) => Some(DeliveryStatus::Retrying),
        Ok(v1::DeliveryStatus::Succeeded) => Some(DeliveryStatus::Succeeded),
        Ok(v1::DeliveryStatus::GivenUp) => Some(DeliveryStatus::GivenUp),
        Err(_) => {
            violations.add("status", "must be retrying, succeeded or given_up");
            None
        }
    };
    let events = events::pattern(&request.r#type, violations);
    DeliveryFilter {
        status,
        events: (events != EventPattern::Any).then_some(events),
        code: events::code(&request.code_id, violations),
        start: events::time("start_time", request.start_time.as_ref(), violations),
        end: events::time("end_time", request.end_time.as_ref(), violations),
    }
}

/// GetDelivery. Its id holds where its rows are; whose they are says the endpoint.
pub(crate) async fn read(
    api: &Api,
    caller: &Caller,
    request: v1::GetDeliveryRequest,
) -> Result<v1::Delivery, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    let (endpoint, rows) = rows_of(api, &tenant, &request.id).await?;
    let last = rows[rows.len() - 1].clone();
    let due = Due::of(api, &endpoint).await?;
    Ok(show_whole(api, last, &rows, &due))
}

/// RetryDelivery. The owner of the endpoint's home carries it out, under the endpoint's limits.
pub(crate) async fn retry(
    api: &Api,
    caller: &Caller,
    request: v1::RetryDeliveryRequest,
) -> Result<v1::Delivery, Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let (endpoint, rows) = rows_of(api, &tenant, &request.id).await?;
    let last = rows[rows.len() - 1].clone();
    let refused = |code, message| Err(refusal::precondition(code, message));
    if endpoint.deleted {
        return refused("ENDPOINT_DELETED", "the endpoint was deleted");
    }
    if last.event.partition == PartitionId::TEST {
        return refused(
            "TEST_DELIVERY",
            "a test has no event to send again: test the endpoint anew",
        );
    }
    if last.event.is_range() {
        return refused(
            "EVENT_RANGE",
            "it stands for all events of a range: send them with a replay of the endpoint",
        );
    }
    // Also where nothing was sent yet: a template that made no body may have been changed.
    let renderer = Renderer::new(Arc::clone(&api.store));
    let event = renderer.event_at(last.event, tenant.id).await;
    if event.map_err(refusal::store)?.is_none() {
        return refused("EVENT_GONE", "its event is no longer kept");
    }
    let now = api.now();
    let command = Command {
        id: CommandId::random(),
        partition: endpoint.home,
        kind: CommandKind::Retry {
            endpoint: endpoint.id,
            event: last.event,
            first_at: last.first_at,
            after: last.number,
        },
        created_at: now,
        result: None,
    };
    command::put(api, &command).await?;
    let last = AttemptRow {
        status: DeliveryStatus::Retrying,
        next_attempt_at: Some(now),
        ..last
    };
    let due = Due::of(api, &endpoint).await?;
    Ok(show_whole(api, last, &rows, &due))
}

/// When what is due goes out, as far as its endpoint lets it.
struct Due<'a> {
    endpoint: &'a Endpoint,
    health: EndpointHealth,
    now: Timestamp,
}

impl<'a> Due<'a> {
    async fn of(api: &Api, endpoint: &'a Endpoint) -> Result<Self, Status> {
        let health = endpoints::health(api, endpoint).await?;
        let now = api.now();
        Ok(Self {
            endpoint,
            health,
            now,
        })
    }

    fn next(&self, at: Timestamp) -> Option<Timestamp> {
        endpoint_fields::next_send(self.endpoint, &self.health, at, self.now)
    }
}

/// A delivery's rows, of which there is at least one, and its endpoint; another tenant's is not found.
async fn rows_of(api: &Api, tenant: &Tenant, id: &str) -> Result<(Arc<Endpoint>, Vec<AttemptRow>), Status> {
    if id.is_empty() {
        return Err(Violations::one("id", "is required"));
    }
    let missing = || refusal::not_found("Delivery", id);
    let parsed: DeliveryId = id.parse().map_err(|_| missing())?;
    let key = api.store.install().ids.delivery_key(parsed);
    let endpoint = api.store.endpoint(key.endpoint).await.map_err(refusal::store)?;
    let endpoint = endpoint
        .filter(|endpoint| endpoint.tenant == tenant.id)
        .ok_or_else(missing)?;
    let rows = api
        .store
        .attempts(key.endpoint, key.first_at, key.event)
        .await
        .map_err(refusal::store)?;
    if rows.is_empty() {
        return Err(missing());
    }
    Ok((endpoint, rows))
}

/// A delivery as its `last` row says, with its attempts.
fn show_whole(api: &Api, last: AttemptRow, rows: &[AttemptRow], due: &Due<'_>) -> v1::Delivery {
    let attempts = rows.iter().filter(|row| row.number > 0);
    let attempt_log: Vec<_> = attempts.map(show_attempt).collect();
    let attempts = u32::try_from(attempt_log.len()).unwrap_or(u32::MAX);
    v1::Delivery {
        attempt_log,
        ..show(api, &DeliverySummary { last, attempts }, due)
    }
}

fn show(api: &Api, delivery: &DeliverySummary, due: &Due<'_>) -> v1::Delivery {
    let (last, ids) = (&delivery.last, &api.store.install().ids);
    let key = DeliveryKey {
        endpoint: last.endpoint,
        first_at: last.first_at,
        event: last.event,
    };
    let status = match last.status {
        DeliveryStatus::Retrying => v1::DeliveryStatus::Retrying,
        DeliveryStatus::Succeeded => v1::DeliveryStatus::Succeeded,
        DeliveryStatus::GivenUp => v1::DeliveryStatus::GivenUp,
    };
    v1::Delivery {
        id: ids.delivery_id(&key).to_string(),
        event_id: ids.event_id(last.event).to_string(),
        event: last.event_type.to_string(),
        status: status.into(),
        response_status: last.response_status.map(i32::from),
        duration_ms: i64::from(last.duration_ms),
        error: last.error.clone(),
        attempts: wire::small_count(delivery.attempts),
        created_at: Some(wire::time(last.first_at)),
        next_attempt_at: last.next_attempt_at.and_then(|at| due.next(at)).map(wire::time),
        endpoint_id: last.endpoint.to_string(),
        attempt_log: Vec::new(),
        code_id: last.code.map_or_else(String::new, |code| code.to_string()),
        error_class: last.error_class.clone(),
        fault: fault(&last.fault),
    }
}

fn show_attempt(row: &AttemptRow) -> v1::Attempt {
    v1::Attempt {
        number: wire::small_count(row.number),
        started_at: Some(wire::time(row.started_at)),
        duration_ms: i64::from(row.duration_ms),
        response_status: row.response_status.map(i32::from),
        error_class: row.error_class.clone(),
        error: row.error.clone(),
        response_body: String::from_utf8_lossy(&row.response_body).into_owned(),
        fault: fault(&row.fault),
        request_headers: headers(&row.detail["request_headers"]),
        response_headers: headers(&row.detail["response_headers"]),
        timing: row.detail.get("phases_ms").map(|phases| v1::Timing {
            dns_ms: phases["dns"].as_f64(),
            connect_ms: phases["connect"].as_f64(),
            tls_ms: phases["tls"].as_f64(),
            first_byte_ms: phases["first_byte"].as_f64(),
            total_ms: phases["total"].as_f64(),
            connection_reused: row.detail["connection_reused"].as_bool().unwrap_or_default(),
        }),
    }
}

/// In the contract's words: to a tenant, what is ours is the sender's.
fn fault(stored: &str) -> String {
    if stored == "ours" { "sender" } else { stored }.to_owned()
}

/// Pairs of a row's detail; none where older releases kept none.
fn headers(pairs: &serde_json::Value) -> Vec<v1::Header> {
    let pairs = pairs.as_array().into_iter().flatten();
    pairs
        .filter_map(|pair| {
            Some(v1::Header {
                name: pair.get(0)?.as_str()?.to_owned(),
                value: pair.get(1)?.as_str()?.to_owned(),
            })
        })
        .collect()
}
