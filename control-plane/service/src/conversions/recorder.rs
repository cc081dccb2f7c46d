//! Records a conversion once, whatever happens on the way: see [`qrelay_store::store::Conversions`] for the order.
//!
//! Invariants: in this process one task at a time works on an external id; once the log has taken a record, its task
//! goes on until the row is finished, whether the caller waits or not. So a row of this process's present writer on
//! which no task works was not taken by the log. Another writer's is looked for in its log once it is closed. On a store that
//! many share, one that is silent is closed from here: nobody else would. That writer may live and not know it: so nothing is
//! finished, nor answered, before the store said that its writer was not fenced.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use qrelay_store::{
    StoreError,
    appender::{AppendError, Appender},
    id::{EventAddress, PartitionId, Seq, TenantId, WriterId},
    limits,
    reader::fence_and_close,
    record::{ConversionRecord, Record, decode_batch},
    store::{ConversionRow, Heads, SharedStore, WriterRow},
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Batches read at once while an earlier process's record is looked for.
const BATCHES_PER_READ: usize = 16;
/// Writers that are watched at once for being silent: of processes that crashed since this one started.
const WATCHED_MAX: usize = 256;

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

/// What is reported.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) record: ConversionRecord<'static>,
    /// SHA-256 of the report's canonical encoding.
    pub(super) body_hash: [u8; 32],
    /// Where it is to be recorded.
    pub(super) partition: PartitionId,
}

impl Report {
    fn by(self, writer: WriterId) -> ConversionRow {
        ConversionRow {
            record: self.record,
            body_hash: self.body_hash,
            partition: self.partition,
            writer,
            event: None,
        }
    }
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
    /// Other writers' beats, and since when they have been seen so.
    beats: Mutex<HashMap<WriterId, (u64, Instant)>>,
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
            beats: Mutex::default(),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        }))
    }

    /// Ends what is under way, as a crash would. Nothing MUST be recorded here any more.
    pub(crate) fn close(&self) {
        self.0.closed.cancel();
    }

    /// Records what a report says, or finds that it was recorded.
    pub(super) async fn record(&self, report: Report) -> Result<Recorded, RecordError> {
        let record = &report.record;
        let key = (record.tenant, record.external_id.clone().into_owned());
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
        let work = async move { closed.run_until_cancelled(work(turn, report, answer)).await };
        self.0.tasks.spawn(work);
        answered.await.unwrap_or(Err(RecordError::UnderWay))
    }
}

impl Shared {
    fn under_way(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<()>>> {
        lock(&self.under_way)
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
            Some(writer) => self.end_of(writer).await?,
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

    /// Where another writer ends. It is closed from here, if it is silent and no lock of anybody could prove it dead.
    async fn end_of(&self, writer: WriterRow) -> Result<Heads, RecordError> {
        if let Some(last) = writer.closed {
            return Ok(last);
        }
        if self.store.exclusive() || !self.is_silent(&writer) {
            return Err(RecordError::UnderWay);
        }
        let (id, node) = (writer.writer, writer.node);
        tracing::warn!(writer = %id, node, "a process that was recording a conversion is not heard of any more; its writer is closed");
        let last = fence_and_close(&self.store, id).await?;
        lock(&self.beats).remove(&id);
        Ok(last.unwrap_or_default())
    }

    /// Whether a writer's beat has stood still for long enough, on this process's own clock.
    fn is_silent(&self, writer: &WriterRow) -> bool {
        let (now, mut beats) = (Instant::now(), lock(&self.beats));
        if beats.len() >= WATCHED_MAX {
            beats.clear();
        }
        let (beat, since) = beats.entry(writer.writer).or_insert((writer.beat, now));
        if *beat != writer.beat {
            (*beat, *since) = (writer.beat, now);
        }
        now.duration_since(*since) >= limits::WRITER_SILENT_AFTER
    }

    /// Waits until it is known whether what the log has taken stands there for good: it is appended until it is
    /// acknowledged, unless its writer was fenced.
    async fn stands(&self, event: EventAddress) -> bool {
        loop {
            if let Ok(Some(stands)) = self.ask(event).await {
                return stands;
            }
            sleep(limits::APPEND_RETRY_PAUSE).await;
        }
    }

    async fn ask(&self, event: EventAddress) -> Result<Option<bool>, StoreError> {
        let batch = self.store.batch(event.partition, event.writer, event.seq).await?;
        // Asked after the look: what is there before a fence is below the writer's end.
        if self.store.exclusive() || !self.store.is_fenced(event.writer).await? {
            return Ok(batch.map(|_| true));
        }
        let last = fence_and_close(&self.store, event.writer).await?;
        let last = last.and_then(|last| last.get(&event.partition).copied());
        Ok(Some(last.is_some_and(|last| event.seq <= last)))
    }
}

/// Does it all. Tells the caller as soon as the outcome is known, or known to be unknown for longer.
async fn work(turn: Turn, report: Report, answer: Answer) {
    let (shared, mut answer) = (&turn.shared, Some(answer));
    let appender = match shared.appender.current().await {
        Ok(appender) => appender,
        Err(error) => return tell(&mut answer, Err(error.into())),
    };
    let row = report.by(appender.writer());
    let row = match shared.claim(row).await {
        Ok(Ok(row)) => row,
        Ok(Err(recorded)) => return tell(&mut answer, Ok(recorded)),
        Err(error) => return tell(&mut answer, Err(error)),
    };
    let (record, at) = (row.record.clone(), row.record.at);
    let taken = appender.append(row.partition, at, &Record::Conversion(row.record));
    let pending = match taken {
        Ok(pending) => pending,
        Err(error) => return tell(&mut answer, Err(error.into())),
    };
    let event = pending.address();
    if let Err(error) = pending.durable().await {
        tell(&mut answer, Err(error.into()));
        if !shared.stands(event).await {
            // Past its writer's end, and in nobody's log. The row is for the next report to take.
            return;
        }
    }
    let (tenant, external_id) = (record.tenant, &record.external_id);
    while let Err(error) = shared.store.finish_conversion(tenant, external_id, event).await {
        tracing::warn!(%error, %tenant, "cannot note that a conversion is recorded; trying again");
        tell(&mut answer, Err(error.into()));
        sleep(limits::APPEND_RETRY_PAUSE).await;
    }
    tell(&mut answer, Ok(Recorded { event, record }));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the caller, once. One that left is told nothing.
fn tell(answer: &mut Option<Answer>, outcome: Result<Recorded, RecordError>) {
    if let Some(answer) = answer.take() {
        drop(answer.send(outcome));
    }
}
