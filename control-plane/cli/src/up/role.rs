//! One role's task: started with a token of its own, watched, and stopped with a deadline.

use std::{future::Future, sync::Arc};

use tokio::{
    runtime::Handle,
    task::{JoinError, JoinSet},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::readiness::Ready;

/// A running role.
pub(crate) struct Role {
    name: &'static str,
    // One task. A set, because it ends its task when it is dropped.
    task: JoinSet<()>,
    stop: CancellationToken,
    ready: Arc<Ready>,
}

impl Role {
    /// Starts it on a runtime. It is to run until its token is cancelled; an end before that is a failure.
    pub(crate) fn spawn_on<F>(
        runtime: &Handle,
        name: &'static str,
        ready: &Arc<Ready>,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (mut task, stop) = (JoinSet::new(), CancellationToken::new());
        task.spawn_on(work(stop.clone()), runtime);
        Self {
            name,
            task,
            stop,
            ready: Arc::clone(ready),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Waits until it ends by itself, and says why. Pending for ever after that.
    pub(crate) async fn ended(&mut self) -> String {
        let Some(ended) = self.task.join_next().await else {
            return std::future::pending().await;
        };
        self.ready.down(self.name);
        reason(ended)
    }

    /// Asks it to stop and waits: its name, if it has not ended at the deadline.
    pub(crate) async fn stop(mut self, deadline: Instant) -> Option<&'static str> {
        self.stop.cancel();
        match timeout_at(deadline, self.task.join_next()).await {
            Ok(None | Some(Ok(()))) => None,
            Ok(Some(ended)) => {
                tracing::error!(role = self.name, reason = reason(ended), "a role ended badly");
                None
            }
            Err(_) => Some(self.name),
        }
    }
}

fn reason(ended: Result<(), JoinError>) -> String {
    match ended {
        Ok(()) => "it ended without being asked to".to_owned(),
        Err(error) => format!("it broke down: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_role_that_ends_by_itself_is_noticed_and_named() {
        let ready = Arc::new(Ready::without_writer());
        let mut role = Role::spawn_on(&Handle::current(), "edge", &ready, |_stop| async {});
        assert_eq!(role.ended().await, "it ended without being asked to");
        assert_eq!(ready.reasons(), ["edge is down"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_stops_when_asked_or_is_named_at_the_deadline() {
        let ready = Arc::new(Ready::without_writer());
        let deadline = Instant::now() + Duration::from_secs(1);
        let obedient = Role::spawn_on(&Handle::current(), "api", &ready, |stop| async move {
            stop.cancelled().await;
        });
        assert_eq!(obedient.stop(deadline).await, None);
        let stubborn = Role::spawn_on(&Handle::current(), "edge", &ready, |_stop| std::future::pending());
        assert_eq!(stubborn.stop(deadline).await, Some("edge"));
    }
}
