//! What came of a conditional statement.
//!
//! Answers differ between servers: one that applied has one column or the whole row, one that did not has the whole
//! row or the columns of its condition, in an order of the server's. So columns are read by name, where they are.

use std::collections::HashMap;

use scylla::{
    response::query_result::QueryResult,
    value::{CqlValue, Row},
};

use super::session::unreadable;
use crate::store::{Result, StoreError};

/// What came of a conditional statement.
#[derive(Debug)]
pub(super) struct Decision {
    /// Whether the condition held, and what was to be written is.
    pub(super) applied: bool,
    /// Whether it was sent more than once, because an answer was missing.
    pub(super) repeated: bool,
    /// What stands there, where the condition did not hold.
    pub(super) columns: Columns,
}

impl Decision {
    /// Reads the answer to a conditional statement, or to a conditional batch: that has a row for each condition, of
    /// which the first is taken.
    pub(super) fn read(answer: QueryResult) -> Result<Self> {
        let rows = answer.into_rows_result().map_err(unreadable)?;
        let names: Vec<String> = rows
            .column_specs()
            .iter()
            .map(|column| column.name().to_owned())
            .collect();
        let row: Row = rows.first_row().map_err(unreadable)?;
        let mut columns: HashMap<_, _> = names.into_iter().zip(row.columns).collect();
        match columns.remove("[applied]") {
            Some(Some(CqlValue::Boolean(applied))) => Ok(Self {
                applied,
                repeated: false,
                columns: Columns(columns),
            }),
            _ => Err(unreadable("it does not say whether the condition held")),
        }
    }
}

/// A row's columns by name. One that the server did not send is none, as one that was never written is.
#[derive(Debug)]
pub(super) struct Columns(HashMap<String, Option<CqlValue>>);

impl Columns {
    /// A number (`tinyint` to `bigint`, or a `timestamp`'s milliseconds).
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>> {
        self.read(name, |value| match value {
            CqlValue::TinyInt(number) => Some(i64::from(*number)),
            CqlValue::SmallInt(number) => Some(i64::from(*number)),
            CqlValue::Int(number) => Some(i64::from(*number)),
            CqlValue::BigInt(number) => Some(*number),
            CqlValue::Timestamp(at) => Some(at.0),
            _ => None,
        })
    }

    /// A text.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        self.read(name, |value| value.as_text().cloned())
    }

    fn read<T>(&self, name: &str, read: impl FnOnce(&CqlValue) -> Option<T>) -> Result<Option<T>> {
        let Some(Some(value)) = self.0.get(name) else {
            return Ok(None);
        };
        let found = read(value);
        found.map(Some).ok_or_else(|| {
            StoreError::Corrupt(format!("column {name} is of another type than it was made with"))
        })
    }
}
