//! Events: read again from the log for every attempt, and made from the record and its code's version.
//!
//! Nothing is kept per delivery: batches and code versions go through caches bounded by bytes, so a million
//! outstanding deliveries cost no body. Both never change, so neither do the events.

use std::sync::Arc;

use bytes::Bytes;
use moka::future::Cache;
use qrelay_store::{
    event::Event,
    id::{CodeId, ConfigSeq, EventAddress, PartitionId},
    limits::{BATCH_CACHE_BYTES, CODE_CACHE_BYTES},
    model::{Code, ResourceId},
    record,
    store::{Batch, SharedStore, StoreError},
};

use crate::cursor::Stream;

/// Why there is no body.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoBody {
    /// It will never be had: the delivery is given up with this reason.
    #[error("{0}")]
    Never(&'static str),
    /// The store failed: try again.
    #[error("the event cannot be read from the store")]
    Store(#[source] Arc<StoreError>),
}

impl From<StoreError> for NoBody {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// Reads events.
#[derive(Clone)]
pub struct Bodies {
    store: SharedStore,
    batches: Cache<(Stream, u64), Option<Bytes>>,
    codes: Cache<(CodeId, u64), Option<Arc<Code>>>,
}

impl Bodies {
    /// With empty caches.
    pub fn new(store: SharedStore) -> Self {
        let batches = Cache::builder()
            .max_capacity(BATCH_CACHE_BYTES)
            .weigher(|_, body: &Option<Bytes>| weight(64 + body.as_ref().map_or(0, Bytes::len)))
            .build();
        let codes = Cache::builder()
            .max_capacity(CODE_CACHE_BYTES)
            .weigher(|_, code: &Option<Arc<Code>>| {
                weight(64 + code.as_ref().map_or(0, |code| code_bytes(code)))
            })
            .build();
        Self {
            store,
            batches,
            codes,
        }
    }

    /// Keeps a batch that was just read and whose checksum was checked.
    pub async fn keep(&self, batch: &Batch) {
        let stream = Stream {
            partition: batch.partition,
            writer: batch.writer,
        };
        self.batches
            .insert((stream, batch.seq.as_u64()), Some(batch.body.clone()))
            .await;
    }

    /// An event, and the version of the code that it is about, if it is about one: the same every time.
    ///
    /// # Errors
    /// See [`NoBody`].
    pub async fn event(&self, event: EventAddress) -> Result<(Event, Option<Arc<Code>>), NoBody> {
        if event.partition == PartitionId::CONFIG {
            return self.config_event(event).await;
        }
        let body = self
            .batch(event)
            .await?
            .ok_or(NoBody::Never("the event is no longer in the log"))?;
        let Ok(Some(record)) = record::record_at(&body, event.index) else {
            return Err(NoBody::Never("the event's record cannot be read"));
        };
        let erased = NoBody::Never("the event was erased");
        let Some(head) = record.head() else {
            return Err(erased);
        };
        let code = self.code(head.code, head.code_version).await?;
        let event = Event::recorded(&self.store.install().ids, event, &record, &code).ok_or(erased)?;
        Ok((event, Some(code)))
    }

    async fn config_event(&self, event: EventAddress) -> Result<(Event, Option<Arc<Code>>), NoBody> {
        let row = self.store.config_row(ConfigSeq::new(event.seq.as_u64())).await?;
        let row = row.ok_or(NoBody::Never("the event is no longer in the configuration log"))?;
        let change = row.changes.get(usize::from(event.index));
        let change = change.ok_or(NoBody::Never("the event's change cannot be read"))?;
        if let Some(event) = Event::health_changed(&self.store.install().ids, event, change) {
            return Ok((event, None));
        }
        let (Some(kind), ResourceId::Code(code)) = (change.event, change.resource) else {
            return Err(NoBody::Never("the change makes no event"));
        };
        let code = self.code(code, change.version).await?;
        let event = Event::code_changed(&self.store.install().ids, event, kind, change.at, &code);
        Ok((event, Some(code)))
    }

    async fn batch(&self, event: EventAddress) -> Result<Option<Bytes>, NoBody> {
        let key = (Stream::of(event), event.seq.as_u64());
        let read = async {
            let batch = self.store.batch(event.partition, event.writer, event.seq).await?;
            let Some(batch) = batch else {
                return Ok(None);
            };
            if record::decode_batch(&batch.body).is_err() {
                tracing::error!(stream = %key.0, seq = %event.seq, "a batch of the log is damaged");
                return Ok(None);
            }
            Ok::<_, StoreError>(Some(batch.body))
        };
        self.batches.try_get_with(key, read).await.map_err(NoBody::Store)
    }

    async fn code(&self, id: CodeId, version: u64) -> Result<Arc<Code>, NoBody> {
        let read = self.store.code_version(id, version);
        let code = self
            .codes
            .try_get_with((id, version), read)
            .await
            .map_err(NoBody::Store)?;
        code.ok_or(NoBody::Never("the code's version is not in the registry"))
    }
}

fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// About what a code takes: its texts, and its metadata as text.
fn code_bytes(code: &Code) -> usize {
    let maps = [&code.metadata, &code.recipient].map(|map| {
        map.iter()
            .map(|(key, value)| key.len() + value.to_string().len() + 64)
            .sum::<usize>()
    });
    let tags: usize = code.tags.iter().map(|tag| tag.len() + 24).sum();
    256 + code.name.len() + code.destination_url.len() + tags + maps[0] + maps[1]
}
