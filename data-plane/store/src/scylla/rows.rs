//! Columns and what they hold: numbers, times and documents.
//!
//! CQL's integers are signed. Numbers of ours are below 2^63 by nature; the conversions keep all bits.
//!
//! What one replica alone has (a write that was not acknowledged) is passed on to others by a read that meets it, but
//! only the columns which that read asked for. So every read that decides on whether a row is there asks for all of its
//! columns, or for the time when they were written: what it found, every later read finds. A row that lacks a column is
//! not there ([`Whole`]).

use scylla::{
    deserialize::{
        DeserializationError, TypeCheckError,
        row::{ColumnIterator, DeserializeRow},
    },
    frame::response::result::ColumnSpec,
    value::CqlTimestamp,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    clock::Timestamp,
    id::PartitionId,
    store::{Result, StoreError},
};

/// A partition's column value.
pub(super) fn partition(partition: PartitionId) -> i16 {
    partition.as_u16().cast_signed()
}

/// A number's column value.
pub(super) fn int(number: u64) -> i64 {
    number.cast_signed()
}

/// A time's column value.
pub(super) fn time(at: Timestamp) -> CqlTimestamp {
    CqlTimestamp(at.as_millis())
}

/// A column's time.
pub(super) fn to_time(at: CqlTimestamp) -> Timestamp {
    Timestamp::from_millis(at.0)
}

/// A count's column value.
pub(super) fn count<T: TryInto<i32>>(number: T) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

/// A column's count.
pub(super) fn to_count<T: TryFrom<i32>>(number: i32) -> Result<T> {
    T::try_from(number).map_err(|_| StoreError::Corrupt(format!("{number} is no count")))
}

/// A row as it is stored.
pub(super) fn document<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Corrupt(format!("a row cannot be written: {error}")))
}

/// A stored row.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::Corrupt(format!("a stored row cannot be read: {error}")))
}

/// An id as it is stored.
pub(super) fn parse_id<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|error| StoreError::Corrupt(format!("a stored id cannot be read: {error}")))
}

/// A row of a table whose columns are always written together: none where one of them is missing.
pub(super) struct Whole<R>(pub(super) Option<R>);

impl<'frame, 'metadata, R> DeserializeRow<'frame, 'metadata> for Whole<R>
where
    R: DeserializeRow<'frame, 'metadata>,
{
    fn type_check(columns: &[ColumnSpec]) -> Result<(), TypeCheckError> {
        R::type_check(columns)
    }

    fn deserialize(row: ColumnIterator<'frame, 'metadata>) -> Result<Self, DeserializationError> {
        for column in row.clone() {
            if column?.slice.is_none() {
                return Ok(Self(None));
            }
        }
        R::deserialize(row).map(|row| Self(Some(row)))
    }
}
