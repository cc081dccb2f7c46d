//! A store in memory that fails, hangs and announces when a test tells it to. Only what the edge uses is there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use qrelay_store::checkpoint::{RowKey, RowKind, UsageCounts};
use qrelay_store::hints::Hints;
use qrelay_store::id::*;
use qrelay_store::model::*;
use qrelay_store::record::{Record, decode_batch};
use qrelay_store::store::*;
use qrelay_store::{Clock, Timestamp};
use std::collections::BTreeMap;
use tokio::sync::watch;

/// When the fake's clock says it is.
pub(crate) const NOW_MS: i64 = 1_772_548_338_492;

#[derive(Debug)]
pub(crate) struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(NOW_MS)
    }
}

#[derive(Default)]
struct Rows {
    codes: HashMap<CodeId, Arc<Code>>,
    tenants: HashMap<TenantId, Arc<Tenant>>,
    config: Vec<ConfigRow>,
    batches: Vec<Batch>,
}

/// See the module's documentation.
pub(crate) struct FakeStore {
    install: Install,
    hints: Hints,
    rows: Mutex<Rows>,
    /// Reads fail.
    pub(crate) unreachable: AtomicBool,
    /// Appends fail.
    pub(crate) append_fails: AtomicBool,
    /// Appends wait until this is true.
    pub(crate) append_gate: watch::Sender<bool>,
    /// How many appends have begun.
    pub(crate) appends_begun: watch::Sender<usize>,
    pub(crate) lookups: AtomicUsize,
    /// Whether changes are told to the process at once.
    pub(crate) hinting: AtomicBool,
}

impl FakeStore {
    pub(crate) fn new() -> Arc<Self> {
        let install = Install {
            partitions: 8,
            ids: IdCipher::new(&[7; 16]),
            created_at: Timestamp::EPOCH,
        };
        Arc::new(Self {
            install,
            hints: Hints::default(),
            rows: Mutex::default(),
            unreachable: AtomicBool::new(false),
            append_fails: AtomicBool::new(false),
            append_gate: watch::Sender::new(true),
            appends_begun: watch::Sender::new(0),
            lookups: AtomicUsize::new(0),
            hinting: AtomicBool::new(true),
        })
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap()
    }

    fn reachable(&self) -> Result<()> {
        if self.unreachable.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the test says so".to_owned()));
        }
        Ok(())
    }

    fn announce(&self, resource: ResourceId, tenant: TenantId, version: u64) {
        let mut rows = self.rows();
        let seq = ConfigSeq::new(rows.config.len() as u64 + 1);
        let at = Timestamp::from_millis(NOW_MS);
        let change = ConfigChange {
            resource,
            tenant,
            version,
            at,
            actor: "admin".to_owned(),
            event: None,
            health: None,
        };
        rows.config.push(ConfigRow {
            seq,
            changes: vec![change],
        });
        drop(rows);
        if self.hinting.load(Ordering::SeqCst) {
            self.hints.publish_config(seq);
        }
    }

    pub(crate) fn put_tenant(&self, tenant: Tenant) {
        let (id, version) = (tenant.id, tenant.version);
        self.rows().tenants.insert(id, Arc::new(tenant));
        self.announce(ResourceId::Tenant(id), id, version);
    }

    pub(crate) fn put_code(&self, code: Code) {
        let (id, tenant, version) = (code.id, code.tenant, code.version);
        self.rows().codes.insert(id, Arc::new(code));
        self.announce(ResourceId::Code(id), tenant, version);
    }

    /// Changes a code as the control plane would: a new version, announced.
    pub(crate) fn edit_code(&self, id: CodeId, edit: impl FnOnce(&mut Code)) {
        let mut code = (*self.rows().codes[&id]).clone();
        edit(&mut code);
        code.version += 1;
        self.put_code(code);
    }

    pub(crate) fn edit_tenant(&self, id: TenantId, edit: impl FnOnce(&mut Tenant)) {
        let mut tenant = (*self.rows().tenants[&id]).clone();
        edit(&mut tenant);
        tenant.version += 1;
        self.put_tenant(tenant);
    }

    pub(crate) fn batches(&self) -> Vec<Batch> {
        self.rows().batches.clone()
    }

    /// All scans recorded so far, with their addresses, as JSON.
    pub(crate) fn scans(&self) -> Vec<(EventAddress, serde_json::Value)> {
        let mut scans = Vec::new();
        for batch in self.batches() {
            for (index, record) in decode_batch(&batch.body).unwrap().into_iter().enumerate() {
                let Record::Scan(scan) = record.unwrap() else {
                    continue;
                };
                let scan = serde_json::to_value(&scan).unwrap();
                let index = u16::try_from(index).unwrap();
                let address = EventAddress {
                    partition: batch.partition,
                    writer: batch.writer,
                    seq: batch.seq,
                    index,
                };
                scans.push((address, scan));
            }
        }
        scans
    }
}

#[async_trait]
impl Log for FakeStore {
    async fn register_writer(&self, _: &WriterRow) -> Result<()> {
        Ok(())
    }

    async fn append(&self, batch: Batch) -> Result<()> {
        self.appends_begun.send_modify(|count| *count += 1);
        let mut gate = self.append_gate.subscribe();
        gate.wait_for(|open| *open).await.unwrap();
        if self.append_fails.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the disk is full".to_owned()));
        }
        let mut rows = self.rows();
        if !rows.batches.contains(&batch) {
            rows.batches.push(batch);
        }
        Ok(())
    }

    async fn publish_heads(&self, _: WriterId, _: u64, _: &Heads) -> Result<()> {
        Ok(())
    }

    async fn close_writer(&self, _: WriterId, _: &Heads) -> Result<()> {
        Ok(())
    }

    async fn fence_writer(&self, _: WriterId) -> Result<()> {
        unimplemented!()
    }

    async fn is_fenced(&self, _: WriterId) -> Result<bool> {
        unimplemented!()
    }

    async fn writers(&self) -> Result<Vec<WriterRow>> {
        unimplemented!()
    }

    async fn read(&self, _: PartitionId, _: WriterId, _: Seq, _: Seq, _: usize) -> Result<Vec<Batch>> {
        unimplemented!()
    }

    async fn batch(&self, _: PartitionId, _: WriterId, _: Seq) -> Result<Option<Batch>> {
        unimplemented!()
    }

    async fn next_seq(&self, _: PartitionId, _: WriterId, _: Seq, _: Seq) -> Result<Option<Seq>> {
        unimplemented!()
    }

    async fn tail(&self, _: PartitionId, _: WriterId, _: Seq) -> Result<Seq> {
        unimplemented!()
    }

    async fn batches_before(
        &self,
        _: PartitionId,
        _: Option<(Timestamp, WriterId, Seq)>,
        _: usize,
    ) -> Result<Vec<Batch>> {
        unimplemented!()
    }

    async fn batches_after(
        &self,
        _: PartitionId,
        _: (Timestamp, WriterId, Seq),
        _: usize,
    ) -> Result<Vec<Batch>> {
        unimplemented!()
    }
}

#[async_trait]
impl ConfigLog for FakeStore {
    async fn config_head(&self) -> Result<ConfigSeq> {
        self.reachable()?;
        Ok(self.rows().config.last().map_or(ConfigSeq::ZERO, |row| row.seq))
    }

    async fn config_after(&self, after: ConfigSeq, limit: usize) -> Result<Vec<ConfigRow>> {
        self.reachable()?;
        Ok(self
            .rows()
            .config
            .iter()
            .filter(|row| row.seq > after)
            .take(limit)
            .cloned()
            .collect())
    }

    async fn config_row(&self, _: ConfigSeq) -> Result<Option<ConfigRow>> {
        unimplemented!()
    }

    async fn announce_health(&self, _: &ConfigChange) -> Result<Option<ConfigSeq>> {
        unimplemented!()
    }

    async fn config_events_before(
        &self,
        _: TenantId,
        _: Option<(ConfigSeq, u16)>,
        _: usize,
    ) -> Result<Vec<(ConfigSeq, u16, ConfigChange)>> {
        unimplemented!()
    }
}

#[async_trait]
impl Registry for FakeStore {
    async fn change(&self, _: Change) -> Result<Changed, ChangeError> {
        unimplemented!()
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Arc<Tenant>>> {
        self.reachable()?;
        Ok(self.rows().tenants.get(&id).cloned())
    }

    async fn tenants(&self, _: &Page) -> Result<Vec<Arc<Tenant>>> {
        unimplemented!()
    }

    async fn api_key(&self, _: KeyId) -> Result<Option<Arc<ApiKey>>> {
        unimplemented!()
    }

    async fn api_keys(&self, _: TenantId, _: &Page) -> Result<Vec<(Arc<ApiKey>, Option<Timestamp>)>> {
        unimplemented!()
    }

    async fn touch_api_key(&self, _: KeyId, _: Timestamp) -> Result<()> {
        unimplemented!()
    }

    async fn code(&self, id: CodeId) -> Result<Option<Arc<Code>>> {
        self.reachable()?;
        Ok(self.rows().codes.get(&id).cloned())
    }

    async fn code_version(&self, _: CodeId, _: u64) -> Result<Option<Arc<Code>>> {
        unimplemented!()
    }

    async fn code_by_link(&self, link: &ShortLink) -> Result<Option<Arc<Code>>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        self.reachable()?;
        Ok(self
            .rows()
            .codes
            .values()
            .find(|code| code.link == *link)
            .cloned())
    }

    async fn codes(&self, _: TenantId, _: &CodeFilter, _: &Page) -> Result<CodePage> {
        unimplemented!()
    }

    async fn endpoint(&self, _: EndpointId) -> Result<Option<Arc<Endpoint>>> {
        unimplemented!()
    }

    async fn endpoints(&self, _: TenantId, _: &Page) -> Result<Vec<Arc<Endpoint>>> {
        unimplemented!()
    }

    async fn endpoints_homed(
        &self,
        _: PartitionId,
        _: Option<EndpointId>,
        _: usize,
    ) -> Result<Vec<Arc<Endpoint>>> {
        unimplemented!()
    }

    async fn secrets(&self, _: EndpointId) -> Result<Vec<SecretRow>> {
        unimplemented!()
    }

    async fn any_secret(&self) -> Result<Option<(TenantId, EndpointId, SecretId, Vec<u8>)>> {
        unimplemented!()
    }

    async fn claim_partitions(&self, _: u16) -> Result<Option<std::ops::Range<u16>>> {
        unimplemented!()
    }

    async fn own_partitions(&self) -> Result<u16> {
        self.reachable()?;
        Ok(self.install.partitions)
    }

    async fn claimed_at(&self, _: PartitionId) -> Result<ConfigSeq> {
        Ok(ConfigSeq::ZERO)
    }
}

#[async_trait]
impl Leases for FakeStore {
    async fn lease(&self, _: PartitionId) -> Result<Option<Lease>> {
        unimplemented!()
    }

    async fn claim(&self, _: PartitionId, _: Option<Fence>, _: &Lease) -> Result<Cas> {
        unimplemented!()
    }

    async fn save(&self, _: PartitionId, _: Fence, _: u64, _: &CheckpointDelta) -> Result<Cas> {
        unimplemented!()
    }

    async fn checkpoint(&self, _: PartitionId) -> Result<(Option<Lease>, BTreeMap<RowKey, String>)> {
        unimplemented!()
    }

    async fn checkpoint_row(&self, _: PartitionId, _: &RowKey) -> Result<Option<String>> {
        unimplemented!()
    }

    async fn checkpoint_rows(&self, _: PartitionId, _: RowKind, _: &str) -> Result<Vec<(String, String)>> {
        unimplemented!()
    }

    async fn usage(&self, _: TenantId, _: &str) -> Result<UsageCounts> {
        unimplemented!()
    }

    async fn put_chunk(&self, _: PartitionId, _: &str, _: Bytes) -> Result<()> {
        unimplemented!()
    }

    async fn chunk(&self, _: PartitionId, _: &str) -> Result<Option<Bytes>> {
        unimplemented!()
    }

    async fn delete_chunks(&self, _: PartitionId, _: &[String]) -> Result<()> {
        unimplemented!()
    }
    async fn put_member(&self, _: &Member) -> Result<()> {
        unimplemented!()
    }
    async fn remove_member(&self, _: OwnerId) -> Result<()> {
        unimplemented!()
    }
    async fn members(&self) -> Result<Vec<Member>> {
        unimplemented!()
    }
}

#[async_trait]
impl Attempts for FakeStore {
    async fn record_attempts(&self, _: Vec<AttemptRow>) -> Result<()> {
        unimplemented!()
    }

    async fn find_deliveries(
        &self,
        _: EndpointId,
        _: &DeliveryFilter,
        _: Option<DeliveryPosition>,
        _: usize,
    ) -> Result<DeliveryPage> {
        unimplemented!()
    }

    async fn attempts(&self, _: EndpointId, _: Timestamp, _: EventAddress) -> Result<Vec<AttemptRow>> {
        unimplemented!()
    }

    async fn deliveries_of_batch(
        &self,
        _: EndpointId,
        _: PartitionId,
        _: WriterId,
        _: Seq,
    ) -> Result<Vec<KnownDelivery>> {
        unimplemented!()
    }
}

#[async_trait]
impl Commands for FakeStore {
    async fn put_command(&self, _: &Command) -> Result<bool> {
        unimplemented!()
    }

    async fn pending_commands(&self, _: PartitionId, _: usize) -> Result<Vec<Command>> {
        unimplemented!()
    }

    async fn finish_command(&self, _: PartitionId, _: CommandId, _: &CommandResult) -> Result<()> {
        unimplemented!()
    }

    async fn command(&self, _: PartitionId, _: CommandId) -> Result<Option<Command>> {
        unimplemented!()
    }
}

#[async_trait]
impl Conversions for FakeStore {
    async fn claim_conversion(&self, _: &ConversionRow) -> Result<Option<ConversionRow>> {
        unimplemented!()
    }

    async fn take_conversion(&self, _: &ConversionRow, _: WriterId) -> Result<bool> {
        unimplemented!()
    }

    async fn finish_conversion(&self, _: TenantId, _: &str, _: EventAddress) -> Result<()> {
        unimplemented!()
    }
}

impl Store for FakeStore {
    fn install(&self) -> &Install {
        &self.install
    }

    fn hints(&self) -> &Hints {
        &self.hints
    }

    fn exclusive(&self) -> bool {
        true
    }
}

/// A live tenant in partition 3.
pub(crate) fn tenant() -> Tenant {
    Tenant {
        id: TenantId::random(),
        name: "Test".to_owned(),
        status: TenantStatus::Active,
        durability: Durability::Durable,
        ip_privacy: IpPrivacy::Drop,
        partitions: vec![PartitionId::new(3)],
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
        version: 1,
        rate_limit: None,
        unrecordable_scans: UnrecordableScans::Refuse,
        retired: 0,
        settling: 0,
    }
}

/// A live code of a tenant.
pub(crate) fn code(tenant: TenantId, short_id: &str, destination_url: &str) -> Code {
    Code {
        id: CodeId::random(),
        tenant,
        link: ShortLink {
            host: Host::default(),
            short_id: short_id.to_owned(),
        },
        name: String::new(),
        destination_url: destination_url.to_owned(),
        status: CodeStatus::Active,
        tags: Vec::new(),
        campaign_id: String::new(),
        owner_id: String::new(),
        external_id: String::new(),
        metadata: serde_json::Map::new(),
        recipient: serde_json::Map::new(),
        conversion_param: String::new(),
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
        version: 1,
    }
}
