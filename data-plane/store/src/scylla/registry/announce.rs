//! The end of the configuration log: who appends there, and that each change stands in it once.
//!
//! A row is inserted at the next number where none is, so all agree on one order without gaps. Whoever appends a change
//! has seen every row that it could stand in: those behind the one that its change remembers, up to the one before the
//! row it inserts. Two that finish the same change cannot both have seen all and both be first.
//!
//! What waits in this process is appended together: the first to come writes for all who came meanwhile.
//!
//! A change remembers the row that was noted last when it was made, not what this process appended last: so one that
//! was idle need not read what all others appended meanwhile.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    super::config_log::{ConfigRows, LogRow, Place, Which, Written, place},
    pause,
    row::Open,
    steps::Steps,
};
use crate::{
    id::ConfigSeq,
    limits,
    model::ResourceId,
    store::{ConfigChange, Result, StoreError},
};

/// What makes a change the same one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key(ResourceId, u64, bool);

impl Key {
    fn of(change: &ConfigChange) -> Self {
        Self(change.resource, change.version, change.health.is_some())
    }

    fn of_written(which: &Which) -> Self {
        Self(which.resource, which.version, which.health.is_some())
    }
}

/// A change that waits.
struct Waiting {
    change: ConfigChange,
    /// The attempt that made it.
    by: String,
    /// It stands behind this row, if anywhere.
    after: u64,
    done: oneshot::Sender<Result<Place, String>>,
}

/// The log's end, as this process knows it.
struct Tail {
    /// The last row.
    head: u64,
    /// The latest rows' changes, up to the last row.
    recent: VecDeque<Vec<Key>>,
    /// When the end was known last: rows leave with time, and a place that was filled must not look free.
    seen: Instant,
}

impl Tail {
    /// The last row before those in `recent`.
    fn before(&self) -> u64 {
        self.head - u64::try_from(self.recent.len()).unwrap_or(0)
    }

    fn push(&mut self, changes: Vec<Key>) {
        self.head += 1;
        self.seen = Instant::now();
        self.recent.push_back(changes);
        if self.recent.len() > limits::CONFIG_ROWS_REMEMBERED {
            self.recent.pop_front();
        }
    }

    /// Goes on from a row that is there, if that is behind all that is known: nobody asks for what lies between.
    fn go_to(&mut self, row: u64) {
        if row > self.head {
            (self.head, self.recent) = (row, VecDeque::new());
        }
    }

    /// Where a change stands in the rows behind `after` that are remembered.
    fn find(&self, key: Key, after: u64) -> Option<Place> {
        let mut seq = self.before();
        for keys in &self.recent {
            seq += 1;
            if seq > after
                && let Some(index) = keys.iter().position(|other| *other == key)
            {
                return Some(place(seq, index));
            }
        }
        None
    }
}

/// Appends to the configuration log.
pub(super) struct Announcer {
    waiting: Mutex<VecDeque<Waiting>>,
    tail: tokio::sync::Mutex<Tail>,
    head: AtomicU64,
}

impl std::fmt::Debug for Announcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Announcer")
    }
}

impl Announcer {
    /// For a log that ends there.
    pub(super) fn new(head: ConfigSeq) -> Self {
        Self {
            waiting: Mutex::default(),
            tail: tokio::sync::Mutex::new(Tail {
                head: head.as_u64(),
                recent: VecDeque::new(),
                seen: Instant::now(),
            }),
            head: AtomicU64::new(head.as_u64()),
        }
    }

    /// A row that is there: what is changed from now on stands behind it.
    pub(super) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Notes a row that is there, whoever appended it.
    pub(super) fn raise(&self, head: u64) {
        self.head.fetch_max(head, Ordering::AcqRel);
    }

    /// Appends the change of an attempt, unless it stands there already. Where it stands.
    pub(super) async fn announce(
        &self,
        steps: &Steps,
        rows: &ConfigRows,
        open: &Open,
        by: &str,
    ) -> Result<Place> {
        loop {
            let (done, mut answer) = oneshot::channel();
            self.lock().push_back(Waiting {
                change: open.change.clone(),
                by: by.to_owned(),
                after: open.after,
                done,
            });
            let mut tail = self.tail.lock().await;
            loop {
                match answer.try_recv() {
                    Ok(answer) => return answer.map_err(StoreError::Unavailable),
                    // Whoever was to append it was stopped half-way.
                    Err(oneshot::error::TryRecvError::Closed) => break,
                    Err(oneshot::error::TryRecvError::Empty) => {}
                }
                let batch: Vec<Waiting> = {
                    let mut waiting = self.lock();
                    let count = waiting.len().min(limits::CONFIG_CHANGES_PER_ROW);
                    waiting.drain(..count).collect()
                };
                self.append(steps, rows, &mut tail, batch).await?;
            }
        }
    }

    /// Appends what waits. An error is everybody's who waited.
    async fn append(
        &self,
        steps: &Steps,
        rows: &ConfigRows,
        tail: &mut Tail,
        mut batch: Vec<Waiting>,
    ) -> Result<()> {
        let appended = self.try_append(steps, rows, tail, &mut batch).await;
        self.raise(tail.head);
        if let Err(error) = &appended {
            for waiting in batch {
                drop(waiting.done.send(Err(error.to_string())));
            }
        }
        appended
    }

    async fn try_append(
        &self,
        steps: &Steps,
        rows: &ConfigRows,
        tail: &mut Tail,
        batch: &mut Vec<Waiting>,
    ) -> Result<()> {
        if tail.seen.elapsed() >= limits::CONFIG_TAIL_SEEN {
            self.look_again(steps, rows, tail).await?;
        }
        if let Some(after) = batch.iter().map(|waiting| waiting.after).min() {
            tail.go_to(after);
        }
        for round in 0..limits::CQL_CHANGE_ROUNDS {
            // Also what others brought while a row was tried, however many rows that were.
            self.answer_found(steps, rows, tail, batch).await?;
            if batch.is_empty() {
                return Ok(());
            }
            let changes = firsts(batch);
            if rows.insert(steps, tail.head + 1, &changes).await? {
                tail.push(changes.iter().map(|written| Key::of(written.change)).collect());
                return self.answer_found(steps, rows, tail, batch).await;
            }
            pause(round).await;
            self.catch_up(steps, rows, tail).await?;
        }
        Err(StoreError::Unavailable(
            "too many changes of the configuration at once".to_owned(),
        ))
    }

    /// Answers those whose change stands in the log, as far as its end is known. The others have seen that much of it.
    async fn answer_found(
        &self,
        steps: &Steps,
        rows: &ConfigRows,
        tail: &Tail,
        batch: &mut Vec<Waiting>,
    ) -> Result<()> {
        let mut index = 0;
        while let Some(waiting) = batch.get_mut(index) {
            let key = Key::of(&waiting.change);
            // Rows that are not remembered any more.
            let mut found = rows
                .find(steps, waiting.after, tail.before(), |which| {
                    Key::of_written(which) == key
                })
                .await?;
            if found.is_none() {
                found = tail.find(key, waiting.after);
            }
            match found {
                Some(place) => drop(batch.remove(index).done.send(Ok(place))),
                None => {
                    waiting.after = waiting.after.max(tail.head);
                    index += 1;
                }
            }
        }
        Ok(())
    }

    /// Reads what others appended.
    async fn catch_up(&self, steps: &Steps, rows: &ConfigRows, tail: &mut Tail) -> Result<()> {
        loop {
            let more: Vec<LogRow<Which>> = rows
                .read(steps, tail.head, limits::CONFIG_ROWS_REMEMBERED)
                .await?;
            let Some(first) = more.first() else {
                return Ok(());
            };
            if first.seq != tail.head + 1 {
                return Err(StoreError::Corrupt(format!(
                    "the configuration log has no row {}",
                    tail.head + 1
                )));
            }
            for row in &more {
                tail.push(row.changes.iter().map(Key::of_written).collect());
            }
            self.raise(tail.head);
        }
    }

    /// Finds the end anew after a long time.
    async fn look_again(&self, steps: &Steps, rows: &ConfigRows, tail: &mut Tail) -> Result<()> {
        let head = rows.head(steps, ConfigSeq::new(tail.head)).await?.as_u64();
        tail.go_to(head);
        tail.seen = Instant::now();
        self.raise(head);
        Ok(())
    }

    /// Changes that wait to be appended.
    #[cfg(feature = "testing")]
    pub(super) fn waiting(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits, each change once: several may finish the same one.
fn firsts(batch: &[Waiting]) -> Vec<Written<'_>> {
    let mut changes: Vec<Written<'_>> = Vec::new();
    for waiting in batch {
        let key = Key::of(&waiting.change);
        if !changes.iter().any(|other| Key::of(other.change) == key) {
            changes.push(Written {
                by: &waiting.by,
                change: &waiting.change,
            });
        }
    }
    changes
}
