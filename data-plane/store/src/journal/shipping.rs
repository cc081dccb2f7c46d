//! Getting journaled batches into the store: the same keys and bytes, in order, as often as it takes.
//!
//! Some batches of a partition are under way at once, so that a backlog gets shorter also where the store is slow; a
//! head moves only past what is acknowledged with all before it.

use std::{collections::VecDeque, time::Duration};

use futures::future::try_join_all;
use tokio::time::timeout;

use super::{Journal, Position};
use crate::{
    id::{Seq, WriterId},
    limits,
    store::{Batch, Result, SharedStore, StoreError},
};

/// How much is tried at once, and how long to wait after a failure: a store that is away is asked with one batch, ever
/// more rarely.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    failures: u32,
}

impl Pace {
    pub(crate) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Before the next try.
    pub(crate) fn pause(&self) -> Duration {
        let doubled = limits::APPEND_RETRY_PAUSE * 2_u32.pow(self.failures.saturating_sub(1).min(8));
        doubled.min(limits::JOURNAL_RETRY_PAUSE_MAX)
    }

    /// What to ship next.
    pub(crate) fn window(&self, waiting: &VecDeque<Position>) -> Vec<Position> {
        let at_most = match self.failures {
            0 => limits::JOURNAL_SHIPPED_AT_ONCE,
            _ => 1,
        };
        let mut bytes = 0;
        let fits = |position: &&Position| {
            let first = bytes == 0;
            bytes += position.bytes();
            first || bytes <= limits::JOURNAL_SHIPPED_BYTES_AT_ONCE
        };
        waiting.iter().take(at_most).take_while(fits).copied().collect()
    }
}

/// What was shipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Shipped {
    /// The last batch that the store has now, if any could be read.
    pub(crate) last: Option<Seq>,
    /// Batches that the store has now.
    pub(crate) batches: u64,
    /// Batches that cannot be read any more: told and counted already.
    pub(crate) lost: u64,
}

/// One try to ship `positions`.
///
/// # Errors
/// When the store did not acknowledge all of them, or the journal cannot be read. Repeating is harmless.
pub(crate) async fn ship(
    journal: &Journal,
    store: &SharedStore,
    writer: WriterId,
    positions: &[Position],
) -> Result<Shipped> {
    let read = journal.read(writer, positions.to_vec()).await?;
    let batches: Vec<Batch> = read.into_iter().flatten().collect();
    let wide = |number| u64::try_from(number).expect("invariant: usize fits into u64");
    let shipped = Shipped {
        last: batches.last().map(|batch| batch.seq),
        batches: wide(batches.len()),
        lost: wide(positions.len() - batches.len()),
    };
    let appended = try_join_all(batches.into_iter().map(|batch| append(store, batch)));
    answered(appended).await?;
    metrics::counter!("qrelay_journal_shipped_batches_total").increment(shipped.batches);
    Ok(shipped)
}

/// Waits no longer than an answer can take: an append that is forgotten is made again.
pub(crate) async fn answered<T>(append: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(limits::JOURNAL_SHIP_TIMEOUT, append).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(StoreError::Unavailable("it does not answer".to_owned())),
    }
}

async fn append(store: &SharedStore, batch: Batch) -> Result<()> {
    let (partition, writer, seq) = (batch.partition, batch.writer, batch.seq);
    let error = match store.append(batch).await {
        Err(StoreError::Corrupt(error)) => error,
        other => return other,
    };
    // It was rewritten there since: an erasure does that. What stands in the store counts.
    match store.batch(partition, writer, seq).await? {
        Some(_) => {
            tracing::warn!(%error, %partition, %writer, %seq, "a journaled batch stands in the store with other bytes; it stays as it is there");
            Ok(())
        }
        None => Err(StoreError::Corrupt(error)),
    }
}
