//! The keyspace's tables: numbered migrations, made by one process while the others wait.
//!
//! A migration is a list of files with statements that may be repeated, so that a process which dies half-way is
//! simply followed by another. They only go forward: a keyspace of a newer release is refused, untouched. Who runs them
//! is decided by a condition on the row of [`super::install`]; one that stops moving its beat is taken over from.
//!
//! Invariant: the version in that row rises after all of its tables are there and known to all nodes.

use std::ops::ControlFlow;

use scylla::{errors::ExecutionError, statement::prepared::PreparedStatement};
use tokio::time::{Instant, sleep};

use super::{
    OpenError, ScyllaConfig,
    error::beginning,
    install::{self, InstallRow},
    session::Cql,
};
use crate::{id::random, limits, store::StoreError};

/// A migration: files of statements, one for each part of the store.
type Migration = &'static [&'static str];

const MIGRATIONS: &[Migration] = &[
    &[
        include_str!("schema/1/log.cql"),
        include_str!("schema/1/attempts.cql"),
        include_str!("schema/1/commands.cql"),
        include_str!("schema/1/config_log.cql"),
        include_str!("schema/1/registry.cql"),
        include_str!("schema/1/conversions.cql"),
        include_str!("schema/1/leases.cql"),
    ],
    &[include_str!("schema/2/own_partitions.cql")],
    &[include_str!("schema/3/writer_fence.cql")],
];

/// The version that this release needs.
fn known() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// Makes the keyspace and its tables what this release needs, and reads what was fixed when they were created.
pub(super) async fn apply(cql: &Cql, config: &ScyllaConfig) -> Result<InstallRow, OpenError> {
    if !cql.has_keyspace(&config.keyspace) {
        create_keyspace(cql, config).await?;
    }
    // Another process may have made it just now: then nobody waited until all nodes know it.
    cql.settle().await?;
    cql.use_keyspace(&config.keyspace).await?;
    if !cql.has_table(&config.keyspace, "install") {
        let table = install::table(&config.keyspace, cql.is_scylla());
        for statement in statements(&table) {
            define(cql, config, 0, &statement).await?;
        }
    }
    // The same with the table.
    cql.settle().await?;
    let until = Instant::now() + limits::CQL_SCHEMA_SEEN_WITHIN;
    let mut runner = Runner::prepare_when_seen(cql, config, until).await?;
    let mut waited = false;
    loop {
        let step = match runner.step().await {
            // Asked through another node than the one that prepared it.
            Err(OpenError::Store(StoreError::Corrupt(reason))) if Instant::now() < until => {
                tracing::debug!(reason, "the table of the installation is not to be used yet");
                ControlFlow::Continue(Step::Wait)
            }
            step => step?,
        };
        match step {
            ControlFlow::Break(row) => {
                if waited {
                    cql.settle().await?;
                }
                return Ok(row);
            }
            ControlFlow::Continue(Step::Changed) => {}
            ControlFlow::Continue(Step::Wait) => {
                waited = true;
                sleep(limits::CQL_SCHEMA_POLL).await;
            }
        }
    }
}

/// Makes the keyspace, in the data centre in use.
async fn create_keyspace(cql: &Cql, config: &ScyllaConfig) -> Result<(), OpenError> {
    let create = format!(
        "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{'class': 'NetworkTopologyStrategy', '{}': {}}}",
        config.keyspace,
        cql.datacenter().replace('\'', "''"),
        config.replication,
    );
    if cql.is_scylla() {
        // Conditions are not decided on tablets in every release that has them; a release without them refuses the word.
        let plain = format!("{create} AND tablets = {{'enabled': false}}");
        if define(cql, config, 0, &plain).await.is_ok() {
            return Ok(());
        }
    }
    define(cql, config, 0, &create).await
}

async fn define(cql: &Cql, config: &ScyllaConfig, version: i32, statement: &str) -> Result<(), OpenError> {
    let done = cql.define(statement).await;
    done.map_err(|error: ExecutionError| OpenError::Migrate {
        keyspace: config.keyspace.clone(),
        version,
        statement: beginning(statement),
        reason: error.to_string(),
    })
}

/// The statements of a file: separated by `;`, comments (`--` to the end of the line) left out.
fn statements(file: &str) -> Vec<String> {
    let code: Vec<&str> = file
        .lines()
        .map(|line| line.split("--").next().unwrap_or_default().trim_end())
        .collect();
    let code = code.join("\n");
    code.split(';')
        .map(|statement| statement.trim().to_owned())
        .filter(|statement| !statement.is_empty())
        .collect()
}

/// What a step came to.
enum Step {
    /// Something changed: look again.
    Changed,
    /// Another process is at it.
    Wait,
}

/// This process, as one that may run the migrations.
struct Runner<'a> {
    cql: &'a Cql,
    config: &'a ScyllaConfig,
    id: i64,
    /// Another runner's id and beat, and since when they have stood so.
    other: Option<(i64, i64, Instant)>,
    select: PreparedStatement,
    create: PreparedStatement,
    claim: PreparedStatement,
    beat: PreparedStatement,
    advance: PreparedStatement,
}

impl<'a> Runner<'a> {
    /// As [`Self::prepare`]. A table that another process is just making can be read about before it can be used, and is
    /// then refused as one that does not exist.
    async fn prepare_when_seen(
        cql: &'a Cql,
        config: &'a ScyllaConfig,
        until: Instant,
    ) -> Result<Self, OpenError> {
        loop {
            match Self::prepare(cql, config).await {
                Err(OpenError::Statement { reason, .. }) if Instant::now() < until => {
                    tracing::debug!(reason, "the table of the installation is not to be used yet");
                    sleep(limits::CQL_SCHEMA_POLL).await;
                }
                prepared => return prepared,
            }
        }
    }

    async fn prepare(cql: &'a Cql, config: &'a ScyllaConfig) -> Result<Self, OpenError> {
        Ok(Self {
            cql,
            config,
            // Not zero, which is nobody.
            id: i64::from_le_bytes(random()) | 1,
            other: None,
            select: cql.prepare(install::SELECT).await?,
            create: cql.prepare_conditional(install::CREATE).await?,
            claim: cql
                .prepare_conditional(
                    "UPDATE install SET runner = ?, beat = ? WHERE one = 1 IF version = ? AND runner = ? AND beat = ?",
                )
                .await?,
            beat: cql
                .prepare_conditional("UPDATE install SET beat = ? WHERE one = 1 IF runner = ? AND version = ?")
                .await?,
            advance: cql
                .prepare_conditional(
                    "UPDATE install SET version = ?, runner = ?, beat = ? WHERE one = 1 IF runner = ? AND version = ?",
                )
                .await?,
        })
    }

    /// Looks at the row, and does what is to be done next. Breaks with the row when nothing is.
    async fn step(&mut self) -> Result<ControlFlow<InstallRow, Step>, OpenError> {
        let Some(row) = self.cql.row(&self.select, ()).await? else {
            let values = install::new(self.cql, self.config);
            self.cql.decide(&self.create, values).await?;
            return Ok(ControlFlow::Continue(Step::Changed));
        };
        let row = InstallRow::read(row)?;
        install::check_datacenter(self.cql, self.config, &row)?;
        if row.version > known() {
            return Err(OpenError::NewerSchema {
                keyspace: self.config.keyspace.clone(),
                found: row.version,
                known: known(),
            });
        }
        if row.version == known() {
            return Ok(ControlFlow::Break(row));
        }
        if self.is_at_it(&row) {
            return Ok(ControlFlow::Continue(Step::Wait));
        }
        let beat = row.beat + 1;
        let values = (self.id, beat, row.version, row.runner, row.beat);
        let claimed = self.cql.decide(&self.claim, values).await?;
        if claimed.applied || (claimed.repeated && claimed.columns.number("runner")? == Some(self.id)) {
            self.run(row.version + 1, beat).await?;
        }
        Ok(ControlFlow::Continue(Step::Changed))
    }

    /// Whether another process is running migrations: it moved its beat not long ago.
    fn is_at_it(&mut self, row: &InstallRow) -> bool {
        if row.runner == 0 || row.runner == self.id {
            return false;
        }
        let since = match self.other {
            Some((runner, beat, since)) if (runner, beat) == (row.runner, row.beat) => since,
            _ => Instant::now(),
        };
        self.other = Some((row.runner, row.beat, since));
        since.elapsed() < limits::CQL_SCHEMA_RUNNER_SILENT_AFTER
    }

    /// Runs one migration, and returns early where another process took over.
    async fn run(&self, version: i32, mut beat: i64) -> Result<(), OpenError> {
        let index = usize::try_from(version - 1).unwrap_or(usize::MAX);
        let migration = MIGRATIONS.get(index).ok_or_else(|| {
            OpenError::Store(StoreError::Corrupt(format!(
                "there is no schema version {version}"
            )))
        })?;
        let before = version - 1;
        for statement in migration.iter().flat_map(|file| statements(file)) {
            define(self.cql, self.config, version, &statement).await?;
            beat += 1;
            let going = self.cql.decide(&self.beat, (beat, self.id, before)).await?;
            if !going.applied {
                return Ok(());
            }
        }
        let values = (version, 0_i64, beat + 1, self.id, before);
        self.cql.decide(&self.advance, values).await?;
        tracing::info!(keyspace = self.config.keyspace, version, "schema migrated");
        Ok(())
    }
}

/// The names of all tables.
#[cfg(test)]
pub(super) fn tables() -> Vec<String> {
    let migrated = MIGRATIONS.iter().copied().flatten();
    let all = migrated.flat_map(|file| statements(file));
    let first = statements(&install::table("any", true));
    all.chain(first)
        .filter_map(|statement| statement.split_whitespace().nth(5).map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_split_into_statements_without_comments() {
        let file = "-- a; b\nCREATE TABLE a ( -- x; y\n  one int\n);\n\n-- c\nALTER TABLE a ADD b int;\n";
        assert_eq!(
            statements(file),
            ["CREATE TABLE a (\n  one int\n)", "ALTER TABLE a ADD b int"]
        );
    }

    #[test]
    fn every_statement_of_a_migration_may_be_repeated() {
        let files = MIGRATIONS.iter().copied().flatten();
        let migrations = files.flat_map(|file| statements(file));
        for statement in migrations.chain(statements(&install::table("qrelay", false))) {
            let words: Vec<&str> = statement.split_whitespace().take(5).collect();
            assert!(
                words.starts_with(&["CREATE", "TABLE", "IF", "NOT", "EXISTS"]),
                "{statement}"
            );
        }
    }
}
