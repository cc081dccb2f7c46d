//! Commands to the owner of an endpoint's home, and the wait for what came of them.

use qrelay_store::store::{Command, CommandResult};
use tokio::time::{Duration, Instant, timeout_at};
use tonic::Status;

use crate::{api::Api, refusal};

/// The store is looked at without a hint, too: the owner may be another process.
const POLL: Duration = Duration::from_millis(250);

/// Puts a command down.
///
/// # Errors
/// RESOURCE_EXHAUSTED when too many wait for the same sender.
pub(crate) async fn put(api: &Api, command: &Command) -> Result<(), Status> {
    if !api.store.put_command(command).await.map_err(refusal::store)? {
        let message = "too many commands wait for this endpoint's sender";
        return Err(refusal::too_fast(
            "COMMANDS_PENDING",
            message,
            Duration::from_secs(1),
        ));
    }
    api.store.hints().partition(command.partition).publish_command();
    Ok(())
}

/// Waits for what comes of a command that was put down; none when nothing is known at the deadline.
pub(crate) async fn outcome(
    api: &Api,
    command: &Command,
    deadline: Instant,
) -> Result<Option<CommandResult>, Status> {
    let mut finished = api.store.hints().partition(command.partition).commands();
    loop {
        finished.borrow_and_update();
        let found = api
            .store
            .command(command.partition, command.id)
            .await
            .map_err(refusal::store)?;
        if let Some(result) = found.and_then(|command| command.result) {
            return Ok(Some(result));
        }
        let until = deadline.min(Instant::now() + POLL);
        // Both a hint and the passing of time mean: look again.
        if timeout_at(until, finished.changed()).await.is_err() && Instant::now() >= deadline {
            return Ok(None);
        }
    }
}
