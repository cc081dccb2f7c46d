//! Replays: a command to the owner of the endpoint's home begins one, and its row in the owner's checkpoint tells how it
//! fares.
//!
//! A replay's id holds its endpoint, and the id of the command that began it: so it is found without an index, also
//! before its owner has taken it up and when it was refused.

use qrelay_proto::v1;
use qrelay_store::{
    Timestamp,
    checkpoint::{ReplayRange, ReplayRow, ReplayState, RowKey, RowKind},
    id::{CommandId, ReplayId, TenantId},
    limits::{RATE_PER_SECOND_MAX, REPLAY_PER_SECOND_MIN, REPLAYS_UNDER_WAY_MAX, TEST_WAIT},
    model::{Endpoint, Tenant},
    store::{ChangeError, Command, CommandKind, CommandResult},
};
use sha2::{Digest, Sha256};
use tokio::time::{Duration, Instant};
use tonic::Status;

use crate::{
    api::Api,
    caller::Caller,
    command, endpoints, events, field,
    refusal::{self, Violations},
    wire,
};

/// How long the answer to a create waits for the endpoint's sender, which takes a replay up at once.
const TAKEN_WAIT: Duration = Duration::from_secs(2);

/// CreateReplay.
pub(crate) async fn create(
    api: &Api,
    caller: &Caller,
    request: v1::CreateReplayRequest,
) -> Result<v1::Replay, Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let endpoint = endpoints::own(api, &tenant, &request.endpoint_id).await?;
    let mut violations = Violations::default();
    let request_id = field::request_id(&mut violations, &request.request_id);
    let now = api.now();
    let range = range(&request, now, &mut violations);
    violations.finish()?;
    let id = match request_id {
        Some(request_id) => repeatable_id(tenant.id, &endpoint, &request_id),
        None => ReplayId::random(endpoint.id),
    };
    if let Some(found) = find(api, &endpoint, id).await? {
        if !found.range.asks_the_same(&range) {
            return Err(refusal::change(ChangeError::RequestReused));
        }
        return found.into_answer(id, &endpoint);
    }
    let running = rows(api, &endpoint).await?;
    let running = running
        .iter()
        .filter(|(_, row)| row.state == ReplayState::Running);
    if running.count() >= REPLAYS_UNDER_WAY_MAX {
        let message = format!("{REPLAYS_UNDER_WAY_MAX} replays of the endpoint are under way");
        return Err(refusal::precondition("REPLAYS_UNDER_WAY", &message));
    }
    let command = Command {
        id: CommandId::from_bytes(id.own()),
        partition: endpoint.home,
        kind: CommandKind::Replay { replay: id, range },
        created_at: now,
        result: None,
    };
    command::put(api, &command).await?;
    command::outcome(api, &command, Instant::now() + TAKEN_WAIT).await?;
    let found = find(api, &endpoint, id).await?;
    found
        .ok_or_else(|| missing(&id.to_string()))?
        .into_answer(id, &endpoint)
}

/// GetReplay. A deleted endpoint's can still be read for a while.
pub(crate) async fn read(
    api: &Api,
    caller: &Caller,
    request: v1::GetReplayRequest,
) -> Result<v1::Replay, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    let (id, endpoint, found) = find_own(api, &tenant, &request.id).await?;
    Ok(found.show(id, &endpoint))
}

/// ListReplays.
pub(crate) async fn list(
    api: &Api,
    caller: &Caller,
    request: v1::ListReplaysRequest,
) -> Result<v1::ListReplaysResponse, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    let endpoint = endpoints::own(api, &tenant, &request.endpoint_id).await?;
    let mut rows = rows(api, &endpoint).await?;
    rows.sort_by_key(|(id, row)| std::cmp::Reverse((row.created_at, *id)));
    let shown = rows
        .into_iter()
        .map(|(id, row)| Found::of_row(row).show(id, &endpoint));
    Ok(v1::ListReplaysResponse {
        replays: shown.collect(),
    })
}

/// CancelReplay.
pub(crate) async fn cancel(
    api: &Api,
    caller: &Caller,
    request: v1::CancelReplayRequest,
) -> Result<v1::Replay, Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let (id, endpoint, found) = find_own(api, &tenant, &request.id).await?;
    if endpoint.deleted || !found.is_running() {
        return Ok(found.show(id, &endpoint));
    }
    let command = Command {
        id: CommandId::random(),
        partition: endpoint.home,
        kind: CommandKind::CancelReplay { replay: id },
        created_at: api.now(),
        result: None,
    };
    command::put(api, &command).await?;
    let outcome = command::outcome(api, &command, Instant::now() + TEST_WAIT).await?;
    if outcome.is_none() {
        return Err(Status::deadline_exceeded(
            "the endpoint's sender has not taken the wish up within 10 s; it will",
        ));
    }
    let (id, endpoint, found) = find_own(api, &tenant, &request.id).await?;
    Ok(found.show(id, &endpoint))
}

fn range(request: &v1::CreateReplayRequest, now: Timestamp, violations: &mut Violations) -> ReplayRange {
    let start = events::time("start_time", request.start_time.as_ref(), violations);
    if request.start_time.is_none() {
        violations.add("start_time", "is required");
    }
    let end_given = events::time("end_time", request.end_time.as_ref(), violations);
    let range = ReplayRange {
        start: start.unwrap_or(Timestamp::EPOCH),
        end: end_given.unwrap_or(now).min(now),
        end_given,
        only_failed: request.only_failed,
        per_second: request.per_second,
    };
    if start.is_some() && range.start >= range.end {
        violations.add("start_time", "must be before end_time, and in the past");
    }
    let allowed = REPLAY_PER_SECOND_MIN..=RATE_PER_SECOND_MAX;
    // Not a number is not in it.
    if request.per_second.is_some_and(|rate| !allowed.contains(&rate)) {
        let rule = format!("must be {REPLAY_PER_SECOND_MIN} to {RATE_PER_SECOND_MAX}");
        violations.add("per_second", rule);
    }
    range
}

/// The id that a request with this request_id makes, however often it is repeated.
fn repeatable_id(tenant: TenantId, endpoint: &Endpoint, request_id: &str) -> ReplayId {
    let mut hash = Sha256::new();
    hash.update(b"CreateReplay\0");
    hash.update(tenant.as_bytes());
    hash.update(request_id);
    let hash: [u8; 32] = hash.finalize().into();
    let mut own = [0; 10];
    own.copy_from_slice(&hash[..10]);
    ReplayId::of(endpoint.id, own)
}

/// What is known of a replay.
struct Found {
    range: ReplayRange,
    created_at: Timestamp,
    /// As its owner saved it, once it did.
    row: Option<ReplayRow>,
    /// Why its owner did not begin it.
    refused: Option<String>,
}

impl Found {
    fn of_row(row: ReplayRow) -> Self {
        Self {
            range: row.range,
            created_at: row.created_at,
            row: Some(row),
            refused: None,
        }
    }

    fn is_running(&self) -> bool {
        self.refused.is_none()
            && self
                .row
                .as_ref()
                .is_none_or(|row| row.state == ReplayState::Running)
    }

    /// The answer to the call that asked for it.
    fn into_answer(self, id: ReplayId, endpoint: &Endpoint) -> Result<v1::Replay, Status> {
        match &self.refused {
            Some(reason) => Err(refusal::precondition("REPLAY_REFUSED", reason)),
            None => Ok(self.show(id, endpoint)),
        }
    }

    fn show(self, id: ReplayId, endpoint: &Endpoint) -> v1::Replay {
        let deleted = endpoint.deleted && self.is_running();
        let reason = if deleted {
            Some("the endpoint was deleted".to_owned())
        } else {
            self.refused
        };
        let state = match self.row.as_ref().map(|row| row.state) {
            _ if reason.is_some() => v1::ReplayState::Failed,
            None | Some(ReplayState::Running) => v1::ReplayState::Running,
            Some(ReplayState::Done) => v1::ReplayState::Done,
            Some(ReplayState::Cancelled) => v1::ReplayState::Cancelled,
        };
        let mut shown = v1::Replay {
            id: id.to_string(),
            endpoint_id: endpoint.id.to_string(),
            start_time: Some(wire::time(self.range.start)),
            end_time: Some(wire::time(self.range.end)),
            only_failed: self.range.only_failed,
            per_second: self.range.per_second,
            state: state.into(),
            reason: reason.unwrap_or_default(),
            created_at: Some(wire::time(self.created_at)),
            ..v1::Replay::default()
        };
        if let Some(row) = self.row {
            let position = row.position;
            let read_all = position.config_read && position.log_read;
            let read = position
                .log
                .map(|(at, ..)| at.clamp(row.range.start, row.range.end));
            let position_time = if read_all { Some(row.range.end) } else { read };
            shown.found = wire::count(position.found);
            shown.skipped = wire::count(position.skipped);
            shown.sent = wire::count(row.sent);
            shown.succeeded = wire::count(row.succeeded);
            shown.failed = wire::count(row.failed);
            shown.total = read_all.then(|| wire::count(position.found));
            shown.position_time = position_time.map(wire::time);
            shown.expired_before = position.expired_before.map(wire::time);
            shown.ended_at = row.ended_at.map(wire::time);
        }
        shown
    }
}

fn missing(id: &str) -> Status {
    refusal::not_found("Replay", id)
}

/// A replay of a tenant's; another's is not found.
async fn find_own(
    api: &Api,
    tenant: &Tenant,
    id: &str,
) -> Result<(ReplayId, std::sync::Arc<Endpoint>, Found), Status> {
    if id.is_empty() {
        return Err(Violations::one("id", "is required"));
    }
    let parsed: ReplayId = id.parse().map_err(|_| missing(id))?;
    let endpoint = api
        .store
        .endpoint(parsed.endpoint())
        .await
        .map_err(refusal::store)?;
    let endpoint = endpoint
        .filter(|endpoint| endpoint.tenant == tenant.id)
        .ok_or_else(|| missing(id))?;
    let found = find(api, &endpoint, parsed).await?;
    Ok((parsed, endpoint, found.ok_or_else(|| missing(id))?))
}

async fn find(api: &Api, endpoint: &Endpoint, id: ReplayId) -> Result<Option<Found>, Status> {
    if let Some(row) = row(api, endpoint, id).await? {
        return Ok(Some(Found::of_row(row)));
    }
    let command = api
        .store
        .command(endpoint.home, CommandId::from_bytes(id.own()))
        .await
        .map_err(refusal::store)?;
    let Some(command) = command else {
        return Ok(None);
    };
    let range = match command.kind {
        CommandKind::Replay { replay, range } if replay == id => range,
        _ => return Ok(None),
    };
    let refused = match command.result {
        None => None,
        Some(CommandResult::Refused { reason }) => Some(reason),
        // Its owner saved it just now, or forgot it since.
        Some(CommandResult::Taken | CommandResult::Attempt(_)) => match row(api, endpoint, id).await? {
            Some(row) => return Ok(Some(Found::of_row(row))),
            None if endpoint.deleted => None,
            None => return Ok(None),
        },
    };
    Ok(Some(Found {
        range,
        created_at: command.created_at,
        row: None,
        refused,
    }))
}

async fn row(api: &Api, endpoint: &Endpoint, id: ReplayId) -> Result<Option<ReplayRow>, Status> {
    let row = api
        .store
        .checkpoint_row(endpoint.home, &RowKey::replay(id))
        .await
        .map_err(refusal::store)?;
    Ok(row.and_then(|row| parsed(id, &row)))
}

async fn rows(api: &Api, endpoint: &Endpoint) -> Result<Vec<(ReplayId, ReplayRow)>, Status> {
    let prefix = ReplayId::prefix_of(endpoint.id);
    let rows = api
        .store
        .checkpoint_rows(endpoint.home, RowKind::Replay, &prefix)
        .await
        .map_err(refusal::store)?;
    let read = rows.iter().filter_map(|(id, row)| {
        let id = id.parse().ok()?;
        Some((id, parsed(id, row)?))
    });
    Ok(read.collect())
}

fn parsed(id: ReplayId, row: &str) -> Option<ReplayRow> {
    serde_json::from_str(row)
        .inspect_err(|error| tracing::error!(%error, replay = %id, "a replay's row cannot be read"))
        .ok()
}
