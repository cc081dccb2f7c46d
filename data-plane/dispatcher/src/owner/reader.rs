//! Reads a partition, those that are followed beside it, and the configuration log for the shared run.
//!
//! One task per owned partition. Its rounds keep the order that loses no event: learn heads, then read the configuration
//! log's tail, then read up to those heads and no further. What it finds goes to the owner in this order through one
//! bounded channel, so the owner has applied every change that was announced before a head was learned by the time it
//! matches what that head covers. When the owner cannot take more, the reader waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use qrelay_store::{
    id::{ConfigSeq, PartitionId, Seq, TenantId, WriterId},
    limits,
    model::{Endpoint, ResourceId, Tenant},
    reader::{Item, PartitionReader},
    record::{self, Record},
    store::{Batch, ConfigRow, Result, SharedStore},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::followed::{Followed, Told};
use crate::{
    bodies::Bodies,
    cursor::{Cursor, Stream},
    filters::{Asking, Budget, Filters},
    ledger::feed::{Seen, SeenBatch, Verdicts},
    metrics,
    usage::UsageDelta,
};

/// Messages that may wait for the owner. Each holds at most one read.
pub(super) const NEWS_MAX: usize = 4;
/// Batch bytes of one read: small enough that the owner does other things in between.
const READ_BYTES: usize = limits::READ_BYTES_MAX / 4;
/// Rows of the configuration log in one read.
const CONFIG_ROWS: usize = 64;
/// Pause after the store failed.
const AFTER_FAILURE: Duration = Duration::from_millis(250);
/// So often everything is read on before heads are looked for again, where a partition may be far behind the others.
const READS_MAX: usize = 8;
/// How often the owner hears which writers still exist.
const WRITERS_PERIOD: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });

/// What the reader tells the owner.
#[derive(Debug)]
pub(super) enum News {
    /// A row of the configuration log: endpoints as they are now, and the events that it holds.
    Config {
        /// Endpoints that the row names, if they are homed here (or deleted).
        endpoints: Vec<Arc<Endpoint>>,
        /// Their tenants, and tenants that the row names, as they are now.
        tenants: Vec<Arc<Tenant>>,
        /// The row as a batch.
        batch: SeenBatch,
    },
    /// Batches of the partition, in order.
    Batches(Vec<SeenBatch>),
    /// Batches that are given up as missing.
    Gap(Stream, Seq),
    /// What there is to know of a partition that is followed.
    Followed(Told),
    /// All writers that are still known, of each partition that is read or followed; other streams can be forgotten.
    Writers(BTreeMap<PartitionId, BTreeSet<WriterId>>),
}

/// The task.
pub(super) struct LogReader {
    store: SharedStore,
    bodies: Bodies,
    partition: PartitionId,
    reader: PartitionReader,
    followed: Followed,
    config: ConfigSeq,
    /// The endpoints of the owner's whose filters ask for codes: as it has them when it matches what was sent last.
    asking: Asking,
    filters: Filters,
    out: mpsc::Sender<News>,
    writers_due: Instant,
}

/// What a round left to be read that could be read.
enum Left {
    Nothing,
    Some,
}

/// The owner is gone.
struct Gone;

enum Stop {
    Gone,
    Store(qrelay_store::StoreError),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<qrelay_store::StoreError> for Stop {
    fn from(error: qrelay_store::StoreError) -> Self {
        Self::Store(error)
    }
}

impl LogReader {
    pub(super) fn new(
        store: SharedStore,
        (bodies, filters): (Bodies, Filters),
        (partition, followed): (PartitionId, Followed),
        from: &Cursor,
        asking: Asking,
        out: mpsc::Sender<News>,
    ) -> Self {
        let streams = from.iter().filter(|(stream, _)| stream.partition == partition);
        let positions = streams.map(|(stream, seq)| (stream.writer, seq)).collect();
        Self {
            reader: PartitionReader::new(Arc::clone(&store), partition, positions),
            followed,
            config: ConfigSeq::new(from.at(Stream::CONFIG).as_u64()),
            store,
            bodies,
            partition,
            asking,
            filters,
            out,
            writers_due: Instant::now() + WRITERS_PERIOD,
        }
    }

    /// Reads until the owner is gone.
    pub(super) async fn run(mut self) {
        let mut config = self.store.hints().config();
        loop {
            match self.round().await {
                Ok(Left::Nothing) => {}
                Ok(Left::Some) => continue,
                Err(Stop::Gone) => return,
                Err(Stop::Store(error)) => {
                    tracing::warn!(partition = %self.partition, %error, "cannot read the log; trying again");
                    sleep(AFTER_FAILURE).await;
                }
            }
            tokio::select! {
                biased;
                () = self.reader.changed() => {}
                () = self.followed.changed(), if self.followed.reads() => {}
                moved = config.changed() => {
                    // The sender lives in the store's hints, which this task holds.
                    if moved.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn round(&mut self) -> Result<Left, Stop> {
        let rows = self.reader.refresh().await?;
        self.followed.refresh(rows.as_deref()).await;
        self.read_config().await?;
        if let Some(rows) = rows {
            for told in self.followed.pass(&rows) {
                self.send(News::Followed(told)).await?;
            }
        }
        let left = self.read_logs().await?;
        if Instant::now() >= self.writers_due {
            self.writers_due = Instant::now() + WRITERS_PERIOD;
            let mut writers = self.followed.writers();
            let own = self.reader.positions().into_keys().collect();
            writers.insert(self.partition, own);
            self.send(News::Writers(writers)).await?;
        }
        Ok(left)
    }

    /// Reads on in turns, up to the heads.
    async fn read_logs(&mut self) -> Result<Left, Stop> {
        let mut turn = 0;
        loop {
            let mut more = false;
            for partition in self.followed.read_ones() {
                let items = self.followed.read(partition, READ_BYTES).await;
                if !items.is_empty() {
                    more = true;
                    self.tell(partition, items).await?;
                }
            }
            let items = self.reader.read(READ_BYTES).await?;
            if !items.is_empty() {
                more = true;
                self.tell(self.partition, items).await?;
            }
            if !more {
                return Ok(Left::Nothing);
            }
            turn += 1;
            if turn >= READS_MAX && self.followed.reads() {
                return Ok(Left::Some);
            }
        }
    }

    async fn tell(&mut self, partition: PartitionId, items: Vec<Item>) -> Result<(), Stop> {
        let mut batches = Vec::with_capacity(items.len());
        let mut budget = Budget::of_read();
        for item in items {
            match item {
                Item::Batch(batch) => {
                    let mut seen = see(&batch, self.partition);
                    if !seen.events.is_empty() {
                        self.bodies.keep(&batch).await;
                    }
                    self.judge(&mut seen, &mut budget).await?;
                    batches.push(seen);
                }
                Item::Gap { writer, through, .. } => {
                    self.send(News::Batches(std::mem::take(&mut batches))).await?;
                    let stream = Stream { partition, writer };
                    self.send(News::Gap(stream, through)).await?;
                }
            }
        }
        Ok(self.send(News::Batches(batches)).await?)
    }

    /// Judges a batch's filters. It was taken from the reader, so nothing may go on without it: while the store fails,
    /// everything waits here.
    async fn judge(&self, batch: &mut SeenBatch, budget: &mut Budget) -> Result<(), Gone> {
        while let Err(error) = self.filters.judge(batch, &self.asking, budget).await {
            tracing::warn!(partition = %self.partition, %error, "cannot judge filters; trying again");
            if self.out.is_closed() {
                return Err(Gone);
            }
            sleep(AFTER_FAILURE).await;
        }
        metrics::filters_undecided(batch.verdicts.undecided.len());
        Ok(())
    }

    async fn read_config(&mut self) -> Result<(), Stop> {
        loop {
            let rows = self.store.config_after(self.config, CONFIG_ROWS).await?;
            let Some(last) = rows.last().map(|row| row.seq) else {
                return Ok(());
            };
            for row in &rows {
                let news = self.digest(row).await?;
                self.send(news).await?;
                self.config = row.seq;
            }
            debug_assert_eq!(self.config, last);
        }
    }

    /// Loads what a row names, as it is now: at least as new as the row says.
    async fn digest(&mut self, row: &ConfigRow) -> Result<News, Stop> {
        let (mut endpoints, mut tenants) = (Vec::new(), Vec::new());
        let mut batch = see_config(row);
        for change in &row.changes {
            if let ResourceId::Endpoint(id) = change.resource
                && let Some(endpoint) = self.store.endpoint(id).await?
                && endpoint.home == self.partition
            {
                tenants.extend(self.store.tenant(endpoint.tenant).await?);
                endpoints.push(endpoint);
            }
            if let ResourceId::Tenant(id) = change.resource {
                tenants.extend(self.store.tenant(id).await?);
            }
            if change.event.is_some() && self.counts(change.tenant).await? {
                batch.usage.count_event(change.tenant, change.at);
            }
        }
        endpoints.iter().for_each(|endpoint| self.asking.learn(endpoint));
        for told in self.followed.learn(&tenants, &endpoints) {
            self.send(News::Followed(told)).await?;
        }
        self.judge(&mut batch, &mut Budget::of_read()).await?;
        Ok(News::Config {
            endpoints,
            tenants,
            batch,
        })
    }

    /// Configuration events are counted once: by the owner of the tenant's first partition.
    async fn counts(&self, tenant: TenantId) -> Result<bool> {
        let tenant = self.store.tenant(tenant).await?;
        Ok(tenant.is_some_and(|tenant| tenant.partitions.first() == Some(&self.partition)))
    }

    async fn send(&self, news: News) -> Result<(), Gone> {
        self.out.send(news).await.map_err(|_| Gone)
    }
}

/// A row of the configuration log as far as matching needs it.
pub(super) fn see_config(row: &ConfigRow) -> SeenBatch {
    let changes = (0_u16..).zip(&row.changes);
    let events = changes.filter_map(|(index, change)| {
        Some(Seen {
            index,
            tenant: change.tenant,
            event_type: change.event?,
            recorded_at: change.at,
            code: match change.resource {
                ResourceId::Code(code) => Some(code),
                _ => None,
            },
            classification: None,
            subject: match change.resource {
                ResourceId::Endpoint(endpoint) => Some(endpoint),
                _ => None,
            },
        })
    });
    SeenBatch {
        stream: Stream::CONFIG,
        seq: Seq::new(row.seq.as_u64()),
        events: events.collect(),
        usage: UsageDelta::default(),
        verdicts: Verdicts::default(),
    }
}

/// A batch as far as matching and counting need it. What cannot be read is counted, and costs only itself.
pub(super) fn see(batch: &Batch, counts_for: PartitionId) -> SeenBatch {
    let mut seen = SeenBatch {
        stream: Stream {
            partition: batch.partition,
            writer: batch.writer,
        },
        seq: batch.seq,
        events: Vec::new(),
        usage: UsageDelta::default(),
        verdicts: Verdicts::default(),
    };
    let records = match record::decode_batch(&batch.body) {
        Ok(records) => records,
        Err(error) => {
            tracing::error!(partition = %batch.partition, writer = %batch.writer, seq = %batch.seq, %error, "a batch cannot be read; its records are given up");
            metrics::unreadable("batch");
            return seen;
        }
    };
    for (index, record) in (0_u16..).zip(records) {
        match record {
            Ok(record) => {
                let Some(head) = record.head() else { continue };
                if batch.partition == counts_for {
                    match &record {
                        Record::Scan(scan) => {
                            seen.usage.count_scan(scan.tenant, scan.at, scan.classification)
                        }
                        _ => seen.usage.count_event(head.tenant, head.at),
                    }
                }
                seen.events.push(Seen {
                    index,
                    tenant: head.tenant,
                    event_type: head.event,
                    recorded_at: head.at,
                    code: Some(head.code),
                    classification: match &record {
                        Record::Scan(scan) => Some(scan.classification),
                        _ => None,
                    },
                    subject: None,
                });
            }
            Err(error) => {
                tracing::error!(partition = %batch.partition, writer = %batch.writer, seq = %batch.seq, index, %error, "a record cannot be read; it is given up");
                metrics::unreadable("record");
            }
        }
    }
    seen
}
