//! What the deliverer is built with, and its entry point.

use std::{sync::Arc, time::Duration};

use qrelay_store::{
    clock::SharedClock,
    id::{OwnerId, PartitionId},
    limits,
    store::SharedStore,
};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::Sender,
    bodies::Bodies,
    exchange::Exchanger,
    filters::Filters,
    identities::Identities,
    lease::LOOK_WAIT,
    membership::Membership,
    owner::{self, Shard, Troubles, answered},
    payloads::Payloads,
    permits::Permits,
    secrets::{SecretOpener, Signers},
};

/// How long a stop waits for exchanges under way: one takes five seconds at most.
pub const DRAIN_DEADLINE_DEFAULT: Duration = Duration::from_secs(6);
/// How often it is looked whether tenants were given partitions of their own, hints or not.
const OWN_PARTITIONS_PERIOD: Duration = Duration::from_secs(1);
/// A partition whose owner panicked is taken up again after this pause.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Settings of the deliverer.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where other roles reach this process; kept in its leases.
    pub addr: String,
    /// Exchanges open at once; a quarter is for fresh events alone.
    pub exchanges_max: usize,
    /// How long a stop waits for exchanges under way. What is not over by then is saved as outstanding.
    pub drain_deadline: Duration,
    /// Pause between checkpoints: a crash repeats about this much, and what was in flight.
    pub checkpoint_period: Duration,
    /// Who this is, where a test has to know who is to have what.
    #[cfg(test)]
    pub(crate) owner: Option<OwnerId>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addr: String::new(),
            exchanges_max: limits::EXCHANGES_MAX,
            drain_deadline: DRAIN_DEADLINE_DEFAULT,
            checkpoint_period: limits::CHECKPOINT_PERIOD_EMBEDDED,
            #[cfg(test)]
            owner: None,
        }
    }
}

/// What the deliverer needs from outside.
pub struct Deps {
    /// Everything that is remembered.
    pub store: SharedStore,
    /// Wall time.
    pub clock: SharedClock,
    /// Sends.
    pub exchanger: Exchanger,
    /// Opens secrets.
    pub secrets: Arc<dyn SecretOpener>,
}

/// The deliverer of one process.
pub struct Dispatcher {
    shard: Arc<Shard>,
}

impl Config {
    /// Puts the deliverer together; nothing runs yet.
    pub fn build(self, deps: Deps) -> Dispatcher {
        let sender = Sender {
            clock: deps.clock,
            ids: deps.store.install().ids.clone(),
            bodies: Bodies::new(Arc::clone(&deps.store)),
            payloads: Payloads::default(),
            identities: Identities::new(Arc::clone(&deps.secrets)),
            signers: Signers::new(Arc::clone(&deps.store), deps.secrets),
            exchanger: deps.exchanger,
        };
        let permits = Permits::new(self.exchanges_max);
        let owner = OwnerId::random();
        #[cfg(test)]
        let owner = self.owner.unwrap_or(owner);
        Dispatcher {
            shard: Arc::new(Shard {
                owner,
                members: Membership::new(owner),
                store: deps.store,
                filters: Filters::new(sender.bodies.clone()),
                sender,
                permits,
                config: self,
                troubles: Troubles::new(),
            }),
        }
    }
}

impl Dispatcher {
    /// Delivers until `stop` is cancelled, then drains: exchanges under way end or are saved as outstanding, the last
    /// checkpoints are saved, and the leases are given back. Where other deliverers are there to take the partitions over,
    /// these are given back at once, and exchanges under way end afterwards.
    pub async fn run(self, stop: CancellationToken) {
        let mut owners = JoinSet::new();
        if !self.shard.store.exclusive() {
            let (shard, until) = (Arc::clone(&self.shard), stop.clone());
            let mut looked = shard.members.looked();
            owners.spawn(async move {
                let Shard {
                    members,
                    store,
                    config,
                    ..
                } = &*shard;
                members.keep(store, &config.addr, &until).await;
            });
            // Who knows nobody yet would take everything, only to hand it over.
            tokio::select! {
                biased;
                _ = looked.changed() => {}
                () = stop.cancelled() => {}
            }
        }
        self.keep_all(&mut owners, &stop).await;
        while let Some(ended) = owners.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a partition's keeper ended");
            }
        }
        self.shard.sender.exchanger.close().await;
    }

    /// Keeps the shared partitions, and those of tenants' own as they come to be, until the stop.
    async fn keep_all(&self, owners: &mut JoinSet<()>, stop: &CancellationToken) {
        let store = &self.shard.store;
        let mut config = store.hints().config();
        let (mut kept, mut known) = (0, store.install().partitions);
        loop {
            for partition in (kept..known).map(PartitionId::new) {
                owners.spawn(keep(Arc::clone(&self.shard), partition, stop.clone()));
            }
            kept = kept.max(known);
            // Before the look, so that what is announced during it makes another one.
            config.mark_unchanged();
            let looked = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                looked = answered(store, LOOK_WAIT, store.own_partitions()) => looked,
            };
            match looked {
                Ok(end) => known = known.max(end),
                Err(error) => {
                    tracing::warn!(%error, "cannot look for partitions of tenants' own; trying again");
                }
            }
            if kept < known {
                continue;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = config.changed() => {}
                () = sleep(OWN_PARTITIONS_PERIOD) => {}
            }
        }
    }
}

/// Owns a partition whenever it can, until the stop. A panic is a bug of ours and costs what was in memory only.
async fn keep(shard: Arc<Shard>, partition: PartitionId, stop: CancellationToken) {
    loop {
        let mut one = JoinSet::new();
        one.spawn(owner::own(Arc::clone(&shard), partition, stop.clone()));
        match one.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!(%partition, %error, "a partition's owner panicked; taking the partition up again");
                tokio::select! {
                    biased;
                    () = sleep(AFTER_PANIC) => {}
                    () = stop.cancelled() => return,
                }
            }
            _ => return,
        }
    }
}
