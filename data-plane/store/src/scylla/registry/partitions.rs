//! Partitions of tenants' own: which numbers were ever claimed.
//!
//! A claim is a row that is inserted behind the last one, where none is: of several at once one is made, and the others
//! look again. Invariant: the rows' ranges follow one another from the install's shared partitions on, and no row ever
//! goes, so that a number is claimed once.

use std::ops::Range;

use scylla::statement::prepared::PreparedStatement;

use super::{
    super::{OpenError, session::Cql},
    Configuration, nonce, pause,
};
use crate::{
    id::{ConfigSeq, PartitionId},
    limits,
    store::{Install, Result, StoreError},
};

#[derive(Debug)]
pub(super) struct Statements {
    last: PreparedStatement,
    of: PreparedStatement,
    claim: PreparedStatement,
}

/// A row: all of its columns but those of its key's beginning.
type Row = (i32, i32, i64, String);

impl Statements {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        Ok(Self {
            last: cql
                .prepare("SELECT first, past, config_seq, claim FROM own_partitions WHERE one = 1 LIMIT 1")
                .await?,
            of: cql
                .prepare(
                    "SELECT first, past, config_seq, claim FROM own_partitions WHERE one = 1 AND first <= ? LIMIT 1",
                )
                .await?,
            claim: cql
                .prepare_conditional(
                    "INSERT INTO own_partitions (one, first, past, config_seq, claim) VALUES (1, ?, ?, ?, ?)
                     IF NOT EXISTS",
                )
                .await?,
        })
    }
}

impl Configuration {
    /// See [`crate::store::Registry::claim_partitions`].
    pub(in super::super) async fn claim_partitions(
        &self,
        install: &Install,
        count: u16,
    ) -> Result<Option<Range<u16>>> {
        let claim = nonce();
        for round in 0..limits::CQL_CHANGE_ROUNDS {
            pause(round).await;
            let first = self.own_partitions(install).await?;
            let Some(range) = install.own_range(first, count) else {
                return Ok(None);
            };
            // Before the claim: all that follows from it is announced after.
            let head = self.config_head().await?.as_u64().cast_signed();
            let values = (i32::from(range.start), i32::from(range.end), head, &claim);
            if self.steps.decide(&self.partitions.claim, values).await? {
                return Ok(Some(range));
            }
            // Its answer may have been lost.
            let standing = self.claim_of(range.start).await?;
            if standing.is_some_and(|(start, _, _, by)| start == i32::from(range.start) && by == claim) {
                return Ok(Some(range));
            }
        }
        Err(StoreError::Unavailable(
            "too many claims of partitions at once".to_owned(),
        ))
    }

    /// See [`crate::store::Registry::own_partitions`].
    pub(in super::super) async fn own_partitions(&self, install: &Install) -> Result<u16> {
        let last: Option<Row> = self.steps.row(&self.partitions.last, ()).await?;
        last.map_or(Ok(install.partitions), |(_, past, _, _)| {
            u16::try_from(past)
                .map_err(|_| StoreError::Corrupt(format!("a claim of partitions ends at {past}")))
        })
    }

    /// See [`crate::store::Registry::claimed_at`].
    pub(in super::super) async fn claimed_at(&self, partition: PartitionId) -> Result<ConfigSeq> {
        let claim = self.claim_of(partition.as_u16()).await?;
        let of_it = claim.filter(|(_, past, _, _)| i32::from(partition.as_u16()) < *past);
        Ok(of_it.map_or(ConfigSeq::ZERO, |(_, _, seq, _)| {
            ConfigSeq::new(seq.cast_unsigned())
        }))
    }

    /// The last claim that begins at a number or before.
    async fn claim_of(&self, number: u16) -> Result<Option<Row>> {
        self.steps.row(&self.partitions.of, (i32::from(number),)).await
    }
}
