//! What the simulated store holds, and the rules by which a backend changes it. No time, no faults: those are
//! [`super::sim`]'s.
//!
//! Rows that a cluster keeps by their write timestamp (heads, members, attempts) carry the number of the call that wrote
//! them, so that a late write changes nothing that a later call wrote.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use qrelay_store::{
    StoreError, Timestamp,
    checkpoint::{RowKey, RowKind},
    id::{CodeId, ConfigSeq, EndpointId, EventAddress, OwnerId, PartitionId, Seq, TenantId, WriterId},
    model::{Code, Endpoint, Tenant},
    store::{
        AttemptRow, Batch, Cas, CheckpointDelta, ConfigChange, ConfigRow, Fence, Heads, KnownDelivery, Lease,
        Member, Result, WriterRow,
    },
};

/// Numbers calls in the order in which they were begun.
pub(super) type Stamp = u64;

/// Names a batch.
pub(super) type Key = (PartitionId, WriterId, Seq);

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) log: BTreeMap<Key, Batch>,
    /// Batches that are there and that nobody who looks finds.
    pub(super) hidden: BTreeSet<Key>,
    pub(super) writers: BTreeMap<WriterId, (Stamp, WriterRow)>,
    pub(super) config: Vec<ConfigRow>,
    pub(super) tenants: BTreeMap<TenantId, Arc<Tenant>>,
    pub(super) codes: BTreeMap<(CodeId, u64), Arc<Code>>,
    pub(super) endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
    pub(super) leases: BTreeMap<PartitionId, Lease>,
    pub(super) rows: BTreeMap<(PartitionId, RowKey), String>,
    pub(super) chunks: BTreeMap<(PartitionId, String), Bytes>,
    /// None for one that left.
    pub(super) members: BTreeMap<OwnerId, (Stamp, Option<Member>)>,
    pub(super) attempts: BTreeMap<AttemptKey, (Stamp, AttemptRow)>,
    /// The last announced health of each endpoint.
    announced: BTreeMap<EndpointId, u64>,
}

type AttemptKey = (EndpointId, EventAddress, Timestamp, u32);

impl Tables {
    pub(super) fn register(&mut self, row: WriterRow) {
        self.writers.entry(row.writer).or_insert((0, row));
    }

    pub(super) fn append(&mut self, batch: Batch) -> Result<()> {
        let key = (batch.partition, batch.writer, batch.seq);
        let standing = self.log.entry(key).or_insert_with(|| batch.clone());
        if *standing == batch {
            return Ok(());
        }
        Err(StoreError::Corrupt(format!("{key:?} is stored with other bytes")))
    }

    pub(super) fn publish(&mut self, writer: WriterId, beat: u64, heads: Heads, stamp: Stamp) {
        let Some((last, row)) = self.writers.get_mut(&writer) else {
            return;
        };
        if stamp > *last {
            (*last, row.beat) = (stamp, beat);
        }
        for (partition, seq) in heads {
            let head = row.heads.entry(partition).or_default();
            *head = seq.max(*head);
        }
    }

    pub(super) fn head(&self, writer: WriterId, partition: PartitionId) -> Seq {
        let row = self.writers.get(&writer);
        let head = row.and_then(|(_, row)| row.heads.get(&partition).copied());
        head.unwrap_or_default()
    }

    pub(super) fn close(&mut self, writer: WriterId, last: Heads) {
        if let Some((_, row)) = self.writers.get_mut(&writer) {
            row.closed.get_or_insert(last);
        }
    }

    pub(super) fn all_writers(&self) -> Vec<WriterRow> {
        self.writers.values().map(|(_, row)| row.clone()).collect()
    }

    fn batches(&self, partition: PartitionId, writer: WriterId, after: Seq) -> impl Iterator<Item = &Batch> {
        let from = (partition, writer, after.next());
        let last = (partition, writer, Seq::new(u64::MAX));
        let all = self.log.range(from..=last);
        all.filter(|(key, _)| !self.hidden.contains(key))
            .map(|(_, batch)| batch)
    }

    pub(super) fn read(
        &self,
        (partition, writer): (PartitionId, WriterId),
        (after, through): (Seq, Seq),
        max_bytes: usize,
    ) -> Vec<Batch> {
        let (mut expected, mut bytes, mut read) = (after.next(), 0, Vec::new());
        for batch in self.batches(partition, writer, after) {
            bytes += batch.body.len();
            let is_full = bytes > max_bytes && !read.is_empty();
            if batch.seq != expected || batch.seq > through || is_full {
                break;
            }
            expected = expected.next();
            read.push(batch.clone());
        }
        read
    }

    pub(super) fn next_seq(
        &self,
        (partition, writer): (PartitionId, WriterId),
        (after, through): (Seq, Seq),
    ) -> Option<Seq> {
        let next = self.batches(partition, writer, after).next();
        next.map(|batch| batch.seq).filter(|seq| *seq <= through)
    }

    pub(super) fn tail(&self, partition: PartitionId, writer: WriterId, after: Seq) -> Seq {
        let mut end = after;
        for batch in self.batches(partition, writer, after) {
            if batch.seq != end.next() {
                break;
            }
            end = batch.seq;
        }
        end
    }

    /// The same, whatever nobody finds.
    pub(super) fn end(&self, partition: PartitionId, writer: WriterId, after: Seq) -> Seq {
        let mut end = after;
        while self.log.contains_key(&(partition, writer, end.next())) {
            end = end.next();
        }
        end
    }

    /// Adds a row with one change to the configuration log.
    pub(super) fn announce(&mut self, change: ConfigChange) -> ConfigSeq {
        let seq = self.config.last().map_or(ConfigSeq::ZERO, |row| row.seq).next();
        self.config.push(ConfigRow {
            seq,
            changes: vec![change],
        });
        seq
    }

    pub(super) fn announce_health(
        &mut self,
        endpoint: EndpointId,
        change: ConfigChange,
    ) -> Option<ConfigSeq> {
        let last = self.announced.entry(endpoint).or_default();
        if change.version <= *last {
            return None;
        }
        *last = change.version;
        Some(self.announce(change))
    }

    pub(super) fn claim(&mut self, partition: PartitionId, expected: Option<Fence>, new: Lease) -> Cas {
        let standing = self.leases.get(&partition);
        if standing.map(|lease| lease.fence) != expected {
            return Cas::Lost(standing.cloned());
        }
        self.leases.insert(partition, new);
        Cas::Applied
    }

    pub(super) fn save(
        &mut self,
        partition: PartitionId,
        expected: Fence,
        beat: u64,
        delta: CheckpointDelta,
    ) -> Cas {
        match self.leases.get_mut(&partition) {
            Some(lease) if lease.fence == expected => lease.fence.beat = beat,
            standing => return Cas::Lost(standing.cloned()),
        }
        for (key, row) in delta.rows {
            match row {
                Some(row) => self.rows.insert((partition, key), row),
                None => self.rows.remove(&(partition, key)),
            };
        }
        Cas::Applied
    }

    /// The rows of a partition's checkpoint.
    pub(super) fn checkpoint(&self, partition: PartitionId) -> impl Iterator<Item = (&RowKey, &String)> {
        let first = RowKey {
            kind: RowKind::Run,
            id: String::new(),
        };
        self.rows
            .range((partition, first)..)
            .take_while(move |((of, _), _)| *of == partition)
            .map(|((_, key), row)| (key, row))
    }

    pub(super) fn put_chunk(&mut self, partition: PartitionId, name: String, body: Bytes) -> Result<()> {
        let standing = self
            .chunks
            .entry((partition, name))
            .or_insert_with(|| body.clone());
        if *standing == body {
            return Ok(());
        }
        Err(StoreError::Corrupt(
            "a chunk is stored with other bytes".to_owned(),
        ))
    }

    pub(super) fn put_member(&mut self, owner: OwnerId, member: Option<Member>, stamp: Stamp) {
        let row = self.members.entry(owner).or_default();
        if stamp > row.0 {
            *row = (stamp, member);
        }
    }

    pub(super) fn record(&mut self, row: AttemptRow, stamp: Stamp) {
        let key = (row.endpoint, row.event, row.first_at, row.number);
        let standing = self.attempts.entry(key).or_insert_with(|| (0, row.clone()));
        if stamp > standing.0 {
            *standing = (stamp, row);
        }
    }

    /// All rows of an event at an endpoint, the last one at the end.
    pub(super) fn attempts_of(
        &self,
        endpoint: EndpointId,
        event: EventAddress,
    ) -> impl DoubleEndedIterator<Item = &AttemptRow> {
        let first = (endpoint, event, Timestamp::EPOCH, 0);
        let last = (endpoint, event, Timestamp::from_millis(i64::MAX), u32::MAX);
        self.attempts.range(first..=last).map(|(_, (_, row))| row)
    }

    pub(super) fn deliveries_of_batch(
        &self,
        endpoint: EndpointId,
        first: EventAddress,
    ) -> Vec<KnownDelivery> {
        let last = EventAddress {
            index: u16::MAX,
            ..first
        };
        let from = (endpoint, first, Timestamp::EPOCH, 0);
        let to = (endpoint, last, Timestamp::from_millis(i64::MAX), u32::MAX);
        let mut known: BTreeMap<u16, KnownDelivery> = BTreeMap::new();
        for (_, row) in self.attempts.range(from..=to).map(|(_, row)| row) {
            let delivery = KnownDelivery {
                index: row.event.index,
                first_at: row.first_at,
                attempts: row.number,
                status: row.status,
            };
            known.insert(row.event.index, delivery);
        }
        known.into_values().collect()
    }
}
