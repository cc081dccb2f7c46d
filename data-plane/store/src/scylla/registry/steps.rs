//! The session as changes use it: every statement that writes is a step, at which tests stop a process.

use std::sync::Arc;

use futures::Future;
use scylla::{
    deserialize::row::DeserializeRow, serialize::row::SerializeRow, statement::prepared::PreparedStatement,
};

use super::super::session::Cql;
use crate::store::Result;
#[cfg(feature = "testing")]
use crate::store::StoreError;

/// The session, step by step.
#[derive(Debug)]
pub(in super::super) struct Steps {
    cql: Arc<Cql>,
    #[cfg(feature = "testing")]
    fuse: Fuse,
}

impl Steps {
    pub(in super::super) fn new(cql: Arc<Cql>) -> Self {
        Self {
            cql,
            #[cfg(feature = "testing")]
            fuse: Fuse::default(),
        }
    }

    /// Executes a plain write.
    pub(in super::super) async fn write(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<()> {
        let values = &values;
        self.step(move || self.cql.execute(statement, values)).await
    }

    /// Executes a conditional write until it is decided, and says whether it was applied. When it was not, that may be
    /// because it was before, and the answer was lost: callers look.
    pub(in super::super) async fn decide(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<bool> {
        let values = &values;
        let decision = self.step(move || self.cql.decide(statement, values)).await?;
        Ok(decision.applied)
    }

    /// The first row of a read.
    pub(in super::super) async fn row<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Option<R>>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        self.alive()?;
        self.cql.row(statement, values).await
    }

    /// All rows of a read that its LIMIT or its keys bound.
    pub(in super::super) async fn rows<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Vec<R>>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        self.alive()?;
        self.cql.rows(statement, values).await
    }

    #[cfg(not(feature = "testing"))]
    async fn step<T, F: Future<Output = Result<T>>>(&self, statement: impl Fn() -> F) -> Result<T> {
        statement().await
    }

    #[cfg(feature = "testing")]
    async fn step<T, F: Future<Output = Result<T>>>(&self, statement: impl Fn() -> F) -> Result<T> {
        self.fuse.count();
        let step = self.fuse.next();
        match step {
            Step::Done => statement().await,
            Step::DoneUnheard => {
                statement().await?;
                Err(stopped())
            }
            Step::NotDone => Err(stopped()),
            Step::Held | Step::Repeated => {
                if matches!(step, Step::Repeated) {
                    statement().await?;
                }
                self.fuse.reached.notify_one();
                self.fuse.go.notified().await;
                statement().await
            }
        }
    }

    #[cfg(not(feature = "testing"))]
    #[allow(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "in tests it can fail"
    )]
    fn alive(&self) -> Result<()> {
        Ok(())
    }

    #[cfg(feature = "testing")]
    fn alive(&self) -> Result<()> {
        self.fuse.count();
        if self.fuse.lock().blown {
            Err(stopped())
        } else {
            Ok(())
        }
    }
}

#[cfg(feature = "testing")]
fn stopped() -> StoreError {
    StoreError::Unavailable("stopped by a test".to_owned())
}

/// What becomes of a statement that writes.
#[cfg(feature = "testing")]
enum Step {
    Done,
    DoneUnheard,
    NotDone,
    Held,
    Repeated,
}

/// Stops a store at a statement, as if its process had been killed there, or makes it wait there.
#[cfg(feature = "testing")]
#[derive(Debug, Default)]
pub(in super::super) struct Fuse {
    state: std::sync::Mutex<FuseState>,
    executed: std::sync::atomic::AtomicU64,
    reached: tokio::sync::Notify,
    go: tokio::sync::Notify,
}

#[cfg(feature = "testing")]
#[derive(Debug, Default)]
struct FuseState {
    /// Statements that are done before something happens; nothing does if none.
    left: Option<u64>,
    then: Then,
    blown: bool,
}

/// What happens to the statement that the fuse is set for.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Then {
    /// It is not done, nor anything after it.
    #[default]
    Stop,
    /// It is done, but nobody hears of it, and nothing is done after it.
    StopUnheard,
    /// It waits until it is told to go on.
    Hold,
    /// It is done, and its answer lost: when it is told to go on, it is done again.
    Repeat,
}

#[cfg(feature = "testing")]
impl Fuse {
    fn count(&self) {
        self.executed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn next(&self) -> Step {
        let mut state = self.lock();
        if state.blown {
            return Step::NotDone;
        }
        match state.left {
            None => return Step::Done,
            Some(0) => {}
            Some(left) => {
                state.left = Some(left - 1);
                return Step::Done;
            }
        }
        state.left = None;
        state.blown = matches!(state.then, Then::Stop | Then::StopUnheard);
        match state.then {
            Then::Stop => Step::NotDone,
            Then::StopUnheard => Step::DoneUnheard,
            Then::Hold => Step::Held,
            Then::Repeat => Step::Repeated,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FuseState> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// For tests of what a crash leaves.
#[cfg(feature = "testing")]
impl super::super::ScyllaStore {
    /// Does so many more statements that write to the registry or the configuration log, and then something.
    pub fn after_writes(&self, statements: u64, then: Then) {
        *self.registry.steps.fuse.lock() = FuseState {
            left: Some(statements),
            then,
            blown: false,
        };
    }

    /// Works again as if nothing had been.
    pub fn work_again(&self) {
        *self.registry.steps.fuse.lock() = FuseState::default();
    }

    /// Whether it was stopped.
    pub fn has_stopped(&self) -> bool {
        self.registry.steps.fuse.lock().blown
    }

    /// Waits until a statement waits ([`Then::Hold`], [`Then::Repeat`]).
    pub async fn held(&self) {
        self.registry.steps.fuse.reached.notified().await;
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.registry.steps.fuse.go.notify_one();
    }

    /// Changes that wait in this process until others are appended to the configuration log.
    pub fn waiting_to_announce(&self) -> usize {
        self.registry.announcer.waiting()
    }

    /// Statements on the registry and the configuration log so far, reads included.
    pub fn statements(&self) -> u64 {
        self.registry
            .steps
            .fuse
            .executed
            .load(std::sync::atomic::Ordering::Relaxed)
    }
}
