//! Commands to partition owners.
//!
//! A partition's commands are one CQL partition. One row of it, its list, says which of them wait, and has a number that
//! every change raises: a change reads the list, and is made if its number still stands, and the command is as it was.
//! So limits are exact and the first result wins, whoever changes what at the same time. Within a process changes take
//! turns, so that they do not lose to each other.
//!
//! Nothing is deleted: owners look for what waits each second, and would read past every deletion.

use std::time::Duration;

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
    rows::{Whole, count, document, parse, parse_id, partition as key, time, to_time},
    session::Cql,
};
use crate::{
    clock::Timestamp,
    id::{CommandId, PartitionId},
    limits,
    store::{Command, CommandResult, Commands, Result, StoreError},
};

/// Under which id the list stands. No command has it.
const LIST: &str = "list";
/// Commands fetched with one statement: `ScyllaDB` takes 100 values of a key by default.
const FETCHED_AT_ONCE: usize = 64;
/// A command leaves the list so long after it left by its time to live: clocks may differ by as much.
const LISTED_LONGER: Duration = Duration::from_secs(3600);
/// Changes of other processes that may come in between before a caller is told to come back.
const TURNS_LOST_MAX: u32 = 20;

pub(super) struct Statements {
    list: PreparedStatement,
    some: PreparedStatement,
    /// A new list, and a new command.
    put: Batch,
    /// A new list, and a command's result.
    finish: Batch,
}

impl std::fmt::Debug for Statements {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Statements")
    }
}

impl Statements {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        let list = cql
            .prepare_conditional(
                "UPDATE command SET change = ?, waiting = ? WHERE partition = ? AND id = ? IF change = ?",
            )
            .await?;
        let put = cql
            .prepare_conditional(
                "INSERT INTO command (partition, id, created_at, kind, result) VALUES (?, ?, ?, ?, ?) \
                 IF NOT EXISTS USING TTL ?",
            )
            .await?;
        let finish = cql
            .prepare_conditional(
                "UPDATE command USING TTL ? SET created_at = ?, kind = ?, result = ? \
                 WHERE partition = ? AND id = ? IF result = ?",
            )
            .await?;
        let mut some = cql
            .prepare("SELECT id, created_at, kind, result FROM command WHERE partition = ? AND id IN ?")
            .await?;
        some.set_page_size(count(FETCHED_AT_ONCE));
        Ok(Self {
            list: cql
                .prepare("SELECT change, waiting FROM command WHERE partition = ? AND id = ?")
                .await?,
            some,
            put: batch(&[&list, &put]),
            finish: batch(&[&list, &finish]),
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

/// Which commands of a partition wait, and since when. Some may have left by their time to live.
#[derive(Default)]
struct List {
    /// The number of its last change. None before the first.
    change: Option<i64>,
    waiting: Vec<(CommandId, Timestamp)>,
}

impl List {
    /// The values that replace it, if it still stands.
    fn replaced(
        &self,
        partition: PartitionId,
        waiting: &[(CommandId, Timestamp)],
    ) -> Result<(i64, String, i16, &'static str, Option<i64>)> {
        let change = self.change.unwrap_or(0) + 1;
        Ok((change, document(&waiting)?, key(partition), LIST, self.change))
    }
}

#[async_trait]
impl Commands for ScyllaStore {
    async fn put_command(&self, command: &Command) -> Result<bool> {
        let partition = command.partition;
        let turn = self.command_turn.lock().await;
        let mut lost = 0;
        let put = loop {
            let list = self.command_list(partition).await?;
            if self.command(partition, command.id).await?.is_some() {
                break true;
            }
            let left = command.created_at.before(limits::COMMANDS_KEPT + LISTED_LONGER);
            let mut waiting = list.waiting.clone();
            waiting.retain(|(_, since)| *since >= left);
            if u64::try_from(waiting.len()).unwrap_or(u64::MAX) >= limits::COMMANDS_PENDING_MAX {
                break false;
            }
            waiting.push((command.id, command.created_at));
            let put = (
                key(partition),
                command.id.to_string(),
                time(command.created_at),
                document(&command.kind)?,
                "",
                count(limits::COMMANDS_KEPT.as_secs()),
            );
            let values = (list.replaced(partition, &waiting)?, put);
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
        let mut waiting = self.command_list(partition).await?.waiting;
        waiting.sort_unstable_by_key(|(id, since)| (*since, *id));
        let ids: Vec<CommandId> = waiting.into_iter().map(|(id, _)| id).collect();
        let mut all = Vec::new();
        for some in ids.chunks(FETCHED_AT_ONCE) {
            // One that is finished by now does not wait.
            let found = self.some_commands(partition, some).await?;
            all.extend(found.into_iter().filter(|command| command.result.is_none()));
            if all.len() >= limit {
                break;
            }
        }
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
            let list = self.command_list(partition).await?;
            let Some(command) = self.command(partition, id).await? else {
                break;
            };
            if command.result.is_some() {
                break;
            }
            let mut waiting = list.waiting.clone();
            waiting.retain(|(waits, _)| *waits != id);
            let finish = (
                count(limits::COMMANDS_KEPT.as_secs()),
                time(command.created_at),
                document(&command.kind)?,
                document(result)?,
                key(partition),
                id.to_string(),
                "",
            );
            let values = (list.replaced(partition, &waiting)?, finish);
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
        Ok(self.some_commands(partition, &[id]).await?.pop())
    }
}

impl ScyllaStore {
    async fn command_list(&self, partition: PartitionId) -> Result<List> {
        let values = (key(partition), LIST);
        let row: Option<(Option<i64>, Option<String>)> = self.cql.row(&self.commands.list, values).await?;
        let Some((change, waiting)) = row else {
            return Ok(List::default());
        };
        Ok(List {
            change,
            waiting: waiting.as_deref().map(parse).transpose()?.unwrap_or_default(),
        })
    }

    /// Those of some commands that are there.
    async fn some_commands(&self, partition: PartitionId, ids: &[CommandId]) -> Result<Vec<Command>> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let rows: Vec<Whole<Stored>> = self.cql.rows(&self.commands.some, (key(partition), ids)).await?;
        let rows = rows.into_iter().filter_map(|Whole(row)| row);
        rows.map(|row| to_command(partition, row)).collect()
    }
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
