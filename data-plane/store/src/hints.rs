//! Word of mouth: that a head moved, the configuration changed, a command came.
//!
//! A hint saves waiting, never correctness: everything hinted at is in the store, and readers look there on a
//! timer too. A hinted head may be read up to, because it is published after the store acknowledged.
//!
//! Inside a process hints reach their readers directly. What this process itself says is kept, too, for those who
//! carry it to other processes ([`Hints::said_since`]); what they bring from others is [`Hints::learn`]ed, and never
//! carried on. Both are bounded: of what was said only the last word about each thing is kept, and what is learned
//! counts only where somebody here listens.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{
    id::{ConfigSeq, PartitionId, Seq, WriterId},
    limits,
};

/// Hints on their way from one process to another.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Tidings {
    /// Batches that the store acknowledged, with all below them.
    pub heads: BTreeMap<(PartitionId, WriterId), Seq>,
    /// Partitions for whose owner a command was put down, or whose owner finished one.
    pub commands: BTreeSet<PartitionId>,
    /// Whether the configuration log grew.
    pub config: bool,
}

impl Tidings {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.commands.is_empty() && !self.config
    }
}

/// What this process said, each thing with the count at which it was said last.
#[derive(Debug)]
struct Said {
    count: watch::Sender<u64>,
    last: Mutex<LastSaid>,
}

#[derive(Debug, Default)]
struct LastSaid {
    heads: BTreeMap<(PartitionId, WriterId), (Seq, u64)>,
    commands: BTreeMap<PartitionId, u64>,
    config: u64,
}

impl Said {
    fn note(&self, note: impl FnOnce(&mut LastSaid, u64)) {
        let mut last = lock(&self.last);
        let count = *self.count.borrow() + 1;
        note(&mut last, count);
        // Under the lock, so that whoever sees the count finds what was said.
        self.count.send_replace(count);
    }
}

/// The process's hints. One per store handle; cheap to share behind the store's `Arc`.
#[derive(Debug)]
pub struct Hints {
    partitions: Mutex<HashMap<PartitionId, Arc<PartitionHints>>>,
    config: watch::Sender<ConfigSeq>,
    said: Arc<Said>,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            partitions: Mutex::default(),
            config: watch::Sender::new(ConfigSeq::ZERO),
            said: Arc::new(Said {
                count: watch::Sender::new(0),
                last: Mutex::default(),
            }),
        }
    }
}

impl Hints {
    /// The hints of one partition.
    pub fn partition(&self, partition: PartitionId) -> Arc<PartitionHints> {
        let mut all = lock(&self.partitions);
        let new = || Arc::new(PartitionHints::new(partition, Arc::clone(&self.said)));
        Arc::clone(all.entry(partition).or_insert_with(new))
    }

    /// Says that the configuration log reaches at least `seq`.
    pub fn publish_config(&self, seq: ConfigSeq) {
        let newer = self.config.send_if_modified(|known| {
            let newer = seq > *known;
            if newer {
                *known = seq;
            }
            newer
        });
        if newer {
            self.said.note(|last, count| last.config = count);
        }
    }

    /// Counts what this process says.
    pub fn said(&self) -> watch::Receiver<u64> {
        self.said.count.subscribe()
    }

    /// What this process said after the count was `after`, and the count that this reaches. At most `limit` heads: with
    /// more, the oldest, and the count before the next. The rest is always whole.
    pub fn said_since(&self, after: u64, limit: usize) -> (u64, Tidings) {
        let last = lock(&self.said.last);
        let mut heads: Vec<_> = last.heads.iter().filter(|(_, (_, at))| *at > after).collect();
        let mut reached = *self.said.count.borrow();
        if heads.len() > limit {
            heads.sort_unstable_by_key(|(_, (_, at))| *at);
            reached = heads[limit].1.1 - 1;
            heads.truncate(limit);
        }
        let tidings = Tidings {
            heads: heads.into_iter().map(|(key, (seq, _))| (*key, *seq)).collect(),
            commands: last
                .commands
                .iter()
                .filter(|(_, at)| **at > after)
                .map(|(partition, _)| *partition)
                .collect(),
            config: last.config > after,
        };
        (reached, tidings)
    }

    /// Takes in what another process said. Returns the partitions whose heads nobody here listens to.
    pub fn learn(&self, tidings: &Tidings) -> BTreeSet<PartitionId> {
        let mut unheard = BTreeSet::new();
        for ((partition, writer), seq) in &tidings.heads {
            if !self
                .known(*partition)
                .is_some_and(|hints| hints.learn_head(*writer, *seq))
            {
                unheard.insert(*partition);
            }
        }
        for hints in tidings
            .commands
            .iter()
            .filter_map(|partition| self.known(*partition))
        {
            hints.commands.send_modify(|count| *count += 1);
        }
        if tidings.config {
            // How far the log reaches is not believed: a wrong word would silence all later ones.
            self.config.send_modify(|_| {});
        }
        unheard
    }

    /// Without making one: what others say must not fill our memory.
    fn known(&self, partition: PartitionId) -> Option<Arc<PartitionHints>> {
        lock(&self.partitions).get(&partition).map(Arc::clone)
    }

    /// Follows the configuration log's end.
    pub fn config(&self) -> watch::Receiver<ConfigSeq> {
        self.config.subscribe()
    }
}

/// What is known of one partition.
#[derive(Debug)]
pub struct PartitionHints {
    partition: PartitionId,
    said: Arc<Said>,
    heads: Mutex<BTreeMap<WriterId, Seq>>,
    heads_moved: watch::Sender<u64>,
    commands: watch::Sender<u64>,
}

impl PartitionHints {
    fn new(partition: PartitionId, said: Arc<Said>) -> Self {
        Self {
            partition,
            said,
            heads: Mutex::default(),
            heads_moved: watch::Sender::new(0),
            commands: watch::Sender::new(0),
        }
    }

    /// Says that the store acknowledged `writer`'s batches up to `seq`.
    pub fn publish_head(&self, writer: WriterId, seq: Seq) {
        if self.raise(writer, seq) {
            let key = (self.partition, writer);
            self.said.note(|last, count| {
                let known = last.heads.entry(key).or_default();
                *known = (seq.max(known.0), count);
            });
        }
    }

    fn raise(&self, writer: WriterId, seq: Seq) -> bool {
        let mut heads = lock(&self.heads);
        let known = heads.entry(writer).or_default();
        let newer = seq > *known;
        if newer {
            *known = seq;
            drop(heads);
            self.heads_moved.send_modify(|count| *count += 1);
        }
        newer
    }

    /// Takes in a head that another process said. False, and nothing is kept, when nobody here listens.
    fn learn_head(&self, writer: WriterId, seq: Seq) -> bool {
        if self.heads_moved.receiver_count() == 0 {
            return false;
        }
        let room = {
            let heads = lock(&self.heads);
            heads.len() < limits::HINTED_WRITERS_MAX || heads.contains_key(&writer)
        };
        if room {
            self.raise(writer, seq);
        }
        true
    }

    /// The highest acknowledged batch of each writer heard of.
    pub fn heads(&self) -> BTreeMap<WriterId, Seq> {
        lock(&self.heads).clone()
    }

    /// Forgets a writer that was closed and read to its end.
    pub fn forget(&self, writer: WriterId) {
        lock(&self.heads).remove(&writer);
    }

    /// Takes back a head that the store does not bear out.
    pub fn retract(&self, writer: WriterId, seq: Seq) {
        let mut heads = lock(&self.heads);
        if heads.get(&writer) == Some(&seq) {
            heads.remove(&writer);
        }
    }

    /// Changes whenever a head moves.
    pub fn heads_moved(&self) -> watch::Receiver<u64> {
        self.heads_moved.subscribe()
    }

    /// Says that a command was put down for the partition's owner, or that one was finished.
    pub fn publish_command(&self) {
        self.commands.send_modify(|count| *count += 1);
        self.said.note(|last, count| {
            last.commands.insert(self.partition, count);
        });
    }

    /// Changes whenever a command comes or is finished.
    pub fn commands(&self) -> watch::Receiver<u64> {
        self.commands.subscribe()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId::new(1);
    const Q: PartitionId = PartitionId::new(2);

    fn writer(number: u64) -> WriterId {
        WriterId::from_u64(number)
    }

    #[test]
    fn only_the_last_word_about_each_thing_is_carried_on() {
        let hints = Hints::default();
        for seq in 1..=3 {
            hints.partition(P).publish_head(writer(1), Seq::new(seq));
        }
        hints.partition(P).publish_command();
        let (reached, tidings) = hints.said_since(0, 10);
        assert_eq!(reached, 4);
        assert_eq!(tidings.heads, BTreeMap::from([((P, writer(1)), Seq::new(3))]));
        assert_eq!((tidings.commands, tidings.config), (BTreeSet::from([P]), false));
        hints.publish_config(ConfigSeq::new(7));
        hints.publish_config(ConfigSeq::new(7));
        let (reached, tidings) = hints.said_since(reached, 10);
        assert_eq!(reached, 5, "what is known already is not said");
        assert!(tidings.config && tidings.heads.is_empty() && tidings.commands.is_empty());
        assert!(hints.said_since(reached, 10).1.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_told_next_and_nothing_is_left_out() {
        let hints = Hints::default();
        for number in (1..=5).rev() {
            hints.partition(P).publish_head(writer(number), Seq::new(1));
        }
        let (mut after, mut told) = (0, Vec::new());
        for _ in 0..3 {
            let (reached, tidings) = hints.said_since(after, 2);
            told.push(tidings.heads.len());
            after = reached;
        }
        assert_eq!((told, after), (vec![2, 2, 1], 5));
    }

    #[test]
    fn what_is_learned_wakes_those_who_listen_and_is_not_carried_on() {
        let hints = Hints::default();
        let (mut moved, mut commands) = (hints.partition(P).heads_moved(), hints.partition(P).commands());
        let (mut config, heads) = (hints.config(), |p, seq| ((p, writer(1)), Seq::new(seq)));
        let tidings = Tidings {
            heads: BTreeMap::from([heads(P, 4), heads(Q, 9)]),
            commands: BTreeSet::from([P, Q]),
            config: true,
        };
        assert_eq!(hints.learn(&tidings), BTreeSet::from([Q]), "nobody listens there");
        assert_eq!(
            hints.partition(P).heads(),
            BTreeMap::from([(writer(1), Seq::new(4))])
        );
        assert_eq!(hints.partition(Q).heads(), BTreeMap::new());
        assert!(
            moved.has_changed().unwrap() && commands.has_changed().unwrap() && config.has_changed().unwrap()
        );
        for receiver in [&mut moved, &mut commands] {
            receiver.mark_unchanged();
        }
        config.mark_unchanged();
        hints.learn(&Tidings {
            heads: BTreeMap::from([heads(P, 3)]),
            ..Tidings::default()
        });
        assert!(!moved.has_changed().unwrap(), "late words change nothing");
        assert_eq!(*hints.said().borrow(), 0);
    }

    #[test]
    fn a_wrong_word_about_the_configuration_does_not_silence_later_ones() {
        let hints = Hints::default();
        let mut config = hints.config();
        for _ in 0..2 {
            hints.learn(&Tidings {
                config: true,
                ..Tidings::default()
            });
            assert!(config.has_changed().unwrap());
            config.mark_unchanged();
        }
        hints.publish_config(ConfigSeq::new(1));
        assert!(config.has_changed().unwrap());
    }

    #[test]
    fn strangers_cannot_name_writers_without_end() {
        let hints = Hints::default();
        let partition = hints.partition(P);
        let _listening = partition.heads_moved();
        let many = (0..=u64::try_from(limits::HINTED_WRITERS_MAX).unwrap()).map(writer);
        let heads = many.map(|writer| ((P, writer), Seq::new(1))).collect();
        hints.learn(&Tidings {
            heads,
            ..Tidings::default()
        });
        assert_eq!(partition.heads().len(), limits::HINTED_WRITERS_MAX);
    }
}
