//! Reading: a few connections per file, used on blocking threads.
//!
//! Reads are short, so that none holds up a checkpoint of the WAL; a connection that met an error of the disk is
//! not used again.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{fault::Fault, schema};
use crate::{limits, store::StoreError};

/// The read connections of one file.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// How many may read at once.
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// Opens nothing yet.
    pub(super) fn new(path: PathBuf) -> Self {
        let shared = Shared {
            path,
            idle: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            permits: Arc::new(Semaphore::new(limits::READERS_PER_FILE)),
        }
    }

    /// Runs a short read.
    pub(super) async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let stopped = || StoreError::Unavailable("reading was stopped".to_owned());
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| stopped())?;
        let shared = Arc::clone(&self.shared);
        let read = spawn_blocking(move || {
            let outcome = shared.run(work);
            drop(permit);
            outcome
        });
        read.await.map_err(|_| stopped())?.map_err(StoreError::from)
    }
}

impl Shared {
    fn run<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::reading(&self.path)?,
        };
        let outcome = work(&connection);
        let spoiled = outcome.as_ref().is_err_and(Fault::spoils_connection);
        if !spoiled && connection.is_autocommit() {
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
        }
        outcome
    }
}
