//! Where a stream without a token begins: at the end of what is recorded, or at a time.
//!
//! What was recorded since a time is found by walking backwards from the end, so that a stream from a minute ago
//! costs a minute of the log and not all of it. Invariant: nothing recorded at or after the time lies before the
//! position; what lies behind it may be earlier, and the stream's filter passes over that.

use std::{collections::BTreeMap, sync::Arc};

use qrelay_store::{
    StoreError,
    clock::Timestamp,
    id::{ConfigSeq, PartitionId, Seq, WriterId},
    model::Tenant,
    reader::PartitionReader,
    store::SharedStore,
};

use super::Resume;

/// Batches, or changes, read at once.
const ROWS_PER_READ: usize = 16;

/// The end of everything that is recorded by now.
pub(super) async fn now(store: &SharedStore, tenant: &Tenant) -> Result<Resume, StoreError> {
    let config = store.config_head().await?;
    let mut logs = Vec::new();
    for partition in &tenant.partitions {
        let mut reader = PartitionReader::new(Arc::clone(store), *partition, BTreeMap::new());
        reader.refresh().await?;
        logs.push((*partition, reader.heads().into_iter().collect()));
    }
    Ok(Resume {
        logs,
        config,
        within: None,
    })
}

/// Before everything that was recorded at `start` or later.
pub(super) async fn at(store: &SharedStore, tenant: &Tenant, start: Timestamp) -> Result<Resume, StoreError> {
    // The end is taken first: what is recorded while this walks lies behind it.
    let mut position = now(store, tenant).await?;
    for (partition, seqs) in &mut position.logs {
        let mut positions: BTreeMap<WriterId, Seq> = std::mem::take(seqs).into_iter().collect();
        walk_log(store, *partition, start, &mut positions).await?;
        *seqs = positions.into_iter().collect();
    }
    position.config = walk_config(store, tenant, start, position.config).await?;
    Ok(position)
}

async fn walk_log(
    store: &SharedStore,
    partition: PartitionId,
    start: Timestamp,
    positions: &mut BTreeMap<WriterId, Seq>,
) -> Result<(), StoreError> {
    let mut before = None;
    loop {
        let batches = store.batches_before(partition, before, ROWS_PER_READ).await?;
        let Some(last) = batches.last() else { return Ok(()) };
        before = Some((last.last_at, last.writer, last.seq));
        for batch in &batches {
            // They come by their latest record, latest first.
            if batch.last_at < start {
                return Ok(());
            }
            let ahead = Seq::new(batch.seq.as_u64().saturating_sub(1));
            // A writer that is not known was not there when the end was taken.
            let position = positions.entry(batch.writer).or_insert(ahead);
            *position = (*position).min(ahead);
        }
    }
}

async fn walk_config(
    store: &SharedStore,
    tenant: &Tenant,
    start: Timestamp,
    end: ConfigSeq,
) -> Result<ConfigSeq, StoreError> {
    let (mut position, mut before) = (end, None);
    loop {
        let changes = store
            .config_events_before(tenant.id, before, ROWS_PER_READ)
            .await?;
        let Some((seq, index, last)) = changes.last() else {
            return Ok(position);
        };
        before = Some((*seq, *index));
        let past_start = last.at < start;
        for (seq, _, change) in &changes {
            if change.at >= start {
                position = position.min(ConfigSeq::new(seq.as_u64().saturating_sub(1)));
            }
        }
        if past_start {
            return Ok(position);
        }
    }
}
