//! The log of scans and its writers, in `log.db`.

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore,
    fault::Fault,
    rows::{document, int, limit as sql_limit, number, parse, seq as seq_at, time},
    writer::Atomicity,
};
use crate::{
    clock::Timestamp,
    id::{PartitionId, Seq, WriterId},
    store::{Batch, Heads, Log, Result, WriterRow},
};

/// Rows that one read walks at most when it looks for the end of a tail.
const TAIL_ROWS_PER_READ: usize = 10_000;

const BATCH: &str = "partition, writer, seq, first_at, last_at, count, body";

#[async_trait]
impl Log for SqliteStore {
    async fn register_writer(&self, row: &WriterRow) -> Result<()> {
        let row = row.clone();
        self.log_writer
            .submit(Atomicity::OneStatement, move |connection| {
                register(connection, &row)
            })
            .await
    }

    async fn append(&self, batch: Batch) -> Result<()> {
        let appended = batch.clone();
        self.log_writer
            .submit(Atomicity::OneStatement, move |connection| {
                append(connection, &batch)
            })
            .await?;
        self.recent.put(appended);
        Ok(())
    }

    async fn publish_heads(&self, writer: WriterId, beat: u64, heads: &Heads) -> Result<()> {
        let heads = heads.clone();
        self.log_writer
            .submit(Atomicity::OneStatement, move |connection| {
                publish_heads(connection, writer, beat, heads)
            })
            .await
    }

    async fn close_writer(&self, writer: WriterId, last: &Heads) -> Result<()> {
        let last = document(last)?;
        self.log_writer
            .submit(Atomicity::OneStatement, move |connection| {
                let closed = connection
                    .prepare_cached("UPDATE writer SET closed = coalesce(closed, ?2) WHERE writer = ?1")?
                    .execute(params![int(writer.as_u64()), last])?;
                known(writer, closed)
            })
            .await
    }

    async fn fence_writer(&self, writer: WriterId) -> Result<()> {
        self.log_writer
            .submit(Atomicity::OneStatement, move |connection| {
                let fenced = connection
                    .prepare_cached("UPDATE writer SET fenced = 1 WHERE writer = ?1")?
                    .execute(params![int(writer.as_u64())])?;
                known(writer, fenced)
            })
            .await
    }

    async fn is_fenced(&self, writer: WriterId) -> Result<bool> {
        self.log_reads
            .read(move |connection| {
                let fenced = connection
                    .prepare_cached("SELECT fenced FROM writer WHERE writer = ?1")?
                    .query_row(params![int(writer.as_u64())], |row| row.get(0));
                Ok(fenced.optional()?.unwrap_or(false))
            })
            .await
    }

    async fn writers(&self) -> Result<Vec<WriterRow>> {
        self.log_reads.read(writers).await
    }

    async fn read(
        &self,
        partition: PartitionId,
        writer: WriterId,
        after: Seq,
        through: Seq,
        max_bytes: usize,
    ) -> Result<Vec<Batch>> {
        if through <= after {
            return Ok(Vec::new());
        }
        if let Some(fresh) = self.recent.read((partition, writer), after, through, max_bytes) {
            return Ok(fresh);
        }
        self.log_reads
            .read(move |connection| read(connection, partition, writer, after, through, max_bytes))
            .await
    }

    async fn batch(&self, partition: PartitionId, writer: WriterId, seq: Seq) -> Result<Option<Batch>> {
        self.log_reads
            .read(move |connection| batch(connection, partition, writer, seq))
            .await
    }

    async fn next_seq(
        &self,
        partition: PartitionId,
        writer: WriterId,
        after: Seq,
        through: Seq,
    ) -> Result<Option<Seq>> {
        self.log_reads
            .read(move |connection| {
                let (partition, writer, after) = key(partition, writer, after);
                let next = connection
                    .prepare_cached(
                        "SELECT seq FROM log WHERE partition = ?1 AND writer = ?2 AND seq > ?3 AND seq <= ?4
                         ORDER BY seq LIMIT 1",
                    )?
                    .query_row(params![partition, writer, after, int(through.as_u64())], |row| {
                        seq_at(row, 0)
                    });
                Ok(next.optional()?)
            })
            .await
    }

    async fn tail(&self, partition: PartitionId, writer: WriterId, after: Seq) -> Result<Seq> {
        let mut end = after;
        loop {
            let from = end;
            let (reached, more) = self
                .log_reads
                .read(move |connection| tail(connection, partition, writer, from))
                .await?;
            end = reached;
            if !more {
                return Ok(end);
            }
        }
    }

    async fn batches_before(
        &self,
        partition: PartitionId,
        before: Option<(Timestamp, WriterId, Seq)>,
        limit: usize,
    ) -> Result<Vec<Batch>> {
        self.log_lists
            .read(move |connection| batches_before(connection, partition, before, limit))
            .await
    }

    async fn batches_after(
        &self,
        partition: PartitionId,
        after: (Timestamp, WriterId, Seq),
        limit: usize,
    ) -> Result<Vec<Batch>> {
        self.log_lists
            .read(move |connection| batches_after(connection, partition, after, limit))
            .await
    }
}

fn key(partition: PartitionId, writer: WriterId, seq: Seq) -> (u16, i64, i64) {
    (partition.as_u16(), int(writer.as_u64()), int(seq.as_u64()))
}

fn known(writer: WriterId, rows: usize) -> Result<(), Fault> {
    match rows {
        0 => Err(Fault::Damaged(format!("writer {writer} is not registered"))),
        _ => Ok(()),
    }
}

fn register(connection: &Connection, row: &WriterRow) -> Result<(), Fault> {
    let closed = row.closed.as_ref().map(document).transpose()?;
    let inserted = connection
        .prepare_cached(
            "INSERT INTO writer (writer, node, beat, heads, closed, registered_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (writer) DO NOTHING",
        )?
        .execute(params![
            int(row.writer.as_u64()),
            row.node,
            int(row.beat),
            document(&row.heads)?,
            closed,
            row.registered_at.as_millis(),
        ])?;
    if inserted == 1 {
        return Ok(());
    }
    // A repeated registration finds its own row, perhaps with a later beat; anybody else's is a clash of ids.
    let (node, at): (String, i64) = connection
        .prepare_cached("SELECT node, registered_at FROM writer WHERE writer = ?1")?
        .query_row([int(row.writer.as_u64())], |found| {
            Ok((found.get(0)?, found.get(1)?))
        })?;
    if node == row.node && at == row.registered_at.as_millis() {
        Ok(())
    } else {
        Err(Fault::Damaged(format!(
            "another writer has the id {}",
            row.writer
        )))
    }
}

fn append(connection: &Connection, new: &Batch) -> Result<(), Fault> {
    let inserted = connection
        .prepare_cached(
            "INSERT INTO log (partition, writer, seq, first_at, last_at, count, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (partition, writer, seq) DO NOTHING",
        )?
        .execute(params![
            new.partition.as_u16(),
            int(new.writer.as_u64()),
            int(new.seq.as_u64()),
            new.first_at.as_millis(),
            new.last_at.as_millis(),
            new.count,
            &new.body[..],
        ])?;
    if inserted == 1 || batch(connection, new.partition, new.writer, new.seq)?.as_ref() == Some(new) {
        return Ok(());
    }
    Err(Fault::Damaged(format!(
        "batch {} of writer {} in partition {} is stored with other bytes",
        new.seq, new.writer, new.partition
    )))
}

fn publish_heads(connection: &Connection, writer: WriterId, beat: u64, new: Heads) -> Result<(), Fault> {
    let stored: Option<String> = connection
        .prepare_cached("SELECT heads FROM writer WHERE writer = ?1")?
        .query_row([int(writer.as_u64())], |row| row.get(0))
        .optional()?;
    let Some(stored) = stored else {
        return known(writer, 0);
    };
    let mut heads: Heads = parse(&stored)?;
    for (partition, seq) in new {
        let head = heads.entry(partition).or_default();
        *head = seq.max(*head);
    }
    connection
        .prepare_cached("UPDATE writer SET beat = ?2, heads = ?3 WHERE writer = ?1")?
        .execute(params![int(writer.as_u64()), int(beat), document(&heads)?])?;
    Ok(())
}

fn writers(connection: &Connection) -> Result<Vec<WriterRow>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT writer, node, beat, heads, closed, registered_at FROM writer ORDER BY writer",
    )?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let closed: Option<String> = row.get(4)?;
        all.push(WriterRow {
            writer: WriterId::from_u64(number(row, 0)?),
            node: row.get(1)?,
            beat: number(row, 2)?,
            heads: parse(row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?)?,
            closed: closed.as_deref().map(parse).transpose()?,
            registered_at: time(row, 5)?,
        });
    }
    Ok(all)
}

fn to_batch(row: &Row<'_>) -> rusqlite::Result<Batch> {
    Ok(Batch {
        partition: PartitionId::new(row.get(0)?),
        writer: WriterId::from_u64(number(row, 1)?),
        seq: seq_at(row, 2)?,
        first_at: time(row, 3)?,
        last_at: time(row, 4)?,
        count: row.get(5)?,
        body: Bytes::from(row.get::<_, Vec<u8>>(6)?),
    })
}

fn read(
    connection: &Connection,
    partition: PartitionId,
    writer: WriterId,
    after: Seq,
    through: Seq,
    max_bytes: usize,
) -> Result<Vec<Batch>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {BATCH} FROM log WHERE partition = ?1 AND writer = ?2 AND seq > ?3 AND seq <= ?4 ORDER BY seq"
    ))?;
    let (partition, writer, after_seq) = key(partition, writer, after);
    let mut rows = statement.query(params![partition, writer, after_seq, int(through.as_u64())])?;
    let (mut batches, mut bytes, mut expected) = (Vec::new(), 0, after.next());
    while let Some(row) = rows.next()? {
        if seq_at(row, 2)? != expected {
            break;
        }
        let batch = to_batch(row)?;
        expected = expected.next();
        bytes += batch.body.len();
        if bytes > max_bytes && !batches.is_empty() {
            break;
        }
        batches.push(batch);
    }
    Ok(batches)
}

fn batch(
    connection: &Connection,
    partition: PartitionId,
    writer: WriterId,
    seq: Seq,
) -> Result<Option<Batch>, Fault> {
    let batch = connection
        .prepare_cached(&format!(
            "SELECT {BATCH} FROM log WHERE partition = ?1 AND writer = ?2 AND seq = ?3"
        ))?
        .query_row(key(partition, writer, seq), to_batch);
    Ok(batch.optional()?)
}

/// How far the tail reaches in one read, and whether there may be more.
fn tail(
    connection: &Connection,
    partition: PartitionId,
    writer: WriterId,
    after: Seq,
) -> Result<(Seq, bool), Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT seq FROM log WHERE partition = ?1 AND writer = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4",
    )?;
    let (partition, writer, after_seq) = key(partition, writer, after);
    let mut rows = statement.query(params![
        partition,
        writer,
        after_seq,
        sql_limit(TAIL_ROWS_PER_READ)
    ])?;
    let (mut end, mut walked) = (after, 0);
    while let Some(row) = rows.next()? {
        if seq_at(row, 0)? != end.next() {
            return Ok((end, false));
        }
        end = end.next();
        walked += 1;
    }
    Ok((end, walked == TAIL_ROWS_PER_READ))
}

fn batches_before(
    connection: &Connection,
    partition: PartitionId,
    before: Option<(Timestamp, WriterId, Seq)>,
    limit: usize,
) -> Result<Vec<Batch>, Fault> {
    let (at, writer, seq) = before.map_or((i64::MAX, 0, 0), |(at, writer, seq)| {
        (at.as_millis(), int(writer.as_u64()), int(seq.as_u64()))
    });
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {BATCH} FROM log WHERE partition = ?1 AND (last_at, writer, seq) < (?2, ?3, ?4)
         ORDER BY last_at DESC, writer DESC, seq DESC LIMIT ?5"
    ))?;
    let rows = statement.query_map(
        params![partition.as_u16(), at, writer, seq, sql_limit(limit)],
        to_batch,
    )?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn batches_after(
    connection: &Connection,
    partition: PartitionId,
    (at, writer, seq): (Timestamp, WriterId, Seq),
    limit: usize,
) -> Result<Vec<Batch>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {BATCH} FROM log WHERE partition = ?1 AND (last_at, writer, seq) > (?2, ?3, ?4)
         ORDER BY last_at, writer, seq LIMIT ?5"
    ))?;
    let key = params![
        partition.as_u16(),
        at.as_millis(),
        int(writer.as_u64()),
        int(seq.as_u64()),
        sql_limit(limit)
    ];
    let rows = statement.query_map(key, to_batch)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
