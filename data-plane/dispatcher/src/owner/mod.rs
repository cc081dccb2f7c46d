//! The owner of a partition: claims its lease, loads its checkpoint, and runs it until it is stopped or fenced.
//!
//! One task owns all state of a partition ([`actor::Actor`]); everything that waits (reads, exchanges, saves) runs in
//! tasks of its own and comes back as a message. When the lease is lost, all of it is dropped, in-flight exchanges
//! included, and the partition is claimed anew like any other. The lease is renewed from the claim on, also while the
//! checkpoint is loaded, however long that takes.

mod abroad;
mod actor;
mod announce;
mod commands;
mod followed;
mod reader;
mod replays;
mod retries;
mod saving;
mod skips;
mod troubles;
mod turns;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use qrelay_store::{
    checkpoint::{RowKey, RowKind},
    id::{OwnerId, PartitionId, Seq},
    model::{Endpoint, Tenant},
    store::{Cas, CheckpointDelta, Result, SharedStore, StoreError},
};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::Sender,
    checkpoint::RunName,
    config::Config,
    cursor::Stream,
    filters::Filters,
    lease::{Held, LOOK_WAIT, Role, SAVE_WAIT, Saved, Watch},
    ledger::{
        Ledger,
        feed::Moment,
        load::{Loaded, LoadedChunk},
    },
    membership::Membership,
    metrics,
    outstanding::{self, DoneMap},
    permits::Permits,
};

use self::actor::{Actor, End};
pub(crate) use self::troubles::Troubles;

/// Pause between looks at a lease, and after a failure of the store.
const LOOK_PERIOD: Duration = Duration::from_millis(500);
/// The same for a partition that its holder was asked for.
const ASKED_LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Chunks read at once while loading.
const CHUNK_READS: usize = 8;
/// Endpoints per page while loading.
const ENDPOINT_PAGE: usize = 500;

/// What the partitions of one process share.
pub(crate) struct Shard {
    pub(crate) owner: OwnerId,
    pub(crate) store: SharedStore,
    pub(crate) sender: Sender,
    pub(crate) permits: Permits,
    pub(crate) config: Config,
    pub(crate) filters: Filters,
    pub(crate) members: Membership,
    pub(crate) troubles: Troubles,
}

impl Shard {
    fn moment(&self) -> Moment {
        Moment {
            now: Instant::now(),
            wall: self.sender.clock.now(),
        }
    }
}

/// Waits for the store's answer, but where others may live not for ever: what was not answered is of unknown outcome.
pub(crate) async fn answered<T>(
    store: &SharedStore,
    wait: Duration,
    call: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    if store.exclusive() {
        return call.await;
    }
    timeout(wait, call)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer within {wait:?}"))))
}

/// Owns a partition whenever its lease can be had, until `stop`.
pub(crate) async fn own(shard: Arc<Shard>, partition: PartitionId, stop: CancellationToken) {
    let mut watch = Watch::default();
    while !stop.is_cancelled() {
        let mut pause = LOOK_PERIOD;
        match Box::pin(once(&shard, partition, &mut watch, &stop)).await {
            Ok(Look::Ran(End::Stopped)) => return,
            Ok(Look::Ran(End::HandedOver)) => watch.forget(),
            Ok(Look::Ran(End::Fenced)) => {
                tracing::warn!(%partition, "lost the lease; everything of the partition was stopped");
                watch.forget();
            }
            Ok(Look::Asked) => pause = ASKED_LOOK_PERIOD,
            Ok(Look::Left) => {}
            Err(error) => {
                shard.troubles.claim(partition, &error);
                watch.forget();
            }
        }
        tokio::select! {
            biased;
            () = sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// What a look at a lease came to.
enum Look {
    /// It is another's, or not to be had yet.
    Left,
    /// It is another's who was asked for it.
    Asked,
    /// It was claimed, and the partition run to this end.
    Ran(End),
}

/// Looks at the lease; if it can be had, claims it and runs the partition to its end.
async fn once(
    shard: &Arc<Shard>,
    partition: PartitionId,
    watch: &mut Watch,
    stop: &CancellationToken,
) -> Result<Look> {
    let store = &shard.store;
    let lease = answered(store, LOOK_WAIT, store.lease(partition)).await?;
    // A claim of ours whose answer was lost is nobody else's.
    let ours = lease
        .as_ref()
        .is_some_and(|lease| lease.owner == Some(shard.owner));
    let role = if store.exclusive() || ours {
        Role::Alone
    } else {
        shard.members.role(partition)
    };
    let Some(expect) = watch.observe(lease.as_ref(), role, Instant::now()) else {
        let held = lease.is_some_and(|lease| lease.owner.is_some());
        let asked = held && role == Role::Preferred;
        shard.members.want(partition, asked);
        return Ok(if asked { Look::Asked } else { Look::Left });
    };
    shard.members.want(partition, false);
    let claim = expect.claim(shard.owner, &shard.config.addr);
    let sent = Instant::now();
    let claimed = store.claim(partition, expect.0, &claim);
    if answered(store, LOOK_WAIT, claimed).await? != Cas::Applied {
        return Ok(Look::Left);
    }
    let mut held = Held::new(&claim, shard.owner, sent);
    let epoch = held.epoch();
    let loaded = tokio::select! {
        biased;
        loaded = load(shard, partition, epoch) => loaded?,
        () = renewed(shard, partition, &mut held) => None,
    };
    let Some((ledger, tenants)) = loaded else {
        return Ok(Look::Ran(End::Fenced));
    };
    tracing::info!(%partition, epoch = held.epoch(), undone = ledger.undone(), "took the partition up");
    metrics::leases_held(1.0);
    let end = Actor::new(Arc::clone(shard), ledger, &tenants, held)
        .run(stop)
        .await;
    metrics::leases_held(-1.0);
    metrics::left(partition);
    Ok(Look::Ran(end))
}

/// Renews a lease while nothing else is saved. Ends only when it is lost. May be dropped at any time: what was sent
/// last is then of unknown outcome, and moved the beat only.
async fn renewed(shard: &Shard, partition: PartitionId, held: &mut Held) {
    let store = &shard.store;
    loop {
        sleep_until(held.renew_at()).await;
        let sending = held.next(Instant::now());
        let delta = CheckpointDelta::default();
        let save = store.save(partition, sending.expected, sending.beat, &delta);
        // Until there is an answer.
        held.answered(sending, None);
        let answer = answered(store, SAVE_WAIT, save).await;
        match answer {
            Ok(cas) => {
                if held.answered(sending, Some(&cas)) == Saved::Fenced {
                    return;
                }
            }
            Err(error) => {
                shard.troubles.renewal(partition, &error);
                sleep(LOOK_PERIOD).await;
            }
        }
    }
}

/// Reads the checkpoint, and the tenants of its endpoints. None when the lease was lost meanwhile.
async fn load(
    shard: &Shard,
    partition: PartitionId,
    epoch: u64,
) -> Result<Option<(Ledger, Vec<Arc<Tenant>>)>> {
    let (lease, rows) = shard.store.checkpoint(partition).await?;
    let ours = lease.is_some_and(|lease| lease.owner == Some(shard.owner) && lease.fence.epoch == epoch);
    if !ours {
        return Ok(None);
    }
    let endpoints = endpoints(&shard.store, partition).await?;
    let mut tenants = Vec::new();
    for id in endpoints
        .iter()
        .map(|endpoint| endpoint.tenant)
        .collect::<BTreeSet<_>>()
    {
        tenants.extend(shard.store.tenant(id).await?);
    }
    let loaded = Loaded {
        chunks: chunks(&shard.store, partition, &rows).await?,
        endpoints,
        rows,
    };
    let first = (!loaded.rows.contains_key(&RunName::Shared.key())).then_some(partition);
    let (mut ledger, damage) = Ledger::load(partition, epoch, loaded, shard.moment());
    if let Some(own) = first.filter(|own| own.as_u16() >= shard.store.install().partitions) {
        // Nothing before it was claimed is about it; and the past is not for endpoints that came to be since.
        let through = shard.store.claimed_at(own).await?;
        ledger.skip_shared(Stream::CONFIG, Seq::new(through.as_u64()));
    }
    if !damage.rows.is_empty() || !damage.chunks.is_empty() {
        tracing::error!(%partition, ?damage, "parts of the checkpoint cannot be read; what they held is lost");
        metrics::damaged(damage.rows.len() + damage.chunks.len());
    }
    Ok(Some((ledger, tenants)))
}

async fn chunks(
    store: &SharedStore,
    partition: PartitionId,
    rows: &BTreeMap<RowKey, String>,
) -> Result<Vec<LoadedChunk>> {
    let named = rows.iter().filter(|(key, _)| key.kind == RowKind::Chunk);
    let readable = named.filter_map(|(key, row)| {
        let (name, done) = (key.id.parse(), DoneMap::from_row(row));
        if name.is_err() || done.is_err() {
            tracing::error!(%partition, chunk = key.id, "a chunk's row cannot be read; what it says is done is repeated");
            metrics::damaged(1);
        }
        Some((key.id.clone(), name.ok()?, done.ok()))
    });
    stream::iter(readable.collect::<Vec<_>>())
        .map(|(id, name, done)| async move {
            let body = store.chunk(partition, &id).await?;
            let entries = body.and_then(|body| outstanding::decode(&body).ok());
            // Nobody knows what of it is done, so all of it is owed.
            let all = entries.as_ref().map_or(0, Vec::len);
            let done = done.unwrap_or_else(|| DoneMap::new(u16::try_from(all).unwrap_or(u16::MAX)));
            Ok::<_, StoreError>(LoadedChunk { name, done, entries })
        })
        .buffered(CHUNK_READS)
        .try_collect()
        .await
}

async fn endpoints(store: &SharedStore, partition: PartitionId) -> Result<Vec<Arc<Endpoint>>> {
    let mut all: Vec<Arc<Endpoint>> = Vec::new();
    loop {
        let after = all.last().map(|endpoint| endpoint.id);
        let page = store.endpoints_homed(partition, after, ENDPOINT_PAGE).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}
