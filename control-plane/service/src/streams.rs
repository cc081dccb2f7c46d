//! Following a tenant's events as they are recorded, with a token to go on from after each.
//!
//! A token holds every cursor (per partition and writer, and the configuration log's) before the batch that the event
//! stands in, and the event's place in it: the batch is read again, and what was sent is passed over.

mod start;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, future::select_all, stream::unfold};
use qrelay_proto::v1::{Event, StreamEventsRequest, StreamEventsResponse};
use qrelay_store::{
    StoreError,
    clock::SharedClock,
    id::{ConfigSeq, EventAddress, PartitionId, Seq, WriterId},
    limits,
    model::{ResourceId, Tenant},
    reader::{Item, PartitionReader},
    record::decode_batch,
    store::{Batch, ConfigRow, SharedStore},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::Status;

use crate::{
    api::Api,
    caller::Caller,
    events::{self, Filter, Renderer, to_proto},
    measures::Open,
    page::Bound,
    refusal::{self, Violations},
};

/// Rows of the configuration log read at once.
const CONFIG_ROWS_PER_READ: usize = 64;
/// How often the configuration log is read, hints or not.
const CONFIG_PERIOD: Duration = Duration::from_secs(1);
/// How often it is checked that the caller may still listen.
const RECHECK_PERIOD: Duration = Duration::from_secs(1);
/// A stream whose filter lets nothing through says so often where it stands.
const TOKEN_PERIOD: Duration = Duration::from_secs(10);

/// A stream with an end waits for so long after it: what was seen before the end may be recorded a little after it.
/// The time that a batch's records lie apart.
const END_GRACE: Duration = limits::BATCH_SPAN_MAX;

/// Where to go on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Resume {
    /// Batches up to these were sent whole. As pairs, because JSON has text keys only.
    logs: Vec<(PartitionId, Vec<(WriterId, Seq)>)>,
    /// Rows up to this were sent whole.
    config: ConfigSeq,
    /// Of the batch or row that follows, records up to this one were sent.
    within: Option<EventAddress>,
}

/// Reads on and on. What was taken from the store and not yet handed out is in `taken` and `ready`, so that a
/// dropped [`Follower::next`] loses nothing.
struct Follower {
    store: SharedStore,
    clock: SharedClock,
    renderer: Renderer,
    filter: Filter,
    readers: Vec<PartitionReader>,
    config_moved: watch::Receiver<ConfigSeq>,
    /// When the configuration log is read next.
    config_due: Instant,
    /// What was sent whole.
    logs: BTreeMap<PartitionId, BTreeMap<WriterId, Seq>>,
    config: ConfigSeq,
    /// What was sent in part, before this stream began.
    within: Option<EventAddress>,
    taken: VecDeque<Taken>,
    ready: VecDeque<(Event, Resume)>,
}

/// Read from the store, not yet made into events.
enum Taken {
    Item(PartitionId, Item),
    Row(ConfigRow),
}

impl Follower {
    /// A follower from `resume` on, or from the filter's start, or from now on.
    async fn open(
        store: &SharedStore,
        clock: &SharedClock,
        tenant: &Tenant,
        filter: Filter,
        resume: Option<Resume>,
    ) -> Result<Self, Status> {
        let resume = match (resume, filter.start) {
            (Some(resume), _) => Ok(resume),
            (None, Some(start)) => start::at(store, tenant, start).await,
            (None, None) => start::now(store, tenant).await,
        };
        let resume = resume.map_err(refusal::store)?;
        let known = |(partition, seqs): (PartitionId, Vec<_>)| (partition, seqs.into_iter().collect());
        let logs = resume.logs.into_iter().map(known).collect();
        let mut follower = Self {
            readers: Vec::new(),
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            renderer: Renderer::new(Arc::clone(store)),
            filter,
            config_moved: store.hints().config(),
            config_due: Instant::now(),
            logs,
            config: resume.config,
            within: resume.within,
            taken: VecDeque::new(),
            ready: VecDeque::new(),
        };
        // Not those of the row that was given, which the caller may have had for a while: partitions that came since were
        // announced before the place in the configuration log from which this goes on.
        follower.read_also(&tenant.partitions);
        follower.read_all_partitions().await.map_err(refusal::store)?;
        Ok(follower)
    }

    /// Reads partitions, too, that the tenant was given since. All that stands in them was recorded since.
    async fn read_all_partitions(&mut self) -> Result<(), StoreError> {
        if let Some(tenant) = self.store.tenant(self.filter.tenant).await? {
            self.read_also(&tenant.partitions);
        }
        Ok(())
    }

    fn read_also(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            if self.readers.iter().all(|reader| reader.partition() != *partition) {
                let from = self.logs.entry(*partition).or_default().clone();
                let reader = PartitionReader::new(Arc::clone(&self.store), *partition, from);
                self.readers.push(reader);
            }
        }
    }

    /// The next event and the token after it; none when the filter's end has passed. Waits for as long as it
    /// takes. Cancel-safe.
    async fn next(&mut self) -> Result<Option<(Event, Resume)>, StoreError> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Ok(Some(next));
            }
            if self.tenant_changed() {
                self.read_all_partitions().await?;
            }
            if let Some(taken) = self.taken.front() {
                let events = match taken {
                    Taken::Row(row) => self.events_of_row(row).await?,
                    Taken::Item(_, Item::Batch(batch)) => self.events_of_batch(batch).await?,
                    Taken::Item(_, Item::Gap { .. }) => Vec::new(),
                };
                self.ready.extend(events);
                self.pass();
                continue;
            }
            // Asked before the read: what is read must be all that there was when the end had passed.
            let end_passed = self.end_passed();
            if !self.read().await? {
                if end_passed && self.caught_up().await? {
                    return Ok(None);
                }
                self.changed().await;
            }
        }
    }

    /// Whether what was taken first is about the tenant itself, which may have been given partitions.
    fn tenant_changed(&self) -> bool {
        let tenant = ResourceId::Tenant(self.filter.tenant);
        let Some(Taken::Row(row)) = self.taken.front() else {
            return false;
        };
        row.changes.iter().any(|change| change.resource == tenant)
    }

    fn end_passed(&self) -> bool {
        let end = self.filter.end.map(|end| end.after(END_GRACE));
        end.is_some_and(|end| self.clock.now() >= end)
    }

    /// Whether all that is recorded was handed out: batches that are missing are waited for.
    async fn caught_up(&self) -> Result<bool, StoreError> {
        let logs_read = self.readers.iter().all(PartitionReader::caught_up);
        Ok(logs_read && self.store.config_head().await? <= self.config)
    }

    /// Notes that what was taken first is made into events.
    fn pass(&mut self) {
        match self.taken.pop_front() {
            Some(Taken::Row(row)) => self.config = row.seq,
            Some(Taken::Item(partition, item)) => {
                let (writer, seq) = match item {
                    Item::Batch(batch) => (batch.writer, batch.seq),
                    Item::Gap { writer, through, .. } => (writer, through),
                };
                self.logs.entry(partition).or_default().insert(writer, seq);
            }
            None => {}
        }
    }

    /// Takes what can be read. False when nothing can just now.
    async fn read(&mut self) -> Result<bool, StoreError> {
        if Instant::now() >= self.config_due {
            self.config_moved.mark_unchanged();
            let rows = self.store.config_after(self.config, CONFIG_ROWS_PER_READ).await?;
            if rows.is_empty() {
                self.config_due = Instant::now() + CONFIG_PERIOD;
            }
            self.taken.extend(rows.into_iter().map(Taken::Row));
        }
        for reader in &mut self.readers {
            reader.refresh().await?;
            let partition = reader.partition();
            let items = reader.read(limits::READ_BYTES_MAX).await?;
            self.taken
                .extend(items.into_iter().map(|item| Taken::Item(partition, item)));
        }
        Ok(!self.taken.is_empty())
    }

    async fn changed(&mut self) {
        let logs = select_all(self.readers.iter_mut().map(|reader| Box::pin(reader.changed())));
        tokio::select! {
            _ = logs => {}
            _ = self.config_moved.changed() => self.config_due = Instant::now(),
            () = sleep_until(self.config_due) => {}
        }
    }

    async fn events_of_row(&self, row: &ConfigRow) -> Result<Vec<(Event, Resume)>, StoreError> {
        let mut events = Vec::new();
        for (index, change) in (0_u16..).zip(&row.changes) {
            let address = EventAddress::config(row.seq, index);
            let of_code = |code| change.resource == ResourceId::Code(code);
            let wanted = change.tenant == self.filter.tenant
                && change
                    .event
                    .is_some_and(|event| self.filter.pattern.matches(event))
                && self.filter.code.is_none_or(of_code)
                && self.filter.covers(change.at);
            if !wanted || self.sent_before(address) {
                continue;
            }
            if let Some(event) = self.renderer.change(address, change).await? {
                events.push((to_proto(&event), self.resume(address)));
            }
        }
        Ok(events)
    }

    async fn events_of_batch(&self, batch: &Batch) -> Result<Vec<(Event, Resume)>, StoreError> {
        let mut events = Vec::new();
        if !self.filter.wants_recorded(true) {
            return Ok(events);
        }
        let records = decode_batch(&batch.body).unwrap_or_else(|error| {
            // One damaged batch must not end the stream for good.
            tracing::error!(%error, partition = %batch.partition, writer = %batch.writer, seq = %batch.seq, "a batch cannot be read");
            Vec::new()
        });
        for (index, record) in (0_u16..).zip(&records) {
            let Ok(record) = record else { continue };
            let wanted = record.head().is_some_and(|head| self.filter.takes(&head));
            let address = EventAddress {
                partition: batch.partition,
                writer: batch.writer,
                seq: batch.seq,
                index,
            };
            if wanted
                && !self.sent_before(address)
                && let Some(event) = self.renderer.record(address, record).await?
            {
                events.push((to_proto(&event), self.resume(address)));
            }
        }
        Ok(events)
    }

    fn sent_before(&self, address: EventAddress) -> bool {
        self.within.is_some_and(|sent| {
            (sent.partition, sent.writer, sent.seq) == (address.partition, address.writer, address.seq)
                && address.index <= sent.index
        })
    }

    /// Where to go on after the event at `address`.
    fn resume(&self, address: EventAddress) -> Resume {
        Resume {
            within: Some(address),
            ..self.here()
        }
    }

    /// Where to go on when all that was read was handed out.
    fn here(&self) -> Resume {
        // A writer that is not named is read from its beginning, which is where zero stands.
        let pairs = |seqs: &BTreeMap<WriterId, Seq>| {
            let begun = seqs.iter().filter(|(_, seq)| **seq > Seq::ZERO);
            begun.map(|(writer, seq)| (*writer, *seq)).collect()
        };
        let logs = self
            .logs
            .iter()
            .map(|(partition, seqs)| (*partition, pairs(seqs)))
            .collect();
        Resume {
            logs,
            config: self.config,
            within: self.within,
        }
    }
}

/// A stream of events.
pub(crate) type EventStream = Pin<Box<dyn Stream<Item = Result<StreamEventsResponse, Status>> + Send>>;

/// How many streams each key has open.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamSlots(Arc<Mutex<HashMap<String, usize>>>);

/// One open stream among those of its key. Given back when dropped.
#[derive(Debug)]
struct Slot {
    slots: StreamSlots,
    key: String,
    _open: Open,
}

impl StreamSlots {
    fn take(&self, caller: &Caller) -> Result<Slot, Status> {
        let key = caller.actor();
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let of_key = open.get(&key).copied().unwrap_or(0);
        if all >= limits::API_STREAMS_MAX || of_key >= limits::API_STREAMS_PER_KEY_MAX {
            let wait = Duration::from_secs(5);
            return Err(refusal::too_fast(
                "TOO_MANY_STREAMS",
                "too many event streams are open",
                wait,
            ));
        }
        open.insert(key.clone(), of_key + 1);
        Ok(Slot {
            slots: self.clone(),
            key,
            _open: Open::stream(),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

/// StreamEvents.
pub(crate) async fn open(
    api: &Arc<Api>,
    caller: &Caller,
    mut request: StreamEventsRequest,
) -> Result<EventStream, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    let mut violations = Violations::default();
    let filter = Filter {
        tenant: tenant.id,
        pattern: events::pattern(&request.r#type, &mut violations),
        code: events::code(&request.code_id, &mut violations),
        start: events::time("start_time", request.start_time.as_ref(), &mut violations),
        end: events::time("end_time", request.end_time.as_ref(), &mut violations),
    };
    let token = std::mem::take(&mut request.resume_token);
    let bound = Bound::to_request("StreamEvents", Some(tenant.id), &request);
    let resume = api
        .tokens
        .position(&bound, &token, "resume_token", &mut violations);
    violations.finish()?;
    let slot = api.streams.take(caller)?;
    let follower = Follower::open(&api.store, &api.clock, &tenant, filter, resume).await?;
    let session = Session {
        api: Arc::clone(api),
        caller: caller.clone(),
        bound,
        _slot: slot,
        told: None,
        told_at: Instant::now(),
        recheck_at: Instant::now() + RECHECK_PERIOD,
    };
    Ok(Box::pin(responses(follower, session)))
}

/// What a stream needs beside its events.
struct Session {
    api: Arc<Api>,
    caller: Caller,
    bound: Bound,
    _slot: Slot,
    /// The position that the caller knows last, and since when.
    told: Option<Resume>,
    told_at: Instant,
    recheck_at: Instant,
}

/// The stream: events until its end, or until the caller leaves, loses its right to listen, or the server stops.
fn responses(
    follower: Follower,
    session: Session,
) -> impl Stream<Item = Result<StreamEventsResponse, Status>> + Send {
    unfold(Some((follower, session)), async |state| {
        let (mut follower, mut session) = state?;
        match respond(&mut follower, &mut session).await {
            Ok(Some(response)) => Some((Ok(response), Some((follower, session)))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    })
}

/// The next message; none at the stream's end.
async fn respond(
    follower: &mut Follower,
    session: &mut Session,
) -> Result<Option<StreamEventsResponse>, Status> {
    if session.told.is_none() {
        // So that who loses the connection before the first event can go on from here.
        return Ok(Some(session.tell(None, follower.here())));
    }
    loop {
        // Before anything else: a stream that is never silent must hear of a stop and a revocation, too.
        if session.api.stop.is_cancelled() {
            let stopping = "the server is stopping; go on with the last resume_token";
            return Err(refusal::unavailable("STOPPING", stopping, Duration::from_secs(1)));
        }
        if Instant::now() >= session.recheck_at {
            session.api.auth.recheck(&session.caller).await?;
            session.recheck_at = Instant::now() + RECHECK_PERIOD;
        }
        if session.told_at.elapsed() >= TOKEN_PERIOD && follower.ready.is_empty() {
            let here = follower.here();
            if session.told.as_ref() != Some(&here) {
                return Ok(Some(session.tell(None, here)));
            }
            session.told_at = Instant::now();
        }
        tokio::select! {
            next = follower.next() => {
                let next = next.map_err(refusal::store)?;
                return Ok(next.map(|(event, resume)| session.tell(Some(event), resume)));
            }
            () = session.api.stop.cancelled() => {}
            () = sleep_until(session.recheck_at) => {}
        }
    }
}

impl Session {
    /// An answer that moves the caller's position to `resume`.
    fn tell(&mut self, event: Option<Event>, resume: Resume) -> StreamEventsResponse {
        let resume_token = self.api.tokens.token(&self.bound, &resume);
        (self.told, self.told_at) = (Some(resume), Instant::now());
        StreamEventsResponse { event, resume_token }
    }
}
