//! The writer: gathers records into batches and gets them acknowledged.
//!
//! One [`Appender`] per process start is one writer. Per partition it fills an open batch while the one before is
//! in flight: sealed when that one is acknowledged, so there is no linger when idle and batches grow under load.
//! A sealed batch never changes; one whose outcome is unknown is appended again with the same key and bytes, for
//! as long as it takes. Meanwhile its waiters are told that it is not durable (their scans were not answered, so a
//! later success of the batch loses nothing) and new records are refused at once, until the store is back.
//!
//! With a journal ([`Appender::start_journaled`]) a batch that the store does not acknowledge within the budget is synced
//! there instead, and its records are durable ([`journaled`]).
//!
//! Invariants: one batch in flight per partition; an acknowledged head covers all batches below it; a record is
//! never in two batches.

mod fenced;
mod journaled;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::Notify,
    task::yield_now,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::{SharedClock, Timestamp},
    id::{EventAddress, PartitionId, Seq, WriterId},
    journal::{Journal, JournalError, WriteError, succession},
    limits,
    record::{BatchBuilder, Record, RecordTooLarge},
    seldom::Seldom,
    store::{Batch, Heads, Result, SharedStore, StoreError, WriterRow},
};

/// What happens while the store is away is told once in so long.
const TOLD: Duration = Duration::from_secs(60);

/// Why a record was not taken, or is not known to be durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The store is failing, or too much waits for it.
    #[error("the store does not take events just now")]
    Refused,
    /// Not acknowledged in time. It may still become durable.
    #[error("the event was not acknowledged in time")]
    NotDurable,
    /// The writer is closing.
    #[error("the writer is closing")]
    Closing,
    /// The record fits into no batch.
    #[error(transparent)]
    TooLarge(#[from] RecordTooLarge),
}

/// Why a writer could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AppenderError {
    /// The store did not acknowledge its registration.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Records events. Cheap to clone; all clones are one writer.
#[derive(Clone, Debug)]
pub struct Appender {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: StoreHandle,
    writer: WriterId,
    partitions: Mutex<BTreeMap<PartitionId, Arc<Lane>>>,
    tasks: TaskTracker,
    /// Where the tasks run, whoever's record is the first of a lane.
    runtime: Handle,
    /// Set by `close`: nothing new is taken, lanes drain.
    closing: CancellationToken,
    journal: Option<Journal>,
    /// Of one that others may close.
    fence: Option<fenced::Fence>,
    journaling: Seldom,
    journal_full: Seldom,
    not_shipped: Seldom,
}

/// How others learn that a writer is dead.
enum Kind {
    /// By a lock on all of the store, or never.
    Plain,
    /// By its journal's lock.
    Journaled(Journal),
    /// They make it so.
    Fenced(fenced::Fence),
}

struct StoreHandle(SharedStore);

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// One partition's stream of batches.
#[derive(Debug)]
struct Lane {
    partition: PartitionId,
    open: Mutex<Open>,
    /// Wakes the lane's task: there is something to seal, or the end has come.
    work: Notify,
    /// The last attempt to append failed: nothing new is taken until one succeeds.
    failing: AtomicBool,
    /// The open batch has what was wanted.
    gathered: Notify,
    /// Who scans just now: the records of the last batch, and those that waited when it was acknowledged.
    crowd: AtomicU16,
    /// What of it is in the journal.
    backlog: journaled::Backlog,
}

#[derive(Debug)]
struct Open {
    builder: BatchBuilder,
    /// The number that the open batch will have.
    seq: Seq,
    first_at: Timestamp,
    last_at: Timestamp,
    /// Batches that were full before the one in flight was acknowledged.
    full: std::collections::VecDeque<(Batch, Arc<Outcome>)>,
    full_bytes: usize,
    /// How many records the open batch is waited for to have; zero when it is not.
    wanted: u16,
    outcome: Arc<Outcome>,
    acknowledged: Seq,
}

/// What became of a batch, for those who wait.
#[derive(Debug, Default)]
struct Outcome {
    state: AtomicU8,
    changed: Notify,
}

const WAITING: u8 = 0;
const DURABLE: u8 = 1;
const FAILED: u8 = 2;

impl Outcome {
    fn settle(&self, state: u8) {
        if self
            .state
            .compare_exchange(WAITING, state, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            self.changed.notify_waiters();
        }
    }

    async fn settled(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            match self.state.load(Ordering::Acquire) {
                WAITING => changed.await,
                state => return state == DURABLE,
            }
        }
    }
}

/// A record that was taken, and will be durable soon.
#[derive(Debug)]
pub struct Pending {
    address: EventAddress,
    outcome: Arc<Outcome>,
}

impl Pending {
    /// Where the event stands, or will stand.
    pub fn address(&self) -> EventAddress {
        self.address
    }

    /// Waits until the record is durable.
    ///
    /// # Errors
    /// [`AppendError::NotDurable`] when the store failed, or did not answer within
    /// [`limits::APPEND_BUDGET`].
    pub async fn durable(self) -> Result<EventAddress, AppendError> {
        match timeout(limits::APPEND_BUDGET, self.outcome.settled()).await {
            Ok(true) => Ok(self.address),
            Ok(false) | Err(_) => Err(AppendError::NotDurable),
        }
    }
}

impl Appender {
    /// [`Self::start_on`] the runtime of the caller.
    ///
    /// # Errors
    /// When the store does not acknowledge the registration.
    pub async fn start(
        store: SharedStore,
        clock: &SharedClock,
        node: &str,
        heads_period: Duration,
    ) -> Result<Self> {
        Self::start_on(&Handle::current(), store, clock, node, heads_period).await
    }

    /// Registers a new writer and starts its tasks on a runtime, which must outlive it: best on the one whose tasks append
    /// most, so that a batch and those who wait for it wake each other on the same threads. `heads_period`: how often changed
    /// heads are published.
    ///
    /// # Errors
    /// When the store does not acknowledge the registration.
    pub async fn start_on(
        runtime: &Handle,
        store: SharedStore,
        clock: &SharedClock,
        node: &str,
        heads_period: Duration,
    ) -> Result<Self> {
        let row = WriterRow::new(node, clock);
        store.register_writer(&row).await?;
        Ok(Self::run(runtime, store, row.writer, heads_period, Kind::Plain))
    }

    /// [`Self::start_on`] for a writer that others may close once it is silent ([`fenced`]); there is no journal that would
    /// prove it dead. Every append costs a read more.
    ///
    /// # Errors
    /// When the store does not acknowledge the registration.
    pub async fn start_fenced(
        runtime: &Handle,
        store: SharedStore,
        clock: &SharedClock,
        node: &str,
        heads_period: Duration,
    ) -> Result<Self> {
        let settings = fenced::Settings {
            clock: Arc::clone(clock),
            node: node.to_owned(),
            heads_period,
        };
        Self::fenceable(runtime, store, settings).await
    }

    async fn fenceable(runtime: &Handle, store: SharedStore, settings: fenced::Settings) -> Result<Self> {
        let row = WriterRow::new(&settings.node, &settings.clock);
        store.register_writer(&row).await?;
        let period = settings.heads_period;
        let kind = Kind::Fenced(fenced::Fence::new(settings));
        Ok(Self::run(runtime, store, row.writer, period, kind))
    }

    /// [`Self::start_on`] with a journal. What earlier processes left in it is shipped beside the new writer, and they are closed.
    ///
    /// # Errors
    /// When the journal belongs to another store or cannot be written, or the store does not acknowledge the
    /// registration.
    pub async fn start_journaled(
        runtime: &Handle,
        store: SharedStore,
        clock: &SharedClock,
        node: &str,
        heads_period: Duration,
        journal: Journal,
    ) -> Result<Self, AppenderError> {
        let row = WriterRow::new(node, clock);
        journal.begin(&row, store.install()).await?;
        store.register_writer(&row).await?;
        let kind = Kind::Journaled(journal);
        Ok(Self::run(runtime, store, row.writer, heads_period, kind))
    }

    fn run(
        runtime: &Handle,
        store: SharedStore,
        writer: WriterId,
        heads_period: Duration,
        kind: Kind,
    ) -> Self {
        let (journal, fence) = match kind {
            Kind::Plain => (None, None),
            Kind::Journaled(journal) => (Some(journal), None),
            Kind::Fenced(fence) => (None, Some(fence)),
        };
        let shared = Arc::new(Shared {
            store: StoreHandle(store),
            writer,
            partitions: Mutex::default(),
            tasks: TaskTracker::new(),
            runtime: runtime.clone(),
            closing: CancellationToken::new(),
            journal,
            fence,
            journaling: Seldom::new(TOLD),
            journal_full: Seldom::new(TOLD),
            not_shipped: Seldom::new(TOLD),
        });
        shared
            .tasks
            .spawn_on(publish_heads(Arc::clone(&shared), heads_period), runtime);
        if let Some(journal) = shared.journal.clone() {
            let (store, closing) = (Arc::clone(&shared.store.0), shared.closing.clone());
            let succeeding = async move {
                // What is not shipped when this writer closes is for the next start.
                let succeeding = succession::succeed_all(journal, store);
                closing.run_until_cancelled(succeeding).await
            };
            shared.tasks.spawn_on(succeeding, runtime);
        }
        Self { shared }
    }

    /// This writer's id.
    pub fn writer(&self) -> WriterId {
        self.shared.writer
    }

    /// Takes a record, timed `at`, for a partition. The answer comes at once: whether it becomes durable is for
    /// [`Pending::durable`] to say.
    ///
    /// # Errors
    /// When the store is failing, too much waits, the writer is closing, or the record is too large.
    pub fn append(
        &self,
        partition: PartitionId,
        at: Timestamp,
        record: &Record<'_>,
    ) -> Result<Pending, AppendError> {
        if self.shared.closing.is_cancelled() {
            return Err(AppendError::Closing);
        }
        let lane = self.shared.lane(partition).ok_or(AppendError::Closing)?;
        if lane.failing.load(Ordering::Acquire) || self.shared.is_fenced() {
            return Err(AppendError::Refused);
        }
        let pending = lane.take(self.shared.writer, at, record)?;
        lane.work.notify_one();
        Ok(pending)
    }

    /// Whether some partition's appends are failing just now.
    pub fn is_failing(&self) -> bool {
        if let Some(fence) = &self.shared.fence
            && self.shared.is_fenced()
        {
            return fence.next().is_some_and(|next| next.is_failing());
        }
        lock(&self.shared.partitions)
            .values()
            .any(|lane| lane.failing.load(Ordering::Acquire))
    }

    /// Takes nothing new, waits until all that was taken is acknowledged, and closes the writer. Gives up
    /// at `deadline`: the writer then stays open, and its successor closes it.
    ///
    /// # Errors
    /// When the store does not acknowledge in time; nothing answered is lost by that.
    pub async fn close(&self, deadline: Instant) -> Result<(), AppendError> {
        self.close_this(deadline).await?;
        match self.shared.fence.as_ref().and_then(fenced::Fence::next) {
            Some(next) => next.close_this(deadline).await,
            None => Ok(()),
        }
    }

    async fn close_this(&self, deadline: Instant) -> Result<(), AppendError> {
        {
            let lanes = lock(&self.shared.partitions);
            // Under the lock, so that no lane is made that nobody waits for.
            self.shared.closing.cancel();
            lanes.values().for_each(|lane| lane.work.notify_one());
        }
        self.shared.tasks.close();
        tokio::time::timeout_at(deadline, async {
            self.shared.tasks.wait().await;
            let shared = &self.shared;
            if shared.is_fenced() {
                // Its end is for who fenced it to tell: what it was not told of may be below that, and read by others.
                return Ok(());
            }
            let last = shared.heads();
            shared.store.0.close_writer(shared.writer, &last).await?;
            if let Some(journal) = &shared.journal
                && let Err(error) = journal.end(shared.writer).await
            {
                // The next start finds it closed, and nothing to ship.
                tracing::warn!(%error, "cannot tidy up the journal");
            }
            Ok::<_, StoreError>(())
        })
        .await
        .map_err(|_| AppendError::NotDurable)?
        .map_err(|_| AppendError::NotDurable)
    }
}

impl Shared {
    /// None when a new one were needed and the writer is closing: what it acknowledged would lie past the end.
    fn lane(self: &Arc<Self>, partition: PartitionId) -> Option<Arc<Lane>> {
        let mut lanes = lock(&self.partitions);
        if self.closing.is_cancelled() {
            return lanes.get(&partition).map(Arc::clone);
        }
        let lane = lanes.entry(partition).or_insert_with(|| {
            let lane = Arc::new(Lane::new(partition));
            self.tasks
                .spawn_on(drain(Arc::clone(self), Arc::clone(&lane)), &self.runtime);
            lane
        });
        Some(Arc::clone(lane))
    }

    /// The store has this batch of the lane and all before it.
    fn acknowledge(&self, lane: &Lane, seq: Seq) {
        lock(&lane.open).acknowledged = seq;
        let hints = self.store.0.hints().partition(lane.partition);
        hints.publish_head(self.writer, seq);
    }

    fn tell_journaling(&self, why: &str) {
        if let Some(times) = self.journaling.happened() {
            tracing::warn!(
                why,
                times,
                "the store does not take events; they go to the journal until it does"
            );
        }
    }

    fn tell_not_shipped(&self, error: &StoreError) {
        if let Some(times) = self.not_shipped.happened() {
            tracing::warn!(%error, times, "what is in the journal does not get into the store; trying again");
        }
    }

    fn tell_full(&self, error: &WriteError) {
        if let Some(times) = self.journal_full.happened() {
            tracing::error!(%error, times, "neither the store nor the journal takes events; scans are refused, or answered and not recorded, as their tenants want it");
        }
    }

    fn heads(&self) -> Heads {
        let lanes = lock(&self.partitions);
        let heads = lanes
            .values()
            .map(|lane| (lane.partition, lock(&lane.open).acknowledged));
        heads.filter(|(_, seq)| *seq > Seq::ZERO).collect()
    }
}

impl Lane {
    fn new(partition: PartitionId) -> Self {
        Self {
            partition,
            open: Mutex::new(Open {
                builder: BatchBuilder::default(),
                seq: Seq::ZERO.next(),
                first_at: Timestamp::EPOCH,
                last_at: Timestamp::EPOCH,
                full: std::collections::VecDeque::new(),
                full_bytes: 0,
                wanted: 0,
                outcome: Arc::default(),
                acknowledged: Seq::ZERO,
            }),
            work: Notify::new(),
            failing: AtomicBool::new(false),
            gathered: Notify::new(),
            crowd: AtomicU16::new(0),
            backlog: journaled::Backlog::default(),
        }
    }

    fn take(&self, writer: WriterId, at: Timestamp, record: &Record<'_>) -> Result<Pending, AppendError> {
        let mut open = lock(&self.open);
        let span = open.last_at.max(at).since(open.first_at.min(at));
        let full = open.builder.bytes() >= limits::BATCH_BYTES_MAX
            || usize::from(open.builder.count()) >= limits::BATCH_RECORDS_MAX
            || (open.builder.count() > 0 && span > limits::BATCH_SPAN_MAX);
        if full {
            if open.full_bytes >= limits::APPEND_BACKLOG_BYTES_MAX {
                return Err(AppendError::Refused);
            }
            let sealed = open.seal(self.partition, writer);
            open.full_bytes += sealed.0.body.len();
            open.full.push_back(sealed);
        }
        let index = open.builder.push(record)?;
        if index == 0 {
            (open.first_at, open.last_at) = (at, at);
        }
        open.first_at = open.first_at.min(at);
        open.last_at = open.last_at.max(at);
        if open.wanted > 0 && (full || open.builder.count() >= open.wanted) {
            open.wanted = 0;
            self.gathered.notify_one();
        }
        let address = EventAddress {
            partition: self.partition,
            writer,
            seq: open.seq,
            index,
        };
        Ok(Pending {
            address,
            outcome: Arc::clone(&open.outcome),
        })
    }

    /// The next batch to append, if anything waits.
    fn next(&self, writer: WriterId) -> Option<(Batch, Arc<Outcome>)> {
        let mut open = lock(&self.open);
        if let Some(sealed) = open.full.pop_front() {
            open.full_bytes -= sealed.0.body.len();
            return Some(sealed);
        }
        (open.builder.count() > 0).then(|| open.seal(self.partition, writer))
    }

    /// Lets others join the batch, since commits are what a durable scan costs: under load they become fewer and larger.
    ///
    /// Everybody whose request is there already: as long as records come in, what is ready to run runs and the sockets are
    /// asked again. And in a crowd, those who were just answered and are about to scan again: as many as were there the last
    /// time are waited for. All that for [`limits::GATHER_MAX`] at most each. Whoever scans alone waits a microsecond.
    async fn gather(&self) {
        let (mut taken, began) = (self.waiting(), Instant::now());
        loop {
            yield_now().await;
            let now = self.waiting();
            if now == taken || began.elapsed() >= limits::GATHER_MAX {
                break;
            }
            taken = now;
        }
        let crowd = self.crowd.load(Ordering::Relaxed);
        if crowd >= limits::GATHER_CROWD_MIN && self.wants(crowd) {
            // In vain, when they went away: then the next batch waits for fewer.
            timeout(limits::GATHER_MAX, self.gathered.notified()).await.ok();
            lock(&self.open).wanted = 0;
        }
    }

    /// Whether something waits, and less than that.
    fn wants(&self, records: u16) -> bool {
        let mut open = lock(&self.open);
        let wanted = open.full.is_empty() && (1..records).contains(&open.builder.count());
        open.wanted = if wanted { records } else { 0 };
        wanted
    }

    /// How many records the open batch has, if there is none before it that could go already.
    fn waiting(&self) -> u16 {
        let open = lock(&self.open);
        if open.full.is_empty() {
            open.builder.count()
        } else {
            0
        }
    }

    fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Release);
    }

    /// Tells everybody who waits that it will not be in time.
    fn fail_waiters(&self, in_flight: &Outcome) {
        self.set_failing(true);
        in_flight.settle(FAILED);
        let mut open = lock(&self.open);
        open.full.iter().for_each(|(_, outcome)| outcome.settle(FAILED));
        // Records that join the open batch once the store is back have an outcome of their own.
        std::mem::take(&mut open.outcome).settle(FAILED);
    }
}

impl Open {
    fn seal(&mut self, partition: PartitionId, writer: WriterId) -> (Batch, Arc<Outcome>) {
        // Batches of a busy time are alike.
        let next = BatchBuilder::for_bytes(self.builder.bytes());
        let builder = std::mem::replace(&mut self.builder, next);
        let batch = Batch {
            partition,
            writer,
            seq: self.seq,
            first_at: self.first_at,
            last_at: self.last_at,
            count: builder.count(),
            body: Bytes::from(builder.finish()),
        };
        self.seq = self.seq.next();
        (batch, std::mem::take(&mut self.outcome))
    }
}

/// A lane's task: appends one batch after the other, each until it is acknowledged.
async fn drain(shared: Arc<Shared>, lane: Arc<Lane>) {
    loop {
        // Asked first: what was taken before the closing is seen below.
        let closing = shared.closing.is_cancelled();
        if let Some(journal) = &shared.journal {
            lane.backlog.nearly_shipped(journal.config().append_budget).await;
        }
        lane.gather().await;
        let Some((batch, outcome)) = lane.next(shared.writer) else {
            if closing {
                return;
            }
            lane.work.notified().await;
            continue;
        };
        if let Some(journal) = &shared.journal {
            journaled::record(&shared, &lane, journal, batch, &outcome).await;
            continue;
        }
        let (seq, count) = (batch.seq, batch.count);
        if !append_until_acknowledged(&shared, &lane, batch, &outcome).await {
            // Nothing is acknowledged any more.
            lane.fail_waiters(&outcome);
            return;
        }
        lane.set_failing(false);
        shared.acknowledge(&lane, seq);
        lane.crowd
            .store(count.saturating_add(lane.waiting()), Ordering::Relaxed);
        // Who was told FAILED has answered by then; a settled outcome stays as it is.
        outcome.settle(DURABLE);
    }
}

/// False when the writer was fenced, and nothing is acknowledged any more.
async fn append_until_acknowledged(shared: &Shared, lane: &Lane, batch: Batch, outcome: &Outcome) -> bool {
    let mut failures = 0_u64;
    let acknowledged = loop {
        let error = match shared.append(batch.clone()).await {
            Ok(acknowledged) => break acknowledged,
            Err(error) => error,
        };
        if failures == 0 {
            tracing::error!(%error, partition = %lane.partition, seq = %batch.seq, "cannot append; scans are refused until the store is back");
        }
        failures += 1;
        lane.fail_waiters(outcome);
        metrics::counter!("qrelay_append_failures_total").increment(1);
        sleep(limits::APPEND_RETRY_PAUSE).await;
    };
    if failures > 0 && acknowledged {
        tracing::info!(partition = %lane.partition, seq = %batch.seq, failures, "the store takes events again");
    }
    acknowledged
}

/// Publishes heads while they change, and a new beat at least every [`limits::BEAT_PERIOD`].
async fn publish_heads(shared: Arc<Shared>, period: Duration) {
    let (mut published, mut beat, mut last) = (Heads::new(), 0_u64, Instant::now());
    loop {
        tokio::select! {
            biased;
            () = shared.closing.cancelled() => return,
            () = sleep(period) => {}
        }
        if shared.is_fenced() {
            return;
        }
        let heads = shared.heads();
        if heads == published && last.elapsed() < limits::BEAT_PERIOD {
            continue;
        }
        beat += 1;
        match shared.store.0.publish_heads(shared.writer, beat, &heads).await {
            Ok(()) => (published, last) = (heads, Instant::now()),
            Err(error) => tracing::warn!(%error, "cannot publish heads; trying again"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What panics under these locks would be a bug of ours; the data stays consistent either way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
