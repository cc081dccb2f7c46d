//! Word of mouth inside one process: that a head moved, the configuration changed, a command came.
//!
//! A hint saves waiting, never correctness: everything hinted at is in the store, and readers look there on a
//! timer too. A hinted head may be read up to, because it is published after the store acknowledged.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::id::{ConfigSeq, PartitionId, Seq, WriterId};

/// The process's hints. One per store handle; cheap to share behind the store's `Arc`.
#[derive(Debug)]
pub struct Hints {
    partitions: Mutex<HashMap<PartitionId, Arc<PartitionHints>>>,
    config: watch::Sender<ConfigSeq>,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            partitions: Mutex::default(),
            config: watch::Sender::new(ConfigSeq::ZERO),
        }
    }
}

impl Hints {
    /// The hints of one partition.
    pub fn partition(&self, partition: PartitionId) -> Arc<PartitionHints> {
        let mut all = lock(&self.partitions);
        Arc::clone(all.entry(partition).or_default())
    }

    /// Says that the configuration log reaches at least `seq`.
    pub fn publish_config(&self, seq: ConfigSeq) {
        self.config.send_if_modified(|known| {
            let newer = seq > *known;
            if newer {
                *known = seq;
            }
            newer
        });
    }

    /// Follows the configuration log's end.
    pub fn config(&self) -> watch::Receiver<ConfigSeq> {
        self.config.subscribe()
    }
}

/// What is known of one partition.
#[derive(Debug, Default)]
pub struct PartitionHints {
    heads: Mutex<BTreeMap<WriterId, Seq>>,
    heads_moved: watch::Sender<u64>,
    commands: watch::Sender<u64>,
}

impl PartitionHints {
    /// Says that the store acknowledged `writer`'s batches up to `seq`.
    pub fn publish_head(&self, writer: WriterId, seq: Seq) {
        let mut heads = lock(&self.heads);
        let known = heads.entry(writer).or_default();
        if seq > *known {
            *known = seq;
            drop(heads);
            self.heads_moved.send_modify(|count| *count += 1);
        }
    }

    /// The highest acknowledged batch of each writer heard of.
    pub fn heads(&self) -> BTreeMap<WriterId, Seq> {
        lock(&self.heads).clone()
    }

    /// Forgets a writer that was closed and read to its end.
    pub fn forget(&self, writer: WriterId) {
        lock(&self.heads).remove(&writer);
    }

    /// Changes whenever a head moves.
    pub fn heads_moved(&self) -> watch::Receiver<u64> {
        self.heads_moved.subscribe()
    }

    /// Says that a command was put down for the partition's owner, or that one was finished.
    pub fn publish_command(&self) {
        self.commands.send_modify(|count| *count += 1);
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
