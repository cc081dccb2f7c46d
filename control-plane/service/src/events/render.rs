//! From where an event stands to the event: records, code versions, and the proto form.

use std::sync::Arc;

use crate::wire;
use moka::future::Cache;
use qrelay_proto::v1 as pb;
use qrelay_store::{
    StoreError,
    event::Event,
    id::{CodeId, ConfigSeq, EventAddress, PartitionId, TenantId},
    model::{Code, ResourceId},
    record::{Record, decode_batch},
    store::{ConfigChange, Result, SharedStore},
};

/// Versions never change, so they are bounded by count alone: a version is some kilobytes at most.
const VERSIONS_CACHED_MAX: u64 = 2_000;

/// An event, and the version of the code that it is about.
pub(crate) type Found = (Event, Option<Arc<Code>>);

/// Makes events.
pub(crate) struct Renderer {
    store: SharedStore,
    versions: Cache<(CodeId, u64), Arc<Code>>,
}

impl Renderer {
    pub(crate) fn new(store: SharedStore) -> Self {
        Self {
            store,
            versions: Cache::new(VERSIONS_CACHED_MAX),
        }
    }

    async fn version(&self, id: CodeId, version: u64) -> Result<Arc<Code>> {
        if let Some(code) = self.versions.get(&(id, version)).await {
            return Ok(code);
        }
        let code = self.store.code_version(id, version).await?;
        let code =
            code.ok_or_else(|| StoreError::Corrupt(format!("version {version} of {id} is missing")))?;
        self.versions.insert((id, version), Arc::clone(&code)).await;
        Ok(code)
    }

    /// A record's event, if it makes one.
    pub(crate) async fn record(&self, address: EventAddress, record: &Record<'_>) -> Result<Option<Event>> {
        let found = self.recorded(address, record).await?;
        Ok(found.map(|(event, _)| event))
    }

    /// A change's event, if it makes one.
    pub(crate) async fn change(&self, address: EventAddress, change: &ConfigChange) -> Result<Option<Event>> {
        let found = self.changed(address, change).await?;
        Ok(found.map(|(event, _)| event))
    }

    async fn recorded(&self, address: EventAddress, record: &Record<'_>) -> Result<Option<Found>> {
        let Some(head) = record.head() else {
            return Ok(None);
        };
        let code = self.version(head.code, head.code_version).await?;
        let event = Event::recorded(&self.store.install().ids, address, record, &code);
        Ok(event.map(|event| (event, Some(code))))
    }

    async fn changed(&self, address: EventAddress, change: &ConfigChange) -> Result<Option<Found>> {
        if let Some(event) = Event::health_changed(&self.store.install().ids, address, change) {
            return Ok(Some((event, None)));
        }
        let (Some(kind), ResourceId::Code(id)) = (change.event, change.resource) else {
            return Ok(None);
        };
        let code = self.version(id, change.version).await?;
        let event = Event::code_changed(&self.store.install().ids, address, kind, change.at, &code);
        Ok(Some((event, Some(code))))
    }

    /// The event at an address, if there is one and it is this tenant's.
    pub(crate) async fn event_at(&self, address: EventAddress, tenant: TenantId) -> Result<Option<Event>> {
        let found = self.found_at(address, tenant).await?;
        Ok(found.map(|(event, _)| event))
    }

    /// The same with the version of the code that the event is about, if it is about one.
    pub(crate) async fn found_at(&self, address: EventAddress, tenant: TenantId) -> Result<Option<Found>> {
        match address.partition {
            PartitionId::TEST => Ok(None),
            PartitionId::CONFIG => self.change_at(address, tenant).await,
            _ => self.record_at(address, tenant).await,
        }
    }

    async fn change_at(&self, address: EventAddress, tenant: TenantId) -> Result<Option<Found>> {
        let row = self
            .store
            .config_row(ConfigSeq::new(address.seq.as_u64()))
            .await?;
        let change = row
            .as_ref()
            .and_then(|row| row.changes.get(usize::from(address.index)));
        match change.filter(|change| change.tenant == tenant) {
            Some(change) => self.changed(address, change).await,
            None => Ok(None),
        }
    }

    async fn record_at(&self, address: EventAddress, tenant: TenantId) -> Result<Option<Found>> {
        match record_at(&self.store, address).await? {
            Some(record) if record.head().is_some_and(|head| head.tenant == tenant) => {
                self.recorded(address, &record).await
            }
            _ => Ok(None),
        }
    }
}

/// The record at an address of the log, if one stands there that can be read.
pub(crate) async fn record_at(store: &SharedStore, address: EventAddress) -> Result<Option<Record<'static>>> {
    let batch = store
        .batch(address.partition, address.writer, address.seq)
        .await?;
    let Some(batch) = batch else { return Ok(None) };
    let mut records = decode_batch(&batch.body).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    let at = usize::from(address.index);
    let record = (at < records.len()).then(|| records.swap_remove(at));
    Ok(record.and_then(Result::ok).map(Record::into_owned))
}

/// The contract's form of an event.
pub(crate) fn to_proto(event: &Event) -> pb::Event {
    pb::Event {
        r#type: event.kind.as_str().to_owned(),
        id: event.id.to_string(),
        created_at: Some(wire::time(event.created_at)),
        data: Some(wire::to_struct(&event.data)),
    }
}
