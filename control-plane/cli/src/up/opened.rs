//! The store that a configuration names: opened, kept up while it is used, and let go.

use std::{path::Path, sync::Arc, time::Duration};

use qrelay_store::{
    clock::{SharedClock, SystemClock},
    scylla::{self, ScyllaStore},
    sqlite::{self, SqliteStore},
    store::SharedStore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{cluster::ClusterConfig, config::StoreConfig, error::StartError, roles::Ground};

/// An open store.
pub(crate) enum Opened {
    /// A directory that nobody else uses.
    Embedded(Arc<SqliteStore>),
    /// A keyspace that others use, too.
    Cluster(Arc<ScyllaStore>),
}

impl Opened {
    /// Opens the store.
    pub(crate) async fn open(config: &StoreConfig) -> Result<(Self, Ground), StartError> {
        let clock: SharedClock = Arc::new(SystemClock);
        let opened = match config {
            StoreConfig::Embedded(directory) => Self::Embedded(embedded(directory, &clock).await?),
            StoreConfig::Cluster(cluster) => Self::Cluster(keyspace(cluster, &clock).await?),
        };
        let store = opened.shared();
        Ok((opened, Ground { store, clock }))
    }

    /// The store for roles.
    pub(crate) fn shared(&self) -> SharedStore {
        match self {
            Self::Embedded(store) => Arc::clone(store) as SharedStore,
            Self::Cluster(store) => Arc::clone(store) as SharedStore,
        }
    }

    /// Does what is to be done for it beside the roles, until stopped: on a directory, what is older than `retention` goes
    /// (rows of a cluster go by themselves); on a cluster, changes that a crash left are finished.
    pub(crate) fn keep_up(&self, tasks: &TaskTracker, retention: Duration, stop: CancellationToken) {
        match self {
            Self::Embedded(store) => tasks.spawn(sqlite::retention::run(Arc::clone(store), retention, stop)),
            Self::Cluster(store) => tasks.spawn(scylla::run_sweeper(Arc::clone(store), stop)),
        };
    }
}

async fn embedded(directory: &Path, clock: &SharedClock) -> Result<Arc<SqliteStore>, StartError> {
    let directory = directory.to_owned();
    let options = sqlite::Options {
        clock: Arc::clone(clock),
        ..sqlite::Options::default()
    };
    let opening = tokio::task::spawn_blocking(move || SqliteStore::open(&directory, &options)).await;
    Ok(opening.expect("invariant: opening a store does not panic")?)
}

async fn keyspace(cluster: &ClusterConfig, clock: &SharedClock) -> Result<Arc<ScyllaStore>, StartError> {
    let config = scylla::ScyllaConfig {
        clock: Arc::clone(clock),
        ..cluster.scylla.clone()
    };
    Ok(ScyllaStore::open(&config).await?)
}
