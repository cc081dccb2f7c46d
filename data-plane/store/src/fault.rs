//! A store that fails as it is told: for tests of everything that uses a store.
//!
//! [`FaultStore`] passes calls on to another store. A test says which calls fail, lose their answer or stall, for
//! how many times or until healed, or lets a seed decide. While a call is at the inner store a paused tokio clock
//! stands still, so that tests with a paused clock can use the embedded store, whose threads tokio does not see.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Future;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use crate::{
    checkpoint::{RowKey, RowKind, UsageCounts},
    clock::Timestamp,
    hints::Hints,
    id::{
        CodeId, CommandId, ConfigSeq, EndpointId, EventAddress, KeyId, OwnerId, PartitionId, SecretId, Seq,
        TenantId, WriterId,
    },
    model::{ApiKey, Code, Endpoint, SecretRow, ShortLink, Tenant},
    seeded::Dice,
    store::{
        AttemptRow, Attempts, Batch, Cas, Change, ChangeError, Changed, CheckpointDelta, CodeFilter,
        CodePage, Command, CommandResult, Commands, ConfigChange, ConfigLog, ConfigRow, ConversionRow,
        Conversions, DeliveryFilter, DeliveryPage, DeliveryPosition, Fence, Heads, Install, KnownDelivery,
        Lease, Leases, Log, Member, Page, Registry, Result, SharedStore, Store, StoreError, WriterRow,
    },
};

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is not done, and the caller is told that the store is not available.
    Unavailable,
    /// It is not done, and the caller is told that the store is damaged.
    Corrupt,
    /// It is done, and the caller is told that the store is not available.
    LoseAnswer,
    /// It waits for [`FaultStore::heal`] and is done then.
    Stall,
    /// It is done, and its answer waits for [`FaultStore::heal`].
    StallAnswer,
    /// It is done, and its answer takes so long.
    Late(Duration),
}

/// A method of a store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs, reason = "each is named after its method")]
pub enum Op {
    RegisterWriter,
    Append,
    PublishHeads,
    CloseWriter,
    FenceWriter,
    IsFenced,
    Writers,
    Read,
    Batch,
    NextSeq,
    Tail,
    BatchesBefore,
    BatchesAfter,
    ConfigHead,
    ConfigAfter,
    ConfigRow,
    ConfigEventsBefore,
    AnnounceHealth,
    Change,
    Tenant,
    Tenants,
    ApiKey,
    ApiKeys,
    TouchApiKey,
    Code,
    CodeVersion,
    CodeByLink,
    Codes,
    Endpoint,
    Endpoints,
    EndpointsHomed,
    Secrets,
    AnySecret,
    ClaimPartitions,
    OwnPartitions,
    ClaimedAt,
    Lease,
    Claim,
    Save,
    Checkpoint,
    CheckpointRow,
    CheckpointRows,
    Usage,
    PutChunk,
    Chunk,
    DeleteChunks,
    PutMember,
    RemoveMember,
    Members,
    RecordAttempts,
    Deliveries,
    Attempts,
    DeliveriesOfBatch,
    PutCommand,
    PendingCommands,
    FinishCommand,
    Command,
    ClaimConversion,
    TakeConversion,
    FinishConversion,
}

impl Op {
    /// Those that change something.
    pub const WRITES: [Op; 20] = [
        Op::RegisterWriter,
        Op::Append,
        Op::PublishHeads,
        Op::CloseWriter,
        Op::AnnounceHealth,
        Op::Change,
        Op::TouchApiKey,
        Op::ClaimPartitions,
        Op::Claim,
        Op::Save,
        Op::PutChunk,
        Op::DeleteChunks,
        Op::PutMember,
        Op::RemoveMember,
        Op::RecordAttempts,
        Op::PutCommand,
        Op::FinishCommand,
        Op::ClaimConversion,
        Op::TakeConversion,
        Op::FinishConversion,
    ];
}

/// A store that fails as it is told.
pub struct FaultStore {
    inner: SharedStore,
    hints: Option<Hints>,
    exclusive: AtomicBool,
    plan: Mutex<Plan>,
    /// Changes with every call and every healing.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Plan {
    rules: BTreeMap<Op, Rule>,
    chance: Option<Chance>,
    calls: BTreeMap<Op, u64>,
}

struct Rule {
    fault: Fault,
    /// For so many calls; without end if none.
    left: Option<u64>,
}

struct Chance {
    dice: Dice,
    per_mille: u64,
    ops: BTreeSet<Op>,
}

impl std::fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultStore")
    }
}

impl FaultStore {
    /// Passes everything on, until told otherwise.
    pub fn new(inner: SharedStore) -> Arc<Self> {
        Arc::new(Self::around(inner, None))
    }

    /// The same, with hints of its own, which nobody gives: consumers must find everything by looking.
    pub fn without_hints(inner: SharedStore) -> Arc<Self> {
        Arc::new(Self::around(inner, Some(Hints::default())))
    }

    fn around(inner: SharedStore, hints: Option<Hints>) -> Self {
        let exclusive = AtomicBool::new(inner.exclusive());
        Self {
            inner,
            hints,
            exclusive,
            plan: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Says whether other processes may use the same store.
    pub fn set_exclusive(&self, exclusive: bool) {
        self.exclusive.store(exclusive, Ordering::SeqCst);
    }

    /// All calls of `op` meet `fault`, until healed.
    pub fn break_all(&self, op: Op, fault: Fault) {
        self.lock().rules.insert(op, Rule { fault, left: None });
    }

    /// The next `times` calls of `op` meet `fault`.
    pub fn break_next(&self, op: Op, times: u64, fault: Fault) {
        let left = Some(times);
        self.lock().rules.insert(op, Rule { fault, left });
    }

    /// Of a thousand calls of `ops`, about `per_mille` fail or lose their answer; which ones, the seed says.
    pub fn break_by_chance(&self, seed: u64, per_mille: u64, ops: &[Op]) {
        self.lock().chance = Some(Chance {
            dice: Dice::new(seed),
            per_mille,
            ops: ops.iter().copied().collect(),
        });
    }

    /// Calls of `op` work again, and stalled ones go on.
    pub fn heal(&self, op: Op) {
        self.lock().rules.remove(&op);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Everything works again, and stalled calls go on.
    pub fn heal_all(&self) {
        let mut plan = self.lock();
        plan.rules.clear();
        plan.chance = None;
        drop(plan);
        self.changed.send_modify(|count| *count += 1);
    }

    /// How many calls of `op` there were, failed ones included.
    pub fn calls(&self, op: Op) -> u64 {
        self.lock().calls.get(&op).copied().unwrap_or(0)
    }

    /// Waits until there were at least so many calls of `op`.
    pub async fn called(&self, op: Op, at_least: u64) {
        self.until(|| self.calls(op) >= at_least).await;
    }

    async fn until(&self, mut is_so: impl FnMut() -> bool) {
        let mut changed = self.changed.subscribe();
        while !is_so() {
            // The sender is a field of this store.
            changed
                .changed()
                .await
                .expect("invariant: the sender lives as long as self");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and says what becomes of it.
    fn begin(&self, op: Op) -> Option<Fault> {
        let mut plan = self.lock();
        *plan.calls.entry(op).or_default() += 1;
        let fault = plan.next(op);
        drop(plan);
        self.changed.send_modify(|count| *count += 1);
        fault
    }

    async fn stall(&self, op: Op) {
        self.until(|| !self.lock().rules.contains_key(&op)).await;
    }

    async fn call<T, E>(&self, op: Op, call: impl Future<Output = Result<T, E>> + Send) -> Result<T, E>
    where
        T: Send,
        E: From<StoreError> + Send,
    {
        let injected = || StoreError::Unavailable("injected".to_owned());
        match self.begin(op) {
            None => clock_held(call).await,
            Some(Fault::Unavailable) => Err(injected().into()),
            Some(Fault::Corrupt) => Err(StoreError::Corrupt("injected".to_owned()).into()),
            Some(Fault::LoseAnswer) => clock_held(call).await.and_then(|_| Err(injected().into())),
            Some(Fault::Stall) => {
                self.stall(op).await;
                clock_held(call).await
            }
            Some(Fault::StallAnswer) => {
                let answer = clock_held(call).await;
                self.stall(op).await;
                answer
            }
            Some(Fault::Late(by)) => {
                let answer = clock_held(call).await;
                sleep(by).await;
                answer
            }
        }
    }
}

impl Plan {
    fn next(&mut self, op: Op) -> Option<Fault> {
        if let Some(rule) = self.rules.get_mut(&op) {
            let fault = rule.fault;
            let stalls = matches!(fault, Fault::Stall | Fault::StallAnswer);
            match &mut rule.left {
                Some(0) => return None,
                // A stall's rule stays: its call waits for the rule to go.
                Some(left) if stalls => *left -= 1,
                Some(1) => drop(self.rules.remove(&op)),
                Some(left) => *left -= 1,
                None => {}
            }
            return Some(fault);
        }
        let chance = self.chance.as_mut().filter(|chance| chance.ops.contains(&op))?;
        match chance.dice.draw() % 1000 {
            draw if draw >= chance.per_mille => None,
            draw if draw % 2 == 0 => Some(Fault::Unavailable),
            _ => Some(Fault::LoseAnswer),
        }
    }
}

/// A paused clock does not run on while a blocking task is under way.
pub(crate) async fn clock_held<T>(call: impl Future<Output = T> + Send) -> T {
    let (done, wait) = mpsc::channel::<()>();
    drop(spawn_blocking(move || wait.recv().is_err()));
    let answer = call.await;
    drop(done);
    answer
}

impl Store for FaultStore {
    fn install(&self) -> &Install {
        self.inner.install()
    }

    fn hints(&self) -> &Hints {
        self.hints.as_ref().unwrap_or_else(|| self.inner.hints())
    }

    fn exclusive(&self) -> bool {
        self.exclusive.load(Ordering::SeqCst)
    }
}

/// Each method, passed on through [`FaultStore::call`].
macro_rules! pass_on {
    ($tr:ident { $($op:ident: fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)* }) => {
        #[async_trait]
        impl $tr for FaultStore {
            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                self.call(Op::$op, self.inner.$name($($arg),*)).await
            })*
        }
    };
}

pass_on!(Log {
    RegisterWriter: fn register_writer(row: &WriterRow) -> Result<()>;
    Append: fn append(batch: Batch) -> Result<()>;
    PublishHeads: fn publish_heads(writer: WriterId, beat: u64, heads: &Heads) -> Result<()>;
    CloseWriter: fn close_writer(writer: WriterId, last: &Heads) -> Result<()>;
    FenceWriter: fn fence_writer(writer: WriterId) -> Result<()>;
    IsFenced: fn is_fenced(writer: WriterId) -> Result<bool>;
    Writers: fn writers() -> Result<Vec<WriterRow>>;
    Read: fn read(partition: PartitionId, writer: WriterId, after: Seq, through: Seq, max_bytes: usize) -> Result<Vec<Batch>>;
    Batch: fn batch(partition: PartitionId, writer: WriterId, seq: Seq) -> Result<Option<Batch>>;
    NextSeq: fn next_seq(partition: PartitionId, writer: WriterId, after: Seq, through: Seq) -> Result<Option<Seq>>;
    Tail: fn tail(partition: PartitionId, writer: WriterId, after: Seq) -> Result<Seq>;
    BatchesBefore: fn batches_before(partition: PartitionId, before: Option<(Timestamp, WriterId, Seq)>, limit: usize) -> Result<Vec<Batch>>;
    BatchesAfter: fn batches_after(partition: PartitionId, after: (Timestamp, WriterId, Seq), limit: usize) -> Result<Vec<Batch>>;
});

pass_on!(ConfigLog {
    ConfigHead: fn config_head() -> Result<ConfigSeq>;
    ConfigAfter: fn config_after(after: ConfigSeq, limit: usize) -> Result<Vec<ConfigRow>>;
    ConfigRow: fn config_row(seq: ConfigSeq) -> Result<Option<ConfigRow>>;
    AnnounceHealth: fn announce_health(change: &ConfigChange) -> Result<Option<ConfigSeq>>;
    ConfigEventsBefore: fn config_events_before(tenant: TenantId, before: Option<(ConfigSeq, u16)>, limit: usize) -> Result<Vec<(ConfigSeq, u16, ConfigChange)>>;
});

pass_on!(Registry {
    Change: fn change(change: Change) -> Result<Changed, ChangeError>;
    Tenant: fn tenant(id: TenantId) -> Result<Option<Arc<Tenant>>>;
    Tenants: fn tenants(page: &Page) -> Result<Vec<Arc<Tenant>>>;
    ApiKey: fn api_key(id: KeyId) -> Result<Option<Arc<ApiKey>>>;
    ApiKeys: fn api_keys(tenant: TenantId, page: &Page) -> Result<Vec<(Arc<ApiKey>, Option<Timestamp>)>>;
    TouchApiKey: fn touch_api_key(id: KeyId, at: Timestamp) -> Result<()>;
    Code: fn code(id: CodeId) -> Result<Option<Arc<Code>>>;
    CodeVersion: fn code_version(id: CodeId, version: u64) -> Result<Option<Arc<Code>>>;
    CodeByLink: fn code_by_link(link: &ShortLink) -> Result<Option<Arc<Code>>>;
    Codes: fn codes(tenant: TenantId, filter: &CodeFilter, page: &Page) -> Result<CodePage>;
    Endpoint: fn endpoint(id: EndpointId) -> Result<Option<Arc<Endpoint>>>;
    Endpoints: fn endpoints(tenant: TenantId, page: &Page) -> Result<Vec<Arc<Endpoint>>>;
    EndpointsHomed: fn endpoints_homed(home: PartitionId, after: Option<EndpointId>, limit: usize) -> Result<Vec<Arc<Endpoint>>>;
    Secrets: fn secrets(endpoint: EndpointId) -> Result<Vec<SecretRow>>;
    AnySecret: fn any_secret() -> Result<Option<(TenantId, EndpointId, SecretId, Vec<u8>)>>;
    ClaimPartitions: fn claim_partitions(count: u16) -> Result<Option<Range<u16>>>;
    OwnPartitions: fn own_partitions() -> Result<u16>;
    ClaimedAt: fn claimed_at(partition: PartitionId) -> Result<ConfigSeq>;
});

pass_on!(Leases {
    Lease: fn lease(partition: PartitionId) -> Result<Option<Lease>>;
    Claim: fn claim(partition: PartitionId, expected: Option<Fence>, new: &Lease) -> Result<Cas>;
    Save: fn save(partition: PartitionId, expected: Fence, beat: u64, delta: &CheckpointDelta) -> Result<Cas>;
    Checkpoint: fn checkpoint(partition: PartitionId) -> Result<(Option<Lease>, BTreeMap<RowKey, String>)>;
    CheckpointRow: fn checkpoint_row(partition: PartitionId, key: &RowKey) -> Result<Option<String>>;
    CheckpointRows: fn checkpoint_rows(partition: PartitionId, kind: RowKind, prefix: &str) -> Result<Vec<(String, String)>>;
    Usage: fn usage(tenant: TenantId, month: &str) -> Result<UsageCounts>;
    PutChunk: fn put_chunk(partition: PartitionId, name: &str, body: Bytes) -> Result<()>;
    Chunk: fn chunk(partition: PartitionId, name: &str) -> Result<Option<Bytes>>;
    DeleteChunks: fn delete_chunks(partition: PartitionId, names: &[String]) -> Result<()>;
    PutMember: fn put_member(member: &Member) -> Result<()>;
    RemoveMember: fn remove_member(owner: OwnerId) -> Result<()>;
    Members: fn members() -> Result<Vec<Member>>;
});

pass_on!(Attempts {
    RecordAttempts: fn record_attempts(rows: Vec<AttemptRow>) -> Result<()>;
    Deliveries: fn find_deliveries(endpoint: EndpointId, filter: &DeliveryFilter, before: Option<DeliveryPosition>, limit: usize) -> Result<DeliveryPage>;
    Attempts: fn attempts(endpoint: EndpointId, first_at: Timestamp, event: EventAddress) -> Result<Vec<AttemptRow>>;
    DeliveriesOfBatch: fn deliveries_of_batch(endpoint: EndpointId, partition: PartitionId, writer: WriterId, seq: Seq) -> Result<Vec<KnownDelivery>>;
});

pass_on!(Commands {
    PutCommand: fn put_command(command: &Command) -> Result<bool>;
    PendingCommands: fn pending_commands(partition: PartitionId, limit: usize) -> Result<Vec<Command>>;
    FinishCommand: fn finish_command(partition: PartitionId, id: CommandId, result: &CommandResult) -> Result<()>;
    Command: fn command(partition: PartitionId, id: CommandId) -> Result<Option<Command>>;
});

pass_on!(Conversions {
    ClaimConversion: fn claim_conversion(row: &ConversionRow) -> Result<Option<ConversionRow>>;
    TakeConversion: fn take_conversion(row: &ConversionRow, from: WriterId) -> Result<bool>;
    FinishConversion: fn finish_conversion(tenant: TenantId, external_id: &str, event: EventAddress) -> Result<()>;
});

#[cfg(test)]
mod tests;
