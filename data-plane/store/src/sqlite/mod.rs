//! The embedded backend: SQLite in one data directory, owned by one process.
//!
//! Two files, so that what the edge waits for is never behind anything else: `log.db` (the log and its writers) and
//! `main.db` (everything else). Each has a writer thread that commits in groups ([`writer`]) and a few read
//! connections ([`pool`]). A person can read both with `sqlite3`.
//!
//! Invariant: what returned `Ok` is committed and synced.

mod attempts;
mod change;
mod commands;
mod config_log;
mod conversions;
mod fault;
mod install;
mod leases;
mod log;
mod own_partitions;
mod pool;
mod recent;
mod registry;
pub mod retention;
mod rows;
mod schema;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::Connection;

use crate::{
    clock::{SharedClock, SystemClock},
    directory_lock::{DirectoryLock, LockError},
    hints::Hints,
    limits,
    store::{Install, Store},
};

use self::{
    config_log::ConfigEnd,
    pool::Pool,
    recent::Recent,
    schema::{LOG, MAIN},
    writer::{OnConnect, Writer},
};

/// How to open a data directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shared partitions. Counts when the directory is created, and never again.
    pub partitions: u16,
    /// Stamps the creation, and what ages.
    pub clock: SharedClock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            partitions: limits::PARTITIONS_EMBEDDED,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory {} is in use by {owner}; only one process may use it at a time", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who has it, for people.
        owner: String,
    },
    /// The directory cannot be made, or its lock not be taken.
    #[error("cannot use the data directory {}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A newer release was here.
    #[error(
        "{} has schema version {found}, and this release knows versions up to {known}: use the newer release",
        file.display()
    )]
    NewerSchema {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: usize,
        /// The latest that this release knows.
        known: usize,
    },
    /// A file is not what was written.
    #[error("{} is damaged: {reason}; restore the data directory from a backup", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A file cannot be opened, read or written.
    #[error("cannot open {}", file.display())]
    Sqlite {
        /// The file.
        file: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

impl OpenError {
    fn of_lock(dir: &Path, error: LockError) -> Self {
        let dir = dir.to_owned();
        match error {
            LockError::InUse(owner) => Self::InUse { dir, owner },
            LockError::Io(source) => Self::Directory { dir, source },
        }
    }
}

/// The embedded store. Dropping it waits for what is being committed and gives the directory free.
#[derive(Debug)]
pub struct SqliteStore {
    install: Install,
    hints: Hints,
    clock: SharedClock,
    // Readers before writers: the last to close a file writes its WAL back.
    // Lists have connections of their own, so that no scan's look-up and no delivery waits behind one.
    log_reads: Pool,
    log_lists: Pool,
    main_reads: Pool,
    main_lists: Pool,
    log_writer: Writer,
    main_writer: Writer,
    recent: Recent,
    config_end: ConfigEnd,
}

impl SqliteStore {
    /// Opens a data directory, making it on the first start. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// When another process has it, or it cannot be used; see [`OpenError`].
    pub fn open(dir: &Path, options: &Options) -> Result<Arc<Self>, OpenError> {
        Self::open_with(dir, options, &(Arc::new(|_: &Connection| Ok(())) as OnConnect))
    }

    /// The same; `on_connect` is done to each connection that writes.
    fn open_with(dir: &Path, options: &Options, on_connect: &OnConnect) -> Result<Arc<Self>, OpenError> {
        let lock = DirectoryLock::take(dir).map_err(|error| OpenError::of_lock(dir, error))?;
        let lock = Arc::new(lock);
        let log = LOG.open(dir)?;
        let main = MAIN.open(dir)?;
        let (id, install) = install::load(dir, &log, &main, options)?;
        let hints = Hints::default();
        let config_head = config_log::head(&main).map_err(|fault| MAIN.open_error(dir, fault))?;
        hints.publish_config(config_head);
        let start = |schema: &'static schema::Schema, connection| {
            Writer::start(
                schema,
                dir,
                id,
                connection,
                Arc::clone(on_connect),
                Arc::clone(&lock),
            )
            .map_err(|fault| schema.open_error(dir, fault))
        };
        Ok(Arc::new(Self {
            install,
            hints,
            clock: Arc::clone(&options.clock),
            log_reads: Pool::new(LOG.path(dir)),
            log_lists: Pool::new(LOG.path(dir)),
            main_reads: Pool::new(MAIN.path(dir)),
            main_lists: Pool::new(MAIN.path(dir)),
            log_writer: start(&LOG, log)?,
            main_writer: start(&MAIN, main)?,
            recent: Recent::default(),
            config_end: ConfigEnd::at(config_head),
        }))
    }
}

impl Store for SqliteStore {
    fn install(&self) -> &Install {
        &self.install
    }

    fn hints(&self) -> &Hints {
        &self.hints
    }

    fn exclusive(&self) -> bool {
        true
    }
}

#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
mod tests;
