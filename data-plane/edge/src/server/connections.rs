//! Every open connection, what it is doing, and until when it may: time limits and the limit on their number.
//!
//! It knows nothing of HTTP; the stream tells it when bytes come and go, the service when a request is there.
//! One sweep over all connections a few times a second replaces a timer per connection, which hyper would
//! allocate anew for each request. Invariants: a connection that is not answering a request has a deadline; a
//! connection's time to send a head or to take an answer does not start again with each byte; when connections
//! run out, the busiest address prefix loses those that are not being answered first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client_address::truncate;
use crate::measures::Measures;

/// No deadline.
const NEVER: u64 = u64::MAX;

/// Connections closed at once when there is no place: so that the search for them is not made for each new one.
const EVICTED_AT_ONCE: usize = 16;

/// How long a connection may do what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionTimes {
    /// From the first byte of a request (or the connection's beginning) to the end of its head.
    pub(crate) head: Duration,
    /// From an answer to the first byte of the next request.
    pub(crate) idle: Duration,
    /// From the first byte of an answer that the client's window did not take, to its last.
    pub(crate) write: Duration,
    /// From the end of our answers to the client's: so that a reset does not overtake the answer.
    pub(crate) linger: Duration,
}

impl ConnectionTimes {
    fn sweep_interval(&self) -> Duration {
        let shortest = self.head.min(self.idle).min(self.write).min(self.linger);
        (shortest / 8).clamp(Duration::from_millis(5), Duration::from_millis(250))
    }
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// The client owes us a head.
    Head,
    /// We owe the client an answer.
    Answering,
    /// Nobody owes anybody anything.
    Idle,
    /// We have said goodbye.
    Closing,
}

impl Phase {
    fn of(number: u8) -> Self {
        match number {
            0 => Phase::Head,
            1 => Phase::Answering,
            2 => Phase::Idle,
            _ => Phase::Closing,
        }
    }
}

/// What the connection's task is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Order {
    /// Go on.
    None,
    /// Answer what is being answered, then close.
    Drain,
    /// Close at once.
    Cut,
}

/// One connection's state, shared by its stream, its service and the sweep.
#[derive(Debug)]
pub(crate) struct Connection {
    phase: AtomicU8,
    /// Milliseconds of the table's clock at which the phase must have ended.
    deadline_ms: AtomicU64,
    write_deadline_ms: AtomicU64,
    /// Since when it has been in its phase.
    since_ms: AtomicU64,
    unread_body: AtomicBool,
    /// Requests whose heads were given to the service.
    requests: AtomicU64,
    /// Which of them, from 0, declares two lengths: the first one that does. [`NEVER`] while none has.
    conflicting: AtomicU64,
    order: AtomicU8,
    ordered: Notify,
    clock: Arc<SweepClock>,
}

/// Milliseconds since the server's start, as of the last sweep.
#[derive(Debug)]
struct SweepClock {
    now_ms: AtomicU64,
    times: ConnectionTimes,
    interval: Duration,
}

impl SweepClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    /// One interval later than asked for, since `now_ms` may be as much behind.
    fn deadline_ms(&self, time: Duration) -> u64 {
        self.now_ms()
            .saturating_add(millis(time))
            .saturating_add(millis(self.interval))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER)
}

impl Connection {
    fn new(clock: Arc<SweepClock>) -> Self {
        let deadline_ms = clock.deadline_ms(clock.times.head);
        Self {
            phase: AtomicU8::new(Phase::Head as u8),
            deadline_ms: AtomicU64::new(deadline_ms),
            write_deadline_ms: AtomicU64::new(NEVER),
            since_ms: AtomicU64::new(clock.now_ms()),
            unread_body: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            conflicting: AtomicU64::new(NEVER),
            order: AtomicU8::new(Order::None as u8),
            ordered: Notify::new(),
            clock,
        }
    }

    fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Relaxed))
    }

    fn enter(&self, phase: Phase, deadline_ms: u64) {
        self.deadline_ms.store(deadline_ms, Ordering::Relaxed);
        self.since_ms.store(self.clock.now_ms(), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Bytes came in: the first ones after an answer begin a head.
    pub(crate) fn on_bytes_read(&self) {
        if self.phase() == Phase::Idle {
            self.enter(Phase::Head, self.clock.deadline_ms(self.clock.times.head));
        }
    }

    /// The head at this place among the connection's, from 0, declares two lengths.
    pub(crate) fn on_conflicting_lengths(&self, place: u64) {
        self.conflicting.fetch_min(place, Ordering::Relaxed);
    }

    /// A whole head is there. The handler bounds its own time. Returns whether it declares two lengths.
    pub(crate) fn on_request(&self, has_body: bool) -> bool {
        self.enter(Phase::Answering, NEVER);
        if has_body {
            self.unread_body.store(true, Ordering::Relaxed);
        }
        let place = self.requests.fetch_add(1, Ordering::Relaxed);
        place == self.conflicting.load(Ordering::Relaxed)
    }

    /// The client does not take what we write.
    pub(crate) fn on_write_blocked(&self) {
        if self.write_deadline_ms.load(Ordering::Relaxed) == NEVER {
            let deadline_ms = self.clock.deadline_ms(self.clock.times.write);
            self.write_deadline_ms.store(deadline_ms, Ordering::Relaxed);
        }
    }

    /// All that was to be written is written.
    pub(crate) fn on_flushed(&self) {
        self.write_deadline_ms.store(NEVER, Ordering::Relaxed);
        if self.phase() == Phase::Answering {
            self.enter(Phase::Idle, self.clock.deadline_ms(self.clock.times.idle));
        }
    }

    /// We close. Returns whether the client may still be sending, so that a plain close would reset the
    /// connection before it has read our answer.
    pub(crate) fn on_shutdown(&self) -> bool {
        let sending = self.phase() == Phase::Head || self.unread_body.load(Ordering::Relaxed);
        if self.phase() != Phase::Closing {
            self.enter(Phase::Closing, self.clock.deadline_ms(self.clock.times.linger));
        }
        sending
    }

    fn tell(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::Relaxed);
        self.ordered.notify_one();
    }

    /// Waits until something is ordered, and says what.
    pub(crate) async fn order(&self) -> Order {
        self.ordered.notified().await;
        match self.order.load(Ordering::Relaxed) {
            0 => Order::None,
            1 => Order::Drain,
            _ => Order::Cut,
        }
    }

    fn is_overdue(&self, now_ms: u64) -> bool {
        now_ms >= self.deadline_ms.load(Ordering::Relaxed)
            || now_ms >= self.write_deadline_ms.load(Ordering::Relaxed)
    }
}

/// A connection's place in the table, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    table: Arc<Connections>,
    prefix: IpAddr,
    id: u64,
    connection: Arc<Connection>,
}

impl Place {
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().remove(self.prefix, self.id);
        self.table.measures.connections.decrement(1.0);
    }
}

/// All open connections.
#[derive(Debug)]
pub(crate) struct Connections {
    inner: Mutex<Inner>,
    max: usize,
    clock: Arc<SweepClock>,
    started: Instant,
    measures: Arc<Measures>,
}

#[derive(Debug, Default)]
struct Inner {
    by_prefix: HashMap<IpAddr, HashMap<u64, Arc<Connection>>>,
    len: usize,
    next_id: u64,
}

impl Inner {
    fn remove(&mut self, prefix: IpAddr, id: u64) -> Option<Arc<Connection>> {
        let group = self.by_prefix.get_mut(&prefix)?;
        let connection = group.remove(&id)?;
        if group.is_empty() {
            self.by_prefix.remove(&prefix);
        }
        self.len -= 1;
        Some(connection)
    }

    /// Up to `count` connections that are not being answered: of the busiest prefix first, the longest waiting
    /// first.
    fn victims(&self, count: usize) -> Vec<(IpAddr, u64)> {
        let mut prefixes: Vec<_> = self.by_prefix.iter().collect();
        prefixes.sort_unstable_by_key(|(_, group)| Reverse(group.len()));
        let mut victims = Vec::new();
        for (prefix, group) in prefixes {
            let mut waiting: Vec<_> = group
                .iter()
                .filter(|(_, connection)| connection.phase() != Phase::Answering)
                .map(|(id, connection)| (connection.since_ms.load(Ordering::Relaxed), *id))
                .collect();
            waiting.sort_unstable();
            victims.extend(
                waiting
                    .iter()
                    .take(count - victims.len())
                    .map(|(_, id)| (*prefix, *id)),
            );
            if victims.len() == count {
                break;
            }
        }
        victims
    }
}

impl Connections {
    /// A table for at most `max` connections.
    pub(crate) fn new(max: usize, times: ConnectionTimes, measures: Arc<Measures>) -> Self {
        let interval = times.sweep_interval();
        let clock = Arc::new(SweepClock {
            now_ms: AtomicU64::new(0),
            times,
            interval,
        });
        Self {
            inner: Mutex::default(),
            max,
            clock,
            started: Instant::now(),
            measures,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic runs under the lock in a half-done state.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.lock().len
    }

    /// A place for a new connection from this address, made by closing others if need be; `None` when every
    /// connection is being answered.
    pub(crate) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let mut inner = self.lock();
        if inner.len >= self.max && Self::evict(&mut inner, &self.measures) == 0 {
            return None;
        }
        let prefix = truncate(peer);
        let id = inner.next_id;
        inner.next_id += 1;
        let connection = Arc::new(Connection::new(self.clock.clone()));
        inner
            .by_prefix
            .entry(prefix)
            .or_default()
            .insert(id, connection.clone());
        inner.len += 1;
        self.measures.connections.increment(1.0);
        Some(Place {
            table: self.clone(),
            prefix,
            id,
            connection,
        })
    }

    /// Closes some connections that are not being answered, to free file descriptors.
    pub(crate) fn relieve(&self) {
        Self::evict(&mut self.lock(), &self.measures);
    }

    fn evict(inner: &mut Inner, measures: &Measures) -> usize {
        let victims = inner.victims(EVICTED_AT_ONCE.min(inner.len.div_ceil(8)));
        for (prefix, id) in &victims {
            if let Some(connection) = inner.remove(*prefix, *id) {
                connection.tell(Order::Cut);
                measures.connections_evicted.increment(1);
            }
        }
        victims.len()
    }

    fn tell_all(&self, order: Order) {
        for connection in self.lock().by_prefix.values().flat_map(HashMap::values) {
            connection.tell(order);
        }
    }

    /// Tells every connection to end after the answer it owes.
    pub(crate) fn drain(&self) {
        self.tell_all(Order::Drain);
    }

    /// Tells every connection to end at once.
    pub(crate) fn cut(&self) {
        self.tell_all(Order::Cut);
    }

    /// Moves the clock and cuts what is overdue.
    fn sweep(&self) {
        let now_ms = millis(self.started.elapsed());
        self.clock.now_ms.store(now_ms, Ordering::Relaxed);
        for connection in self.lock().by_prefix.values().flat_map(HashMap::values) {
            if connection.is_overdue(now_ms) {
                self.measures.connections_timed_out.increment(1);
                connection.deadline_ms.store(NEVER, Ordering::Relaxed);
                connection.write_deadline_ms.store(NEVER, Ordering::Relaxed);
                connection.tell(Order::Cut);
            }
        }
    }

    /// Sweeps until dropped.
    pub(crate) async fn keep_sweeping(&self) {
        let mut interval = tokio::time::interval(self.clock.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.sweep();
        }
    }
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
