//! Partitions of tenants' own: which numbers were ever claimed.
//!
//! Invariant: the rows' ranges follow one another from the install's shared partitions on, and no row ever goes.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, params};

use super::{config_log, fault::Fault, rows::int};
use crate::{
    id::{ConfigSeq, PartitionId},
    store::Install,
};

/// See [`crate::store::Registry::claim_partitions`].
pub(super) fn claim(
    connection: &Connection,
    install: &Install,
    count: u16,
) -> Result<Option<Range<u16>>, Fault> {
    let first = end(connection, install.partitions)?;
    let Some(claimed) = install.own_range(first, count) else {
        return Ok(None);
    };
    let head = config_log::head(connection)?;
    connection
        .prepare_cached("INSERT INTO own_partitions (first, past, config_seq) VALUES (?1, ?2, ?3)")?
        .execute(params![claimed.start, claimed.end, int(head.as_u64())])?;
    Ok(Some(claimed))
}

/// See [`crate::store::Registry::own_partitions`].
pub(super) fn end(connection: &Connection, shared: u16) -> Result<u16, Fault> {
    let end: Option<u16> = connection
        .prepare_cached("SELECT past FROM own_partitions ORDER BY first DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(end.unwrap_or(shared))
}

/// See [`crate::store::Registry::claimed_at`].
pub(super) fn claimed_at(connection: &Connection, partition: PartitionId) -> Result<ConfigSeq, Fault> {
    let seq = connection
        .prepare_cached("SELECT config_seq FROM own_partitions WHERE first <= ?1 AND past > ?1")?
        .query_row([partition.as_u16()], |row| super::rows::number(row, 0))
        .optional()?;
    Ok(seq.map_or(ConfigSeq::ZERO, ConfigSeq::new))
}
