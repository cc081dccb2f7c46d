//! The shard-wide cap of open exchanges, with a share that only fresh events may use.
//!
//! Retries of many failing endpoints may take at most three quarters, so a fresh event for a healthy endpoint finds
//! room however many black holes are being probed.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The cap.
#[derive(Clone, Debug)]
pub struct Permits {
    all: Arc<Semaphore>,
    retries: Arc<Semaphore>,
    freed: watch::Sender<u64>,
}

/// Room for one exchange; given back when dropped.
#[derive(Debug)]
pub struct Room {
    held: Option<(OwnedSemaphorePermit, Option<RetryRoom>)>,
    used: bool,
    freed: watch::Sender<u64>,
}

/// A place among the retries; given back when dropped.
#[derive(Debug)]
pub struct RetryRoom(#[allow(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Room {
    /// It is used now: giving it back is news. (Room that was only looked at would keep waking those who wait.)
    #[must_use]
    pub fn begin(mut self) -> Self {
        self.used = true;
        self
    }

    /// The same room, for a retry.
    #[must_use]
    pub fn for_retry(mut self, retry: RetryRoom) -> Self {
        if let Some((_, held)) = &mut self.held {
            *held = Some(retry);
        }
        self
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // First the room, then the news of it.
        drop(self.held.take());
        if self.used {
            self.freed.send_modify(|count| *count += 1);
        }
    }
}

impl Permits {
    /// At most `exchanges_max` at once (at least 4).
    pub fn new(exchanges_max: usize) -> Self {
        let max = exchanges_max.clamp(4, Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(max)),
            retries: Arc::new(Semaphore::new(max / 4 * 3)),
            freed: watch::Sender::new(0),
        }
    }

    /// Room for an exchange, if there is some.
    pub fn try_take(&self) -> Option<Room> {
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Room {
            held: Some((all, None)),
            used: false,
            freed: self.freed.clone(),
        })
    }

    /// A place among the retries, for an exchange that has room already.
    pub fn try_take_retry(&self) -> Option<RetryRoom> {
        Arc::clone(&self.retries).try_acquire_owned().ok().map(RetryRoom)
    }

    /// Changes whenever room is given back.
    pub fn freed(&self) -> watch::Receiver<u64> {
        self.freed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn retries_leave_a_quarter_to_fresh_events() {
        let permits = Permits::new(8);
        let mut freed = permits.freed();
        let mut retry = || {
            let place = permits.try_take_retry()?;
            Some(permits.try_take()?.for_retry(place).begin())
        };
        let retries: Vec<_> = std::iter::from_fn(&mut retry).collect();
        assert_eq!(retries.len(), 6);
        let fresh: Vec<_> = std::iter::from_fn(|| permits.try_take()).collect();
        assert_eq!(fresh.len(), 2);
        drop(retries);
        freed.changed().await.unwrap();
        assert!(retry().is_some());
    }
}
