//! The log of scans: batches, and where they stand in time.
//!
//! A batch is one row, written under a timestamp that follows from the batch itself (its last record's time), so that a
//! repeated append is the same write. Beside it stands a row in the index by time, in a CQL partition of its own. The two
//! are sent at once and both acknowledged before the append is, so every acknowledged batch is found by time. One that
//! was never acknowledged can be read as the tail of a silent writer: what [`Log::tail`] finds it puts into the index.
//! Measured on a node of Apache Cassandra 5, a batch of 600 bytes costs it 70 to 120 µs of CPU without the index and 130 to
//! 170 µs with it; one of 64 KiB costs the same either way, and where it matters batches are large.
//!
//! A batch's key is written once, because a writer's id is new at every start, and a writer is one process. So nothing
//! is read before an append, except once for each segment: what is stored there already is compared with what comes.
//! Two processes that append under one writer's id at the same time are not noticed.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, try_join};
use scylla::{serialize::row::SerializeRow, statement::prepared::PreparedStatement, value::CqlTimestamp};

use super::{
    OpenError, ScyllaStore,
    rows::{Whole, count, int, partition as key, time, to_count, to_time},
    session::Cql,
};
use crate::{
    clock::Timestamp,
    id::{PartitionId, Seq, WriterId},
    store::{Batch, Heads, Log, Result, StoreError, WriterRow},
};

/// Batches in one CQL partition: 32 MiB of the largest.
const SEGMENT: u64 = 512;
/// Segments looked through at once, for the next batch behind a gap.
const SEGMENTS_AT_ONCE: usize = 8;
/// Bodies fetched at once, when batches are listed by time.
const BODIES_AT_ONCE: usize = 16;
/// Rows in a page of bodies: 4 MiB of the largest.
const BODIES_PER_PAGE: i32 = 64;
/// Streams and hours remembered; more than one process writes to.
const REMEMBERED_MAX: usize = 10_000;
const HOUR_MS: i64 = 3_600_000;

/// The columns of a batch beside those of its key.
const STORED: &str = "seq, first_at, last_at, count, body";
/// The same where only their being there counts: the body stays where it is.
const PRESENT: &str = "seq, first_at, last_at, count, WRITETIME(body)";

#[derive(Debug)]
pub(super) struct Statements {
    append: PreparedStatement,
    append_time: PreparedStatement,
    append_hour: PreparedStatement,
    read: PreparedStatement,
    one: PreparedStatement,
    first: PreparedStatement,
    last: PreparedStatement,
    times: PreparedStatement,
    hours_before: PreparedStatement,
    hours_after: PreparedStatement,
    before: PreparedStatement,
    after: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        let by_time = "SELECT last_at, writer, seq FROM log_by_time WHERE partition = ? AND hour = ?";
        Ok(Self {
            append: cql
                .prepare(
                    "INSERT INTO log (partition, writer, segment, seq, first_at, last_at, count, body) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TTL ? AND TIMESTAMP ?",
                )
                .await?,
            append_time: cql
                .prepare(
                    "INSERT INTO log_by_time (partition, hour, last_at, writer, seq) VALUES (?, ?, ?, ?, ?) \
                     USING TTL ? AND TIMESTAMP ?",
                )
                .await?,
            append_hour: cql
                .prepare("INSERT INTO log_hour (partition, hour) VALUES (?, ?) USING TTL ?")
                .await?,
            read: in_segment(cql, STORED, "AND seq > ? AND seq <= ?", BODIES_PER_PAGE).await?,
            one: in_segment(cql, STORED, "AND seq = ?", 1).await?,
            first: in_segment(cql, PRESENT, "AND seq > ? AND seq <= ? ORDER BY seq ASC", 1).await?,
            last: in_segment(cql, PRESENT, "ORDER BY seq DESC", 1).await?,
            times: in_segment(cql, PRESENT, "AND seq > ?", BODIES_PER_PAGE).await?,
            hours_before: cql
                .prepare("SELECT hour FROM log_hour WHERE partition = ? AND hour <= ? ORDER BY hour DESC")
                .await?,
            hours_after: cql
                .prepare("SELECT hour FROM log_hour WHERE partition = ? AND hour >= ? ORDER BY hour ASC")
                .await?,
            before: cql
                .prepare(&format!(
                    "{by_time} AND (last_at, writer, seq) < (?, ?, ?) \
                     ORDER BY last_at DESC, writer DESC, seq DESC LIMIT ?"
                ))
                .await?,
            after: cql
                .prepare(&format!(
                    "{by_time} AND (last_at, writer, seq) > (?, ?, ?) \
                     ORDER BY last_at ASC, writer ASC, seq ASC LIMIT ?"
                ))
                .await?,
        })
    }
}

/// Prepares a read of a segment's batches, with so many in a page.
async fn in_segment(
    cql: &Cql,
    columns: &str,
    which: &str,
    rows: i32,
) -> Result<PreparedStatement, OpenError> {
    let select =
        format!("SELECT {columns} FROM log WHERE partition = ? AND writer = ? AND segment = ? {which}");
    let mut prepared = cql.prepare(&select).await?;
    prepared.set_page_size(rows);
    Ok(prepared)
}

/// A stored batch: seq, first_at, last_at, count, body.
type Stored = (i64, CqlTimestamp, CqlTimestamp, i32, Vec<u8>);
/// One of which the body was left where it is.
type Present = (i64, CqlTimestamp, CqlTimestamp, i32, i64);

fn to_batch(partition: PartitionId, writer: WriterId, stored: Stored) -> Result<Batch> {
    let (seq, first_at, last_at, count, body) = stored;
    Ok(Batch {
        partition,
        writer,
        seq: Seq::new(seq.cast_unsigned()),
        first_at: to_time(first_at),
        last_at: to_time(last_at),
        count: to_count(count)?,
        body: Bytes::from(body),
    })
}

/// Where a batch stands in time.
type Place = (Timestamp, WriterId, Seq);

fn segment(seq: Seq) -> u64 {
    seq.as_u64() / SEGMENT
}

fn hour(at: Timestamp) -> i32 {
    count(at.as_millis() / HOUR_MS)
}

/// What this process knows of the log without reading it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Per stream: the segment written last, and the highest batch stored in it, or on its way there.
    highest: HashMap<(PartitionId, WriterId), (u64, Seq)>,
    /// Hours noted as having batches.
    hours: HashSet<(PartitionId, i32)>,
}

/// What is known of a batch before it is appended.
enum Known {
    /// Nothing is stored under its key.
    Free,
    /// Something may be.
    Perhaps,
    /// Its segment has to be looked at.
    Segment,
}

impl Memory {
    /// Takes a place in a stream.
    fn take(&mut self, batch: &Batch) -> Known {
        match self.highest.get_mut(&(batch.partition, batch.writer)) {
            Some((known, highest)) if *known == segment(batch.seq) => {
                if batch.seq <= *highest {
                    return Known::Perhaps;
                }
                *highest = batch.seq;
                Known::Free
            }
            _ => Known::Segment,
        }
    }

    fn learn(&mut self, batch: &Batch, highest: Seq) {
        if self.highest.len() >= REMEMBERED_MAX {
            self.highest.clear();
        }
        let stream = (batch.partition, batch.writer);
        self.highest.insert(stream, (segment(batch.seq), highest));
    }

    fn note(&mut self, hour: (PartitionId, i32)) {
        if self.hours.len() >= REMEMBERED_MAX {
            self.hours.clear();
        }
        self.hours.insert(hour);
    }
}

#[async_trait]
impl Log for ScyllaStore {
    async fn register_writer(&self, row: &WriterRow) -> Result<()> {
        self.register(row).await
    }

    async fn append(&self, batch: Batch) -> Result<()> {
        if !self.is_free(&batch).await? {
            let stored = self.batch(batch.partition, batch.writer, batch.seq).await?;
            if stored.is_some_and(|stored| stored != batch) {
                return Err(StoreError::Corrupt(format!(
                    "batch {} of writer {} in partition {} is stored with other bytes",
                    batch.seq, batch.writer, batch.partition
                )));
            }
        }
        try_join!(
            self.append_body(&batch),
            self.append_time(batch.partition, (batch.last_at, batch.writer, batch.seq))
        )?;
        Ok(())
    }

    async fn publish_heads(&self, writer: WriterId, beat: u64, heads: &Heads) -> Result<()> {
        self.publish(writer, beat, heads).await
    }

    async fn close_writer(&self, writer: WriterId, last: &Heads) -> Result<()> {
        self.close(writer, last).await
    }

    async fn fence_writer(&self, writer: WriterId) -> Result<()> {
        self.fence(writer).await
    }

    async fn is_fenced(&self, writer: WriterId) -> Result<bool> {
        self.fenced(writer).await
    }

    async fn writers(&self) -> Result<Vec<WriterRow>> {
        self.all_writers().await
    }

    async fn read(
        &self,
        partition: PartitionId,
        writer: WriterId,
        after: Seq,
        through: Seq,
        max_bytes: usize,
    ) -> Result<Vec<Batch>> {
        let (mut batches, mut bytes, mut next) = (Vec::new(), 0_usize, after.next());
        while next <= through {
            let mut damage = None;
            let of = segment(next);
            let enough = self
                .cql
                .rows_while(
                    &self.log.read,
                    (
                        key(partition),
                        int(writer.as_u64()),
                        int(of),
                        int(next.as_u64() - 1),
                        int(through.as_u64()),
                    ),
                    |Whole(row): Whole<Stored>| match row
                        .map(|row| to_batch(partition, writer, row))
                        .transpose()
                    {
                        Ok(Some(batch)) if batch.seq == next => {
                            bytes = bytes.saturating_add(batch.body.len());
                            if bytes > max_bytes && !batches.is_empty() {
                                return ControlFlow::Break(());
                            }
                            next = next.next();
                            batches.push(batch);
                            ControlFlow::Continue(())
                        }
                        Ok(_) => ControlFlow::Break(()),
                        Err(error) => {
                            damage = Some(error);
                            ControlFlow::Break(())
                        }
                    },
                )
                .await?;
            if let Some(error) = damage {
                return Err(error);
            }
            // The segment ended where the next one begins, or a batch is missing at its end.
            if enough || segment(next) == of {
                break;
            }
        }
        Ok(batches)
    }

    async fn batch(&self, partition: PartitionId, writer: WriterId, seq: Seq) -> Result<Option<Batch>> {
        let values = (
            key(partition),
            int(writer.as_u64()),
            int(segment(seq)),
            int(seq.as_u64()),
        );
        let stored: Option<Whole<Stored>> = self.cql.row(&self.log.one, values).await?;
        stored
            .and_then(|Whole(stored)| stored)
            .map(|stored| to_batch(partition, writer, stored))
            .transpose()
    }

    async fn next_seq(
        &self,
        partition: PartitionId,
        writer: WriterId,
        after: Seq,
        through: Seq,
    ) -> Result<Option<Seq>> {
        let mut looks = stream::iter(segment(after.next())..=segment(through))
            .map(|of| {
                let values = (
                    key(partition),
                    int(writer.as_u64()),
                    int(of),
                    int(after.as_u64()),
                    int(through.as_u64()),
                );
                self.first_present(&self.log.first, values)
            })
            .buffered(SEGMENTS_AT_ONCE);
        while let Some(found) = looks.try_next().await? {
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    async fn tail(&self, partition: PartitionId, writer: WriterId, after: Seq) -> Result<Seq> {
        let mut end = after;
        loop {
            let of = segment(end.next());
            let mut places = Vec::new();
            let values = (key(partition), int(writer.as_u64()), int(of), int(end.as_u64()));
            self.cql
                .rows_while(&self.log.times, values, |Whole(row): Whole<Present>| match row {
                    Some((seq, _, last_at, ..)) if seq.cast_unsigned() == end.next().as_u64() => {
                        end = end.next();
                        places.push((to_time(last_at), writer, end));
                        ControlFlow::Continue(())
                    }
                    _ => ControlFlow::Break(()),
                })
                .await?;
            stream::iter(places)
                .map(|place| self.append_time(partition, place))
                .buffer_unordered(BODIES_AT_ONCE)
                .try_collect::<()>()
                .await?;
            if segment(end.next()) == of {
                return Ok(end);
            }
        }
    }

    async fn batches_before(
        &self,
        partition: PartitionId,
        before: Option<Place>,
        limit: usize,
    ) -> Result<Vec<Batch>> {
        let end = (
            Timestamp::from_millis(i64::MAX),
            WriterId::from_u64(u64::MAX),
            Seq::new(u64::MAX),
        );
        self.by_time(
            partition,
            before.unwrap_or(end),
            limit,
            (&self.log.hours_before, &self.log.before),
        )
        .await
    }

    async fn batches_after(&self, partition: PartitionId, after: Place, limit: usize) -> Result<Vec<Batch>> {
        self.by_time(partition, after, limit, (&self.log.hours_after, &self.log.after))
            .await
    }
}

impl ScyllaStore {
    /// Whether nothing can be stored under a batch's key.
    async fn is_free(&self, batch: &Batch) -> Result<bool> {
        loop {
            match self.log_memory().take(batch) {
                Known::Free => return Ok(true),
                Known::Perhaps => return Ok(false),
                Known::Segment => {}
            }
            let of = int(segment(batch.seq));
            let values = (key(batch.partition), int(batch.writer.as_u64()), of);
            let highest = self.first_present(&self.log.last, values).await?;
            self.log_memory().learn(batch, highest.unwrap_or_default());
        }
    }

    /// The first batch that a read finds.
    async fn first_present(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Option<Seq>> {
        let mut first = None;
        self.cql
            .rows_while(statement, values, |Whole(row): Whole<Present>| {
                first = row.map(|(seq, ..)| Seq::new(seq.cast_unsigned()));
                first.map_or(ControlFlow::Continue(()), |_| ControlFlow::Break(()))
            })
            .await?;
        Ok(first)
    }

    fn log_memory(&self) -> MutexGuard<'_, Memory> {
        self.log_memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn append_body(&self, batch: &Batch) -> Result<()> {
        let values = (
            key(batch.partition),
            int(batch.writer.as_u64()),
            int(segment(batch.seq)),
            int(batch.seq.as_u64()),
            time(batch.first_at),
            time(batch.last_at),
            i32::from(batch.count),
            &batch.body[..],
            self.ttl,
            written_at(batch.last_at),
        );
        self.cql.execute(&self.log.append, values).await
    }

    /// Puts a batch into the index by time.
    async fn append_time(&self, partition: PartitionId, (at, writer, seq): Place) -> Result<()> {
        let hour = (partition, hour(at));
        let place = (
            key(partition),
            hour.1,
            time(at),
            int(writer.as_u64()),
            int(seq.as_u64()),
            self.ttl,
            written_at(at),
        );
        let append = self.cql.execute(&self.log.append_time, place);
        if self.log_memory().hours.contains(&hour) {
            return append.await;
        }
        // The hour's row outlives all of the hour's batches: it is written within the hour, or again after a restart.
        let note = self.cql.execute(
            &self.log.append_hour,
            (key(partition), hour.1, self.ttl.saturating_add(7200)),
        );
        try_join!(append, note)?;
        self.log_memory().note(hour);
        Ok(())
    }

    /// Batches from a place in time on, in the order of the statements: one for hours, one for places within an hour.
    async fn by_time(
        &self,
        partition: PartitionId,
        from: Place,
        limit: usize,
        (hours, places): (&PreparedStatement, &PreparedStatement),
    ) -> Result<Vec<Batch>> {
        let values = (key(partition), hour(from.0));
        let hours: Vec<(i32,)> = self.cql.rows(hours, values).await?;
        let (mut batches, mut hours) = (Vec::new(), hours.into_iter().peekable());
        let mut from = from;
        while let Some((hour,)) = hours.peek().copied()
            && batches.len() < limit
        {
            let wanted = limit - batches.len();
            let (at, writer, seq) = from;
            let values = (
                key(partition),
                hour,
                time(at),
                int(writer.as_u64()),
                int(seq.as_u64()),
                count(wanted),
            );
            let found: Vec<(CqlTimestamp, i64, i64)> = self.cql.rows(places, values).await?;
            let found: Vec<Place> = found
                .into_iter()
                .map(|(at, writer, seq)| {
                    let writer = WriterId::from_u64(writer.cast_unsigned());
                    (to_time(at), writer, Seq::new(seq.cast_unsigned()))
                })
                .collect();
            if found.len() < wanted {
                hours.next();
            }
            from = found.last().copied().unwrap_or(from);
            // One without a body was never acknowledged: its index row came first.
            let bodies: Vec<Option<Batch>> = stream::iter(found)
                .map(|(_, writer, seq)| self.batch(partition, writer, seq))
                .buffered(BODIES_AT_ONCE)
                .try_collect()
                .await?;
            batches.extend(bodies.into_iter().flatten());
        }
        Ok(batches)
    }
}

/// The timestamp of a batch's writes, in microseconds: always the same for the same batch.
fn written_at(last_at: Timestamp) -> i64 {
    last_at.as_millis().saturating_mul(1000)
}

/// [`Memory`], shared.
pub(super) type SharedMemory = Mutex<Memory>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_what_is_there_asks_for_every_column_of_a_batch() {
        for column in STORED.split(", ") {
            assert!(PRESENT.contains(column), "{column}");
        }
    }
}
