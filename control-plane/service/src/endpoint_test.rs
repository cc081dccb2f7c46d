//! Testing an endpoint: a command to the owner of its home, and the wait for what came of it.
//!
//! The control plane never connects to a tenant's URL: the owner sends, under the endpoint's limits.

use qrelay_proto::v1;
use qrelay_store::{
    id::{CommandId, DeliveryKey},
    limits,
    store::{AttemptRow, Command, CommandKind, CommandResult, DeliveryStatus},
};
use tokio::time::{Duration, Instant, timeout_at};
use tonic::Status;

use crate::{api::Api, caller::Caller, endpoints, refusal};

/// The store is looked at without a hint, too: the owner may be another process.
const POLL: Duration = Duration::from_millis(250);

/// TestEndpoint.
pub(crate) async fn run(
    api: &Api,
    caller: &Caller,
    request: v1::TestEndpointRequest,
) -> Result<v1::TestEndpointResponse, Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let endpoint = endpoints::own(api, &tenant, &request.id).await?;
    let deadline = Instant::now() + limits::TEST_WAIT;
    let command = Command {
        id: CommandId::random(),
        partition: endpoint.home,
        kind: CommandKind::Test {
            endpoint: endpoint.id,
        },
        created_at: api.now(),
        result: None,
    };
    let hints = api.store.hints().partition(endpoint.home);
    let mut finished = hints.commands();
    if !api.store.put_command(&command).await.map_err(refusal::store)? {
        let message = "too many tests wait for this endpoint's sender";
        return Err(refusal::too_fast(
            "COMMANDS_PENDING",
            message,
            Duration::from_secs(1),
        ));
    }
    hints.publish_command();
    loop {
        finished.borrow_and_update();
        let found = api
            .store
            .command(command.partition, command.id)
            .await
            .map_err(refusal::store)?;
        if let Some(result) = found.and_then(|command| command.result) {
            return answer(api, result);
        }
        let until = deadline.min(Instant::now() + POLL);
        // Both a hint and the passing of time mean: look again.
        if timeout_at(until, finished.changed()).await.is_err() && Instant::now() >= deadline {
            return Err(Status::deadline_exceeded(
                "no outcome of the test is known after 10 s",
            ));
        }
    }
}

fn answer(api: &Api, result: CommandResult) -> Result<v1::TestEndpointResponse, Status> {
    match result {
        CommandResult::Attempt(attempt) => Ok(show(api, &attempt)),
        CommandResult::Taken => Err(Status::internal("a test was finished as something else")),
        CommandResult::Refused { reason } => Err(refusal::precondition("TEST_REFUSED", &reason)),
    }
}

fn show(api: &Api, attempt: &AttemptRow) -> v1::TestEndpointResponse {
    let key = DeliveryKey {
        endpoint: attempt.endpoint,
        first_at: attempt.first_at,
        event: attempt.event,
    };
    let status = match attempt.status {
        DeliveryStatus::Succeeded => v1::DeliveryStatus::Succeeded,
        DeliveryStatus::GivenUp | DeliveryStatus::Retrying => v1::DeliveryStatus::GivenUp,
    };
    v1::TestEndpointResponse {
        id: api.store.install().ids.delivery_id(&key).to_string(),
        status: status.into(),
        response_status: attempt.response_status.map(i32::from),
        duration_ms: i64::from(attempt.duration_ms),
        error: attempt.error.clone(),
    }
}
