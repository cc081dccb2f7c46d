//! The configuration log, in `main.db`. It is written by [`super::change`], and by announcements of endpoints' health,
//! which change no row.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    SqliteStore,
    fault::Fault,
    rows::{document, int, limit as sql_limit, number, parse},
    writer::Atomicity,
};
use crate::{
    id::{ConfigSeq, TenantId},
    model::ResourceId,
    store::{ConfigChange, ConfigLog, ConfigRow, Result},
};

/// How far the configuration log may reach. Only this process writes it, so who follows it asks here first, and the file
/// only when there may be news.
///
/// Invariant: never behind what is committed. It may be ahead of it for a moment, or when a commit failed: then the file is
/// asked in vain until the next change.
#[derive(Clone, Debug)]
pub(super) struct ConfigEnd(Arc<AtomicU64>);

impl ConfigEnd {
    /// What an opened file holds.
    pub(super) fn at(head: ConfigSeq) -> Self {
        Self(Arc::new(AtomicU64::new(head.as_u64())))
    }

    /// Before the commit of a row, so that nobody who sees the commit's effects misses it.
    pub(super) fn raise(&self, seq: ConfigSeq) {
        self.0.fetch_max(seq.as_u64(), Ordering::AcqRel);
    }

    fn is_past(&self, after: ConfigSeq) -> bool {
        self.0.load(Ordering::Acquire) > after.as_u64()
    }
}

#[async_trait]
impl ConfigLog for SqliteStore {
    async fn config_head(&self) -> Result<ConfigSeq> {
        self.main_reads.read(head).await
    }

    async fn config_after(&self, after: ConfigSeq, limit: usize) -> Result<Vec<ConfigRow>> {
        if !self.config_end.is_past(after) {
            return Ok(Vec::new());
        }
        self.main_reads
            .read(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT seq, changes FROM config_log WHERE seq > ?1 ORDER BY seq LIMIT ?2",
                )?;
                let mut rows = statement.query(params![int(after.as_u64()), sql_limit(limit)])?;
                let mut all = Vec::new();
                while let Some(row) = rows.next()? {
                    all.push(ConfigRow {
                        seq: ConfigSeq::new(number(row, 0)?),
                        changes: parse(&row.get::<_, String>(1)?)?,
                    });
                }
                Ok(all)
            })
            .await
    }

    async fn config_row(&self, seq: ConfigSeq) -> Result<Option<ConfigRow>> {
        self.main_reads.read(move |connection| row(connection, seq)).await
    }

    async fn announce_health(&self, change: &ConfigChange) -> Result<Option<ConfigSeq>> {
        let (change, end) = (change.clone(), self.config_end.clone());
        let seq = self
            .main_writer
            .submit(Atomicity::Savepoint, move |connection| {
                let announced = announce_health(connection, change)?;
                announced.into_iter().for_each(|seq| end.raise(seq));
                Ok(announced)
            })
            .await?;
        if let Some(seq) = seq {
            self.hints.publish_config(seq);
        }
        Ok(seq)
    }

    async fn config_events_before(
        &self,
        tenant: TenantId,
        before: Option<(ConfigSeq, u16)>,
        limit: usize,
    ) -> Result<Vec<(ConfigSeq, u16, ConfigChange)>> {
        self.main_lists
            .read(move |connection| events_before(connection, tenant, before, limit))
            .await
    }
}

/// The last row's number, from SQLite's own memory of what it gave.
pub(super) fn head(connection: &Connection) -> Result<ConfigSeq, Fault> {
    let head = connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'config_log'")?
        .query_row([], |row| number(row, 0));
    Ok(head.optional()?.map_or(ConfigSeq::ZERO, ConfigSeq::new))
}

/// Announces one change.
pub(super) fn announce(connection: &Connection, change: ConfigChange) -> Result<ConfigSeq, Fault> {
    let (at, tenant, makes_event) = (change.at, change.tenant, change.event.is_some());
    connection
        .prepare_cached("INSERT INTO config_log (at, changes) VALUES (?1, ?2)")?
        .execute(params![at.as_millis(), document(&vec![change])?])?;
    let seq = connection.last_insert_rowid();
    if makes_event {
        connection
            .prepare_cached("INSERT INTO config_event (tenant, seq, idx) VALUES (?1, ?2, 0)")?
            .execute(params![tenant.to_string(), seq])?;
    }
    Ok(ConfigSeq::new(seq.cast_unsigned()))
}

fn announce_health(connection: &Connection, change: ConfigChange) -> Result<Option<ConfigSeq>, Fault> {
    let (ResourceId::Endpoint(endpoint), Some(report)) = (change.resource, &change.health) else {
        return Err(Fault::Damaged("an announcement without a health".to_owned()));
    };
    let (endpoint, state) = (endpoint.to_string(), report.change.state.as_str());
    let told: Option<(i64, String)> = connection
        .prepare_cached("SELECT told_version, told_state FROM endpoint WHERE id = ?1 AND live")?
        .query_row([&endpoint], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((_, told_state)) = told.filter(|(version, _)| *version < int(change.version)) else {
        return Ok(None);
    };
    connection
        .prepare_cached("UPDATE endpoint SET told_version = ?2, told_state = ?3 WHERE id = ?1")?
        .execute(params![endpoint, int(change.version), state])?;
    if told_state == state {
        return Ok(None);
    }
    announce(connection, change).map(Some)
}

fn row(connection: &Connection, seq: ConfigSeq) -> Result<Option<ConfigRow>, Fault> {
    let changes: Option<String> = connection
        .prepare_cached("SELECT changes FROM config_log WHERE seq = ?1")?
        .query_row([int(seq.as_u64())], |row| row.get(0))
        .optional()?;
    let Some(changes) = changes else { return Ok(None) };
    Ok(Some(ConfigRow {
        seq,
        changes: parse(&changes)?,
    }))
}

fn events_before(
    connection: &Connection,
    tenant: TenantId,
    before: Option<(ConfigSeq, u16)>,
    limit: usize,
) -> Result<Vec<(ConfigSeq, u16, ConfigChange)>, Fault> {
    let (seq, index) = before.map_or((i64::MAX, 0), |(seq, index)| (int(seq.as_u64()), index));
    let mut statement = connection.prepare_cached(
        "SELECT event.seq, event.idx, log.changes
         FROM config_event AS event JOIN config_log AS log ON log.seq = event.seq
         WHERE event.tenant = ?1 AND (event.seq, event.idx) < (?2, ?3)
         ORDER BY event.seq DESC, event.idx DESC LIMIT ?4",
    )?;
    let mut rows = statement.query(params![tenant.to_string(), seq, index, sql_limit(limit)])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let (seq, index) = (ConfigSeq::new(number(row, 0)?), row.get::<_, u16>(1)?);
        let changes: Vec<ConfigChange> = parse(&row.get::<_, String>(2)?)?;
        let change = changes.into_iter().nth(usize::from(index)).ok_or_else(|| {
            Fault::Damaged(format!(
                "configuration row {} has no change {index}",
                seq.as_u64()
            ))
        })?;
        all.push((seq, index, change));
    }
    Ok(all)
}
