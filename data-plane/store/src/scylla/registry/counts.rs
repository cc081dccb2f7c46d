//! How many live rows there are of a kind, so that limits are exact whatever crashes.
//!
//! A change that makes or removes a live row is *held* in the count's row before it is made, under its attempt: what
//! makes a row counts from then on, so no more are made than may be. Once the row's table tells what became of the
//! attempt, it is settled: one condition that removes what is held and corrects the number, so settling twice does
//! nothing. An attempt that won is settled before its row can move on; so what is still held of a row that moved on lost.

use std::collections::BTreeMap;

use scylla::statement::prepared::PreparedStatement;
use serde::{Deserialize, Serialize};

use super::{
    super::{OpenError, session::Cql},
    Configuration, pause,
    row::{document, parse},
};
use crate::{
    limits,
    model::{ResourceId, ResourceKind},
    store::{ChangeError, Result, StoreError},
};

/// Which count.
#[derive(Clone, Debug)]
pub(super) struct Count {
    pub(super) kind: ResourceKind,
    /// The tenant, or nothing for tenants.
    pub(super) scope: String,
}

/// What became of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Its change was made.
    Won,
    /// It never will be.
    Lost,
}

/// A change under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct HeldChange {
    /// Whether it makes a live row, or removes one.
    pub(super) makes: bool,
    /// Of what.
    pub(super) resource: ResourceId,
    /// To which version.
    pub(super) version: u64,
}

/// Changes under way, by their attempts.
type Held = BTreeMap<String, HeldChange>;

#[derive(Debug)]
pub(super) struct Statements {
    read: PreparedStatement,
    insert: PreparedStatement,
    update: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        Ok(Self {
            read: cql
                .prepare("SELECT n, held, rev FROM live_count WHERE kind = ? AND scope = ?")
                .await?,
            insert: cql
                .prepare_conditional(
                    "INSERT INTO live_count (n, held, rev, kind, scope) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS",
                )
                .await?,
            update: cql
                .prepare_conditional(
                    "UPDATE live_count SET n = ?, held = ?, rev = ? WHERE kind = ? AND scope = ? IF rev = ?",
                )
                .await?,
        })
    }
}

impl Configuration {
    /// Holds a change. With a limit, one that makes a row is refused where there are as many already. False when the
    /// count changed meanwhile: that may have been a sweeper that took this attempt for dead, so another attempt, with a
    /// name of its own, has to be made.
    pub(super) async fn hold(
        &self,
        count: &Count,
        attempt: &str,
        change: HeldChange,
        max: Option<u64>,
    ) -> Result<bool, ChangeError> {
        let turn = self.counts_turn.take(&count.to_string()).await;
        let mut row = self.count(count).await?;
        if let Some(max) = max.filter(|max| change.makes && row.n >= max.cast_signed()) {
            drop(turn);
            row.held.retain(|_, other| other.makes);
            if row.held.is_empty() {
                return Err(ChangeError::LimitReached(max));
            }
            // Some of them count, but may never come.
            for (other, held) in row.held {
                self.come_or_never(held.resource, held.version).await?;
                self.settle(count, &other, Outcome::Lost, true).await?;
            }
            return Ok(false);
        }
        row.n += i64::from(change.makes);
        row.held.insert(attempt.to_owned(), change);
        if self.recount(count, &row).await? {
            return Ok(true);
        }
        // Its answer may have been lost.
        Ok(self.count(count).await?.held.contains_key(attempt))
    }

    /// Settles a change. With `fence`, one that is not held is made sure never to be.
    pub(super) async fn settle(
        &self,
        count: &Count,
        attempt: &str,
        outcome: Outcome,
        fence: bool,
    ) -> Result<()> {
        let _turn = self.counts_turn.take(&count.to_string()).await;
        for round in 0..limits::CQL_CHANGE_ROUNDS {
            pause(round).await;
            let mut row = self.count(count).await?;
            match row.held.remove(attempt) {
                None if !fence => return Ok(()),
                // What makes a row counts already; what removes one does not yet.
                Some(held) if held.makes == (outcome == Outcome::Lost) => row.n -= 1,
                _ => {}
            }
            if self.recount(count, &row).await? {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable(format!(
            "too many changes at once: {count}"
        )))
    }

    async fn count(&self, count: &Count) -> Result<CountRow> {
        let key = (count.kind.as_str(), &count.scope);
        let found: Option<(i64, String, i64)> = self.steps.row(&self.counts.read, key).await?;
        Ok(match found {
            None => CountRow {
                n: 0,
                held: Held::new(),
                rev: 0,
            },
            Some((n, held, rev)) => CountRow {
                n,
                held: parse(&held)?,
                rev,
            },
        })
    }

    /// Writes a count in place of the one that was read. False when it is another one by now.
    async fn recount(&self, count: &Count, row: &CountRow) -> Result<bool> {
        let (held, kind, scope) = (document(&row.held)?, count.kind.as_str(), &count.scope);
        if row.rev == 0 {
            let values = (row.n, held, 1_i64, kind, scope);
            return self.steps.decide(&self.counts.insert, values).await;
        }
        let values = (row.n, held, row.rev + 1, kind, scope, row.rev);
        self.steps.decide(&self.counts.update, values).await
    }
}

/// A count as it was read.
struct CountRow {
    n: i64,
    held: Held,
    /// Zero: there is none yet.
    rev: i64,
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.scope)
    }
}
