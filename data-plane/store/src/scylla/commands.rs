//! Commands to partition owners.
//!
//! A partition's commands are one CQL partition, with a number that every change raises: a change reads the number, then
//! what it needs, and is made if the number still stands. So limits are exact and the first result wins, whoever changes
//! what at the same time. Within a process changes take turns, so that they do not lose to each other.

use async_trait::async_trait;
use scylla::{
    statement::{
        batch::{Batch, BatchType},
        prepared::PreparedStatement,
    },
    value::CqlTimestamp,
};

use super::{
    OpenError, ScyllaStore,
    rows::{count, document, parse, parse_id, partition as key, time, to_time},
    session::Cql,
};
use crate::{
    id::{CommandId, PartitionId},
    limits,
    store::{Command, CommandResult, Commands, Result, StoreError},
};

const WAITING: i8 = 0;
const FINISHED: i8 = 1;
/// Changes of other processes that may come in between before a caller is told to come back.
const TURNS_LOST_MAX: u32 = 20;

pub(super) struct Statements {
    change: PreparedStatement,
    waiting_ids: PreparedStatement,
    waiting: PreparedStatement,
    one: PreparedStatement,
    /// `raise` and `put`.
    put: Batch,
    /// `raise`, `remove` and `put`.
    finish: Batch,
}

impl std::fmt::Debug for Statements {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Statements")
    }
}

impl Statements {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        let raise = cql
            .prepare_conditional("UPDATE command SET change = ? WHERE partition = ? IF change = ?")
            .await?;
        let put = cql
            .prepare(
                "INSERT INTO command (partition, finished, id, created_at, kind, result) VALUES (?, ?, ?, ?, ?, ?) \
                 USING TTL ?",
            )
            .await?;
        let remove = cql
            .prepare("DELETE FROM command WHERE partition = ? AND finished = ? AND id = ?")
            .await?;
        let select = "SELECT id, created_at, kind, result FROM command WHERE partition = ? AND finished";
        Ok(Self {
            change: cql
                .prepare("SELECT change FROM command WHERE partition = ? LIMIT 1")
                .await?,
            waiting_ids: cql
                .prepare("SELECT id FROM command WHERE partition = ? AND finished = ? LIMIT ?")
                .await?,
            waiting: cql.prepare(&format!("{select} = ?")).await?,
            one: cql.prepare(&format!("{select} IN (?, ?) AND id = ?")).await?,
            put: batch(&[&raise, &put]),
            finish: batch(&[&raise, &remove, &put]),
        })
    }
}

fn batch(statements: &[&PreparedStatement]) -> Batch {
    let mut batch = Batch::new(BatchType::Unlogged);
    for statement in statements {
        batch.append_statement((*statement).clone());
    }
    batch
}

/// A stored row: id, created_at, kind, result.
type Stored = (String, CqlTimestamp, String, String);

fn to_command(partition: PartitionId, (id, created_at, kind, result): Stored) -> Result<Command> {
    Ok(Command {
        id: parse_id(&id)?,
        partition,
        kind: parse(&kind)?,
        created_at: to_time(created_at),
        result: Some(result)
            .filter(|result| !result.is_empty())
            .as_deref()
            .map(parse)
            .transpose()?,
    })
}

#[async_trait]
impl Commands for ScyllaStore {
    async fn put_command(&self, command: &Command) -> Result<bool> {
        let partition = command.partition;
        let turn = self.command_turn.lock().await;
        let mut lost = 0;
        let put = loop {
            let change = self.command_change(partition).await?;
            if self.command(partition, command.id).await?.is_some() {
                break true;
            }
            let limit = count(limits::COMMANDS_PENDING_MAX);
            let waiting: Vec<(String,)> = self
                .cql
                .rows(&self.commands.waiting_ids, (key(partition), WAITING, limit))
                .await?;
            if count(waiting.len()) == limit {
                break false;
            }
            let values = (raise(partition, change), row(command, WAITING)?);
            if self.cql.decide_batch(&self.commands.put, values).await?.applied {
                break true;
            }
            lost = lost_turn(lost)?;
        };
        drop(turn);
        self.hints.partition(partition).publish_command();
        Ok(put)
    }

    async fn pending_commands(&self, partition: PartitionId, limit: usize) -> Result<Vec<Command>> {
        let rows: Vec<Stored> = self
            .cql
            .rows(&self.commands.waiting, (key(partition), WAITING))
            .await?;
        let mut all = rows
            .into_iter()
            .map(|row| to_command(partition, row))
            .collect::<Result<Vec<_>>>()?;
        all.sort_unstable_by_key(|command| (command.created_at, command.id));
        all.truncate(limit);
        Ok(all)
    }

    async fn finish_command(
        &self,
        partition: PartitionId,
        id: CommandId,
        result: &CommandResult,
    ) -> Result<()> {
        let turn = self.command_turn.lock().await;
        let mut lost = 0;
        loop {
            let change = self.command_change(partition).await?;
            let Some(mut command) = self.command(partition, id).await? else {
                break;
            };
            if command.result.is_some() {
                break;
            }
            command.result = Some(result.clone());
            let values = (
                raise(partition, change),
                (key(partition), WAITING, id.to_string()),
                row(&command, FINISHED)?,
            );
            if self
                .cql
                .decide_batch(&self.commands.finish, values)
                .await?
                .applied
            {
                break;
            }
            lost = lost_turn(lost)?;
        }
        drop(turn);
        self.hints.partition(partition).publish_command();
        Ok(())
    }

    async fn command(&self, partition: PartitionId, id: CommandId) -> Result<Option<Command>> {
        let values = (key(partition), WAITING, FINISHED, id.to_string());
        let row: Option<Stored> = self.cql.row(&self.commands.one, values).await?;
        row.map(|row| to_command(partition, row)).transpose()
    }
}

impl ScyllaStore {
    /// The number of a partition's last change. None before the first.
    async fn command_change(&self, partition: PartitionId) -> Result<Option<i64>> {
        let row: Option<(Option<i64>,)> = self.cql.row(&self.commands.change, (key(partition),)).await?;
        Ok(row.and_then(|(change,)| change))
    }
}

/// The values of the statement that raises the number of changes.
fn raise(partition: PartitionId, change: Option<i64>) -> (i64, i16, Option<i64>) {
    (change.unwrap_or(0) + 1, key(partition), change)
}

/// The values of the statement that puts a command down.
fn row(command: &Command, finished: i8) -> Result<(i16, i8, String, CqlTimestamp, String, String, i32)> {
    let result = command.result.as_ref().map(document).transpose()?;
    Ok((
        key(command.partition),
        finished,
        command.id.to_string(),
        time(command.created_at),
        document(&command.kind)?,
        result.unwrap_or_default(),
        count(limits::COMMANDS_KEPT.as_secs()),
    ))
}

/// Counts a change that another process made in between.
fn lost_turn(lost: u32) -> Result<u32> {
    if lost == TURNS_LOST_MAX {
        return Err(StoreError::Unavailable(
            "others change the same commands all the time".to_owned(),
        ));
    }
    Ok(lost + 1)
}
