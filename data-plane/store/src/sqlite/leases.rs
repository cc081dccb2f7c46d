//! Leases, checkpoints and chunks, in `main.db`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    SqliteStore,
    fault::Fault,
    rows::{int, number, parse, parse_id},
    writer::Atomicity,
};
use crate::{
    checkpoint::{RowKey, RowKind, UsageCounts},
    clock::Timestamp,
    id::{OwnerId, PartitionId, TenantId},
    limits,
    store::{Cas, CheckpointDelta, Fence, Lease, Leases, Member, Result, usage_row},
};

#[async_trait]
impl Leases for SqliteStore {
    async fn lease(&self, partition: PartitionId) -> Result<Option<Lease>> {
        self.main_reads
            .read(move |connection| lease(connection, partition))
            .await
    }

    async fn claim(&self, partition: PartitionId, expected: Option<Fence>, new: &Lease) -> Result<Cas> {
        let new = new.clone();
        self.main_writer
            .submit(Atomicity::OneStatement, move |connection| {
                claim(connection, partition, expected, &new)
            })
            .await
    }

    async fn save(
        &self,
        partition: PartitionId,
        expected: Fence,
        beat: u64,
        delta: &CheckpointDelta,
    ) -> Result<Cas> {
        let delta = delta.clone();
        self.main_writer
            .submit(Atomicity::Savepoint, move |connection| {
                save(connection, partition, expected, beat, &delta)
            })
            .await
    }

    async fn checkpoint(&self, partition: PartitionId) -> Result<(Option<Lease>, BTreeMap<RowKey, String>)> {
        self.main_reads
            .read(move |connection| {
                let transaction = connection.unchecked_transaction()?;
                Ok((lease(&transaction, partition)?, rows(&transaction, partition)?))
            })
            .await
    }

    async fn checkpoint_row(&self, partition: PartitionId, key: &RowKey) -> Result<Option<String>> {
        let key = key.clone();
        self.main_reads
            .read(move |connection| {
                let body = connection
                    .prepare_cached(
                        "SELECT body FROM checkpoint WHERE partition = ?1 AND kind = ?2 AND id = ?3",
                    )?
                    .query_row(params![partition.as_u16(), key.kind.as_str(), key.id], |row| {
                        row.get(0)
                    });
                Ok(body.optional()?)
            })
            .await
    }

    async fn checkpoint_rows(
        &self,
        partition: PartitionId,
        kind: RowKind,
        prefix: &str,
    ) -> Result<Vec<(String, String)>> {
        // Ids are ASCII, so that nothing that begins with the prefix sorts behind this.
        let (from, to) = (prefix.to_owned(), format!("{prefix}\u{7f}"));
        self.main_reads
            .read(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT id, body FROM checkpoint
                     WHERE partition = ?1 AND kind = ?2 AND id >= ?3 AND id < ?4 ORDER BY id",
                )?;
                let key = params![partition.as_u16(), kind.as_str(), from, to];
                let rows = statement.query_map(key, |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn usage(&self, tenant: TenantId, month: &str) -> Result<UsageCounts> {
        let key = usage_row(tenant, month);
        self.main_reads
            .read(move |connection| {
                let mut statement = connection
                    .prepare_cached("SELECT body FROM checkpoint WHERE kind = 'usage' AND id = ?1")?;
                let mut rows = statement.query([key.id])?;
                let mut sum = UsageCounts::default();
                while let Some(row) = rows.next()? {
                    sum.add(&parse(&row.get::<_, String>(0)?)?);
                }
                Ok(sum)
            })
            .await
    }

    async fn put_chunk(&self, partition: PartitionId, name: &str, body: Bytes) -> Result<()> {
        let (name, at) = (name.to_owned(), self.clock.now());
        self.main_writer
            .submit(Atomicity::OneStatement, move |connection| {
                put_chunk(connection, partition, &name, at, &body)
            })
            .await
    }

    async fn chunk(&self, partition: PartitionId, name: &str) -> Result<Option<Bytes>> {
        let name = name.to_owned();
        self.main_reads
            .read(move |connection| Ok(chunk(connection, partition, &name)?.map(Bytes::from)))
            .await
    }

    async fn delete_chunks(&self, partition: PartitionId, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let names = names.to_vec();
        self.main_writer
            .submit(Atomicity::Savepoint, move |connection| {
                let mut statement =
                    connection.prepare_cached("DELETE FROM chunk WHERE partition = ?1 AND name = ?2")?;
                for name in &names {
                    statement.execute(params![partition.as_u16(), name])?;
                }
                Ok(())
            })
            .await
    }

    async fn put_member(&self, member: &Member) -> Result<()> {
        let (member, now) = (member.clone(), self.clock.now());
        self.main_writer
            .submit(Atomicity::Savepoint, move |connection| {
                put_member(connection, &member, now)
            })
            .await
    }

    async fn remove_member(&self, owner: OwnerId) -> Result<()> {
        self.main_writer
            .submit(Atomicity::OneStatement, move |connection| {
                connection
                    .prepare_cached("DELETE FROM member WHERE owner = ?1")?
                    .execute([owner.to_string()])?;
                Ok(())
            })
            .await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.main_reads.read(members).await
    }
}

/// Writes a row, and takes away those of members that died long ago.
fn put_member(connection: &Connection, member: &Member, now: Timestamp) -> Result<(), Fault> {
    connection
        .prepare_cached("DELETE FROM member WHERE at < ?1")?
        .execute([now.before(limits::MEMBER_KEPT).as_millis()])?;
    let wants: Vec<u16> = member.wants.iter().map(|partition| partition.as_u16()).collect();
    connection
        .prepare_cached(
            "INSERT INTO member (owner, addr, beat, wants, at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (owner) DO UPDATE SET addr = excluded.addr, beat = excluded.beat,
                 wants = excluded.wants, at = excluded.at",
        )?
        .execute(params![
            member.owner.to_string(),
            member.addr,
            int(member.beat),
            serde_json::to_string(&wants).expect("invariant: numbers make JSON"),
            now.as_millis(),
        ])?;
    Ok(())
}

fn members(connection: &Connection) -> Result<Vec<Member>, Fault> {
    let mut statement = connection.prepare_cached("SELECT owner, addr, beat, wants FROM member")?;
    let mut rows = statement.query([])?;
    let mut members = Vec::new();
    while let Some(row) = rows.next()? {
        let wants: Vec<u16> = parse(&row.get::<_, String>(3)?)?;
        members.push(Member {
            owner: parse_id(&row.get::<_, String>(0)?)?,
            addr: row.get(1)?,
            beat: number(row, 2)?,
            wants: wants.into_iter().map(PartitionId::new).collect(),
        });
    }
    members.sort_by_key(|member| member.owner);
    Ok(members)
}

fn lease(connection: &Connection, partition: PartitionId) -> Result<Option<Lease>, Fault> {
    let row = connection
        .prepare_cached("SELECT epoch, beat, owner, addr FROM lease WHERE partition = ?1")?
        .query_row([partition.as_u16()], |row| {
            let fence = Fence {
                epoch: number(row, 0)?,
                beat: number(row, 1)?,
            };
            Ok((fence, row.get::<_, Option<String>>(2)?, row.get(3)?))
        })
        .optional()?;
    let Some((fence, owner, addr)) = row else {
        return Ok(None);
    };
    let owner = owner.as_deref().map(parse_id).transpose()?;
    Ok(Some(Lease { fence, owner, addr }))
}

fn claim(
    connection: &Connection,
    partition: PartitionId,
    expected: Option<Fence>,
    new: &Lease,
) -> Result<Cas, Fault> {
    let found = lease(connection, partition)?;
    if found.as_ref().map(|lease| lease.fence) != expected {
        return Ok(Cas::Lost(found));
    }
    connection
        .prepare_cached(
            "INSERT INTO lease (partition, epoch, beat, owner, addr) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (partition) DO UPDATE SET epoch = excluded.epoch, beat = excluded.beat,
                 owner = excluded.owner, addr = excluded.addr",
        )?
        .execute(params![
            partition.as_u16(),
            int(new.fence.epoch),
            int(new.fence.beat),
            new.owner.map(|owner| owner.to_string()),
            new.addr,
        ])?;
    Ok(Cas::Applied)
}

fn save(
    connection: &Connection,
    partition: PartitionId,
    expected: Fence,
    beat: u64,
    delta: &CheckpointDelta,
) -> Result<Cas, Fault> {
    let found = lease(connection, partition)?;
    if found.as_ref().map(|lease| lease.fence) != Some(expected) {
        return Ok(Cas::Lost(found));
    }
    connection
        .prepare_cached("UPDATE lease SET beat = ?2 WHERE partition = ?1")?
        .execute(params![partition.as_u16(), int(beat)])?;
    let mut put = connection.prepare_cached(
        "INSERT INTO checkpoint (partition, kind, id, body) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (partition, kind, id) DO UPDATE SET body = excluded.body",
    )?;
    let mut delete =
        connection.prepare_cached("DELETE FROM checkpoint WHERE partition = ?1 AND kind = ?2 AND id = ?3")?;
    for (key, body) in &delta.rows {
        let (partition, kind) = (partition.as_u16(), key.kind.as_str());
        match body {
            Some(body) => put.execute(params![partition, kind, key.id, body])?,
            None => delete.execute(params![partition, kind, key.id])?,
        };
    }
    Ok(Cas::Applied)
}

fn rows(connection: &Connection, partition: PartitionId) -> Result<BTreeMap<RowKey, String>, Fault> {
    let mut statement =
        connection.prepare_cached("SELECT kind, id, body FROM checkpoint WHERE partition = ?1")?;
    let mut rows = statement.query([partition.as_u16()])?;
    let mut all = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let kind = kind(&row.get::<_, String>(0)?)?;
        all.insert(
            RowKey {
                kind,
                id: row.get(1)?,
            },
            row.get(2)?,
        );
    }
    Ok(all)
}

fn kind(text: &str) -> Result<RowKind, Fault> {
    RowKind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| Fault::Damaged(format!("{text} is no kind of checkpoint row")))
}

fn chunk(connection: &Connection, partition: PartitionId, name: &str) -> Result<Option<Vec<u8>>, Fault> {
    let body = connection
        .prepare_cached("SELECT body FROM chunk WHERE partition = ?1 AND name = ?2")?
        .query_row(params![partition.as_u16(), name], |row| row.get(0));
    Ok(body.optional()?)
}

fn put_chunk(
    connection: &Connection,
    partition: PartitionId,
    name: &str,
    at: Timestamp,
    body: &[u8],
) -> Result<(), Fault> {
    let inserted = connection
        .prepare_cached(
            "INSERT INTO chunk (partition, name, created_at, body) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (partition, name) DO NOTHING",
        )?
        .execute(params![partition.as_u16(), name, at.as_millis(), body])?;
    if inserted == 1 || chunk(connection, partition, name)?.as_deref() == Some(body) {
        return Ok(());
    }
    Err(Fault::Damaged(format!(
        "chunk {name} of partition {partition} is stored with other bytes"
    )))
}
