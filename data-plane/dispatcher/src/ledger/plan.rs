//! What to save next, and what follows once it is saved.
//!
//! A plan is one [`CheckpointDelta`] with the chunks that it names, at most [`limits::CHECKPOINT_BYTES_MAX`]: what
//! does not fit waits for the next one, and the cursors move less far. In order:
//! 1. runs that endpoints left for or came back from. While such a row is missing the shared cursor stands still,
//!    because only the endpoint's own row keeps what the shared cursor passes;
//! 2. done-bits with the usage that they make final;
//! 3. rescheduled deliveries: a new entry in a new chunk, and the old entry's bit;
//! 4. the shared cursor, with an entry for each undone delivery that it passes, and the usage of what it passes;
//! 5. own runs, each at most as far as the shared cursor;
//! 6. merging of sparse chunks, then health.
//!
//! The shared cursor waits for a batch as long as its deliveries are younger than `hold`: most are done by then and
//! never need an entry. An own cursor waits for whatever only stands in line: that is what its run is for.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use bytes::Bytes;
use qrelay_store::{
    checkpoint::RowKey,
    id::{EndpointId, EventAddress, Seq},
    limits,
    store::CheckpointDelta,
};
use tokio::time::Instant;

use super::{Ledger, Own, SavedIn, Subscriber, UnderWay};
use crate::{
    checkpoint::{RunName, RunRow},
    cursor::{Cursor, Stream},
    outstanding::{self, ChunkName, ChunkSave, DoneMap, Entry},
    run::{Pending, Run},
    usage::UsageDelta,
};

/// New entries in one save: sixteen chunks of some 40 KiB, which SQLite writes in a few milliseconds.
const ENTRIES_PER_SAVE_MAX: usize = 16 * limits::CHUNK_DELIVERIES_MAX;
/// What done-bits and rescheduled deliveries may take of a save, so that cursors always find room.
const BITS_BYTES_MAX: usize = limits::CHECKPOINT_BYTES_MAX / 2;
/// What a save of the rest may take: rows are estimated from above, and this is the margin for the estimate.
const BYTES_MAX: usize = limits::CHECKPOINT_BYTES_MAX - 8 * 1024;
/// From above: key, 64 bytes of bits as base64, and the frame.
const CHUNK_ROW_BYTES: usize = 200;
/// From above: key, and nine numbers with their frame.
const USAGE_ROW_BYTES: usize = 360;
/// From above: a key and what surrounds a run's cursor.
const RUN_FRAME_BYTES: usize = 160;
/// Sparse chunks that may stand before they are merged.
const SPARSE_TOLERATED: usize = 8;

/// A chunk to write before the save that names it.
#[derive(Clone, Debug)]
pub struct NewChunk {
    /// Under this name.
    pub name: ChunkName,
    /// These bytes.
    pub body: Bytes,
    members: Vec<(EndpointId, EventAddress, u32)>,
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
    health: BTreeMap<EndpointId, Option<String>>,
}

impl Plan {
    /// The names of its new chunks.
    pub fn chunk_names(&self) -> Vec<ChunkName> {
        self.chunks.iter().map(|chunk| chunk.name).collect()
    }
}

/// A plan while it grows.
struct Draft<'a> {
    ledger: &'a Ledger,
    limit: usize,
    spent: usize,
    entries: Vec<(EndpointId, EventAddress)>,
    taken: HashSet<(EndpointId, EventAddress)>,
    chunk_rows: BTreeMap<ChunkName, Vec<u16>>,
    usage: UsageDelta,
    usage_rows: BTreeSet<(qrelay_store::id::TenantId, crate::usage::Month)>,
    runs: BTreeMap<RunName, Option<RunRow>>,
    shared: Cursor,
    own: BTreeMap<EndpointId, Cursor>,
}

/// How far a walk may take a batch.
#[derive(Clone, Copy)]
enum Rule {
    /// The shared run's: not while deliveries are younger than this instant.
    Settled(Instant),
    /// An own run's: not while something only stands in line.
    Attempted,
}

impl Rule {
    fn blocks(self, pending: &Pending) -> bool {
        match self {
            Self::Settled(before) => pending.undone > 0 && pending.read_at > before,
            Self::Attempted => pending.queued > 0,
        }
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
        draft.bits();
        draft.rescheduled();
        if complete {
            // A start of the clock closer than `hold` has nothing older.
            let before = now.checked_sub(hold).unwrap_or(now);
            draft.shared_run(Rule::Settled(before));
        }
        let own_turn = draft.own_runs();
        draft.merge_sparse();
        let draft = draft.finish();
        self.own_turn = own_turn;
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
        for (endpoint, row) in plan.health {
            match row {
                Some(row) => self.health_rows.insert(endpoint, row),
                None => self.health_rows.remove(&endpoint),
            };
        }
        self.settle_deferred();
        unnamed
    }

    /// The plan is not in the store and never will be. Returns its chunks, which nothing names.
    pub fn abort(&mut self, plan: &Plan) -> Vec<ChunkName> {
        self.health_changed.extend(plan.health.keys());
        self.settle_deferred();
        plan.chunk_names()
    }

    /// Whether a plan waits for the store's answer.
    pub fn is_saving(&self) -> bool {
        self.under_way.is_some()
    }

    fn own_run(&self, endpoint: EndpointId) -> Option<(&Subscriber, &Own)> {
        let subscriber = self.subscribers.get(&endpoint)?;
        Some((subscriber, subscriber.own.as_ref()?))
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
        let members = chunk
            .members
            .iter()
            .map(|(endpoint, event, _)| (*endpoint, *event));
        self.chunks
            .insert(chunk.name, DoneMap::new(length), members.collect());
        for (index, (endpoint, event, revision)) in (0_u16..).zip(chunk.members) {
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
                revision,
            });
            if delivery.revision == revision {
                self.dirty.remove(&(endpoint, event));
            } else {
                self.dirty.insert((endpoint, event));
            }
            if before.is_none() {
                self.unsaved -= 1;
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
        let health = self.health_rows(BYTES_MAX.saturating_sub(delta.bytes()));
        delta.rows.extend(
            health
                .iter()
                .map(|(endpoint, row)| (RowKey::health(*endpoint), row.clone())),
        );
        debug_assert!(
            delta.bytes() <= limits::CHECKPOINT_BYTES_MAX,
            "{} bytes",
            delta.bytes()
        );
        if delta.rows.is_empty() {
            return None;
        }
        let members = chunks.iter().flat_map(|chunk| chunk.members.iter());
        self.under_way = Some(UnderWay {
            members: members.map(|(endpoint, event, _)| (*endpoint, *event)).collect(),
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

    fn entry(
        &self,
        endpoint: EndpointId,
        event: EventAddress,
    ) -> Option<(Entry, (EndpointId, EventAddress, u32))> {
        let delivery = self.subscribers.get(&endpoint)?.deliveries.get(&event)?;
        let entry = Entry {
            endpoint,
            event,
            event_type: delivery.event_type,
            recorded_at: delivery.recorded_at,
            attempts: delivery.attempts,
            first_at: delivery.first_at,
            due: delivery.due,
        };
        Some((entry, (endpoint, event, delivery.revision)))
    }

    /// Health rows that differ from what is saved, as many as fit.
    fn health_rows(&mut self, budget: usize) -> BTreeMap<EndpointId, Option<String>> {
        let (mut rows, mut spent) = (BTreeMap::new(), 0);
        while let Some(endpoint) = self.health_changed.pop_first() {
            let row = self.subscriber(endpoint).map(|subscriber| {
                serde_json::to_string(&subscriber.health).expect("invariant: health makes JSON")
            });
            if self.health_rows.get(&endpoint) == row.as_ref() {
                continue;
            }
            spent += 40 + row.as_ref().map_or(0, String::len);
            if spent > budget {
                self.health_changed.insert(endpoint);
                break;
            }
            rows.insert(endpoint, row);
        }
        rows
    }
}

/// A draft without its view of the ledger.
struct Finished {
    entries: Vec<(EndpointId, EventAddress)>,
    saves: Vec<ChunkSave>,
    usage: UsageDelta,
    runs: BTreeMap<RunName, Option<RunRow>>,
    shared: Cursor,
    own: BTreeMap<EndpointId, Cursor>,
}

impl<'a> Draft<'a> {
    fn new(ledger: &'a Ledger) -> Self {
        Self {
            ledger,
            limit: BYTES_MAX,
            spent: 0,
            entries: Vec::new(),
            taken: HashSet::new(),
            chunk_rows: BTreeMap::new(),
            usage: UsageDelta::default(),
            usage_rows: BTreeSet::new(),
            runs: BTreeMap::new(),
            shared: Cursor::default(),
            own: BTreeMap::new(),
        }
    }

    /// Spends on something; says whether it fits.
    fn spend(&mut self, bytes: usize) -> bool {
        let fits = self.spent + bytes <= self.limit;
        if fits {
            self.spent += bytes;
        }
        fits
    }

    /// Takes entries, bits and usage together, or none of them.
    fn take(
        &mut self,
        entries: &[(EndpointId, EventAddress)],
        bits: &[(ChunkName, u16)],
        usage: &UsageDelta,
    ) -> bool {
        let size = limits::CHUNK_DELIVERIES_MAX;
        let (had, has) = (self.entries.len(), self.entries.len() + entries.len());
        if has > ENTRIES_PER_SAVE_MAX && had > 0 {
            return false;
        }
        let new_chunks = has.div_ceil(size) - had.div_ceil(size);
        let touched: BTreeSet<_> = bits.iter().map(|(name, _)| *name).collect();
        let new_rows = touched
            .iter()
            .filter(|name| !self.chunk_rows.contains_key(name))
            .count();
        let new_usage = usage.keys().filter(|key| !self.usage_rows.contains(key)).count();
        if !self.spend((new_chunks + new_rows) * CHUNK_ROW_BYTES + new_usage * USAGE_ROW_BYTES) {
            return false;
        }
        self.entries.extend_from_slice(entries);
        self.taken.extend(entries);
        for (name, index) in bits {
            self.chunk_rows.entry(*name).or_default().push(*index);
        }
        self.usage.add(usage);
        self.usage_rows.extend(usage.keys());
        true
    }

    /// Rows of runs that came and went. Says whether all found room.
    fn membership(&mut self) -> bool {
        let ledger = self.ledger;
        for name in ledger.run_rows.keys() {
            if let RunName::Own(endpoint) = name
                && !ledger.own.contains(endpoint)
            {
                if !self.spend(RUN_FRAME_BYTES) {
                    return false;
                }
                self.runs.insert(*name, None);
            }
        }
        for endpoint in &ledger.own {
            let name = RunName::Own(*endpoint);
            let Some((subscriber, own)) = ledger.own_run(*endpoint) else {
                continue;
            };
            if !ledger.run_rows.contains_key(&name) {
                if !self.spend(run_bytes(&own.run.read)) {
                    return false;
                }
                self.runs
                    .insert(name, Some(subscriber.run_row(own, &Cursor::default())));
            }
        }
        true
    }

    /// Done-bits, oldest chunks first.
    fn bits(&mut self) {
        self.limit = BITS_BYTES_MAX.max(self.spent);
        for name in self.ledger.chunks.changed() {
            let Some(save) = self.ledger.chunks.save(name, Vec::new()) else {
                continue;
            };
            if !self.take_bits(name, &save.usage) {
                break;
            }
        }
        self.limit = BYTES_MAX;
    }

    fn take_bits(&mut self, name: ChunkName, usage: &UsageDelta) -> bool {
        let new_usage = usage.keys().filter(|key| !self.usage_rows.contains(key)).count();
        if !self.spend(CHUNK_ROW_BYTES + new_usage * USAGE_ROW_BYTES) {
            return false;
        }
        self.chunk_rows.entry(name).or_default();
        self.usage_rows.extend(usage.keys());
        true
    }

    /// Saved deliveries that changed: written anew.
    fn rescheduled(&mut self) {
        self.limit = BITS_BYTES_MAX.max(self.spent);
        for (endpoint, event) in &self.ledger.dirty {
            if !self.rewrite(*endpoint, *event) {
                break;
            }
        }
        self.limit = BYTES_MAX;
    }

    /// Writes a saved delivery anew. Says whether it found room.
    fn rewrite(&mut self, endpoint: EndpointId, event: EventAddress) -> bool {
        if self.taken.contains(&(endpoint, event)) {
            return true;
        }
        let subscriber = self.ledger.subscribers.get(&endpoint);
        let delivery = subscriber.and_then(|subscriber| subscriber.deliveries.get(&event));
        let Some(saved) = delivery.and_then(|delivery| delivery.saved) else {
            return true;
        };
        // The superseded chunk's row is saved with its bits and the usage that waits with them.
        if !self.chunk_rows.contains_key(&saved.chunk) {
            let usage = self
                .ledger
                .chunks
                .save(saved.chunk, Vec::new())
                .map(|save| save.usage);
            if !self.take_bits(saved.chunk, &usage.unwrap_or_default()) {
                return false;
            }
        }
        self.take(
            &[(endpoint, event)],
            &[(saved.chunk, saved.index)],
            &UsageDelta::default(),
        )
    }

    fn shared_run(&mut self, rule: Rule) {
        let run = &self.ledger.shared;
        if !self.spend(run_bytes(&run.read)) {
            return;
        }
        let moved = self.walk(run, None, rule);
        if !moved.is_empty() {
            let mut cursor = run.saved.clone();
            cursor.advance_all(&moved);
            let row = RunRow {
                cursor,
                ..RunRow::default()
            };
            self.runs.insert(RunName::Shared, Some(row));
        }
        self.shared = moved;
    }

    /// Own runs, in turns. Returns where to go on next time, if not all found room.
    fn own_runs(&mut self) -> Option<EndpointId> {
        let ledger = self.ledger;
        let mut level = ledger.shared.saved.clone();
        level.advance_all(&self.shared);
        let from = ledger.own_turn.unwrap_or(EndpointId::from_bytes([0; 10]));
        let order = ledger.own.range(from..).chain(ledger.own.range(..from));
        for endpoint in order {
            let Some((subscriber, own)) = ledger.own_run(*endpoint) else {
                continue;
            };
            let name = RunName::Own(*endpoint);
            let is_new = !ledger.run_rows.contains_key(&name);
            if is_new && !self.runs.contains_key(&name) {
                // Its row found no room: the endpoint stays where the store has it, in the shared run.
                continue;
            }
            let spent = self.spent;
            if !is_new && !self.spend(run_bytes(&own.run.read)) {
                return Some(*endpoint);
            }
            let moved = self.walk(&own.run, Some(&level), Rule::Attempted);
            let row = subscriber.run_row(own, &moved);
            if ledger.run_rows.get(&name) == Some(&row.to_row()) {
                self.spent = spent;
                continue;
            }
            self.runs.insert(name, Some(row));
            self.own.insert(*endpoint, moved);
        }
        None
    }

    /// How far a run's cursor can move, taking along what it passes.
    fn walk(&mut self, run: &Run, cap: Option<&Cursor>, rule: Rule) -> Cursor {
        let mut moved = Cursor::default();
        for (stream, read) in run.read.iter() {
            let limit = cap.map_or(read, |cap| read.min(cap.at(stream)));
            let mut target = limit;
            for (seq, pending) in run.pending_through(stream, limit) {
                if rule.blocks(pending) || !self.pass(stream, seq, pending, rule) {
                    target = Seq::new(seq.as_u64() - 1);
                    break;
                }
            }
            if target > run.saved.at(stream) {
                moved.advance(stream, target);
            }
        }
        moved
    }

    /// Passes a batch: what is undone in it becomes outstanding in this very save.
    ///
    /// This is the line that promise 3 hangs on: leave `entries` empty here, and a crash loses what was undone (the
    /// crash ledger must then fail).
    fn pass(&mut self, stream: Stream, seq: Seq, pending: &Pending, rule: Rule) -> bool {
        let undone = |(endpoint, index): &(EndpointId, u16)| {
            // The shared run still names the deliveries of endpoints that left it; they are for their own runs.
            if matches!(rule, Rule::Settled(_)) && self.ledger.own.contains(endpoint) {
                return None;
            }
            let event = stream.address(seq, *index);
            let delivery = self.ledger.subscribers.get(endpoint)?.deliveries.get(&event)?;
            delivery.saved.is_none().then_some((*endpoint, event))
        };
        let entries: Vec<_> = if pending.undone == 0 {
            Vec::new()
        } else {
            pending.members.iter().filter_map(undone).collect()
        };
        self.take(&entries, &[], &pending.all_usage())
    }

    fn merge_sparse(&mut self) {
        let room = ENTRIES_PER_SAVE_MAX
            .saturating_sub(self.entries.len())
            .min(limits::CHUNK_DELIVERIES_MAX);
        for (endpoint, event) in self.ledger.chunks.sparse(SPARSE_TOLERATED, room) {
            if !self.rewrite(endpoint, event) {
                break;
            }
        }
    }

    fn finish(mut self) -> Finished {
        let chunks = &self.ledger.chunks;
        let saves: Vec<ChunkSave> = self
            .chunk_rows
            .into_iter()
            .filter_map(|(name, bits)| chunks.save(name, bits))
            .collect();
        saves.iter().for_each(|save| self.usage.add(&save.usage));
        Finished {
            entries: self.entries,
            saves,
            usage: self.usage,
            runs: self.runs,
            shared: self.shared,
            own: self.own,
        }
    }
}

impl Subscriber {
    /// The row of its own run, once the cursor moved. What stands in line is read again after a restart, so it counts
    /// as behind.
    fn run_row(&self, own: &Own, moved: &Cursor) -> RunRow {
        let mut cursor = own.run.saved.clone();
        cursor.advance_all(moved);
        let ahead = own
            .run
            .pending()
            .filter(|(stream, seq, _)| *seq > cursor.at(*stream));
        let unsaved: usize = ahead.map(|(_, _, pending)| pending.undone).sum();
        let waiting_since = self.health.backlog.as_ref().and_then(|backlog| backlog.oldest_at);
        RunRow {
            behind: own
                .behind
                .saturating_add(u64::try_from(unsaved).unwrap_or(u64::MAX)),
            behind_since: waiting_since.or(own.behind_since),
            cursor,
        }
    }
}

/// From above: a run's row.
fn run_bytes(cursor: &Cursor) -> usize {
    RUN_FRAME_BYTES + cursor.iter().count() * 48
}
