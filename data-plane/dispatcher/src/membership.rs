//! Who shares the partitions out: the live deliverers, and which of them is to have which partition.
//!
//! A hint and no more: the compare-and-set on a lease is the fence. Each deliverer keeps a row whose beat moves, and
//! reads everybody's; one whose beat stood still on the reader's own monotonic clock counts no more. A partition is
//! preferably had by the live one with the highest weight for it (rendezvous hashing), so that one that comes or goes
//! moves its own share only. Whoever should have a partition that another one holds says so in its row; the holder
//! hands it over once it sees that.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use qrelay_store::{
    id::{OwnerId, PartitionId},
    store::{Member, SharedStore},
};
use sha2::{Digest, Sha256};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    lease::{LOOK_WAIT, Role},
    owner::answered,
};

/// A deliverer moves its beat at least this often.
const BEAT_PERIOD: Duration = Duration::from_secs(3);
/// How often everybody's rows are read, and changed wishes are written.
const READ_PERIOD: Duration = Duration::from_millis(500);
/// Whose beat stood still for so long counts no more: less than a lease takes to be anybody's, so that it is known by
/// then who is to have it.
const DEAD_AFTER: Duration = Duration::from_secs(9);
/// Only to one whose beat moved so recently is anything handed over.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// What is known of the others.
#[derive(Debug, Default)]
struct Others {
    seen: BTreeMap<OwnerId, Seen>,
}

#[derive(Debug)]
struct Seen {
    beat: u64,
    moved: Instant,
    wants: BTreeSet<PartitionId>,
}

impl Others {
    /// Takes in what a read showed, at the instant of its response. Who is not there any more has left.
    fn observe(&mut self, rows: Vec<Member>, me: OwnerId, now: Instant) {
        let mut before = std::mem::take(&mut self.seen);
        for row in rows.into_iter().filter(|row| row.owner != me) {
            let known = before.remove(&row.owner);
            let moved = known
                .filter(|known| known.beat == row.beat)
                .map_or(now, |known| known.moved);
            let seen = Seen {
                beat: row.beat,
                moved,
                wants: row.wants,
            };
            self.seen.insert(row.owner, seen);
        }
    }

    /// A read failed: a beat that could not be seen to move may have moved.
    fn forget(&mut self, now: Instant) {
        for seen in self.seen.values_mut() {
            seen.moved = seen.moved.max(now.checked_sub(FRESH_FOR).unwrap_or(now));
        }
    }

    fn live(&self, now: Instant) -> impl Iterator<Item = OwnerId> {
        let live = self
            .seen
            .iter()
            .filter(move |(_, seen)| now.duration_since(seen.moved) < DEAD_AFTER);
        live.map(|(owner, _)| *owner)
    }

    /// Whether there is nobody live who should rather have the partition.
    fn prefer(&self, me: OwnerId, partition: PartitionId, now: Instant) -> bool {
        let mine = weight(me, partition);
        self.live(now).all(|other| weight(other, partition) < mine)
    }

    /// Whether somebody who should rather have the partition is there and asks for it.
    fn is_asked(&self, me: OwnerId, partition: PartitionId, now: Instant) -> bool {
        let mine = weight(me, partition);
        self.seen.iter().any(|(other, seen)| {
            now.duration_since(seen.moved) < FRESH_FOR
                && seen.wants.contains(&partition)
                && weight(*other, partition) > mine
        })
    }
}

/// How much a deliverer is meant to have a partition: the highest has it.
pub(crate) fn weight(owner: OwnerId, partition: PartitionId) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(owner.as_bytes());
    hash.update(partition.as_u16().to_be_bytes());
    hash.finalize().into()
}

/// This deliverer among the others.
#[derive(Debug)]
pub(crate) struct Membership {
    me: OwnerId,
    others: Mutex<Others>,
    wants: Mutex<BTreeSet<PartitionId>>,
    /// Changes with every look at the others.
    looked: watch::Sender<u64>,
}

impl Membership {
    pub(crate) fn new(me: OwnerId) -> Self {
        Self {
            me,
            others: Mutex::default(),
            wants: Mutex::default(),
            looked: watch::Sender::new(0),
        }
    }

    /// What this deliverer is to a partition's lease.
    pub(crate) fn role(&self, partition: PartitionId) -> Role {
        if lock(&self.others).prefer(self.me, partition, Instant::now()) {
            Role::Preferred
        } else {
            Role::Other
        }
    }

    /// Asks whoever holds the partition for it, or does so no more.
    pub(crate) fn want(&self, partition: PartitionId, wanted: bool) {
        let mut wants = lock(&self.wants);
        if wanted {
            wants.insert(partition);
        } else {
            wants.remove(&partition);
        }
    }

    /// Whether the partition is to be handed over.
    pub(crate) fn is_asked(&self, partition: PartitionId) -> bool {
        lock(&self.others).is_asked(self.me, partition, Instant::now())
    }

    /// Whether anybody is there who can take over at once.
    pub(crate) fn has_others(&self) -> bool {
        lock(&self.others).live(Instant::now()).next().is_some()
    }

    /// Changes with every look at the others.
    pub(crate) fn looked(&self) -> watch::Receiver<u64> {
        self.looked.subscribe()
    }

    /// Keeps this deliverer's row and looks at the others', until the stop; then takes the row away, so that the others
    /// know at once. `looked` changes for the first time after the first look, or its failure.
    pub(crate) async fn keep(&self, store: &SharedStore, addr: &str, stop: &CancellationToken) {
        let mut row = Member {
            owner: self.me,
            addr: addr.to_owned(),
            beat: 0,
            wants: BTreeSet::new(),
        };
        let mut due = Instant::now();
        while !stop.is_cancelled() {
            let wants = lock(&self.wants).clone();
            if Instant::now() >= due || wants != row.wants {
                row.beat += 1;
                row.wants = wants;
                due = Instant::now() + BEAT_PERIOD;
                if let Err(error) = answered(store, LOOK_WAIT, store.put_member(&row)).await {
                    tracing::warn!(%error, "cannot tell other deliverers of this one; trying again");
                    due = Instant::now();
                }
            }
            match answered(store, LOOK_WAIT, store.members()).await {
                Ok(rows) => lock(&self.others).observe(rows, self.me, Instant::now()),
                Err(error) => {
                    tracing::warn!(%error, "cannot look at other deliverers; trying again");
                    lock(&self.others).forget(Instant::now());
                }
            }
            self.looked.send_modify(|count| *count += 1);
            tokio::select! {
                biased;
                () = sleep(READ_PERIOD) => {}
                () = stop.cancelled() => {}
            }
        }
        if let Err(error) = answered(store, LOOK_WAIT, store.remove_member(self.me)).await {
            tracing::warn!(%error, "cannot tell other deliverers that this one leaves; they will see");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId::new(0);

    fn row(owner: OwnerId, beat: u64, wants: &[PartitionId]) -> Member {
        Member {
            owner,
            addr: String::new(),
            beat,
            wants: wants.iter().copied().collect(),
        }
    }

    /// The more and the less preferred for the partition.
    fn two() -> (OwnerId, OwnerId) {
        let (a, b) = (OwnerId::random(), OwnerId::random());
        if weight(a, P) > weight(b, P) {
            (a, b)
        } else {
            (b, a)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_move_counts_no_more_and_who_is_not_seen_is_given_time() {
        let (high, low) = two();
        let mut others = Others::default();
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        assert!(others.prefer(low, P, at(0)), "alone");
        others.observe(vec![row(high, 1, &[]), row(low, 1, &[])], low, at(0));
        assert!(!others.prefer(low, P, at(8)));
        assert!(others.prefer(low, P, at(9)));
        others.observe(vec![row(high, 2, &[])], low, at(9));
        assert!(!others.prefer(low, P, at(17)));
        others.forget(at(17));
        assert!(!others.prefer(low, P, at(20)));
        assert!(others.prefer(low, P, at(21)));
        others.observe(vec![row(high, 3, &[])], low, at(21));
        others.observe(vec![], low, at(22));
        assert!(others.prefer(low, P, at(22)), "it left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_is_handed_to_who_is_preferred_asks_and_is_there() {
        let (high, low) = two();
        let start = Instant::now();
        let mut others = Others::default();
        others.observe(vec![row(high, 1, &[])], low, start);
        assert!(!others.is_asked(low, P, start), "it does not ask");
        others.observe(vec![row(high, 2, &[P])], low, start);
        assert!(others.is_asked(low, P, start));
        assert!(!others.is_asked(low, PartitionId::new(1), start));
        assert!(!others.is_asked(low, P, start + FRESH_FOR), "it may be dead");
        others.observe(vec![row(low, 1, &[P])], high, start);
        assert!(!others.is_asked(high, P, start), "it should not have it");
    }

    #[test]
    fn one_that_comes_takes_its_own_share_and_no_more() {
        let members: Vec<_> = (0..4_u8).map(|n| OwnerId::from_bytes([n; 10])).collect();
        let had = |among: &[OwnerId], partition| {
            let best = among.iter().max_by_key(|owner| weight(**owner, partition));
            *best.unwrap()
        };
        let partitions = (0..256).map(PartitionId::new);
        let moved: Vec<_> = partitions
            .map(|partition| (had(&members[..3], partition), had(&members, partition)))
            .filter(|(before, after)| before != after)
            .collect();
        assert!((40..90).contains(&moved.len()), "{}", moved.len());
        assert!(moved.iter().all(|(_, after)| *after == members[3]));
    }
}
