//! The attempt log, in `main.db`.

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, Row, params};

use super::{
    SqliteStore,
    fault::Fault,
    rows::{address, address_key, document, limit as sql_limit, parse, parse_id, time},
    writer::Atomicity,
};
use crate::{
    clock::Timestamp,
    id::{EndpointId, EventAddress, PartitionId, Seq, WriterId},
    limits,
    store::{
        AttemptRow, Attempts, DeliveryFilter, DeliveryPage, DeliveryPosition, DeliveryStatus,
        DeliverySummary, KnownDelivery, Result,
    },
};

const COLUMNS: &str =
    "event, event_type, number, started_at, duration_ms, status, response_status, error_class,
    fault, error, next_attempt_at, detail, response_body, code";

#[async_trait]
impl Attempts for SqliteStore {
    async fn record_attempts(&self, rows: Vec<AttemptRow>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.main_writer
            .submit(Atomicity::Savepoint, move |connection| {
                rows.iter().try_for_each(|row| record(connection, row))
            })
            .await
    }

    async fn find_deliveries(
        &self,
        endpoint: EndpointId,
        filter: &DeliveryFilter,
        before: Option<DeliveryPosition>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        let filter = filter.clone();
        self.main_lists
            .read(move |connection| find(connection, endpoint, &filter, before, limit))
            .await
    }

    async fn attempts(
        &self,
        endpoint: EndpointId,
        first_at: Timestamp,
        event: EventAddress,
    ) -> Result<Vec<AttemptRow>> {
        self.main_reads
            .read(move |connection| {
                let mut statement = connection.prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM attempt WHERE endpoint = ?1 AND first_at = ?2 AND event = ?3
                     ORDER BY number"
                ))?;
                let key = params![endpoint.to_string(), first_at.as_millis(), address_key(event)];
                let mut rows = statement.query(key)?;
                let mut all = Vec::new();
                while let Some(row) = rows.next()? {
                    all.push(to_attempt(row, endpoint, first_at)?);
                }
                Ok(all)
            })
            .await
    }

    async fn deliveries_of_batch(
        &self,
        endpoint: EndpointId,
        partition: PartitionId,
        writer: WriterId,
        seq: Seq,
    ) -> Result<Vec<KnownDelivery>> {
        let first = EventAddress {
            partition,
            writer,
            seq,
            index: 0,
        };
        self.main_lists
            .read(move |connection| of_batch(connection, endpoint, first))
            .await
    }
}

fn of_batch(
    connection: &Connection,
    endpoint: EndpointId,
    first: EventAddress,
) -> Result<Vec<KnownDelivery>, Fault> {
    let last = EventAddress {
        index: u16::MAX,
        ..first
    };
    // The index `attempt_by_event` has all of it. Of one event's rows the last is the one that counts.
    let mut statement = connection.prepare_cached(
        "SELECT event, first_at, number, status FROM attempt
         WHERE endpoint = ?1 AND event BETWEEN ?2 AND ?3 ORDER BY event, first_at, number",
    )?;
    let mut rows = statement.query(params![
        endpoint.to_string(),
        address_key(first),
        address_key(last)
    ])?;
    let mut all: Vec<KnownDelivery> = Vec::new();
    while let Some(row) = rows.next()? {
        let known = KnownDelivery {
            index: address(row.get(0)?).index,
            first_at: time(row, 1)?,
            attempts: row.get(2)?,
            status: status(&row.get::<_, String>(3)?)?,
        };
        match all.last_mut() {
            Some(before) if before.index == known.index => *before = known,
            _ => all.push(known),
        }
    }
    Ok(all)
}

/// A repeated row replaces the one before: after a crash the same attempt may be made again, and the later truth
/// counts.
fn record(connection: &Connection, row: &AttemptRow) -> Result<(), Fault> {
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO attempt (endpoint, first_at, {COLUMNS})
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
        ))?
        .execute(params![
            row.endpoint.to_string(),
            row.first_at.as_millis(),
            address_key(row.event),
            row.event_type.as_str(),
            row.number,
            row.started_at.as_millis(),
            row.duration_ms,
            row.status.as_str(),
            row.response_status,
            row.error_class,
            row.fault,
            row.error,
            row.next_attempt_at.map(Timestamp::as_millis),
            document(&row.detail)?,
            &row.response_body[..],
            row.code.map(|code| code.to_string()),
        ])?;
    Ok(())
}

/// One delivery: its first attempt's time, its event, its last attempt's number, and how many attempts.
type Found = (Timestamp, [u8; 16], u32, u32);

/// Walks back through an endpoint's deliveries. Only those that pass are read whole.
fn find(
    connection: &Connection,
    endpoint: EndpointId,
    filter: &DeliveryFilter,
    before: Option<DeliveryPosition>,
    limit: usize,
) -> Result<DeliveryPage, Fault> {
    let end = filter.end.map_or(i64::MAX, Timestamp::as_millis);
    // Strictly below (end, the smallest address) is strictly before `end`.
    let (at, event) = before
        .map(|(at, event)| (at.as_millis(), address_key(event)))
        .filter(|(at, _)| *at < end)
        .unwrap_or((end, [0; 16]));
    let start = filter.start.map_or(i64::MIN, Timestamp::as_millis);
    let transaction = connection.unchecked_transaction()?;
    let mut groups = transaction.prepare_cached(
        "SELECT first_at, event, max(number), sum(number > 0) FROM attempt
         WHERE endpoint = ?1 AND (first_at, event) < (?2, ?3) AND first_at >= ?4
         GROUP BY first_at, event ORDER BY first_at DESC, event DESC LIMIT ?5",
    )?;
    let scanned = limits::DELIVERIES_SCANNED_MAX;
    let found = groups.query_map(
        params![endpoint.to_string(), at, event, start, sql_limit(scanned + 1)],
        |row| Ok((time(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    let mut page = DeliveryPage::default();
    let mut last: Option<DeliveryPosition> = None;
    for (at, group) in found.enumerate() {
        if at == scanned || page.deliveries.len() == limit {
            page.next = last;
            break;
        }
        let found: Found = group?;
        last = Some((found.0, address(found.1)));
        page.deliveries
            .extend(last_attempt(&transaction, endpoint, filter, found)?);
    }
    Ok(page)
}

/// A delivery that was found, if it passes the filter.
fn last_attempt(
    connection: &Connection,
    endpoint: EndpointId,
    filter: &DeliveryFilter,
    (first_at, event, number, attempts): Found,
) -> Result<Option<DeliverySummary>, Fault> {
    let key = params![endpoint.to_string(), first_at.as_millis(), event, number];
    let mut brief = connection.prepare_cached(
        "SELECT status, event_type, code FROM attempt
         WHERE endpoint = ?1 AND first_at = ?2 AND event = ?3 AND number = ?4",
    )?;
    let (state, event_type, about): (String, String, Option<String>) =
        brief.query_row(key, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let about = about.map(|text| parse_id(&text)).transpose()?;
    if !filter.covers(status(&state)?, parse_id(&event_type)?, about) {
        return Ok(None);
    }
    let mut whole = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM attempt WHERE endpoint = ?1 AND first_at = ?2 AND event = ?3 AND number = ?4"
    ))?;
    let mut rows = whole.query(key)?;
    let row = rows.next()?;
    let last = row.map(|row| to_attempt(row, endpoint, first_at)).transpose()?;
    Ok(last.map(|last| DeliverySummary { last, attempts }))
}

fn to_attempt(row: &Row<'_>, endpoint: EndpointId, first_at: Timestamp) -> Result<AttemptRow, Fault> {
    Ok(AttemptRow {
        endpoint,
        first_at,
        event: address(row.get(0)?),
        event_type: parse_id(&row.get::<_, String>(1)?)?,
        number: row.get(2)?,
        started_at: time(row, 3)?,
        duration_ms: row.get(4)?,
        status: status(&row.get::<_, String>(5)?)?,
        response_status: row.get(6)?,
        error_class: row.get(7)?,
        fault: row.get(8)?,
        error: row.get(9)?,
        next_attempt_at: row.get::<_, Option<i64>>(10)?.map(Timestamp::from_millis),
        detail: parse(&row.get::<_, String>(11)?)?,
        response_body: Bytes::from(row.get::<_, Vec<u8>>(12)?),
        code: row
            .get::<_, Option<String>>(13)?
            .map(|text| parse_id(&text))
            .transpose()?,
    })
}

fn status(text: &str) -> Result<DeliveryStatus, Fault> {
    DeliveryStatus::parse(text).ok_or_else(|| Fault::Damaged(format!("{text} is no delivery status")))
}
