//! Who records the events of a process: the writer of its scans, and the one of what is reported to its API.
//!
//! On a directory that is one writer: the directory's lock proves it dead when it is. On a cluster nothing proves that of a
//! writer without a journal, and a conversion that a control plane left half recorded must not wait for ever for it. So what
//! is reported there has a writer of its own, which others may close ([`Appender::start_fenced`]).

use std::{sync::Arc, time::Duration};

use qrelay_store::{
    appender::{AppendError, Appender},
    journal::Journal,
    reader::close_dead_writers,
};
use tokio::{runtime::Handle, time::Instant};

use super::{config::ProcessConfig, error::StartError, journal, plan::Plan, roles::Ground};

/// How often changed heads are published.
const HEADS_PERIOD: Duration = Duration::from_millis(50);

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Writers {
    /// Of scans.
    pub(super) edge: Option<Appender>,
    /// Of what is reported. May be the same.
    pub(super) api: Option<Appender>,
}

impl Writers {
    /// Starts those that the roles of a plan need. Writers of processes that are known to be dead are closed before, but for
    /// those whose journal is still to be shipped.
    pub(super) async fn start(plan: &Plan, ground: &Ground, scans: &Handle) -> Result<Self, StartError> {
        let config = plan.edge.as_ref().and_then(|edge| edge.journal.clone());
        let journal = journal::open(plan.store.directory(), config, &ground.store).await?;
        let exclusive = ground.store.exclusive();
        if exclusive {
            let left = journal.iter().flat_map(Journal::left);
            let left: Vec<_> = left.map(|dead| dead.writer).collect();
            close_dead_writers(&ground.store, &left).await?;
        }
        let mut writers = Self::default();
        if plan.edge.is_some() || (exclusive && plan.api.is_some()) {
            writers.edge = Some(of_scans(plan, ground, scans, journal).await?);
        }
        if plan.api.is_some() {
            writers.api = match exclusive {
                true => writers.edge.clone(),
                false => Some(of_reports(plan, ground).await?),
            };
        }
        Ok(writers)
    }

    /// Each once.
    pub(super) fn each(&self) -> impl Iterator<Item = &Appender> {
        let edge = self.edge.as_ref().map(Appender::writer);
        let own = self.api.iter().filter(move |api| Some(api.writer()) != edge);
        self.edge.iter().chain(own)
    }

    /// Whether some appends of one of them are failing just now.
    pub(super) fn are_failing(&self) -> bool {
        self.each().any(Appender::is_failing)
    }

    /// Closes all, by `deadline`. The first error, after all were tried.
    pub(super) async fn close(&self, deadline: Instant) -> Result<(), AppendError> {
        let mut closed = Ok(());
        for writer in self.each() {
            closed = closed.and(writer.close(deadline).await);
        }
        closed
    }
}

async fn of_scans(
    plan: &Plan,
    ground: &Ground,
    scans: &Handle,
    journal: Option<Journal>,
) -> Result<Appender, StartError> {
    let (store, clock) = (Arc::clone(&ground.store), &ground.clock);
    let node = node(plan.command, &plan.process);
    let Some(journal) = journal else {
        return Ok(Appender::start_on(scans, store, clock, &node, HEADS_PERIOD).await?);
    };
    let kept = journal.clone();
    let writer = Appender::start_journaled(scans, store, clock, &node, HEADS_PERIOD, journal).await?;
    if let Some(directory) = plan.store.directory() {
        journal::note(directory, &kept, writer.writer()).await?;
    }
    Ok(writer)
}

async fn of_reports(plan: &Plan, ground: &Ground) -> Result<Appender, StartError> {
    let (store, clock) = (Arc::clone(&ground.store), &ground.clock);
    let node = node(plan.command, &plan.process);
    Ok(Appender::start_fenced(&Handle::current(), store, clock, &node, HEADS_PERIOD).await?)
}

/// What this process is called where processes are listed.
fn node(command: &str, config: &ProcessConfig) -> String {
    let name = config.node_name.clone().unwrap_or_else(|| {
        let system = rustix::system::uname();
        system.nodename().to_string_lossy().into_owned()
    });
    format!("{name}/{command}/{}", std::process::id())
}
