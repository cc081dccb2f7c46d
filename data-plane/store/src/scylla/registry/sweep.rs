//! Names of changes under way, and the sweeper that finishes what a crash left.
//!
//! A name is written before anything that its change claims, under an attempt of its own, and dropped after all is done.
//! The sweeper makes sure that the change is finished or can never come, settles what it held, and drops the name. It may
//! come at any time: a change that it fences is tried again by whoever is making it.
//!
//! No clock is asked: writes of names carry fixed timestamps, the deletion's the higher, and a name that one sweeper has seen for so long is old.

use std::{collections::HashMap, sync::Arc, time::Duration};

use scylla::statement::prepared::PreparedStatement;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    super::{OpenError, ScyllaStore, session::Cql},
    Configuration,
    counts::Outcome,
    row::{Row, document, parse},
    secrets::brought,
};
use crate::{
    id::{SecretId, TenantId},
    limits,
    model::ResourceId,
    store::{Change, Result, StoreError},
};

/// Names a change under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Name {
    #[serde(skip)]
    pub(super) attempt: String,
    pub(super) resource: ResourceId,
    pub(super) tenant: TenantId,
    /// The version that it makes: of the row or, with `health`, of what was told of its health.
    pub(super) version: u64,
    #[serde(default)]
    pub(super) health: bool,
    /// Whether it holds something in a count.
    #[serde(default)]
    pub(super) counted: bool,
    /// The secret that it brings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<SecretId>,
}

impl Name {
    pub(super) fn of_change(change: &Change, attempt: &str, counted: bool) -> Self {
        let resource = change.resource.id();
        let secret = brought(&change.secrets).filter(|_| matches!(resource, ResourceId::Endpoint(_)));
        Self {
            attempt: attempt.to_owned(),
            resource,
            tenant: change.resource.tenant(),
            version: change.resource.version(),
            health: false,
            counted,
            secret: secret.map(|secret| secret.id),
        }
    }

    fn bucket(&self) -> i32 {
        let first = self.attempt.bytes().next().unwrap_or(0);
        i32::from(first) % limits::PENDING_BUCKETS
    }
}

#[derive(Debug)]
pub(super) struct Statements {
    put: PreparedStatement,
    drop: PreparedStatement,
    read: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        Ok(Self {
            put: cql
                .prepare("INSERT INTO pending (bucket, attempt, name) VALUES (?, ?, ?) USING TIMESTAMP 1")
                .await?,
            drop: cql
                .prepare("DELETE FROM pending USING TIMESTAMP 2 WHERE bucket = ? AND attempt = ?")
                .await?,
            read: cql
                .prepare("SELECT attempt, name FROM pending WHERE bucket = ? LIMIT ?")
                .await?,
        })
    }
}

impl Configuration {
    pub(super) async fn put_name(&self, name: &Name) -> Result<()> {
        let values = (name.bucket(), &name.attempt, document(name)?);
        self.steps.write(&self.pending.put, values).await
    }

    pub(super) async fn drop_name(&self, name: &Name) -> Result<()> {
        let values = (name.bucket(), &name.attempt);
        self.steps.write(&self.pending.drop, values).await
    }

    /// Names of changes under way, some of each CQL partition.
    async fn names(&self) -> Result<Vec<Name>> {
        let mut all = Vec::new();
        for bucket in 0..limits::PENDING_BUCKETS {
            let found: Vec<(String, String)> = self
                .steps
                .rows(&self.pending.read, (bucket, limits::SWEEP_NAMES))
                .await?;
            for (attempt, name) in found {
                all.push(Name {
                    attempt,
                    ..parse(&name)?
                });
            }
        }
        Ok(all)
    }

    /// Finishes a change, or makes sure that it never comes, and drops its name.
    async fn sweep(&self, name: &Name) -> Result<()> {
        let row = self.finished_or_never(name).await?;
        if let Some(count) = name.count() {
            // One that won was settled before its row could be seen without anything unannounced.
            self.settle(&count, &name.attempt, Outcome::Lost, true).await?;
        }
        self.forget_unnamed(name, row.as_ref()).await?;
        self.drop_name(name).await
    }

    async fn finished_or_never(&self, name: &Name) -> Result<Option<Row>> {
        for round in 0..limits::CQL_CHANGE_ROUNDS {
            super::pause(round).await;
            let row = self.settled(name.resource).await?;
            let past = row.as_ref().is_some_and(|row| {
                let stands = if name.health {
                    row.beside.told_version
                } else {
                    row.version
                };
                stands >= name.version
            });
            if past
                || self
                    .tables
                    .fence(&self.steps, name.resource, row.as_ref())
                    .await?
            {
                return Ok(row);
            }
        }
        Err(StoreError::Unavailable(
            "too many others change the same row".to_owned(),
        ))
    }

    /// Deletes the bytes of the secret that an attempt brought, if its row, looked at after the attempt ended, does not
    /// name them.
    pub(super) async fn forget_unnamed(&self, name: &Name, row: Option<&Row>) -> Result<()> {
        let (Some(secret), ResourceId::Endpoint(endpoint)) = (name.secret, name.resource) else {
            return Ok(());
        };
        let mut named = row.into_iter().flat_map(|row| &row.beside.secrets);
        if named.any(|other| other.attempt == name.attempt) {
            return Ok(());
        }
        self.forget_secret(endpoint, secret, &name.attempt).await
    }
}

/// Names that a sweeper has seen, and since when.
#[derive(Debug, Default)]
pub struct Seen(HashMap<String, Instant>);

impl ScyllaStore {
    /// Finishes what changes left that were under way for at least `old`, as far as `seen` knows. How many there were.
    ///
    /// # Errors
    /// The last one, when some could not be finished; the others are.
    pub async fn sweep(&self, seen: &mut Seen, old: Duration) -> Result<usize> {
        let (names, now) = (self.registry.names().await?, Instant::now());
        let mut still = HashMap::new();
        let mut swept = Ok(0);
        for name in names {
            let since = seen.0.get(&name.attempt).copied().unwrap_or(now);
            if now.duration_since(since) < old {
                still.insert(name.attempt, since);
                continue;
            }
            match self.registry.sweep(&name).await {
                Ok(()) => swept = swept.map(|count| count + 1),
                Err(error) => {
                    still.insert(name.attempt, since);
                    swept = Err(error);
                }
            }
        }
        seen.0 = still;
        swept
    }
}

/// Finishes what crashed changes left, until stopped. Any number of processes may do so.
pub async fn run(store: Arc<ScyllaStore>, stop: CancellationToken) {
    let mut seen = Seen::default();
    loop {
        let pass = Box::pin(async {
            match store.sweep(&mut seen, limits::SWEEP_AFTER).await {
                Ok(0) => {}
                Ok(changes) => tracing::info!(changes, "changes that were left under way are finished"),
                Err(error) => {
                    tracing::warn!(%error, "what changes left could not be finished; trying again later")
                }
            }
            sleep(limits::SWEEP_PERIOD).await;
        });
        if stop.run_until_cancelled(pass).await.is_none() {
            return;
        }
    }
}
