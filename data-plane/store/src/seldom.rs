//! Saying a thing now and then: what happens a thousand times a second is logged once a while, with how often it was.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Counts what happens, and says when it is time to tell.
#[derive(Debug)]
pub struct Seldom {
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    told: Option<Instant>,
    untold: u64,
}

impl Seldom {
    /// Tells at once the first time, and then once each `period` at most.
    pub fn new(period: Duration) -> Self {
        Self {
            period,
            state: Mutex::default(),
        }
    }

    /// It happened once more. How often since it was last told, if it is to be told now.
    pub fn happened(&self) -> Option<u64> {
        // Nothing panics under the lock.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.untold += 1;
        if state.told.is_some_and(|told| told.elapsed() < self.period) {
            return None;
        }
        state.told = Some(Instant::now());
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_is_told_at_once_and_the_others_together_when_their_time_comes() {
        let seldom = Seldom::new(Duration::from_secs(60));
        assert_eq!(seldom.happened(), Some(1));
        for _ in 0..5 {
            assert_eq!(seldom.happened(), None);
        }
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(seldom.happened(), Some(6));
        assert_eq!(seldom.happened(), None);
    }
}
