//! What the simulation knows beside the store: what was promised to whom, and what came. Judges every save by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use qrelay_store::{
    checkpoint::{RowKind, UsageCounts},
    id::{EndpointId, EventAddress, PartitionId, Seq, TenantId, WriterId},
    limits::GAP_AFTER,
    model::{Endpoint, Ordering},
    reader::Item,
    store::{Batch, DeliveryStatus, Heads},
};

use super::{
    holders::Holders,
    requests::Sent,
    sim::{Millis, Who},
    tables::{Key, Tables},
};
use crate::{
    checkpoint::{RunName, RunRow},
    cursor::{Cursor, Stream},
    outstanding::{self, DoneMap, Entry},
};

/// An event that a writer took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    tenant: TenantId,
    order: u64,
    pub(super) is_acknowledged: bool,
}

/// An endpoint whose creation was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Created {
    tenant: TenantId,
    pub(super) home: PartitionId,
    order: u64,
    pub(super) in_order: bool,
    pub(super) concurrency: usize,
    /// Requests that a second may have.
    pub(super) a_second: Option<usize>,
}

/// Of what event is outstanding for which endpoint, and whether somebody else finishes it.
pub(super) type Outstanding = (EndpointId, EventAddress, bool);

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Book {
    /// Counts what happens, so that before and after can be told.
    order: u64,
    /// When it happens.
    pub(super) now: Millis,
    pub(super) taken: BTreeMap<EventAddress, Taken>,
    pub(super) endpoints: BTreeMap<EndpointId, Created>,
    pub(super) holders: Holders,
    /// Requests under way, by number, and when the last ones began.
    pub(super) under_way: BTreeMap<u64, Sent>,
    pub(super) begun_at: BTreeMap<EndpointId, Vec<Millis>>,
    /// Which bodies came, by endpoint and event, and how often.
    pub(super) received: BTreeMap<(EndpointId, EventAddress), (u64, usize)>,
    /// Batches that the store has lost, and since when.
    pub(super) lost: BTreeMap<Key, Millis>,
    /// What readers brought, and how far they are.
    read: BTreeSet<EventAddress>,
    pub(super) positions: BTreeMap<PartitionId, BTreeMap<WriterId, Seq>>,
    /// Writers without a journal, and who they are.
    writers: BTreeMap<WriterId, Who>,
    /// Where closed writers ended.
    finals: BTreeMap<WriterId, Heads>,
    /// Up to where all that was passed is recorded, and need not be judged again.
    judged: BTreeMap<EndpointId, Cursor>,
    /// Up to where a checkpoint's usage was counted here, and how many scans that are.
    counted: Cursor,
    /// What chunks hold, which never changes.
    chunks: BTreeMap<(PartitionId, String), Arc<Vec<Entry>>>,
    passed: u64,
    /// What must not have happened.
    pub(super) violations: Vec<String>,
    pub(super) counts: Counts,
}

/// How often what happened that a seed is there for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) acknowledged: usize,
    pub(super) crashes: usize,
    pub(super) freezes: usize,
    pub(super) cuts: usize,
    pub(super) claims: usize,
    pub(super) taken_over: usize,
    pub(super) released: usize,
    pub(super) gaps: usize,
    pub(super) journaled: usize,
    pub(super) saves: usize,
    pub(super) lost_saves: usize,
    pub(super) repeated: usize,
    pub(super) chunks: usize,
    pub(super) own_runs: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.crashes += other.crashes;
        self.freezes += other.freezes;
        self.cuts += other.cuts;
        self.claims += other.claims;
        self.taken_over += other.taken_over;
        self.released += other.released;
        self.gaps += other.gaps;
        self.journaled += other.journaled;
        self.saves += other.saves;
        self.lost_saves += other.lost_saves;
        self.repeated += other.repeated;
        self.chunks += other.chunks;
        self.own_runs += other.own_runs;
    }
}

impl Book {
    pub(super) fn next(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    pub(super) fn violated(&mut self, rule: impl Into<String>) {
        self.violations.push(rule.into());
    }

    /// A writer took an event.
    pub(super) fn took(&mut self, event: EventAddress, tenant: TenantId) {
        let taken = Taken {
            tenant,
            order: self.next(),
            is_acknowledged: false,
        };
        if self.taken.insert(event, taken).is_some() {
            self.violated(format!("two events have the address {event:?}"));
        }
    }

    /// Its scan was answered.
    pub(super) fn acknowledged(&mut self, event: EventAddress) {
        if let Some(taken) = self.taken.get_mut(&event) {
            taken.is_acknowledged = true;
            self.counts.acknowledged += 1;
        }
    }

    /// An endpoint's creation was answered.
    pub(super) fn created(&mut self, endpoint: &Endpoint) {
        let most = |limit: qrelay_store::model::RateLimit| {
            // Limits of the simulation are whole numbers.
            let per_second = format!("{:.0}", limit.per_second)
                .parse::<usize>()
                .expect("small");
            per_second + usize::try_from(limit.burst).expect("small")
        };
        let created = Created {
            tenant: endpoint.tenant,
            home: endpoint.home,
            order: self.next(),
            in_order: endpoint.ordering == Ordering::PerCode,
            concurrency: usize::try_from(endpoint.max_concurrency).expect("small"),
            a_second: endpoint.rate_limit.map(most),
        };
        self.endpoints.insert(endpoint.id, created);
    }

    /// A process without a journal became a writer.
    pub(super) fn began(&mut self, who: Who, writer: WriterId) {
        self.writers.insert(writer, who);
    }

    /// Writers of processes that `is_dead`, which nobody closed.
    pub(super) fn dead_writers(&self, is_dead: impl Fn(Who) -> bool) -> Vec<WriterId> {
        let open = self
            .writers
            .iter()
            .filter(|(writer, _)| !self.finals.contains_key(writer));
        open.filter(|(_, who)| is_dead(**who))
            .map(|(writer, _)| *writer)
            .collect()
    }

    /// A writer publishes heads: all up to them is there.
    pub(super) fn published(&mut self, tables: &Tables, writer: WriterId, heads: &Heads) {
        for (partition, head) in heads {
            let before = tables.head(writer, *partition);
            if *head > before && tables.end(*partition, writer, before) < *head {
                self.violated(format!(
                    "a head of writer {writer} is {head}, and not all up to it is there"
                ));
            }
        }
    }

    /// A writer was closed by who may.
    pub(super) fn closed(&mut self, writer: WriterId, last: Heads) {
        self.finals.entry(writer).or_insert(last);
    }

    pub(super) fn closed_writers(&self) -> impl Iterator<Item = (WriterId, &Heads)> {
        self.finals.iter().map(|(writer, last)| (*writer, last))
    }

    // ---- What readers bring ----

    pub(super) fn brought(&mut self, partition: PartitionId, items: &[Item]) {
        for item in items {
            match item {
                Item::Batch(batch) => self.brought_batch(partition, batch),
                Item::Gap {
                    writer,
                    from,
                    through,
                } => self.brought_gap(partition, *writer, (*from, *through)),
            }
        }
    }

    /// What the store has lost is given up, after it was looked for; nothing else is.
    fn brought_gap(&mut self, partition: PartitionId, writer: WriterId, (from, through): (Seq, Seq)) {
        self.counts.gaps += 1;
        let patience = Millis::try_from(GAP_AFTER.as_millis()).expect("minutes");
        let mut seq = from;
        while seq <= through {
            let lost = self.lost.get(&(partition, writer, seq)).copied();
            if lost.is_none_or(|lost| self.now < lost + patience) {
                self.violated(format!(
                    "batch {seq} of writer {writer} was given up as missing, which was lost at {lost:?}"
                ));
            }
            seq = seq.next();
        }
        let at = self.positions.entry(partition).or_default();
        at.insert(writer, through);
    }

    fn brought_batch(&mut self, partition: PartitionId, batch: &Batch) {
        let at = self.positions.entry(partition).or_default();
        let position = at.entry(batch.writer).or_default();
        let expected = position.next();
        *position = batch.seq;
        if batch.seq != expected {
            self.violated(format!(
                "{} of writer {} came after {expected}",
                batch.seq, batch.writer
            ));
        }
        for index in 0..batch.count {
            let event = Stream {
                partition,
                writer: batch.writer,
            }
            .address(batch.seq, index);
            self.is_one(event);
            self.read.insert(event);
        }
    }

    pub(super) fn is_one(&mut self, event: EventAddress) {
        if !self.taken.contains_key(&event) {
            self.violated(format!("{event:?} came and was never appended"));
        }
    }

    /// Answered events that no reader brought.
    pub(super) fn unread(&self) -> Vec<EventAddress> {
        let answered = self.taken.iter().filter(|(_, taken)| taken.is_acknowledged);
        answered
            .map(|(event, _)| *event)
            .filter(|event| !self.read.contains(event))
            .filter(|event| {
                let batch = (event.partition, event.writer, event.seq);
                !self.lost.contains_key(&batch)
            })
            .collect()
    }

    /// No event that was never appended, or past the end of a closed writer, came since.
    pub(super) fn came(&self, event: EventAddress) -> bool {
        self.read.contains(&event) || self.received.keys().any(|(_, came)| *came == event)
    }

    // ---- Saves ----

    /// A save was applied: who sent it has the lease, and no cursor has passed what is neither recorded nor outstanding.
    pub(super) fn saved(&mut self, tables: &Tables, partition: PartitionId, who: Who) {
        self.counts.saves += 1;
        self.moved(partition, who);
        let outstanding: BTreeSet<_> = self
            .outstanding(tables, partition)
            .into_iter()
            .map(|(endpoint, event, _)| (endpoint, event))
            .collect();
        self.counts.chunks += usize::from(!outstanding.is_empty());
        let (mut shared, mut own) = (Cursor::default(), BTreeMap::new());
        for (key, row) in tables
            .checkpoint(partition)
            .filter(|(key, _)| key.kind == RowKind::Run)
        {
            match RunRow::from_row(&key.id, row) {
                Ok((RunName::Shared, run)) => shared = run.cursor,
                Ok((RunName::Own(endpoint), run)) => drop(own.insert(endpoint, run.cursor)),
                Err(error) => self.violated(error.to_string()),
            }
        }
        self.counts.own_runs += usize::from(!own.is_empty());
        self.judge_usage(tables, partition, &shared);
        let homed: Vec<_> = self
            .endpoints
            .iter()
            .filter(|(_, created)| created.home == partition)
            .map(|(endpoint, created)| (*endpoint, *created))
            .collect();
        for (endpoint, created) in homed {
            let passed = own.get(&endpoint).unwrap_or(&shared);
            if !passed.is_within(&shared) {
                self.violated("an own cursor is past the shared one");
            }
            self.judge(tables, endpoint, created, passed, &outstanding);
        }
    }

    fn chunk(&mut self, tables: &Tables, name: &(PartitionId, String)) -> Option<Arc<Vec<Entry>>> {
        let body = tables.chunks.get(name)?;
        if let Some(known) = self.chunks.get(name) {
            return Some(Arc::clone(known));
        }
        let entries = Arc::new(outstanding::decode(body).ok()?);
        self.chunks.insert(name.clone(), Arc::clone(&entries));
        Some(entries)
    }

    /// What a checkpoint has outstanding.
    pub(super) fn outstanding(&mut self, tables: &Tables, partition: PartitionId) -> Vec<Outstanding> {
        let mut outstanding = Vec::new();
        for (key, row) in tables
            .checkpoint(partition)
            .filter(|(key, _)| key.kind == RowKind::Chunk)
        {
            let entries = self.chunk(tables, &(partition, key.id.clone()));
            let (Some(entries), Ok(done)) = (entries, DoneMap::from_row(row)) else {
                self.violated(format!("chunk {} is named and is not there", key.id));
                continue;
            };
            let all = (0_u16..).zip(&*entries);
            let open = all.filter(|(index, _)| !done.is_done(*index));
            outstanding.extend(open.map(|(_, entry)| (entry.endpoint, entry.event, entry.abroad)));
        }
        outstanding
    }

    /// What was used is counted in the save that passes it: once, and at once.
    fn judge_usage(&mut self, tables: &Tables, partition: PartitionId, shared: &Cursor) {
        let own = shared.iter().filter(|(stream, _)| stream.partition == partition);
        for (stream, through) in own {
            let (known, last) = (self.counted.at(stream), (partition, stream.writer, through));
            if known < through {
                let first = (partition, stream.writer, known.next());
                let passed = tables.log.range(first..=last);
                self.passed += passed.map(|(_, batch)| u64::from(batch.count)).sum::<u64>();
                self.counted.advance(stream, through);
            }
        }
        let rows = tables.checkpoint(partition);
        let usage = rows.filter(|(key, _)| key.kind == RowKind::Usage);
        let counts = usage.map(|(_, row)| serde_json::from_str::<UsageCounts>(row).expect("counts"));
        let counted: u64 = counts.map(|counts| counts.scans.iter().sum::<u64>()).sum();
        if counted != self.passed {
            let passed = self.passed;
            self.violated(format!(
                "a checkpoint counts {counted} scans, and its cursor has passed {passed}"
            ));
        }
    }

    fn judge(
        &mut self,
        tables: &Tables,
        endpoint: EndpointId,
        created: Created,
        passed: &Cursor,
        outstanding: &BTreeSet<(EndpointId, EventAddress)>,
    ) {
        let mut judged = self.judged.remove(&endpoint).unwrap_or_default();
        let mut owed = Vec::new();
        for (stream, through) in passed.iter().filter(|(stream, _)| *stream != Stream::CONFIG) {
            let mut all_recorded = true;
            let first = (stream.partition, stream.writer, judged.at(stream).next());
            if judged.at(stream) >= through {
                continue;
            }
            for (_, batch) in tables
                .log
                .range(first..=(stream.partition, stream.writer, through))
            {
                for index in 0..batch.count {
                    let event = stream.address(batch.seq, index);
                    let is_wanted = self.taken.get(&event).is_some_and(|taken| created.wants(taken));
                    let is_recorded = !is_wanted || is_recorded(tables, endpoint, event);
                    all_recorded &= is_recorded;
                    if !is_recorded && !outstanding.contains(&(endpoint, event)) {
                        owed.push(event);
                    }
                }
                if all_recorded {
                    judged.advance(stream, batch.seq);
                }
            }
        }
        self.judged.insert(endpoint, judged);
        for event in owed {
            self.violated(format!(
                "a saved cursor has passed {event:?}, which is neither recorded for {endpoint} nor outstanding"
            ));
        }
    }
}

impl Created {
    pub(super) fn wants(&self, taken: &Taken) -> bool {
        self.tenant == taken.tenant && self.order < taken.order
    }
}

fn is_recorded(tables: &Tables, endpoint: EndpointId, event: EventAddress) -> bool {
    tables
        .attempts_of(endpoint, event)
        .any(|row| row.status == DeliveryStatus::Succeeded)
}
