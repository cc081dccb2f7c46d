//! The batches that were committed last, in memory: whoever follows the log reads them while they are fresh.
//!
//! The file stays the truth. A batch is put here after its commit was acknowledged, and a read that is not wholly
//! within what is here goes to the file. Invariants: per (partition, writer) the batches here follow each other without a gap;
//! all together they hold at most [`limits::RECENT_BATCH_BYTES_MAX`].

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    clock::Timestamp,
    id::{PartitionId, Seq, WriterId},
    limits,
    store::Batch,
};

type Stream = (PartitionId, WriterId);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    streams: HashMap<Stream, VecDeque<Batch>>,
    /// Whose batch came when: the oldest leaves first.
    order: VecDeque<Stream>,
    bytes: usize,
    /// What was recorded before is gone from the file.
    expired: Timestamp,
}

impl Recent {
    /// Takes a batch whose commit was acknowledged.
    pub(super) fn put(&self, batch: Batch) {
        let stream = (batch.partition, batch.writer);
        let mut inner = self.lock();
        // Committed and removed before its acknowledgement was heard of.
        if batch.last_at < inner.expired {
            return;
        }
        let kept = inner.streams.entry(stream).or_default();
        match kept.back().map(|last| last.seq) {
            // Appended again: it is here, or was and has left.
            Some(last) if batch.seq <= last => return,
            // One between them was acknowledged to nobody: what came before it cannot be read on from here.
            Some(last) if batch.seq != last.next() => inner.forget(stream),
            _ => {}
        }
        inner.bytes += cost(&batch);
        inner.order.push_back(stream);
        inner.streams.entry(stream).or_default().push_back(batch);
        while inner.bytes > limits::RECENT_BATCH_BYTES_MAX {
            inner.drop_oldest();
        }
    }

    /// What [`crate::store::Log::read`] brings, if the batch after `after` is here.
    pub(super) fn read(
        &self,
        stream: Stream,
        after: Seq,
        through: Seq,
        bytes_max: usize,
    ) -> Option<Vec<Batch>> {
        let inner = self.lock();
        let kept = inner.streams.get(&stream)?;
        let first = kept.front()?.seq;
        let skipped = usize::try_from(after.next().as_u64().checked_sub(first.as_u64())?).ok()?;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        for batch in kept.iter().skip(skipped).take_while(|batch| batch.seq <= through) {
            bytes += batch.body.len();
            if bytes > bytes_max && !batches.is_empty() {
                break;
            }
            batches.push(batch.clone());
        }
        (!batches.is_empty()).then_some(batches)
    }

    /// Forgets all: batches that were recorded before `expired` were removed from the file.
    pub(super) fn clear(&self, expired: Timestamp) {
        let mut inner = self.lock();
        *inner = Inner {
            expired: expired.max(inner.expired),
            ..Inner::default()
        };
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that holds this lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn forget(&mut self, stream: Stream) {
        let forgotten = self.streams.remove(&stream).unwrap_or_default();
        self.bytes -= forgotten.iter().map(cost).sum::<usize>();
        self.order.retain(|kept| *kept != stream);
    }

    fn drop_oldest(&mut self) {
        let Some(stream) = self.order.pop_front() else {
            return;
        };
        let Some(kept) = self.streams.get_mut(&stream) else {
            return;
        };
        self.bytes -= kept.pop_front().as_ref().map_or(0, cost);
        if kept.is_empty() {
            self.streams.remove(&stream);
        }
    }
}

/// What a batch takes here, about.
fn cost(batch: &Batch) -> usize {
    batch.body.len() + 128
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const MINE: (PartitionId, WriterId) = (PartitionId::new(1), WriterId::from_u64(7));

    fn batch(seq: u64, bytes: usize) -> Batch {
        Batch {
            partition: MINE.0,
            writer: MINE.1,
            seq: Seq::new(seq),
            first_at: Timestamp::EPOCH,
            last_at: Timestamp::EPOCH,
            count: 1,
            body: Bytes::from(vec![0; bytes]),
        }
    }

    fn read(recent: &Recent, after: u64, through: u64) -> Option<Vec<u64>> {
        let read = recent.read(MINE, Seq::new(after), Seq::new(through), 1 << 30)?;
        Some(read.iter().map(|batch| batch.seq.as_u64()).collect())
    }

    #[test]
    fn what_follows_without_a_gap_is_read_and_nothing_else() {
        let recent = Recent::default();
        assert_eq!(read(&recent, 0, 9), None);
        for seq in [3, 4, 5, 4] {
            recent.put(batch(seq, 10));
        }
        assert_eq!(read(&recent, 2, 9), Some(vec![3, 4, 5]));
        assert_eq!(read(&recent, 3, 4), Some(vec![4]));
        assert_eq!(read(&recent, 1, 9), None, "the second is in the file");
        assert_eq!(read(&recent, 5, 9), None, "there is none yet");
        recent.put(batch(7, 10));
        assert_eq!(read(&recent, 2, 9), None, "the sixth is missing");
        assert_eq!(read(&recent, 6, 9), Some(vec![7]));
    }

    #[test]
    fn what_was_removed_before_it_came_does_not_come() {
        let recent = Recent::default();
        recent.put(batch(1, 10));
        recent.clear(Timestamp::from_millis(5));
        assert_eq!(read(&recent, 0, 9), None);
        recent.put(batch(2, 10));
        assert_eq!(read(&recent, 1, 9), None, "it is as old as the first");
        let at = Timestamp::from_millis(5);
        recent.put(Batch {
            last_at: at,
            ..batch(3, 10)
        });
        assert_eq!(read(&recent, 2, 9), Some(vec![3]));
    }

    #[test]
    fn a_read_is_bounded_in_bytes_but_brings_one_batch() {
        let recent = Recent::default();
        (1..=3).for_each(|seq| recent.put(batch(seq, 100)));
        let count = |bytes_max| {
            recent
                .read(MINE, Seq::ZERO, Seq::new(9), bytes_max)
                .unwrap()
                .len()
        };
        assert_eq!((count(1), count(200), count(300)), (1, 2, 3));
    }

    #[test]
    fn the_oldest_leave_when_there_are_too_many_bytes() {
        let recent = Recent::default();
        let (large, many) = (limits::RECENT_BATCH_BYTES_MAX / 8, 20);
        (1..=many).for_each(|seq| recent.put(batch(seq, large)));
        assert_eq!(read(&recent, 0, many), None);
        let kept = (1..many).find_map(|after| read(&recent, after, many)).unwrap();
        assert!((5..=8).contains(&kept.len()), "{kept:?}");
        assert_eq!(kept.last(), Some(&many));
        let bytes = recent.lock().bytes;
        assert!(bytes <= limits::RECENT_BATCH_BYTES_MAX);
    }
}
