//! From a saved checkpoint: where runs stand, and what is outstanding.
//!
//! Rows that this release cannot read are reported and counted, never fatal: a partition that does not start would
//! deliver nothing at all. A chunk that is named and gone is damage of the store; its deliveries cannot be known.

use std::{collections::BTreeMap, sync::Arc};

use qrelay_store::{
    Timestamp,
    checkpoint::{BacklogReason, EndpointHealth, ReplayRow, RowKey, RowKind},
    id::{EndpointId, PartitionId, ReplayId},
    model::{Endpoint, Ordering},
};

use super::{Delivery, Ledger, Own, Phase, SavedIn, abroad::Abroad, feed::Moment};
use crate::{
    checkpoint::{RunName, RunRow},
    health,
    outstanding::{ChunkName, DoneMap, Entry},
    run::Run,
    schedule,
    usage::UsageDelta,
};

/// A chunk as it was read.
#[derive(Clone, Debug)]
pub struct LoadedChunk {
    /// Its name.
    pub name: ChunkName,
    /// What of it is done.
    pub done: DoneMap,
    /// Its entries; none when it could not be read.
    pub entries: Option<Vec<Entry>>,
}

/// All that a claim reads.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The checkpoint's rows.
    pub rows: BTreeMap<RowKey, String>,
    /// The chunks that they name.
    pub chunks: Vec<LoadedChunk>,
    /// Live endpoints homed in the partition.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// What could not be used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Damage {
    /// Rows that could not be read.
    pub rows: Vec<RowKey>,
    /// Chunks that could not be read.
    pub chunks: Vec<ChunkName>,
}

impl Ledger {
    /// A ledger that goes on from a saved checkpoint.
    pub fn load(partition: PartitionId, epoch: u64, loaded: Loaded, at: Moment) -> (Self, Damage) {
        let mut ledger = Self::new(partition, epoch);
        let mut damage = Damage::default();
        let (mut runs, mut healths) = (BTreeMap::new(), BTreeMap::new());
        let mut replays = BTreeMap::new();
        for (key, row) in loaded.rows {
            let understood = match key.kind {
                RowKind::Run => load_run(&key.id, row, &mut runs),
                RowKind::Health => ledger.load_health(&key, &row, &mut healths),
                RowKind::Usage => ledger.totals.load(&key, &row),
                RowKind::Replay => load_replay(&key.id, row, &mut replays),
                // Chunks come with their bodies.
                RowKind::Chunk => true,
            };
            if !understood {
                damage.rows.push(key);
            }
        }
        for endpoint in loaded.endpoints {
            let health = healths.remove(&endpoint.id);
            ledger.load_endpoint(endpoint, health, at);
        }
        ledger.health_changed.extend(healths.into_keys());
        ledger.load_runs(runs);
        for (id, (row, text)) in replays {
            ledger.replay_rows.insert(id, text);
            ledger.load_replay(id, row);
        }
        for chunk in loaded.chunks {
            match chunk.entries {
                Some(entries) if entries.len() >= chunk.done.open() => {
                    ledger.load_chunk(chunk.name, chunk.done, entries, at);
                }
                _ => damage.chunks.push(chunk.name),
            }
        }
        ledger.form_lanes(at);
        ledger.recount_replays();
        (ledger, damage)
    }

    fn load_health(
        &mut self,
        key: &RowKey,
        row: &str,
        healths: &mut BTreeMap<EndpointId, EndpointHealth>,
    ) -> bool {
        let (Ok(endpoint), Ok(health)) = (key.id.parse(), serde_json::from_str(row)) else {
            return false;
        };
        self.health_rows.insert(endpoint, row.to_owned());
        healths.insert(endpoint, health);
        true
    }

    fn load_endpoint(&mut self, endpoint: Arc<Endpoint>, health: Option<EndpointHealth>, at: Moment) {
        let id = endpoint.id;
        self.subscribe(Arc::clone(&endpoint));
        let Some(subscriber) = self.subscribers.get_mut(&id) else {
            return;
        };
        let Some(health) = health else {
            return;
        };
        let enabled_since = health.enabled_epoch < endpoint.enabled_epoch;
        if let Some(change) = &health.unannounced {
            self.unannounced.insert(id, change.clone());
        }
        subscriber.health = health;
        health::enable(&mut subscriber.health, &endpoint);
        if enabled_since {
            return;
        }
        // What the receiver asked for outlives a restart.
        let held = subscriber
            .health
            .backlog
            .as_ref()
            .filter(|backlog| backlog.reason == BacklogReason::Throttled && !backlog.by_limit);
        let until = held
            .and_then(|backlog| backlog.next_send_at)
            .filter(|until| *until > at.wall);
        subscriber.hold = until.map(|until| {
            let pause = schedule::capped(until.since(at.wall));
            (at.now + pause, at.wall.after(pause))
        });
    }

    fn load_runs(&mut self, runs: BTreeMap<RunName, (RunRow, String)>) {
        if let Some((row, _)) = runs.get(&RunName::Shared) {
            self.shared = Run::resume(row.cursor.clone());
            self.follows = row.follows.clone();
        }
        for (name, (row, text)) in runs {
            self.run_rows.insert(name, text);
            let RunName::Own(endpoint) = name else {
                continue;
            };
            // A row whose endpoint is gone is deleted by the next plan, because nobody has that run.
            if let Some(subscriber) = self.subscribers.get_mut(&endpoint) {
                subscriber.own = Some(Own {
                    run: Run::resume(row.cursor),
                    behind: row.behind,
                    behind_since: row.behind_since,
                    passes_over: false,
                });
                self.own.insert(endpoint);
            }
        }
    }

    fn load_chunk(&mut self, name: ChunkName, done: DoneMap, entries: Vec<Entry>, at: Moment) {
        let members = entries
            .iter()
            .map(|entry| (entry.endpoint, entry.event))
            .collect();
        let open: Vec<(u16, Entry)> = (0_u16..)
            .zip(entries)
            .filter(|(index, _)| !done.is_done(*index))
            .collect();
        self.chunks.insert(name, done, members);
        for (index, entry) in open {
            let saved = SavedIn {
                chunk: name,
                index,
                revision: 0,
                begun: entry.first_at.is_some(),
            };
            if !self.load_entry(&entry, saved, at) {
                self.chunks.settle(name, index, &UsageDelta::default());
            }
        }
    }

    /// Says whether the entry is a delivery that is still owed. It is never sent before it is due; one that was under way
    /// is due at once after a crash, and after a hand-over it still is under way.
    fn load_entry(&mut self, entry: &Entry, saved: SavedIn, at: Moment) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(&entry.endpoint) else {
            return false;
        };
        if subscriber.deliveries.contains_key(&entry.event) {
            debug_assert!(false, "two open entries of one delivery");
            return false;
        }
        let part = match entry.replay.map(|part| Self::load_part(subscriber, part)) {
            Some(None) => return false,
            Some(Some(part)) => part,
            None => None,
        };
        let due = due(&subscriber.config, entry, at.wall);
        let pause = due.since(at.wall);
        let in_order =
            !entry.abroad && subscriber.config.ordering == Ordering::PerCode && entry.code.is_some();
        if entry.abroad {
            subscriber.in_flight += 1;
            self.abroad.push(Abroad::of(entry));
        } else if in_order {
            // Its place is found once all are there.
        } else if pause.is_zero() {
            subscriber.line_up(part, entry.event);
        } else {
            subscriber.wait(part, entry.event, at.now + pause);
        }
        let delivery = Delivery {
            event_type: entry.event_type,
            recorded_at: entry.recorded_at,
            code: entry.code,
            attempts: entry.attempts,
            first_at: entry.first_at,
            due,
            phase: match (entry.abroad, in_order) {
                (true, _) => Phase::InFlight,
                (false, true) => Phase::Behind,
                (false, false) => Phase::Waiting,
            },
            revision: 0,
            saved: Some(saved),
            recalled: false,
            replay: part,
        };
        subscriber.deliveries.insert(entry.event, delivery);
        self.undone += 1;
        self.woken.insert(entry.endpoint);
        true
    }
}

/// When an entry is due by this process's clock: whoever saved it may have had another one, that was ahead. No pause is
/// longer than the schedule's; what the receiver asked for beyond that holds its endpoint, and not the delivery.
fn due(endpoint: &Endpoint, entry: &Entry, now: Timestamp) -> Timestamp {
    let pause = match entry.abroad {
        true => None,
        false => schedule::pause_after(endpoint, entry.event, entry.attempts, None),
    };
    entry.due.min(now.after(pause.unwrap_or(schedule::DUE_AHEAD_MAX)))
}

/// Says whether the row could be read. An own run whose row could not starts from the beginning of the log: that
/// repeats, and loses nothing.
fn load_run(id: &str, row: String, runs: &mut BTreeMap<RunName, (RunRow, String)>) -> bool {
    if let Ok((name, run)) = RunRow::from_row(id, &row) {
        runs.insert(name, (run, row));
        return true;
    }
    if let Ok(endpoint) = id.parse() {
        runs.insert(RunName::Own(endpoint), (RunRow::default(), row));
    }
    false
}

/// Says whether the row could be read. What a replay whose row could not be read had not sent is not sent.
fn load_replay(id: &str, row: String, replays: &mut BTreeMap<ReplayId, (ReplayRow, String)>) -> bool {
    let (Ok(id), Ok(replay)) = (id.parse(), serde_json::from_str(&row)) else {
        return false;
    };
    replays.insert(id, (replay, row));
    true
}
