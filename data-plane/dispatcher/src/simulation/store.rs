//! One process's way into the simulated store: the traits, as far as writers, readers and owners ask them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use qrelay_store::{
    Hints, Timestamp,
    checkpoint::{RowKey, RowKind, UsageCounts},
    id::{
        CodeId, CommandId, ConfigSeq, EndpointId, EventAddress, IdCipher, KeyId, OwnerId, PartitionId,
        SecretId, Seq, TenantId, WriterId,
    },
    model::{ApiKey, Code, Endpoint, ResourceId, SecretRow, ShortLink, Tenant},
    store::{
        AttemptRow, Attempts, Batch, Cas, Change, ChangeError, Changed, CheckpointDelta, CodeFilter,
        CodePage, Command, CommandResult, Commands, ConfigChange, ConfigLog, ConfigRow, ConversionRow,
        Conversions, DeliveryFilter, DeliveryPage, DeliveryPosition, Fence, Heads, Install, KnownDelivery,
        Lease, Leases, Log, Member, Page, Registry, Result, Store, WriterRow,
    },
};

use super::{
    process::Kind,
    sim::{Link, unavailable},
    world::OTHERS_END,
};

/// What makes events' ids.
pub(super) fn ids() -> IdCipher {
    IdCipher::new(&[7; 16])
}

/// See the module's documentation.
pub(super) struct SimStore {
    link: Link,
    hints: Arc<Hints>,
    install: Install,
    /// Up to where partitions are claimed, as far as the process is to know.
    claimed: u16,
}

impl SimStore {
    pub(super) fn new(link: Link, hints: Arc<Hints>, kind: Kind) -> Arc<Self> {
        // Deliverers would lease them.
        let claimed = match kind {
            Kind::Writer => OTHERS_END,
            Kind::Reader | Kind::Deliverer | Kind::Successor => 0,
        };
        let install = Install {
            partitions: link.sim.partitions,
            ids: ids(),
            created_at: Timestamp::EPOCH,
        };
        Arc::new(Self {
            link,
            hints,
            install,
            claimed,
        })
    }

    fn stamp(&self) -> u64 {
        self.link.sim.lock().stamp()
    }
}

/// Nobody in a simulation asks this.
fn not_simulated<T>() -> Result<T> {
    Err(unavailable("not simulated"))
}

impl Store for SimStore {
    fn install(&self) -> &Install {
        &self.install
    }

    fn hints(&self) -> &Hints {
        &self.hints
    }

    fn exclusive(&self) -> bool {
        false
    }
}

#[async_trait]
impl Log for SimStore {
    async fn register_writer(&self, row: &WriterRow) -> Result<()> {
        let row = row.clone();
        self.link
            .call("register", move |tables, _| {
                tables.register(row);
                Ok(())
            })
            .await
    }

    async fn append(&self, batch: Batch) -> Result<()> {
        self.link
            .call("append", move |tables, book| {
                let appended = tables.append(batch);
                if let Err(error) = &appended {
                    book.violated(format!("a sealed batch has changed: {error}"));
                }
                appended
            })
            .await
    }

    async fn publish_heads(&self, writer: WriterId, beat: u64, heads: &Heads) -> Result<()> {
        let (heads, stamp) = (heads.clone(), self.stamp());
        self.link
            .call("publish heads", move |tables, book| {
                book.published(tables, writer, &heads);
                tables.publish(writer, beat, heads, stamp);
                Ok(())
            })
            .await
    }

    async fn close_writer(&self, writer: WriterId, last: &Heads) -> Result<()> {
        let last = last.clone();
        self.link
            .call("close", move |tables, book| {
                tables.close(writer, last.clone());
                book.closed(writer, last);
                Ok(())
            })
            .await
    }

    async fn fence_writer(&self, _: WriterId) -> Result<()> {
        unreachable!("nobody records conversions here")
    }

    async fn is_fenced(&self, _: WriterId) -> Result<bool> {
        Ok(false)
    }

    async fn writers(&self) -> Result<Vec<WriterRow>> {
        self.link
            .call("writers", |tables, _| Ok(tables.all_writers()))
            .await
    }

    async fn read(
        &self,
        partition: PartitionId,
        writer: WriterId,
        after: Seq,
        through: Seq,
        max_bytes: usize,
    ) -> Result<Vec<Batch>> {
        self.link
            .call("read", move |tables, _| {
                Ok(tables.read((partition, writer), (after, through), max_bytes))
            })
            .await
    }

    async fn batch(&self, partition: PartitionId, writer: WriterId, seq: Seq) -> Result<Option<Batch>> {
        self.link
            .call("batch", move |tables, _| {
                let key = (partition, writer, seq);
                let batch = tables.log.get(&key).filter(|_| !tables.hidden.contains(&key));
                Ok(batch.cloned())
            })
            .await
    }

    async fn next_seq(
        &self,
        partition: PartitionId,
        writer: WriterId,
        after: Seq,
        through: Seq,
    ) -> Result<Option<Seq>> {
        self.link
            .call("next seq", move |tables, _| {
                Ok(tables.next_seq((partition, writer), (after, through)))
            })
            .await
    }

    async fn tail(&self, partition: PartitionId, writer: WriterId, after: Seq) -> Result<Seq> {
        self.link
            .call("tail", move |tables, _| Ok(tables.tail(partition, writer, after)))
            .await
    }

    async fn batches_before(
        &self,
        _: PartitionId,
        _: Option<(Timestamp, WriterId, Seq)>,
        _: usize,
    ) -> Result<Vec<Batch>> {
        not_simulated()
    }

    async fn batches_after(
        &self,
        _: PartitionId,
        _: (Timestamp, WriterId, Seq),
        _: usize,
    ) -> Result<Vec<Batch>> {
        not_simulated()
    }
}

#[async_trait]
impl ConfigLog for SimStore {
    async fn config_head(&self) -> Result<ConfigSeq> {
        self.link
            .call("config head", |tables, _| {
                Ok(tables.config.last().map_or(ConfigSeq::ZERO, |row| row.seq))
            })
            .await
    }

    async fn config_after(&self, after: ConfigSeq, limit: usize) -> Result<Vec<ConfigRow>> {
        self.link
            .call("config after", move |tables, _| {
                let rows = tables.config.iter().filter(|row| row.seq > after);
                Ok(rows.take(limit).cloned().collect())
            })
            .await
    }

    async fn config_row(&self, seq: ConfigSeq) -> Result<Option<ConfigRow>> {
        self.link
            .call("config row", move |tables, _| {
                Ok(tables.config.iter().find(|row| row.seq == seq).cloned())
            })
            .await
    }

    async fn announce_health(&self, change: &ConfigChange) -> Result<Option<ConfigSeq>> {
        let change = change.clone();
        self.link
            .call("announce", move |tables, _| {
                let ResourceId::Endpoint(endpoint) = change.resource else {
                    return not_simulated();
                };
                Ok(tables.announce_health(endpoint, change))
            })
            .await
    }

    async fn config_events_before(
        &self,
        _: TenantId,
        _: Option<(ConfigSeq, u16)>,
        _: usize,
    ) -> Result<Vec<(ConfigSeq, u16, ConfigChange)>> {
        not_simulated()
    }
}

#[async_trait]
impl Registry for SimStore {
    async fn change(&self, _: Change) -> Result<Changed, ChangeError> {
        Ok(not_simulated()?)
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Arc<Tenant>>> {
        self.link
            .call("tenant", move |tables, _| Ok(tables.tenants.get(&id).cloned()))
            .await
    }

    async fn tenants(&self, _: &Page) -> Result<Vec<Arc<Tenant>>> {
        not_simulated()
    }

    async fn api_key(&self, _: KeyId) -> Result<Option<Arc<ApiKey>>> {
        not_simulated()
    }

    async fn api_keys(&self, _: TenantId, _: &Page) -> Result<Vec<(Arc<ApiKey>, Option<Timestamp>)>> {
        not_simulated()
    }

    async fn touch_api_key(&self, _: KeyId, _: Timestamp) -> Result<()> {
        not_simulated()
    }

    async fn code(&self, _: CodeId) -> Result<Option<Arc<Code>>> {
        not_simulated()
    }

    async fn code_version(&self, id: CodeId, version: u64) -> Result<Option<Arc<Code>>> {
        self.link
            .call("code version", move |tables, _| {
                Ok(tables.codes.get(&(id, version)).cloned())
            })
            .await
    }

    async fn code_by_link(&self, _: &ShortLink) -> Result<Option<Arc<Code>>> {
        not_simulated()
    }

    async fn codes(&self, _: TenantId, _: &CodeFilter, _: &Page) -> Result<CodePage> {
        not_simulated()
    }

    async fn endpoint(&self, id: EndpointId) -> Result<Option<Arc<Endpoint>>> {
        self.link
            .call("endpoint", move |tables, _| {
                Ok(tables.endpoints.get(&id).cloned())
            })
            .await
    }

    async fn endpoints(&self, _: TenantId, _: &Page) -> Result<Vec<Arc<Endpoint>>> {
        not_simulated()
    }

    async fn endpoints_homed(
        &self,
        home: PartitionId,
        after: Option<EndpointId>,
        limit: usize,
    ) -> Result<Vec<Arc<Endpoint>>> {
        self.link
            .call("endpoints homed", move |tables, _| {
                let all = tables.endpoints.values();
                let homed = all
                    .filter(|endpoint| endpoint.home == home && after.is_none_or(|last| endpoint.id > last));
                Ok(homed.take(limit).cloned().collect())
            })
            .await
    }

    async fn secrets(&self, endpoint: EndpointId) -> Result<Vec<SecretRow>> {
        self.link
            .call("secrets", move |_, _| {
                Ok(vec![SecretRow {
                    id: SecretId::from_bytes(*endpoint.as_bytes()),
                    endpoint,
                    sealed: vec![7; 24],
                    created_at: Timestamp::EPOCH,
                    expires_at: None,
                }])
            })
            .await
    }

    async fn any_secret(&self) -> Result<Option<(TenantId, EndpointId, SecretId, Vec<u8>)>> {
        not_simulated()
    }

    async fn claim_partitions(&self, _: u16) -> Result<Option<Range<u16>>> {
        not_simulated()
    }

    // They were claimed before the simulation began, so that these are no calls that could fail.
    async fn own_partitions(&self) -> Result<u16> {
        Ok(self.install().partitions.max(self.claimed))
    }

    async fn claimed_at(&self, _: PartitionId) -> Result<ConfigSeq> {
        Ok(ConfigSeq::ZERO)
    }
}

#[async_trait]
impl Leases for SimStore {
    async fn lease(&self, partition: PartitionId) -> Result<Option<Lease>> {
        self.link
            .call("lease", move |tables, _| {
                Ok(tables.leases.get(&partition).cloned())
            })
            .await
    }

    async fn claim(&self, partition: PartitionId, expected: Option<Fence>, new: &Lease) -> Result<Cas> {
        let (new, who, sent) = (new.clone(), self.link.who, self.link.now());
        self.link
            .call("claim", move |tables, book| {
                let is_claim = new.owner.is_some();
                let cas = tables.claim(partition, expected, new);
                match (&cas, is_claim) {
                    (Cas::Applied, true) => book.claimed(partition, who, sent),
                    (Cas::Applied, false) => book.released(tables, partition, who),
                    (Cas::Lost(_), _) => {}
                }
                Ok(cas)
            })
            .await
    }

    async fn save(
        &self,
        partition: PartitionId,
        expected: Fence,
        beat: u64,
        delta: &CheckpointDelta,
    ) -> Result<Cas> {
        let (delta, who) = (delta.clone(), self.link.who);
        self.link
            .call("save", move |tables, book| {
                let cas = tables.save(partition, expected, beat, delta);
                match cas {
                    Cas::Applied => book.saved(tables, partition, who),
                    Cas::Lost(_) => book.counts.lost_saves += 1,
                }
                Ok(cas)
            })
            .await
    }

    async fn checkpoint(&self, partition: PartitionId) -> Result<(Option<Lease>, BTreeMap<RowKey, String>)> {
        self.link
            .call("checkpoint", move |tables, _| {
                let rows = tables.checkpoint(partition);
                let rows = rows.map(|(key, row)| (key.clone(), row.clone())).collect();
                Ok((tables.leases.get(&partition).cloned(), rows))
            })
            .await
    }

    async fn checkpoint_row(&self, _: PartitionId, _: &RowKey) -> Result<Option<String>> {
        not_simulated()
    }

    async fn checkpoint_rows(&self, _: PartitionId, _: RowKind, _: &str) -> Result<Vec<(String, String)>> {
        not_simulated()
    }

    async fn usage(&self, _: TenantId, _: &str) -> Result<UsageCounts> {
        not_simulated()
    }

    async fn put_chunk(&self, partition: PartitionId, name: &str, body: Bytes) -> Result<()> {
        let name = name.to_owned();
        self.link
            .call("put chunk", move |tables, _| {
                tables.put_chunk(partition, name, body)
            })
            .await
    }

    async fn chunk(&self, partition: PartitionId, name: &str) -> Result<Option<Bytes>> {
        let key = (partition, name.to_owned());
        self.link
            .call("chunk", move |tables, _| Ok(tables.chunks.get(&key).cloned()))
            .await
    }

    async fn delete_chunks(&self, partition: PartitionId, names: &[String]) -> Result<()> {
        let names: BTreeSet<_> = names.iter().cloned().collect();
        self.link
            .call("delete chunks", move |tables, _| {
                tables
                    .chunks
                    .retain(|(of, name), _| *of != partition || !names.contains(name));
                Ok(())
            })
            .await
    }

    async fn put_member(&self, member: &Member) -> Result<()> {
        let (member, stamp) = (member.clone(), self.stamp());
        self.link
            .call("put member", move |tables, _| {
                tables.put_member(member.owner, Some(member), stamp);
                Ok(())
            })
            .await
    }

    async fn remove_member(&self, owner: OwnerId) -> Result<()> {
        let stamp = self.stamp();
        self.link
            .call("remove member", move |tables, _| {
                tables.put_member(owner, None, stamp);
                Ok(())
            })
            .await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.link
            .call("members", |tables, _| {
                let members = tables.members.values();
                Ok(members.filter_map(|(_, member)| member.clone()).collect())
            })
            .await
    }
}

#[async_trait]
impl Attempts for SimStore {
    async fn record_attempts(&self, rows: Vec<AttemptRow>) -> Result<()> {
        let stamp = self.stamp();
        self.link
            .call("record", move |tables, _| {
                rows.into_iter().for_each(|row| tables.record(row, stamp));
                Ok(())
            })
            .await
    }

    async fn find_deliveries(
        &self,
        _: EndpointId,
        _: &DeliveryFilter,
        _: Option<DeliveryPosition>,
        _: usize,
    ) -> Result<DeliveryPage> {
        not_simulated()
    }

    async fn attempts(
        &self,
        endpoint: EndpointId,
        first_at: Timestamp,
        event: EventAddress,
    ) -> Result<Vec<AttemptRow>> {
        self.link
            .call("attempts", move |tables, _| {
                let rows = tables.attempts_of(endpoint, event);
                Ok(rows.filter(|row| row.first_at == first_at).cloned().collect())
            })
            .await
    }

    async fn deliveries_of_batch(
        &self,
        endpoint: EndpointId,
        partition: PartitionId,
        writer: WriterId,
        seq: Seq,
    ) -> Result<Vec<KnownDelivery>> {
        let first = EventAddress {
            partition,
            writer,
            seq,
            index: 0,
        };
        self.link
            .call("deliveries of batch", move |tables, _| {
                Ok(tables.deliveries_of_batch(endpoint, first))
            })
            .await
    }
}

#[async_trait]
impl Commands for SimStore {
    async fn put_command(&self, _: &Command) -> Result<bool> {
        not_simulated()
    }

    async fn pending_commands(&self, _: PartitionId, _: usize) -> Result<Vec<Command>> {
        self.link.call("pending commands", |_, _| Ok(Vec::new())).await
    }

    async fn finish_command(&self, _: PartitionId, _: CommandId, _: &CommandResult) -> Result<()> {
        not_simulated()
    }

    async fn command(&self, _: PartitionId, _: CommandId) -> Result<Option<Command>> {
        not_simulated()
    }
}

#[async_trait]
impl Conversions for SimStore {
    async fn claim_conversion(&self, _: &ConversionRow) -> Result<Option<ConversionRow>> {
        not_simulated()
    }

    async fn take_conversion(&self, _: &ConversionRow, _: WriterId) -> Result<bool> {
        not_simulated()
    }

    async fn finish_conversion(&self, _: TenantId, _: &str, _: EventAddress) -> Result<()> {
        not_simulated()
    }
}
