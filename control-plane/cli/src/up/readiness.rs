//! Whether the process can do its work just now, for `/readyz`.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use qrelay_store::appender::Appender;

use super::ops::Readiness;

/// What stands in the way, if anything.
pub(crate) struct Ready {
    appender: Option<Appender>,
    stopping: AtomicBool,
    down: Mutex<Vec<&'static str>>,
}

impl Ready {
    /// Ready, unless this writer is failing.
    pub(crate) fn new(appender: Option<Appender>) -> Self {
        Self {
            appender,
            stopping: AtomicBool::new(false),
            down: Mutex::default(),
        }
    }

    /// For tests of what needs no writer.
    #[cfg(test)]
    pub(crate) fn without_writer() -> Self {
        Self::new(None)
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
        if self.appender.as_ref().is_some_and(Appender::is_failing) {
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
