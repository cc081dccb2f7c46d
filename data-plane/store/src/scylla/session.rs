//! The session with the cluster: consistency, repetition, and what errors mean.
//!
//! Plain statements are idempotent: they write the same cells under the same keys, so they are repeated here while the
//! cluster does not answer, up to [`limits::CQL_TRIES`] times; after that the caller is told that the outcome is unknown.
//! Conditional statements are not: [`Cql::decide_once`] asks once, [`Cql::decide`] repeats and says so.
//!
//! Invariants: `LOCAL_QUORUM` and `LOCAL_SERIAL`, one data centre, every read paged. A plain write carries the driver's
//! monotonic timestamp of this process, unless its statement has one of its own.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use scylla::{
    client::{execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder},
    deserialize::row::DeserializeRow,
    errors::{DbError, ExecutionError, PrepareError, RequestAttemptError},
    policies::{
        load_balancing::DefaultPolicy,
        timestamp_generator::{MonotonicTimestampGenerator, TimestampGenerator},
    },
    response::{PagingState, query_result::QueryResult},
    serialize::{batch::BatchValues, row::SerializeRow},
    statement::{
        Consistency, SerialConsistency, batch::Batch, prepared::PreparedStatement, unprepared::Statement,
    },
};
use secrecy::ExposeSecret;
use tokio::time::{Instant, sleep};

use super::{OpenError, ScyllaConfig, decision::Decision, error::beginning};
use crate::{
    clock, limits,
    store::{Result, StoreError},
};

/// The driver's monotonic times, in microseconds, by this process's clock, which tests may have set off.
struct Timestamps(MonotonicTimestampGenerator);

impl TimestampGenerator for Timestamps {
    fn next_timestamp(&self) -> i64 {
        self.0.next_timestamp().saturating_add(clock::ahead_ms() * 1000)
    }
}

/// The session.
#[derive(Debug)]
pub(super) struct Cql {
    session: Session,
    datacenter: String,
}

impl Cql {
    /// Connects to the cluster, without a keyspace yet.
    pub(super) async fn connect(config: &ScyllaConfig) -> Result<Self, OpenError> {
        config.check()?;
        let mut builder = SessionBuilder::new()
            .known_nodes(&config.nodes)
            .keyspaces_to_fetch([config.keyspace.clone()])
            .connection_timeout(limits::CQL_CONNECT_TIMEOUT)
            .timestamp_generator(Arc::new(Timestamps(MonotonicTimestampGenerator::new())))
            .default_execution_profile_handle(profile(None).into_handle())
            .tls_context(config.tls()?);
        if let Some(login) = &config.credentials {
            builder = builder.user(&login.user, login.password.expose_secret());
        }
        let session = builder.build().await;
        let session = session.map_err(|error| OpenError::connecting(config, error))?;
        let datacenter = datacenter(&session, config.datacenter.as_deref())?;
        session
            .get_default_execution_profile_handle()
            .clone()
            .map_to_another_profile(profile(Some(&datacenter)));
        Ok(Self { session, datacenter })
    }

    /// The data centre in use.
    pub(super) fn datacenter(&self) -> &str {
        &self.datacenter
    }

    /// Whether the nodes are ScyllaDB's: they tell their shards.
    pub(super) fn is_scylla(&self) -> bool {
        let state = self.session.get_cluster_state();
        state.get_nodes_info().iter().any(|node| node.sharder().is_some())
    }

    /// Whether the cluster has a keyspace, as far as the session knows.
    pub(super) fn has_keyspace(&self, keyspace: &str) -> bool {
        self.session.get_cluster_state().get_keyspace(keyspace).is_some()
    }

    /// Whether a keyspace has a table, as far as the session knows.
    pub(super) fn has_table(&self, keyspace: &str, table: &str) -> bool {
        let state = self.session.get_cluster_state();
        let keyspace = state.get_keyspace(keyspace);
        keyspace.is_some_and(|keyspace| keyspace.tables.contains_key(table))
    }

    /// Waits until all nodes know the same tables, and the session too.
    pub(super) async fn settle(&self) -> Result<()> {
        let failed = |error: String| StoreError::Unavailable(error);
        let agreed = self.session.await_schema_agreement().await;
        agreed.map_err(|error| failed(error.to_string()))?;
        let known = self.session.refresh_metadata().await;
        known.map_err(|error| failed(error.to_string()))
    }

    /// Makes a keyspace the one that statements mean. One that another process is just making can be read about before
    /// it can be used.
    pub(super) async fn use_keyspace(&self, keyspace: &str) -> Result<()> {
        let mut tries = Tries::default();
        loop {
            match self.session.use_keyspace(keyspace, false).await {
                Ok(()) => return Ok(()),
                Err(error) => tries.after(StoreError::Unavailable(error.to_string())).await?,
            }
        }
    }

    /// Makes or changes a keyspace or a table by a statement that may be repeated, and waits until all nodes know it.
    pub(super) async fn define(&self, statement: &str) -> Result<(), ExecutionError> {
        let mut statement = Statement::new(statement);
        statement.set_request_timeout(Some(limits::CQL_SCHEMA_TIMEOUT));
        let until = Instant::now() + limits::CQL_SCHEMA_SEEN_WITHIN;
        loop {
            match self.session.query_unpaged(statement.clone(), ()).await {
                // A node that learns of another change meanwhile says so. It is not about ours.
                Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                    DbError::ServerError,
                    reason,
                ))) if Instant::now() < until => {
                    tracing::debug!(reason, "a node failed to change the schema, and is asked again");
                    sleep(limits::CQL_SCHEMA_POLL).await;
                }
                done => return done.map(drop),
            }
        }
    }

    /// Prepares a plain read or write.
    pub(super) async fn prepare(&self, statement: &str) -> Result<PreparedStatement, OpenError> {
        let mut prepared = self.prepare_any(statement).await?;
        prepared.set_is_idempotent(true);
        Ok(prepared)
    }

    /// Prepares a statement with a condition (`IF`).
    pub(super) async fn prepare_conditional(&self, statement: &str) -> Result<PreparedStatement, OpenError> {
        let mut prepared = self.prepare_any(statement).await?;
        prepared.set_is_idempotent(false);
        Ok(prepared)
    }

    async fn prepare_any(&self, statement: &str) -> Result<PreparedStatement, OpenError> {
        let mut prepared = self
            .session
            .prepare(statement)
            .await
            .map_err(|error| match error {
                PrepareError::AllAttemptsFailed {
                    first_attempt: RequestAttemptError::DbError(_, reason),
                } => OpenError::Statement {
                    statement: beginning(statement),
                    reason,
                },
                error => OpenError::Store(StoreError::Unavailable(error.to_string())),
            })?;
        // Columns never change under a statement; asking for their description in every answer costs.
        prepared.set_use_cached_result_metadata(true);
        prepared.set_page_size(limits::CQL_PAGE_ROWS);
        Ok(prepared)
    }

    /// Executes a plain write.
    pub(super) async fn execute(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<()> {
        let mut tries = Tries::default();
        loop {
            match self.session.execute_unpaged(statement, &values).await {
                Ok(_) => return Ok(()),
                Err(error) => tries.after(failed(error)).await?,
            }
        }
    }

    /// The first row of a read, if there is one.
    pub(super) async fn row<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Option<R>>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let mut first = None;
        self.rows_while(statement, values, |row| {
            first = Some(row);
            ControlFlow::Break(())
        })
        .await?;
        Ok(first)
    }

    /// All rows of a read, which the statement's keys or its LIMIT must bound.
    pub(super) async fn rows<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Vec<R>>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let mut all = Vec::new();
        self.rows_while(statement, values, |row| {
            all.push(row);
            ControlFlow::Continue(())
        })
        .await?;
        Ok(all)
    }

    /// Gives the rows of a read, a page at a time, to `each` until that has enough. True if it had.
    pub(super) async fn rows_while<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        mut each: impl FnMut(R) -> ControlFlow<()>,
    ) -> Result<bool>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let mut position = PagingState::start();
        loop {
            let (rows, next) = self.page(statement, &values, position).await?;
            for row in rows {
                if each(row).is_break() {
                    return Ok(true);
                }
            }
            match next {
                None => return Ok(false),
                Some(next) => position = next,
            }
        }
    }

    /// A page of a read, perhaps an empty one, and where the next one begins, if there may be one.
    pub(super) async fn page<R>(
        &self,
        statement: &PreparedStatement,
        values: &impl SerializeRow,
        position: PagingState,
    ) -> Result<(Vec<R>, Option<PagingState>)>
    where
        R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let mut tries = Tries::default();
        loop {
            let page = self
                .session
                .execute_single_page(statement, values, position.clone())
                .await;
            match page {
                Ok((page, next)) => {
                    let next = next.into_paging_control_flow();
                    return Ok((rows_of(page)?, next.continue_value()));
                }
                Err(error) => tries.after(failed(error)).await?,
            }
        }
    }

    /// Executes a conditional statement once. After [`StoreError::Unavailable`] it may still be applied at any time,
    /// until a further condition on the same cells is decided.
    pub(super) async fn decide_once(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Decision> {
        let answer = self.session.execute_unpaged(statement, &values).await;
        Decision::read(answer.map_err(failed)?)
    }

    /// Executes a conditional batch, all in one CQL partition, once. See [`Self::decide_once`].
    pub(super) async fn decide_batch(&self, batch: &Batch, values: impl BatchValues) -> Result<Decision> {
        let answer = self.session.batch(batch, values).await;
        Decision::read(answer.map_err(failed)?)
    }

    /// Executes a conditional statement until it is decided. When it was sent more than once, `repeated` is set, and
    /// then what refused it may be its own doing: the caller has to compare what stands there with what it wrote.
    pub(super) async fn decide(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Decision> {
        let mut tries = Tries::default();
        loop {
            match self.decide_once(statement, &values).await {
                Ok(decision) => {
                    return Ok(Decision {
                        repeated: tries.failed > 0,
                        ..decision
                    });
                }
                Err(error) => tries.after(error).await?,
            }
        }
    }
}

/// How statements are executed, unless they say otherwise.
fn profile(datacenter: Option<&str>) -> ExecutionProfile {
    let mut policy = DefaultPolicy::builder()
        .token_aware(true)
        .permit_dc_failover(false);
    if let Some(datacenter) = datacenter {
        policy = policy.prefer_datacenter(datacenter.to_owned());
    }
    ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .request_timeout(Some(limits::CQL_REQUEST_TIMEOUT))
        .load_balancing_policy(policy.build())
        .build()
}

/// The data centre to use: the one that was named, if the cluster has it, or its only one.
fn datacenter(session: &Session, wanted: Option<&str>) -> Result<String, OpenError> {
    let state = session.get_cluster_state();
    let mut found: Vec<String> = state
        .get_nodes_info()
        .iter()
        .filter_map(|node| node.datacenter.clone())
        .collect();
    found.sort();
    found.dedup();
    match (wanted, &found[..]) {
        (Some(wanted), found) if found.iter().any(|one| one == wanted) => Ok(wanted.to_owned()),
        (Some(wanted), _) => Err(OpenError::NoSuchDatacenter {
            wanted: wanted.to_owned(),
            found,
        }),
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(OpenError::DatacenterNeeded { found }),
    }
}

/// The rows of an answer.
fn rows_of<R>(answer: QueryResult) -> Result<Vec<R>>
where
    R: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
{
    let rows = answer.into_rows_result().map_err(unreadable)?;
    let rows = rows.rows::<R>().map_err(unreadable)?;
    rows.map(|row| row.map_err(unreadable)).collect()
}

/// An answer that is not what the statement asked for.
pub(super) fn unreadable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("an answer cannot be read: {error}"))
}

/// What a failed execution means to callers.
pub(super) fn failed(error: ExecutionError) -> StoreError {
    let refused = match &error {
        ExecutionError::BadQuery(_) => true,
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(why, _)) => matches!(
            why,
            DbError::SyntaxError | DbError::Invalid | DbError::ConfigError | DbError::AlreadyExists { .. }
        ),
        _ => false,
    };
    if refused {
        StoreError::Corrupt(format!("a statement was refused: {error}"))
    } else {
        StoreError::Unavailable(error.to_string())
    }
}

/// Counts the tries of one statement.
#[derive(Default)]
struct Tries {
    failed: u32,
}

impl Tries {
    /// After a failed try: waits for the next one, or gives the error back if there is none.
    async fn after(&mut self, error: StoreError) -> Result<()> {
        self.failed += 1;
        if matches!(error, StoreError::Corrupt(_)) || self.failed >= limits::CQL_TRIES {
            return Err(error);
        }
        let pause = limits::CQL_RETRY_PAUSE * self.failed;
        tracing::debug!(%error, pause_ms = Duration::as_millis(&pause), "a statement failed and is repeated");
        sleep(pause).await;
        Ok(())
    }
}
