//! Commands to partition owners, in `main.db`.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    SqliteStore,
    fault::Fault,
    rows::{document, int, limit as sql_limit, parse, parse_id, time},
    writer::Atomicity,
};
use crate::{
    clock::Timestamp,
    id::{CommandId, PartitionId},
    limits,
    store::{Command, CommandResult, Commands, Result},
};

#[async_trait]
impl Commands for SqliteStore {
    async fn put_command(&self, command: &Command) -> Result<bool> {
        let (partition, command) = (command.partition, command.clone());
        let put = self
            .main_writer
            .submit(Atomicity::OneStatement, move |connection| {
                put(connection, &command)
            })
            .await?;
        self.hints.partition(partition).publish_command();
        Ok(put)
    }

    async fn pending_commands(&self, partition: PartitionId, limit: usize) -> Result<Vec<Command>> {
        self.main_reads
            .read(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT id, created_at, kind, result FROM command
                     WHERE partition = ?1 AND result IS NULL ORDER BY created_at, id LIMIT ?2",
                )?;
                let rows = statement.query_map(params![partition.as_u16(), sql_limit(limit)], to_row)?;
                rows.map(|row| row?.into_command(partition)).collect()
            })
            .await
    }

    async fn finish_command(
        &self,
        partition: PartitionId,
        id: CommandId,
        result: &CommandResult,
    ) -> Result<()> {
        let result = document(result)?;
        self.main_writer
            .submit(Atomicity::OneStatement, move |connection| {
                connection
                    .prepare_cached(
                        "UPDATE command SET result = ?3 WHERE partition = ?1 AND id = ?2 AND result IS NULL",
                    )?
                    .execute(params![partition.as_u16(), id.to_string(), result])?;
                Ok(())
            })
            .await?;
        self.hints.partition(partition).publish_command();
        Ok(())
    }

    async fn command(&self, partition: PartitionId, id: CommandId) -> Result<Option<Command>> {
        self.main_reads
            .read(move |connection| {
                let row = connection
                    .prepare_cached(
                        "SELECT id, created_at, kind, result FROM command WHERE partition = ?1 AND id = ?2",
                    )?
                    .query_row(params![partition.as_u16(), id.to_string()], to_row);
                row.optional()?.map(|row| row.into_command(partition)).transpose()
            })
            .await
    }
}

fn put(connection: &Connection, command: &Command) -> Result<bool, Fault> {
    let (partition, id) = (command.partition.as_u16(), command.id.to_string());
    let there: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM command WHERE partition = ?1 AND id = ?2)")?
        .query_row(params![partition, id], |row| row.get(0))?;
    if there {
        return Ok(true);
    }
    let pending: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM command WHERE partition = ?1 AND result IS NULL LIMIT ?2)",
        )?
        .query_row(params![partition, int(limits::COMMANDS_PENDING_MAX)], |row| {
            row.get(0)
        })?;
    if pending >= int(limits::COMMANDS_PENDING_MAX) {
        return Ok(false);
    }
    connection
        .prepare_cached(
            "INSERT INTO command (partition, id, created_at, kind, result) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            partition,
            id,
            command.created_at.as_millis(),
            document(&command.kind)?,
            command.result.as_ref().map(document).transpose()?,
        ])?;
    Ok(true)
}

struct CommandRow {
    id: String,
    created_at: Timestamp,
    kind: String,
    result: Option<String>,
}

fn to_row(row: &Row<'_>) -> rusqlite::Result<CommandRow> {
    Ok(CommandRow {
        id: row.get(0)?,
        created_at: time(row, 1)?,
        kind: row.get(2)?,
        result: row.get(3)?,
    })
}

impl CommandRow {
    fn into_command(self, partition: PartitionId) -> Result<Command, Fault> {
        Ok(Command {
            id: parse_id(&self.id)?,
            partition,
            kind: parse(&self.kind)?,
            created_at: self.created_at,
            result: self.result.as_deref().map(parse).transpose()?,
        })
    }
}
