//! The writers' rows.
//!
//! Who a writer is (`node`, `registered_at`) is claimed by a condition. Its beat and heads are then published by plain
//! writes of the whole row, with this process's monotonic timestamps: only the writer's own process publishes, one
//! row after the other. `final` is set once, by a condition, and by nothing else. A fence is a row in a table of its own, so
//! that a writer which asks after every append reads one row and no more.

use std::collections::HashMap;

use futures::future::try_join_all;
use scylla::{statement::prepared::PreparedStatement, value::CqlTimestamp};

use super::{
    OpenError, ScyllaStore,
    rows::{document, int, parse, time, to_time},
    session::Cql,
};
use crate::{
    clock::Timestamp,
    id::WriterId,
    store::{Heads, Result, StoreError, WriterRow},
};

/// Writers are spread over so many CQL partitions, all of which are read each second by everybody who follows the log.
const BUCKETS: i8 = 8;
/// Writers remembered. A process has a few.
const REMEMBERED_MAX: usize = 1000;

#[derive(Debug)]
pub(super) struct Statements {
    register: PreparedStatement,
    publish: PreparedStatement,
    close: PreparedStatement,
    fence: PreparedStatement,
    fenced: PreparedStatement,
    one: PreparedStatement,
    all: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        let select = "SELECT writer, node, registered_at, beat, heads, final FROM writer WHERE bucket = ?";
        Ok(Self {
            register: cql
                .prepare_conditional(
                    "INSERT INTO writer (bucket, writer, node, registered_at) VALUES (?, ?, ?, ?) IF NOT EXISTS \
                     USING TTL ?",
                )
                .await?,
            publish: cql
                .prepare(
                    "INSERT INTO writer (bucket, writer, node, registered_at, beat, heads) \
                     VALUES (?, ?, ?, ?, ?, ?) USING TTL ?",
                )
                .await?,
            close: cql
                .prepare_conditional(
                    "UPDATE writer USING TTL ? SET final = ? WHERE bucket = ? AND writer = ? IF final = NULL",
                )
                .await?,
            fence: cql
                .prepare("INSERT INTO writer_fence (writer) VALUES (?) USING TTL ?")
                .await?,
            fenced: cql
                .prepare("SELECT writer FROM writer_fence WHERE writer = ?")
                .await?,
            one: cql.prepare(&format!("{select} AND writer = ?")).await?,
            all: cql.prepare(select).await?,
        })
    }
}

/// A stored row.
type Stored = (
    i64,
    Option<String>,
    Option<CqlTimestamp>,
    Option<i64>,
    Option<String>,
    Option<String>,
);

/// Writers that this process publishes for: their rows as they were written last.
pub(super) type Memory = tokio::sync::Mutex<HashMap<WriterId, WriterRow>>;

fn bucket(writer: WriterId) -> i8 {
    i8::try_from(writer.as_u64() % BUCKETS.unsigned_abs() as u64).unwrap_or(0)
}

/// A writer's row. None for one whose time to live has taken all but `final`.
fn to_row((writer, node, registered_at, beat, heads, last): Stored) -> Result<Option<WriterRow>> {
    let (Some(node), Some(registered_at)) = (node, registered_at) else {
        return Ok(None);
    };
    Ok(Some(WriterRow {
        writer: WriterId::from_u64(writer.cast_unsigned()),
        node,
        beat: beat.unwrap_or(0).cast_unsigned(),
        heads: heads.as_deref().map(parse).transpose()?.unwrap_or_default(),
        closed: last.as_deref().map(parse).transpose()?,
        registered_at: to_time(registered_at),
    }))
}

fn remember(known: &mut HashMap<WriterId, WriterRow>, row: WriterRow) {
    if known.len() >= REMEMBERED_MAX {
        known.clear();
    }
    known.insert(row.writer, row);
}

impl ScyllaStore {
    pub(super) async fn register(&self, row: &WriterRow) -> Result<()> {
        let (bucket, id) = (bucket(row.writer), int(row.writer.as_u64()));
        let values = (bucket, id, &row.node, time(row.registered_at), self.ttl);
        let made = self.cql.decide(&self.writers.register, values).await?;
        if !made.applied {
            // A repeated registration finds its own row, perhaps with later heads; anybody else's is a clash of ids.
            let node = made.columns.text("node")?;
            let at = made.columns.number("registered_at")?.map(Timestamp::from_millis);
            if node.as_ref() != Some(&row.node) || at != Some(row.registered_at) {
                return Err(StoreError::Corrupt(format!(
                    "another writer has the id {}",
                    row.writer
                )));
            }
        }
        if row.beat > 0 || !row.heads.is_empty() {
            self.publish(row.writer, row.beat, &row.heads).await?;
        }
        match &row.closed {
            Some(last) => self.close(row.writer, last).await,
            None => Ok(()),
        }
    }

    pub(super) async fn publish(&self, writer: WriterId, beat: u64, heads: &Heads) -> Result<()> {
        // Held until the row is written, so that of two calls the later one's row is the newer.
        let mut known = self.writer_memory.lock().await;
        let mut row = match known.get(&writer) {
            Some(row) => row.clone(),
            None => self.writer(writer).await?,
        };
        for (partition, seq) in heads {
            let head = row.heads.entry(*partition).or_default();
            *head = (*seq).max(*head);
        }
        row.beat = beat;
        let values = (
            bucket(writer),
            int(writer.as_u64()),
            &row.node,
            time(row.registered_at),
            int(beat),
            document(&row.heads)?,
            self.ttl,
        );
        self.cql.execute(&self.writers.publish, values).await?;
        remember(&mut known, row);
        Ok(())
    }

    pub(super) async fn close(&self, writer: WriterId, last: &Heads) -> Result<()> {
        let row = self.writer(writer).await?;
        if row.closed.is_none() {
            // The row lives as long as its last word.
            self.publish(writer, row.beat, &Heads::new()).await?;
        }
        let values = (self.ttl, document(last)?, bucket(writer), int(writer.as_u64()));
        self.cql.decide(&self.writers.close, values).await.map(drop)
    }

    pub(super) async fn fence(&self, writer: WriterId) -> Result<()> {
        let values = (int(writer.as_u64()), self.ttl);
        self.cql.execute(&self.writers.fence, values).await
    }

    pub(super) async fn fenced(&self, writer: WriterId) -> Result<bool> {
        let found: Option<(i64,)> = self
            .cql
            .row(&self.writers.fenced, (int(writer.as_u64()),))
            .await?;
        Ok(found.is_some())
    }

    pub(super) async fn all_writers(&self) -> Result<Vec<WriterRow>> {
        let buckets = (0..BUCKETS).map(|bucket| self.cql.rows::<Stored>(&self.writers.all, (bucket,)));
        let mut all = Vec::new();
        for row in try_join_all(buckets).await?.into_iter().flatten() {
            all.extend(to_row(row)?);
        }
        all.sort_unstable_by_key(|row| row.writer);
        Ok(all)
    }

    async fn writer(&self, writer: WriterId) -> Result<WriterRow> {
        let values = (bucket(writer), int(writer.as_u64()));
        let row: Option<Stored> = self.cql.row(&self.writers.one, values).await?;
        let found = row.map_or(Ok(None), to_row)?;
        found.ok_or_else(|| StoreError::Corrupt(format!("writer {writer} is not registered")))
    }
}
