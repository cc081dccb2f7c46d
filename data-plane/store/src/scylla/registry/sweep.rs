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
                .prepare("SELECT attempt, name FROM pending WHERE bucket = ? AND attempt > ? LIMIT ?")
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

    /// The next names of changes under way in a CQL partition behind `after`, as they are stored.
    async fn names(&self, bucket: i32, after: &str) -> Result<Vec<(String, String)>> {
        let values = (bucket, after, limits::SWEEP_NAMES);
        self.steps.rows(&self.pending.read, values).await
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

/// Names that a sweeper has seen, and since when: [`limits::SWEEP_NAMES_SEEN`] at most.
#[derive(Debug, Default)]
pub struct Seen(HashMap<String, Instant>);

/// One look at all names.
struct Pass<'a> {
    before: &'a Seen,
    old: Duration,
    now: Instant,
    /// Names that stay.
    still: HashMap<String, Instant>,
    swept: Result<usize>,
}

impl Pass<'_> {
    /// A name stays for another pass. Where too many do, it is new to that one, and waits longer.
    fn keep(&mut self, attempt: String, since: Instant) {
        if self.still.len() < limits::SWEEP_NAMES_SEEN {
            self.still.insert(attempt, since);
        }
    }

    /// Finishes what a name stands for, if it is old enough. One that cannot be read or finished keeps nobody else waiting.
    async fn take(&mut self, registry: &Configuration, attempt: String, name: &str) {
        let seen = self.before.0.get(&attempt).copied();
        let since = seen.unwrap_or(self.now);
        let name = match parse::<Name>(name) {
            Ok(name) => Name { attempt, ..name },
            Err(error) => {
                if seen.is_none() {
                    tracing::warn!(attempt, %error, "the name of a change under way cannot be read, and is left alone");
                }
                return self.keep(attempt, since);
            }
        };
        if self.now.duration_since(since) < self.old {
            return self.keep(name.attempt, since);
        }
        match registry.sweep(&name).await {
            Ok(()) => {
                if let Ok(count) = &mut self.swept {
                    *count += 1;
                }
            }
            Err(error) => {
                self.keep(name.attempt, since);
                self.swept = Err(error);
            }
        }
    }
}

impl ScyllaStore {
    /// Finishes what changes left that were under way for at least `old`, as far as `seen` knows. How many there were.
    ///
    /// # Errors
    /// The last one, when some could not be finished; the others are.
    pub async fn sweep(&self, seen: &mut Seen, old: Duration) -> Result<usize> {
        let mut pass = Pass {
            before: seen,
            old,
            now: Instant::now(),
            still: HashMap::new(),
            swept: Ok(0),
        };
        let full = usize::try_from(limits::SWEEP_NAMES).unwrap_or(usize::MAX);
        for bucket in 0..limits::PENDING_BUCKETS {
            let mut after = String::new();
            loop {
                let names = self.registry.names(bucket, &after).await?;
                let is_last = names.len() < full;
                for (attempt, name) in names {
                    after.clone_from(&attempt);
                    pass.take(&self.registry, attempt, &name).await;
                }
                if is_last {
                    break;
                }
            }
        }
        let Pass { still, swept, .. } = pass;
        seen.0 = still;
        swept
    }
}

/// Finishes what crashed changes left, until stopped. Any number of processes may do so.
///
/// Each process that changes the registry runs this once beside its other work, as a tracked task, from when its store is
/// open, as the embedded store's retention is run: `background.spawn(run_sweeper(Arc::clone(&store), stop.clone()))`. It
/// returns as soon as `stop` is cancelled, wherever it is: what it was finishing is left as a crash leaves it, for the next
/// one. So the stop may come at any time, best after the API's, and nothing has to wait for it. It ends for no other reason:
/// while the cluster is away it tries again every [`limits::SWEEP_PERIOD`].
pub async fn run(store: Arc<ScyllaStore>, stop: CancellationToken) {
    let mut seen = Seen::default();
    let passes = Box::pin(async {
        loop {
            match store.sweep(&mut seen, limits::SWEEP_AFTER).await {
                Ok(0) => {}
                Ok(changes) => tracing::info!(changes, "changes that were left under way are finished"),
                Err(error) => {
                    tracing::warn!(%error, "what changes left could not be finished; trying again later");
                }
            }
            sleep(limits::SWEEP_PERIOD).await;
        }
    });
    stop.run_until_cancelled(passes).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_any_more_for_a_change_that_is_swept() {
        assert!(limits::SWEEP_AFTER >= limits::API_REQUEST_TIMEOUT * 2);
    }
}
