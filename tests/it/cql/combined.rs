//! Until every trait has its CQL side: a store that keeps in the cluster what can be kept there, and the rest in a
//! directory.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use qrelay_store::{
    Hints, Store, Timestamp,
    checkpoint::{RowKey, RowKind, UsageCounts},
    id::{
        CodeId, CommandId, ConfigSeq, EndpointId, EventAddress, KeyId, OwnerId, PartitionId, SecretId, Seq,
        TenantId, WriterId,
    },
    model::{ApiKey, Code, Endpoint, SecretRow, ShortLink, Tenant},
    scylla::ScyllaStore,
    sqlite::SqliteStore,
    store::{
        AttemptRow, Attempts, Batch, Cas, Change, ChangeError, Changed, CheckpointDelta, CodeFilter, Command,
        CommandResult, Commands, ConfigChange, ConfigLog, ConfigRow, ConversionRow, Conversions,
        DeliveryFilter, DeliveryPage, DeliveryPosition, Fence, Heads, Install, KnownDelivery, Lease, Leases,
        Log, Member, Page, Registry, Result, WriterRow,
    },
};

/// The combination.
pub(crate) struct Combined {
    pub(crate) cluster: Arc<ScyllaStore>,
    pub(crate) directory: Arc<SqliteStore>,
}

impl Store for Combined {
    fn install(&self) -> &Install {
        self.cluster.install()
    }

    fn hints(&self) -> &Hints {
        self.cluster.hints()
    }

    fn exclusive(&self) -> bool {
        false
    }
}

macro_rules! pass_on {
    ($tr:ident to $side:ident { $(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)* }) => {
        #[async_trait]
        impl $tr for Combined {
            $(async fn $name(&self, $($arg: $ty),*) -> $ret {
                self.$side.$name($($arg),*).await
            })*
        }
    };
}

pass_on!(Log to cluster {
    fn register_writer(row: &WriterRow) -> Result<()>;
    fn append(batch: Batch) -> Result<()>;
    fn publish_heads(writer: WriterId, beat: u64, heads: &Heads) -> Result<()>;
    fn close_writer(writer: WriterId, last: &Heads) -> Result<()>;
    fn writers() -> Result<Vec<WriterRow>>;
    fn read(partition: PartitionId, writer: WriterId, after: Seq, through: Seq, max_bytes: usize) -> Result<Vec<Batch>>;
    fn batch(partition: PartitionId, writer: WriterId, seq: Seq) -> Result<Option<Batch>>;
    fn next_seq(partition: PartitionId, writer: WriterId, after: Seq) -> Result<Option<Seq>>;
    fn tail(partition: PartitionId, writer: WriterId, after: Seq) -> Result<Seq>;
    fn batches_before(partition: PartitionId, before: Option<(Timestamp, WriterId, Seq)>, limit: usize) -> Result<Vec<Batch>>;
    fn batches_after(partition: PartitionId, after: (Timestamp, WriterId, Seq), limit: usize) -> Result<Vec<Batch>>;
});

pass_on!(ConfigLog to cluster {
    fn config_head() -> Result<ConfigSeq>;
    fn config_after(after: ConfigSeq, limit: usize) -> Result<Vec<ConfigRow>>;
    fn config_row(seq: ConfigSeq) -> Result<Option<ConfigRow>>;
    fn announce_health(change: &ConfigChange) -> Result<Option<ConfigSeq>>;
    fn config_events_before(tenant: TenantId, before: Option<(ConfigSeq, u16)>, limit: usize) -> Result<Vec<(ConfigSeq, u16, ConfigChange)>>;
});

pass_on!(Registry to cluster {
    fn change(change: Change) -> Result<Changed, ChangeError>;
    fn tenant(id: TenantId) -> Result<Option<Arc<Tenant>>>;
    fn tenants(page: &Page) -> Result<Vec<Arc<Tenant>>>;
    fn api_key(id: KeyId) -> Result<Option<Arc<ApiKey>>>;
    fn api_keys(tenant: TenantId, page: &Page) -> Result<Vec<(Arc<ApiKey>, Option<Timestamp>)>>;
    fn touch_api_key(id: KeyId, at: Timestamp) -> Result<()>;
    fn code(id: CodeId) -> Result<Option<Arc<Code>>>;
    fn code_version(id: CodeId, version: u64) -> Result<Option<Arc<Code>>>;
    fn code_by_link(link: &ShortLink) -> Result<Option<Arc<Code>>>;
    fn codes(tenant: TenantId, filter: &CodeFilter, page: &Page) -> Result<Vec<Arc<Code>>>;
    fn endpoint(id: EndpointId) -> Result<Option<Arc<Endpoint>>>;
    fn endpoints(tenant: TenantId, page: &Page) -> Result<Vec<Arc<Endpoint>>>;
    fn endpoints_homed(home: PartitionId, after: Option<EndpointId>, limit: usize) -> Result<Vec<Arc<Endpoint>>>;
    fn secrets(endpoint: EndpointId) -> Result<Vec<SecretRow>>;
    fn any_secret() -> Result<Option<(TenantId, EndpointId, SecretId, Vec<u8>)>>;
});

pass_on!(Leases to cluster {
    fn lease(partition: PartitionId) -> Result<Option<Lease>>;
    fn claim(partition: PartitionId, expected: Option<Fence>, new: &Lease) -> Result<Cas>;
    fn save(partition: PartitionId, expected: Fence, beat: u64, delta: &CheckpointDelta) -> Result<Cas>;
    fn checkpoint(partition: PartitionId) -> Result<(Option<Lease>, BTreeMap<RowKey, String>)>;
    fn checkpoint_row(partition: PartitionId, key: &RowKey) -> Result<Option<String>>;
    fn checkpoint_rows(partition: PartitionId, kind: RowKind, prefix: &str) -> Result<Vec<(String, String)>>;
    fn usage(tenant: TenantId, month: &str) -> Result<UsageCounts>;
    fn put_chunk(partition: PartitionId, name: &str, body: Bytes) -> Result<()>;
    fn chunk(partition: PartitionId, name: &str) -> Result<Option<Bytes>>;
    fn delete_chunks(partition: PartitionId, names: &[String]) -> Result<()>;
    fn put_member(member: &Member) -> Result<()>;
    fn remove_member(owner: OwnerId) -> Result<()>;
    fn members() -> Result<Vec<Member>>;
});

pass_on!(Attempts to cluster {
    fn record_attempts(rows: Vec<AttemptRow>) -> Result<()>;
    fn find_deliveries(endpoint: EndpointId, filter: &DeliveryFilter, before: Option<DeliveryPosition>, limit: usize) -> Result<DeliveryPage>;
    fn attempts(endpoint: EndpointId, first_at: Timestamp, event: EventAddress) -> Result<Vec<AttemptRow>>;
    fn deliveries_of_batch(endpoint: EndpointId, partition: PartitionId, writer: WriterId, seq: Seq) -> Result<Vec<KnownDelivery>>;
});

pass_on!(Commands to cluster {
    fn put_command(command: &Command) -> Result<bool>;
    fn pending_commands(partition: PartitionId, limit: usize) -> Result<Vec<Command>>;
    fn finish_command(partition: PartitionId, id: CommandId, result: &CommandResult) -> Result<()>;
    fn command(partition: PartitionId, id: CommandId) -> Result<Option<Command>>;
});

pass_on!(Conversions to cluster {
    fn claim_conversion(row: &ConversionRow) -> Result<Option<ConversionRow>>;
    fn take_conversion(row: &ConversionRow, from: WriterId) -> Result<bool>;
    fn finish_conversion(tenant: TenantId, external_id: &str, event: EventAddress) -> Result<()>;
});
