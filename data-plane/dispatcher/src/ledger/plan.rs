//! What to save next, and what follows once it is saved.
//!
//! A plan is one [`CheckpointDelta`] with the chunks that it names, at most [`limits::CHECKPOINT_BYTES_MAX`]: what
//! does not fit waits for the next one, and the cursors move less far. In order:
//! 1. runs that endpoints left for or came back from. While such a row is missing the shared cursor stands still,
//!    because only the endpoint's own row keeps what the shared cursor passes;
//! 2. done-bits with the usage that they make final;
//! 3. rescheduled deliveries: a new entry in a new chunk, and the old entry's bit; and those that came back: an entry;
//!    replays, each at most as far as what it found has an entry;
//! 4. the shared cursor, with an entry for each undone delivery that it passes, and the usage of what it passes;
//! 5. own runs, each at most as far as the shared cursor;
//! 6. merging of sparse chunks, then health.
//!
//! The shared cursor waits for a batch as long as its deliveries are younger than `hold`: most are done by then and
//! never need an entry. An own cursor waits for a batch of which nothing was sent: that is what its run is for.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use qrelay_store::{
    checkpoint::{HealthChange, ReplayPosition, RowKey},
    id::{EndpointId, EventAddress, ReplayId},
    limits,
    store::CheckpointDelta,
};
use tokio::time::Instant;

use super::{
    Ledger, Phase, SavedIn, UnderWay,
    draft::{BYTES_MAX, Draft, Finished, Rule},
};
use crate::{
    checkpoint::RunName,
    cursor::Cursor,
    outstanding::{self, ChunkName, ChunkSave, DoneMap, Entry},
    usage::UsageDelta,
};

/// A chunk to write before the save that names it.
#[derive(Clone, Debug)]
pub struct NewChunk {
    /// Under this name.
    pub name: ChunkName,
    /// These bytes.
    pub body: Bytes,
    members: Vec<Member>,
}

/// An entry of a new chunk, as far as it is remembered until the chunk is saved.
#[derive(Clone, Copy, Debug)]
struct Member {
    endpoint: EndpointId,
    event: EventAddress,
    revision: u32,
    begun: bool,
}

/// What to save, all or nothing.
#[derive(Clone, Debug)]
pub struct Plan {
    /// To be written first.
    pub chunks: Vec<NewChunk>,
    /// To be saved.
    pub delta: CheckpointDelta,
    shared: Cursor,
    own: BTreeMap<EndpointId, Cursor>,
    saves: Vec<ChunkSave>,
    usage: UsageDelta,
    runs: BTreeMap<RunName, Option<String>>,
    health: BTreeMap<EndpointId, HealthRow>,
    replays: BTreeMap<ReplayId, Option<(String, ReplayPosition)>>,
}

/// A row of an endpoint's health, and the change in it that is to be announced.
#[derive(Clone, Debug)]
struct HealthRow {
    row: Option<String>,
    change: Option<HealthChange>,
}

impl Plan {
    /// The names of its new chunks.
    pub fn chunk_names(&self) -> Vec<ChunkName> {
        self.chunks.iter().map(|chunk| chunk.name).collect()
    }
}

impl Ledger {
    /// Plans the next save; none when there is nothing to save, or one is under way. `hold`: how long the shared
    /// cursor waits for a batch's deliveries.
    pub fn plan(&mut self, now: Instant, hold: Duration) -> Option<Plan> {
        if self.under_way.is_some() {
            return None;
        }
        let mut draft = Draft::new(self);
        let complete = draft.membership();
        let mut replay_turn = None;
        if !self.starved {
            draft.bits();
            draft.rescheduled();
            draft.recalled();
            replay_turn = draft.replays();
        }
        if complete {
            // A start of the clock closer than `hold` has nothing older.
            let before = now.checked_sub(hold).unwrap_or(now);
            draft.shared_run(Rule::Settled(before));
        }
        let own_turn = draft.own_runs();
        draft.merge_sparse();
        let draft = draft.finish();
        self.own_turn = own_turn;
        self.replay_turn = replay_turn;
        self.starved = draft.starved;
        self.seal(draft)
    }

    /// The store has the plan. Returns chunks that nothing names any more.
    pub fn commit(&mut self, plan: Plan) -> Vec<ChunkName> {
        self.totals.saved(&plan.usage);
        let unnamed = self.chunks.saved(&plan.saves);
        for chunk in plan.chunks {
            self.adopt(chunk);
        }
        self.shared.save(&plan.shared);
        for (endpoint, cursor) in &plan.own {
            if self.own.contains(endpoint) {
                self.run_of(*endpoint).save(cursor);
            }
        }
        for (name, row) in plan.runs {
            match row {
                Some(row) => self.run_rows.insert(name, row),
                None => self.run_rows.remove(&name),
            };
        }
        for (id, row) in plan.replays {
            if let Some((row, position)) = row {
                self.replay_rows.insert(id, row);
                self.replay_kept(id, position);
            } else {
                self.replay_rows.remove(&id);
            }
        }
        for (endpoint, HealthRow { row, change }) in plan.health {
            self.health_saved(endpoint, row, change);
        }
        self.settle_deferred();
        unnamed
    }

    /// The plan is not in the store and never will be. Returns its chunks, which nothing names.
    pub fn abort(&mut self, plan: &Plan) -> Vec<ChunkName> {
        self.health_changed.extend(plan.health.keys());
        self.replays_changed.extend(plan.replays.keys());
        self.settle_deferred();
        plan.chunk_names()
    }

    /// Whether a plan waits for the store's answer.
    pub fn is_saving(&self) -> bool {
        self.under_way.is_some()
    }

    fn settle_deferred(&mut self) {
        let under_way = self.under_way.take().unwrap_or_default();
        for (endpoint, event) in under_way.deferred {
            self.complete(endpoint, event);
        }
    }

    /// A new chunk's entries are saved now: they let their batches go.
    fn adopt(&mut self, chunk: NewChunk) {
        let length = u16::try_from(chunk.members.len()).expect("invariant: a chunk has at most 512 entries");
        let members = chunk.members.iter().map(|member| (member.endpoint, member.event));
        self.chunks
            .insert(chunk.name, DoneMap::new(length), members.collect());
        for (index, member) in (0_u16..).zip(chunk.members) {
            let Member { endpoint, event, .. } = member;
            let subscriber = self.subscribers.get_mut(&endpoint);
            let Some(delivery) = subscriber.and_then(|subscriber| subscriber.deliveries.get_mut(&event))
            else {
                debug_assert!(false, "a delivery vanished while it was being saved");
                continue;
            };
            let queued = delivery.queued();
            let before = delivery.saved.replace(SavedIn {
                chunk: chunk.name,
                index,
                revision: member.revision,
                begun: member.begun,
            });
            if delivery.revision == member.revision {
                self.dirty.remove(&(endpoint, event));
            } else {
                self.dirty.insert((endpoint, event));
            }
            if std::mem::take(&mut delivery.recalled) {
                let (part, dropped) = (delivery.replay, delivery.phase != Phase::Waiting);
                self.recalled.remove(&(endpoint, event));
                if let Some(subscriber) = self.subscribers.get_mut(&endpoint) {
                    subscriber.replay_saved(part);
                    if !dropped {
                        subscriber.line_up(part, event);
                    }
                }
                self.woken.insert(endpoint);
            } else if before.is_none() {
                self.uncount_unsaved(endpoint);
                if let Some(pending) = self.run_of(endpoint).pending_of(event) {
                    pending.detach(queued);
                }
            }
        }
    }

    /// Makes a plan of a draft, and notes that it is under way.
    fn seal(&mut self, draft: Finished) -> Option<Plan> {
        let chunks = self.new_chunks(&draft.entries);
        let mut delta = CheckpointDelta::default();
        for chunk in &chunks {
            let length =
                u16::try_from(chunk.members.len()).expect("invariant: a chunk has at most 512 entries");
            delta.rows.insert(
                outstanding::row_key(chunk.name),
                Some(DoneMap::new(length).to_row()),
            );
        }
        delta
            .rows
            .extend(draft.saves.iter().map(|save| (save.key(), save.row.clone())));
        let usage = self.totals.rows(&draft.usage);
        delta
            .rows
            .extend(usage.into_iter().map(|(key, row)| (key, Some(row))));
        let runs: BTreeMap<RunName, Option<String>> = draft
            .runs
            .into_iter()
            .map(|(name, row)| (name, row.map(|row| row.to_row())))
            .filter(|(name, row)| self.run_rows.get(name) != row.as_ref())
            .collect();
        delta
            .rows
            .extend(runs.iter().map(|(name, row)| (name.key(), row.clone())));
        for id in draft.replays.keys() {
            self.replays_changed.remove(id);
        }
        self.replays_changed.extend(&draft.replays_behind);
        delta.rows.extend(
            draft
                .replays
                .iter()
                .map(|(id, row)| (RowKey::replay(*id), row.as_ref().map(|(row, _)| row.clone()))),
        );
        let health = self.health_rows(BYTES_MAX.saturating_sub(delta.bytes()));
        delta.rows.extend(
            health
                .iter()
                .map(|(endpoint, health)| (RowKey::health(*endpoint), health.row.clone())),
        );
        debug_assert!(
            draft.oversized || delta.bytes() <= limits::CHECKPOINT_BYTES_MAX,
            "{} bytes",
            delta.bytes()
        );
        if delta.rows.is_empty() {
            return None;
        }
        let members = chunks.iter().flat_map(|chunk| chunk.members.iter());
        self.under_way = Some(UnderWay {
            members: members.map(|member| (member.endpoint, member.event)).collect(),
            deferred: Vec::new(),
        });
        Some(Plan {
            chunks,
            delta,
            shared: draft.shared,
            own: draft.own,
            saves: draft.saves,
            usage: draft.usage,
            runs,
            health,
            replays: draft.replays,
        })
    }

    fn new_chunks(&mut self, entries: &[(EndpointId, EventAddress)]) -> Vec<NewChunk> {
        let mut chunks = Vec::new();
        for members in entries.chunks(limits::CHUNK_DELIVERIES_MAX) {
            self.next_chunk += 1;
            let name = ChunkName {
                epoch: self.epoch,
                number: self.next_chunk,
            };
            let (entries, members): (Vec<Entry>, Vec<_>) = members
                .iter()
                .filter_map(|(endpoint, event)| self.entry(*endpoint, *event))
                .unzip();
            chunks.push(NewChunk {
                name,
                body: Bytes::from(outstanding::encode(&entries)),
                members,
            });
        }
        chunks
    }

    fn entry(&self, endpoint: EndpointId, event: EventAddress) -> Option<(Entry, Member)> {
        let delivery = self.subscribers.get(&endpoint)?.deliveries.get(&event)?;
        let under_way = matches!(delivery.phase, Phase::InFlight | Phase::Recording(_));
        let leaving = self.leaving.filter(|_| under_way);
        let entry = Entry {
            endpoint,
            event,
            event_type: delivery.event_type,
            recorded_at: delivery.recorded_at,
            attempts: delivery.attempts,
            first_at: delivery.first_at,
            due: leaving.unwrap_or(delivery.due),
            code: delivery.code,
            replay: delivery.replay,
            // A replay counts its own attempts: its deliveries just wait.
            abroad: leaving.is_some() && delivery.replay.is_none(),
        };
        let member = Member {
            endpoint,
            event,
            revision: delivery.revision,
            begun: delivery.first_at.is_some(),
        };
        Some((entry, member))
    }

    /// Health rows that differ from what is saved, as many as fit.
    fn health_rows(&mut self, budget: usize) -> BTreeMap<EndpointId, HealthRow> {
        let (mut rows, mut spent) = (BTreeMap::new(), 0);
        while let Some(endpoint) = self.health_changed.pop_first() {
            let health = self.subscriber(endpoint).map(|subscriber| &subscriber.health);
            let row =
                health.map(|health| serde_json::to_string(health).expect("invariant: health makes JSON"));
            let change = health.and_then(|health| health.unannounced.clone());
            if self.health_rows.get(&endpoint) == row.as_ref() {
                continue;
            }
            spent += 40 + row.as_ref().map_or(0, String::len);
            if spent > budget {
                self.health_changed.insert(endpoint);
                break;
            }
            rows.insert(endpoint, HealthRow { row, change });
        }
        rows
    }
}
