//! Testing an endpoint: a command to the owner of its home, and the wait for what came of it.
//!
//! The control plane never connects to a tenant's URL: the owner sends, under the endpoint's limits.

use qrelay_proto::v1;
use qrelay_store::{
    id::{CommandId, DeliveryKey},
    limits,
    store::{AttemptRow, Command, CommandKind, CommandResult, DeliveryStatus},
};
use tokio::time::Instant;
use tonic::Status;

use crate::{api::Api, caller::Caller, command, endpoints, refusal};

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
    command::put(api, &command).await?;
    match command::outcome(api, &command, deadline).await? {
        Some(result) => answer(api, result),
        None => Err(refusal::unfinished(
            "TEST_UNFINISHED",
            "no outcome of the test is known after 10 s",
        )),
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
