//! What the simulation knows beside the store: what was promised to whom, and what came. Judges every save by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use qrelay_store::{
    checkpoint::RowKind,
    id::{EndpointId, EventAddress, OwnerId, PartitionId, Seq, TenantId, WriterId},
    reader::Item,
    store::{Batch, DeliveryStatus, Heads},
};

use super::{sim::Who, tables::Tables};
use crate::{
    checkpoint::{RunName, RunRow},
    cursor::{Cursor, Stream},
    outstanding::{self, DoneMap},
};

/// An event that a writer took.
#[derive(Clone, Copy, Debug)]
struct Taken {
    tenant: TenantId,
    order: u64,
    is_acknowledged: bool,
}

/// An endpoint whose creation was answered.
#[derive(Clone, Copy, Debug)]
struct Created {
    tenant: TenantId,
    home: PartitionId,
    order: u64,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Book {
    /// Counts what happens, so that before and after can be told.
    order: u64,
    taken: BTreeMap<EventAddress, Taken>,
    endpoints: BTreeMap<EndpointId, Created>,
    /// Which bodies came, by endpoint and event, and how often.
    received: BTreeMap<(EndpointId, EventAddress), (u64, usize)>,
    /// What readers brought, and how far they are.
    read: BTreeSet<EventAddress>,
    pub(super) positions: BTreeMap<PartitionId, BTreeMap<WriterId, Seq>>,
    /// Writers, and who they are.
    pub(super) writers: BTreeMap<WriterId, Who>,
    /// Where closed writers ended.
    finals: BTreeMap<WriterId, Heads>,
    pub(super) owners: BTreeMap<Who, OwnerId>,
    /// Up to where all that was passed is recorded, and need not be judged again.
    judged: BTreeMap<EndpointId, Cursor>,
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
    pub(super) claims: usize,
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
        self.claims += other.claims;
        self.saves += other.saves;
        self.lost_saves += other.lost_saves;
        self.repeated += other.repeated;
        self.chunks += other.chunks;
        self.own_runs += other.own_runs;
    }
}

impl Book {
    fn next(&mut self) -> u64 {
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
    pub(super) fn created(&mut self, endpoint: EndpointId, tenant: TenantId, home: PartitionId) {
        let order = self.next();
        let created = Created { tenant, home, order };
        self.endpoints.insert(endpoint, created);
    }

    /// A process became a writer.
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
            if *head > before && tables.tail(*partition, writer, before) < *head {
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
                Item::Gap { writer, from, .. } => {
                    self.violated(format!("batch {from} of writer {writer} was given up as missing"));
                }
            }
        }
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

    fn is_one(&mut self, event: EventAddress) {
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
            .collect()
    }

    // ---- What receivers get ----

    /// A request's first byte goes out.
    pub(super) fn begun(&mut self, tables: &Tables, who: Who, endpoint: EndpointId) {
        let Some(created) = self.endpoints.get(&endpoint) else {
            return self.violated("a request goes to nobody's endpoint");
        };
        let owner = tables.leases.get(&created.home).and_then(|lease| lease.owner);
        if owner != self.owners.get(&who).copied() {
            self.violated(format!(
                "process {who} begins a request while the lease is {owner:?}'s"
            ));
        }
    }

    /// A receiver took a webhook.
    pub(super) fn received(&mut self, endpoint: EndpointId, event: EventAddress, body: &[u8]) {
        self.is_one(event);
        let mut hash = DefaultHasher::new();
        body.hash(&mut hash);
        let hash = hash.finish();
        let (first, times) = self.received.entry((endpoint, event)).or_insert((hash, 0));
        *times += 1;
        let (is_same, is_repeated) = (*first == hash, *times > 1);
        self.counts.repeated += usize::from(is_repeated);
        if !is_same {
            self.violated(format!("{event:?} came with other bytes"));
        }
    }

    /// What was promised and did not come.
    pub(super) fn undelivered(&self) -> Vec<(EndpointId, EventAddress)> {
        let mut all = Vec::new();
        for (event, taken) in self.taken.iter().filter(|(_, taken)| taken.is_acknowledged) {
            let wanted = self.endpoints.iter().filter(|(_, created)| created.wants(taken));
            let missing = wanted.filter(|(endpoint, _)| !self.received.contains_key(&(**endpoint, *event)));
            all.extend(missing.map(|(endpoint, _)| (*endpoint, *event)));
        }
        all
    }

    /// No event that was never appended, or past the end of a closed writer, came since.
    pub(super) fn came(&self, event: EventAddress) -> bool {
        self.read.contains(&event) || self.received.keys().any(|(_, came)| *came == event)
    }

    // ---- Saves ----

    /// A save was applied: who sent it has the lease, and no cursor has passed what is neither recorded nor outstanding.
    pub(super) fn saved(&mut self, tables: &Tables, partition: PartitionId, who: Who) {
        self.counts.saves += 1;
        let owner = tables.leases.get(&partition).and_then(|lease| lease.owner);
        if owner != self.owners.get(&who).copied() {
            self.violated(format!(
                "a save of process {who} was applied while the lease is {owner:?}'s"
            ));
        }
        let outstanding = self.outstanding(tables, partition);
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

    fn outstanding(
        &mut self,
        tables: &Tables,
        partition: PartitionId,
    ) -> BTreeSet<(EndpointId, EventAddress)> {
        let mut outstanding = BTreeSet::new();
        for (key, row) in tables
            .checkpoint(partition)
            .filter(|(key, _)| key.kind == RowKind::Chunk)
        {
            let body = tables.chunks.get(&(partition, key.id.clone()));
            let entries = body.and_then(|body| outstanding::decode(body).ok());
            let (Some(entries), Ok(done)) = (entries, DoneMap::from_row(row)) else {
                self.violated(format!("chunk {} is named and is not there", key.id));
                continue;
            };
            let open = (0_u16..).zip(entries).filter(|(index, _)| !done.is_done(*index));
            outstanding.extend(open.map(|(_, entry)| (entry.endpoint, entry.event)));
        }
        self.counts.chunks += usize::from(!outstanding.is_empty());
        outstanding
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
    fn wants(&self, taken: &Taken) -> bool {
        self.tenant == taken.tenant && self.order < taken.order
    }
}

fn is_recorded(tables: &Tables, endpoint: EndpointId, event: EventAddress) -> bool {
    tables
        .attempts_of(endpoint, event)
        .any(|row| row.status == DeliveryStatus::Succeeded)
}
