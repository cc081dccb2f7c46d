//! The rules of a partition's lease, without I/O: when it may be claimed, what its holder may still do, and how a
//! save of unknown outcome is resolved.
//!
//! No wall clock and no TTL: a claimant watches (epoch, beat) on its own monotonic clock, and the compare-and-set is
//! the fence. Every attempt to save has a beat that was never used before. After an unknown outcome nothing is saved
//! until a further compare-and-set, which moves only the beat, tells what became of it: if it applies, the lost one
//! never can; if the lost one's beat stands there, it did apply; anything else means that the lease is lost.

use std::time::Duration;

use qrelay_store::{
    id::OwnerId,
    store::{Cas, Fence, Lease},
};
use tokio::time::Instant;

/// A lease whose (epoch, beat) did not move for so long is anybody's.
pub const DEAD_AFTER: Duration = Duration::from_secs(12);
/// So much longer is left to whoever is to have the partition.
pub const AFTER_PREFERRED: Duration = Duration::from_secs(1);
/// A lease that was given back, or never was, is anybody's after so long.
pub const FREE_AFTER: Duration = Duration::from_secs(5);
/// The holder moves its beat at least this often.
pub const RENEW_PERIOD: Duration = Duration::from_secs(3);
/// The holder's deadline: so long after the instant before its last renewal was sent.
pub const HELD_FOR: Duration = Duration::from_secs(10);
/// Nothing new is started so shortly before the deadline.
pub const START_MARGIN: Duration = Duration::from_secs(4);
/// A look at a lease, or a claim, that is not answered within this failed: what a stalled store says of a beat that
/// stood still is no proof, because its holder could not move it either.
pub const LOOK_WAIT: Duration = Duration::from_secs(2);
/// A save that is not answered within this is of unknown outcome: two of them fit between a renewal and the deadline.
pub const SAVE_WAIT: Duration = Duration::from_secs(3);

/// Watches a lease until it may be claimed.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    seen: Option<(Option<Fence>, Option<OwnerId>, Instant)>,
}

impl Watch {
    /// Takes in what a read showed, at the instant of its response. Returns what a claim may expect, once it may.
    pub fn observe(&mut self, lease: Option<&Lease>, role: Role, now: Instant) -> Option<Expect> {
        let fence = lease.map(|lease| lease.fence);
        let owner = lease.and_then(|lease| lease.owner);
        let since = match self.seen {
            Some((seen, by, since)) if seen == fence && by == owner => since,
            _ => now,
        };
        self.seen = Some((fence, owner, since));
        let patience = match (role, owner) {
            (Role::Alone, _) | (Role::Preferred, None) => Duration::ZERO,
            (Role::Preferred, Some(_)) => DEAD_AFTER,
            (Role::Other, Some(_)) => DEAD_AFTER + AFTER_PREFERRED,
            (Role::Other, None) => FREE_AFTER,
        };
        (now.duration_since(since) >= patience).then_some(Expect(fence))
    }

    /// A read failed: what was seen counts no more.
    pub fn forget(&mut self) {
        self.seen = None;
    }
}

/// What a claimant is to a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The only one that may hold it: the data directory's lock proves it, or the claim that stands there is its own.
    Alone,
    /// The one among the living that is to have it.
    Preferred,
    /// Another one.
    Other,
}

/// What a claim expects to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expect(pub Option<Fence>);

impl Expect {
    /// The lease that the claim puts there.
    pub fn claim(self, owner: OwnerId, addr: &str) -> Lease {
        Lease {
            fence: Fence {
                epoch: self.0.map_or(1, |fence| fence.epoch + 1),
                beat: 0,
            },
            owner: Some(owner),
            addr: addr.to_owned(),
        }
    }
}

/// A lease that we hold.
#[derive(Clone, Debug)]
pub struct Held {
    owner: OwnerId,
    fence: Fence,
    /// The highest beat ever sent.
    last_beat: u64,
    renewed: Instant,
    /// The beat of the save whose outcome is unknown.
    unresolved: Option<u64>,
}

/// What became of a save.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Saved {
    /// It is in the store.
    Applied,
    /// It is not, and never will be.
    Never,
    /// Not known yet: [`Held::next`] must be tried with an empty delta.
    Unknown,
    /// Somebody else holds the lease: stop everything.
    Fenced,
}

/// A save under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sending {
    /// What the compare-and-set expects.
    pub expected: Fence,
    /// The new beat.
    pub beat: u64,
    sent: Instant,
}

impl Held {
    /// After a claim applied that was sent at `sent`.
    pub fn new(lease: &Lease, owner: OwnerId, sent: Instant) -> Self {
        Self {
            owner,
            fence: lease.fence,
            last_beat: lease.fence.beat,
            renewed: sent,
            unresolved: None,
        }
    }

    /// The claim's number.
    pub fn epoch(&self) -> u64 {
        self.fence.epoch
    }

    /// Whether the outcome of a save is unknown: only an empty delta may be sent.
    pub fn is_unresolved(&self) -> bool {
        self.unresolved.is_some()
    }

    /// What to send next, now.
    pub fn next(&mut self, now: Instant) -> Sending {
        self.last_beat += 1;
        Sending {
            expected: self.fence,
            beat: self.last_beat,
            sent: now,
        }
    }

    /// Takes in the answer to a save; `None` for an unknown outcome. The answer is about the save that was sent or,
    /// while one is unresolved, about that one.
    pub fn answered(&mut self, sending: Sending, answer: Option<&Cas>) -> Saved {
        match answer {
            None => {
                // Of several unknown ones only the first can carry a delta.
                self.unresolved.get_or_insert(sending.beat);
                Saved::Unknown
            }
            Some(Cas::Applied) => {
                self.fence.beat = sending.beat;
                self.renewed = sending.sent;
                if self.unresolved.take().is_some() {
                    Saved::Never
                } else {
                    Saved::Applied
                }
            }
            Some(Cas::Lost(lease)) => self.lost(lease.as_ref()),
        }
    }

    /// The compare-and-set failed. That is no harm when one of our own of unknown outcome stands there.
    fn lost(&mut self, lease: Option<&Lease>) -> Saved {
        let ours =
            lease.filter(|lease| lease.owner == Some(self.owner) && lease.fence.epoch == self.fence.epoch);
        let (Some(lease), Some(lost)) = (ours, self.unresolved) else {
            return Saved::Fenced;
        };
        let beat = lease.fence.beat;
        if beat < lost || beat > self.last_beat {
            return Saved::Fenced;
        }
        self.fence.beat = beat;
        self.unresolved = None;
        if beat == lost {
            Saved::Applied
        } else {
            Saved::Never
        }
    }

    /// Whether the beat must move soon.
    pub fn renew_at(&self) -> Instant {
        self.renewed + RENEW_PERIOD
    }

    /// Until when new exchanges may be started.
    pub fn start_until(&self) -> Instant {
        self.renewed + (HELD_FOR - START_MARGIN)
    }

    /// Until when anything may be done.
    pub fn deadline(&self) -> Instant {
        self.renewed + HELD_FOR
    }

    /// What a graceful release puts there: the same epoch, a new beat, no owner.
    pub fn release(&mut self) -> (Fence, Lease) {
        self.last_beat += 1;
        let released = Lease {
            fence: Fence {
                epoch: self.fence.epoch,
                beat: self.last_beat,
            },
            owner: None,
            addr: String::new(),
        };
        (self.fence, released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn owner(number: u8) -> OwnerId {
        OwnerId::from_bytes([number; 10])
    }

    fn lease(epoch: u64, beat: u64, by: Option<OwnerId>) -> Lease {
        Lease {
            fence: Fence { epoch, beat },
            owner: by,
            addr: String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_claimed_only_after_its_beat_stood_still_for_twelve_seconds() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        let mut observe = |epoch, beat, secs| {
            let lease = lease(epoch, beat, Some(owner(1)));
            watch.observe(Some(&lease), Role::Preferred, at(secs)).is_some()
        };
        assert!(!observe(1, 1, 0));
        assert!(!observe(1, 1, 11));
        assert!(!observe(1, 2, 12), "it moved");
        assert!(!observe(1, 2, 23));
        assert!(observe(1, 2, 24));
        watch.forget();
        assert!(
            watch
                .observe(Some(&lease(1, 2, Some(owner(1)))), Role::Preferred, at(30))
                .is_none()
        );
        assert!(watch.observe(None, Role::Preferred, at(30)).is_some());
        let free = lease(1, 3, None);
        assert!(watch.observe(Some(&free), Role::Other, at(30)).is_none());
        assert!(watch.observe(Some(&free), Role::Preferred, at(31)).is_some());
        assert!(watch.observe(Some(&free), Role::Other, at(34)).is_none());
        assert!(watch.observe(Some(&free), Role::Other, at(35)).is_some());
        let claim = watch
            .observe(Some(&free), Role::Alone, at(36))
            .unwrap()
            .claim(owner(2), "");
        assert_eq!(claim.fence, Fence { epoch: 2, beat: 0 });
    }

    fn held() -> Held {
        Held::new(&lease(3, 0, Some(owner(1))), owner(1), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_counts_from_before_the_last_renewal_was_sent() {
        let (mut held, start) = (held(), Instant::now());
        let sending = held.next(start);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(held.answered(sending, Some(&Cas::Applied)), Saved::Applied);
        assert_eq!(held.deadline(), start + HELD_FOR);
        assert_eq!(held.start_until(), start + Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_save_is_resolved_by_the_next_compare_and_set() {
        let now = Instant::now();
        for (answer, expected) in [
            (Cas::Applied, Saved::Never),
            (Cas::Lost(Some(lease(3, 1, Some(owner(1))))), Saved::Applied),
            (Cas::Lost(Some(lease(4, 0, Some(owner(2))))), Saved::Fenced),
            (Cas::Lost(Some(lease(3, 9, Some(owner(1))))), Saved::Fenced),
            (Cas::Lost(None), Saved::Fenced),
        ] {
            let mut held = held();
            let first = held.next(now);
            assert_eq!(held.answered(first, None), Saved::Unknown);
            assert!(held.is_unresolved());
            let second = held.next(now);
            assert_ne!(first.beat, second.beat);
            assert_eq!(held.answered(second, Some(&answer)), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_was_lost_too_still_tells_that_the_save_never_applies() {
        let (mut held, now) = (held(), Instant::now());
        for _ in 0..2 {
            let sending = held.next(now);
            assert_eq!(held.answered(sending, None), Saved::Unknown);
        }
        let third = held.next(now);
        let probe_stands = Cas::Lost(Some(lease(3, 2, Some(owner(1)))));
        assert_eq!(held.answered(third, Some(&probe_stands)), Saved::Never);
        let fourth = held.next(now);
        assert_eq!(fourth.expected, Fence { epoch: 3, beat: 2 });
        assert_eq!(held.answered(fourth, Some(&Cas::Applied)), Saved::Applied);
    }

    #[tokio::test(start_paused = true)]
    async fn losing_a_save_without_any_in_doubt_is_being_fenced() {
        let mut held = held();
        let sending = held.next(Instant::now());
        let other = Cas::Lost(Some(lease(4, 0, Some(owner(2)))));
        assert_eq!(held.answered(sending, Some(&other)), Saved::Fenced);
    }
}
