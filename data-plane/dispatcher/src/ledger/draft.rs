//! A plan while it grows: what to save, until the budget is spent ([`super::plan`] says in which order and why).
//!
//! Whatever belongs together finds room together or not at all: a batch that a cursor passes with the entries of its
//! undone deliveries and its usage; a rewritten delivery with its old entry's bit; a done-map with its usage.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use qrelay_store::{
    checkpoint::ReplayPosition,
    id::{EndpointId, EventAddress, ReplayId, Seq, TenantId},
    limits::{self, ENTRIES_PER_SAVE_MAX},
};
use tokio::time::Instant;

use super::{Ledger, Own, Subscriber};
use crate::{
    checkpoint::{RunName, RunRow},
    cursor::{Cursor, Stream},
    metrics,
    outstanding::{ChunkName, ChunkSave},
    run::{Pending, Run},
    usage::{Month, UsageDelta},
};

/// What done-bits and rescheduled deliveries may take of a save, so that cursors always find room.
const BITS_BYTES_MAX: usize = limits::CHECKPOINT_BYTES_MAX / 2;
/// What a save of the rest may take: rows are estimated from above, and this is the margin for the estimate.
pub(super) const BYTES_MAX: usize = limits::CHECKPOINT_BYTES_MAX - 8 * 1024;
/// From above: key, 64 bytes of bits as base64, and the frame.
const CHUNK_ROW_BYTES: usize = 200;
/// Key, frame and nine numbers, most of them short. A full batch has fewer than 1,200 records, so that even one of as
/// many tenants fits into a save of its own.
const USAGE_ROW_BYTES: usize = 150;
/// From above: a key and what surrounds a run's cursor.
const RUN_FRAME_BYTES: usize = 160;
/// A partition that is followed.
const FOLLOWED_BYTES: usize = 16;
/// A replay's id and the frame of its row.
const REPLAY_KEY_BYTES: usize = 64;
/// What a save has for batches when the shared cursor's row is too large for it.
const OVERSIZED_ROOM: usize = 32 * 1024;
/// Sparse chunks that may stand before they are merged.
const SPARSE_TOLERATED: usize = 8;

/// A plan while it grows.
pub(super) struct Draft<'a> {
    ledger: &'a Ledger,
    limit: usize,
    spent: usize,
    entries: Vec<(EndpointId, EventAddress)>,
    taken: HashSet<(EndpointId, EventAddress)>,
    chunk_rows: BTreeMap<ChunkName, Vec<u16>>,
    usage: UsageDelta,
    usage_rows: BTreeSet<(TenantId, Month)>,
    runs: BTreeMap<RunName, Option<RunRow>>,
    shared: Cursor,
    own: BTreeMap<EndpointId, Cursor>,
    passed: bool,
    starved: bool,
    oversized: bool,
    replays: BTreeMap<ReplayId, Option<(String, ReplayPosition)>>,
    replays_behind: Vec<ReplayId>,
}

/// How far a walk may take a batch.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// The shared run's: not while deliveries are younger than this instant.
    Settled(Instant),
    /// An own run's: not while all of it only stands in line. Once something of it was sent it is passed, and the rest
    /// becomes outstanding: else a restart would repeat what was sent.
    Attempted,
}

impl Rule {
    fn blocks(self, pending: &Pending) -> bool {
        match self {
            Self::Settled(before) => pending.undone > 0 && pending.read_at > before,
            Self::Attempted => {
                pending.queued > 0 && pending.queued == pending.members.len() && pending.delivered.is_empty()
            }
        }
    }
}

/// A draft without its view of the ledger.
pub(super) struct Finished {
    pub(super) entries: Vec<(EndpointId, EventAddress)>,
    pub(super) saves: Vec<ChunkSave>,
    pub(super) usage: UsageDelta,
    pub(super) runs: BTreeMap<RunName, Option<RunRow>>,
    pub(super) shared: Cursor,
    pub(super) own: BTreeMap<EndpointId, Cursor>,
    pub(super) starved: bool,
    /// The shared cursor alone is more than a save should have.
    pub(super) oversized: bool,
    /// Rows of replays that changed; none where one is gone.
    pub(super) replays: BTreeMap<ReplayId, Option<(String, ReplayPosition)>>,
    /// Those among them that have read further than what this saves.
    pub(super) replays_behind: Vec<ReplayId>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
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
            passed: false,
            starved: false,
            oversized: false,
            replays: BTreeMap::new(),
            replays_behind: Vec::new(),
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
    pub(super) fn membership(&mut self) -> bool {
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
                if !self.spend_on_run(run_bytes(&own.run.read)) {
                    return false;
                }
                self.runs
                    .insert(name, Some(subscriber.run_row(own, &Cursor::default())));
            }
        }
        true
    }

    /// Done-bits, oldest chunks first.
    pub(super) fn bits(&mut self) {
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
    pub(super) fn rescheduled(&mut self) {
        self.limit = BITS_BYTES_MAX.max(self.spent);
        for (endpoint, event) in &self.ledger.dirty {
            if !self.rewrite(*endpoint, *event) {
                break;
            }
        }
        self.limit = BYTES_MAX;
    }

    /// Deliveries that came back: written, so that they may be sent.
    pub(super) fn recalled(&mut self) {
        self.limit = BITS_BYTES_MAX.max(self.spent);
        for delivery in &self.ledger.recalled {
            if !self.take(&[*delivery], &[], &UsageDelta::default()) {
                break;
            }
        }
        self.limit = BYTES_MAX;
    }

    /// Replays: each is as far as it has read once all that it found has an entry; until then it stays where it was.
    /// Returns where to go on next time, if not all found room.
    pub(super) fn replays(&mut self) -> Option<ReplayId> {
        let ledger = self.ledger;
        self.limit = BITS_BYTES_MAX.max(self.spent);
        let mut taken: HashMap<ReplayId, usize> = HashMap::new();
        for (endpoint, event) in &ledger.recalled {
            let subscriber = ledger.subscribers.get(endpoint);
            let delivery = subscriber.and_then(|subscriber| subscriber.deliveries.get(event));
            if let Some(part) = delivery.and_then(|delivery| delivery.replay)
                && self.taken.contains(&(*endpoint, *event))
            {
                *taken.entry(part.of).or_default() += 1;
            }
        }
        let none = ReplayId::of(EndpointId::from_bytes([0; 10]), [0; 10]);
        let (from, changed) = (ledger.replay_turn.unwrap_or(none), &ledger.replays_changed);
        let mut turn = None;
        for id in changed.range(from..).chain(changed.range(..from)) {
            let replay = ledger.replay(*id);
            let complete = replay.is_none_or(|replay| taken.get(id).copied().unwrap_or(0) == replay.unsaved);
            let row = replay.map(|replay| {
                let row = replay.row_now(complete);
                let text =
                    serde_json::to_string(&row).expect("invariant: a replay's numbers and times make JSON");
                (text, row.position)
            });
            if !self.spend(REPLAY_KEY_BYTES + row.as_ref().map_or(0, |(text, _)| text.len())) {
                turn = Some(*id);
                break;
            }
            if !complete {
                self.replays_behind.push(*id);
            }
            self.replays.insert(*id, row);
        }
        self.limit = BYTES_MAX;
        turn
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

    pub(super) fn shared_run(&mut self, rule: Rule) {
        let run = &self.ledger.shared;
        let bytes = run_bytes(&run.read) + self.ledger.follows.len() * FOLLOWED_BYTES;
        if !self.spend(bytes) {
            // Thousands of writers: a row that is never saved would stop the partition for good. So it is saved beyond
            // the budget, with a little room for what it passes.
            metrics::oversized_cursor();
            self.oversized = true;
            self.spent += bytes;
            self.limit = self.limit.max(self.spent + OVERSIZED_ROOM);
        }
        let moved = self.walk(run, None, rule);
        if !moved.is_empty() || !self.ledger.follows.is_empty() {
            let mut cursor = run.saved.clone();
            cursor.advance_all(&moved);
            let row = RunRow {
                cursor,
                follows: self.ledger.follows.clone(),
                ..RunRow::default()
            };
            self.runs.insert(RunName::Shared, Some(row));
        }
        self.shared = moved;
    }

    /// Spends on the row of an own run. Where one never fits beside the shared run's, because there are thousands of writers or
    /// a tenant has many partitions, one of them is saved beyond the budget: it would never move otherwise.
    fn spend_on_run(&mut self, bytes: usize) -> bool {
        if self.spend(bytes) {
            return true;
        }
        let fits = run_bytes(&self.ledger.shared.read) + bytes <= BYTES_MAX;
        if fits || !self.own.is_empty() || self.runs.keys().any(|name| matches!(name, RunName::Own(_))) {
            return false;
        }
        metrics::oversized_cursor();
        self.oversized = true;
        self.spent += bytes;
        self.limit = self.limit.max(self.spent + OVERSIZED_ROOM);
        true
    }

    /// Own runs, in turns. Returns where to go on next time, if not all found room.
    pub(super) fn own_runs(&mut self) -> Option<EndpointId> {
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
            if !is_new && !self.spend_on_run(run_bytes(&own.run.read)) {
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
                let blocked = rule.blocks(pending);
                if blocked || !self.pass(stream, seq, pending, rule) {
                    // A batch that found no room although it was the first is let have all of the next save.
                    self.starved |= !blocked && !self.passed;
                    target = Seq::new(seq.as_u64() - 1);
                    break;
                }
                self.passed = true;
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
            (delivery.saved.is_none() && !delivery.recalled).then_some((*endpoint, event))
        };
        let entries: Vec<_> = if pending.undone == 0 {
            Vec::new()
        } else {
            pending.members.iter().filter_map(undone).collect()
        };
        self.take(&entries, &[], &pending.all_usage())
    }

    pub(super) fn merge_sparse(&mut self) {
        let room = ENTRIES_PER_SAVE_MAX
            .saturating_sub(self.entries.len())
            .min(limits::CHUNK_DELIVERIES_MAX);
        for (endpoint, event) in self.ledger.chunks.sparse(SPARSE_TOLERATED, room) {
            if !self.rewrite(endpoint, event) {
                break;
            }
        }
    }

    pub(super) fn finish(mut self) -> Finished {
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
            starved: self.starved,
            oversized: self.oversized,
            replays: self.replays,
            replays_behind: self.replays_behind,
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
            follows: BTreeMap::new(),
        }
    }
}

/// From above: a run's row.
fn run_bytes(cursor: &Cursor) -> usize {
    RUN_FRAME_BYTES + cursor.iter().count() * 48
}
