//! Turns: endpoints send one after the other, each within its own limits and the shard's.
//!
//! An endpoint stands in the ring while it may have something to send, takes one delivery per turn, and goes to the
//! end. What keeps it from sending (its cap, a pause, a limit) takes it out until that changes, so that a slow one
//! costs the others nothing. Sends nothing itself: [`Turns::next`] says what to send.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::Arc,
};

use qrelay_store::{
    id::{EndpointId, ReplayId},
    limits::PACE_UNKNOWN_PAUSE,
};
use tokio::time::Instant;

use crate::{
    health,
    ledger::{Ledger, feed::Moment, sending::Job},
    pace::{Count, Pace, SharedLimit},
    paces::Paces,
    permits::{Permits, Room},
    queue::Class,
    replay_paces::{May, ReplayPaces},
};

#[cfg(test)]
mod tests;

/// Whose turn it is.
#[derive(Debug)]
pub struct Turns {
    /// What requests must pass.
    pub paces: Paces,
    /// What those of replays must pass beside.
    pub replays: ReplayPaces,
    permits: Permits,
    ready: VecDeque<EndpointId>,
    in_ready: HashSet<EndpointId>,
    /// Those that wake at the same instant do so in the order in which they began to wait (the number): so all that
    /// share a tenant's limit come to their turns.
    timers: BTreeSet<(Instant, u64, EndpointId)>,
    timers_set: u64,
    /// Somebody found no room: the next room that is given back is news.
    pub starved: bool,
}

/// What to send.
#[derive(Debug)]
pub struct Go {
    /// The delivery.
    pub job: Job,
    /// What its first byte must pass.
    pub pace: Arc<Pace>,
    /// Its room in the shard.
    pub room: Room,
    /// The limit of the replay that it is of.
    pub replay: Option<SharedLimit>,
}

/// What a turn came to.
enum Turn {
    /// A delivery is to go out: the endpoint may have another one.
    Go(Box<Go>),
    /// It has nothing to send now.
    Idle,
    /// The shard has no room for what it has.
    NoRoom,
}

impl Turns {
    /// Nobody stands in line.
    pub fn new(permits: Permits) -> Self {
        Self {
            paces: Paces::default(),
            replays: ReplayPaces::default(),
            permits,
            ready: VecDeque::new(),
            in_ready: HashSet::new(),
            timers: BTreeSet::new(),
            timers_set: 0,
            starved: false,
        }
    }

    /// An endpoint may have something to send.
    pub fn stand_in(&mut self, endpoint: EndpointId) {
        if self.in_ready.insert(endpoint) {
            self.ready.push_back(endpoint);
        }
    }

    /// Lets an endpoint stand in line again at an instant.
    pub fn wake(&mut self, at: Instant, endpoint: EndpointId) {
        self.timers_set += 1;
        self.timers.insert((at, self.timers_set, endpoint));
    }

    /// Those whose time has come stand in line.
    pub fn ripen(&mut self, now: Instant) {
        while let Some(&(at, _, endpoint)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            self.stand_in(endpoint);
        }
    }

    /// When somebody's time comes next.
    pub fn next_wake(&self) -> Option<Instant> {
        self.timers.first().map(|(at, ..)| *at)
    }

    /// The next delivery to send; none when nobody in line may send one now.
    pub fn next(&mut self, ledger: &mut Ledger, at: Moment) -> Option<Go> {
        for _ in 0..self.ready.len() {
            let endpoint = self.ready.pop_front()?;
            match self.turn(ledger, endpoint, at) {
                Turn::Go(go) => {
                    self.ready.push_back(endpoint);
                    return Some(*go);
                }
                Turn::NoRoom => {
                    self.starved = true;
                    self.ready.push_back(endpoint);
                }
                Turn::Idle => {
                    self.in_ready.remove(&endpoint);
                }
            }
        }
        None
    }

    fn turn(&mut self, ledger: &mut Ledger, endpoint: EndpointId, at: Moment) -> Turn {
        let now = at.now;
        let live = ledger.ripen(endpoint, now);
        // What live events leave is for replays.
        let replay = if live {
            None
        } else {
            self.next_replay(ledger, endpoint)
        };
        if !live && replay.is_none() {
            ledger.pace(endpoint, None);
            if let Some(at) = ledger.wake_at(endpoint).filter(|at| *at > now) {
                self.wake(at, endpoint);
            }
            return Turn::Idle;
        }
        // When the shard is full, all that stand in line are asked each time an exchange ends: so this comes before what
        // takes longer.
        if !self.permits.has_any(endpoint) {
            return Turn::NoRoom;
        }
        let Some(pace) = self.paces.of(ledger, endpoint) else {
            self.wake(now + PACE_UNKNOWN_PAUSE, endpoint);
            return Turn::Idle;
        };
        if let Some(due) = pace.peek(Count::Plan) {
            let paced = at.wall.after(due.saturating_duration_since(now));
            ledger.pace(endpoint, Some(paced));
            self.wake(due, endpoint);
            return Turn::Idle;
        }
        // Whoever never answered 2xx, or fails, counts among the retries with all it has: however many there are, they
        // leave a quarter to healthy endpoints.
        let probation = ledger
            .subscriber(endpoint)
            .is_some_and(|subscriber| health::on_probation(&subscriber.health));
        let take = |class| self.permits.try_take(endpoint, class);
        let for_fresh = || take(Class::Fresh).filter(|_| !probation);
        let Some(room) = take(Class::Retry).or_else(for_fresh) else {
            return Turn::NoRoom;
        };
        let allowed = |class| class == Class::Fresh || room.class() == Class::Retry;
        let job = match replay {
            Some(replay) if room.class() == Class::Retry => ledger.start_replay(replay),
            Some(_) => None,
            None => ledger.start(endpoint, now, allowed),
        };
        let Some(job) = job else {
            return Turn::NoRoom;
        };
        let replay = replay.and_then(|replay| self.replays.of(ledger, replay));
        if let Some(until) = pace.take_within(replay.as_ref(), Count::Plan) {
            // It was let go just now, and nobody else takes from it in between; its gate would hold it anyway.
            debug_assert!(false, "a permit vanished until {until:?}");
        }
        let room = if probation || job.class == Class::Retry {
            room
        } else {
            room.for_fresh()
        };
        let room = room.begin();
        Turn::Go(Box::new(Go {
            job,
            pace,
            room,
            replay,
        }))
    }

    /// Of which replay an endpoint's next delivery is: none when nothing of them may be sent now.
    fn next_replay(&mut self, ledger: &Ledger, endpoint: EndpointId) -> Option<ReplayId> {
        for replay in ledger.replays_ready(endpoint) {
            match self.replays.ask(ledger, replay) {
                May::Now => return Some(replay),
                May::WakeAt(at) => self.wake(at, endpoint),
                May::Waits => {}
            }
        }
        None
    }
}
