//! The writer thread of one file: all changes go through it, in groups.
//!
//! It takes everything that waits, runs it in one transaction, commits, and only then answers: one fsync for all.
//! While it commits, the next group gathers. A piece of work that fails alone is rolled back alone; an error of the
//! disk fails the whole group, whose outcome is then unknown to its callers, and the connection is opened anew for
//! the next one, so that the store goes on by itself once the cause is gone.
//!
//! Checkpoints of the WAL come after the answers, never between a commit and them.
//!
//! Invariant: what was answered with success is committed, in a file that still has its name.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread::JoinHandle,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    fault::Fault,
    install::{self, InstallId},
    schema::{self, Schema},
};
use crate::{directory_lock::DirectoryLock, limits, store::StoreError};

/// What must be undone when a piece of work fails alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Atomicity {
    /// At most one statement that changes anything: SQLite undoes it by itself.
    OneStatement,
    /// Several: a savepoint is set around them.
    Savepoint,
}

/// What is done to each connection before it is used.
pub(super) type OnConnect = Arc<dyn Fn(&Connection) -> rusqlite::Result<()> + Send + Sync>;

/// Gives work to the thread. Dropping it ends the thread, after what was given to it before.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread on an opened connection.
    pub(super) fn start(
        schema: &'static Schema,
        dir: &Path,
        install: InstallId,
        connection: Connection,
        on_connect: OnConnect,
        lock: Arc<DirectoryLock>,
    ) -> Result<Self, Fault> {
        let (jobs, waiting) = mpsc::channel(limits::WRITER_QUEUE_MAX);
        let mut thread = WriterThread {
            schema,
            path: schema.path(dir),
            install,
            guards: Vec::new(),
            connection: None,
            wal_pages: Arc::default(),
            on_connect,
            failing: false,
            _lock: lock,
        };
        thread.adopt(connection)?;
        let thread = std::thread::Builder::new()
            .name(schema.file.to_owned())
            .spawn(move || thread.run(waiting))
            .map_err(|error| Fault::io(format!("cannot start the writer thread: {error}")))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Runs `work` in the next group and answers once it is durable. An error that `work` returns changes nothing.
    pub(super) async fn submit<T, F>(&self, atomicity: Atomicity, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let stopped = || StoreError::Unavailable("the writer has stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        let task = Task {
            atomicity,
            work: Some(work),
            result: None,
            reply,
        };
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(Box::new(task)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a writer thread of the store panicked");
        }
    }
}

/// A piece of work, its result, and who waits for it.
trait Job: Send {
    fn atomicity(&self) -> Atomicity;

    /// Does the work and keeps the result. `Err` only for what fails the group.
    fn run(&mut self, connection: &Connection) -> Ran;

    /// Tells who waits: the kept result, or what became of the group.
    fn answer(self: Box<Self>, group: Result<(), &StoreError>);
}

/// How a piece of work went.
enum Ran {
    Done,
    FailedAlone,
    FailsGroup(Fault),
}

struct Task<T, F> {
    atomicity: Atomicity,
    work: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for Task<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Fault> + Send,
{
    fn atomicity(&self) -> Atomicity {
        self.atomicity
    }

    fn run(&mut self, connection: &Connection) -> Ran {
        let work = self.work.take().expect("invariant: a job runs once");
        match work(connection) {
            Ok(value) => {
                self.result = Some(Ok(value));
                Ran::Done
            }
            // SQLite has rolled back all of the transaction: nothing of the group is left.
            Err(fault) if connection.is_autocommit() => Ran::FailsGroup(fault),
            Err(fault) if fault.is_local() => {
                self.result = Some(Err(fault.into()));
                Ran::FailedAlone
            }
            Err(fault) => Ran::FailsGroup(fault),
        }
    }

    fn answer(self: Box<Self>, group: Result<(), &StoreError>) {
        let answer = match (self.result, group) {
            (Some(Err(own)), _) => Err(own),
            (_, Err(error)) => Err(copy(error)),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(StoreError::Unavailable("the work was not done".to_owned())),
        };
        // Who asked may have stopped waiting: then nobody needs to know.
        drop(self.reply.send(answer));
    }
}

fn copy(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(reason) => StoreError::Unavailable(reason.clone()),
        StoreError::Corrupt(reason) => StoreError::Corrupt(reason.clone()),
    }
}

/// The thread's own state.
struct WriterThread {
    schema: &'static Schema,
    path: PathBuf,
    install: InstallId,
    connection: Option<Connection>,
    /// The files that the connection writes to. A commit into one that was removed or replaced would be lost.
    guards: Vec<FileGuard>,
    /// Pages in the WAL after the last commit.
    wal_pages: Arc<AtomicI32>,
    on_connect: OnConnect,
    /// The last group failed.
    failing: bool,
    _lock: Arc<DirectoryLock>,
}

impl WriterThread {
    fn run(mut self, mut waiting: mpsc::Receiver<Box<dyn Job>>) {
        let mut jobs = Vec::with_capacity(limits::WRITER_GROUP_MAX);
        while waiting.blocking_recv_many(&mut jobs, limits::WRITER_GROUP_MAX) > 0 {
            let outcome = self.commit(&mut jobs).map_err(StoreError::from);
            self.report(outcome.as_ref().err());
            for job in jobs.drain(..) {
                job.answer(outcome.as_ref().copied());
            }
            if self.wal_pages.load(Ordering::Relaxed) >= limits::WAL_CHECKPOINT_PAGES {
                self.checkpoint("PASSIVE");
            }
        }
        self.checkpoint("TRUNCATE");
    }

    /// One group, one transaction.
    fn commit(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), Fault> {
        if self.connection.is_none() {
            let connection = schema::writing(&self.path)?;
            install::verify(&connection, self.schema, self.install)?;
            self.adopt(connection)?;
            tracing::debug!(file = %self.path.display(), "opened again after an error");
        }
        let connection = self
            .connection
            .as_ref()
            .expect("invariant: opened above when there was none");
        let outcome = run_group(connection, &self.guards, jobs);
        if let Err(fault) = &outcome {
            let rolled_back = connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
            if fault.spoils_connection() || !rolled_back {
                self.connection = None;
            }
        }
        outcome
    }

    /// Tells people when writing begins to fail, and when it works again.
    fn report(&mut self, error: Option<&StoreError>) {
        let file = self.path.display();
        match error {
            Some(error) if !self.failing => tracing::error!(%error, %file, "cannot write"),
            None if self.failing => tracing::info!(%file, "writing works again"),
            _ => {}
        }
        self.failing = error.is_some();
        if self.failing {
            metrics::counter!("qrelay_store_commit_failures_total").increment(1);
        }
    }

    /// Takes a connection into use.
    fn adopt(&mut self, mut connection: Connection) -> Result<(), Fault> {
        // Makes the WAL, so that it can be guarded.
        connection.execute_batch("BEGIN IMMEDIATE; COMMIT")?;
        (self.on_connect)(&connection)?;
        let wal = PathBuf::from(format!("{}-wal", self.path.display()));
        let mut guards = vec![FileGuard::of(&self.path)?];
        // A file system that cannot be written to has none; then nothing is committed either.
        guards.extend(FileGuard::of(&wal).ok());
        self.guards = guards;
        let pages = Arc::clone(&self.wal_pages);
        connection.wal_hook(Some(move |_: &mut _, now| {
            pages.store(now, Ordering::Relaxed);
            Ok(())
        }))?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Copies the WAL's pages into the database file. A failure costs nothing but a longer WAL.
    fn checkpoint(&mut self, mode: &str) {
        let Some(connection) = &self.connection else {
            return;
        };
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        match connection.query_row(&sql, [], |_| Ok(())) {
            Ok(()) => self.wal_pages.store(0, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(%error, file = %self.path.display(), "cannot checkpoint");
                metrics::counter!("qrelay_store_checkpoint_failures_total").increment(1);
            }
        }
    }
}

fn run_group(connection: &Connection, guards: &[FileGuard], jobs: &mut [Box<dyn Job>]) -> Result<(), Fault> {
    let execute = |sql| connection.prepare_cached(sql)?.execute([]);
    execute("BEGIN IMMEDIATE")?;
    for job in jobs {
        let savepoint = job.atomicity() == Atomicity::Savepoint;
        if savepoint {
            execute("SAVEPOINT job")?;
        }
        match job.run(connection) {
            Ran::FailsGroup(fault) => return Err(fault),
            Ran::FailedAlone if savepoint => {
                execute("ROLLBACK TO job")?;
                execute("RELEASE job")?;
            }
            Ran::Done if savepoint => {
                execute("RELEASE job")?;
            }
            Ran::FailedAlone | Ran::Done => {}
        }
    }
    for guard in guards {
        guard.check()?;
    }
    execute("COMMIT")?;
    Ok(())
}

/// Knows a file by more than its name.
#[derive(Debug)]
struct FileGuard {
    path: PathBuf,
    identity: (u64, u64),
}

impl FileGuard {
    fn of(path: &Path) -> Result<Self, Fault> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }

    fn check(&self) -> Result<(), Fault> {
        if identity(&self.path)? == self.identity {
            Ok(())
        } else {
            Err(Fault::io(format!("{} was replaced", self.path.display())))
        }
    }
}

fn identity(path: &Path) -> Result<(u64, u64), Fault> {
    let meta = fs::metadata(path).map_err(|error| Fault::io(format!("{}: {error}", path.display())))?;
    Ok((meta.dev(), meta.ino()))
}
