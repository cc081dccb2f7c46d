//! The shard-wide cap of open exchanges, and how endpoints share it.
//!
//! - Retries, and all of those that are on probation, take at most three quarters: a fresh event for a healthy endpoint
//!   finds room however many black holes are being probed.
//! - The last eighth is for endpoints that have nothing under way. So receivers that answer well and slowly, each with many
//!   exchanges at once, cannot hold up those that need one.
//! - Once half is used, an endpoint takes no more than its share, the same for all that have something under way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use qrelay_store::id::EndpointId;
use tokio::sync::watch;

use crate::queue::Class;

/// Less would leave parts of the cap empty.
const EXCHANGES_MIN: usize = 8;

/// The cap.
#[derive(Clone, Debug)]
pub struct Permits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    used: Mutex<Used>,
    freed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Used {
    all: usize,
    retries: usize,
    by_endpoint: HashMap<EndpointId, usize>,
}

/// Room for one exchange; given back when dropped.
#[derive(Debug)]
pub struct Room {
    shared: Arc<Shared>,
    endpoint: EndpointId,
    class: Class,
    begun: bool,
}

impl Room {
    /// An exchange begins: giving the room back is news. (Room that was only looked at would keep waking those who wait.)
    #[must_use]
    pub fn begin(mut self) -> Self {
        self.begun = true;
        self
    }

    /// For what it was taken. What a retry may use, a fresh event may use too.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The same room, without its place among the retries.
    #[must_use]
    pub fn for_fresh(mut self) -> Self {
        if self.class == Class::Retry {
            self.class = Class::Fresh;
            self.shared.used().retries -= 1;
        }
        self
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut used = self.shared.used();
        used.all -= 1;
        used.retries -= usize::from(self.class == Class::Retry);
        if let Some(count) = used.by_endpoint.get_mut(&self.endpoint) {
            *count -= 1;
            if *count == 0 {
                used.by_endpoint.remove(&self.endpoint);
            }
        }
        // First the room, then the news of it.
        drop(used);
        if self.begun {
            self.shared.freed.send_modify(|count| *count += 1);
        }
    }
}

impl Shared {
    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, used: &Used, endpoint: EndpointId, class: Class) -> bool {
        if used.all >= self.max || (class == Class::Retry && used.retries >= self.max / 4 * 3) {
            return false;
        }
        let for_more = self.max / 8 * 7;
        match used.by_endpoint.get(&endpoint) {
            None => true,
            Some(_) if used.all < self.max / 2 => true,
            Some(mine) => used.all < for_more && *mine < for_more / used.by_endpoint.len(),
        }
    }
}

impl Permits {
    /// At most `exchanges_max` at once (at least 8).
    pub fn new(exchanges_max: usize) -> Self {
        Self(Arc::new(Shared {
            max: exchanges_max.max(EXCHANGES_MIN),
            used: Mutex::default(),
            freed: watch::Sender::new(0),
        }))
    }

    /// Room for an exchange of an endpoint, if there is some.
    pub fn try_take(&self, endpoint: EndpointId, class: Class) -> Option<Room> {
        let mut used = self.0.used();
        if !self.0.has_room(&used, endpoint, class) {
            return None;
        }
        used.all += 1;
        used.retries += usize::from(class == Class::Retry);
        *used.by_endpoint.entry(endpoint).or_default() += 1;
        drop(used);
        Some(Room {
            shared: Arc::clone(&self.0),
            endpoint,
            class,
            begun: false,
        })
    }

    /// Whether [`Self::try_take`] would find room, for one class or another. Cheaper, and takes none.
    pub fn has_any(&self, endpoint: EndpointId) -> bool {
        let used = self.0.used();
        // What a retry may use, a fresh event may use too.
        self.0.has_room(&used, endpoint, Class::Fresh)
    }

    /// Changes whenever room is given back.
    pub fn freed(&self) -> watch::Receiver<u64> {
        self.0.freed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: u8) -> EndpointId {
        EndpointId::from_bytes([number; 10])
    }

    /// As many as each of these endpoints can get.
    fn take_all(permits: &Permits, endpoints: std::ops::Range<u8>, class: Class) -> Vec<Room> {
        let mut rooms = Vec::new();
        let mut take = |number| {
            let room = permits.try_take(endpoint(number), class);
            let some = room.is_some();
            rooms.extend(room.map(Room::begin));
            some
        };
        while endpoints.clone().filter(|number| take(*number)).count() > 0 {}
        rooms
    }

    #[tokio::test]
    async fn retries_leave_a_quarter_to_fresh_events() {
        let permits = Permits::new(64);
        let mut freed = permits.freed();
        let retries = take_all(&permits, 0..100, Class::Retry);
        assert_eq!(retries.len(), 48);
        let fresh = take_all(&permits, 100..200, Class::Fresh);
        assert_eq!(fresh.len(), 16);
        assert!(permits.try_take(endpoint(200), Class::Fresh).is_none());
        drop(retries);
        freed.changed().await.unwrap();
        let now_fresh = permits.try_take(endpoint(0), Class::Retry).unwrap().for_fresh();
        assert_eq!(now_fresh.class(), Class::Fresh);
        drop(fresh);
        let retries = take_all(&permits, 1..100, Class::Retry);
        assert_eq!(retries.len(), 48, "it has no place among the retries any more");
    }

    #[test]
    fn the_last_eighth_is_for_endpoints_that_have_nothing_under_way() {
        let permits = Permits::new(64);
        let greedy = take_all(&permits, 0..4, Class::Fresh);
        assert_eq!(greedy.len(), 56);
        let modest = take_all(&permits, 4..100, Class::Fresh);
        assert_eq!(modest.len(), 8, "one each");
        let endpoints: std::collections::HashSet<_> = modest.iter().map(|room| room.endpoint).collect();
        assert_eq!(endpoints.len(), 8);
    }

    #[test]
    fn once_half_is_used_each_takes_its_share_and_alone_an_endpoint_takes_most() {
        let permits = Permits::new(64);
        assert_eq!(take_all(&permits, 0..1, Class::Fresh).len(), 56);
        let first = (0..40).map_while(|_| permits.try_take(endpoint(0), Class::Fresh));
        let first: Vec<_> = first.collect();
        let second: Vec<_> = std::iter::from_fn(|| permits.try_take(endpoint(1), Class::Fresh)).collect();
        assert_eq!(
            (first.len(), second.len()),
            (40, 16),
            "what is free below the last eighth"
        );
        assert!(permits.try_take(endpoint(0), Class::Fresh).is_none());
        drop(first);
        let third: Vec<_> = std::iter::from_fn(|| permits.try_take(endpoint(2), Class::Fresh)).collect();
        assert_eq!(third.len(), 28, "no more than half of seven eighths");
        drop((second, third));
        assert!(permits.0.used().by_endpoint.is_empty() && permits.0.used().all == 0);
    }
}
