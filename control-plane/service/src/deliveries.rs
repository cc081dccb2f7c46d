//! Deliveries: what became of an endpoint's events, from the attempt log.

use qrelay_proto::v1;
use qrelay_store::{
    Timestamp,
    id::{DeliveryId, DeliveryKey, EventAddress},
    store::{AttemptRow, DeliveryStatus, DeliverySummary},
};
use tonic::Status;

use crate::{
    api::Api,
    caller::Caller,
    endpoints,
    page::{self, Bound},
    refusal::{self, Violations},
    wire,
};

/// ListDeliveries. A deleted endpoint's log can still be read.
pub(crate) async fn list(
    api: &Api,
    caller: &Caller,
    request: v1::ListDeliveriesRequest,
) -> Result<v1::ListDeliveriesResponse, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    let endpoint = endpoints::any_of(api, &tenant, &request.endpoint_id).await?;
    let mut violations = Violations::default();
    let size = page::size(request.page_size, &mut violations);
    let bound = Bound::new("ListDeliveries", Some(tenant.id), endpoint.id.as_bytes());
    let before: Option<(Timestamp, EventAddress)> =
        api.tokens
            .position(&bound, &request.page_token, "page_token", &mut violations);
    violations.finish()?;
    let rows = api
        .store
        .deliveries(endpoint.id, before, size + 1)
        .await
        .map_err(refusal::store)?;
    let token = |row: &DeliverySummary| api.tokens.token(&bound, &(row.last.first_at, row.last.event));
    let (deliveries, next_page_token) = page::cut(rows, size, |row| show(api, row), token);
    Ok(v1::ListDeliveriesResponse {
        deliveries,
        next_page_token,
    })
}

/// GetDelivery. Its id holds where its rows are; whose they are says the endpoint.
pub(crate) async fn read(
    api: &Api,
    caller: &Caller,
    request: v1::GetDeliveryRequest,
) -> Result<v1::Delivery, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    if request.id.is_empty() {
        return Err(Violations::one("id", "is required"));
    }
    let missing = || refusal::not_found("Delivery", &request.id);
    let id: DeliveryId = request.id.parse().map_err(|_| missing())?;
    let key = api.store.install().ids.delivery_key(id);
    let endpoint = api.store.endpoint(key.endpoint).await.map_err(refusal::store)?;
    endpoint
        .filter(|endpoint| endpoint.tenant == tenant.id)
        .ok_or_else(missing)?;
    let rows = api
        .store
        .attempts(key.endpoint, key.first_at, key.event)
        .await
        .map_err(refusal::store)?;
    let last = rows.last().cloned().ok_or_else(missing)?;
    let attempt_log: Vec<_> = rows
        .iter()
        .filter(|row| row.number > 0)
        .map(show_attempt)
        .collect();
    let attempts = u32::try_from(attempt_log.len()).unwrap_or(u32::MAX);
    Ok(v1::Delivery {
        attempt_log,
        ..show(api, &DeliverySummary { last, attempts })
    })
}

fn show(api: &Api, delivery: &DeliverySummary) -> v1::Delivery {
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
        next_attempt_at: last.next_attempt_at.map(wire::time),
        endpoint_id: last.endpoint.to_string(),
        attempt_log: Vec::new(),
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
    }
}
