//! The traits behind which a backend keeps everything, and the rules that it must obey.
//!
//! Once a method returned `Ok`, all that it does is done and durable. After an error of kind
//! [`StoreError::Unavailable`] the outcome is unknown; callers repeat with the same arguments, which must be harmless.
//! Every method is atomic: it happened whole or not at all, except where its comment says what may be there in part
//! after an error. The conformance suite is the judge of all this.

mod conversions;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{HealthChange, ReplayRange, RowKey, RowKind, UsageCounts},
    clock::{SharedClock, Timestamp},
    event::EventType,
    hints::Hints,
    id::{
        CodeId, CommandId, ConfigSeq, EndpointId, EventAddress, IdCipher, KeyId, OwnerId, PartitionId,
        ReplayId, SecretId, Seq, TenantId, WriterId,
    },
    model::{ApiKey, Code, Endpoint, EventPattern, Resource, ResourceId, SecretRow, ShortLink, Tenant},
    target::TargetUrl,
};

pub use self::conversions::{ConversionRow, Conversions};

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached or cannot write just now (disk full, I/O error, stopped). The outcome is unknown.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// What is stored is not what was written. Repeating does not help.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
}

/// What store methods return.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What was fixed when the store was created.
#[derive(Clone, Debug)]
pub struct Install {
    /// Shared partitions, `0..partitions`.
    pub partitions: u16,
    /// Makes and reads event and delivery ids.
    pub ids: IdCipher,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Install {
    /// The numbers of a claim of `count` that begins at `first`. None when there would be too many.
    pub(crate) fn own_range(&self, first: u16, count: u16) -> Option<Range<u16>> {
        let past = first.checked_add(count.max(1))?;
        let own = past.checked_sub(self.partitions)?;
        // The highest numbers name what is no partition.
        (own <= crate::limits::OWN_PARTITIONS_MAX && past < PartitionId::RESERVED).then_some(first..past)
    }
}

/// Everything that qrelay remembers.
pub trait Store:
    Log + ConfigLog + Registry + Leases + Attempts + Commands + Conversions + Send + Sync + 'static
{
    /// What was fixed at creation.
    fn install(&self) -> &Install;

    /// The process's hints.
    fn hints(&self) -> &Hints;

    /// Whether opening this store proves that no other process uses it (the embedded store's lock does): then
    /// leases and writers of others are dead and need no waiting out.
    fn exclusive(&self) -> bool;
}

/// A shared store.
pub type SharedStore = Arc<dyn Store>;

// ---- The log ----

/// Per partition, a batch number: heads, or the last batch of a closed writer.
pub type Heads = BTreeMap<PartitionId, Seq>;

/// A batch that never changes any more.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    /// Where.
    pub partition: PartitionId,
    /// Who.
    pub writer: WriterId,
    /// Which.
    pub seq: Seq,
    /// The earliest record's time.
    pub first_at: Timestamp,
    /// The latest record's time.
    pub last_at: Timestamp,
    /// Records.
    pub count: u16,
    /// Encoded as [`crate::record`] says.
    pub body: Bytes,
}

/// A writer's row.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WriterRow {
    /// Its id.
    pub writer: WriterId,
    /// Which machine and role, for people.
    pub node: String,
    /// Moves while the writer lives.
    pub beat: u64,
    /// Per partition, the highest batch with it and all below acknowledged. May be behind the truth.
    pub heads: Heads,
    /// The last batch per partition, once closed. Records past it are ignored.
    pub closed: Option<Heads>,
    /// When it registered.
    pub registered_at: Timestamp,
}

impl WriterRow {
    /// A new writer, which has appended nothing yet.
    pub fn new(node: &str, clock: &SharedClock) -> Self {
        Self {
            writer: WriterId::random(),
            node: node.to_owned(),
            beat: 0,
            heads: Heads::new(),
            closed: None,
            registered_at: clock.now(),
        }
    }
}

/// The log of events.
#[async_trait]
pub trait Log: Send + Sync {
    /// Registers a writer. Acknowledged before its first append.
    async fn register_writer(&self, row: &WriterRow) -> Result<()>;

    /// Appends a sealed batch durably. Repeating the same batch is harmless; the same key with other bytes is
    /// [`StoreError::Corrupt`] and changes nothing. A writer is one process at a time: a backend may rely on what that
    /// process read before, and need not notice two that append under one id at once. After an error the batch may be
    /// there for [`Log::read`] and not yet in the order of time.
    async fn append(&self, batch: Batch) -> Result<()>;

    /// Replaces a writer's beat and heads. Heads never move back.
    async fn publish_heads(&self, writer: WriterId, beat: u64, heads: &Heads) -> Result<()>;

    /// Closes a writer with the last batch of each partition. The first close wins; a repeated one is harmless.
    async fn close_writer(&self, writer: WriterId, last: &Heads) -> Result<()>;

    /// Fences a registered writer, for good: whoever asks [`Log::is_fenced`] after this returned is told so. What a fenced
    /// writer appends after that is not acknowledged, so others may close it. Only for writers that ask
    /// ([`crate::appender::Appender::start_fenced`]). Repeating is harmless.
    async fn fence_writer(&self, writer: WriterId) -> Result<()>;

    /// Whether a writer was fenced.
    async fn is_fenced(&self, writer: WriterId) -> Result<bool>;

    /// All writers that have not been expired, closed ones included, in order of id.
    async fn writers(&self) -> Result<Vec<WriterRow>>;

    /// Batches of one writer with `after < seq <= through`, in order, gap-free from `after + 1`: what lies
    /// behind a missing batch is not returned. At most about `max_bytes` (at least one batch, if there is one).
    async fn read(
        &self,
        partition: PartitionId,
        writer: WriterId,
        after: Seq,
        through: Seq,
        max_bytes: usize,
    ) -> Result<Vec<Batch>>;

    /// One batch.
    async fn batch(&self, partition: PartitionId, writer: WriterId, seq: Seq) -> Result<Option<Batch>>;

    /// The lowest stored batch number of a writer with `after < seq <= through`, gaps or not. On a shared store
    /// the work grows with the distance: callers go by [`crate::limits::GAP_LOOK_MAX`] at most there.
    async fn next_seq(
        &self,
        partition: PartitionId,
        writer: WriterId,
        after: Seq,
        through: Seq,
    ) -> Result<Option<Seq>>;

    /// The highest batch number with it and all above `after` stored: the end of the gap-free tail. `after`
    /// itself when nothing follows. What it walks over is in the order of time when this returns.
    async fn tail(&self, partition: PartitionId, writer: WriterId, after: Seq) -> Result<Seq>;

    /// Batches of a partition for reading backwards in time: ordered by (`last_at`, writer, seq) descending,
    /// strictly below `before` (from the end, if none).
    async fn batches_before(
        &self,
        partition: PartitionId,
        before: Option<(Timestamp, WriterId, Seq)>,
        limit: usize,
    ) -> Result<Vec<Batch>>;

    /// The same forwards in time: ascending, strictly above `after`.
    async fn batches_after(
        &self,
        partition: PartitionId,
        after: (Timestamp, WriterId, Seq),
        limit: usize,
    ) -> Result<Vec<Batch>>;
}

// ---- The configuration log ----

/// One announced change.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConfigChange {
    /// Of what.
    pub resource: ResourceId,
    /// Whose.
    pub tenant: TenantId,
    /// To which version. (resource, version) makes repeats harmless.
    pub version: u64,
    /// When.
    pub at: Timestamp,
    /// By which key: `admin` or a key's id.
    pub actor: String,
    /// The event that it makes for subscribers, if any.
    pub event: Option<EventType>,
    /// What an announcement of an endpoint's health says. Its `version` is that of the health, not of the endpoint's row,
    /// which it does not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Box<HealthReport>>,
}

/// What an announcement of an endpoint's health says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HealthReport {
    /// Scheme and authority of the endpoint's URL. The whole may hold a secret, and other receivers get this.
    pub url_origin: String,
    /// What changed.
    pub change: HealthChange,
}

impl ConfigChange {
    /// The announcement of a change of an endpoint's health.
    pub fn of_health(endpoint: &Endpoint, change: HealthChange, at: Timestamp, actor: &str) -> Self {
        Self {
            resource: ResourceId::Endpoint(endpoint.id),
            tenant: endpoint.tenant,
            version: change.version,
            at,
            actor: actor.to_owned(),
            event: Some(change.state.event()),
            health: Some(Box::new(HealthReport {
                url_origin: TargetUrl::origin_of(&endpoint.url),
                change,
            })),
        }
    }
}

/// A row of the configuration log.
#[derive(Clone, PartialEq, Debug)]
pub struct ConfigRow {
    /// Gap-free from 1.
    pub seq: ConfigSeq,
    /// At most 256, in order.
    pub changes: Vec<ConfigChange>,
}

/// The configuration log: every change, in one order that all agree on.
#[async_trait]
pub trait ConfigLog: Send + Sync {
    /// The last row's number.
    async fn config_head(&self) -> Result<ConfigSeq>;

    /// Rows after `after`, in order, gap-free, at most `limit`.
    async fn config_after(&self, after: ConfigSeq, limit: usize) -> Result<Vec<ConfigRow>>;

    /// One row.
    async fn config_row(&self, seq: ConfigSeq) -> Result<Option<ConfigRow>>;

    /// Announces a change of an endpoint's health ([`ConfigChange::of_health`]), as one event at most. None, and nothing
    /// is done, when that version or a later one was announced before, or there is no live endpoint. A version whose
    /// status is the one announced last (at first `active`) counts as announced, without an event.
    async fn announce_health(&self, change: &ConfigChange) -> Result<Option<ConfigSeq>>;

    /// Changes of one tenant that make events, newest first, strictly below `before` (seq, index).
    async fn config_events_before(
        &self,
        tenant: TenantId,
        before: Option<(ConfigSeq, u16)>,
        limit: usize,
    ) -> Result<Vec<(ConfigSeq, u16, ConfigChange)>>;
}

// ---- The registry ----

/// What a change expects to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Nothing: the row is new.
    Absent,
    /// This version.
    Version(u64),
}

/// A caller's request id, so that a retried create creates once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestKey {
    /// The tenant's id, or `admin`.
    pub scope: String,
    /// The RPC's name.
    pub rpc: &'static str,
    /// As the caller gave it.
    pub request_id: String,
    /// SHA-256 of the request's canonical encoding.
    pub body_hash: [u8; 32],
    /// When it may be forgotten.
    pub expires_at: Timestamp,
}

/// What happens to an endpoint's secrets together with its change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretChange {
    /// None are touched.
    Keep,
    /// This one is added and all others are deleted.
    Replace(SecretRow),
    /// This one is added; the newest of the others expires at `until`, or earlier if it was to, and the rest are
    /// deleted.
    Rotate {
        /// The new one.
        secret: SecretRow,
        /// When the one before stops signing.
        until: Timestamp,
    },
    /// All are deleted (with the endpoint).
    Clear,
}

/// One change of one row: compare, set and announce, as one.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// The whole new row. Its `version` is 1 for [`Expected::Absent`], else the expected one plus 1.
    pub resource: Resource,
    /// What must be there now.
    pub expected: Expected,
    /// When.
    pub at: Timestamp,
    /// By whom: `admin` or a key's id.
    pub actor: String,
    /// The event that it makes for subscribers, if any.
    pub event: Option<EventType>,
    /// What happens to secrets (endpoints only).
    pub secrets: SecretChange,
    /// For creates that carry a request id.
    pub request: Option<RequestKey>,
    /// For creates: how many live rows of this kind the tenant (or, for tenants, the install) may have.
    pub count_max: Option<u64>,
}

/// How a change went.
#[derive(Clone, PartialEq, Debug)]
pub enum Changed {
    /// It stands in the configuration log.
    Done(ConfigSeq),
    /// The same request was carried out before and made (or changed) this; nothing was done now.
    Replayed(ResourceId),
}

/// Why a change was not made. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// A row with this id, or this short link (perhaps another tenant's, perhaps deleted), exists.
    #[error("it exists already")]
    Exists,
    /// Another version stands there, or none.
    #[error("somebody else changed it first")]
    Conflict,
    /// The request id was used for another body.
    #[error("the request id was used for another request")]
    RequestReused,
    /// The tenant has as many as it may.
    #[error("the limit of {0} is reached")]
    LimitReached(u64),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a page begins: strictly after (older than) this creation time and id.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageKey {
    /// The last row's creation time.
    pub created_at: Timestamp,
    /// The last row's id, as text.
    pub id: String,
}

/// A list's bounds: newest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Where to begin.
    pub after: Option<PageKey>,
    /// Rows at most.
    pub limit: usize,
}

/// Which codes to list. Empty fields do not filter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CodeFilter {
    /// This short id.
    pub short_id: Option<String>,
    /// This tag.
    pub tag: Option<String>,
    /// This campaign.
    pub campaign_id: Option<String>,
    /// This external id.
    pub external_id: Option<String>,
}

/// Codes of one look at a list.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CodePage {
    /// Newest first.
    pub codes: Vec<Arc<Code>>,
    /// Where to read on, strictly after; none when nothing is left.
    pub next: Option<PageKey>,
}

impl CodePage {
    /// The first `limit` codes, of which one more is there if there is more.
    pub(crate) fn cut(mut codes: Vec<Arc<Code>>, limit: usize) -> Self {
        let more = codes.len() > limit;
        codes.truncate(limit);
        let next = codes.last().filter(|_| more).map(|last| PageKey {
            created_at: last.created_at,
            id: last.id.to_string(),
        });
        Self { codes, next }
    }
}

/// Tenants, keys, codes, endpoints and secrets.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Makes one change, durable and in the configuration log when this returns.
    async fn change(&self, change: Change) -> Result<Changed, ChangeError>;

    /// One tenant, deleted ones included.
    async fn tenant(&self, id: TenantId) -> Result<Option<Arc<Tenant>>>;

    /// Live tenants, newest first.
    async fn tenants(&self, page: &Page) -> Result<Vec<Arc<Tenant>>>;

    /// One key, revoked ones included.
    async fn api_key(&self, id: KeyId) -> Result<Option<Arc<ApiKey>>>;

    /// A tenant's live keys, newest first, each with when it was last used.
    async fn api_keys(&self, tenant: TenantId, page: &Page) -> Result<Vec<(Arc<ApiKey>, Option<Timestamp>)>>;

    /// Notes that a key was used. Not announced.
    async fn touch_api_key(&self, id: KeyId, at: Timestamp) -> Result<()>;

    /// One code, deleted ones included.
    async fn code(&self, id: CodeId) -> Result<Option<Arc<Code>>>;

    /// One version of a code. Versions never change.
    async fn code_version(&self, id: CodeId, version: u64) -> Result<Option<Arc<Code>>>;

    /// The code behind a short link, exactly as written. Deleted ones included.
    async fn code_by_link(&self, link: &ShortLink) -> Result<Option<Arc<Code>>>;

    /// A tenant's live codes that pass the filter, newest first. A backend that has to look at codes one by one looks at
    /// no more than [`crate::limits::CODES_SCANNED_MAX`]: a page may be short, even empty, and still have more behind it.
    async fn codes(&self, tenant: TenantId, filter: &CodeFilter, page: &Page) -> Result<CodePage>;

    /// One endpoint, deleted ones included.
    async fn endpoint(&self, id: EndpointId) -> Result<Option<Arc<Endpoint>>>;

    /// A tenant's live endpoints, newest first.
    async fn endpoints(&self, tenant: TenantId, page: &Page) -> Result<Vec<Arc<Endpoint>>>;

    /// Live endpoints homed in a partition, in order of id, after `after`.
    async fn endpoints_homed(
        &self,
        home: PartitionId,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Result<Vec<Arc<Endpoint>>>;

    /// An endpoint's secrets, newest first.
    async fn secrets(&self, endpoint: EndpointId) -> Result<Vec<SecretRow>>;

    /// One secret, for checking that the master key opens what is stored; any will do.
    async fn any_secret(&self) -> Result<Option<(TenantId, EndpointId, SecretId, Vec<u8>)>>;

    /// Claims numbers for partitions of tenants' own, before the row of a tenant names them: `count` (at least 1) that
    /// nobody ever claimed. They follow one another from [`Self::own_partitions`] on. None when the install would have
    /// more than [`crate::limits::OWN_PARTITIONS_MAX`]. After an error they may be claimed, and are nobody's for ever.
    async fn claim_partitions(&self, count: u16) -> Result<Option<Range<u16>>>;

    /// The end of what was ever claimed: `install().partitions..` this are, or may become, partitions of tenants' own.
    async fn own_partitions(&self) -> Result<u16>;

    /// Where the configuration log ended before a partition was claimed: all changes of tenants that have it, and of
    /// endpoints whose home it is, come after. Its beginning for one that was not claimed.
    async fn claimed_at(&self, partition: PartitionId) -> Result<ConfigSeq>;
}

// ---- Leases and checkpoints ----

/// What a compare-and-set on a lease compares: which claim, and which save within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Fence {
    /// Raised by every claim.
    pub epoch: u64,
    /// Moved by every save; never the same twice within an epoch.
    pub beat: u64,
}

/// A partition's lease.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// Claim and save.
    pub fence: Fence,
    /// Who holds it. None after a graceful release.
    pub owner: Option<OwnerId>,
    /// Where other roles reach the owner.
    pub addr: String,
}

/// What a save changes beside the beat.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CheckpointDelta {
    /// Rows to write (JSON text) or, if `None`, to delete.
    pub rows: BTreeMap<RowKey, Option<String>>,
}

impl CheckpointDelta {
    /// The size that [`crate::limits::CHECKPOINT_BYTES_MAX`] bounds.
    pub fn bytes(&self) -> usize {
        self.rows
            .iter()
            .map(|(key, row)| key.id.len() + 16 + row.as_ref().map_or(0, String::len))
            .sum()
    }
}

/// How a compare-and-set on a lease went.
#[derive(Clone, PartialEq, Debug)]
pub enum Cas {
    /// It was as expected, and is now as wanted.
    Applied,
    /// It was otherwise: this is what stands there. Nothing was changed.
    Lost(Option<Lease>),
}

/// A process that shares partitions out with others. A hint: who has which is for leases alone to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its id, new at every start.
    pub owner: OwnerId,
    /// Where other roles reach it.
    pub addr: String,
    /// Moves while it lives.
    pub beat: u64,
    /// Partitions that it asks their holders for.
    pub wants: BTreeSet<PartitionId>,
}

/// Leases, and the checkpoints that only their holder can move.
#[async_trait]
pub trait Leases: Send + Sync {
    /// A partition's lease.
    async fn lease(&self, partition: PartitionId) -> Result<Option<Lease>>;

    /// Claims (or releases) a lease: replaces what stands there if it is `expected`. `new.fence.epoch` MUST be
    /// higher than the expected one's, except in a release by the holder, which only moves the beat.
    async fn claim(&self, partition: PartitionId, expected: Option<Fence>, new: &Lease) -> Result<Cas>;

    /// Saves a checkpoint: moves the beat of `expected` to `beat` and applies `delta`, both or nothing.
    async fn save(
        &self,
        partition: PartitionId,
        expected: Fence,
        beat: u64,
        delta: &CheckpointDelta,
    ) -> Result<Cas>;

    /// All rows of a partition's checkpoint, with the lease they belong to, as one consistent read.
    async fn checkpoint(&self, partition: PartitionId) -> Result<(Option<Lease>, BTreeMap<RowKey, String>)>;

    /// One row of a checkpoint.
    async fn checkpoint_row(&self, partition: PartitionId, key: &RowKey) -> Result<Option<String>>;

    /// Rows of a checkpoint of one kind whose ids begin with `prefix`, in order of id.
    async fn checkpoint_rows(
        &self,
        partition: PartitionId,
        kind: RowKind,
        prefix: &str,
    ) -> Result<Vec<(String, String)>>;

    /// Sums what partitions counted of a tenant in a month (`YYYY-MM`).
    async fn usage(&self, tenant: TenantId, month: &str) -> Result<UsageCounts>;

    /// Writes a chunk under a name never used before. Immutable. The checkpoint row ([`RowKind::Chunk`], `name`)
    /// names it; one that no row names is deleted after [`crate::limits::CHUNK_UNNAMED_KEPT`], or leaves with its time to
    /// live ([`crate::limits::CHUNK_TTL`]).
    async fn put_chunk(&self, partition: PartitionId, name: &str, body: Bytes) -> Result<()>;

    /// Reads a chunk.
    async fn chunk(&self, partition: PartitionId, name: &str) -> Result<Option<Bytes>>;

    /// Deletes chunks that no checkpoint names any more.
    async fn delete_chunks(&self, partition: PartitionId, names: &[String]) -> Result<()>;

    /// Writes a member's row, whole.
    async fn put_member(&self, member: &Member) -> Result<()>;

    /// Removes a member that leaves.
    async fn remove_member(&self, owner: OwnerId) -> Result<()>;

    /// All members, in order of id: also those that died without leaving, until they were silent for
    /// [`crate::limits::MEMBER_KEPT`].
    async fn members(&self) -> Result<Vec<Member>>;
}

/// The id of a usage row: `tenant/YYYY-MM`.
pub fn usage_row(tenant: TenantId, month: &str) -> RowKey {
    RowKey {
        kind: RowKind::Usage,
        id: format!("{tenant}/{month}"),
    }
}

// ---- The attempt log ----

/// How a delivery stands after an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// Another attempt follows.
    Retrying,
    /// A 2xx came.
    Succeeded,
    /// No further attempt follows.
    GivenUp,
}

impl DeliveryStatus {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Retrying, Self::Succeeded, Self::GivenUp];

    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::GivenUp => "given_up",
        }
    }

    /// What was stored so; none for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == text)
    }
}

/// One attempt of a delivery.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AttemptRow {
    /// For which endpoint.
    pub endpoint: EndpointId,
    /// When the delivery's first attempt began; the same in all of its rows.
    pub first_at: Timestamp,
    /// Which event.
    pub event: EventAddress,
    /// Its type.
    pub event_type: EventType,
    /// Counts from 1. A delivery given up without any attempt has one row with 0.
    pub number: u32,
    /// When this attempt began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration_ms: u32,
    /// How the delivery stands after it.
    pub status: DeliveryStatus,
    /// The HTTP status, if one came.
    pub response_status: Option<u16>,
    /// `dns`, `refused`, `connect`, `tls`, `timeout`, `http`, `protocol`, `blocked` or empty.
    pub error_class: String,
    /// Whose fault: `receiver`, `network`, `ours` or empty.
    pub fault: String,
    /// What went wrong, for people; empty on success.
    pub error: String,
    /// When the next attempt is due.
    pub next_attempt_at: Option<Timestamp>,
    /// Phases, headers (credentials masked) and so on, as JSON.
    pub detail: serde_json::Value,
    /// The first bytes of the response body.
    pub response_body: Bytes,
    /// The code that the event is about. None where it is not known: rows of releases before this field, tests, and
    /// events that could not be read.
    #[serde(default)]
    pub code: Option<CodeId>,
}

/// A delivery as a list shows it: its last attempt, and how many there were.
#[derive(Clone, PartialEq, Debug)]
pub struct DeliverySummary {
    /// The last attempt.
    pub last: AttemptRow,
    /// How many attempts.
    pub attempts: u32,
}

/// A delivery, as far as sending it again needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownDelivery {
    /// The event's index in its batch.
    pub index: u16,
    /// When the first attempt began.
    pub first_at: Timestamp,
    /// The last attempt's number.
    pub attempts: u32,
    /// How it stands after that.
    pub status: DeliveryStatus,
}

/// Which deliveries to list. Empty fields do not filter; all but the times look at the last attempt's row.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeliveryFilter {
    /// Those that stand so.
    pub status: Option<DeliveryStatus>,
    /// Those of events of this kind.
    pub events: Option<EventPattern>,
    /// Those of events about this code.
    pub code: Option<CodeId>,
    /// Those whose first attempt began at this time or later.
    pub start: Option<Timestamp>,
    /// Those whose first attempt began before this time.
    pub end: Option<Timestamp>,
}

impl DeliveryFilter {
    /// Whether a delivery with these properties passes, its time left aside.
    pub fn covers(&self, status: DeliveryStatus, event: EventType, code: Option<CodeId>) -> bool {
        self.status.is_none_or(|wanted| wanted == status)
            && self.events.as_ref().is_none_or(|wanted| wanted.matches(event))
            && self.code.is_none_or(|wanted| code == Some(wanted))
    }
}

/// Where a delivery stands in its endpoint's log.
pub type DeliveryPosition = (Timestamp, EventAddress);

/// Deliveries of one look at the log.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct DeliveryPage {
    /// Newest first.
    pub deliveries: Vec<DeliverySummary>,
    /// Where to read on, strictly below; none when nothing is left.
    pub next: Option<DeliveryPosition>,
}

/// The attempt log.
#[async_trait]
pub trait Attempts: Send + Sync {
    /// Records attempts. Repeating a row is harmless. After an error some may be recorded, or be there for some of the
    /// methods below and not for others.
    async fn record_attempts(&self, rows: Vec<AttemptRow>) -> Result<()>;

    /// An endpoint's deliveries that pass the filter, newest first (`first_at`, event, descending), strictly below
    /// `before`. Looks at no more than [`crate::limits::DELIVERIES_SCANNED_MAX`]: a page may be short, even empty,
    /// and still have more behind it.
    async fn find_deliveries(
        &self,
        endpoint: EndpointId,
        filter: &DeliveryFilter,
        before: Option<DeliveryPosition>,
        limit: usize,
    ) -> Result<DeliveryPage>;

    /// The newest `limit` of all of them, strictly below `before`; for small limits.
    async fn deliveries(
        &self,
        endpoint: EndpointId,
        before: Option<DeliveryPosition>,
        limit: usize,
    ) -> Result<Vec<DeliverySummary>> {
        let all = DeliveryFilter::default();
        let page = self.find_deliveries(endpoint, &all, before, limit).await?;
        Ok(page.deliveries)
    }

    /// All attempts of one delivery, oldest first.
    async fn attempts(
        &self,
        endpoint: EndpointId,
        first_at: Timestamp,
        event: EventAddress,
    ) -> Result<Vec<AttemptRow>>;

    /// What became of one batch's events at an endpoint, in order of their index. An event that was delivered under
    /// several ids, because a crash repeated it, is there once: as the latest of them.
    async fn deliveries_of_batch(
        &self,
        endpoint: EndpointId,
        partition: PartitionId,
        writer: WriterId,
        seq: Seq,
    ) -> Result<Vec<KnownDelivery>>;
}

// ---- Commands ----

/// What a partition's owner is asked to do, because only it connects to a tenant's URL.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum CommandKind {
    /// Send a synthetic event once.
    Test {
        /// To this endpoint.
        endpoint: EndpointId,
    },
    /// Send a delivery again, now. Stays pending until a checkpoint holds the delivery, or its next attempt is recorded.
    Retry {
        /// To this endpoint.
        endpoint: EndpointId,
        /// This event.
        event: EventAddress,
        /// When the delivery's first attempt began.
        first_at: Timestamp,
        /// The last attempt that the caller knew of.
        after: u32,
    },
    /// Send the events of a range again, beside the live ones. Stays pending until a checkpoint holds the replay.
    Replay {
        /// Which, and to whom.
        replay: ReplayId,
        /// What.
        range: ReplayRange,
    },
    /// End a replay. Stays pending until a checkpoint says so.
    CancelReplay {
        /// Which.
        replay: ReplayId,
    },
}

impl CommandKind {
    /// The endpoint that it is about.
    pub fn endpoint(&self) -> EndpointId {
        match self {
            Self::Test { endpoint } | Self::Retry { endpoint, .. } => *endpoint,
            Self::Replay { replay, .. } | Self::CancelReplay { replay } => replay.endpoint(),
        }
    }
}

/// A command, and what came of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Command {
    /// Its id.
    pub id: CommandId,
    /// Whose owner is asked.
    pub partition: PartitionId,
    /// What for.
    pub kind: CommandKind,
    /// When.
    pub created_at: Timestamp,
    /// What came of it, once it is finished.
    pub result: Option<CommandResult>,
}

/// What came of a command.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum CommandResult {
    /// The attempt that was made.
    Attempt(Box<AttemptRow>),
    /// It is done, or saved with what its owner has to do.
    Taken,
    /// It could not be done.
    Refused {
        /// Why, for people.
        reason: String,
    },
}

/// Commands to owners.
#[async_trait]
pub trait Commands: Send + Sync {
    /// Puts down a command. `Ok(false)` when [`crate::limits::COMMANDS_PENDING_MAX`] wait already.
    async fn put_command(&self, command: &Command) -> Result<bool>;

    /// Unfinished commands, oldest first.
    async fn pending_commands(&self, partition: PartitionId, limit: usize) -> Result<Vec<Command>>;

    /// Finishes a command; the first result wins.
    async fn finish_command(
        &self,
        partition: PartitionId,
        id: CommandId,
        result: &CommandResult,
    ) -> Result<()>;

    /// One command.
    async fn command(&self, partition: PartitionId, id: CommandId) -> Result<Option<Command>>;
}
