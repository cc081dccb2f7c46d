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
    all: Option<OwnedSemaphorePermit>,
    retry: Option<OwnedSemaphorePermit>,
    used: bool,
    freed: watch::Sender<u64>,
}

impl Room {
    /// It is used now: giving it back is news. (Room that was only looked at would keep waking those who wait.)
    #[must_use]
    pub fn begin(mut self) -> Self {
        self.used = true;
        self
    }

    /// Whether a retry may use it.
    pub fn is_for_retry(&self) -> bool {
        self.retry.is_some()
    }

    /// The same room, without its place among the retries.
    #[must_use]
    pub fn for_fresh(mut self) -> Self {
        self.retry = None;
        self
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // First the room, then the news of it.
        self.all = None;
        self.retry = None;
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

    /// Room for a fresh event, if there is some.
    pub fn try_take(&self) -> Option<Room> {
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Room {
            all: Some(all),
            retry: None,
            used: false,
            freed: self.freed.clone(),
        })
    }

    /// Room for anything, with a place among the retries.
    pub fn try_take_for_retry(&self) -> Option<Room> {
        let mut room = self.try_take()?;
        room.retry = Some(Arc::clone(&self.retries).try_acquire_owned().ok()?);
        Some(room)
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
        let mut retry = || Some(permits.try_take_for_retry()?.begin());
        let retries: Vec<_> = std::iter::from_fn(&mut retry).collect();
        assert_eq!(retries.len(), 6);
        let fresh: Vec<_> = std::iter::from_fn(|| permits.try_take()).collect();
        assert_eq!(fresh.len(), 2);
        drop(retries);
        freed.changed().await.unwrap();
        let fresh_after_all = retry().unwrap().for_fresh();
        assert!(!fresh_after_all.is_for_retry());
        drop(fresh);
        let retries: Vec<_> = std::iter::from_fn(&mut retry).collect();
        assert_eq!(retries.len(), 6, "it has no place among the retries any more");
    }
}
