//! Loads under way, one per key: whoever asks for a key that is being loaded waits for that load.
//!
//! A load is a task of its own, so that it ends (and tidies up) whoever stops waiting. Invariant: a key is in
//! the table exactly while its load runs, even if that panics.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::task::JoinHandle;

use super::{Found, LookupError};

/// A load that anybody may wait for.
pub(super) type Flight = Shared<BoxFuture<'static, Found>>;

type Table = Arc<Mutex<HashMap<Arc<str>, Flight>>>;

pub(super) struct Flights {
    table: Table,
    max: usize,
}

/// Takes a key out of the table when dropped.
pub(super) struct Landing {
    table: Table,
    key: Arc<str>,
}

impl Landing {
    /// The key being loaded.
    fn key(&self) -> Arc<str> {
        self.key.clone()
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.table).remove(&self.key);
    }
}

impl Flights {
    /// At most `max` keys at a time.
    pub(super) fn new(max: usize) -> Self {
        Self {
            table: Table::default(),
            max,
        }
    }

    /// The load of a key that is under way, or a new one; `None` when too many are. `load` is called at most
    /// once, and spawns the task.
    pub(super) fn join<L>(&self, key: &str, load: L) -> Option<Flight>
    where
        L: FnOnce(Ticket) -> JoinHandle<Found>,
    {
        let mut table = lock(&self.table);
        if let Some(flight) = table.get(key) {
            return Some(flight.clone());
        }
        if table.len() >= self.max {
            return None;
        }
        let key: Arc<str> = Arc::from(key);
        // The task cannot land before it is in the table: landing takes the lock that is held here.
        let task = load(Ticket(Landing {
            table: self.table.clone(),
            key: key.clone(),
        }));
        let flight = async move { task.await.unwrap_or(Err(LookupError::Failed)) }
            .boxed()
            .shared();
        table.insert(key, flight.clone());
        Some(flight)
    }
}

/// What a load's task holds while it runs.
pub(super) struct Ticket(Landing);

impl Ticket {
    /// Runs a load, and takes its key out of the table afterwards.
    pub(super) async fn fly<F, L>(self, load: L) -> Found
    where
        L: FnOnce(Arc<str>) -> F,
        F: Future<Output = Found>,
    {
        let landing = self.0;
        let found = load(landing.key()).await;
        drop(landing);
        found
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only whole insertions and removals happen under the lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
