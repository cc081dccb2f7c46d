//! The configuration log: rows in one order without gaps, in CQL partitions of 512.
//!
//! Rows leave by their time to live, from the beginning on; what is there has no gaps. Who appends is
//! [`super::registry`]'s.

use async_trait::async_trait;
use scylla::statement::{Consistency, prepared::PreparedStatement};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::{
    OpenError, ScyllaStore,
    registry::{Steps, document, parse},
    session::Cql,
};
use crate::{
    id::{ConfigSeq, TenantId},
    limits,
    model::ResourceId,
    store::{ConfigChange, ConfigLog, ConfigRow, Result},
};

/// A change in the configuration log: its row, and its index in that.
pub(super) type Place = (ConfigSeq, u16);

/// Where a change stands.
pub(super) fn place(seq: u64, index: usize) -> Place {
    let index = u16::try_from(index).expect("invariant: a row has 256 changes at most");
    (ConfigSeq::new(seq), index)
}

/// A change as it is written: with the attempt that made it, so that whoever made it finds it again.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Written<'a> {
    pub(super) by: &'a str,
    #[serde(flatten)]
    pub(super) change: &'a ConfigChange,
}

/// Which change one is, and whose, without what it says.
#[derive(Debug, Deserialize)]
pub(super) struct Which {
    pub(super) resource: ResourceId,
    pub(super) version: u64,
    #[serde(default)]
    pub(super) health: Option<IgnoredAny>,
    #[serde(default)]
    pub(super) by: String,
}

/// A row, of whose changes a reader takes what it needs.
#[derive(Debug)]
pub(super) struct LogRow<T> {
    pub(super) seq: u64,
    pub(super) changes: Vec<T>,
}

/// The tables of the configuration log.
#[derive(Debug)]
pub(super) struct ConfigRows {
    ttl: i32,
    insert: PreparedStatement,
    read: PreparedStatement,
    one: PreparedStatement,
    one_for_sure: PreparedStatement,
    last: PreparedStatement,
    head: PreparedStatement,
    put_head: PreparedStatement,
    put_event: PreparedStatement,
    events: PreparedStatement,
}

/// The CQL partition of a row.
fn bucket(seq: u64) -> i64 {
    (seq.max(1) - 1).cast_signed() / limits::CONFIG_ROWS_PER_BUCKET
}

/// The last row of a CQL partition.
fn end(bucket: i64) -> u64 {
    ((bucket + 1) * limits::CONFIG_ROWS_PER_BUCKET).cast_unsigned()
}

fn row<T: DeserializeOwned>((seq, changes): (i64, String)) -> Result<LogRow<T>> {
    Ok(LogRow {
        seq: seq.cast_unsigned(),
        changes: parse(&changes)?,
    })
}

impl From<LogRow<ConfigChange>> for ConfigRow {
    fn from(row: LogRow<ConfigChange>) -> Self {
        Self {
            seq: ConfigSeq::new(row.seq),
            changes: row.changes,
        }
    }
}

impl ConfigRows {
    /// `ttl`: how long rows are kept, in seconds.
    pub(super) async fn prepare(cql: &Cql, ttl: i32) -> Result<Self, OpenError> {
        let one = "SELECT seq, changes FROM config_log WHERE bucket = ? AND seq = ?";
        let mut one_for_sure = cql.prepare(one).await?;
        one_for_sure.set_consistency(Consistency::LocalSerial);
        Ok(Self {
            ttl,
            insert: cql
                .prepare_conditional(
                    "INSERT INTO config_log (bucket, seq, changes) VALUES (?, ?, ?) IF NOT EXISTS USING TTL ?",
                )
                .await?,
            read: cql
                .prepare("SELECT seq, changes FROM config_log WHERE bucket = ? AND seq >= ? LIMIT ?")
                .await?,
            one: cql.prepare(one).await?,
            one_for_sure,
            last: cql
                .prepare("SELECT seq FROM config_log WHERE bucket = ? AND seq > ? ORDER BY seq DESC LIMIT 1")
                .await?,
            head: cql.prepare("SELECT seq FROM config_head WHERE one = 1").await?,
            put_head: cql
                .prepare("INSERT INTO config_head (one, seq) VALUES (1, ?) USING TIMESTAMP ?")
                .await?,
            put_event: cql
                .prepare("INSERT INTO config_event (tenant, seq, idx, change) VALUES (?, ?, ?, ?) USING TTL ?")
                .await?,
            events: cql
                .prepare(
                    "SELECT seq, idx, change FROM config_event WHERE tenant = ? AND (seq, idx) < (?, ?) LIMIT ?",
                )
                .await?,
        })
    }

    /// Inserts a row where none is. False when one is, which may be this.
    pub(super) async fn insert(&self, steps: &Steps, seq: u64, changes: &[Written<'_>]) -> Result<bool> {
        let values = (bucket(seq), seq.cast_signed(), document(&changes)?, self.ttl);
        steps.decide(&self.insert, values).await
    }

    /// Notes where a change stands: the log's end, and the event that it makes.
    pub(super) async fn note(&self, steps: &Steps, at: Place, change: &ConfigChange) -> Result<()> {
        let seq = at.0.as_u64().cast_signed();
        steps.write(&self.put_head, (seq, seq)).await?;
        if change.event.is_none() {
            return Ok(());
        }
        let values = (
            change.tenant.to_string(),
            seq,
            i32::from(at.1),
            document(change)?,
            self.ttl,
        );
        steps.write(&self.put_event, values).await
    }

    /// The last row that was noted. What stands behind it is of changes that are under way, or were left.
    pub(super) async fn noted(&self, steps: &Steps) -> Result<u64> {
        let noted: Option<(i64,)> = steps.row(&self.head, ()).await?;
        Ok(noted.map_or(0, |(seq,)| seq.cast_unsigned()))
    }

    /// The last row's number, which is `known` or behind it.
    pub(super) async fn head(&self, steps: &Steps, known: ConfigSeq) -> Result<ConfigSeq> {
        let mut head = self.noted(steps).await?.max(known.as_u64());
        loop {
            let in_bucket = bucket(head + 1);
            let last: Option<(i64,)> = steps.row(&self.last, (in_bucket, head.cast_signed())).await?;
            match last {
                None => return Ok(ConfigSeq::new(head)),
                Some((last,)) => head = last.cast_unsigned(),
            }
            if head < end(in_bucket) {
                return Ok(ConfigSeq::new(head));
            }
        }
    }

    /// Rows after `after` without gaps, at most `limit`. Where rows have left, those that stayed.
    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        steps: &Steps,
        after: u64,
        limit: usize,
    ) -> Result<Vec<LogRow<T>>> {
        let all = self.read_from(steps, after, limit).await?;
        match all.first() {
            Some(first) if first.seq == after + 1 => return Ok(all),
            // `after` is there, and nothing behind it.
            None if after > 0 && self.row(steps, ConfigSeq::new(after)).await?.is_some() => return Ok(all),
            _ => {}
        }
        let head = self.head(steps, ConfigSeq::ZERO).await?.as_u64();
        if head <= after || self.is_there(steps, after + 1).await? {
            // The next one came just now.
            return self.read_from(steps, after, limit).await;
        }
        if !all.is_empty() {
            return Ok(all);
        }
        // Whole CQL partitions have left: those that have not are a tail.
        let (mut none, mut some) = (bucket(after + 1), bucket(head));
        while none + 1 < some {
            let middle = none + (some - none) / 2;
            let before = middle * limits::CONFIG_ROWS_PER_BUCKET;
            let found: Option<(i64,)> = steps.row(&self.last, (middle, before)).await?;
            match found {
                Some(_) => some = middle,
                None => none = middle,
            }
        }
        let before = (some * limits::CONFIG_ROWS_PER_BUCKET).cast_unsigned();
        self.read_from(steps, before.max(after), limit).await
    }

    /// Rows after `after`, from the first that is there in its CQL partition to the first gap.
    async fn read_from<T: DeserializeOwned>(
        &self,
        steps: &Steps,
        after: u64,
        limit: usize,
    ) -> Result<Vec<LogRow<T>>> {
        let mut all: Vec<LogRow<T>> = Vec::new();
        let mut next = after + 1;
        while all.len() < limit {
            let in_bucket = bucket(next);
            let more = i32::try_from(limit - all.len()).unwrap_or(i32::MAX);
            let found: Vec<(i64, String)> = steps
                .rows(&self.read, (in_bucket, next.cast_signed(), more))
                .await?;
            for found in found {
                let row: LogRow<T> = row(found)?;
                if !all.is_empty() && row.seq != next {
                    return Ok(all);
                }
                next = row.seq + 1;
                all.push(row);
            }
            if all.is_empty() || next <= end(in_bucket) {
                break;
            }
        }
        Ok(all)
    }

    /// Where the first of the changes behind `after`, up to `through`, stands that is `wanted`.
    pub(super) async fn find(
        &self,
        steps: &Steps,
        mut after: u64,
        through: u64,
        wanted: impl Fn(&Which) -> bool,
    ) -> Result<Option<Place>> {
        while after < through {
            let rows: Vec<LogRow<Which>> = self.read(steps, after, limits::CONFIG_ROWS_SEARCHED).await?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            for row in &rows {
                if let Some(index) = row.changes.iter().position(&wanted) {
                    return Ok(Some(place(row.seq, index)));
                }
            }
        }
        Ok(None)
    }

    /// Whether a row is there, whatever is on its way.
    async fn is_there(&self, steps: &Steps, seq: u64) -> Result<bool> {
        let key = (bucket(seq), seq.cast_signed());
        let found: Option<(i64, String)> = steps.row(&self.one_for_sure, key).await?;
        Ok(found.is_some())
    }

    /// One row.
    async fn row(&self, steps: &Steps, seq: ConfigSeq) -> Result<Option<ConfigRow>> {
        let key = (bucket(seq.as_u64()), seq.as_u64().cast_signed());
        let found: Option<(i64, String)> = steps.row(&self.one, key).await?;
        found.map(|found| row(found).map(ConfigRow::from)).transpose()
    }
}

#[async_trait]
impl ConfigLog for ScyllaStore {
    async fn config_head(&self) -> Result<ConfigSeq> {
        self.registry.config_head().await
    }

    async fn config_after(&self, after: ConfigSeq, limit: usize) -> Result<Vec<ConfigRow>> {
        let (rows, steps) = self.registry.config_rows();
        let found = rows.read(steps, after.as_u64(), limit).await?;
        Ok(found.into_iter().map(ConfigRow::from).collect())
    }

    async fn config_row(&self, seq: ConfigSeq) -> Result<Option<ConfigRow>> {
        let (rows, steps) = self.registry.config_rows();
        rows.row(steps, seq).await
    }

    async fn announce_health(&self, change: &ConfigChange) -> Result<Option<ConfigSeq>> {
        let seq = self.registry.announce_health(change).await?;
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
        let (rows, steps) = self.registry.config_rows();
        let (seq, index) = before.map_or((i64::MAX, 0), |(seq, index)| {
            (seq.as_u64().cast_signed(), i32::from(index))
        });
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let found: Vec<(i64, i32, String)> = steps
            .rows(&rows.events, (tenant.to_string(), seq, index, limit))
            .await?;
        found
            .into_iter()
            .map(|(seq, index, change)| {
                let index = u16::try_from(index).unwrap_or(u16::MAX);
                Ok((ConfigSeq::new(seq.cast_unsigned()), index, parse(&change)?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::HealthState,
        conformance::samples::{endpoint, health_change},
    };

    #[test]
    fn a_change_is_read_with_and_without_its_attempt() {
        let endpoint = endpoint(TenantId::random());
        let change = health_change(&endpoint, 3, HealthState::Degraded);
        let text = document(&[Written {
            by: "me",
            change: &change,
        }])
        .unwrap();
        let whole: Vec<ConfigChange> = parse(&text).unwrap();
        assert_eq!(whole, std::slice::from_ref(&change));
        let which: Vec<Which> = parse(&text).unwrap();
        assert_eq!((which[0].resource, which[0].version), (change.resource, 3));
        assert_eq!((which[0].health.is_some(), which[0].by.as_str()), (true, "me"));
        let bare: Vec<Which> = parse(&document(&[change]).unwrap()).unwrap();
        assert_eq!(bare[0].by, "");
    }

    #[test]
    fn every_row_has_a_place_in_one_cql_partition() {
        assert_eq!((bucket(1), bucket(512), bucket(513)), (0, 0, 1));
        for seq in [1, 2, 511, 512, 513, 1024, 1025] {
            let last = end(bucket(seq));
            assert!(seq <= last && last < seq + 512, "{seq}: {last}");
            assert_eq!(bucket(last), bucket(seq));
            assert_eq!(bucket(last + 1), bucket(seq) + 1);
        }
    }
}
