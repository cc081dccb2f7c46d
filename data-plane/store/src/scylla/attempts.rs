//! The attempt log.
//!
//! A minute of an endpoint's deliveries lies in several CQL partitions ([`SUBS`]), by the events' addresses, so that the
//! hottest endpoint's stay small; lists merge them again.
//!
//! An attempt is three rows that are sent at once: itself, its place among its batch's deliveries, and the CQL partition in
//! which there are deliveries (unless this process noted that before). Each is a write of whole rows under keys that the
//! attempt has, so repeating it is harmless, and of two truths about one attempt the later counts. They are not one
//! transaction: of attempts whose call failed, any part may be there.

use std::{
    collections::{HashSet, VecDeque},
    ops::ControlFlow,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, try_join};
use scylla::{
    SerializeRow, response::PagingState, statement::prepared::PreparedStatement, value::CqlTimestamp,
};

use super::{
    OpenError, ScyllaStore,
    rows::{Whole, count, document, int, parse, parse_id, partition as key, time, to_count, to_time},
    session::Cql,
};
use crate::{
    clock::Timestamp,
    id::{CodeId, EndpointId, EventAddress, PartitionId, Seq, WriterId},
    limits,
    store::{
        AttemptRow, Attempts, DeliveryFilter, DeliveryPage, DeliveryPosition, DeliveryStatus,
        DeliverySummary, KnownDelivery, Result, StoreError,
    },
};

/// Attempts written at once.
const WRITES_AT_ONCE: usize = 32;
/// Whole rows fetched at once, for a list.
const READS_AT_ONCE: usize = 16;
/// CQL partitions of one endpoint's minute: at a thousand deliveries a second some 8,000 attempts each.
const SUBS: u64 = 8;
/// CQL partitions of the first and the last minute of a walk, in which there may be no delivery for it.
const PARTS_SPARE: usize = 16;
/// CQL partitions remembered: those of a thousand endpoints in use.
const REMEMBERED_MAX: usize = 10_000;
const MINUTE_MS: i64 = 60_000;

const COLUMNS: &str = "first_at, event, number, event_type, started_at, duration_ms, status, response_status, \
                       error_class, fault, error, next_attempt_at, detail, response_body, code";
/// Those that a walk through deliveries looks at.
const SCANNED: [&str; 6] = ["first_at", "event", "number", "status", "event_type", "code"];
/// Rows in a page of such a walk: of each the cluster reads all that it has, some MiB at most.
const ROWS_PER_PAGE: i32 = 128;

#[derive(Debug)]
pub(super) struct Statements {
    record: PreparedStatement,
    record_minute: PreparedStatement,
    record_by_batch: PreparedStatement,
    parts: PreparedStatement,
    scan: PreparedStatement,
    one: PreparedStatement,
    of_delivery: PreparedStatement,
    of_batch: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        let delivery = format!(
            "SELECT {COLUMNS} FROM attempts \
             WHERE endpoint = ? AND minute = ? AND sub = ? AND first_at = ? AND event = ?"
        );
        let mut scan = cql
            .prepare(&format!(
                "SELECT {} FROM attempts \
                 WHERE endpoint = ? AND minute = ? AND sub = ? \
                 AND (first_at, event) < (?, ?) AND (first_at) >= (?)",
                scanned()
            ))
            .await?;
        scan.set_page_size(ROWS_PER_PAGE);
        Ok(Self {
            record: cql
                .prepare(&format!(
                    "INSERT INTO attempts (endpoint, minute, sub, {COLUMNS}) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TTL ?"
                ))
                .await?,
            record_minute: cql
                .prepare("INSERT INTO attempt_minute (endpoint, minute, sub) VALUES (?, ?, ?) USING TTL ?")
                .await?,
            record_by_batch: cql
                .prepare(
                    "INSERT INTO attempt_by_batch (endpoint, partition, writer, seq, idx, first_at, number, status) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TTL ?",
                )
                .await?,
            parts: cql
                .prepare(
                    "SELECT minute, sub FROM attempt_minute \
                     WHERE endpoint = ? AND minute >= ? AND minute <= ? LIMIT ?",
                )
                .await?,
            scan,
            one: cql.prepare(&format!("{delivery} AND number = ?")).await?,
            of_delivery: cql
                .prepare(&format!("{delivery} ORDER BY first_at ASC, event ASC, number ASC"))
                .await?,
            of_batch: cql
                .prepare(
                    "SELECT idx, first_at, number, status FROM attempt_by_batch \
                     WHERE endpoint = ? AND partition = ? AND writer = ? AND seq = ?",
                )
                .await?,
        })
    }
}

/// What a walk asks for: the columns that it looks at, and of the others when they were written.
fn scanned() -> String {
    let others = COLUMNS.split(", ").filter(|column| !SCANNED.contains(column));
    let others = others.map(|column| format!("WRITETIME({column})"));
    let columns: Vec<String> = SCANNED.map(str::to_owned).into_iter().chain(others).collect();
    columns.join(", ")
}

/// A CQL partition of an endpoint's deliveries: minute and sub.
type Part = (i32, i8);

/// Those noted as having deliveries.
pub(super) type Memory = Mutex<HashSet<(EndpointId, Part)>>;

/// Where a delivery's attempts are.
fn part(first_at: Timestamp, event: EventAddress) -> Part {
    let sub = event.seq.as_u64().wrapping_add(event.index.into()) % SUBS;
    (minute(first_at), i8::try_from(sub).unwrap_or(0))
}

fn minute(first_at: Timestamp) -> i32 {
    count(first_at.as_millis() / MINUTE_MS)
}

/// The values of an attempt's row, by column.
#[derive(SerializeRow)]
struct Written<'a> {
    endpoint: String,
    minute: i32,
    sub: i8,
    first_at: CqlTimestamp,
    event: Vec<u8>,
    number: i32,
    event_type: &'a str,
    started_at: CqlTimestamp,
    duration_ms: i32,
    status: &'a str,
    response_status: i32,
    error_class: &'a str,
    fault: &'a str,
    error: &'a str,
    next_attempt_at: CqlTimestamp,
    detail: String,
    response_body: &'a [u8],
    code: String,
    #[scylla(rename = "[ttl]")]
    ttl: i32,
}

/// A stored attempt, in the order of [`COLUMNS`].
type Stored = (
    CqlTimestamp,
    Vec<u8>,
    i32,
    String,
    CqlTimestamp,
    i32,
    String,
    i32,
    String,
    String,
    String,
    CqlTimestamp,
    String,
    Vec<u8>,
    String,
);

fn to_attempt(endpoint: EndpointId, stored: Stored) -> Result<AttemptRow> {
    let (
        first_at,
        event,
        number,
        event_type,
        started_at,
        duration_ms,
        state,
        response_status,
        error_class,
        fault,
        error,
        next_attempt_at,
        detail,
        response_body,
        code,
    ) = stored;
    Ok(AttemptRow {
        endpoint,
        first_at: to_time(first_at),
        event: address(event)?,
        event_type: parse_id(&event_type)?,
        number: to_count(number)?,
        started_at: to_time(started_at),
        duration_ms: to_count(duration_ms)?,
        status: status(&state)?,
        response_status: Some(to_count(response_status)?).filter(|status| *status > 0),
        error_class,
        fault,
        error,
        next_attempt_at: Some(to_time(next_attempt_at)).filter(|at| *at > Timestamp::EPOCH),
        detail: parse(&detail)?,
        response_body: Bytes::from(response_body),
        code: about(&code)?,
    })
}

/// One delivery on the way through a scan: where it stands, its last attempt's number, how many there were, and
/// whether that attempt passes the filter.
struct Found {
    at: DeliveryPosition,
    number: i32,
    attempts: u32,
    passes: bool,
}

/// A look at a delivery log.
struct Scan<'a> {
    filter: &'a DeliveryFilter,
    limit: usize,
    found: Vec<Found>,
    passed: usize,
    /// There is more behind what was found.
    more: bool,
}

/// A row that a scan reads: first_at, event, number, status, event_type, code, and the times of what else it has.
type Scanned = (
    CqlTimestamp,
    Vec<u8>,
    i32,
    String,
    String,
    String,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
);

/// Where a walk goes: from strictly before a place back to a time.
struct Walk {
    endpoint: String,
    before: (CqlTimestamp, Vec<u8>),
    start: CqlTimestamp,
}

/// The rows of one CQL partition that a walk comes by, newest first, a page at a time.
struct Rows {
    part: Part,
    page: VecDeque<Row>,
    /// Where the next page begins.
    next: Option<PagingState>,
}

/// A row on the walk: first what it is ordered by.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    at: DeliveryPosition,
    number: i32,
    state: String,
    event_type: String,
    code: String,
}

fn to_row((first_at, event, number, state, event_type, code, ..): Scanned) -> Result<Row> {
    Ok(Row {
        at: (to_time(first_at), address(event)?),
        number,
        state,
        event_type,
        code,
    })
}

impl Scan<'_> {
    /// Takes the next row: of a delivery the last attempt comes first. Breaks when enough was seen.
    fn take(&mut self, row: &Row) -> Result<ControlFlow<()>> {
        let (at, number) = (row.at, row.number);
        let counts = u32::from(number > 0);
        if let Some(last) = self.found.last_mut()
            && last.at == at
        {
            last.attempts += counts;
            return Ok(ControlFlow::Continue(()));
        }
        if self.found.len() == limits::DELIVERIES_SCANNED_MAX || self.passed == self.limit {
            self.more = true;
            return Ok(ControlFlow::Break(()));
        }
        let passes = self
            .filter
            .covers(status(&row.state)?, parse_id(&row.event_type)?, about(&row.code)?);
        self.passed += usize::from(passes);
        self.found.push(Found {
            at,
            number,
            attempts: counts,
            passes,
        });
        Ok(ControlFlow::Continue(()))
    }
}

#[async_trait]
impl Attempts for ScyllaStore {
    async fn record_attempts(&self, rows: Vec<AttemptRow>) -> Result<()> {
        // One after the other where one is about the same attempt as another: the later counts.
        let mut rounds: Vec<Vec<AttemptRow>> = Vec::new();
        let mut round_of: std::collections::HashMap<_, usize> = std::collections::HashMap::new();
        for row in rows {
            let round = round_of
                .entry((row.endpoint, row.first_at, row.event, row.number))
                .or_default();
            match rounds.get_mut(*round) {
                Some(rows) => rows.push(row),
                None => rounds.push(vec![row]),
            }
            *round += 1;
        }
        for rows in rounds {
            stream::iter(rows)
                .map(|row| self.record(row))
                .buffer_unordered(WRITES_AT_ONCE)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    async fn find_deliveries(
        &self,
        endpoint: EndpointId,
        filter: &DeliveryFilter,
        before: Option<DeliveryPosition>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        let scan = self.scan(endpoint, filter, before, limit).await?;
        let last = scan.found.last().map(|found| found.at);
        let deliveries = stream::iter(scan.found)
            .filter(|found| std::future::ready(found.passes))
            .map(|found| self.summary(endpoint, found))
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(DeliveryPage {
            deliveries,
            next: last.filter(|_| scan.more),
        })
    }

    async fn attempts(
        &self,
        endpoint: EndpointId,
        first_at: Timestamp,
        event: EventAddress,
    ) -> Result<Vec<AttemptRow>> {
        let (minute, sub) = part(first_at, event);
        let values = (
            endpoint.to_string(),
            minute,
            sub,
            time(first_at),
            event.sort_key().to_vec(),
        );
        let rows: Vec<Whole<Stored>> = self.cql.rows(&self.attempts.of_delivery, values).await?;
        let rows = rows.into_iter().filter_map(|Whole(row)| row);
        rows.map(|row| to_attempt(endpoint, row)).collect()
    }

    async fn deliveries_of_batch(
        &self,
        endpoint: EndpointId,
        partition: PartitionId,
        writer: WriterId,
        seq: Seq,
    ) -> Result<Vec<KnownDelivery>> {
        let values = (
            endpoint.to_string(),
            key(partition),
            int(writer.as_u64()),
            int(seq.as_u64()),
        );
        let rows: Vec<Whole<(i32, CqlTimestamp, i32, String)>> =
            self.cql.rows(&self.attempts.of_batch, values).await?;
        let mut all: Vec<KnownDelivery> = Vec::new();
        // Of one event's rows the last is the one that counts.
        for (index, first_at, number, state) in rows.into_iter().filter_map(|Whole(row)| row) {
            let known = KnownDelivery {
                index: to_count(index)?,
                first_at: to_time(first_at),
                attempts: to_count(number)?,
                status: status(&state)?,
            };
            match all.last_mut() {
                Some(before) if before.index == known.index => *before = known,
                _ => all.push(known),
            }
        }
        Ok(all)
    }
}

impl ScyllaStore {
    async fn record(&self, row: AttemptRow) -> Result<()> {
        let endpoint = row.endpoint.to_string();
        let (minute, sub) = part(row.first_at, row.event);
        let by_batch = (
            &endpoint,
            key(row.event.partition),
            int(row.event.writer.as_u64()),
            int(row.event.seq.as_u64()),
            i32::from(row.event.index),
            time(row.first_at),
            count(row.number),
            row.status.as_str(),
            self.ttl,
        );
        let written = Written {
            endpoint: endpoint.clone(),
            minute,
            sub,
            first_at: time(row.first_at),
            event: row.event.sort_key().to_vec(),
            number: count(row.number),
            event_type: row.event_type.as_str(),
            started_at: time(row.started_at),
            duration_ms: count(row.duration_ms),
            status: row.status.as_str(),
            response_status: row.response_status.map_or(0, i32::from),
            error_class: &row.error_class,
            fault: &row.fault,
            error: &row.error,
            next_attempt_at: time(row.next_attempt_at.unwrap_or(Timestamp::EPOCH)),
            detail: document(&row.detail)?,
            response_body: &row.response_body,
            code: row.code.map(|code| code.to_string()).unwrap_or_default(),
            ttl: self.ttl,
        };
        let note = async {
            let noted = (row.endpoint, (minute, sub));
            if self.attempt_memory().contains(&noted) {
                return Ok(());
            }
            let values = (&endpoint, minute, sub, self.ttl.saturating_add(120));
            self.cql.execute(&self.attempts.record_minute, values).await?;
            let mut memory = self.attempt_memory();
            if memory.len() >= REMEMBERED_MAX {
                memory.clear();
            }
            memory.insert(noted);
            Ok(())
        };
        try_join!(
            self.cql.execute(&self.attempts.record, written),
            self.cql.execute(&self.attempts.record_by_batch, by_batch),
            note
        )?;
        Ok(())
    }

    fn attempt_memory(&self) -> MutexGuard<'_, HashSet<(EndpointId, Part)>> {
        self.attempt_memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Walks back through an endpoint's deliveries.
    async fn scan<'a>(
        &self,
        endpoint: EndpointId,
        filter: &'a DeliveryFilter,
        before: Option<DeliveryPosition>,
        limit: usize,
    ) -> Result<Scan<'a>> {
        let end = filter.end.unwrap_or(Timestamp::from_millis(i64::MAX));
        let start = filter.start.unwrap_or(Timestamp::EPOCH);
        // Strictly below (end, nothing) is strictly before `end`.
        let (at, event) = before
            .map(|(at, event)| (at, event.sort_key().to_vec()))
            .filter(|(at, _)| *at < end)
            .unwrap_or((end, Vec::new()));
        let endpoint = endpoint.to_string();
        let mut scan = Scan {
            filter,
            limit,
            found: Vec::new(),
            passed: 0,
            more: false,
        };
        // There is a delivery at least in each, but for those of the first minute.
        let parts_max = limits::DELIVERIES_SCANNED_MAX + 2 + PARTS_SPARE;
        let values = (&endpoint, minute(start), minute(at), count(parts_max));
        let mut parts: Vec<Part> = self.cql.rows(&self.attempts.parts, values).await?;
        if parts.len() == parts_max {
            scan.more = true;
            // The last minute may have others.
            let last = parts.last().map(|(minute, _)| *minute);
            parts.retain(|(minute, _)| Some(*minute) != last);
        }
        let from = Walk {
            endpoint,
            before: (time(at), event),
            start: time(start),
        };
        for parts in parts.chunk_by(|(one, _), (other, _)| one == other) {
            if self.scan_minute(&mut scan, &from, parts).await? {
                break;
            }
        }
        Ok(scan)
    }

    /// Walks back through a minute's CQL partitions, as if they were one. True when enough was seen.
    async fn scan_minute(&self, scan: &mut Scan<'_>, walk: &Walk, parts: &[Part]) -> Result<bool> {
        let mut parts: Vec<Rows> = stream::iter(parts.to_vec())
            .map(|part| self.rows_of(walk, part))
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        loop {
            let newest = parts
                .iter_mut()
                .max_by(|one, other| one.page.front().cmp(&other.page.front()));
            let Some((newest, row)) = newest.and_then(|part| part.page.pop_front().map(|row| (part, row)))
            else {
                return Ok(false);
            };
            if scan.take(&row)?.is_break() {
                return Ok(true);
            }
            self.refill(walk, newest).await?;
        }
    }

    async fn rows_of(&self, walk: &Walk, part: Part) -> Result<Rows> {
        let mut rows = Rows {
            part,
            page: VecDeque::new(),
            next: Some(PagingState::start()),
        };
        self.refill(walk, &mut rows).await?;
        Ok(rows)
    }

    /// Reads on where no row is left, as long as there may be one.
    async fn refill(&self, walk: &Walk, rows: &mut Rows) -> Result<()> {
        while rows.page.is_empty()
            && let Some(position) = rows.next.take()
        {
            let ((minute, sub), (at, event)) = (rows.part, &walk.before);
            let values = (&walk.endpoint, minute, sub, at, event, walk.start);
            let (page, next) = self.cql.page(&self.attempts.scan, &values, position).await?;
            let page = page.into_iter().filter_map(|Whole(row)| row);
            rows.page = page.map(to_row).collect::<Result<_>>()?;
            rows.next = next;
        }
        Ok(())
    }

    async fn summary(&self, endpoint: EndpointId, found: Found) -> Result<DeliverySummary> {
        let (first_at, event) = found.at;
        let (minute, sub) = part(first_at, event);
        let values = (
            endpoint.to_string(),
            minute,
            sub,
            time(first_at),
            event.sort_key().to_vec(),
            found.number,
        );
        let row: Option<Whole<Stored>> = self.cql.row(&self.attempts.one, values).await?;
        let row = row
            .and_then(|Whole(row)| row)
            .ok_or_else(|| StoreError::Unavailable("an attempt left while it was read".to_owned()))?;
        Ok(DeliverySummary {
            last: to_attempt(endpoint, row)?,
            attempts: found.attempts,
        })
    }
}

/// The code that an event is about, where it is known.
fn about(stored: &str) -> Result<Option<CodeId>> {
    Some(stored)
        .filter(|stored| !stored.is_empty())
        .map(parse_id)
        .transpose()
}

fn address(stored: Vec<u8>) -> Result<EventAddress> {
    let key: [u8; 16] = stored
        .try_into()
        .map_err(|_| StoreError::Corrupt("a stored event's address has another length".to_owned()))?;
    Ok(EventAddress::from_sort_key(key))
}

fn status(text: &str) -> Result<DeliveryStatus> {
    DeliveryStatus::parse(text).ok_or_else(|| StoreError::Corrupt(format!("{text} is no delivery status")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_asks_for_every_column_of_an_attempt() {
        let asked = scanned();
        for column in COLUMNS.split(", ") {
            assert!(asked.contains(column), "{column}");
        }
    }
}
