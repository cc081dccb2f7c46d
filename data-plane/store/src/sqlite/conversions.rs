//! Reported conversions, in `main.db`.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    SqliteStore,
    fault::Fault,
    rows::{address, address_key, document, int, number, parse},
    writer::Atomicity,
};
use crate::{
    id::{EventAddress, PartitionId, TenantId, WriterId},
    store::{ConversionRow, Conversions, Result},
};

#[async_trait]
impl Conversions for SqliteStore {
    async fn claim_conversion(&self, row: &ConversionRow) -> Result<Option<ConversionRow>> {
        let row = row.clone();
        self.main_writer
            .submit(Atomicity::OneStatement, move |connection| claim(connection, &row))
            .await
    }

    async fn take_conversion(&self, row: &ConversionRow, from: WriterId) -> Result<bool> {
        let row = row.clone();
        self.main_writer
            .submit(Atomicity::OneStatement, move |connection| {
                let changed = connection
                    .prepare_cached(
                        "UPDATE conversion SET at = ?3, writer = ?4, doc = ?5
                         WHERE tenant = ?1 AND external_id = ?2 AND event IS NULL AND writer IN (?4, ?6)",
                    )?
                    .execute(params![
                        row.record.tenant.to_string(),
                        row.record.external_id,
                        row.record.at.as_millis(),
                        int(row.writer.as_u64()),
                        document(&row.record)?,
                        int(from.as_u64()),
                    ])?;
                Ok(changed > 0)
            })
            .await
    }

    async fn finish_conversion(
        &self,
        tenant: TenantId,
        external_id: &str,
        event: EventAddress,
    ) -> Result<()> {
        let external_id = external_id.to_owned();
        self.main_writer
            .submit(Atomicity::OneStatement, move |connection| {
                connection
                    .prepare_cached(
                        "UPDATE conversion SET event = ?3
                         WHERE tenant = ?1 AND external_id = ?2 AND event IS NULL",
                    )?
                    .execute(params![tenant.to_string(), external_id, address_key(event)])?;
                Ok(())
            })
            .await
    }
}

/// Looks before it writes: both run on the one thread that writes.
fn claim(connection: &Connection, row: &ConversionRow) -> Result<Option<ConversionRow>, Fault> {
    let tenant = row.record.tenant.to_string();
    let found = connection
        .prepare_cached(
            "SELECT doc, body_hash, partition, writer, event FROM conversion
             WHERE tenant = ?1 AND external_id = ?2",
        )?
        .query_row(params![tenant, row.record.external_id], |found| {
            Ok(Found {
                document: found.get(0)?,
                body_hash: found.get(1)?,
                partition: found.get(2)?,
                writer: number(found, 3)?,
                event: found.get(4)?,
            })
        });
    if let Some(found) = found.optional()? {
        return found.into_row().map(Some);
    }
    connection
        .prepare_cached(
            "INSERT INTO conversion (tenant, external_id, at, partition, writer, body_hash, doc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            tenant,
            row.record.external_id,
            row.record.at.as_millis(),
            row.partition.as_u16(),
            int(row.writer.as_u64()),
            row.body_hash,
            document(&row.record)?,
        ])?;
    Ok(None)
}

struct Found {
    document: String,
    body_hash: [u8; 32],
    partition: u16,
    writer: u64,
    event: Option<[u8; 16]>,
}

impl Found {
    fn into_row(self) -> Result<ConversionRow, Fault> {
        Ok(ConversionRow {
            record: parse(&self.document)?,
            body_hash: self.body_hash,
            partition: PartitionId::new(self.partition),
            writer: WriterId::from_u64(self.writer),
            event: self.event.map(address),
        })
    }
}
