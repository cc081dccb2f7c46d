//! Whether the process can do its work just now, for `/readyz`.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use super::{ops::Readiness, writers::Writers};

/// What stands in the way, if anything.
pub(crate) struct Ready {
    writers: Writers,
    stopping: AtomicBool,
    down: Mutex<Vec<&'static str>>,
}

impl Ready {
    /// Ready, unless one of these writers is failing.
    pub(super) fn new(writers: Writers) -> Self {
        Self {
            writers,
            stopping: AtomicBool::new(false),
            down: Mutex::default(),
        }
    }

    /// For tests of what needs no writer.
    #[cfg(test)]
    pub(crate) fn without_writer() -> Self {
        Self::new(Writers::default())
    }

    /// The stop has begun: load balancers are to look elsewhere.
    pub(crate) fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// A role ended by itself.
    pub(crate) fn down(&self, role: &'static str) {
        self.down
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(role);
    }

    /// The reasons, for people.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.stopping.load(Ordering::Relaxed) {
            reasons.push("the process is stopping".to_owned());
        }
        if self.writers.are_failing() {
            reasons.push("the store does not take events".to_owned());
        }
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.extend(down.iter().map(|role| format!("{role} is down")));
        reasons
    }
}

impl Readiness for Ready {
    fn obstacles(&self) -> Vec<String> {
        self.reasons()
    }
}
