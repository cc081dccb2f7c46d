//! A tenant's events backwards in time, merged from its partitions and the configuration log.
//!
//! Batches come ordered by their latest record, and batches of different writers overlap. So a record may be given
//! out only when it is later than everything that was not read yet: its time is above each source's *frontier*, the
//! latest time of the batch that was read last. A page's position holds the last event given out and, per source,
//! where to read on so that a batch given out in part is read again. Work per page is bounded: a page may be
//! short, even empty, and still have a next one.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap},
};

use qrelay_proto::v1 as pb;
use qrelay_store::{
    StoreError,
    clock::Timestamp,
    id::{ConfigSeq, EventAddress, PartitionId, Seq, WriterId},
    limits,
    model::{ResourceId, Tenant},
    record::{Record, decode_batch},
    store::{Batch, ConfigChange, Heads, SharedStore},
};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tonic::Status;

use super::{
    Filter,
    render::{Renderer, to_proto},
};
use crate::refusal;

/// Batches read at once from one partition.
const BATCHES_PER_READ: usize = 16;
/// Changes read at once from the configuration log.
const CHANGES_PER_READ: usize = 64;
/// Bytes of batches that one page reads at most.
const PAGE_READ_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Reads that one page makes at most.
const PAGE_READS_MAX: usize = 512;

type BatchKey = (Timestamp, WriterId, Seq);

/// Where a page begins.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Position {
    /// Records of the log at or above this were given out.
    given: Option<(Timestamp, EventAddress)>,
    /// Per partition, where to read on.
    partitions: Vec<(PartitionId, Option<BatchKey>)>,
    /// Where to read on in the configuration log.
    config: Option<(ConfigSeq, u16)>,
}

/// What waits to be given out.
enum Found {
    Record(Box<Record<'static>>),
    Change(ConfigChange),
}

struct Candidate {
    at: Timestamp,
    address: EventAddress,
    /// Which source, and which of its reads brought it.
    source: usize,
    ordinal: usize,
    found: Found,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.address).cmp(&(other.at, other.address))
    }
}

/// One ordered stream of batches or changes.
struct Source {
    kind: SourceKind,
    /// Nothing unread is later than this; none when all was read.
    frontier: Option<Timestamp>,
}

enum SourceKind {
    Partition {
        partition: PartitionId,
        begin: Option<BatchKey>,
        /// Keys of the batches that were read, in order.
        read: Vec<BatchKey>,
    },
    Config {
        begin: Option<(ConfigSeq, u16)>,
        read: Vec<(ConfigSeq, u16)>,
    },
}

enum Next {
    Candidate(Candidate),
    End,
    Enough,
}

/// A listing under way.
pub(super) struct History<'a> {
    store: &'a SharedStore,
    renderer: &'a Renderer,
    filter: &'a Filter,
    given: Option<(Timestamp, EventAddress)>,
    sources: Vec<Source>,
    candidates: BinaryHeap<Candidate>,
    reads: usize,
    bytes: usize,
    /// Where closed writers end, once it was asked.
    ends: OnceCell<BTreeMap<WriterId, Heads>>,
}

impl<'a> History<'a> {
    pub(super) fn open(
        store: &'a SharedStore,
        renderer: &'a Renderer,
        tenant: &Tenant,
        filter: &'a Filter,
        position: Option<Position>,
    ) -> Self {
        // No batch spans more, so one whose latest record is later has nothing before `end`.
        let end = filter.end.map(|end| {
            (
                end.after(limits::BATCH_SPAN_MAX),
                WriterId::from_u64(0),
                Seq::ZERO,
            )
        });
        let begin_of = |partition: PartitionId| match &position {
            Some(position) => position
                .partitions
                .iter()
                .find(|known| known.0 == partition)
                .and_then(|known| known.1),
            None => end,
        };
        let unread = Some(Timestamp::from_millis(i64::MAX));
        let mut sources = Vec::new();
        if filter.wants_recorded(true) {
            sources.extend(tenant.partitions.iter().map(|partition| {
                let begin = begin_of(*partition);
                Source {
                    kind: SourceKind::Partition {
                        partition: *partition,
                        begin,
                        read: Vec::new(),
                    },
                    frontier: unread,
                }
            }));
        }
        if filter.wants_recorded(false) {
            let begin = position.as_ref().and_then(|position| position.config);
            sources.push(Source {
                kind: SourceKind::Config {
                    begin,
                    read: Vec::new(),
                },
                frontier: unread,
            });
        }
        let given = position.and_then(|position| position.given);
        Self {
            store,
            renderer,
            filter,
            given,
            sources,
            candidates: BinaryHeap::new(),
            reads: 0,
            bytes: 0,
            ends: OnceCell::new(),
        }
    }

    /// The next page, and where the one after it begins.
    pub(super) async fn page(mut self, size: usize) -> Result<(Vec<pb::Event>, Option<Position>), Status> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        while events.len() < size && bytes < limits::API_PAGE_BYTES_MAX {
            match self.next().await.map_err(refusal::store)? {
                Next::Candidate(candidate) => {
                    if matches!(candidate.found, Found::Record(_)) {
                        self.given = Some((candidate.at, candidate.address));
                    }
                    if let Some(event) = self.event(candidate).await.map_err(refusal::store)? {
                        bytes += prost::Message::encoded_len(&event);
                        events.push(event);
                    }
                }
                Next::End => return Ok((events, None)),
                Next::Enough => break,
            }
        }
        let ended = self.candidates.is_empty() && self.sources.iter().all(|source| source.frontier.is_none());
        Ok((events, (!ended).then(|| self.position())))
    }

    async fn event(&self, candidate: Candidate) -> Result<Option<pb::Event>, StoreError> {
        let event = match candidate.found {
            Found::Record(record) if self.is_past_the_end(&record, candidate.address).await? => None,
            Found::Record(record) => self.renderer.record(candidate.address, &record).await?,
            Found::Change(change) => self.renderer.change(candidate.address, &change).await?,
        };
        Ok(event.map(|event| to_proto(&event)))
    }

    /// Whether a record stands past the end of its writer, and so is none. On a store that many share, writers of conversions
    /// may be closed by others while they live and append.
    async fn is_past_the_end(&self, record: &Record<'_>, address: EventAddress) -> Result<bool, StoreError> {
        if self.store.exclusive() || !matches!(record, Record::Conversion(_)) {
            return Ok(false);
        }
        let ends = self.ends.get_or_try_init(async || {
            let rows = self.store.writers().await?.into_iter();
            let ends = rows.filter_map(|row| Some((row.writer, row.closed?)));
            Ok::<_, StoreError>(ends.collect())
        });
        let end = ends.await?.get(&address.writer);
        Ok(end.is_some_and(|end| end.get(&address.partition).is_none_or(|last| address.seq > *last)))
    }

    /// The latest event that was not given out.
    async fn next(&mut self) -> Result<Next, StoreError> {
        loop {
            let frontiers = self.sources.iter().enumerate();
            let latest = frontiers
                .filter_map(|(at, source)| Some((source.frontier?, at)))
                .max();
            let ready = self.candidates.peek().map(|candidate| candidate.at);
            match (ready, latest) {
                (None, None) => return Ok(Next::End),
                (Some(at), Some((frontier, _))) if at > frontier => {}
                (Some(_), None) => {}
                (_, Some(_)) if self.reads >= PAGE_READS_MAX || self.bytes >= PAGE_READ_BYTES_MAX => {
                    return Ok(Next::Enough);
                }
                (_, Some((_, source))) => {
                    self.read(source).await?;
                    continue;
                }
            }
            let candidate = self.candidates.pop().expect("invariant: one was seen above");
            return Ok(Next::Candidate(candidate));
        }
    }

    async fn read(&mut self, source: usize) -> Result<(), StoreError> {
        self.reads += 1;
        let last = match &self.sources[source].kind {
            SourceKind::Partition {
                partition,
                begin,
                read,
            } => {
                let before = read.last().copied().or(*begin);
                let batches = self
                    .store
                    .batches_before(*partition, before, BATCHES_PER_READ)
                    .await?;
                let last = batches.last().map(|batch| batch.last_at);
                batches.iter().for_each(|batch| self.take_batch(source, batch));
                last
            }
            SourceKind::Config { begin, read } => {
                let before = read.last().copied().or(*begin);
                let changes = self
                    .store
                    .config_events_before(self.filter.tenant, before, CHANGES_PER_READ)
                    .await?;
                let last = changes.last().map(|(_, _, change)| change.at);
                changes
                    .into_iter()
                    .for_each(|change| self.take_change(source, change));
                last
            }
        };
        let past_start = last.is_some_and(|last| self.filter.start.is_some_and(|start| last < start));
        self.sources[source].frontier = last.filter(|_| !past_start);
        Ok(())
    }

    fn take_batch(&mut self, source: usize, batch: &Batch) {
        self.bytes += batch.body.len();
        let SourceKind::Partition { read, .. } = &mut self.sources[source].kind else {
            return;
        };
        let ordinal = read.len();
        read.push((batch.last_at, batch.writer, batch.seq));
        let records = decode_batch(&batch.body).unwrap_or_else(|error| {
            // One damaged batch must not hide all that is older.
            tracing::error!(%error, partition = %batch.partition, writer = %batch.writer, seq = %batch.seq, "a batch cannot be read");
            Vec::new()
        });
        for (index, record) in (0_u16..).zip(records) {
            let Ok(record) = record else { continue };
            let Some(head) = record.head() else { continue };
            let address = EventAddress {
                partition: batch.partition,
                writer: batch.writer,
                seq: batch.seq,
                index,
            };
            let at = head.at;
            let new = self.given.is_none_or(|given| (at, address) < given);
            if new && self.filter.takes(&head) {
                let found = Found::Record(Box::new(record.into_owned()));
                self.candidates.push(Candidate {
                    at,
                    address,
                    source,
                    ordinal,
                    found,
                });
            }
        }
    }

    fn take_change(&mut self, source: usize, (seq, index, change): (ConfigSeq, u16, ConfigChange)) {
        let SourceKind::Config { read, .. } = &mut self.sources[source].kind else {
            return;
        };
        let ordinal = read.len();
        read.push((seq, index));
        let of_code = |code| change.resource == ResourceId::Code(code);
        let wanted = change
            .event
            .is_some_and(|event| self.filter.pattern.matches(event))
            && self.filter.code.is_none_or(of_code)
            && self.filter.covers(change.at);
        if wanted {
            let (at, address) = (change.at, EventAddress::config(seq, index));
            self.candidates.push(Candidate {
                at,
                address,
                source,
                ordinal,
                found: Found::Change(change),
            });
        }
    }

    /// Where the next page begins: each source at its first read of which something was not given out.
    fn position(&self) -> Position {
        let mut position = Position {
            given: self.given,
            ..Position::default()
        };
        for (at, source) in self.sources.iter().enumerate() {
            let left = self.candidates.iter().filter(|candidate| candidate.source == at);
            let first_left = left.map(|candidate| candidate.ordinal).min();
            match &source.kind {
                SourceKind::Partition {
                    partition,
                    begin,
                    read,
                } => {
                    position
                        .partitions
                        .push((*partition, before(read, first_left).or(*begin)));
                }
                SourceKind::Config { begin, read } => position.config = before(read, first_left).or(*begin),
            }
        }
        position
    }
}

/// The key of the last read before `ordinal`; of the last read at all, if none is left.
fn before<K: Copy>(read: &[K], ordinal: Option<usize>) -> Option<K> {
    let count = ordinal.unwrap_or(read.len());
    read[..count].last().copied()
}
