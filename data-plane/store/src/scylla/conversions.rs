//! Reported conversions: one row each, written by conditions only.
//!
//! Every write raises `rev`, so that a look decides what may be written. All columns are written at once, so that they
//! leave at once, when their time to live is over.
//!
//! Cost in statements: a claim is 1 condition (and a read, where a row stands); taking or finishing one is a read and a
//! condition.

use std::sync::Arc;

use async_trait::async_trait;
use scylla::statement::prepared::PreparedStatement;

use super::{
    OpenError, ScyllaStore,
    registry::{document, nonce, parse, pause},
    session::Cql,
};
use crate::{
    id::{EventAddress, PartitionId, TenantId, WriterId},
    limits,
    record::ConversionRecord,
    store::{ConversionRow, Conversions, Result, StoreError},
};

/// The conversions of a keyspace.
#[derive(Debug)]
pub(super) struct Reported {
    cql: Arc<Cql>,
    ttl: i32,
    insert: PreparedStatement,
    read: PreparedStatement,
    update: PreparedStatement,
}

/// A row as it stands there.
struct Stored {
    row: ConversionRow,
    claim: String,
    rev: i64,
}

type Columns = (i32, i64, Vec<u8>, String, String, String, i64);

impl Reported {
    /// `ttl`: how long rows are kept, in seconds.
    pub(super) async fn prepare(cql: &Arc<Cql>, ttl: i32) -> Result<Self, OpenError> {
        Ok(Self {
            cql: Arc::clone(cql),
            ttl,
            insert: cql
                .prepare_conditional(
                    "INSERT INTO conversion (tenant, external_id, partition, writer, body_hash, doc, event, claim, rev)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1) IF NOT EXISTS USING TTL ?",
                )
                .await?,
            read: cql
                .prepare(
                    "SELECT partition, writer, body_hash, doc, event, claim, rev FROM conversion
                     WHERE tenant = ? AND external_id = ?",
                )
                .await?,
            update: cql
                .prepare_conditional(
                    "UPDATE conversion USING TTL ? SET partition = ?, writer = ?, body_hash = ?, doc = ?, event = ?,
                     claim = ?, rev = ? WHERE tenant = ? AND external_id = ? IF rev = ?",
                )
                .await?,
        })
    }

    async fn read(&self, tenant: TenantId, external_id: &str) -> Result<Option<Stored>> {
        let key = (tenant.to_string(), external_id);
        let found: Option<Columns> = self.cql.row(&self.read, key).await?;
        let Some((partition, writer, body_hash, record, event, claim, rev)) = found else {
            return Ok(None);
        };
        let damaged = |what: &str| StoreError::Corrupt(format!("a conversion has no valid {what}"));
        let record: ConversionRecord<'static> = parse(&record)?;
        let event = if event.is_empty() {
            None
        } else {
            Some(parse(&event)?)
        };
        let row = ConversionRow {
            record,
            body_hash: body_hash.try_into().map_err(|_| damaged("body_hash"))?,
            partition: PartitionId::new(u16::try_from(partition).map_err(|_| damaged("partition"))?),
            writer: WriterId::from_u64(writer.cast_unsigned()),
            event,
        };
        Ok(Some(Stored { row, claim, rev }))
    }

    /// Puts down a row where none is. The one that is there otherwise.
    async fn claim(&self, row: &ConversionRow) -> Result<Option<ConversionRow>> {
        let claim = nonce();
        for round in 0..limits::CQL_CHANGE_ROUNDS {
            pause(round).await;
            let values = (
                row.record.tenant.to_string(),
                &row.record.external_id,
                i32::from(row.partition.as_u16()),
                row.writer.as_u64().cast_signed(),
                &row.body_hash[..],
                document(&row.record)?,
                event_text(row.event)?,
                &claim,
                self.ttl,
            );
            if self.cql.decide(&self.insert, values).await?.applied {
                return Ok(None);
            }
            // Otherwise it left just now.
            if let Some(found) = self.read(row.record.tenant, &row.record.external_id).await? {
                return Ok((found.claim != claim).then_some(found.row));
            }
        }
        Err(too_many())
    }

    /// Writes a row in place of what `change` was given, unless it wants none written: then false.
    async fn rewrite(
        &self,
        tenant: TenantId,
        external_id: &str,
        change: impl Fn(&ConversionRow) -> Option<ConversionRow>,
    ) -> Result<bool> {
        for round in 0..limits::CQL_CHANGE_ROUNDS {
            pause(round).await;
            let Some(found) = self.read(tenant, external_id).await? else {
                return Ok(false);
            };
            let Some(new) = change(&found.row) else {
                return Ok(false);
            };
            let values = (
                self.ttl,
                i32::from(new.partition.as_u16()),
                new.writer.as_u64().cast_signed(),
                &new.body_hash[..],
                document(&new.record)?,
                event_text(new.event)?,
                &found.claim,
                found.rev + 1,
                tenant.to_string(),
                external_id,
                found.rev,
            );
            if self.cql.decide(&self.update, values).await?.applied {
                return Ok(true);
            }
        }
        Err(too_many())
    }
}

fn event_text(event: Option<EventAddress>) -> Result<String> {
    Ok(event.as_ref().map(document).transpose()?.unwrap_or_default())
}

fn too_many() -> StoreError {
    StoreError::Unavailable("too many reports of one conversion at once".to_owned())
}

#[async_trait]
impl Conversions for ScyllaStore {
    async fn claim_conversion(&self, row: &ConversionRow) -> Result<Option<ConversionRow>> {
        self.conversions.claim(row).await
    }

    async fn take_conversion(&self, row: &ConversionRow, from: WriterId) -> Result<bool> {
        let (tenant, external_id) = (row.record.tenant, &row.record.external_id);
        // A repetition finds the new writer, and writes the same again.
        self.conversions
            .rewrite(tenant, external_id, |found| {
                let takes = found.event.is_none() && (found.writer == from || found.writer == row.writer);
                takes.then(|| ConversionRow {
                    record: row.record.clone(),
                    writer: row.writer,
                    ..found.clone()
                })
            })
            .await
    }

    async fn finish_conversion(
        &self,
        tenant: TenantId,
        external_id: &str,
        event: EventAddress,
    ) -> Result<()> {
        self.conversions
            .rewrite(tenant, external_id, |found| {
                found.event.is_none().then(|| ConversionRow {
                    event: Some(event),
                    ..found.clone()
                })
            })
            .await
            .map(drop)
    }
}
