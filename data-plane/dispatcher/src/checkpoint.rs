//! The rows that a checkpoint holds, beside chunks' done-maps ([`crate::outstanding`]).
//!
//! | kind | id | row |
//! |---|---|---|
//! | run | `shared` | [`RunRow`] of the run that feeds every endpoint without a row of its own |
//! | run | an endpoint's id | [`RunRow`] of the run that this endpoint has of its own |
//! | chunk | a chunk's name | done-map |
//! | health | an endpoint's id | [`qrelay_store::checkpoint::EndpointHealth`] |
//! | usage | `tenant/YYYY-MM` | [`qrelay_store::checkpoint::UsageCounts`] |
//!
//! Invariant: an endpoint's own cursor, and every outstanding delivery of it, is at or before the shared cursor of
//! the same checkpoint; so what is neither done nor outstanding lies behind the cursor of the run that feeds it.

use std::collections::BTreeMap;

use qrelay_store::{
    Timestamp,
    checkpoint::{RowKey, RowKind, SHARED_RUN},
    id::{EndpointId, PartitionId},
};
use serde::{Deserialize, Serialize};

use crate::cursor::Cursor;

/// A run, as it is saved.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RunRow {
    /// How far it is.
    pub cursor: Cursor,
    /// For an endpoint's own run: events that the shared run saw and this one did not, as far as was counted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub behind: u64,
    /// When the oldest of them was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_since: Option<Timestamp>,
    /// For the shared run: what [`qrelay_store::checkpoint::Follows`] reads of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub follows: BTreeMap<PartitionId, bool>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A run's row that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRun {
    /// Neither `shared` nor an endpoint.
    #[error("a run's row is named {0:?}")]
    Name(String),
    /// Not JSON of a run.
    #[error("a run's row is not a run")]
    Row(#[source] serde_json::Error),
}

/// Whose run a row is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RunName {
    /// Everybody's.
    Shared,
    /// One endpoint's.
    Own(EndpointId),
}

impl RunName {
    /// The row's key.
    pub fn key(self) -> RowKey {
        RowKey {
            kind: RowKind::Run,
            id: match self {
                Self::Shared => SHARED_RUN.to_owned(),
                Self::Own(endpoint) => endpoint.to_string(),
            },
        }
    }
}

impl RunRow {
    /// As it stands in the checkpoint.
    pub fn to_row(&self) -> String {
        serde_json::to_string(self).expect("invariant: cursors, numbers and times make JSON")
    }

    /// Reads a row.
    ///
    /// # Errors
    /// When it is not a run.
    pub fn from_row(id: &str, row: &str) -> Result<(RunName, Self), InvalidRun> {
        let name = if id == SHARED_RUN {
            RunName::Shared
        } else {
            RunName::Own(id.parse().map_err(|_| InvalidRun::Name(id.to_owned()))?)
        };
        let row = serde_json::from_str(row).map_err(InvalidRun::Row)?;
        Ok((name, row))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qrelay_store::{
        checkpoint::config_passed,
        id::{ConfigSeq, Seq},
    };

    use super::*;
    use crate::cursor::Stream;

    proptest! {
        #[test]
        fn a_run_survives_its_row(seq in 1_u64..1 << 48, behind: u64, since in proptest::option::of(0_i64..9_999_999_999_999), own: Option<[u8; 10]>, follows: BTreeMap<u16, bool>) {
            let row = RunRow {
                cursor: [(Stream::CONFIG, Seq::new(seq))].into_iter().collect(),
                behind,
                behind_since: since.map(Timestamp::from_millis),
                follows: follows.into_iter().map(|(partition, level)| (PartitionId::new(partition), level)).collect(),
            };
            let name = own.map_or(RunName::Shared, |bytes| RunName::Own(EndpointId::from_bytes(bytes)));
            let read = RunRow::from_row(&name.key().id, &row.to_row()).unwrap();
            prop_assert_eq!(config_passed(&row.to_row()), Some(ConfigSeq::new(seq)));
            prop_assert_eq!(read, (name, row));
        }
    }

    #[test]
    fn what_is_no_run_is_refused() {
        assert!(RunRow::from_row("shared", "{}").is_err());
        assert!(RunRow::from_row("nobody", r#"{"cursor":{}}"#).is_err());
        assert!(RunRow::from_row("shared", r#"{"cursor":{"x":1}}"#).is_err());
        assert_eq!(
            config_passed(r#"{"cursor":{"0/00000000000a":1}}"#),
            Some(ConfigSeq::ZERO)
        );
        assert_eq!(config_passed("{}"), None);
    }
}
