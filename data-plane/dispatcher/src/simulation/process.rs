//! A process: tasks with a clock of their own, which can be dropped at any point where they wait (a crash), or stand still
//! while time goes on (a freeze, as by SIGSTOP).
//!
//! Each has a runtime of its own, of one thread and with a paused clock, and runs when [`Process::run`] lets it, up to a
//! moment. So its tasks have only themselves, the shared [`Sim`] and the order in which processes are run to depend on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use qrelay_store::{Clock, Hints, Timestamp};
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, advance, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    sim::{Link, Millis, Sim, Who},
    store::SimStore,
};

/// When simulations begin, by right clocks.
const EPOCH_MS: i64 = 1_772_548_338_000;

/// What a process is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Writer,
    Reader,
    Deliverer,
    /// Closes writers that are dead.
    Successor,
}

/// What a process's tasks have.
#[derive(Clone)]
pub(super) struct Env {
    pub(super) link: Link,
    pub(super) store: Arc<SimStore>,
    pub(super) clock: Arc<SimClock>,
    pub(super) stop: CancellationToken,
}

/// Wall time, wrong by as much as the simulation says.
#[derive(Debug)]
pub(super) struct SimClock {
    began: (Instant, Millis),
    wrong_by: Arc<AtomicI64>,
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let (instant, millis) = self.began;
        let since = Duration::from_millis(millis) + instant.elapsed();
        let since = i64::try_from(since.as_millis()).expect("invariant: simulations are short");
        Timestamp::from_millis(EPOCH_MS + since + self.wrong_by.load(Ordering::SeqCst))
    }
}

/// See the module's documentation.
pub(super) struct Process {
    pub(super) who: Who,
    pub(super) kind: Kind,
    pub(super) hints: Arc<Hints>,
    /// How much of its hints others were told.
    pub(super) told: u64,
    pub(super) frozen_until: Option<Millis>,
    runtime: Runtime,
    began: (Instant, Millis),
    stop: CancellationToken,
    wrong_by: Arc<AtomicI64>,
    over: Arc<AtomicBool>,
}

impl Process {
    /// Starts one whose clock is wrong by so many milliseconds. It first runs when it is let.
    pub(super) fn start<F>(
        sim: &Arc<Sim>,
        (who, kind): (Who, Kind),
        (now, wrong_by): (Millis, i64),
        main: impl FnOnce(Env) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let runtime = runtime.expect("a runtime needs nothing that could be missing");
        let began = (runtime.block_on(async { Instant::now() }), now);
        let hints = Arc::new(Hints::default());
        let (stop, wrong_by) = (CancellationToken::new(), Arc::new(AtomicI64::new(wrong_by)));
        let link = Link {
            sim: Arc::clone(sim),
            who,
            began,
        };
        let env = Env {
            store: SimStore::new(link.clone(), Arc::clone(&hints), kind),
            link,
            clock: Arc::new(SimClock {
                began,
                wrong_by: Arc::clone(&wrong_by),
            }),
            stop: stop.clone(),
        };
        let (over, main) = (Arc::new(AtomicBool::new(false)), main(env));
        let is_over = Arc::clone(&over);
        drop(runtime.spawn(async move {
            main.await;
            is_over.store(true, Ordering::SeqCst);
        }));
        Self {
            who,
            kind,
            hints,
            told: 0,
            frozen_until: None,
            runtime,
            began,
            stop,
            wrong_by,
            over,
        }
    }

    /// Runs from `from` to `until`, unless it is frozen. One that was frozen finds that time went on.
    pub(super) fn run(&mut self, from: Millis, until: Millis) {
        if self.frozen_until.is_some_and(|thaws| thaws > from) {
            return;
        }
        let (from, until) = (self.instant(from), self.instant(until));
        let was_frozen = self.frozen_until.take().is_some();
        self.runtime.block_on(async {
            let now = Instant::now();
            if was_frozen && from > now {
                advance(from - now).await;
            }
            sleep_until(until).await;
        });
    }

    fn instant(&self, at: Millis) -> Instant {
        self.began.0 + Duration::from_millis(at.saturating_sub(self.began.1))
    }

    /// Asks it to end on its own.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Sets its wall clock.
    pub(super) fn set_wrong_by(&self, millis: i64) {
        self.wrong_by.store(millis, Ordering::SeqCst);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}
