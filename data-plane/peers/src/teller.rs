//! Finds the other processes, and keeps a link to each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use qrelay_store::{
    id::PartitionId,
    limits,
    store::{Result, SharedStore},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    key::{InstallKey, PeerKey},
    link::Link,
    roster::Roster,
};

/// All leases are read this often, so that processes that came or went are noticed.
const FULL_PERIOD: Duration = Duration::from_secs(20);
/// Two looks are at least so far apart, whatever other processes answer.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// What tells other processes.
pub struct Teller {
    /// Whose hints are told.
    pub store: SharedStore,
    /// What proves us.
    pub key: PeerKey,
    /// Where this process is reached, as it stands in its leases; it is not told. Empty for one that owns nothing.
    pub me: String,
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teller")
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

/// Tells the owners of partitions what happens here, until `stop` is cancelled.
pub async fn tell(teller: Teller, stop: CancellationToken) {
    let mut telling = Telling::new(teller);
    tokio::select! {
        () = stop.cancelled() => {}
        () = telling.run() => {}
    }
    for (_, mut link) in telling.links {
        link.shutdown().await;
    }
}

struct Telling {
    store: SharedStore,
    key: InstallKey,
    me: String,
    roster: watch::Sender<Arc<Roster>>,
    /// Where the partitions end that tenants have of their own, as far as is known.
    end: u16,
    // A set of one task each, because it ends its task when it is dropped.
    links: BTreeMap<Arc<str>, JoinSet<()>>,
    unheard: (
        mpsc::Sender<BTreeSet<PartitionId>>,
        mpsc::Receiver<BTreeSet<PartitionId>>,
    ),
}

impl Telling {
    fn new(teller: Teller) -> Self {
        Self {
            key: teller.key.of(teller.store.install()),
            end: teller.store.install().partitions,
            store: teller.store,
            me: teller.me,
            roster: watch::Sender::new(Arc::default()),
            links: BTreeMap::new(),
            unheard: mpsc::channel(16),
        }
    }

    async fn run(&mut self) {
        let mut full_due = Instant::now();
        let mut doubted = BTreeSet::new();
        let mut failing = false;
        loop {
            let now = Instant::now();
            let looked = self.look_again(now >= full_due, &mut doubted).await;
            match &looked {
                Ok(()) if now >= full_due => full_due = now + FULL_PERIOD,
                Ok(()) => {}
                Err(error) if failing => tracing::debug!(%error, "cannot look up owners"),
                Err(error) => {
                    tracing::warn!(%error, "cannot look up who owns which partition; other processes find out by looking");
                }
            }
            failing = looked.is_err();
            self.link();
            let next = Instant::now() + limits::PEER_LOOK_PERIOD;
            let soonest = Instant::now() + LOOK_PAUSE;
            tokio::select! {
                () = sleep_until(next) => {}
                Some(unheard) = self.unheard.1.recv() => {
                    doubted.extend(unheard);
                    sleep_until(soonest).await;
                    while let Ok(unheard) = self.unheard.1.try_recv() {
                        doubted.extend(unheard);
                    }
                }
            }
        }
    }

    /// Looks up the owners of all partitions, or of those that nobody is known to own and those that are doubted.
    async fn look_again(&mut self, all: bool, doubted: &mut BTreeSet<PartitionId>) -> Result<()> {
        self.end = self.end.max(self.store.own_partitions().await?);
        if all {
            return self.look(self.all().collect()).await;
        }
        let mut some = self.roster.borrow().unowned(self.all());
        some.append(doubted);
        self.look(some).await
    }

    /// The install's partitions, those of tenants' own, and others that this process records in.
    fn all(&self) -> impl Iterator<Item = PartitionId> + use<> {
        let (_, said) = self.store.hints().said_since(0, usize::MAX);
        let recorded: BTreeSet<_> = said.heads.into_keys().map(|(partition, _)| partition).collect();
        let known = (0..self.end).map(PartitionId::new);
        known.chain(recorded).collect::<BTreeSet<_>>().into_iter()
    }

    async fn look(&self, partitions: BTreeSet<PartitionId>) -> Result<()> {
        let mut roster = Roster::clone(&self.roster.borrow());
        let looked = roster.look_up(&self.store, partitions).await;
        self.roster.send_if_modified(|known| {
            let changed = **known != roster;
            *known = Arc::new(roster);
            changed
        });
        looked
    }

    /// Keeps one link to each other process that is known.
    fn link(&mut self) {
        let others = self.roster.borrow().others(&self.me);
        self.links.retain(|address, _| others.contains(address));
        for address in others {
            if self.links.contains_key(&address) {
                continue;
            }
            let link = Link {
                store: Arc::clone(&self.store),
                key: self.key.clone(),
                address: Arc::clone(&address),
                roster: self.roster.subscribe(),
                unheard: self.unheard.0.clone(),
            };
            let mut task = JoinSet::new();
            task.spawn(link.run());
            self.links.insert(address, task);
        }
    }
}
