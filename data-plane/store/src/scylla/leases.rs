//! Leases, checkpoints, chunks and members.
//!
//! A partition's lease and its checkpoint share one CQL partition: the lease is its static columns, the checkpoint its
//! rows. So a save is one conditional batch there, atomic and fenced, and a take-over reads one CQL partition. A chunk
//! stands alone, immutable, under its name.
//!
//! Invariants: the lease's columns are written by conditional statements alone, which are sent once: whether one of
//! unknown outcome was applied is for the lease's holder to find out, by a further one. What refuses a condition is read
//! at `LOCAL_SERIAL`, so that it is at least as new as the refusal. A look at a lease is a plain read: it may be late,
//! and the compare-and-set is the fence.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use scylla::{
    statement::{
        Consistency,
        batch::{Batch, BatchType},
        prepared::PreparedStatement,
    },
    value::CqlValue,
};

use super::{OpenError, ScyllaStore, rows, session::Cql};
use crate::{
    checkpoint::{RowKey, RowKind, UsageCounts},
    id::{OwnerId, PartitionId, TenantId},
    limits,
    store::{
        Cas, CheckpointDelta, Fence, Lease, Leases, Member, Registry as _, Result, StoreError, usage_row,
    },
};

/// Partitions whose usage is read at once.
const USAGE_READS: usize = 16;
/// Chunks deleted at once.
const CHUNK_DELETES: usize = 16;
/// How often a checkpoint is read that moves while it is read. Only its reader's own renewals do that.
const CHECKPOINT_READS: usize = 5;

/// The statements of this module.
#[derive(Debug)]
pub(super) struct Statements {
    lease: PreparedStatement,
    lease_serial: PreparedStatement,
    claim_first: PreparedStatement,
    claim: PreparedStatement,
    beat: PreparedStatement,
    put_row: PreparedStatement,
    delete_row: PreparedStatement,
    checkpoint: PreparedStatement,
    row: PreparedStatement,
    rows: PreparedStatement,
    put_chunk: PreparedStatement,
    chunk: PreparedStatement,
    delete_chunk: PreparedStatement,
    put_member: PreparedStatement,
    remove_member: PreparedStatement,
    members: PreparedStatement,
}

/// A lease's columns. All of them are null where there are rows and no lease, which nothing writes.
type LeaseRow = (Option<i64>, Option<i64>, Option<String>, Option<String>);

impl Statements {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        let lease = "SELECT DISTINCT epoch, beat, owner, addr FROM lease WHERE partition = ?";
        let mut lease_serial = cql.prepare(lease).await?;
        lease_serial.set_consistency(Consistency::LocalSerial);
        let (chunk_ttl, member_ttl) = (limits::CHUNK_TTL.as_secs(), limits::MEMBER_KEPT.as_secs());
        Ok(Self {
            lease: cql.prepare(lease).await?,
            lease_serial,
            claim_first: cql
                .prepare_conditional(
                    "UPDATE lease SET epoch = ?, beat = ?, owner = ?, addr = ? WHERE partition = ? IF epoch = null",
                )
                .await?,
            claim: cql
                .prepare_conditional(
                    "UPDATE lease SET epoch = ?, beat = ?, owner = ?, addr = ? WHERE partition = ?
                     IF epoch = ? AND beat = ?",
                )
                .await?,
            beat: cql
                .prepare_conditional("UPDATE lease SET beat = ? WHERE partition = ? IF epoch = ? AND beat = ?")
                .await?,
            put_row: cql
                .prepare("INSERT INTO lease (partition, kind, id, body) VALUES (?, ?, ?, ?)")
                .await?,
            delete_row: cql
                .prepare("DELETE FROM lease WHERE partition = ? AND kind = ? AND id = ?")
                .await?,
            checkpoint: cql
                .prepare("SELECT epoch, beat, owner, addr, kind, id, body FROM lease WHERE partition = ?")
                .await?,
            row: cql
                .prepare("SELECT body FROM lease WHERE partition = ? AND kind = ? AND id = ?")
                .await?,
            rows: cql
                .prepare("SELECT id, body FROM lease WHERE partition = ? AND kind = ? AND id >= ? AND id < ?")
                .await?,
            put_chunk: cql
                .prepare(&format!(
                    "INSERT INTO chunk (partition, name, body) VALUES (?, ?, ?) USING TTL {chunk_ttl}"
                ))
                .await?,
            chunk: cql
                .prepare("SELECT body FROM chunk WHERE partition = ? AND name = ?")
                .await?,
            delete_chunk: cql
                .prepare("DELETE FROM chunk WHERE partition = ? AND name = ?")
                .await?,
            put_member: cql
                .prepare(&format!(
                    "INSERT INTO member (bucket, owner, addr, beat, wants) VALUES (0, ?, ?, ?, ?) USING TTL {member_ttl}"
                ))
                .await?,
            remove_member: cql
                .prepare("DELETE FROM member WHERE bucket = 0 AND owner = ?")
                .await?,
            members: cql
                .prepare("SELECT owner, addr, beat, wants FROM member WHERE bucket = 0")
                .await?,
        })
    }
}

#[async_trait]
impl Leases for ScyllaStore {
    async fn lease(&self, partition: PartitionId) -> Result<Option<Lease>> {
        self.read_lease(&self.leases.lease, partition).await
    }

    async fn claim(&self, partition: PartitionId, expected: Option<Fence>, new: &Lease) -> Result<Cas> {
        let fence = (new.fence.epoch.cast_signed(), new.fence.beat.cast_signed());
        // A lease that was given back has no owner: written as an empty text, so that the column is always there.
        let owner = new.owner.map(|owner| owner.to_string()).unwrap_or_default();
        let key = rows::partition(partition);
        let decided = match expected {
            None => {
                let values = (fence.0, fence.1, owner, &new.addr, key);
                self.cql.decide_once(&self.leases.claim_first, values).await?
            }
            Some(old) => {
                let old = (old.epoch.cast_signed(), old.beat.cast_signed());
                let values = (fence.0, fence.1, owner, &new.addr, key, old.0, old.1);
                self.cql.decide_once(&self.leases.claim, values).await?
            }
        };
        self.cas(partition, decided.applied).await
    }

    async fn save(
        &self,
        partition: PartitionId,
        expected: Fence,
        beat: u64,
        delta: &CheckpointDelta,
    ) -> Result<Cas> {
        let key = CqlValue::SmallInt(rows::partition(partition));
        let bigint = |value: u64| CqlValue::BigInt(value.cast_signed());
        let text = |value: &str| CqlValue::Text(value.to_owned());
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.append_statement(self.leases.beat.clone());
        let mut values = vec![vec![
            bigint(beat),
            key.clone(),
            bigint(expected.epoch),
            bigint(expected.beat),
        ]];
        for (row, body) in &delta.rows {
            let mut row = vec![key.clone(), text(row.kind.as_str()), text(&row.id)];
            let statement = match body {
                Some(body) => {
                    row.push(text(body));
                    &self.leases.put_row
                }
                None => &self.leases.delete_row,
            };
            batch.append_statement(statement.clone());
            values.push(row);
        }
        let decided = self.cql.decide_batch(&batch, values).await?;
        self.cas(partition, decided.applied).await
    }

    async fn checkpoint(&self, partition: PartitionId) -> Result<(Option<Lease>, BTreeMap<RowKey, String>)> {
        for _ in 0..CHECKPOINT_READS {
            if let Some(checkpoint) = self.read_checkpoint(partition).await? {
                return Ok(checkpoint);
            }
        }
        Err(StoreError::Unavailable(format!(
            "the checkpoint of partition {partition} moves faster than it is read"
        )))
    }

    async fn checkpoint_row(&self, partition: PartitionId, key: &RowKey) -> Result<Option<String>> {
        let values = (rows::partition(partition), key.kind.as_str(), &key.id);
        let row = self
            .cql
            .row::<(Option<String>,)>(&self.leases.row, values)
            .await?;
        Ok(row.and_then(|(body,)| body))
    }

    async fn checkpoint_rows(
        &self,
        partition: PartitionId,
        kind: RowKind,
        prefix: &str,
    ) -> Result<Vec<(String, String)>> {
        // Ids are ASCII, so that nothing that begins with the prefix sorts behind this.
        let end = format!("{prefix}\u{7f}");
        let values = (rows::partition(partition), kind.as_str(), prefix, end);
        self.cql.rows(&self.leases.rows, values).await
    }

    async fn usage(&self, tenant: TenantId, month: &str) -> Result<UsageCounts> {
        let key = usage_row(tenant, month);
        let mut partitions: BTreeSet<_> = (0..self.install.partitions).map(PartitionId::new).collect();
        if let Some(tenant) = self.tenant(tenant).await? {
            partitions.extend(&tenant.partitions);
        }
        let rows: Vec<Option<String>> = stream::iter(partitions)
            .map(|partition| self.checkpoint_row(partition, &key))
            .buffer_unordered(USAGE_READS)
            .try_collect()
            .await?;
        let mut sum = UsageCounts::default();
        for row in rows.into_iter().flatten() {
            let counted = serde_json::from_str(&row)
                .map_err(|error| StoreError::Corrupt(format!("a usage row is no usage: {error}")))?;
            sum.add(&counted);
        }
        Ok(sum)
    }

    async fn put_chunk(&self, partition: PartitionId, name: &str, body: Bytes) -> Result<()> {
        // Only the lease's holder writes a name, and no two of them the same: a look before is enough.
        match self.chunk(partition, name).await? {
            None => {
                let values = (rows::partition(partition), name, body.as_ref());
                self.cql.execute(&self.leases.put_chunk, values).await
            }
            Some(stored) if stored == body => Ok(()),
            Some(_) => Err(StoreError::Corrupt(format!(
                "chunk {name} of partition {partition} is stored with other bytes"
            ))),
        }
    }

    async fn chunk(&self, partition: PartitionId, name: &str) -> Result<Option<Bytes>> {
        let values = (rows::partition(partition), name);
        let row = self.cql.row::<(Vec<u8>,)>(&self.leases.chunk, values).await?;
        Ok(row.map(|(body,)| Bytes::from(body)))
    }

    async fn delete_chunks(&self, partition: PartitionId, names: &[String]) -> Result<()> {
        let key = rows::partition(partition);
        stream::iter(names.to_vec())
            .map(|name| async move { self.cql.execute(&self.leases.delete_chunk, (key, name)).await })
            .buffer_unordered(CHUNK_DELETES)
            .try_collect()
            .await
    }

    async fn put_member(&self, member: &Member) -> Result<()> {
        let wants: Vec<u16> = member.wants.iter().map(|partition| partition.as_u16()).collect();
        let wants = serde_json::to_string(&wants).expect("invariant: numbers make JSON");
        let beat = member.beat.cast_signed();
        let values = (member.owner.to_string(), &member.addr, beat, wants);
        self.cql.execute(&self.leases.put_member, values).await
    }

    async fn remove_member(&self, owner: OwnerId) -> Result<()> {
        let values = (owner.to_string(),);
        self.cql.execute(&self.leases.remove_member, values).await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        let rows: Vec<MemberRow> = self.cql.rows(&self.leases.members, ()).await?;
        let mut members = rows.into_iter().map(member).collect::<Result<Vec<_>>>()?;
        members.sort_by_key(|member| member.owner);
        Ok(members)
    }
}

type MemberRow = (String, String, i64, String);

fn member((owner, addr, beat, wants): MemberRow) -> Result<Member> {
    let corrupt = |what: &str| StoreError::Corrupt(format!("a member's {what} cannot be read"));
    let wants: Vec<u16> = serde_json::from_str(&wants).map_err(|_| corrupt("wishes"))?;
    Ok(Member {
        owner: owner.parse().map_err(|_| corrupt("id"))?,
        addr,
        beat: beat.cast_unsigned(),
        wants: wants.into_iter().map(PartitionId::new).collect(),
    })
}

impl ScyllaStore {
    async fn read_lease(
        &self,
        statement: &PreparedStatement,
        partition: PartitionId,
    ) -> Result<Option<Lease>> {
        let row = self
            .cql
            .row::<LeaseRow>(statement, (rows::partition(partition),))
            .await?;
        row.map_or(Ok(None), lease)
    }

    /// What a conditional statement came to. Refused, it says what stands there; the answer itself does not on every
    /// server.
    async fn cas(&self, partition: PartitionId, applied: bool) -> Result<Cas> {
        if applied {
            return Ok(Cas::Applied);
        }
        let standing = self.read_lease(&self.leases.lease_serial, partition).await?;
        Ok(Cas::Lost(standing))
    }

    /// Reads a checkpoint page by page. None when it moved meanwhile.
    async fn read_checkpoint(
        &self,
        partition: PartitionId,
    ) -> Result<Option<(Option<Lease>, BTreeMap<RowKey, String>)>> {
        type Row = (
            Option<i64>,
            Option<i64>,
            Option<String>,
            Option<String>,
            Option<String>,
            Option<String>,
            Option<String>,
        );
        let values = (rows::partition(partition),);
        let read: Vec<Row> = self.cql.rows(&self.leases.checkpoint, values).await?;
        let fences = |row: &Row| (row.0, row.1);
        if read.first().map(fences) != read.last().map(fences) {
            return Ok(None);
        }
        let (mut standing, mut rows) = (None, BTreeMap::new());
        for (epoch, beat, owner, addr, kind, id, body) in read {
            if standing.is_none() {
                standing = lease((epoch, beat, owner, addr))?;
            }
            // A lease without rows is one row of nothing.
            if let (Some(kind), Some(id), Some(body)) = (kind, id, body) {
                let kind = kind_of(&kind)?;
                rows.insert(RowKey { kind, id }, body);
            }
        }
        Ok(Some((standing, rows)))
    }
}

fn lease((epoch, beat, owner, addr): LeaseRow) -> Result<Option<Lease>> {
    let (Some(epoch), Some(beat)) = (epoch, beat) else {
        return Ok(None);
    };
    let owner = owner.filter(|owner| !owner.is_empty());
    let owner = owner.map(|owner| owner.parse()).transpose();
    Ok(Some(Lease {
        fence: Fence {
            epoch: epoch.cast_unsigned(),
            beat: beat.cast_unsigned(),
        },
        owner: owner.map_err(|_| StoreError::Corrupt("a lease's owner is no owner's id".to_owned()))?,
        addr: addr.unwrap_or_default(),
    }))
}

fn kind_of(text: &str) -> Result<RowKind> {
    RowKind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| StoreError::Corrupt(format!("{text} is no kind of checkpoint row")))
}
