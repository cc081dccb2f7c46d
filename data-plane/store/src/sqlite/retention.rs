//! Retention: what is old leaves, in steps so small that no commit waits long for one.
//!
//! A step is a transaction of the file's writer thread, bounded in rows and bytes; between steps there is a pause.
//! Batches, attempts, reported conversions and configuration rows go by age. Request ids go when they expire, commands and unnamed chunks
//! after a day, and a writer's row once it is closed, old, and none of its batches is left. Registry rows stay.
//!
//! Freed pages are used again; when a quarter of a file is free, it is made smaller, in steps too.

use std::{sync::Arc, time::Duration};

use rusqlite::{Connection, params};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    SqliteStore,
    fault::Fault,
    rows::parse,
    writer::{Atomicity, Writer},
};
use crate::{
    clock::Timestamp,
    limits,
    store::{Heads, Result},
};

/// Runs retention until stopped: a pass a minute. `keep`: how long events, attempts and configuration rows stay.
pub async fn run(store: Arc<SqliteStore>, keep: Duration, stop: CancellationToken) {
    loop {
        let pass = async {
            match store.expire(keep).await {
                Ok(0) => {}
                Ok(rows) => tracing::debug!(rows, "retention removed old rows"),
                Err(error) => tracing::warn!(%error, "retention could not finish; trying again later"),
            }
            sleep(limits::RETENTION_PERIOD).await;
        };
        if stop.run_until_cancelled(pass).await.is_none() {
            return;
        }
    }
}

/// One step: removes some rows and says how many; none means that it is done.
type Step = fn(&Connection, Timestamp) -> Result<u64, Fault>;

impl SqliteStore {
    /// One pass: removes everything that is older than its time, and returns how many rows that were.
    ///
    /// # Errors
    /// When the store fails; what was removed before stays removed.
    pub async fn expire(&self, keep: Duration) -> Result<u64> {
        let now = self.clock.now();
        let aged = now.before(keep);
        let (log, main) = (&self.log_writer, &self.main_writer);
        let steps: [(&Writer, Step, Timestamp); 8] = [
            (log, batches, aged),
            (log, writers, aged),
            (main, attempts, aged),
            (main, config_rows, aged),
            (main, conversions, aged),
            (main, requests, now),
            (main, commands, now.before(limits::COMMANDS_KEPT)),
            (main, chunks, now.before(limits::CHUNK_UNNAMED_KEPT)),
        ];
        let mut removed = 0;
        for (writer, step, before) in steps {
            removed += repeat(writer, move |connection| step(connection, before)).await?;
        }
        if removed > 0 {
            // What is gone from the file is gone.
            self.recent.clear(aged);
        }
        for writer in [log, main] {
            repeat(writer, shrink).await?;
        }
        metrics::counter!("qrelay_store_expired_rows_total").increment(removed);
        Ok(removed)
    }
}

async fn repeat(
    writer: &Writer,
    step: impl Fn(&Connection) -> Result<u64, Fault> + Copy + Send + 'static,
) -> Result<u64> {
    let mut all = 0;
    loop {
        match writer.submit(Atomicity::Savepoint, step).await? {
            0 => return Ok(all),
            some => all += some,
        }
        sleep(limits::RETENTION_STEP_PAUSE).await;
    }
}

/// Deletes what `select` finds (row id and size in bytes) until a step's bound is reached.
fn delete(
    connection: &Connection,
    select: &str,
    delete: &str,
    bind: impl rusqlite::Params,
) -> Result<u64, Fault> {
    let mut select = connection.prepare_cached(select)?;
    let mut delete = connection.prepare_cached(delete)?;
    let mut found = select.query(bind)?;
    let (mut ids, mut bytes) = (Vec::new(), 0_u64);
    while let Some(row) = found.next()? {
        ids.push(row.get::<_, i64>(0)?);
        bytes += row.get::<_, u32>(1).map(u64::from)?;
        if bytes >= limits::RETENTION_BYTES_PER_STEP {
            break;
        }
    }
    drop(found);
    let mut rows = 0;
    for id in ids {
        delete.execute([id])?;
        rows += 1;
    }
    Ok(rows)
}

/// The partitions that have batches.
fn partitions(connection: &Connection) -> Result<Vec<u16>, Fault> {
    let mut next = connection.prepare_cached("SELECT min(partition) FROM log WHERE partition > ?1")?;
    let (mut all, mut last) = (Vec::new(), -1_i64);
    while let Some(partition) = next.query_row([last], |row| row.get::<_, Option<u16>>(0))? {
        all.push(partition);
        last = i64::from(partition);
    }
    Ok(all)
}

pub(super) fn batches(connection: &Connection, before: Timestamp) -> Result<u64, Fault> {
    for partition in partitions(connection)? {
        let rows = delete(
            connection,
            "SELECT id, octet_length(body) FROM log WHERE partition = ?1 AND last_at < ?2
             ORDER BY last_at, writer, seq LIMIT ?3",
            "DELETE FROM log WHERE id = ?1",
            params![partition, before.as_millis(), limits::RETENTION_ROWS_PER_STEP],
        )?;
        if rows > 0 {
            return Ok(rows);
        }
    }
    Ok(0)
}

fn writers(connection: &Connection, before: Timestamp) -> Result<u64, Fault> {
    let mut old = connection.prepare_cached(
        "SELECT writer, closed FROM writer WHERE closed IS NOT NULL AND registered_at < ?1",
    )?;
    let mut rows = old.query([before.as_millis()])?;
    let mut empty = Vec::new();
    let shared = partitions(connection)?;
    let mut has_batch = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM log WHERE partition = ?1 AND writer = ?2)")?;
    while let Some(row) = rows.next()? {
        let writer: i64 = row.get(0)?;
        let closed: Heads = parse(&row.get::<_, String>(1)?)?;
        let own = closed.keys().map(|partition| partition.as_u16());
        let mut any = false;
        for partition in shared.iter().copied().chain(own) {
            any |= has_batch.query_row(params![partition, writer], |found| found.get::<_, bool>(0))?;
        }
        if !any {
            empty.push(writer);
        }
    }
    drop(rows);
    let mut delete = connection.prepare_cached("DELETE FROM writer WHERE writer = ?1")?;
    let mut removed = 0;
    for writer in empty
        .into_iter()
        .take(usize::try_from(limits::RETENTION_ROWS_PER_STEP).unwrap_or(usize::MAX))
    {
        delete.execute([writer])?;
        removed += 1;
    }
    Ok(removed)
}

fn attempts(connection: &Connection, before: Timestamp) -> Result<u64, Fault> {
    delete(
        connection,
        "SELECT rowid, octet_length(response_body) + octet_length(detail) FROM attempt
         WHERE first_at < ?1 ORDER BY first_at LIMIT ?2",
        "DELETE FROM attempt WHERE rowid = ?1",
        params![before.as_millis(), limits::RETENTION_ROWS_PER_STEP],
    )
}

/// From the beginning and without holes: what stays is gap-free.
fn config_rows(connection: &Connection, before: Timestamp) -> Result<u64, Fault> {
    let mut select = connection.prepare_cached("SELECT seq, at FROM config_log ORDER BY seq LIMIT ?1")?;
    let mut rows = select.query([limits::RETENTION_ROWS_PER_STEP])?;
    let (mut last, mut removed) = (0_i64, 0);
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? >= before.as_millis() {
            break;
        }
        last = row.get(0)?;
        removed += 1;
    }
    drop(rows);
    if removed > 0 {
        connection
            .prepare_cached("DELETE FROM config_event WHERE seq <= ?1")?
            .execute([last])?;
        connection
            .prepare_cached("DELETE FROM config_log WHERE seq <= ?1")?
            .execute([last])?;
    }
    Ok(removed)
}

fn requests(connection: &Connection, now: Timestamp) -> Result<u64, Fault> {
    let removed = connection
        .prepare_cached(
            "DELETE FROM request WHERE (scope, rpc, request_id) IN
                 (SELECT scope, rpc, request_id FROM request WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
        )?
        .execute(params![now.as_millis(), limits::RETENTION_ROWS_PER_STEP])?;
    Ok(u64::try_from(removed).unwrap_or(u64::MAX))
}

fn commands(connection: &Connection, before: Timestamp) -> Result<u64, Fault> {
    delete(
        connection,
        "SELECT rowid, coalesce(octet_length(result), 0) FROM command
         WHERE created_at < ?1 ORDER BY created_at LIMIT ?2",
        "DELETE FROM command WHERE rowid = ?1",
        params![before.as_millis(), limits::RETENTION_ROWS_PER_STEP],
    )
}

fn conversions(connection: &Connection, before: Timestamp) -> Result<u64, Fault> {
    delete(
        connection,
        "SELECT rowid, octet_length(doc) FROM conversion WHERE at < ?1 ORDER BY at LIMIT ?2",
        "DELETE FROM conversion WHERE rowid = ?1",
        params![before.as_millis(), limits::RETENTION_ROWS_PER_STEP],
    )
}

fn chunks(connection: &Connection, before: Timestamp) -> Result<u64, Fault> {
    delete(
        connection,
        "SELECT chunk.rowid, octet_length(chunk.body) FROM chunk
         WHERE chunk.created_at < ?1 AND NOT EXISTS (SELECT 1 FROM checkpoint AS row
             WHERE row.partition = chunk.partition AND row.kind = 'chunk' AND row.id = chunk.name)
         ORDER BY chunk.created_at LIMIT ?2",
        "DELETE FROM chunk WHERE rowid = ?1",
        params![before.as_millis(), limits::RETENTION_ROWS_PER_STEP],
    )
}

/// Gives pages back to the file system when a quarter of the file is free.
fn shrink(connection: &Connection) -> Result<u64, Fault> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let (free, all) = (number("freelist_count")?, number("page_count")?);
    if free < limits::VACUUM_FREE_PAGES_MIN || free < all / 4 {
        return Ok(0);
    }
    let mut vacuum = connection.prepare(&format!(
        "PRAGMA incremental_vacuum({})",
        limits::VACUUM_PAGES_PER_STEP
    ))?;
    let mut pages = vacuum.query([])?;
    while pages.next()?.is_some() {}
    drop(pages);
    let left: u32 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    Ok(u64::from(free.saturating_sub(left)))
}
