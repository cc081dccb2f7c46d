//! Writers that others may close.
//!
//! A writer without a journal on a store that many share leaves nothing behind that proves it dead. So that others need not
//! wait for ever for what it may still append, it is fenced ([`crate::store::Log::fence_writer`]) and then closed where it
//! ends. In return it asks, after each append and before it acknowledges one, whether it was: what it acknowledged before a fence
//! is below its end, and after one it acknowledges nothing more. Then a new writer takes its place.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{Appender, Shared, lock};
use crate::{
    clock::SharedClock,
    store::{Batch, Result},
};

/// What a writer that others may close knows beside the rest.
#[derive(Debug)]
pub(super) struct Fence {
    /// Whether it was found to be fenced.
    found: AtomicBool,
    /// The writer that took its place last.
    next: Mutex<Option<Appender>>,
    /// Held by who starts it.
    turn: tokio::sync::Mutex<()>,
    settings: Settings,
}

/// How its like are started.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) clock: SharedClock,
    pub(super) node: String,
    pub(super) heads_period: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Settings")
    }
}

impl Fence {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            found: AtomicBool::new(false),
            next: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            settings,
        }
    }

    pub(super) fn next(&self) -> Option<Appender> {
        lock(&self.next).clone()
    }
}

impl Shared {
    /// Whether this writer was found to be fenced: it takes nothing more.
    pub(super) fn is_fenced(&self) -> bool {
        let fence = self.fence.as_ref();
        fence.is_some_and(|fence| fence.found.load(Ordering::Acquire))
    }

    /// Appends a batch. False when it may not be acknowledged, whether it is there or not.
    pub(super) async fn append(&self, batch: Batch) -> Result<bool> {
        self.store.0.append(batch).await?;
        let Some(fence) = &self.fence else {
            return Ok(true);
        };
        let fenced = self.store.0.is_fenced(self.writer).await?;
        if fenced && !fence.found.swap(true, Ordering::AcqRel) {
            tracing::warn!(writer = %self.writer, "this process was not heard of for a while, and another closed its writer; a new one takes its place");
        }
        Ok(!fenced)
    }
}

impl Appender {
    /// The writer to append with now: this one or, once that was found to be fenced, the one in its place, which is started
    /// as needed.
    ///
    /// # Errors
    /// When the store does not acknowledge the registration of a new one.
    pub async fn current(&self) -> Result<Self> {
        let Some(fence) = &self.shared.fence else {
            return Ok(self.clone());
        };
        let _turn = fence.turn.lock().await;
        let latest = fence.next().unwrap_or_else(|| self.clone());
        if !latest.shared.is_fenced() || self.shared.closing.is_cancelled() {
            return Ok(latest);
        }
        let shared = &self.shared;
        let (store, settings) = (Arc::clone(&shared.store.0), fence.settings.clone());
        let next = Self::fenceable(&shared.runtime, store, settings).await?;
        *lock(&fence.next) = Some(next.clone());
        Ok(next)
    }
}

#[cfg(test)]
mod tests;
