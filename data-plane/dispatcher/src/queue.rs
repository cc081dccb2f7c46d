//! One endpoint's deliveries in the order in which they are to be sent.
//!
//! Fresh ones go out first come, first served; due retries stand beside them, ordered by address so that they share
//! reads, and the two take turns. What waits for its time is kept apart. The queue holds addresses only: what a
//! delivery is, and whether it is still wanted, its owner knows. It is bounded by its owner (the endpoint moves to
//! a run of its own before it grows).

use std::collections::{BTreeSet, VecDeque};

use qrelay_store::id::EventAddress;
use tokio::time::Instant;

/// Which of the two lines a delivery stands in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Never attempted, and read just now.
    Fresh,
    /// A retry, or saved before a restart.
    Retry,
}

/// An endpoint's queue.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    fresh: VecDeque<(EventAddress, Instant)>,
    due: BTreeSet<EventAddress>,
    waiting: BTreeSet<(Instant, EventAddress)>,
    retry_next: bool,
}

impl Queue {
    /// Puts a fresh delivery at the end of its line.
    pub fn push_fresh(&mut self, event: EventAddress, now: Instant) {
        self.fresh.push_back((event, now));
    }

    /// Puts a delivery among those that may be retried.
    pub fn push_due(&mut self, event: EventAddress) {
        self.due.insert(event);
    }

    /// Lets a delivery wait until `at`.
    pub fn push_waiting(&mut self, event: EventAddress, at: Instant) {
        self.waiting.insert((at, event));
    }

    /// Moves a delivery that waits for its time to the due ones.
    pub fn hasten(&mut self, event: EventAddress) {
        let at = self.waiting.iter().find(|(_, waiting)| *waiting == event);
        if let Some(at) = at.copied() {
            self.waiting.remove(&at);
            self.due.insert(event);
        }
    }

    /// Takes deliveries out of whatever line they stand in.
    pub fn remove(&mut self, out: &BTreeSet<EventAddress>) {
        self.fresh.retain(|(event, _)| !out.contains(event));
        self.due.retain(|event| !out.contains(event));
        self.waiting.retain(|(_, event)| !out.contains(event));
    }

    /// Moves what has waited long enough to the due ones.
    pub fn ripen(&mut self, now: Instant) {
        while let Some(&(at, event)) = self.waiting.first() {
            if at > now {
                break;
            }
            self.waiting.pop_first();
            self.due.insert(event);
        }
    }

    /// Takes the next delivery of the classes that `allowed` lets pass; the two take turns.
    pub fn pop(&mut self, allowed: impl Fn(Class) -> bool) -> Option<(EventAddress, Class)> {
        let order = if self.retry_next {
            [Class::Retry, Class::Fresh]
        } else {
            [Class::Fresh, Class::Retry]
        };
        for class in order {
            if !allowed(class) {
                continue;
            }
            let taken = match class {
                Class::Fresh => self.fresh.pop_front().map(|(event, _)| event),
                Class::Retry => self.due.pop_first(),
            };
            if let Some(event) = taken {
                self.retry_next = class == Class::Fresh;
                return Some((event, class));
            }
        }
        None
    }

    /// Whether something of a class could be sent now.
    pub fn has(&self, class: Class) -> bool {
        match class {
            Class::Fresh => !self.fresh.is_empty(),
            Class::Retry => !self.due.is_empty(),
        }
    }

    /// When the next waiting delivery is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// Since when the first fresh delivery has waited for its turn, and which it is.
    pub fn oldest_fresh(&self) -> Option<(EventAddress, Instant)> {
        self.fresh.front().copied()
    }

    /// Fresh deliveries that wait for their turn.
    pub fn fresh_len(&self) -> usize {
        self.fresh.len()
    }

    /// Retries that wait for their turn.
    pub fn due_len(&self) -> usize {
        self.due.len()
    }

    /// Deliveries that wait for their time.
    pub fn waiting_len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use qrelay_store::id::Seq;

    use super::*;
    use crate::cursor::Stream;

    fn event(index: u16) -> EventAddress {
        Stream::CONFIG.address(Seq::new(1), index)
    }

    #[tokio::test(start_paused = true)]
    async fn fresh_ones_leave_in_order_and_take_turns_with_due_retries() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        (0..3).for_each(|index| queue.push_fresh(event(index), now));
        queue.push_due(event(9));
        queue.push_due(event(8));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(|_| true))
            .map(|(event, _)| event.index)
            .collect();
        assert_eq!(order, [0, 8, 1, 9, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_not_taken_before_its_time() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push_waiting(event(1), now + Duration::from_secs(5));
        queue.ripen(now + Duration::from_millis(4999));
        assert_eq!(queue.pop(|_| true), None);
        assert_eq!(queue.next_due(), Some(now + Duration::from_secs(5)));
        queue.ripen(now + Duration::from_secs(5));
        assert_eq!(queue.pop(|class| class == Class::Fresh), None);
        assert_eq!(queue.pop(|_| true), Some((event(1), Class::Retry)));
    }
}
