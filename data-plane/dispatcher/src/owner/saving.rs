//! Saving: attempt rows in blocks, checkpoints with their chunks, and the lease's beat.
//!
//! One save at a time. While the outcome of one is unknown, only the beat is moved, until the store tells what became
//! of it ([`crate::lease`]).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::try_join_all;
use qrelay_store::{
    id::{EndpointId, EventAddress},
    limits::{ATTEMPT_ROWS_PER_BLOCK, CHUNK_DELIVERIES_MAX},
    store::{AttemptRow, Cas, CheckpointDelta, DeliveryStatus, Result, StoreError},
};
use tokio::time::Instant;

use super::{
    actor::{Actor, Done, End, Mode},
    answered,
};
use crate::{
    lease::{SAVE_WAIT, Saved, Sending},
    ledger::plan::Plan,
    metrics,
    outstanding::ChunkName,
};

/// The shared cursor waits so long for a batch's deliveries while there are more than one chunk holds: most receivers
/// answer sooner, and then nothing is written for them.
const HOLD: Duration = Duration::from_millis(100);
/// Rows are gathered this long, so that a block is worth its commit.
const ROWS_LINGER: Duration = Duration::from_millis(20);
/// A failed attempt's row waits at most this long for the save that keeps its delivery's id.
const ID_WAIT: Duration = Duration::from_secs(2);
/// What happens first after a quiet time is saved after so long: most receivers have answered by then.
const SOON: Duration = Duration::from_millis(50);
/// But not sooner than this after the save before, so that a trickle of events does not make a save of each.
const BETWEEN_SAVES: Duration = Duration::from_millis(250);
/// Pause after the store failed.
const AFTER_FAILURE: Duration = Duration::from_millis(250);

/// What the store said to a save.
pub(super) enum Answer {
    /// A chunk could not be written, so nothing was sent.
    NotSent(StoreError),
    /// It was sent.
    Sent(Result<Cas>),
}

impl Actor {
    // ---- Attempt rows ----

    /// A delivery's id holds when its first attempt began. Were the row of a failed attempt recorded before a
    /// checkpoint has that moment, a crash would leave a delivery in the list that retries for ever, beside the one
    /// that goes on. So it waits for the save, or for the end of its delivery, but not long.
    pub(super) fn add_row(&mut self, row: AttemptRow) {
        let waits = row.status == DeliveryStatus::Retrying;
        if waits && !matches!(self.mode, Mode::Left(_)) && !self.ledger.keeps_its_id(row.endpoint, row.event)
        {
            self.held_rows.push((Instant::now() + ID_WAIT, row));
            return;
        }
        let (endpoint, event) = (row.endpoint, row.event);
        self.push_row(row);
        self.release_rows(|held| held.endpoint == endpoint && held.event == event);
    }

    /// Lets those held rows go that need not wait any more.
    pub(super) fn release_kept_rows(&mut self, now: Instant) {
        if self.held_rows.is_empty() {
            return;
        }
        let (held, ready): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held_rows)
            .into_iter()
            .partition(|(until, row)| *until > now && !self.ledger.keeps_its_id(row.endpoint, row.event));
        self.held_rows = held;
        ready.into_iter().for_each(|(_, row)| self.push_row(row));
    }

    /// Lets all held rows go: nothing is saved any more.
    pub(super) fn release_all_rows(&mut self) {
        self.release_rows(|_| true);
    }

    fn release_rows(&mut self, which: impl Fn(&AttemptRow) -> bool) {
        let (ready, held): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held_rows)
            .into_iter()
            .partition(|(_, row)| which(row));
        self.held_rows = held;
        ready.into_iter().for_each(|(_, row)| self.push_row(row));
    }

    fn push_row(&mut self, row: AttemptRow) {
        if self.rows.is_empty() {
            self.rows_due = Instant::now() + ROWS_LINGER;
        }
        self.rows.push(row);
    }

    pub(super) fn record_rows(&mut self, now: Instant) {
        if self.rows.is_empty() || self.recording {
            return;
        }
        if now < self.rows_due && self.rows.len() < ATTEMPT_ROWS_PER_BLOCK {
            return;
        }
        let rest = self.rows.split_off(self.rows.len().min(ATTEMPT_ROWS_PER_BLOCK));
        let rows = std::mem::replace(&mut self.rows, rest);
        self.recording = true;
        let store = Arc::clone(&self.shard.store);
        self.work.spawn(async move {
            let ended: Vec<(EndpointId, EventAddress)> = rows
                .iter()
                .filter(|row| row.status != DeliveryStatus::Retrying)
                .map(|row| (row.endpoint, row.event))
                .collect();
            Done::Recorded(match store.record_attempts(rows.clone()).await {
                Ok(()) => Ok(ended),
                Err(error) => {
                    tracing::warn!(%error, rows = rows.len(), "cannot record attempts; trying again");
                    Err(rows)
                }
            })
        });
    }

    pub(super) fn end_recording(&mut self, result: Result<Vec<(EndpointId, EventAddress)>, Vec<AttemptRow>>) {
        self.recording = false;
        self.save_soon();
        match result {
            Ok(ended) => {
                for (endpoint, event) in ended {
                    if self.passed(endpoint, event) {
                        continue;
                    }
                    self.ledger.recorded(endpoint, event);
                    self.finish_recorded_test(event);
                }
            }
            Err(mut rows) => {
                // Repeating a row is harmless.
                rows.append(&mut self.rows);
                self.rows = rows;
                self.rows_due = Instant::now() + AFTER_FAILURE;
            }
        }
    }

    // ---- Checkpoints ----

    /// Something happened that a save may have to hold. The first after a quiet time is saved soon, not a whole period
    /// after a look that found nothing: a crash until then repeats it.
    pub(super) fn save_soon(&mut self) {
        self.nothing_to_save = false;
        if !std::mem::take(&mut self.looked_in_vain) {
            return;
        }
        let soon = Instant::now() + SOON;
        let at = self.sent_at.map_or(soon, |sent| soon.max(sent + BETWEEN_SAVES));
        self.save_at = self.save_at.min(at);
    }

    /// When a save is due, if none is under way.
    pub(super) fn next_save(&self) -> Instant {
        let renew_at = self.held.renew_at();
        let idle = self.nothing_to_save && !self.held.is_unresolved();
        if idle {
            renew_at
        } else {
            self.save_at.min(renew_at)
        }
    }

    pub(super) fn save(&mut self, now: Instant) {
        if self.saving || matches!(self.mode, Mode::Releasing | Mode::Left(_)) {
            return;
        }
        if self.held.is_unresolved() {
            if now >= self.save_at {
                self.send(now, None);
            }
            return;
        }
        if now >= self.save_at {
            // Few deliveries fit into a chunk or two: saving them at once keeps what a crash repeats small.
            let many = self.ledger.unsaved_shared() > CHUNK_DELIVERIES_MAX;
            let hold = if many && self.mode == Mode::Running {
                HOLD
            } else {
                Duration::ZERO
            };
            let plan = self.ledger.plan(now, hold);
            self.nothing_to_save = plan.is_none();
            self.looked_in_vain = plan.is_none();
            self.save_at = now + self.shard.config.checkpoint_period;
            if let Some(plan) = plan {
                self.sent_at = Some(now);
                self.send(now, Some(Box::new(plan)));
                return;
            }
        }
        if now >= self.held.renew_at() {
            self.send(now, None);
        }
    }

    fn send(&mut self, now: Instant, plan: Option<Box<Plan>>) {
        self.saving = true;
        let sending = self.held.next(now);
        let (store, partition) = (Arc::clone(&self.shard.store), self.partition);
        let delta = plan
            .as_ref()
            .map_or_else(CheckpointDelta::default, |plan| plan.delta.clone());
        let chunks: Vec<(ChunkName, Bytes)> = plan
            .iter()
            .flat_map(|plan| &plan.chunks)
            .map(|chunk| (chunk.name, chunk.body.clone()))
            .collect();
        self.work.spawn(async move {
            let writes = chunks.into_iter().map(|(name, body)| {
                let store = &store;
                async move {
                    let name = name.to_string();
                    answered(store, SAVE_WAIT, store.put_chunk(partition, &name, body)).await
                }
            });
            if let Err(error) = try_join_all(writes).await {
                return Done::Saved(sending, plan, Answer::NotSent(error));
            }
            let save = store.save(partition, sending.expected, sending.beat, &delta);
            let answer = answered(&store, SAVE_WAIT, save).await;
            Done::Saved(sending, plan, Answer::Sent(answer))
        });
    }

    pub(super) fn end_save(&mut self, sending: Sending, plan: Option<Box<Plan>>, answer: Answer) {
        self.saving = false;
        self.nothing_to_save = false;
        let saved = match answer {
            Answer::NotSent(error) => {
                tracing::warn!(partition = %self.partition, %error, "cannot write a chunk; saving later");
                self.save_at = Instant::now() + AFTER_FAILURE;
                Saved::Never
            }
            Answer::Sent(Err(error)) => {
                self.shard.troubles.save(self.partition, &error);
                self.save_at = Instant::now() + AFTER_FAILURE;
                self.held.answered(sending, None)
            }
            Answer::Sent(Ok(cas)) => self.held.answered(sending, Some(&cas)),
        };
        if matches!(self.mode, Mode::Running | Mode::Draining(_)) {
            self.until.send_replace(self.held.start_until());
        }
        // While one is in doubt, what is sent has no plan.
        let plan = plan.or_else(|| self.in_doubt.take());
        match saved {
            Saved::Applied => {
                metrics::checkpoint("applied");
                if let Some(plan) = plan {
                    let unnamed = self.ledger.commit(*plan);
                    self.delete_chunks(unnamed);
                    let now = Instant::now();
                    self.ledger.settle(now);
                    self.release_kept_rows(now);
                    self.finish_kept_retries();
                    self.announce_at = now;
                    self.finish_kept_replays();
                    self.replays_due = now;
                }
            }
            Saved::Never => {
                metrics::checkpoint("never");
                if let Some(plan) = plan {
                    let unnamed = self.ledger.abort(&plan);
                    self.delete_chunks(unnamed);
                }
            }
            Saved::Unknown => {
                metrics::checkpoint("unknown");
                self.in_doubt = plan;
            }
            Saved::Fenced => {
                metrics::checkpoint("fenced");
                self.end = Some(End::Fenced);
            }
        }
        self.match_parked();
    }

    /// Deletes chunks that no checkpoint names. One that stays behind after a failure costs its bytes only.
    fn delete_chunks(&mut self, names: Vec<ChunkName>) {
        if names.is_empty() {
            return;
        }
        let (store, partition) = (Arc::clone(&self.shard.store), self.partition);
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.work.spawn(async move {
            if let Err(error) = store.delete_chunks(partition, &names).await {
                tracing::warn!(%partition, %error, count = names.len(), "cannot delete chunks");
            }
            Done::Nothing
        });
    }
}
