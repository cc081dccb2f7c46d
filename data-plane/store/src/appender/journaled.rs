//! A lane with a journal: what the store does not acknowledge within the budget is durable in the journal.
//!
//! Rules: while a batch of the lane is in the journal and not known to be in the store, later ones follow it there;
//! the lane's head moves with what the store acknowledged and never with the journal; a late answer of the store is as
//! good as an early one. When the journal takes nothing either, the lane is as one without a journal.

use std::{collections::VecDeque, pin::pin, sync::Arc};

use futures::future::BoxFuture;
use tokio::{
    sync::Notify,
    time::{Duration, Instant, sleep, timeout, timeout_at},
};

use super::{DURABLE, Lane, Outcome, Shared, lock};
use crate::{
    id::Seq,
    journal::{Journal, Position, WriteError, shipping},
    limits,
    store::{Batch, Result},
};

/// An append under way. It is not dropped when its budget is used up: its answer may still come.
type Append = BoxFuture<'static, Result<()>>;

/// A lane's batches that are in the journal and not known to be in the store.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    state: std::sync::Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// In order. Those under way stay until they are acknowledged.
    waiting: VecDeque<Position>,
    /// How many of the first are under way.
    under_way: usize,
    since: Option<Instant>,
    /// Whether a task ships.
    shipped: bool,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        lock(&self.state).waiting.is_empty()
    }

    /// Adds one. True when nobody ships yet: the caller sees to it.
    fn push(&self, position: Position) -> bool {
        let mut state = lock(&self.state);
        state.waiting.push_back(position);
        !std::mem::replace(&mut state.shipped, true)
    }

    /// What to ship next; none when nothing is left, and then the task ends.
    fn begin(&self, window: impl FnOnce(&VecDeque<Position>) -> Vec<Position>) -> Option<Vec<Position>> {
        let mut state = lock(&self.state);
        if state.waiting.is_empty() {
            state.shipped = false;
            return None;
        }
        let window = window(&state.waiting);
        (state.under_way, state.since) = (window.len(), Some(Instant::now()));
        Some(window)
    }

    fn ended(&self, shipped: usize) {
        let mut state = lock(&self.state);
        state.waiting.drain(..shipped);
        (state.under_way, state.since) = (0, None);
        drop(state);
        self.changed.notify_waiters();
    }

    /// While all that waits is on its way to the store, it is worth waiting for (for as long as a first append is):
    /// otherwise a lane under load would never get out of its journal.
    pub(super) async fn nearly_shipped(&self, budget: Duration) {
        loop {
            let changed = self.changed.notified();
            let since = {
                let state = lock(&self.state);
                let all = !state.waiting.is_empty() && state.under_way == state.waiting.len();
                state.since.filter(|_| all)
            };
            let Some(since) = since else { return };
            if timeout_at(since + budget, changed).await.is_err() {
                return;
            }
        }
    }
}

/// Makes one sealed batch durable, in the store or in the journal.
pub(super) async fn record(
    shared: &Arc<Shared>,
    lane: &Arc<Lane>,
    journal: &Journal,
    batch: Batch,
    outcome: &Outcome,
) {
    let (began, mut append) = (Instant::now(), None);
    if lane.backlog.is_empty() {
        let mut first = begin(shared, &batch);
        match timeout(journal.config().append_budget, &mut first).await {
            Ok(Ok(())) => return acknowledged(shared, lane, batch.seq, outcome),
            Ok(Err(error)) => {
                metrics::counter!("qrelay_append_failures_total").increment(1);
                shared.tell_journaling(&error.to_string());
            }
            Err(_elapsed) => {
                shared.tell_journaling("it did not acknowledge in time");
                append = Some(first);
            }
        }
    }
    loop {
        let acknowledge = || acknowledged(shared, lane, batch.seq, outcome);
        let written = journal_or_store(journal.write(batch.clone()), &mut append, acknowledge).await;
        match written {
            (true, Ok(position)) => return journal.resolve(vec![position]).await,
            (true, Err(_)) => return,
            (false, Ok(position)) => {
                lane.set_failing(false);
                outcome.settle(DURABLE);
                if lane.backlog.push(position) {
                    let first = append.map(|append| (batch.seq, append));
                    let ship = ship(Arc::clone(shared), Arc::clone(lane), journal.clone(), first);
                    shared.tasks.spawn(ship);
                }
                return;
            }
            (false, Err(error)) => {
                shared.tell_full(&error);
                if without_journal(shared, lane, &batch, began, &mut append, outcome).await {
                    return acknowledged(shared, lane, batch.seq, outcome);
                }
            }
        }
    }
}

fn begin(shared: &Arc<Shared>, batch: &Batch) -> Append {
    let (shared, batch) = (Arc::clone(shared), batch.clone());
    Box::pin(async move { shared.store.0.append(batch).await })
}

fn acknowledged(shared: &Shared, lane: &Lane, seq: Seq, outcome: &Outcome) {
    lane.set_failing(false);
    shared.acknowledge(lane, seq);
    outcome.settle(DURABLE);
}

/// Waits for the journal, which must be waited for; whether the store acknowledged before.
async fn journal_or_store(
    journal: impl Future<Output = Result<Position, WriteError>>,
    append: &mut Option<Append>,
    acknowledge: impl FnOnce(),
) -> (bool, Result<Position, WriteError>) {
    let mut journal = pin!(journal);
    let Some(under_way) = append else {
        return (false, journal.await);
    };
    let answer = tokio::select! {
        biased;
        answer = under_way => answer,
        written = &mut journal => return (false, written),
    };
    *append = None;
    if answer.is_ok() {
        acknowledge();
    }
    (answer.is_ok(), journal.await)
}

/// The journal takes nothing just now. True once the store has acknowledged; else the journal may be tried again.
async fn without_journal(
    shared: &Arc<Shared>,
    lane: &Lane,
    batch: &Batch,
    began: Instant,
    append: &mut Option<Append>,
    outcome: &Outcome,
) -> bool {
    // A slow store may answer yet; when the time is over, those who wait are told, and new ones at once.
    if began.elapsed() >= limits::APPEND_BUDGET {
        lane.fail_waiters(outcome);
    }
    if append.is_none() && lane.backlog.is_empty() {
        *append = Some(begin(shared, batch));
    }
    let Some(under_way) = append else {
        // Others of the partition come first, and the store does not take them.
        lane.fail_waiters(outcome);
        sleep(limits::APPEND_RETRY_PAUSE).await;
        return false;
    };
    match timeout(limits::APPEND_RETRY_PAUSE, under_way).await {
        Ok(Ok(())) => true,
        Ok(Err(_)) => {
            metrics::counter!("qrelay_append_failures_total").increment(1);
            *append = None;
            lane.fail_waiters(outcome);
            sleep(limits::APPEND_RETRY_PAUSE).await;
            false
        }
        Err(_elapsed) => false,
    }
}

/// A lane's second task: ships what is in the journal, until nothing is.
async fn ship(shared: Arc<Shared>, lane: Arc<Lane>, journal: Journal, mut first: Option<(Seq, Append)>) {
    let mut pace = shipping::Pace::default();
    loop {
        let size = usize::from(first.is_some());
        let begun = lane.backlog.begin(|waiting| match size {
            0 => pace.window(waiting),
            one => waiting.iter().take(one).copied().collect(),
        });
        let Some(window) = begun else {
            return;
        };
        let shipped = match first.take() {
            Some((seq, append)) => shipping::answered(append).await.map(|()| Some(seq)),
            None => {
                let shipped = shipping::ship(&journal, &shared.store.0, shared.writer, &window).await;
                shipped.map(|shipped| shipped.last)
            }
        };
        match shipped {
            Ok(last) => {
                pace.succeeded();
                if let Some(seq) = last {
                    shared.acknowledge(&lane, seq);
                }
                lane.backlog.ended(window.len());
                journal.resolve(window).await;
            }
            Err(error) => {
                shared.tell_not_shipped(&error);
                metrics::counter!("qrelay_append_failures_total").increment(1);
                pace.failed();
                lane.backlog.ended(0);
                sleep(pace.pause()).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
