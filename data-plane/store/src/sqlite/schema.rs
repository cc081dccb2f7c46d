//! The two files' schemas, and how a connection to one of them is opened.
//!
//! A schema is a list of migrations; `user_version` counts those that a file has had. They only go forward: a file
//! of a newer release is refused, untouched. `application_id` tells our files from anybody else's.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::{OpenError, fault::Fault};
use crate::limits;

/// One file's schema.
#[derive(Debug)]
pub(super) struct Schema {
    /// The file's name within the data directory.
    pub(super) file: &'static str,
    application_id: i32,
    migrations: &'static [&'static str],
    /// Reads the id of the install that the file belongs to.
    pub(super) install_sql: &'static str,
}

/// The log and its writers.
pub(super) static LOG: Schema = Schema {
    file: "log.db",
    application_id: 0x7172_6C6C, // "qrll"
    migrations: &[include_str!("schema/log-1.sql"), include_str!("schema/log-2.sql")],
    install_sql: "SELECT install FROM belongs",
};

/// Everything else.
pub(super) static MAIN: Schema = Schema {
    file: "main.db",
    application_id: 0x7172_6C6D, // "qrlm"
    migrations: &[
        include_str!("schema/main-1.sql"),
        include_str!("schema/main-2.sql"),
        include_str!("schema/main-3.sql"),
        include_str!("schema/main-4.sql"),
        include_str!("schema/main-5.sql"),
        include_str!("schema/main-6.sql"),
        include_str!("schema/main-7.sql"),
    ],
    install_sql: "SELECT id FROM install",
};

/// How long a connection waits for a person's `sqlite3` that holds a lock: ours never contend.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Prepared statements kept per connection: more than this crate has.
const STATEMENTS_CACHED: usize = 128;
/// Page cache per connection, in KiB (negative: SQLite's way to say KiB).
const CACHE_KIB: i32 = -8 * 1024;
/// A WAL file that a burst made larger is cut to this when it is reused.
const JOURNAL_BYTES_KEPT: i32 = 16 * 1024 * 1024;

impl Schema {
    /// Where the file is.
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(self.file)
    }

    /// Opens the file for this process, creating, checking and migrating it as needed.
    pub(super) fn open(&self, dir: &Path) -> Result<Connection, OpenError> {
        let failed = |fault: Fault| self.open_error(dir, fault);
        let mut connection = connect(&self.path(dir), OpenFlags::SQLITE_OPEN_CREATE).map_err(failed)?;
        let version = self.version(dir, &connection)?;
        if version == 0 {
            // Has to be chosen before the first table is made.
            connection
                .pragma_update(None, "auto_vacuum", "INCREMENTAL")
                .map_err(|error| failed(error.into()))?;
        }
        for_writing(&connection).map_err(failed)?;
        if version > 0 {
            self.quick_check(dir, &connection).map_err(failed)?;
        }
        self.migrate(&mut connection, version)
            .map_err(|error| failed(error.into()))?;
        Ok(connection)
    }

    /// How many migrations the file has had.
    fn version(&self, dir: &Path, connection: &Connection) -> Result<usize, OpenError> {
        let number = |name: &str| -> Result<i32, OpenError> {
            connection
                .pragma_query_value(None, name, |row| row.get(0))
                .map_err(|error| self.open_error(dir, error.into()))
        };
        let (version, application_id) = (number("user_version")?, number("application_id")?);
        let corrupt = |reason: &str| self.open_error(dir, Fault::Damaged(reason.to_owned()));
        if version == 0 && application_id == 0 {
            let tables: i64 = connection
                .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
                .map_err(|error| self.open_error(dir, error.into()))?;
            return match tables {
                0 => Ok(0),
                _ => Err(corrupt("it is a database of another program")),
            };
        }
        if application_id != self.application_id {
            return Err(corrupt("it is a database of another program"));
        }
        let found = usize::try_from(version).map_err(|_| corrupt("its version is negative"))?;
        if found > self.migrations.len() {
            return Err(OpenError::NewerSchema {
                file: self.path(dir),
                found,
                known: self.migrations.len(),
            });
        }
        Ok(found)
    }

    /// Looks for damage, in files small enough that a start does not wait for it.
    fn quick_check(&self, dir: &Path, connection: &Connection) -> Result<(), Fault> {
        let bytes = std::fs::metadata(self.path(dir)).map_or(0, |meta| meta.len());
        if bytes > limits::OPEN_CHECK_BYTES_MAX {
            return Ok(());
        }
        let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        match found.as_str() {
            "ok" => Ok(()),
            damage => Err(Fault::Damaged(damage.to_owned())),
        }
    }

    fn migrate(&self, connection: &mut Connection, from: usize) -> rusqlite::Result<()> {
        for (at, sql) in self.migrations.iter().enumerate().skip(from) {
            let transaction = connection.transaction()?;
            transaction.execute_batch(sql)?;
            transaction.pragma_update(None, "application_id", self.application_id)?;
            transaction.pragma_update(None, "user_version", i64::try_from(at + 1).unwrap_or(i64::MAX))?;
            transaction.commit()?;
            tracing::info!(file = self.file, version = at + 1, "schema migrated");
        }
        Ok(())
    }

    pub(super) fn open_error(&self, dir: &Path, fault: Fault) -> OpenError {
        let file = self.path(dir);
        match fault {
            Fault::Damaged(reason) => OpenError::Corrupt { file, reason },
            Fault::Sql(error) if Fault::is_damage(&error) => OpenError::Corrupt {
                file,
                reason: error.to_string(),
            },
            Fault::Sql(source) => OpenError::Sqlite { file, source },
        }
    }
}

/// Opens an existing file for reading. It is not opened as read-only because readers of a WAL take part in its
/// index; `query_only` keeps them from writing.
pub(super) fn reading(path: &Path) -> Result<Connection, Fault> {
    let connection = connect(path, OpenFlags::empty())?;
    connection.pragma_update(None, "query_only", "ON")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// Opens an existing file for writing: one that vanished is not made anew.
pub(super) fn writing(path: &Path) -> Result<Connection, Fault> {
    let connection = connect(path, OpenFlags::empty())?;
    for_writing(&connection)?;
    Ok(connection)
}

fn connect(path: &Path, more: OpenFlags) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.pragma_update(None, "cell_size_check", "ON")?;
    // A plan depends on no bound value. Otherwise each new value of a range is a reason to prepare a cached statement again.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// What makes a commit durable: the WAL, synced at every commit. Checkpoints are the writer thread's own doing.
fn for_writing(connection: &Connection) -> Result<(), Fault> {
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::Damaged(format!(
            "its journal mode is {mode} and cannot be changed to wal"
        )));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", JOURNAL_BYTES_KEPT)?;
    Ok(())
}
