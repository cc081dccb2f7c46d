//! Replays: what their tenants ask for, and their reads of the log.
//!
//! Reads go forwards in time: all of the configuration log first, then the home's batches in the order of their latest
//! records, from the first that can hold something of the range. Batches hold a bounded time, so the first one that is later
//! by that much ends the range. Then the tenant's other partitions, if it has some, one after the other. Retention takes batches in the same order: when the batch that was to
//! come next is gone, what it and its followers held is given up, and the replay says up to what time.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use qrelay_store::{
    checkpoint::{BatchKey, ReplayPosition, ReplayRange},
    id::{CommandId, ConfigSeq, PartitionId, ReplayId, Seq, WriterId},
    limits::{
        BATCH_SPAN_MAX, CONFIG_CHANGES_PER_ROW, REPLAY_BATCHES_PER_READ, REPLAY_LOOKS_AT_ONCE,
        REPLAY_READS_MAX,
    },
    model::Endpoint,
    store::{Batch, CommandResult, KnownDelivery, Result, StoreError},
};
use tokio::time::Instant;

use super::{
    Shard,
    actor::{Actor, Done},
    reader::{see, see_config},
};
use crate::{
    filters::{Asking, Budget},
    ledger::{
        feed::SeenBatch,
        replay::{Begun, ReplayStep},
    },
    metrics,
};

/// A replay that must wait for live deliveries, or for another replay, is looked at again after this.
const PAUSE: Duration = Duration::from_millis(500);

/// What a command asks of a replay.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Wish {
    Begin(ReplayRange),
    Cancel,
}

impl Actor {
    // ---- Wishes ----

    /// The command stays pending until the checkpoint shows it: so a crash repeats the wish, and none is lost.
    pub(super) fn take_replay(&mut self, command: CommandId, id: ReplayId, wish: Wish) {
        let wall = self.wall();
        match wish {
            Wish::Begin(range) => match self.ledger.begin_replay(id, range, wall) {
                Begun::Taken => {
                    tracing::info!(replay = %id, ?range, "a replay begins");
                }
                Begun::TooMany => return self.refuse(command, TOO_MANY),
                Begun::Gone => return self.refuse(command, "the endpoint does not exist"),
            },
            Wish::Cancel => self.ledger.cancel_replay(id, wall),
        }
        self.replay_wishes.insert(command, id);
        self.replays_due = Instant::now();
        self.save_soon();
        self.finish_kept_replays();
    }

    /// Finishes the commands that a saved checkpoint shows.
    pub(super) fn finish_kept_replays(&mut self) {
        let kept = self
            .replay_wishes
            .iter()
            .filter(|(_, id)| self.ledger.keeps_replay(**id));
        for command in kept.map(|(command, _)| *command).collect::<Vec<_>>() {
            self.replay_wishes.remove(&command);
            self.finish_command(command, CommandResult::Taken);
        }
    }

    // ---- Reads ----

    /// Lets those replays read on that have room.
    pub(super) fn read_replays(&mut self, now: Instant) {
        if now < self.replays_due || self.ledger.replays_running().len() == 0 {
            return;
        }
        self.replays_due = now + super::actor::SETTLE_PERIOD;
        let wall = self.wall();
        let before = self.ledger.replays_running().len();
        self.ledger.end_replays(wall);
        if self.ledger.replays_running().len() < before {
            self.save_soon();
        }
        let running: Vec<_> = self.ledger.replays_running().collect();
        metrics::replays(self.partition, running.len());
        let first = running.partition_point(|id| Some(*id) <= self.replay_read_last);
        for id in running.iter().cycle().skip(first).take(running.len()) {
            if self.replay_reads.len() >= REPLAY_READS_MAX {
                return;
            }
            let paused = self.replay_pauses.get(id).is_some_and(|until| *until > now);
            if paused || self.replay_reads.contains(id) {
                continue;
            }
            let (Some(from), Some(range)) =
                (self.ledger.replay_wants(*id, now), self.ledger.replay_range(*id))
            else {
                continue;
            };
            let Some(subscriber) = self.ledger.subscriber(id.endpoint()) else {
                continue;
            };
            let reading = Reading {
                endpoint: Arc::clone(&subscriber.config),
                partitions: self.ledger.partitions_of(subscriber.config.tenant),
                range,
                from,
            };
            (self.replay_read_last, _) = (Some(*id), self.replay_reads.insert(*id));
            let (shard, id) = (Arc::clone(&self.shard), *id);
            let version = reading.endpoint.version;
            self.work
                .spawn(async move { Done::ReplayRead(id, version, reading.read(&shard).await) });
        }
    }

    /// `version`: of the endpoint that the read was made for.
    pub(super) fn end_replay_read(&mut self, id: ReplayId, version: u64, read: Result<Vec<ReplayStep>>) {
        self.replay_reads.remove(&id);
        let subscriber = self.ledger.subscriber(id.endpoint());
        match read {
            // It may want something else by now: it is read again.
            Ok(_) if subscriber.is_none_or(|subscriber| subscriber.config.version != version) => {
                self.replays_due = Instant::now();
            }
            Ok(steps) => {
                let at = self.shard.moment();
                if self.ledger.feed_replay(id, steps, at) {
                    self.replay_pauses.remove(&id);
                    self.replays_due = at.now;
                } else {
                    self.replay_pauses.insert(id, at.now + PAUSE);
                }
                self.save_soon();
            }
            Err(error) => {
                tracing::warn!(partition = %self.partition, replay = %id, %error, "cannot read for a replay; trying again");
            }
        }
    }

    /// Forgets what nobody needs of replays that are over.
    pub(super) fn forget_replays(&mut self) {
        let ledger = &self.ledger;
        self.turns.replays.forget_idle(ledger);
        self.replay_pauses
            .retain(|id, _| ledger.replay_range(*id).is_some());
        metrics::replays(self.partition, ledger.replays_running().len());
    }
}

/// Why a replay is refused.
pub(super) const TOO_MANY: &str = "as many replays of the endpoint are under way as may be";

/// A read for a replay.
struct Reading {
    endpoint: Arc<Endpoint>,
    /// The tenant's, the home first.
    partitions: Vec<PartitionId>,
    range: ReplayRange,
    from: ReplayPosition,
}

impl Reading {
    async fn read(&self, shard: &Shard) -> Result<Vec<ReplayStep>> {
        if self.from.config_read {
            self.read_log(shard).await
        } else {
            self.read_config(shard).await
        }
    }

    async fn read_config(&self, shard: &Shard) -> Result<Vec<ReplayStep>> {
        let mut upto = self.from;
        let rows = shard
            .store
            .config_after(upto.config, CONFIG_CHANGES_PER_ROW)
            .await?;
        let (mut steps, mut budget) = (Vec::new(), Budget::of_own_run());
        for row in rows {
            // Its numbers leave nothing out. What is missing at the beginning left before the replay began.
            let gone = upto.config != ConfigSeq::ZERO && row.seq != upto.config.next();
            if gone {
                let at = row.changes.first().map(|change| change.at);
                upto.expired_before = upto.expired_before.max(at);
            }
            upto.config = row.seq;
            steps.push(self.step(shard, see_config(&row), upto, &mut budget).await?);
            if budget.is_turn_over() {
                break;
            }
        }
        if steps.is_empty() {
            upto.config_read = true;
            steps.push((None, upto));
        }
        self.with_known(shard, steps).await
    }

    async fn read_log(&self, shard: &Shard) -> Result<Vec<ReplayStep>> {
        let mut upto = self.from;
        let begin: BatchKey = (self.range.start, WriterId::from_u64(0), Seq::ZERO);
        let after = upto.log.unwrap_or(begin);
        let limit = REPLAY_BATCHES_PER_READ + 1;
        let home = self.partitions.first().copied();
        let home = home.expect("invariant: an endpoint has a home");
        let partition = upto.partition.unwrap_or(home);
        let batches = shard.store.batches_after(partition, after, limit).await?;
        let end = self.range.end.after(BATCH_SPAN_MAX);
        let keys: Vec<BatchKey> = batches.iter().map(key).collect();
        let (mut steps, mut budget) = (Vec::new(), Budget::of_own_run());
        for (at, batch) in batches.iter().take(REPLAY_BATCHES_PER_READ).enumerate() {
            let expected = upto.next.filter(|next| *next < keys[at]);
            if expected.is_some() {
                upto.expired_before = upto.expired_before.max(Some(batch.first_at.min(self.range.end)));
            }
            if batch.last_at >= end {
                break;
            }
            (upto.log, upto.next) = (Some(keys[at]), keys.get(at + 1).copied());
            let seen = see(batch, PartitionId::TEST);
            steps.push(self.step(shard, seen, upto, &mut budget).await?);
            if budget.is_turn_over() && at + 1 < batches.len() {
                return self.with_known(shard, steps).await;
            }
        }
        let all_read = steps.len() == batches.len().min(REPLAY_BATCHES_PER_READ)
            && batches.len() <= REPLAY_BATCHES_PER_READ;
        let beyond = steps.len() < batches.len().min(REPLAY_BATCHES_PER_READ);
        if all_read || beyond {
            if batches.is_empty() && upto.next.is_some() {
                upto.expired_before = upto.expired_before.max(Some(self.range.end));
            }
            match self.after(partition) {
                Some(next) => (upto.partition, upto.log, upto.next) = (Some(next), None, None),
                None => upto.log_read = true,
            }
            steps.push((None, upto));
        }
        self.with_known(shard, steps).await
    }

    /// The partition that is walked after another one. A tenant's later ones come last, so that none is left out.
    fn after(&self, partition: PartitionId) -> Option<PartitionId> {
        let mut all = self.partitions.iter().skip_while(|it| **it != partition);
        all.nth(1).copied()
    }

    /// A batch with what of it is for the endpoint.
    async fn step(
        &self,
        shard: &Shard,
        mut seen: SeenBatch,
        upto: ReplayPosition,
        budget: &mut Budget,
    ) -> Result<(Option<SeenBatch>, ReplayPosition)> {
        let (endpoint, range) = (&self.endpoint, &self.range);
        seen.events.retain(|event| {
            event.tenant == endpoint.tenant && (range.start..range.end).contains(&event.recorded_at)
        });
        let mut asking = Asking::default();
        asking.learn(endpoint);
        shard
            .filters
            .judge(&mut seen, &asking, budget)
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let verdicts = std::mem::take(&mut seen.verdicts);
        seen.events.retain(|event| verdicts.is_for(event, endpoint));
        Ok((Some(seen), upto))
    }

    /// The batches with what became of their events: each is a read of its own, so several are made at once. In order.
    async fn with_known(
        &self,
        shard: &Shard,
        steps: Vec<(Option<SeenBatch>, ReplayPosition)>,
    ) -> Result<Vec<ReplayStep>> {
        let looks: Vec<_> = steps
            .into_iter()
            .map(|(seen, upto)| async move {
                let known = self.known(shard, seen.as_ref()).await?;
                Ok(ReplayStep { seen, known, upto })
            })
            .collect();
        stream::iter(looks)
            .buffered(REPLAY_LOOKS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn known(&self, shard: &Shard, seen: Option<&SeenBatch>) -> Result<Vec<KnownDelivery>> {
        let Some(seen) = seen.filter(|seen| !seen.events.is_empty()) else {
            return Ok(Vec::new());
        };
        let stream = seen.stream;
        shard
            .store
            .deliveries_of_batch(self.endpoint.id, stream.partition, stream.writer, seen.seq)
            .await
    }
}

fn key(batch: &Batch) -> BatchKey {
    (batch.last_at, batch.writer, batch.seq)
}
