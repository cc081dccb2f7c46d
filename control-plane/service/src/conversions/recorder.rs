//! Records a conversion once, whatever happens on the way: see [`qrelay_store::store::Conversions`] for the order.
//!
//! Invariants: in this process one task at a time works on an external id; once the log has taken a record, its task
//! goes on until the row is finished, whether the caller waits or not. So a row of this process's writer on
//! which no task works was not taken by the log. Another writer's is looked for in its log once it is closed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use qrelay_store::{
    StoreError,
    appender::{AppendError, Appender},
    id::{EventAddress, Seq, TenantId, WriterId},
    limits,
    record::{ConversionRecord, Record, decode_batch},
    store::{ConversionRow, Heads, SharedStore},
};
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Batches read at once while an earlier process's record is looked for.
const BATCHES_PER_READ: usize = 16;

/// A conversion that stands in the log.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Recorded {
    pub(super) event: EventAddress,
    pub(super) record: ConversionRecord<'static>,
}

/// Why a conversion is not known to be recorded.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// Another one has this external id.
    #[error("another conversion has this external id")]
    Exists,
    /// Somebody works on it: this process, or one that is not known to be dead.
    #[error("this conversion is being recorded")]
    UnderWay,
    /// As many as may be are under way.
    #[error("too many conversions are being recorded")]
    TooMany,
    /// The log does not take it just now, or has not acknowledged it in time.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Key = (TenantId, String);

/// See the module's documentation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder(Arc<Shared>);

struct Shared {
    store: SharedStore,
    appender: Appender,
    /// What tasks work on; the receiver ends with the task.
    under_way: Mutex<HashMap<Key, watch::Receiver<()>>>,
    tasks: TaskTracker,
    /// Ends the tasks, when nobody can call any more.
    closed: CancellationToken,
}

/// The one task on a key. Given back when dropped.
struct Turn {
    shared: Arc<Shared>,
    key: Key,
    _ends: watch::Sender<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.under_way().remove(&self.key);
    }
}

type Answer = oneshot::Sender<Result<Recorded, RecordError>>;

impl Recorder {
    pub(crate) fn new(store: SharedStore, appender: Appender) -> Self {
        Self(Arc::new(Shared {
            store,
            appender,
            under_way: Mutex::default(),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        }))
    }

    /// Ends what is under way, as a crash would. Nothing MUST be recorded here any more.
    pub(crate) fn close(&self) {
        self.0.closed.cancel();
    }

    /// Who appends here.
    pub(super) fn writer(&self) -> WriterId {
        self.0.appender.writer()
    }

    /// Records what `row` says, or finds that it was recorded. `row` is one of this process's writer, unfinished.
    pub(super) async fn record(&self, row: ConversionRow) -> Result<Recorded, RecordError> {
        let key = (row.record.tenant, row.record.external_id.clone().into_owned());
        let turn = loop {
            let mut ends = match self.0.turn(&key)? {
                Ok(turn) => break turn,
                Err(ends) => ends,
            };
            // Ends with an error, which is what is waited for.
            if timeout(limits::APPEND_BUDGET, ends.changed()).await.is_err() {
                return Err(RecordError::UnderWay);
            }
        };
        let (answer, answered) = oneshot::channel();
        let closed = self.0.closed.clone();
        let work = async move { closed.run_until_cancelled(work(turn, row, answer)).await };
        self.0.tasks.spawn(work);
        answered.await.unwrap_or(Err(RecordError::UnderWay))
    }
}

impl Shared {
    fn under_way(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<()>>> {
        // Nothing that holds this lock can panic half-way through a change.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn on a key, or what ends when another's does.
    fn turn(self: &Arc<Self>, key: &Key) -> Result<Result<Turn, watch::Receiver<()>>, RecordError> {
        let mut under_way = self.under_way();
        if let Some(ends) = under_way.get(key) {
            return Ok(Err(ends.clone()));
        }
        if under_way.len() >= limits::CONVERSIONS_UNDER_WAY_MAX {
            return Err(RecordError::TooMany);
        }
        let (sender, ends) = watch::channel(());
        under_way.insert(key.clone(), ends);
        Ok(Ok(Turn {
            shared: Arc::clone(self),
            key: key.clone(),
            _ends: sender,
        }))
    }

    /// The row to append: the given one, or an earlier one that was not recorded. What was is returned as an error.
    async fn claim(&self, row: ConversionRow) -> Result<Result<ConversionRow, Recorded>, RecordError> {
        let Some(found) = self.store.claim_conversion(&row).await? else {
            return Ok(Ok(row));
        };
        if found.body_hash != row.body_hash {
            return Err(RecordError::Exists);
        }
        if let Some(event) = found.event {
            return Ok(Err(Recorded {
                event,
                record: found.record,
            }));
        }
        if found.writer != row.writer
            && let Some(event) = self.look_for(&found).await?
        {
            let record = found.record;
            self.store
                .finish_conversion(record.tenant, &record.external_id, event)
                .await?;
            return Ok(Err(Recorded { event, record }));
        }
        let from = found.writer;
        let taken = ConversionRow {
            writer: row.writer,
            record: ConversionRecord {
                at: row.record.at,
                ..found.record
            },
            ..found
        };
        match self.store.take_conversion(&taken, from).await? {
            true => Ok(Ok(taken)),
            false => Err(RecordError::UnderWay),
        }
    }

    /// Where the record of another writer's row stands, if it does.
    async fn look_for(&self, row: &ConversionRow) -> Result<Option<EventAddress>, RecordError> {
        let writers = self.store.writers().await?;
        let last = match writers.into_iter().find(|known| known.writer == row.writer) {
            Some(writer) => writer.closed.ok_or(RecordError::UnderWay)?,
            // Retention took it, and with it all that it wrote.
            None => Heads::new(),
        };
        let Some(last) = last.get(&row.partition).copied() else {
            return Ok(None);
        };
        // A batch's records lie within this time.
        let end = row
            .record
            .at
            .after(limits::BATCH_SPAN_MAX + Duration::from_millis(1));
        let mut before = Some((end, WriterId::from_u64(0), Seq::ZERO));
        loop {
            let batches = self
                .store
                .batches_before(row.partition, before, BATCHES_PER_READ)
                .await?;
            let Some(oldest) = batches.last() else {
                return Ok(None);
            };
            before = Some((oldest.last_at, oldest.writer, oldest.seq));
            for batch in &batches {
                if batch.last_at < row.record.at {
                    return Ok(None);
                }
                if batch.writer != row.writer || batch.seq > last {
                    continue;
                }
                let records =
                    decode_batch(&batch.body).map_err(|error| StoreError::Corrupt(error.to_string()))?;
                let same =
                    |record: &Record<'_>| matches!(record, Record::Conversion(found) if *found == row.record);
                let index = (0_u16..)
                    .zip(&records)
                    .find(|(_, record)| record.as_ref().is_ok_and(same));
                if let Some((index, _)) = index {
                    return Ok(Some(EventAddress {
                        partition: batch.partition,
                        writer: batch.writer,
                        seq: batch.seq,
                        index,
                    }));
                }
            }
        }
    }

    /// Waits until what the log has taken stands there: it is appended until it is acknowledged.
    async fn until_durable(&self, event: EventAddress) {
        loop {
            if let Ok(Some(_)) = self.store.batch(event.partition, event.writer, event.seq).await {
                return;
            }
            sleep(limits::APPEND_RETRY_PAUSE).await;
        }
    }
}

/// Does it all. Tells the caller as soon as the outcome is known, or known to be unknown for longer.
async fn work(turn: Turn, row: ConversionRow, answer: Answer) {
    let (shared, mut answer) = (&turn.shared, Some(answer));
    let row = match shared.claim(row).await {
        Ok(Ok(row)) => row,
        Ok(Err(recorded)) => return tell(&mut answer, Ok(recorded)),
        Err(error) => return tell(&mut answer, Err(error)),
    };
    let (record, at) = (row.record.clone(), row.record.at);
    let taken = shared
        .appender
        .append(row.partition, at, &Record::Conversion(row.record));
    let pending = match taken {
        Ok(pending) => pending,
        Err(error) => return tell(&mut answer, Err(error.into())),
    };
    let event = pending.address();
    if let Err(error) = pending.durable().await {
        tell(&mut answer, Err(error.into()));
        shared.until_durable(event).await;
    }
    let (tenant, external_id) = (record.tenant, &record.external_id);
    while let Err(error) = shared.store.finish_conversion(tenant, external_id, event).await {
        tracing::warn!(%error, %tenant, "cannot note that a conversion is recorded; trying again");
        tell(&mut answer, Err(error.into()));
        sleep(limits::APPEND_RETRY_PAUSE).await;
    }
    tell(&mut answer, Ok(Recorded { event, record }));
}

/// Tells the caller, once. One that left is told nothing.
fn tell(answer: &mut Option<Answer>, outcome: Result<Recorded, RecordError>) {
    if let Some(answer) = answer.take() {
        drop(answer.send(outcome));
    }
}
