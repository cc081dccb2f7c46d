//! Replays: the events of a range, sent again beside the live ones.
//!
//! A replay is a run with an end: it walks the log from a time on and makes each event that its endpoint wants an
//! outstanding delivery that names it. Its position moves in the very save that holds those deliveries in a chunk, and
//! nothing is sent before: so a crash repeats little, and loses nothing.
//!
//! It never touches the live run. It takes only batches that the saved cursor of the run that feeds the endpoint has
//! passed, so that nothing which that run may read again depends on a replay. What that run has not read yet is left to
//! it; what is between the two waits. An event that is still on its way to the endpoint is not sent twice, and no longer
//! waits for its next attempt. Of two replays of the same events the later one waits until the earlier one has sent them.
//!
//! Live deliveries go first: a replay's stand in a line of their own, from which the endpoint is served when it has
//! nothing else to send, within a part of its concurrency.

use std::collections::BTreeSet;

use qrelay_store::{
    Timestamp,
    checkpoint::{ReplayPosition, ReplayRange, ReplayRow, ReplayState},
    id::{EndpointId, EventAddress, ReplayId},
    limits::{REPLAY_WINDOW, REPLAYS_KEPT, REPLAYS_UNDER_WAY_MAX},
    store::{DeliveryStatus, KnownDelivery},
};
use tokio::time::Instant;

use super::{
    Delivery, Ledger, Phase, Subscriber,
    feed::{Moment, Seen, SeenBatch},
    sending::Job,
    skip::may_skip,
};
use crate::{outstanding::Part, queue::Class, usage::Succeeded};

/// What a replay's read brought: a batch, or nothing but news of how far there is none.
#[derive(Clone, Debug)]
pub struct ReplayStep {
    /// The batch, with those of its events that are for the endpoint and in the range.
    pub seen: Option<SeenBatch>,
    /// What became of them, as the attempt log says.
    pub known: Vec<KnownDelivery>,
    /// How far this reads; what was found so far is not looked at.
    pub upto: ReplayPosition,
}

/// What became of a wish for a replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    /// It is under way, or was.
    Taken,
    /// As many are under way as may be.
    TooMany,
    /// The endpoint is gone.
    Gone,
}

/// A replay of one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Replay {
    row: ReplayRow,
    /// How far it has read. The row's position follows once what was found up to there is saved.
    read: ReplayPosition,
    due: BTreeSet<EventAddress>,
    waiting: BTreeSet<(Instant, EventAddress)>,
    /// Deliveries that are not over; those among them of which no attempt was made for it; those in no saved chunk.
    open: usize,
    unsent: usize,
    pub(super) unsaved: usize,
    in_flight: u32,
}

impl Replay {
    fn new(row: ReplayRow) -> Self {
        Self {
            read: row.position,
            row,
            due: BTreeSet::new(),
            waiting: BTreeSet::new(),
            open: 0,
            unsent: 0,
            unsaved: 0,
            in_flight: 0,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.row.state == ReplayState::Running
    }

    fn has_read_all(&self) -> bool {
        self.read.config_read && self.read.log_read
    }

    fn ripen(&mut self, now: Instant) {
        while let Some(&(at, event)) = self.waiting.first() {
            if at > now {
                break;
            }
            self.waiting.pop_first();
            self.due.insert(event);
        }
    }

    fn hasten(&mut self, event: EventAddress) {
        let at = self.waiting.iter().find(|(_, waiting)| *waiting == event);
        if let Some(at) = at.copied() {
            self.waiting.remove(&at);
            self.due.insert(event);
        }
    }

    /// After a crash some deliveries are sent again that were counted: what is open decides.
    fn recount(&mut self) {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let found = self.row.position.found;
        self.row.sent = found.saturating_sub(number(self.unsent));
        let over = found.saturating_sub(number(self.open));
        self.row.failed = self.row.failed.min(over);
        self.row.succeeded = self.row.succeeded.min(over - self.row.failed);
    }

    /// The row to save. `complete`: all that it found is saved, or is in the same save.
    pub(super) fn row_now(&self, complete: bool) -> ReplayRow {
        let mut row = self.row.clone();
        if complete {
            row.position = self.read;
        }
        row
    }
}

impl Subscriber {
    /// Lets a delivery wait in its line.
    pub(super) fn wait(&mut self, part: Option<Part>, event: EventAddress, at: Instant) {
        match part.and_then(|part| self.replays.get_mut(&part.of)) {
            Some(replay) => {
                replay.waiting.insert((at, event));
            }
            None => self.queue.push_waiting(event, at),
        }
    }

    /// Puts a delivery among those that are due, in its line.
    pub(super) fn line_up(&mut self, part: Option<Part>, event: EventAddress) {
        match part.and_then(|part| self.replays.get_mut(&part.of)) {
            Some(replay) => {
                replay.due.insert(event);
            }
            None => self.queue.push_due(event),
        }
    }

    /// Moves a delivery that waits for its time to those that are due, in its line.
    pub(super) fn hasten(&mut self, part: Option<Part>, event: EventAddress) {
        match part.and_then(|part| self.replays.get_mut(&part.of)) {
            Some(replay) => replay.hasten(event),
            None => self.queue.hasten(event),
        }
    }

    /// Attempts of replays that may be under way at once: a quarter is left to live events, if there is more than one.
    fn replay_concurrency(&self) -> u32 {
        (self.concurrency() / 4 * 3).max(self.concurrency() / 2).max(1)
    }

    /// When the next delivery of a replay is due.
    pub(super) fn replay_due(&self) -> Option<Instant> {
        let first = |replay: &Replay| replay.waiting.first().map(|(at, _)| *at);
        self.replays.values().filter_map(first).min()
    }

    pub(super) fn ripen_replays(&mut self, now: Instant) {
        self.replays.values_mut().for_each(|replay| replay.ripen(now));
    }

    /// An attempt of a delivery came back; `made`: it was one.
    pub(super) fn replay_returned(&mut self, event: EventAddress, made: bool) {
        let Some(part) = self
            .deliveries
            .get_mut(&event)
            .and_then(|delivery| delivery.replay.as_mut())
        else {
            return;
        };
        let first = made && !part.sent;
        part.sent |= made;
        if let Some(replay) = self.replays.get_mut(&part.of) {
            replay.in_flight = replay.in_flight.saturating_sub(1);
            if first {
                replay.unsent -= 1;
                replay.row.sent += 1;
            }
        }
    }

    /// A delivery that is not over leaves its replay: a wish for it alone must not end with the replay. Returns which.
    pub(super) fn leave_replay(&mut self, event: EventAddress) -> Option<ReplayId> {
        let delivery = self.deliveries.get_mut(&event)?;
        if matches!(delivery.phase, Phase::Recording(_)) {
            return None;
        }
        let part = delivery.replay.take()?;
        delivery.revision += 1;
        let Some(replay) = self.replays.get_mut(&part.of) else {
            return Some(part.of);
        };
        replay.open -= 1;
        replay.unsent -= usize::from(!part.sent);
        replay.unsaved -= usize::from(delivery.recalled);
        replay.in_flight -= u32::from(delivery.phase == Phase::InFlight);
        replay.row.sent = replay.row.sent.saturating_sub(u64::from(part.sent));
        replay.read.found = replay.read.found.saturating_sub(1);
        replay.read.skipped += 1;
        let waits = replay.waiting.iter().find(|(_, waiting)| *waiting == event);
        if replay.due.remove(&event) {
            self.queue.push_due(event);
        } else if let Some(waits) = waits.copied() {
            replay.waiting.remove(&waits);
            self.queue.push_waiting(event, waits.0);
        }
        Some(part.of)
    }

    /// A delivery that came back is saved.
    pub(super) fn replay_saved(&mut self, part: Option<Part>) {
        if let Some(replay) = part.and_then(|part| self.replays.get_mut(&part.of)) {
            replay.unsaved -= 1;
        }
    }

    /// A delivery is over.
    pub(super) fn replay_over(&mut self, part: Part, succeeded: Succeeded) {
        if let Some(replay) = self.replays.get_mut(&part.of) {
            replay.open -= 1;
            replay.unsent -= usize::from(!part.sent);
            match succeeded {
                Succeeded::Yes => replay.row.succeeded += 1,
                Succeeded::No => replay.row.failed += 1,
            }
        }
    }
}

impl Ledger {
    /// Begins a replay, or finds it begun.
    pub fn begin_replay(&mut self, id: ReplayId, range: ReplayRange, wall: Timestamp) -> Begun {
        let subscriber = self.subscribers.get_mut(&id.endpoint());
        let Some(subscriber) = subscriber.filter(|subscriber| !subscriber.removed) else {
            return Begun::Gone;
        };
        if subscriber.replays.contains_key(&id) {
            return Begun::Taken;
        }
        let running = subscriber.replays.values().filter(|replay| replay.is_running());
        if running.count() >= REPLAYS_UNDER_WAY_MAX {
            return Begun::TooMany;
        }
        let row = ReplayRow {
            range,
            created_at: wall,
            state: ReplayState::Running,
            ended_at: None,
            position: ReplayPosition::default(),
            sent: 0,
            succeeded: 0,
            failed: 0,
        };
        subscriber.replays.insert(id, Replay::new(row));
        self.replays_running.insert(id);
        self.replays_changed.insert(id);
        self.forget_old_replays(id.endpoint());
        Begun::Taken
    }

    /// Ends a replay: nothing more of it is sent but what it began, which goes on like any other delivery.
    pub fn cancel_replay(&mut self, id: ReplayId, wall: Timestamp) {
        let endpoint = id.endpoint();
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return;
        };
        let Some(replay) = subscriber
            .replays
            .get_mut(&id)
            .filter(|replay| replay.is_running())
        else {
            return;
        };
        replay.row.state = ReplayState::Cancelled;
        replay.row.ended_at = Some(wall);
        (replay.open, replay.unsent, replay.unsaved, replay.in_flight) = (0, 0, 0, 0);
        let (due, waiting) = (
            std::mem::take(&mut replay.due),
            std::mem::take(&mut replay.waiting),
        );
        let mut dropped = Vec::new();
        for (event, delivery) in &mut subscriber.deliveries {
            let Some(part) = delivery.replay.take_if(|part| part.of == id) else {
                continue;
            };
            if !part.sent && delivery.phase == Phase::Waiting {
                // Over, without an outcome.
                delivery.phase = Phase::Recording(Succeeded::No);
                dropped.push(*event);
            }
        }
        let goes_on = |subscriber: &Subscriber, event: &EventAddress| {
            let delivery = subscriber.deliveries.get(event);
            delivery.is_some_and(|delivery| delivery.phase == Phase::Waiting)
        };
        for event in due {
            if goes_on(subscriber, &event) {
                subscriber.queue.push_due(event);
            }
        }
        for (at, event) in waiting {
            if goes_on(subscriber, &event) {
                subscriber.queue.push_waiting(event, at);
            }
        }
        dropped
            .into_iter()
            .for_each(|event| self.complete(endpoint, event));
        self.replays_running.remove(&id);
        self.replays_changed.insert(id);
        self.woken.insert(endpoint);
        self.forget_old_replays(endpoint);
    }

    /// Notes which replays have come to their end.
    pub fn end_replays(&mut self, wall: Timestamp) {
        let over = |id: &ReplayId| {
            self.replay(*id)
                .is_none_or(|replay| replay.has_read_all() && replay.open == 0)
        };
        let over: Vec<_> = self.replays_running.iter().copied().filter(over).collect();
        for id in over {
            self.replays_running.remove(&id);
            if let Some(replay) = self.replay_mut(id) {
                replay.row.state = ReplayState::Done;
                replay.row.ended_at = Some(wall);
            }
            self.replays_changed.insert(id);
            self.forget_old_replays(id.endpoint());
        }
    }

    /// Only so many that are over are remembered.
    fn forget_old_replays(&mut self, endpoint: EndpointId) {
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return;
        };
        let ended = |(id, replay): (&ReplayId, &Replay)| replay.row.ended_at.map(|at| (at, *id));
        let mut over: Vec<_> = subscriber.replays.iter().filter_map(ended).collect();
        over.sort_unstable();
        let surplus = over.len().saturating_sub(REPLAYS_KEPT);
        for (_, id) in over.into_iter().take(surplus) {
            subscriber.replays.remove(&id);
            self.replays_changed.insert(id);
        }
    }

    /// The store has a replay's position.
    pub(super) fn replay_kept(&mut self, id: ReplayId, position: ReplayPosition) {
        if let Some(replay) = self.replay_mut(id) {
            replay.row.position = position;
        }
    }

    pub(super) fn replay(&self, id: ReplayId) -> Option<&Replay> {
        self.subscribers.get(&id.endpoint())?.replays.get(&id)
    }

    fn replay_mut(&mut self, id: ReplayId) -> Option<&mut Replay> {
        self.subscribers.get_mut(&id.endpoint())?.replays.get_mut(&id)
    }

    /// Replays under way.
    pub fn replays_running(&self) -> impl ExactSizeIterator<Item = ReplayId> + '_ {
        self.replays_running.iter().copied()
    }

    /// What a replay was asked to send, while it is under way.
    pub fn replay_range(&self, id: ReplayId) -> Option<ReplayRange> {
        let replay = self.replay(id).filter(|replay| replay.is_running())?;
        Some(replay.row.range)
    }

    /// Whether the store has a replay's row, as one that is over if it is.
    pub fn keeps_replay(&self, id: ReplayId) -> bool {
        let Some(row) = self.replay_rows.get(&id) else {
            return self.replay(id).is_none();
        };
        let over = self.replay(id).is_some_and(|replay| !replay.is_running());
        !over || serde_json::from_str::<ReplayRow>(row).is_ok_and(|row| row.state != ReplayState::Running)
    }

    /// From where a replay should read on. None when it has enough, may not send, or is at its end.
    pub fn replay_wants(&self, id: ReplayId, now: Instant) -> Option<ReplayPosition> {
        let subscriber = self.subscriber(id.endpoint())?;
        let replay = subscriber.replays.get(&id).filter(|replay| replay.is_running())?;
        let enough = replay.has_read_all()
            || replay.unsaved > 0
            || replay.unsent >= REPLAY_WINDOW / 2
            || subscriber.deliveries.len() >= self.undone_max() / 2;
        let may_send = !subscriber.is_blocked() && subscriber.held_until().is_none_or(|until| until <= now);
        (may_send && !enough).then_some(replay.read)
    }

    /// Takes in what a replay read. Says whether it took all of it; what it left is to be read again, a little later.
    pub fn feed_replay(&mut self, id: ReplayId, steps: Vec<ReplayStep>, at: Moment) -> bool {
        steps.into_iter().all(|step| self.feed_step(id, step, at))
    }

    fn feed_step(&mut self, id: ReplayId, step: ReplayStep, at: Moment) -> bool {
        let endpoint = id.endpoint();
        let Some(range) = self.replay_range(id) else {
            return true;
        };
        let (mut found, mut skipped) = (0, 0);
        if let Some(batch) = &step.seen {
            let skipper = self
                .subscribers
                .get(&endpoint)
                .map(|it| std::sync::Arc::clone(&it.config));
            let run = self.run_of(endpoint);
            let (saved, read) = (run.saved.at(batch.stream), run.read.at(batch.stream));
            let skips = |event: &Seen| {
                skipper
                    .as_ref()
                    .is_some_and(|it| it.skips(event.recorded_at, at.wall))
            };
            if self.replay_must_wait(id, batch, at.wall) {
                return false;
            } else if batch.seq > read && batch.events.iter().any(skips) {
                // The live run passes over them.
                return false;
            } else if batch.seq > read {
                // The live run comes to them.
                skipped = if range.only_failed { 0 } else { batch.events.len() };
            } else if batch.seq > saved {
                return false;
            } else {
                for event in &batch.events {
                    let known = step.known.iter().find(|known| known.index == event.index);
                    let failed = known.is_some_and(|known| known.status == DeliveryStatus::GivenUp);
                    if range.only_failed && !failed {
                        continue;
                    }
                    let address = batch.stream.address(batch.seq, event.index);
                    match self.admit_replayed(id, address, event, known, at) {
                        Admitted::Found => found += 1,
                        Admitted::OnItsWay => skipped += 1,
                    }
                }
            }
        }
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        if let Some(replay) = self.replay_mut(id) {
            replay.read = ReplayPosition {
                found: replay.read.found + number(found),
                skipped: replay.read.skipped + number(skipped),
                ..step.upto
            };
        }
        self.replays_changed.insert(id);
        true
    }

    /// Whether nobody can say yet what is to be done with one of a batch's events: its end is just being recorded, or will be
    /// because its endpoint skips it; or another replay has it before it, which drops it if it is cancelled. So also where the
    /// live run is not there yet: after a crash it meets what was asked for by hand, and leaves it alone.
    fn replay_must_wait(&self, id: ReplayId, batch: &SeenBatch, wall: Timestamp) -> bool {
        let Some(subscriber) = self.subscribers.get(&id.endpoint()) else {
            return false;
        };
        batch.events.iter().any(|event| {
            let address = batch.stream.address(batch.seq, event.index);
            subscriber.deliveries.get(&address).is_some_and(|delivery| {
                matches!(delivery.phase, Phase::Recording(_))
                    || may_skip(delivery, &subscriber.config, wall)
                    || delivery.replay.is_some_and(|part| part.of != id && !part.sent)
            })
        })
    }

    fn admit_replayed(
        &mut self,
        id: ReplayId,
        event: EventAddress,
        seen: &Seen,
        known: Option<&KnownDelivery>,
        at: Moment,
    ) -> Admitted {
        let endpoint = id.endpoint();
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return Admitted::OnItsWay;
        };
        if let Some(delivery) = subscriber.deliveries.get_mut(&event) {
            if delivery.phase == Phase::Waiting && delivery.due > at.wall && !delivery.recalled {
                delivery.due = at.wall;
                delivery.revision += 1;
                if delivery.saved.is_some() {
                    self.dirty.insert((endpoint, event));
                }
                let part = delivery.replay;
                subscriber.hasten(part, event);
                self.woken.insert(endpoint);
            }
            return Admitted::OnItsWay;
        }
        let delivery = Delivery {
            event_type: seen.event_type,
            // When it was recorded says nothing any more of how long it waits.
            recorded_at: at.wall,
            code: None,
            attempts: known.map_or(0, |known| known.attempts),
            first_at: known.map(|known| known.first_at),
            due: at.wall,
            phase: Phase::Waiting,
            revision: 0,
            saved: None,
            recalled: true,
            replay: Some(Part { of: id, sent: false }),
        };
        subscriber.deliveries.insert(event, delivery);
        if let Some(replay) = subscriber.replays.get_mut(&id) {
            replay.open += 1;
            replay.unsent += 1;
            replay.unsaved += 1;
        }
        self.undone += 1;
        self.recalled.insert((endpoint, event));
        Admitted::Found
    }

    /// Replays of an endpoint that have something to send now, were there room for it; whose turn it is first.
    pub fn replays_ready(&self, endpoint: EndpointId) -> Vec<ReplayId> {
        let Some(subscriber) = self.subscriber(endpoint) else {
            return Vec::new();
        };
        let busy: u32 = subscriber.replays.values().map(|replay| replay.in_flight).sum();
        if subscriber.is_blocked()
            || subscriber.hold.is_some()
            || subscriber.in_flight >= subscriber.concurrency()
            || busy >= subscriber.replay_concurrency()
        {
            return Vec::new();
        }
        let ready = |id: &ReplayId| subscriber.replays.get(id).is_some_and(|it| !it.due.is_empty());
        let ids = subscriber.replays.keys().copied().filter(ready);
        let (before, after): (Vec<_>, Vec<_>) = ids.partition(|id| Some(*id) <= subscriber.replay_last);
        after.into_iter().chain(before).collect()
    }

    /// Takes the next delivery of a replay that is ready.
    pub fn start_replay(&mut self, id: ReplayId) -> Option<Job> {
        let subscriber = self.subscribers.get_mut(&id.endpoint())?;
        let replay = subscriber.replays.get_mut(&id)?;
        let event = replay.due.pop_first()?;
        replay.in_flight += 1;
        subscriber.replay_last = Some(id);
        subscriber.in_flight += 1;
        let delivery = subscriber
            .deliveries
            .get_mut(&event)
            .expect("invariant: what stands in line is not done");
        delivery.phase = Phase::InFlight;
        Some(Job {
            endpoint: std::sync::Arc::clone(&subscriber.config),
            event,
            event_type: delivery.event_type,
            recorded_at: delivery.recorded_at,
            number: delivery.attempts + 1,
            first_at: delivery.first_at,
            class: Class::Retry,
        })
    }

    /// Takes in a replay's saved row.
    pub(super) fn load_replay(&mut self, id: ReplayId, row: ReplayRow) {
        let Some(subscriber) = self.subscribers.get_mut(&id.endpoint()) else {
            self.replays_changed.insert(id);
            return;
        };
        let replay = Replay::new(row);
        if replay.is_running() {
            self.replays_running.insert(id);
        }
        subscriber.replays.insert(id, replay);
    }

    /// What a saved delivery belongs to now: its replay while that is under way, and nothing if it was sent for one that
    /// is not. None: it is no longer owed.
    pub(super) fn load_part(subscriber: &mut Subscriber, part: Part) -> Option<Option<Part>> {
        let replay = subscriber.replays.get_mut(&part.of);
        match replay.filter(|replay| replay.is_running()) {
            Some(replay) => {
                replay.open += 1;
                replay.unsent += usize::from(!part.sent);
                Some(Some(part))
            }
            None if part.sent => Some(None),
            None => None,
        }
    }

    /// After all chunks were loaded.
    pub(super) fn recount_replays(&mut self) {
        for id in self.replays_running.clone() {
            if let Some(replay) = self.replay_mut(id) {
                replay.recount();
            }
        }
    }

    /// The endpoint is gone, and its replays with it.
    pub(super) fn forget_replays_of(&mut self, subscriber: &Subscriber) {
        for id in subscriber.replays.keys() {
            self.replays_running.remove(id);
            self.replays_changed.insert(*id);
        }
    }
}

/// What became of an event that a replay found.
enum Admitted {
    /// It is outstanding.
    Found,
    /// It was so already.
    OnItsWay,
}
