//! The backend for several machines: a keyspace of ScyllaDB, or of Apache Cassandra 5, which speak the same protocol.
//!
//! One home data centre: everything is read and written at `LOCAL_QUORUM`, conditions are decided at `LOCAL_SERIAL`
//! ([`session`]). Tables are made and changed by numbered migrations ([`schema`]), what was fixed at creation stands in
//! one row beside their number ([`install`]). Each trait of [`crate::store`] has its file, its statements and its tables.
//!
//! Invariants: what returned `Ok` is acknowledged by a quorum. No statement deletes from the log, the writers or the
//! attempts: their rows leave by their time to live. Nothing is computed by the server: no time, no counter, no order
//! but that of keys.

mod attempts;
mod commands;
mod config;
mod config_log;
mod conversions;
mod decision;
mod error;
mod grants;
mod install;
mod leases;
mod log;
mod registry;
mod rows;
mod schema;
mod session;
mod writers;

use std::sync::Arc;

use crate::{
    hints::Hints,
    store::{ConfigLog as _, Install, Store},
};

#[cfg(feature = "testing")]
pub use self::registry::Then;
use self::session::Cql;
pub use self::{
    config::{Credentials, ScyllaConfig},
    error::OpenError,
    grants::{Works, grants},
    registry::{Seen, run_sweeper},
};

/// A keyspace of a CQL cluster. Cheap to share behind an `Arc`; dropping the last one closes its connections.
#[derive(Debug)]
pub struct ScyllaStore {
    cql: Arc<Cql>,
    install: Install,
    hints: Hints,
    /// The time to live of what retention takes, in seconds.
    ttl: i32,
    log: log::Statements,
    log_memory: log::SharedMemory,
    writers: writers::Statements,
    writer_memory: writers::Memory,
    attempts: attempts::Statements,
    attempt_memory: attempts::Memory,
    commands: commands::Statements,
    command_turn: tokio::sync::Mutex<()>,
    registry: registry::Configuration,
    conversions: conversions::Reported,
    leases: leases::Statements,
}

impl ScyllaStore {
    /// Connects, and makes or migrates the keyspace's tables as needed.
    ///
    /// # Errors
    /// When the cluster cannot be reached or the keyspace not be used; see [`OpenError`].
    pub async fn open(config: &ScyllaConfig) -> Result<Arc<Self>, OpenError> {
        // On the heap: all these statements make a large future.
        Box::pin(Self::prepared(config)).await
    }

    /// Makes or migrates the keyspace's tables as needed, and nothing else: the schema's version then.
    ///
    /// # Errors
    /// As [`ScyllaStore::open`].
    pub async fn apply_schema(config: &ScyllaConfig) -> Result<i32, OpenError> {
        let cql = Cql::connect(config).await?;
        Ok(Box::pin(schema::apply(&cql, config)).await?.version)
    }

    async fn prepared(config: &ScyllaConfig) -> Result<Arc<Self>, OpenError> {
        let cql = Arc::new(Cql::connect(config).await?);
        let row = schema::apply(&cql, config).await?;
        let registry = Box::pin(registry::Configuration::open(&cql, config.ttl_seconds())).await?;
        let store = Self {
            conversions: conversions::Reported::prepare(&cql, config.ttl_seconds()).await?,
            registry,
            install: row.install,
            hints: Hints::default(),
            ttl: config.ttl_seconds(),
            log: log::Statements::prepare(&cql).await?,
            log_memory: log::SharedMemory::default(),
            writers: writers::Statements::prepare(&cql).await?,
            writer_memory: writers::Memory::default(),
            attempts: attempts::Statements::prepare(&cql).await?,
            attempt_memory: attempts::Memory::default(),
            commands: commands::Statements::prepare(&cql).await?,
            command_turn: tokio::sync::Mutex::default(),
            leases: leases::Statements::prepare(&cql).await?,
            cql,
        };
        store.hints.publish_config(store.config_head().await?);
        Ok(Arc::new(store))
    }
}

impl Store for ScyllaStore {
    fn install(&self) -> &Install {
        &self.install
    }

    fn hints(&self) -> &Hints {
        &self.hints
    }

    /// Other processes work on the same keyspace: their leases and writers are waited out.
    fn exclusive(&self) -> bool {
        false
    }
}
