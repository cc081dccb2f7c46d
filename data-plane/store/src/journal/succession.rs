//! What dead writers left: shipped under their ids, and then they are closed.
//!
//! Only the holder of the journal's lock does this: the lock proves that those writers are dead. It runs beside the new
//! writer, which waits for nothing here.

use std::{collections::VecDeque, io};

use tokio::{
    task::JoinSet,
    time::{Duration, sleep},
};

use super::{DeadWriter, Journal, Position, Recovered, shipping};
use crate::{
    clock::Timestamp,
    id::{PartitionId, Seq, WriterId},
    limits,
    reader::end_of,
    seldom::Seldom,
    store::{Heads, Result, SharedStore, StoreError, WriterRow},
};

/// How often a failing step is told.
const TOLD: Duration = Duration::from_secs(60);

/// What became of a dead writer's journal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Succeeded {
    /// Batches shipped.
    pub shipped: u64,
    /// Pieces that cannot be read any more: what they held is lost. Their files are kept.
    pub damaged: u64,
    /// Batches past the end at which somebody had closed the writer already: they are in no log. Their files are kept.
    pub past_the_end: u64,
    /// Where the writer ends.
    pub last: Heads,
}

/// Ships what every dead writer left and closes it. Ends when all are closed. Can be dropped at any point.
pub async fn succeed_all(journal: Journal, store: SharedStore) {
    let mut dying = JoinSet::new();
    for dead in journal.left() {
        let (journal, store) = (journal.clone(), SharedStore::clone(&store));
        dying.spawn(async move {
            let told = Seldom::new(TOLD);
            succeed(&journal, &store, &dead, |error| {
                if told.happened().is_some() {
                    tracing::warn!(%error, writer = %dead.writer, "cannot ship what an earlier process journaled; trying again");
                }
            })
            .await
        });
    }
    while dying.join_next().await.is_some() {}
}

/// Ships what a dead writer left and closes it, however long that takes. `failed` is told of each try that fails.
pub async fn succeed(
    journal: &Journal,
    store: &SharedStore,
    dead: &DeadWriter,
    failed: impl Fn(&StoreError) + Send + Sync,
) -> Succeeded {
    let failed = &failed;
    let recovered = until(failed, || async {
        let recovered = journal.recover(dead).await;
        recovered.map_err(|error| StoreError::Unavailable(format!("cannot read the journal: {error}")))
    })
    .await;
    let row = until(failed, || row_of(store, dead, &recovered)).await;
    let mut done = match row.as_ref().map(|row| (row, row.closed.clone())) {
        None => Succeeded::default(),
        Some((row, None)) => {
            let (shipped, lost) = ship_all(journal, store, dead.writer, &recovered, failed).await;
            let last = until(failed, || async {
                let last = end_of(store, row, &recovered.last).await?;
                store.close_writer(dead.writer, &last).await?;
                Ok(last)
            })
            .await;
            Succeeded {
                shipped,
                damaged: lost,
                past_the_end: 0,
                last,
            }
        }
        Some((_, Some(last))) => forget(journal, dead.writer, &recovered, last).await,
    };
    done.damaged += recovered.damaged();
    until(failed, || ended(journal, dead.writer)).await;
    if let Some(row) = row {
        tracing::info!(writer = %dead.writer, node = row.node, shipped = done.shipped, "closed the writer of an earlier process; what it journaled is in the store");
    }
    done
}

async fn ended(journal: &Journal, writer: WriterId) -> Result<()> {
    let ended = journal.end(writer).await;
    ended.map_err(|error| StoreError::Unavailable(format!("cannot write the journal: {error}")))
}

/// Gives up what a dead writer left, but for what is in the store: its part of the log ends at `last`, where it was closed
/// before. The files of what lies past that are kept aside.
///
/// # Errors
/// When the journal cannot be read or written. Repeating is harmless.
pub async fn abandon(journal: &Journal, dead: &DeadWriter, last: Heads) -> io::Result<Succeeded> {
    let recovered = journal.recover(dead).await?;
    let done = forget(journal, dead.writer, &recovered, last).await;
    journal.end(dead.writer).await?;
    Ok(Succeeded {
        damaged: recovered.damaged(),
        ..done
    })
}

/// Its row; made, if it died before its registration was acknowledged. None for one that nobody knows and that left nothing
/// but an empty file: it was closed long ago, and there is nothing to close.
async fn row_of(store: &SharedStore, dead: &DeadWriter, recovered: &Recovered) -> Result<Option<WriterRow>> {
    let rows = store.writers().await?;
    if let Some(row) = rows.into_iter().find(|row| row.writer == dead.writer) {
        return Ok(Some(row));
    }
    let marker = dead.marker.as_ref();
    if marker.is_none() && recovered.waiting.is_empty() {
        return Ok(None);
    }
    let row = WriterRow {
        writer: dead.writer,
        node: marker.map_or_else(|| "unknown".to_owned(), |marker| marker.node.clone()),
        beat: 0,
        heads: Heads::new(),
        closed: None,
        registered_at: marker.map_or(Timestamp::EPOCH, |marker| marker.registered_at),
    };
    store.register_writer(&row).await?;
    Ok(Some(row))
}

/// Each partition by itself: one that the store does not take holds up no other. How many batches were shipped, and how many
/// cannot be read any more.
async fn ship_all(
    journal: &Journal,
    store: &SharedStore,
    writer: WriterId,
    recovered: &Recovered,
    failed: &(impl Fn(&StoreError) + Sync),
) -> (u64, u64) {
    let partitions = recovered.waiting.values().map(|waiting| async move {
        let (mut waiting, mut pace): (VecDeque<Position>, _) = (waiting.clone(), shipping::Pace::default());
        let (mut shipped, mut lost) = (0, 0);
        while !waiting.is_empty() {
            let window = pace.window(&waiting);
            match shipping::ship(journal, store, writer, &window).await {
                Ok(done) => {
                    waiting.drain(..window.len());
                    (shipped, lost) = (shipped + done.batches, lost + done.lost);
                    journal.resolve(window).await;
                    pace.succeeded();
                }
                Err(error) => {
                    failed(&error);
                    pace.failed();
                    sleep(pace.pause()).await;
                }
            }
        }
        (shipped, lost)
    });
    let done = futures::future::join_all(partitions).await;
    let sum = |(shipped, lost), (more, damaged)| (shipped + more, lost + damaged);
    done.into_iter().fold((0, 0), sum)
}

/// Somebody closed it before: what it journaled up to there is in the store, and what lies past it never will be.
async fn forget(journal: &Journal, writer: WriterId, recovered: &Recovered, last: Heads) -> Succeeded {
    let past = |(partition, seq): (&PartitionId, &Seq)| {
        let end = last.get(partition).copied().unwrap_or_default();
        seq.as_u64().saturating_sub(end.as_u64())
    };
    let past_the_end = recovered.last.iter().map(past).sum();
    for positions in recovered.waiting.values() {
        let positions: Vec<_> = positions.iter().copied().collect();
        if past_the_end > 0 {
            journal.keep(&positions).await;
        }
        journal.resolve(positions).await;
    }
    if past_the_end > 0 {
        tracing::error!(%writer, batches = past_the_end, "a writer was closed before all that it had journaled was shipped; what lies past its end is in no log, and its files are kept aside");
    }
    Succeeded {
        past_the_end,
        last,
        ..Succeeded::default()
    }
}

async fn until<T, F: Future<Output = Result<T>>>(
    failed: &impl Fn(&StoreError),
    mut step: impl FnMut() -> F,
) -> T {
    loop {
        match step().await {
            Ok(done) => return done,
            Err(error) => failed(&error),
        }
        sleep(limits::JOURNAL_RETRY_PAUSE_MAX).await;
    }
}
