//! A run: a cursor through the log, and the batches between what is saved and what is read.
//!
//! `saved` is the cursor in the store, `read` the position in memory. Between the two stand the batches that matter:
//! those with deliveries that are neither done nor outstanding in a saved chunk (`undone`), or with usage that is
//! not final. A batch in between that is not listed has nothing left to wait for. The saved cursor may pass a batch
//! only in a save that also makes each of its undone deliveries outstanding; who decides that is
//! [`crate::ledger::plan`].

use std::collections::BTreeMap;

use qrelay_store::id::{EndpointId, EventAddress, Seq};
use tokio::time::Instant;

use crate::{
    cursor::{Cursor, Stream},
    usage::UsageDelta,
};

/// A batch that was read and not passed by the saved cursor.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Deliveries made of it for the run's endpoints, by record index; some may be done.
    pub members: Vec<(EndpointId, u16)>,
    /// Deliveries that are neither done nor in a saved chunk.
    pub undone: usize,
    /// Those among them that were never attempted and only wait for their turn.
    pub queued: usize,
    /// When it was read.
    pub read_at: Instant,
    /// Usage that becomes final when the saved cursor passes it: events.
    pub usage: UsageDelta,
    /// The same of deliveries that are done, by endpoint, so that it can follow an endpoint to another run.
    pub delivered: BTreeMap<EndpointId, UsageDelta>,
}

impl Pending {
    /// A batch with nothing in it yet.
    pub fn new(read_at: Instant) -> Self {
        Self {
            members: Vec::new(),
            undone: 0,
            queued: 0,
            read_at,
            usage: UsageDelta::default(),
            delivered: BTreeMap::new(),
        }
    }

    /// Whether nothing depends on it.
    pub fn is_empty(&self) -> bool {
        self.undone == 0 && self.usage.is_empty() && self.delivered.is_empty()
    }

    /// Takes in a delivery.
    pub fn attach(&mut self, endpoint: EndpointId, index: u16, queued: Queued) {
        self.members.push((endpoint, index));
        self.undone += 1;
        self.queued += usize::from(queued == Queued::Yes);
    }

    /// Lets a delivery go, because it is done, saved elsewhere or another run's.
    pub fn detach(&mut self, queued: Queued) {
        debug_assert!(self.undone > 0, "more deliveries left a batch than it has");
        self.undone = self.undone.saturating_sub(1);
        self.queued = self.queued.saturating_sub(usize::from(queued == Queued::Yes));
    }

    /// All usage that becomes final with it.
    pub fn all_usage(&self) -> UsageDelta {
        let mut all = self.usage.clone();
        self.delivered.values().for_each(|delta| all.add(delta));
        all
    }
}

/// Whether a delivery only waits for its first turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queued {
    /// It was never attempted and stands in line.
    Yes,
    /// It is under way, or waits for its time.
    No,
}

/// A run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What is in the store.
    pub saved: Cursor,
    /// What is in memory.
    pub read: Cursor,
    pending: BTreeMap<(Stream, Seq), Pending>,
}

impl Run {
    /// A run that goes on from a saved cursor.
    pub fn resume(saved: Cursor) -> Self {
        Self {
            read: saved.clone(),
            saved,
            pending: BTreeMap::new(),
        }
    }

    /// The batch's entry, made if need be.
    pub fn pending_or_new(&mut self, stream: Stream, seq: Seq, now: Instant) -> &mut Pending {
        self.pending
            .entry((stream, seq))
            .or_insert_with(|| Pending::new(now))
    }

    /// The batch that an event stands in, if it still matters.
    pub fn pending_of(&mut self, event: EventAddress) -> Option<&mut Pending> {
        self.pending.get_mut(&(Stream::of(event), event.seq))
    }

    /// Forgets a batch on which nothing depends any more.
    pub fn tidy(&mut self, event: EventAddress) {
        let key = (Stream::of(event), event.seq);
        if self.pending.get(&key).is_some_and(Pending::is_empty) {
            self.pending.remove(&key);
        }
    }

    /// All batches that matter, in order within each stream.
    pub fn pending(&self) -> impl Iterator<Item = (Stream, Seq, &Pending)> {
        self.pending
            .iter()
            .map(|((stream, seq), pending)| (*stream, *seq, pending))
    }

    /// How many batches matter.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// The batches of one stream that matter, up to `through`, in order.
    pub fn pending_through(&self, stream: Stream, through: Seq) -> impl Iterator<Item = (Seq, &Pending)> {
        let range = (stream, Seq::ZERO)..=(stream, through);
        self.pending
            .range(range)
            .map(|((_, seq), pending)| (*seq, pending))
    }

    /// Forgets streams that are not `known` and of which nothing matters.
    pub fn forget(&mut self, known: impl Fn(Stream) -> bool) {
        let Self { saved, read, pending } = self;
        let keep = |stream: Stream| {
            known(stream)
                || pending
                    .range((stream, Seq::ZERO)..)
                    .next()
                    .is_some_and(|(key, _)| key.0 == stream)
        };
        read.retain(keep);
        saved.retain(keep);
    }

    /// Takes all batches that matter out, for another run to go on with.
    pub fn take_pending(&mut self) -> BTreeMap<(Stream, Seq), Pending> {
        std::mem::take(&mut self.pending)
    }

    /// Notes that a cursor was saved. What it passed no longer matters.
    pub fn save(&mut self, cursor: &Cursor) {
        self.saved.advance_all(cursor);
        let saved = &self.saved;
        self.pending.retain(|(stream, seq), pending| {
            let keep = *seq > saved.at(*stream);
            debug_assert!(
                keep || pending.undone == 0,
                "a saved cursor passed an undone delivery"
            );
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_saved_cursor_drops_what_it_passed_and_nothing_else() {
        let mut run = Run::default();
        for seq in 1..=4 {
            run.pending_or_new(Stream::CONFIG, Seq::new(seq), Instant::now());
        }
        let cursor: Cursor = [(Stream::CONFIG, Seq::new(2))].into_iter().collect();
        run.save(&cursor);
        assert_eq!(
            run.pending().map(|(_, seq, _)| seq.as_u64()).collect::<Vec<_>>(),
            [3, 4]
        );
        assert_eq!(run.pending_through(Stream::CONFIG, Seq::new(3)).count(), 1);
        run.tidy(Stream::CONFIG.address(Seq::new(3), 5));
        assert_eq!(run.pending_len(), 1);
    }
}
