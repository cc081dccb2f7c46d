//! Commands: what callers ask the owner to do, because only it connects to a tenant's URL.
//!
//! A test is one exchange with a synthetic event, within the endpoint's concurrency and pace, also while the endpoint
//! is paused or disabled. It has a row in the attempt log and no bearing on health. A command older than anybody
//! waits for is refused, so that a restart does not send yesterday's tests; so is one that a limit holds back for too
//! long. Its outcome is told once its row is recorded. A retry has no such age: see
//! [`super::retries`].

use std::{sync::Arc, time::Duration};

use qrelay_store::{
    event::Event,
    id::{CommandId, EventAddress},
    limits,
    model::{Endpoint, Tenant},
    store::{AttemptRow, Command, CommandKind, CommandResult, DeliveryStatus, Result},
};
use tokio::time::Instant;

use super::{
    Shard,
    actor::{Actor, Done, Mode},
    replays::Wish,
};
use crate::{
    attempt::{Attempt, Made, Over, RowOf},
    pace::Count,
    queue::Class,
};

/// A command, with what its owner must know to carry it out.
pub(super) struct Asked {
    pub(super) command: Command,
    /// Its endpoint as it is now: its creation may not have come through the configuration log yet.
    pub(super) endpoint: Option<Arc<Endpoint>>,
    /// Its tenant, for the same reason.
    pub(super) tenant: Option<Arc<Tenant>>,
    /// The last row of the delivery that is to be sent again.
    pub(super) last: Option<AttemptRow>,
}

/// How often commands are looked for, hints or not.
const POLL_PERIOD: Duration = Duration::from_secs(1);
/// A test that has not begun after so long is refused while somebody still waits for the reason.
const TEST_START_WAIT: Duration = Duration::from_secs(8);
/// Commands taken at once, beside those that are known.
const TAKE_MAX: usize = 256;

impl Actor {
    pub(super) fn poll_commands(&mut self, now: Instant) {
        if self.commands_polled || now < self.commands_due {
            return;
        }
        self.commands_polled = true;
        self.commands_due = now + POLL_PERIOD;
        let (shard, partition) = (Arc::clone(&self.shard), self.partition);
        let known = self.known_commands.clone();
        self.work.spawn(async move {
            let commands = async {
                let mut all = Vec::new();
                // However many wait for a save, there is room for others behind them.
                let limit = TAKE_MAX + known.len();
                let pending = shard.store.pending_commands(partition, limit).await?;
                for command in pending.into_iter().filter(|command| !known.contains(&command.id)) {
                    let endpoint = shard.store.endpoint(command.kind.endpoint()).await?;
                    let tenant = match &endpoint {
                        Some(endpoint) => shard.store.tenant(endpoint.tenant).await?,
                        None => None,
                    };
                    let last = match command.kind {
                        CommandKind::Test { .. }
                        | CommandKind::Replay { .. }
                        | CommandKind::CancelReplay { .. } => None,
                        CommandKind::Retry {
                            endpoint,
                            event,
                            first_at,
                            ..
                        } => shard.store.attempts(endpoint, first_at, event).await?.pop(),
                    };
                    all.push(Asked {
                        command,
                        endpoint,
                        tenant,
                        last,
                    });
                }
                Ok(all)
            };
            Done::Commands(commands.await)
        });
    }

    pub(super) fn take_commands(&mut self, commands: Result<Vec<Asked>>) {
        self.commands_polled = false;
        let commands = match commands {
            Ok(commands) => commands,
            Err(error) => {
                self.shard.troubles.commands(self.partition, &error);
                return;
            }
        };
        for asked in commands {
            if !self.known_commands.insert(asked.command.id) {
                continue;
            }
            let (id, home) = (asked.command.id, self.partition);
            match asked
                .endpoint
                .filter(|endpoint| !endpoint.deleted && endpoint.home == home)
            {
                None => self.refuse(id, "the endpoint does not exist"),
                Some(endpoint) => {
                    if let Some(tenant) = &asked.tenant {
                        self.ledger.learn_tenant(tenant);
                    }
                    self.ledger.subscribe(endpoint);
                    match asked.command.kind {
                        CommandKind::Test { .. } => self.take_test(asked.command),
                        CommandKind::Retry { event, .. } if event.is_range() => {
                            self.refuse(id, "it stands for all events of a range");
                        }
                        CommandKind::Retry { after, .. } => self.take_retry(id, asked.last, after),
                        CommandKind::Replay { replay, range } => {
                            self.take_replay(id, replay, Wish::Begin(range));
                        }
                        CommandKind::CancelReplay { replay } => self.take_replay(id, replay, Wish::Cancel),
                    }
                }
            }
        }
    }

    fn take_test(&mut self, command: Command) {
        if self.wall().since(command.created_at) > limits::TEST_WAIT {
            self.refuse(command.id, "it waited for too long");
        } else {
            self.tests.push_back(command);
        }
    }

    /// Starts the tests for which there is room; the others keep their order.
    pub(super) fn start_tests(&mut self, now: Instant) {
        for _ in 0..self.tests.len() {
            let Some(command) = self.tests.pop_front() else {
                return;
            };
            if self.wall().since(command.created_at) > TEST_START_WAIT {
                self.refuse(command.id, "the endpoint's other requests left no room in time");
            } else if !self.start_test(&command, now) {
                self.tests.push_back(command);
            }
        }
    }

    fn start_test(&mut self, command: &Command, now: Instant) -> bool {
        let id = command.kind.endpoint();
        let Some(room) = self.shard.permits.try_take(id, Class::Fresh) else {
            self.turns.starved = true;
            return false;
        };
        let Some(endpoint) = self.ledger.begin_test(id) else {
            return false;
        };
        // Without its tenant's limit, which is on its way, nothing may go out.
        let Some(pace) = self.turns.paces.of(&self.ledger, id) else {
            self.ledger.end_test(id);
            self.turns.wake(now + limits::PACE_UNKNOWN_PAUSE, id);
            return false;
        };
        if let Some(at) = pace.take(Count::Plan) {
            self.ledger.end_test(id);
            let left = TEST_START_WAIT.saturating_sub(self.wall().since(command.created_at));
            if at > now + left {
                let keeper = pace.keeper().unwrap_or("a rate limit");
                self.refuse(command.id, &format!("{keeper} lets nothing out in time"));
                return true;
            }
            self.turns.wake(at, id);
            return false;
        }
        let room = room.begin();
        self.exchanges += 1;
        let event = EventAddress::test();
        let event_type = endpoint.tested();
        let ids = &self.shard.sender.ids;
        let sample = Event::sample_of(event_type, ids, event, self.wall(), endpoint.tenant);
        let attempt = Attempt {
            endpoint: Arc::clone(&endpoint),
            event,
            sample: Some(Arc::new(sample)),
            pace,
            event_type,
            first_at: None,
            replay: None,
        };
        let (shard, until, command) = (Arc::clone(&self.shard), self.until.subscribe(), command.clone());
        self.work.spawn(async move {
            let over = shard.sender.attempt(attempt, until, room).await;
            Done::Test(Box::new((command, endpoint, event, over)))
        });
        true
    }

    pub(super) fn end_test(
        &mut self,
        command: Command,
        endpoint: &Endpoint,
        event: EventAddress,
        over: Over,
    ) {
        self.ledger.end_test(endpoint.id);
        let outcome = match over.made {
            Made::Exchange(outcome) => outcome,
            // The next owner finds it pending.
            Made::NotMade(_) if self.mode != Mode::Running => return,
            Made::NotMade(reason) => return self.refuse(command.id, &reason),
            Made::Never(reason) => return self.refuse(command.id, reason),
        };
        let status = if outcome.is_success() {
            DeliveryStatus::Succeeded
        } else {
            DeliveryStatus::GivenUp
        };
        let row = RowOf {
            endpoint,
            event,
            event_type: endpoint.tested(),
            number: 1,
            first_at: over.began,
            began: over.began,
            status,
            next_attempt_at: None,
            code: over.code,
        };
        let row = row.exchange(&outcome);
        // Whoever is told of it may ask for it: told once it is recorded.
        self.unrecorded_tests.insert(event, (command.id, row.clone()));
        self.add_row(row);
    }

    /// Tells a test's outcome, if these are the rows of one.
    pub(super) fn finish_recorded_test(&mut self, event: EventAddress) {
        if let Some((command, row)) = self.unrecorded_tests.remove(&event) {
            self.finish_command(command, CommandResult::Attempt(Box::new(row)));
        }
    }

    pub(super) fn refuse(&mut self, command: CommandId, reason: &str) {
        let reason = reason.to_owned();
        self.finish_command(command, CommandResult::Refused { reason });
    }

    pub(super) fn finish_command(&mut self, command: CommandId, result: CommandResult) {
        let (shard, partition): (Arc<Shard>, _) = (Arc::clone(&self.shard), self.partition);
        self.finishing += 1;
        self.work.spawn(async move {
            let finished = shard.store.finish_command(partition, command, &result).await;
            Done::Finished(command, finished)
        });
    }

    /// A command whose result could not be put down is found pending again, and refused once it is too old.
    pub(super) fn command_finished(&mut self, command: CommandId, result: Result<()>) {
        self.finishing -= 1;
        self.known_commands.remove(&command);
        if let Err(error) = result {
            tracing::warn!(partition = %self.partition, %error, %command, "cannot put a command's result down");
        }
    }
}
